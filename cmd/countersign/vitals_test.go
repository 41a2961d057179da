package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// watched is a gateway whose vitals are held: what clients and targets do to it must not stay behind in it.
type watched struct {
	*story.Gateway
	profiles string
	before   vitals
}

// vitals are what a process holds.
type vitals struct {
	goroutines, descriptors int
	open                    float64 // operations
	heap                    int64   // bytes that are in use, after a collection
	resident                int64   // bytes
}

// What vitals may differ by: connections from Envoy, which stay and are three goroutines each, timers, and what is remembered
// (verdicts, tokens).
const (
	slackGoroutines  = 20
	slackDescriptors = 12
	slackHeap        = 16 << 20
)

// watch starts a gateway and takes its vitals once it has served something.
func watch(t testing.TB, archive string, o story.Options) *watched {
	t.Helper()
	w := &watched{profiles: extproctest.FreeAddress(t)}
	o.Args = append(o.Args, "--pprof", w.profiles)
	w.Gateway = start(t, archive, o)
	for range 5 {
		if a, err := w.ask(t, "GET", "/v1/payments/7"); err != nil || a.Status != 200 {
			t.Fatalf("before anything happened: %+v, %v", a, err)
		}
	}
	w.before = w.vitals(t)
	return w
}

func (w *watched) ask(t testing.TB, method, target string) (*story.Answer, error) {
	t.Helper()
	token, err := w.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return w.Send(ctx, &story.Request{Method: method, Target: target, Fields: []extproctest.Field{{Name: "Authorization", Value: "Bearer " + token}}})
}

func (w *watched) vitals(t testing.TB) vitals {
	t.Helper()
	var v vitals
	_, text := get(t, "http://"+w.profiles+"/debug/pprof/goroutine?debug=1")
	if _, err := fmt.Sscanf(text, "goroutine profile: total %d", &v.goroutines); err != nil {
		t.Fatalf("count goroutines: %v in %.100q", err, text)
	}
	files, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(w.Process.PID()), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	v.descriptors = len(files)
	v.heap = heapOf(t, w.profiles)
	v.resident = resident(t, w.Process.PID())
	_, text = get(t, "http://"+w.Admin+"/metrics")
	v.open = metricOf(t, text, "countersign_operations_open")
	return v
}

// heapOf is how much of the heap is in use, after a collection.
func heapOf(t testing.TB, profiles string) (heap int64) {
	t.Helper()
	_, text := get(t, "http://"+profiles+"/debug/pprof/heap?gc=1&debug=1")
	_, text, _ = strings.Cut(text, "# HeapAlloc = ")
	if _, err := fmt.Sscan(text, &heap); err != nil {
		t.Fatalf("read the size of the heap: %v", err)
	}
	return heap
}

// resident is how much memory a process has.
func resident(t testing.TB, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		t.Fatalf("read %q: %v", text, err)
	}
	return pages * int64(os.Getpagesize())
}

func metricOf(t testing.TB, text, name string) float64 {
	t.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
			if err != nil {
				t.Fatalf("read the metric in %q: %v", line, err)
			}
			return value
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// unharmed holds that nothing stayed behind: no goroutine, descriptor, open operation or memory that is in use; that every decision has an outcome; that the gateway serves; and that its journal verifies.
func (w *watched) unharmed(t testing.TB) {
	t.Helper()
	var now vitals
	extproctest.Await(t, "the gateway to let go of everything", 30*time.Second, func(context.Context) error {
		now = w.vitals(t)
		connections := now.descriptors - w.before.descriptors
		if now.goroutines > w.before.goroutines+slackGoroutines+3*connections || now.heap > w.before.heap+slackHeap || now.descriptors > w.before.descriptors+slackDescriptors || now.open > 0 {
			return fmt.Errorf("before %+v, now %+v", w.before, now)
		}
		return nil
	})
	t.Logf("before %+v, after %+v", w.before, now)
	w.Evidence(0) // waits until each decision has its outcome
	if a, err := w.ask(t, "GET", "/v1/payments/7"); err != nil || a.Status != 200 {
		t.Errorf("after it all: %+v, %v", a, err)
	}
	w.Evidence(0)
	w.Process.Stop()
	unknown := 0
	for _, r := range w.Records() {
		if r.Type == "operation.unknown" {
			unknown++
		}
		if r.Type == "alarm" {
			t.Errorf("an alarm was raised: %v", r.Body)
		}
	}
	if unknown > 0 {
		t.Errorf("%d operations have an unknown outcome", unknown)
	}
	if out, code := runCommand(t, "evidence", "verify", "--data", w.Data()); code != 0 {
		t.Errorf("verify: exit %d\n%s", code, out)
	}
}

// ended counts the outcomes by result, and fails the test for an operation that has none.
func (w *watched) ended(t testing.TB) map[string]int {
	t.Helper()
	w.Evidence(0)
	results := map[string]int{}
	for _, r := range w.Records() {
		if r.Type == "operation.finished" {
			results[fmt.Sprint(r.Body["result"])]++
		}
	}
	return results
}
