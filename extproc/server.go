package extproc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authz "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ext "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/inspect/web"
)

// Verifier turns an agent's token into a principal.
type Verifier interface {
	// Verify returns who the token was issued to. Its error is an *identity.Refusal.
	Verify(ctx context.Context, token string) (*gate.Principal, error)
}

// Credential is what a target wants to see in the place of the agent's token.
type Credential interface {
	// Field returns the header field to set. It is asked for every operation, so that a secret can be changed in place.
	Field() (web.Field, error)
}

// Resource is a target, as Envoy's services need it.
type Resource struct {
	gate.Resource
	Web          web.Options
	Credential   Credential    // nil adds nothing
	Fingerprint  string        // of what Envoy is to carry out for it: see call
	PassResponse bool          // answers are not to come by here; whether they do is a fact of the call
	MaxHead      int64         // bytes of header fields; 0 is no limit
	MaxAnswer    int64         // bytes of any answer; 0 is no limit
	MaxRedacted  int64         // bytes of an answer that is redacted
	StreamBody   bool          // policy rules on the head alone
	Hold         time.Duration // how long a request is held while people are asked; 0 hands over at once
	ByAuthz      bool          // it is attached by ext_authz
	RequestTime  time.Duration // how long a request that is inspected may take to arrive whole; 0 is no limit

	// ResponseHeaders are names, or prefixes that end with "-*", of fields that may pass with a redacted answer beside those
	// of package web's list.
	ResponseHeaders []string

	Cookies       Cookies
	SecureCookies bool // agents connect over TLS, so that a cookie that is Secure comes back

	forms atomic.Pointer[needles] // of the credential that was sent last
}

// State is everything that a reload replaces. It is made whole, swapped in at once, and loaded once for an operation.
type State struct {
	Gate      *gate.Gate
	Identity  Verifier
	Resources map[string]*Resource
	RedactKey []byte
	CookieKey []byte // seals session cookies; at least 16 bytes where a resource has them
	Memory    int64  // bytes that operations may take at one time, all together; none can begin while it is 0

	plans plans
}

// Options are what a Server is made of. Every field but Observer is required.
type Options struct {
	Log      *slog.Logger
	Now      func() time.Time
	Alarm    func(kind, detail string) // for whoever runs the gateway
	Observer Observer
}

// Observer counts what happens, for metrics. A nil function is not called.
type Observer struct {
	Decided  func(op *gate.Operation, r gate.Ruling, took time.Duration)
	Finished func(resource string, result gate.Result, took time.Duration)
}

// Server is the services that Envoy calls.
type Server struct {
	ext.UnimplementedExternalProcessorServer
	authz.UnimplementedAuthorizationServer
	accesslog.UnimplementedAccessLogServiceServer

	opt       Options
	state     atomic.Pointer[State]
	held      atomic.Int64
	work      sync.WaitGroup
	mu        sync.RWMutex // guards draining, and a swap, against work that begins
	draining  bool
	stopping  context.Context // done when nothing new is accepted
	stop      context.CancelFunc
	closing   chan struct{}
	outcomes  outcomes
	clocks    clocks
	differing differing
	memory    memory
}

// New returns a server without a state: it refuses everything until [Server.Swap] gives it one.
func New(opt Options) *Server {
	s := &Server{opt: opt, closing: make(chan struct{})}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.outcomes.pending = map[string]*pendingOutcome{}
	return s
}

// Swap makes st the state of every operation that begins from now on. record, which may be nil, runs first, while nothing
// can begin: what it writes is true from the moment it can be read. Where it fails the old state stays.
func (s *Server) Swap(st *State, record func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if record != nil {
		if err := record(); err != nil {
			return err
		}
	}
	if s.state.Swap(st) != nil {
		s.differing.reloaded(s.opt.Now())
	}
	s.memory.resize(st.Memory)
	return nil
}

// Register adds the services to g.
func (s *Server) Register(g *grpc.Server) {
	ext.RegisterExternalProcessorServer(g, s)
	authz.RegisterAuthorizationServer(g, s)
	accesslog.RegisterAccessLogServiceServer(g, s)
}

// Judged is the most memory that operations have taken at one time since it was last asked for, and what they take now.
func (s *Server) Judged() (most, now int64) { return s.memory.peak() }

// Judging is the memory that operations take now.
func (s *Server) Judging() int64 {
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	return s.memory.taken
}

// Held is how many operations wait for people.
func (s *Server) Held() int { return int(s.held.Load()) }

// StopAccepting refuses what begins from now on.
func (s *Server) StopAccepting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	s.stop()
}

// Drain refuses what begins from now on and waits for what is under way. Its error is that of ctx.
func (s *Server) Drain(ctx context.Context) error {
	s.StopAccepting()
	done := make(chan struct{})
	go guard.Func("the drain", func() {
		defer close(done)
		s.work.Wait()
		s.outcomes.settle(ctx)
	})()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("drain: operations were still under way: %w", context.Cause(ctx))
	}
	select {
	case <-s.closing:
	default:
		close(s.closing)
	}
	s.outcomes.giveUp(func(*pendingOutcome) bool { return true }, "the gateway stopped before Envoy told how the operation ended")
	return err
}

var errDraining = errors.New("the gateway is stopping")

// begin counts one operation as under way, unless the server drains. end must be called where it returns no error.
func (s *Server) begin() (st *State, end func(), err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.draining {
		return nil, nil, errDraining
	}
	st = s.state.Load()
	if st == nil {
		return nil, nil, errors.New("no configuration is active")
	}
	s.work.Add(1)
	return st, s.work.Done, nil
}

func (s *Server) decided(op *gate.Operation, r gate.Ruling, since time.Time) {
	if f := s.opt.Observer.Decided; f != nil {
		f(op, r, s.opt.Now().Sub(since))
	}
}

func (s *Server) finish(g *gate.Gate, resource string, r gate.Ruling, o gate.Outcome) {
	defer s.count(resource, o.Result, o.Duration)
	if r.Receipt().Seq == 0 {
		return // the decision was not recorded, and the operation was refused for it
	}
	if err := g.Finish(context.Background(), r, o); err != nil {
		s.opt.Log.Error("the outcome of an operation could not be recorded", "operation", r.Operation(), "error", err)
	}
}

// count is for metrics, and undoes nothing of what has happened.
func (s *Server) count(resource string, result gate.Result, took time.Duration) {
	if f := s.opt.Observer.Finished; f != nil {
		defer guard.Catch("the counting of operations", nil)
		f(resource, result, took)
	}
}
