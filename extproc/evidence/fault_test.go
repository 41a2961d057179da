package evidence

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/gate"
)

// faultyDisk is the real disk, on which each step can be made to fail.
type faultyDisk struct {
	datafile.Disk
	mu     sync.Mutex
	faults map[string]func(call) error
	open   atomic.Int64 // files
}

// call is one step: what file, what data, and the real file to carry out a part of it.
type call struct {
	name   string
	data   []byte
	offset int64
	file   datafile.File
}

// on sets what happens before "open", "write", "sync", "truncate", "rename" or "syncdir"; an error stands for the step.
func (d *faultyDisk) on(step string, fault func(call) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.faults == nil {
		d.faults = map[string]func(call) error{}
	}
	d.faults[step] = fault
}

func (d *faultyDisk) step(step string, c call) error {
	d.mu.Lock()
	fault := d.faults[step]
	d.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(c)
}

func (d *faultyDisk) OpenFile(name string, flag int, perm fs.FileMode) (datafile.File, error) {
	if err := d.step("open", call{name: name}); err != nil {
		return nil, err
	}
	f, err := d.Disk.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	d.open.Add(1)
	return &faultyFile{File: f, name: name, disk: d}, nil
}

func (d *faultyDisk) Rename(from, to string) error {
	if err := d.step("rename", call{name: to}); err != nil {
		return err
	}
	return d.Disk.Rename(from, to)
}

func (d *faultyDisk) SyncDir(dir string) error {
	if err := d.step("syncdir", call{name: dir}); err != nil {
		return err
	}
	return d.Disk.SyncDir(dir)
}

// openFaulty opens a journal on such a disk.
func openFaulty(t testing.TB) (*fixture, *faultyDisk, *Journal) {
	t.Helper()
	f, faults := newFixture(t), &faultyDisk{}
	f.opts.FS = faults
	return f, faults, f.open()
}

type faultyFile struct {
	datafile.File
	name string
	disk *faultyDisk
}

func (f *faultyFile) WriteAt(p []byte, offset int64) (int, error) {
	if err := f.disk.step("write", call{name: f.name, data: p, offset: offset, file: f.File}); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, offset)
}

func (f *faultyFile) Sync() error {
	if err := f.disk.step("sync", call{name: f.name, file: f.File}); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultyFile) Truncate(size int64) error {
	if err := f.disk.step("truncate", call{name: f.name, file: f.File}); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultyFile) Close() error {
	f.disk.open.Add(-1)
	return f.File.Close()
}

func segmentsOnly(fault func(call) error) func(call) error {
	return func(c call) error {
		if !strings.HasSuffix(c.name, segmentSuffix) {
			return nil
		}
		return fault(c)
	}
}

// prepared waits until the preparer has nothing to do.
func prepared(j *Journal) {
	r := &j.writer.room
	for j.opts.Prepare > 0 {
		r.mu.Lock()
		busy := r.wantedLocked() > 0 || r.wantsNextLocked()
		r.mu.Unlock()
		if !busy {
			r.steps.Lock()   // its last sync
			r.steps.Unlock() //nolint:staticcheck // whoever holds it has ended
			return
		}
		r.nudge()
		runtime.Gosched()
	}
}

func always(err error) func(call) error { return func(call) error { return err } }

// TestNoRecordNoAccess is promise 1: whatever step of a write fails, and whether or not the data is there all the same,
// the caller gets an error, and what the journal then holds is in order. A write that could be undone passes when the
// disk works again; a sync that failed never does.
func TestNoRecordNoAccess(t *testing.T) {
	disk, full := errors.New("input/output error"), error(syscall.ENOSPC)
	store := func(part int, err error) func(call) error {
		return func(c call) error {
			n := len(c.data)
			if part > 0 {
				n = min(part, n)
			}
			if _, werr := c.file.WriteAt(c.data[:n], c.offset); werr != nil {
				return werr
			}
			return err
		}
	}
	for _, c := range []struct {
		name    string
		step    string
		fault   func(call) error
		then    string // a further step that fails
		recover bool   // by itself
		stored  bool   // the refused record may be found at the next start
	}{
		{name: "a write fails and nothing is stored", step: "write", fault: always(disk), recover: true},
		{name: "a write fails and half a line is stored", step: "write", fault: store(40, disk), recover: true},
		{name: "a write fails and all is stored", step: "write", fault: store(0, disk), recover: true},
		{name: "the disk is full and nothing is stored", step: "write", fault: always(full), recover: true},
		{name: "the disk is full and half a line is stored", step: "write", fault: store(40, full), recover: true},
		{name: "a sync fails", step: "sync", fault: always(disk)},
		{name: "a sync fails and all stays stored", step: "sync", fault: always(disk), then: "truncate", stored: true},
		{name: "a write fails, all is stored and cannot be undone", step: "write", fault: store(0, disk), then: "truncate", stored: true},
		{name: "a write fails, half is stored and cannot be undone", step: "write", fault: store(40, disk), then: "truncate"},
		{name: "a write fails, all is stored and the undoing cannot be synced", step: "write", fault: store(0, disk), then: "sync"},
	} {
		test := func(t *testing.T, prepare int64) {
			f := newFixture(t)
			faults := &faultyDisk{}
			f.opts.FS, f.opts.Prepare = faults, prepare
			j := f.open()
			mustAppend(t, j, event(1))
			prepared(j)

			faults.on(c.step, segmentsOnly(c.fault))
			if c.then != "" {
				faults.on(c.then, segmentsOnly(always(disk)))
			}
			for n := range 3 {
				r, err := j.Append(context.Background(), decided(fmt.Sprint("op-", n), gate.Allow))
				if err == nil || r.Seq != 0 {
					t.Fatalf("append %d: receipt %+v and error %v, want an error alone", n, r, err)
				}
				if c.recover != errors.Is(err, ErrRefusing) || c.recover == errors.Is(err, ErrFailed) {
					t.Errorf("append %d: %v", n, err)
				}
			}
			if j.Err() == nil {
				t.Error("the journal says that it is well")
			}
			faults.on(c.step, nil)
			faults.on(c.then, nil)

			if _, err := j.Append(context.Background(), event(2)); (err == nil) != c.recover {
				t.Errorf("after the disk works again: %v", err)
			}
			if c.recover {
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				f.wantStory("policy.activated n=1", "alarm kind=journal_refused refused=3", "policy.activated n=2", "gateway.stopped open=0")
				f.mustVerify()
				return
			}
			if err := j.Close(); !errors.Is(err, ErrFailed) {
				t.Errorf("close: %v", err)
			}
			j = f.open()
			mustAppend(t, j, event(3))
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			want := []string{"policy.activated n=1"}
			if c.stored {
				want = append(want, "operation.decided effect=allow", "operation.unknown decided=2")
			}
			if strings.Contains(c.name, "half is stored and cannot") {
				want = append(want, "alarm kind=torn_tail bytes=40")
			}
			f.wantStory(append(want, "policy.activated n=3", "gateway.stopped open=0")...)
			f.mustVerify()
		}
		t.Run(c.name, func(t *testing.T) { test(t, 0) })
		t.Run(c.name+", to a file that nothing is prepared of", func(t *testing.T) { test(t, -1) })
	}
}

func TestALostOutcomeBecomesUnknownWhenTheDiskWorksAgain(t *testing.T) {
	f, faults, j := openFaulty(t)
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
	mustAppend(t, j, event(2))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f.wantStory("operation.decided effect=allow", "alarm kind=journal_refused refused=2", "operation.unknown decided=1",
		"policy.activated n=2", "gateway.stopped open=0")
	if diff := cmp.Diff([]string{AlarmRefusing, AlarmRefused}, f.raised()); diff != "" {
		t.Error(diff)
	}
	f.mustVerify()
}

func TestASegmentThatCannotBeStartedRefuses(t *testing.T) {
	for _, c := range []struct {
		name    string
		step    string
		err     error
		recover bool
	}{
		{"the disk is full", "open", syscall.ENOSPC, true},
		{"there are no descriptors", "open", syscall.EMFILE, true},
		{"there are no descriptors for the directory", "syncdir", &fs.PathError{Op: "open", Path: "journal", Err: syscall.EMFILE}, true},
		{"the directory cannot be synced", "syncdir", syscall.EIO, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			faults := &faultyDisk{}
			f.opts.FS = faults
			f.opts.SegmentBytes = 1000
			j := f.open()
			mustAppend(t, j, event(1))
			mustAppend(t, j, event(2))
			faults.on(c.step, always(c.err))
			big := gate.Object{{Name: "big", Value: strings.Repeat("x", 700)}}
			if _, err := j.Append(context.Background(), &gate.Record{Type: "alarm", Body: big}); err == nil {
				t.Fatal("appended without a segment")
			}
			// A record that would fit the old segment must not go there: the next one may be in the directory.
			_, err := j.Append(context.Background(), event(3))
			if err == nil {
				t.Fatal("appended to a segment that had ended")
			}
			faults.on(c.step, nil)
			if _, err := j.Append(context.Background(), event(4)); (err == nil) != c.recover {
				t.Errorf("after the disk works again: %v", err)
			}
			_ = j.Close()
			j = f.open()
			mustAppend(t, j, event(5))
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			f.mustVerify()
		})
	}
}

func TestCheckpointFaults(t *testing.T) {
	checkpointsOnly := func(fault func(call) error) func(call) error {
		return func(c call) error {
			if filepath.Base(c.name) != checkpointsName {
				return nil
			}
			return fault(c)
		}
	}
	stored := func(c call) error {
		if _, err := c.file.WriteAt(c.data, c.offset); err != nil {
			return err
		}
		return syscall.EIO
	}
	for _, c := range []struct {
		name  string
		step  string
		fault func(call) error
		fatal bool
	}{
		{"a write fails", "write", always(syscall.ENOSPC), false},
		{"a write fails and is stored", "write", stored, false},
		{"a sync fails", "sync", always(syscall.EIO), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, faults, j := openFaulty(t)
			mustAppend(t, j, event(1))
			faults.on(c.step, checkpointsOnly(c.fault))
			if err := j.Checkpoint(); err == nil {
				t.Error("no error")
			}
			faults.on(c.step, nil)
			_, err := j.Append(context.Background(), event(2))
			if errors.Is(err, ErrFailed) != c.fatal {
				t.Errorf("append: %v", err)
			}
			_ = j.Close()
			f.open().Close()
			f.mustVerify()
		})
	}
}

// A kernel may show bytes that the disk did not take. What a failed run left uncovered is written again before a
// record is chained to it.
func TestWhatNoCheckpointCoversIsWrittenAgain(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	mustAppend(t, j, event(1))
	if err := j.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, event(2))
	f.crash(j)
	faults := &faultyDisk{}
	f.opts.FS, f.opts.Prepare = faults, -1
	var again []string
	faults.on("write", segmentsOnly(func(c call) error { again = append(again, string(c.data)); return nil }))
	f.open()
	if len(again) != 1 || !strings.Contains(again[0], `"seq":2,`) || strings.Contains(again[0], `"seq":1,`) {
		t.Errorf("the start wrote %q, want record 2 alone", again)
	}
}
