package otlp

import (
	"context"
	"slices"
	"testing"
	"time"
)

// TestCatchingUpIsBounded: while records are written, a courier that is behind reads a quarter more than these and rests
// between. When nothing is written it reads on.
func TestCatchingUpIsBounded(t *testing.T) {
	var written uint64
	p := pace{durable: func() uint64 { written++; return written }, grew: time.Now()}
	const records = 300
	for range records {
		p.step(t.Context())
	}
	if written < records*perRead/perWritten-1 {
		t.Errorf("it read %d records while %d were written", records, written)
	}
	p.credit, p.least = 0, 100_000
	before := written
	for range records {
		p.step(t.Context())
	}
	if written-before > records/2 {
		t.Errorf("of a rate that it may read at whatever is written, it waited for %d records to be written", written-before)
	}
	rests := 0
	p.durable = func() uint64 { rests++; return written }
	begin := time.Now()
	for range 200_000 {
		p.step(t.Context())
	}
	if took := time.Since(begin); rests == 0 || took > 10*time.Second {
		t.Errorf("it rested %d times and took %s when nothing was written", rests, took)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	p.grew, p.credit = time.Now().Add(time.Hour), 0
	p.step(ended) // returns
}

// TestARestWaitsForAFullBatch: what a full batch leaves behind goes with what comes after it, and not in a request of its own. It need
// not come: what is left goes when it has waited for long enough.
func TestARestWaitsForAFullBatch(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	var sizes []int
	c.answers(func(r request) (int64, bool, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		sizes = append(sizes, len(r.seqs))
		return 0, true, nil
	})
	f.opts.BatchRecords, f.opts.Flush, f.opts.SaveEvery = 8, time.Hour, time.Hour
	f.events(12)
	f.start()
	c.waitFor(8)
	c.waitFor(f.events(4))
	f.kill()
	if !slices.Equal(sizes, []int{8, 1, 8}) { // the first checkpoint does not wait until there are fewer records
		t.Errorf("requests had %v records", sizes)
	}
	f.opts.Flush = time.Millisecond
	last := f.events(12)
	f.start()
	c.waitFor(last)
}
