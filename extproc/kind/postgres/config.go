package postgres

import (
	"cmp"
	_ "embed"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/loopback"
)

//go:embed config.go
var source string

// Resource is a resource of kind postgres: a PostgreSQL server. listen.tls is ended in the gateway, since it is asked for in
// the protocol.
type Resource struct {
	config.Base `yaml:",inline"`

	// Target is the server: "postgres://HOST:PORT", without user, password and database. Required.
	Target string `yaml:"target"`

	TargetTLS      *config.ClientTLS `yaml:"target_tls"`      // how the server is verified (verify-full). Required off loopback, unless target_insecure is true.
	TargetInsecure bool              `yaml:"target_insecure"` // accept a plain target that is not on loopback.

	// Roles are what agents may name as `user`, and the gateway's own credential for each at the server. At least one is required.
	Roles map[string]Role `yaml:"roles"`

	Databases []string `yaml:"databases"` // what agents may name as `database`. Any by default.
	Auth      string   `yaml:"auth"`      // how the agent gives its token: "password" (the default), as the password, or "oauthbearer", by SASL OAUTHBEARER.

	// Attach is how Envoy takes part: "tcp" (the default), its tcp_proxy passes the connection on to the gateway; or "ext_proc", its network
	// ext_proc filter shows the gateway what both ends send. Envoy calls that filter work in progress, and not part of its threat
	// model: do not use it where an agent could be hostile to Envoy itself.
	Attach string `yaml:"attach"`

	// Egress is how the gateway itself reaches the server: "direct" (the default); or "envoy", by a listener of Envoy's at a unix socket
	// that only the gateway's user can reach. With attach: ext_proc a session's own connection is Envoy's in any case, and egress is for
	// the gateway's requests to cancel.
	Egress string `yaml:"egress"`

	OAuth *OAuth `yaml:"oauth"` // where agents are told to get tokens. With auth: oauthbearer.

	// HarmlessFunctions are functions, "SCHEMA.NAME", that a read may call beside those of PostgreSQL's own that are known to be
	// harmless. Whoever may change such a function decides what agents can do by it.
	HarmlessFunctions []string `yaml:"harmless_functions"`

	// Limits bound sessions.
	Limits Limits `yaml:"limits"`
}

// OAuth is what a client that has no good token is told (RFC 7628, section 3.2.2), so that it can get one.
type OAuth struct {
	Issuer string `yaml:"issuer"` // one of agents[].issuer, where its metadata is. The first that gives tokens by default.
	Scope  string `yaml:"scope"`  // what to ask for there, separated by spaces. Nothing by default.
}

// Role is the gateway's credential for a role of the server. The password is sent by SCRAM as a rule, by other means only over TLS.
type Role struct {
	PasswordFile    config.Path `yaml:"password_file"`    // its password; read for each session.
	CertificateFile config.Path `yaml:"certificate_file"` // PEM client certificate. With key_file and target_tls.
	KeyFile         config.Path `yaml:"key_file"`         // PEM private key of certificate_file.
}

// Limits bound sessions.
type Limits struct {
	Statement   config.Size     `yaml:"statement"`    // the text of one Query or Parse. 1MiB by default.
	Message     config.Size     `yaml:"message"`      // one message of the agent's, but for COPY data, which is not held. 16MiB by default.
	Sessions    int             `yaml:"sessions"`     // at once. 200 by default.
	SessionTime config.Duration `yaml:"session_time"` // how long a session may last. 8h by default.
	Idle        config.Duration `yaml:"idle"`         // how long a session may rest. 10m by default.
}

// Values of attach and egress.
const (
	shown   = "ext_proc"
	byEnvoy = "envoy"
)

// PlainTarget is target_insecure.
func (r *Resource) PlainTarget() bool { return r.TargetInsecure }

// SetDefaults gives what the file leaves out its default.
func (r *Resource) SetDefaults() {
	r.Base.SetDefaults()
	r.Auth, r.Attach, r.Egress = cmp.Or(r.Auth, authPassword), cmp.Or(r.Attach, "tcp"), cmp.Or(r.Egress, "direct")
	l := &r.Limits
	l.Statement, l.Message = cmp.Or(l.Statement, 1<<20), cmp.Or(l.Message, 16<<20)
	l.Sessions = cmp.Or(l.Sessions, 200)
	l.SessionTime, l.Idle = cmp.Or(l.SessionTime, config.Duration(8*time.Hour)), cmp.Or(l.Idle, config.Duration(10*time.Minute))
}

// Validate reports what is wrong with the resource.
func (r *Resource) Validate(k config.Checker) {
	r.Base.Validate(k)
	if r.Listen.Host != "" {
		k.At("listen.host").Fail("is for HTTP: servers of kind postgres are told apart by listen.address")
	}
	if r.Listen.TLS != nil && r.Listen.TLS.ClientCAFile != "" {
		k.At("listen.tls.client_ca_file").Fail("is not for kind postgres: agents are known by their tokens")
	}
	for _, x := range []struct {
		key, value string
		known      []string
	}{{"attach", r.Attach, []string{"tcp", shown}}, {"egress", r.Egress, []string{"direct", byEnvoy}}} {
		if !slices.Contains(x.known, x.value) {
			k.At(x.key).Fail("is %q, and must be %s", x.value, strings.Join(x.known, " or "))
		}
	}
	r.validateAuth(k)
	r.TargetTLS.Validate(k.At("target_tls"))
	if r.TargetTLS != nil && r.TargetTLS.CertificateFile != "" {
		k.At("target_tls.certificate_file").Fail("is of no role: set it in roles")
	}
	r.validateRoles(k.At("roles"))
	if slices.Contains(r.Databases, "") {
		k.At("databases").Fail("has a name that is empty")
	}
	for _, name := range r.HarmlessFunctions {
		if schema, function, ok := strings.Cut(name, "."); !ok || schema == "" || function == "" {
			k.At("harmless_functions").Fail("has %q: write SCHEMA.NAME", name)
		}
	}
	r.Limits.validate(k.At("limits"))
	r.validateTarget(k.At("target"))
}

func (r *Resource) validateAuth(k config.Checker) {
	if r.Auth != authPassword && r.Auth != authBearer {
		k.At("auth").Fail("is %q, and must be %s or %s", r.Auth, authPassword, authBearer)
	}
	issuers := k.TokenIssuers()
	switch {
	case r.Auth != authBearer && r.OAuth != nil:
		k.At("oauth").Fail("is for auth: %s", authBearer)
	case r.Auth != authBearer:
	case r.Listen.TLS == nil:
		k.At("auth").Fail("is %s, by which a token is sent as it is: set listen.tls", authBearer)
	case len(issuers) == 0:
		k.At("auth").Fail("is %s, and no issuer in agents gives tokens", authBearer)
	case r.OAuth != nil && r.OAuth.Issuer != "" && !slices.Contains(issuers, r.OAuth.Issuer):
		k.At("oauth").At("issuer").Fail("is %q, whose tokens are not accepted: name one of agents[].issuer", r.OAuth.Issuer)
	case r.OAuth != nil && !scopes.MatchString(r.OAuth.Scope):
		k.At("oauth").At("scope").Fail("is %q: write scopes of RFC 6749, separated by single spaces", r.OAuth.Scope)
	}
}

// What auth can be.
const (
	authPassword = "password"
	authBearer   = "oauthbearer"
)

// scopes are those of RFC 6749, section 3.3; none too.
var scopes = regexp.MustCompile(`^([!#-\[\]-~]+( [!#-\[\]-~]+)*)?$`)

func (r *Resource) validateRoles(k config.Checker) {
	if len(r.Roles) == 0 {
		k.Fail("is required: name at least one role, or nobody can connect")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Roles)) {
		k, role := k.At(name), r.Roles[name]
		if name == "" || len(name) > maxName {
			k.Fail("is no name of a role: use 1 to %d bytes", maxName)
		}
		k.At("password_file").File(role.PasswordFile)
		k.Pair(role.CertificateFile, role.KeyFile)
		if role.PasswordFile == "" && role.CertificateFile == "" {
			k.Fail("has no credential: set password_file, or certificate_file and key_file")
		}
		if role.CertificateFile != "" && r.TargetTLS == nil {
			k.At("certificate_file").Fail("is shown in TLS only: set target_tls")
		}
	}
}

// maxName is PostgreSQL's own limit of a name (NAMEDATALEN), less its NUL.
const maxName = 63

func (l *Limits) validate(k config.Checker) {
	if l.Statement < 1<<10 || l.Statement > l.Message {
		k.At("statement").Fail("is %d bytes: use at least 1KiB, and no more than limits.message", l.Statement)
	}
	if l.Message < 64<<10 || l.Message > 256<<20 {
		k.At("message").Fail("is %d bytes: use 64KiB to 256MiB", l.Message)
	}
	if l.Sessions < 1 || l.Sessions > 10_000 {
		k.At("sessions").Fail("is %d: use 1 to 10000", l.Sessions)
	}
	if d := l.SessionTime.Std(); d < time.Second {
		k.At("session_time").Fail("is %v: use at least 1s", d)
	}
	if d := l.Idle.Std(); d < time.Second {
		k.At("idle").Fail("is %v: use at least 1s", d)
	}
}

func (r *Resource) validateTarget(k config.Checker) {
	if !k.Required(r.Target) {
		return
	}
	u, err := url.Parse(r.Target)
	if err != nil || u.Scheme != "postgres" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		k.Fail("is no postgres://HOST:PORT: it has the server's address, and no user, password or database, which are in roles and databases") // the value can have a password in it
		return
	}
	if _, _, err := r.address(); err != nil {
		k.Fail("is %q: write postgres://HOST:PORT", r.Target)
	} else if r.TargetTLS == nil && !loopback.Host(u.Hostname()) && !r.TargetInsecure {
		k.Fail("is %q, which is plain to another machine: set target_tls, or target_insecure: true beside it", r.Target)
	}
}

// address is the host and port of the target.
func (r *Resource) address() (host string, port uint32, err error) {
	u, err := url.Parse(r.Target)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err == nil && (n == 0 || u.Hostname() == "") {
		err = net.InvalidAddrError("no host or port")
	}
	return u.Hostname(), uint32(n), err
}
