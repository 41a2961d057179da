package extproc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/wire"
)

// ClockMetadata is the gRPC metadata key in which Envoy names the resource of a stream that is about time alone. Where ext_authz
// is asked, Envoy takes a request in whole before it asks, and how long that may take it can bound for a listener only, not for
// each resource. So it tells of the request's head on such a stream first: the request is judged by [Server.Check] when it has
// arrived, and refused here where that takes too long.
const ClockMetadata = "countersign-clock"

// clocks are the requests that are on their way in, by the id that Envoy has given each.
type clocks struct {
	mu      sync.Mutex
	running map[string]chan struct{} // closed when Check is asked; nil once the time is over
}

// start begins to wait for the request. It is false where there is one with its id.
func (c *clocks) start(id string) (arrived <-chan struct{}, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.running[id]; there || id == "" {
		return nil, false
	}
	if c.running == nil {
		c.running = map[string]chan struct{}{}
	}
	came := make(chan struct{})
	c.running[id] = came
	return came, true
}

// arrive tells the stream that waits for the request. It is false where that has refused it.
func (c *clocks) arrive(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	came, there := c.running[id]
	if !there {
		return true
	}
	if came == nil {
		return false
	}
	delete(c.running, id)
	close(came)
	return true
}

// over has arrive be false from now on, until forget. It is false where the request has arrived.
func (c *clocks) over(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running[id] == nil {
		return false
	}
	c.running[id] = nil
	return true
}

func (c *clocks) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, id)
}

// clock serves a stream that is about time alone. What it lets go on is not allowed by that: ext_authz comes after it, and only a
// resource that is attached so has a clock.
func (s *Server) clock(st *lane.State, stream grpc.ServerStream, name string) error {
	ctx := stream.Context()
	var m wire.Request
	if err := stream.RecvMsg(&m); err != nil {
		return nil // Envoy, or its client, has left
	}
	r := httpOf(st.Resources[name])
	if r == nil || !r.ByAuthz || m.Part != wire.RequestHead {
		return status.Errorf(codes.InvalidArgument, "countersign: %q has no clock", name)
	}
	c := call{resource: name, fingerprint: metadataValues(ctx, FingerprintMetadata), peer: metadataValue(ctx, PeerMetadata), answers: answersPass}
	id := contextOf(m.Fields, c.peer).RequestID
	arrived, ok := s.clocks.start(id)
	if !ok {
		return status.Error(codes.InvalidArgument, "countersign: a clock needs a request id of Envoy's own")
	}
	defer s.clocks.forget(id)
	if err := stream.SendMsg(&wire.Answer{To: wire.RequestHead}); err != nil || m.Last {
		return err
	}
	late := time.NewTimer(r.RequestTime)
	defer late.Stop()
	select {
	case <-arrived:
		return nil
	case <-ctx.Done():
		return nil
	case <-s.lane.Stopping():
		return nil // and Check refuses it
	case <-late.C:
	}
	if !s.clocks.over(id) {
		return nil
	}
	a := s.newAttempt(st, c, m.Fields)
	defer a.Share.Set(0)
	if a.head(ctx, m.Fields) {
		a.tooLate(ctx)
	}
	a.Finish(a.outcomeOfRefusal())
	return stream.SendMsg(immediate(a.reply(), &a.Op))
}

// tooLate refuses a request that has not arrived whole in time.
func (a *attempt) tooLate(ctx context.Context) {
	a.refuse(context.WithoutCancel(ctx), gate.Refusal{Problem: gate.Unreadable, Detail: fmt.Sprintf(
		"The request did not arrive whole within %v, so it was refused. Nothing was done. Send it faster, or in smaller parts.", a.http.RequestTime)})
}
