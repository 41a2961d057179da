package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestACollectorComesAndGoes kills the collector again and again while agents ask. Each request is answered, and each record
// is at the collector in the end.
func TestACollectorComesAndGoes(t *testing.T) {
	t.Parallel()
	collector := extproctest.StartCollector(t, extproctest.CollectorOptions{})
	g := start(t, readAll+fmt.Sprintf("-- config.yaml --\nevidence: {otlp: {endpoint: %q, insecure: true}}\n", collector.Endpoint()), story.Options{})
	l := startLoad(t, g, "outage", 4)
	for range 3 {
		l.reach(404, 50)
		collector.Kill()
		extproctest.Await(t, "word of records that wait", 30*time.Second, func(context.Context) error {
			_, text := get(t, "http://"+g.Admin+"/readyz")
			if !strings.Contains(text, "wait to be accepted") {
				return errors.New(text)
			}
			return nil
		})
		l.reach(404, 50)
		collector.Start()
	}
	for path, code := range l.end() {
		if code != 404 {
			t.Errorf("%s was answered %d", path, code)
		}
	}
	reconcile(t, g)
	arrives(t, g, collector.Sequences)
}

// arrives waits until every record of the journal is among what has arrived, which arrived counts by number.
func arrives(t *testing.T, g *story.Gateway, arrived func() map[int64]int) {
	t.Helper()
	last := int64(len(g.Records()))
	extproctest.Await(t, "every record at the collector", 60*time.Second, func(context.Context) error {
		return missing(arrived(), last)
	})
}

// missing says which of the journal's records have not arrived.
func missing(arrived map[int64]int, last int64) error {
	var count, first int64
	for seq := last; seq > 0; seq-- {
		if arrived[seq] == 0 {
			count, first = count+1, seq
		}
	}
	if count > 0 {
		return fmt.Errorf("%d of %d records have not come, record %d first", count, last, first)
	}
	return nil
}

// TestMemoryDoesNotGrowWithTheLag has no collector while agents ask. What the gateway keeps of records that wait is bounded: of
// twice as many it has as much. The collector gets all of them when it comes.
func TestMemoryDoesNotGrowWithTheLag(t *testing.T) {
	t.Parallel()
	const many = 4000 // operations, whose records are some 12 MiB in the journal
	address := extproctest.FreeAddress(t)
	g := watch(t, readAll+fmt.Sprintf("-- config.yaml --\nevidence: {otlp: {endpoint: %q, insecure: true}}\n", address), story.Options{Binary: extproctest.BuildShipped(t)})
	l := startLoad(t, g.Gateway, "lag", 8)
	l.reach(404, many)
	first := g.vitals(t)
	l.reach(404, many)
	l.end()
	second := g.vitals(t)
	t.Logf("the heap has %d KiB at first, %d after %d operations or more, and %d after as many again", g.before.heap>>10, first.heap>>10, many, second.heap>>10)
	if grown := second.heap - first.heap; grown > 4<<20 {
		t.Errorf("the heap grew by %d KiB with the lag", grown>>10)
	}
	reconcile(t, g.Gateway)
	_, text := get(t, "http://"+g.Admin+"/metrics")
	if lag, last := metricOf(t, text, "countersign_otlp_lag"), len(g.Records()); lag < float64(last-many/10) || lag > float64(last) {
		t.Errorf("of %d records the metrics say that %v wait", last, lag)
	}
	r := startReceiver(t, address)
	arrives(t, g.Gateway, r.sequences)
}
