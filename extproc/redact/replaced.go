package redact

// What the machine does within a value that is replaced. Nothing of it is written, so nothing of it has to be kept: strings,
// names and numbers of any length are read in pieces, names may stand twice, and below MaxDepth levels only strings and
// brackets are looked at. So no limit tells how long, how deep or how much a protected value is.

// pass lets a piece of a replaced value go.
func (m *machine) pass(raw []byte) {
	m.keepSubtree(raw)
	if m.taken != nil && len(m.piece) < 8*longestTaken {
		m.piece = append(m.piece, raw[:min(len(raw), 8*longestTaken-len(m.piece))]...)
	}
}

// replacedString is told that a name or a string value has ended.
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

// maxCanonical is how long a value is kept for its canonical form. It is little enough that [Stream.Size] can leave it out.
const maxCanonical = 64 << 10

// keepSubtree keeps what a token will be made of: the compact form of the value, as long as it is small enough to be brought
// into canonical form.
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

// spell goes over to a token of the value as it is spelled. It looks like any other, so it does not tell why.
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
