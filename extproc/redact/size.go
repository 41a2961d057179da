package redact

// Size is how many bytes the stream holds at the moment, about: what has come of a value that has not ended, and what is known
// of those that it stands in. It is bounded by [Options].
func (s *Stream) Size() int {
	if s.body == nil {
		return 0
	}
	return s.body.size()
}

func (m *machine) size() int {
	n := cap(m.out) + cap(m.pending) + cap(m.held) + cap(m.subtree) + cap(m.text) + cap(m.changed) + 8*(cap(m.sets)+cap(m.hashes))
	for _, f := range m.frames[:cap(m.frames)] {
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
	return e.json.size() + e.finder.size() + cap(e.out) + cap(e.data) + cap(e.written) + cap(e.reader.pending) + 2*e.last.bytes
}

func (l *lines) size() int {
	return l.finder.size() + cap(l.out) + cap(l.plain) + cap(l.reader.pending)
}

func (u *unknown) size() int { return 0 }
