package extproc

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/wire"
)

// A connection whose protocol Envoy cannot read it can show to the gateway by its network ext_proc filter: each piece that the agent or
// the target sends is a message, and what is answered goes on in its place. The kind of the resource gets a splice: two connections,
// one to each end, that are read and written as any others.
//
// # What was learnt of Envoy 1.40.0
//
//   - A stream that ends with the status OK does not end the connection: from there on the filter lets everything through, unseen, whatever
//     failure_mode_allow says. So no stream ends with OK here: the connection is closed first, and the stream ends with an error.
//   - Each message of an end arms a timer (message_timeout), and the next answer for that end stops it. A hold takes longer than a timer
//     that is to find a gateway that is gone. So each message is answered at once, with nothing, and what goes on has its own.
//   - The filter does not heed how fast its stream is read: what cannot be sent yet it keeps, without a bound. So it is read here at once
//     and kept within a bound, and an end that sends more than that ahead of what is done with it has its connection closed.

const (
	mostNameless = 128 << 10       // bytes that are kept of a connection before its session is known
	closingTime  = 5 * time.Second // that Envoy has to close a connection before its stream is broken off
)

var (
	errEnded    = status.Error(codes.Aborted, "countersign: the connection has ended")
	errNoKind   = status.Error(codes.PermissionDenied, "countersign: this gateway has no such resource whose connections it is shown")
	errUnheeded = errors.New("an end of the connection has sent more than there is room for until it is needed")
	errOrder    = errors.New("an end of the connection has sent something after its end, or Envoy a message of neither")
	errGone     = errors.New("the connection is closed")
)

// Spliced returns the connections to resources of a kind that Envoy shows. It is called before the services are served.
func (s *Server) Spliced(kind string) net.Listener {
	l := &splices{conns: make(chan *splice), closed: make(chan struct{})}
	if s.spliced == nil {
		s.spliced = map[string]*splices{}
	}
	s.spliced[kind] = l
	return l
}

// splices are the connections to resources of one kind.
type splices struct {
	conns  chan *splice
	once   sync.Once
	closed chan struct{}
}

// Accept implements [net.Listener].
func (l *splices) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *splices) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements [net.Listener].
func (l *splices) Addr() net.Addr { return spliceAddr{} }

type spliceAddr struct{}

func (spliceAddr) Network() string { return "ext_proc" }
func (spliceAddr) String() string  { return "Envoy's network ext_proc filter" }

// ProcessConnection is one connection that Envoy shows. It always returns an error, so that Envoy closes the connection.
func (s *Server) ProcessConnection(stream grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	c := newSplice(ctx)
	c.peer, c.resource = metadataValue(ctx, PeerMetadata), metadataValue(ctx, ResourceMetadata)
	c.fingerprint = metadataValue(ctx, FingerprintMetadata)
	l := s.splicesOf(c.resource)
	if l == nil {
		return errNoKind
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(guard.Func("what is sent to Envoy of a connection", func() { c.send(stream) }))
	gone := make(chan struct{})
	go guard.Func("what Envoy shows of a connection", func() { // ends with the stream, and so after this returns
		defer close(gone)
		defer c.fail(errGone)
		c.receive(stream)
	})()
	select {
	case l.conns <- c:
	case <-l.closed:
		return errEnded
	case <-ctx.Done():
		return errEnded
	}
	<-c.done
	late := time.NewTimer(closingTime)
	defer late.Stop()
	select {
	case <-gone: // Envoy has closed the connection, and the stream with it, or is told to reset it
	case <-late.C:
	}
	return errEnded
}

// splicesOf are the connections of a resource's kind; nil where there is no such resource, or its kind takes none.
func (s *Server) splicesOf(resource string) *splices {
	st := s.lane.State()
	if st == nil || st.Resources[resource] == nil {
		return nil
	}
	return s.spliced[st.Resources[resource].Kind]
}

// splice is a connection that Envoy shows. As a [net.Conn] it is the agent's end.
type splice struct {
	*end
	target                      *end
	peer, resource, fingerprint string

	ctx  context.Context //nolint:containedctx // of the stream
	out  chan *wire.Passing
	once sync.Once
	done chan struct{} // nothing more is to be sent

	mu      sync.Mutex // guards what follows
	room    func(bytes int64) bool
	kept    int64  // bytes that neither end's reader has taken
	session string // that Envoy is to be told of
}

func newSplice(ctx context.Context) *splice {
	c := &splice{ctx: ctx, out: make(chan *wire.Passing), done: make(chan struct{})}
	c.end, c.target = newEnd(c, wire.Agent), newEnd(c, wire.Target)
	c.room = func(bytes int64) bool { return bytes <= mostNameless }
	return c
}

// Told is what Envoy's configuration says of the connection, and who made it.
func (c *splice) Told() (peer, resource, fingerprint string) {
	return c.peer, c.resource, c.fingerprint
}

// Target is the other end. Envoy connects to it when the first byte is written.
func (c *splice) Target() net.Conn { return c.target }

// OfSession has Envoy's log name the session, with the next message. room is asked, for one message at a time, whether there is room for as
// many bytes as are kept of the connection.
func (c *splice) OfSession(id string, room func(bytes int64) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = id
	if room(c.kept) {
		c.room = room
	}
}

// Close ends the whole connection. What was written goes out first.
func (c *splice) Close() error {
	c.finish(&wire.Passing{Close: wire.Finish}, net.ErrClosed)
	return nil
}

// fail resets the connection, unless it is closed by now.
func (c *splice) fail(err error) { c.finish(&wire.Passing{Close: wire.Reset}, err) }

func (c *splice) finish(last *wire.Passing, err error) {
	c.once.Do(func() {
		c.stop(err)
		c.target.stop(err)
		late := time.NewTimer(closingTime)
		defer late.Stop()
		select {
		case c.out <- last:
		case <-c.ctx.Done():
		case <-late.C:
		}
		close(c.done)
		c.keep(func() bool { c.kept = 0; return c.room(0) })
	})
}

func (c *splice) keep(change func() bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return change()
}

// receive takes what Envoy shows until the stream ends.
func (c *splice) receive(stream grpc.ServerStream) {
	for {
		var p wire.Piece
		if err := stream.RecvMsg(&p); err != nil {
			return
		}
		of := c.end
		switch p.From {
		case wire.Agent:
		case wire.Target:
			of = c.target
		default:
			c.fail(errOrder)
			return
		}
		if err := of.came(p.Data, p.Last); err != nil {
			c.fail(err)
			return
		}
		select {
		case c.out <- &wire.Passing{In: p.From}:
		case <-c.done:
			return
		case <-c.ctx.Done():
			return
		}
	}
}

// send is the one goroutine that sends.
func (c *splice) send(stream grpc.ServerStream) {
	for {
		select {
		case p := <-c.out:
			if p.In != 0 && p.Close == wire.Open {
				c.keep(func() bool { p.Session, c.session = c.session, ""; return true })
			}
			if err := stream.SendMsg(p); err != nil {
				c.stop(errGone)
				c.target.stop(errGone)
			}
			if p.Close != wire.Open {
				return
			}
		case <-c.ctx.Done():
			return
		}
	}
}
