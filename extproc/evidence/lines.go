package evidence

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/countersign/countersign/extproc/datafile"
)

// lines reads one file line by line. After io.EOF it can be asked again: the file may have grown.
type lines struct {
	path    string
	file    *os.File
	most    int64 // bytes of the file that are read; 0 for all, even what is written meanwhile
	segment bool  // its last bytes can be zeros, and what follows a zero is not there yet
	r       *bufio.Reader
	part    []byte // what follows the last newline so far, without the zeros
	zeros   bool   // a zero follows part
	offset  int64  // where the line that next returned began; after io.EOF, where the next one will
	end     int64  // where the next line begins
	number  int    // of the line that next returned last, from 1
}

func openLines(path string) (*lines, error) { return openLinesTo(path, 0) }

// openLinesTo reads the first most bytes of a file.
func openLinesTo(path string, most int64) (*lines, error) {
	f, err := datafile.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	return linesOf(f, most), nil
}

func openSegment(path string) (*lines, error) { return openSegmentTo(path, 0) }

func openSegmentTo(path string, most int64) (*lines, error) {
	l, err := openLinesTo(path, most)
	if err == nil {
		l.segment = true
	}
	return l, err
}

func linesOf(f *os.File, most int64) *lines {
	l := &lines{path: f.Name(), file: f, most: most}
	l.r = bufio.NewReaderSize(l.from(0), 128<<10)
	return l
}

// from returns a reader of the file, which stands at offset, up to l.most.
func (l *lines) from(offset int64) io.Reader {
	if l.most == 0 {
		return l.file
	}
	return io.LimitReader(l.file, max(0, l.most-offset))
}

// next returns a line without its newline, good until the next call. io.EOF says that there is no further whole line; part then
// has what there is of one. A record has no zero byte, so in a segment the first one ends what is written.
func (l *lines) next() ([]byte, error) {
	if l.zeros { // they may have been written over since
		if err := l.rewind(l.end, l.number); err != nil {
			return nil, err
		}
	}
	line, err := l.read()
	if !l.segment || err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errLineTooLong) {
		return line, err
	}
	begun := line
	if err != nil {
		begun = l.part
	}
	zero := bytes.IndexByte(begun, 0)
	if zero < 0 {
		return line, err
	}
	if err == nil {
		l.end = l.offset
		l.number--
	}
	l.part, l.zeros = append(l.part[:0], begun[:zero]...), true
	return nil, io.EOF
}

func (l *lines) read() ([]byte, error) {
	l.offset = l.end
	if len(l.part) == 0 {
		line, err := l.r.ReadSlice('\n')
		if err == nil {
			l.end += int64(len(line))
			l.number++
			return line[:len(line)-1], nil
		}
		l.part = append(l.part[:0], line...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, l.wrap(err)
		}
	}
	for {
		more, err := l.r.ReadSlice('\n')
		l.part = append(l.part, more...)
		if err == nil {
			line := l.part[:len(l.part)-1]
			l.end += int64(len(l.part))
			l.part = l.part[:0]
			l.number++
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, l.wrap(err)
		}
		if len(l.part) > maxLine {
			return nil, fmt.Errorf("%s has a line of more than %d bytes at byte %d: %w", l.path, maxLine, l.offset, errLineTooLong)
		}
	}
}

var errLineTooLong = errors.New("that is no record")

func (l *lines) wrap(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return fmt.Errorf("read %s: %w", l.path, err)
}

// clean reports whether the file ended with a whole line.
func (l *lines) clean() bool { return len(l.part) == 0 && !l.zeros }

// rewind drops what was read ahead and goes to offset, where line number+1 begins.
func (l *lines) rewind(offset int64, number int) error {
	if _, err := l.file.Seek(offset, io.SeekStart); err != nil {
		return fmt.Errorf("read %s: %w", l.path, err)
	}
	l.r.Reset(l.from(offset))
	l.part, l.zeros = l.part[:0], false
	l.end, l.number = offset, number
	return nil
}

func (l *lines) close() { _ = l.file.Close() }
