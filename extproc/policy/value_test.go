package policy

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/countersign/countersign/extproc/gate"
)

// The value that rules see is what the canonical text of the operation and of its context says.
func TestValueIsTheInput(t *testing.T) {
	expiring := *clerk
	expiring.Verified = gate.Verification{TokenID: "t-1", Expires: time.Date(2026, 11, 23, 10, 0, 0, 5, time.UTC)}
	odd := gate.Object{
		{Name: "", Value: ""},
		{Name: "f", Value: 1.5},
		{Name: "i", Value: -7},
		{Name: "l", Value: int64(1) << 62},
		{Name: "list", Value: []any{nil, true, false, []string{"a", "GET"}, []any{}, gate.Object{}}},
		{Name: "n", Value: json.Number("12345678901234567890.5")},
		{Name: "numbers", Value: []any{json.Number("1e2"), json.Number("100.0"), json.Number("-0"), json.Number("0"), json.Number("-17"), 1e21}},
		{Name: "é", Value: "\x00\u2028"},
	}
	for _, principal := range []*gate.Principal{clerk, &expiring, {Issuer: "i", Subject: "s"}} {
		op := operation("payments", web{method: "POST", segments: []string{"a", ""}, body: odd, volatile: gate.Object{{Name: "traceparent", Value: []string{"a", "b"}}}})
		op.Principal = principal
		checkValue(t, op)
		op.Context.Approval = &gate.Grant{ID: "a", Approvers: []gate.Party{{Issuer: "i", Subject: "bob"}}, Approved: time.Unix(1, 2)}
		checkValue(t, op)
	}
}

func checkValue(t *testing.T, op *gate.Operation) {
	t.Helper()
	seen, err := op.Seen()
	if err != nil {
		t.Fatal(err)
	}
	input, err := seen.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	around, err := op.Context.Object(op.Principal).AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := ast.ValueFromReader(strings.NewReader(`{"context":` + string(around) + "," + string(input[1:])))
	if err != nil {
		t.Fatal(err)
	}
	principals := newGenerations[*gate.Principal, *ast.Term](1, nil)
	for _, kept := range []string{"made", "kept"} {
		b := newBuilder(termsOf(inputType(httpKinds)))
		got, err := b.input(op, principals)
		b.release()
		if err != nil || got.Value.Compare(want) != 0 || got.Value.Hash() != want.Hash() || got.String() != want.String() {
			t.Errorf("with a principal that was %s, error %v:\n got %v\nwant %v", kept, err, got, want)
		}
	}
}

// FuzzValue makes the value of any JSON text in two ways: by ours and by OPA's own parser.
func FuzzValue(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a": [1, 2.50, -0, 1e3, "x", null, {"b": true}]}`, `{"a": {"a": {"a": []}}}`, `{"GET": "http", "": ""}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o, err := parseObject([]byte(text))
		if err != nil {
			return
		}
		b := newBuilder(termsOf(inputType(httpKinds)))
		defer b.release()
		got, err := b.value(o, 0)
		if err != nil {
			return
		}
		want, err := ast.ValueFromReader(strings.NewReader(text))
		if err != nil {
			t.Fatalf("%q was read as %v, OPA says %v", text, got, err)
		}
		if got.Value.Compare(want) != 0 {
			t.Errorf("%q was read as %v, by OPA as %v", text, got, want)
		}
	})
}

// One set serves many at once, over the same principal, remembered verdicts and one being explained.
func TestManyAtOnce(t *testing.T) {
	s := load(t, Options{CacheSize: 4, Timeout: time.Minute}, rego(designPolicy))
	input := explainInput(t, get("v1"))
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 50 {
				op := operation("payments", get("v1", strings.Repeat("x", (i+j)%16)))
				if v, err := s.Evaluate(t.Context(), op); err != nil || v.Effect != gate.Allow || len(v.Redactions) != 2 {
					t.Errorf("verdict %+v, error %v", v, err)
				}
				if x, err := s.Explain(t.Context(), "payments", input); err != nil || x.Verdict.Effect != gate.Allow {
					t.Errorf("explanation %v, error %v", &x, err)
				}
			}
		})
	}
	group.Wait()
}

// The design allows 160 allocations for its policy, and it makes 164; the rest is what sync.Pool loses under the race detector.
func TestAllocations(t *testing.T) {
	s := load(t, Options{}, rego(designPolicy))
	op := operation("payments", get("v1", "payments", "7"))
	ctx := t.Context()
	allocs := testing.AllocsPerRun(200, func() {
		if _, err := s.Evaluate(ctx, op); err != nil {
			t.Error(err)
		}
	})
	if allocs > 190 {
		t.Errorf("an evaluation makes %v allocations", allocs)
	}
	t.Logf("%v allocations", allocs)
}
