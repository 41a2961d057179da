// Package web reads HTTP requests: header fields and body chunks in, one [Request] out. It does no I/O and holds no
// opinion: what it can read without doubt it describes, and the rest it refuses with an [Error] that says what to change.
//
// # What is judged is what is forwarded
//
// The request goes to the target byte for byte as it came, less the header fields that [Inspector.Head] lists for
// removal, so everything that two servers could read in two ways is refused here rather than tidied: a path that is not
// in its plain form, a method override, two Content-Types, JSON with a name twice, JSON behind a byte order mark. Forms of
// path that a target is known to need can be accepted, one by one ([Options.Paths]).
//
// An upgrade or a tunnel that the resource accepts is judged by its head alone, so nothing else may pass as one: only a GET
// without a body asks for a websocket (RFC 6455, section 4.1). Otherwise an agent could hide a JSON body from policy by
// asking for an upgrade that the target ignores.
//
// A body is parsed as JSON where it says that it is, and also where it does not say so but looks like it: otherwise an
// agent could hide a JSON body from policy by calling it text/plain or a form, and many targets would read it all the same.
// Several values (NDJSON, JSON text sequences) are read where the type says so, and lines of them as application/json too
// where Elasticsearch takes them so (several.go). A body without a Content-Type is read as a form too, as Rack does. The names of parameters are held to what frameworks
// make of them (names.go): one that is another name to one of them is refused, and so are two that are one.
//
// Multipart is looked into one level deep (multipart.go): policy sees each part's name, file name, type, size and SHA-256, the
// values of fields, and files that are small and text. The parts' names are parameters like others. A body that is none of
// these (XML, bytes) is not looked into: policy sees its Content-Type, its length and its SHA-256, and has to rule on those.
//
// A compressed body is read without its coding (coded.go), and goes on as it came. Both have their length and SHA-256 in the
// input. It is read by the target too, which may take no notice of Content-Encoding, so it is refused where it says anything as it
// is sent, and where decoders could differ.
//
// In JSON, what most readers agree on is accepted: names that are one only where case is ignored (Go's encoding/json,
// ASP.NET) are refused, and numbers that a double does not give back, unless the resource says that its target is exact.
//
// # What it costs
//
// JSON is not made a tree of: it is checked and written in canonical form in one go, and kept as that text. Reading allocates
// 3 to 6 times the body, of which twice its size stays until it is judged, whatever is in it (as a tree, a MiB of `[0,0,…]` took
// 38 MiB). The canonical input has it once more. Only policy makes values of it, 16 to 200 bytes for each, for as many bodies at
// a time as there are processors; [Options.MaxValues] bounds that. 120 bodies of 850 KB of small objects at once took 5.8
// times their size at the most, all in all, and 40 ms of a processor for each, reading and policy.
//
// # What policy sees
//
// [Request.Object] has the exact request-target and the SHA-256 of the exact body beside what was parsed of them, so that
// the digest of an operation binds every byte, the order of query parameters included. Policy sees every header field that
// the target gets. Those that may differ between two attempts at the same operation are in [Request.Volatile], beside the
// digest: trace context, request ids, what the resource names, and what a bound member says too (X-Forwarded-Proto is the
// scheme, the Content-Length of a body that was seen is body_bytes). All others are in Object. In neither are those that are
// removed, and Connection and Transfer-Encoding, which Envoy answers for itself. A protocol that is upgraded to stands among
// them, as "upgrade" (HTTP/1.1) or ":protocol" (HTTP/2).
//
// # For whom, and how
//
// What says for whom a request is made, or carries a credential, is removed ([Identity]), known by its name or by its shape:
// the target would act on it with the gateway's own credential. A resource can open such a field; then it is judged and bound.
// How a request came is Envoy's word, X-Forwarded-Proto; a scheme that says another is refused.
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

// Field is one header field, its name in lower case. Fields stand in the order in which they came.
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
	MaxBody  int64    // bytes of body that are held; 0 holds none. Ignored where Stream is true.
	Stream   bool     // the body is not held: it is counted and hashed as it passes
	Paths    []string // accepted forms of path: "encoded-slash", "dot-segments", "double-slash", "backslash", "parameters"
	Upgrades []string // accepted upgrades: "websocket", "connect"
	Volatile []string // more fields that may differ between two attempts: names, prefixes such as "x-trace-*", [SDK]; see CheckVolatile
	Identity []string // fields of [Identity] that pass here, and are judged; see CheckOpened
	Cookies  bool     // Cookie passes, and is judged
	Methods  []string // methods that are taken beside those of a shipped list; see CheckMethod

	// MaxValues is how many values a body may have: JSON values, a list or an object being one beside those within it, and
	// pairs of a form, and parts. DefaultValues where it is 0.
	MaxValues int

	// ExactNumbers accepts JSON numbers that a double does not give back, because the target reads them exactly.
	ExactNumbers bool
}

func (o *Options) maxValues() int { return cmp.Or(o.MaxValues, DefaultValues) }

// Request is an HTTP request that was read without doubt.
type Request struct {
	Method    string
	Scheme    string // as Envoy knows it: a client that says another is refused
	Host      string // lower case, without the port and without a dot at the end
	Authority string // the Host header field or :authority as it came, port included
	Target    string // the request-target (RFC 9112, section 3.2) as it came: path and query, undecoded
	Path      string // the path as it came, without the query
	Segments  []string
	Query     gate.Object // decoded name -> list of decoded values
	Headers   gate.Object // name -> list of values; less VolatileHeaders
	Trailers  gate.Object // name -> list of values
	Body      gate.Raw    // the body in canonical form; empty where JSON is false
	JSON      bool        // the body was JSON
	Bodies    gate.Raw    // the list of the values of a body of several, in canonical form; empty where it is none
	Form      gate.Object // decoded name -> list of decoded values, of a form body
	Multipart []any       // a gate.Object for each part of a multipart body; nil where it is none

	BodySHA256 string // of the body as it came, in hex; empty where it is streamed or there is none
	BodyBytes  int64  // of the body as it came

	DecodedSHA256 string // of a compressed body, without its coding; empty where it is none
	DecodedBytes  int64

	BodyStreamed bool

	VolatileHeaders gate.Object // name -> list of values; see Volatile
	Approval        string      // id of the request for approval that the agent names; empty where it names none. Not judged.
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
// undefined; where it is null, null was sent.
func (r *Request) Object() gate.Object {
	o := append(make(gate.Object, 0, 16), gate.Member{Name: "authority", Value: r.Authority})
	if r.Bodies != "" {
		o = append(o, gate.Member{Name: "bodies", Value: r.Bodies})
	}
	if r.JSON {
		o = append(o, gate.Member{Name: "body", Value: r.Body})
	}
	o = append(o,
		gate.Member{Name: "body_bytes", Value: r.BodyBytes},
	)
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
	plainJSON bool   // says that it is application/json
	framed    bool   // says that it is gRPC
	isForm    bool   // says that it is multipart/form-data
	length    int64  // Content-Length; -1 where there is none
	body      []byte // as it is read
	values    int    // of the body, that were read

	coding coding.Coding // of the body, where it is compressed
	sent   []byte        // it as it came, once it was read without its coding
	weight int64         // see Weight, of one that was

	boundary string // of a multipart body
	remove   []string
	err      error
}

// New returns an inspector for one request.
func New(opt Options) *Inspector { return &Inspector{opt: opt, length: -1} }

// Seen is what is known of the request so far. Only what [Inspector.Request] returns may be judged; this is for records.
func (i *Inspector) Seen() *Request { return &i.request }

// Remove lists the header fields that must not reach the target.
func (i *Inspector) Remove() []string { return i.remove }

// Streams reports whether the body passes unseen, so that there is nothing to wait for after the head: by the resource's
// choice, or because the request is accepted as the beginning of an upgraded connection or a tunnel, whose bytes only end
// with it.
func (i *Inspector) Streams() bool { return i.opt.Stream || i.tunnel }

// Body is the body as it came, all of it once Request has returned. Nil where it is streamed.
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

// Take is Write for a body that comes whole and that the caller gives away, so that it is not there twice.
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
		if oddName(f.Name) || singular[f.Name] || Identity(f.Name) || hopByHop[f.Name] || overridesRequest(f.Name) {
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
		i.body = nil // what was made of it stays
	}
	return r, nil
}
