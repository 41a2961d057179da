package wire

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// shape is what the bytes of a message of one type must be, by its descriptor.
type shape struct {
	fields []field // by number; of the zero kind where the type has none of that number
}

type field struct {
	kind kind
	once uint64 // the bit of a field that a message has once, the same for all of a oneof; 0 where it is repeated
	of   *shape // of a message
}

type kind uint8

const (
	unknown kind = iota
	varint
	fixed32
	fixed64
	text
	raw
	message
	strange // is not looked at here: a group, a list of numbers
)

var kinds = map[protoreflect.Kind]kind{
	protoreflect.BoolKind: varint, protoreflect.EnumKind: varint, protoreflect.Int32Kind: varint, protoreflect.Uint32Kind: varint,
	protoreflect.Int64Kind: varint, protoreflect.Uint64Kind: varint, protoreflect.Sint32Kind: varint, protoreflect.Sint64Kind: varint,
	protoreflect.Fixed32Kind: fixed32, protoreflect.Sfixed32Kind: fixed32, protoreflect.FloatKind: fixed32,
	protoreflect.Fixed64Kind: fixed64, protoreflect.Sfixed64Kind: fixed64, protoreflect.DoubleKind: fixed64,
	protoreflect.StringKind: text, protoreflect.BytesKind: raw, protoreflect.MessageKind: message,
}

// shapes are those of messages that hold each other.
type shapes map[protoreflect.FullName]*shape

func (all shapes) of(d protoreflect.MessageDescriptor) *shape {
	if s, ok := all[d.FullName()]; ok {
		return s
	}
	s := &shape{}
	all[d.FullName()] = s
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		f := field{kind: kinds[fd.Kind()]}
		switch {
		case f.kind == unknown || d.Syntax() != protoreflect.Proto3 || fd.IsList() && f.kind < text || fd.Number() > 63:
			f.kind = strange
		case f.kind == message:
			f.of = all.of(fd.Message())
		}
		if one := fd.ContainingOneof(); one != nil {
			f.once = 1 << one.Fields().Get(0).Number()
		} else if fd.Cardinality() != protoreflect.Repeated {
			f.once = 1 << fd.Number()
		}
		for len(s.fields) <= int(fd.Number()) {
			s.fields = append(s.fields, field{})
		}
		s.fields[fd.Number()] = f
	}
	return s
}

// taken is one field of a message.
type taken struct {
	num    int
	field  *field
	number uint64 // of a varint
	value  []byte // of text, bytes or a message
}

// none is a field that a type does not have.
var none field

// take takes the next field off b, of whose message seen has the fields before. It is false where it is not as the type has it.
func (s *shape) take(b []byte, seen uint64) (t taken, rest []byte, ok bool) {
	tag, n := uint64(b[0]), 1
	if tag >= 0x80 {
		if tag, n = protowire.ConsumeVarint(b); n < 0 {
			return t, nil, false
		}
	}
	b = b[n:]
	if tag>>3 < uint64(protowire.MinValidNumber) || tag>>3 > uint64(protowire.MaxValidNumber) {
		return t, nil, false
	}
	t.num, t.field = int(tag>>3), &none
	if t.num < len(s.fields) {
		t.field = &s.fields[t.num]
	}
	var is kind
	switch protowire.Type(tag & 7) {
	case protowire.VarintType:
		t.number, n = protowire.ConsumeVarint(b)
		is = varint
	case protowire.Fixed64Type:
		_, n = protowire.ConsumeFixed64(b)
		is = fixed64
	case protowire.Fixed32Type:
		_, n = protowire.ConsumeFixed32(b)
		is = fixed32
	case protowire.BytesType:
		t.value, n = protowire.ConsumeBytes(b)
		is = max(t.field.kind, text)
	default:
		return t, nil, false
	}
	switch kind := t.field.kind; {
	case n < 0, kind == strange, kind != unknown && kind != is, seen&t.field.once != 0, kind == text && !utf8.Valid(t.value):
		return t, nil, false
	}
	return t, b[n:], true
}

// deepest is how far messages within messages are followed.
const deepest = 100

// valid reports whether b is a message of the type, and all that is in it.
func (s *shape) valid(b []byte, deep int) bool {
	var seen uint64
	for len(b) > 0 {
		t, rest, ok := s.take(b, seen)
		if !ok || t.field.of != nil && (deep == deepest || !t.field.of.valid(t.value, deep+1)) {
			return false
		}
		b, seen = rest, seen|t.field.once
	}
	return true
}

// reader walks the fields of one message that its type knows. What it passes is valid by the type, also where nobody looks at it. It
// stops for good at whatever Envoy does not send.
type reader struct {
	b    []byte
	of   *shape
	odd  *bool // something was met that Envoy does not send; the same for all messages within one
	seen uint64
	deep int

	taken
	within *shape // of a message in value that was not asked for yet
}

// next goes to the next field.
func (r *reader) next() bool {
	for {
		if r.within != nil && (r.deep == deepest || !r.within.valid(r.value, r.deep+1)) {
			*r.odd = true
		}
		if *r.odd || len(r.b) == 0 {
			return false
		}
		var ok bool
		if r.taken, r.b, ok = r.of.take(r.b, r.seen); !ok {
			return r.stop()
		}
		r.seen |= r.field.once
		if r.within = r.field.of; r.field.kind != unknown {
			return true
		}
	}
}

func (r *reader) stop() bool {
	*r.odd = true
	return false
}

// message reads the message that the field holds.
func (r *reader) message() reader {
	m := reader{b: r.value, of: r.within, odd: r.odd, deep: r.deep + 1}
	if r.within = nil; m.of == nil || m.deep > deepest {
		m.stop()
	}
	return m
}

func (r *reader) flag() bool { return protowire.DecodeBool(r.number) }

// text is the field's text, a copy.
func (r *reader) text() string {
	if s := common(r.value); s != "" {
		return s
	}
	return string(r.value)
}
