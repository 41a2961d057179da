package otlp

import (
	"context"
	"time"
)

// pace has the courier work in slices with rests between them, so that no decision waits for it. While operations are under way, a
// courier that is far behind reads at most five records for each four that are written, or a thousand a second. So what catching up
// costs, here and in the collector, is a quarter of what these operations cost anyway, and does not come at once. On 2 cores and one
// disk, which the collector shared and wrote its own files to, p99 at 1,000 requests a second rose from 7.9 to 9.8 ms while a million
// records waited (TestSoakCatchingUpSlowsNobody); with two records for each that was written it rose from 13 to 44 ms.
//
// A rest is a sleep. Yielding the processor (runtime.Gosched) is not enough: Go looks for what has come by the network only when
// nothing else can run, or after 10 ms.
type pace struct {
	durable func() uint64
	least   int64     // records that may be read in a second, however few are written
	began   time.Time // the slice
	seen    uint64    // durable, at the last rest
	grew    time.Time // when a rest last found that it had grown
	credit  int64     // how many more records may be read, times perRead
}

const (
	busySlice = 200 * time.Microsecond
	busyRest  = 600 * time.Microsecond
	idleSlice = time.Millisecond
	idleRest  = 50 * time.Microsecond // or as long as the machine's clock takes, which is about a millisecond
	idleAfter = 50 * time.Millisecond // without a record nothing is under way

	perRead, perWritten = 4, 5
	mostCredit          = 1000 * perRead
	leastRate           = 1000
)

// step rests if the slice is over. Call it after each record.
func (p *pace) step(ctx context.Context) {
	p.credit -= perRead
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
		select {
		case <-ctx.Done():
		case <-time.After(rest):
		}
		durable, earned := p.durable(), perRead*p.least*min(time.Since(p.began), time.Second).Microseconds()/1e6
		p.began = time.Now()
		if durable != p.seen {
			earned = max(earned, perWritten*int64(durable-p.seen))
			p.seen, p.grew = durable, p.began
		}
		p.credit = min(max(-perRead, p.credit)+earned, mostCredit)
	}
}
