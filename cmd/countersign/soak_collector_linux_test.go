//go:build soak

package main

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/extproctest"
)

var soakAway = flag.Duration("soak.away", 10*time.Minute, "how long the collector is away at full load; records take up to 16 MiB of disk a second")

// p99 beside a collector is meant to be at most 1.5 times that without one. On a machine whose own p99 goes from 4 to 49 ms within a
// minute that cannot be told from one run: the tests say what they measured, and fail where it is as bad as it was when each record
// was parsed and marshalled again.
const (
	wanted = 1.5
	worst  = 3
)

// sideBySide are two gateways that shipped, before one target: one with a collector, and one without.
func sideBySide(t *testing.T, evidence string) (without, with *benchGateway) {
	t.Helper()
	target, issuer := benchTarget(t), extproctest.StartIssuer(t, extproctest.IssuerOptions{})
	benchToken = issuer.Token(nil)
	without, with = startBenchGateway(t, target, issuer, "{}"), startBenchGateway(t, target, issuer, evidence)
	for _, g := range []*benchGateway{without, with} {
		throughput(t, g.lane(), time.Second) // warm up
	}
	return without, with
}

func (g *benchGateway) lane() *benchLane {
	return &benchLane{name: "ext_authz", address: g.addresses["authz"], path: "/1k"}
}

// p99 is that of requests at a fixed rate.
func (g *benchGateway) p99(t *testing.T, during time.Duration) time.Duration {
	t.Helper()
	return latencies(t, g.lane(), benchRate, during)[1]
}

// last is the number of the journal's last record.
func (g *benchGateway) last(t *testing.T) (last int64) {
	t.Helper()
	for e, err := range evidence.Records(t.Context(), filepath.Join(g.data, "journal"), evidence.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		last = int64(e.Seq)
	}
	return last
}

func (g *benchGateway) lag(t *testing.T) float64 {
	t.Helper()
	_, text := get(t, "http://"+g.admin+"/metrics")
	return metricOf(t, text, "countersign_otlp_lag")
}

func judge(t *testing.T, ratio float64) {
	t.Helper()
	switch {
	case ratio > worst:
		t.Errorf("p99 is %.2f times that without a collector, and %v is wanted", ratio, wanted)
	case ratio > wanted:
		t.Logf("p99 is %.2f times that without a collector, which misses %v", ratio, wanted)
	}
}

// TestSoakCollectorIsKilledUnderLoad kills the collector and starts it again every five seconds, for a minute at 1,000 requests a
// second, in turns with a gateway that has none. No record is lost, and p99 is within what is allowed. What the start of a collector
// takes of the machine, which nobody sends to, is shown beside it.
func TestSoakCollectorIsKilledUnderLoad(t *testing.T) {
	collector, evidence := startBenchCollector(t, false)
	without, with := sideBySide(t, evidence)
	killed := func(g *benchGateway) time.Duration {
		back := make(chan struct{})
		time.AfterFunc(500*time.Millisecond, collector.Kill)
		time.AfterFunc(2500*time.Millisecond, func() {
			defer close(back)
			collector.Start()
		})
		defer func() { <-back }()
		return g.p99(t, 5*time.Second)
	}
	var base, beside, sent []time.Duration
	var ratios, starts []float64 // of turns that follow each other: what else the machine does changes within the minute
	for i := range 12 {
		base = append(base, without.p99(t, 5*time.Second))
		without.settle(t)
		beside = append(beside, killed(without))
		without.settle(t)
		sent = append(sent, killed(with))
		with.settle(t)
		ratios = append(ratios, float64(sent[i])/float64(base[i]))
		starts = append(starts, float64(beside[i])/float64(base[i]))
	}
	ratio := median(ratios)
	t.Logf("p99 of each turn: %v without a collector, %v beside one that starts and gets nothing, %v with one: medians %v, %v and %v, and turn by turn %.2f and %.2f times",
		base, beside, sent, median(base), median(beside), median(sent), median(starts), ratio)
	judge(t, ratio)
	with.Stop()
	last := with.last(t)
	if err := missing(collector.Sequences(), last); err != nil {
		t.Error(err)
	}
	t.Logf("%d records", last)
}

// TestSoakCatchingUpSlowsNobody lets records wait for a minute at full load, and asks at a fixed rate while the collector is
// sent them: p99 is within what is allowed of a gateway's that has no collector.
func TestSoakCatchingUpSlowsNobody(t *testing.T) {
	collector, evidence := startBenchCollector(t, true)
	without, with := sideBySide(t, evidence)
	collector.Stop()
	count, took := throughput(t, with.lane(), min(*soakAway, time.Minute))
	t.Logf("%d requests in %v", count, took)
	var base, behind []time.Duration
	for range 6 {
		base = append(base, without.p99(t, 2*time.Second))
		without.settle(t)
	}
	waiting := with.lag(t)
	collector.Start()
	extproctest.Await(t, "it to be sent to again", time.Minute, func(context.Context) error {
		if lag := with.lag(t); lag >= waiting {
			return fmt.Errorf("%v records wait", lag)
		}
		return nil
	})
	for with.lag(t) > 5*benchRate && len(behind) < 60 {
		behind = append(behind, with.p99(t, 2*time.Second))
	}
	with.settle(t)
	for range 6 {
		base = append(base, without.p99(t, 2*time.Second))
		without.settle(t)
	}
	if len(behind) < 3 {
		t.Fatalf("it has caught up within %d turns, which is too soon to measure", len(behind))
	}
	ratio := float64(median(behind)) / float64(median(base))
	t.Logf("p99 of each two seconds: %v without a collector, %v while it caught up with %v records: medians %v and %v, %.2f times", base, behind, waiting, median(base), median(behind), ratio)
	judge(t, ratio)
}

// TestSoakMemoryIsFlatWithoutTheCollector has no collector for ten minutes at full load. In the second half, when caches are
// full, memory does not grow: the line through the samples rises by at most 16 MiB of what is resident, and 4 MiB of the heap
// that is in use. A courier that kept 16 bytes of each operation would add 16 MiB in that time. Then the collector comes, and gets
// every record.
func TestSoakMemoryIsFlatWithoutTheCollector(t *testing.T) {
	address := extproctest.FreeAddress(t)
	_, g := sideBySide(t, fmt.Sprintf("{otlp: {endpoint: %q, insecure: true}}", address))
	var fs syscall.Statfs_t
	if err := syscall.Statfs(g.data, &fs); err != nil {
		t.Fatal(err)
	}
	if need, free := uint64(soakAway.Seconds())<<24, fs.Bavail*uint64(fs.Bsize); free < need {
		t.Fatalf("%s has %d MiB free, and the journal may take %d", g.data, free>>20, need>>20)
	}
	var asked atomic.Int64
	ended := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(ended)
		for time.Since(began) < *soakAway && !t.Failed() {
			n, _ := throughput(t, g.lane(), time.Second)
			asked.Add(int64(n))
		}
	}()
	var heap, rss series
	tick := time.NewTicker(max(*soakAway/200, time.Second))
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case <-tick.C:
			at := time.Since(began).Seconds()
			heap.add(at, float64(heapOf(t, g.profiles)))
			rss.add(at, float64(resident(t, g.PID())))
		}
	}
	half := soakAway.Seconds() / 2
	heapGrown, rssGrown := heap.from(half).slope()*half, rss.from(half).slope()*half
	t.Logf("%d requests; the heap in use: %s; resident: %s, in MiB; in the second half they grew by %.0f and %.0f KiB", asked.Load(), heap, rss, heapGrown/1024, rssGrown/1024)
	if heapGrown > 4<<20 {
		t.Errorf("the heap in use grew by %.0f KiB in the second half", heapGrown/1024)
	}
	if rssGrown > 16<<20 {
		t.Errorf("what is resident grew by %.0f KiB in the second half", rssGrown/1024)
	}

	r := startReceiver(t, address)
	begin, before := time.Now(), g.lag(t)
	extproctest.Await(t, "the collector to have everything", 4**soakAway, func(context.Context) error {
		if lag := g.lag(t); lag > 0 {
			return fmt.Errorf("%v of %v records wait", lag, before)
		}
		return nil
	})
	took := time.Since(begin)
	g.Stop()
	last := g.last(t)
	if err := missing(r.sequences(), last); err != nil {
		t.Error(err)
	}
	t.Logf("%d records, of which %.0f waited and were sent in %v", last, before, took)
}

// series is a value at times.
type series struct{ at, value []float64 }

func (s *series) add(at, value float64) { s.at, s.value = append(s.at, at), append(s.value, value) }

func (s *series) from(at float64) *series {
	i, _ := slices.BinarySearch(s.at, at)
	return &series{s.at[i:], s.value[i:]}
}

// slope is that of the line through the values with the least squares.
func (s *series) slope() float64 {
	var meanAt, mean, up, down float64
	n := float64(len(s.at))
	for i := range s.at {
		meanAt, mean = meanAt+s.at[i]/n, mean+s.value[i]/n
	}
	for i := range s.at {
		up += (s.at[i] - meanAt) * (s.value[i] - mean)
		down += (s.at[i] - meanAt) * (s.at[i] - meanAt)
	}
	return up / down
}

// String has about twenty of the values, in MiB.
func (s series) String() string {
	var few []int
	for i := 0; i < len(s.value); i += max(1, len(s.value)/20) {
		few = append(few, int(s.value[i])>>20)
	}
	return fmt.Sprint(few)
}
