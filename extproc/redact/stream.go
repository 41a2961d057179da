package redact

import (
	"errors"
	"mime"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/media"
)

// Options are the limits of one stream. A field that is 0 has its default.
type Options struct {
	// MaxToken is how many bytes a string that detectors look at, a member name and an event of text in an event stream may
	// have, less what detectors take from it; with that, twice as many. Default 1 MiB. Strings may have any length where there
	// are paths only, and what a path takes always. Detectors need up to eight times as much for a string that is all digits
	// and spaces.
	MaxToken int

	// MaxDepth is how deep JSON may be nested. Default 1000.
	MaxDepth int

	// MaxNames is how many names the objects that are open at one time may have together. Default 65,536, which takes up
	// to 6 MiB. Names inside a value that a path takes do not count.
	MaxNames int

	// MaxLine is how many bytes a line of text may have, less what detectors take from it; with that, twice as many.
	// Default 64 KiB.
	MaxLine int

	// Live says that nobody told how long the body is. It may be values that come now and then (a watch), of which each leaves
	// with the newline that follows it, for who reads lines.
	Live bool

	// Beside are texts that stand beside the body, such as header fields: [Stream.Repeats] tells of each whether it has a
	// value that was taken out of the body.
	Beside []string

	// Turn is given the strings at the paths that are to be turned, and returns what stands there instead, or false.
	Turn func(text string) (string, bool)

	taken func(value []byte) // may change value
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		field *int
		value int
	}{{&o.MaxToken, 1 << 20}, {&o.MaxDepth, 1000}, {&o.MaxNames, 1 << 16}, {&o.MaxLine, 64 << 10}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return o
}

// rewriter is one kind of body. What it has done, and whether it failed, depends on the bytes it was given and not on how
// they were split.
type rewriter interface {
	write(chunk []byte) error // appends to *output what is complete
	end() error
	output() *[]byte
	counts() []int64
	size() int
}

// Stream redacts one body as it comes. It is for one goroutine.
type Stream struct {
	plan   *Plan
	body   rewriter // nil: the plan is empty, and everything passes
	beside []*beside
	err    error
	closed bool
	unread string // why the rest passes as it comes
}

// Stream begins a body with the given Content-Type. The body must have no content coding: what is compressed cannot be
// read. With an empty plan any body passes as it is. The error is a [*Withheld]: nothing of such a body may be sent, unless
// the plan redacts nothing.
func (p *Plan) Stream(contentType string, opts Options) (*Stream, error) {
	if p.Empty() {
		return &Stream{plan: p}, nil
	}
	opts = opts.withDefaults()
	s := &Stream{plan: p}
	for _, text := range opts.Beside {
		s.beside = append(s.beside, newBeside(text))
	}
	if len(s.beside) > 0 {
		opts.taken = s.took
	}
	if contentType == "" {
		s.body = &unknown{}
		return s, nil
	}
	name, err := mediaType(contentType)
	if err != nil {
		return nil, err
	}
	if s.body, err = p.rewriter(name, opts); err != nil {
		return nil, err
	}
	return s, nil
}

// took looks for a value that was taken in the texts beside the body.
func (s *Stream) took(value []byte) {
	if value = sought(value); value == nil {
		return
	}
	for _, b := range s.beside {
		b.found = b.found || b.has(value)
	}
}

// Repeats reports whether Options.Beside[i] has a value that was taken out of the body so far.
func (s *Stream) Repeats(i int) bool { return i < len(s.beside) && s.beside[i].found }

// mediaType returns the media type, if its charset is one that we read.
func mediaType(contentType string) (string, error) {
	if contentType == "application/json" || contentType == "text/event-stream" {
		return contentType, nil
	}
	name, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", withheld("the content type cannot be read")
	}
	switch charset := strings.ToLower(params["charset"]); charset {
	case "", "utf-8", "utf8", "us-ascii":
		return name, nil
	default:
		return "", withheld("charset %.40q cannot be redacted", charset)
	}
}

func (p *Plan) rewriter(name string, opts Options) (rewriter, error) {
	if !p.Redacts() && !Turnable(name) {
		return nil, withheld("content type %.80q has no URLs that are turned", name)
	}
	kind := media.KindOf(name)
	switch kind {
	case media.JSON:
		return newMachine(p, opts, anyNumber), nil
	case media.Lines:
		return newMachine(p, opts, lineByLine), nil
	case media.Records:
		return newMachine(p, opts, records), nil
	case media.Events:
		if !p.Redacts() {
			return newTurnedEvents(p, opts), nil
		}
		return newEvents(p, opts), nil
	case media.Text, media.Markup:
		if p.takes {
			return nil, withheld("paths cannot be applied to content type %.80q", name)
		}
		return newLines(p, opts, kind == media.Markup), nil
	default:
		return nil, withheld("content type %.80q cannot be redacted: ask for JSON, if the target has it", name)
	}
}

// Turnable reports whether a Content-Type says JSON, or a sequence or events of it, whatever else of it cannot be read.
func Turnable(contentType string) bool {
	name, _, _ := strings.Cut(contentType, ";")
	kind := media.KindOf(strings.ToLower(strings.TrimSpace(name)))
	return kind == media.JSON || kind == media.Lines || kind == media.Records || kind == media.Events
}

// Write takes the next bytes of the body and returns what can be sent now: every JSON value, event or line that is
// complete. What it returns is good until the next call, and may be empty.
//
// With an error, which is a [*Withheld], comes what was complete before it. Nothing after that may be sent, and every later
// call fails the same way. Where the body comes to an error depends on its bytes and not on how they were split, and so must
// what is sent of it: how far a body got would tell how long it was.
func (s *Stream) Write(chunk []byte) (out []byte, err error) {
	if s.body == nil || s.unread != "" {
		return chunk, nil
	}
	return s.advance(func() error { return s.body.write(chunk) })
}

// Close is told that the body is complete, and returns what is left to send.
func (s *Stream) Close() (out []byte, err error) {
	if s.body == nil || s.unread != "" {
		return nil, nil
	}
	out, err = s.advance(s.body.end)
	s.closed = true
	return out, err
}

func (s *Stream) advance(step func() error) ([]byte, error) {
	out := s.body.output()
	*out = (*out)[:0]
	switch {
	case s.err != nil:
		return nil, s.err
	case s.closed:
		s.err = withheld("the body has ended")
		return nil, s.err
	}
	if err := step(); err != nil {
		if _, ok := errors.AsType[*Withheld](err); !ok {
			err = withheld("the body could not be redacted")
		}
		if s.err = err; !s.plan.Redacts() {
			s.err = nil
			*out = append(*out, s.GiveUp(err.Error())...)
		}
	}
	return *out, s.err
}

// Flows reports whether the body is a stream of values that are to be passed on as they come: by its type, or because more
// than one JSON value came.
func (s *Stream) Flows() bool {
	switch body := s.body.(type) {
	case *events, *turnedEvents:
		return true
	case *machine:
		return body.layout != anyNumber || body.values > 1
	}
	return false
}

// Unread says why what is left of the body passes as it comes, or an event of it did, or "". It is never so where the plan redacts
// anything.
func (s *Stream) Unread() string {
	if e, ok := s.body.(*turnedEvents); ok && s.unread == "" {
		return e.unread
	}
	return s.unread
}

// GiveUp has what is left of a body pass as it comes, and returns what was held of it. It is for plans that redact nothing.
func (s *Stream) GiveUp(why string) []byte {
	m, ok := s.body.(*machine)
	if e, isEvents := s.body.(*turnedEvents); isEvents {
		m, ok = e.json, true
	}
	if !ok || s.plan.Redacts() || s.unread != "" {
		return nil
	}
	s.unread = why
	held := m.pending
	m.pending = nil
	return held
}

// Turned says how many URLs were turned so far at each path.
func (s *Stream) Turned() []gate.Count {
	if s.body == nil {
		return nil
	}
	return s.plan.tally(s.body.counts(), s.plan.own, len(s.plan.names))
}

// Counts says how often each path and detector was applied so far, those that were not at all left out; and as "event" how
// many events of an event stream were withheld.
func (s *Stream) Counts() []gate.Count {
	if s.body == nil {
		return nil
	}
	counts := s.plan.tally(s.body.counts(), 0, s.plan.own)
	if e, ok := s.body.(*events); ok && e.lost > 0 {
		counts = append(counts, gate.Count{Name: "event", N: e.lost})
	}
	return counts
}

func (m *machine) output() *[]byte { return &m.out }
func (m *machine) counts() []int64 { return m.tallies }

// unknown is a body of which nobody said what it is. Only an empty one passes.
type unknown struct{ out []byte }

func (u *unknown) write(chunk []byte) error {
	if len(chunk) > 0 {
		return withheld("a body without a content type cannot be redacted")
	}
	return nil
}

func (u *unknown) end() error      { return nil }
func (u *unknown) output() *[]byte { return &u.out }
func (u *unknown) counts() []int64 { return nil }
