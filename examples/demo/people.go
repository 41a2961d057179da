package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
)

// How long a refund is held: long enough for bob's commands on a busy machine, or for you to find the browser's window;
// and, for the refund that nobody answers, not so long that you wait for it.
const (
	holdForBob  = 30 * time.Second
	holdForYou  = 5 * time.Minute
	holdForNone = time.Second
)

// bob is the person who answers, as the issuer knows him.
const bob, bobSignsIn, bobPassword = "u-bob", "bob", "bob-password"

const refundPath = "/v1/payments/7/refunds"

func (d *demo) refundOf(amount string) request {
	return request{method: http.MethodPost, host: payments, path: refundPath, token: d.token, body: `{"amount": ` + amount + `}`}
}

// refund is held until a person approves it: bob with commands, or you in the browser.
func (d *demo) refund() {
	held := d.hold(d.refundOf("10"))
	id := d.pending("payments")
	d.notReached()
	if d.me {
		d.askYou(id)
	} else {
		d.out.say("… it is held in Envoy. bob is on call, and has his own access token in $COUNTERSIGN_TOKEN:")
		fmt.Fprintln(d.out.w)
		d.approvals("list")
		card := d.approvals("show", id)
		d.holds(card, "summary   Refund 10 of payment 7", "agent-1", refundPath, "body.amount = 10", "refunds need a person", "payments-oncall")
		d.approvals("approve", id, "--card", cardDigest(d, card), "--reason", "the customer called, order 4711")
		d.out.say("… and the request that is still held goes on:")
		fmt.Fprintln(d.out.w)
	}
	a := held()
	d.out.body(a.body)
	reached := d.reached()
	if d.me && a.status == http.StatusForbidden {
		d.refused(a, http.StatusForbidden, "denied", "rejected this operation")
		d.rejected = true
		if len(reached) > 0 {
			d.failf("you rejected the refund, and the payments API saw it")
		}
		d.out.well("you said no: the agent was told at once, in your words, and the payments API saw nothing")
		return
	}
	if a.status != http.StatusCreated || len(reached) != 1 || string(reached[0].Body) != `{"amount": 10}` {
		d.failf("the refund gives %d, and the payments API saw %+v\n%s", a.status, reached, a.body)
	}
	d.out.well("approved: the very bytes that were shown went to the payments API, once")
}

// askYou tells where to approve, and with which name.
func (d *demo) askYou(id string) {
	d.tb.Helper()
	// A browser without a session is led to the issuer's login, which a redirect URI that it does not know would prevent.
	resp, err := http.Get(d.console + "/approvals/" + id) //nolint:noctx // it is on this machine
	d.check("open the console", err)
	resp.Body.Close()
	if at := resp.Request.URL.String(); !strings.HasPrefix(at, d.issuer.URL+"/login?") {
		d.failf("the console leads to %s (%s), and not to a login", at, resp.Status)
	}
	d.out.say("It is held in Envoy, and waits for you, for up to %v. Approve or reject it in a browser on this machine:", holdForYou)
	fmt.Fprintln(d.out.w)
	d.out.row(bold, []int{12}, "open", d.console+"/approvals/"+id)
	d.out.row(bold, []int{12}, "sign in as", bobSignsIn)
	d.out.row(bold, []int{12}, "password", bobPassword)
	fmt.Fprintln(d.out.w)
}

// reject is another refund, to which bob says no.
func (d *demo) reject() {
	held := d.hold(d.refundOf("2750"))
	id := d.pending("payments")
	card := d.approvalsUntold("show", id)
	d.holds(card, "body.amount = 2750")
	const words = "payment 7 was disputed, ask the fraud desk"
	d.approvals("reject", id, "--card", cardDigest(d, card), "--reason", words)
	a := held()
	d.out.body(a.body)
	d.refused(a, http.StatusForbidden, "denied", "refund", words)
	d.notReached()
	d.out.well("the agent was told at once, in the person's own words")
}

// again is the first refund once more, which nobody answers: the agent is told what to do.
func (d *demo) again() {
	d.shortenHold()
	a := d.ask(d.refundOf("10"))
	d.out.body(a.body)
	d.refused(a, http.StatusForbidden, "approval-pending", "refund", "refunds need a person")
	var p struct {
		Approval struct {
			ID      string    `json:"id"`
			URL     string    `json:"url"`
			Expires time.Time `json:"expires"`
		} `json:"approval"`
	}
	d.check("read the refusal", json.Unmarshal(a.body, &p))
	if p.Approval.ID == "" || p.Approval.URL != d.console+"/approvals/"+p.Approval.ID || !p.Approval.Expires.After(time.Now()) || a.header.Get("Retry-After") == "" {
		d.failf("the refusal does not say where the request is, until when, or when to try again: %v\n%s", a.header, a.body)
	}
	d.holds(d.approvalsUntold("show", p.Approval.ID), "(pending, ")
	d.notReached()
	d.out.well("an approval is good for one: the identical request is asked about anew. After a short hold the agent knows what to repeat, and when")
}

// shortenHold changes the running gateway's configuration, so that the next hold is over soon.
func (d *demo) shortenHold() {
	d.tb.Helper()
	text, err := os.ReadFile(d.config())
	d.check("read the configuration", err)
	was, is := "hold: "+d.held().String(), "hold: "+holdForNone.String()
	if !strings.Contains(string(text), was) {
		d.failf("the configuration does not say %q", was)
	}
	d.check("write the configuration", os.WriteFile(d.config(), []byte(strings.Replace(string(text), was, is, 1)), 0o600))
	extproctest.Await(d.tb, "the gateway to take up its configuration", 30*time.Second, func(context.Context) error {
		if d.ctx.Err() == nil && len(d.journal("config.activated")) < 2 {
			return errors.New("it has not")
		}
		return nil
	})
	d.out.say("(Now approvals.hold is %v, so that you need not wait for it. The gateway took that up as it runs.)", holdForNone)
	fmt.Fprintln(d.out.w)
}

func (d *demo) held() time.Duration {
	if d.me {
		return holdForYou
	}
	return holdForBob
}

// hold sends r without waiting for the answer, which the function that it returns does.
func (d *demo) hold(r request) func() answer {
	d.tb.Helper()
	req := d.compose(r)
	type reply struct {
		resp *http.Response
		err  error
	}
	replies := make(chan reply, 1)
	go func() {
		resp, err := client.Do(req) //nolint:bodyclose // finish closes it
		replies <- reply{resp, err}
	}()
	fmt.Fprintln(d.out.w)
	return func() answer {
		got := <-replies
		d.check(r.method+" "+r.path, got.err)
		return d.finish(got.resp)
	}
}

// pending waits for the one request of a resource that is open, and until people are told that its agent waits; it returns the request's id.
func (d *demo) pending(resource string) (id string) {
	d.tb.Helper()
	extproctest.Await(d.tb, "a request for approval", 20*time.Second, func(context.Context) error {
		type request struct {
			ID       string          `json:"id"`
			Resource string          `json:"resource"`
			Waiting  json.RawMessage `json:"waiting"`
		}
		var open []request
		for line := range strings.Lines(d.approvalsUntold("list", "--json")) {
			var r request
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				return err
			}
			if r.Resource == resource {
				open = append(open, r)
			}
		}
		switch {
		case d.ctx.Err() != nil:
			return nil // told below
		case len(open) != 1:
			return fmt.Errorf("%d are open", len(open))
		case len(open[0].Waiting) == 0 || string(open[0].Waiting) == "null":
			return errors.New("nobody is told to wait")
		}
		id = open[0].ID
		return nil
	})
	d.check("wait for a request for approval", nil)
	return id
}

// approvals runs a command of bob's, and shows it.
func (d *demo) approvals(args ...string) string {
	d.tb.Helper()
	shown := slices.Clone(args)
	for i, a := range shown {
		if strings.Contains(a, " ") {
			shown[i] = "'" + a + "'"
		}
	}
	d.out.command("countersign approvals " + strings.Join(shown, " ") + " --config countersign.yaml")
	out := d.approvalsUntold(args...)
	for line := range strings.Lines(out) {
		if line = strings.TrimRight(line, "\n"); line == "" {
			fmt.Fprintln(d.out.w)
			continue
		}
		d.out.line(plain, 12, line)
	}
	fmt.Fprintln(d.out.w)
	return out
}

func (d *demo) approvalsUntold(args ...string) string {
	d.tb.Helper()
	out, code := d.countersign(append(append([]string{"approvals"}, args...), "--config", d.config())...)
	if code != 0 {
		d.failf("countersign approvals %s exits %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// holds holds that a card says what it must.
func (d *demo) holds(card string, words ...string) {
	d.tb.Helper()
	for _, w := range words {
		if !strings.Contains(card, w) {
			d.failf("the card does not say %q\n%s", w, card)
		}
	}
}

// cardDigest is the digest that `approvals show` printed.
func cardDigest(d *demo, card string) string {
	d.tb.Helper()
	for line := range strings.Lines(card) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "card" {
			return fields[1]
		}
	}
	d.failf("the card does not say its digest\n%s", card)
	return ""
}
