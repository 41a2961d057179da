package extproc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	network "github.com/envoyproxy/go-control-plane/envoy/service/network_ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/listener"
)

// spliced is what a kind sees of a connection that Envoy shows.
type spliced interface {
	net.Conn
	Told() (peer, resource, fingerprint string)
	Target() net.Conn
	OfSession(id string, room func(bytes int64) bool)
}

// showing is the services as Envoy calls them, and connections to a resource "orders" of kind "own".
type showing struct {
	t     *testing.T
	envoy network.NetworkExternalProcessorClient
	conns net.Listener
}

func newShowing(t *testing.T) *showing {
	t.Helper()
	l := lane.New(lane.Options{Log: slog.New(slog.DiscardHandler), Now: time.Now, Alarm: func(string, string) {}})
	if err := l.Swap(&lane.State{Resources: map[string]*lane.Resource{
		"orders": {Resource: gate.Resource{Name: "orders", Kind: "own"}},
		"others": {Resource: gate.Resource{Name: "others", Kind: "another"}},
	}}, nil); err != nil {
		t.Fatal(err)
	}
	server := extproc.New(l)
	s := &showing{t: t, conns: server.Spliced("own")}
	socket := filepath.Join(t.TempDir(), "envoy.sock")
	options, err := listener.GRPC(&config.Config{Listen: config.Listen{Envoy: config.Address("unix:" + socket)}}, server)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(options...)
	server.Register(g)
	at, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(at) }()
	t.Cleanup(g.Stop)
	client, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	s.envoy = network.NewNetworkExternalProcessorClient(client)
	return s
}

type stream = network.NetworkExternalProcessor_ProcessClient

// show begins a connection to a resource.
func (s *showing) show(resource string) stream {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	s.t.Cleanup(cancel)
	ctx = metadata.AppendToOutgoingContext(ctx, extproc.ResourceMetadata, resource, extproc.FingerprintMetadata, "f1", extproc.PeerMetadata, "192.0.2.7:1234")
	stream, err := s.envoy.Process(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	return stream
}

// pair is a connection, as Envoy has it and as the kind does.
func (s *showing) pair() (stream, spliced) {
	s.t.Helper()
	stream := s.show("orders")
	conn, err := s.conns.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return stream, conn.(spliced)
}

func readData(data string, last bool) *network.ProcessingRequest {
	return &network.ProcessingRequest{ReadData: &network.Data{Data: []byte(data), EndOfStream: last}}
}

func writeData(data string, last bool) *network.ProcessingRequest {
	return &network.ProcessingRequest{WriteData: &network.Data{Data: []byte(data), EndOfStream: last}}
}

func (s *showing) send(to stream, list ...*network.ProcessingRequest) {
	s.t.Helper()
	for _, m := range list {
		if err := to.Send(m); err != nil && !errors.Is(err, io.EOF) {
			s.t.Fatal(err)
		}
	}
}

// next is the next answer. One that lets what was shown go on as it came is none that is ever given.
func (s *showing) next(from stream) *network.ProcessingResponse {
	s.t.Helper()
	m, err := from.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	if m.GetDataProcessingStatus() != network.ProcessingResponse_MODIFIED || m.GetCloseStreamToExtProcServer() || m.GetReadData().GetEndOfStream() || m.GetWriteData().GetEndOfStream() {
		s.t.Fatalf("%v lets something pass", m)
	}
	return m
}

// ends reads to the end of a stream, whose status is never OK: with that, what comes after it would pass unseen. It returns what becomes of
// the connection.
func (s *showing) ends(from stream) (closing network.ProcessingResponse_ConnectionStatus, code codes.Code) {
	s.t.Helper()
	for {
		m, err := from.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) || status.Code(err) == codes.OK || status.Code(err) == codes.DeadlineExceeded {
				s.t.Errorf("the stream ended with %v", err)
			}
			return closing, status.Code(err)
		}
		if closing = m.GetConnectionStatus(); closing != network.ProcessingResponse_CONTINUE { // as Envoy does
			_ = from.CloseSend()
		}
	}
}

// TestSplice: what either end sends is answered at once with nothing, and goes on only as far as the kind writes it.
func TestSplice(t *testing.T) {
	s := newShowing(t)
	envoy, conn := s.pair()
	if peer, resource, fingerprint := conn.Told(); peer != "192.0.2.7:1234" || resource != "orders" || fingerprint != "f1" {
		t.Errorf("told %q, %q, %q", peer, resource, fingerprint)
	}
	conn.OfSession("s1", func(int64) bool { return true })
	s.send(envoy, readData("to the target", false))
	if m := s.next(envoy); m.GetReadData() == nil || len(m.GetReadData().GetData()) > 0 || m.GetDynamicMetadata().GetFields()["countersign"].GetStructValue().GetFields()["session"].GetStringValue() != "s1" {
		t.Errorf("the agent's was answered with %v", m)
	}
	s.send(envoy, writeData("to the agent", true))
	if m := s.next(envoy); m.GetWriteData() == nil || len(m.GetWriteData().GetData()) > 0 || m.GetDynamicMetadata() != nil {
		t.Errorf("the target's was answered with %v", m)
	}
	for name, c := range map[string]struct {
		conn net.Conn
		want string
	}{"the agent": {conn, "to the target"}, "the target": {conn.Target(), "to the agent"}} {
		b := make([]byte, len(c.want))
		if _, err := io.ReadFull(c.conn, b); err != nil || string(b) != c.want {
			t.Errorf("of %s was read %q, %v", name, b, err)
		}
	}
	if n, err := conn.Target().Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the target's end: %d, %v", n, err)
	}
	if _, err := conn.Write([]byte("judged")); err != nil {
		t.Fatal(err)
	}
	if m := s.next(envoy); string(m.GetWriteData().GetData()) != "judged" {
		t.Errorf("to the agent goes %v", m)
	}
	if _, err := conn.Target().Write([]byte("asked")); err != nil {
		t.Fatal(err)
	}
	if m := s.next(envoy); string(m.GetReadData().GetData()) != "asked" {
		t.Errorf("to the target goes %v", m)
	}
	if err := conn.Target().Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("goodbye")); err != nil { // the agent's end goes on
		t.Fatal(err)
	}
	if m := s.next(envoy); string(m.GetWriteData().GetData()) != "goodbye" {
		t.Errorf("to the agent goes %v", m)
	}
	go func() { _ = conn.Close() }()
	m := s.next(envoy)
	if m.GetConnectionStatus() != network.ProcessingResponse_CLOSE {
		t.Errorf("at the end: %v", m)
	}
	_ = envoy.CloseSend()
	if _, code := s.ends(envoy); code != codes.Aborted {
		t.Errorf("the stream ends with %v", code)
	}
	if _, err := conn.Write([]byte("more")); err == nil {
		t.Error("it could be written after its end")
	}
}

// TestNoStreamEndsWell: however a connection ends, Envoy is told to close it, and its stream does not end with OK, after which Envoy would let
// everything pass.
func TestNoStreamEndsWell(t *testing.T) {
	s := newShowing(t)
	more := string(make([]byte, 100<<10))
	for name, c := range map[string]struct {
		sent []*network.ProcessingRequest
		want network.ProcessingResponse_ConnectionStatus
	}{
		"data after the agent's end":      {[]*network.ProcessingRequest{readData("a", true), readData("b", false)}, network.ProcessingResponse_CLOSE_RST},
		"data after the target's end":     {[]*network.ProcessingRequest{writeData("a", true), writeData("b", false)}, network.ProcessingResponse_CLOSE_RST},
		"another end":                     {[]*network.ProcessingRequest{readData("", true), readData("", true)}, network.ProcessingResponse_CLOSE_RST},
		"of neither":                      {[]*network.ProcessingRequest{{}}, network.ProcessingResponse_CLOSE_RST},
		"of both":                         {[]*network.ProcessingRequest{{ReadData: &network.Data{}, WriteData: &network.Data{}}}, network.ProcessingResponse_CLOSE_RST},
		"too much of a stranger":          {[]*network.ProcessingRequest{readData(more, false), readData(more, false)}, network.ProcessingResponse_CLOSE_RST},
		"too much of a stranger's target": {[]*network.ProcessingRequest{readData(more, false), writeData(more, false)}, network.ProcessingResponse_CLOSE_RST},
	} {
		t.Run(name, func(t *testing.T) {
			envoy, conn := s.pair()
			s.send(envoy, c.sent...)
			if closing, _ := s.ends(envoy); closing != c.want {
				t.Errorf("%v, want %v", closing, c.want)
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := io.Copy(io.Discard, conn); err == nil && c.sent[0].GetReadData() == nil {
				t.Error("its reader was told nothing")
			}
		})
	}
	for _, resource := range []string{"", "none", "others"} {
		if _, code := s.ends(s.show(resource)); code != codes.PermissionDenied {
			t.Errorf("resource %q: %v", resource, code)
		}
	}
	waits := s.show("orders") // nobody accepts it
	_ = s.conns.Close()
	if _, code := s.ends(waits); code != codes.Aborted {
		t.Errorf("a connection that nobody takes: %v", code)
	}
	if _, code := s.ends(s.show("orders")); code != codes.Aborted {
		t.Errorf("after the end: %v", code)
	}
}

// TestWhatIsShownIsKeptWithinBounds: what was shown and is not read is counted, given back when it is read, and no more than there is room for.
func TestWhatIsShownIsKeptWithinBounds(t *testing.T) {
	s := newShowing(t)
	var kept atomic.Int64
	const most = 1 << 20
	room := func(bytes int64) bool {
		if bytes > most {
			return false
		}
		kept.Store(bytes)
		return true
	}
	envoy, conn := s.pair()
	conn.OfSession("s1", room)
	piece := string(make([]byte, 300<<10))
	for range 3 {
		s.send(envoy, readData(piece, false))
		s.next(envoy)
	}
	if n := kept.Load(); n != 3*int64(len(piece)) {
		t.Errorf("%d bytes are counted", n)
	}
	if _, err := io.ReadFull(conn, make([]byte, len(piece))); err != nil || kept.Load() != 2*int64(len(piece)) {
		t.Errorf("after reading: %d, %v", kept.Load(), err)
	}
	s.send(envoy, writeData(piece, false))
	s.next(envoy)
	_ = conn.Target().Close() // and with it what it has sent
	if n := kept.Load(); n != 2*int64(len(piece)) {
		t.Errorf("after the target's end was closed %d bytes are counted", n)
	}
	s.send(envoy, writeData(piece, false), writeData(piece, false)) // nobody reads them, so that they are not kept
	s.next(envoy)
	s.next(envoy)
	s.send(envoy, readData(piece, false), readData(piece, false))
	if closing, _ := s.ends(envoy); closing != network.ProcessingResponse_CLOSE_RST {
		t.Errorf("more than there is room for: %v", closing)
	}
	if n := kept.Load(); n != 0 {
		t.Errorf("%d bytes are counted at the end", n)
	}
}

// TestDeadlinesOfASplice: reading and writing end in time, and go on after another deadline.
func TestDeadlinesOfASplice(t *testing.T) {
	s := newShowing(t)
	envoy, conn := s.pair()
	_ = conn.SetDeadline(time.Unix(1, 0))
	if _, err := conn.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v", err)
	}
	for range 2 { // in the past, and then to come
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	}
	_ = conn.SetDeadline(time.Time{})
	s.send(envoy, readData("y", false))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		waiting <- err
	}()
	_ = conn.SetReadDeadline(time.Unix(1, 0)) // while it is read, or before
	if err := <-waiting; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
}

// TestASpliceOfAnEnvoyThatIsGone: both ends end with the stream.
func TestASpliceOfAnEnvoyThatIsGone(t *testing.T) {
	s := newShowing(t)
	ctx, gone := context.WithCancel(context.Background())
	if _, err := s.envoy.Process(metadata.AppendToOutgoingContext(ctx, extproc.ResourceMetadata, "orders")); err != nil {
		t.Fatal(err)
	}
	conn, err := s.conns.Accept()
	if err != nil {
		t.Fatal(err)
	}
	gone()
	for name, end := range map[string]net.Conn{"agent": conn, "target": conn.(spliced).Target()} {
		if _, err := end.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: read: %v", name, err)
		}
		if _, err := end.Write([]byte("x")); err == nil {
			t.Errorf("%s: it could be written", name)
		}
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

// TestASpliceKeepsTheOrderOfBytes: both ends at once, in pieces of any size.
func TestASpliceKeepsTheOrderOfBytes(t *testing.T) {
	s := newShowing(t)
	envoy, conn := s.pair()
	conn.OfSession("s1", func(int64) bool { return true })
	random := rand.New(rand.NewPCG(1, 1))
	sent := make([]byte, 2<<20)
	for i := range sent {
		sent[i] = byte(random.Uint32())
	}
	failed := make(chan error, 3)
	go func() { _, err := io.Copy(conn.Target(), conn); failed <- err }()
	go func() { _, err := io.Copy(conn, conn.Target()); failed <- err }()
	go func() {
		var err error
		for at := 0; at < len(sent) && err == nil; {
			n := min(len(sent)-at, 1+random.IntN(100<<10))
			err = errors.Join(envoy.Send(readData(string(sent[at:at+n]), at+n == len(sent))), envoy.Send(writeData(string(sent[at:at+n]), at+n == len(sent))))
			at += n
		}
		failed <- err
	}()
	var ends [2]bytes.Buffer
	for ends[0].Len() < len(sent) || ends[1].Len() < len(sent) {
		m := s.next(envoy)
		ends[0].Write(m.GetReadData().GetData())
		ends[1].Write(m.GetWriteData().GetData())
	}
	for range 3 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	for i := range ends {
		if !bytes.Equal(ends[i].Bytes(), sent) {
			t.Errorf("end %d got other bytes", i)
		}
	}
}
