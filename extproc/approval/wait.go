package approval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// waiting knows who waits for which request. The answer to a request wakes those who wait for it, and people are told of them: see
// news.
type waiting struct {
	mu     sync.Mutex
	topics map[string]*topic
}

type topic struct {
	until   []time.Time   // of each who waits; zero where that is not known
	changed chan struct{} // closed at the next change
	stored  Wait          // what the store was told last
}

func (w *waiting) init() { w.topics = map[string]*topic{} }

func (w *waiting) topicLocked(id string) *topic {
	t := w.topics[id]
	if t == nil {
		t = &topic{changed: make(chan struct{})}
		w.topics[id] = t
	}
	return t
}

func (w *waiting) join(id string, until time.Time) *topic {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.topicLocked(id)
	t.until = append(t.until, until)
	return t
}

func (w *waiting) leave(id string, t *topic, until time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(t.until, until.Equal)
	t.until = slices.Delete(t.until, i, i+1)
	if len(t.until) == 0 && t.stored == (Wait{}) {
		delete(w.topics, id)
	}
}

func (w *waiting) channel(t *topic) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return t.changed
}

func (w *waiting) wake(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.topics[id]; t != nil {
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

func (w *waiting) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.topics {
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

// Held counts the operations that wait.
func (d *Desk) Held() int {
	d.waiting.mu.Lock()
	defer d.waiting.mu.Unlock()
	n := 0
	for _, t := range d.waiting.topics {
		n += len(t.until)
	}
	return n
}

// Wait returns the request when it is not pending any more. If ctx ends first, or the store cannot be read, it returns an error, and
// the operation is to be refused. It reads the store once, and again when the request is not pending any more. While it waits it
// keeps nothing of the request.
func (d *Desk) Wait(ctx context.Context, id string) (Request, error) {
	if err := d.Await(ctx, id); err != nil {
		return Request{}, err
	}
	return d.store.Get(ctx, id)
}

// Await is Wait without the request. Its stack frame is small, because thousands wait in it.
func (d *Desk) Await(ctx context.Context, id string) error {
	t, leave := d.join(ctx, id)
	defer leave()
	for {
		changed := d.waiting.channel(t)
		if pending, err := d.isPending(ctx, id); err != nil || !pending {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *Desk) join(ctx context.Context, id string) (t *topic, leave func()) {
	until, _ := ctx.Deadline()
	t = d.waiting.join(id, until)
	d.news.stir()
	return t, func() {
		d.waiting.leave(id, t, until)
		d.news.stir()
	}
}

// Answer returns the request once what this gateway has to record of it is durable, so that what an agent is told is on record.
func (d *Desk) Answer(ctx context.Context, id string) (Request, error) {
	r, err := d.store.Get(ctx, id)
	if err != nil {
		return r, err
	}
	return r, d.begin(ctx, &r)()
}

func (d *Desk) isPending(ctx context.Context, id string) (bool, error) {
	r, err := d.store.Get(ctx, id)
	if err != nil {
		return false, fmt.Errorf("look at request %s for approval: %w", id, err)
	}
	return r.State == Pending, nil
}

// Run wakes holds, closes requests that expire and makes the records that are owed, until ctx ends. It tries again if the store
// cannot be used.
func (d *Desk) Run(ctx context.Context) error {
	if !d.running.TryLock() {
		return errors.New("the desk is running already")
	}
	defer d.running.Unlock()
	var parts sync.WaitGroup
	parts.Go(guard.Loop(ctx, "the watch over approvals", func() { d.watch(ctx) }))
	parts.Go(guard.Loop(ctx, "the sweep of approvals", func() { d.tend(ctx) }))
	parts.Go(guard.Loop(ctx, "the news of approvals", func() { d.tellNews(ctx) }))
	parts.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	d.clear(last)
	d.writeNews(last)
	return nil
}

func (d *Desk) watch(ctx context.Context) {
	f := Follower{
		Watch: d.store.Watch,
		All: func(context.Context) error {
			d.waiting.wakeAll()
			return nil
		},
		Change: func(_ context.Context, c Change) error {
			d.memory.change(c)
			if c.State != Pending { // else it is about who waits, or one answer of several
				d.waiting.wake(c.ID)
			}
			return nil
		},
		Failed: func(err error) { d.log.Error("approvals: cannot watch the store; trying again", "error", err) },
	}
	f.Run(ctx)
}

func (d *Desk) tend(ctx context.Context) {
	tick := time.NewTicker(d.sweep)
	defer tick.Stop()
	started, adopted := false, time.Now()
	for {
		var err error
		if !started {
			err = d.adoptAll(ctx, 0, true)
			started = err == nil
		}
		d.clear(ctx)
		d.news.stir() // for what could not be told
		err = errors.Join(err, d.closeDue(ctx))
		if time.Since(adopted) >= d.adopt {
			err = errors.Join(err, d.adoptAll(ctx, d.adopt, false))
			adopted = time.Now()
		}
		d.memory.prune(time.Now())
		if err != nil && ctx.Err() == nil {
			d.log.Error("approvals: the store or the journal cannot be used; trying again", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// memory has what this gateway has seen of requests, so that it notices if the store loses a change.
type memory struct {
	mu   sync.Mutex
	seen map[string]seen
}

type seen struct {
	stage   int      // of the states it was in, the last
	answers []string // by nonce
	when    time.Time
}

// stage is how far a request has come: no change takes it back.
func (s State) stage() int {
	switch s {
	case Pending:
		return 0
	case Approved:
		return 1
	default:
		return 2
	}
}

// lost reports whether r, as the store has it, lacks a change that was seen and is on record. Its revision does not say so: others
// may have changed r since, and a store may lose what is only news.
func (s seen) lost(r *Request) bool {
	gone := func(answer string) bool {
		return !slices.ContainsFunc(r.Decisions, func(d Decision) bool { return d.Nonce == answer })
	}
	return r.State.stage() < s.stage || slices.ContainsFunc(s.answers, gone)
}

const (
	memoryFor   = time.Hour // most requests and grants live for less
	memoryLimit = 100_000
)

func (m *memory) init() { m.seen = map[string]seen{} }

func (m *memory) note(r *Request) { m.change(r.Change()) }

func (m *memory) change(c Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.seen[c.ID]
	s.stage, s.when = max(s.stage, c.State.stage()), time.Now()
	if c.Answer != "" && !slices.Contains(s.answers, c.Answer) {
		s.answers = append(slices.Clip(s.answers), c.Answer) // in a copy: of has given the old ones away
	}
	m.seen[c.ID] = s
}

func (m *memory) of(id string) seen {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[id]
}

// accept forgets what was seen of a request, which has been voided.
func (m *memory) accept(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.seen, id)
}

func (m *memory) prune(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, s := range m.seen {
		if now.Sub(s.when) > memoryFor || len(m.seen) > memoryLimit {
			delete(m.seen, id)
		}
	}
}

// voidRolledBack voids a request of which the store has lost a change, and raises an alarm.
func (d *Desk) voidRolledBack(ctx context.Context, id string, lost func(*Request) bool) error {
	r, err := d.store.Update(ctx, id, func(now time.Time, r *Request) error {
		if !lost(r) || !r.State.Live() {
			return errDone
		}
		d.outbox.lost(r)
		return d.voidNow(now, r, reasonRolledBack, gate.Member{Name: "forgotten", Value: true})
	})
	if errors.Is(err, errDone) {
		return nil
	}
	if err != nil {
		return err
	}
	d.memory.accept(id)
	body := gate.Object{{Name: "approval", Value: id}, {Name: "detail", Value: reasonRolledBack}, {Name: "kind", Value: "approval_store_rolled_back"}}
	alarm := d.recorder.Post(context.WithoutCancel(ctx), &gate.Record{Type: gate.Alarm, Body: body})
	return errors.Join(alarm, d.record(ctx, &r))
}
