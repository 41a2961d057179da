package redact

import "strconv"

// turnedString returns a string value, with its URL rewritten if a path says so.
func (m *machine) turnedString(raw []byte) []byte {
	if m.turned < 0 || m.limits.Turn == nil {
		return raw
	}
	m.text = appendDecoded(m.text[:0], raw)
	turned, ok := m.limits.Turn(string(m.text))
	if !ok {
		return raw
	}
	m.tallies[m.turned]++
	m.escaped = true // appendQuoted may have escaped it
	m.url = appendQuoted(m.url[:0], []byte(turned))
	return m.url
}

// string writes a string value without what detectors find in it.
func (m *machine) string(raw []byte) error {
	raw = m.turnedString(raw)
	if m.finder == nil {
		return m.plain(raw)
	}
	var spans []span
	text := raw[1 : len(raw)-1]
	if m.escaped {
		m.text = appendDecoded(m.text[:0], raw)
		text, spans = m.finder.findText(m.text, m.plan.on)
	} else {
		spans = m.finder.find(text, m.plan.on)
	}
	if len(spans) == 0 {
		if err := m.fits(len(raw)); err != nil {
			return err
		}
		return m.plain(raw)
	}
	m.tellSpans(text, spans)
	switch act := m.plan.strongest(spans, m.tallies); act {
	case null, remove:
		return m.instead(act)
	default:
		m.changed = m.plan.appendReplaced(m.changed[:0], text, spans)
		if err := m.fits(len(m.changed)); err != nil {
			return err
		}
		m.separate()
		m.out = appendQuoted(m.out, m.changed)
		return m.endValue()
	}
}

// number writes a number. If detectors find something in it, the whole number is replaced.
func (m *machine) number(raw []byte) error {
	if m.finder == nil {
		return m.plain(raw)
	}
	spans := m.finder.findNumber(raw, m.plan.on)
	if len(spans) == 0 {
		return m.plain(raw)
	}
	m.tellSpans(m.finder.digits, spans)
	act := m.plan.strongest(spans, m.tallies)
	switch act {
	case null, remove, mask:
		return m.instead(act)
	default:
		m.separate()
		m.out = append(m.out, '"')
		m.out = m.plan.appendReplaced(m.out, m.finder.digits, spans)
		m.out = append(m.out, '"')
		return m.endValue()
	}
}

// tellSpans passes what detectors found to m.taken.
func (m *machine) tellSpans(text []byte, spans []span) {
	if m.taken == nil {
		return
	}
	for _, s := range spans {
		m.piece = append(m.piece[:0], text[s.from:s.to]...)
		m.taken(m.piece)
	}
}

// instead replaces a whole value in which a detector found something. A whole document cannot be removed: it becomes null.
func (m *machine) instead(act action) error {
	if act == remove && len(m.frames) == 0 {
		act = null
	}
	m.replacing, m.replaced = act, len(m.frames)
	return m.endValue()
}

// detectName returns the name to write. A name cannot be null, so null masks; remove drops the member. Names that become the
// same are numbered, in the order in which they come.
func (m *machine) detectName(raw, text []byte) (quoted []byte, err error) {
	spans := m.finder.find(text, m.plan.on)
	if len(spans) == 0 {
		return raw, nil
	}
	if m.plan.strongest(spans, m.tallies) == remove {
		m.dropping = true
		return nil, nil
	}
	m.changed = m.plan.appendReplaced(m.changed[:0], text, spans)
	f := &m.frames[len(m.frames)-1]
	stem := len(m.changed)
	for {
		var isNew bool
		if m.hashes, isNew = f.names.add(m.hashes, hashName(m.changed)); isNew {
			break
		}
		f.renamed++
		m.changed = append(m.changed[:stem], ' ')
		m.changed = strconv.AppendInt(m.changed, int64(f.renamed+1), 10)
	}
	if len(m.hashes) > m.limits.MaxNames {
		return nil, withheld("objects with more than %d names", m.limits.MaxNames)
	}
	m.held = appendQuoted(m.held[:0], m.changed)
	return m.held, nil
}
