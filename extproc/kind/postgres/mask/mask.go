// Package mask takes the values of columns that policy redacts out of what a PostgreSQL server answers. It is pure: what policy said, what
// package statement found, and messages in; messages out.
//
// A column of an answer is masked if any column that it is made of is. A value of a text type becomes "[redacted]", every other NULL, in
// text and in binary, and so does NULL: that there was none is a value too. How many rows there are, and their order, stays.
//
// What cannot be masked in the answer is refused before the statement runs: a masked column in a condition, a join, an order, an
// expression, an aggregate, in what is stored ([statement.Use]); relations of the server's own that show values of others
// ([statement.Analysis.Exposes]); EXPLAIN, whose estimates tell of values. "use": true lets a column be used; what is made of it in the
// answer is masked all the same.
package mask

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// Mask is the text in the place of a text.
const Mask = "[redacted]"

// Plan is what of a statement's answer is masked. It is for one statement.
type Plan struct {
	columns []column
	Counts  map[string]int64 // values that were masked, by "schema.table.column"

	described bool
	copies    bool // the answer is COPY data
}

// TypeOf is the OID of a column's type; 0 where it is not known.
type TypeOf func(statement.ColumnRef) uint32

// column is one of an answer.
type column struct {
	masked bool
	null   bool     // NULL is in its place, whatever its type is
	of     []string // the columns for which it is masked
	text   bool     // its type is a text type, by the answer's description or, of COPY, by the catalog
}

// refuse refuses a statement that cannot be carried out as policy wants it.
func refuse(format string, args ...any) error {
	return &gate.Unfit{Problem: gate.Denied, Detail: fmt.Sprintf(format, args...)}
}

// New returns the plan for a statement, and nil where nothing is to be masked. Its error is a [*gate.Unfit].
func New(redactions []gate.Redaction, a *statement.Analysis, typeOf TypeOf) (*Plan, error) {
	if len(redactions) == 0 {
		return nil, nil
	}
	for _, r := range redactions {
		if r.Column == "" {
			return nil, refuse("Policy redacts by %s %q, which is not how rows are redacted, so the statement was refused.", r.Selector(), r.Name())
		}
	}
	if len(a.Exposes) > 0 {
		return nil, refuse("The statement reads %s, which can show values that policy masks, so it was refused.", a.Exposes[0])
	}
	for _, u := range a.Uses {
		if r, ok := masks(redactions, u.ColumnRef); ok && !r.Use {
			return nil, refuse("The column %s is masked, and the statement uses it otherwise than as a plain column of its answer (%s), so it was refused. Select it as it is, or leave it out.", u.ColumnRef, u.How)
		}
	}
	if a.Explain {
		for _, t := range a.Reads {
			if r, ok := anyOf(redactions, t); ok && !r.Use {
				return nil, refuse("The statement explains a query of %s.%s, of which %s is masked, and estimates tell of values, so it was refused.", t.Schema, t.Table, r.Column)
			}
		}
	}
	p := &Plan{columns: make([]column, len(a.Output)), Counts: map[string]int64{}}
	some := false
	for i, out := range a.Output {
		for _, from := range out.Lineage {
			if r, ok := masks(redactions, from); ok {
				c := &p.columns[i]
				c.masked, c.null, some = true, c.null || r.With == gate.Null, true
				c.of = append(c.of, from.String())
			}
		}
		if c := &p.columns[i]; a.Copy != nil && c.masked {
			c.text = out.Plain && !slices.ContainsFunc(out.Lineage, func(from statement.ColumnRef) bool { return !texts[typeOf(from)] })
		}
	}
	switch {
	case !some:
		return nil, nil
	case a.Copy != nil && (a.Copy.File || a.Copy.Program || a.Copy.Format != "text" || a.Copy.Null != "" || len(a.Copy.Options) > 0):
		return nil, refuse("A masked column is copied out, and is masked in the text format without options only, so the statement was refused. Use COPY … TO STDOUT, or SELECT.")
	case a.Copy != nil:
		p.copies = true
	}
	return p, nil
}

// Guards reports whether an error of a statement can have masked values in it. That of a read of other relations cannot; one that
// commits, or fetches, can have those of statements before it.
func Guards(redactions []gate.Redaction, a *statement.Analysis) bool {
	switch {
	case len(redactions) == 0:
		return false
	case a.Access != statement.Read || a.Kind != "select" || a.Opaque || slices.ContainsFunc(redactions, func(r gate.Redaction) bool { return r.Column == "" }):
		return true
	}
	return slices.ContainsFunc(a.Reads, func(t statement.Table) bool { _, ok := anyOf(redactions, t); return ok })
}

// All is a plan that masks every column of an answer.
func All(columns int) *Plan {
	p := &Plan{columns: make([]column, columns), Counts: map[string]int64{}}
	for i := range p.columns {
		p.columns[i].masked, p.columns[i].null = true, true
	}
	return p
}

// masks returns the redaction of a column, the one that allows least where there are several.
func masks(redactions []gate.Redaction, c statement.ColumnRef) (found gate.Redaction, ok bool) {
	for _, r := range redactions {
		if !matches(r.Column, c.Schema, c.Table, c.Column) {
			continue
		}
		if !ok {
			found, ok = r, true
			continue
		}
		found.Use = found.Use && r.Use
		if r.With == gate.Null {
			found.With = gate.Null
		}
	}
	return found, ok
}

// anyOf returns a redaction of a column of a relation, one that allows no use if there is one.
func anyOf(redactions []gate.Redaction, t statement.Table) (found gate.Redaction, ok bool) {
	for _, r := range redactions {
		schema, rest, _ := strings.Cut(r.Column, ".")
		table, _, _ := strings.Cut(rest, ".")
		if schema == t.Schema && (table == "*" || table == t.Table) && (!ok || found.Use) {
			found, ok = r, true
		}
	}
	return found, ok
}

func matches(pattern, schema, table, column string) bool {
	parts := strings.SplitN(pattern, ".", 3)
	return len(parts) == 3 && parts[0] == schema && (parts[1] == "*" || parts[1] == table) && (parts[2] == "*" || parts[2] == column)
}

var errShape = errors.New("the answer has other columns than the statement was found to have")

// The text types of PostgreSQL's own, by OID: "char" apart, which is one byte.
var texts = map[uint32]bool{25: true, 1043: true, 1042: true, 19: true, 705: true}

// Describe takes the body of a RowDescription, before the rows.
func (p *Plan) Describe(body []byte) error {
	if len(body) < 2 || int(binary.BigEndian.Uint16(body)) != len(p.columns) {
		return errShape
	}
	body = body[2:]
	for i := range p.columns {
		end := strings.IndexByte(string(body), 0)
		if end < 0 || len(body) < end+1+18 {
			return errShape
		}
		p.columns[i].text = texts[binary.BigEndian.Uint32(body[end+1+6:])]
		body = body[end+1+18:]
	}
	if len(body) != 0 {
		return errShape
	}
	p.described = true
	return nil
}

// Row appends the body of a DataRow to b, masked.
func (p *Plan) Row(b, body []byte) ([]byte, error) {
	if !p.described || len(body) < 2 || int(binary.BigEndian.Uint16(body)) != len(p.columns) {
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
		case !c.masked:
			b = append(b, body[:end]...)
		case c.text && !c.null:
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(Mask))), Mask...)
			p.count(c)
		default:
			b = append(b, 0xFF, 0xFF, 0xFF, 0xFF)
			p.count(c)
		}
		body = body[end:]
	}
	if len(body) != 0 {
		return b, errShape
	}
	return b, nil
}

// DescribeCopy takes the body of a CopyOutResponse, before the data.
func (p *Plan) DescribeCopy(body []byte) error {
	if !p.copies || len(body) != 3+2*len(p.columns) || body[0] != 0 || int(binary.BigEndian.Uint16(body[1:])) != len(p.columns) {
		return errShape
	}
	p.described = true
	return nil
}

// CopyData appends the body of a CopyData message to b, masked: a line of COPY's text format, in which a tab stands between values only.
func (p *Plan) CopyData(b, body []byte) ([]byte, error) {
	line, ended := bytes.CutSuffix(body, []byte("\n"))
	if !p.described || !p.copies || !ended || bytes.IndexByte(line, '\n') >= 0 || bytes.Count(line, []byte("\t")) != max(0, len(p.columns)-1) {
		return b, errShape
	}
	for i, value := range bytes.Split(line, []byte("\t")) {
		if i > 0 {
			b = append(b, '\t')
		}
		switch c := &p.columns[i]; {
		case !c.masked:
			b = append(b, value...)
		case c.text && !c.null:
			b = append(b, Mask...)
			p.count(c)
		default:
			b = append(b, `\N`...)
			p.count(c)
		}
	}
	return append(b, '\n'), nil
}

func (p *Plan) count(c *column) {
	for _, name := range c.of {
		p.Counts[name]++
	}
}
