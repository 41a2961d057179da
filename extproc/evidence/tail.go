package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// What follows the last whole record of the last segment is zeros, which stand there so that records can be written over them, and
// can be what is left of one batch. When the power fails a disk has written some sectors of it, in any order. So between what it
// wrote are zeros, which begin with a sector, or where the batch does, and end with one; and the lines that are whole are of one
// batch, and have one time. What is anything else was durable, and was damaged since.
const (
	sector  = 512
	maxTail = 64 << 20 // more than is ever prepared, and than a batch has
)

var zeroBlock [64 << 10]byte

// endOfData returns where the zeros begin that a file ends in. What is before that stays as it is, unless a write is undone: whoever
// looks here first, and then reads up to it, sees no write that is under way. A file that ends in more zeros than a journal does is
// taken as it is.
func endOfData(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("read the journal: %w", err)
	}
	end := info.Size()
	for n := int64(1); end > 0; n = int64(len(zeroBlock)) { // most files do not end in a zero
		b := make([]byte, min(n, end))
		if _, err := f.ReadAt(b, end-int64(len(b))); errors.Is(err, io.EOF) {
			return endOfData(f) // it was cut meanwhile
		} else if err != nil {
			return 0, fmt.Errorf("read %s: %w", f.Name(), err)
		}
		if !bytes.Equal(b, zeroBlock[:len(b)]) {
			return end - int64(len(b)-len(bytes.TrimRight(b, "\x00"))), nil
		}
		if end -= int64(len(b)); info.Size()-end > maxTail {
			return info.Size(), nil
		}
	}
	return 0, nil
}

// tail reads what follows the last whole record of the last segment, from one byte up to another. torn is how much of it is left of a
// write that was cut off; 0 if there are only zeros. An error says that no crash can have left this, so that it must not be cut off.
func (l *lines) tail(seq uint64, from, to int64) (torn int64, err error) {
	if to-from > maxTail {
		return 0, fmt.Errorf("%d bytes follow, and no write has left so many", to-from)
	}
	t := tail{seq: seq, from: from, at: from, end: from}
	r, b := io.NewSectionReader(l.file, from, max(0, to-from)), make([]byte, len(zeroBlock))
	for {
		n, err := r.Read(b)
		if errors.Is(err, io.EOF) {
			return t.end - from, nil
		}
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", l.path, err)
		}
		if err := t.add(b[:n]); err != nil {
			return 0, err
		}
	}
}

// tail is what was read of the bytes behind the last whole record.
type tail struct {
	seq      uint64 // of that record
	from, at int64
	end      int64 // of what is not zero
	line     []byte
	zero     bool // the byte before was a zero
	askew    bool // zeros begin or end where no write that was cut off leaves them
	hole     bool // there was a zero since the last whole record
	whole    bool // the line before was a record

	last struct { // the whole record of the batch that was read last
		seq  uint64
		time time.Time
		hash string
	}
}

func (t *tail) add(b []byte) error {
	for len(b) > 0 {
		n := len(b) - len(bytes.TrimLeft(b, "\x00"))
		if zero := n > 0; zero != t.zero {
			t.askew = t.askew || t.at%sector != 0 && t.at != t.from
			t.zero = zero
		}
		if t.zero {
			t.hole, t.line = true, t.line[:0] // a record can begin behind them
			t.at, b = t.at+int64(n), b[n:]
			continue
		}
		if n = bytes.IndexByte(b, 0); n < 0 {
			n = len(b)
		}
		i := bytes.IndexByte(b[:n], '\n')
		if i >= 0 {
			n = i + 1
		}
		if len(t.line) <= maxLine {
			t.line = append(t.line, b[:n]...)
		}
		t.at, b = t.at+int64(n), b[n:]
		t.end = t.at
		if i >= 0 {
			if err := t.ended(); err != nil {
				return err
			}
		}
	}
	return nil
}

// ended looks at a line that ends. If it is a record after the last one, it must be of the batch that was cut off.
func (t *tail) ended() error {
	e, err := parse(t.line[:len(t.line)-1])
	t.line = t.line[:0]
	next := t.whole && !t.hole
	t.whole = err == nil && e.Seq > t.seq
	if !t.whole {
		return nil
	}
	last := t.last
	t.last.seq, t.last.time, t.last.hash = e.Seq, e.Time, e.Hash
	switch {
	case !t.hole && !next:
		return fmt.Errorf("the whole record %d follows", e.Seq)
	case t.askew:
		return fmt.Errorf("the whole record %d follows zeros that no write has left", e.Seq)
	case next && (e.Seq != last.seq+1 || e.Prev != last.hash), e.Seq <= max(last.seq, t.seq+1):
		return fmt.Errorf("the whole record %d follows, and is not of the same write", e.Seq)
	case last.seq != 0 && !e.Time.Equal(last.time):
		return fmt.Errorf("the whole record %d follows, which was written later than record %d", e.Seq, last.seq)
	}
	t.hole = false
	return nil
}
