package memory

import (
	"context"
	"runtime/debug"
	measure "runtime/metrics"
	"time"
)

// A held operation uses 21 to 23 KB: 13 to 14 of heap, and 8 of stack. It takes more than that from the machine (BenchmarkHolds has
// the whole account), for two reasons.
//
// The stack: its goroutine has just evaluated a policy, which needs a deep one. The runtime halves a stack that is mostly unused,
// but only when it collects garbage, and a gateway that holds thousands and does little else rarely does. So whenever trimStep more
// are held, trimTimes collections follow, a second apart, and the memory that they free goes back to the system.
//
// The heap: an ask leaves 180 KB of garbage, and what is kept lies scattered among it. With GOGC=400 the heap grows to five times
// what is in use before it is collected; objects do not move, so the ones that remain keep most of its pages. 10,000 holds took 41
// KB each then, of which 20 were unused. So GOGC is growingPercent while holds grow and heldPercent while many wait: 27 to 29 KB
// each, 6 or 7 unused (figures of an earlier version). One GOGC throughout gave 29 KB with 100 and 25 with 30; while 900 a second
// were opened, collection took 8 % of the gateway's processor time with 400, 13 with 100 and 26 with 30.
//
// A memory limit and one GOGC do not do as well: with 100 throughout and no trims, 5,000 holds had as much in use in the same run,
// and took 79 KB each of the machine instead of 37 (with stacks of 16 KB), of which 37 were not given back. The limit is far above,
// and asks for nothing.
//
// The runtime halves a stack only if its frames and 800 bytes fit a quarter of it. Those of an operation that waits are 3.0 KB,
// half of them gRPC's, so a stack of 16 KB becomes one of 8 (TestStacksOfHolds). When they were 4.3 it stayed at 16. With all deep
// work in other goroutines the waiting stacks were 4 KB, but a burst took nearly as many pages as before, because the other stacks
// had lain between them.
const (
	// Percent is GOGC while few operations are held. Little lives long in a gateway, so with Go's default a small heap would be
	// collected hundreds of times a second. More brings nothing: with 800 and 1600 ext_authz carried 0.92 and 0.89 of it.
	Percent = 400

	trimStep  = 500
	trimTimes = 4

	growingPercent = 50
	heldPercent    = 100

	// trimBytes is how much must have been under judgement for a trim when it ends. Otherwise nothing would collect it until the
	// next request.
	trimBytes = 32 << 20
	// trimRest is how little is left when it has ended. A trim comes when a quarter is left, and another then: six and more bytes
	// of garbage come from each byte that is judged.
	trimRest = 1 << 20
	// trimPools is how many collections empty a [sync.Pool]: bodies come in gRPC's buffers, which have one.
	trimPools = 2
)

// collector decides once a second how to collect.
type collector struct {
	trimmed int   // holds at the last trim, or the fewest since
	left    int   // trims still to come
	most    int64 // most bytes under judgement since the last trim for them
	rest    bool  // some were still, at that trim
}

// next takes how many operations are held, the most bytes that were under judgement since the last call, and how many are now. It
// returns GOGC until the next call, and whether to trim: to collect now and give memory back.
func (c *collector) next(held int, most, now int64) (percent int, trim bool) {
	c.most = max(c.most, most)
	if c.most >= trimBytes && now <= c.most/4 || c.rest && now < trimRest {
		c.rest = now >= trimRest
		c.most, c.left = now, max(c.left, trimPools)
	}
	switch {
	case held >= c.trimmed+trimStep:
		c.trimmed, c.left = held, trimTimes
	case held < c.trimmed:
		c.trimmed = held
	}
	trim = c.left > 0
	if trim {
		c.left--
	}
	switch {
	case held < trimStep:
		return Percent, trim
	case trim:
		return growingPercent, trim
	default:
		return heldPercent, trim
	}
}

// Collect adapts GOGC and gives memory back, until ctx ends. held returns how many operations are held. judged returns the most
// bytes that were under judgement since its last call, and how many are now.
func Collect(ctx context.Context, held func() int, judged func() (most, now int64)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var c collector
	for percent := Percent; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		most, now := judged()
		next, trim := c.next(held(), most, now)
		if collectsAt() == percent && next != percent { // another value was set by whoever runs the gateway, and stays
			debug.SetGCPercent(next)
			percent = next
		}
		if trim {
			debug.FreeOSMemory()
		}
	}
}

// collectsAt returns GOGC as it is now; -1 if it is off.
func collectsAt() int {
	sample := []measure.Sample{{Name: "/gc/gogc:percent"}}
	measure.Read(sample)
	return int(int64(sample[0].Value.Uint64()))
}
