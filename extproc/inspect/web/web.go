// Package web reads HTTP requests: header fields and body chunks in, one [Request] out. It does no I/O. It describes a
// request that all servers read alike, and refuses any other with an [Error] that says what to change.
//
// # What is judged is what is forwarded
//
// The request goes to the target byte for byte as it came, without the header fields that [Inspector.Remove] lists. So
// everything that two servers could read differently is refused, not tidied: a path that is not in its plain form, a method
// override, two Content-Types, JSON with a name twice, JSON after a byte order mark. A resource can accept forms of path that
// its target needs, one by one ([Options.Paths]).
//
// An upgrade or a tunnel that the resource accepts is judged by its head alone. Only a GET without a body can ask for a
// websocket (RFC 6455, section 4.1): otherwise an agent could hide a JSON body from policy by asking for an upgrade that the
// target ignores.
//
// A body is parsed as JSON if its type says so or if it looks like JSON: otherwise an agent could hide JSON from policy by
// calling it text/plain or a form, which many targets would read all the same. Several values are read if the type says so
// (NDJSON, JSON text sequences), and as application/json at the paths at which Elasticsearch takes them (several.go). A body
// without a Content-Type is also read as a form, as Rack does. Names of parameters that a framework would change are refused,
// and so are two names that a framework takes for one (names.go).
//
// Multipart is read one level deep (multipart.go): policy sees each part's name, file name, type, size and SHA-256, the values
// of fields, and small text files. The parts' names are names of parameters. Other bodies (XML, bytes) are not read: policy
// sees their Content-Type, length and SHA-256, and has to rule on those.
//
// A compressed body is decoded to be read (coded.go), and goes on as it came. The input has the length and SHA-256 of both
// forms. A target may ignore Content-Encoding, so a body is refused whose compressed bytes can be read as something, and one
// that decoders could read differently.
//
// JSON is refused if readers differ on it: two names that differ only in case (one name to Go's encoding/json and ASP.NET), and
// numbers that a double cannot hold exactly, unless the resource says that its target reads numbers exactly.
//
// # What it costs
//
// JSON becomes no tree: it is checked and written in canonical form in one pass, and kept as that text. Reading allocates 3 to
// 6 times the body; twice its size stays until it is judged, whatever it holds (as a tree, a MiB of `[0,0,…]` took 38 MiB). The
// canonical input has it once more. Only policy makes values of it, of 16 to 200 bytes each, for as many bodies at a time as
// there are processors; [Options.MaxValues] bounds their number. 120 bodies of 850 KB of small objects at once took at most 5.8
// times their size in all, and 40 ms of a processor each, for reading and policy.
//
// # What policy sees
//
// [Request.Object] has the exact request-target and the SHA-256 of the exact body beside what was parsed, so that the digest
// of an operation binds every byte, the order of query parameters included. Policy sees every header field that the target
// gets. Fields that may differ between two attempts at the same operation are in [Request.Volatile] and not in the digest:
// trace context, request ids, what the resource names, and fields that repeat a member of Object (X-Forwarded-Proto is the
// scheme, the Content-Length of a body that was read is body_bytes). All others are in Object, the protocol of an upgrade
// among them, as "upgrade" (HTTP/1.1) or ":protocol" (HTTP/2). Fields that are removed are in neither, nor are Connection and
// Transfer-Encoding, which Envoy handles itself.
//
// # For whom, and how
//
// Fields that say for whom a request is made, or carry a credential, are removed ([Identity]): the target would obey them with
// the gateway's own credential. A resource can let such a field pass; then it is judged and bound. How a client connected is
// what Envoy says in X-Forwarded-Proto; a request whose :scheme differs is refused.
package web

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/coding"
)

// Field is one header field. Its name is in lower case. Lists of fields keep the order in which they came.
type Field struct {
	Name, Value string
}

// Error refuses a request.
type Error struct {
	Problem gate.Problem // Unreadable, TooLarge or Denied
	Detail  string       // says what to change
}

func (e *Error) Error() string { return e.Detail }

func unreadable(format string, args ...any) error {
	return &Error{gate.Unreadable, fmt.Sprintf(format, args...)}
}

// Options are a resource's own choices.
type Options struct {
	MaxBody  int64    // most bytes of body; ignored if Stream is true
	Stream   bool     // the body is not held, only counted as it passes
	Paths    []string // accepted forms of path: "encoded-slash", "dot-segments", "double-slash", "backslash", "parameters"
	Upgrades []string // accepted upgrades: "websocket", "connect"
	Volatile []string // more fields that may differ between two attempts: names, prefixes such as "x-trace-*", [SDK]; see CheckVolatile
	Identity []string // fields of [Identity] that pass here, and are judged; see CheckOpened
	Cookies  bool     // Cookie passes, and is judged
	Methods  []string // methods that are accepted beside those of a built-in list; see CheckMethod

	// MaxValues is how many values a body may have: JSON values (a list or an object counts as one, beside its own values),
	// pairs of a form, and parts. 0 means DefaultValues.
	MaxValues int

	// ExactNumbers accepts JSON numbers that a double does not give back, because the target reads them exactly.
	ExactNumbers bool
}

func (o *Options) maxValues() int { return cmp.Or(o.MaxValues, DefaultValues) }

// Request is an HTTP request that all servers read alike.
type Request struct {
	Method    string
	Scheme    string // as Envoy knows it
	Host      string // lower case, without the port and without a dot at the end
	Authority string // the Host header field or :authority as it came, port included
	Target    string // the request-target (RFC 9112, section 3.2) as it came: path and query, undecoded
	Path      string // the path as it came, without the query
	Segments  []string
	Query     gate.Object // decoded name -> list of decoded values
	Headers   gate.Object // name -> list of values; without VolatileHeaders
	Trailers  gate.Object // name -> list of values
	Body      gate.Raw    // the body in canonical form; empty if JSON is false
	JSON      bool        // the body was JSON
	Bodies    gate.Raw    // the list of the values of a body of several, in canonical form; empty for other bodies
	Form      gate.Object // decoded name -> list of decoded values, of a form body
	Multipart []any       // a gate.Object for each part of a multipart body; nil for other bodies

	BodySHA256 string // of the body as it came, in hex; empty if there is none or it is streamed
	BodyBytes  int64  // of the body as it came

	DecodedSHA256 string // of a compressed body once it is decoded; empty for other bodies
	DecodedBytes  int64

	BodyStreamed bool

	VolatileHeaders gate.Object // name -> list of values; see Volatile
	Approval        string      // id of the request for approval that the agent names, or ""; not judged
}

// HasField reports whether the body is a form with a field of this name.
func (r *Request) HasField(name string) bool {
	_, in := r.Form.Get(name)
	return in || slices.ContainsFunc(r.Multipart, func(p any) bool {
		part, _ := p.(gate.Object)
		own, _ := part.Get("name")
		return own == name
	})
}

// Key is "http".
func (r *Request) Key() string { return "http" }

// Object is the request as policy sees it: input.http. A body that is not JSON is left out, so that `input.http.body` is
// undefined; it is null only if null was sent.
func (r *Request) Object() gate.Object {
	o := append(make(gate.Object, 0, 16), gate.Member{Name: "authority", Value: r.Authority})
	if r.Bodies != "" {
		o = append(o, gate.Member{Name: "bodies", Value: r.Bodies})
	}
	if r.JSON {
		o = append(o, gate.Member{Name: "body", Value: r.Body})
	}
	o = append(o, gate.Member{Name: "body_bytes", Value: r.BodyBytes})
	if r.DecodedSHA256 != "" {
		o = append(o,
			gate.Member{Name: "body_decoded_bytes", Value: r.DecodedBytes},
			gate.Member{Name: "body_decoded_sha256", Value: r.DecodedSHA256},
		)
	}
	o = append(o,
		gate.Member{Name: "body_sha256", Value: r.BodySHA256},
		gate.Member{Name: "body_streamed", Value: r.BodyStreamed},
		gate.Member{Name: "form", Value: r.Form},
		gate.Member{Name: "headers", Value: r.Headers},
		gate.Member{Name: "host", Value: r.Host},
		gate.Member{Name: "method", Value: r.Method},
	)
	if r.Multipart != nil {
		o = append(o, gate.Member{Name: "multipart", Value: r.Multipart})
	}
	return append(o,
		gate.Member{Name: "path", Value: r.Path},
		gate.Member{Name: "query", Value: r.Query},
		gate.Member{Name: "request_target", Value: r.Target},
		gate.Member{Name: "scheme", Value: r.Scheme},
		gate.Member{Name: "segments", Value: r.Segments},
		gate.Member{Name: "trailers", Value: r.Trailers},
	)
}

// Inspector reads one request. Call Head, then Write for each piece of the body, then Trailers if there are any, then
// Request. Its first error is final.
type Inspector struct {
	opt       Options
	request   Request
	begun     bool // Head was called
	tunnel    bool // the request asks to pass bytes of another protocol, which the resource accepts
	kind      bodyKind
	plainJSON bool   // its Content-Type is application/json
	framed    bool   // its Content-Type is gRPC's
	isForm    bool   // its Content-Type is multipart/form-data
	length    int64  // Content-Length; -1 if there is none
	body      []byte // decoded, once Decode was called
	values    int    // read of the body so far

	coding coding.Coding // of a compressed body
	sent   []byte        // a compressed body as it came, once it is decoded
	weight int64         // see Weight, of a body that is decoded

	boundary string // of a multipart body
	remove   []string
	err      error
}

// New returns an inspector for one request.
func New(opt Options) *Inspector { return &Inspector{opt: opt, length: -1} }

// Seen returns what is known of the request so far, for records. Only what [Inspector.Request] returns may be judged.
func (i *Inspector) Seen() *Request { return &i.request }

// Remove lists the header fields that must not reach the target.
func (i *Inspector) Remove() []string { return i.remove }

// Streams reports whether the body passes unread, so that the head can be judged at once: because the resource says so, or
// because the request opens an upgraded connection or a tunnel, whose bytes end only when it closes.
func (i *Inspector) Streams() bool { return i.opt.Stream || i.tunnel }

// Body is the body as it came, all of it once Request has returned. It is nil for one that streams.
func (i *Inspector) Body() []byte {
	if i.sent != nil {
		return i.sent
	}
	return i.body
}

// Head reads the pseudo-header and header fields.
func (i *Inspector) Head(fields []Field) error {
	if i.err == nil {
		i.err = i.head(fields)
	}
	return i.err
}

// Write takes the next piece of the body. It copies what it keeps.
func (i *Inspector) Write(chunk []byte) error {
	if i.admit(chunk) {
		i.keep(chunk)
	}
	return i.err
}

// Take is Write for a body that comes whole. It keeps body without a copy, so the caller must not use it again.
func (i *Inspector) Take(body []byte) error {
	if i.admit(body) {
		i.body = body
	}
	return i.err
}

// admit counts a piece and reports whether it is to be kept.
func (i *Inspector) admit(chunk []byte) bool {
	if i.err != nil || len(chunk) == 0 {
		return false
	}
	i.request.BodyBytes += int64(len(chunk))
	if i.Streams() {
		return false
	}
	if i.request.BodyBytes > i.opt.MaxBody {
		i.err = &Error{gate.TooLarge, fmt.Sprintf("The request's body is larger than the %d bytes that this resource accepts. Send less at a time.", i.opt.MaxBody)}
		return false
	}
	return true
}

// Trailers reads the trailer fields.
func (i *Inspector) Trailers(fields []Field) error {
	if i.err != nil {
		return i.err
	}
	grouped := newGroups(len(fields))
	for _, f := range fields {
		if i.err = checkField(f); i.err != nil {
			return i.err
		}
		if oddName(f.Name) || singular[f.Name] || Identity(f.Name) || framing[f.Name] || overridesRequest(f.Name) {
			i.err = unreadable("The request has a trailer field %q, which is not accepted after the body. Send it as a header field, or not at all.", f.Name)
			return i.err
		}
		grouped.add(f.Name, f.Value)
	}
	i.request.Trailers = grouped.object()
	return nil
}

// Request returns the whole request once the last piece of it was given.
func (i *Inspector) Request() (*Request, error) {
	r := &i.request
	switch {
	case i.err != nil:
		return nil, i.err
	case !i.begun:
		i.err = unreadable("The request has no head.")
		return nil, i.err
	case i.Streams():
		r.BodyStreamed = true
		return r, nil
	case i.length >= 0 && i.length != r.BodyBytes:
		i.err = unreadable("The request's Content-Length is %d, and %d bytes of body came.", i.length, r.BodyBytes)
		return nil, i.err
	}
	if i.Decode() != nil {
		return nil, i.err
	}
	if sent := i.Body(); len(sent) > 0 {
		sum := sha256.Sum256(sent)
		r.BodySHA256 = hex.EncodeToString(sum[:])
	}
	if i.err = i.readBody(); i.err != nil {
		return nil, i.err
	}
	if i.sent != nil {
		i.body = nil // what was read of it is in r
	}
	return r, nil
}
