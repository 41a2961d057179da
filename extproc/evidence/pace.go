package evidence

import (
	"math"
	"time"
)

// pace says how many callers one sync is worth waiting for. A sync takes 150 µs of processor time whatever it is for, and
// those who are answered together come back together: where records come fast, waiting for a few of them is what costs
// least, also for them. Where they come slowly it would only be waiting.
type pace struct {
	rate    float64 // Appends a second
	callers int     // at once, of late
	last    time.Time
}

// How far ahead a pace looks, and so how long an Append is kept waiting for others at most; and over what time it
// averages.
const (
	paceAhead = 2 * time.Millisecond
	paceOver  = 20 * time.Millisecond

	// paceFrom is the least that is waited for: at 1,000 a second nobody is waited for.
	paceFrom = 3
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

// want is how many to wait for: half of those who ask at once, so that the other half can work meanwhile, and no more
// than are to come in time.
func (p *pace) want() int {
	n := min(p.callers/2, int(math.Round(p.rate*paceAhead.Seconds())))
	if n < paceFrom {
		return 0
	}
	return n
}
