package extproc

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/redact"
	"github.com/countersign/countersign/extproc/wire"
)

// StreamAccessLogs takes Envoy's access log: each entry becomes a transit record, and ends the operation that waits for it.
func (s *Server) StreamAccessLogs(stream grpc.ServerStream) (err error) {
	defer guard.Catch("the access log", func(guard.Panic) { err = errFailed })
	defer s.lane.LogOpen()()
	var mu sync.Mutex // held while a message is taken, so that none is cut off by the end
	failed := make(chan error, 1)
	go guard.Func("the access log", func() {
		err := errFailed
		defer func() { failed <- err }()
		var m wire.Logs
		for {
			if err = stream.RecvMsg(&m); err != nil {
				return
			}
			mu.Lock()
			for i := range m.Entries {
				s.transit(stream.Context(), &m.Entries[i])
			}
			mu.Unlock()
		}
	})()
	select {
	case err := <-failed:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	case <-s.lane.Closing():
		mu.Lock() // for good: nothing more is taken
		return status.Error(codes.Unavailable, "countersign: stopping")
	}
}

func (s *Server) transit(ctx context.Context, e *wire.Entry) {
	defer guard.Catch("an entry of the access log", nil)
	t := readTransit(e)
	st := s.lane.State()
	if st == nil {
		return
	}
	if err := st.Gate.Recorder.Post(ctx, &gate.Record{Type: gate.Transit, Op: e.Operation, Body: t}); err != nil {
		s.lane.Log.Error("an access log entry could not be recorded", "operation", e.Operation, "error", err)
	}
	_, known := st.Resources[t.resource]
	s.seen(t, known)
	if e.Operation != "" {
		s.lane.Ended(lane.End{
			Op: e.Operation, Status: int(e.Status), BytesIn: int64(e.BytesIn), BytesOut: int64(e.BytesOut), Duration: e.Duration,
			ClientGone: t.clientGone, TargetFailed: t.targetFailed, Details: e.Details,
		})
	}
}

// transit is the body of a transit record: what Envoy's access log says of one request, or of a connection.
type transit struct {
	*wire.Entry
	resource, target string
	upstream         string // that got something of it
	flags            string // how it ended, where that is not as it should

	responseFlags            string // all that Envoy sets
	trouble                  string // those of them that are a failure of the target; "" where it did not fail
	clientGone, targetFailed bool
}

const (
	clientGoneFlags   = wire.DownstreamConnectionTermination | wire.DownstreamProtocolError | wire.StreamIdleTimeout
	targetFailedFlags = wire.UpstreamConnectionFailure | wire.UpstreamConnectionTermination | wire.UpstreamRemoteReset |
		wire.UpstreamRequestTimeout | wire.NoHealthyUpstream | wire.UpstreamProtocolError | wire.UpstreamMaxStreamDurationReached |
		wire.UpstreamOverflow | wire.UpstreamRetryLimitExceeded
)

func readTransit(e *wire.Entry) *transit {
	t := &transit{
		Entry: e, resource: e.Route, // routes are named after their resource
		responseFlags: e.Flags.String(), clientGone: e.Flags.Any(clientGoneFlags), targetFailed: e.Flags.Any(targetFailedFlags),
	}
	if e.Connection {
		t.resource = e.Tag(ResourceTag)
	}
	path, _, _ := strings.Cut(e.Path, "?")
	t.target = redact.MaskText(path)
	if e.WireSent > 0 && e.Tag(passedTag) == "" {
		t.upstream = e.Upstream
	}
	if !t.clientGone && (t.targetFailed || e.Flags.Any(wire.NoClusterFound|wire.DNSResolutionFailure)) {
		t.trouble = t.responseFlags
	}
	switch {
	case t.clientGone:
		t.flags = "client"
	case t.targetFailed:
		t.flags = "target"
	case e.Flags.Any(wire.UnauthorizedDetails):
		t.flags = "refused"
	case e.Flags.Any(wire.NoRouteFound):
		t.flags = "no_route"
	}
	return t
}

// Says implements [gate.Sure].
func (t *transit) Says() (allows bool, decided uint64, sure bool) { return false, 0, true }

// AppendJSON bounds every text as a stranger's: Envoy tells of refused requests too, and what an agent asked for is in the decision.
func (t *transit) AppendJSON(b []byte) ([]byte, error) {
	w := gate.WriteBody(b)
	w.Claimed("authority", t.Authority)
	w.Count("bytes_in", int64(t.BytesIn))
	w.Count("bytes_out", int64(t.BytesOut))
	w.Claimed("details", t.Details)
	w.Seconds("duration", t.Duration)
	w.Text("flags", t.flags)
	w.Claimed("peer", t.Peer)
	w.Claimed("request_id", t.RequestID)
	w.Claimed("resource", t.resource)
	w.Text("response_flags", t.responseFlags)
	if t.Connection {
		w.Claimed("session", t.Session)
	}
	if !t.Connection {
		w.Count("status", int64(t.Status))
	}
	w.Claimed("target", t.target)
	if t.Traced {
		w.Claimed("trace_id", t.Trace)
	}
	w.Claimed("upstream", t.upstream)
	w.Claimed("upstream_failure", t.Failure)
	w.Claimed("upstream_host", t.Upstream)
	w.Text("verb", t.Verb)
	return w.End()
}
