package gate

import (
	"cmp"
	"fmt"
	"strconv"
	"time"
)

// BodyWriter writes the members of a body, whose names are constants and come in canonical order. It puts own between them where its
// name belongs.
type BodyWriter struct {
	b    []byte
	own  Member // not written yet
	some bool   // a member has been written
	err  error
}

// WriteBody begins a body after what is in b.
func WriteBody(b []byte) BodyWriter { return BodyWriter{b: append(b, '{')} }

// name begins a member, after own if that comes first.
func (w *BodyWriter) name(name string) {
	switch own := w.own.Name; {
	case own == "" || own > name:
	case own == name:
		w.err, w.own = fmt.Errorf("%w: %q is of every such record, and not of a kind", ErrDuplicateName, name), Member{}
	default:
		w.writeOwn()
	}
	w.begin(name)
}

func (w *BodyWriter) begin(name string) {
	if w.some {
		w.b = append(w.b, ',')
	}
	w.some = true
	w.b = append(append(append(w.b, '"'), name...), '"', ':')
}

func (w *BodyWriter) writeOwn() {
	own := w.own
	if w.own = (Member{}); own.Name == "" {
		return
	}
	w.begin(own.Name)
	b, err := AppendJSON(w.b, own.Value)
	w.b, w.err = b, cmp.Or(w.err, err)
}

// Text writes a text.
func (w *BodyWriter) Text(name, value string) {
	w.name(name)
	w.b = AppendText(w.b, value)
}

// Claimed writes a text that a stranger chose: see [MaxClaimed].
func (w *BodyWriter) Claimed(name, value string) { w.Text(name, Recorded(value, MaxClaimed)) }

// Count writes a number.
func (w *BodyWriter) Count(name string, n int64) {
	w.name(name)
	w.b = strconv.AppendInt(w.b, n, 10)
}

// Seconds writes how long something took.
func (w *BodyWriter) Seconds(name string, d time.Duration) {
	w.name(name)
	b, err := appendFloat(w.b, d.Seconds())
	w.b, w.err = b, cmp.Or(w.err, err)
}

// Object writes an object.
func (w *BodyWriter) Object(name string, o Object) {
	w.name(name)
	b, err := AppendJSON(w.b, o)
	w.b, w.err = b, cmp.Or(w.err, err)
}

// End ends the body.
func (w *BodyWriter) End() ([]byte, error) {
	w.writeOwn()
	return append(w.b, '}'), w.err
}
