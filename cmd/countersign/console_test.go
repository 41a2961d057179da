package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// consoled is a gateway whose console people reach with a browser, over TLS.
type consoled struct {
	*story.Gateway
	t       *testing.T
	console string
	trust   *tls.Config
}

// startConsoled starts a gateway that is a confidential client of its issuer and has its approvals in store.
func startConsoled(t *testing.T, other *story.Gateway, authority *extproctest.Authority, store, secret string) *consoled {
	t.Helper()
	c := &consoled{t: t, trust: &tls.Config{RootCAs: authority.Pool, MinVersion: tls.VersionTLS12}}
	address, certificate := extproctest.FreeAddress(t), authority.Issue("console.test")
	c.console = "https://" + address
	archive := fmt.Sprintf(`%s-- config.yaml --
people: {issuer: "${ISSUER}", client_id: countersign-console, client_secret_file: %q}
approvals: {hold: 20s, console_url: %q, store: %q}
-- listen --
console: %q
console_tls: {certificate_file: %q, key_file: %q}
`, refundPolicy, secret, c.console, store, address, certificate.CertFile, certificate.KeyFile)
	c.Gateway = story.Start(t, txtar.Parse([]byte(archive)), story.Options{Beside: other, Issuer: story.IssuerOptions{
		Applications: []extproctest.Application{{ID: "countersign-console", Secret: "the console's own secret"}},
	}})
	c.Issuer.AllowRedirect("countersign-console", c.console+"/callback")
	return c
}

// signIn is a browser in which the person is signed in, and the page that it came to.
func (c *consoled) signIn(name, path string) (browser *http.Client, status int, page string) {
	c.t.Helper()
	resp, browser, err := c.Issuer.SignIn(c.t.Context(), c.console+path, name, name+"-password", c.trust)
	if err != nil {
		c.t.Fatal(err)
	}
	return browser, resp.StatusCode, bodyOf(c.t, resp)
}

func bodyOf(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// page is what the signed-in browser gets of the console; a form where there are fields.
func (c *consoled) page(browser *http.Client, path string, fields url.Values) (status int, page string) {
	c.t.Helper()
	method, body := http.MethodGet, ""
	if fields != nil {
		method, body = http.MethodPost, fields.Encode()
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.console+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if fields != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", c.console)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	resp, err := browser.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, bodyOf(c.t, resp)
}

// refund sends one that is held, and returns where its answer comes.
func (c *consoled) refund(body string) <-chan *story.Answer {
	c.t.Helper()
	token, err := c.Issuer.AgentToken(c.t.Context(), "agent-1")
	if err != nil {
		c.t.Fatal(err)
	}
	answers := make(chan *story.Answer, 1)
	go func() {
		a, err := c.Send(c.t.Context(), &story.Request{Method: "POST", Target: "/v1/payments/7/refunds", Body: []byte(body), Fields: []extproctest.Field{
			{Name: "Authorization", Value: "Bearer " + token}, {Name: "Content-Type", Value: "application/json"},
		}})
		if err != nil {
			a = &story.Answer{Body: []byte(err.Error())}
		}
		answers <- a
	}()
	return answers
}

var formField = regexp.MustCompile(`name="(csrf|card)" value="([^"]+)"`)

// TestPeopleSignInAtTwoGatewaysOnOneRedis: the console is a confidential client with a secret in a file, over TLS; requests
// are in a Redis. bob signs in at one gateway, with his password at his issuer, and approves what the other holds; its own
// page is told of what the other asks as it asks it. A session is of one gateway, and a lost Redis is said plainly.
func TestPeopleSignInAtTwoGatewaysOnOneRedis(t *testing.T) {
	t.Parallel()
	redis := extproctest.StartRedis(t, extproctest.RedisConfig{})
	authority := extproctest.NewAuthority(t)
	secret := filepath.Join(t.TempDir(), "secret")
	writeSecret(t, secret, "a secret of last year")
	one := startConsoled(t, nil, authority, "redis://"+redis.Address, secret)
	two := startConsoled(t, one.Gateway, authority, "redis://"+redis.Address, secret)

	if _, status, page := two.signIn("bob", "/"); status != http.StatusUnauthorized {
		t.Fatalf("signed in with an old secret: %d\n%s", status, page)
	}
	writeSecret(t, secret, "the console's own secret")
	bob, status, page := two.signIn("bob", "/")
	if status != http.StatusOK || !strings.Contains(page, "Nothing waits") {
		t.Fatalf("signed in: %d\n%s", status, page)
	}
	events := two.follow(bob)
	answers := one.refund(`{"amount": 10}`)
	id := events()
	if _, page := two.page(bob, "/", nil); !strings.Contains(page, "/approvals/"+id) {
		t.Errorf("the queue does not have it\n%s", page)
	}
	status, card := two.page(bob, "/approvals/"+id, nil)
	if status != http.StatusOK || !strings.Contains(card, "refunds need a person") {
		t.Fatalf("the card: %d\n%s", status, card)
	}
	fields := url.Values{"decision": {"approve"}, "reason": {"fine"}}
	for _, m := range formField.FindAllStringSubmatch(card, -1) {
		fields.Set(m[1], m[2])
	}
	if status, page := two.page(bob, "/approvals/"+id+"/decision", fields); status != http.StatusOK || !strings.Contains(page, "You approved this") {
		t.Fatalf("approve: %d\n%s", status, page)
	}
	if a := <-answers; a.Status != http.StatusCreated {
		t.Fatalf("the held request: %d %s", a.Status, a.Body)
	}
	if got := one.Evidence(1); !strings.Contains(got, "approval.spent · operation.decided allow refund · operation.finished completed 201") {
		t.Errorf("the records of the gateway that held it are\n%s", got)
	}
	two.AwaitRecord("bob's decision", func(r story.Record) bool { return r.Type == "approval.decided" })
	redis.Stop()
	if status, page := two.page(bob, "/", nil); status != http.StatusServiceUnavailable || !strings.Contains(page, "cannot be reached") {
		t.Errorf("without Redis: %d\n%s", status, page)
	}
	if status, page := one.page(bob, "/me", nil); status != http.StatusUnauthorized {
		t.Errorf("a session of one gateway at the other: %d\n%s", status, page)
	}
}

func writeSecret(t *testing.T, path, secret string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// follow listens as the queue's page does; what it returns waits for the next request that is opened.
func (c *consoled) follow(browser *http.Client) func() string {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	c.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.console+"/events", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := browser.Do(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("follow the queue: %v, %v", resp, err)
	}
	c.t.Cleanup(func() { _ = resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	opened := regexp.MustCompile(`^data: \{"id":"([^"]+)",.*"state":"pending"\}$`)
	return func() string {
		c.t.Helper()
		for lines.Scan() {
			if m := opened.FindStringSubmatch(lines.Text()); m != nil {
				return m[1]
			}
		}
		c.t.Fatalf("the events ended: %v", lines.Err())
		return ""
	}
}
