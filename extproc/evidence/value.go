package evidence

import "bytes"

// Value is one value of a record's body as it stands in the line: canonical JSON, which was checked when it was written or read. It is
// for who goes through many records and makes no objects of them. A member that is missing is nil.
type Value []byte

// Member is a member of an object as it stands in the line. Name is without its quotes. Escapes are left as they are: two names are
// the same if their bytes are.
type Member struct{ Name, Value Value }

// Is reports whether m has the text of other.
func (m *Member) Is(other *Member) bool {
	return bytes.Equal(m.Name, other.Name) && bytes.Equal(m.Value, other.Value)
}

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
func (v Value) Members(list Members) Members { return v.MembersLike(nil, list) }

// MembersLike is Members for an object that says much of what another one says at the same places: what is the same in like, all
// members of that one, is not walked again.
func (v Value) MembersLike(like, list Members) Members {
	for n, at := 0, 0; ; n++ {
		var m Member
		end := 0
		if n < len(like) {
			m, end = v.same(&like[n], at)
		}
		if end == 0 {
			m, end = v.member(at)
		}
		if end == 0 {
			return list
		}
		list, at = append(list, m), end
	}
}

// same is member for one whose text is that of other, or returns 0. A text that is one member, and has the end of a value behind it, is
// that member wherever it stands.
func (v Value) same(other *Member, at int) (Member, int) {
	from := at + 1
	colon := from + len(other.Name) + 2
	end := colon + 1 + len(other.Value)
	if end >= len(v) || v[0] != '{' || v[end] != ',' && v[end] != '}' ||
		v[from] != '"' || v[colon-1] != '"' || v[colon] != ':' ||
		!bytes.Equal(v[from+1:colon-1], other.Name) || !bytes.Equal(v[colon+1:end], other.Value) {
		return Member{}, 0
	}
	return Member{v[from+1 : colon-1], v[colon+1 : end]}, end
}

// Each calls visit for each member of an object. Any other value has none.
func (v Value) Each(visit func(name, value []byte)) {
	for m, at := v.member(0); at > 0; m, at = v.member(at) {
		visit(m.Name, m.Value)
	}
}

// Get returns the value of the member of an object that is called member; nil if there is none.
func (v Value) Get(member string) Value {
	for m, at := v.member(0); at > 0; m, at = v.member(at) {
		if string(m.Name) == member {
			return m.Value
		}
	}
	return nil
}

// Elements calls visit for each element of a list. Any other value has none.
func (v Value) Elements(visit func(element []byte)) {
	for at := 1; len(v) > 2 && v[0] == '[' && at < len(v); at++ {
		end := v.end(at)
		if end < 0 {
			return
		}
		visit(v[at:end:end])
		at = end
	}
}

// member returns the member after the one that ended at v[at], the first if at is 0, and where it ends; 0 if there is none.
func (v Value) member(at int) (Member, int) {
	if at++; at >= len(v) || v[at] != '"' || v[0] != '{' {
		return Member{}, 0
	}
	colon := v.endText(at)
	if colon < 0 || colon >= len(v) {
		return Member{}, 0
	}
	end := v.end(colon + 1)
	if end < 0 {
		return Member{}, 0
	}
	return Member{v[at+1 : colon-1], v[colon+1 : end]}, end
}

// end is where the value that begins at v[at] ends, or -1. It looks at nothing but that: v was checked before.
func (v Value) end(at int) int {
	if at < len(v) && v[at] == '"' {
		return v.endText(at)
	}
	for depth := 0; at >= 0 && at < len(v); {
		switch v[at] {
		case '"':
			at = v.endText(at)
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return at + 1
			}
		}
		if depth <= 0 && (v[at] == ',' || depth < 0) {
			return at // of a number or a word
		}
		at++
	}
	return -1
}

// endText is where the string that begins at v[at] ends, or -1.
func (v Value) endText(at int) int {
	for i := at + 1; ; {
		n := bytes.IndexByte(v[i:], '"')
		if n < 0 {
			return -1
		}
		i += n + 1
		slashes := 0
		for v[i-2-slashes] == '\\' { // the quote at v[at] is before them
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
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
