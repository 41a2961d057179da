package evidence

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/countersign/countersign/extproc/datafile"
)

// TestRecordsAreWrittenOverWhatWasPrepared, and a segment that is closed has nothing but its records.
func TestRecordsAreWrittenOverWhatWasPrepared(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	mustAppend(t, j, event(0))
	prepared(j)
	before := j.Appended()
	for n := range 20 {
		mustAppend(t, j, event(n))
	}
	text := f.read(f.segment())
	if appended := j.Appended() - before; appended != 0 || len(text) < prepareAhead {
		t.Errorf("%d writes were appended, and the file has %d bytes", appended, len(text))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	left := f.files()
	if closed := left[f.segment()]; !strings.HasSuffix(closed, "}\n") || strings.Contains(closed, "\x00") {
		t.Errorf("a closed segment ends with %q", closed[max(0, len(closed)-20):])
	}
	if _, there := left[preparedName]; there {
		t.Errorf("a stop leaves what was prepared")
	}
	f.mustVerify()
}

// TestOnlyTheLastSegmentEndsInZeros, wherever a crash comes while one is ended and the next one begun.
func TestOnlyTheLastSegmentEndsInZeros(t *testing.T) {
	for _, step := range []string{"", "truncate", "sync", "rename", "open", "syncdir", "write"} {
		f := newFixture(t)
		faults := &faultyDisk{}
		f.opts.SegmentBytes, f.opts.FS = 4000, faults
		j := f.open()
		check := func() {
			t.Helper()
			list, err := segments(f.dir)
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range list {
				if text := f.read(filepath.Base(s.path)); i < len(list)-1 && (text == "" || strings.Contains(text, "\x00")) {
					t.Fatalf("%q: segment %d of %d has %d bytes, and zeros", step, i+1, len(list), len(text))
				}
			}
		}
		for n := range 100 {
			mustAppend(t, j, event(n))
			if n%3 == 0 {
				prepared(j)
			}
			check()
		}
		for list, n := 0, 0; ; n++ { // until a segment has just been begun
			prepared(j)
			mustAppend(t, j, event(n))
			now, err := segments(f.dir)
			if err != nil {
				t.Fatal(err)
			}
			if list > 0 && len(now) > list {
				break
			}
			list = len(now)
		}
		faults.on(step, func(c call) error {
			if strings.HasSuffix(c.name, checkpointsName) || strings.HasSuffix(c.name, resumeName+".new") {
				return nil
			}
			return syscall.EIO
		})
		for n := range 40 {
			_, _ = j.Append(t.Context(), event(n))
			check()
		}
		f.crash(j)
		check()
		faults.on(step, nil)
		j = f.open()
		mustAppend(t, j, event(1))
		f.crash(j)
		check()
		f.mustVerify()
	}
}

// smallDisk has room for so many bytes of segments, with a name or without one yet.
type smallDisk struct {
	datafile.Disk
	mu   sync.Mutex
	room int64
}

type smallFile struct {
	datafile.File
	disk *smallDisk
	name string
}

func (d *smallDisk) OpenFile(name string, flag int, perm fs.FileMode) (datafile.File, error) {
	f, err := d.Disk.OpenFile(name, flag, perm)
	if err != nil || !strings.HasSuffix(name, segmentSuffix) && !strings.HasSuffix(name, preparedName) {
		return f, err
	}
	return &smallFile{f, d, name}, nil
}

func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func (f *smallFile) WriteAt(p []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	dir := filepath.Dir(f.name)
	list, err := segments(dir)
	if err != nil {
		return 0, err
	}
	free := f.disk.room - sizeOf(filepath.Join(dir, preparedName))
	for _, s := range list {
		free -= sizeOf(s.path)
	}
	n := int64(len(p))
	if grows := max(0, at+n-sizeOf(f.name)); grows > free {
		n -= grows - free
	}
	if n > 0 {
		if _, err := f.File.WriteAt(p[:n], at); err != nil {
			return 0, err
		}
	}
	if n < int64(len(p)) {
		return int(max(0, n)), &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	return int(n), nil
}

// TestPreparingTakesNoRoomFromRecords: on a disk that fills up as many records find room as without preparing, and what was
// prepared is there for them.
func TestPreparingTakesNoRoomFromRecords(t *testing.T) {
	taken := func(t *testing.T, prepare, free int64) (n int) {
		t.Helper()
		f := newFixture(t)
		disk := &smallDisk{room: free}
		f.opts.FS, f.opts.Prepare, f.opts.SegmentBytes = disk, prepare, 20<<10
		j := f.open()
		for ; ; n++ {
			_, err := j.Append(t.Context(), event(1000+n))
			if err != nil {
				if !errors.Is(err, ErrRefusing) || !isFull(err) {
					t.Errorf("%d bytes prepared: %v", prepare, err)
				}
				break
			}
			prepared(j)
		}
		disk.mu.Lock()
		disk.room += 20 << 10
		disk.mu.Unlock()
		mustAppend(t, j, event(0))
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		f.mustVerify()
		return n
	}
	for _, free := range []int64{3_000, 19_000, 30_000, 45_000} {
		plain := taken(t, -1, free)
		for _, prepare := range []int64{2_000, 15_000, prepareAhead} {
			if n := taken(t, prepare, free); n != plain || n == 0 {
				t.Errorf("%d bytes free, %d prepared: %d records found room, and %d without preparing", free, prepare, n, plain)
			}
		}
	}
}

// TestPreparingGivesWayToRecords: a record that finds no room waits for the end of what is being prepared, and has that room.
func TestPreparingGivesWayToRecords(t *testing.T) {
	f, faults := newFixture(t), &faultyDisk{}
	f.opts.FS, f.opts.SegmentBytes = faults, 20<<10
	begun, failed := make(chan struct{}), make(chan struct{})
	var begin, fail sync.Once
	faults.on("write", func(c call) error {
		switch {
		case filepath.Base(c.name) == preparedName:
			begin.Do(func() { close(begun) })
			<-failed
		case strings.HasSuffix(c.name, segmentSuffix) && c.data[0] != 0 && isNextBegun(f):
			fail.Do(func() { close(failed) })
			return syscall.ENOSPC
		}
		return nil
	})
	j := f.open()
	mustAppend(t, j, event(1))
	<-begun
	mustAppend(t, j, event(2))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f.mustVerify()
}

func isNextBegun(f *fixture) bool {
	_, err := os.Stat(filepath.Join(f.opts.Dir, preparedName))
	return err == nil
}

// TestWhatIsNotPreparedIsAppended: records do not wait for a preparer that is slow, and a metric says how many there were.
func TestWhatIsNotPreparedIsAppended(t *testing.T) {
	f := newFixture(t)
	faults := &faultyDisk{}
	release := make(chan struct{})
	faults.on("open", func(c call) error {
		if filepath.Base(c.name) == preparedName {
			<-release
		}
		return nil
	})
	f.opts.FS, f.opts.SegmentBytes = faults, 2000
	j := f.open()
	for n := range 50 {
		mustAppend(t, j, event(n))
	}
	if j.Appended() < 5 {
		t.Errorf("%d writes were appended", j.Appended())
	}
	close(release)
	f.mustVerify()
}

// TestAPanicInThePreparer: what it was writing is taken back, and records go on.
func TestAPanicInThePreparer(t *testing.T) {
	f, faults, j := openFaulty(t)
	panicked := make(chan struct{})
	var once sync.Once
	faults.on("write", segmentsOnly(func(c call) error {
		if bytes.Equal(c.data, zeroBlock[:len(c.data)]) {
			defer once.Do(func() { close(panicked) })
			panic("made to")
		}
		return nil
	}))
	mustAppend(t, j, event(1))
	prepared := func() bool {
		select {
		case <-panicked:
			return true
		default:
			return false
		}
	}
	for n := 0; !prepared(); n++ {
		mustAppend(t, j, event(n))
	}
	mustAppend(t, j, event(2))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f.mustVerify()
}

// TestASyncOfZerosThatFailsFailsTheJournal: they are in a file that has records.
func TestASyncOfZerosThatFailsFailsTheJournal(t *testing.T) {
	_, faults, j := openFaulty(t)
	for j.Durable() < 1 {
		mustAppend(t, j, event(1))
	}
	prepared(j)
	faults.on("sync", segmentsOnly(always(syscall.EIO)))
	j.writer.room.mu.Lock()
	j.opts.Prepare *= 2
	j.writer.room.mu.Unlock()
	j.writer.room.nudge()
	for j.Err() == nil {
		j.writer.room.steps.Lock()
		j.writer.room.steps.Unlock() //nolint:staticcheck // it waits for the preparer
	}
	if _, err := j.Append(context.Background(), event(2)); !errors.Is(err, ErrFailed) {
		t.Errorf("append: %v", err)
	}
}

// TestThePreparerWaitsUntilAWriteIsUndone: what is left of a write that failed is not somebody else's.
func TestThePreparerWaitsUntilAWriteIsUndone(t *testing.T) {
	f, faults, j := openFaulty(t)
	mustAppend(t, j, event(1))
	prepared(j)
	faults.on("write", segmentsOnly(func(c call) error {
		_, err := c.file.WriteAt(c.data[1:], c.offset)
		return errors.Join(err, syscall.EIO)
	}))
	r := &j.writer.room
	if err := r.write(bytes.Repeat([]byte("x"), 2*prepareAhead)); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	faults.on("write", nil)
	r.mu.Lock()
	j.opts.Prepare *= 4 // so that there is something to do
	r.mu.Unlock()
	if r.lengthen() || j.Err() != nil {
		t.Errorf("the journal says %v", j.Err())
	}
	if err := r.cut(false); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, event(2))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f.mustVerify()
}

// TestAnErrorThatThePreparerIsTold is told to whoever waits for a record too: Linux tells an error of the disk once to each that has the
// file open, whoever's bytes were lost.
func TestAnErrorThatThePreparerIsTold(t *testing.T) {
	f, disk, j := openFaulty(t)
	var mu sync.Mutex
	var atSync, isLost bool
	told := map[datafile.File]bool{}
	lost, toldPreparer := make(chan struct{}), make(chan struct{})
	disk.on("write", segmentsOnly(func(c call) error {
		mu.Lock()
		defer mu.Unlock()
		if atSync && !isLost && c.data[0] != 0 {
			isLost = true
			close(lost)
		}
		return nil
	}))
	disk.on("sync", segmentsOnly(func(c call) error {
		if bytes.Contains(debug.Stack(), []byte(".lengthen(")) {
			mu.Lock()
			atSync = true
			mu.Unlock()
			<-lost
			mu.Lock()
			told[c.file] = true
			mu.Unlock()
			close(toldPreparer)
			return syscall.EIO
		}
		mu.Lock()
		was := isLost
		mu.Unlock()
		if !was {
			return nil
		}
		<-toldPreparer
		if told[c.file] {
			return nil
		}
		return syscall.EIO
	}))
	for n := 0; ; n++ {
		_, err := j.Append(t.Context(), event(n))
		mu.Lock()
		was := isLost
		mu.Unlock()
		if was {
			if !errors.Is(err, ErrFailed) {
				t.Errorf("a record that the disk lost: %v", err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f.crash(j)
}
