// Package approvaltest tests stores of approvals, and the desk on top of them, against their contract. [Run] is the whole suite; every
// store runs it, with its real parts. It is for tests only.
package approvaltest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

// People is the issuer of the people who approve in these tests.
const People = "https://people.example"

// Open returns two views of one new store, as two gateways have them. For a store of one gateway they are the same value. The test
// cleans up after them.
type Open func(tb testing.TB) (a, b approval.Store)

// Run tests the stores that open returns.
func Run(t *testing.T, open Open) {
	t.Run("store", func(t *testing.T) { testStore(t, open) })
	t.Run("rules", func(t *testing.T) { testRules(t, open) })
	t.Run("evidence", func(t *testing.T) { testEvidence(t, open) })
	t.Run("crowd", func(t *testing.T) { testCrowd(t, open) })
	t.Run("model", func(t *testing.T) { testModel(t, open) })
	t.Run("interleavings", func(t *testing.T) { testInterleavings(t, open) })
}

// Line is one record of a Journal.
type Line struct {
	Type, Op, Text string
	Body           map[string]any
}

// Journal is a recorder in memory. It can be told to fail.
type Journal struct {
	mu    sync.Mutex
	lines []Line
	fail  error
}

// Append implements [gate.Recorder].
func (j *Journal) Append(_ context.Context, r *gate.Record) (gate.Receipt, error) {
	text, err := r.Body.AppendJSON(nil)
	if err != nil {
		return gate.Receipt{}, err
	}
	line := Line{Type: r.Type, Op: r.Op, Text: string(text)}
	if err := json.Unmarshal(text, &line.Body); err != nil {
		return gate.Receipt{}, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail != nil {
		return gate.Receipt{}, j.fail
	}
	j.lines = append(j.lines, line)
	return gate.Receipt{Seq: uint64(len(j.lines))}, nil
}

// Begin implements [gate.Recorder].
func (j *Journal) Begin(ctx context.Context, r *gate.Record) func() (gate.Receipt, error) {
	receipt, err := j.Append(ctx, r)
	return func() (gate.Receipt, error) { return receipt, err }
}

// Post implements [gate.Recorder].
func (j *Journal) Post(ctx context.Context, r *gate.Record) error {
	_, err := j.Append(ctx, r)
	return err
}

// Fail makes every append fail until it is called with nil.
func (j *Journal) Fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fail = err
}

// Lines returns the records so far: those of one type, or all if kind is "".
func (j *Journal) Lines(kind string) []Line {
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []Line
	for _, l := range j.lines {
		if kind == "" || l.Type == kind {
			list = append(list, l)
		}
	}
	return list
}

type detail gate.Object

func (d detail) Key() string         { return "http" }
func (d detail) Object() gate.Object { return gate.Object(d) }

func (detail) Volatile() gate.Object { return nil }

func (detail) Recorded() gate.Object { return nil }

// Operation is a refund of payment n by an agent that acts for alice. Every call is another attempt.
func Operation(n int) *gate.Operation {
	return &gate.Operation{
		ID: gate.NewID(time.Now()),
		Principal: &gate.Principal{
			Issuer: People, Subject: "agent-7", ClientID: "agent-7", Kind: "agent",
			OnBehalfOf: &gate.Party{Issuer: People, Subject: "alice"},
			People:     []gate.Person{{Directory: People, ID: "alice"}},
			Actors:     []gate.Party{{Issuer: People, Subject: "agent-7"}, {Issuer: People, Subject: "orchestrator"}},
		},
		Resource: gate.Resource{Name: "payments", Kind: "http"},
		Protocol: "http", Verb: "POST", Target: fmt.Sprintf("/v1/payments/%d/refunds", n),
		Detail:  detail{{Name: "body", Value: gate.Object{{Name: "amount", Value: n}}}, {Name: "method", Value: "POST"}},
		Context: gate.Context{Session: "session-1"},
	}
}

// Verdict asks for people of payments-oncall, or carol, under rules with the given digest.
func Verdict(rules string, quorum int) gate.Verdict {
	rule := gate.Rule{Package: "payments", ID: "refund", Reason: "refunds need a person"}
	return gate.Verdict{
		Effect: gate.Ask, PolicyDigest: "all of " + rules, RulesDigest: rules, Rules: []gate.Rule{rule},
		Asks: []gate.AskRule{{Rule: rule, Approvers: []string{"payments-oncall", "subject:carol"}, Quorum: quorum}},
	}
}

var digestKey = []byte("a key for these tests only")

// Asking asks for op.
func Asking(op *gate.Operation, v gate.Verdict) approval.Asking {
	digest, err := op.Digest(digestKey)
	if err != nil {
		panic(err)
	}
	return approval.Asking{Operation: op, Digest: digest, Verdict: v, Shown: op.Detail.Object()}
}

// Spending is op, wanting to use its grant.
func Spending(op *gate.Operation, v gate.Verdict) approval.Spending {
	return approval.Spending{Op: op.ID, TraceID: op.Context.TraceID(), Digest: Asking(op, v).Digest, Verdict: v, People: op.Principal.People}
}

// Oncall is a person who may approve what Verdict asks.
func Oncall(name string) approval.Approver {
	return approver(name, "staff", "payments-oncall")
}

// approver is a person of the people's issuer.
func approver(name string, groups ...string) approval.Approver {
	return approval.Approver{Issuer: People, Subject: name, Groups: groups, Person: approval.Person{Directory: People, ID: name}}
}

// office is two gateways on one store.
type office struct {
	stores   [2]approval.Store
	desks    [2]*approval.Desk
	journals [2]*Journal
}

// newOffice starts two desks; options may be changed by edit.
func newOffice(tb testing.TB, open Open, edit func(*approval.Options)) *office {
	tb.Helper()
	o := &office{}
	o.stores[0], o.stores[1] = open(tb)
	for i := range o.desks {
		o.journals[i] = &Journal{}
		options := approval.Options{
			Store: o.stores[i], Recorder: o.journals[i], Node: fmt.Sprintf("gw-%d", i+1), People: People, PeopleDirectory: People,
			TTL: time.Minute, SweepEvery: 10 * time.Millisecond,
		}
		if edit != nil {
			edit(&options)
		}
		desk, err := approval.NewDesk(options)
		if err != nil {
			tb.Fatal(err)
		}
		o.desks[i] = desk
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = desk.Run(ctx)
		}()
		tb.Cleanup(func() {
			cancel()
			<-done
		})
	}
	return o
}

// lines are the records of both gateways, each event once.
func (o *office) lines(kind string) []Line {
	var list []Line
	seen := map[any]bool{}
	for _, j := range o.journals {
		for _, l := range j.Lines(kind) {
			if !seen[l.Body["event"]] {
				list = append(list, l)
			}
			seen[l.Body["event"]] = true
		}
	}
	return list
}

func (o *office) ask(t *testing.T, op *gate.Operation, v gate.Verdict) approval.Request {
	t.Helper()
	r, _, err := o.desks[0].Ask(t.Context(), Asking(op, v))
	if err != nil {
		t.Fatalf("ask: %v", err)
	}
	return r
}

func (o *office) approve(t *testing.T, r approval.Request, who string) approval.Request {
	t.Helper()
	r, err := o.desks[0].Decide(t.Context(), Oncall(who), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
	if err != nil {
		t.Fatalf("approve as %s: %v", who, err)
	}
	return r
}

func (o *office) spend(t *testing.T, op *gate.Operation, v gate.Verdict) bool {
	t.Helper()
	g, ok, err := o.desks[1].Spend(t.Context(), Spending(op, v))
	if err != nil {
		t.Fatalf("spend: %v", err)
	}
	if ok != g.For(op.ID) {
		t.Fatalf("spend says %t and the grant is for it: %t", ok, g.For(op.ID))
	}
	return ok
}

// await waits until probe is true.
func await(t *testing.T, what string, probe func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !probe() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("the error is %v, want %v", err, want)
	}
}
