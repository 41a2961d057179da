package redact

// Size estimates the bytes that the stream holds now: the unfinished value, and what is known of the values around it. [Options]
// bound it. It leaves out what is held of a value that a path takes (up to 350 KiB): otherwise an agent that fills the memory
// could learn the size of that value from what still fits.
func (s *Stream) Size() int {
	if s.body == nil {
		return 0
	}
	return s.body.size()
}

func (m *machine) size() int {
	n := len(m.out) + cap(m.pending) + cap(m.held) + cap(m.text) + cap(m.changed) + cap(m.url) + 8*(m.kept*len(m.states)+cap(m.hashes))
	for _, f := range m.frames[:m.kept] {
		n += 64 + 8*cap(f.names.table)
	}
	if m.finder != nil {
		n += m.finder.size()
	}
	return n
}

func (f *finder) size() int {
	return cap(f.digits) + cap(f.text) + cap(f.plain) + cap(f.out) + 32*(cap(f.spans)+cap(f.groups))
}

func (e *events) size() int {
	return e.json.size() + e.finder.size() + len(e.out) + cap(e.data) + cap(e.written) + cap(e.reader.pending)
}

func (e *turnedEvents) size() int { return e.json.size() + len(e.out) }

func (l *lines) size() int {
	return l.finder.size() + len(l.out) + cap(l.plain) + cap(l.reader.pending)
}

func (u *unknown) size() int { return 0 }
