package otlp

import (
	"bytes"
	"encoding/binary"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
)

// encoder appends protobuf, a field at a time, without making messages first.
type encoder struct {
	b       []byte
	field   protowire.Number // of an attribute in the message that is being written
	key     []byte           // of the attribute that is being written
	scratch []byte
}

// The fields of OTLP's common messages.
const (
	keyField, valueField                                                   = 1, 2 // KeyValue
	stringField, boolField, intField, doubleField, arrayField, kvlistField = 1, 2, 3, 4, 5, 6
	valuesField                                                            = 1 // ArrayValue, KeyValueList
)

func (e *encoder) tag(field protowire.Number, kind protowire.Type) {
	if field < 16 {
		e.b = append(e.b, byte(field<<3)|byte(kind))
		return
	}
	e.b = protowire.AppendTag(e.b, field, kind)
}

// begin begins a message or a text, of which end writes the length. Most have fewer than 128 bytes; what a longer one has is moved.
func (e *encoder) begin(field protowire.Number) (from int) {
	e.tag(field, protowire.BytesType)
	e.b = append(e.b, 0)
	return len(e.b)
}

func (e *encoder) end(from int) {
	n := len(e.b) - from
	if n < 0x80 {
		e.b[from-1] = byte(n)
		return
	}
	more := protowire.SizeVarint(uint64(n)) - 1
	for range more {
		e.b = append(e.b, 0)
	}
	copy(e.b[from+more:], e.b[from:from+n])
	binary.PutUvarint(e.b[from-1:], uint64(n))
}

func (e *encoder) text(field protowire.Number, s string) {
	e.tag(field, protowire.BytesType)
	e.b = protowire.AppendString(e.b, s)
}

func (e *encoder) bytes(field protowire.Number, b []byte) {
	e.tag(field, protowire.BytesType)
	e.b = protowire.AppendBytes(e.b, b)
}

func (e *encoder) number(field protowire.Number, n uint64) {
	e.tag(field, protowire.VarintType)
	e.b = protowire.AppendVarint(e.b, n)
}

func (e *encoder) fixed64(field protowire.Number, n uint64) {
	e.tag(field, protowire.Fixed64Type)
	e.b = protowire.AppendFixed64(e.b, n)
}

func (e *encoder) fixed32(field protowire.Number, n uint32) {
	e.tag(field, protowire.Fixed32Type)
	e.b = protowire.AppendFixed32(e.b, n)
}

// beginAttribute begins an attribute, whose value is what is appended before endAttribute: the fields of an AnyValue.
func (e *encoder) beginAttribute(key string) (attribute, value int) {
	attribute = e.begin(e.field)
	e.text(keyField, key)
	return attribute, e.begin(valueField)
}

func (e *encoder) endAttribute(attribute, value int) {
	e.end(value)
	e.end(attribute)
}

func (e *encoder) attributeText(key, value string) {
	if value != "" {
		e.b = appendText(e.b, e.field, key, value)
	}
}

// appendText appends an attribute that is a text. Most are, and their lengths are known beforehand.
func appendText[K, V ~string | ~[]byte](b []byte, field protowire.Number, key K, value V) []byte {
	if size := len(key) + len(value); size < 0x80-8 { // every length takes one byte
		b = append(b, byte(field<<3)|byte(protowire.BytesType), byte(size+6), keyField<<3|byte(protowire.BytesType), byte(len(key)))
		b = append(b, key...)
		b = append(b, valueField<<3|byte(protowire.BytesType), byte(len(value)+2), stringField<<3|byte(protowire.BytesType), byte(len(value)))
		return append(b, value...)
	}
	held := 1 + protowire.SizeBytes(len(value))
	b = append(b, byte(field<<3)|byte(protowire.BytesType))
	b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(len(key))+1+protowire.SizeBytes(held)))
	b = append(b, keyField<<3|byte(protowire.BytesType))
	b = append(protowire.AppendVarint(b, uint64(len(key))), key...)
	b = append(b, valueField<<3|byte(protowire.BytesType))
	b = protowire.AppendVarint(b, uint64(held))
	b = append(b, stringField<<3|byte(protowire.BytesType))
	return append(protowire.AppendVarint(b, uint64(len(value))), value...)
}

func (e *encoder) attributeNumber(key string, n uint64) {
	a, v := e.beginAttribute(key)
	e.number(intField, n)
	e.endAttribute(a, v)
}

// attribute adds a value of a record, unless it is empty.
func (e *encoder) attribute(key string, value evidence.Value) {
	if !isEmpty(value) {
		a, v := e.beginAttribute(key)
		e.any(value)
		e.endAttribute(a, v)
	}
}

// isEmpty reports whether a value says nothing: null, no text, an empty list.
func isEmpty(v evidence.Value) bool {
	switch len(v) {
	case 0:
		return true
	case 2:
		return v[0] == '"' || v[0] == '['
	default:
		return v[0] == 'n'
	}
}

// any appends the fields of an AnyValue; none for what is empty.
func (e *encoder) any(v evidence.Value) {
	if isEmpty(v) {
		return
	}
	switch v[0] {
	case '"':
		at := e.begin(stringField)
		e.b = v.AppendText(e.b)
		e.end(at)
	case 't', 'f':
		e.number(boolField, protowire.EncodeBool(v[0] == 't'))
	case '[':
		list := e.begin(arrayField)
		v.Elements(func(element []byte) {
			at := e.begin(valuesField)
			e.any(element)
			e.end(at)
		})
		e.end(list)
	case '{':
		list := e.begin(kvlistField)
		v.Each(func(name, value []byte) {
			at := e.begin(valuesField)
			e.name(keyField, name)
			e.value(value)
			e.end(at)
		})
		e.end(list)
	default:
		e.decimal(v)
	}
}

// value appends the value of a KeyValue.
func (e *encoder) value(v evidence.Value) {
	if !isEmpty(v) {
		at := e.begin(valueField)
		e.any(v)
		e.end(at)
	}
}

// name appends the name of a member as a text.
func (e *encoder) name(field protowire.Number, name []byte) {
	at := e.begin(field)
	e.b = evidence.AppendName(e.b, name)
	e.end(at)
}

// decimal keeps a number's exact value: as text, if neither of OTLP's numbers can hold it.
func (e *encoder) decimal(v evidence.Value) {
	hasExponent := bytes.IndexByte(v, 'e') >= 0
	if !hasExponent && bytes.IndexByte(v, '.') < 0 {
		if i, err := strconv.ParseInt(string(v), 10, 64); err == nil {
			e.number(intField, uint64(i))
			return
		}
	}
	if !hasExponent && len(v) <= 15 { // a double tells all decimals of 15 digits apart
		if f, err := strconv.ParseFloat(string(v), 64); err == nil {
			e.fixed64(doubleField, math.Float64bits(f))
			return
		}
	}
	var exact bool
	var err error
	if e.scratch, exact, err = gate.AppendNumber(e.scratch[:0], string(v)); err == nil && exact {
		f, _ := strconv.ParseFloat(string(v), 64)
		e.fixed64(doubleField, math.Float64bits(f))
		return
	}
	e.bytes(stringField, v)
}

// names appends an object as a list of names and values: names that others chose are in values.
func (e *encoder) names(v evidence.Value) {
	list := e.begin(arrayField)
	v.Each(func(name, value []byte) {
		at := e.begin(valuesField)
		kvlist := e.begin(kvlistField)
		of := e.begin(valuesField)
		e.text(keyField, "name")
		if len(name) > 0 {
			value := e.begin(valueField)
			e.name(stringField, name)
			e.end(value)
		}
		e.end(of)
		of = e.begin(valuesField)
		e.text(keyField, "value")
		e.value(value)
		e.end(of)
		e.end(kvlist)
		e.end(at)
	})
	e.end(list)
}
