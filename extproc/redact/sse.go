package redact

import (
	"bytes"
	"slices"
	"strings"
)

// events redacts an event stream (WHATWG HTML, section 9.2). With paths, the data of an event is JSON, and is rewritten as
// it comes, so that an event may be longer than any limit. Without, it is joined from its lines and rewritten as JSON or as
// text. Of the other fields `event` and `id` are looked at by detectors, and dropped where they have a value that a path took
// out of the data of their event or of one before it; `retry` passes when it is a number, and a comment passes empty, because
// it is only there to keep the connection alive. Other fields are dropped: no reader of an event stream is to see them. With
// paths, so are those that are too long, which could be because of what they repeat.
//
// With paths, an event whose data is not JSON is not written, because a protected value could stand in it as text: a comment
// says so in its place. What passes is a closed list of words that keep a connection alive or end a stream.
//
// An event is written when it has ended, its fields first, or as it comes once maxEvent bytes of its data are there. Of a
// field that it has twice the last counts, as for who reads it.
type events struct {
	plan    *Plan
	finder  finder
	reader  lineReader
	json    *machine
	tallies []int64
	limit   int
	out     []byte
	begun   bool // a line has come

	event, id, retry field
	comment          bool   // that came while data was being written
	data             []byte // without paths, as it came; with them, what is not known to be JSON yet
	hasData          bool
	inData           bool   // with paths: the rest of a line that began is data
	inJSON           bool   // with paths: the data is JSON
	refused          bool   // with paths: the data is neither JSON nor a word, and the rest of it is passed over
	lost             int64  // events of which that was so
	dropping         bool   // with paths: the rest of a line that is no data and too long
	written          []byte // of the data, redacted
	flowing          bool   // written is not held any more

	taken func([]byte) // from outside
	last  recent       // what paths took
}

// field is a field of an event.
type field struct {
	set     bool
	value   []byte
	checked string // the last value that was looked at, and how many values it was looked at for
	upTo    int
}

// maxEvent is how much redacted data of an event is held.
const maxEvent = 64 << 10

func newEvents(p *Plan, opts Options) *events {
	e := &events{
		plan: p, limit: opts.MaxToken, tallies: make([]int64, len(p.names)), taken: opts.taken,
		reader: lineReader{most: 2 * opts.MaxToken, stated: opts.MaxToken, returns: true},
	}
	opts.taken = e.took
	e.json = newMachine(p, opts, oneValue)
	if p.takes {
		e.json.tallies = e.tallies
	}
	return e
}

func (e *events) output() *[]byte { return &e.out }
func (e *events) counts() []int64 { return e.tallies }

// took remembers a value that was taken out of the data.
func (e *events) took(value []byte) {
	if e.plan.takes {
		if v := sought(bytes.Clone(value)); v != nil {
			e.last.add(v)
		}
	}
	if e.taken != nil {
		e.taken(value)
	}
}

func (e *events) write(chunk []byte) error {
	if !e.plan.takes {
		return e.reader.read(chunk, e.line)
	}
	for len(chunk) > 0 {
		end := bytes.IndexAny(chunk, "\r\n")
		if e.inData {
			n := end
			if end < 0 {
				n = len(chunk)
			}
			if err := e.feed(chunk[:n]); err != nil {
				return err
			}
			if end >= 0 {
				e.inData, e.reader.skipFeed = false, chunk[end] == '\r'
				n++
			}
			chunk = chunk[n:]
			continue
		}
		n := end + 1
		if end < 0 {
			n = len(chunk)
		}
		if known := len(e.reader.pending); known < len("data: ") && !e.dropping { // as much as tells that it is data
			n = min(n, len("data: ")-known)
		}
		piece := chunk[:n]
		chunk = chunk[n:]
		if e.dropping = e.dropping || len(e.reader.pending)+len(bytes.TrimRight(piece, "\r\n")) > e.limit; e.dropping {
			e.reader.pending = e.reader.pending[:0]
			if end >= 0 {
				e.dropping, e.reader.skipFeed = false, piece[n-1] == '\r'
			}
			continue
		}
		if err := e.reader.read(piece, e.line); err != nil {
			return err
		}
		if begun := e.reader.pending; len(begun) > len("data:") && bytes.HasPrefix(begun, []byte("data:")) {
			e.begun, e.inData = true, true
			if err := e.beginData(begun[len("data:"):]); err != nil {
				return err
			}
			e.reader.pending = begun[:0]
		}
	}
	return nil
}

// end writes what a cut-off last event has. Clients that keep to the standard do not use it.
func (e *events) end() error {
	if len(e.reader.pending) > 0 {
		if err := e.line(e.reader.pending); err != nil {
			return err
		}
	}
	return e.endEvent()
}

func (e *events) line(line []byte) error {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	isData := string(name) == "data"
	if !isData || !e.plan.takes { // what reads JSON sees to it
		if err := checkText(line); err != nil {
			return err
		}
	}
	if !e.begun && bytes.HasPrefix(line, []byte("\uFEFF")) {
		return withheld("the event stream begins with a byte order mark")
	}
	e.begun = true
	if len(line) == 0 {
		if err := e.endEvent(); err != nil {
			return err
		}
		e.out = append(e.out, '\n')
		return nil
	}
	switch string(name) {
	case "":
		if e.comment = e.flowing; !e.flowing {
			e.out = append(e.out, ':', '\n')
		}
	case "data":
		return e.beginData(value)
	case "event":
		e.event.keep(value)
	case "id":
		e.id.keep(value)
	case "retry":
		if len(value) > 0 && len(value) <= 10 && digitRun(value) == len(value) {
			e.retry.keep(value)
		}
	}
	return nil
}

func (f *field) keep(value []byte) { f.set, f.value = true, append(f.value[:0], value...) }

// beginData takes a line of data, or its beginning.
func (e *events) beginData(value []byte) error {
	value = bytes.TrimPrefix(value, []byte(" "))
	if e.plan.takes {
		if e.hasData {
			if err := e.feed([]byte("\n")); err != nil {
				return err
			}
		}
		e.hasData = true
		return e.feed(value)
	}
	if e.hasData {
		e.data = append(e.data, '\n')
	}
	e.hasData = true
	e.data = append(e.data, value...)
	if len(e.data) > 2*e.limit {
		return e.tooLong()
	}
	return nil
}

func (e *events) tooLong() error { return withheld("an event of more than %d bytes", e.limit) }

// done is how some APIs end their streams.
const done = "[DONE]"

// words are what an event may say that is not JSON, in these letters, in capitals, or with a capital at the beginning.
var words = func() (list []string) {
	list = []string{done}
	for _, w := range []string{"ping", "pong", "heartbeat", "keepalive", "keep-alive", "keep_alive", "connected", "ok", "done", "end"} {
		list = append(list, w, strings.ToUpper(w), strings.ToUpper(w[:1])+w[1:])
	}
	return list
}()

// couldBeWord reports whether what there is of the data is blank or begins a word.
func (e *events) couldBeWord() bool {
	begun := string(bytes.TrimLeft(e.data[:min(len(e.data), e.limit+1)], " \t\r\n"))
	return slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, begun) })
}

// feed takes data that is JSON, unless it is blank or a word.
func (e *events) feed(b []byte) error {
	if e.refused {
		return nil
	}
	if !e.inJSON {
		e.data = append(e.data, b...)
		if e.couldBeWord() {
			if len(e.data) > e.limit {
				return e.tooLong()
			}
			return nil
		}
		e.beginJSON()
		b = e.data
	}
	return e.readJSON(func() error { return e.json.write(b) })
}

// readJSON goes on with data that is JSON. Where it proves to be none, and nothing of the event is written yet, the event is lost.
func (e *events) readJSON(read func() error) error {
	err := read()
	e.takeJSON()
	if err != nil && !e.flowing {
		e.refused, e.written = true, e.written[:0]
		return nil
	}
	return err
}

func (e *events) beginJSON() {
	e.json.reset()
	e.json.out = append(e.json.out[:0], "data: "...)
	e.inJSON = true
}

// takeJSON takes what the machine has written.
func (e *events) takeJSON() {
	e.written = append(e.written, e.json.out...)
	e.json.out = e.json.out[:0]
	if e.flowing = e.flowing || len(e.written) > maxEvent; e.flowing {
		e.out = append(e.out, e.written...)
		e.written = e.written[:0]
	}
}

// endEvent writes the event that ends.
func (e *events) endEvent() error {
	err := e.endData()
	if err == nil || e.flowing {
		e.out = append(e.out, e.written...)
	}
	e.written = e.written[:0]
	e.data, e.hasData, e.inJSON, e.flowing, e.refused = e.data[:0], false, false, false, false
	return err
}

// endData finishes what is written of the data, and writes the event's other fields.
func (e *events) endData() error {
	switch {
	case !e.hasData:
	case !e.plan.takes:
		if err := e.writeData(e.data); err != nil {
			return err
		}
	case e.inJSON || !slices.Contains(words, string(e.data)) && len(bytes.TrimLeft(e.data, " \t\r\n")) > 0:
		if err := e.endJSON(); err != nil {
			return err
		}
		if e.refused {
			e.lose()
			return nil
		}
		e.written = append(e.written, '\n')
	default:
		e.writeLines(e.data)
	}
	if e.flowing {
		e.out = append(e.out, e.written...)
		e.written = e.written[:0]
	}
	return e.writeFields()
}

func (e *events) endJSON() error {
	if !e.inJSON {
		e.beginJSON()
		if err := e.readJSON(func() error { return e.json.write(e.data) }); err != nil {
			return err
		}
	}
	if e.refused {
		return nil
	}
	return e.readJSON(e.json.end)
}

// lose writes that there was an event.
func (e *events) lose() {
	e.lost++
	e.out = append(e.out, ": an event was withheld: its data is not JSON\n"...)
	e.event.set, e.id.set, e.retry.set, e.comment = false, false, false, false
}

func (e *events) writeFields() error {
	if e.comment {
		e.out, e.comment = append(e.out, ':', '\n'), false
	}
	for _, f := range []struct {
		name string
		*field
	}{{"event: ", &e.event}, {"id: ", &e.id}, {"retry: ", &e.retry}} {
		if f.set && !e.repeats(f.field) {
			from := len(e.out)
			e.out = e.appendText(append(e.out, f.name...), f.value)
			if len(e.out)-from > e.limit {
				e.out = e.out[:from]
				return withheld("a line of more than %d bytes", e.limit)
			}
			e.out = append(e.out, '\n')
		}
		f.set = false
	}
	return nil
}

// repeats reports whether a field has a value that was taken before. What it was looked at for is not looked for again.
func (e *events) repeats(f *field) bool {
	if f.checked != string(f.value) {
		f.checked, f.upTo = string(f.value), 0
	}
	if all := e.last.dropped + len(e.last.values); f.upTo < all {
		text := newBeside(f.checked)
		for _, v := range e.last.values[max(0, f.upTo-e.last.dropped):] {
			if text.has([]byte(v)) {
				return true
			}
		}
		f.upTo = all
	}
	return false
}

// writeData rewrites data that no path leads into.
func (e *events) writeData(data []byte) error {
	first := bytes.TrimLeft(data, " \t\r\n")
	switch {
	case len(first) == 0, string(data) == done:
		e.writeLines(data)
		return e.fits()
	case bytes.IndexByte([]byte(`{["`), first[0]) >= 0:
		if err := e.writeJSON(data); err == nil || first[0] == '{' {
			return err
		}
	}
	e.writeLines(e.appendText(nil, data))
	return e.fits()
}

// fits refuses an event that is longer than is written.
func (e *events) fits() error {
	if len(e.written) > e.limit+len("data: \n") {
		return e.tooLong()
	}
	return nil
}

func (e *events) writeJSON(data []byte) error {
	e.json.reset()
	clear(e.json.tallies)
	e.json.out = append(e.json.out[:0], "data: "...)
	err := e.json.write(data)
	if err == nil {
		err = e.json.end()
	}
	if err != nil {
		return err
	}
	for i, n := range e.json.tallies {
		e.tallies[i] += n
	}
	e.written = append(append(e.written, e.json.out...), '\n')
	return e.fits()
}

func (e *events) appendText(dst, text []byte) []byte {
	text, spans := e.finder.findText(text, e.plan.on)
	e.plan.strongest(spans, e.tallies)
	if e.taken != nil {
		for _, s := range spans {
			e.taken(bytes.Clone(text[s.from:s.to]))
		}
	}
	return e.plan.appendReplaced(dst, text, spans)
}

func (e *events) writeLines(text []byte) {
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		e.written = append(append(append(e.written, "data: "...), line...), '\n')
	}
}
