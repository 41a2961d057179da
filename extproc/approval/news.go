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
	waits map[string]*wait
	ended map[string]ending
	wake  chan struct{}
}

// wait is of this gateway's agents that wait for one request.
type wait struct {
	until  []time.Time // of each
	stored Wait        // what the store was told last
}

// now is what the store is to be told.
func (w *wait) now(node string) Wait {
	if len(w.until) == 0 {
		return Wait{}
	}
	return Wait{Node: node, Count: len(w.until), Until: slices.MaxFunc(w.until, time.Time.Compare).UTC()}
}

type ending struct {
	op      string
	outcome Outcome
}

// newsEvery is how often it is written. A hold that is shorter is as a rule not told of.
const newsEvery = 250 * time.Millisecond

func (n *news) init() {
	n.waits, n.ended, n.wake = map[string]*wait{}, map[string]ending{}, make(chan struct{}, 1)
}

func (n *news) stir() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// join notes that an agent waits for a request until a time.
func (n *news) join(id string, until time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.waits[id]
	if w == nil {
		w = &wait{}
		n.waits[id] = w
	}
	w.until = append(w.until, until)
	n.stir()
}

// leave notes that it does not any more.
func (n *news) leave(id string, until time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.waits[id]
	if w == nil {
		return
	}
	if i := slices.IndexFunc(w.until, until.Equal); i >= 0 {
		w.until = slices.Delete(w.until, i, i+1)
	}
	n.stir()
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

// take returns what the store does not know.
func (n *news) take(node string, now time.Time) (list []item) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, w := range n.waits {
		is := w.now(node)
		if is != w.stored && (is.Count > 0 || now.Before(w.stored.Until)) { // whose time is over is not waited for, whatever is stored
			list = append(list, item{id: id, wait: &is, toldBefore: w.stored})
			w.stored = is
		}
		if is.Count == 0 {
			delete(n.waits, id)
		}
	}
	for id, e := range n.ended {
		list = append(list, item{id: id, ended: &e})
	}
	clear(n.ended)
	return list
}

// keep takes back what could not be told, for the next time.
func (n *news) keep(x *item) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if x.ended != nil {
		n.ended[x.id] = *x.ended
		return
	}
	if n.waits[x.id] == nil {
		n.waits[x.id] = &wait{}
	}
	n.waits[x.id].stored = x.toldBefore
}

// writeNews writes what the store does not know.
func (d *Desk) writeNews(ctx context.Context) {
	var failed atomic.Pointer[error]
	each(ctx, "the news of approvals", d.news.take(d.node, time.Now()), func(x item) {
		_, err := d.change(ctx, x.id, func(_ time.Time, r *Request) error { return x.tell(d.node, r) })
		for _, never := range []error{errDone, ErrNotFound, ErrDue, ErrRolledBack} {
			if errors.Is(err, never) {
				return
			}
		}
		if err != nil {
			d.news.keep(&x)
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
