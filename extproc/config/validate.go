package config

import (
	"cmp"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/loopback"
)

func (c *Config) setDefaults() {
	c.Node = cmp.Or(c.Node, "countersign")
	c.Listen.Envoy = cmp.Or(c.Listen.Envoy, Address("unix:"+filepath.Join(string(c.Data), "envoy.sock")))
	c.Listen.Admin = cmp.Or(c.Listen.Admin, "127.0.0.1:9440")
	c.Evidence.Heartbeat = cmp.Or(c.Evidence.Heartbeat, Duration(DefaultHeartbeat))
	c.Evidence.Checkpoint = cmp.Or(c.Evidence.Checkpoint, Duration(DefaultCheckpoint))
	c.Evidence.Segment = cmp.Or(c.Evidence.Segment, Size(DefaultSegment))
	c.Approvals.Store = cmp.Or(c.Approvals.Store, "embedded")
	c.Approvals.Hold = cmp.Or(c.Approvals.Hold, Duration(DefaultHold))
	c.Approvals.TTL = cmp.Or(c.Approvals.TTL, Duration(DefaultTTL))
	l := &c.Approvals.Limits
	l.Total, l.PerAgent = cmp.Or(l.Total, 20_000), cmp.Or(l.PerAgent, 200)
	l.PerResource, l.Rate = cmp.Or(l.PerResource, 10_000), cmp.Or(l.Rate, 60)
	c.Envoy.LogLevel = cmp.Or(c.Envoy.LogLevel, "warning")
	c.Envoy.Admin = cmp.Or(c.Envoy.Admin, Address("unix:"+filepath.Join(string(c.Data), "envoy-admin.sock")))
	c.Envoy.Drain = cmp.Or(c.Envoy.Drain, Duration(DefaultDrain))
	for i := range c.Agents {
		a := &c.Agents[i]
		if a.Algorithms == nil {
			a.Algorithms = []string{"RS256", "ES256"}
		}
		a.Kind = cmp.Or(a.Kind, "oauth")
		a.MaxLifetime = cmp.Or(a.MaxLifetime, Duration(24*time.Hour))
		a.Skew = cmp.Or(a.Skew, Duration(time.Minute))
		a.KeysMaxAge = cmp.Or(a.KeysMaxAge, Duration(24*time.Hour))
		a.GroupsClaim = cmp.Or(a.GroupsClaim, "groups")
		a.RolesClaim = cmp.Or(a.RolesClaim, "roles")
	}
	if p := c.People; p != nil {
		if p.Algorithms == nil {
			p.Algorithms = []string{"RS256", "ES256"}
		}
		if p.Audience == nil {
			p.Audience = []string{p.ClientID}
		}
		if p.Clients == nil {
			p.Clients = []string{p.ClientID}
		}
		p.Kind = cmp.Or(p.Kind, "oauth")
		p.GroupsClaim = cmp.Or(p.GroupsClaim, "groups")
	}
	for i := range c.Resources {
		c.Resources[i].SetDefaults()
	}
}

// Checker reports problems under one key.
type Checker struct {
	d   *decoder
	key string
}

// At returns the checker of a key within k's.
func (k Checker) At(name string) Checker {
	return Checker{k.d, join(k.key, name)}
}

func (k Checker) index(i int) Checker {
	return Checker{k.d, k.key + "[" + strconv.Itoa(i) + "]"}
}

// Fail reports a problem of this key: the rest of a sentence that begins with the key's name. The line is the key's, or that
// of the nearest key above it that is in the file. If the key has a problem already, this one is not reported.
func (k Checker) Fail(format string, args ...any) {
	if k.d.unread(k.key) {
		return
	}
	line := 0
	for key := k.key; key != "" && line == 0; key = above(key) {
		line = k.d.lines[key]
	}
	k.d.problem(line, k.key, format, args...)
}

// Required reports whether value is set, and fails if it is not.
func (k Checker) Required(value string) bool {
	if value == "" {
		k.Fail("is required")
	}
	return value != ""
}

func (k Checker) oneOf(value string, known ...string) {
	if !slices.Contains(known, value) {
		k.Fail("is %q, and must be one of %s", value, strings.Join(known, ", "))
	}
}

// file checks that p can be read, and what is in it.
func (k Checker) file(p Path) {
	if p == "" {
		return
	}
	f, err := os.Open(string(p))
	if err != nil {
		k.Fail("names %s, which cannot be read: %s", p, reason(err))
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		k.Fail("names %s, which is a directory and not a file", p)
		return
	}
	k.content(p, f)
}

var (
	nodeName     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	resourceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)
	headerName   = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	targetHost   = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$|^[0-9a-fA-F:.]+$`)
	hostName     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$|^\[[0-9a-fA-F:.]+\]$`)
)

func (c *Config) validate(d *decoder) {
	k := Checker{d: d}
	if !nodeName.MatchString(c.Node) {
		k.At("node").Fail("is %q: use up to 63 letters, digits, '-', '_' and '.'", c.Node)
	}
	k.At("data").Required(string(c.Data))
	if k.At("policies").Required(string(c.Policies)) {
		if _, err := os.Stat(string(c.Policies)); err != nil {
			k.At("policies").Fail("names %s, which cannot be read: %s", c.Policies, reason(err))
		}
	}
	c.validateListen(k.At("listen"))
	c.validateAgents(k.At("agents"))
	if c.People != nil {
		c.People.validate(k.At("people"))
	}
	c.Approvals.validate(k.At("approvals"))
	c.Evidence.validate(k.At("evidence"))
	if m := c.Limits.Memory; m != 0 && m < 8<<20 {
		k.At("limits.memory").Fail("is %d bytes: use at least 8MiB", m)
	}
	c.Envoy.validate(k.At("envoy"))
	c.validateResources(k.At("resources"))
	c.validatePlaces(k)
}

// validatePlaces checks that no two listeners have one address. Resources may share one, since their hosts differ.
func (c *Config) validatePlaces(k Checker) {
	taken := map[string]string{}
	for _, x := range []struct{ key, address string }{
		{"listen.envoy", string(c.Listen.Envoy)}, {"listen.admin", string(c.Listen.Admin)}, {"listen.console", string(c.Listen.Console)}, {"envoy.admin", string(c.Envoy.Admin)},
	} {
		if x.address == "" || x.address == "none" {
			continue
		}
		if other := taken[x.address]; other != "" {
			k.At(x.key).Fail("is %s, and so is %s: give each an address of its own", x.address, other)
		}
		taken[x.address] = x.key
	}
	for i := range c.Resources {
		if other := taken[c.Resources[i].Common().Listen.Address]; other != "" {
			k.At("resources").index(i).At("listen.address").Fail("is %s, and so is %s: Envoy listens here, and needs an address of its own", c.Resources[i].Common().Listen.Address, other)
		}
	}
}

func (c *Config) validateListen(k Checker) {
	k.At("envoy").address(c.Listen.Envoy)
	if _, unix := c.Listen.Envoy.Unix(); !unix {
		if t := c.Listen.EnvoyTLS; t == nil || t.ClientCAFile == "" {
			k.At("envoy").Fail("is a TCP address, so Envoy must prove itself: set listen.envoy_tls with certificate_file, key_file and client_ca_file, or use unix:PATH")
		}
	}
	c.Listen.EnvoyTLS.validate(k.At("envoy_tls"))
	c.Listen.ConsoleTLS.validate(k.At("console_tls"))
	if c.Listen.Admin != "none" {
		k.At("admin").address(c.Listen.Admin)
		if !c.Listen.Admin.Loopback() && !c.Listen.AdminInsecure {
			k.At("admin").Fail("is %s, which other machines can reach, over plain HTTP: use a loopback address, or set listen.admin_insecure: true", c.Listen.Admin)
		}
	}
	if c.Listen.Console != "" {
		k.At("console").address(c.Listen.Console)
		if !c.Listen.Console.Loopback() && c.Listen.ConsoleTLS == nil {
			k.At("console").Fail("is %s, where approvers' sessions would cross the network in the clear: set listen.console_tls, or use a loopback address", c.Listen.Console)
		}
		if !c.Listen.Console.namesHost() && c.Approvals.ConsoleURL == "" {
			k.At("console").Fail("is %s, an address that nobody can open, and links that agents and approvers get would lead there: set approvals.console_url", c.Listen.Console)
		}
	}
}

// address checks that a is "HOST:PORT", or "unix:PATH" with a path that fits into a socket address (sun_path, 108 bytes with
// NUL).
func (k Checker) address(a Address) {
	if path, ok := a.Unix(); ok {
		if len(path) > 107 {
			k.Fail("is a socket path of %d bytes, and the system takes 107: use a shorter one, such as unix:/run/countersign/envoy.sock", len(path))
		}
		return
	}
	_, port, err := net.SplitHostPort(string(a))
	if err != nil {
		k.Fail("is %q: write HOST:PORT or unix:PATH", a)
		return
	}
	if !isPort(port) {
		k.Fail("has the port %q: use a number from 1 to 65535", port)
	}
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// withoutUser returns a URL without its user: a password can stand there, and problems are logged.
func withoutUser(u string) string {
	if at := strings.LastIndexByte(u, '@'); at >= 0 {
		scheme, _, _ := strings.Cut(u[:at], "://")
		if len(scheme) == at {
			scheme = ""
		}
		return scheme + "://…" + u[at:]
	}
	return u
}

func (t *ServerTLS) validate(k Checker) {
	if t == nil {
		return
	}
	k.At("certificate_file").Required(string(t.CertificateFile))
	k.At("key_file").Required(string(t.KeyFile))
	k.At("certificate_file").file(t.CertificateFile)
	k.At("key_file").file(t.KeyFile)
	k.keyPair(t.CertificateFile, t.KeyFile)
	k.At("client_ca_file").file(t.ClientCAFile)
}

// Validate reports what is wrong with the client's end of TLS. t may be nil.
func (t *ClientTLS) Validate(k Checker) {
	if t == nil {
		return
	}
	k.At("ca_file").file(t.CAFile)
	k.pair(t.CertificateFile, t.KeyFile)
}

// File checks that p, which may be empty, can be read, and holds what its key says.
func (k Checker) File(p Path) { k.file(p) }

// Pair checks a certificate_file and its key_file, which go together.
func (k Checker) Pair(certificate, key Path) { k.pair(certificate, key) }

func (k Checker) pair(certificate, key Path) {
	k.At("certificate_file").file(certificate)
	k.At("key_file").file(key)
	if (certificate == "") != (key == "") {
		k.At("certificate_file").Fail("and key_file go together: set both or neither")
	}
	k.keyPair(certificate, key)
}

var asymmetric = []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"}

func (c *Config) validateAgents(k Checker) {
	if len(c.Agents) == 0 {
		k.Fail("is required: name at least one issuer of access tokens, or nobody can act")
	}
	seen := map[string]bool{}
	for i := range c.Agents {
		a, k := &c.Agents[i], k.index(i)
		if seen[a.Issuer] {
			k.At("issuer").Fail("%s is named twice", a.Issuer)
		}
		seen[a.Issuer] = true
		if a.Kind == "mtls" {
			a.validateCertificates(k)
			continue
		}
		k.At("issuer").issuer(a.Issuer, a.Insecure)
		if len(a.Certificates) > 0 {
			k.At("certificates").Fail("is for kind mtls")
		}
		if len(a.Audience) == 0 || slices.Contains(a.Audience, "") {
			k.At("audience").Fail("is required: a token must be meant for this gateway, so name at least one audience")
		}
		k.At("algorithms").algorithms(a.Algorithms)
		k.At("kind").oneOf(a.Kind, "oauth", "entra", "kubernetes", "github", "spiffe", "mtls")
		if a.Kind == "entra" && len(a.Tenants) == 0 {
			k.At("tenants").Fail("is required for kind entra: name the tenant ids (tid) whose tokens are accepted")
		}
		if a.Skew.Std() > time.Minute {
			k.At("skew").Fail("is %v, and at most 60s is accepted", a.Skew.Std())
		}
		if a.PeopleClaim != "" && (c.People == nil || c.People.Claim == "") {
			k.At("people_claim").Fail("is %q, and people.claim, which must name the same person, is not set", a.PeopleClaim)
		}
		k.At("ca_file").file(a.CAFile)
		k.At("jwks_file").file(a.JWKSFile)
	}
}

// ofTokens are the keys of an issuer that say which tokens are accepted and how they are read. An issuer of kind mtls has no
// tokens, so there such a key would have no effect.
var ofTokens = []string{
	"audience", "algorithms", "types", "jwks_file", "insecure", "max_lifetime", "skew", "keys_max_age",
	"groups_claim", "roles_claim", "kind_claim", "people_claim", "name_claim",
}

// validateCertificates checks an issuer of kind mtls.
func (a *Agent) validateCertificates(k Checker) {
	if u, err := url.Parse(a.Issuer); k.At("issuer").Required(a.Issuer) && (err != nil || u.Scheme == "") {
		k.At("issuer").Fail("is %q: write spiffe://TRUST-DOMAIN, or a name with a scheme, such as urn:example:ca", withoutUser(a.Issuer))
	}
	if k.At("ca_file").Required(string(a.CAFile)) {
		k.At("ca_file").file(a.CAFile)
	}
	if len(a.Certificates) == 0 && !strings.HasPrefix(a.Issuer, "spiffe://") {
		k.At("certificates").Fail("is required where issuer is no spiffe://TRUST-DOMAIN: say which certificate is whose")
	}
	for subject, name := range a.Certificates {
		if subject == "" || name == "" {
			k.At("certificates").Fail("has %q for %q: write the subject of a certificate, and what its agent is called", name, subject)
		}
	}
	for _, name := range ofTokens {
		if k := k.At(name); k.d.lines[k.key] != 0 {
			k.Fail("is for tokens, and agents of kind mtls have certificates")
		}
	}
}

func (k Checker) issuer(issuer string, insecure bool) {
	if !k.Required(issuer) {
		return
	}
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
		k.Fail("is %q: write the issuer's exact URL, https://HOST[/PATH]", withoutUser(issuer))
		return
	}
	if u.Scheme == "http" && !loopback.Host(u.Hostname()) && !insecure {
		k.Fail("is %q, whose keys would come over plain http: use https, or set insecure: true beside it", issuer)
	}
}

func (k Checker) algorithms(list []string) {
	if len(list) == 0 {
		k.Fail("is empty: name at least one, or leave the key out for RS256 and ES256")
	}
	for i, a := range list {
		k.index(i).oneOf(a, asymmetric...)
	}
}

func (p *People) validate(k Checker) {
	k.At("issuer").issuer(p.Issuer, p.Insecure)
	k.At("client_id").Required(p.ClientID)
	k.At("kind").oneOf(p.Kind, "oauth", "entra")
	if len(p.Clients) == 0 || p.ClientID != "" && slices.Contains(p.Clients, "") {
		k.At("clients").Fail("names no client: name those whose tokens the API accepts, or leave the key out for people.client_id")
	}
	k.At("client_secret_file").file(p.ClientSecretFile)
	k.At("ca_file").file(p.CAFile)
	k.At("algorithms").algorithms(p.Algorithms)
	if p.Auditors != nil && len(p.Auditors) == 0 {
		k.At("auditors").Fail("names nobody: name groups, or subject:ID for a person, or leave the key out")
	}
	for i, name := range p.Auditors {
		k.At("auditors").index(i).auditor(name, slices.Contains(p.Auditors[:i], name))
	}
}

// auditor refuses what policy refuses as an approver, and what is no name, or not all that it seems to be.
func (k Checker) auditor(name string, again bool) {
	err := gate.CheckApprover(name)
	switch {
	case strings.TrimSpace(name) != name || name == "":
		k.Fail("is %q, which names nobody: name a group as the people's issuer writes it, or subject:ID", name)
	case err != nil:
		k.Fail("is %v", err)
	case name == "*":
		k.Fail("is \"*\", which is the name of a group and not everybody: name the groups of those who may see every operation")
	case again:
		k.Fail("is %q, which is there already", name)
	}
}

func (a *Approvals) validate(k Checker) {
	if a.Store != "embedded" {
		u, err := url.Parse(a.Store)
		if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" || u.Host == "" {
			k.At("store").Fail("is %q: use embedded, or redis://HOST:PORT/DB or rediss://HOST:PORT/DB", withoutUser(a.Store))
		} else if _, has := u.User.Password(); has {
			k.At("store").Fail("has a password in it: secrets are files, not configuration")
		} else if u.Scheme == "redis" && !a.Redis.Insecure && !loopbackHosts(u.Host) {
			k.At("store").Fail("is %q, which is plain text to another machine: use rediss, or set approvals.redis.insecure: true", withoutUser(a.Store))
		}
	}
	a.Redis.validate(k.At("redis"))
	for name, n := range map[string]int{"total": a.Limits.Total, "per_agent": a.Limits.PerAgent, "per_resource": a.Limits.PerResource, "rate": a.Limits.Rate} {
		if n < 1 || n > 1_000_000 {
			k.At("limits").At(name).Fail("is %d: use 1 to 1000000", n)
		}
	}
	if a.ConsoleURL != "" {
		k := k.At("console_url")
		k.issuer(a.ConsoleURL, true)
		switch u, err := url.Parse(a.ConsoleURL); {
		case err != nil: // reported by issuer
		case u.Path != "" && u.Path != "/":
			k.Fail("is %q: write https://HOST[:PORT], without a path", withoutUser(a.ConsoleURL))
		case u.Host != "" && !Address(net.JoinHostPort(u.Hostname(), "1")).namesHost():
			k.Fail("is %q, an address that nobody can open: write the one that approvers use", a.ConsoleURL)
		}
	}
	if a.Webhook != nil {
		a.Webhook.validate(k.At("webhook"))
	}
	if a.Hold.Std() > a.TTL.Std() {
		k.At("hold").Fail("is %v, longer than approvals.ttl, %v: a request would expire while it is held", a.Hold.Std(), a.TTL.Std())
	}
}

func (r *Redis) validate(k Checker) {
	k.At("password_file").file(r.PasswordFile)
	k.At("sentinel_password_file").file(r.SentinelPasswordFile)
	k.At("ca_file").file(r.CAFile)
	k.pair(r.CertificateFile, r.KeyFile)
}

// loopbackHosts reports whether all of HOST:PORT[,HOST:PORT…] are on this machine.
func loopbackHosts(list string) bool {
	for host := range strings.SplitSeq(list, ",") {
		if !Address(host).Loopback() {
			return false
		}
	}
	return true
}

func (w *Webhook) validate(k Checker) {
	if k.At("secret_file").Required(string(w.SecretFile)) {
		k.At("secret_file").file(w.SecretFile)
	}
	k.At("ca_file").file(w.CAFile)
	if k = k.At("url"); !k.Required(w.URL) {
		return
	}
	u, err := url.Parse(w.URL)
	switch {
	case err != nil || u.Hostname() == "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
		k.Fail("is %q: write https://HOST[:PORT][/PATH]", withoutUser(w.URL))
	case u.User != nil:
		k.Fail("has a user or password in it: the receiver knows the gateway by the signature")
	case u.Scheme == "http" && !loopback.Host(u.Hostname()) && !w.Insecure:
		k.Fail("is %q, which is plain http to another machine: use https, or set insecure: true beside it", w.URL)
	}
}

func (e *Evidence) validate(k Checker) {
	if e.Heartbeat.Std() < time.Second/10 || e.Heartbeat.Std() > time.Hour {
		k.At("heartbeat").Fail("is %v: use 100ms to 1h", e.Heartbeat.Std())
	}
	if e.Checkpoint.Std() < time.Second/10 || e.Checkpoint.Std() > time.Hour {
		k.At("checkpoint").Fail("is %v: use 100ms to 1h", e.Checkpoint.Std())
	}
	if e.Segment < 4<<10 {
		k.At("segment").Fail("is %d bytes: use at least 4KiB", e.Segment)
	}
	if e.OTLP == nil {
		return
	}
	o, k := e.OTLP, k.At("otlp")
	if !k.At("endpoint").Required(o.Endpoint) {
		return
	}
	if strings.Contains(o.Endpoint, "://") {
		k.At("endpoint").Fail("is %q: write HOST:PORT, without a scheme; TLS is used unless insecure: true", o.Endpoint)
		return
	}
	k.At("endpoint").address(Address(o.Endpoint))
	k.At("ca_file").file(o.CAFile)
	k.pair(o.CertificateFile, o.KeyFile)
	if o.Insecure && !Address(o.Endpoint).Loopback() && !o.InsecureNetwork {
		k.At("insecure").Fail("is true, and %s is not on loopback: use TLS, or set insecure_network: true beside it", o.Endpoint)
	}
	if o.Insecure && (o.CAFile != "" || o.CertificateFile != "") {
		k.At("insecure").Fail("is true beside TLS files: remove the one or the others")
	}
	for name, file := range o.HeaderFiles {
		k.At("header_files." + name).file(resolvePath(k.d.dir, file))
		o.HeaderFiles[name] = string(resolvePath(k.d.dir, file))
	}
}

func (e *Envoy) validate(k Checker) {
	k.At("path").file(e.Path)
	if e.Concurrency < 0 || e.Concurrency > 1024 {
		k.At("concurrency").Fail("is %d: use 0 to 1024", e.Concurrency)
	}
	k.At("log_level").oneOf(e.LogLevel, "trace", "debug", "info", "warning", "warn", "error", "critical", "off")
	k.At("admin").address(e.Admin)
	if !e.Admin.Loopback() {
		k.At("admin").Fail("is %s: Envoy's admin interface can change and stop it, so only loopback or unix:PATH is accepted", e.Admin)
	}
	for i, f := range e.Files {
		k.At("files").index(i).file(f)
	}
}
