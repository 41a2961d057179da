package evidence

import (
	"context"
	"fmt"
	"iter"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

func numbers(t testing.TB, list iter.Seq2[Glance, error]) (seqs []uint64) {
	t.Helper()
	for g, err := range list {
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, g.Seq)
	}
	return seqs
}

// TestAJournalIsReadBackwards as it is read forwards, from any record and any time, over segments, and not beyond what is on the
// disk for good.
func TestAJournalIsReadBackwards(t *testing.T) {
	f := newFixture(t)
	f.opts.SegmentBytes = 8 << 10
	j := f.open()
	hostile := []string{"/plain", `/","seq":7,"time":"2026-03-01T12:00:00.000000000Z","type":"x","v":1}`, "/" + strings.Repeat("long/", 400), "/\n\\\""}
	for i := range 60 {
		r := decided(fmt.Sprintf("op-%d", i), gate.Allow)
		r.Body.(*gate.Decision).Target = hostile[i%len(hostile)]
		if _, err := j.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	var all []Entry
	for e, err := range Records(t.Context(), f.dir, Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	list, err := segments(f.dir)
	if err != nil || len(list) < 3 {
		t.Fatalf("%d segments, %v", len(list), err)
	}
	at := len(all)
	for g, err := range Backward(t.Context(), f.dir, From{}) {
		if err != nil {
			t.Fatal(err)
		}
		at--
		e, err := g.Entry()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all[at], e); diff != "" || g.Seq != e.Seq || !g.Time.Equal(e.Time) || g.Type != e.Type || g.Op != e.Op {
			t.Fatalf("record %d: %+v %s", all[at].Seq, g, diff)
		}
	}
	if at != 0 {
		t.Errorf("%d records were not read", at)
	}
	last := uint64(len(all))
	for n := range last + 3 {
		var down, up []uint64
		for i := last; i > 0; i-- {
			if i < n {
				down = append(down, i)
			}
			if k := last - i + 1; k > n {
				up = append(up, k)
			}
		}
		if n > 0 {
			if diff := cmp.Diff(down, numbers(t, Backward(t.Context(), f.dir, From{Before: n}))); diff != "" {
				t.Fatalf("before %d: %s", n, diff)
			}
			if diff := cmp.Diff(down, numbers(t, Backward(t.Context(), f.dir, From{Safe: max(1, n-1), Before: n}))); diff != "" {
				t.Fatalf("before %d, safe: %s", n, diff)
			}
		}
		if diff := cmp.Diff(up, numbers(t, Forward(t.Context(), f.dir, n, last))); diff != "" {
			t.Fatalf("after %d: %s", n, diff)
		}
	}
	for i := range all {
		if got := numbers(t, Backward(t.Context(), f.dir, From{Until: all[i].Time})); len(got) != i+1 || got[0] != all[i].Seq {
			t.Fatalf("until the time of record %d: %v", i+1, got)
		}
	}
	if got := numbers(t, Forward(t.Context(), f.dir, 3, 5)); len(got) != 2 {
		t.Errorf("from 3, with 5 on the disk: %v", got)
	}
}

// TestReadingBackwardsSurvivesWhatHappensMeanwhile: a torn last line is not there yet; a segment that is removed is the end.
func TestReadingBackwardsSurvivesWhatHappensMeanwhile(t *testing.T) {
	f := newFixture(t)
	f.opts.SegmentBytes = 8 << 10
	j := f.open()
	for i := range 40 {
		if _, err := j.Append(t.Context(), decided(fmt.Sprintf("op-%d", i), gate.Allow)); err != nil {
			t.Fatal(err)
		}
	}
	f.crash(j)
	list, err := segments(f.dir)
	if err != nil || len(list) < 3 {
		t.Fatal(len(list), err)
	}
	tail, err := os.OpenFile(list[len(list)-1].path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tail.WriteString(`{"body":{"torn`); err != nil {
		t.Fatal(err)
	}
	if err := tail.Close(); err != nil {
		t.Fatal(err)
	}
	whole := numbers(t, Backward(t.Context(), f.dir, From{}))
	if whole[len(whole)-1] != 1 || whole[0] != uint64(len(whole)) {
		t.Fatalf("%v", whole)
	}
	if up := numbers(t, Forward(t.Context(), f.dir, 0, 1<<60)); len(up) != len(whole) {
		t.Errorf("%d forwards, %d backwards", len(up), len(whole))
	}
	var left []uint64
	for g, err := range Backward(t.Context(), f.dir, From{}) {
		if err != nil {
			t.Fatal(err)
		}
		if left = append(left, g.Seq); len(left) == 1 {
			if err := os.Remove(list[0].path); err != nil {
				t.Fatal(err)
			}
		}
	}
	if left[len(left)-1] != list[1].first {
		t.Errorf("it ends with %d, and the journal begins with %d", left[len(left)-1], list[1].first)
	}
	if got := numbers(t, Forward(t.Context(), f.dir, 0, 1<<60)); got[0] != list[1].first {
		t.Errorf("forwards it begins with %d", got[0])
	}
	spoilt, err := os.ReadFile(list[1].path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list[1].path, append(spoilt, "not a record\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	failed := false
	for _, err := range Backward(t.Context(), f.dir, From{}) {
		failed = failed || err != nil
	}
	if !failed {
		t.Error("a line that is no record was read over")
	}
}

// BenchmarkBackward is what a page of operations costs that looks at 100,000 records.
func BenchmarkBackward(b *testing.B) {
	f := newFixture(b)
	f.opts.Now = time.Now
	j := f.open()
	for i := range 100_000 {
		if err := j.Post(context.Background(), decided(gate.NewID(time.Now()), gate.Allow)); err != nil {
			b.Fatal(i, err)
		}
	}
	if _, err := j.Append(context.Background(), decided(gate.NewID(time.Now()), gate.Allow)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		n := 0
		for _, err := range Backward(context.Background(), f.dir, From{Safe: j.Durable()}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		b.ReportMetric(float64(n), "records")
	}
}
