package story

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
)

// asked is a request for approval, or a problem, as the console's API answers with.
type asked struct {
	ID         string `json:"id"`
	CardDigest string `json:"card_digest"`
	Type       string `json:"type"` // of a problem
	Reason     string `json:"reason"`
}

// decide has a person answer what was asked about last.
func (c *Conversation) decide(decision, rest string) {
	c.tb.Helper()
	token, rest := c.approver(rest)
	words, want, problem := rest, http.StatusOK, ""
	if decision == "approve" && rest != "" {
		var status string
		status, problem, _ = strings.Cut(rest, " ")
		want, _ = strconv.Atoi(status)
		words = ""
	}
	var list struct {
		Approvals []asked `json:"approvals"`
		asked
	}
	if status := c.api(token, http.MethodGet, "", "", &list); status != http.StatusOK {
		// This person may see nothing, and so cannot answer either; bob finds the request instead.
		c.answered(status, &list.asked, want, problem)
		bob, _ := c.approver("bob")
		c.api(bob, http.MethodGet, "", "", &list)
	}
	if len(list.Approvals) == 0 {
		c.Failf("the console has no open request")
		return
	}
	body, err := json.Marshal(map[string]string{"decision": decision, "reason": words, "card": list.Approvals[0].CardDigest})
	if err != nil {
		c.Failf("%v", err)
		return
	}
	var said asked
	got := c.api(token, http.MethodPost, "/"+list.Approvals[0].ID+"/decisions", string(body), &said)
	c.answered(got, &said, want, problem)
}

// card looks for a text in what a person is shown of the open requests.
func (c *Conversation) card(rest string, shown bool) {
	c.tb.Helper()
	token, text := c.approver(rest)
	var list struct {
		Approvals []struct{ Card json.RawMessage }
	}
	extproctest.Await(c.tb, "a request is open", 30*time.Second, func(context.Context) error {
		c.api(token, http.MethodGet, "", "", &list)
		if len(list.Approvals) == 0 {
			return errors.New("none is")
		}
		return nil
	})
	if len(list.Approvals) != 1 || strings.Contains(string(list.Approvals[0].Card), text) != shown {
		c.Failf("of %q people are shown %+v", text, list)
	}
}

func (c *Conversation) answered(got int, said *asked, want int, problem string) {
	c.tb.Helper()
	if got != want || problem != "" && said.Reason != problem && strings.TrimPrefix(said.Type, "urn:countersign:problem:") != problem {
		c.Failf("the console answers %d %s %s, and should answer %d %s", got, said.Type, said.Reason, want, problem)
	}
}

// approver reads who answers (NAME, NAME/ACR or claims as JSON) and makes a token for them.
func (c *Conversation) approver(line string) (token, rest string) {
	c.tb.Helper()
	claims := extproctest.Claims{"aud": "countersign-console", "client_id": "countersign-console", "amr": []string{"pwd"}}
	name, rest, _ := strings.Cut(line, " ")
	if strings.HasPrefix(line, "{") {
		d := json.NewDecoder(strings.NewReader(line))
		if err := d.Decode(&claims); err != nil {
			c.Failf("%v", err)
		}
		rest = strings.TrimSpace(line[d.InputOffset():])
		return c.gateway.People.Mint(extproctest.Mint{Type: "at+jwt", Claims: claims}), rest
	}
	name, acr, _ := strings.Cut(name, "/")
	people := extproctest.DefaultPeople()
	i := slices.IndexFunc(people, func(p extproctest.Person) bool { return p.Name == name })
	if i < 0 {
		c.Failf("the issuer knows no %q", name)
		return "", rest
	}
	claims["sub"], claims["groups"], claims["email"] = people[i].Subject, people[i].Groups, people[i].Email
	if c.gateway.People != c.gateway.Issuer {
		claims["sub"] = "p-" + name
	}
	if acr != "" {
		claims["acr"], claims["auth_time"] = acr, time.Now().Unix()
	}
	return c.gateway.People.Mint(extproctest.Mint{Type: "at+jwt", Claims: claims}), rest
}

func (c *Conversation) api(token, method, path, body string, out any) (status int) {
	c.tb.Helper()
	address := fmt.Sprintf("http://%s/api/approvals%s", c.gateway.Console, path)
	if method == http.MethodGet {
		address += "?state=pending"
	}
	r, err := http.NewRequestWithContext(context.Background(), method, address, strings.NewReader(body))
	if err != nil {
		c.Failf("%v", err)
		return 0
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		c.Failf("%s %s: %v", method, address, err)
		return 0
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		c.Failf("%s %s: %v\n%s", method, address, err, text)
	}
	return resp.StatusCode
}
