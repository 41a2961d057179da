package lane

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// How long an operation whose stream broke off waits for Envoy's access log to say why, and how long one that only the
// access log can end waits once Envoy's connection is gone.
const (
	accessLogWait = 5 * time.Second
	envoyGoneWait = 10 * time.Second
)

// accessLogLag is how long Envoy may keep an entry: twice the flush interval that package xds sets.
const accessLogLag = 400 * time.Millisecond

// End is what Envoy's access log says of how one operation ended.
type End struct {
	Op                       string
	Status                   int
	BytesIn, BytesOut        int64
	Duration                 time.Duration
	ClientGone, TargetFailed bool
	Details                  string // in Envoy's words
}

// Expect notes that the operation was released: its end will be seen here, or by Envoy's access log.
func (a *Attempt) Expect() { a.lane.outcomes.expect(a) }

// Forget drops an operation whose end was seen.
func (a *Attempt) Forget() { a.lane.outcomes.forget(a.Op.ID) }

// Await leaves the end of the operation to the access log. known is what is known already. open says that the answer may still
// be on its way; where it is false the stream broke off, and known is recorded if the access log does not come.
func (a *Attempt) Await(known gate.Outcome, open bool) { a.lane.outcomes.await(a, known, open) }

// Ended takes what Envoy's access log says.
func (l *Lane) Ended(e End) { l.outcomes.seen(e) }

// LogOpen counts a stream of Envoy's access log that is open; done ends it.
func (l *Lane) LogOpen() (done func()) {
	l.outcomes.connected(1)
	return func() { l.outcomes.connected(-1) }
}

// Connection is one of Envoy's connections to the gateway; each worker thread of an Envoy has one. When it ends, nobody is left
// who could tell how the operations ended that were decided over it and that only the access log can end.
type Connection struct {
	ended bool // guarded by outcomes.mu
}

// Lost says that a connection of Envoy's has ended.
func (l *Lane) Lost(c *Connection) { l.outcomes.lost(c) }

// outcomes are the allowed operations that have not ended here. Where the answer does not come by, or the stream broke
// off, Envoy's access log says how they ended.
type outcomes struct {
	mu      sync.Mutex
	pending map[string]*pendingOutcome
	most    int       // that pending may have before room is made; maxPending where that is more
	envoys  int       // access log streams that are open
	ended   time.Time // when the last was seen to end, of which Envoy has yet to tell
}

type pendingOutcome struct {
	attempt *Attempt
	outcome gate.Outcome
	waiting bool // only the access log can end it now
	seen    *End
	timer   *time.Timer
}

// maxPending is how many operations can wait for Envoy's access log. An Envoy that keeps none, by a mistake in its
// configuration, ends none of them.
const maxPending = 1 << 16

// expect notes an operation that was allowed and released.
func (o *outcomes) expect(a *Attempt) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pending[a.Op.ID] = &pendingOutcome{attempt: a}
	if len(o.pending) >= max(o.most, maxPending) {
		o.most = 2 * len(o.pending) // until some have been given up
		go guard.Func("operations that nobody ends", o.giveUpOldest)()
	}
	if c := a.Connection; c != nil && c.ended { // while it was decided
		o.giveUpSoon(c)
	}
}

// forget drops an operation whose end was seen.
func (o *outcomes) forget(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.pending, id)
	o.ended = time.Now()
}

// await is [Attempt.Await].
func (o *outcomes) await(a *Attempt, known gate.Outcome, open bool) {
	o.mu.Lock()
	p := o.pending[a.Op.ID]
	if p == nil {
		o.mu.Unlock()
		return
	}
	p.outcome, p.waiting = known, true
	if p.seen == nil {
		if !open {
			p.timer = time.AfterFunc(accessLogWait, guard.Func("an operation that nobody ends", func() { o.expire(a.Op.ID) }))
		}
		o.mu.Unlock()
		return
	}
	delete(o.pending, a.Op.ID)
	o.mu.Unlock()
	p.finish(p.seen)
}

// seen takes an access log entry.
func (o *outcomes) seen(t End) {
	o.mu.Lock()
	p := o.pending[t.Op]
	if p == nil {
		o.mu.Unlock()
		return
	}
	if !p.waiting {
		p.seen = &t
		o.mu.Unlock()
		return
	}
	delete(o.pending, t.Op)
	o.mu.Unlock()
	p.finish(&t)
}

func (o *outcomes) expire(id string) {
	o.mu.Lock()
	p := o.pending[id]
	delete(o.pending, id)
	o.mu.Unlock()
	if p != nil {
		p.outcome.Reason = "the stream broke off, and Envoy's access log did not say why"
		p.record(p.outcome)
	}
}

// finish ends an operation as the access log says.
func (p *pendingOutcome) finish(t *End) {
	out := p.outcome
	a := p.attempt
	if !a.AnswersSeen || out.Status == 0 {
		out.Status = t.Status
	}
	if !a.AnswersSeen {
		out.BytesIn, out.BytesOut = t.BytesIn, t.BytesOut
		out.Duration = t.Duration
	}
	switch {
	case t.TargetFailed:
		out.Result, out.Reason = gate.TargetFailed, t.Details
	case t.ClientGone:
		out.Result, out.Reason = gate.ClientGone, t.Details
	case !a.AnswersSeen:
		out.Result = gate.Completed
	default:
		out.Reason = t.Details
	}
	p.record(out)
}

func (p *pendingOutcome) record(out gate.Outcome) {
	if p.timer != nil {
		p.timer.Stop()
	}
	p.attempt.Finish(out)
}

// connected counts access log streams.
func (o *outcomes) connected(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.envoys += n
}

// lost notes that a connection of Envoy's has ended. The access log may still come, by another connection. Where it does not, the
// outcome is unknown: an Envoy that was started again knows nothing of what it carried.
func (o *outcomes) lost(c *Connection) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.ended = true
	for _, p := range o.pending {
		if p.attempt.Connection == c {
			o.giveUpSoon(c)
			return
		}
	}
}

func (o *outcomes) giveUpSoon(c *Connection) {
	time.AfterFunc(envoyGoneWait, guard.Func("operations that nobody ends", func() {
		o.giveUp(func(p *pendingOutcome) bool { return p.attempt.Connection == c },
			fmt.Sprintf("Envoy's connection ended %v ago, and its access log did not tell how the operation ended", envoyGoneWait))
	}))
}

// giveUp records an unknown outcome for those that wait and for which which is true.
func (o *outcomes) giveUp(which func(*pendingOutcome) bool, reason string) {
	o.mu.Lock()
	var waiting []*pendingOutcome
	for id, p := range o.pending {
		if p.waiting && which(p) {
			waiting = append(waiting, p)
			delete(o.pending, id)
		}
	}
	o.mu.Unlock()
	for _, p := range waiting {
		p.attempt.unknown(reason)
	}
}

// giveUpOldest makes room: a quarter of those that wait goes, by when they began.
func (o *outcomes) giveUpOldest() {
	o.mu.Lock()
	var began []time.Time
	for _, p := range o.pending {
		if p.waiting {
			began = append(began, p.attempt.Started)
		}
	}
	o.mu.Unlock()
	if len(began) > 0 {
		slices.SortFunc(began, time.Time.Compare)
		last := began[len(began)/4]
		o.giveUp(func(p *pendingOutcome) bool { return !p.attempt.Started.After(last) },
			fmt.Sprintf("more than %d operations waited for Envoy's access log, and it did not tell how this one ended", maxPending))
	}
	o.mu.Lock()
	o.most = len(o.pending) + maxPending/4
	o.mu.Unlock()
}

// settle waits until nothing waits for the access log and Envoy has had the time to tell of what ended, or ctx is done.
func (o *outcomes) settle(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		o.mu.Lock()
		n, envoys, quiet := len(o.pending), o.envoys, time.Since(o.ended) > accessLogLag
		o.mu.Unlock()
		if quiet && (n == 0 || envoys == 0) { // Envoy opens its log when it has something to tell
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
