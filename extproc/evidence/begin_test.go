package evidence

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

func TestWhatIsBegunGoesToTheDiskWithTheNextAppend(t *testing.T) {
	_, disk, j := openFaulty(t)
	mustAppend(t, j, event(0))
	var syncs atomic.Int64
	disk.on("sync", segmentsOnly(func(call) error { syncs.Add(1); return nil }))
	shared := 0
	for range 20 { // on a machine that is busy what is begun can go alone, after postDelay
		syncs.Store(0)
		durable := j.Begin(t.Context(), event(1))
		for range 1000 {
			runtime.Gosched()
		}
		second := mustAppend(t, j, event(2))
		first, err := durable()
		if err != nil || first.Seq+1 != second.Seq || first.Hash == "" || j.Durable() != second.Seq {
			t.Fatalf("begun is %+v, %v; appended is %+v; durable up to %d", first, err, second, j.Durable())
		}
		if syncs.Load() == 1 {
			shared++
		}
	}
	if shared == 0 {
		t.Error("what was begun never shared a sync")
	}
}

func TestWhatIsBegunIsDurableWhenItWasWaitedFor(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	for range 50 { // alone, so that nothing but the wait wakes the writer
		r, err := j.Begin(t.Context(), event(1))()
		if err != nil || j.Durable() < r.Seq || r.Seq == 0 {
			t.Fatalf("%+v, %v, durable up to %d", r, err, j.Durable())
		}
	}
	// Nobody has to wait for it.
	j.Begin(t.Context(), event(2))
	f.crash(j)
	if got := f.story(); got[len(got)-1] != "policy.activated n=2" {
		t.Errorf("the journal ends with %s", got[len(got)-1])
	}
}

func TestWhatIsBegunAndCannotBeWrittenIsAnError(t *testing.T) {
	for _, c := range []struct {
		step string
		err  error
		want error
	}{
		{"write", syscall.ENOSPC, ErrRefusing},
		{"sync", syscall.EIO, ErrFailed},
	} {
		_, disk, j := openFaulty(t)
		mustAppend(t, j, event(0))
		disk.on(c.step, segmentsOnly(always(c.err)))
		durable := j.Begin(t.Context(), event(1))
		_, err := j.Append(t.Context(), event(2))
		begun, begunErr := durable()
		if !errors.Is(err, c.want) || !errors.Is(begunErr, c.want) || !cmp.Equal(begun, gate.Receipt{}) {
			t.Errorf("%s fails: begun %+v, %v; appended %v", c.step, begun, begunErr, err)
		}
	}
	f := newFixture(t)
	j := f.open()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := j.Begin(context.Background(), event(1))(); !errors.Is(err, ErrClosed) || r.Seq != 0 {
		t.Errorf("closed: %+v, %v", r, err)
	}
	if _, err := j.Begin(context.Background(), &gate.Record{Type: "No Type"})(); err == nil {
		t.Error("a record that cannot be encoded was begun")
	}
}
