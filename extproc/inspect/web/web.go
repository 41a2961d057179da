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
// A body is parsed as JSON where it says that it is, and also where it does not say so but looks like it: otherwise an
// agent could hide a JSON body from policy by calling it text/plain, and many targets would read it all the same.
//
// # What policy sees
//
// [Request.Object] has the exact request-target and the SHA-256 of the exact body beside what was parsed of them, so that
// the digest of an operation binds every byte, the order of query parameters included. All header fields are in it, but
// those of [Volatile] (they differ between two attempts at the same operation) and those that are removed.
package web

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/gate"
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
}

// Request is an HTTP request that was read without doubt.
type Request struct {
	Method   string
	Scheme   string
	Host     string // lower case, without the port
	Target   string // the request-target (RFC 9112, section 3.2) as it came: path and query, undecoded
	Path     string // the path as it came, without the query
	Segments []string
	Query    gate.Object // decoded name -> list of decoded values
	Headers  gate.Object // name -> list of values
	Trailers gate.Object // name -> list of values
	Body     any         // JSON value, or nil
	Form     gate.Object // decoded name -> list of decoded values, of a form body

	BodySHA256   string // hex; empty where the body is streamed or there is none
	BodyBytes    int64
	BodyStreamed bool
}

// Key is "http".
func (r *Request) Key() string { return "http" }

// Object is the request as policy sees it: input.http.
func (r *Request) Object() gate.Object {
	return gate.Object{
		{Name: "body", Value: r.Body},
		{Name: "body_bytes", Value: r.BodyBytes},
		{Name: "body_sha256", Value: r.BodySHA256},
		{Name: "body_streamed", Value: r.BodyStreamed},
		{Name: "form", Value: r.Form},
		{Name: "headers", Value: r.Headers},
		{Name: "host", Value: r.Host},
		{Name: "method", Value: r.Method},
		{Name: "path", Value: r.Path},
		{Name: "query", Value: r.Query},
		{Name: "request_target", Value: r.Target},
		{Name: "scheme", Value: r.Scheme},
		{Name: "segments", Value: r.Segments},
		{Name: "trailers", Value: r.Trailers},
	}
}

// Inspector reads one request. Call Head, then Write for each piece of the body, then Trailers if there are any, then
// Request. Its first error is final.
type Inspector struct {
	opt     Options
	request Request
	kind    bodyKind
	hash    hash.Hash
	body    []byte
	remove  []string
	err     error
}

// New returns an inspector for one request.
func New(opt Options) *Inspector { return &Inspector{opt: opt} }

// Seen is what is known of the request so far. Only what [Inspector.Request] returns may be judged; this is for records.
func (i *Inspector) Seen() *Request { return &i.request }

// Remove lists the header fields that must not reach the target.
func (i *Inspector) Remove() []string { return i.remove }

// Body is the body that was held, all of it once Request has returned. Nil where it is streamed.
func (i *Inspector) Body() []byte { return i.body }

// Head reads the pseudo-header and header fields.
func (i *Inspector) Head(fields []Field) error {
	i.err = i.head(fields)
	return i.err
}

// Write takes the next piece of the body. It copies what it keeps.
func (i *Inspector) Write(chunk []byte) error {
	if i.err != nil || len(chunk) == 0 {
		return i.err
	}
	i.request.BodyBytes += int64(len(chunk))
	if i.opt.Stream {
		return nil
	}
	if i.request.BodyBytes > i.opt.MaxBody {
		i.err = &Error{gate.TooLarge, fmt.Sprintf("The request's body is larger than the %d bytes that this resource accepts. Send less at a time.", i.opt.MaxBody)}
		return i.err
	}
	i.body = append(i.body, chunk...)
	return nil
}

// Trailers reads the trailer fields.
func (i *Inspector) Trailers(fields []Field) error {
	if i.err != nil {
		return i.err
	}
	grouped := make(groups, 0, len(fields))
	for _, f := range fields {
		if i.err = checkField(f); i.err != nil {
			return i.err
		}
		if strings.HasPrefix(f.Name, ":") || singular[f.Name] || Identity(f.Name) || hopByHop[f.Name] || overrides[f.Name] {
			i.err = unreadable("The request has a trailer field %q, which is not accepted after the body. Send it as a header field, or not at all.", f.Name)
			return i.err
		}
		grouped = grouped.add(f.Name, f.Value)
	}
	i.request.Trailers = grouped.object()
	return nil
}

// Request returns the whole request once the last piece of it was given.
func (i *Inspector) Request() (*Request, error) {
	if i.err != nil {
		return nil, i.err
	}
	r := &i.request
	if i.opt.Stream {
		r.BodyStreamed = i.kind != noBody
		return r, nil
	}
	if len(i.body) > 0 {
		sum := sha256.Sum256(i.body)
		r.BodySHA256 = hex.EncodeToString(sum[:])
	}
	i.err = i.readBody()
	if i.err != nil {
		return nil, i.err
	}
	return r, nil
}

func (i *Inspector) head(fields []Field) error {
	r := &i.request
	var contentType, contentEncoding []string
	headers := make(groups, 0, len(fields))
	for _, f := range fields {
		if err := checkField(f); err != nil {
			return err
		}
		if strings.HasPrefix(f.Name, ":") {
			if err := i.pseudo(f); err != nil {
				return err
			}
			continue
		}
		switch {
		case f.Name == "content-type":
			contentType = append(contentType, f.Value)
		case f.Name == "content-encoding":
			contentEncoding = append(contentEncoding, f.Value)
		case f.Name == "host" && r.Host == "":
			r.Host = hostOnly(f.Value)
			continue
		}
		keep, err := i.field(f)
		if err != nil {
			return err
		}
		if keep {
			headers = headers.add(f.Name, f.Value)
		}
	}
	r.Headers = headers.object()
	for _, m := range r.Headers {
		if singular[m.Name] && len(m.Value.([]string)) > 1 {
			return unreadable("The request has the header field %q more than once, and servers differ in which one they read. Send it once.", m.Name)
		}
	}
	if r.Method == "" || r.Host == "" {
		return unreadable("The request has no method or no host.")
	}
	if err := i.classify(contentType, contentEncoding); err != nil {
		return err
	}
	if r.Method == "CONNECT" {
		if !slices.Contains(i.opt.Upgrades, "connect") {
			return &Error{gate.Denied, "CONNECT is not accepted by this resource: what passes in a tunnel cannot be seen."}
		}
		return nil
	}
	return i.target()
}

func (i *Inspector) pseudo(f Field) error {
	r := &i.request
	to := map[string]*string{":method": &r.Method, ":scheme": &r.Scheme, ":authority": &r.Host, ":path": &r.Target}[f.Name]
	switch {
	case f.Name == ":protocol":
		return i.upgrade(f.Value)
	case to == nil:
		return unreadable("The request has a pseudo-header field %q that is not known.", f.Name)
	case *to != "":
		return unreadable("The request has the pseudo-header field %q more than once.", f.Name)
	case f.Name == ":authority":
		*to = hostOnly(f.Value)
	case f.Name == ":method" && !isToken(f.Value):
		return unreadable("The request's method is not a token.")
	default:
		*to = f.Value
	}
	return nil
}

// field decides what becomes of a header field: part of the input, removed, or the end of the request.
func (i *Inspector) field(f Field) (keep bool, err error) {
	switch {
	case strings.Contains(f.Name, "_"):
		return false, unreadable("The header field %q has an underscore in its name, and many servers read that as %q. Use hyphens.", f.Name, strings.ReplaceAll(f.Name, "_", "-"))
	case overrides[f.Name]:
		return false, unreadable("The header field %q changes what the request asks for behind its own method or path, so it is not accepted. Send the request that is meant.", f.Name)
	case f.Name == "upgrade":
		return false, i.upgrade(f.Value)
	case hopByHop[f.Name] && f.Name != "te":
		return false, nil // Envoy's own business, between it and its peers; it forwards none of them
	case f.Name == "te":
		return strings.EqualFold(f.Value, "trailers"), nil
	case Identity(f.Name):
		if !slices.Contains(i.remove, f.Name) {
			i.remove = append(i.remove, f.Name)
		}
		return false, nil
	case Volatile(f.Name):
		return false, nil
	}
	return true, nil
}

func (i *Inspector) upgrade(protocol string) error {
	for p := range strings.SplitSeq(protocol, ",") {
		name := strings.ToLower(strings.TrimSpace(p))
		if !slices.Contains(i.opt.Upgrades, name) {
			return &Error{gate.Denied, fmt.Sprintf("The request asks to upgrade to %q, which is not accepted by this resource: what passes in an upgraded connection cannot be seen.", name)}
		}
	}
	return nil
}

func checkField(f Field) error {
	if !utf8.ValidString(f.Value) || !utf8.ValidString(f.Name) {
		return unreadable("The header field %q has bytes that are not UTF-8.", strings.ToValidUTF8(f.Name, "\uFFFD"))
	}
	for j := 0; j < len(f.Value); j++ {
		if c := f.Value[j]; c < 0x20 && c != '\t' || c == 0x7F {
			return unreadable("The header field %q has a control character in its value.", f.Name)
		}
	}
	return nil
}

func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c <= ' ' || c >= 0x7F || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return false
		}
	}
	return s != ""
}

// hostOnly is the host of an authority, in lower case, without the port.
func hostOnly(authority string) string {
	host := strings.ToLower(authority)
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	return strings.TrimSuffix(host, ".")
}

// groups collects the values of equal names.
type groups []gate.Member

func (g groups) add(name, value string) groups {
	for i := range g {
		if g[i].Name == name {
			g[i].Value = append(g[i].Value.([]string), value)
			return g
		}
	}
	return append(g, gate.Member{Name: name, Value: []string{value}})
}

// object never fails: add keeps names unique.
func (g groups) object() gate.Object {
	o, err := gate.MakeObject(g...)
	if err != nil {
		panic(err)
	}
	return o
}
