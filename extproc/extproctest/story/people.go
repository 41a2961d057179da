package story

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
)

// held is a request that waits for people.
type held struct {
	before int // records, when it was sent
	leave  context.CancelFunc
	answer chan *Answer
	err    error // why there is no answer; read once answer is closed
}

// wait sends r, and returns when people are asked about it.
func (c *conversation) wait(r *Request) {
	c.tb.Helper()
	if c.held != nil {
		c.failf("a request is held already")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	h := &held{before: len(c.gateway.Records()), leave: cancel, answer: make(chan *Answer, 1)}
	c.held, c.answer = h, nil
	go func() {
		defer close(h.answer)
		var a *Answer
		if a, h.err = c.gateway.Send(ctx, r); h.err == nil {
			h.answer <- a
		}
	}()
	c.tb.Cleanup(cancel)
	c.since(h, "operation.decided")
}

// since waits for a record of that type since h was sent.
func (c *conversation) since(h *held, kind string) {
	c.tb.Helper()
	c.gateway.AwaitRecord(kind, func(r Record) bool { return r.Type == kind && r.Seq > uint64(h.before) })
}

// release waits for the answer to the request that is held.
func (c *conversation) release() {
	c.tb.Helper()
	if c.held == nil {
		return
	}
	h := c.held
	c.held = nil
	if c.answer = <-h.answer; c.answer == nil {
		c.failf("the request that was held got no answer: %v", h.err)
	}
}

// leave closes the connection of the request that is held.
func (c *conversation) leave() {
	c.tb.Helper()
	if c.held == nil {
		c.failf("no request is held")
		return
	}
	h := c.held
	c.held = nil
	h.leave()
	<-h.answer
	c.since(h, "operation.finished")
}

// asked is a request for approval, as the console's API has it.
type asked struct {
	ID         string `json:"id"`
	CardDigest string `json:"card_digest"`
	Type       string `json:"type"` // of a problem
	Reason     string `json:"reason"`
}

// decide has a person answer what was asked about last.
func (c *conversation) decide(decision, rest string) {
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
		// Whoever sees nothing cannot answer either: what is asked about is found by somebody else.
		c.answered(status, &list.asked, want, problem)
		bob, _ := c.approver("bob")
		c.api(bob, http.MethodGet, "", "", &list)
	}
	if len(list.Approvals) == 0 {
		c.failf("the console has no open request")
		return
	}
	body, err := json.Marshal(map[string]string{"decision": decision, "reason": words, "card": list.Approvals[0].CardDigest})
	if err != nil {
		c.failf("%v", err)
		return
	}
	var said asked
	got := c.api(token, http.MethodPost, "/"+list.Approvals[0].ID+"/decisions", string(body), &said)
	c.answered(got, &said, want, problem)
}

func (c *conversation) answered(got int, said *asked, want int, problem string) {
	c.tb.Helper()
	if got != want || problem != "" && said.Reason != problem && strings.TrimPrefix(said.Type, "urn:countersign:problem:") != problem {
		c.failf("the console answers %d %s %s, and should answer %d %s", got, said.Type, said.Reason, want, problem)
	}
}

// approver reads who answers, NAME, NAME/ACR or claims as JSON, and mints a token of theirs.
func (c *conversation) approver(line string) (token, rest string) {
	c.tb.Helper()
	claims := extproctest.Claims{"aud": "countersign-console", "client_id": "countersign-console", "amr": []string{"pwd"}}
	name, rest, _ := strings.Cut(line, " ")
	if strings.HasPrefix(line, "{") {
		d := json.NewDecoder(strings.NewReader(line))
		if err := d.Decode(&claims); err != nil {
			c.failf("%v", err)
		}
		rest = strings.TrimSpace(line[d.InputOffset():])
		return c.gateway.People.Mint(extproctest.Mint{Type: "at+jwt", Claims: claims}), rest
	}
	name, acr, _ := strings.Cut(name, "/")
	people := extproctest.DefaultPeople()
	i := slices.IndexFunc(people, func(p extproctest.Person) bool { return p.Name == name })
	if i < 0 {
		c.failf("the issuer knows no %q", name)
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

func (c *conversation) api(token, method, path, body string, out any) (status int) {
	c.tb.Helper()
	address := fmt.Sprintf("http://%s/api/approvals%s", c.gateway.Console, path)
	if method == http.MethodGet {
		address += "?state=pending"
	}
	r, err := http.NewRequestWithContext(context.Background(), method, address, strings.NewReader(body))
	if err != nil {
		c.failf("%v", err)
		return 0
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		c.failf("%s %s: %v", method, address, err)
		return 0
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		c.failf("%s %s: %v\n%s", method, address, err, text)
	}
	return resp.StatusCode
}
