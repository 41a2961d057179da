package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/countersign/countersign/extproc/datafile"
)

// preparedName is the next segment before it has its name. It is no part of the journal.
const preparedName = "prepared"

const (
	prepareAhead = 1 << 20          // of the records: what a disk takes in 10 ms at most
	prepareStep  = 256 << 10        // at once: a record waits for no more than that
	preparePause = 10 * time.Second // after a failure
)

// room is the last segment's file. A goroutine of its own, the preparer, writes zeros behind the records and syncs them, and begins the
// next segment in the same way, so that records are written over bytes that the file has already. Then a sync has none of the file
// system's own records to write, which spares half of its time. Where nothing is prepared, records are appended.
type room struct {
	journal *Journal
	wake    chan struct{} // to the preparer; capacity 1

	steps  sync.Mutex // held while the preparer uses step; whoever closes that takes it
	begins sync.Mutex // held while it begins the next segment; whoever needs the room that this takes waits for its end

	mu   sync.Mutex    // guards what follows, and is held while the length of the file changes
	file datafile.File // nil before the first segment
	step datafile.File // the same file, for the preparer: an error of the disk is told once to each that has it open
	held held          // file
	look *os.File      // the same file, to read what somebody else may have written
	seen []byte        // what was read of it
	used int64         // durable bytes
	end  int64         // length of the file. What is after used was prepared, or is being written.
	next *held         // the next segment, prepared; nil if there is none
	size int64         // of next
	over bool          // no more records go to file
	rest time.Time     // nothing is prepared before that

	appended atomic.Uint64
}

func (r *room) init(j *Journal, found *recovered) error {
	r.journal, r.wake = j, make(chan struct{}, 1)
	_ = os.Remove(filepath.Join(j.opts.Dir, preparedName)) // of a run that did not end well
	if found.file == nil {
		return nil
	}
	return r.use(found.file, found.path, found.size, found.size)
}

// use makes f, which is at path, the file. If that fails, f is closed.
func (r *room) use(f datafile.File, path string, used, end int64) error {
	where, err := hold(path)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	look, err := datafile.Open(path)
	if err != nil {
		return errors.Join(fmt.Errorf("look at a file that was just opened: %w", err), f.Close())
	}
	step, err := r.journal.opts.FS.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return errors.Join(fmt.Errorf("open a file again that was just opened: %w", err), look.Close(), f.Close())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.file, r.step, r.held, r.look, r.used, r.end, r.over = f, step, where, look, used, end, false
	return nil
}

// check checks that the file is in its place, as long as it was left, that what is durable still ends with a record, and that nobody
// has written to the n bytes that come next.
func (r *room) check(n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.held.check(r.end); err != nil {
		return err
	}
	for at, to := r.used, min(r.used+n, r.end); at < to; at += int64(len(r.seen)) {
		r.seen = append(r.seen[:0], zeroBlock[:min(to-at, int64(len(zeroBlock)))]...)
		if _, err := r.look.ReadAt(r.seen, at); err != nil {
			return fmt.Errorf("look at what was prepared: %w", err)
		}
		if !bytes.Equal(r.seen, zeroBlock[:len(r.seen)]) {
			return fmt.Errorf("%w: %s has something after byte %d that the journal did not write", errNotOurs, r.held.path, at)
		}
	}
	return r.endsLocked(r.used)
}

// wrote checks that the n bytes that were just written are there, behind what was there before.
func (r *room) wrote(n int64) error {
	if err := r.check(0); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.endsLocked(r.used + n)
}

// endsLocked checks that a record ends at to. A file that was cut before that, and is as long again because something was written
// behind, has a zero there.
func (r *room) endsLocked(to int64) error {
	if to == 0 {
		return nil
	}
	var last [1]byte
	if _, err := r.look.ReadAt(last[:], to-1); err != nil {
		return fmt.Errorf("look at what was written: %w", err)
	}
	if last[0] != '\n' {
		return fmt.Errorf("%w: %s was cut before byte %d", errNotOurs, r.held.path, to)
	}
	return nil
}

// write writes b behind what is durable. After an error any part of it can be in the file; until that is undone the preparer must
// not take it for somebody else's.
func (r *room) write(b []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.file.WriteAt(b, r.used)
	if err == nil && n != len(b) {
		err = fmt.Errorf("wrote %d of %d bytes", n, len(b))
	}
	if err != nil {
		r.rest = time.Now().Add(preparePause)
	} else if to := r.used + int64(len(b)); to > r.end {
		r.end = to
		r.appended.Add(1)
	}
	return err
}

// keep says that n bytes more are durable.
func (r *room) keep(n int64) {
	r.mu.Lock()
	r.used += n
	wanted := r.wantedLocked() > 0 || r.wantsNextLocked()
	r.mu.Unlock()
	if wanted {
		r.nudge()
	}
}

// cut takes off what is not durable, and what was prepared; where somebody has cut more than that, it does not hide it. over says that
// no more will come.
func (r *room) cut(over bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = r.over || over
	err := r.file.Truncate(r.used)
	if err == nil {
		r.end = r.used
		err = r.endsLocked(r.used)
	}
	return err
}

// giveBack takes off what was prepared, here and of the next segment, and what is being prepared of that.
func (r *room) giveBack() error {
	r.begins.Lock()
	defer r.begins.Unlock()
	r.dropNext()
	return r.cut(false)
}

// isFull reports whether err says that the disk has no room.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func (r *room) nudge() {
	if r.journal.opts.Prepare < 0 {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run is the preparer.
func (r *room) run() {
	for {
		select {
		case <-r.journal.stop:
			return
		case <-r.wake:
		}
		for r.journal.failed.Load() == nil && (r.lengthen() || r.begin()) {
			select {
			case <-r.journal.stop:
				return
			default:
			}
		}
	}
}

// wantedLocked is how many bytes to prepare at once.
func (r *room) wantedLocked() int64 {
	limit := r.journal.opts.SegmentBytes
	to := min(r.used+r.journal.opts.Prepare, limit)
	if r.file == nil || r.over || to-r.end < prepareStep && to < limit || time.Now().Before(r.rest) {
		return 0
	}
	return min(to-r.end, prepareStep)
}

// wantsNextLocked reports whether the file is prepared to its end, and the next one is not begun.
func (r *room) wantsNextLocked() bool {
	full := r.file == nil || r.over || r.end >= r.journal.opts.SegmentBytes
	return full && r.next == nil && !time.Now().Before(r.rest)
}

// lengthen prepares a step of the file, and reports whether it did.
func (r *room) lengthen() bool {
	r.steps.Lock()
	defer r.steps.Unlock()
	f := r.writeZeros()
	if f == nil {
		return false
	}
	if err := f.Sync(); err != nil { // of a file that has records: nobody knows what is on the disk
		_ = r.journal.fail(fmt.Errorf("sync what was prepared: %w", err))
		return false
	}
	return true
}

// writeZeros makes the file a step longer and returns it. What can be written of a step that is not whole is taken back.
func (r *room) writeZeros() (f datafile.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.wantedLocked()
	if n <= 0 {
		return nil
	}
	defer func() {
		if f != nil {
			return
		}
		r.rest = time.Now().Add(preparePause)
		if err := r.file.Truncate(r.end); err != nil {
			_ = r.journal.fail(fmt.Errorf("undo what was prepared: %w", err))
		}
	}()
	if err := fill(r.step, r.end, n); err != nil {
		r.journal.opts.Log.Warn("nothing can be prepared for the journal, so it appends", "error", err)
		return nil
	}
	r.end += n
	return r.step
}

// begin prepares the next segment, and reports whether it did.
func (r *room) begin() bool {
	r.begins.Lock()
	defer r.begins.Unlock()
	r.mu.Lock()
	wanted := r.wantsNextLocked()
	r.mu.Unlock()
	if !wanted {
		return false
	}
	path := filepath.Join(r.journal.opts.Dir, preparedName)
	size := min(r.journal.opts.Prepare, r.journal.opts.SegmentBytes)
	err := makePrepared(r.journal.opts.FS, path, size)
	var next held
	if err == nil {
		next, err = hold(path)
	}
	if err != nil {
		_ = os.Remove(path)
		r.journal.opts.Log.Warn("the journal's next segment cannot be prepared", "error", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.rest = time.Now().Add(preparePause)
		return false
	}
	r.next, r.size = &next, size
	return true
}

func makePrepared(fsys datafile.FS, path string, size int64) error {
	f, err := fsys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err = fill(f, 0, size); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// fill writes n zeros.
func fill(f datafile.File, at, n int64) error {
	for to := at + n; at < to; {
		part, err := f.WriteAt(zeroBlock[:min(to-at, int64(len(zeroBlock)))], at)
		if err != nil {
			return err
		}
		at += int64(part)
	}
	return nil
}

// takeNext gives what was prepared for the next segment its name, and returns how long it is: 0 if there is nothing to be used.
func (r *room) takeNext(path string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.next
	r.next = nil
	if next == nil || next.check(r.size) != nil || r.journal.opts.FS.Rename(next.path, path) != nil {
		return 0
	}
	return r.size
}

// dropNext removes what was prepared for the next segment.
func (r *room) dropNext() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next != nil {
		_ = os.Remove(r.next.path)
	}
	r.next = nil
}

// close closes the file, and whatever it is in the middle of ends before.
func (r *room) close() error {
	r.steps.Lock()
	defer r.steps.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return nil
	}
	err := errors.Join(r.file.Close(), r.step.Close(), r.look.Close())
	r.file, r.step, r.look = nil, nil, nil
	return err
}
