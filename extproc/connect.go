package extproc

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/wire"
)

// Connection is what Envoy's network ext_authz filter says of a connection before anything of it goes to the target.
type Connection struct {
	Peer       string // HOST:PORT of who connected
	Local      string // HOST:PORT that they connected to
	ServerName string // that their TLS named, in lower case, since one name has no other (RFC 6066, section 3); empty where it named none
}

// Connected is what a resource has of its own of whose connections Envoy asks, and not of what is sent by them.
type Connected interface {
	// Connection describes one. It is judged once, when its first byte has come; what is sent by it is not seen.
	Connection(c Connection) (verb, target string, detail gate.Detail)
}

// connect rules on a connection. Who connects is known by the certificate that Envoy has verified; an agent that is refused is
// told nothing, because the gateway does not know the protocol: the connection is closed.
func (s *Server) connect(ctx context.Context, st *lane.State, m *wire.Check) (out *wire.Ruling, err error) {
	a := s.newConnecting(ctx, st, m.Peer)
	defer a.Share.Set(0)
	defer guard.Catch("a connection", func(guard.Panic) {
		a.Failed(false)
		out, err = a.closed(ctx), nil
	})
	if !a.ready(ctx, m) || !a.Decide(ctx, a) {
		return a.closed(ctx), nil
	}
	return a.opened(), nil
}

// connecting is a connection on its way to a ruling.
type connecting struct {
	*lane.Attempt
	server      *Server
	fingerprint string // of what Envoy carries out; empty where a file of somebody's own does not say
}

func (s *Server) newConnecting(ctx context.Context, st *lane.State, peer string) *connecting {
	name := metadataValue(ctx, ResourceMetadata)
	protocol := "connection"
	if r, ok := st.Resources[name]; ok {
		protocol = r.Kind
	}
	a := &connecting{Attempt: s.lane.Attempt(st, protocol, name, gate.Context{Peer: peer}), server: s, fingerprint: metadataValues(ctx, FingerprintMetadata)}
	a.Op.Context.RequestID = a.Op.ID // Envoy gives a connection none
	a.Connection = connectionOf(ctx)
	return a
}

// ready makes the operation of the connection. It is false where that is refused without the gate.
func (a *connecting) ready(ctx context.Context, m *wire.Check) bool {
	var own Connected
	if a.Resource != nil {
		own, _ = a.Resource.Own.(Connected)
	}
	if own == nil {
		return a.Refuse(ctx, gate.Refusal{Problem: gate.Denied, Detail: "This gateway has no resource for this connection."})
	}
	verb, target, detail := own.Connection(Connection{Peer: m.Peer, Local: m.Local, ServerName: strings.ToLower(m.ServerName)})
	leaf, fault := readCertificate(m.Certificate)
	if !a.IdentifyCertificate(ctx, leaf, fault, func() (string, string) { return verb, target }) {
		return false
	}
	a.Op.Verb, a.Op.Target, a.Op.Detail, a.Op.Fits = verb, gate.Recorded(target, gate.MaxRecorded), detail, unredacted
	a.Admit()
	if refusal, ok := a.Room(lane.Bytes); !ok {
		return a.Refuse(ctx, refusal)
	}
	return a.carriedOut(ctx)
}

// readCertificate reads a client's certificate as Envoy writes it: PEM in the encoding of a URL.
func readCertificate(text string) (*x509.Certificate, *identity.Refusal) {
	if text == "" {
		return nil, &identity.Refusal{Reason: identity.Missing, Detail: "there is no client's certificate"}
	}
	plain, err := url.PathUnescape(text)
	block, _ := pem.Decode([]byte(plain))
	if err != nil || block == nil {
		return nil, &identity.Refusal{Reason: identity.Malformed, Detail: "the client's certificate cannot be read"}
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, &identity.Refusal{Reason: identity.Malformed, Detail: "the client's certificate cannot be read: " + err.Error()}
	}
	return leaf, nil
}

// unredacted refuses what policy would redact: nothing of what is sent by the connection is seen.
func unredacted(v gate.Verdict) error {
	if len(v.Redactions) == 0 {
		return nil
	}
	return &gate.Unfit{Problem: gate.Denied, Detail: "Policy redacts what comes back, and what is sent by this connection is not seen, so it was refused."}
}

// carriedOut refuses a connection by what Envoy carries out of another configuration.
func (a *connecting) carriedOut(ctx context.Context) bool {
	if a.fingerprint == "" || a.fingerprint == a.Resource.Fingerprint {
		return true
	}
	a.server.tellDiffering(a.Resource.Name, "Envoy carries out another configuration of this resource than the gateway's")
	return a.Refuse(ctx, gate.Refusal{Problem: gate.Unavailable, Detail: "Envoy carries out another configuration of this resource than the gateway's, so the connection was refused."})
}

// Wait has nothing to give up.
func (a *connecting) Wait(*gate.Pending) {}

// Resume is false where Envoy carries out something else by now.
func (a *connecting) Resume(ctx context.Context, _ *lane.Resource) bool {
	_, ok := a.Resource.Own.(Connected)
	return ok && a.carriedOut(ctx)
}

// opened lets an allowed connection through.
func (a *connecting) opened() *wire.Ruling {
	a.Expect()
	a.Await(gate.Outcome{}, true)
	return a.answer(codes.OK)
}

// closed ends a refused connection.
func (a *connecting) closed(ctx context.Context) *wire.Ruling {
	o := gate.Outcome{Result: gate.Refused, Problem: a.Refusal().Problem, Duration: a.server.lane.Now().Sub(a.Started)}
	if reason, left := a.LeftWaiting(ctx); left {
		o.Result, o.Reason = gate.ClientGone, reason
	}
	a.Finish(o)
	return a.answer(codes.PermissionDenied)
}

func (a *connecting) answer(code codes.Code) *wire.Ruling {
	return &wire.Ruling{Code: uint32(code), Named: named(&a.Op)}
}

// ResourceTag is the custom tag of Envoy's log of connections that names the resource.
const ResourceTag = "countersign.resource"

// passedTag is that of connections that Envoy has passed on to the gateway itself, and so to no target.
const passedTag = "countersign.passed"
