package evidence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"time"
)

// Glance is a record of which only the end of the line has been read, in under a microsecond: what does not need the body. Its line is
// good until the next one is taken.
type Glance struct {
	Seq      uint64
	Time     time.Time
	Type, Op string
	line     []byte
}

// Entry reads the whole record, as strictly as every reader does.
func (g *Glance) Entry() (Entry, error) {
	e, err := parse(bytes.Clone(g.line))
	if err != nil {
		return Entry{}, fmt.Errorf("record %d: %w", g.Seq, err)
	}
	return e, nil
}

// glance reads the members that stand after the body, from the end of the line: `…"op":"…","prev":"…","seq":1,"time":"…","type":"…","v":1}`.
// No text of a record can look like them, because it has no bare quote.
func glance(line []byte) (Glance, error) {
	g := Glance{line: line}
	rest, known := bytes.CutSuffix(line, []byte(`","v":1}`))
	rest, kind, a := cutLast(rest, `","type":"`)
	rest, clock, b := cutLast(rest, `,"time":"`)
	rest, seq, c := cutLast(rest, `,"seq":`)
	rest, _, d := cutLast(rest, `,"prev":"`)
	_, op, e := cutLast(rest, `,"op":`)
	at, err := time.Parse(timeLayout, string(clock))
	id, text := textValue(op)
	g.Seq, g.Time, g.Type, g.Op = seqValue(seq), at, string(kind), id
	if !known || !a || !b || !c || !d || !e || !text || err != nil || g.Seq == 0 {
		if _, err := parse(line); err != nil { // says what is wrong
			return g, err
		}
		return g, errors.New("it does not end as a record does")
	}
	return g, nil
}

func cutLast(b []byte, sep string) (before, after []byte, found bool) {
	i := bytes.LastIndex(b, []byte(sep))
	if i < 0 {
		return b, nil, false
	}
	return b[:i], b[i+len(sep):], true
}

// From is where [Backward] begins. Of its zero value that is the end of the files.
type From struct {
	Before uint64    // with the last record before this one
	Safe   uint64    // [Journal.Durable] of a journal that is being written: what comes after may still be undone
	Until  time.Time // with the last record that was written by then. It is found by halves: allow for clocks that step.
}

// Backward reads a journal newest first, without reading what is newer than that. It does not check the chain. It ends where the journal
// begins, also if older segments are removed meanwhile.
func Backward(ctx context.Context, dir string, from From) iter.Seq2[Glance, error] {
	last := from.last()
	return reading{last: last, choose: func(list []segment) []segment {
		list = slices.DeleteFunc(list, func(s segment) bool { return s.first > last })
		slices.Reverse(list)
		return list
	}, open: func(s *span) (func() ([]byte, error), *int64, error) {
		return s.previous, &s.end, s.shorten(func(g *Glance) bool {
			return g.Seq <= last && (from.Until.IsZero() || !g.Time.After(from.Until))
		})
	}}.of(ctx, dir)
}

// last is the last record that may be read.
func (f *From) last() uint64 {
	last := ^uint64(0)
	if f.Before > 0 {
		last = f.Before - 1
	}
	if f.Safe > 0 {
		last = min(last, f.Safe)
	}
	return last
}

// Forward reads the records after one, oldest first, up to and with the record safe. It does not check the chain.
func Forward(ctx context.Context, dir string, after, safe uint64) iter.Seq2[Glance, error] {
	return reading{last: safe, choose: func(list []segment) []segment {
		for len(list) > 1 && list[1].first <= after+1 {
			list = list[1:]
		}
		return list
	}, open: func(s *span) (func() ([]byte, error), *int64, error) {
		l := linesOf(s.file, s.end)
		if err := s.shorten(func(g *Glance) bool { return g.Seq <= after }); err != nil {
			return nil, nil, err
		}
		return l.next, &l.offset, l.rewind(s.end, 0)
	}}.of(ctx, dir)
}

// reading is how the segments of a journal are glanced over.
type reading struct {
	last   uint64                                                          // no record after this one
	choose func([]segment) []segment                                       // which segments, in their order
	open   func(*span) (next func() ([]byte, error), at *int64, err error) // what reads a segment's lines, and where the last one began
}

func (r reading) of(ctx context.Context, dir string) iter.Seq2[Glance, error] {
	return func(yield func(Glance, error) bool) {
		list, err := segments(dir)
		for _, s := range r.choose(list) {
			var on bool
			if on, err = r.segment(ctx, s.path, yield); !on {
				break
			}
		}
		if err != nil {
			yield(Glance{}, err)
		}
	}
}

// segment reports whether reading goes on with the next one.
func (r reading) segment(ctx context.Context, path string, yield func(Glance, error) bool) (on bool, err error) {
	s, err := openSpan(path)
	if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer s.file.Close()
	next, at, err := r.open(s)
	if err != nil {
		return false, err
	}
	for {
		line, err := next()
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return false, err
		}
		g, err := glance(line)
		if err != nil {
			return false, fmt.Errorf("%s at byte %d: %w", path, *at, err)
		}
		if g.Seq > r.last || !yield(g, nil) {
			return false, nil
		}
	}
}
