package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestAnAgentReadsNoOperations: what all agents did is read by a person who is named, and signed in. An agent's token is no person's,
// whatever groups and audience it claims, and neither is a person's token that an agent's client has got.
func TestAnAgentReadsNoOperations(t *testing.T) {
	t.Parallel()
	console := extproctest.FreeAddress(t)
	g := story.Start(t, txtar.Parse([]byte(refundPolicy+`-- config.yaml --
people: {issuer: "${ISSUER}", client_id: countersign-console, auditors: [security, "subject:u-erin"]}
approvals: {hold: 0s, console_url: "http://`+console+`"}
-- listen --
console: "`+console+`"
`)), story.Options{})
	token := func(c extproctest.Claims) string {
		claims := extproctest.Claims{"aud": "countersign-console", "client_id": "countersign-console", "auth_time": time.Now().Unix(), "amr": []string{"pwd"}}
		for name, v := range c {
			claims[name] = v
		}
		return g.Issuer.Mint(extproctest.Mint{Type: "at+jwt", Claims: claims})
	}
	for _, c := range []struct {
		who, token string
		want       int
	}{
		{"one of the group", token(extproctest.Claims{"sub": "u-alice", "groups": []string{"security"}}), 200},
		{"one who is named", token(extproctest.Claims{"sub": "u-erin"}), 200},
		{"an approver", token(extproctest.Claims{"sub": "u-bob", "groups": []string{"payments-oncall"}}), 403},
		{"a person whose group is called like the one who is named", token(extproctest.Claims{"sub": "u-bob", "groups": []string{"subject:u-erin", "u-erin"}}), 403},
		{"an agent", g.Issuer.Token(extproctest.Claims{"groups": []string{"security"}}), 401},
		{"an agent for the console's audience", g.Issuer.Token(extproctest.Claims{"aud": "countersign-console", "groups": []string{"security"}}), 403},
		{"a person, by an agent's client", token(extproctest.Claims{"sub": "u-alice", "groups": []string{"security"}, "client_id": "agent-1"}), 403},
		{"an agent, for a person", token(extproctest.Claims{"sub": "u-alice", "groups": []string{"security"}, "act": map[string]any{"sub": "agent-1"}}), 403},
		{"a client for itself", token(extproctest.Claims{"sub": "countersign-console", "groups": []string{"security"}, "auth_time": nil, "amr": nil}), 403},
		{"nobody", "", 401},
	} {
		for _, path := range []string{"/api/operations", "/operations", "/operations.csv"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+console+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.token != "" {
				req.Header.Set("Authorization", "Bearer "+c.token)
			}
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			switch api := strings.HasPrefix(path, "/api/"); {
			case api && resp.StatusCode != c.want:
				t.Errorf("%s: %s: %s, want %d: %s", c.who, path, resp.Status, c.want, body)
			case !api && (resp.StatusCode != http.StatusSeeOther || len(body) > 100): // the pages know no token: to the sign-in
				t.Errorf("%s: %s: %s: %s", c.who, path, resp.Status, body)
			}
		}
	}
}
