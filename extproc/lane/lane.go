// Package lane is the life of an operation, the same for every kind of resource: it begins under the configuration of that
// moment, says who acts, is decided, is held while people are asked, and is allowed or refused; and it ends with one record. A
// [Lane] has what all operations share: the active [State], the account of memory, the wait for Envoy's access log, the drain.
// An [Attempt] is one operation.
//
// A kind's session (an HTTP exchange, a connection, later a statement of SQL) makes one Attempt for each operation and loads the
// state with each, so that a reload holds for the next one. The package knows no protocol. It neither reads a request nor
// writes an answer: the kind does both, and says through a [Holder] what a hold means for it.
//
//	st, end, err := l.Begin()            // refused while the gateway stops
//	a := l.Attempt(st, asked)
//	a.Identify(ctx, …) && a.Decide(ctx, holder)
//	… carry it out …
//	a.Finish(outcome)                    // or Expect, and then Await Envoy's access log
//
// Nothing here allows: that is [gate.Gate.Decide]'s. Every method that returns false has recorded the refusal and kept what
// the agent is to be told, [Attempt.Refusal].
package lane

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// Verifier turns an agent's token into a principal.
type Verifier interface {
	// Verify returns who the token was issued to. Its error is an *identity.Refusal.
	Verify(ctx context.Context, token string) (*gate.Principal, error)
	// VerifyCertificate returns whom a client's certificate is for. Its error is an *identity.Refusal.
	VerifyCertificate(leaf *x509.Certificate) (*gate.Principal, error)
	// Still is nil while a principal that was verified, perhaps before a reload, would not be refused for who it is. Its error is
	// an *identity.Refusal. The token's time is not its to tell.
	Still(p *gate.Principal) error
}

// Resource is a target, as far as it is the same for every kind.
type Resource struct {
	gate.Resource
	Fingerprint string        // of what Envoy is to carry out for it
	Hold        time.Duration // how long an operation is held while people are asked; 0 hands over at once

	// EndWithToken ends what is under way when the agent's token does: see [Attempt.EndWithToken].
	EndWithToken bool

	// Own is what the resource's kind made of its configuration. Only the kind's package looks into it.
	Own any
}

// State is everything that a reload replaces. It is made whole, swapped in at once, and loaded once for an operation.
type State struct {
	Gate      *gate.Gate
	Identity  Verifier
	Resources map[string]*Resource
	Memory    int64 // bytes that operations may take at one time, all together; none can begin while it is 0
}

// Options are what a Lane is made of. Every field but Observer is required.
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

	TargetFailed func(resource string) // by Envoy's word; "other" where it names no resource of the configuration
}

// Lane is what all operations of a gateway share.
type Lane struct {
	Options

	state    atomic.Pointer[State]
	held     atomic.Int64
	work     sync.WaitGroup
	mu       sync.RWMutex // guards draining, and a swap, against work that begins
	draining bool
	stopping context.Context // done when nothing new is accepted
	stop     context.CancelFunc
	closing  chan struct{}
	once     sync.Once // closes closing
	outcomes outcomes
	endings  endings
	watches  watches
	memory   memory
	reloaded atomic.Pointer[time.Time]
}

// New returns a lane without a state: it refuses everything until [Lane.Swap] gives it one.
func New(opt Options) *Lane {
	l := &Lane{Options: opt, closing: make(chan struct{})}
	l.stopping, l.stop = context.WithCancel(context.Background())
	l.outcomes.pending = map[string]*pendingOutcome{}
	return l
}

// Swap makes st the state of every operation that begins from now on. record, which may be nil, runs first, while nothing
// can begin: what it writes is true from the moment it can be read. Where it fails the old state stays.
func (l *Lane) Swap(st *State, record func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if record != nil {
		if err := record(); err != nil {
			return err
		}
	}
	if l.state.Swap(st) != nil {
		now := l.Now()
		l.reloaded.Store(&now)
	}
	l.memory.resize(st.Memory)
	l.endings.look()
	l.watches.tell()
	return nil
}

// AfterSwap has f be called after each [Lane.Swap] from now on, from a goroutine of its own: for what is open and belongs to no
// operation. stop ends that; f can be under way then.
func (l *Lane) AfterSwap(f func()) (stop func()) { return l.watches.add(f) }

// watches are who is told of each swap.
type watches struct {
	mu sync.Mutex
	of map[*func()]bool
}

func (w *watches) add(f func()) (stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of == nil {
		w.of = map[*func()]bool{}
	}
	w.of[&f] = true
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.of, &f)
	}
}

func (w *watches) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for f := range w.of {
		go guard.Func("what follows a reload", *f)()
	}
}

// State is the active state; nil before the first [Lane.Swap].
func (l *Lane) State() *State { return l.state.Load() }

// Reloaded is when a state took another's place; the zero time where none did.
func (l *Lane) Reloaded() time.Time {
	if t := l.reloaded.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// PeakMemory is the most memory that operations have taken at one time since it was last asked for, and what they take now.
func (l *Lane) PeakMemory() (most, now int64) { return l.memory.peak() }

// Memory is what operations take now.
func (l *Lane) Memory() int64 {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	return l.memory.taken
}

// Held is how many operations wait for people.
func (l *Lane) Held() int { return int(l.held.Load()) }

// StopAccepting refuses what begins from now on.
func (l *Lane) StopAccepting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draining = true
	l.stop()
}

// Stopping is done once nothing new is accepted.
func (l *Lane) Stopping() <-chan struct{} { return l.stopping.Done() }

// Closing is closed once nothing is under way any more, or a drain has given up.
func (l *Lane) Closing() <-chan struct{} { return l.closing }

// Drain refuses what begins from now on and waits for what is under way. Its error is that of ctx.
func (l *Lane) Drain(ctx context.Context) error {
	l.StopAccepting()
	done := make(chan struct{})
	go guard.Func("the drain", func() {
		defer close(done)
		l.work.Wait()
		l.outcomes.settle(ctx)
	})()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("drain: operations were still under way: %w", context.Cause(ctx))
	}
	l.once.Do(func() { close(l.closing) })
	l.outcomes.giveUp(func(*pendingOutcome) bool { return true }, "the gateway stopped before Envoy told how the operation ended")
	return err
}

// Begin returns the active state and counts one session as under way, unless the gateway is stopping. end must be called where
// it returns no error.
func (l *Lane) Begin() (st *State, end func(), err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.draining {
		return nil, nil, errors.New("the gateway is stopping")
	}
	st = l.state.Load()
	if st == nil {
		return nil, nil, errors.New("no configuration is active")
	}
	l.work.Add(1)
	return st, l.work.Done, nil
}
