package evidence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"time"

	"github.com/countersign/countersign/extproc/datafile"
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
	return func(yield func(Glance, error) bool) {
		list, err := segments(dir)
		if err != nil {
			yield(Glance{}, err)
			return
		}
		for i := len(list) - 1; i >= 0; i-- {
			if list[i].first > from.last() {
				continue
			}
			if on, err := from.segment(ctx, list[i].path, yield); err != nil && !errors.Is(err, fs.ErrNotExist) {
				yield(Glance{}, err)
				return
			} else if !on || err != nil {
				return
			}
		}
	}
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

func (f *From) segment(ctx context.Context, path string, yield func(Glance, error) bool) (on bool, err error) {
	s, err := openSpan(path)
	if err != nil {
		return false, err
	}
	defer s.file.Close()
	last := f.last()
	if err := s.shorten(func(g *Glance) bool { return g.Seq <= last && (f.Until.IsZero() || !g.Time.After(f.Until)) }); err != nil {
		return false, err
	}
	for {
		line, err := s.previous()
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
			return false, fmt.Errorf("%s at byte %d: %w", path, s.end, err)
		}
		if !yield(g, nil) {
			return false, nil
		}
	}
}

// Forward reads the records after one, oldest first, up to and with the record safe. It does not check the chain.
func Forward(ctx context.Context, dir string, after, safe uint64) iter.Seq2[Glance, error] {
	return func(yield func(Glance, error) bool) {
		list, err := segments(dir)
		if err != nil {
			yield(Glance{}, err)
			return
		}
		for i, s := range list {
			if i+1 < len(list) && list[i+1].first <= after+1 {
				continue
			}
			on, err := forward(ctx, s.path, after, safe, yield)
			if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
				continue
			}
			if err != nil {
				yield(Glance{}, err)
			}
			if err != nil || !on {
				return
			}
		}
	}
}

func forward(ctx context.Context, path string, after, safe uint64, yield func(Glance, error) bool) (on bool, err error) {
	s, err := openSpan(path)
	if err != nil {
		return false, err
	}
	defer s.file.Close()
	whole := s.end
	if err := s.shorten(func(g *Glance) bool { return g.Seq <= after }); err != nil {
		return false, err
	}
	l, err := openLinesTo(path, whole)
	if err != nil {
		return false, err
	}
	defer l.close()
	if err := l.rewind(s.end, 0); err != nil {
		return false, err
	}
	for {
		line, err := l.next()
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
			return false, fmt.Errorf("%s at byte %d: %w", path, l.offset, err)
		}
		if g.Seq > safe || !yield(g, nil) {
			return false, nil
		}
	}
}

// span is the beginning of a segment, which is read from its end.
type span struct {
	file *os.File
	end  int64  // where the line after the last begins
	buf  []byte // what is before end and has been read
}

const spanChunk = 64 << 10

// openSpan opens the whole lines of a segment: without a line that is being written, or was torn.
func openSpan(path string) (*span, error) {
	f, err := datafile.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), f.Close())
	}
	s := &span{file: f, end: info.Size()}
	if s.end, err = s.begin(s.end); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// begin returns where the line begins that has the byte at.
func (s *span) begin(at int64) (int64, error) {
	for from := at; from > 0; {
		n := min(from, 4<<10)
		b, err := s.read(from-n, n)
		if err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
			return from - n + int64(i) + 1, nil
		}
		if from -= n; at-from > maxLine {
			return 0, s.tooLong(from)
		}
	}
	return 0, nil
}

// line returns the line that begins at from, without its newline.
func (s *span) line(from int64) ([]byte, error) {
	for n := int64(4 << 10); ; n *= 8 {
		b, err := s.read(from, min(n, s.end-from))
		if err != nil {
			return nil, err
		}
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			return b[:i], nil
		}
		if n > maxLine {
			return nil, s.tooLong(from)
		}
	}
}

// previous returns the line before s.end, without its newline, and ends s there. The line is good until the next call.
func (s *span) previous() ([]byte, error) {
	for {
		if n := len(s.buf); n > 0 { // it ends with the newline of the line that is wanted
			i := bytes.LastIndexByte(s.buf[:n-1], '\n')
			if i >= 0 || int64(n) == s.end {
				line := s.buf[i+1 : n-1]
				s.buf, s.end = s.buf[:i+1], s.end-int64(n-i-1)
				return line, nil
			}
			if n > maxLine {
				return nil, s.tooLong(s.end - int64(n))
			}
		}
		if s.end == 0 {
			return nil, io.EOF
		}
		from := s.end - int64(len(s.buf))
		n := min(from, spanChunk)
		b, err := s.read(from-n, n)
		if err != nil {
			return nil, err
		}
		s.buf = append(b, s.buf...)
	}
}

func (s *span) tooLong(at int64) error {
	return fmt.Errorf("%s has a line of more than %d bytes at byte %d: %w", s.file.Name(), maxLine, at, errLineTooLong)
}

func (s *span) read(from, n int64) ([]byte, error) {
	b := make([]byte, n)
	if _, err := s.file.ReadAt(b, from); err != nil {
		return nil, fmt.Errorf("read %s: %w", s.file.Name(), err)
	}
	return b, nil
}

// shorten ends s after the last line of which in is true, which it is of all lines before that one.
func (s *span) shorten(in func(*Glance) bool) error {
	low, high := int64(0), s.end                                    // lines before low are in, those from high on are not
	for probe := high - 1; low < high; probe = low + (high-low)/2 { // the last line first: most ask for the end
		begin, err := s.begin(probe)
		if err != nil {
			return err
		}
		line, err := s.line(begin)
		if err != nil {
			return err
		}
		g, err := glance(line)
		if err != nil {
			return fmt.Errorf("%s at byte %d: %w", s.file.Name(), begin, err)
		}
		if in(&g) {
			low = begin + int64(len(line)) + 1
		} else {
			high = begin
		}
	}
	s.end = low
	return nil
}
