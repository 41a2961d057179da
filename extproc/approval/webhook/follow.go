package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

// follower remembers what was told of requests that are live, and which ended lately.
type follower struct {
	n     *Notifier
	live  map[string]told // as many as the store's limits let be open
	ended map[string]bool
	order []string // ended, oldest first
}

const endedRemembered = 4096

// follow makes events of changes until ctx ends.
func (n *Notifier) follow(ctx context.Context) {
	f := &follower{n: n, live: map[string]told{}, ended: map[string]bool{}}
	for ctx.Err() == nil {
		if err := f.watch(ctx); err != nil && ctx.Err() == nil {
			n.opt.Log.Error("webhook: cannot follow the approvals; trying again", "error", err)
		}
		pause(ctx, time.Second)
	}
}

// watch tells of changes until the store ends the watch.
func (f *follower) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes, err := f.n.opt.Store.Watch(ctx)
	if err != nil {
		return err
	}
	if err := f.all(ctx); err != nil { // what changed before the watch began
		return err
	}
	for c := range changes {
		if c.ID == "" {
			err = f.all(ctx)
		} else {
			err = f.one(ctx, c)
		}
		if err != nil {
			return err // the next watch begins with all of it
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// one tells what became of one request.
func (f *follower) one(ctx context.Context, c approval.Change) error {
	if f.ended[c.ID] {
		return nil
	}
	r, err := f.n.opt.Store.Get(ctx, c.ID)
	if errors.Is(err, approval.ErrNotFound) {
		delete(f.live, c.ID)
		return nil
	}
	if err != nil {
		return err
	}
	f.tell(&r)
	return nil
}

// all tells what became of everything that is or was live.
func (f *follower) all(ctx context.Context) error {
	gone := make(map[string]bool, len(f.live))
	for id := range f.live {
		gone[id] = true
	}
	filter := approval.Filter{States: []approval.State{approval.Pending, approval.Approved}, Size: 500}
	for {
		page, err := f.n.opt.Store.List(ctx, filter)
		if err != nil {
			return err
		}
		for i := range page.Requests {
			delete(gone, page.Requests[i].ID)
			f.tell(&page.Requests[i])
		}
		if page.Next == "" {
			break
		}
		filter.After = page.Next
	}
	for id := range gone {
		if err := f.one(ctx, approval.Change{ID: id}); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) tell(r *approval.Request) {
	for _, e := range f.n.eventsOf(r, f.live[r.ID]) {
		body, err := json.Marshal(e)
		if err != nil {
			f.n.opt.Log.Error("webhook: write an event", "event", e.EventID, "error", err)
			continue
		}
		f.n.put(&message{id: e.EventID, body: body, until: time.Now().Add(f.n.opt.RetryFor)})
	}
	if r.State.Live() {
		f.live[r.ID] = told{requested: true, decisions: len(r.Decisions)}
		return
	}
	delete(f.live, r.ID)
	if f.ended[r.ID] {
		return
	}
	f.ended[r.ID] = true
	f.order = append(f.order, r.ID)
	if len(f.order) > endedRemembered {
		delete(f.ended, f.order[0])
		f.order = f.order[1:]
	}
}
