// Package number writes numbers that came in PostgreSQL's binary format as the server itself writes them in text.
package number

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// OIDs of the types.
const (
	Int8    = 20
	Int2    = 21
	Int4    = 23
	OID     = 26
	Float4  = 700
	Float8  = 701
	Numeric = 1700
)

// Text is the number; false where the type is none of these, or the bytes are not of it.
func Text(oid uint32, raw []byte) (string, bool) {
	switch {
	case oid == Int2 && len(raw) == 2:
		return strconv.Itoa(int(int16(binary.BigEndian.Uint16(raw)))), true
	case oid == Int4 && len(raw) == 4:
		return strconv.Itoa(int(int32(binary.BigEndian.Uint32(raw)))), true
	case oid == Int8 && len(raw) == 8:
		return strconv.FormatInt(int64(binary.BigEndian.Uint64(raw)), 10), true
	case oid == OID && len(raw) == 4:
		return strconv.FormatUint(uint64(binary.BigEndian.Uint32(raw)), 10), true
	case oid == Float4 && len(raw) == 4:
		return float(float64(math.Float32frombits(binary.BigEndian.Uint32(raw))), 32, 6), true
	case oid == Float8 && len(raw) == 8:
		return float(math.Float64frombits(binary.BigEndian.Uint64(raw)), 64, 15), true
	case oid == Numeric:
		return numeric(raw)
	}
	return "", false
}

// float writes a number as the server does (shortest form that reads back; an exponent from that many digits on).
func float(v float64, bits, digits int) string {
	switch {
	case math.IsNaN(v):
		return "NaN"
	case math.IsInf(v, 1):
		return "Infinity"
	case math.IsInf(v, -1):
		return "-Infinity"
	}
	short := strconv.FormatFloat(v, 'e', -1, bits)
	if exponent, err := strconv.Atoi(short[strings.IndexByte(short, 'e')+1:]); err != nil || exponent < -4 || exponent >= digits {
		return short
	}
	return strconv.FormatFloat(v, 'f', -1, bits)
}

// numeric reads a numeric: its digits are groups of four.
func numeric(raw []byte) (string, bool) {
	if len(raw) < 8 || len(raw) != 8+2*int(binary.BigEndian.Uint16(raw)) {
		return "", false
	}
	groups, weight := (len(raw)-8)/2, int(int16(binary.BigEndian.Uint16(raw[2:])))
	sign, scale := binary.BigEndian.Uint16(raw[4:]), int(binary.BigEndian.Uint16(raw[6:]))
	switch {
	case sign == 0xC000 && groups == 0:
		return "NaN", true
	case sign == 0xD000 && groups == 0:
		return "Infinity", true
	case sign == 0xF000 && groups == 0:
		return "-Infinity", true
	case sign != 0 && sign != 0x4000 || scale > 0x3FFF || weight > 1<<15/4 || weight < -1<<15/4:
		return "", false
	}
	group := func(i int) (string, bool) {
		if i < 0 || i >= groups {
			return "0000", true
		}
		n := binary.BigEndian.Uint16(raw[8+2*i:])
		return fmt.Sprintf("%04d", n), n < 10_000
	}
	var whole, rest strings.Builder
	for i := range groups + max(0, weight+1) { // every group, and zeros up to the point
		text, ok := group(i)
		if !ok {
			return "", false
		}
		if i <= weight {
			whole.WriteString(text)
		}
	}
	for i := weight + 1; rest.Len() < scale; i++ {
		text, _ := group(i)
		rest.WriteString(text)
	}
	if left := groups - weight - 1; left > 0 && scale < 4*left-3 {
		return "", false // digits behind the scale, which the server would round
	}
	out := strings.TrimLeft(whole.String(), "0")
	if out == "" {
		out = "0"
	}
	if scale > 0 {
		out += "." + rest.String()[:scale]
	}
	if sign == 0x4000 {
		out = "-" + out
	}
	return out, true
}
