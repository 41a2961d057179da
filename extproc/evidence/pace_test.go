package evidence

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPace(t *testing.T) {
	for _, c := range []struct {
		name    string
		every   time.Duration // between commits
		callers int           // answered by each
		more    int           // in the queue by then
		want    int
	}{
		{"one caller is not kept for others, however fast it is", 200 * time.Microsecond, 1, 0, 0},
		{"1,000 a second are not waited for", time.Millisecond, 1, 1, 0},
		{"1,000 a second in groups are not waited for", 8 * time.Millisecond, 8, 8, 0},
		{"half of 16 that come back at once are waited for", 2 * time.Millisecond, 8, 8, 8},
		{"no more than will come in time are waited for", 2 * time.Millisecond, 4, 60, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := pace{}
			now := time.Unix(1_800_000_000, 0)
			for range 200 {
				now = now.Add(c.every)
				p.committed(now, c.callers, c.more)
			}
			if got := p.want(); got != c.want {
				t.Errorf("want() = %d, want %d (at %.0f a second, %d callers)", got, c.want, p.rate, p.callers)
			}
		})
	}
	t.Run("after a silence nobody is waited for", func(t *testing.T) {
		p := pace{rate: 50_000, callers: 64, last: time.Unix(1_800_000_000, 0)}
		p.committed(p.last.Add(time.Second), 1, 0)
		if got := p.want(); got != 0 {
			t.Errorf("want() = %d, want 0", got)
		}
	})
}

func TestLinger(t *testing.T) {
	for _, c := range []struct {
		name string
		act  func(q *queue) // 1 ms after the queue lingers for 3 callers, with one in it
		took time.Duration
	}{
		{"it ends when enough callers wait", func(q *queue) { putEntry(q, true); putEntry(q, true) }, time.Millisecond},
		{"it ends at its bound when too few come", func(q *queue) { putEntry(q, true) }, 5 * time.Millisecond},
		{"records that nobody waits for are not callers", func(q *queue) { putEntry(q, false); putEntry(q, false); putEntry(q, false) }, 5 * time.Millisecond},
		{"it ends when the journal closes", func(q *queue) { q.close() }, time.Millisecond},
		{"it ends when the queue fills", func(q *queue) {
			for range 16 {
				putEntry(q, false)
			}
		}, time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &queue{}
				q.init(64)
				defer q.later.Stop()
				putEntry(q, true)
				time.AfterFunc(time.Millisecond, func() { c.act(q) })
				begin := time.Now()
				if !q.linger(3, 5*time.Millisecond) {
					t.Error("linger did not wait")
				}
				if took := time.Since(begin); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
				synctest.Wait()
				list, callers, _ := q.take()
				if len(list) < callers || callers < 1 {
					t.Errorf("take() = %d entries, %d callers", len(list), callers)
				}
				if q.closed {
					return
				}
				putEntry(q, true) // once taken, one caller is enough again
				select {
				case <-q.wake:
				default:
					t.Error("a caller after linger does not wake the writer")
				}
			})
		})
	}
}

func putEntry(q *queue, waits bool) {
	if err := q.put(context.Background(), &entry{waits: waits}); err != nil && !errors.Is(err, ErrClosed) {
		panic(err)
	}
}
