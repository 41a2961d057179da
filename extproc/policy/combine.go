package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/countersign/countersign/extproc/gate"
)

// Sets is what one package says of one operation. The zero value says nothing.
type Sets struct {
	Allow  []gate.Rule
	Ask    []gate.AskRule
	Deny   []gate.Rule
	Redact []gate.Redaction
	Limit  gate.Limits // the least of each
	Err    error       // an element that could not be decoded: the rest is then not to be relied on
}

// combine makes one verdict of what the packages say. Nothing else decides which policy outranks which:
//
//   - an error anywhere denies;
//   - else any deny denies;
//   - else any ask asks, for every approver set that was named;
//   - else any allow allows;
//   - else nothing was said, and that denies.
//
// Verdicts that ask or allow carry the redactions and the limits, of which the least hold. If two replace the same value differently, the one that leaves less of it
// wins. With an error the verdict is the zero value, which denies.
func combine(said ...Sets) (gate.Verdict, error) {
	var all Sets
	for _, s := range said {
		if s.Err != nil {
			return gate.Verdict{}, s.Err
		}
		all.Allow = append(all.Allow, s.Allow...)
		all.Ask = append(all.Ask, s.Ask...)
		all.Deny = append(all.Deny, s.Deny...)
		all.Redact = append(all.Redact, s.Redact...)
		all.Limit = all.Limit.Least(s.Limit)
	}
	if err := all.check(); err != nil {
		return gate.Verdict{}, err
	}
	switch {
	case len(all.Deny) > 0:
		return gate.Verdict{Effect: gate.Deny, Rules: all.Deny}, nil
	case len(all.Ask) > 0:
		v := gate.Verdict{Effect: gate.Ask, Asks: all.Ask, Redactions: strongest(all.Redact), Limits: all.Limit}
		for _, ask := range all.Ask {
			v.Rules = append(v.Rules, ask.Rule)
		}
		return v, nil
	case len(all.Allow) > 0:
		return gate.Verdict{Effect: gate.Allow, Rules: all.Allow, Redactions: strongest(all.Redact), Limits: all.Limit}, nil
	default:
		return gate.Verdict{}, nil
	}
}

// check refuses zero and impossible elements. Decoding never returns any; this keeps a zero Rule or Redaction from counting.
func (s *Sets) check() error {
	for _, rules := range [][]gate.Rule{s.Allow, s.Deny} {
		for _, r := range rules {
			if r.ID == "" {
				return errors.New("a rule has no id")
			}
		}
	}
	for _, ask := range s.Ask {
		if ask.ID == "" || ask.Quorum < 1 || ask.Quorum > maxQuorum || len(ask.Approvers) == 0 || slices.Contains(ask.Approvers, "") {
			return fmt.Errorf("the ask rule %q could never be met as it is written", ask.ID)
		}
	}
	for _, r := range s.Redact {
		if !one(r.Path != "", r.Detect != "", r.Column != "") || strength(r.With) == 0 {
			return fmt.Errorf("the redaction %q cannot be carried out", r.Name())
		}
	}
	if l := s.Limit; l.Rows < 0 || l.Bytes < 0 || l.Time < 0 {
		return fmt.Errorf("the limits (%v) cannot be kept", l)
	}
	return nil
}

// strength orders replacements by how little of a value they leave. It is 0 for what is no replacement.
func strength(r gate.Replacement) int {
	switch r {
	case gate.Remove:
		return 4
	case gate.Null:
		return 3
	case gate.Mask:
		return 2
	case gate.Token:
		return 1
	default:
		return 0
	}
}

// strongest returns redactions in order, each path, detector and column once, with the strongest replacement. An approver sees the
// value, and a statement uses it, only if all of them say so.
func strongest(redactions []gate.Redaction) []gate.Redaction {
	if len(redactions) == 0 {
		return nil
	}
	slices.SortFunc(redactions, func(a, b gate.Redaction) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Detect, b.Detect), cmp.Compare(a.Column, b.Column), strength(b.With)-strength(a.With))
	})
	out := redactions[:0]
	for _, r := range redactions {
		if n := len(out); n > 0 && out[n-1].Path == r.Path && out[n-1].Detect == r.Detect && out[n-1].Column == r.Column {
			out[n-1].OnCard, out[n-1].Use = out[n-1].OnCard && r.OnCard, out[n-1].Use && r.Use
			continue
		}
		out = append(out, r)
	}
	return out
}
