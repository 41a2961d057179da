package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/google/go-cmp/cmp"
)

// get is the head of a plain request, with more fields after it. A field is written "name: value".
func get(path string, more ...string) []Field { return head("GET", path, more...) }

func post(more ...string) []Field { return head("POST", "/v1/payments", more...) }

func head(method, path string, more ...string) []Field {
	fields := []Field{{":method", method}, {":scheme", "https"}, {":authority", "payments.agents.internal"}, {":path", path}}
	for _, m := range more {
		name, value, _ := strings.Cut(m[1:], ":")
		fields = append(fields, Field{m[:1] + name, strings.TrimPrefix(value, " ")})
	}
	return fields
}

// without leaves out the fields with these names.
func without(fields []Field, names ...string) []Field {
	return slices.DeleteFunc(fields, func(f Field) bool { return slices.Contains(names, f.Name) })
}

var limits = Options{MaxBody: 1 << 16}

// read runs a whole request, its body in one piece.
func read(opt Options, fields []Field, body string, trailers ...Field) (*Request, *Inspector, error) {
	i := New(opt)
	if err := i.Head(fields); err != nil {
		return nil, i, err
	}
	if err := i.Write([]byte(body)); err != nil {
		return nil, i, err
	}
	if trailers != nil {
		if err := i.Trailers(trailers); err != nil {
			return nil, i, err
		}
	}
	r, err := i.Request()
	return r, i, err
}

func wantRefused(t *testing.T, err error, problem gate.Problem, say string) {
	t.Helper()
	var refused *Error
	if !errors.As(err, &refused) {
		t.Fatalf("not refused: %v", err)
	}
	if refused.Problem != problem || !strings.Contains(refused.Detail, say) {
		t.Errorf("refused with %q: %s\nwant %q, saying %q", refused.Problem, refused.Detail, problem, say)
	}
}

func TestHeadRefuses(t *testing.T) {
	for _, c := range []struct {
		name    string
		fields  []Field
		problem gate.Problem
		say     string
	}{
		{"no method", without(get("/"), ":method"), gate.Unreadable, "no method"},
		{"no host", without(get("/"), ":authority"), gate.Unreadable, "no host"},
		{"no path", without(get("/"), ":path"), gate.Unreadable, "does not begin with a slash"},
		{"nothing at all", nil, gate.Unreadable, "no host"},
		{"a method with a space", head("GET /admin", "/"), gate.Unreadable, "is not a method"},
		{"an empty method", head("", "/"), gate.Unreadable, "is not a method"},
		{"a method in lower case, which some targets read as DELETE", head("delete", "/"), gate.Unreadable, "upper case"},
		{"two methods", get("/", ":method: POST"), gate.Unreadable, "more than once"},
		{"two paths", get("/", ":path: /admin"), gate.Unreadable, "more than once"},
		{"two paths, the first of them empty", get("", ":path: /admin"), gate.Unreadable, "more than once"},
		{"two authorities", get("/", ":authority: other"), gate.Unreadable, "more than once"},
		{"a scheme that is not HTTP's", append(without(get("/"), ":scheme"), Field{":scheme", "file"}), gate.Unreadable, "is not http or https"},
		{"a scheme that is not how it came", append(without(get("/"), ":scheme"), Field{":scheme", "http"}, Field{"x-forwarded-proto", "https"}), gate.Unreadable, "came here by"},
		{"a secure scheme in the clear", append([]Field{{"x-forwarded-proto", "http"}}, get("/")...), gate.Unreadable, "came here by"},
		{"two ways by which it came", get("/", "x-forwarded-proto: https", "x-forwarded-proto: http"), gate.Unreadable, "more than once"},
		{"a pseudo-header that is not known", get("/", ":status: 200"), gate.Unreadable, "not known"},
		{"TRACE, which would show the target's credential", head("TRACE", "/"), gate.Denied, "credential"},
		{"TRACK, which is the same", head("TRACK", "/"), gate.Denied, "credential"},
		{"CONNECT", head("CONNECT", ""), gate.Denied, "CONNECT is not accepted"},
		{"an upgrade to websocket", get("/", "connection: upgrade", "upgrade: websocket"), gate.Denied, `upgrade to "websocket"`},
		{"an upgrade to HTTP/2 in the clear, which hides what follows", get("/", "upgrade: h2c"), gate.Denied, `"h2c"`},
		{"an extended CONNECT", head("CONNECT", "/chat", ":protocol: websocket"), gate.Denied, `"websocket"`},

		{"a method override", post("x-http-method-override: DELETE"), gate.Unreadable, "behind its own method"},
		{"another method override", post("x-http-method: DELETE"), gate.Unreadable, "behind its own method"},
		{"a third method override", post("x-method-override: DELETE"), gate.Unreadable, "behind its own method"},
		{"a path override of IIS", get("/", "x-original-url: /admin"), gate.Unreadable, "behind its own"},
		{"a path override of rewriters", get("/", "x-rewrite-url: /admin"), gate.Unreadable, "behind its own"},
		{"a path override of nginx", get("/", "x-original-uri: /admin"), gate.Unreadable, "behind its own"},
		{"Envoy's own path override", get("/", "x-envoy-original-path: /admin"), gate.Unreadable, "behind its own"},

		{"a name with an underscore, which CGI reads as a hyphen", get("/", "x_http_method_override: DELETE"), gate.Unreadable, "hyphens"},
		{"a name with a dot, which PHP reads as a hyphen", get("/", "x-http.method.override: DELETE"), gate.Unreadable, "hyphens"},
		{"an identity with a dot", get("/", "x.forwarded.for: 10.0.0.1"), gate.Unreadable, "hyphens"},
		{"a name with a character that lighttpd reads as a hyphen", get("/", "x~ticket: 1"), gate.Unreadable, "hyphens"},
		{"a dot before what begins stored metadata", get("/", "x.amz-meta-a: 1"), gate.Unreadable, "hyphens"},
		{"an underscore in stored metadata", get("/", "x-amz-meta-a_b: 1"), gate.Unreadable, "hyphens"},
		{"another name of a method", get("/", "http-method-override: DELETE"), gate.Unreadable, "behind its own method"},
		{"a path of a proxy", get("/", "x-original-path: /admin"), gate.Unreadable, "behind its own method"},
		{"what is cut off the path", get("/", "x-script-name: /admin"), gate.Unreadable, "behind its own method"},
		{"a name in upper case, which no table here would know", get("/", "Authorization: Basic x"), gate.Unreadable, "lower case"},
		{"a name with a space at its end", get("/", "authorization : x"), gate.Unreadable, "not a name"},
		{"an empty name", append(get("/"), Field{"", "x"}), gate.Unreadable, "not a name"},
		{"a bare colon", append(get("/"), Field{":", "x"}), gate.Unreadable, "not a name"},
		{"a name with a line break", append(get("/"), Field{"a\r\nb", "x"}), gate.Unreadable, "not a name"},
		{"a name that is not UTF-8", append(get("/"), Field{"a\xff", "x"}), gate.Unreadable, "not a name"},
		{"a value with a line break", append(get("/"), Field{"a", "x\r\nb: y"}), gate.Unreadable, "control character"},
		{"a value with NUL", append(get("/"), Field{"a", "x\x00"}), gate.Unreadable, "control character"},
		{"a value with DEL", append(get("/"), Field{"a", "x\x7f"}), gate.Unreadable, "control character"},
		{"a value that is not UTF-8", append(get("/"), Field{"a", "\xe9"}), gate.Unreadable, "not UTF-8"},
		{"a pseudo-header value with a control character", get("/", ":protocol: a\tb\x01"), gate.Unreadable, "control character"},

		{"two Content-Types", post("content-type: application/json", "content-type: text/plain"), gate.Unreadable, "more than once"},
		{"two equal Content-Types", post("content-type: application/json", "content-type: application/json"), gate.Unreadable, "more than once"},
		{"two Content-Types in one field", post("content-type: text/plain, application/json"), gate.Unreadable, "cannot be read"},
		{"an empty Content-Type", post("content-type: "), gate.Unreadable, "cannot be read"},
		{"a Content-Type with two charsets", post("content-type: application/json; charset=utf-8; charset=utf-16"), gate.Unreadable, "cannot be read"},
		{"JSON in UTF-16", post("content-type: application/json; charset=utf-16"), gate.Unreadable, "charset"},
		{"JSON in EBCDIC", post("content-type: application/json; charset=ibm037"), gate.Unreadable, "charset"},
		{"a form in EBCDIC", post("content-type: application/x-www-form-urlencoded; charset=ibm500"), gate.Unreadable, "charset"},
		{"text in UTF-7, where JSON does not look like it", post("content-type: text/plain; charset=utf-7"), gate.Unreadable, "charset"},
		{"a body in a coding that is not known", post("content-encoding: compress"), gate.Unreadable, "Content-Encoding: compress"},
		{"a body in identity and gzip", post("content-encoding: identity, gzip"), gate.Unreadable, "Content-Encoding"},
		{"two Content-Encodings", post("content-encoding: identity", "content-encoding: gzip"), gate.Unreadable, "more than once"},
		{"two Content-Lengths", post("content-length: 1", "content-length: 2"), gate.Unreadable, "more than once"},
		{"a Content-Length with a sign", post("content-length: +1"), gate.Unreadable, "not a number"},
		{"a Content-Length below zero", post("content-length: -1"), gate.Unreadable, "not a number"},
		{"a Content-Length in hexadecimal", post("content-length: 0x1"), gate.Unreadable, "not a number"},
		{"a Content-Length of two", post("content-length: 1, 1"), gate.Unreadable, "not a number"},
		{"a Content-Length beside Transfer-Encoding", post("content-length: 1", "transfer-encoding: chunked"), gate.Unreadable, "in doubt"},
		{"a Transfer-Encoding that is not chunked", post("transfer-encoding: gzip, chunked"), gate.Unreadable, "in doubt"},
		{"an empty Transfer-Encoding", post("transfer-encoding: "), gate.Unreadable, "in doubt"},
		{"two ranges", get("/", "range: bytes=0-1", "range: bytes=2-3"), gate.Unreadable, "more than once"},
		{"a field that Connection would remove on the way", get("/", "x-dry-run: true", "connection: close, x-dry-run"), gate.Unreadable, `names "x-dry-run"`},

		{"a host beside another authority", get("/", "host: other.internal"), gate.Unreadable, "two hosts"},
		{"a host before another authority", append([]Field{{"host", "other.internal"}}, get("/")...), gate.Unreadable, "two hosts"},
		{"a host with another port than the authority", get("/", "host: payments.agents.internal:81"), gate.Unreadable, "two hosts"},
		{"two hosts and no authority", without(get("/", "host: a", "host: b"), ":authority"), gate.Unreadable, "more than once"},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := New(limits)
			wantRefused(t, i.Head(c.fields), c.problem, c.say)
			if r, err := i.Request(); err == nil {
				t.Errorf("its first error was not final: %+v", r)
			}
			if err := i.Head(get("/")); err == nil {
				t.Error("a second head was accepted after the first was refused")
			}
		})
	}
}

func TestHost(t *testing.T) {
	for _, c := range []struct{ name, authority, want string }{
		{"a name", "payments.internal", "payments.internal"},
		{"a name in upper case", "PAYMENTS.Internal", "payments.internal"},
		{"a name with a port", "payments.internal:8443", "payments.internal"},
		{"a name with an empty port", "payments.internal:", "payments.internal"},
		{"a name with a dot at its end", "payments.internal.:443", "payments.internal"},
		{"a name of a container, with an underscore", "my_service", "my_service"},
		{"an IPv4 address", "192.0.2.1:80", "192.0.2.1"},
		{"an IPv6 address", "[2001:DB8::1]", "[2001:db8::1]"},
		{"an IPv6 address with a port", "[::1]:80", "[::1]"},
		{"an IPv6 address without brackets", "::1", ""},
		{"an IPv6 address with a zone", "[fe80::1%25eth0]", ""},
		{"an IPv4 address in brackets", "[192.0.2.1]", ""},
		{"half a bracket", "::1]", ""},
		{"brackets with more after them", "[::1]evil", ""},
		{"a user before the host", "payments.internal@evil.example", ""},
		{"a port that is no number", "payments.internal:80evil", ""},
		{"two ports", "payments.internal:80:81", ""},
		{"a port of six digits", "payments.internal:123456", ""},
		{"a path in the host", "payments.internal/admin", ""},
		{"a query in the host", "payments.internal?x", ""},
		{"a backslash in the host", `payments.internal\evil`, ""},
		{"percent-encoding in the host", "payments%2einternal", ""},
		{"a comma in the host", "a,b", ""},
		{"a host that is not ASCII", "päyments", ""},
		{"only a port", ":80", ""},
		{"only a dot", ".", ""},
		{"two dots", "a..b", ""},
		{"two dots at the end", "a..", ""},
		{"a dot at the beginning", ".a", ""},
		{"a space in the host", "a b", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, as := range []string{":authority", "host"} {
				r, _, err := read(limits, append(without(get("/"), ":authority"), Field{as, c.authority}), "")
				if c.want == "" {
					wantRefused(t, err, gate.Unreadable, "HOST:PORT")
					continue
				}
				if err != nil || r.Host != c.want || r.Authority != c.authority {
					t.Errorf("%s: %+v, %v", as, r, err)
				}
				if _, found := r.Headers.Get("host"); found {
					t.Error("the host is among the headers")
				}
			}
		})
	}
	if _, _, err := read(limits, get("/", "host: Payments.Agents.Internal"), ""); err != nil {
		t.Errorf("the same host twice: %v", err)
	}
}

func TestHeadersOfTheInput(t *testing.T) {
	r, i, err := read(limits, get("/",
		"x-b: 2", "accept: */*", "x-a: 1", "x-b: 1, 3", "authorization: Bearer t", "cookie: s=1", "x-forwarded-for: 192.0.2.1",
		"user-agent: x", "x-request-id: 1", "traceparent: 00", "accept-encoding: gzip", "x-envoy-expected-rq-timeout-ms: 5", "x-b3-traceid: 1",
		"te: trailers", "connection: keep-alive, te", "keep-alive: 5", "proxy-connection: x", "trailer: x-sum", "http2-settings: AAA", "x-forwarded-proto: https",
		"authorization: Basic again", "x-empty: ", "x-request-id: 2", "baggage: a=b", "tracestate: v=1", "sentry-trace: 1",
	), "")
	if err != nil {
		t.Fatal(err)
	}
	want := gate.Object{
		{Name: "accept", Value: []string{"*/*"}},
		{Name: "accept-encoding", Value: []string{"gzip"}},
		{Name: "sentry-trace", Value: []string{"1"}},
		{Name: "te", Value: []string{"trailers"}},
		{Name: "user-agent", Value: []string{"x"}},
		{Name: "x-a", Value: []string{"1"}},
		{Name: "x-b", Value: []string{"2", "1, 3"}},
		{Name: "x-empty", Value: []string{""}},
	}
	if diff := cmp.Diff(want, r.Headers); diff != "" {
		t.Error(diff)
	}
	volatile := gate.Object{
		{Name: "baggage", Value: []string{"a=b"}},
		{Name: "traceparent", Value: []string{"00"}},
		{Name: "tracestate", Value: []string{"v=1"}},
		{Name: "x-b3-traceid", Value: []string{"1"}},
		{Name: "x-envoy-expected-rq-timeout-ms", Value: []string{"5"}},
		{Name: "x-forwarded-proto", Value: []string{"https"}},
		{Name: "x-request-id", Value: []string{"1", "2"}},
	}
	if diff := cmp.Diff(gate.Object{{Name: "headers", Value: volatile}}, r.Volatile()); diff != "" {
		t.Error(diff)
	}
	removed := []string{"authorization", "cookie", "x-forwarded-for", "keep-alive", "proxy-connection", "trailer", "http2-settings"}
	if diff := cmp.Diff(removed, i.Remove()); diff != "" {
		t.Error(diff)
	}
	_, i, err = read(limits, get("/", "te: gzip"), "")
	if err != nil || !cmp.Equal(i.Remove(), []string{"te"}) {
		t.Errorf("te: gzip: removed %v, %v", i.Remove(), err)
	}
}

// Promise 7: the target never sees the agent's token, nor what the agent says of itself.
func TestIdentityHeadersAreRemoved(t *testing.T) {
	names := []string{
		"authorization", "proxy-authorization", "cookie", "dpop", "x-api-key", "api-key", "private-token", "x-real-ip", "forwarded",
		"x-auth-request-user", "x-ms-client-principal", "x-ms-client-principal-id", "x-ms-token-aad-access-token", "x-goog-authenticated-user-email", "x-goog-iap-jwt-assertion",
		"x-amzn-oidc-identity", "x-remote-extra-scopes", "x-remote-user-id", "x-ssl-client-verify", "ssl-client-subject", "impersonate-user", "cf-access-jwt-assertion",
		"x-pomerium-claim-email", "x-vouch-user", "x-authentik-username", "tailscale-user-login", "x-countersign-principal", "x-forwarded-groups", "x-forwarded-anything", "x-appengine-user-id",
	}
	for name := range identityNames {
		names = append(names, name)
	}
	for _, name := range names {
		r, i, err := read(limits, get("/", name+": x"), "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, in := r.Headers.Get(name); in || !slices.Contains(i.Remove(), name) {
			t.Errorf("%s: in the input %v, removed %v", name, in, i.Remove())
		}
		if _, _, err := read(limits, get("/"), "", Field{name, "x"}); err == nil {
			t.Errorf("%s is accepted as a trailer", name)
		}
	}
	for _, name := range []string{"accept", "x-forwarded-proto", "x-users", "content-type", "if-match"} {
		if Identity(name) {
			t.Errorf("%s is taken for an identity", name)
		}
	}
}

func TestTablesOfNamesAreReachable(t *testing.T) {
	for _, table := range []map[string]bool{alwaysVolatile.names, sdkVolatile.names, common, identityNames, actingNames, innocentNames, neverOpen, overrides, singular, framing} {
		for name := range table {
			if !isFieldName(name) || strings.Contains(name, "_") {
				t.Errorf("%q can never be met: such names are refused", name)
			}
		}
	}
}

// TestNoBodyHidesBehindAnUpgrade: an accepted upgrade is judged by its head alone, so a request with a body must not pass
// as one.
func TestNoBodyHidesBehindAnUpgrade(t *testing.T) {
	opt := Options{MaxBody: 1 << 10, Upgrades: []string{"websocket", "connect"}}
	for _, c := range []struct {
		name   string
		fields []Field
	}{
		{"a POST", post("connection: upgrade", "upgrade: websocket")},
		{"a POST with a length", post("connection: upgrade", "upgrade: websocket", "content-length: 16")},
		{"a GET with a length", get("/", "connection: upgrade", "upgrade: websocket", "content-length: 16")},
		{"a chunked GET", get("/", "connection: upgrade", "upgrade: websocket", "transfer-encoding: chunked")},
		{"a CONNECT with a length", without(head("CONNECT", "", "content-length: 16"), ":path")},
		{"a HEAD", head("HEAD", "/", "connection: upgrade", "upgrade: websocket")},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := New(opt)
			wantRefused(t, i.Head(c.fields), gate.Unreadable, "request of its own")
		})
	}
	i := New(opt)
	if err := i.Head(get("/", "connection: upgrade", "upgrade: websocket")); err != nil || !i.Streams() {
		t.Fatalf("an upgrade: %v, streams: %t", err, i.Streams())
	}
	if err := i.Write(make([]byte, 1<<20)); err != nil || len(i.Body()) > 0 {
		t.Errorf("what passes in it: %v, %d bytes held", err, len(i.Body()))
	}
	if r, err := i.Request(); err != nil || !r.BodyStreamed {
		t.Errorf("policy is told that it sees the body: %+v, %v", r, err)
	}
}

func TestUpgradesThatAreAccepted(t *testing.T) {
	opt := Options{MaxBody: 10, Upgrades: []string{"websocket", "connect"}}
	r, _, err := read(opt, get("/chat", "connection: Upgrade", "upgrade: WebSocket"), "")
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := r.Headers.Get("upgrade"); !cmp.Equal(v, []string{"WebSocket"}) {
		t.Errorf("policy cannot see the upgrade: %v", r.Headers)
	}
	if _, _, err = read(opt, get("/chat", "upgrade: websocket, h2c"), ""); err == nil {
		t.Error("an upgrade that is not accepted came in behind one that is")
	}
	r, _, err = read(opt, without(head("CONNECT", ""), ":path", ":scheme"), "")
	if err != nil || r.Host != "payments.agents.internal" || r.Segments == nil {
		t.Errorf("CONNECT: %+v, %v", r, err)
	}
	r, _, err = read(opt, head("CONNECT", "/chat", ":protocol: websocket"), "")
	if err != nil || r.Path != "/chat" {
		t.Fatalf("extended CONNECT: %+v, %v", r, err)
	}
	if v, _ := r.Headers.Get(":protocol"); !cmp.Equal(v, []string{"websocket"}) {
		t.Errorf("policy cannot see the protocol: %v", r.Headers)
	}
	_, _, err = read(opt, head("CONNECT", "/a/../b", ":protocol: websocket"), "")
	wantRefused(t, err, gate.Unreadable, "dot segment")
}

func TestBodyLimit(t *testing.T) {
	for _, c := range []struct {
		name   string
		max    int64
		pieces []int
		ok     bool
	}{
		{"one byte below", 10, []int{9}, true},
		{"exactly the limit", 10, []int{10}, true},
		{"exactly the limit, in pieces", 10, []int{4, 0, 6}, true},
		{"one byte above", 10, []int{11}, false},
		{"one byte above, in pieces", 10, []int{10, 1}, false},
		{"no body where none is accepted", 0, nil, true},
		{"a body where none is accepted", 0, []int{1}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := New(Options{MaxBody: c.max})
			err := i.Head(post())
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range c.pieces {
				err = i.Write(bytes.Repeat([]byte("x"), n))
			}
			if c.ok {
				if r, err := i.Request(); err != nil || r.BodyBytes != int64(len(i.Body())) {
					t.Errorf("%+v, %v", r, err)
				}
				return
			}
			wantRefused(t, err, gate.TooLarge, fmt.Sprintf("%d bytes", c.max))
			if int64(len(i.Body())) > c.max {
				t.Errorf("%d bytes are held", len(i.Body()))
			}
			if _, err := i.Request(); err == nil {
				t.Error("the request came out all the same")
			}
		})
	}
}

func TestBodyAndItsLengthAgree(t *testing.T) {
	for _, c := range []struct {
		name, length, body string
		ok                 bool
	}{
		{"the same", "3", "abc", true},
		{"none and no body", "0", "", true},
		{"a body that was cut off", "4", "abc", false},
		{"a body that goes on", "2", "abc", false},
		{"a length without a body", "1", "", false},
	} {
		_, _, err := read(limits, post("content-length: "+c.length), c.body)
		if c.ok != (err == nil) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestStreamedBodyIsNeitherHeldNorJudged(t *testing.T) {
	r, i, err := read(Options{Stream: true}, post("content-type: application/json", "content-encoding: gzip", "content-length: 7"), strings.Repeat("{", 1000))
	if err != nil {
		t.Fatal(err)
	}
	if !r.BodyStreamed || r.Body != "" || r.BodySHA256 != "" || i.Body() != nil || r.BodyBytes != 1000 {
		t.Errorf("%+v", r)
	}
}

func TestRequestWithoutHeadIsRefused(t *testing.T) {
	for _, opt := range []Options{limits, {Stream: true}, {}} {
		if r, err := New(opt).Request(); err == nil {
			t.Errorf("%+v", r)
		}
	}
	i := New(limits)
	if err := i.Head(get("/a")); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, i.Head(get("/b")), gate.Unreadable, "two heads")
	if r, err := i.Request(); err == nil {
		t.Errorf("%+v", r)
	}
}

func TestTrailers(t *testing.T) {
	r, _, err := read(limits, post(), "abc", Field{"x-sum", "1"}, Field{"grpc-x", "2"}, Field{"x-sum", "3"})
	want := gate.Object{{Name: "grpc-x", Value: []string{"2"}}, {Name: "x-sum", Value: []string{"1", "3"}}}
	if diff := cmp.Diff(want, r.Trailers); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, f := range []Field{
		{":path", "/admin"},
		{"content-type", "text/plain"},
		{"content-length", "1"},
		{"transfer-encoding", "chunked"},
		{"host", "x"},
		{"connection", "x"},
		{"upgrade", "h2c"},
		{"authorization", "Bearer x"},
		{"x-http-method-override", "DELETE"},
		{"content_type", "x"},
		{"Authorization", "x"},
		{"x-a", "\n"},
		{"x-a", "\xff"},
	} {
		_, i, err := read(limits, post(), "abc", f)
		wantRefused(t, err, gate.Unreadable, "")
		if _, err := i.Request(); err == nil {
			t.Errorf("%v: its first error was not final", f)
		}
	}
}

// Promise 5: every byte of the request that the target can act on changes the operation.
func TestObjectBindsEveryByte(t *testing.T) {
	encode := func(fields []Field, body string, trailers ...Field) string {
		t.Helper()
		r, _, err := read(Options{MaxBody: 100, Paths: []string{"encoded-slash"}}, fields, body, trailers...)
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.Object().AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := encode(head("POST", "/a/b?x=1&y=2", "accept: a"), `{"a":1}`)
	for name, other := range map[string]string{
		"the method":                     encode(head("PUT", "/a/b?x=1&y=2", "accept: a"), `{"a":1}`),
		"an encoding in the path":        encode(head("POST", "/a/%62?x=1&y=2", "accept: a"), `{"a":1}`),
		"a slash at the end":             encode(head("POST", "/a/b/?x=1&y=2", "accept: a"), `{"a":1}`),
		"the order of the query":         encode(head("POST", "/a/b?y=2&x=1", "accept: a"), `{"a":1}`),
		"an encoding in the query":       encode(head("POST", "/a/b?x=%31&y=2", "accept: a"), `{"a":1}`),
		"an empty parameter":             encode(head("POST", "/a/b?x=1&&y=2", "accept: a"), `{"a":1}`),
		"a header's value":               encode(head("POST", "/a/b?x=1&y=2", "accept: A"), `{"a":1}`),
		"a header more":                  encode(head("POST", "/a/b?x=1&y=2", "accept: a", "x: "), `{"a":1}`),
		"the port of the host":           encode(append(without(head("POST", "/a/b?x=1&y=2", "accept: a"), ":authority"), Field{":authority", "payments.agents.internal:1"}), `{"a":1}`),
		"white space in the body":        encode(head("POST", "/a/b?x=1&y=2", "accept: a"), `{"a": 1}`),
		"an escape in the body":          encode(head("POST", "/a/b?x=1&y=2", "accept: a"), `{"\u0061":1}`),
		"the same number in other words": encode(head("POST", "/a/b?x=1&y=2", "accept: a"), `{"a":1.0}`),
		"a trailer":                      encode(head("POST", "/a/b?x=1&y=2", "accept: a"), `{"a":1}`, Field{"x", "y"}),
		"what the client calls itself":   encode(head("POST", "/a/b?x=1&y=2", "accept: a", "user-agent: b"), `{"a":1}`),
		"the encodings that it takes":    encode(head("POST", "/a/b?x=1&y=2", "accept: a", "accept-encoding: b"), `{"a":1}`),
	} {
		if other == first {
			t.Errorf("%s is not bound", name)
		}
	}
	again := head("POST", "/a/b?x=1&y=2", "x-request-id: 2", "accept: a", "content-length: 7", "countersign-approval: 01a206b8-9642-772c-b6e7-bba2f41d3074")
	if again := encode(again, `{"a":1}`); again != first {
		t.Errorf("the same request is another operation:\n%s\n%s", first, again)
	}
	sum := sha256.Sum256([]byte(`{"a":1}`))
	want := `{"authority":"payments.agents.internal","body":{"a":1},"body_bytes":7,"body_sha256":"` + hex.EncodeToString(sum[:]) + `","body_streamed":false,"form":{},` +
		`"headers":{"accept":["a"]},"host":"payments.agents.internal","method":"POST","path":"/a/b","query":{"x":["1"],"y":["2"]},` +
		`"request_target":"/a/b?x=1&y=2","scheme":"https","segments":["a","b"],"trailers":{}}`
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
	if (&Request{}).Key() != "http" {
		t.Error("the key of a request is not http")
	}
}

func BenchmarkInspectGET(b *testing.B) {
	fields := get("/v1/payments/7/refunds?limit=10&after=x", "accept: application/json", "user-agent: agent/1.0", "authorization: Bearer abc", "x-request-id: 0190",
		"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "accept-encoding: gzip", "x-forwarded-for: 192.0.2.1", "x-forwarded-proto: https", "x-tenant: a", "if-none-match: b")
	b.ReportAllocs()
	for b.Loop() {
		i := New(limits)
		if err := i.Head(fields); err != nil {
			b.Fatal(err)
		}
		if _, err := i.Request(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInspectPOST(b *testing.B) {
	fields := post("content-type: application/json", "accept: application/json", "authorization: Bearer abc")
	body := []byte(`{"items":[` + strings.Repeat(`{"name":"abc","amount":12.5,"tags":["a","b"]},`, 20) + `{}]}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		i := New(limits)
		if err := i.Head(fields); err != nil {
			b.Fatal(err)
		}
		if err := i.Write(body); err != nil {
			b.Fatal(err)
		}
		if _, err := i.Request(); err != nil {
			b.Fatal(err)
		}
	}
}
