package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	c := startCrowded(b, "10m", story.Options{Binary: shipped(b)})
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
	for _, m := range []struct {
		name          string
		before, after int64
	}{
		{"resident", before.resident, held.resident},
		{"heap and stacks in use", before.heap + before.stacks, held.heap + held.stacks},
		{"of that, heap", before.heap, held.heap},
		{"of that, stacks", before.stacks, held.stacks},
	} {
		fmt.Fprintf(&out, "| %s | %d |\n", m.name, (m.after-m.before)/int64(n))
	}
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

// footprint is what the gateway takes, in bytes.
type footprint struct{ resident, heap, stacks int64 }

func (c *crowded) footprint(b *testing.B) footprint {
	b.Helper()
	m := footprint{resident: resident(b, c.Process.PID())}
	_, text := get(b, "http://"+c.profiles+"/debug/pprof/heap?gc=1&debug=1")
	for line := range strings.Lines(text) {
		_, _ = fmt.Sscanf(line, "# HeapAlloc = %d", &m.heap)
		_, _ = fmt.Sscanf(line, "# Stack = %d", &m.stacks)
	}
	return m
}

// settled is the footprint when it has stopped shrinking, see trimHeld.
func (c *crowded) settled(b *testing.B) footprint {
	b.Helper()
	best := footprint{resident: 1 << 62}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range 8 {
		<-tick.C
		if r := resident(b, c.Process.PID()); r < best.resident {
			best.resident = r
		}
	}
	m := c.footprint(b)
	m.resident = best.resident
	return m
}

// shipped builds the gateway as it ships, without the race detector, which takes memory and time of its own.
func shipped(b *testing.B) string {
	b.Helper()
	binary := filepath.Join(extproctest.Dir(b), "countersign")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}
