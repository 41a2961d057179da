package extproc

import (
	"context"
	"fmt"
	"sync"
	"time"

	filter "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/lane"
)

// What Envoy says of an ext_proc stream in its gRPC metadata. The route sets it, so that no client can choose it.
const (
	// ResourceMetadata names the resource.
	ResourceMetadata = "countersign-resource"

	// FingerprintMetadata is the fingerprint of what Envoy carries out for the resource. A file that a team wrote by hand has none.
	FingerprintMetadata = "countersign-fingerprint"

	// PeerMetadata says who connected. The filter's attribute source.address says the same, and costs both sides 15 µs a
	// request more.
	PeerMetadata = "countersign-peer"
)

// The same as context extensions of ext_authz.
const (
	ResourceExtension    = "resource"
	FingerprintExtension = "fingerprint"
)

// call is what Envoy says when it asks, and where it asks from. A state says what Envoy is to carry out, and is not what Envoy
// carries out: Envoy may run a file that was made of another configuration, learns of a reload later than this service, and
// leaves old connections, and requests that are held, with what they began with. So what counts is a fact of the call, and
// where it is not what the state says nothing is allowed, neither at the first question nor when a hold ends.
type call struct {
	resource    string
	fingerprint string // empty where Envoy's file has none: then only answers counts
	peer        string
	answers     answers
	connection  *lane.Connection // nil where that is not watched
}

// answers is whether the answer to a call comes by here. The zero value is neither, and refuses.
type answers int

const (
	answersPass answers = iota + 1 // Envoy gives it to the agent, and none of it comes by
	answersCome                    // all of it comes by, and what goes to the agent is what is said here
)

// answersOf is for a stream of ext_proc. The other modes show an answer, or a part of it, in a way that nothing can be kept
// back in.
func answersOf(mode filter.ProcessingMode_BodySendMode) answers {
	switch mode {
	case filter.ProcessingMode_NONE:
		return answersPass
	case filter.ProcessingMode_FULL_DUPLEX_STREAMED:
		return answersCome
	default:
		return 0
	}
}

func (c *call) seesAnswers() bool { return c.answers == answersCome }

// differs says in what Envoy does not carry out r for this call; it is empty where it does.
func (c *call) differs(r *lane.Resource, own *HTTP) string {
	switch {
	case c.fingerprint != "" && c.fingerprint != r.Fingerprint:
		return "Envoy carries out another configuration of this resource than the gateway's"
	case !own.PassResponse && c.answers != answersCome:
		return "The answers of this resource do not come by the gateway, as its configuration says that they do"
	case own.PassResponse && c.answers != answersPass:
		return "The answers of this resource come by the gateway, and its configuration says that they do not"
	default:
		return ""
	}
}

// carriedOut refuses a call for which Envoy does not carry out what the state says of the resource.
func (a *attempt) carriedOut(ctx context.Context) bool {
	why := a.call.differs(a.Resource, a.http)
	if why == "" {
		return true
	}
	a.server.tellDiffering(a.Resource.Name, why)
	return a.refuse(ctx, gate.Refusal{Problem: gate.Unavailable, Detail: why + ", so the operation was refused. Nothing was done. " +
		"While a configuration is being changed this passes by itself: try again later, over a new connection. Where it stays, whoever runs Envoy has to give it the configuration of now."})
}

// While Envoy is told of a reload some calls differ, and that is nobody's mistake. After it each resource is told of once in a
// while.
const (
	differingAfter = 10 * time.Second
	differingEvery = time.Minute
)

// differing remembers when an alarm said that Envoy carries out something else.
type differing struct {
	mu     sync.Mutex
	raised map[string]time.Time // by resource
}

// due reports whether it is time to tell of a resource. reloaded is when the last reload was.
func (d *differing) due(resource string, reloaded, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	last, raised := d.raised[resource]
	if now.Sub(reloaded) < differingAfter || raised && last.After(reloaded) && now.Sub(last) < differingEvery {
		return false
	}
	if d.raised == nil {
		d.raised = map[string]time.Time{}
	}
	d.raised[resource] = now
	return true
}

func (s *Server) tellDiffering(resource, why string) {
	if s.differing.due(resource, s.lane.Reloaded(), s.lane.Now()) {
		s.lane.Alarm("envoy_differs", fmt.Sprintf("resource %s: %s, so that its requests are refused: see whether Envoy took what it was sent (xds_nack); "+
			"where it runs a file, make that again (countersign envoy static), hold it against the configuration (countersign check) and start Envoy with it", resource, why))
	}
}
