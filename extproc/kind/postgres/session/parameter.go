package session

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"sync"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/countersign/countersign/extproc/gate"
)

// parameter is a value of a Bind.
type parameter struct {
	kind   uint32 // OID of its type; 0 where that is not known
	binary bool
	null   bool
	raw    []byte // copied: messages are read into memory that is used again
}

// typeMaps know the types that every server has. A type of somebody's own is not decoded. A map remembers how, and is for one at a time.
var typeMaps = sync.Pool{New: func() any { return pgtype.NewMap() }}

// typeOf is the type of that OID; nil where it is not known.
func typeOf(m *pgtype.Map, oid uint32) *pgtype.Type {
	t, _ := m.TypeForOID(oid)
	return t
}

// object is the value as policy sees it.
func (p *parameter) object() gate.Object {
	m := typeMaps.Get().(*pgtype.Map) //nolint:forcetypeassert // as New makes them
	defer typeMaps.Put(m)
	name := ""
	if t := typeOf(m, p.kind); t != nil {
		name = t.Name
	}
	if p.null {
		return gate.Object{{Name: "type", Value: name}, {Name: "value", Value: nil}}
	}
	text, ok := p.text(m)
	if !ok {
		return gate.Object{{Name: "base64", Value: base64.StdEncoding.EncodeToString(p.raw)}, {Name: "type", Value: name}}
	}
	return gate.Object{{Name: "type", Value: name}, {Name: "value", Value: text}}
}

// text is the value in PostgreSQL's own text form.
func (p *parameter) text(m *pgtype.Map) (string, bool) {
	if !p.binary {
		return string(p.raw), utf8.Valid(p.raw)
	}
	switch p.kind {
	case pgtype.TextOID, pgtype.VarcharOID, pgtype.BPCharOID, pgtype.NameOID, pgtype.UnknownOID, pgtype.JSONOID, pgtype.XMLOID:
		return string(p.raw), utf8.Valid(p.raw)
	case pgtype.BoolOID:
		if len(p.raw) == 1 && p.raw[0] < 2 {
			return string("ft"[p.raw[0]]), true
		}
		return "", false
	case pgtype.OIDOID:
		if len(p.raw) == 4 {
			return fmt.Sprint(binary.BigEndian.Uint32(p.raw)), true
		}
		return "", false
	}
	t := typeOf(m, p.kind)
	if t == nil {
		return "", false
	}
	return decoded(m, t, p.raw)
}

// decoded reads the binary form of a value by another's code, which sees what an agent sent.
func decoded(m *pgtype.Map, t *pgtype.Type, raw []byte) (text string, ok bool) {
	defer func() {
		if recover() != nil {
			text, ok = "", false
		}
	}()
	value, err := t.Codec.DecodeValue(m, t.OID, pgtype.BinaryFormatCode, raw)
	if err != nil || value == nil {
		return "", false
	}
	again, err := m.Encode(t.OID, pgtype.BinaryFormatCode, value, nil)
	if err != nil || string(again) != string(raw) {
		return "", false // there is more in it than was read
	}
	out, err := m.Encode(t.OID, pgtype.TextFormatCode, value, nil)
	if err != nil || out == nil || !utf8.Valid(out) {
		return "", false
	}
	return string(out), true
}
