// Package config is the configuration file: one YAML document, one struct, and the struct is the manual. Every field's
// comment says what it means, its unit, its default and when it is required.
//
// A file is read strictly. A key that is not known, a key given twice, an alias, a second document and a value of the
// wrong type are problems, and so is every setting that could not work or would leave a door open; all are reported
// together, each with its line ([Problems]). Secrets are never in the file: it names files that hold them. A relative
// path is relative to the file that has it.
//
// Plain text is for loopback. A plain-http issuer or target and a listener without TLS are accepted where the address
// is loopback; elsewhere each has a key of its own that says so (insecure, target_insecure), so that an auditor finds
// every one of them by searching for that word.
package config

import (
	"path/filepath"
	"time"
)

// Config is a whole configuration file. Its zero value is not usable: get one from [Load] or [Parse].
type Config struct {
	// Node names this gateway in its records and to Envoy. Letters, digits, '-', '_' and '.'; "countersign" by default.
	// Two gateways that send to one collector need two names.
	Node string `yaml:"node"`

	// Data is the directory of the journal, the keys and the approvals. Made with mode 0700 when it is not there. Like all that
	// is named here it must be such that only the gateway's user and root can change or move it. Required.
	Data Path `yaml:"data"`

	// Listen is where this process listens.
	Listen Listen `yaml:"listen"`

	// Agents are the issuers whose access tokens are accepted. At least one is required: without one nobody could act.
	Agents []Agent `yaml:"agents"`

	// People is the OpenID provider at which approvers sign in. Optional; without it nobody can approve, and a rule that
	// asks refuses with approval-unavailable.
	People *People `yaml:"people"`

	// Policies is a directory of Rego and data files, or an OPA bundle (.tar.gz). Required.
	Policies Path `yaml:"policies"`

	// Approvals says how requests for approval are held and kept.
	Approvals Approvals `yaml:"approvals"`

	// Evidence says where records go besides the journal, and how often.
	Evidence Evidence `yaml:"evidence"`

	// Limits bound what all requests may take together.
	Limits Total `yaml:"limits"`

	// Envoy says how Envoy is started by `serve --envoy`, and which Envoy files of your own `check` holds to the rules.
	Envoy Envoy `yaml:"envoy"`

	// Resources are the targets. At least one is required. What a resource can have besides the keys that all of them have
	// depends on its kind.
	Resources []Resource `yaml:"resources"`

	file   string
	digest string
	lines  map[string]int
}

// Listen is where this process listens.
type Listen struct {
	// Envoy is where Envoy reaches ext_proc, ext_authz, the access log service and ADS: "unix:PATH" (made with mode 0600)
	// or "HOST:PORT", which needs EnvoyTLS. "unix:DATA/envoy.sock" by default.
	Envoy Address `yaml:"envoy"`

	// EnvoyTLS is required when listen.envoy is a TCP address: Envoy proves itself with a certificate of ClientCAFile.
	EnvoyTLS *ServerTLS `yaml:"envoy_tls"`

	// Admin serves /healthz, /readyz and /metrics as plain HTTP. "127.0.0.1:9440" by default; "none" turns it off.
	Admin Address `yaml:"admin"`

	// AdminInsecure allows listen.admin to be off loopback. It shows counts and states, no operation's content.
	AdminInsecure bool `yaml:"admin_insecure"`

	// Console serves the approvers' page and API. No default: without it there is no console.
	Console Address `yaml:"console"`

	// ConsoleTLS is required when other machines can reach listen.console.
	ConsoleTLS *ServerTLS `yaml:"console_tls"`
}

// ServerTLS is the server's end of TLS.
type ServerTLS struct {
	CertificateFile Path `yaml:"certificate_file"` // PEM chain, leaf first. Required.
	KeyFile         Path `yaml:"key_file"`         // PEM private key. Required.
	ClientCAFile    Path `yaml:"client_ca_file"`   // PEM; when set, clients must show a certificate of this CA.
}

// ClientTLS is the client's end of TLS. The server's certificate is always verified.
type ClientTLS struct {
	CAFile          Path   `yaml:"ca_file"`          // PEM. The system's roots by default.
	ServerName      string `yaml:"server_name"`      // name to verify and send as SNI. The target's host by default.
	CertificateFile Path   `yaml:"certificate_file"` // PEM client certificate, for mTLS. With KeyFile.
	KeyFile         Path   `yaml:"key_file"`         // PEM private key of CertificateFile.
}

// Name is the name that the certificate of a target at host is to have.
func (t *ClientTLS) Name(host string) string {
	if t == nil || t.ServerName == "" {
		return host
	}
	return t.ServerName
}

// Agent is one issuer of access tokens, and what of its tokens is accepted.
type Agent struct {
	// Issuer is the exact `iss` of the tokens, and where OpenID discovery starts. https, or http on loopback. Required.
	Issuer string `yaml:"issuer"`

	// Audience: a token must be for one of these. Required.
	Audience []string `yaml:"audience"`

	// Algorithms are the JWS algorithms accepted. RS256 and ES256 by default; only asymmetric ones can be named.
	Algorithms []string `yaml:"algorithms"`

	// Kind says how claims are read: "oauth" (RFC 9068, the default), "entra", "kubernetes", "github" or "spiffe". Kind "mtls" is
	// for agents that are known by a client's certificate, where the kind of a resource says so: issuer is then
	// spiffe://TRUST-DOMAIN, or a name such as urn:example:ca, and ca_file has the authorities that sign the certificates.
	Kind string `yaml:"kind"`

	// Types are the `typ` header values accepted. By default at+jwt, application/at+jwt, JWT and none. What has a claim of
	// ID tokens alone (nonce, at_hash) is refused, unless its typ is at+jwt.
	Types []string `yaml:"types"`

	// Certificates are for kind mtls without SPIFFE: the subject of a certificate, all of it, as openssl x509 -subject
	// -nameopt RFC2253,-esc_msb writes it, in any order, and what the agent who has it is called: {"CN=ci,O=Example": ci}. Others are refused.
	Certificates map[string]string `yaml:"certificates"`

	CAFile   Path `yaml:"ca_file"`   // PEM roots for the issuer. The system's by default; required for kind mtls.
	JWKSFile Path `yaml:"jwks_file"` // a key set (RFC 7517) to use instead of discovery.
	Insecure bool `yaml:"insecure"`  // accept a plain-http issuer that is not on loopback.

	MaxLifetime Duration `yaml:"max_lifetime"` // longest exp - iat accepted. 24h by default.
	Skew        Duration `yaml:"skew"`         // clock difference tolerated. 60s by default, and at most; 0s for none.
	KeysMaxAge  Duration `yaml:"keys_max_age"` // how long keys serve while the issuer cannot be reached. 24h by default.

	Tenants  []string `yaml:"tenants"`  // accepted `tid` of an entra issuer. Required for kind entra.
	Subjects []string `yaml:"subjects"` // when set, only these subjects are registered.
	Revoked  []string `yaml:"revoked"`  // subjects, client ids and token ids (jti) that are refused.

	// GroupsClaim is the claim that has the groups: its exact name, or else the path to it within others, as in
	// realm_access.roles or /realm_access/roles. So is every other claim that a configuration names. "groups" by default.
	GroupsClaim string `yaml:"groups_claim"`

	RolesClaim string `yaml:"roles_claim"` // the claim that has the roles, named as groups_claim is. "roles" by default.

	// NameClaim is the claim that has what an agent is called, named as groups_claim is: in its own token, or in `act` where it acts
	// for a person. It is recorded and shown beside the subject, as what was claimed, and decides nothing; what is no text is no
	// name. By default the client's id; for kind entra app_displayname before that, for kubernetes the `sub`, for github workflow_ref,
	// and where the token is a person's own as people.name_claim.
	NameClaim string `yaml:"name_claim"`

	// KindClaim is a claim, named as groups_claim is, that says what a principal is (input.principal.kind): person (or user,
	// human), agent (client, service, service_account, machine, app, …) or workload. A token with any other value in it is refused. One
	// without it, and all by default, are read by what issuers are known to put into tokens: a person is who shows a sign-in and no
	// mark of a machine's account, and who shows neither is an agent. It must be an administrator's to change.
	KindClaim string `yaml:"kind_claim"`

	// PeopleClaim is the claim that names the person acted for as people.claim names approvers. With people.claim.
	PeopleClaim string `yaml:"people_claim"`
}

// TokenIssuers are those of agents that give tokens, in their order.
func TokenIssuers(agents []Agent) (list []string) {
	for _, a := range agents {
		if a.Kind != "mtls" {
			list = append(list, a.Issuer)
		}
	}
	return list
}

// People is the OpenID provider of those who approve.
type People struct {
	Issuer   string `yaml:"issuer"`    // as agents[].issuer. Required.
	ClientID string `yaml:"client_id"` // of the console. Required.

	// Kind says how claims are read: "oauth" (the default: a person is the `sub`) or "entra" (the `oid`, in ID tokens too, since
	// Entra ID gives each client another `sub`).
	Kind string `yaml:"kind"`

	// Claim is a claim that names the same person in their own tokens and, as agents[].people_claim, in those of agents that act
	// for them: `email`, say, or an employee number. Nobody approves what is done for themselves, and where people and agents
	// have two issuers, or two kinds, only this tells who is who. Letter case does not matter; an `email` with email_verified
	// false is none. It must be a claim that only an administrator can change, at both issuers, or people approve their own by
	// changing it. Who has none does not approve what is done for a person, nor after another person. None by default:
	// people are then compared by their ids, within one issuer or one tenant of Entra ID.
	Claim string `yaml:"claim"`

	// Clients are those to which a bearer token for the API must have been issued (`azp`, `client_id`, `appid` or `cid`). The
	// console's by default. None may be a client that an agent can get tokens with. Besides that a token must show that a person
	// signed in, by `amr`, `sid`, `session_state` or `auth_time`, at Entra ID by `scp`, at Auth0 by the audience `/userinfo`:
	// where an issuer's access tokens have none of these (Zitadel's), have it add one.
	Clients []string `yaml:"clients"`

	ClientSecretFile Path     `yaml:"client_secret_file"` // for a confidential client. Optional: PKCE is always used.
	Audience         []string `yaml:"audience"`           // of bearer tokens for the API. The client id by default.
	Algorithms       []string `yaml:"algorithms"`         // as agents[].algorithms.
	GroupsClaim      string   `yaml:"groups_claim"`       // as agents[].groups_claim. "groups" by default.

	// NameClaim is the claim that has what a person is called, in their own tokens and in those of agents that act for them: as
	// agents[].name_claim. By default preferred_username, else name.
	NameClaim string `yaml:"name_claim"`

	// Auditors may see every operation on the console's page and in its API, whoever it was decided for: groups of the issuer, and
	// "subject:ID" for one person, as a rule names approvers. Nobody by default.
	Auditors []string `yaml:"auditors"`

	CAFile   Path `yaml:"ca_file"`  // PEM roots for the issuer. The system's by default.
	Insecure bool `yaml:"insecure"` // accept a plain-http issuer that is not on loopback.
}

// Approvals says how requests for approval are held and kept.
type Approvals struct {
	// Store is "embedded" (the default), or the Redis that several gateways share:
	// "redis://[USER@]HOST:PORT[,HOST:PORT…][/DATABASE][?sentinel=NAME|cluster=true][&replicas=N]", or rediss:// for TLS.
	Store string `yaml:"store"`

	// Redis is what a Redis store needs besides its address.
	Redis Redis `yaml:"redis"`

	Hold Duration `yaml:"hold"` // how long an asked operation is held before it hands over. 50s by default; 0s hands over at once.
	TTL  Duration `yaml:"ttl"`  // how long a request, and then its grant, lives. 15m by default.

	// Limits bound what people can be asked at once.
	Limits AskLimits `yaml:"limits"`

	// ConsoleURL is how people reach the console, where that is not the address that it listens on: "https://HOST[:PORT]".
	ConsoleURL string `yaml:"console_url"`

	// Webhook is told of every change of a request, so that it can fetch a person. Optional; nobody can approve through it.
	Webhook *Webhook `yaml:"webhook"`
}

// Webhook is a receiver of signed notifications.
type Webhook struct {
	URL        string `yaml:"url"`         // where they are posted: https, or http on loopback. Required.
	SecretFile Path   `yaml:"secret_file"` // the key of their HMAC-SHA-256 signatures, at least 16 bytes; read at every attempt. Required.
	CAFile     Path   `yaml:"ca_file"`     // PEM roots for the receiver. The system's by default.
	Insecure   bool   `yaml:"insecure"`    // accept a plain-http URL that is not on loopback.
}

// Redis is what a Redis store needs besides its address.
type Redis struct {
	PasswordFile         Path   `yaml:"password_file"`          // of the user, or of the server where there is none.
	CAFile               Path   `yaml:"ca_file"`                // PEM, for rediss. The system's roots by default.
	CertificateFile      Path   `yaml:"certificate_file"`       // PEM client certificate. With key_file.
	KeyFile              Path   `yaml:"key_file"`               // PEM private key of certificate_file.
	SentinelUsername     string `yaml:"sentinel_username"`      // of the Sentinels, where they have users.
	SentinelPasswordFile Path   `yaml:"sentinel_password_file"` // of the Sentinels.
	Insecure             bool   `yaml:"insecure"`               // accept plain redis:// off loopback.
}

// AskLimits bound what people can be asked at once. Past one, an operation that asks is refused; identical ones join the
// request that is open, and count once.
type AskLimits struct {
	Total       int `yaml:"total"`        // open requests. 20000 by default.
	PerAgent    int `yaml:"per_agent"`    // open requests of one agent. 200 by default.
	PerResource int `yaml:"per_resource"` // open requests for one resource. 10000 by default.
	Rate        int `yaml:"rate"`         // new requests of one agent in a minute. 60 by default.
}

// Demand is what a decision needs beyond the person who makes it.
type Demand struct {
	ACR    []string `yaml:"acr"`     // authentication contexts (acr) of which the approver's sign-in must have one. Any by default.
	MaxAge Duration `yaml:"max_age"` // longest time since the approver authenticated (auth_time). Any by default.
}

// Evidence says where records go, and how often some are made.
type Evidence struct {
	OTLP       *OTLP    `yaml:"otlp"`       // the collector. Optional; the journal is kept without one too.
	Heartbeat  Duration `yaml:"heartbeat"`  // how often a gateway says that it is there. 10s by default.
	Checkpoint Duration `yaml:"checkpoint"` // how often the journal's tree is signed while it grows. 5s by default.
	Segment    Size     `yaml:"segment"`    // size at which a journal file is closed and the next begun. 64MiB by default.
}

// OTLP is an OpenTelemetry collector, reached over gRPC.
type OTLP struct {
	Endpoint        string            `yaml:"endpoint"`         // "HOST:PORT". Required.
	CAFile          Path              `yaml:"ca_file"`          // PEM. The system's roots by default.
	CertificateFile Path              `yaml:"certificate_file"` // PEM client certificate. With KeyFile.
	KeyFile         Path              `yaml:"key_file"`         // PEM private key of CertificateFile.
	HeaderFiles     map[string]string `yaml:"header_files"`     // request header: file that holds its value.
	Insecure        bool              `yaml:"insecure"`         // plain gRPC, without TLS; on loopback only, unless InsecureNetwork.
	InsecureNetwork bool              `yaml:"insecure_network"` // allows plain gRPC off loopback.
}

// Total bounds what all requests may take together.
type Total struct {
	// Memory is what requests may take while they are read, judged and held, and answers while they are redacted: for each
	// byte of a body two while it comes and while it waits for people, six and more while it is judged. Past it a request is
	// refused (503, with Retry-After); one agent alone gets half of it, and several get equal parts. What the program takes
	// in all stays below one and a half times as much and 192MiB, unless $GOMEMLIMIT says otherwise. By default a sixteenth of
	// the machine's memory (of its cgroup's limit, where that is less), and 256MiB where a quarter of it has them; 8MiB at least.
	Memory Size `yaml:"memory"`
}

// Envoy says how Envoy is run.
type Envoy struct {
	Path        Path     `yaml:"path"`        // the envoy binary. $ENVOY, then envoy on PATH, then .tools/envoy by default.
	Concurrency int      `yaml:"concurrency"` // worker threads. Envoy's own default (one a core) when 0.
	LogLevel    string   `yaml:"log_level"`   // Envoy's --log-level. "warning" by default.
	Admin       Address  `yaml:"admin"`       // Envoy's admin interface. "unix:DATA/envoy-admin.sock" by default; loopback only.
	Files       []Path   `yaml:"files"`       // your own static Envoy files, for `check` to hold fail-closed.
	Drain       Duration `yaml:"drain"`       // how long a stop waits for work in hand. 20s by default; 0s does not wait.
}

// Defaults, where they are not the zero value.
const (
	DefaultHeartbeat  = 10 * time.Second
	DefaultCheckpoint = 5 * time.Second
	DefaultSegment    = 64 << 20
	DefaultHold       = 50 * time.Second
	DefaultTTL        = 15 * time.Minute
	DefaultDrain      = 20 * time.Second
)

// Socket is where the gateway takes what Envoy passes on to it of a kind of resource whose protocol Envoy cannot read.
func (c *Config) Socket(kind string) Address {
	return Address("unix:" + filepath.Join(string(c.Data), kind+".sock"))
}

// File is the path that the configuration was read from.
func (c *Config) File() string { return c.file }

// Digest is the SHA-256 of the file, in hex.
func (c *Config) Digest() string { return c.digest }
