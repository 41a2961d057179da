package approvaltest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

// wait has an agent wait at a gateway, until it gives up or is told to leave.
func (o *office) wait(t *testing.T, desk int, id string, limit time.Duration) context.CancelFunc {
	t.Helper()
	ctx, leave := context.WithTimeout(t.Context(), limit)
	t.Cleanup(leave)
	go func() { _, _ = o.desks[desk].Wait(ctx, id) }()
	return leave
}

// watched is a store that counts what is read of it, and can be away for changes.
type watched struct {
	approval.Store
	reads   atomic.Int64
	away    atomic.Bool
	refused sync.Map // ids of requests that were not changed
}

func (s *watched) Get(ctx context.Context, id string) (approval.Request, error) {
	s.reads.Add(1)
	return s.Store.Get(ctx, id)
}

func (s *watched) Update(ctx context.Context, id string, change func(time.Time, *approval.Request) error) (approval.Request, error) {
	if s.away.Load() {
		s.refused.Store(id, true)
		return approval.Request{}, errors.New("the store is away")
	}
	return s.Store.Update(ctx, id, change)
}

// watch has all desks of an office use stores that are watched.
func watch(stores *[]*watched) func(*approval.Options) {
	return func(o *approval.Options) {
		*stores = append(*stores, &watched{Store: o.Store})
		o.Store = (*stores)[len(*stores)-1]
	}
}

// testComings: an agent that comes and goes all the time must not have all others read the store each time.
func testComings(t *testing.T, open Open) {
	var stores []*watched
	o := newOffice(t, open, watch(&stores))
	ask := Verdict("p1", 2)
	r := o.ask(t, Operation(1), ask)
	const agents = 40
	for range agents {
		o.wait(t, 1, r.ID, time.Hour)
	}
	o.waiting(t, r.ID, agents, time.Hour)
	changes, err := o.stores[1].Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	told := func(count int) {
		for n := -1; n != count; { // a store can show a change before its watch tells of it
			<-changes
			got, err := o.desks[0].Get(t.Context(), r.ID)
			if err != nil {
				t.Fatal(err)
			}
			n, _ = got.WaitingNow(time.Now())
		}
	}
	before, waited := stores[1].reads.Load(), time.Hour
	for range 4 {
		waited += time.Hour
		leave := o.wait(t, 0, r.ID, waited)
		told(agents + 1)
		leave()
		told(agents)
	}
	o.approve(t, r, "bob") // of two
	<-changes
	if n := stores[1].reads.Load() - before; n >= agents {
		t.Errorf("%d agents waited, another came and went, and the store was read %d times", agents, n)
	}
	o.approve(t, r, "carol")
	await(t, "all agents to be woken", func() bool { return o.desks[1].Held() == 0 })
}

// testLateNews: what people are told is not lost where the store is away for a while.
func testLateNews(t *testing.T, open Open) {
	var stores []*watched
	o := newOffice(t, open, watch(&stores))
	op, ask := Operation(1), Verdict("p1", 1)
	r := o.approve(t, o.ask(t, op, ask), "bob")
	if !o.spend(t, op, ask) {
		t.Fatal("it was not spent")
	}
	held := o.ask(t, Operation(2), ask)
	await(t, "the records to be settled", func() bool {
		page, err := o.stores[0].List(t.Context(), approval.Filter{Unrecorded: true})
		return err == nil && len(page.Requests) == 0
	})
	for _, s := range stores {
		s.away.Store(true)
	}
	o.desks[0].Ended(r.ID, op.ID, approval.Outcome{Result: "completed", Status: 201})
	leave := o.wait(t, 0, held.ID, time.Hour)
	await(t, "both to be tried", func() bool {
		_, ended := stores[0].refused.Load(r.ID)
		_, waits := stores[0].refused.Load(held.ID)
		return ended && waits
	})
	for _, s := range stores {
		s.away.Store(false)
	}
	o.waiting(t, held.ID, 1, time.Hour)
	await(t, "the outcome", func() bool {
		got, err := o.desks[1].Get(t.Context(), r.ID)
		return err == nil && got.Spent.Outcome != nil
	})
	leave()
	o.waiting(t, held.ID, 0, 0)
}

// waiting expects that all gateways tell of so many agents, the last of which gives up after limit.
func (o *office) waiting(t *testing.T, id string, count int, limit time.Duration) {
	t.Helper()
	for i, desk := range o.desks {
		await(t, fmt.Sprintf("desk %d tells of %d that wait, the last for %v", i, count, limit), func() bool {
			r, err := desk.Get(t.Context(), id)
			n, until := r.WaitingNow(time.Now())
			left := time.Until(until)
			return err == nil && n == count && (count == 0 || left <= limit && left > limit-time.Minute)
		})
	}
}
