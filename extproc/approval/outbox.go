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

// outbox remembers which events this gateway has recorded and not yet taken out of the store.
type outbox struct {
	mu       sync.Mutex
	recorded map[string]map[uint64]bool // request -> revision
	flights  map[eventKey]*flight
	dirty    chan struct{}
}

type eventKey struct {
	id  string
	rev uint64
}

// flight is an append that others can wait for.
type flight struct {
	key  eventKey
	done chan struct{}
	err  error
}

func (o *outbox) init() {
	o.recorded = map[string]map[uint64]bool{}
	o.flights = map[eventKey]*flight{}
	o.dirty = make(chan struct{}, 1)
}

// drop takes out of r what was recorded. It reports whether there was any.
func (o *outbox) drop(r *Request) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	revs := o.recorded[r.ID]
	if len(revs) == 0 {
		return false
	}
	before := len(r.Outbox)
	r.Outbox = slices.DeleteFunc(r.Outbox, func(e Event) bool { return revs[e.Rev] })
	return len(r.Outbox) < before
}

// forget is called when the stored r does not have the events any more.
func (o *outbox) forget(r *Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	left := map[uint64]bool{}
	for _, e := range r.Outbox {
		if o.recorded[r.ID][e.Rev] {
			left[e.Rev] = true
		}
	}
	if len(left) == 0 {
		delete(o.recorded, r.ID)
		return
	}
	o.recorded[r.ID] = left
}

func (o *outbox) ids() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := make([]string, 0, len(o.recorded))
	for id := range o.recorded {
		ids = append(ids, id)
	}
	return ids
}

// record appends to the journal what is in r's outbox, oldest first, whichever gateway put it there.
func (d *Desk) record(ctx context.Context, r *Request) error {
	for _, e := range r.Outbox {
		if err := d.recordEvent(ctx, r.ID, e); err != nil {
			return fmt.Errorf("%w: %s of request %s: %w", ErrUnrecorded, e.Type, r.ID, err)
		}
	}
	return nil
}

// recordEvent appends an event once, also when several callers find it in the store at the same time.
func (d *Desk) recordEvent(ctx context.Context, id string, e Event) error {
	f, mine := d.outbox.board(eventKey{id, e.Rev})
	if !mine {
		return f.wait()
	}
	// The journal's answer is waited for even where the caller has left: only then is it known what the record says.
	return d.land(f, func() (gate.Receipt, error) { return d.recorder.Append(context.WithoutCancel(ctx), e.record()) })
}

// begin puts what is in r's outbox, and is this gateway's own, into the journal's queue. What it returns waits until all of it
// is durable, and must be called: others may wait for the same records.
func (d *Desk) begin(ctx context.Context, r *Request) (recorded func() error) {
	var flights []func() error
	for _, e := range r.Outbox {
		if e.Node != d.node {
			continue
		}
		f, mine := d.outbox.board(eventKey{r.ID, e.Rev})
		if !mine {
			flights = append(flights, f.wait)
			continue
		}
		durable := d.recorder.Begin(context.WithoutCancel(ctx), e.record())
		flights = append(flights, func() error { return d.land(f, durable) })
	}
	id := r.ID
	return func() error {
		var errs []error
		for _, landed := range flights {
			if err := landed(); err != nil {
				errs = append(errs, fmt.Errorf("%w: request %s: %w", ErrUnrecorded, id, err))
			}
		}
		return errors.Join(errs...)
	}
}

func (e *Event) record() *gate.Record {
	return &gate.Record{Type: e.Type, Op: e.Op, Body: line(e.Body)}
}

// landed is the flight of what is recorded already.
var landed = func() *flight {
	f := &flight{done: make(chan struct{})}
	close(f.done)
	return f
}()

func (f *flight) wait() error {
	<-f.done // the journal answers always
	return f.err
}

// board returns the flight of an event. Where it is the caller's, the caller must land it.
func (o *outbox) board(key eventKey) (f *flight, mine bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.recorded[key.id][key.rev] {
		return landed, false
	}
	if f := o.flights[key]; f != nil {
		return f, false
	}
	f = &flight{key: key, done: make(chan struct{})}
	o.flights[key] = f
	return f, true
}

// land waits for the journal and tells who waits for the same.
func (d *Desk) land(f *flight, durable func() (gate.Receipt, error)) error {
	receipt, err := durable()
	if err == nil && receipt.Seq == 0 {
		err = errors.New("the journal gave no receipt")
	}
	o := &d.outbox
	o.mu.Lock()
	f.err = err
	delete(o.flights, f.key)
	if err == nil {
		if o.recorded[f.key.id] == nil {
			o.recorded[f.key.id] = map[uint64]bool{}
		}
		o.recorded[f.key.id][f.key.rev] = true
	}
	o.mu.Unlock()
	close(f.done)
	select {
	case o.dirty <- struct{}{}:
	default:
	}
	return err
}

// clear takes recorded events out of the store. What fails is tried again the next time.
func (d *Desk) clear(ctx context.Context) {
	ids := make(chan string)
	var workers sync.WaitGroup
	for range 32 { // a store commits those that come together
		workers.Go(guard.Loop(ctx, "the clearing of the outbox", func() {
			for id := range ids {
				r, err := d.store.Update(ctx, id, func(_ time.Time, r *Request) error {
					if !d.outbox.drop(r) {
						return errDone
					}
					return nil
				})
				if err == nil || errors.Is(err, errDone) || errors.Is(err, ErrNotFound) {
					r.ID = id
					d.outbox.forget(&r)
				}
			}
		}))
	}
	for _, id := range d.outbox.ids() {
		select {
		case ids <- id:
		case <-ctx.Done():
		}
	}
	close(ids)
	workers.Wait()
}

// adoptAll records what is in the store and was not recorded: this gateway's own events at its start, and those that
// another has left for longer than it takes to record them.
func (d *Desk) adoptAll(ctx context.Context, idle time.Duration, mine bool) error {
	filter := Filter{Unrecorded: true, Idle: idle, Size: 500}
	for {
		page, err := d.store.List(ctx, filter)
		if err != nil {
			return fmt.Errorf("look for changes without a record: %w", err)
		}
		for i := range page.Requests {
			r := &page.Requests[i]
			if mine {
				r.Outbox = slices.DeleteFunc(r.Outbox, func(e Event) bool { return e.Node != d.node })
			}
			if err := d.record(ctx, r); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		filter.After = page.Next
	}
}

// Settle closes what is past its deadline, records what was left without a record, and takes out of the store what was
// recorded. Run does it all the time; it is here for tests and for a stop.
func (d *Desk) Settle(ctx context.Context) error {
	err := errors.Join(d.adoptAll(ctx, 0, true), d.adoptAll(ctx, d.adopt, false), d.Sweep(ctx))
	d.clear(ctx)
	return err
}

// Sweep closes what is past its deadline.
func (d *Desk) Sweep(ctx context.Context) error {
	for {
		page, err := d.store.List(ctx, Filter{Due: true, Size: 500})
		if err != nil {
			return fmt.Errorf("look for expired requests: %w", err)
		}
		closed := 0
		for i := range page.Requests {
			err := d.close(ctx, page.Requests[i].ID)
			if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrNotFound) {
				return fmt.Errorf("close expired request %s: %w", page.Requests[i].ID, err)
			}
			if err == nil {
				closed++
			}
		}
		if page.Next == "" || closed == 0 {
			return nil
		}
	}
}
