package redact

// Reading a value that is replaced. Nothing of it is written, so nothing has to be kept: strings, names and numbers of any
// length are read in pieces, names may be repeated, and below MaxDepth only strings and brackets are looked at. So no limit
// tells the length, depth or size of a protected value.

// pass notes a piece of a replaced value for its token and for m.taken.
func (m *machine) pass(raw []byte) {
	m.keepSubtree(raw)
	if m.taken != nil && len(m.piece) < 8*longestTaken {
		m.piece = append(m.piece, raw[:min(len(raw), 8*longestTaken-len(m.piece))]...)
	}
}

// replacedString ends a name or a string value.
func (m *machine) replacedString() error {
	isName := m.deep == 0 && m.expect != aValue
	if m.taken != nil && !isName {
		end, status, _ := scanString(m.piece, 1)
		if status == stringEnded {
			end--
		}
		m.text = appendDecoded(m.text[:0], append(m.piece[:end], '"'))
		m.taken(m.text)
	}
	switch {
	case m.deep > 0:
		return nil
	case isName:
		m.expect = aColon
		return nil
	default:
		return m.endValue()
	}
}

// replacedNumber goes on with a number.
func (m *machine) replacedNumber(data []byte) (int, error) {
	n := numberRun(data)
	for _, c := range data[:n] {
		m.spelling = m.spelling.next(c)
	}
	m.pass(data[:n])
	if n == len(data) {
		return n, nil
	}
	return n, m.endNumber()
}

func (m *machine) endNumber() error {
	m.inNumber = false
	if !m.spelling.ends() {
		return errNotJSON
	}
	if m.taken != nil {
		m.taken(m.piece)
	}
	return m.endValue()
}

// below goes on in a replaced value below MaxDepth levels.
func (m *machine) below(data []byte) (int, error) {
	c := data[0]
	switch c {
	case '"':
		return m.stringToken(data)
	case '{', '[':
		m.deep++
	case '}', ']':
		m.deep--
	case ' ', '\n', '\r', '\t':
		return 1, nil
	}
	m.keepByte(c)
	if m.deep == 0 {
		return 1, m.endValue()
	}
	return 1, nil
}

// maxCanonical is the size up to which a value is kept for its canonical form. [Stream.Size] can leave so little out.
const maxCanonical = 64 << 10

// keepSubtree collects what the token will be made of: the compact form of the value, while that is small enough for its
// canonical form to be made.
func (m *machine) keepSubtree(raw []byte) {
	switch {
	case m.replacing != tokenize:
	case m.spelled != nil:
		m.spelled.Write(raw)
	case len(m.subtree)+len(raw) <= min(m.limits.MaxToken, maxCanonical):
		m.subtree = append(m.subtree, raw...)
	default:
		m.spell()
		m.spelled.Write(raw)
	}
}

// spell switches to a token of the value as it is spelled. It looks like any other token, so it does not tell why.
func (m *machine) spell() {
	if m.spelled == nil {
		m.spelled = m.plan.mac("spelled")
		m.spelled.Write(m.subtree)
	}
}

func (m *machine) keepByte(c byte) {
	if m.replacing == tokenize {
		m.keepSubtree([]byte{c})
	}
}
