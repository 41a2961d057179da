package extproc

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/redact"
)

// StreamAccessLogs takes Envoy's access log: each entry becomes a transit record, and ends the operation that waits for it.
func (s *Server) StreamAccessLogs(stream accesslog.AccessLogService_StreamAccessLogsServer) (err error) {
	defer guard.Catch("the access log", func(guard.Panic) { err = errFailed })
	defer s.lane.LogOpen()()
	messages := make(chan *accesslog.StreamAccessLogsMessage)
	failed := make(chan error, 1)
	go guard.Func("the access log", func() {
		err := errFailed
		defer func() { failed <- err }()
		for {
			m, received := stream.Recv()
			if received != nil {
				err = received
				return
			}
			select {
			case messages <- m:
			case <-stream.Context().Done():
				return
			}
		}
	})()
	for {
		select {
		case m := <-messages:
			for _, e := range m.GetHttpLogs().GetLogEntry() {
				s.transit(stream.Context(), func() transit { return readTransit(e) })
			}
			for _, e := range m.GetTcpLogs().GetLogEntry() {
				s.transit(stream.Context(), func() transit { return readConnection(e) })
			}
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-s.lane.Closing():
			return status.Error(codes.Unavailable, "countersign: stopping")
		}
	}
}

func (s *Server) transit(ctx context.Context, read func() transit) {
	defer guard.Catch("an entry of the access log", nil)
	t := read()
	st := s.lane.State()
	if st == nil {
		return
	}
	if err := st.Gate.Recorder.Post(ctx, &gate.Record{Type: gate.Transit, Op: t.op, Body: t.object()}); err != nil {
		s.lane.Log.Error("an access log entry could not be recorded", "operation", t.op, "error", err)
	}
	_, known := st.Resources[t.resource]
	s.seen(&t, known)
	if t.op != "" {
		s.lane.Ended(lane.End{
			Op: t.op, Status: int(t.status), BytesIn: int64(t.bytesIn), BytesOut: int64(t.bytesOut), Duration: t.duration,
			ClientGone: t.clientGone, TargetFailed: t.targetFailed, Details: t.details,
		})
	}
}

// transit is what Envoy's access log says of one request.
type transit struct {
	op, resource, requestID, peer, upstream string
	trace                                   string // that the operation's agent sent
	traced                                  bool   // Envoy has told which, if only that it sent none
	connection                              bool   // a connection, which has no status

	verb, target, authority, details, flags string

	responseFlags            string // all that Envoy sets
	trouble                  string // those of them that are a failure of the target; "" where it did not fail
	failure                  string // of the connection to the target
	upstreamHost             string // that was chosen, also where it got nothing
	status                   uint32
	bytesIn, bytesOut        uint64
	duration                 time.Duration
	clientGone, targetFailed bool
}

func readTransit(e *data.HTTPAccessLogEntry) transit {
	c, req, resp := e.GetCommonProperties(), e.GetRequest(), e.GetResponse()
	t := commonTransit(c)
	t.resource = c.GetRouteName() // routes are named after their resource
	t.requestID, t.authority = req.GetRequestId(), req.GetAuthority()
	t.verb, t.target = req.GetRequestMethod().String(), redact.MaskText(pathOnly(req.GetPath()))
	t.details, t.status = resp.GetResponseCodeDetails(), resp.GetResponseCode().GetValue()
	t.bytesIn, t.bytesOut = req.GetRequestBodyBytes(), resp.GetResponseBodyBytes()
	return t
}

// commonTransit reads what Envoy says of requests and connections alike.
func commonTransit(c *data.AccessLogCommon) transit {
	flags := c.GetResponseFlags()
	op, trace := operationOf(c.GetMetadata())
	t := transit{op: op.GetStringValue(), trace: trace.GetStringValue(), traced: trace != nil, peer: addressText(c.GetDownstreamRemoteAddress()), duration: c.GetDuration().AsDuration()}
	t.failure, t.upstreamHost, t.responseFlags = c.GetUpstreamTransportFailureReason(), addressText(c.GetUpstreamRemoteAddress()), flagsOf(flags)
	if c.GetUpstreamWireBytesSent() > 0 {
		t.upstream = t.upstreamHost
	}
	t.clientGone = flags.GetDownstreamConnectionTermination() || flags.GetDownstreamProtocolError() || flags.GetStreamIdleTimeout()
	t.targetFailed = flags.GetUpstreamConnectionFailure() || flags.GetUpstreamConnectionTermination() || flags.GetUpstreamRemoteReset() ||
		flags.GetUpstreamRequestTimeout() || flags.GetNoHealthyUpstream() || flags.GetUpstreamProtocolError() || flags.GetUpstreamMaxStreamDurationReached() ||
		flags.GetUpstreamOverflow() || flags.GetUpstreamRetryLimitExceeded()
	if !t.clientGone && (t.targetFailed || flags.GetNoClusterFound() || flags.GetDnsResolutionFailure()) {
		t.trouble = t.responseFlags
	}
	switch {
	case t.clientGone:
		t.flags = "client"
	case t.targetFailed:
		t.flags = "target"
	case flags.GetUnauthorizedDetails() != nil:
		t.flags = "refused"
	case flags.GetNoRouteFound():
		t.flags = "no_route"
	}
	return t
}

// operationOf finds what [operationMetadata] said in the dynamic metadata: ext_proc writes into our namespace, ext_authz into its own.
func operationOf(m *core.Metadata) (op, trace *structpb.Value) {
	for _, namespace := range []string{MetadataNamespace, "envoy.filters.http.ext_authz", "envoy.filters.network.ext_authz"} {
		if said := m.GetFilterMetadata()[namespace].GetFields(); said["op"].GetStringValue() != "" {
			return said["op"], said["trace_id"]
		}
	}
	return nil, nil
}

func pathOnly(path string) string {
	for i := range len(path) {
		if path[i] == '?' {
			return path[:i]
		}
	}
	return path
}

func addressText(a *core.Address) string {
	switch a := a.GetAddress().(type) {
	case *core.Address_SocketAddress:
		return net.JoinHostPort(a.SocketAddress.GetAddress(), strconv.Itoa(int(a.SocketAddress.GetPortValue())))
	case *core.Address_Pipe:
		return "unix:" + a.Pipe.GetPath()
	default:
		return ""
	}
}

// object bounds every text as a stranger's: Envoy tells of refused requests too, and what an agent asked for is in the decision.
func (t *transit) object() gate.Object {
	o := gate.Object{
		{Name: "authority", Value: lane.Claimed(t.authority)},
		{Name: "bytes_in", Value: int64(t.bytesIn)},
		{Name: "bytes_out", Value: int64(t.bytesOut)},
		{Name: "details", Value: lane.Claimed(t.details)},
		{Name: "duration", Value: t.duration.Seconds()},
		{Name: "flags", Value: t.flags},
		{Name: "peer", Value: lane.Claimed(t.peer)},
		{Name: "request_id", Value: lane.Claimed(t.requestID)},
		{Name: "resource", Value: lane.Claimed(t.resource)},
		{Name: "response_flags", Value: t.responseFlags},
		{Name: "status", Value: int64(t.status)},
		{Name: "target", Value: lane.Claimed(t.target)},
		{Name: "trace_id", Value: lane.Claimed(t.trace)},
		{Name: "upstream", Value: lane.Claimed(t.upstream)},
		{Name: "upstream_failure", Value: lane.Claimed(t.failure)},
		{Name: "upstream_host", Value: lane.Claimed(t.upstreamHost)},
		{Name: "verb", Value: t.verb},
	}
	return slices.DeleteFunc(o, func(m gate.Member) bool {
		return m.Name == "status" && t.connection || m.Name == "trace_id" && !t.traced
	})
}
