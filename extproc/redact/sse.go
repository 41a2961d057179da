package redact

import (
	"bytes"
)

// events redacts an event stream (WHATWG HTML, section 9.2). The data of an event is joined from its lines and rewritten:
// as JSON, or with detectors where it is text and the plan has no paths. Of the other fields, `event` and `id` are looked
// at by detectors, `retry` passes when it is a number, and a comment passes empty, because it is only there to keep the
// connection alive. Other fields are dropped: no reader of an event stream is to see them.
type events struct {
	plan    *Plan
	finder  finder
	reader  lineReader
	json    *machine
	tallies []int64
	limit   int
	out     []byte
	data    []byte
	hasData bool
	begun   bool // a line has come
}

func newEvents(p *Plan, opts Options) *events {
	return &events{
		plan: p, json: newMachine(p, opts, oneValue), limit: opts.MaxToken,
		tallies: make([]int64, len(p.names)),
		reader:  lineReader{most: opts.MaxToken, returns: true},
	}
}

func (e *events) output() *[]byte { return &e.out }
func (e *events) counts() []int64 { return e.tallies }

func (e *events) write(chunk []byte) error { return e.reader.read(chunk, e.line) }

// end writes what a cut-off last event has. Clients that keep to the standard do not use it.
func (e *events) end() error {
	if len(e.reader.pending) > 0 {
		if err := e.line(e.reader.pending); err != nil {
			return err
		}
	}
	return e.writeData()
}

func (e *events) line(line []byte) error {
	if err := checkText(line); err != nil {
		return err
	}
	if !e.begun && bytes.HasPrefix(line, []byte("\uFEFF")) {
		return withheld("the event stream begins with a byte order mark")
	}
	e.begun = true
	if len(line) == 0 {
		if err := e.writeData(); err != nil {
			return err
		}
		e.out = append(e.out, '\n')
		return nil
	}
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) {
	case "":
		e.out = append(e.out, ':', '\n')
	case "data":
		if e.hasData {
			e.data = append(e.data, '\n')
		}
		e.hasData = true
		e.data = append(e.data, value...)
		if len(e.data) > e.limit {
			return withheld("an event of more than %d bytes", e.limit)
		}
	case "event", "id":
		e.out = append(append(e.out, name...), ": "...)
		e.writeText(value)
		e.out = append(e.out, '\n')
	case "retry":
		if len(value) > 0 && len(value) <= 10 && digitRun(value) == len(value) {
			e.out = append(append(append(e.out, "retry: "...), value...), '\n')
		}
	}
	return nil
}

// writeData writes the data of the event that ends.
func (e *events) writeData() error {
	if !e.hasData {
		return nil
	}
	data := e.data
	e.data, e.hasData = e.data[:0], false
	first := bytes.TrimLeft(data, " \t\r\n")
	switch {
	case len(first) == 0, string(data) == "[DONE]": // how some APIs end their streams
		e.writeLines(data)
		return nil
	case e.plan.hasPaths(), bytes.IndexByte([]byte(`{["`), first[0]) >= 0:
		err := e.writeJSON(data)
		if err == nil || e.plan.hasPaths() || first[0] == '{' {
			return err
		}
	}
	from := len(e.out)
	e.writeText(data)
	text := append(e.data[:0], e.out[from:]...)
	e.out = e.out[:from]
	e.writeLines(text)
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
	e.out = append(append(e.out, e.json.out...), '\n')
	return nil
}

func (e *events) writeText(text []byte) {
	text, spans := e.finder.findText(text, e.plan.on)
	e.plan.strongest(spans, e.tallies)
	e.out = e.plan.appendReplaced(e.out, text, spans)
}

func (e *events) writeLines(text []byte) {
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		e.out = append(append(append(e.out, "data: "...), line...), '\n')
	}
}
