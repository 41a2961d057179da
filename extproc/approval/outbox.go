package approval

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// outbox remembers which events this gateway has recorded and not yet taken out of the store.
type outbox struct {
	mu       sync.Mutex
	recorded map[string]map[uint64]bool // request -> revision
	flights  map[eventKey]*flight
}

type eventKey struct {
	id  string
	rev uint64
}

// flight is an append to the journal that is under way. Others can wait for it.
type flight struct {
	key  eventKey
	done chan struct{}
	err  error
}

func (o *outbox) init() {
	o.recorded = map[string]map[uint64]bool{}
	o.flights = map[eventKey]*flight{}
}

// drop takes out of r's outbox what this gateway has recorded, and reports whether that was anything.
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

// forget drops what is known of r's events, except of those that r, as it is stored now, still has in its outbox.
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

// lost drops what is known of events that the store has lost: the changes to come have their revisions.
func (o *outbox) lost(r *Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.DeleteFunc(o.recorded[r.ID], func(rev uint64, _ bool) bool { return rev > r.Rev })
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

// record appends r's outbox to the journal, oldest first, whichever gateway put it there.
func (d *Desk) record(ctx context.Context, r *Request) error {
	for _, e := range r.Outbox {
		if err := d.recordEvent(ctx, r.ID, e); err != nil {
			return fmt.Errorf("%w: %s of request %s: %w", ErrUnrecorded, e.Type, r.ID, err)
		}
	}
	return nil
}

// recordEvent appends an event once, even if several callers find it in the store at the same time.
func (d *Desk) recordEvent(ctx context.Context, id string, e Event) error {
	f, mine := d.outbox.board(eventKey{id, e.Rev})
	if !mine {
		return f.wait()
	}
	// Wait for the journal even if the caller has left: without its answer nobody knows whether the record stands.
	return d.land(f, func() (gate.Receipt, error) { return d.recorder.Append(context.WithoutCancel(ctx), e.record()) })
}

// begin queues this gateway's own events of r's outbox in the journal. recorded waits until all of them are durable. It must be
// called, because others may wait for the same records.
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

// landed is the flight of an event that is recorded already.
var landed = func() *flight {
	f := &flight{done: make(chan struct{})}
	close(f.done)
	return f
}()

func (f *flight) wait() error {
	<-f.done // the journal always answers
	return f.err
}

// board returns the flight of an event. If it is the caller's own, the caller must land it.
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

// land waits for the journal and passes its answer on to those who wait for the flight.
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
	return err
}

// clear takes recorded events out of the store. It tries again next time what fails.
func (d *Desk) clear(ctx context.Context) {
	each(ctx, "the clearing of the outbox", d.outbox.ids(), func(id string) {
		r, err := d.change(ctx, id, func(_ time.Time, r *Request) error {
			if !d.outbox.drop(r) {
				return errDone
			}
			return nil
		})
		if err == nil || errors.Is(err, errDone) || errors.Is(err, ErrNotFound) {
			r.ID = id
			d.outbox.forget(&r)
		}
	})
}

// adoptAll makes the records that are still owed for requests which have not changed for idle: with mine only this gateway's own
// events, otherwise also those of gateways that did not come back.
func (d *Desk) adoptAll(ctx context.Context, idle time.Duration, mine bool) error {
	for page, err := range Pages(ctx, d.store.List, Filter{Unrecorded: true, Idle: idle}) {
		if err != nil {
			return fmt.Errorf("look for changes without a record: %w", err)
		}
		for i := range page {
			r := &page[i]
			if mine {
				r.Outbox = slices.DeleteFunc(r.Outbox, func(e Event) bool { return e.Node != d.node })
			}
			if err := d.record(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// Settle does once what Run does again and again: it makes the records that are owed, closes requests past their deadline, and takes
// recorded events out of the store. It is for tests.
func (d *Desk) Settle(ctx context.Context) error {
	err := errors.Join(d.adoptAll(ctx, 0, true), d.adoptAll(ctx, d.adopt, false), d.closeDue(ctx))
	d.clear(ctx)
	return err
}

// closeDue closes requests past their deadline.
func (d *Desk) closeDue(ctx context.Context) error {
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
