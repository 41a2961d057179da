package approval

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/extproc/guard"
)

// Wait says that agents wait at a gateway for the answer.
type Wait struct {
	Node  string    `json:"node"`
	Count int       `json:"count"`
	Until time.Time `json:"until"` // when the last of them gives up
}

// Outcome says how the operation ended that a grant was spent by. The proof of it is the record operation.finished.
type Outcome struct {
	Result string        `json:"result"` // as the record has it
	Status int           `json:"status"` // 0 where the kind has none
	Took   time.Duration `json:"took"`
}

// WaitingNow says how many agents wait for an answer to r, and until when the last of them does.
func (r *Request) WaitingNow(now time.Time) (count int, until time.Time) {
	if r.State != Pending {
		return 0, time.Time{}
	}
	for _, w := range r.Waiting {
		if now.Before(w.Until) {
			count += w.Count
			if w.Until.After(until) {
				until = w.Until
			}
		}
	}
	return count, until
}

// NewsSince reports whether people who look at r want to know what has changed since before: a store's Watch tells of it.
func (r *Request) NewsSince(before *Request) bool {
	ended := func(r *Request) bool { return r.Spent != nil && r.Spent.Outcome != nil }
	return r.State != before.State || len(r.Decisions) != len(before.Decisions) || !slices.Equal(r.Waiting, before.Waiting) || ended(r) != ended(before)
}

// news is what people are told and no record or decision depends on: who waits now, and how what was approved has ended. It is written
// to the store behind the operations, several requests at a time, again and again until the store takes it, and is lost where the
// gateway dies.
type news struct {
	mu    sync.Mutex
	ended map[string]ending
	wake  chan struct{}
}

type ending struct {
	op      string
	outcome Outcome
}

// newsEvery is how often it is written. A hold that is shorter is as a rule not told of.
const newsEvery = 250 * time.Millisecond

func (n *news) init() {
	n.ended, n.wake = map[string]ending{}, make(chan struct{}, 1)
}

func (n *news) stir() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Ended notes how the operation ended that has spent the grant of a request.
func (d *Desk) Ended(id, op string, o Outcome) {
	n := &d.news
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended[id] = ending{op, o}
	n.stir()
}

// tellNews writes the news until ctx ends.
func (d *Desk) tellNews(ctx context.Context) {
	tick := time.NewTicker(newsEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.news.wake:
		case <-ctx.Done():
			return
		}
		select {
		case <-tick.C: // what comes together is written together
		case <-ctx.Done():
			return
		}
		d.writeNews(ctx)
	}
}

// item is what the store is to be told of one request.
type item struct {
	id         string
	wait       *Wait
	ended      *ending
	toldBefore Wait
}

// takeNews returns what the store does not know.
func (d *Desk) takeNews(now time.Time) []item {
	list := d.waiting.untold(d.node, now)
	d.news.mu.Lock()
	defer d.news.mu.Unlock()
	for id, e := range d.news.ended {
		list = append(list, item{id: id, ended: &e})
	}
	clear(d.news.ended)
	return list
}

// untold is what the store does not know of those who wait.
func (w *waiting) untold(node string, now time.Time) (list []item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, t := range w.topics {
		is := t.now(node)
		if is != t.stored && (is.Count > 0 || now.Before(t.stored.Until)) { // whose time is over is not waited for, whatever is stored
			list = append(list, item{id: id, wait: &is, toldBefore: t.stored})
			t.stored = is
		}
		if len(t.until) == 0 {
			delete(w.topics, id)
		}
	}
	return list
}

// now is what the store is to be told: nothing where nobody is known to leave again.
func (t *topic) now(node string) (is Wait) {
	if len(t.until) > 0 {
		is.Until = slices.MaxFunc(t.until, time.Time.Compare).UTC()
	}
	if !is.Until.IsZero() {
		is.Node, is.Count = node, len(t.until)
	}
	return is
}

// keepNews takes back what could not be told, for the next time.
func (d *Desk) keepNews(x *item) {
	if x.ended != nil {
		d.news.mu.Lock()
		defer d.news.mu.Unlock()
		d.news.ended[x.id] = *x.ended
		return
	}
	d.waiting.mu.Lock()
	defer d.waiting.mu.Unlock()
	d.waiting.topicLocked(x.id).stored = x.toldBefore
}

// writeNews writes what the store does not know.
func (d *Desk) writeNews(ctx context.Context) {
	var failed atomic.Pointer[error]
	each(ctx, "the news of approvals", d.takeNews(time.Now()), func(x item) {
		_, err := d.change(ctx, x.id, func(_ time.Time, r *Request) error { return x.tell(d.node, r) })
		for _, never := range []error{errDone, ErrNotFound, ErrDue, ErrRolledBack} {
			if errors.Is(err, never) {
				return
			}
		}
		if err != nil {
			d.keepNews(&x)
			failed.Store(&err)
		}
	})
	if err := failed.Load(); err != nil && ctx.Err() == nil {
		d.log.Warn("approvals: people are not told yet of who waits, or of how what they approved has ended; trying again", "error", *err)
	}
}

// tell changes r by the news, or returns errDone where it is none.
func (x *item) tell(node string, r *Request) error {
	switch {
	case x.wait != nil && r.State == Pending:
		r.Waiting = slices.DeleteFunc(slices.Clone(r.Waiting), func(w Wait) bool { return w.Node == node || !time.Now().Before(w.Until) })
		if x.wait.Count > 0 {
			r.Waiting = append(r.Waiting, *x.wait)
		}
	case x.ended != nil && r.Spent != nil && r.Spent.Op == x.ended.op && r.Spent.Outcome == nil:
		r.Spent.Outcome = &x.ended.outcome
	default:
		return errDone
	}
	return nil
}

// each calls f for every one of a list, several at a time: a store commits those that come together.
func each[T any](ctx context.Context, what string, list []T, f func(T)) {
	queue := make(chan T)
	var workers sync.WaitGroup
	for range min(32, len(list)) {
		workers.Go(guard.Loop(ctx, what, func() {
			for x := range queue {
				f(x)
			}
		}))
	}
	for _, x := range list {
		select {
		case queue <- x:
		case <-ctx.Done():
		}
	}
	close(queue)
	workers.Wait()
}
