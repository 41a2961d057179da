package extproc

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/wire"
)

// pieceSize is how much goes to Envoy in one message.
const pieceSize = 32 << 10

// end is one end of a splice. It is read by one goroutine at a time, and written by any.
type end struct {
	of    *splice
	which wire.End

	writing     sync.Mutex // so that what one call writes is not torn
	read, write deadline

	mu   sync.Mutex // guards what follows
	in   []byte
	last bool
	err  error         // of reading and writing from here on; what has come can still be read
	news chan struct{} // closed and replaced when any of these changes
}

func newEnd(of *splice, which wire.End) *end {
	return &end{of: of, which: which, news: make(chan struct{})}
}

// came takes what Envoy has shown of the end.
func (e *end) came(data []byte, last bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last {
		return errOrder
	}
	if e.err == nil { // what nobody reads is not kept
		kept := e.of.keep(func() bool {
			if !e.of.room(e.of.kept + int64(len(data))) {
				return false
			}
			e.of.kept += int64(len(data))
			return true
		})
		if !kept {
			return errUnheeded
		}
		if len(e.in) == 0 {
			e.in = data // its own: see wire.Message
		} else {
			e.in = append(e.in, data...)
		}
	}
	e.last = last
	e.tell()
	return nil
}

// tell wakes who waits. mu is held.
func (e *end) tell() {
	close(e.news)
	e.news = make(chan struct{})
}

// stop ends reading and writing, with err.
func (e *end) stop(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
		e.tell()
	}
}

// Read implements [net.Conn].
func (e *end) Read(b []byte) (int, error) {
	for {
		select {
		case <-e.read.wait():
			return 0, os.ErrDeadlineExceeded
		default:
		}
		e.mu.Lock()
		if len(e.in) > 0 || len(b) == 0 {
			n := copy(b, e.in)
			e.in = e.in[n:]
			e.mu.Unlock()
			e.of.keep(func() bool { e.of.kept -= int64(n); return e.of.room(max(e.of.kept, 0)) })
			return n, nil
		}
		last, err, news := e.last, e.err, e.news
		e.mu.Unlock()
		if err != nil {
			return 0, err
		}
		if last {
			return 0, io.EOF
		}
		select {
		case <-news:
		case <-e.read.wait():
		}
	}
}

// Write implements [net.Conn]: what is written goes on to this end.
func (e *end) Write(b []byte) (n int, err error) {
	e.writing.Lock()
	defer e.writing.Unlock()
	for len(b) > 0 {
		e.mu.Lock()
		err, news := e.err, e.news
		e.mu.Unlock()
		if err != nil {
			return n, err
		}
		most := min(len(b), pieceSize)
		p := &wire.Passing{In: e.other(), Data: append([]byte(nil), b[:most]...)}
		select {
		case <-e.write.wait():
			return n, os.ErrDeadlineExceeded
		default:
		}
		select {
		case e.of.out <- p:
			b, n = b[most:], n+most
		case <-news: // perhaps of its end
		case <-e.write.wait():
			return n, os.ErrDeadlineExceeded
		case <-e.of.ctx.Done():
			return n, errGone
		}
	}
	return n, nil
}

// other is in whose data's place goes what is written to this end.
func (e *end) other() wire.End {
	if e.which == wire.Agent {
		return wire.Target
	}
	return wire.Agent
}

// Close closes this end of a splice, whose other goes on. Of the target's nothing is read any more; Envoy closes it with the agent's.
func (e *end) Close() error {
	e.stop(net.ErrClosed)
	e.mu.Lock()
	n := int64(len(e.in))
	e.in = nil
	e.mu.Unlock()
	e.of.keep(func() bool { e.of.kept -= n; return e.of.room(max(e.of.kept, 0)) })
	return nil
}

// LocalAddr implements [net.Conn].
func (e *end) LocalAddr() net.Addr { return spliceAddr{} }

// RemoteAddr implements [net.Conn].
func (e *end) RemoteAddr() net.Addr { return spliceAddr{} }

// SetDeadline implements [net.Conn].
func (e *end) SetDeadline(t time.Time) error {
	e.read.set(t)
	e.write.set(t)
	return nil
}

// SetReadDeadline implements [net.Conn].
func (e *end) SetReadDeadline(t time.Time) error {
	e.read.set(t)
	return nil
}

// SetWriteDeadline implements [net.Conn].
func (e *end) SetWriteDeadline(t time.Time) error {
	e.write.set(t)
	return nil
}
