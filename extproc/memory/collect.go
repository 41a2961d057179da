package memory

import (
	"context"
	"runtime/debug"
	measure "runtime/metrics"
	"time"
)

// A held operation is 17 to 19 KB in use, nine to eleven of it heap and eight a stack, and it takes more than that of the
// machine (BenchmarkHolds has the whole account). What is done about that:
//
// Its goroutine has just evaluated a policy, deep down. The runtime halves a stack that is mostly unused at each collection,
// and at no other time; and a gateway that holds thousands and does little else is collected rarely. So where holds have
// grown by trimStep, trimTimes collections follow, a second apart, and what they free goes back to the system.
//
// An ask leaves 180 KB of garbage, and what is kept of it lies in between. With GOGC=400 the heap grows to five times what is
// in use before it is collected; objects are not moved, so those that remain keep most of its pages: of 10,000 holds each
// took 41 KB, and 20 of those were nothing. So garbage is collected at growingPercent while holds grow, and at Go's own
// default while many wait: 27 to 29 KB each, 6 or 7 of them nothing. Under one GOGC throughout it was 29 KB with 100 and 25
// with 30, and while 900 a second were opened, collection took 8 % of the gateway's processor time with 400, 13 with 100 and
// 26 with 30.
//
// A stack stays at 8 KB, because 1.4 KB of it are gRPC's own frames, and the runtime halves one only where no more than a
// quarter is in use. With all deep work moved to other goroutines the stacks that wait were 4 KB; of a burst the pages took
// nearly as much as before, because the others' stacks had lain in between.
const (
	// Percent is GOGC while few operations are held. Little lives long in a gateway, so that a small heap would be collected hundreds
	// of times a second for nothing.
	Percent = 400

	trimStep  = 500
	trimTimes = 4

	growingPercent = 50
	heldPercent    = 100

	// trimBytes under judgement leave much that nobody uses when they end, and without another request nothing collects it.
	trimBytes = 32 << 20
)

// collector decides once a second on what is done about the memory of operations that are held, or were judged.
type collector struct {
	trimmed int   // holds at the last trim, or the fewest since
	left    int   // collections that still follow it
	most    int64 // bytes under judgement at one time since the last trim for them
}

// next takes how many operations are held, the most bytes that were under judgement since the last call, and those that are now. It
// returns GOGC until the next call, and whether memory is to be given back now.
func (c *collector) next(held int, most, now int64) (percent int, trim bool) {
	if c.most = max(c.most, most); c.most >= trimBytes && now <= c.most/4 {
		c.most, c.left = now, max(c.left, 1)
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

// Collect adapts GOGC to what waits, and gives memory back, until ctx ends. held returns how many operations are held; judged the
// most bytes that were under judgement since it was called before, and those that are now.
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
		if collectsAt() == percent && next != percent { // where it is another, GOGC is whoever's that runs the gateway
			debug.SetGCPercent(next)
			percent = next
		}
		if trim {
			debug.FreeOSMemory()
		}
	}
}

// collectsAt returns GOGC as it is now; -1 where it is off.
func collectsAt() int {
	sample := []measure.Sample{{Name: "/gc/gogc:percent"}}
	measure.Read(sample)
	return int(int64(sample[0].Value.Uint64()))
}
