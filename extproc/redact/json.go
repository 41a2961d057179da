package redact

import (
	"hash"
	"slices"
)

// layout is how JSON values follow each other in a body.
type layout uint8

const (
	oneValue   layout = iota // the data of an event
	anyNumber                // application/json: one value, or several with newlines between them, as in a watch of Kubernetes
	lineByLine               // NDJSON: each value ends with a newline
	records                  // RFC 7464: a record separator before each value, a newline after it
)

const recordSeparator = 0x1E

// maxNumber is how many bytes a number may have. A double needs 17 digits; the rest is for the exact decimals and big integers
// that some programs write.
const maxNumber = 1024

// expectation says what may come next.
type expectation uint8

const (
	aValue expectation = iota
	aValueOrEnd
	aName
	aNameOrEnd
	aColon
	aCommaOrEnd
	aSeparator // between two values of a sequence
	nothing    // after the value of a document
)

// frame is an object or array that is open.
type frame struct {
	array   bool
	wrote   bool // an element was written, so the next needs a comma
	begun   int  // elements begun, in an array
	renamed int  // names that were numbered to tell them apart, in an object
	names   nameSet
}

// machine rewrites JSON as it comes. Between two calls of write it keeps an unfinished token, a frame for each open object or
// array, and a hash for each name of these objects. Its state depends on the bytes that came, never on how they were split;
// [machine.run] is its loop.
type machine struct {
	plan    *Plan
	limits  Options
	layout  layout
	finder  *finder
	tallies []int64

	out     []byte
	pending []byte // from the start of an unfinished token

	expect   expectation
	frames   []frame
	kept     int      // the most of them that were open at one time and are written
	sets     []uint64 // path states: plan.paths.words for each frame
	states   []uint64 // path states of the value to come
	hashes   []uint64 // names of the open objects
	values   int      // top-level values ended
	started  bool     // any byte has come
	begun    bool     // the value to come was looked up in the plan, and its first bytes may have been seen
	inString bool
	inLong   bool // the unfinished string is written as it comes
	owes     bool // a newline, before another value of any number
	scanned  int  // bytes of the unfinished string that were looked at
	escaped  bool // there is an escape in them

	held     []byte // where detectors may remove a value: its name, which is written with it
	dropping bool   // the name itself asks for its member to be removed

	// A value that is being replaced: everything from its first byte to its last is read and not written, in pieces, so
	// that nothing of it has to be kept and no limit can tell of it.
	replacing action
	replaced  int          // len(frames) where that value stands
	subtree   []byte       // its compact form, when it becomes a token
	spelled   hash.Hash    // the token of its compact form, where that has no canonical form or is too long for one
	inNumber  bool         // a number within it goes on
	spelling  numberState  // how far that was read
	deep      int          // levels below MaxDepth: there only strings and brackets are looked at
	taken     func([]byte) // is told of the strings and numbers in it; nil where nobody wants to know
	piece     []byte       // the first bytes of one of them

	copies bool // nothing is redacted: every byte is copied, but for the URLs that are turned
	turned int  // where to count the value to come, if it is a URL that is turned; -1 where it is not looked at

	framesArray [8]frame
	hashesArray [32]uint64
	setsArray   [8]uint64
	text        []byte // scratch: decoded text
	url         []byte // scratch: a URL that was turned
	changed     []byte // scratch: text with replacements
}

func newMachine(p *Plan, limits Options, l layout) *machine {
	m := &machine{plan: p, limits: limits, layout: l, tallies: make([]int64, len(p.names)), taken: limits.taken, copies: !p.Redacts()}
	if p.on != 0 {
		m.finder = &finder{}
	}
	m.frames, m.hashes, m.sets = m.framesArray[:0], m.hashesArray[:0], m.setsArray[:0]
	m.states = make([]uint64, p.paths.words)
	m.reset()
	return m
}

// reset makes the machine ready for another document. Its tallies stay.
func (m *machine) reset() {
	m.pending, m.frames, m.sets, m.hashes = m.pending[:0], m.frames[:0], m.sets[:0], m.hashes[:0]
	m.expect = aValue
	if m.layout == records {
		m.expect = aSeparator
	}
	m.values, m.scanned = 0, 0
	m.started, m.begun, m.inString, m.inLong, m.owes, m.escaped = false, false, false, false, false, false
	m.dropping, m.replacing, m.inNumber, m.deep = false, keep, false, 0
	copy(m.states, m.plan.paths.start)
}

// write appends to m.out what chunk completes. After an error, m.out has what was complete before it.
func (m *machine) write(chunk []byte) error {
	if len(chunk) == 0 {
		return nil
	}
	m.started = true
	m.out = slices.Grow(m.out, len(chunk)+len(chunk)/16)
	data, joined := chunk, len(m.pending) > 0
	if joined {
		m.pending = append(m.pending, chunk...)
		data = m.pending
	}
	used, err := m.run(data, false)
	if err != nil {
		m.pending = append(m.pending[:0], data[used:]...)
		return err
	}
	if !joined || used > 0 {
		m.pending = append(m.pending[:0], data[used:]...)
	}
	return nil
}

// end finishes the body: nothing more comes.
func (m *machine) end() error {
	if !m.started {
		return nil // there is no body, so there is nothing to protect
	}
	used, err := m.run(m.pending, true)
	whole := len(m.frames) == 0 && used == len(m.pending) && !m.inString
	m.pending = m.pending[used:]
	if err != nil {
		return err
	}
	if m.inNumber {
		if err := m.endNumber(); err != nil {
			return err
		}
	}
	switch {
	case whole && m.layout == oneValue && m.expect == nothing,
		whole && m.layout == lineByLine && !m.begun,
		whole && m.layout == anyNumber && !m.begun && m.values > 0,
		whole && m.layout == records && m.expect == aSeparator:
		return nil
	case whole && m.layout <= anyNumber && m.values == 0:
		return withheld("the body has no JSON value")
	default:
		return withheld("the JSON ends too early")
	}
}

// run reads data, and returns how many bytes of it are done. The rest begins a token.
func (m *machine) run(data []byte, final bool) (used int, err error) {
	at := 0
	for at < len(data) {
		var n int
		switch c := data[at]; {
		case m.inString:
			n, err = m.stringToken(data[at:])
		case m.inNumber:
			if n, err = m.replacedNumber(data[at:]); err != nil {
				return at, err
			}
			at += n
			continue
		case m.deep > 0:
			n, err = m.below(data[at:])
		case c <= ' ' && isSpace[c]:
			if c == '\n' && len(m.frames) == 0 {
				m.endLine()
			}
			m.copyByte(c)
			at++
			continue
		case c == '"' && m.expect != aColon && m.expect < aCommaOrEnd, m.expect == aValue, m.expect == aValueOrEnd && c != ']':
			n, err = m.token(data[at:], final)
		default:
			n, err = 1, m.punctuation(c)
		}
		if err != nil {
			return at, err
		}
		if at += n; m.inString || n == 0 {
			return at, nil
		}
	}
	return at, nil
}

func (m *machine) copyByte(c byte) {
	if m.copies {
		m.out = append(m.out, c)
	}
}

var isSpace = [' ' + 1]bool{' ': true, '\n': true, '\r': true, '\t': true}

// endLine takes a newline that is in no value. The one after a value of any number is written at once where the body is live, and
// else with the next value: the only value of a body stands alone. Between lines an empty one keeps the connection alive, and stays.
func (m *machine) endLine() {
	switch {
	case m.layout == records || m.layout == oneValue:
	case m.expect == aSeparator:
		m.expect = aValue
		if m.owes && m.limits.Live {
			m.out, m.owes = append(m.out, '\n'), false
		}
	case !m.copies && (m.layout == lineByLine || m.limits.Live && m.values > 0):
		m.out = append(m.out, '\n')
	}
}

// token begins or goes on with a name or a value.
func (m *machine) token(data []byte, final bool) (int, error) {
	if m.expect == aName || m.expect == aNameOrEnd {
		return m.stringToken(data)
	}
	if m.expect == aValueOrEnd {
		m.expect = aValue
	}
	return m.value(data, final)
}

// punctuation handles what stands between values, and the ends of objects and arrays.
func (m *machine) punctuation(c byte) error {
	top := len(m.frames) - 1
	switch {
	case m.expect == aSeparator && m.layout == records && c == recordSeparator:
		m.expect = aValue
		m.copyByte(c)
		return nil
	case m.expect == aSeparator && m.layout == records:
		return withheld("no record separator before a JSON value")
	case m.expect == nothing, m.expect == aSeparator && m.layout == anyNumber:
		return withheld("data after the JSON value")
	case m.expect == aSeparator:
		return withheld("more than one JSON value in a line")
	case m.expect == aColon && c == ':':
		m.expect = aValue
	case m.expect == aCommaOrEnd && c == ',' && m.frames[top].array:
		m.expect = aValue
	case m.expect == aCommaOrEnd && c == ',':
		m.expect = aName
	case (m.expect == aCommaOrEnd || m.expect == aValueOrEnd) && c == ']' && m.frames[top].array,
		(m.expect == aCommaOrEnd || m.expect == aNameOrEnd) && c == '}' && !m.frames[top].array:
		return m.closeFrame(c)
	default:
		return errNotJSON
	}
	m.copyByte(c)
	m.keepByte(c)
	return nil
}

var errNotJSON = withheld("the body is not valid JSON")

// value begins or goes on with a value. It returns 0 if too little of it has come.
func (m *machine) value(data []byte, final bool) (int, error) {
	if !m.begun {
		m.beginValue()
	}
	switch c := data[0]; {
	case c == '"':
		return m.stringToken(data)
	case c == '{', c == '[':
		return 1, m.openFrame(c)
	case m.replacing != keep && (c == '-' || c >= '0' && c <= '9'):
		m.inNumber, m.spelling, m.piece = true, numberStart, m.piece[:0]
		return m.replacedNumber(data)
	case c == '-' || c >= '0' && c <= '9':
		n := numberRun(data)
		switch {
		case n > maxNumber:
			return 0, withheld("a number of more than %d bytes", maxNumber)
		case n == len(data) && !final:
			return 0, nil
		case !isNumber(data[:n]):
			return 0, errNotJSON
		}
		return n, m.number(data[:n])
	case c == 't':
		return m.literal(data, "true")
	case c == 'f':
		return m.literal(data, "false")
	case c == 'n':
		return m.literal(data, "null")
	default:
		return 0, errNotJSON
	}
}

// beginValue looks up the value to come in the plan.
func (m *machine) beginValue() {
	m.begun = true
	top := len(m.frames) - 1
	words := m.plan.paths.words
	if top >= 0 && m.frames[top].array {
		f := &m.frames[top]
		if words > 0 {
			m.plan.paths.element(m.states, m.sets[top*words:], f.begun)
		}
		f.begun++
	}
	if m.replacing != keep {
		return
	}
	act := keep
	m.turned = -1
	if words > 0 {
		act, m.turned = m.plan.paths.accepts(m.states, m.tallies)
	}
	if m.dropping {
		act, m.dropping = remove, false
	}
	m.replacing, m.replaced, m.subtree, m.spelled = act, top+1, m.subtree[:0], nil
}

// endValue ends a value. If it is replaced, its replacement is written.
func (m *machine) endValue() error {
	m.begun = false
	if m.replacing != keep && m.replaced == len(m.frames) {
		if err := m.replace(); err != nil {
			return err
		}
	}
	if len(m.frames) > 0 {
		m.expect = aCommaOrEnd
		return nil
	}
	m.values++
	copy(m.states, m.plan.paths.start)
	if m.layout == oneValue {
		m.expect = nothing
		return nil
	}
	m.expect = aSeparator
	if m.owes = m.layout == anyNumber && !m.copies; !m.owes && !m.copies {
		m.out = append(m.out, '\n')
	}
	return nil
}

func (m *machine) replace() error {
	act := m.replacing
	m.replacing = keep
	switch act {
	case remove:
		if len(m.frames) == 0 { // a member called for it, so there is a frame; a detector never comes here
			return errNotJSON
		}
		return nil
	case null:
		m.separate()
		m.out = append(m.out, "null"...)
		return nil
	case mask:
		m.separate()
		m.out = append(m.out, `"`+Masked+`"`...)
		return nil
	case tokenize:
		m.separate()
		m.out = append(m.out, '"')
		canonical, err := []byte(nil), error(nil)
		if m.spelled == nil {
			canonical, err = canonicalJSON(m.subtree)
		}
		if err != nil {
			m.spell()
		}
		if m.spelled != nil {
			m.out = appendSum(m.out, m.spelled)
		} else {
			m.out = m.plan.appendToken(m.out, "json", canonical)
		}
		m.out = append(m.out, '"')
		return nil
	default:
		return withheld("a replacement is not known")
	}
}

// separate writes what goes before a value that is written: the comma of an array, a name that was held, the record
// separator of a sequence.
func (m *machine) separate() {
	top := len(m.frames) - 1
	switch {
	case m.copies:
	case top < 0 && m.layout == records:
		m.out = append(m.out, recordSeparator)
	case top < 0 && m.owes:
		m.out, m.owes = append(m.out, '\n'), false
	case top < 0:
	case m.frames[top].array:
		if m.frames[top].wrote {
			m.out = append(m.out, ',')
		}
		m.frames[top].wrote = true
	case m.plan.removes:
		m.writeName(m.held)
	}
}

func (m *machine) writeName(quoted []byte) {
	if m.copies {
		m.out = append(m.out, quoted...)
		return
	}
	f := &m.frames[len(m.frames)-1]
	if f.wrote {
		m.out = append(m.out, ',')
	}
	f.wrote = true
	m.out = append(append(m.out, quoted...), ':')
}

func (m *machine) openFrame(c byte) error {
	depth := len(m.frames)
	if depth == m.limits.MaxDepth && m.replacing != keep {
		m.deep, m.begun = 1, false
		if m.replacing == tokenize {
			m.spell()
		}
		m.keepByte(c)
		return nil
	}
	if depth == m.limits.MaxDepth {
		return withheld("JSON nested more than %d deep", m.limits.MaxDepth)
	}
	if m.replacing == keep {
		m.separate()
		m.out = append(m.out, c)
		m.kept = max(m.kept, depth+1)
	}
	if depth < cap(m.frames) {
		m.frames = m.frames[:depth+1] // its name set has a table that can be used again
	} else {
		m.frames = append(m.frames, frame{})
	}
	f := &m.frames[depth]
	f.array, f.wrote, f.begun, f.renamed = c == '[', false, 0, 0
	f.names.reset(len(m.hashes))
	m.sets = append(m.sets[:depth*len(m.states)], m.states...)
	m.begun = false
	m.expect = aNameOrEnd
	if f.array {
		m.expect = aValueOrEnd
	}
	m.keepByte(c)
	return nil
}

func (m *machine) closeFrame(c byte) error {
	top := len(m.frames) - 1
	m.hashes = m.hashes[:m.frames[top].names.from]
	m.frames[top].names.release()
	m.frames = m.frames[:top]
	if m.replacing == keep {
		m.out = append(m.out, c)
	}
	m.keepByte(c)
	return m.endValue()
}

// stringToken begins or goes on with a name or a string value. What is within a value that is replaced is let go as it was
// looked at, and a long string in which nothing is looked for is written so: both may be longer than any limit.
func (m *machine) stringToken(data []byte) (int, error) {
	at := m.scanned
	if !m.inString {
		at, m.escaped, m.inLong, m.piece = 1, false, false, m.piece[:0]
	}
	next, status, escaped := scanString(data, at)
	m.escaped = m.escaped || escaped
	unread := m.replacing != keep
	if !unread && !m.inLong && next > m.longest() {
		if m.finder != nil || m.expect != aValue {
			return 0, m.fits(next)
		}
		m.inLong = true
		m.separate()
	}
	if m.inLong && (!m.copies || status != stringBad) { // also what comes before an error, so that how much is written does not depend on how it came
		m.out = append(m.out, data[:next]...)
	}
	switch {
	case status == stringBad:
		return 0, withheld("the body has a string that is not valid JSON")
	case status == stringGoesOn && (unread || m.inLong):
		m.inString, m.scanned = true, 0
		if unread {
			m.pass(data[:next])
		}
		return next, nil
	case status == stringGoesOn:
		m.inString, m.scanned = true, next
		return 0, nil
	}
	m.inString, m.scanned = false, 0
	switch {
	case unread:
		m.pass(data[:next])
		return next, m.replacedString()
	case m.inLong:
		return next, m.endValue()
	case m.expect != aValue:
		return next, m.name(data[:next])
	default:
		return next, m.string(data[:next])
	}
}

// longest is how long a string may be before detectors look at it. What they take out does not count towards the limit, so
// that the limit does not tell its length.
func (m *machine) longest() int {
	if m.finder == nil {
		return m.limits.MaxToken
	}
	return 2 * m.limits.MaxToken
}

// fits refuses a string of n bytes that is longer than is written.
func (m *machine) fits(n int) error {
	if n > m.limits.MaxToken {
		return withheld("a string of more than %d bytes", m.limits.MaxToken)
	}
	return nil
}

// name handles a member name. It must be new in its object; paths step into its value; detectors look at it.
func (m *machine) name(raw []byte) error {
	m.expect = aColon
	text := raw[1 : len(raw)-1]
	if m.escaped {
		m.text = appendDecoded(m.text[:0], raw)
		text = m.text
	}
	if err := m.addName(text); err != nil {
		return err
	}
	top := len(m.frames) - 1
	removed := false
	if words := m.plan.paths.words; words > 0 {
		m.plan.paths.member(m.states, m.sets[top*words:], text)
		removed = m.plan.paths.removes(m.states)
	}
	if removed {
		return nil
	}
	if m.finder == nil {
		m.writeName(raw)
		return nil
	}
	quoted, err := m.detectName(raw, text)
	if err != nil || m.dropping {
		return err
	}
	if err := m.fits(len(quoted)); err != nil {
		return err
	}
	if m.plan.removes {
		m.held = append(m.held[:0], quoted...)
		return nil
	}
	m.writeName(quoted)
	return nil
}

func (m *machine) addName(text []byte) error {
	f := &m.frames[len(m.frames)-1]
	h := hashName(text)
	var isNew bool
	if m.hashes, isNew = f.names.add(m.hashes, h); !isNew {
		return withheld("an object has one name twice")
	}
	if len(m.hashes) > m.limits.MaxNames {
		return withheld("objects with more than %d names", m.limits.MaxNames)
	}
	return nil
}

func (m *machine) literal(data []byte, word string) (int, error) {
	n := min(len(word), len(data))
	if string(data[:n]) != word[:n] {
		return 0, errNotJSON
	}
	if n < len(word) {
		return 0, nil
	}
	return n, m.plain(data[:n])
}

// plain writes a value as it is.
func (m *machine) plain(raw []byte) error {
	if m.replacing == keep {
		m.separate()
		m.out = append(m.out, raw...)
	}
	m.keepSubtree(raw)
	return m.endValue()
}
