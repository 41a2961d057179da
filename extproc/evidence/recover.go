package evidence

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/countersign/countersign/extproc/datafile"
)

// recovered is what a start found in the directory, and the files to go on with.
type recovered struct {
	chain chain
	open  map[uint64]string

	file datafile.File // last segment; nil when there is none
	path string        // of file
	size int64

	torn     int64 // bytes cut off the end
	tornHash string

	last      Checkpoint
	notes     datafile.File
	notesSize int64

	unsigned []stretch // what no checkpoint covers
}

// stretch is a part of a segment. It consists of whole records.
type stretch struct {
	path     string
	from, to int64
}

// isFresh reports whether no key has been used yet: there are no records and no checkpoints.
func isFresh(dir string) (bool, error) {
	list, err := segments(dir)
	if err != nil {
		return false, err
	}
	for _, s := range list {
		info, err := os.Lstat(s.path)
		if err != nil {
			return false, fmt.Errorf("look at the journal: %w", err)
		}
		if info.Size() > 0 {
			return false, nil
		}
	}
	info, err := os.Lstat(checkpointsFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the checkpoints: %w", err)
	}
	return info.Size() == 0, nil
}

// recoverJournal finds where the journal ends. If it can explain all that it finds, it cuts a torn tail off and writes again what
// no checkpoint covers: after a failed fsync the kernel may show bytes that the disk does not have, and this run must not chain
// records to those.
func recoverJournal(ctx context.Context, opts Options, keys *keyRing, fresh bool) (_ *recovered, err error) {
	r := &recovered{open: map[uint64]string{}}
	defer func() {
		if err != nil {
			r.closeFiles()
		}
	}()
	if err := r.openCheckpoints(opts, keys, fresh); err != nil {
		return nil, err
	}
	list, err := segments(opts.Dir)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return r, r.complete(opts.Dir)
	}
	if list[0].first != 1 {
		return nil, fmt.Errorf("the journal begins with record %d: records 1 to %d are missing; put their segments back", list[0].first, list[0].first-1)
	}
	if err := r.scan(ctx, opts, list); err != nil {
		return nil, err
	}
	if err := r.complete(opts.Dir); err != nil {
		return nil, err
	}
	return r, r.repair(opts, list[len(list)-1])
}

func (r *recovered) closeFiles() {
	if r.file != nil {
		_ = r.file.Close()
	}
	if r.notes != nil {
		_ = r.notes.Close()
	}
}

// complete checks that the last checkpoint covers no more than was found: it covers only what was durable.
func (r *recovered) complete(dir string) error {
	if r.chain.seq < r.last.Size {
		return fmt.Errorf("the journal in %s ends with record %d, and its last checkpoint was signed over %d records: durable records were lost or removed; put them back, or keep this data directory for an inquiry and start with an empty one", dir, r.chain.seq, r.last.Size)
	}
	return nil
}

// openCheckpoints reads the last checkpoint. A journal begins with one over no records, so one without any has lost them.
func (r *recovered) openCheckpoints(opts Options, keys *keyRing, fresh bool) error {
	path := checkpointsFile(opts.Dir)
	if _, err := os.Lstat(path); err != nil && (!fresh || !errors.Is(err, fs.ErrNotExist)) {
		return fmt.Errorf("the journal has records and no checkpoints: put %s back: %w", path, err)
	}
	f, err := opts.FS.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the checkpoints: %w", err)
	}
	r.notes = f
	if fresh {
		return r.beginCheckpoints(opts, keys)
	}
	line, end, size, err := lastLine(path)
	if err != nil {
		return err
	}
	if line == nil {
		return fmt.Errorf("the journal has records and %s has no checkpoint: put it back", path)
	}
	signed, err := noteOf(line)
	if err != nil {
		return fmt.Errorf("the last line of %s is not a checkpoint: %w", path, err)
	}
	known, err := Verifiers([]string{keys.verifier})
	if err != nil {
		return err
	}
	if r.last, err = openCheckpoint(signed, known); err != nil {
		var unverified *note.UnverifiedNoteError
		if errors.As(err, &unverified) {
			return fmt.Errorf("the last line of %s is not signed with keys/evidence.key: %w", path, err)
		}
		return fmt.Errorf("the last line of %s: %w", path, err)
	}
	if end < size {
		if err := errors.Join(f.Truncate(end), f.Sync()); err != nil {
			return fmt.Errorf("cut an unfinished line off %s: %w", path, err)
		}
	}
	r.notesSize = end
	return nil
}

func (r *recovered) beginCheckpoints(opts Options, keys *keyRing) error {
	c, err := signCheckpoint(keys.signer, &tree{})
	if err != nil {
		return err
	}
	line := c.line()
	if _, err := r.notes.WriteAt(line, 0); err != nil {
		return fmt.Errorf("write the first checkpoint: %w", err)
	}
	if err := errors.Join(r.notes.Sync(), opts.FS.SyncDir(opts.Dir), opts.FS.SyncDir(filepath.Dir(opts.Dir))); err != nil {
		return fmt.Errorf("write the first checkpoint: %w", err)
	}
	r.last, r.notesSize = c, int64(len(line))
	return nil
}

// scan reads from the first segment that can matter: the last one, the first that no checkpoint covers, or the one with the oldest
// decision that had no outcome, whichever is first.
func (r *recovered) scan(ctx context.Context, opts Options, list []segment) error {
	begin := 0
	if s, ok := loadResume(opts.Dir, r.last); ok {
		r.chain.tree = s.tree
		need := r.last.Size + 1
		if s.open != 0 {
			need = min(need, s.open)
		}
		for begin+1 < len(list) && list[begin+1].first <= need {
			begin++
		}
	} else if r.last.Size > 0 {
		opts.Log.Warn("reading the whole journal", "dir", opts.Dir, "segments", len(list))
	}
	for i, s := range list[:begin] { // of these only the last record is read, to see that none is missing
		before, err := lastEntry(s)
		if err != nil {
			return err
		}
		if before.Seq+1 != list[i+1].first {
			return missingBefore(list[i+1], before.Seq+1)
		}
		r.chain.seq, r.chain.time = before.Seq, before.Time
		if _, err := hex.Decode(r.chain.hash[:], []byte(before.Hash)); err != nil {
			return err
		}
	}
	for i, s := range list[begin:] {
		if s.first != r.chain.seq+1 {
			return missingBefore(s, r.chain.seq+1)
		}
		if err := r.scanSegment(ctx, s, begin+i == len(list)-1); err != nil {
			return err
		}
	}
	return nil
}

func missingBefore(s segment, due uint64) error {
	return fmt.Errorf("%s begins where record %d is due: a segment is missing or was put in", s.path, due)
}

func (r *recovered) scanSegment(ctx context.Context, s segment, isLast bool) error {
	l, err := openSegment(s.path)
	if err != nil {
		return err
	}
	defer l.close()
	uncovered := int64(-1)
	defer func() {
		if uncovered >= 0 && r.size > uncovered {
			r.unsigned = append(r.unsigned, stretch{s.path, uncovered, r.size})
		}
	}()
	r.size = 0
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read the journal: %w", err)
		}
		line, err := l.next()
		if errors.Is(err, io.EOF) && l.clean() {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errLineTooLong) {
			return err
		}
		var e Entry
		if err == nil {
			e, err = parse(line)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the line does not end")
			}
			if isLast {
				damage := r.cut(l)
				if damage == nil {
					return nil
				}
				err = fmt.Errorf("%w, and %w", err, damage)
			}
			return fmt.Errorf("%s is broken at line %d, where record %d is due (byte %d): %w", s.path, l.number, r.chain.seq+1, r.size, err)
		}
		if err := r.add(&e); err != nil {
			return fmt.Errorf("%s is broken at line %d (byte %d): %w", s.path, l.number, r.size, err)
		}
		if uncovered < 0 && e.Seq > r.last.Size {
			uncovered = l.offset
		}
		r.size = l.end
	}
}

// add moves the chain over e.
func (r *recovered) add(e *Entry) error {
	if e.Seq != r.chain.seq+1 {
		return fmt.Errorf("it holds record %d where record %d is due", e.Seq, r.chain.seq+1)
	}
	if e.Seq == 1 && e.Prev != zeros || e.Seq > 1 && e.Prev != r.chain.hashText() {
		return fmt.Errorf("record %d was not written after the record %d before it", e.Seq, r.chain.seq)
	}
	r.chain.seq, r.chain.time = e.Seq, e.Time
	r.chain.hash = sha256.Sum256(e.Line)
	if e.Seq > uint64(r.chain.tree.n) {
		r.chain.tree.push(tlog.RecordHash(e.Line))
		if e.Seq == r.last.Size && r.chain.tree.root() != r.last.Root {
			return fmt.Errorf("records 1 to %d are not those that the last checkpoint was signed over; evidence verify finds the first that was changed", e.Seq)
		}
	}
	o, _ := outcomeOf(e.Type, e.Body) // the whole line is canonical
	if o.allows {
		r.open[e.Seq] = e.Op
	}
	delete(r.open, o.settles)
	return nil
}

// cut notes what follows the last whole record, so that repair cuts it off. An error says that this would drop evidence.
func (r *recovered) cut(l *lines) error {
	to, err := endOfData(l.file)
	if err != nil {
		return err
	}
	if r.torn, err = l.tail(r.chain.seq, r.size, to); err != nil || r.torn == 0 {
		return err
	}
	if r.chain.seq < r.last.Size {
		return errors.New("a checkpoint covers it")
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(l.file, r.size, r.torn)); err != nil {
		return fmt.Errorf("read %s: %w", l.path, err)
	}
	r.tornHash = hex.EncodeToString(h.Sum(nil))
	return nil
}

func (r *recovered) repair(opts Options, last segment) error {
	f, err := opts.FS.OpenFile(last.path, os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open the journal's end: %w", err)
	}
	r.file = f
	if err := f.Truncate(r.size); err != nil { // also what was prepared
		return fmt.Errorf("cut an unfinished write off %s: %w", last.path, err)
	}
	for _, s := range r.unsigned {
		if err := rewrite(opts.FS, s); err != nil {
			return fmt.Errorf("write again what no checkpoint covers in %s: %w", s.path, err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", last.path, err)
	}
	r.path = last.path
	return nil
}

func rewrite(fsys datafile.FS, s stretch) error {
	in, err := datafile.Open(s.path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := fsys.OpenFile(s.path, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	part := make([]byte, 1<<20)
	for at := s.from; at < s.to && err == nil; {
		p := part[:min(int64(len(part)), s.to-at)]
		if _, err = in.ReadAt(p, at); err == nil {
			_, err = out.WriteAt(p, at)
		}
		at += int64(len(p))
	}
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}
