// Package kind says what the program asks of a kind of resource. A kind is a folder beside this file and one value, which the
// command passes to whoever needs a part of it: nothing else in the program knows the kind by its name.
package kind

import (
	"context"
	"net"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/evidence/otlp"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/extproc/redact"
	"github.com/countersign/countersign/xds"
)

// Kind is a kind of resource.
type Kind struct {
	Config config.Kind // its name, and its keys of the configuration
	Policy policy.Kind // what policy sees of an operation
	Envoy  xds.Kind    // what Envoy is to have for it; nil where package xds sees to that
	Card   Card        // how people are shown an operation
	OTLP   otlp.Kind   // what a collector is told of one, by the names that the semantic conventions have

	// Own gives r what is the kind's own: lane.Resource.Own, the fingerprint of what Envoy is to carry out for it, and the like.
	Own func(c config.Resource, s Shared, r *lane.Resource)

	// Serve serves the connections that Envoy passes on to the gateway, at the kind's own socket (config.Config.Socket), and those that it
	// shows (extproc.Server.Spliced), until ctx is done, and returns when none is left; nil where Envoy reads the protocol itself. Each
	// connection is looked at under the lane's state of that moment, so that a reload needs no other listener.
	Serve func(ctx context.Context, l *lane.Lane, from ...net.Listener) error

	// Check reads what serving the resource would read, and says what is wrong with it; nil where nothing is read.
	Check func(c config.Resource) error

	// Notes are what of the resource is right beside its rules, and may not be what was meant; nil where there is no such thing.
	Notes func(c config.Resource, p *policy.Set) []string
}

// Card is how people who are asked are shown the detail of an operation. All of it is shown, whatever is said here.
type Card struct {
	First []string // members that a person reads before the others, in this order

	// Unseen says why a person could not see all that would run; empty where they can. Where it is nil nobody is asked.
	Unseen func(detail gate.Object) string

	// Code is what would run, laid out, and Words is what it does in plain words, of a detail as people may see it. Both stand on the card
	// beside the detail, and are nil where there is no such thing.
	Code  func(detail gate.Object) []Code
	Words func(detail gate.Object) []string
}

// Code is a part of what would run.
type Code struct {
	Class string // what it is, for its looks: "keyword", "name", "literal", "comment", "parameter", "operator", or CodeValue
	Text  string
	Space bool // a space stands before it
	Line  bool // a line begins before it
	Depth int  // how far that is indented
}

// CodeValue is the class of a value that stands behind the parameter that it is given for. It is not part of the text.
const CodeValue = "value"

// Shared is what the resources of a gateway share.
type Shared struct {
	Plans   *redact.Plans
	Issuers []string // that give agents tokens, in the order of the configuration

	// Socket is where a unix socket of that name is, the gateway's own or one at which Envoy listens for it (config.Config.Socket).
	Socket func(name string) config.Address

	// SessionKey seals what an agent is given to keep. Where gateways share approvals they share it, so that a session that was
	// begun at one goes on at another.
	SessionKey []byte
}
