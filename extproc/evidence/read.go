package evidence

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"
)

// Filter chooses records. Its zero value chooses all.
type Filter struct {
	Types []string  // exact, or all that begin like "operation.*"
	Since time.Time // written then or later
	Op    string
	From  uint64 // seq

	// What agents and approvers are told of an operation. Each chooses the records that name it, and all other records of the same
	// operations.
	Request  string // an HTTP request's id
	Approval string // a request for approval's id
	Trace    string // a trace id: the agent's own, or the one that [TraceOf] makes
}

// Records reads the records of a journal that f chooses, oldest first. It checks the chain, and ends with an error if that is
// broken. It does not check signatures; [Verify] does.
func Records(ctx context.Context, dir string, f Filter) iter.Seq2[Entry, error] {
	return chosen(ctx, dir, f, func() bool { return false })
}

// Follow is Records that waits for more at the end, until ctx ends. It looks at the files several times a second, so it works
// beside a running gateway. It may show a record that the gateway has not synced yet, and then takes back.
func Follow(ctx context.Context, dir string, f Filter) iter.Seq2[Entry, error] {
	return chosen(ctx, dir, f, func() bool {
		poll := time.NewTimer(200 * time.Millisecond)
		defer poll.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-poll.C:
			return true
		}
	})
}

// chosen reads the records that f chooses. At the end it calls more, which waits and says whether to read on.
func chosen(ctx context.Context, dir string, f Filter, more func() bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		c := chooser{Filter: f, operations: map[string]bool{}}
		if c.names() { // a first pass, because an operation's first records need not name what is looked for
			for e, err := range read(ctx, dir, 1, func() bool { return false }) {
				if err != nil {
					yield(Entry{}, err)
					return
				}
				c.note(&e)
			}
		}
		for e, err := range read(ctx, dir, f.From, more) {
			if err != nil || c.match(&e) {
				if !yield(e, err) {
					return
				}
			}
		}
	}
}

// read reads all records from one on. An error is the last that it yields.
func read(ctx context.Context, dir string, from uint64, more func() bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r := NewReader(dir, from, nil)
		defer r.Close()
		for {
			e, err := r.Next()
			switch {
			case ctx.Err() != nil:
				yield(Entry{}, ctx.Err())
				return
			case errors.Is(err, io.EOF):
				if !more() {
					return
				}
			case err != nil:
				yield(Entry{}, err)
				return
			case !yield(e, nil):
				return
			}
		}
	}
}

// chooser is a filter and what it has found.
type chooser struct {
	Filter
	operations map[string]bool // that have a record which names what is looked for
}

// names reports whether f looks for something that records name in their bodies.
func (f *Filter) names() bool { return f.Request != "" || f.Approval != "" || f.Trace != "" }

// note reports whether a record names what is looked for, and if so remembers its operation.
func (c *chooser) note(e *Entry) bool {
	left := map[string]string{"request_id": c.Request, "approval": c.Approval, "trace_id": c.Trace}
	if own := TraceOf(e.Op); c.Trace != "" && e.Op != "" && hex.EncodeToString(own[:]) == c.Trace {
		delete(left, "trace_id")
	}
	_ = scanObject(e.Body, func(name, value []byte) { // the reader has checked the line
		if text, ok := textValue(value); ok && text != "" && text == left[string(name)] {
			delete(left, string(name))
		}
	})
	for _, wanted := range left {
		if wanted != "" {
			return false
		}
	}
	if e.Op != "" {
		c.operations[e.Op] = true
	}
	return true
}

func (c *chooser) match(e *Entry) bool {
	named := !c.names() || c.note(e) || c.operations[e.Op]
	if !named || e.Seq < c.From || e.Time.Before(c.Since) || c.Op != "" && e.Op != c.Op {
		return false
	}
	return len(c.Types) == 0 || slices.ContainsFunc(c.Types, func(t string) bool {
		if family, ok := strings.CutSuffix(t, "*"); ok {
			return strings.HasPrefix(e.Type, family)
		}
		return e.Type == t
	})
}

// TraceOf returns the trace id of an operation whose agent sent none.
func TraceOf(op string) [16]byte {
	var room [128]byte
	sum := sha256.Sum256(append(append(room[:0], "countersign trace\n"...), op...))
	return [16]byte(sum[:16])
}

// Reader reads a journal from one record on, and goes on where it stopped when there is more. It is not for concurrent
// use.
type Reader struct {
	dir   string
	due   uint64        // the record that Next returns next
	limit func() uint64 // nil for all that is in the files
	safe  uint64        // what limit returned last
	prev  string        // hash of the record before; empty if it is not known
	lines *lines
	first uint64 // of the segment that lines reads

	recent *recent      // of the journal that is being written; nil for none
	write  *recentWrite // the last of it that was read
	hashes string       // of the records in write
}

// NewReader returns a reader that begins with record from. limit returns the last record that may be read, and may be nil. A reader
// that must not see what may still be undone uses [Journal.Durable].
func NewReader(dir string, from uint64, limit func() uint64) *Reader {
	return &Reader{dir: dir, due: max(from, 1), limit: limit}
}

// Close closes the file that the reader has open.
func (r *Reader) Close() {
	if r.lines != nil {
		r.lines.close()
		r.lines = nil
	}
}

// Skip makes seq the next record, without checking those before it.
func (r *Reader) Skip(seq uint64) {
	if seq > r.due {
		r.due, r.prev = seq, ""
		r.Close()
	}
}

// Next returns the next record, or io.EOF if there is none yet. Any other error will come again.
func (r *Reader) Next() (Entry, error) {
	if r.inMemory() {
		return r.follows(r.write.entry(r.due, r.hashes, r.prev))
	}
	for {
		if r.limit != nil && r.due > r.safe {
			if r.safe = r.limit(); r.due > r.safe {
				return Entry{}, io.EOF
			}
			if err := r.forget(); err != nil {
				return Entry{}, err
			}
		}
		if r.lines == nil {
			if err := r.open(); err != nil {
				return Entry{}, err
			}
		}
		line, err := r.lines.next()
		if errors.Is(err, io.EOF) {
			if err := r.advance(); err != nil {
				return Entry{}, err
			}
			continue
		}
		if err != nil {
			return Entry{}, err
		}
		seq := r.first + uint64(r.lines.number) - 1
		if seq < r.due {
			continue
		}
		return r.entry(bytes.Clone(line))
	}
}

func (r *Reader) entry(line []byte) (Entry, error) {
	e, err := parse(line)
	if err == nil {
		e, err = r.follows(e)
	} else {
		err = fmt.Errorf("record %d: %w", r.due, err)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("%s line %d: %w", r.lines.path, r.lines.number, err)
	}
	return e, nil
}

// inMemory reports whether the record that is due is still in memory. This alone decides where it is read.
func (r *Reader) inMemory() bool {
	if r.recent == nil {
		return false
	}
	if !r.write.has(r.due) {
		if r.write = r.recent.of(r.due); r.write == nil {
			return false
		}
		r.hashes = r.write.hashes()
	}
	r.Close() // it is opened again where it is needed next
	return true
}

// follows checks that e is the record that is due and was written after the one before it.
func (r *Reader) follows(e Entry) (Entry, error) {
	if e.Seq != r.due {
		return Entry{}, fmt.Errorf("it holds record %d where record %d is due", e.Seq, r.due)
	}
	if r.prev != "" && e.Prev != r.prev {
		return Entry{}, fmt.Errorf("record %d was not written after the record %d before it", e.Seq, e.Seq-1)
	}
	r.prev = e.Hash
	r.due++
	return e, nil
}

// forget drops what was read ahead, which may have been undone and written anew since.
func (r *Reader) forget() error {
	if r.lines == nil {
		return nil
	}
	return r.lines.rewind(r.lines.end, r.lines.number)
}

// open opens the segment that holds record r.due.
func (r *Reader) open() error {
	list, err := segments(r.dir)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return io.EOF
	}
	if list[0].first > r.due {
		return fmt.Errorf("record %d is missing: the journal in %s begins with record %d", r.due, r.dir, list[0].first)
	}
	at := list[0]
	for _, s := range list {
		if s.first <= r.due {
			at = s
		}
	}
	l, err := openSegment(at.path)
	if err != nil {
		return err
	}
	r.lines, r.first = l, at.first
	return r.seek()
}

// seek goes to the record that is due by halves, unless it is near. If that does not lead to it, the segment is read from its
// beginning.
func (r *Reader) seek() error {
	const near = 100
	if r.due < r.first+near {
		return nil
	}
	s, err := openSpan(r.lines.path)
	if err != nil {
		return err
	}
	defer s.file.Close()
	whole := s.end
	if err := s.shorten(func(g *Glance) bool { return g.Seq < r.due }); err != nil || s.end == whole {
		return nil
	}
	at := s.end
	s.end = whole
	if line, err := s.line(at); err == nil {
		if g, err := glance(line); err == nil && g.Seq == r.due {
			return r.lines.rewind(at, int(r.due-r.first))
		}
	}
	return nil
}

// advance goes to the next segment if the present one has ended and there is one; else it returns io.EOF.
func (r *Reader) advance() error {
	list, err := segments(r.dir)
	if err != nil {
		return err
	}
	later := slices.IndexFunc(list, func(s segment) bool { return s.first > r.first })
	if later < 0 && r.limit != nil {
		return cmp.Or(r.forget(), io.EOF)
	}
	to, err := endOfData(r.lines.file)
	if err != nil {
		return err
	}
	if grown, err := r.grown(); err != nil || grown {
		return err
	}
	ended := r.first + uint64(r.lines.number) // the first record of the next segment, if this one is complete
	if later < 0 {
		if _, err := r.lines.tail(ended-1, r.lines.end, to); err != nil {
			return fmt.Errorf("%s is broken where record %d is due (byte %d): %w", r.lines.path, ended, r.lines.end, err)
		}
		return cmp.Or(r.forget(), io.EOF)
	}
	next := list[later]
	if next.first != ended || !r.lines.clean() {
		return fmt.Errorf("%s ends before record %d, and %s comes next: records are missing", r.lines.path, ended, next.path)
	}
	r.Close()
	if ended > r.due {
		return fmt.Errorf("record %d is missing", r.due)
	}
	l, err := openSegment(next.path)
	if err != nil {
		return err
	}
	r.lines, r.first = l, next.first
	return nil
}

// grown reads again, and reports whether the present segment has a further line by now.
func (r *Reader) grown() (bool, error) {
	if err := r.forget(); err != nil {
		return false, err
	}
	_, err := r.lines.next()
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, r.lines.rewind(r.lines.offset, r.lines.number-1)
}
