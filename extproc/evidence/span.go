package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/countersign/countersign/extproc/datafile"
)

// span is the beginning of a file of lines, which is read from its end.
type span struct {
	file *os.File
	size int64  // of the file
	end  int64  // where the line after the last begins
	buf  []byte // what is before end and has been read
}

const spanChunk = 64 << 10

// openSpan opens the whole lines of a file: without a line that is being written, or was torn, and the zeros at the end.
func openSpan(path string) (*span, error) {
	f, err := datafile.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), f.Close())
	}
	s := &span{file: f, size: info.Size()}
	if s.end, err = endOfData(f); err == nil {
		s.end, err = s.begin(s.end)
	}
	if err != nil {
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

// lastLine returns the last whole line of a file, nil if it has none, where that ends, and how long the file is.
func lastLine(path string) (line []byte, end, size int64, err error) {
	s, err := openSpan(path)
	if err != nil {
		return nil, 0, 0, err
	}
	defer s.file.Close()
	end = s.end
	if line, err = s.previous(); errors.Is(err, io.EOF) {
		err = nil
	}
	return line, end, s.size, err
}

// lastEntry reads the last record of a whole segment. An empty segment is an error.
func lastEntry(s segment) (Entry, error) {
	line, end, size, err := lastLine(s.path)
	if err != nil {
		return Entry{}, err
	}
	if line == nil || end < size {
		return Entry{}, fmt.Errorf("%s does not end with a whole record, and it is not the last segment", s.path)
	}
	e, err := parse(line)
	if err != nil {
		return Entry{}, fmt.Errorf("%s: its last line is not a record: %w", s.path, err)
	}
	return e, nil
}
