package mask

import (
	"bytes"
	"encoding/binary"
)

// What has values in it: arrays, rows, ranges. What is not as the server writes it is not read, and goes.

func (p *Plan) misread() ([]byte, verdict) {
	p.unread++
	return nil, gone
}

// arrayText looks at each element of an array in text: [1:2]={a,"b c",NULL}.
func (p *Plan) arrayText(s *shape, value []byte) ([]byte, verdict) {
	out := p.built[:0]
	p.built = nil // an element may be an array too
	defer func() { p.built = out }()
	is := same
	i := max(0, bytes.IndexByte(value, '{'))
	out = append(out, value[:i]...)
	for i < len(value) {
		switch c := value[i]; c {
		case '{', '}', ',':
			out = append(out, c)
			i++
			continue
		}
		element, end := p.element(value, i)
		if end < 0 {
			return p.misread()
		}
		raw := value[i:end]
		i = end
		if string(raw) == "NULL" {
			out = append(out, raw...)
			continue
		}
		switch instead, became := p.look(s.of, false, element); became {
		case same:
			out = append(out, raw...)
		case changed:
			out, is = appendElement(out, instead), changed
		default:
			out, is = append(out, "NULL"...), changed
		}
	}
	if is == same {
		return nil, same
	}
	return out, changed
}

// element is the element that begins at i, and where it ends; -1 where it does not.
func (p *Plan) element(value []byte, i int) (element []byte, end int) {
	if value[i] != '"' {
		n := bytes.IndexAny(value[i:], ",}")
		if n < 0 {
			return nil, -1
		}
		return value[i : i+n], i + n
	}
	p.unquoted = p.unquoted[:0]
	for i++; i < len(value); i++ {
		switch c := value[i]; {
		case c == '"':
			return p.unquoted, i + 1
		case c == '\\' && i+1 < len(value):
			i++
			p.unquoted = append(p.unquoted, value[i])
		default:
			p.unquoted = append(p.unquoted, c)
		}
	}
	return nil, -1
}

// appendElement appends an element of an array, in quotes where the server has them.
func appendElement(b, element []byte) []byte {
	if len(element) > 0 && !bytes.ContainsAny(element, "\"\\{}, \t\n\r\v\f") && !bytes.EqualFold(element, []byte("NULL")) {
		return append(b, element...)
	}
	b = append(b, '"')
	for _, c := range element {
		if c == '"' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return append(b, '"')
}

// arrayBytes looks at each element of an array in binary: dimensions, whether there are NULLs, the type, sizes, elements.
func (p *Plan) arrayBytes(s *shape, value []byte) ([]byte, verdict) {
	const header, perDimension = 12, 8
	if len(value) < header || binary.BigEndian.Uint32(value) > 6 {
		return p.misread()
	}
	at := header + perDimension*int(binary.BigEndian.Uint32(value))
	if len(value) < at {
		return p.misread()
	}
	out := append(p.built[:0], value[:at]...)
	p.built = nil
	defer func() { p.built = out }()
	is := same
	for rest := value[at:]; len(rest) > 0; {
		element, left, ok := sized(rest)
		if !ok {
			return p.misread()
		}
		raw := rest[:len(rest)-len(left)]
		rest = left
		if element == nil {
			out = append(out, raw...)
			continue
		}
		switch instead, became := p.look(s.of, true, element); became {
		case same:
			out = append(out, raw...)
		case changed:
			out, is = append(binary.BigEndian.AppendUint32(out, uint32(len(instead))), instead...), changed
		default:
			out, is = append(out, 0xFF, 0xFF, 0xFF, 0xFF), changed
			out[7] |= 1 // there are NULLs
		}
	}
	if is == same {
		return nil, same
	}
	return out, changed
}

// sized takes a value with its size before it off the front of b; nil for NULL.
func sized(b []byte) (value, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	size := int(int32(binary.BigEndian.Uint32(b)))
	if size == -1 {
		return nil, b[4:], true
	}
	if size < 0 || len(b)-4 < size {
		return nil, nil, false
	}
	return b[4 : 4+size : 4+size], b[4+size:], true
}

// recordText looks at each field of a row in text: (1,"a b",,"say ""x""").
func (p *Plan) recordText(value []byte) ([]byte, verdict) {
	if len(value) < 2 || value[0] != '(' || value[len(value)-1] != ')' {
		return p.misread()
	}
	field, quoted := p.field[:0], false
	defer func() { p.field = field }()
	inside := value[1 : len(value)-1]
	for i := 0; i <= len(inside); i++ {
		switch {
		case i == len(inside) && quoted:
			return p.misread()
		case i == len(inside) || inside[i] == ',' && !quoted:
			if p.finds(field) {
				return nil, gone
			}
			field = field[:0]
		case inside[i] == '"' && quoted && i+1 < len(inside) && inside[i+1] == '"', inside[i] == '\\' && i+1 < len(inside):
			i++
			field = append(field, inside[i])
		case inside[i] == '"':
			quoted = !quoted
		default:
			field = append(field, inside[i])
		}
	}
	return nil, same
}

// recordBytes looks at each field of a row in binary: how many, and of each its type, size and value.
func (p *Plan) recordBytes(s *shape, value []byte) ([]byte, verdict) {
	if len(value) < 4 {
		return p.misread()
	}
	n, rest := int32(binary.BigEndian.Uint32(value)), value[4:]
	for ; n > 0; n-- {
		if len(rest) < 4 {
			return p.misread()
		}
		oid := binary.BigEndian.Uint32(rest)
		field, left, ok := sized(rest[4:])
		if !ok {
			return p.misread()
		}
		rest = left
		if field == nil {
			continue
		}
		if p.within == deepest {
			return p.misread()
		}
		p.within++
		_, is := p.look(shapeOf(s.cat, oid, 0), true, field)
		p.within--
		if is != same {
			return nil, gone
		}
	}
	if n != 0 || len(rest) != 0 {
		return p.misread()
	}
	return nil, same
}

// rangeBytes looks at the bounds of a range in binary, behind flags that say which there are.
func (p *Plan) rangeBytes(s *shape, value []byte) ([]byte, verdict) {
	const empty, noLower, noUpper = 0x01, 0x08, 0x10
	if len(value) == 0 {
		return p.misread()
	}
	flags, rest := value[0], value[1:]
	for _, none := range []byte{noLower, noUpper} {
		if flags&(empty|none) != 0 {
			continue
		}
		bound, left, ok := sized(rest)
		if !ok {
			return p.misread()
		}
		rest = left
		if _, is := p.look(s.of, true, bound); is != same {
			return nil, gone
		}
	}
	if len(rest) != 0 {
		return p.misread()
	}
	return nil, same
}
