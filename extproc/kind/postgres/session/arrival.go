package session

import "io"

// A message of the target's can come in parts with a long time between them: PostgreSQL sends what it answers in blocks, and the rest of
// a row stays with it until a block is full or the agent's Flush or Sync comes. So mu is given back while a part is waited for: the
// goroutine that reads the agent needs it to get that far, and so does whoever cancels.

// arrived waits until something of the target's is there, without mu, which is held before and after. What the goroutine that reads the
// target has found of the queue's first stays as it was: nobody else takes anything from it.
func (s *session) arrived() error {
	if s.up.in.Buffered() > 0 {
		return nil
	}
	s.mu.Unlock()
	_, err := s.up.in.Peek(1)
	s.mu.Lock()
	return unexpected(err)
}

// part gives the rest of a message to take, as it comes. mu is held.
func (s *session) part(size int, take func([]byte) error) error {
	for size > 0 {
		if err := s.arrived(); err != nil {
			return err
		}
		b, err := s.up.in.Peek(min(size, s.up.in.Buffered()))
		if err == nil {
			err = take(b)
		}
		if err != nil {
			return err
		}
		if _, err := s.up.in.Discard(len(b)); err != nil {
			return unexpected(err)
		}
		size -= len(b)
	}
	return nil
}

// whole appends a message to b, head and all. mu is held. What is not there is not believed: a length costs memory as its bytes come.
func (s *session) whole(h head, b []byte) ([]byte, error) {
	from := len(b)
	b = append(b, h.raw[:]...)
	err := s.part(h.size, func(more []byte) error {
		b = append(b, more...)
		return nil
	})
	if err != nil {
		return b[:from], err
	}
	return b, nil
}

// leaveOut reads past the rest of a message. mu is held.
func (s *session) leaveOut(h head) error {
	return s.part(h.size, func([]byte) error { return nil })
}

// passOn copies a message to the agent, head and all, without holding it. mu is held.
func (s *session) passOn(to io.Writer, h head) error {
	s.torn = true
	if _, err := to.Write(h.raw[:]); err != nil {
		return err
	}
	err := s.part(h.size, func(b []byte) error {
		_, err := to.Write(b)
		return err
	})
	if err == nil {
		s.torn = false
		s.moved.Broadcast()
	}
	return err
}

// between waits until no message to the agent is in its middle, and returns with mu held. The goroutine that reads the agent calls it: the
// server is asked for what it has by now, or the rest could wait for what the agent sends next.
func (s *session) between() {
	s.mu.Lock()
	if !s.torn {
		return
	}
	s.mu.Unlock()
	_, err := s.to.Write(appendMessage(nil, 'H'))
	if err == nil {
		err = s.to.Flush()
	}
	s.mu.Lock()
	for err == nil && s.torn && !s.over {
		s.moved.Wait()
	}
}
