package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

// follower remembers which events of live requests were queued, and which requests have ended lately.
type follower struct {
	n     *Notifier
	live  map[string]told // bounded by the store's limits of open requests
	ended map[string]bool
	order []string // ended, oldest first
}

const endedRemembered = 4096

// follow makes events of changes until ctx ends. begun is a watch that has begun already, or nil.
func (n *Notifier) follow(ctx context.Context, begun <-chan approval.Change) {
	f := &follower{n: n, live: map[string]told{}, ended: map[string]bool{}}
	changes := approval.Follower{
		Watch: func(ctx context.Context) (<-chan approval.Change, error) {
			if first := begun; first != nil {
				begun = nil
				return first, nil
			}
			return n.opt.Store.Watch(ctx)
		},
		All: f.all, Change: f.one,
		Failed: func(err error) { n.opt.Log.Error("webhook: cannot follow the approvals; trying again", "error", err) },
	}
	changes.Run(ctx)
}

// one queues what is new of one request.
func (f *follower) one(ctx context.Context, c approval.Change) error {
	r, err := f.get(ctx, c.ID)
	if r == nil || err != nil {
		return err
	}
	f.put(f.news(r))
	return nil
}

// get returns a request that may have news; nil if it has ended and all was told, or does not exist.
func (f *follower) get(ctx context.Context, id string) (*approval.Request, error) {
	if f.ended[id] {
		return nil, nil
	}
	r, err := f.n.opt.Store.Get(ctx, id)
	if errors.Is(err, approval.ErrNotFound) {
		delete(f.live, id)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// all queues what is new of every request that is or was live, oldest request first: if the queue overflows, the oldest events are
// dropped.
func (f *follower) all(ctx context.Context) error {
	type news struct {
		asked    time.Time
		messages []*message
	}
	var all []news
	defer func() { // even after an error: f.news has noted these as told
		slices.SortStableFunc(all, func(a, b news) int { return a.asked.Compare(b.asked) })
		for _, n := range all {
			f.put(n.messages)
		}
	}()
	gone := make(map[string]bool, len(f.live))
	for id := range f.live {
		gone[id] = true
	}
	live := approval.Filter{States: []approval.State{approval.Pending, approval.Approved}}
	for page, err := range approval.Pages(ctx, f.n.opt.Store.List, live) {
		if err != nil {
			return err
		}
		for i := range page {
			r := &page[i]
			delete(gone, r.ID)
			all = append(all, news{r.Created, f.news(r)})
		}
	}
	for id := range gone {
		r, err := f.get(ctx, id)
		if err != nil {
			return err
		}
		if r != nil {
			all = append(all, news{r.Created, f.news(r)})
		}
	}
	return nil
}

func (f *follower) put(news []*message) {
	for _, m := range news {
		f.n.put(m)
	}
}

// news returns the events of r that were not queued yet, and notes that they are.
func (f *follower) news(r *approval.Request) (news []*message) {
	for _, e := range f.n.eventsOf(r, f.live[r.ID]) {
		body, err := json.Marshal(e)
		if err != nil {
			f.n.opt.Log.Error("webhook: write an event", "event", e.EventID, "error", err)
			continue
		}
		news = append(news, &message{id: e.EventID, body: body, until: time.Now().Add(f.n.opt.RetryFor)})
	}
	if r.State.Live() {
		f.live[r.ID] = told{requested: true, decisions: len(r.Decisions)}
		return news
	}
	delete(f.live, r.ID)
	if f.ended[r.ID] {
		return news
	}
	f.ended[r.ID] = true
	f.order = append(f.order, r.ID)
	if len(f.order) > endedRemembered {
		delete(f.ended, f.order[0])
		f.order = f.order[1:]
	}
	return news
}
