package admin

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

// Metrics are per resource, and Envoy says which resource a request is for.
func TestLabelsAreBounded(t *testing.T) {
	m, err := NewMetrics()
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 * maxLabels {
		m.labels("effect", fmt.Sprint(n), "allow")
	}
	n := 0
	m.sets.Range(func(any, any) bool { n++; return true })
	if n > maxLabels+10 {
		t.Errorf("%d sets of labels are kept", n)
	}
}

// taking is a recorder that takes everything.
type taking struct{ gate.Recorder }

func (taking) Append(context.Context, *gate.Record) (gate.Receipt, error) {
	return gate.Receipt{Seq: 1}, nil
}

func (taking) Begin(context.Context, *gate.Record) func() (gate.Receipt, error) {
	return func() (gate.Receipt, error) { return gate.Receipt{Seq: 1}, nil }
}

// TestApproverLabelsAreBounded: however many subjects an issuer has, and however it names them.
func TestApproverLabelsAreBounded(t *testing.T) {
	m, err := NewMetrics()
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.CountDecisions(taking{})
	if err != nil {
		t.Fatal(err)
	}
	decide := func(subject, decision string) {
		t.Helper()
		body := gate.Object{
			{Name: "approver", Value: gate.Object{{Name: "name", Value: "Bob"}, {Name: "subject", Value: subject}}},
			{Name: "decision", Value: decision},
			{Name: "think", Value: 1},
		}
		if _, err := r.Begin(t.Context(), &gate.Record{Type: approval.RecordDecided, Body: body})(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Append(t.Context(), &gate.Record{Type: approval.RecordDecided, Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	decide(strings.Repeat("x", 300), "approve")
	for n := range 2 * maxApprovers {
		decide(fmt.Sprintf("u-%d", n), "approve")
		decide(fmt.Sprintf("stranger-%d", n), "refused")
	}
	decide("u-0", "approve")
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		switch n := len(f.GetMetric()); f.GetName() {
		case "countersign_approvals_decisions_total":
			if n != maxApprovers+2 { // other, refused
				t.Errorf("%s has %d series", f.GetName(), n)
			}
			for _, series := range f.GetMetric() {
				for _, label := range series.GetLabel() {
					if want := map[string]float64{"u-0": 4, "u-1": 2, "other": 2*maxApprovers + 2}[label.GetValue()]; want > 0 && series.GetCounter().GetValue() != want {
						t.Errorf("%s decided %v times, and %v are counted", label.GetValue(), want, series.GetCounter().GetValue())
					}
				}
			}
		case "countersign_approvals_think_time_seconds":
			if n != maxApprovers+1 {
				t.Errorf("%s has %d series", f.GetName(), n)
			}
		}
	}
}
