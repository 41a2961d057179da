package redact

import (
	"bytes"
	"cmp"
)

// turnedEvents is an event stream of which nothing is redacted. Every byte is copied, but for the URLs in data that is JSON. Data
// that is none passes as it came, and so does what is left of an event whose JSON cannot be read.
type turnedEvents struct {
	json *machine
	out  []byte

	matched int    // bytes of "data:" that the line has begun with; -1 where it is another field
	inData  bool   // the rest of the line is data
	empty   bool   // nothing of the line has come
	feed    bool   // the last byte was a CR: an LF that follows belongs to it
	head    []byte // of the event's data, without the blanks before it: as much as tells what it is
	why     string // why the rest of the event is not read
	unread  string // the same, of the first event that should have been
}

func newTurnedEvents(p *Plan, opts Options) *turnedEvents {
	return &turnedEvents{json: newMachine(p, opts, oneValue), empty: true}
}

func (e *turnedEvents) output() *[]byte { return &e.out }
func (e *turnedEvents) counts() []int64 { return e.json.tallies }

func (e *turnedEvents) write(chunk []byte) error {
	for len(chunk) > 0 {
		c := chunk[0]
		switch {
		case e.feed && c == '\n':
			e.out, chunk = append(e.out, c), chunk[1:]
		case c == '\r' || c == '\n':
			e.endLine()
			e.out, chunk = append(e.out, c), chunk[1:]
		case e.inData:
			n := bytes.IndexAny(chunk, "\r\n")
			if n < 0 {
				n = len(chunk)
			}
			e.data(chunk[:n])
			chunk = chunk[n:]
		default:
			const field = "data:"
			if e.empty = false; e.matched >= 0 && c == field[e.matched] {
				e.matched++
			} else {
				e.matched = -1
			}
			e.inData = e.matched == len(field)
			e.out, chunk = append(e.out, c), chunk[1:]
		}
		e.feed = c == '\r'
	}
	return nil
}

// data copies what there is of a line of data.
func (e *turnedEvents) data(b []byte) {
	if len(e.head) == 0 {
		blank := len(b) - len(bytes.TrimLeft(b, " \t\n"))
		e.out, b = append(e.out, b[:blank]...), b[blank:]
	}
	e.head = append(e.head, b[:min(len(b), len(done)+1-len(e.head))]...)
	if len(e.head) == 0 || bytes.IndexByte([]byte(`{["`), e.head[0]) < 0 || e.why != "" {
		e.out = append(e.out, b...)
		return
	}
	if err := e.json.write(b); err != nil {
		e.giveUp(err)
	}
	e.out = append(e.out, e.json.out...)
	e.json.out = e.json.out[:0]
	if e.why != "" {
		e.release()
	}
}

func (e *turnedEvents) giveUp(err error) { e.why = cmp.Or(e.why, err.Error()) }

// release writes what is held of a token.
func (e *turnedEvents) release() {
	e.out = append(e.out, e.json.pending...)
	e.json.pending = e.json.pending[:0]
}

// endLine is told of a line's end. Lines of data are joined by a newline, which JSON may have between tokens only. An empty line ends
// the event.
func (e *turnedEvents) endLine() {
	if e.inData {
		e.data([]byte("\n"))
		e.out = e.out[:len(e.out)-1] // how the line ends is copied
	}
	if e.empty {
		e.endEvent()
	}
	e.matched, e.inData, e.empty = 0, false, true
}

func (e *turnedEvents) endEvent() {
	if e.why == "" {
		if err := e.json.end(); err != nil {
			e.giveUp(err)
		}
	}
	if e.why != "" && string(bytes.TrimRight(e.head, " \t\n")) != done {
		e.unread = cmp.Or(e.unread, e.why)
	}
	e.json.reset()
	e.head, e.why = e.head[:0], ""
}

// end copies what is left. Clients that keep to the standard do not use an event that has not ended.
func (e *turnedEvents) end() error {
	e.release()
	e.endEvent()
	return nil
}
