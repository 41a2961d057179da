// Package tcp is the kind of resource whose protocol the gateway does not read: a service behind plain TCP. It is the smallest
// kind there is, and the one to copy: everything about it is in this folder, and one line of the program names it.
//
// A connection is one operation. Envoy's listener takes TLS from the agent, who is known by the client's certificate (agents of
// kind mtls), and asks by its network ext_authz filter when the first byte has come. A connection that a person has to approve is
// held for as long as the resource says, and is closed where nobody has; the agent connects again. What is sent by it is not seen:
// policy rules on who connects to what, Envoy counts the bytes, and its log of connections says how it ended.
//
// # What was learnt of Envoy 1.40.0
//
//   - The network ext_authz filter asks at the first byte of a connection, and not when it is made. tcp_proxy connects to the target
//     at once, by default: a target that speaks first would be heard by an agent that nobody has let in. So it connects when there
//     is something to pass on (upstream_connect_mode), which the filter before it holds back. A protocol in which the target
//     speaks first (SMTP, MySQL) cannot be carried.
//   - tcp_proxy takes half-closed connections, so an agent that closes its end while it is held is not known to have left: it may
//     wait for an answer. One that resets is.
//   - Nothing closes a connection that was let in, but its limits (limits.connection_time), the gateway's end, and
//     a change of its resource: tcp_proxy looks whether its listener drains at each read and write (check_drain_close).
package tcp

import (
	"strconv"

	"github.com/countersign/countersign/extproc"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/evidence/otlp"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/policy"
)

// name is the kind's name, and that of what is its own in the input and in records.
const name = "tcp"

// Kind is the kind.
var Kind = kind.Kind{
	Config: config.Kind{Name: name, New: func() config.Resource { return &Resource{} }, Source: source},
	Policy: policy.Kind{Name: name, Doc: "the connection, for a resource of kind tcp", Detail: schema{}},
	Envoy:  Envoy{},
	Card:   kind.Card{First: []string{"server_name"}, Unseen: unseen},
	OTLP:   otlp.Kind{Protocol: name, Operation: attributes},
	Own: func(c config.Resource, _ kind.Shared, r *lane.Resource) {
		own := c.(*Resource) //nolint:forcetypeassert // made by New
		r.Own, r.Fingerprint = &connections{own.Target}, fingerprint(own)
	},
}

// connections are those to a resource.
type connections struct{ target string }

// Connection describes a connection.
func (o *connections) Connection(c extproc.Connection) (verb, target string, detail gate.Detail) {
	return "CONNECT", o.target, &connection{c.Local, c.ServerName}
}

// unseen is nothing. What is sent by a connection is seen by nobody, and people who approve one approve that.
func unseen(gate.Object) string { return "" }

// transport is what carries a connection.
var transport = otlp.Value(`"tcp"`)

// attributes are those of a connection.
func attributes(decided otlp.Members, say otlp.Say) {
	say("network.transport", transport)
	if host, port, err := (&Resource{Target: decided.Get("target").Text()}).address(); err == nil {
		say("server.address", gate.AppendText(nil, host))
		say("server.port", strconv.AppendUint(nil, uint64(port), 10))
	}
	say("tls.client.server_name", decided.Get(name).Get("server_name"))
}

// schema describes input.tcp.
type schema struct {
	Destination string `json:"destination" doc:"the gateway's address and port that the agent connected to"`
	ServerName  string `json:"server_name" doc:"the name that the agent's TLS asked for, in lower case; may be empty"`
}

// connection is input.tcp.
type connection struct{ destination, serverName string }

// Key is "tcp".
func (c *connection) Key() string { return name }

// Object is the connection as policy sees it.
func (c *connection) Object() gate.Object {
	return gate.Object{{Name: "destination", Value: c.destination}, {Name: "server_name", Value: c.serverName}}
}

// Volatile is nothing: two connections to one place differ in nothing that the target gets.
func (c *connection) Volatile() gate.Object { return nil }

// Recorded is the name that was asked for.
func (c *connection) Recorded() gate.Object {
	return gate.Object{{Name: "server_name", Value: gate.Recorded(c.serverName, gate.MaxRecorded)}}
}
