package evidence

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// TestAJournalThatSomebodyChangesTakesNothingMore is promise 1 on a disk that others can write too: a record in a file that
// is no longer there, or no longer what the journal left, is no record.
func TestAJournalThatSomebodyChangesTakesNothingMore(t *testing.T) {
	segment := func(f *fixture) string { return segmentPath(f.opts.Dir, 1) }
	for _, c := range []struct {
		name   string
		change func(f *fixture) error
	}{
		{"the segment is deleted", func(f *fixture) error { return os.Remove(segment(f)) }},
		{"the whole directory is deleted", func(f *fixture) error { return os.RemoveAll(f.opts.Dir) }},
		{"the directory is moved away", func(f *fixture) error { return os.Rename(f.opts.Dir, f.opts.Dir+".old") }},
		{"a copy takes the segment's place", func(f *fixture) error {
			text, err := os.ReadFile(segment(f))
			return errors.Join(err, os.WriteFile(segment(f)+".new", text, 0o600), os.Rename(segment(f)+".new", segment(f)))
		}},
		{"the segment is cut", func(f *fixture) error { return os.Truncate(segment(f), 10) }},
		{"the file is made longer", func(f *fixture) error { return os.Truncate(segment(f), 3<<20) }},
		{"something is written behind the journal's end", func(f *fixture) error {
			file, err := os.OpenFile(segment(f), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = file.WriteAt([]byte("x"), f.written(1)+100)
			return errors.Join(err, file.Close())
		}},
		{"what was prepared is cut off", func(f *fixture) error { return os.Truncate(segment(f), f.written(1)) }},
	} {
		test := func(t *testing.T, wait func(*Journal)) {
			t.Helper()
			f := newFixture(t)
			j := f.open()
			mustAppend(t, j, event(1))
			wait(j)
			if err := c.change(f); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if r, err := j.Append(context.Background(), decided("op-1", gate.Allow)); !errors.Is(err, ErrFailed) || r.Seq != 0 {
					t.Errorf("append: receipt %+v and error %v, want %v", r, err, ErrFailed)
				}
			}
			if !errors.Is(j.Err(), ErrFailed) {
				t.Errorf("ready: %v", j.Err())
			}
			_ = j.Close()
		}
		t.Run(c.name, func(t *testing.T) { test(t, prepared) })
		if !strings.Contains(c.name, "prepared") && !strings.Contains(c.name, "behind") { // zeros may come over what is behind: nothing is lost by that
			t.Run(c.name+" while it is prepared", func(t *testing.T) { test(t, func(*Journal) {}) })
		}
	}
}

// TestPreparingHidesNoCut: a file that somebody cuts between two records is not made as long again as it was.
func TestPreparingHidesNoCut(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	mustAppend(t, j, event(1))
	prepared(j)
	if err := os.Truncate(segmentPath(f.dir, 1), 10); err != nil {
		t.Fatal(err)
	}
	j.writer.room.mu.Lock()
	j.opts.Prepare *= 2 // so that there is something to do
	j.writer.room.mu.Unlock()
	for j.writer.room.lengthen() {
	}
	if r, err := j.Append(context.Background(), decided("op-1", gate.Allow)); !errors.Is(err, ErrFailed) || r.Seq != 0 {
		t.Errorf("append: receipt %+v and error %v, want %v", r, err, ErrFailed)
	}
	_ = j.Close()
}

// TestACutIsNotHidden: whatever makes the file longer after somebody has cut it, in that moment too.
func TestACutIsNotHidden(t *testing.T) {
	cut := func(c call) error { return os.Truncate(c.name, 10) }
	zeros := func(c call) bool { return bytes.Equal(c.data, zeroBlock[:len(c.data)]) }
	for _, c := range []struct {
		name    string
		prepare int64
		on      func(faults *faultyDisk)
	}{
		{"before zeros are written", prepareAhead, func(faults *faultyDisk) {
			faults.on("write", segmentsOnly(func(c call) error {
				if zeros(c) {
					return cut(c)
				}
				return nil
			}))
		}},
		{"before a record is written", -1, func(faults *faultyDisk) { faults.on("write", segmentsOnly(cut)) }},
		{"before a write is undone", -1, func(faults *faultyDisk) {
			faults.on("write", segmentsOnly(func(c call) error { return errors.Join(cut(c), syscall.EIO) }))
		}},
		{"before a segment is ended", -1, func(faults *faultyDisk) { faults.on("truncate", segmentsOnly(cut)) }},
		{"between a record and what was prepared behind it", -1, func(faults *faultyDisk) {
			faults.on("sync", segmentsOnly(func(c call) error {
				size, err := os.Stat(c.name)
				if err != nil {
					return err
				}
				return errors.Join(os.Truncate(c.name, size.Size()-10), os.Truncate(c.name, size.Size()))
			}))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, faults := newFixture(t), &faultyDisk{}
			f.opts.FS, f.opts.Prepare = faults, -1
			j := f.open()
			mustAppend(t, j, event(1))
			c.on(faults)
			j.writer.room.mu.Lock()
			j.opts.Prepare = c.prepare
			if strings.Contains(c.name, "segment") {
				j.opts.SegmentBytes = 1
			}
			j.writer.room.mu.Unlock()
			j.writer.room.lengthen()
			if r, err := j.Append(context.Background(), decided("op-1", gate.Allow)); !errors.Is(err, ErrFailed) || r.Seq != 0 {
				t.Errorf("append: receipt %+v and error %v, want %v", r, err, ErrFailed)
			}
			_ = j.Close()
		})
	}
}

// Deleting what stands while a sync runs: the record is refused although its sync worked.
func TestASegmentThatIsDeletedDuringASyncTakesNothing(t *testing.T) {
	_, faults, j := openFaulty(t)
	mustAppend(t, j, event(1))
	faults.on("sync", segmentsOnly(func(c call) error { return os.Remove(c.name) }))
	if _, err := j.Append(context.Background(), decided("op-1", gate.Allow)); !errors.Is(err, ErrFailed) {
		t.Errorf("append: %v", err)
	}
	_ = j.Close()
}

func TestCheckpointsThatSomebodyDeletesFailTheJournal(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	mustAppend(t, j, event(1))
	if err := os.Remove(filepath.Join(f.opts.Dir, checkpointsName)); err != nil {
		t.Fatal(err)
	}
	if err := j.Checkpoint(); !errors.Is(err, ErrFailed) {
		t.Errorf("checkpoint: %v", err)
	}
	if _, err := j.Append(context.Background(), event(2)); !errors.Is(err, ErrFailed) {
		t.Errorf("append: %v", err)
	}
	_ = j.Close()
}

// A stop while the disk refuses leaves one operation.unknown for an operation, once the disk takes it.
func TestALostOutcomeIsToldOnceAtAStop(t *testing.T) {
	f := newFixture(t)
	faults := &faultyDisk{}
	f.opts.FS = faults
	f.opts.RetryEvery = time.Hour // the stop is the next try
	j := f.open()
	r := mustAppend(t, j, decided("op-1", gate.Allow))
	prepared(j)
	faults.on("write", segmentsOnly(always(syscall.ENOSPC)))
	if err := j.Post(context.Background(), finished("op-1", r.Seq)); err != nil {
		t.Fatalf("post takes before it writes: %v", err)
	}
	if _, err := j.Append(context.Background(), event(1)); !errors.Is(err, ErrRefusing) {
		t.Fatalf("append: %v", err)
	}
	faults.on("write", nil)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f.wantStory("operation.decided effect=allow", "alarm kind=journal_refused refused=2", "operation.unknown decided=1", "gateway.stopped open=1")
	f.mustVerify()
}

// A journal that is removed between two runs leaves its key behind. The new one begins with a word on that.
func TestAJournalThatIsRemovedBetweenRunsIsMissed(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	mustAppend(t, j, event(1))
	if err := errors.Join(j.Close(), os.RemoveAll(f.opts.Dir)); err != nil {
		t.Fatal(err)
	}
	if err := f.open().Close(); err != nil {
		t.Fatal(err)
	}
	f.wantStory("alarm kind=journal_missing", "gateway.stopped open=0")
	f.mustVerify()
}

// A start reads the last segment and little more, and all the others must be there.
func TestAStartMissesASegmentInTheMiddle(t *testing.T) {
	f := newFixture(t)
	f.opts.SegmentBytes = 600
	j := f.open()
	for n := range 12 {
		mustAppend(t, j, event(n))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := segments(f.opts.Dir)
	if err != nil || len(list) < 4 {
		t.Fatalf("%d segments, %v", len(list), err)
	}
	if err := f.open().Close(); err != nil {
		t.Fatalf("with all of them: %v", err)
	}
	if err := os.Remove(list[1].path); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), f.opts)
	if err == nil || !strings.Contains(err.Error(), list[2].path+" begins where record ") {
		t.Errorf("without the second: %v", err)
	}
}
