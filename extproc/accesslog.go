package extproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/redact"
)

// How long an operation whose stream broke off waits for Envoy's access log to say why, and how long one that only the
// access log can end waits once Envoy's connection is gone.
const (
	accessLogWait = 5 * time.Second
	envoyGoneWait = 10 * time.Second
)

// accessLogLag is how long Envoy may keep an entry: twice the flush interval that package xds sets.
const accessLogLag = 400 * time.Millisecond

// StreamAccessLogs takes Envoy's access log: each entry becomes a transit record, and ends the operation that waits for it.
func (s *Server) StreamAccessLogs(stream accesslog.AccessLogService_StreamAccessLogsServer) (err error) {
	defer guard.Catch("the access log", func(guard.Panic) { err = errFailed })
	s.outcomes.connected(1)
	defer s.outcomes.connected(-1)
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
				s.transit(stream.Context(), e)
			}
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-s.closing:
			return status.Error(codes.Unavailable, "countersign: stopping")
		}
	}
}

func (s *Server) transit(ctx context.Context, e *data.HTTPAccessLogEntry) {
	defer guard.Catch("an entry of the access log", nil)
	t := readTransit(e)
	st := s.state.Load()
	if st == nil {
		return
	}
	if err := st.Gate.Recorder.Post(ctx, &gate.Record{Type: gate.Transit, Op: t.op, Body: t.object()}); err != nil {
		s.opt.Log.Error("an access log entry could not be recorded", "operation", t.op, "error", err)
	}
	if t.op != "" {
		s.outcomes.seen(t)
	}
}

// transit is what Envoy's access log says of one request.
type transit struct {
	op, resource, requestID, peer, upstream string
	verb, target, authority, details, flags string
	status                                  uint32
	bytesIn, bytesOut                       uint64
	duration                                time.Duration
	clientGone, targetFailed                bool
}

func readTransit(e *data.HTTPAccessLogEntry) transit {
	c, req, resp := e.GetCommonProperties(), e.GetRequest(), e.GetResponse()
	flags := c.GetResponseFlags()
	t := transit{
		op:        operationOf(c.GetMetadata()),
		resource:  c.GetRouteName(), // routes are named after their resource
		requestID: req.GetRequestId(),
		peer:      addressText(c.GetDownstreamRemoteAddress()),
		verb:      req.GetRequestMethod().String(),
		target:    redact.MaskText(pathOnly(req.GetPath())),
		authority: req.GetAuthority(),
		details:   resp.GetResponseCodeDetails(),
		status:    resp.GetResponseCode().GetValue(),
		bytesIn:   req.GetRequestBodyBytes(),
		bytesOut:  resp.GetResponseBodyBytes(),
		duration:  c.GetDuration().AsDuration(),
	}
	if c.GetUpstreamWireBytesSent() > 0 {
		t.upstream = addressText(c.GetUpstreamRemoteAddress())
	}
	t.clientGone = flags.GetDownstreamConnectionTermination() || flags.GetDownstreamProtocolError() || flags.GetStreamIdleTimeout()
	t.targetFailed = flags.GetUpstreamConnectionFailure() || flags.GetUpstreamConnectionTermination() || flags.GetUpstreamRemoteReset() ||
		flags.GetUpstreamRequestTimeout() || flags.GetNoHealthyUpstream() || flags.GetUpstreamProtocolError() || flags.GetUpstreamMaxStreamDurationReached() ||
		flags.GetUpstreamOverflow() || flags.GetUpstreamRetryLimitExceeded()
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

// operationOf finds the operation's id in the dynamic metadata: ext_proc writes into our namespace, ext_authz into its own.
func operationOf(m *core.Metadata) string {
	for _, namespace := range []string{MetadataNamespace, "envoy.filters.http.ext_authz"} {
		if op := m.GetFilterMetadata()[namespace].GetFields()["op"].GetStringValue(); op != "" {
			return op
		}
	}
	return ""
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
	return gate.Object{
		{Name: "authority", Value: claimed(t.authority)},
		{Name: "bytes_in", Value: int64(t.bytesIn)},
		{Name: "bytes_out", Value: int64(t.bytesOut)},
		{Name: "details", Value: claimed(t.details)},
		{Name: "duration", Value: t.duration.Seconds()},
		{Name: "flags", Value: t.flags},
		{Name: "peer", Value: claimed(t.peer)},
		{Name: "request_id", Value: claimed(t.requestID)},
		{Name: "resource", Value: claimed(t.resource)},
		{Name: "status", Value: int64(t.status)},
		{Name: "target", Value: claimed(t.target)},
		{Name: "upstream", Value: claimed(t.upstream)},
		{Name: "verb", Value: t.verb},
	}
}

// outcomes are the allowed operations that have not ended here. Where the answer does not come by, or the stream broke
// off, Envoy's access log says how they ended.
type outcomes struct {
	mu      sync.Mutex
	pending map[string]*pendingOutcome
	most    int       // that pending may have before room is made; maxPending where that is more
	envoys  int       // access log streams that are open
	ended   time.Time // when the last was seen to end, of which Envoy has yet to tell
}

type pendingOutcome struct {
	attempt *attempt
	outcome gate.Outcome
	waiting bool // only the access log can end it now
	seen    *transit
	timer   *time.Timer
}

// maxPending is how many operations can wait for Envoy's access log. An Envoy that keeps none, by a mistake in its
// configuration, ends none of them.
const maxPending = 1 << 16

// expect notes an operation that was allowed and released.
func (o *outcomes) expect(a *attempt) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pending[a.op.ID] = &pendingOutcome{attempt: a}
	if len(o.pending) >= max(o.most, maxPending) {
		o.most = 2 * len(o.pending) // until some have been given up
		go guard.Func("operations that nobody ends", o.giveUpOldest)()
	}
	if c := a.call.connection; c != nil && c.ended { // while it was decided
		o.giveUpSoon(c)
	}
}

// forget drops an operation whose end was seen.
func (o *outcomes) forget(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.pending, id)
	o.ended = time.Now()
}

// await leaves the end of an operation to the access log. known is what is known already. open says that the answer may
// still be on its way; where it is false the stream broke off, and known is recorded if the access log does not come.
func (o *outcomes) await(a *attempt, known gate.Outcome, open bool) {
	o.mu.Lock()
	p := o.pending[a.op.ID]
	if p == nil {
		o.mu.Unlock()
		return
	}
	p.outcome, p.waiting = known, true
	if p.seen == nil {
		if !open {
			p.timer = time.AfterFunc(accessLogWait, guard.Func("an operation that nobody ends", func() { o.expire(a.op.ID) }))
		}
		o.mu.Unlock()
		return
	}
	delete(o.pending, a.op.ID)
	o.mu.Unlock()
	p.finish(p.seen)
}

// seen takes an access log entry.
func (o *outcomes) seen(t transit) {
	o.mu.Lock()
	p := o.pending[t.op]
	if p == nil {
		o.mu.Unlock()
		return
	}
	if !p.waiting {
		p.seen = &t
		o.mu.Unlock()
		return
	}
	delete(o.pending, t.op)
	o.mu.Unlock()
	p.finish(&t)
}

func (o *outcomes) expire(id string) {
	o.mu.Lock()
	p := o.pending[id]
	delete(o.pending, id)
	o.mu.Unlock()
	if p != nil {
		p.outcome.Reason = "the stream broke off, and Envoy's access log did not say why"
		p.record(p.outcome)
	}
}

// finish ends an operation as the access log says.
func (p *pendingOutcome) finish(t *transit) {
	out := p.outcome
	a := p.attempt
	if !a.call.seesAnswers() || out.Status == 0 {
		out.Status = int(t.status)
	}
	if !a.call.seesAnswers() {
		out.BytesIn, out.BytesOut = int64(t.bytesIn), int64(t.bytesOut)
		out.Duration = t.duration
	}
	switch {
	case t.targetFailed:
		out.Result, out.Reason = gate.TargetFailed, t.details
	case t.clientGone:
		out.Result, out.Reason = gate.ClientGone, t.details
	case !a.call.seesAnswers():
		out.Result = gate.Completed
	default:
		out.Reason = t.details
	}
	p.record(out)
}

func (p *pendingOutcome) record(out gate.Outcome) {
	if p.timer != nil {
		p.timer.Stop()
	}
	a := p.attempt
	a.server.finish(a.state.Gate, a.op.Resource.Name, a.ruling, out)
}

// connected counts access log streams.
func (o *outcomes) connected(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.envoys += n
}

// lost is told that a connection of Envoy has ended. Envoy may have told already how what came by it ended, or tell it by
// another one; where it does not, the outcome is unknown. An Envoy that was started again knows nothing of what it carried.
func (o *outcomes) lost(c *connection) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.ended = true
	for _, p := range o.pending {
		if p.attempt.call.connection == c {
			o.giveUpSoon(c)
			return
		}
	}
}

func (o *outcomes) giveUpSoon(c *connection) {
	time.AfterFunc(envoyGoneWait, guard.Func("operations that nobody ends", func() {
		o.giveUp(func(p *pendingOutcome) bool { return p.attempt.call.connection == c },
			fmt.Sprintf("Envoy's connection ended %v ago, and its access log did not tell how the operation ended", envoyGoneWait))
	}))
}

// giveUp records an unknown outcome for those that wait and for which which is true.
func (o *outcomes) giveUp(which func(*pendingOutcome) bool, reason string) {
	o.mu.Lock()
	var waiting []*pendingOutcome
	for id, p := range o.pending {
		if p.waiting && which(p) {
			waiting = append(waiting, p)
			delete(o.pending, id)
		}
	}
	o.mu.Unlock()
	for _, p := range waiting {
		a := p.attempt
		if err := a.state.Gate.Unknown(context.Background(), a.ruling, reason); err != nil {
			a.server.opt.Log.Error("an unknown outcome could not be recorded", "operation", a.op.ID, "error", err)
		}
	}
}

// giveUpOldest makes room: a quarter of those that wait goes, by when they began.
func (o *outcomes) giveUpOldest() {
	o.mu.Lock()
	var began []time.Time
	for _, p := range o.pending {
		if p.waiting {
			began = append(began, p.attempt.started)
		}
	}
	o.mu.Unlock()
	if len(began) > 0 {
		slices.SortFunc(began, time.Time.Compare)
		last := began[len(began)/4]
		o.giveUp(func(p *pendingOutcome) bool { return !p.attempt.started.After(last) },
			fmt.Sprintf("more than %d operations waited for Envoy's access log, and it did not tell how this one ended", maxPending))
	}
	o.mu.Lock()
	o.most = len(o.pending) + maxPending/4
	o.mu.Unlock()
}

// settle waits until nothing waits for the access log and Envoy has had the time to tell of what ended, or ctx is done.
func (o *outcomes) settle(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		o.mu.Lock()
		n, envoys, told := len(o.pending), o.envoys, time.Since(o.ended) > accessLogLag
		o.mu.Unlock()
		if told && (n == 0 || envoys == 0) { // Envoy opens its log when it has something to tell
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
