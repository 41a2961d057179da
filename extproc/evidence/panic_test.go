package evidence

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// TestAPanicInTheWriterFailsTheJournal: whoever waits is told, whoever comes later is refused, and the next start finds a whole
// journal.
func TestAPanicInTheWriterFailsTheJournal(t *testing.T) {
	f, faults, j := openFaulty(t)
	mustAppend(t, j, decided("op-a", gate.Allow))
	faults.on("write", segmentsOnly(func(call) error { panic("made to") }))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 3 {
		if _, err := j.Append(ctx, decided("op-b", gate.Allow)); !errors.Is(err, ErrFailed) {
			t.Fatalf("error %v", err)
		}
	}
	if err := j.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}
	f.opts.FS = nil
	if err := f.open().Close(); err != nil {
		t.Fatal(err)
	}
	if r := f.mustVerify(); r.Unknown != 1 || len(r.Findings) > 0 {
		t.Errorf("%+v", r.Completeness)
	}
}

// TestTheSignerGoesOnAfterAPanic: a panic while a checkpoint is written leaves the lock free, and a later one is written.
func TestTheSignerGoesOnAfterAPanic(t *testing.T) {
	f := newFixture(t)
	faults := &faultyDisk{}
	f.opts.FS, f.opts.CheckpointEvery = faults, 10*time.Millisecond
	j := f.open()
	wrote := make(chan struct{}, 1)
	faults.on("write", func(c call) error {
		if strings.HasSuffix(c.name, checkpointsName) {
			faults.on("write", nil)
			faults.on("sync", func(c call) error {
				if strings.HasSuffix(c.name, checkpointsName) {
					select {
					case wrote <- struct{}{}:
					default:
					}
				}
				return nil
			})
			panic("made to")
		}
		return nil
	})
	mustAppend(t, j, event(1))
	select {
	case <-wrote:
	case <-time.After(20 * time.Second):
		t.Fatal("no checkpoint was written after the panic")
	}
	if r := f.verify(); !r.Passed() || r.Covered < 1 {
		t.Errorf("after the panic: %+v", r)
	}
}
