package redact

import (
	"slices"

	"github.com/countersign/countersign/extproc/gate"
)

// Values redacts single values by a plan's detectors, such as those of a database's rows. It reuses its memory: what a method
// returns is good until the next call, and it is for one goroutine.
//
// Where a method finds something, out is the value without it; nil where all of the value is to go, because the plan says null or remove.
type Values struct {
	plan   *Plan
	finder finder
	json   *machine
	counts []int64
}

// maxValue bounds a string within JSON. Values that are longer as a whole are the caller's matter.
const maxValue = 64 << 20

// Detects reports whether the plan has detectors.
func (p *Plan) Detects() bool { return p != nil && p.on != 0 }

// Values returns nil where the plan has no detectors.
func (p *Plan) Values() *Values {
	if !p.Detects() {
		return nil
	}
	return &Values{plan: p, counts: make([]int64, len(p.names))}
}

// Text looks at a text, as it stands and, where it may be JSON, with its escapes decoded.
func (v *Values) Text(text []byte) (out []byte, found bool) {
	seen, spans := v.finder.findText(text, v.plan.on)
	return v.replaced(seen, spans)
}

// Markup looks at XML or HTML, and through its character references.
func (v *Values) Markup(text []byte) (out []byte, found bool) {
	if slices.Contains(text, '&') {
		v.finder.text = appendUnescaped(v.finder.text[:0], text)
		text = v.finder.text
	}
	return v.Text(text)
}

func (v *Values) replaced(text []byte, spans []span) (out []byte, found bool) {
	if len(spans) == 0 {
		return nil, false
	}
	if act := v.plan.strongest(spans, v.counts); act == null || act == remove {
		return nil, true
	}
	v.finder.out = v.plan.appendReplaced(v.finder.out[:0], text, spans)
	return v.finder.out, true
}

// Numbers reports whether any of the detectors looks at numbers.
func (v *Values) Numbers() bool { return v.plan.on&(1<<card|1<<ssn) != 0 }

// Number looks at the digits of a number, whatever its exponent.
func (v *Values) Number(text []byte) (found bool) {
	if len(text) < 2 || text[0] != '-' && text[0]-'0' > 9 {
		return false // NaN and the like
	}
	spans := v.finder.findNumber(text, v.plan.on)
	v.plan.strongest(spans, v.counts)
	return len(spans) > 0
}

// JSON looks at a value of JSON: its strings, names and numbers. The error, a [*Withheld], says that it cannot be looked at.
func (v *Values) JSON(text []byte) (out []byte, found bool, err error) {
	if v.json == nil {
		v.json = newMachine(v.plan, Options{MaxToken: maxValue}.withDefaults(), oneValue)
	}
	m := v.json
	m.reset()
	m.out = m.out[:0]
	clear(m.tallies)
	if err := m.write(text); err != nil {
		return nil, false, err
	}
	if err := m.end(); err != nil {
		return nil, false, err
	}
	for i, n := range m.tallies {
		v.counts[i] += n
		found = found || n > 0
	}
	return m.out, found, nil
}

// Counts says how often each detector has found something.
func (v *Values) Counts() []gate.Count { return v.plan.tally(v.counts, 0, v.plan.own) }

// Token appends the token of a text: that which a path makes of the same text in JSON.
func (p *Plan) Token(dst, text []byte) []byte {
	return p.appendToken(dst, "json", appendCanonical(make([]byte, 0, len(text)+2), string(text)))
}

// NullToken appends the token of null.
func (p *Plan) NullToken(dst []byte) []byte { return p.appendToken(dst, "json", []byte("null")) }

// appendCanonical appends a text as canonical JSON. One that is none, since it is not UTF-8, stands as it is.
func appendCanonical(dst []byte, text string) []byte {
	canonical, err := gate.AppendJSON(dst, text)
	if err != nil {
		return append(dst, text...)
	}
	return canonical
}
