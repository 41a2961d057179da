package approvaltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

func opening(digest string) approval.Opening {
	return approval.Opening{Digest: digest, Agent: approval.Party{Issuer: People, Subject: "agent-7"}, Resource: "payments"}
}

// maker makes a request that lives for ttl.
func maker(o approval.Opening, ttl time.Duration) func(time.Time) (approval.Request, error) {
	return func(now time.Time) (approval.Request, error) {
		return approval.Request{
			ID: gate.NewID(now), Digest: o.Digest, Agent: o.Agent, Resource: o.Resource, PolicyDigest: "all", RulesDigest: "p1",
			Asks:    []approval.AskRule{{Package: "payments", ID: "refund", Approvers: []string{"<oncall>"}, Quorum: 1, Summary: "<words>"}},
			Created: now, Expires: now.Add(ttl), GrantTTL: ttl, State: approval.Pending, Card: []byte(`{"v":1}`), CardDigest: "c",
			Outbox: []approval.Event{{Rev: 1, Node: "gw-1", Type: approval.RecordRequested, Body: `{"a":"<&>\u2028"}`}},
		}, nil
	}
}

func mustOpen(t *testing.T, s approval.Store, o approval.Opening, ttl time.Duration) approval.Request {
	t.Helper()
	r, joined, err := s.Open(t.Context(), o, maker(o, ttl))
	if err != nil || joined {
		t.Fatalf("open %s: joined %t, error %v", o.Digest, joined, err)
	}
	return r
}

func set(state approval.State) func(time.Time, *approval.Request) error {
	return func(now time.Time, r *approval.Request) error {
		r.State = state
		switch state {
		case approval.Approved:
			r.GrantExpires = now.Add(r.GrantTTL)
		case approval.Pending:
		default:
			r.Closed = now
		}
		return nil
	}
}

func testStore(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, a, b approval.Store)
	}{
		{"what is stored comes back whole, at the other gateway too", storeRoundTrip},
		{"the same digest joins while the request is live, and no longer", storeJoins},
		{"of many who open one digest at once, one opens", storeOpensOnce},
		{"of many who change one revision at once, all are applied in turn", storeCompareAndSwap},
		{"a change that fails stores nothing", storeFailedChange},
		{"past its deadline a request can only be closed", storeDeadline},
		{"a final request stays final", storeFinal},
		{"bounds hold, and closing makes room", storeLimits},
		{"lists select, in pages, newest first", storeLists},
		{"a watcher is told of every change of state, by either gateway", storeWatch},
		{"a request that is not there is not found", storeNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := open(t)
			c.test(t, a, b)
		})
	}
}

func storeRoundTrip(t *testing.T, a, b approval.Store) {
	r := mustOpen(t, a, opening("d1"), time.Minute)
	got, err := b.Get(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.Rev != 1 || !bytes.Equal(got.Card, r.Card) || got.Digest != "d1" || got.State != approval.Pending ||
		!got.Expires.Equal(r.Expires) || len(got.Asks) != 1 || got.Asks[0].Approvers[0] != "<oncall>" || got.Asks[0].Summary != "<words>" || got.Outbox[0].Body != r.Outbox[0].Body {
		t.Errorf("got %+v\nwant %+v", got, r)
	}
	after, err := b.Update(t.Context(), r.ID, set(approval.Approved))
	if err != nil || after.Rev != 2 || after.State != approval.Approved {
		t.Fatalf("update: %+v, %v", after, err)
	}
	if got, err = a.Get(t.Context(), r.ID); err != nil || got.Rev != 2 || !bytes.Equal(got.Card, r.Card) {
		t.Errorf("after the update: %+v, %v", got, err)
	}
}

func storeJoins(t *testing.T, a, b approval.Store) {
	r := mustOpen(t, a, opening("d1"), time.Minute)
	for _, state := range []approval.State{approval.Pending, approval.Approved} {
		if _, err := a.Update(t.Context(), r.ID, set(state)); err != nil {
			t.Fatal(err)
		}
		got, joined, err := b.Open(t.Context(), opening("d1"), maker(opening("d1"), time.Minute))
		if err != nil || !joined || got.ID != r.ID || got.State != state || len(got.Card) == 0 {
			t.Fatalf("while it is %s: joined %t %s, %v", state, joined, got.ID, err)
		}
	}
	if _, err := a.Update(t.Context(), r.ID, set(approval.Spent)); err != nil {
		t.Fatal(err)
	}
	if again := mustOpen(t, b, opening("d1"), time.Minute); again.ID == r.ID {
		t.Error("the spent request was opened again")
	}
}

func storeOpensOnce(t *testing.T, a, b approval.Store) {
	var opened atomic.Int32
	var ids sync.Map
	crowd(64, func(i int) {
		r, joined, err := []approval.Store{a, b}[i%2].Open(t.Context(), opening("d1"), maker(opening("d1"), time.Minute))
		if err != nil {
			t.Errorf("open: %v", err)
			return
		}
		ids.Store(r.ID, true)
		if !joined {
			opened.Add(1)
		}
	})
	n := 0
	ids.Range(func(any, any) bool { n++; return true })
	if opened.Load() != 1 || n != 1 {
		t.Errorf("%d opened, %d requests", opened.Load(), n)
	}
}

func storeCompareAndSwap(t *testing.T, a, b approval.Store) {
	r := mustOpen(t, a, opening("d1"), time.Minute)
	const n = 40
	crowd(n, func(i int) {
		_, err := []approval.Store{a, b}[i%2].Update(t.Context(), r.ID, func(_ time.Time, r *approval.Request) error {
			r.Decisions = append(r.Decisions, approval.Decision{Reason: fmt.Sprint(i)})
			return nil
		})
		if err != nil {
			t.Errorf("update: %v", err)
		}
	})
	got, err := a.Get(t.Context(), r.ID)
	if err != nil || got.Rev != n+1 || len(got.Decisions) != n {
		t.Errorf("revision %d with %d decisions, %v", got.Rev, len(got.Decisions), err)
	}
}

func storeFailedChange(t *testing.T, a, b approval.Store) {
	r := mustOpen(t, a, opening("d1"), time.Minute)
	mine := errors.New("mine")
	got, err := b.Update(t.Context(), r.ID, func(_ time.Time, r *approval.Request) error {
		r.State = approval.Spent
		return mine
	})
	if !errors.Is(err, mine) || got.ID != r.ID || got.State != approval.Pending {
		t.Errorf("update: %+v, %v", got, err)
	}
	if got, _ := a.Get(t.Context(), r.ID); got.State != approval.Pending || got.Rev != 1 {
		t.Errorf("stored: %s, revision %d", got.State, got.Rev)
	}
}

func storeDeadline(t *testing.T, a, b approval.Store) {
	r := mustOpen(t, a, opening("d1"), 50*time.Millisecond)
	await(t, "the request to be due", func() bool {
		page, err := b.List(t.Context(), approval.Filter{Due: true})
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Requests) == 1 && page.Requests[0].ID == r.ID
	})
	if _, _, err := b.Open(t.Context(), opening("d1"), maker(opening("d1"), time.Minute)); !errors.Is(err, approval.ErrDue) {
		t.Errorf("open: %v", err)
	}
	// This change looks at no clock, so only the store can refuse it.
	var calls int
	_, err := b.Update(t.Context(), r.ID, func(now time.Time, r *approval.Request) error {
		if calls++; calls > 3 {
			return errors.New("called again")
		}
		return set(approval.Approved)(now, r)
	})
	if err == nil {
		t.Error("an expired request was approved")
	}
	if _, err := a.Update(t.Context(), r.ID, set(approval.Expired)); err != nil {
		t.Errorf("close it: %v", err)
	}
	if page, err := a.List(t.Context(), approval.Filter{Due: true}); err != nil || len(page.Requests) != 0 {
		t.Errorf("still due: %v, %v", page, err)
	}
}

func storeFinal(t *testing.T, a, b approval.Store) {
	r := mustOpen(t, a, opening("d1"), time.Minute)
	if _, err := a.Update(t.Context(), r.ID, set(approval.Rejected)); err != nil {
		t.Fatal(err)
	}
	for _, state := range []approval.State{approval.Pending, approval.Approved, approval.Spent} {
		if _, err := b.Update(t.Context(), r.ID, set(state)); err == nil {
			t.Errorf("a rejected request became %s", state)
		}
	}
	_, err := b.Update(t.Context(), r.ID, func(_ time.Time, r *approval.Request) error { r.Outbox = nil; return nil })
	if err != nil {
		t.Errorf("its outbox: %v", err)
	}
}

func storeLimits(t *testing.T, a, b approval.Store) {
	with := func(digest, agent, resource string, l approval.Limits) approval.Opening {
		return approval.Opening{Digest: digest, Agent: approval.Party{Issuer: People, Subject: agent}, Resource: resource, Limits: l}
	}
	first := mustOpen(t, a, with("d1", "x", "payments", approval.Limits{}), time.Minute)
	mustOpen(t, a, with("d2", "x", "payments", approval.Limits{}), time.Minute)
	for _, c := range []struct {
		o    approval.Opening
		want string
	}{
		{with("d3", "x", "other", approval.Limits{PerAgent: 2}), approval.LimitAgent},
		{with("d3", "y", "payments", approval.Limits{PerResource: 2}), approval.LimitResource},
		{with("d3", "y", "other", approval.Limits{Total: 2}), approval.LimitTotal},
		{with("d3", "x", "other", approval.Limits{Rate: 2, RateWindow: time.Minute}), approval.LimitRate},
	} {
		_, _, err := b.Open(t.Context(), c.o, maker(c.o, time.Minute))
		var limit *approval.LimitError
		if !errors.As(err, &limit) || limit.What != c.want || limit.Limit != 2 {
			t.Errorf("want %s, the error is %v", c.want, err)
		}
	}
	again := with("d1", "x", "payments", approval.Limits{Total: 1, PerAgent: 1, PerResource: 1, Rate: 1})
	if _, joined, err := b.Open(t.Context(), again, maker(again, time.Minute)); !joined || err != nil {
		t.Errorf("joining: %t, %v", joined, err)
	}
	if _, err := b.Update(t.Context(), first.ID, set(approval.Voided)); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, b, with("d4", "x", "payments", approval.Limits{Total: 2, PerAgent: 2, PerResource: 2}), time.Minute)
}

func storeLists(t *testing.T, a, b approval.Store) {
	var ids []string
	for i := range 5 {
		o := opening(fmt.Sprint("d", i))
		o.Resource = []string{"payments", "ledger"}[i%2]
		ids = append(ids, mustOpen(t, a, o, time.Minute).ID)
	}
	if _, err := a.Update(t.Context(), ids[3], set(approval.Rejected)); err != nil {
		t.Fatal(err)
	}
	_, err := a.Update(t.Context(), ids[0], func(_ time.Time, r *approval.Request) error { r.Outbox = nil; return nil })
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(ids, func(x, y string) int { return -bytes.Compare([]byte(x), []byte(y)) })
	other := approval.Party{Issuer: People, Subject: "another"}
	rejected := func() string {
		for _, id := range ids {
			if r, _ := a.Get(t.Context(), id); r.State == approval.Rejected {
				return id
			}
		}
		return ""
	}()
	for _, c := range []struct {
		name string
		f    approval.Filter
		want int
	}{
		{"all", approval.Filter{}, 5},
		{"pending", approval.Filter{States: []approval.State{approval.Pending}}, 4},
		{"rejected", approval.Filter{States: []approval.State{approval.Rejected}}, 1},
		{"pending or rejected", approval.Filter{States: []approval.State{approval.Pending, approval.Rejected}}, 5},
		{"of a resource", approval.Filter{Resource: "ledger"}, 2},
		{"of another agent", approval.Filter{Agent: &other}, 0},
		{"of a live digest", approval.Filter{Digest: "d0"}, 1},
		{"of a digest that is final", approval.Filter{Digest: "d3"}, 0},
		{"unrecorded", approval.Filter{Unrecorded: true}, 4},
		{"unrecorded for long", approval.Filter{Unrecorded: true, Idle: time.Hour}, 0},
	} {
		c.f.Size = 2
		var got []string
		for pages := 0; ; pages++ {
			page, err := b.List(t.Context(), c.f)
			if err != nil || pages > 5 {
				t.Fatalf("%s: page %d: %v", c.name, pages, err)
			}
			for _, r := range page.Requests {
				got = append(got, r.ID)
				if len(r.Card) == 0 {
					t.Errorf("%s: no card", c.name)
				}
			}
			if c.f.After = page.Next; page.Next == "" {
				break
			}
		}
		if len(got) != c.want || !slices.IsSortedFunc(got, func(x, y string) int { return -bytes.Compare([]byte(x), []byte(y)) }) {
			t.Errorf("%s: got %d: %v", c.name, len(got), got)
		}
		if c.name == "rejected" && (len(got) != 1 || got[0] != rejected) {
			t.Errorf("rejected: %v, want %s", got, rejected)
		}
	}
}

func storeWatch(t *testing.T, a, b approval.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes, err := b.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(id string, state approval.State) {
		t.Helper()
		limit := time.After(5 * time.Second)
		for {
			select {
			case c := <-changes:
				if c.ID == id && c.State == state {
					return
				}
			case <-limit:
				t.Fatalf("not told that %s is %s", id, state)
			}
		}
	}
	r := mustOpen(t, a, opening("d1"), time.Minute)
	expect(r.ID, approval.Pending)
	for _, state := range []approval.State{approval.Approved, approval.Spent} {
		if _, err := a.Update(t.Context(), r.ID, set(state)); err != nil {
			t.Fatal(err)
		}
		expect(r.ID, state)
	}
	cancel()
	for range changes { // until it is closed
	}
}

func storeNotFound(t *testing.T, a, b approval.Store) {
	if _, err := a.Get(t.Context(), "nothing"); !errors.Is(err, approval.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	_, err := b.Update(t.Context(), "nothing", func(time.Time, *approval.Request) error { return errors.New("was called") })
	if !errors.Is(err, approval.ErrNotFound) {
		t.Errorf("update: %v", err)
	}
}

// crowd calls f from n goroutines that begin together.
func crowd(n int, f func(i int)) {
	var ready, done sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-begin
			f(i)
		})
	}
	ready.Wait()
	close(begin)
	done.Wait()
}
