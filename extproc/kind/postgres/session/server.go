// Package session is one agent's session with a PostgreSQL server: it speaks the protocol to both ends, and lets nothing of the
// agent's through that the gate has not ruled on.
//
// A connection comes from Envoy by a unix socket, behind a header that says who connected and to which resource. The session ends
// the agent's TLS, takes its token for a password, and records that it begins (session.opened) before the target is
// connected to with the gateway's own credential. From there on each statement is one operation, one [lane.Attempt]: read by package
// statement, decided with a durable record, and only then sent, in the bytes in which it came.
//
// # Two goroutines
//
// One reads the agent and decides (session.go, query.go, extended.go). The other reads the target and passes on what it answers
// (answers.go). Between them is a queue of what the target has yet to answer ([expected]), in order, because the protocol
// has no numbers: the next answer is always that of the oldest message. Neither holds a message's answer: when the agent does not
// read, the second blocks, then the target, as without a gateway.
//
// # Refusing
//
// What is refused must leave the session as an error of the server's own would: the transaction failed, or the implicit one of a
// pipeline undone, and what follows skipped until Sync. Nobody can do that as exactly as the server itself. So in the place of
// a refused statement it is sent one that fails for certain and does nothing, Execute of a portal that there is not, and its error
// is replaced by the refusal on the way back.
//
// # State
//
// What a statement means depends on what statements before it have changed: settings, roles, definitions. Package statement says what each
// changes. Where one does, the next is looked at only after the server has carried it out or refused it, and the server is
// asked, by the session's own connection, what holds now. Within a pipeline, whose transaction must not end, only settings can
// be asked for: after a definition the next statement of the same pipeline is refused.
package session

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/kind/postgres/catalog"
	"github.com/countersign/countersign/extproc/lane"
)

// Protocol is what the records call it.
const Protocol = "postgres"

// Server has the sessions of all resources of the kind.
type Server struct {
	lane *lane.Lane

	mu       sync.Mutex
	sessions map[uint32]*session       // by the process id that the agent was told
	of       map[string]int            // how many each resource has
	conns    map[net.Conn]uint64       // that are no session yet, and when they came; 0 once they have said who they are
	came     uint64                    // the last of them
	catalogs map[string]*catalog.Cache // by the target's address

	patience time.Duration // until an agent has said who it is, and the target has let it in
	places   int           // for those that have not said who they are
}

// fresh is how long a catalog is believed before the server is asked whether it has changed.
const fresh = time.Second

// catalog is the cache of a target's catalogs.
func (s *Server) catalog(t *Target) *catalog.Cache {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.catalogs[t.Address]
	if c == nil {
		c = &catalog.Cache{Fresh: fresh, Now: time.Now}
		s.catalogs[t.Address] = c
	}
	return c
}

// New returns a server without sessions.
func New(l *lane.Lane) *Server {
	return &Server{lane: l, sessions: map[uint32]*session{}, of: map[string]int{}, conns: map[net.Conn]uint64{}, catalogs: map[string]*catalog.Cache{}, patience: 30 * time.Second, places: mostNameless}
}

// mostNameless bounds the connections that have not said who they are. What each can have us hold is bounded too: a startup packet
// and a token.
const mostNameless = 1000

// Serve serves what comes by any of some listeners until ctx is done, and returns when no session is left. Sessions end by themselves when
// the lane stops: at once where they rest, and otherwise with the statement that is under way.
func (s *Server) Serve(ctx context.Context, from ...net.Listener) error {
	var work sync.WaitGroup
	defer work.Wait()
	closed := context.AfterFunc(ctx, guard.Func("the sessions' listeners", func() {
		for _, l := range from {
			_ = l.Close()
		}
		s.breakOff()
	}))
	defer closed()
	defer s.lane.AfterSwap(s.reloaded)()
	work.Go(guard.Func("the stop of sessions", func() {
		select {
		case <-s.lane.Stopping():
			s.stop()
		case <-ctx.Done():
			return
		}
		select {
		case <-s.lane.Closing():
			s.breakOff()
		case <-ctx.Done():
		}
	}))
	failed := make(chan error, len(from))
	for _, l := range from {
		work.Go(guard.Func("a listener for sessions", func() {
			err := errors.New("the listener for sessions failed")
			defer func() { failed <- err }()
			err = s.accept(ctx, l, &work)
		}))
	}
	var err error
	for range from {
		err = errors.Join(err, <-failed)
	}
	return err
}

// accept takes connections until ctx is done.
func (s *Server) accept(ctx context.Context, from net.Listener, work *sync.WaitGroup) error {
	for {
		conn, err := from.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it was closed
			}
			var temporary interface{ Temporary() bool } // out of descriptors, say
			if errors.As(err, &temporary) && temporary.Temporary() {
				time.Sleep(10 * time.Millisecond) //nolint:forbidigo // there is no event for a descriptor that is free again
				continue
			}
			return fmt.Errorf("accept a session: %w", err)
		}
		s.enter(conn)
		work.Go(guard.Func("a session", func() {
			defer conn.Close()
			defer s.leave(conn)
			s.connection(ctx, conn)
		}))
	}
}

// enter takes a connection. Where there are too many of those that have not said who they are, the one that has had the longest
// time for it is closed: whoever opens many can keep nobody out that says so at once.
func (s *Server) enter(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	nameless, oldest := 0, net.Conn(nil)
	for c, came := range s.conns {
		if came == 0 {
			continue
		}
		nameless++
		if oldest == nil || came < s.conns[oldest] {
			oldest = c
		}
	}
	if nameless >= s.places {
		_ = oldest.Close()
		delete(s.conns, oldest)
	}
	s.came++
	s.conns[conn] = s.came
}

// known notes that a connection has said who it is.
func (s *Server) known(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[conn]; ok {
		s.conns[conn] = 0
	}
}

func (s *Server) leave(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// connection serves one connection to its end.
func (s *Server) connection(ctx context.Context, conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(s.patience))
	h, err := told(conn)
	if err != nil {
		s.lane.Log.Warn("a connection to the sessions' socket was closed", "error", err)
		return
	}
	st, end, err := s.lane.Begin()
	if err != nil {
		return // the gateway stops: Envoy closes the agent's connection
	}
	defer end()
	c := &client{Conn: conn}
	o := &opening{server: s, header: h, conn: conn, client: c}
	o.shown, _ = conn.(Shown)
	if err := o.open(ctx, st); err != nil {
		var f *failure
		switch {
		case errors.As(err, &f):
			_, _ = c.Write(f.bytes())
		case errors.Is(err, errListener):
			s.lane.Log.Warn("agents cannot connect", "resource", h.resource, "error", err)
		default:
			s.lane.Log.Debug("a session did not begin", "resource", h.resource, "peer", h.peer, "error", err)
		}
		return
	}
	if o.session == nil {
		return // it was a request to cancel
	}
	s.leave(conn)
	o.session.run(ctx)
}

// join gives a session its place, and a process id that no other has. It is false where the resource has no place left.
func (s *Server) join(one *session, most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[one.resource] >= most {
		return false
	}
	s.of[one.resource]++
	for {
		var id [4]byte
		rand.Read(id[:])
		one.key.pid = binary.BigEndian.Uint32(id[:]) & 0x7FFFFFFF
		if _, taken := s.sessions[one.key.pid]; one.key.pid != 0 && !taken {
			break
		}
	}
	one.key.secret = make([]byte, 4)
	if one.minor >= 2 {
		one.key.secret = make([]byte, 32)
	}
	rand.Read(one.key.secret)
	s.sessions[one.key.pid] = one
	return true
}

func (s *Server) part(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, one.key.pid)
	if s.of[one.resource]--; s.of[one.resource] == 0 {
		delete(s.of, one.resource)
	}
}

// cancelled cancels what the session of that key does. Who has the key is the session's own agent: it is told to nobody else.
func (s *Server) cancelled(ctx context.Context, resource string, k *cancelKey) {
	s.mu.Lock()
	one := s.sessions[k.pid]
	s.mu.Unlock()
	if one != nil && one.resource == resource && subtle.ConstantTimeCompare(one.key.secret, k.secret) == 1 {
		one.cancel(ctx)
	}
}

func (s *Server) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*session, 0, len(s.sessions))
	for _, one := range s.sessions {
		list = append(list, one)
	}
	return list
}

// stop has each session end as soon as nothing is under way in it. Who does not read, or has not said who they are, holds nothing up.
func (s *Server) stop() {
	for _, one := range s.all() {
		go guard.Func("the end of a session", func() { one.endSoon(stops()) })()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn, came := range s.conns {
		if came != 0 {
			_ = conn.Close()
		}
	}
}

func stops() *failure {
	return (&failure{code: codeStopping, message: "the gateway stops", hint: "Connect again."}).ended()
}

// reloaded ends each session that could not go on under the configuration of now, as soon as nothing is under way in it: what was
// decided under that of before is carried out.
func (s *Server) reloaded() {
	for _, one := range s.all() {
		if one.changed() {
			go guard.Func("the end of a session", func() { one.endSoon(changed()) })()
		}
	}
}

func changed() *failure {
	return (&failure{code: codeStopping, message: "this resource of the gateway was changed", hint: "Connect again."}).ended()
}

// breakOff ends everything.
func (s *Server) breakOff() {
	for _, one := range s.all() {
		if one.begun.Load() { // who has not ends with its connection
			one.end((&failure{code: codeStopping, message: "the gateway has stopped"}).ended())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.Close()
	}
}

// targetOf is the resource of that name, if it is of this kind.
func targetOf(st *lane.State, name string) (*lane.Resource, *Target) {
	r := st.Resources[name]
	if r == nil {
		return nil, nil
	}
	t, _ := r.Own.(*Target)
	return r, t
}

func (s *Server) record(ctx context.Context, st *lane.State, kind string, body gate.Object) error {
	_, err := st.Gate.Recorder.Append(context.WithoutCancel(ctx), &gate.Record{Type: kind, Body: body})
	return err
}
