package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
)

// trace is the agent's own trace, which it sends along with its first good request.
const trace = "4bf92f3577b34da6a3ce929d0e0e4736"

// patience is how long the whole story may take beside waiting for you; it takes a few seconds.
const patience = 2 * time.Minute

const payments, files = "payments.localhost", "files.localhost"

// steps are the story, in order. The ones before records are what agents do; those from there on look back on it.
var steps = []struct {
	title string
	play  func(*demo)
}{
	{"An agent that does not say who it is", (*demo).anonymous},
	{"A payment, read by an agent that may read payments", (*demo).read},
	{"A payment, deleted: policy denies it", (*demo).destroy},
	{"A refund: policy wants a person to agree, and it waits for one", (*demo).refund},
	{"A larger refund: the person says no", (*demo).reject},
	{"The first refund once more: nobody has answered yet", (*demo).again},
	{"Events, redacted as they flow", (*demo).stream},
	{"Another API, with rules of its own", (*demo).upload},
	{"A database, asked with psql: account numbers are masked", (*demo).selects},
	{"A table, dropped: policy denies it", (*demo).drops},
	{"An UPDATE without WHERE: it waits for a person", (*demo).updates},
	{"What was recorded: each decision before anything came of it", (*demo).records},
	{"What the OpenTelemetry collector has of it", (*demo).spans},
	{"The journal, verified", (*demo).verify},
	{"The journal, tampered with", (*demo).tamper},
}

// play tells the whole story. Where you are part of it, everything stays until there is a line in keys, or keys or ctx ends.
func play(tb extproctest.TB, ctx context.Context, out *terminal, binary string, getenv func(string) string, keys io.Reader) {
	tb.Helper()
	staying := ctx
	me := getenv("PERSON") == "me"
	within := patience
	if me {
		within += holdForYou
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	tb.Cleanup(cancel)
	d := &demo{tb: tb, ctx: ctx, out: out, binary: binary, me: me}
	began := time.Now()
	out.title("Countersign, between an AI agent and a payments API and a database")
	d.start(getenv) //nolint:contextcheck // parts end with tb
	for _, l := range strings.Split(shape, "\n") {
		out.line(plain, 0, l)
	}
	fmt.Fprintln(out.w)
	out.say("Started in %.1f s: OpenID provider, payments API, PostgreSQL, collector, countersign, Envoy 1.40", time.Since(began).Seconds())
	for i, s := range steps {
		d.check("play", nil)
		out.title(fmt.Sprintf("%2d  %s", i+1, s.title))
		s.play(d)
	}
	out.title("Everything was as it should be. Configuration and policies: examples/http, examples/postgres.")
	if !d.me {
		out.say("To answer the refund yourself, in a browser: make demo PERSON=me")
		return
	}
	out.say("Look around: the console is at %s.", d.console)
	out.say("Everything runs until you press Enter.")
	stay(staying, keys)
}

// stay returns when there is a line in keys, or when keys or ctx ends.
func stay(ctx context.Context, keys io.Reader) {
	pressed := make(chan struct{})
	go func() {
		_, _ = bufio.NewReader(keys).ReadString('\n')
		close(pressed)
	}()
	select {
	case <-pressed:
	case <-ctx.Done():
	}
}

const shape = `agent ──► Envoy ───────────────────────► payments API
            │ ▲ every request and answer
            ▼ │
          countersign ─────────────────► PostgreSQL: every statement and row
            │  └──► journal ──► OpenTelemetry collector
            │
          Rego policies ◄── people: console, commands`

func (d *demo) anonymous() {
	a := d.ask(request{method: "GET", host: payments, path: "/v1/payments/7"})
	d.out.body(a.body)
	d.refused(a, http.StatusUnauthorized, "unauthenticated")
	d.notReached()
	d.out.well("refused and recorded; the payments API saw nothing")
}

// refused holds that an answer is a refusal of a kind.
func (d *demo) refused(a answer, status int, problem string, words ...string) {
	d.tb.Helper()
	var p struct {
		Type   string   `json:"type"`
		Detail string   `json:"detail"`
		Rules  []string `json:"rules"`
	}
	if err := json.Unmarshal(a.body, &p); err != nil || a.status != status || p.Type != "urn:countersign:problem:"+problem {
		d.failf("the answer is %d %q, and should be %d %s\n%s", a.status, p.Type, status, problem, a.body)
	}
	for _, w := range words {
		if !strings.Contains(p.Detail, w) && !slices.Contains(p.Rules, w) {
			d.failf("the refusal does not say %q\n%s", w, a.body)
		}
	}
}

func (d *demo) read() {
	a := d.ask(request{method: "GET", host: payments, path: "/v1/payments/7", token: d.token, traceparent: "00-" + trace + "-00f067aa0ba902b7-01"})
	if a.status != http.StatusOK {
		d.failf("reading a payment gives %d\n%s", a.status, a.body)
	}
	reached := d.reached()
	if len(reached) != 1 || !slices.Equal(reached[0].Get("Authorization"), []string{credential}) {
		d.failf("the payments API saw %+v, and should have seen one request with its own credential", reached)
	}
	original, err := json.Marshal(d.target.Payment(7))
	d.check("encode the payment", err)
	said, got := fieldsOf(d, original), fieldsOf(d, a.body)
	d.card = got[slices.IndexFunc(got, func(f field) bool { return f.name == "card.number" })].value

	fmt.Fprintln(d.out.w)
	columns := []int{16, 32}
	d.out.row(bold, columns, "", "what the payments API said", "what the agent got")
	redacted := 0
	for i, f := range said {
		s := plain
		if f.value != got[i].value {
			redacted++
			s = cyan
		}
		d.out.row(s, columns, f.name, f.value, got[i].value)
	}
	fmt.Fprintln(d.out.w)
	if redacted != 5 {
		d.failf("%d fields were redacted, and 5 should have been\n%s", redacted, a.body)
	}
	d.out.well("five values redacted; ETag and Content-Length of the original are gone too")
	if a.header.Get("Etag") != "" {
		d.failf("the answer has the original's ETag")
	}
	d.out.well("the API got its own credential, and not the agent's token")
}

// field is a member of a payment, by its path.
type field struct{ name, value string }

func fieldsOf(d *demo, body []byte) []field {
	d.tb.Helper()
	var p map[string]any
	d.check("read the payment", json.Unmarshal(body, &p))
	var fields []field
	for _, name := range []string{"id", "amount", "status", "customer.name", "customer.email", "customer.ssn", "card.number", "card.brand", "payout.iban", "note"} {
		var v any = p
		for part := range strings.SplitSeq(name, ".") {
			m, _ := v.(map[string]any)
			v = m[part]
		}
		fields = append(fields, field{name, fmt.Sprint(v)})
	}
	return fields
}

func (d *demo) destroy() {
	a := d.ask(request{method: "DELETE", host: payments, path: "/v1/payments/7", token: d.token})
	d.out.body(a.body)
	d.refused(a, http.StatusForbidden, "denied", "delete", "payments are voided by people, never deleted")
	d.notReached()
	d.out.well("refused with the rule's own reason, in words that an agent can act on")
}

func (d *demo) stream() {
	p := extproctest.DefaultProtected()
	feed := d.target.Feed("payments")
	said := []string{
		`{"event": "created", "by": "` + p.Email + `"}`,
		`{"event": "paid", "card": {"number": "` + p.Card + `"}}`,
		`{"event": "settled", "customer": {"ssn": "` + p.SSN + `"}}`,
	}
	// The head of an answer waits for the first of its redacted body, so the first event is sent before the head is read.
	sent := make(chan error, 1)
	go func() { sent <- feed.Send(d.ctx, "data: "+said[0]+"\n\n") }()
	resp := d.send(request{method: "GET", host: payments, path: "/feed/payments?type=text/event-stream", token: d.token})
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		d.failf("the event stream gives %s", resp.Status)
	}
	d.check("send an event", <-sent)
	agent := events{bufio.NewReader(resp.Body)}
	cardSeen := false
	fmt.Fprintln(d.out.w)
	for i, text := range said {
		d.out.row(plain, []int{14}, "API sends", "data: "+text)
		if i > 0 {
			d.check("send an event", feed.Send(d.ctx, "data: "+text+"\n\n"))
		}
		// The next event is sent only once the agent has read this one: what flows is not held for what follows.
		got, err := agent.next()
		d.check("read an event", err)
		d.out.row(cyan, []int{14}, "agent reads", strings.TrimSpace(got))
		d.clean(got)
		cardSeen = cardSeen || strings.Contains(got, d.card)
		if want := []string{"created", "paid", "settled"}[i]; !strings.Contains(got, want) {
			d.failf("the agent read %q, and should have read of what was %s", got, want)
		}
	}
	d.check("end the events", feed.Close(d.ctx))
	if rest, err := agent.next(); !errors.Is(err, io.EOF) || rest != "" {
		d.failf("after the events the agent read %q, %v", rest, err)
	}
	if !cardSeen {
		d.failf("the card of the events has not the token %s that it had before", d.card)
	}
	d.reached()
	fmt.Fprintln(d.out.w)
	d.out.well("each event was read before the next one was sent; the same card has the same token as before")
}

func (d *demo) upload() {
	body := `{"pages": 12}`
	a := d.ask(request{method: "PUT", host: files, path: "/upload?folder=agent-1", token: d.token, body: body})
	if reached := d.reached(); a.status != http.StatusOK || len(reached) != 1 || string(reached[0].Body) != body {
		d.failf("the upload gives %d, and the API saw %+v", a.status, reached)
	}
	a = d.ask(request{method: "PUT", host: files, path: "/upload?folder=agent-2", token: d.token, body: body})
	d.refused(a, http.StatusForbidden, "denied")
	d.notReached()
	d.out.well("allowed into the agent's own folder, denied elsewhere: nothing allows it")
}
