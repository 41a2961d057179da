package evidence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/gate"
)

// VerifyOptions says what to verify and against what. Dir is required.
type VerifyOptions struct {
	Dir  string   // <data>/journal
	Keys []string // verifier keys of the checkpoints; none means <data>/keys/evidence.pub, which proves less, because it lies beside the journal

	// Checkpoint is a signed checkpoint that was seen elsewhere, such as at the collector, or a copy of a checkpoints file. A
	// journal that was rolled back or written anew contradicts it. Nil is for none; an empty one is an error.
	Checkpoint []byte

	// MaxUncovered is the longest time that the records after the last checkpoint may span. A gateway signs every few
	// seconds, so more means that checkpoints were removed. 0 means a minute; less than 0, no bound.
	MaxUncovered time.Duration
}

// Report is what verifying found.
type Report struct {
	Records     uint64
	Segments    int
	Checkpoints int
	From, To    time.Time // of the first and the last record
	LastHash    string    // of the last line, in hex

	Covered    uint64 // records that a checkpoint covers
	Uncovered  uint64 // records after the last checkpoint: chained, and not signed yet
	InProgress int    // bytes of a last write that is not whole: a gateway is at it, or crashed

	Completeness
	Failure *Failure // the first place where the journal is not what it should be; nil when there is none
}

// Passed reports whether the journal is whole. It ignores the findings of Completeness.
func (r *Report) Passed() bool { return r.Failure == nil }

// Failure is where a journal fails.
type Failure struct {
	File   string
	Line   int    // from 1; 0 if it is about no line
	Seq    uint64 // the first bad record, or the first of a range in which there is one; 0 if it is about none
	Reason string
}

func (f *Failure) Error() string {
	var b strings.Builder
	if f.Seq != 0 {
		fmt.Fprintf(&b, "record %d: ", f.Seq)
	}
	b.WriteString(f.Reason)
	if f.File != "" {
		fmt.Fprintf(&b, " (%s", f.File)
		if f.Line != 0 {
			fmt.Fprintf(&b, " line %d", f.Line)
		}
		b.WriteByte(')')
	}
	return b.String()
}

// Verify reads a whole journal and checks every line and every checkpoint. It needs the files and a public key. It works beside a
// running gateway, because it does not look at what is written after it began. An error says that it could not be done; what is
// wrong with the journal is in the report.
func Verify(ctx context.Context, opts VerifyOptions) (Report, error) {
	keys, err := verifyKeys(opts)
	if err != nil {
		return Report{}, err
	}
	v := &verification{opts: opts, completeness: newCompleteness()}
	if err := v.openCheckpoints(keys); err != nil {
		return Report{}, err
	}
	defer v.checkpoints.close()
	list, err := listWritten(opts.Dir)
	if err != nil {
		return Report{}, err
	}
	v.report.Segments = len(list)
	for i, s := range list {
		if s.first != v.last.Seq+1 {
			v.fail(filepath.Base(s.path), 0, v.last.Seq+1, fmt.Sprintf("a segment is missing or was put in: this one begins with record %d where record %d is due", s.first, v.last.Seq+1))
			break
		}
		if err := v.segment(ctx, s, list[i+1:]); err != nil {
			return Report{}, err
		}
		if !v.report.Passed() {
			break
		}
	}
	v.end()
	return v.report, nil
}

// listWritten lists the segments with their sizes of now, of the last one without the zeros that it ends in. Open the checkpoints
// before: then these segments have all that the checkpoints cover.
func listWritten(dir string) ([]segment, error) {
	list, err := segments(dir)
	if err != nil {
		return nil, err
	}
	for i := range list {
		info, err := os.Lstat(list[i].path)
		if err != nil {
			return nil, fmt.Errorf("list the journal: %w", err)
		}
		list[i].size = info.Size()
	}
	if len(list) == 0 {
		return nil, nil
	}
	last := &list[len(list)-1]
	f, err := datafile.Open(last.path)
	if err != nil {
		return nil, fmt.Errorf("list the journal: %w", err)
	}
	last.size, err = endOfData(f)
	return list, errors.Join(err, f.Close())
}

func verifyKeys(opts VerifyOptions) (note.Verifiers, error) {
	keys := opts.Keys
	if len(keys) == 0 {
		text, err := PublicKey(filepath.Dir(filepath.Clean(opts.Dir)))
		if err != nil {
			return nil, err
		}
		keys = []string{text}
	}
	return Verifiers(keys)
}

// verification is one pass over a journal.
type verification struct {
	opts   VerifyOptions
	report Report

	checkpoints   *checkpoints
	signed        uint64 // records that a checkpoint was found to cover
	firstUnsigned time.Time

	last         Entry // the record before
	lastAt       location
	tree         tree
	completeness *completeness
}

type location struct {
	file string
	line int
}

func (v *verification) fail(file string, line int, seq uint64, reason string) {
	if v.report.Failure == nil {
		v.report.Failure = &Failure{File: file, Line: line, Seq: seq, Reason: reason}
	}
}

// reach checks the checkpoints over seq records, once the tree has that many lines.
func (v *verification) reach(seq uint64) {
	for c := v.checkpoints.next(); c != nil && c.Size == seq; c = v.checkpoints.next() {
		if v.tree.root() != c.Root {
			if seq == v.signed {
				v.fail(c.file, c.line, seq, fmt.Sprintf("this journal is not the one that the checkpoint over %d records was signed for", seq))
			} else {
				v.fail(c.file, c.line, v.signed+1, fmt.Sprintf("records %d to %d are not those that the checkpoint over %d records was signed over", v.signed+1, seq, seq))
			}
			return
		}
		v.checkpoints.take()
		if c.file == checkpointsName {
			v.report.Checkpoints++
		}
		v.signed = seq
		v.firstUnsigned = time.Time{}
	}
}

func (v *verification) segment(ctx context.Context, s segment, later []segment) error {
	if s.size == 0 {
		return nil
	}
	l, err := openSegmentTo(s.path, s.size)
	if err != nil {
		return err
	}
	defer l.close()
	file := filepath.Base(s.path)
	for v.report.Failure == nil {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("verify the journal: %w", err)
		}
		line, err := l.next()
		switch {
		case errors.Is(err, io.EOF) && l.clean():
			return nil
		case errors.Is(err, io.EOF) && len(later) == 0:
			torn, err := l.tail(v.last.Seq, l.end, s.size)
			if err != nil {
				v.fail(file, l.number+1, v.last.Seq+1, "the line does not end: "+err.Error())
			}
			v.report.InProgress = int(torn)
			return nil
		case errors.Is(err, io.EOF):
			v.fail(file, l.number+1, v.last.Seq+1, "the line does not end, and this is not the last segment")
			return nil
		case errors.Is(err, errLineTooLong):
			v.fail(file, l.number+1, v.last.Seq+1, err.Error())
			return nil
		case err != nil:
			return err
		}
		at := location{file, l.number}
		e, err := parse(bytes.Clone(line))
		if err != nil {
			v.fail(file, at.line, v.last.Seq+1, "the line is not a record: "+err.Error())
			return nil
		}
		if err := v.chained(&e, at, l, later); err != nil {
			return err
		}
		if v.report.Failure == nil {
			v.accept(e, at)
		}
	}
	return nil
}

// chained checks that e follows the record before it.
func (v *verification) chained(e *Entry, at location, l *lines, later []segment) error {
	due := v.last.Seq + 1
	if e.Seq != due {
		v.fail(at.file, at.line, due, fmt.Sprintf("the line holds record %d where record %d is due", e.Seq, due))
		return nil
	}
	if due == 1 {
		if e.Prev != zeros {
			v.fail(at.file, at.line, 1, "the first record names one before it")
		}
		return nil
	}
	if e.Prev != v.last.Hash {
		return v.blame(e, at, l, later)
	}
	if e.Time.Before(v.last.Time) && !isClockAlarm(e) {
		v.fail(at.file, at.line, e.Seq, "its time is before that of the record before it, and it is not the alarm that says so")
	}
	return nil
}

// blame says which of two records that do not fit together is the bad one. If the record after e fits e, then e is good and the one
// before it was changed, unless a checkpoint covers that one.
func (v *verification) blame(e *Entry, at location, l *lines, later []segment) error {
	next, err := l.next()
	if errors.Is(err, io.EOF) && len(later) > 0 {
		further, openErr := openSegment(later[0].path)
		if openErr != nil {
			return openErr
		}
		defer further.close()
		next, err = further.next()
	}
	if err == nil && v.last.Seq > v.signed {
		if n, err := parse(next); err == nil && n.Prev == e.Hash {
			v.fail(v.lastAt.file, v.lastAt.line, v.last.Seq, fmt.Sprintf("it is not the record that record %d was written after", e.Seq))
			return nil
		}
	}
	v.fail(at.file, at.line, e.Seq, fmt.Sprintf("it was not written after the record %d that stands before it", v.last.Seq))
	return nil
}

func isClockAlarm(e *Entry) bool { return e.Type == gate.Alarm && textOf(e.Body, "kind") == AlarmClock }

func (v *verification) accept(e Entry, at location) {
	if e.Seq == 1 {
		v.report.From = e.Time
	}
	v.report.To = e.Time
	if v.firstUnsigned.IsZero() {
		v.firstUnsigned = e.Time
	}
	v.tree.push(tlog.RecordHash(e.Line))
	v.completeness.add(&e)
	v.last, v.lastAt = e, at
	v.reach(e.Seq)
}

func (v *verification) end() {
	r := &v.report
	r.Records, r.LastHash = v.last.Seq, v.last.Hash
	r.Covered, r.Uncovered = v.signed, v.last.Seq-v.signed
	r.Completeness = v.completeness.result()
	if r.Failure != nil {
		return
	}
	if c := v.checkpoints.next(); c != nil {
		v.fail(c.file, c.line, r.Records+1, fmt.Sprintf("records are missing at the end: a checkpoint was signed over %d records and the journal has %d", c.Size, r.Records))
		return
	}
	if v.checkpoints.missing != nil {
		r.Failure = v.checkpoints.missing
		return
	}
	bound := v.opts.MaxUncovered
	if bound == 0 {
		bound = time.Minute
	}
	if span := r.To.Sub(v.firstUnsigned); bound > 0 && r.Uncovered > 0 && span > bound {
		v.fail(checkpointsName, 0, v.signed+1, fmt.Sprintf("records %d to %d were written over %s and no checkpoint covers them: checkpoints are missing", v.signed+1, r.Records, span.Round(time.Second)))
	}
}
