package approvaltest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

// testCrowd has a thousand identical operations wait at two gateways for one approval.
func testCrowd(t *testing.T, open Open) {
	o := newOffice(t, open, nil)
	v := Verdict("p1", 1)
	var spent, joined atomic.Int32
	var done sync.WaitGroup
	const n = 1000
	for i := range n {
		done.Go(func() {
			desk, op := o.desks[i%2], Operation(1)
			r, _, err := desk.Ask(t.Context(), Asking(op, v))
			if err != nil {
				t.Errorf("ask: %v", err)
				return
			}
			joined.Add(1)
			if _, err = desk.Wait(t.Context(), r.ID); err != nil {
				t.Errorf("wait: %v", err)
				return
			}
			if g, ok, err := desk.Spend(t.Context(), Spending(op, v)); err != nil {
				t.Errorf("spend: %v", err)
			} else if ok && g.For(op.ID) {
				spent.Add(1)
			}
		})
	}
	await(t, "everybody to wait", func() bool { return o.desks[0].Held()+o.desks[1].Held() == n })
	page, err := o.stores[0].List(t.Context(), approval.Filter{})
	if err != nil || len(page.Requests) != 1 {
		t.Fatalf("%d requests, %v", len(page.Requests), err)
	}
	o.approve(t, page.Requests[0], "bob")
	done.Wait()
	if spent.Load() != 1 || len(o.lines(approval.RecordSpent)) != 1 {
		t.Errorf("spent %d times, with %d records", spent.Load(), len(o.lines(approval.RecordSpent)))
	}
}

// model is what the desk should do, for one operation at a time and without expiry.
type model struct {
	state    approval.State
	policy   string
	quorum   int
	approved map[string]bool
}

func (m *model) live() bool { return m.state.Live() }

// testModel plays random stories at random gateways and compares each answer to the model's.
func testModel(t *testing.T, open Open) {
	o := newOffice(t, open, nil)
	people := []string{"bob", "dan", "eve", "alice", "agent-7", "mallory"}
	for story := range 40 {
		seed := rand.New(rand.NewPCG(uint64(story), 7))
		m := &model{}
		var r approval.Request
		var told []string
		for range 25 {
			desk, op := o.desks[seed.IntN(2)], Operation(story)
			policy, quorum := fmt.Sprint("p", 1+seed.IntN(8)/7), 1+seed.IntN(8)/7
			v := Verdict(policy, quorum)
			switch seed.IntN(6) {
			case 0, 1:
				told = append(told, "ask "+policy)
				got, joined, err := desk.Ask(t.Context(), Asking(op, v))
				if err != nil {
					t.Fatalf("story %d, %v: %v", story, told, err)
				}
				joins := m.live() && m.policy == policy && m.quorum == quorum
				if joined != joins || joins && got.ID != r.ID {
					t.Fatalf("story %d, %v: joined %t, want %t", story, told, joined, joins)
				}
				if !joins {
					*m = model{state: approval.Pending, policy: policy, quorum: quorum, approved: map[string]bool{}}
				}
				r = got
			case 2, 3, 4:
				who, approve := people[seed.IntN(len(people))], seed.IntN(8) > 0
				told = append(told, fmt.Sprintf("%s says %t", who, approve))
				if r.ID == "" {
					continue
				}
				by := Oncall(who)
				if who == "mallory" {
					by.Groups = nil
				}
				got, err := desk.Decide(t.Context(), by, r.ID, approval.Answer{Approve: approve, Card: r.CardDigest})
				if want := m.decide(who, approve); !errors.Is(err, want) || err == nil && got.State != m.state {
					t.Fatalf("story %d, %v: %s, %v; want %s, %v", story, told, got.State, err, m.state, want)
				}
			default:
				told = append(told, "spend "+policy)
				_, ok, err := desk.Spend(t.Context(), Spending(op, v))
				if want := m.spend(policy, quorum); err != nil || ok != want {
					t.Fatalf("story %d, %v: spent %t, %v; want %t", story, told, ok, err, want)
				}
			}
		}
	}
}

func (m *model) decide(who string, approve bool) error {
	switch {
	case m.state != approval.Pending:
		return approval.ErrClosed
	case who == "alice" || who == "agent-7":
		return approval.ErrOwnOperation
	case who == "mallory":
		return approval.ErrNotApprover
	case m.approved[who]:
		return approval.ErrDecidedAlready
	case !approve:
		m.state = approval.Rejected
	default:
		m.approved[who] = true
		if len(m.approved) >= m.quorum {
			m.state = approval.Approved
		}
	}
	return nil
}

func (m *model) spend(policy string, quorum int) bool {
	if m.state != approval.Approved {
		return false
	}
	if m.policy != policy || m.quorum != quorum {
		m.state = approval.Voided
		return false
	}
	m.state = approval.Spent
	return true
}

// testInterleavings has many goroutines do everything at once, at two gateways, with requests that expire in between, and
// then holds what was acknowledged to what is stored and recorded.
func testInterleavings(t *testing.T, open Open) {
	o := newOffice(t, open, func(options *approval.Options) {
		options.TTL, options.GrantTTL, options.AdoptAfter = 150*time.Millisecond, 20*time.Millisecond, 50*time.Millisecond
	})
	const operations, workers, steps = 5, 16, 60
	var mu sync.Mutex
	grants := map[string]int{}         // request -> how often it was given
	approvals := map[string][]string{} // request -> people whose approval was acknowledged
	requests := map[string]bool{}
	crowd(workers, func(w int) {
		seed := rand.New(rand.NewPCG(uint64(w), 11))
		for range steps {
			desk, n := o.desks[seed.IntN(2)], seed.IntN(operations)
			op, v := Operation(n), Verdict("p1", 1+n%2)
			if seed.IntN(30) == 0 {
				v.RulesDigest = "p2"
			}
			r, _, err := desk.Ask(context.Background(), Asking(op, v))
			if err != nil {
				t.Errorf("ask: %v", err)
				return
			}
			mu.Lock()
			requests[r.ID] = true
			mu.Unlock()
			if seed.IntN(3) > 0 {
				who := fmt.Sprint("person-", seed.IntN(4))
				answer := approval.Answer{Approve: seed.IntN(10) > 0, Card: r.CardDigest}
				if _, err := desk.Decide(context.Background(), Oncall(who), r.ID, answer); err == nil {
					mu.Lock()
					approvals[r.ID] = append(approvals[r.ID], who)
					mu.Unlock()
				}
			}
			g, ok, err := desk.Spend(context.Background(), Spending(op, v))
			if err != nil {
				t.Errorf("spend: %v", err)
			}
			if ok {
				given := g.Request()
				mu.Lock()
				grants[given.ID]++
				mu.Unlock()
				if given.Spent.Op != op.ID || !given.Spent.At.Before(given.GrantExpires) || len(given.Decisions) < given.Asks[0].Quorum {
					t.Errorf("a spend without a live approval: %+v", given)
				}
			}
		}
	})
	await(t, "all to be closed and recorded", func() bool {
		live, err := o.stores[0].List(t.Context(), approval.Filter{States: []approval.State{approval.Pending, approval.Approved}})
		left, err2 := o.stores[0].List(t.Context(), approval.Filter{Unrecorded: true})
		return err == nil && err2 == nil && len(live.Requests) == 0 && len(left.Requests) == 0
	})
	records := map[string]map[string]int{}
	for _, l := range o.lines("") {
		id := fmt.Sprint(l.Body["approval"])
		if records[id] == nil {
			records[id] = map[string]int{}
		}
		if l.Body["decision"] != "refused" {
			records[id][l.Type]++
		}
	}
	for id := range requests {
		r, err := o.stores[1].Get(t.Context(), id)
		if err != nil {
			t.Fatalf("request %s: %v", id, err)
		}
		got := records[id]
		spent := 0
		if r.State == approval.Spent {
			spent = 1
		}
		if grants[id] != spent || got[approval.RecordSpent] != spent || got[approval.RecordRequested] != 1 || got[approval.RecordDecided] != len(r.Decisions) {
			t.Errorf("request %s is %s with %d decisions, was given %d times, and has the records %v", id, r.State, len(r.Decisions), grants[id], got)
		}
		if len(approvals[id]) > len(r.Decisions) {
			t.Errorf("request %s lost acknowledged decisions: %v, stored %v", id, approvals[id], r.Decisions)
		}
	}
	if len(grants) == 0 || len(requests) < operations {
		t.Errorf("%d requests and %d grants: the test tested nothing", len(requests), len(grants))
	}
}

// BenchmarkCycles runs request, approve and spend, one cycle an iteration, from many goroutines.
func BenchmarkCycles(b *testing.B, open Open) {
	o := newOffice(b, open, func(options *approval.Options) { options.SweepEvery = 100 * time.Millisecond })
	v := Verdict("p1", 1)
	var n atomic.Int64
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(n.Add(1))
			op, desk := Operation(i), o.desks[i%2]
			r, _, err := desk.Ask(context.Background(), Asking(op, v))
			if err == nil {
				_, err = desk.Decide(context.Background(), Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
			}
			if err != nil {
				b.Error(err)
				return
			}
			if _, ok, err := desk.Spend(context.Background(), Spending(op, v)); !ok || err != nil {
				b.Errorf("not spent: %v", err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "cycles/s")
}
