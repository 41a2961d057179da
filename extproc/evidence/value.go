package evidence

import "bytes"

// Value is one value of a record's body as it stands in the line: canonical JSON, which was checked when it was written or read. It is
// for who goes through many records and makes no objects of them. A member that is missing is nil.
type Value []byte

// Member is a member of an object as it stands in the line. Name is without its quotes. Escapes are left as they are: two names are
// the same if their bytes are.
type Member struct{ Name, Value Value }

// Members are those of one object.
type Members []Member

// Get returns the value of the member called name; nil if there is none.
func (m Members) Get(name string) Value {
	for i := range m {
		if string(m[i].Name) == name {
			return m[i].Value
		}
	}
	return nil
}

// Members appends the members of an object to list. Any other value has none.
func (v Value) Members(list Members) Members {
	v.Each(func(name, value []byte) { list = append(list, Member{name, value}) })
	return list
}

// Each calls visit for each member of an object. Any other value has none.
func (v Value) Each(visit func(name, value []byte)) {
	if v.IsObject() {
		_ = (&scanner{b: v, trusted: true}).whole(visit)
	}
}

// Get returns the value of the member of an object that is called member; nil if there is none.
func (v Value) Get(member string) (value Value) {
	v.Each(func(name, of []byte) {
		if string(name) == member {
			value = of
		}
	})
	return value
}

// Elements calls visit for each element of a list. Any other value has none.
func (v Value) Elements(visit func(element []byte)) {
	if len(v) > 0 && v[0] == '[' {
		s := scanner{b: v, trusted: true}
		_ = s.array(1, visit)
	}
}

// IsObject reports whether v is an object.
func (v Value) IsObject() bool { return len(v) > 0 && v[0] == '{' }

// IsText reports whether v is text.
func (v Value) IsText() bool { return len(v) > 1 && v[0] == '"' }

// Is reports whether v is this text, which has nothing that JSON escapes.
func (v Value) Is(text string) bool {
	return v.IsText() && string(v[1:len(v)-1]) == text
}

// Text is the text that v is, or "".
func (v Value) Text() string {
	text, _ := textValue(v)
	return text
}

// AppendText appends the text that v is, or nothing.
func (v Value) AppendText(dst []byte) []byte {
	if !v.IsText() {
		return dst
	}
	return AppendName(dst, v[1:len(v)-1])
}

// AppendName appends a member's name without its escapes.
func AppendName(dst, name []byte) []byte {
	if bytes.IndexByte(name, '\\') < 0 {
		return append(dst, name...)
	}
	return append(dst, unquote(name)...)
}
