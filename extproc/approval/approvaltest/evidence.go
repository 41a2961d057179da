package approvaltest

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

func testEvidence(t *testing.T, open Open) {
	t.Run("every change has its record", func(t *testing.T) { testRecords(t, newOffice(t, open, nil)) })
	t.Run("a journal that fails lets nothing through, and what it missed is recorded before a spend", func(t *testing.T) {
		testFailingJournal(t, newOffice(t, open, nil))
	})
	t.Run("what a dead gateway left is recorded by another", func(t *testing.T) {
		testAdoption(t, newOffice(t, open, func(o *approval.Options) { o.AdoptAfter = 50 * time.Millisecond }))
	})
	t.Run("who joins answers for the record of who opened", func(t *testing.T) { testJoinedRecord(t, newOffice(t, open, nil)) })
	t.Run("what is recorded leaves the store", func(t *testing.T) { testOutboxEmpties(t, newOffice(t, open, nil)) })
	t.Run("a card says all and hides nothing", func(t *testing.T) { testCard(t, newOffice(t, open, nil)) })
}

func testRecords(t *testing.T, o *office) {
	v := Verdict("p1", 1)
	op := Operation(1)
	r := o.ask(t, op, v)
	by := Oncall("bob")
	by.ACR, by.AMR, by.AuthTime = "phr", []string{"hwk"}, time.Now()
	answer := approval.Answer{Approve: true, Card: r.CardDigest, Reason: "checked", Think: time.Nanosecond}
	if _, err := o.desks[0].Decide(t.Context(), by, r.ID, answer); err != nil {
		t.Fatal(err)
	}
	again := Operation(1)
	if !o.spend(t, again, v) {
		t.Fatal("not spent")
	}
	var kinds []string
	for _, kind := range []string{approval.RecordRequested, approval.RecordDecided, approval.RecordSpent} {
		for _, l := range o.lines(kind) {
			kinds = append(kinds, l.Type)
			for _, name := range []string{"agent", "approval", "card_digest", "digest", "event", "gateway", "policy_digest", "resource", "rules_digest", "session", "state"} {
				if l.Body[name] == nil || l.Body[name] == "" {
					t.Errorf("%s has no %s: %s", l.Type, name, l.Text)
				}
			}
			if l.Body["digest"] != r.Digest || l.Body["card_digest"] != r.CardDigest || l.Body["approval"] != r.ID {
				t.Errorf("%s is of something else: %s", l.Type, l.Text)
			}
		}
	}
	if want := []string{approval.RecordRequested, approval.RecordDecided, approval.RecordSpent}; !slices.Equal(kinds, want) {
		t.Errorf("records %v, want %v", kinds, want)
	}
	for _, text := range []string{`"acr":"phr"`, `"amr":["hwk"]`, `"auth_time":"2`, `"subject":"bob"`, `"think":0`, `"reason":"checked"`, `"decision":"approve"`} {
		if l := o.lines(approval.RecordDecided)[0]; !strings.Contains(l.Text, text) {
			t.Errorf("no %s in %s", text, l.Text)
		}
	}
	if l := o.lines(approval.RecordSpent)[0]; l.Op != again.ID || !strings.Contains(l.Text, `"subject":"bob"`) {
		t.Errorf("spent by %s: %s", l.Op, l.Text)
	}
	// The gateway that let it through can show in its own journal why.
	mine := o.journals[1].Lines("")
	decided := slices.IndexFunc(mine, func(l Line) bool { return l.Type == approval.RecordDecided })
	spent := slices.IndexFunc(mine, func(l Line) bool { return l.Type == approval.RecordSpent })
	if decided > spent {
		t.Errorf("spent stands before decided")
	}
}

func testFailingJournal(t *testing.T, o *office) {
	v := Verdict("p1", 1)
	op := Operation(1)
	full := errors.New("disk full")
	o.journals[0].Fail(full)
	if _, _, err := o.desks[0].Ask(t.Context(), Asking(op, v)); !errors.Is(err, approval.ErrUnrecorded) {
		t.Fatalf("ask: %v", err)
	}
	o.journals[0].Fail(nil)
	r := o.ask(t, op, v)
	o.journals[0].Fail(full)
	_, err := o.desks[0].Decide(t.Context(), Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
	wantError(t, err, approval.ErrUnrecorded)
	o.journals[1].Fail(full)
	if g, ok, err := o.desks[1].Spend(t.Context(), Spending(op, v)); ok || err == nil || g.For(op.ID) {
		t.Errorf("spent without a record: %t, %v", ok, err)
	}
	// The grant is gone: what was not let through for want of a record is not let through later.
	o.journals[1].Fail(nil)
	if o.spend(t, op, v) {
		t.Error("spent twice")
	}
	again := Operation(2)
	if r, _, err = o.desks[1].Ask(t.Context(), Asking(again, v)); err != nil {
		t.Fatal(err)
	}
	_, err = o.desks[0].Decide(t.Context(), Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
	wantError(t, err, approval.ErrUnrecorded)
	if !o.spend(t, again, v) {
		t.Fatal("not spent at the gateway whose journal works")
	}
	mine := o.journals[1].Lines("")
	decided := slices.IndexFunc(mine, func(l Line) bool { return l.Type == approval.RecordDecided && l.Body["approval"] == r.ID })
	spent := slices.IndexFunc(mine, func(l Line) bool { return l.Type == approval.RecordSpent && l.Body["approval"] == r.ID })
	if decided < 0 || spent < decided {
		t.Errorf("decided is line %d and spent is line %d", decided, spent)
	}
}

// testJoinedRecord: whoever joins a request answers for its record as well as who opened it.
func testJoinedRecord(t *testing.T, o *office) {
	op, v := Operation(1), Verdict("p1", 1)
	_, joined, opened, err := o.desks[0].Begin(t.Context(), Asking(op, v))
	if err != nil || joined {
		t.Fatalf("joined %t, %v", joined, err)
	}
	_, joined, recorded, err := o.desks[0].Begin(t.Context(), Asking(op, v))
	if err != nil || !joined {
		t.Fatalf("joined %t, %v", joined, err)
	}
	told := make(chan error, 1)
	go func() { told <- recorded() }()
	select {
	case err := <-told:
		t.Errorf("who joined was told before the record was waited for: %v", err)
	default:
	}
	if err := errors.Join(opened(), <-told); err != nil {
		t.Error(err)
	}
	if n := len(o.lines(approval.RecordRequested)); n != 1 {
		t.Errorf("%d records of the request", n)
	}

	o.journals[0].Fail(errors.New("disk full"))
	op = Operation(2)
	_, _, opened, err = o.desks[0].Begin(t.Context(), Asking(op, v))
	if err != nil {
		t.Fatal(err)
	}
	_, _, recorded, err = o.desks[0].Begin(t.Context(), Asking(op, v))
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, opened(), approval.ErrUnrecorded)
	wantError(t, recorded(), approval.ErrUnrecorded)
	// It is made good when the journal works again, by who asks next.
	o.journals[0].Fail(nil)
	if _, joined, err := o.desks[0].Ask(t.Context(), Asking(op, v)); err != nil || !joined {
		t.Errorf("joined %t, %v", joined, err)
	}
	if n := len(o.lines(approval.RecordRequested)); n != 2 {
		t.Errorf("%d records of two requests", n)
	}
}

// deadJournal is of a gateway that dies before it writes.
type deadJournal struct{}

func (deadJournal) Append(context.Context, *gate.Record) (gate.Receipt, error) {
	return gate.Receipt{}, errors.New("dead")
}

func (deadJournal) Begin(context.Context, *gate.Record) func() (gate.Receipt, error) {
	return func() (gate.Receipt, error) { return gate.Receipt{}, errors.New("dead") }
}

func (deadJournal) Post(context.Context, *gate.Record) error { return errors.New("dead") }

func testAdoption(t *testing.T, o *office) {
	// A gateway that died between the store's write and the journal's leaves this.
	dead, err := approval.NewDesk(approval.Options{Store: o.stores[0], Recorder: deadJournal{}, Node: "gw-dead", People: People})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = dead.Ask(t.Context(), Asking(Operation(1), Verdict("p1", 1)))
	wantError(t, err, approval.ErrUnrecorded)
	await(t, "the record", func() bool { return len(o.lines(approval.RecordRequested)) == 1 })
	if l := o.lines(approval.RecordRequested)[0]; l.Body["gateway"] != "gw-dead" {
		t.Errorf("the record is %s", l.Text)
	}
}

func testOutboxEmpties(t *testing.T, o *office) {
	op := Operation(1)
	r := o.approve(t, o.ask(t, op, Verdict("p1", 1)), "bob")
	if !o.spend(t, op, Verdict("p1", 1)) {
		t.Fatal("not spent")
	}
	await(t, "the outbox to be empty", func() bool {
		page, err := o.stores[0].List(t.Context(), approval.Filter{Unrecorded: true})
		return err == nil && len(page.Requests) == 0
	})
	if got, err := o.desks[0].Get(t.Context(), r.ID); err != nil || got.State != approval.Spent || len(got.Decisions) != 1 {
		t.Errorf("after it: %+v, %v", got, err)
	}
}

func testCard(t *testing.T, o *office) {
	a := Asking(Operation(1), Verdict("p1", 2))
	a.Verdict.Asks[0].Summary = "Refund \u202E1"
	a.History = []approval.Past{{Time: time.Now(), Verb: "GET", Target: "/v1/payments", Result: "completed"}}
	r, _, err := o.desks[0].Ask(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	got, err := o.desks[1].Get(t.Context(), r.ID)
	if err != nil || approval.CardDigest(got.Card) != r.CardDigest {
		t.Fatalf("another card came back: %v", err)
	}
	var card map[string]any
	if err := json.Unmarshal(got.Card, &card); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		r.ID, r.Digest, `"text":"alice"`, `"text":"agent-7"`, `"text":"orchestrator"`, `"text":"POST"`, `"text":"/v1/payments/1/refunds"`,
		`"text":"body.amount"`, `"text":"refunds need a person"`, `"text":"payments/refund"`, `"text":"payments-oncall"`, `"quorum":2`, `"text":"Refund \\u{202E}1"`,
		`"text":"/v1/payments"`, `"expires":"2`, `"grant_seconds":60`,
	} {
		if !strings.Contains(string(got.Card), text) {
			t.Errorf("the card does not have %s:\n%s", text, got.Card)
		}
	}
}
