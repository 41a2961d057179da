package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
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

// follow makes events of changes until ctx ends. begun is a watch that has begun; where it is nil another is begun.
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

// one tells what became of one request.
func (f *follower) one(ctx context.Context, c approval.Change) error {
	r, err := f.get(ctx, c.ID)
	if r == nil || err != nil {
		return err
	}
	f.put(f.news(r))
	return nil
}

// get is a request of which not all was told; nil where there is none.
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

// all tells what became of everything that is or was live, in the order in which it was asked: where there is more than the
// queue takes, the oldest goes.
func (f *follower) all(ctx context.Context) error {
	type news struct {
		asked    time.Time
		messages []*message
	}
	var all []news
	defer func() { // also where an error ends it: what is noted as told is told
		slices.SortStableFunc(all, func(a, b news) int { return a.asked.Compare(b.asked) })
		for _, n := range all {
			f.put(n.messages)
		}
	}()
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
			r := &page.Requests[i]
			delete(gone, r.ID)
			all = append(all, news{r.Created, f.news(r)})
		}
		if page.Next == "" {
			break
		}
		filter.After = page.Next
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

// news are the events of r that were not told, and notes that they are.
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
