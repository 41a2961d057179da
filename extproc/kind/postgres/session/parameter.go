package session

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind/postgres/number"
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

// text is the value in PostgreSQL's own text form; a time with a zone in UTC.
func (p *parameter) text(m *pgtype.Map) (string, bool) {
	if !p.binary {
		return canonical(p.kind, string(p.raw)), utf8.Valid(p.raw)
	}
	switch p.kind {
	case pgtype.TextOID, pgtype.VarcharOID, pgtype.BPCharOID, pgtype.NameOID, pgtype.UnknownOID, pgtype.JSONOID, pgtype.XMLOID:
		return string(p.raw), utf8.Valid(p.raw)
	case pgtype.JSONBOID:
		if len(p.raw) < 2 || p.raw[0] != 1 {
			return "", false
		}
		return string(p.raw[1:]), utf8.Valid(p.raw[1:])
	case pgtype.BoolOID:
		if len(p.raw) == 1 && p.raw[0] < 2 {
			return string("ft"[p.raw[0]]), true
		}
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID:
		return number.Text(p.kind, p.raw)
	case pgtype.ByteaOID:
		return `\x` + hex.EncodeToString(p.raw), true
	case pgtype.DateOID, pgtype.TimestampOID, pgtype.TimestamptzOID, pgtype.TimeOID:
		return moment(m, p.kind, p.raw)
	case pgtype.UUIDOID, pgtype.InetOID, pgtype.CIDROID, pgtype.MacaddrOID,
		pgtype.Int2ArrayOID, pgtype.Int4ArrayOID, pgtype.Int8ArrayOID, pgtype.TextArrayOID, pgtype.VarcharArrayOID, pgtype.UUIDArrayOID, pgtype.BoolArrayOID:
		if len(p.raw) == 12 && binary.BigEndian.Uint64(p.raw) == 0 { // an array without dimensions
			return "{}", true
		}
		return decoded(m, p.kind, p.raw)
	}
	return "", false
}

// canonical is the form in which PostgreSQL itself writes a value that was sent as text. Integers, truth values and UUIDs can be written in many
// ways, and a rule names one; what cannot be read the server refuses. Values of other types are as they were sent.
func canonical(kind uint32, text string) string {
	trimmed := strings.Trim(text, " \t\n\v\f\r")
	switch kind {
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID:
		base := 10
		if digits := strings.ToLower(strings.TrimLeft(trimmed, "+-")); strings.HasPrefix(digits, "0x") || strings.HasPrefix(digits, "0o") || strings.HasPrefix(digits, "0b") || strings.Contains(digits, "_") {
			base = 0
			if trimmed != "" && strings.Trim(digits, "0123456789_") == "" { // a zero before decimals does not make them octal
				trimmed, base = strings.ReplaceAll(trimmed, "_", ""), 10
			}
		}
		if n, err := strconv.ParseInt(trimmed, base, 64); err == nil {
			if kind == pgtype.OIDOID && n < 0 {
				n += 1 << 32
			}
			return strconv.FormatInt(n, 10)
		}
	case pgtype.BoolOID:
		word := strings.ToLower(trimmed)
		for _, w := range []struct{ long, short, as string }{{"true", "t", "t"}, {"false", "f", "f"}, {"yes", "y", "t"}, {"no", "n", "f"}, {"on", "on", "t"}, {"off", "of", "f"}, {"1", "1", "t"}, {"0", "0", "f"}} {
			if strings.HasPrefix(w.long, word) && strings.HasPrefix(word, w.short) {
				return w.as
			}
		}
	case pgtype.UUIDOID:
		digits := strings.ToLower(strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(text, "{"), "}"), "-", ""))
		if len(digits) == 32 {
			return digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:]
		}
	}
	return text
}

// moment reads a date or a time.
func moment(m *pgtype.Map, kind uint32, raw []byte) (string, bool) {
	size := 8
	first, last := uint64(math.MaxInt64), uint64(1<<63)
	if kind == pgtype.DateOID {
		size, first, last = 4, math.MaxInt32, 1<<31
	}
	if len(raw) != size {
		return "", false
	}
	var n uint64
	for _, b := range raw {
		n = n<<8 | uint64(b)
	}
	switch {
	case kind != pgtype.TimeOID && n == first:
		return "infinity", true
	case kind != pgtype.TimeOID && n == last:
		return "-infinity", true
	}
	text, ok := decoded(m, kind, raw)
	if kind == pgtype.TimeOID {
		if strings.Contains(text, ".") {
			text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
		}
	}
	if kind == pgtype.TimestamptzOID {
		text = strings.Replace(text, "Z", "+00", 1)
	}
	return text, ok
}

// decoded reads the binary form of a value by another's code, which sees what an agent sent.
func decoded(m *pgtype.Map, oid uint32, raw []byte) (text string, ok bool) {
	defer func() {
		if recover() != nil {
			text, ok = "", false
		}
	}()
	t := typeOf(m, oid)
	if t == nil {
		return "", false
	}
	value, err := t.Codec.DecodeValue(m, oid, pgtype.BinaryFormatCode, raw)
	if err != nil || value == nil {
		return "", false
	}
	again, err := m.Encode(oid, pgtype.BinaryFormatCode, value, nil)
	if err != nil || string(again) != string(raw) {
		return "", false // there is more in it than was read
	}
	out, err := m.Encode(oid, pgtype.TextFormatCode, value, nil)
	if err != nil || out == nil || !utf8.Valid(out) {
		return "", false
	}
	return string(out), true
}
