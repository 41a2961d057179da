package memory

import (
	"context"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestCollector: each line is a second.
func TestCollector(t *testing.T) {
	var c collector
	for i, s := range []struct {
		name    string
		held    int
		percent int
		trim    bool

		most, now int64 // under judgement
	}{
		{"few are held", trimStep - 1, Percent, false, 0, 0},
		{"many are", trimStep, growingPercent, true, 0, 0},
		{"more, though not by a step", trimStep + 1, growingPercent, true, 0, 0},
		{"as many", trimStep + 1, growingPercent, true, 0, 0},
		{"a step more begins anew", 2 * trimStep, growingPercent, true, 0, 0},
		{"the second after it", 2 * trimStep, growingPercent, true, 0, 0},
		{"the third", 2 * trimStep, growingPercent, true, 0, 0},
		{"the last", 2 * trimStep, growingPercent, true, 0, 0},
		{"all are settled", 2 * trimStep, heldPercent, false, 0, 0},
		{"some were answered", trimStep, heldPercent, false, 0, 0},
		{"as many have come", 2 * trimStep, growingPercent, true, 0, 0},
		{"nearly all were answered", 1, Percent, true, 0, 0},
		{"nobody is held", 0, Percent, true, 0, 0},
		{"the second after it", 0, Percent, true, 0, 0},
		{"a little is judged", 0, Percent, false, trimBytes - 1, 0},
		{"much is judged", 0, Percent, false, trimBytes, trimBytes},
		{"half of it has ended", 0, Percent, false, trimBytes, trimBytes / 2},
		{"nearly all has", 0, Percent, true, trimBytes / 2, trimBytes / 8},
		{"the second collection", 0, Percent, true, trimBytes / 8, trimBytes / 16},
		{"some of the rest", 0, Percent, false, trimBytes / 16, trimRest},
		{"the rest", 0, Percent, true, trimRest, 0},
		{"the second collection", 0, Percent, true, 0, 0},
		{"nothing new", 0, Percent, false, trimRest, 0},
		{"much came and went within a second", 0, Percent, true, 4 * trimBytes, 0},
		{"the second collection", 0, Percent, true, 0, 0},
		{"that was all", 0, Percent, false, 0, 0},
	} {
		if percent, trim := c.next(s.held, s.most, s.now); percent != s.percent || trim != s.trim {
			t.Errorf("second %d, %s: %d %%, trim %v, want %d %%, %v", i+1, s.name, percent, trim, s.percent, s.trim)
		}
	}
}

// TestCollect: GOGC follows what is held, and is left alone where whoever runs the gateway has set it.
func TestCollect(t *testing.T) {
	for _, c := range []struct {
		name               string
		set                int
		growing, held, few int
	}{
		{"as serve sets it", Percent, growingPercent, heldPercent, Percent},
		{"as the operator sets it", 150, 150, 150, 150},
		{"off", -1, -1, -1, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer debug.SetGCPercent(debug.SetGCPercent(c.set))
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var held atomic.Int64
				go Collect(ctx, func() int { return int(held.Load()) }, func() (most, now int64) { return 0, 0 })
				for _, step := range []struct {
					held, after, want int
				}{{trimStep, 1, c.growing}, {trimStep, trimTimes, c.held}, {0, 1, c.few}} {
					held.Store(int64(step.held))
					<-time.After(time.Duration(step.after)*time.Second + time.Millisecond)
					synctest.Wait()
					if got := collectsAt(); got != step.want {
						t.Errorf("%d held: GOGC is %d, want %d", step.held, got, step.want)
					}
				}
			})
		})
	}
}
