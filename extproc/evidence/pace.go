package evidence

import (
	"math"
	"time"
)

// pace decides for how many callers a sync waits. A sync takes 150 µs of processor time however many share it, and callers that are
// answered together come back together. So when records come fast, waiting for a few of them is cheapest for everybody; when they
// come slowly it would only delay them.
//
// With a journal that is written in place a sync takes half of that, and pace still pays (ext_authz, 16 rounds in turns, of what waiting
// for half of the callers gives): nobody is waited for, 0.90 of the requests and 1.13 times the processor time with 16 connections, and
// 0.97 and 1.10 with 64; a third, a quarter, two thirds or four fifths of the callers, between 0.95 and 1.04, which is noise.
type pace struct {
	rate    float64 // Appends a second
	callers int     // at once, of late
	last    time.Time
}

const (
	paceAhead = 2 * time.Millisecond  // how far pace looks ahead, and so how long an Append waits for others at most
	paceOver  = 20 * time.Millisecond // over what time it averages
	paceFrom  = 3                     // fewer are not worth waiting for; so at 1,000 a second nobody waits
)

// committed takes note of a commit at now for n callers, while more wait already.
func (p *pace) committed(now time.Time, n, more int) {
	p.callers = max(n+more, p.callers*7/8)
	since := now.Sub(p.last)
	p.last = now
	if since <= 0 {
		return
	}
	weight := min(1, float64(since)/float64(paceOver))
	p.rate += (float64(n)/since.Seconds() - p.rate) * weight
}

// want returns how many callers to wait for: half of those who ask at once, so that the other half can work meanwhile, and no more
// than will come in time. 0 is for nobody.
func (p *pace) want() int {
	n := min(p.callers/2, int(math.Round(p.rate*paceAhead.Seconds())))
	if n < paceFrom {
		return 0
	}
	return n
}
