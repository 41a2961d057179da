package evidence

// sessionOpened is the type of the record with which a session begins; package session of the kinds that have some writes it.
const sessionOpened = "session.opened"

// recordedSession is a session that was opened.
type recordedSession struct {
	id, resource, peer string
	carried            bool // Envoy has told of its connection
}

// opened notes a session. It forgets the oldest of maxEnded.
func (c *completeness) opened(e *Entry) {
	c.Sessions++
	s := &recordedSession{id: textOf(e.Body, "session"), resource: textOf(e.Body, "resource"), peer: textOf(e.Body, "peer")}
	c.sessions[s.id], c.peers[s.resource+" "+s.peer] = s, s
	c.sessionOrder = append(c.sessionOrder, s)
	if len(c.sessionOrder) <= c.maxEnded {
		return
	}
	old := c.sessionOrder[0]
	c.sessionOrder = c.sessionOrder[1:]
	if !old.carried {
		c.NeverCarried++
	}
	delete(c.sessions, old.id)
	if key := old.resource + " " + old.peer; c.peers[key] == old {
		delete(c.peers, key)
	}
}

// carried holds what Envoy says of a connection that is of no operation against the sessions: it is false where the connection is not
// one of a session's. Envoy names the session of a connection to a target; one that it has passed on to the gateway is known by who
// connected.
func (c *completeness) carried(e *Entry, reached bool) bool {
	id, resource := textOf(e.Body, "session"), textOf(e.Body, "resource")
	s := c.sessions[id]
	if id == "" && !reached {
		s = c.peers[resource+" "+textOf(e.Body, "peer")]
	}
	if s != nil && s.resource == resource {
		s.carried = true
		return true
	}
	if id == "" {
		return false
	}
	if forgotten := c.Sessions > uint64(c.maxEnded); reached && !forgotten {
		c.find(e.Seq, "", "Envoy connected to a target for a session that was not opened")
	}
	return true
}
