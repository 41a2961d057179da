package config

import (
	"cmp"
	_ "embed"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/loopback"
	"github.com/countersign/countersign/extproc/redact"
)

//go:embed http.go
var httpSource string

// KindHTTP is the kind http.
var KindHTTP = Kind{Name: "http", New: func() Resource { return &HTTP{} }, Source: httpSource}

// HTTP is a resource of kind http: an API.
type HTTP struct {
	Base `yaml:",inline"`

	// Target is where they go: "https://HOST[:PORT]" or, on loopback, "http://HOST[:PORT]". Required.
	Target string `yaml:"target"`

	TargetTLS      *ClientTLS `yaml:"target_tls"`      // for an https target.
	TargetInsecure bool       `yaml:"target_insecure"` // accept a plain-http target that is not on loopback.
	TargetHTTP2    bool       `yaml:"target_http2"`    // speak HTTP/2 to the target. HTTP/1.1 by default.

	// Credential is what the target wants to see. The agent's own token never reaches it.
	Credential *Credential `yaml:"credential"`

	// Limits bound what is held and read.
	Limits Limits `yaml:"limits"`

	// Attach is how Envoy calls this service: "ext_proc" (the default) or "ext_authz", which sees no answer, so that a
	// ruling that redacts is refused.
	Attach string `yaml:"attach"`

	// Body is "inspect" (the default: the whole request is seen before policy rules) or "stream": policy rules on the head
	// alone, and the body passes, counted and hashed; input.http.body_streamed is then true.
	Body string `yaml:"body"`

	// Response is "inspect" (the default: answers are counted, hashed, and redacted where policy says so) or "pass":
	// answers do not come by here, so that a ruling that redacts is refused; their size and status come from Envoy.
	Response string `yaml:"response"`

	// Cookies is what becomes of the target's cookies: "remove" (the default: no Set-Cookie reaches the agent, and no Cookie of
	// the agent's the target), "pass" (both pass as they are; policy sees the Cookie, and an approval is bound to it) or "session":
	// a cookie reaches the agent sealed, so that it can send it back and neither read it nor use it elsewhere, and what another
	// agent or gateway was given is refused. "session" needs answers to come by, so neither attach: ext_authz nor response: pass.
	Cookies string `yaml:"cookies"`

	// ResponseHeaders are fields of answers that pass beside those of a shipped list where an answer is redacted: names, and
	// prefixes as "x-page-*". Where a value that was taken out of the body stands in one, and in answers that are passed on
	// before they are whole (over 64 KiB, slow, or event streams), it is removed. Fields that tell of the body before redaction
	// (etag, content-length, digests, …) cannot be named. None by default.
	ResponseHeaders []string `yaml:"response_headers"`

	// RewriteURLs turns the target's own URLs in header fields of answers (Location, Content-Location, Link, Refresh,
	// Operation-Location, Azure-AsyncOperation) into those by which the agent came, so that it stays on the gateway when it
	// follows them; Alt-Svc, which leads elsewhere in any case, is removed. URLs of other hosts and relative ones stay. True by
	// default, but for attach: ext_authz and response: pass, where answers do not come by here and it cannot be: Envoy by
	// itself does not change a part of what a field says.
	RewriteURLs *bool `yaml:"rewrite_urls"`

	// Rewrite is the same for answers of JSON, and of events whose data is JSON: the paths of strings that are URLs, as ["$.next",
	// "$..url"], in the form that redact takes. Strings that are not a URL of the target and nothing else stay. Such an answer has
	// no ETag, digest or Content-Length. One that cannot be read (invalid, compressed, a part), or an event of one, passes as it
	// came, and its record says so, unless policy redacts it. None by default; it needs answers to come by here.
	Rewrite []string `yaml:"rewrite"`

	// Upgrades that are let through, once allowed by policy: "websocket", "connect". None by default. What passes in an
	// upgraded connection is not seen.
	Upgrades []string `yaml:"upgrades"`

	// Methods are methods that are accepted beside those of the IANA registry and some that are in wide use without being in it
	// (LIST, PURGE, M-SEARCH, NOTIFY, SUBSCRIBE, UNSUBSCRIBE, SOURCE): policy judges all by input.http.method. Any other is
	// refused. None by default. Envoy files of your own need allow_custom_methods in http_protocol_options for LIST
	// and these over HTTP/1.1.
	Methods []string `yaml:"methods"`

	// Numbers is how the target reads JSON numbers: "double" (the default: those that a double does not give back, like
	// 9007199254740993, are refused, because most targets round them and policy does not) or "exact": they are accepted.
	Numbers string `yaml:"numbers"`

	// Paths are forms of path that are ambiguous between servers, and accepted here because this target is known to need
	// them: "encoded-slash", "dot-segments", "double-slash", "backslash", "parameters". None by default.
	Paths []string `yaml:"paths"`

	// VolatileHeaders are header fields that may differ between two attempts at the same operation, besides trace context and
	// request ids: policy sees them, and approvals do not bind them. Names, prefixes such as "x-trace-*", and "sdk" for what
	// client libraries and tracing agents add by themselves (sentry-trace, x-datadog-*, newrelic, elastic-apm-traceparent,
	// x-ms-client-request-id, amz-sdk-*, x-stainless-* and the like). None by default.
	VolatileHeaders []string `yaml:"volatile_headers"`

	// IdentityHeaders are header fields that this target's agents may send although they say for whom a request is made or
	// carry a credential (Sudo, X-Scope-OrgID, X-Api-Key): policy judges them and approvals bind them. All others of that kind
	// are removed. Authorization, Cookie and their like cannot be named. None by default.
	IdentityHeaders []string `yaml:"identity_headers"`

	// Timeout bounds the whole of a request at the target. None by default: streams may be long.
	Timeout Duration `yaml:"timeout"`

	// EndWithToken ends what is still under way when the agent's token expires or is revoked, and breaks it off: an event stream, a
	// watch, a download, a request that takes long to come, an upgraded connection. It needs answers to come by, so neither attach:
	// ext_authz nor response: pass. Not so by default: what was allowed goes on to its end, as with most servers.
	EndWithToken bool `yaml:"end_with_token"`
}

// Credential is a header field that the gateway adds to requests to the target.
type Credential struct {
	Header    string `yaml:"header"`     // its name. "Authorization" by default.
	ValueFile Path   `yaml:"value_file"` // holds its whole value; read again when it changes. Required.
}

// Limits bound what is held and read. A request past one is refused, an answer past one is withheld.
type Limits struct {
	RequestBody  Size `yaml:"request_body"`  // as it is sent and, of a compressed one, without its coding. 1MiB by default.
	ResponseBody Size `yaml:"response_body"` // 64MiB for answers that are redacted, and no limit for others, by default.
	Headers      Size `yaml:"headers"`       // of a request or an answer. 60KiB by default; 1MiB at most.

	// Values is how many values a request's body may have, where it is inspected: JSON values, a list or an object being one
	// beside those within it, pairs of a form, and parts of multipart. 100000 by default; 10000000 at most. While policy looks at it, a value
	// takes up to 200 bytes.
	Values int `yaml:"values"`

	// RequestTime is how long a request may take to arrive whole, where its body is inspected: what came of it is held
	// until then. 60s by default; 10m at most.
	RequestTime Duration `yaml:"request_time"`
}

// Defaults of a resource of kind http.
const (
	DefaultRequestBody  = 1 << 20
	DefaultResponseBody = 64 << 20
	DefaultHeaders      = 60 << 10
	DefaultValues       = 100_000
	DefaultRequestTime  = time.Minute
)

// PassesAnswers reports whether answers go from the target to the agent without passing through this service.
func (r *HTTP) PassesAnswers() bool { return r.Attach == "ext_authz" || r.Response == "pass" }

// PlainTarget returns target_insecure.
func (r *HTTP) PlainTarget() bool { return r.TargetInsecure }

// SetDefaults sets the keys that the file leaves out to their defaults.
func (r *HTTP) SetDefaults() {
	r.Base.SetDefaults()
	r.Attach = cmp.Or(r.Attach, "ext_proc")
	r.Body = cmp.Or(r.Body, "inspect")
	r.Response = cmp.Or(r.Response, "inspect")
	r.Cookies = cmp.Or(r.Cookies, "remove")
	if r.RewriteURLs == nil {
		r.RewriteURLs = new(!r.PassesAnswers())
	}
	r.Numbers = cmp.Or(r.Numbers, "double")
	r.Limits.RequestBody = cmp.Or(r.Limits.RequestBody, Size(DefaultRequestBody))
	r.Limits.Headers = cmp.Or(r.Limits.Headers, Size(DefaultHeaders))
	r.Limits.Values = cmp.Or(r.Limits.Values, DefaultValues)
	r.Limits.RequestTime = cmp.Or(r.Limits.RequestTime, Duration(DefaultRequestTime))
	if r.Credential != nil {
		r.Credential.Header = cmp.Or(r.Credential.Header, "Authorization")
	}
	for _, list := range [][]string{r.VolatileHeaders, r.IdentityHeaders} {
		for i, name := range list {
			list[i] = strings.ToLower(name)
		}
	}
}

// Validate reports what is wrong with the resource.
func (r *HTTP) Validate(k Checker) {
	r.Base.Validate(k)
	k.At("target").target(r)
	r.TargetTLS.Validate(k.At("target_tls"))
	if r.TargetTLS != nil && strings.HasPrefix(r.Target, "http://") {
		k.At("target_tls").Fail("is set, and the target is plain http")
	}
	if cr := r.Credential; cr != nil {
		if !headerName.MatchString(cr.Header) {
			k.At("credential.header").Fail("is %q, which is not a header's name", cr.Header)
		}
		if k.At("credential.value_file").Required(string(cr.ValueFile)) {
			k.At("credential.value_file").file(cr.ValueFile)
		}
	}
	k.At("attach").oneOf(r.Attach, "ext_proc", "ext_authz")
	k.At("body").oneOf(r.Body, "inspect", "stream")
	k.At("response").oneOf(r.Response, "inspect", "pass")
	if r.EndWithToken && r.PassesAnswers() {
		k.At("end_with_token").Fail("is true, and answers of this resource do not come by here, so that nothing can end them: leave it out, or use attach: ext_proc and response: inspect")
	}
	k.At("cookies").oneOf(r.Cookies, "remove", "pass", "session")
	if r.Cookies == "session" && r.PassesAnswers() {
		k.At("cookies").Fail("is session, and answers of this resource do not come by here, so that its cookies cannot be sealed: use remove or pass, or attach: ext_proc and response: inspect")
	}
	r.validateRewrite(k)
	k.At("numbers").oneOf(r.Numbers, "double", "exact")
	for i, name := range r.ResponseHeaders {
		r.ResponseHeaders[i] = strings.ToLower(name)
		if err := web.CheckAdded(r.ResponseHeaders[i]); err != nil {
			k.At("response_headers").index(i).Fail("%v", err)
		}
	}
	for i, u := range r.Upgrades {
		k.At("upgrades").index(i).oneOf(u, "websocket", "connect")
	}
	for i, m := range r.Methods {
		if err := web.CheckMethod(m); err != nil {
			k.At("methods").index(i).Fail("%v", err)
		}
	}
	for i, p := range r.Paths {
		k.At("paths").index(i).oneOf(p, pathForms...)
	}
	r.validateHeaders(k)
	if r.Limits.Headers < 1<<10 || r.Limits.Headers > 1<<20 {
		k.At("limits.headers").Fail("is %d bytes: use 1KiB to 1MiB", r.Limits.Headers)
	}
	if r.Limits.Values < 1 || r.Limits.Values > 10_000_000 {
		k.At("limits.values").Fail("is %d: use 1 to 10000000", r.Limits.Values)
	}
	if d := r.Limits.RequestTime.Std(); d < time.Second || d > 10*time.Minute {
		k.At("limits.request_time").Fail("is %v: use 1s to 10m, and body: stream for requests that take longer", d)
	}
	if r.Limits.RequestBody > 1<<30 {
		k.At("limits.request_body").Fail("is %d bytes, and at most 1GiB is accepted: use body: stream for larger ones", r.Limits.RequestBody)
	}
}

func (r *HTTP) validateRewrite(k Checker) {
	const how = ", and answers of this resource do not come by here, so that nothing in them can be rewritten: leave it out, or use attach: ext_proc and response: inspect"
	if *r.RewriteURLs && r.PassesAnswers() {
		k.At("rewrite_urls").Fail("is true" + how)
	}
	if len(r.Rewrite) > 0 && r.PassesAnswers() {
		k.At("rewrite").Fail("is set" + how)
	}
	for i, path := range r.Rewrite {
		if err := redact.CheckTurned(path); err != nil {
			k.At("rewrite").index(i).Fail("is not a path: %v", err)
		} else if slices.Contains(r.Rewrite[:i], path) {
			k.At("rewrite").index(i).Fail("%q is named twice", path)
		}
	}
}

func (r *HTTP) validateHeaders(k Checker) {
	own := ""
	if r.Credential != nil {
		own = strings.ToLower(r.Credential.Header)
	}
	for i, name := range r.VolatileHeaders {
		k := k.At("volatile_headers").index(i)
		prefix, isPrefix := strings.CutSuffix(name, "*")
		switch err := web.CheckVolatile(name); {
		case err != nil:
			k.Fail("%v", err)
		case own != "" && (name == own || isPrefix && strings.HasPrefix(own, prefix)):
			k.Fail("is %q, and credential.header is %q, which no agent's request has", name, own)
		case slices.Contains(r.IdentityHeaders, name):
			k.Fail("is %q, which identity_headers lets pass: an approval has to bind it", name)
		}
	}
	for i, name := range r.IdentityHeaders {
		k := k.At("identity_headers").index(i)
		if err := web.CheckOpened(name); err != nil {
			k.Fail("%v", err)
		} else if name == own {
			k.Fail("is %q, which credential.header sets for this target", name)
		}
	}
}

// pathForms are the ambiguous forms of path that a resource can accept.
var pathForms = []string{"encoded-slash", "dot-segments", "double-slash", "backslash", "parameters"}

func (k Checker) target(r *HTTP) {
	if !k.Required(r.Target) {
		return
	}
	u, err := url.Parse(r.Target)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		k.Fail("is %q: write https://HOST[:PORT]", withoutUser(r.Target))
	case u.User != nil:
		k.Fail("has a user or password in it: use credential.value_file")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		k.Fail("is %q: write the host only, without a path", r.Target)
	case !targetHost.MatchString(u.Hostname()):
		k.Fail("has the host %q, which is not a name or an IP address", u.Hostname())
	case u.Port() != "" && !isPort(u.Port()):
		k.Fail("has the port %q: use a number from 1 to 65535", u.Port())
	case u.Scheme == "http" && !loopback.Host(u.Hostname()) && !r.TargetInsecure:
		k.Fail("is %q, which is plain http to another machine: use https, or set target_insecure: true beside it", r.Target)
	}
}

// TargetAddress returns the host and port of the target, and whether it is reached over TLS.
func (r *HTTP) TargetAddress() (host string, port uint32, tls bool, err error) {
	u, err := url.Parse(r.Target)
	if err != nil {
		return "", 0, false, fmt.Errorf("parse target %q: %w", r.Target, err)
	}
	tls = u.Scheme == "https"
	text := u.Port()
	if text == "" {
		text = map[bool]string{true: "443", false: "80"}[tls]
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, false, fmt.Errorf("parse the port of target %q: %w", r.Target, err)
	}
	return u.Hostname(), uint32(n), tls, nil
}
