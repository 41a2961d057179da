package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
	"github.com/countersign/countersign/extproc/lane"
)

// session is one agent's session. Where a field does not say whose it is, it does not change.
type session struct {
	server                         *Server
	id                             string
	first                          *lane.Attempt // by which the agent was identified
	target                         *Target       // as it was when the session began
	resource, role, database, peer string
	minor                          uint16
	key                            cancelKey // that the agent was told
	client                         *client
	up                             *server

	// Of the goroutine that reads the agent.
	to         *bufio.Writer // the target
	state      *statement.State
	catalog    *statement.Catalog
	bare       bool     // the catalog has to be read again
	stale      bool     // something was sent that changes the state: the server has to answer it before anything else is looked at
	asks       bool     // and then to be asked what holds
	piped      bool     // something of a pipeline was sent since the last Sync
	batch      []item   // of a pipeline, not sent yet
	batched    int      // bytes of it
	discarding bool     // until Sync: something of the pipeline was refused
	custom     []string // parameters with a dot in their name that it has set
	earlier    []byte   // digest of what the transaction has written so far
	armed      armed    // limits that the server was told of
	judging    *judged  // what is being decided

	// What follows is guarded by mu.
	mu       sync.Mutex
	moved    *sync.Cond    // queue, copying or over has changed
	out      *bufio.Writer // the agent
	torn     bool          // a message to the agent is broken off in its middle
	queue    []*expected
	status   byte // of the transaction: 'I', 'T' or 'E'
	skipping bool // the target skips what it gets, until Sync
	copying  bool // the target waits for COPY data
	prepared map[string]*prepared
	portals  map[string]*portal
	unsure   struct { // what may be another's by now
		prepared map[string]*prepared
		portals  map[string]*portal
	}
	deciding   bool               // a message of the agent's is looked at
	defined    bool               // the transaction has changed definitions
	events     []event            // that the state has yet to be told
	hold       context.CancelFunc // ends the wait for people; nil where nobody is waited for
	cancelHold bool               // the agent has cancelled it
	cancelling bool
	cutting    int       // cancellations that are under way because of a limit
	mustFail   bool      // the transaction has failed for the agent, and at the server has not
	rested     time.Time // when the target last had nothing to answer
	ending     *failure  // why the session ends once nothing is under way
	veil       *veil     // of what belongs to no statement: by all that policy has said in this session
	muted      bool      // the token's time is over: what nobody has asked for is not passed on
	over       bool
	why        string // it ended

	// Of the goroutine that reads the target: memory that is used again for each row that is masked.
	scratch, masked []byte

	once   sync.Once   // ends it
	begun  atomic.Bool // it is run
	called atomic.Bool // to cancel: by one request at a time
	count  struct{ in, out, rows, statements, refused atomic.Int64 }
}

func (s *session) prepare() {
	s.moved = sync.NewCond(&s.mu)
	s.prepared, s.portals = map[string]*prepared{}, map[string]*portal{}
}

// run serves the session to its end.
func (s *session) run(ctx context.Context) {
	s.to = bufio.NewWriterSize(s.up, readSize)
	s.first.Admit()
	s.mu.Lock()
	s.out = bufio.NewWriterSize(s.client, readSize)
	s.mu.Unlock()
	s.begun.Store(true)
	answered := make(chan struct{})
	defer s.finish(ctx, answered)
	defer guard.Catch("a session", s.failed)
	go guard.Func("the answers of a session", func() {
		defer close(answered)
		defer s.end(nil)
		s.answers()
	})()
	late := time.AfterFunc(s.target.Limits.SessionTime, guard.Func("a session's time", func() {
		s.end((&failure{code: codeLimit, message: fmt.Sprintf("a session lasts %v at most", s.target.Limits.SessionTime), hint: "Connect again."}).ended())
	}))
	defer late.Stop()
	defer s.first.EndWithToken(s.tokenOver)()
	switch { // meanwhile
	case s.stopped():
		s.endSoon(stops())
	case s.changed():
		s.endSoon(changed())
	}
	err := s.serve(ctx)
	var f *failure
	switch {
	case errors.As(err, &f):
		s.end(f.ended())
	case err == nil || errors.Is(err, io.EOF):
		s.left("the client left")
	default:
		s.left("the client's connection: " + err.Error())
	}
}

func (s *session) stopped() bool {
	select {
	case <-s.server.lane.Stopping():
		return true
	default:
		return false
	}
}

// failed ends a session in which the gateway failed: what was being decided was not, and is refused.
func (s *session) failed(guard.Panic) {
	if j := s.judging; j != nil && j.attempt != nil {
		j.attempt.Failed(false)
		_ = s.refused(j, nil)
	}
	s.end((&failure{code: codeUnavailable, message: "a part of the gateway failed, so the session ends", hint: "Connect again."}).ended())
}

// changed reports whether the session could not go on under the configuration of now.
func (s *session) changed() bool { return s.changedUnder(s.server.lane.State()) }

func (s *session) changedUnder(st *lane.State) bool {
	_, now := targetOf(st, s.resource)
	return !s.target.same(now, s.role, s.database)
}

// finish leaves nothing of the session behind.
func (s *session) finish(ctx context.Context, answered <-chan struct{}) {
	s.end(nil)
	<-answered
	s.mu.Lock()
	busy := len(s.queue) > 0
	queue := s.queue
	s.queue = nil
	why := s.why
	s.mu.Unlock()
	if busy { // the server would go on with it until it has something to say
		if err := cancel(context.WithoutCancel(ctx), s.target, route{peer: s.peer, session: s.id}, s.target.Roles[s.role], s.up.key); err != nil {
			s.server.lane.Log.Debug("what a session did could not be cancelled", "session", s.id, "error", err)
		}
	}
	for _, e := range queue {
		e.giveUp(s, gate.ClientGone, "the session ended: "+why)
	}
	s.first.Share.Set(0)
	s.server.part(s)
	s.closed(ctx, why)
}

// left ends the session of a client that is gone.
func (s *session) left(why string) {
	s.mu.Lock()
	if s.why == "" {
		s.why = why
	}
	s.mu.Unlock()
	s.end(nil)
}

// end ends the session now. f, which may be nil, is told to the agent.
func (s *session) end(f *failure) {
	s.once.Do(func() {
		_ = s.client.SetWriteDeadline(time.Now().Add(time.Second)) // whoever writes gives mu back then
		_ = s.up.SetReadDeadline(time.Unix(1, 0))
		s.mu.Lock()
		if f != nil {
			s.why = f.message
			if !s.torn {
				_, _ = s.out.Write(f.bytes())
			}
		}
		if s.why == "" {
			s.why = "the target's connection ended"
		}
		if !s.torn {
			_ = s.out.Flush()
		}
		s.over = true
		if s.hold != nil {
			s.hold()
		}
		s.moved.Broadcast()
		s.mu.Unlock()
		_ = s.up.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = s.up.Write(appendMessage(nil, 'X'))
		_ = s.client.Close()
		_ = s.up.Close()
	})
}

// endSoon ends the session once nothing is under way in it. It waits for an agent that does not read.
func (s *session) endSoon(f *failure) {
	s.mu.Lock()
	if s.ending == nil {
		s.ending = f
	}
	rests := s.resting()
	s.mu.Unlock()
	if rests {
		s.end(f)
	}
}

// resting reports whether nothing is under way. mu is held.
func (s *session) resting() bool { return len(s.queue) == 0 && !s.deciding && s.out != nil }

// tokenOver is told when the agent's token is not good any more. One whose time is over ends the session with the next statement; one
// that was revoked ends it now.
func (s *session) tokenOver(why *identity.Refusal) {
	if why.Reason == identity.Expired {
		s.mu.Lock()
		s.muted = true
		s.mu.Unlock()
		return
	}
	s.end((&failure{code: codeUnidentified, message: "the credential is not good any more: " + why.Detail, hint: hintOf(gate.Unauthenticated)}).ended())
}

// cancel cancels what is under way: a wait for people here, a statement at the target.
//
// mu can be held for as long as the agent does not read. Of the requests that come meanwhile only one waits.
func (s *session) cancel(ctx context.Context) {
	if !s.called.CompareAndSwap(false, true) {
		return
	}
	defer s.called.Store(false)
	s.mu.Lock()
	if s.hold != nil {
		s.cancelHold = true
		s.hold()
		s.mu.Unlock()
		return
	}
	asked := slices.ContainsFunc(s.queue, func(e *expected) bool { return e.own == nil }) // not by the gateway itself
	if !asked || s.cancelling {                                                           // one at a time: a storm of them is one
		s.mu.Unlock()
		return
	}
	s.cancelling, s.queue[0].cancelled = true, true
	s.mu.Unlock()
	err := cancel(ctx, s.target, route{peer: s.peer, session: s.id}, s.target.Roles[s.role], s.up.key)
	s.mu.Lock()
	s.cancelling = false
	s.moved.Broadcast()
	s.mu.Unlock()
	if err != nil {
		s.server.lane.Log.Warn("a statement could not be cancelled", "session", s.id, "error", err)
	}
}

// serve reads the agent until it leaves. A *failure is to be told to it.
func (s *session) serve(ctx context.Context) error {
	for {
		if err := s.await(); err != nil {
			return err
		}
		most := s.target.Limits.Message
		if first, err := s.client.in.Peek(1); err == nil && first[0] == 'd' {
			most = maxAnswer // COPY data is not held
		}
		h, err := readHead(s.client.in, most)
		if errors.Is(err, errLength) {
			return &failure{code: codeProtocol, message: err.Error()}
		}
		if err != nil {
			return err
		}
		s.count.in.Add(int64(headSize + h.size))
		if h.kind == 'X' {
			return nil
		}
		s.mu.Lock()
		s.deciding = true
		s.mu.Unlock()
		if err := s.message(ctx, h); err != nil {
			return err
		}
		s.mu.Lock()
		s.deciding = false
		over, ending := s.over, s.ending
		rests := s.resting()
		s.mu.Unlock()
		if over {
			return nil
		}
		if ending != nil && rests && len(s.batch) == 0 {
			return ending
		}
	}
}

// await waits for the agent's next message, for as long as it may rest.
func (s *session) await() error {
	limit := s.target.Limits.Idle
	for from := time.Now(); ; {
		_ = s.client.SetReadDeadline(from.Add(limit))
		_, err := s.client.in.Peek(headSize)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		s.mu.Lock()
		rests, since, over := s.resting() || s.copying, s.rested, s.over
		s.mu.Unlock()
		if over {
			return nil
		}
		now := time.Now()
		if from = now; rests && since.After(now.Add(-limit)) && !s.isCopying() {
			from = since // a statement was answered meanwhile
		} else if rests {
			return &failure{code: codeIdle, message: fmt.Sprintf("the session has rested for %v", limit), hint: "Connect again."}
		}
	}
}

func (s *session) isCopying() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.copying
}

// read reads the rest of a message.
func (s *session) read(h head) ([]byte, error) {
	_ = s.client.SetReadDeadline(time.Now().Add(s.target.Limits.Idle))
	if !s.first.Share.Set(int64(lane.Bytes + s.batched + h.size)) {
		return nil, &failure{code: "53200", message: "the gateway has no memory left for this message", hint: "Send less at once, or try again later."}
	}
	return readBody(s.client.in, h, nil)
}

// message takes one message of the agent's.
func (s *session) message(ctx context.Context, h head) error {
	switch h.kind {
	case 'd':
		return s.copyData(h)
	case 'Q', 'P', 'B', 'D', 'E', 'C', 'H', 'S', 'c', 'f':
	case 'F':
		return s.functionCall(h)
	default:
		return &failure{code: codeProtocol, message: fmt.Sprintf("a message of type %q is not known here", h.kind)}
	}
	if h.kind == 'Q' && h.size > s.target.Limits.Statement+1 || h.kind == 'P' && h.size > s.target.Limits.Statement+maxNames {
		return s.tooLong(h)
	}
	raw, err := s.read(h)
	if err != nil {
		return err
	}
	switch h.kind {
	case 'c', 'f':
		return s.copyEnd(raw)
	case 'Q':
		return s.query(ctx, raw)
	case 'S', 'H':
		if h.size != 0 {
			return malformed(h.kind)
		}
	}
	if copying := s.steady(); copying {
		if h.kind == 'S' || h.kind == 'H' {
			return nil // as the server does
		}
		return &failure{code: codeProtocol, message: fmt.Sprintf("a message of type %q came within COPY data", h.kind)}
	}
	if s.discarding && h.kind != 'S' {
		return nil
	}
	switch h.kind {
	case 'P':
		return s.parse(raw)
	case 'B':
		return s.bind(ctx, raw)
	case 'D', 'C':
		return s.describe(ctx, raw)
	case 'E':
		return s.execute(ctx, raw)
	default:
		return s.sync(ctx, raw)
	}
}

// maxNames is what a Parse has beside its text: a name, and the types of parameters.
const maxNames = 64 << 10

func malformed(kind byte) *failure {
	return &failure{code: codeProtocol, message: fmt.Sprintf("a message of type %q cannot be read", kind)}
}

// steady waits while a simple query is under way, unless that waits for COPY data, which it reports.
func (s *session) steady() (copying bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.over && !s.copying && len(s.queue) > 0 && s.queue[len(s.queue)-1].kind == 'Q' {
		s.moved.Wait()
	}
	return s.copying
}

// settled waits until everything that was sent is answered.
func (s *session) settled() error {
	if err := s.to.Flush(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.over && len(s.queue) > 0 {
		s.moved.Wait()
	}
	if s.over {
		return io.EOF
	}
	return nil
}

// expect adds to what the target is to answer. It is called before the message is sent.
func (s *session) expect(list ...*expected) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.cutting > 0 && !s.over {
		s.moved.Wait()
	}
	s.queue = append(s.queue, list...)
	s.runClock()
}

// copyData passes COPY data on. The server ignores it where it waits for none.
func (s *session) copyData(h head) error {
	_ = s.client.SetReadDeadline(time.Now().Add(s.target.Limits.Idle))
	if s.discarding {
		_, err := s.client.in.Discard(h.size)
		return unexpected(err)
	}
	if passes, err := s.copied(headSize + h.size); err != nil || !passes {
		_, discardErr := s.client.in.Discard(h.size)
		return errors.Join(err, unexpected(discardErr))
	}
	if err := pass(s.to, s.client.in, h); err != nil {
		return err
	}
	if s.client.in.Buffered() == 0 {
		return s.to.Flush()
	}
	return nil
}

func (s *session) copyEnd(raw []byte) error {
	if s.discarding {
		return nil
	}
	s.mu.Lock()
	s.copying = false
	s.mu.Unlock()
	if _, err := s.to.Write(raw); err != nil {
		return err
	}
	return s.to.Flush()
}

// functionCall refuses the message by which old clients call functions.
func (s *session) functionCall(h head) error {
	if _, err := s.client.in.Discard(h.size); err != nil {
		return unexpected(err)
	}
	if s.steady() {
		return &failure{code: codeProtocol, message: "a function call came within COPY data"}
	}
	return s.refuseQuery(&failure{code: codeUnsupported, message: "function calls by their own message are not accepted", hint: "Call the function in a SELECT."})
}

// tooLong refuses a text that is longer than it may be, and reads past it.
func (s *session) tooLong(h head) error {
	if _, err := s.client.in.Discard(h.size); err != nil {
		return unexpected(err)
	}
	if s.steady() {
		return &failure{code: codeProtocol, message: "a statement came within COPY data"}
	}
	f := s.longStatement()
	if h.kind == 'Q' {
		return s.refuseQuery(f)
	}
	if s.discarding {
		return nil
	}
	return s.fail(f)
}

func (s *session) longStatement() *failure {
	return &failure{code: codeTooLarge, message: fmt.Sprintf("a statement has %d bytes at most", s.target.Limits.Statement), hint: "Send less at a time, or values as parameters."}
}
