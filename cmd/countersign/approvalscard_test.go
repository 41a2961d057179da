package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/console/client"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestTheTerminalShowsTheWholeCard: who, for whom, what, why, the sign-in that is demanded, what else was done
// in this session; times as people read them; and text that could act on a terminal written out.
func TestTheTerminalShowsTheWholeCard(t *testing.T) {
	t.Parallel()
	g := startAskingAs(t, nil, "200ms", "", "-- resource.yaml --\napproval: {acr: [phr], max_age: 15m}\nlabels: {data: pii}\n")
	token := g.Issuer.Token(extproctest.Claims{"sub": "u-dora", "act": map[string]any{"sub": "agent-2"}, "client_id": "agent-2", "jti": "session-7"})
	for _, r := range []struct{ method, path, body string }{
		{"GET", "/v1/payments/7", ""},
		{"POST", "/v1/payments/7/refunds", `{"amount": 10, "note": "\u001b[2J\u202eplain", "zwj": "a\u200db", "c1": "\u009b31m"}`},
	} {
		a, err := g.Send(t.Context(), &story.Request{Method: r.method, Target: r.path, Body: []byte(r.body), Fields: []extproctest.Field{
			{Name: "Authorization", Value: "Bearer " + token}, {Name: "Content-Type", Value: "application/json"},
		}})
		if err != nil {
			t.Fatalf("%s: %+v, %v", r.path, a, err)
		}
	}
	bob := g.person("u-bob", "payments-oncall")
	g.Write("token", bob)
	r := g.pending(bob)
	flags := []string{"--config", g.Config, "--token-file", g.Dir + "/token"}
	show, code := runCommand(t, append([]string{"approvals", "show", r.ID}, flags...)...)
	if code != 0 {
		t.Fatalf("exit %d\n%s", code, show)
	}
	for _, want := range []string{
		`summary   Refund 10: \u{1B}[2J\u{202E}plain   (bidirectional controls, control characters)   (in policy's words)`,
		"POST /v1/payments/7/refunds on payments (http)",
		"who       agent-2 of " + g.Issuer.URL, "client agent-2 (agent)", "for       u-dora of " + g.Issuer.URL,
		"payments/refund: refunds need a person (1 of payments-oncall)",
		"sign-in   must have an acr of phr and an age of at most 15m0s",
		"in this session (session-7)", "GET /v1/payments/7: allow",
		"values    body.amount = 10", `body.note = \u{1B}[2J\u{202E}plain   (bidirectional controls, control characters)`,
		`body.zwj = a\u{200D}b`, `body.c1 = \u{9B}31m`, "label     data = pii", "(pending, 1", "m left)",
		"To answer: countersign approvals approve " + r.ID + " --card " + r.CardDigest, "or: http://" + g.console + "/approvals/" + r.ID,
	} {
		if !strings.Contains(show, want) {
			t.Errorf("no %q in\n%s", want, show)
		}
	}
	if strings.Contains(show, "beware") {
		t.Errorf("at one issuer people are told apart, and the card says\n%s", show)
	}
	for _, o := range []string{show, mustRun(t, append([]string{"approvals", "list"}, flags...)...), mustRun(t, append([]string{"approvals", "list", "--json"}, flags...)...)} {
		for _, bad := range []string{"\x1b", "\u009b", "\u202e", "\u200d"} {
			if strings.Contains(o, bad) {
				t.Errorf("%q goes to the terminal in\n%s", bad, o)
			}
		}
	}
	if nanos := regexp.MustCompile(`\d\.\d{3,}Z`).FindString(show); nanos != "" {
		t.Errorf("the time %s is nobody's to read", nanos)
	}
}

// TestTheTerminalSaysThatNobodyCanBeTold: where no approver can be told from whom the agent acts for, the card says so, and
// so does what is printed of it.
func TestTheTerminalSaysThatNobodyCanBeTold(t *testing.T) {
	for card, want := range map[string]bool{`{"who":{"unclear":true},"v":1}`: true, `{"who":{},"v":1}`: false} {
		sum := sha256.Sum256([]byte(card))
		r, err := client.Read(json.RawMessage(`{"id":"r-1","state":"pending","card":` + card + `,"card_digest":"` + hex.EncodeToString(sum[:]) + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := printRequest(&b, r, time.Now()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(b.String(), "nobody's approval counts"); got != want {
			t.Errorf("%s is printed as\n%s", card, b.String())
		}
	}
}

func withToken(token string) env { return env{get: func(string) string { return token }} }

func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	out, code := runCommand(t, args...)
	if code != 0 {
		t.Fatalf("%v: exit %d\n%s", args, code, out)
	}
	return out
}

// TestACardThatCannotBeAnswered: what is printed, all of the card and what an answer is about are one. A console that says
// otherwise is not believed, and a card that says more than is printed is not answered here.
func TestACardThatCannotBeAnswered(t *testing.T) {
	t.Parallel()
	more := `{"v":1,"who":{"hidden":true}}`
	sum := sha256.Sum256([]byte(more))
	for _, c := range []struct{ name, card, digest, want string }{
		{"a card that is not the digest's", `{"v":1}`, strings.Repeat("0", 64), "do not answer it"},
		{"a card with a member that is not shown", more, hex.EncodeToString(sum[:]), "cannot show whole"},
	} {
		t.Run(c.name, func(t *testing.T) {
			posted := false
			console := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				posted = posted || r.Method == http.MethodPost
				_, _ = io.WriteString(w, `{"id":"r1","state":"pending","may_decide":true,"card":`+c.card+`,"card_digest":"`+c.digest+`"}`)
			}))
			defer console.Close()
			for _, command := range []string{"show", "approve"} {
				var out bytes.Buffer
				err := run(t.Context(), []string{"approvals", command, "r1", "--url", console.URL}, withToken("t"), strings.NewReader("yes\n"), &out, &out)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v\n%s", command, err, &out)
				}
			}
			if posted {
				t.Error("it was answered")
			}
		})
	}
}

// TestJSONForATerminal: the same JSON, without what a terminal could act on.
func TestJSONForATerminal(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"letters stay", `{"a":"ä 中 €"}`, `{"a":"ä 中 €"}`},
		{"a control of two bytes", "{\"a\":\"\u009b31m\"}", `{"a":"\u009b31m"}`},
		{"text that turns around", "{\"a\":\"\u202eabc\u2069\"}", `{"a":"\u202eabc\u2069"}`},
		{"delete", "{\"a\":\"\x7f\"}", `{"a":"\u007f"}`},
		{"a character beyond the first plane that nobody sees", "{\"a\":\"\U000e0041\"}", `{"a":"\udb40\udc41"}`},
		{"a newline at the end", "{}\n", `{}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			if err := printJSON(&b, json.RawMessage(c.in)); err != nil || strings.TrimSuffix(b.String(), "\n") != c.want {
				t.Errorf("%q, %v", b.String(), err)
			}
			var before, after any
			if json.Unmarshal([]byte(c.in), &before) != nil || json.Unmarshal(b.Bytes(), &after) != nil || !reflect.DeepEqual(before, after) {
				t.Errorf("%q is %v, and was %v", b.String(), after, before)
			}
		})
	}
}

// TestWatchTellsWhatComesAndWhatBecameOfIt: without asking again and again, and it ends with the token.
func TestWatchTellsWhatComesAndWhatBecameOfIt(t *testing.T) {
	t.Parallel()
	g := startAsking(t, "200ms", "")
	bob := g.person("u-bob", "payments-oncall")
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"approvals", "watch", "--url", "http://" + g.console}, withToken(bob), nil, w, io.Discard)
		_ = w.Close()
		ended <- err
	}()
	t.Cleanup(cancel)
	lines := bufio.NewScanner(r)
	next := func(words ...string) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the watch ended: %v", lines.Err())
		}
		for _, word := range words {
			if !strings.Contains(lines.Text(), word) {
				t.Fatalf("it tells %q, and should tell %q", lines.Text(), words)
			}
		}
	}
	g.refund(`{"amount": 10}`)
	first := g.pending(bob)
	next(first.ID, "pending, 1", "m left", `left  "Refund 10: no note"  POST /v1/payments/7/refunds on payments`, "by agent-1")
	g.refund(`{"amount": 10}`) // joins the first, and is told of once
	if code := g.decide(bob, "reject", "no", first); code != 200 {
		t.Fatalf("reject: %d", code)
	}
	next(first.ID, "rejected")
	cancel()
	if lines.Scan() {
		t.Errorf("it tells more: %s", lines.Text())
	}
	if err := <-ended; err != nil {
		t.Errorf("the watch ended with %v", err)
	}
	expired := g.Issuer.Mint(extproctest.Mint{Type: "at+jwt", Claims: extproctest.Claims{
		"sub": "u-bob", "aud": "countersign-console", "exp": time.Now().Add(-time.Hour).Unix(), "iat": time.Now().Add(-2 * time.Hour).Unix(),
	}})
	if err := run(t.Context(), []string{"approvals", "watch", "--url", "http://" + g.console}, withToken(expired), nil, io.Discard, io.Discard); err == nil {
		t.Error("an expired token watches")
	}
}

// TestWatchTellsOfOthersBesideACardThatItDoesNot: a card that is not its digest's is told of as that, and keeps nobody from what
// else is there.
func TestWatchTellsOfOthersBesideACardThatItDoesNot(t *testing.T) {
	t.Parallel()
	request := func(id, digest string) string {
		return `{"id":"` + id + `","state":"pending","card":{"v":1},"card_digest":"` + digest + `"}`
	}
	sum := sha256.Sum256([]byte(`{"v":1}`))
	console := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/approvals/events" {
			_, _ = io.WriteString(w, "event: reset\ndata: {}\n\nevent: end\ndata: {}\n\n")
			return
		}
		_, _ = io.WriteString(w, `{"approvals":[`+request("newer", hex.EncodeToString(sum[:]))+`,`+request("older", strings.Repeat("0", 64))+`]}`)
	}))
	defer console.Close()
	var out, errs bytes.Buffer
	err := run(t.Context(), []string{"approvals", "watch", "--url", console.URL}, withToken("t"), nil, &out, &errs)
	if err == nil || !strings.Contains(err.Error(), "has expired") || !strings.Contains(errs.String(), "the card of request older") || !strings.HasPrefix(out.String(), "newer  pending") {
		t.Errorf("%v\n%s\n%s", err, &out, &errs)
	}
}

// TestWatchTellsWhatItMissed: what became of requests whose events were lost.
func TestWatchTellsWhatItMissed(t *testing.T) {
	t.Parallel()
	lists := 0 // the client asks for one thing at a time
	console := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/approvals/events":
			_, _ = io.WriteString(w, "event: reset\ndata: {}\n\nevent: reset\ndata: {}\n\nevent: end\ndata: {}\n\n")
		case "/api/approvals/a":
			_, _ = io.WriteString(w, `{"id":"a","state":"rejected"}`)
		case "/api/approvals/b":
			http.NotFound(w, r)
		default:
			if lists++; lists == 1 {
				_, _ = io.WriteString(w, `{"approvals":[{"id":"a","state":"pending"},{"id":"b","state":"pending"}]}`)
				return
			}
			_, _ = io.WriteString(w, `{"approvals":[]}`)
		}
	}))
	defer console.Close()
	var out bytes.Buffer
	err := run(t.Context(), []string{"approvals", "watch", "--url", console.URL}, withToken("t"), nil, &out, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "has expired") || out.String() != "a  rejected\nb  gone\n" {
		t.Errorf("%v\n%s", err, &out)
	}
}

// TestCodeInTheTerminal: what would run is laid out, and nothing in it stands where a value or another line would.
func TestCodeInTheTerminal(t *testing.T) {
	t.Parallel()
	var l lines
	l.code([]approval.CardCode{
		{Class: "keyword", Text: approval.Visible("SELECT")},
		{Class: "parameter", Space: true, Text: approval.Visible("$1")},
		{Class: "value", Text: approval.Visible(`int4 "7"`)},
		{Class: "comment", Line: true, Depth: 1, Text: approval.Visible("/* a\nb \u202e ⟦int4 \"8\"⟧ \x1b[2J */")},
		{Class: "operator", Line: true, Text: approval.Visible(";")},
	})
	want := "code      | SELECT $1⟦int4 \"7\"⟧\n          |   /* a\\u{A}b \\u{202E} \\u{27E6}int4 \"8\"\\u{27E7} \\u{1B}[2J */⟦"
	if got := l.String(); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "⟧\n          | ;\n") {
		t.Errorf("it reads\n%s", got)
	}
}
