package otlp

import (
	"context"
	"time"
)

// pace has the courier work in slices with rests between them, so that no decision waits for it. While operations are under way, a
// courier that is far behind reads at most ahead records for each that is written. So what catching up costs, here and in the
// collector, is a part of what these operations cost anyway, and does not come at once.
//
// A rest is a sleep. Yielding the processor (runtime.Gosched) is not enough: Go looks for what has come by the network only when
// nothing else can run, or after 10 ms.
type pace struct {
	durable func() uint64
	began   time.Time // the slice
	seen    uint64    // durable, at the last rest
	grew    time.Time // when a rest last found that it had grown
	credit  int64     // how many more records may be read
}

const (
	busySlice = 200 * time.Microsecond
	busyRest  = 600 * time.Microsecond
	idleSlice = time.Millisecond
	idleRest  = 50 * time.Microsecond // or as long as the machine's clock takes, which is about a millisecond
	idleAfter = 50 * time.Millisecond // without a record nothing is under way
	ahead     = 2
	mostAhead = 1000
)

// step rests if the slice is over. Call it after each record.
func (p *pace) step(ctx context.Context) {
	p.credit--
	for ctx.Err() == nil {
		now := time.Now()
		isIdle := now.Sub(p.grew) > idleAfter
		slice, rest := busySlice, busyRest
		if isIdle {
			slice, rest = idleSlice, idleRest
		}
		if now.Sub(p.began) < slice && (isIdle || p.credit > 0) {
			return
		}
		time.Sleep(rest)
		p.began = time.Now()
		if durable := p.durable(); durable != p.seen {
			p.credit = min(max(0, p.credit)+ahead*int64(durable-p.seen), mostAhead)
			p.seen, p.grew = durable, p.began
		}
	}
}
