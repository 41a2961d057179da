package gate_test

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/google/go-cmp/cmp"
)

// journal is a Recorder in memory. It can refuse, and it can say that it wrote and give no receipt.
type journal struct {
	mu        sync.Mutex
	records   []*gate.Record
	fail      error
	noReceipt bool
	hold      chan struct{} // when set, Append waits until it is closed
}

func (j *journal) Append(_ context.Context, r *gate.Record) (gate.Receipt, error) {
	if j.hold != nil {
		<-j.hold
	}
	return j.put(r)
}

func (j *journal) put(r *gate.Record) (gate.Receipt, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.records = append(j.records, r) // also where it fails: a failed write may have been stored
	if j.noReceipt {
		return gate.Receipt{}, j.fail
	}
	return gate.Receipt{Seq: uint64(len(j.records))}, j.fail
}

func (j *journal) Begin(ctx context.Context, r *gate.Record) func() (gate.Receipt, error) {
	receipt, err := j.Append(ctx, r)
	return func() (gate.Receipt, error) { return receipt, err }
}

// Post does not wait.
func (j *journal) Post(_ context.Context, r *gate.Record) error {
	_, err := j.put(r)
	return err
}

func (j *journal) last() *gate.Decision { return j.records[len(j.records)-1].Body.(*gate.Decision) }

// rule is a Policy that always says the same.
type rule struct {
	verdict gate.Verdict
	err     error
}

func (r rule) Evaluate(context.Context, *gate.Operation) (gate.Verdict, error) {
	return r.verdict, r.err
}

type detail struct {
	key      string
	object   gate.Object
	volatile gate.Object
}

func (d detail) Key() string           { return d.key }
func (d detail) Object() gate.Object   { return d.object }
func (d detail) Volatile() gate.Object { return d.volatile }
func (d detail) Recorded() gate.Object { return nil }

// recording is a detail of which records have something.
type recording struct {
	detail
	recorded gate.Object
}

func (d recording) Recorded() gate.Object { return d.recorded }

var key = []byte("0123456789abcdef")

func operation() *gate.Operation {
	return &gate.Operation{
		ID:        gate.NewID(time.Unix(1_700_000_000, 0)),
		Principal: &gate.Principal{Issuer: "https://idp.example.com", Subject: "agent-7", Kind: "agent", Groups: []string{"readers"}},
		Resource:  gate.Resource{Name: "payments", Kind: "http", Policy: "payments"},
		Protocol:  "http",
		Verb:      "GET",
		Target:    "/v1/payments",
		Detail: detail{"http", gate.Object{
			{Name: "body", Value: nil},
			{Name: "headers", Value: gate.Object{{Name: "accept", Value: []string{"*/*"}}}},
			{Name: "method", Value: "GET"},
			{Name: "request_target", Value: "/v1/payments?a=1&b=2"},
		}, nil},
	}
}

var allow = gate.Verdict{Effect: gate.Allow, Rules: []gate.Rule{{Package: "payments", ID: "read"}}}

func newGate(p gate.Policy, r gate.Recorder) *gate.Gate {
	return &gate.Gate{Policy: p, Recorder: r, DigestKey: key, ConfigDigest: "c0", Now: time.Now}
}

func TestAllowedOperationIsAllowedAndRecorded(t *testing.T) {
	j := &journal{}
	op := operation()
	r, err := newGate(rule{verdict: allow}, j).Decide(t.Context(), op)
	if err != nil || !r.Allowed() {
		t.Fatalf("Decide: allowed %v, error %v", r.Allowed(), err)
	}
	if diff := cmp.Diff(gate.Refusal{}, r.Refusal()); diff != "" {
		t.Errorf("an allowing ruling has a refusal: %s", diff)
	}
	d := j.last()
	digest, _ := op.Digest(key)
	if d.Effect != gate.Allow || d.Digest != digest || d.ConfigDigest != "c0" || !cmp.Equal(d.Rules, []string{"read"}) {
		t.Errorf("recorded %+v", d)
	}
	if j.records[0].Type != gate.OperationDecided || j.records[0].Op != op.ID || r.Operation() != op.ID || r.Receipt().Seq != 1 {
		t.Errorf("record %+v, ruling %+v", j.records[0], r)
	}
}

// Promise 2: the zero value refuses.
func TestZeroValueRefuses(t *testing.T) {
	ctx := t.Context()
	if r := (gate.Ruling{}); r.Allowed() || r.Refusal().Problem == "" {
		t.Errorf("the zero Ruling allows, or has no problem: %+v", r)
	}
	if (&gate.Principal{}).Known() || (*gate.Principal)(nil).Known() {
		t.Error("the zero Principal is somebody")
	}
	if (gate.Verdict{}).Effect != gate.Deny || gate.Effect(0) != gate.Deny {
		t.Error("the zero Verdict does not deny")
	}
	for _, c := range []struct {
		name   string
		change func(*gate.Gate, *gate.Operation)
	}{
		{"a gate without a policy", func(g *gate.Gate, _ *gate.Operation) { g.Policy = nil }},
		{"a gate without a journal", func(g *gate.Gate, _ *gate.Operation) { g.Recorder = nil }},
		{"a gate without a digest key", func(g *gate.Gate, _ *gate.Operation) { g.DigestKey = nil }},
		{"a zero gate", func(g *gate.Gate, _ *gate.Operation) { *g = gate.Gate{} }},
		{"a zero operation", func(_ *gate.Gate, op *gate.Operation) { *op = gate.Operation{} }},
		{"an operation without an id", func(_ *gate.Gate, op *gate.Operation) { op.ID = "" }},
		{"an operation of nobody", func(_ *gate.Gate, op *gate.Operation) { op.Principal = nil }},
		{"a zero principal", func(_ *gate.Gate, op *gate.Operation) { op.Principal = &gate.Principal{} }},
		{"a principal without a subject", func(_ *gate.Gate, op *gate.Operation) { op.Principal.Subject = "" }},
		{"a principal without an issuer", func(_ *gate.Gate, op *gate.Operation) { op.Principal.Issuer = "" }},
		{"an operation on nothing", func(_ *gate.Gate, op *gate.Operation) { op.Resource = gate.Resource{} }},
		{"an operation without a detail", func(_ *gate.Gate, op *gate.Operation) { op.Detail = nil }},
		{"a detail that calls itself principal", func(_ *gate.Gate, op *gate.Operation) { op.Detail = detail{key: "principal"} }},
		{"a detail with text that is not UTF-8", func(_ *gate.Gate, op *gate.Operation) {
			op.Detail = detail{"http", gate.Object{{Name: "path", Value: "/\xff"}}, nil}
		}},
		{"a verdict of zero", func(g *gate.Gate, _ *gate.Operation) { g.Policy = rule{} }},
		{"a verdict that asks", func(g *gate.Gate, _ *gate.Operation) { g.Policy = rule{verdict: gate.Verdict{Effect: gate.Ask}} }},
		{"an effect that is not known", func(g *gate.Gate, _ *gate.Operation) { g.Policy = rule{verdict: gate.Verdict{Effect: 3}} }},
		{"an effect below zero", func(g *gate.Gate, _ *gate.Operation) { g.Policy = rule{verdict: gate.Verdict{Effect: -1}} }},
		{"an allowance with an error", func(g *gate.Gate, _ *gate.Operation) { g.Policy = rule{allow, errors.New("eval conflict")} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			op, g := operation(), newGate(rule{verdict: allow}, &journal{})
			c.change(g, op)
			r, _ := g.Decide(ctx, op)
			if r.Allowed() {
				t.Fatal("allowed")
			}
			if r.Refusal().Problem == "" || r.Refusal().Detail == "" || r.Refusal().Problem.Title() == "" {
				t.Errorf("refused without saying why: %+v", r.Refusal())
			}
		})
	}
	if r, err := newGate(rule{verdict: allow}, &journal{}).Decide(ctx, nil); r.Allowed() || err == nil {
		t.Errorf("no operation: allowed %v, error %v", r.Allowed(), err)
	}
}

func TestRefusalSaysWhy(t *testing.T) {
	no := []gate.Rule{{Package: "global", ID: "export", Reason: "no bulk export."}, {Package: "payments", ID: "export", Reason: "no bulk export."}}
	for _, c := range []struct {
		name   string
		rule   rule
		want   gate.Refusal
		effect gate.Effect
	}{
		{"nothing allows", rule{}, gate.Refusal{Problem: gate.Denied, Detail: "No rule allows this operation. Repeating it will not help; ask for a rule that allows it, or do something that is allowed."}, gate.Deny},
		{"a rule denies, and its reason is said once", rule{verdict: gate.Verdict{Rules: no}}, gate.Refusal{Problem: gate.Denied, Rules: []string{"export"}, Detail: "Policy denies this operation: no bulk export. Repeating it will not help."}, gate.Deny},
		{"a person must approve", rule{verdict: gate.Verdict{Effect: gate.Ask, Rules: []gate.Rule{{ID: "refund", Reason: "refunds need a person"}}}}, gate.Refusal{Problem: gate.ApprovalUnavailable, Rules: []string{"refund"}, Detail: "This operation needs a person's approval: refunds need a person. Approvals are not available on this gateway, so it was refused."}, gate.Ask},
		{"policy fails, and the agent is not told how", rule{allow, errors.New("data.rules.payments: div by zero")}, gate.Refusal{Problem: gate.Denied, Detail: "Policy could not be evaluated for this operation, so it was refused. Repeating it will not help; whoever runs the gateway finds the reason in its records."}, gate.Deny},
		{"policy gives an unknown effect", rule{verdict: gate.Verdict{Effect: 9}}, gate.Refusal{Problem: gate.Denied, Detail: "Policy could not be evaluated for this operation, so it was refused. Repeating it will not help; whoever runs the gateway finds the reason in its records."}, gate.Deny},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := &journal{}
			r, err := newGate(c.rule, j).Decide(t.Context(), operation())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, r.Refusal()); diff != "" {
				t.Error(diff)
			}
			if d := j.last(); d.Effect != c.effect || d.Problem != c.want.Problem {
				t.Errorf("recorded effect %v and problem %q", d.Effect, d.Problem)
			}
		})
	}
}

func TestPolicyErrorIsRecordedAsReasonWithoutTheVerdict(t *testing.T) {
	j := &journal{}
	v := allow
	v.PolicyDigest, v.Redactions = "p0", []gate.Redaction{{Path: "$.ssn"}}
	r, _ := newGate(rule{v, errors.New("div by zero")}, j).Decide(t.Context(), operation())
	d := j.last()
	if !cmp.Equal(d.Reasons, []string{"div by zero"}) || d.PolicyDigest != "p0" || len(d.Rules) != 0 || len(d.Redact) != 0 || len(r.Redactions()) != 0 {
		t.Errorf("recorded %+v", d)
	}
}

// Promise 1: no record, no access.
func TestNoRecordNoAccess(t *testing.T) {
	for _, c := range []struct {
		name    string
		journal *journal
	}{
		{"the journal fails", &journal{fail: errors.New("no space left on device"), noReceipt: true}},
		{"the journal fails, and gives a receipt all the same", &journal{fail: errors.New("fsync: input/output error")}},
		{"the journal gives no receipt", &journal{noReceipt: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := newGate(rule{verdict: allow}, c.journal).Decide(t.Context(), operation())
			if r.Allowed() {
				t.Error("allowed without a record")
			}
			if err == nil {
				t.Error("no error for a decision that was not recorded")
			}
			if r.Refusal().Problem != gate.Unavailable || len(r.Redactions()) != 0 || r.Verdict().Effect == gate.Allow {
				t.Errorf("refusal %+v, verdict %+v", r.Refusal(), r.Verdict())
			}
		})
	}
}

func TestRecordIsDurableBeforeTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{hold: make(chan struct{})}
		var answered atomic.Pointer[gate.Ruling]
		go func() {
			r, _ := newGate(rule{verdict: allow}, j).Decide(t.Context(), operation())
			answered.Store(&r)
		}()
		synctest.Wait() // for all that can go on while the record is not durable
		if r := answered.Load(); r != nil {
			t.Fatalf("answered before the record was durable: %+v", r)
		}
		close(j.hold)
		synctest.Wait()
		if r := answered.Load(); r == nil || !r.Allowed() {
			t.Errorf("not allowed: %+v", r)
		}
	})
}

func TestRefuseNeverAllows(t *testing.T) {
	for _, refusal := range []gate.Refusal{{}, {Problem: gate.TooLarge, Detail: "The body is too large."}} {
		j := &journal{}
		g := newGate(rule{verdict: allow}, j)
		r, err := g.Refuse(t.Context(), operation(), refusal)
		if err != nil || r.Allowed() || r.Refusal().Problem == "" {
			t.Errorf("Refuse(%+v): allowed %v, error %v, refusal %+v", refusal, r.Allowed(), err, r.Refusal())
		}
		if d := j.last(); d.Effect != gate.Deny || d.Problem != r.Refusal().Problem {
			t.Errorf("recorded effect %v and problem %q", d.Effect, d.Problem)
		}
	}
	r, err := newGate(rule{verdict: allow}, &journal{}).Refuse(t.Context(), nil, gate.Refusal{})
	if err == nil || r.Allowed() {
		t.Errorf("no operation: allowed %v, error %v", r.Allowed(), err)
	}
}

func TestFinishWithoutDecisionErrors(t *testing.T) {
	j := &journal{}
	g := newGate(rule{verdict: allow}, j)
	if err := g.Finish(t.Context(), gate.Ruling{}, gate.Outcome{}); err == nil || len(j.records) != 0 {
		t.Errorf("finished nothing: error %v, records %d", err, len(j.records))
	}
	broken := newGate(rule{verdict: allow}, &journal{fail: errors.New("disk")})
	r, _ := broken.Decide(t.Context(), operation())
	if err := g.Finish(t.Context(), r, gate.Outcome{}); err == nil {
		t.Error("finished a decision that was not recorded")
	}
}

func TestFinishNamesItsDecision(t *testing.T) {
	j := &journal{}
	g := newGate(rule{verdict: allow}, j)
	op := operation()
	r, _ := g.Decide(t.Context(), op)
	redacted := []gate.Count{{Name: "email", N: 2}, {Name: "$..ssn", N: 1}, {Name: "email", N: 3}}
	if err := g.Finish(t.Context(), r, gate.Outcome{Result: gate.Completed, Status: 200, Redacted: redacted}); err != nil {
		t.Fatal(err)
	}
	last := j.records[len(j.records)-1]
	if last.Type != gate.OperationFinished || last.Op != op.ID || last.Body.(*gate.Outcome).Decided != r.Receipt().Seq {
		t.Errorf("recorded %+v", last)
	}
	if redacted[0].Name != "email" {
		t.Error("Finish changed the caller's list")
	}
	text, err := last.Body.AppendJSON(nil)
	if err != nil || !strings.Contains(string(text), `"redacted":{"$..ssn":1,"email":5}`) {
		t.Errorf("%s, %v", text, err)
	}
}

// Promise 10: one core. Nothing outside this package can fill a Ruling, and in it one line allows.
func TestOnlyAGateMakesAnAllowingRuling(t *testing.T) {
	for f := range reflect.TypeFor[gate.Ruling]().Fields() {
		if f.IsExported() {
			t.Errorf("Ruling.%s is exported", f.Name)
		}
	}
	files, err := parser.ParseDir(token.NewFileSet(), ".", nil, 0) //nolint:staticcheck // no build tags here
	if err != nil {
		t.Fatal(err)
	}
	var places []string
	for _, file := range files["gate"].Files {
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.AssignStmt:
					if to, ok := n.Lhs[0].(*ast.SelectorExpr); ok && to.Sel.Name == "effect" {
						places = append(places, f.Name.Name)
					}
				case *ast.KeyValueExpr:
					if k, ok := n.Key.(*ast.Ident); ok && k.Name == "effect" {
						if v, ok := n.Value.(*ast.Ident); !ok || v.Name != "Deny" {
							t.Errorf("%s makes a Ruling with an effect that is not Deny", f.Name.Name)
						}
					}
				}
				return true
			})
		}
	}
	if diff := cmp.Diff([]string{"record"}, places); diff != "" {
		t.Errorf("functions that set a ruling's effect: %s", diff)
	}
}

func TestEffectAndProblemSayWhatTheyAre(t *testing.T) {
	for e, want := range map[gate.Effect]string{gate.Deny: "deny", gate.Ask: "ask", gate.Allow: "allow", 7: "effect(7)"} {
		if e.String() != want {
			t.Errorf("Effect(%d) is %q, want %q", int(e), e, want)
		}
	}
	seen := map[string]bool{}
	for _, p := range []gate.Problem{gate.Unauthenticated, gate.Denied, gate.ApprovalUnavailable, gate.Unreadable, gate.TooLarge, gate.Withheld, gate.Unavailable, "other"} {
		if p.Title() == "" || seen[p.Title()] {
			t.Errorf("problem %q has the title %q", p, p.Title())
		}
		seen[p.Title()] = true
	}
}

func TestIDsSortByTime(t *testing.T) {
	var last string
	for ms := range int64(2000) {
		id := gate.NewID(time.UnixMilli(1_700_000_000_000 + ms*977))
		if len(id) != 36 || id[14] != '7' || !strings.ContainsRune("89ab", rune(id[19])) {
			t.Fatalf("%q is not a UUID version 7", id)
		}
		if id <= last {
			t.Fatalf("%q came after %q", id, last)
		}
		last = id
	}
}

// What is only made ready may be what people will be asked about, and what rules look at that is not known yet; never what one denies.
func TestPrepare(t *testing.T) {
	ask := gate.Verdict{Effect: gate.Ask, Rules: []gate.Rule{{ID: "refund"}}}
	no := gate.Verdict{Rules: []gate.Rule{{ID: "export"}}}
	for _, c := range []struct {
		name         string
		rule         rule
		undetermined bool
		fits         error
		want         bool
	}{
		{"allowed", rule{verdict: allow}, false, nil, true},
		{"people would be asked", rule{verdict: ask}, false, nil, true},
		{"nothing allows it", rule{}, false, nil, false},
		{"nothing allows it yet", rule{}, true, nil, true},
		{"a rule denies it", rule{verdict: no}, true, nil, false},
		{"policy fails", rule{err: errors.New("div by zero")}, true, nil, false},
		{"it cannot be carried out", rule{verdict: allow}, true, errors.New("it does not fit"), false},
	} {
		j := &journal{}
		op := operation()
		op.Fits = func(gate.Verdict) error { return c.fits }
		r, err := newGate(c.rule, j).Prepare(t.Context(), op, c.undetermined)
		if err != nil || r.Allowed() != c.want || (r.Refusal().Problem == "") != c.want || len(j.records) != 1 || (j.last().Effect == gate.Allow) != c.want {
			t.Errorf("%s: allowed %v, refusal %+v, error %v", c.name, r.Allowed(), r.Refusal(), err)
		}
		if r, _ := newGate(c.rule, &journal{fail: errors.New("disk full")}).Prepare(t.Context(), operation(), c.undetermined); r.Allowed() {
			t.Errorf("%s: allowed without a record", c.name)
		}
	}
}
