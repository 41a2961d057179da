package evidence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

// TestOperationReadsNoMoreThanItMust: the records of an operation are found in a journal of many segments, also those that
// came long after it; what was written well before it and well after it is not even read.
func TestOperationReadsNoMoreThanItMust(t *testing.T) {
	f := newFixture(t)
	f.opts.SegmentBytes = 1 << 10
	j := f.open()
	write := func(kind, op string) {
		t.Helper()
		record := &gate.Record{Type: kind, Op: op, Body: gate.Object{{Name: "filler", Value: fmt.Sprintf("%0200d", 0)}}}
		if _, err := j.Append(t.Context(), record); err != nil {
			t.Fatal(err)
		}
	}
	var ops []string
	for range 12 {
		f.clock.move(2 * time.Hour)
		op := gate.NewID(f.clock.Now())
		ops = append(ops, op)
		write("approval.requested", op)
		write(gate.OperationDecided, op)
		f.clock.move(3 * time.Hour) // it streams
		write(gate.Heartbeat, "")
		write(gate.OperationFinished, op)
		f.clock.move(30 * time.Minute)
		write(gate.Heartbeat, "")
		write("approval.expired", op)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	kinds := func(op string, limit int) []string {
		t.Helper()
		list, err := Operation(t.Context(), f.dir, op, time.Hour, limit)
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for _, e := range list {
			kinds = append(kinds, e.Type)
		}
		return kinds
	}
	all := []string{"approval.requested", gate.OperationDecided, gate.OperationFinished, "approval.expired"}
	for i, op := range ops {
		if diff := cmp.Diff(all, kinds(op, 100)); diff != "" {
			t.Errorf("operation %d: %s", i, diff)
		}
	}
	list, err := segments(f.dir)
	if err != nil || len(list) < 8 {
		t.Fatalf("%d segments, %v", len(list), err)
	}
	// What is not to be read, cannot be: the lines after the first, which says when a segment began, are spoiled.
	for i, s := range list {
		if i > 1 && i < len(list)-3 {
			continue
		}
		text, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		end := bytes.IndexByte(text, '\n') + 1
		for n := end; n < len(text); n++ {
			text[n] = '?'
		}
		if err := os.WriteFile(s.path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(all, kinds(ops[6], 100)); diff != "" {
		t.Errorf("between spoiled segments: %s", diff)
	}
	if got := kinds(ops[6], 2); len(got) != 2 {
		t.Errorf("limited to two: %v", got)
	}
	for _, unknown := range []string{"", "7", "../../etc/passwd", "00000000-0000-4000-8000-000000000000", gate.NewID(f.clock.Now().Add(-40 * time.Hour))} {
		if got := kinds(unknown, 100); got != nil {
			t.Errorf("%q has records: %v", unknown, got)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Operation(ended, f.dir, ops[6], time.Hour, 100); !errors.Is(err, context.Canceled) {
		t.Errorf("whoever asked has left, and: %v", err)
	}
}

// TestOperationAfterTheClockSteppedBack: what was written before and after the step is found.
func TestOperationAfterTheClockSteppedBack(t *testing.T) {
	f := newFixture(t)
	f.opts.SegmentBytes = 512
	j := f.open()
	write := func(op string) {
		t.Helper()
		if _, err := j.Append(t.Context(), &gate.Record{Type: gate.OperationDecided, Op: op, Body: gate.Object{{Name: "filler", Value: fmt.Sprintf("%0300d", 0)}}}); err != nil {
			t.Fatal(err)
		}
	}
	f.clock.move(time.Hour)
	before := gate.NewID(f.clock.Now())
	for range 4 {
		write(before)
	}
	f.clock.move(-50 * time.Minute)
	after := gate.NewID(f.clock.Now())
	for range 4 {
		write(after)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{before, after} {
		if list, err := Operation(t.Context(), f.dir, op, time.Hour, 100); err != nil || len(list) != 4 {
			t.Errorf("%d records, %v", len(list), err)
		}
	}
}
