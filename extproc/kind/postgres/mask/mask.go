// Package mask takes protected values out of what a PostgreSQL server answers: those of the columns that policy names, and what detectors
// find. It is pure: what policy said, what package statement found, and messages in; messages out.
//
// # Columns
//
// A column of an answer is masked if any column that it is made of is. A value of a text type becomes "[redacted]" or its token, every
// other NULL, in text and in binary, and so does NULL: that there was none is a value too. How many rows there are, and their order,
// stays. The token is that of the same text in JSON, so that it is the same from a database as from an API.
//
// What cannot be masked in the answer is refused before the statement runs: a masked column in a condition, a join, an order, an
// expression, an aggregate, in what is stored ([statement.Use]); relations of the server's own that show values of others
// ([statement.Analysis.Exposes]); EXPLAIN, whose estimates tell of values. "use": true lets a column be used; what is made of it in the
// answer is masked all the same.
//
// # Detectors
//
// Detectors are a net below that, for values that nobody expected in a place. They look at every value of an answer, whatever columns it is
// made of: at texts, XML and JSON as package redact does, at the digits of numbers, at each element of an array, each field of a row and
// the bytes of a bytea. What is found in a text, a JSON, an XML or an element of these is replaced in its place; a value of another type
// becomes NULL. Not looked at are types that have no room for such a value (boolean, dates and times, uuid, addresses, bits, geometry).
// What cannot be read is NULL too: JSON with a name twice, and in binary the types that this package does not know (hstore and other
// types of extensions, tsvector); in text they are read as text.
//
// Detectors see what the answer has. A statement that turns a value around, or cuts it in two, hides it: where it must not pass, name the
// column.
package mask

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
	"github.com/countersign/countersign/extproc/redact"
)

// Mask is the text in the place of a text.
const Mask = redact.Masked

// Unread is what values are counted as that became NULL because detectors could not look at them.
const Unread = "unread"

// Plan is what of a statement's answer is taken out. It is for one statement, and for one goroutine.
type Plan struct {
	columns []column
	counts  map[string]int64 // values of columns that were masked, by "schema.table.column"

	catalog *statement.Catalog
	tokens  *redact.Plan   // makes tokens
	values  *redact.Values // nil where there are no detectors
	unread  int64

	some      bool // some column is masked
	described bool
	copy      *copying // of an answer that is COPY data

	// Memory that is used again: an array that is written anew, a value without its escapes, and the same of an element and a field.
	built, plain, unquoted, field []byte
	within                        int // rows within rows
}

// column is one of an answer.
type column struct {
	masked bool
	with   gate.Replacement
	of     []string // the columns for which it is masked
	text   bool     // its type is a text type
	binary bool
	quoted bool   // in CSV
	shape  *shape // how detectors look at it; nil where they do not
}

// errShape ends an answer: what policy was asked about is not what came.
var errShape = errors.New("the answer has other columns than the statement was found to have")

// refuse refuses a statement that cannot be carried out as policy wants it.
func refuse(format string, args ...any) error {
	return &gate.Unfit{Problem: gate.Denied, Detail: fmt.Sprintf(format, args...)}
}

// New returns the plan for a statement, and nil where nothing is to be taken out. Its error is a [*gate.Unfit].
func New(plans *redact.Plans, redactions []gate.Redaction, a *statement.Analysis, cat *statement.Catalog) (*Plan, error) {
	if len(redactions) == 0 {
		return nil, nil
	}
	for _, r := range redactions {
		if r.Path != "" {
			return nil, refuse("Policy redacts by path %q, and rows have no paths, so the statement was refused. The rule has to say of which resources it is (input.http), or name a column.", r.Path)
		}
	}
	if err := fits(redactions, a); err != nil {
		return nil, err
	}
	p := &Plan{columns: make([]column, len(a.Output)), counts: map[string]int64{}, catalog: cat}
	p.some = p.mark(redactions, a)
	if Detects(redactions) {
		plan, err := plans.Plan(redactions, nil)
		if err != nil {
			return nil, refuse("Policy redacts in a way that this gateway cannot, so the statement was refused: %v.", err)
		}
		p.values = plan.Values()
	}
	if !p.some && p.values == nil {
		return nil, nil
	}
	for i := range p.columns {
		if c := &p.columns[i]; c.with == gate.Token && p.tokens == nil {
			if p.tokens = plans.Tokens(); p.tokens == nil {
				return nil, refuse("Policy wants tokens, and this gateway has no key to make them, so the statement was refused.")
			}
		}
	}
	if a.Copy != nil && !a.Copy.In {
		if err := p.copies(a); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// mark finds the columns of the answer that are masked, and reports whether there are any.
func (p *Plan) mark(redactions []gate.Redaction, a *statement.Analysis) (some bool) {
	for i, out := range a.Output {
		c := &p.columns[i]
		for _, from := range out.Lineage {
			if r, ok := masks(redactions, from); ok {
				if c.with = r.With; c.masked {
					c.with = least(c.with, r.With)
				}
				c.masked, some = true, true
				c.of = append(c.of, from.String())
			}
		}
	}
	return some
}

// All is a plan that masks every column of an answer.
func All(columns int) *Plan {
	p := &Plan{columns: make([]column, columns), counts: map[string]int64{}, some: true}
	for i := range p.columns {
		p.columns[i].masked, p.columns[i].with = true, gate.Null
	}
	return p
}

// Masked says how many values of each column were masked.
func (p *Plan) Masked() map[string]int64 { return p.counts }

// Found says how often each detector has found something, and how many values could not be looked at.
func (p *Plan) Found() []gate.Count {
	if p.values == nil {
		return nil
	}
	list := p.values.Counts()
	if p.unread > 0 {
		list = append(list, gate.Count{Name: Unread, N: p.unread})
	}
	return list
}

// Describe takes the body of a RowDescription, before the rows.
func (p *Plan) Describe(body []byte) error {
	if len(body) < 2 {
		return errShape
	}
	n := int(binary.BigEndian.Uint16(body))
	if !p.some && p.values != nil {
		p.columns = make([]column, n) // what SHOW, EXPLAIN or CALL answers with is not of the analysis
	}
	if n != len(p.columns) {
		return errShape
	}
	body = body[2:]
	for i := range p.columns {
		end := 0
		for end < len(body) && body[end] != 0 {
			end++
		}
		if len(body) < end+1+18 {
			return errShape
		}
		c := &p.columns[i]
		oid := binary.BigEndian.Uint32(body[end+1+6:])
		c.binary = binary.BigEndian.Uint16(body[end+1+16:]) == 1
		p.typed(c, oid)
		body = body[end+1+18:]
	}
	if len(body) != 0 {
		return errShape
	}
	p.described = true
	return nil
}

// typed gives a column its type.
func (p *Plan) typed(c *column, oid uint32) {
	c.text = isText(p.catalog, oid)
	if p.values != nil {
		c.shape = shapeOf(p.catalog, oid, 0)
	}
}

// Row appends the body of a DataRow to b, without what is taken out.
func (p *Plan) Row(b, body []byte) ([]byte, error) {
	if !p.described || p.copy != nil {
		return b, errShape
	}
	return p.tuple(b, body)
}

// tuple is a row as DataRow and COPY's binary format have it.
func (p *Plan) tuple(b, body []byte) ([]byte, error) {
	if len(body) < 2 || int(binary.BigEndian.Uint16(body)) != len(p.columns) {
		return b, errShape
	}
	b, body = append(b, body[:2]...), body[2:]
	for i := range p.columns {
		if len(body) < 4 {
			return b, errShape
		}
		size := int(int32(binary.BigEndian.Uint32(body)))
		end := 4 + max(size, 0)
		if size < -1 || len(body) < end {
			return b, errShape
		}
		switch c := &p.columns[i]; {
		case c.masked:
			b = p.masked(b, c, body[4:end], size < 0)
		case c.shape == nil || size < 0:
			b = append(b, body[:end]...)
		default:
			b = p.looked(b, c, body[:end])
		}
		body = body[end:]
	}
	if len(body) != 0 {
		return b, errShape
	}
	return b, nil
}

// masked appends what is in the place of a value of a masked column, and its length.
func (p *Plan) masked(b []byte, c *column, value []byte, null bool) []byte {
	p.count(c)
	text, ok := p.instead(c, value, null)
	if !ok {
		return append(b, 0xFF, 0xFF, 0xFF, 0xFF)
	}
	return append(binary.BigEndian.AppendUint32(b, uint32(len(text))), text...)
}

// instead is the text in the place of a value; false for NULL. It is good until the next call.
func (p *Plan) instead(c *column, value []byte, null bool) ([]byte, bool) {
	switch {
	case !c.text || c.with == gate.Null:
		return nil, false
	case c.with != gate.Token:
		return mask, true
	case null:
		p.built = p.tokens.NullToken(p.built[:0])
	default:
		p.built = p.tokens.Token(p.built[:0], value)
	}
	return p.built, true
}

var mask = []byte(Mask)

// looked appends a value, its length before it, without what detectors find in it.
func (p *Plan) looked(b []byte, c *column, sized []byte) []byte {
	switch out, is := p.look(c.shape, c.binary, sized[4:]); is {
	case same:
		return append(b, sized...)
	case changed:
		return append(binary.BigEndian.AppendUint32(b, uint32(len(out))), out...)
	default:
		return append(b, 0xFF, 0xFF, 0xFF, 0xFF)
	}
}

func (p *Plan) count(c *column) {
	for _, name := range c.of {
		p.counts[name]++
	}
}
