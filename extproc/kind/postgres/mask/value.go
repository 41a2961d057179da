package mask

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/countersign/countersign/extproc/kind/postgres/number"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// form is how the bytes of a value are read.
type form uint8

const (
	other  form = iota // in text as a text; in binary it cannot be read
	text               // the same in both formats
	label              // of an enum: as text, and another text would be no label
	json               //
	jsonb              // in binary behind its version
	markup             //
	digits             // a number
	octets             // bytea
	list               // an array
	record             // a row
	extent             // a range
)

// shape is how detectors look at the values of a type.
type shape struct {
	form form
	oid  uint32
	of   *shape // an element; nil where detectors do not look at it
	cat  *statement.Catalog
}

// deepest bounds types within types.
const deepest = 8

// firstUser is the first OID that is not given at initdb.
const firstUser = 16384

// forms are those of PostgreSQL's own types. bare are those that have no room for what detectors find.
var forms = map[uint32]form{
	25: text, 1043: text, 1042: text, 19: text, 705: text, 18: text,
	114: json, 3802: jsonb, 142: markup, 17: octets, 2249: record,
	number.Int2: digits, number.Int4: digits, number.Int8: digits, number.OID: digits, number.Float4: digits, number.Float8: digits, number.Numeric: digits,
}

var bare = func() map[uint32]bool {
	set := map[uint32]bool{}
	for _, oid := range []uint32{
		16, 2278, // bool, void
		1082, 1083, 1114, 1184, 1186, 1266, // times
		2950, 650, 774, 829, 869, 1560, 1562, // uuid, addresses, bits
		600, 601, 602, 603, 604, 628, 718, // geometry
		27, 28, 29, 5069, 3220, 22, 30, // tid, xid, cid, xid8, pg_lsn, int2vector, oidvector
		24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191, // names of the catalog
		3904, 3906, 3908, 3910, 3912, 3926, // ranges of numbers and times
	} {
		set[oid] = true
	}
	return set
}()

// shapeOf is how values of a type are looked at; nil where they are not.
func shapeOf(cat *statement.Catalog, oid uint32, depth int) *shape {
	t := typeOf(cat, oid)
	if t != nil {
		oid = t.OID
	}
	f, known := forms[oid]
	s := &shape{form: f, oid: oid, cat: cat}
	switch {
	case known:
		return s
	case bare[oid]:
		return nil
	case t == nil || depth > deepest:
		return s
	case t.Element != 0:
		s.form = list
		if s.of = shapeOf(cat, t.Element, depth+1); s.of == nil {
			return nil
		}
	case t.Subtype != 0 && t.Kind == 'r':
		s.form = extent
		if s.of = shapeOf(cat, t.Subtype, depth+1); s.of == nil {
			return nil
		}
	case t.Kind == 'c':
		s.form = record
	case t.Kind == 'e':
		s.form = label
	case isText(cat, oid):
		s.form = text
	}
	return s
}

// typeOf is a type by its OID, of a domain that which it is of; nil where it is not known.
func typeOf(cat *statement.Catalog, oid uint32) *statement.Type {
	if cat == nil {
		return nil
	}
	t := cat.Types[oid]
	for i := 0; t != nil && t.Kind == 'd' && i < 32; i++ {
		t = cat.Types[t.Base]
	}
	return t
}

// isText reports whether a type is a text type: one of PostgreSQL's own, but for "char", which is one byte, or an extension's such as citext.
func isText(cat *statement.Catalog, oid uint32) bool {
	t := typeOf(cat, oid)
	if t != nil {
		oid = t.OID
	}
	return oid != 18 && forms[oid] == text || oid >= firstUser && t != nil && t.Category == 'S' && t.Kind == 'b'
}

// verdict is what became of a value.
type verdict uint8

const (
	gone    verdict = iota // NULL is in its place
	same                   // nothing was found
	changed                // something else is in its place
)

// look looks at a value. What it returns is good until the next call.
func (p *Plan) look(s *shape, binary bool, value []byte) ([]byte, verdict) {
	if s == nil {
		return nil, same
	}
	switch s.form {
	case text:
		return found(p.values.Text(value))
	case markup:
		return found(p.values.Markup(value))
	case jsonb:
		if binary {
			return p.versioned(value)
		}
		return p.json(value)
	case json:
		return p.json(value)
	case label:
		return whole(p.finds(value))
	case digits:
		return p.digits(s.oid, binary, value)
	case octets:
		return p.octets(binary, value)
	default:
	}
	switch {
	case s.form == list && binary:
		return p.arrayBytes(s, value)
	case s.form == list:
		return p.arrayText(s, value)
	case s.form == record && binary:
		return p.recordBytes(s, value)
	case s.form == record:
		return p.recordText(value)
	case s.form == extent && binary:
		return p.rangeBytes(s, value)
	case binary:
		p.unread++
		return nil, gone
	default:
		return whole(p.finds(value))
	}
}

// found is what became of a value in which something was looked for.
func found(out []byte, is bool) ([]byte, verdict) {
	switch {
	case !is:
		return nil, same
	case out == nil:
		return nil, gone
	default:
		return out, changed
	}
}

// whole is the verdict on a value that goes as a whole.
func whole(is bool) ([]byte, verdict) {
	if is {
		return nil, gone
	}
	return nil, same
}

func (p *Plan) finds(value []byte) bool {
	_, is := p.values.Text(value)
	return is
}

func (p *Plan) json(value []byte) ([]byte, verdict) {
	out, is, err := p.values.JSON(value)
	if err != nil {
		p.unread++
		return nil, gone
	}
	if is && string(out) == "null" {
		return nil, gone
	}
	return found(out, is)
}

// versioned is jsonb in binary: a version, which is 1, and text.
func (p *Plan) versioned(value []byte) ([]byte, verdict) {
	if len(value) == 0 || value[0] != 1 {
		p.unread++
		return nil, gone
	}
	out, is := p.json(value[1:])
	if is != changed {
		return nil, is
	}
	p.plain = append(append(p.plain[:0], 1), out...)
	return p.plain, changed
}

func (p *Plan) digits(oid uint32, binary bool, value []byte) ([]byte, verdict) {
	if !p.values.Numbers() || binary && small(oid, value) {
		return nil, same
	}
	if binary {
		written, ok := number.Text(oid, value)
		if !ok {
			p.unread++
			return nil, gone
		}
		value = append(p.plain[:0], written...)
		p.plain = value
	}
	return whole(p.values.Number(value))
}

// small reports whether a number in binary has too few digits for what detectors find.
func small(oid uint32, value []byte) bool {
	const least = 10_000_000 // of eight digits
	switch {
	case oid == number.Int2:
		return true
	case oid == number.Int4 && len(value) == 4:
		n := int32(binary.BigEndian.Uint32(value))
		return n > -least && n < least
	case oid == number.Int8 && len(value) == 8:
		n := int64(binary.BigEndian.Uint64(value))
		return n > -least && n < least
	}
	return false
}

// octets looks at the bytes of a bytea. In text they are hexadecimal; in the older form, escaped, they are read as they stand.
func (p *Plan) octets(binary bool, value []byte) ([]byte, verdict) {
	if !binary && len(value) >= 2 && value[0] == '\\' && value[1] == 'x' {
		var err error
		if p.plain, err = hex.AppendDecode(p.plain[:0], value[2:]); err != nil {
			p.unread++
			return nil, gone
		}
		value = p.plain
	}
	return whole(p.finds(value))
}
