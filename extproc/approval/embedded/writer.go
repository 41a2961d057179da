package embedded

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/guard"
)

// maxBatch is how many changes share a commit at most.
const maxBatch = 256

// gatherFor is how long a commit waits for those who are on their way back.
const gatherFor = 300 * time.Microsecond

// job is one change that waits for the writer.
type job struct {
	apply func(now time.Time) error
	err   error
	done  chan struct{}
}

// do has the writer apply a change and returns when it is durable. Once the writer has the job do waits even if ctx ends, because the
// job cannot be taken back.
func (s *Store) do(ctx context.Context, apply func(time.Time) error) error {
	j := &job{apply: apply, done: make(chan struct{})}
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		return fmt.Errorf("wait for the approvals file: %w", ctx.Err())
	case <-s.stop:
		return ErrClosed
	}
	select {
	case <-j.done:
		return j.err
	case <-s.done:
		select {
		case <-j.done:
			return j.err
		default:
			return ErrClosed
		}
	}
}

func (s *Store) run() {
	defer close(s.done)
	for s.turn() {
	}
}

// turn does one thing, and returns false at the end. After a panic the store takes nothing more.
func (s *Store) turn() (more bool) {
	defer guard.Catch("the approvals file", func(p guard.Panic) {
		_ = s.fail(errors.New("its writer panicked: " + p.Value))
		more = true
	})
	select {
	case j := <-s.jobs:
		s.commit(s.gather(j))
	case <-s.due.C:
		s.rotate()
	case err := <-s.folded:
		s.hasFolded(err)
	case <-s.stop:
		s.finish()
		return false
	}
	return true
}

// finish answers those who wait, and folds what is in the log.
func (s *Store) finish() {
	for more := true; more; {
		select {
		case j := <-s.jobs:
			s.commit(s.gather(j))
		default:
			more = false
		}
	}
	for range 2 { // the fold that may be under way, and one of what came meanwhile
		if s.folding {
			s.hasFolded(<-s.folded)
		}
		s.rotate()
	}
	if s.err() == nil {
		_ = s.log.forget() // what stays is of turns that are in the file
	}
}

// gather takes the jobs that wait. After a batch of several it gives their callers a moment to come back. Otherwise the first one
// would take the disk for itself, and the others would wait a whole commit longer.
func (s *Store) gather(first *job) []*job {
	batch := []*job{first}
	var patience <-chan time.Time
	if s.lastBatch > 1 {
		patience = time.After(gatherFor)
	}
	for len(batch) < maxBatch {
		select {
		case j := <-s.jobs:
			batch = append(batch, j)
			continue
		default:
		}
		if patience == nil || len(batch) >= s.lastBatch {
			break
		}
		select {
		case j := <-s.jobs:
			batch = append(batch, j)
		case <-patience:
			patience = nil
		}
	}
	s.lastBatch = len(batch)
	return batch
}

// commit applies a batch in one write and answers it.
func (s *Store) commit(batch []*job) {
	err := errPanicked
	defer func() {
		for _, j := range batch {
			if err != nil && j.err == nil {
				j.err = err
			}
			close(j.done)
		}
	}()
	if failed := s.err(); failed != nil {
		err = failed
		return
	}
	err = s.apply(batch)
}

var errPanicked = errors.New("the writer of the approvals file panicked")

// try applies a change. If that panics, for example because a card cannot be made, it is an error of that change alone.
func (j *job) try(now time.Time) {
	defer guard.Catch("a change of a request for approval", func(p guard.Panic) { j.err = errors.New("the change panicked: " + p.Value) })
	j.err = j.apply(now)
}

func (s *Store) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *Store) apply(batch []*job) error {
	if s.folding && s.log.size >= logBytes {
		s.hasFolded(<-s.folded)
	}
	s.mu.Lock()
	s.batch = s.batch[:0]
	now := s.clock.now()
	for _, j := range batch {
		j.try(now)
	}
	s.state.forgetRates(now)
	s.mu.Unlock()
	if len(s.batch) == 0 {
		return nil
	}
	first := s.log.size == 0
	s.point()
	// Not under the lock: Open and Update go through here, and who reads meanwhile does not see what is not durable.
	if err := s.log.append(now.UnixNano(), s.batch); err != nil {
		return s.fail(err)
	}
	s.point()
	s.mu.Lock()
	for _, v := range s.batch {
		if before := s.recent[v.request.ID]; v.card == nil && before != nil {
			v.card = before.card
		}
		s.recent[v.request.ID] = v
	}
	s.mu.Unlock()
	if first {
		s.due.Reset(s.foldEvery)
	}
	if s.log.size >= s.foldBytes {
		s.rotate()
	}
	return nil
}

// fail ends the store: memory and disk are in doubt.
func (s *Store) fail(cause error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = fmt.Errorf("%w: %w", ErrFailed, cause)
	for feed := range s.feeds {
		feed.Put(approval.Change{})
	}
	return s.failed
}

// forget removes a few requests that were closed before a time.
func forget(tx *bolt.Tx, before time.Time) error {
	c := tx.Bucket(bucketFinal).Cursor()
	limit := uint64(before.UnixNano())
	for range 16 {
		key, _ := c.First()
		if len(key) < 8 || binary.BigEndian.Uint64(key) >= limit {
			return nil
		}
		id := key[8:]
		if tx.Bucket(bucketUnrecorded).Get(id) != nil {
			return nil
		}
		if err := tx.Bucket(bucketRequests).Delete(id); err != nil {
			return err
		}
		if err := tx.Bucket(bucketCards).Delete(id); err != nil {
			return err
		}
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// state is what is live, in memory.
type state struct {
	live       map[string]*approval.Request
	byDigest   map[string]*approval.Request
	byAgent    map[approval.Party]int
	byResource map[string]int
	rates      map[approval.Party]rate
	forgotten  time.Time // when rates were last forgotten
}

type rate struct {
	from   time.Time
	window time.Duration
	n      int
}

func (t *state) init() {
	t.live = map[string]*approval.Request{}
	t.byDigest = map[string]*approval.Request{}
	t.byAgent = map[approval.Party]int{}
	t.byResource = map[string]int{}
	t.rates = map[approval.Party]rate{}
}

func (t *state) add(r *approval.Request) {
	t.live[r.ID] = r
	t.byDigest[r.Digest] = r
	t.byAgent[r.Agent]++
	t.byResource[r.Resource]++
}

// replace puts r, which may be final, in the place of its former self.
func (t *state) replace(r *approval.Request) {
	if _, ok := t.live[r.ID]; !ok {
		return
	}
	if r.State.Live() {
		t.live[r.ID], t.byDigest[r.Digest] = r, r
		return
	}
	delete(t.live, r.ID)
	delete(t.byDigest, r.Digest)
	if t.byAgent[r.Agent]--; t.byAgent[r.Agent] == 0 {
		delete(t.byAgent, r.Agent)
	}
	if t.byResource[r.Resource]--; t.byResource[r.Resource] == 0 {
		delete(t.byResource, r.Resource)
	}
}

// room says which bound a new request would break.
func (t *state) room(o *approval.Opening, now time.Time) error {
	l := &o.Limits
	for _, bound := range []struct {
		what        string
		have, limit int
	}{
		{approval.LimitAgent, t.byAgent[o.Agent], l.PerAgent},
		{approval.LimitResource, t.byResource[o.Resource], l.PerResource},
		{approval.LimitTotal, len(t.live), l.Total},
		{approval.LimitRate, t.rates[o.Agent].now(now, l.RateWindow), l.Rate},
	} {
		if bound.limit > 0 && bound.have >= bound.limit {
			return &approval.LimitError{What: bound.what, Limit: bound.limit}
		}
	}
	return nil
}

func (r rate) now(now time.Time, window time.Duration) int {
	if now.Sub(r.from) >= cmp.Or(window, time.Minute) {
		return 0
	}
	return r.n
}

func (t *state) count(o *approval.Opening, now time.Time) {
	window := cmp.Or(o.Limits.RateWindow, time.Minute)
	r := t.rates[o.Agent]
	if r.now(now, window) == 0 {
		r = rate{from: now, window: window}
	}
	r.n++
	t.rates[o.Agent] = r
}

func (t *state) forgetRates(now time.Time) {
	if now.Sub(t.forgotten) < time.Minute {
		return
	}
	t.forgotten = now
	for agent, r := range t.rates {
		if now.Sub(r.from) >= r.window {
			delete(t.rates, agent)
		}
	}
}

// clock is a wall clock that never goes back.
type clock struct {
	mu     sync.Mutex
	wall   func() time.Time
	anchor time.Time // with its monotonic reading
	base   time.Time // what the clock said at anchor
	last   time.Time
}

func (c *clock) init(wall func() time.Time, last time.Time) {
	c.wall = wall
	c.anchor = wall()
	c.base = c.anchor.Round(0)
	if last.After(c.base) {
		c.base = last
	}
	c.last = c.base
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := c.wall()
	for _, t := range []time.Time{c.base.Add(wall.Sub(c.anchor)), wall.Round(0)} {
		if t.After(c.last) {
			c.last = t
		}
	}
	return c.last.UTC()
}
