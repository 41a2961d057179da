package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

var (
	holdsCount = flag.Int("holds", 10_000, "operations that are held at once")
	holdsHeap  = flag.String("holds.heap", "", "write the heap's profile during the holds to this file")
)

// BenchmarkHolds holds operations at once, through Envoy, by a gateway as it ships; approves half of them one after another
// and the rest from eight tabs; and prints what a hold takes and how long a release does.
func BenchmarkHolds(b *testing.B) {
	n := *holdsCount
	c := startCrowded(b, "10m", story.Options{Binary: extproctest.BuildShipped(b)})
	b.ResetTimer()
	before := c.footprint(b)
	began := time.Now()
	waiters := c.hold(b, n)
	opened := time.Since(began)
	held := c.settled(b)
	if *holdsHeap != "" {
		_, text := get(b, "http://"+c.profiles+"/debug/pprof/heap")
		if err := os.WriteFile(*holdsHeap, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	requests := c.requests(b)
	if len(requests) != n {
		b.Fatalf("%d requests for %d operations", len(requests), n)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n%d holds at once, opened in %v (%.0f/s)\n\n", n, opened.Round(time.Millisecond), float64(n)/opened.Seconds())
	fmt.Fprintf(&out, "| bytes a hold | |\n| --- | ---: |\n")
	each := func(name string, of func(footprint) int64) {
		fmt.Fprintf(&out, "| %s | %d |\n", name, (of(held)-of(before))/int64(n))
	}
	each("resident", func(f footprint) int64 { return f.anonymous + f.mapped })
	each("of that, private", func(f footprint) int64 { return f.anonymous })
	each("of that, pages of files", func(f footprint) int64 { return f.mapped })
	each("heap and stacks in use", func(f footprint) int64 { return f.heap + f.stacks })
	each("of that, heap", func(f footprint) int64 { return f.heap })
	each("of that, stacks", func(f footprint) int64 { return f.stacks })
	each("heap, free between objects", func(f footprint) int64 { return f.scattered })
	each("heap, not given back", func(f footprint) int64 { return f.idle })
	each("of the runtime: spans", func(f footprint) int64 { return f.spans })
	each("of the runtime: collector", func(f footprint) int64 { return f.collector })
	each("of the runtime: rest", func(f footprint) int64 { return f.remaining })
	alone, rest := map[int]apiRequest{}, map[int]apiRequest{}
	for i, r := range requests {
		if i%2 == 0 {
			alone[i] = r
		} else {
			rest[i] = r
		}
	}
	approve := func(int) string { return "approve" }
	acknowledged := c.decideAll(b, alone, 1, approve)
	busy := c.decideAll(b, rest, 8, approve)
	lost := 0
	for i, w := range waiters {
		if a := <-w.answer; a.err != nil || a.status != 201 {
			lost++
			b.Errorf("refund %d: %d %v", i, a.status, a.err)
		}
	}
	reached := c.reached(b)
	fmt.Fprintf(&out, "\nlost: %d\n\n| decision acknowledged to target | p50 | p99 | most |\n| --- | ---: | ---: | ---: |\n", lost)
	for _, turn := range []struct {
		name string
		at   map[int]time.Time
	}{{"one person, one after another", acknowledged}, {"eight tabs at once", busy}} {
		var took []time.Duration
		for i, at := range turn.at {
			took = append(took, max(0, reached[i].Sub(at)))
		}
		s := sortedCopy(took)
		fmt.Fprintf(&out, "| %s | %v | %v | %v |\n", turn.name, quantile(s, 0.5), quantile(s, 0.99), quantile(s, 1))
	}
	fmt.Fprintln(os.Stdout, out.String()) // b.Log keeps ten lines
	b.ReportMetric(0, "ns/op")
}

// footprint is what the gateway takes, in bytes: resident memory as Linux tells of it, by kind, and the private part of it as
// the Go runtime does.
type footprint struct {
	anonymous, mapped           int64 // mapped: pages of files (the program, the approvals), which are the page cache's
	heap, stacks                int64 // in use
	scattered, idle             int64 // of the heap: free in spans that are in use; spans that are free and not given back
	spans, collector, remaining int64 // the runtime's own
}

func (c *crowded) footprint(b *testing.B) footprint {
	b.Helper()
	_, text := get(b, "http://"+c.profiles+"/debug/pprof/heap?gc=1&debug=1")
	in := func(name string) (n int64) {
		_, rest, ok := strings.Cut(text, "# "+name+" = ")
		if _, err := fmt.Sscan(rest, &n); !ok || err != nil {
			b.Fatalf("the heap's profile has no %s: %v", name, err)
		}
		return n
	}
	m := footprint{
		heap: in("HeapAlloc"), stacks: in("Stack"), scattered: in("HeapInuse") - in("HeapAlloc"), idle: in("HeapIdle") - in("HeapReleased"),
		spans: in("MSpan"), collector: in("GCSys"), remaining: in("OtherSys") + in("BuckHashSys"),
	}
	m.anonymous, m.mapped = c.resident(b)
	return m
}

// resident memory: private, and mapped from files.
func (c *crowded) resident(b *testing.B) (anonymous, mapped int64) {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Process.PID()))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		_, _ = fmt.Sscanf(line, "RssAnon: %d kB", &anonymous)
		_, _ = fmt.Sscanf(line, "RssFile: %d kB", &mapped)
	}
	return anonymous << 10, mapped << 10
}

// settled is the footprint when it has stopped shrinking, see memory.Collect.
func (c *crowded) settled(b *testing.B) footprint {
	b.Helper()
	var best, mapped int64 = 1 << 62, 0
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range 8 {
		<-tick.C
		a, f := c.resident(b)
		if a < best {
			best, mapped = a, f
		}
	}
	m := c.footprint(b)
	m.anonymous, m.mapped = best, mapped
	return m
}
