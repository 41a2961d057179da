// Package postgres is the kind of resource that is a PostgreSQL server. Envoy cannot read its protocol, which begins in the
// clear and goes on in TLS. So Envoy takes the connection and passes it on to the gateway, by a unix socket that nobody else can
// reach, and package session is the other end: it identifies the agent by its token, and each statement is an operation.
//
// There are other ways. With attach: ext_proc Envoy keeps the connection to the target too, and shows the gateway what both ends send
// (package extproc has that as two connections): the session is the same, TLS to either end included. With egress: envoy what
// the gateway itself connects goes by a listener of Envoy's, at a unix socket that only its user can reach. With both, that is
// its requests to cancel, since nothing but a session's own bytes can go by the connection that Envoy shows.
//
// Package statement reads what a statement does, by PostgreSQL's own parser and the target's catalog (package catalog). What
// this package has is the kind itself: its keys, what Envoy is to have, what policy and people see, what a collector is told.
package postgres

import (
	"cmp"
	"context"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/evidence/otlp"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind"
	"github.com/countersign/countersign/extproc/kind/postgres/session"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/policy"
)

// name is the kind's name, and that of what is its own in the input and in records.
const name = session.Protocol

// Kind is the kind.
var Kind = kind.Kind{
	Config: config.Kind{Name: name, New: func() config.Resource { return &Resource{} }, Source: source},
	Policy: policy.Kind{Name: name, Doc: "the statement, for a resource of kind postgres", Detail: session.Schema{}, Redact: []gate.Selector{gate.ByColumn, gate.ByDetect}, Limit: gate.AllLimits},
	Envoy:  Envoy{},
	Card:   kind.Card{First: []string{"text", "executes", "parameters", "database", "role", "access", "writes", "reads"}, Unseen: unseen, Code: laidOut, Words: inWords},
	OTLP:   otlp.Kind{Protocol: name, Operation: attributes, Result: results},
	Serve: func(ctx context.Context, l *lane.Lane, from ...net.Listener) error {
		return session.New(l).Serve(ctx, from...)
	},
	Own: func(c config.Resource, s kind.Shared, r *lane.Resource) {
		own := c.(*Resource) //nolint:forcetypeassert // made by New
		t := target(own, s)
		if own.Egress == byEnvoy {
			t.Egress, _ = s.Socket(egress(own)).Unix()
		}
		r.Own, r.Fingerprint, r.EndWithToken = t, fingerprint(own), true
	},
}

// target is the resource as its sessions need it.
func target(r *Resource, shared kind.Shared) *session.Target {
	host, port, err := r.address()
	if err != nil {
		return nil // the configuration was validated
	}
	t := &session.Target{
		Address: net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10)), Roles: map[string]session.Credential{}, Databases: slices.Clone(r.Databases),
		Harmless: map[string]bool{}, Fingerprint: fingerprint(r), Plans: shared.Plans,
		Limits: session.Limits{
			Statement: int(r.Limits.Statement), Message: int(r.Limits.Message), Sessions: r.Limits.Sessions,
			SessionTime: r.Limits.SessionTime.Std(), Idle: r.Limits.Idle.Std(),
		},
	}
	if r.TargetTLS != nil {
		t.TLS = &session.TLS{CAFile: string(r.TargetTLS.CAFile), Name: r.TargetTLS.Name(host)}
	}
	if r.Listen.TLS != nil {
		t.Certificate, t.Key = string(r.Listen.TLS.CertificateFile), string(r.Listen.TLS.KeyFile)
	}
	if r.Auth == authBearer {
		t.OAuth = oauth(cmp.Or(r.OAuth, &OAuth{}), shared.Issuers)
	}
	for name := range maps.Keys(r.Roles) {
		c := r.Roles[name]
		t.Roles[name] = session.Credential{PasswordFile: string(c.PasswordFile), CertificateFile: string(c.CertificateFile), KeyFile: string(c.KeyFile)}
	}
	for _, function := range r.HarmlessFunctions {
		t.Harmless[function] = true
	}
	return t
}

// oauth is what an agent is told of where it gets a token.
func oauth(o *OAuth, issuers []string) *session.OAuth {
	issuer := cmp.Or(append([]string{o.Issuer}, issuers...)...)
	return &session.OAuth{Discovery: strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration", Scope: o.Scope}
}

// unseen is nothing: a statement is shown whole, and so are its values.
func unseen(gate.Object) string { return "" }

// The values of attributes that are always the same.
var system = otlp.Value(`"postgresql"`)

// attributes are those of a statement.
func attributes(decided otlp.Members, say otlp.Say) {
	own := decided.Get(name)
	say("db.system.name", system)
	say("db.namespace", own.Get("database"))
	say("db.operation.name", decided.Get("verb"))
	say("db.collection.name", own.Get("collection"))
	say("db.query.summary", own.Get("summary"))
	say("db.query.text", decided.Get("target")) // without literals
	if host, port, err := net.SplitHostPort(own.Get("server").Text()); err == nil {
		say("server.address", gate.AppendText(nil, host))
		say("server.port", otlp.Value(port))
	}
}

// results are those of how it ended.
func results(finished otlp.Members, say otlp.Say) {
	own := finished.Get(name)
	say("db.response.status_code", own.Get("sqlstate"))
	if finished.Get("result").Is(string(gate.Completed)) { // any other is what the error is
		say("error.type", own.Get("sqlstate"))
	}
	say("db.response.returned_rows", own.Get("rows"))
}
