package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// frames is a request over HTTP/2 as no client library sends it. $N in values is the case's number, $T the agent's token.
type frames struct {
	name     string
	head     []extproctest.Field
	body     string
	trailers []extproctest.Field
	want     string // the answer's status, or "reset"; behind a bar, others that it may be
	reaches  string // path and body that the target sees; "-" for nothing; behind a bar, others that it may be
}

func fields(namesAndValues ...string) (list []extproctest.Field) {
	for i := 0; i < len(namesAndValues); i += 2 {
		list = append(list, extproctest.Field{Name: namesAndValues[i], Value: namesAndValues[i+1]})
	}
	return list
}

// usual is a good head, followed by more.
func usual(method string, more ...string) []extproctest.Field {
	return append(fields(":method", method, ":scheme", "http", ":authority", "payments.example", ":path", "/h2/$N", "authorization", "Bearer $T"), fields(more...)...)
}

// unusual is a head with other pseudo-header fields, and the token.
func unusual(namesAndValues ...string) []extproctest.Field {
	return append(fields(namesAndValues...), fields("authorization", "Bearer $T")...)
}

var odd = []frames{
	{"a plain request", usual("GET"), "", nil, "404", "/h2/$N "},
	{"a plain request with a body", usual("POST"), "hello", nil, "404", "/h2/$N hello"},
	{"two paths", unusual(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/h2/$N", ":path", "/v1/exports/all"), "", nil, "reset|400", "-"},
	{"two methods", unusual(":method", "GET", ":method", "DELETE", ":scheme", "http", ":authority", "a", ":path", "/h2/$N"), "", nil, "reset|400", "-"},
	{"two authorities", unusual(":method", "GET", ":scheme", "http", ":authority", "a", ":authority", "b", ":path", "/h2/$N"), "", nil, "reset|400", "-"},
	{"a path behind the header fields", unusual(":method", "GET", ":scheme", "http", ":authority", "a", "x-a", "b", ":path", "/h2/$N"), "", nil, "reset|400", "-"},
	{"no path", unusual(":method", "GET", ":scheme", "http", ":authority", "a"), "", nil, "reset|400|404", "-"},
	{"an empty path", unusual(":method", "GET", ":scheme", "http", ":authority", "a", ":path", ""), "", nil, "reset|400|404", "-"},
	{"no method", unusual(":scheme", "http", ":authority", "a", ":path", "/h2/$N"), "", nil, "reset|400", "-"},
	{"a method in small letters", unusual(":method", "delete", ":scheme", "http", ":authority", "a", ":path", "/h2/$N"), "", nil, "reset|400", "-"},
	{"a method with a space", unusual(":method", "GET /x", ":scheme", "http", ":authority", "a", ":path", "/h2/$N"), "", nil, "reset|400", "-"},
	{"a method with a line end", unusual(":method", "GET / HTTP/1.1\r\nX: y", ":scheme", "http", ":authority", "a", ":path", "/h2/$N"), "", nil, "reset|400", "-"},
	{"a path with a fragment", unusual(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/h2/$N#/../x"), "", nil, "reset|400", "-"},
	{"a path with a space", unusual(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/h2/$N HTTP/1.1"), "", nil, "reset|400", "-"},
	{"a path with a line end", unusual(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/h2/$N HTTP/1.1\r\nX: y"), "", nil, "reset|400", "-"},
	{"a path that is an address", unusual(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "http://b.example/h2/$N"), "", nil, "reset|400|404", "-"},
	{"a path without a slash", unusual(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "h2/$N"), "", nil, "reset|400|404", "-"},
	{"a scheme of another kind", unusual(":method", "GET", ":scheme", "ftp", ":authority", "a", ":path", "/h2/$N"), "", nil, "reset|400|404", "-|/h2/$N "}, // Envoy says http
	{"a scheme that is not how it comes", unusual(":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/h2/$N"), "", nil, "404", "/h2/$N "},
	{"an authority with a user", unusual(":method", "GET", ":scheme", "http", ":authority", "u:p@a", ":path", "/h2/$N"), "", nil, "reset|400", "-"},
	{"an authority with a path", unusual(":method", "GET", ":scheme", "http", ":authority", "a/b", ":path", "/h2/$N"), "", nil, "reset|400|404", "-"},
	{"an authority and another host", unusual(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/h2/$N", "host", "b"), "", nil, "reset|400|404", "-|/h2/$N "},
	{"an unknown pseudo-header", unusual(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/h2/$N", ":user", "admin"), "", nil, "reset|400", "-"},
	{"a status", unusual(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/h2/$N", ":status", "200"), "", nil, "reset|400", "-"},
	{"a name in capitals", usual("GET", "X-HTTP-Method-Override", "DELETE"), "", nil, "reset|400", "-"},
	{"a name with a colon", usual("GET", "x:y", "z"), "", nil, "reset|400", "-"},
	{"a name with a space", usual("GET", "x y", "z"), "", nil, "reset|400", "-"},
	{"an empty name", usual("GET", "", "z"), "", nil, "reset|400", "-"},
	{"a value with a line end", usual("GET", "x-a", "b\r\nauthorization: Bearer x"), "", nil, "reset|400", "-"},
	{"a value with a NUL", usual("GET", "x-a", "b\x00c"), "", nil, "reset|400", "-"},
	{"connection", usual("GET", "connection", "x-a", "x-a", "b"), "", nil, "reset|400", "-"},
	{"transfer-encoding", usual("POST", "transfer-encoding", "chunked"), "hello", nil, "reset|400", "-"},
	{"te other than trailers", usual("GET", "te", "gzip"), "", nil, "reset|400|404", "-|/h2/$N "},
	{"upgrade", usual("GET", "upgrade", "websocket"), "", nil, "reset|400|403", "-"},
	{"a content length that is too long", usual("POST", "content-length", "50"), "hello", nil, "reset|400", "-"},
	{"a content length that is too short", usual("POST", "content-length", "2"), "hello", nil, "reset|400", "-"},
	{"a content length without a body", usual("GET", "content-length", "5"), "", nil, "reset|400", "-"},
	{"two content lengths", usual("POST", "content-length", "5", "content-length", "6"), "hello", nil, "reset|400", "-"},
	{"the token in crumbs of a cookie", usual("GET", "cookie", "a=1", "cookie", "b=2"), "", nil, "404", "/h2/$N "},
	{"CONNECT", fields(":method", "CONNECT", ":authority", "127.0.0.1:1", "authorization", "Bearer $T"), "", nil, "reset|400|403|404", "-"},
	{"CONNECT with a path", unusual(":method", "CONNECT", ":scheme", "http", ":authority", "a", ":path", "/h2/$N"), "", nil, "reset|400|403", "-"},
	{"an extended CONNECT", unusual(":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a", ":path", "/h2/$N"), "", nil, "reset|400|403", "-"},
	{"a protocol without CONNECT", unusual(":method", "GET", ":protocol", "websocket", ":scheme", "http", ":authority", "a", ":path", "/h2/$N"), "", nil, "reset|400|403", "-"},
	{"plain trailers", usual("POST"), "hello", fields("x-plain", "yes"), "404", "/h2/$N hello"},
	{"a credential in the trailers", usual("POST"), "hello", fields("authorization", "Bearer x"), "400|404", "-|/h2/$N hello"},
	{"an identity in the trailers", usual("POST"), "hello", fields("x-forwarded-user", "admin"), "400|404", "-|/h2/$N hello"},
	{"a pseudo-header in the trailers", usual("POST"), "hello", fields(":path", "/v1/exports/all"), "reset|400", "-"},
	{"a method override in the trailers", usual("POST"), "hello", fields("x-http-method-override", "DELETE"), "400|404", "-|/h2/$N hello"},
	{"capitals in the trailers", usual("POST"), "hello", fields("X-Plain", "yes"), "reset|400", "-"},
	{"no token but in the trailers", fields(":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/h2/$N"), "hello", fields("authorization", "Bearer $T"), "401", "-"},
}

// TestOddFrames sends what HTTP/2 can say and HTTP/1.1 cannot, or says otherwise. Each is refused, or reaches the target as
// exactly the one request that the journal tells of.
func TestOddFrames(t *testing.T) {
	t.Parallel()
	for _, attach := range []string{"ext_proc", "ext_authz"} {
		t.Run(attach, func(t *testing.T) {
			t.Parallel()
			g := start(t, exceptExports, story.Options{Attach: attach})
			token := g.Issuer.Token(nil)
			answers := make([]string, len(odd)) // all at once, as in TestRawBytes
			var work sync.WaitGroup
			for n, c := range odd {
				work.Go(func() {
					var err error
					if answers[n], err = c.send(g, strings.NewReplacer("$N", fmt.Sprint(n), "$T", token)); err != nil {
						answers[n] = err.Error()
					}
				})
			}
			work.Wait()
			for n, c := range odd {
				t.Run(c.name, func(t *testing.T) { c.check(t, g, n, answers[n]) })
			}
			for _, s := range g.Target.Requests() {
				for _, f := range s.Trailer {
					if f.Name != "x-plain" {
						t.Errorf("the target saw %s %s with the trailer %s", s.Method, s.Path, f.Name)
					}
				}
				if got := s.Get("Authorization"); !slices.Equal(got, []string{"Bearer target-credential"}) || len(s.Get("Cookie")) > 0 {
					t.Errorf("the target saw %s %s with the credentials %q", s.Method, s.Path, s.Header)
				}
			}
			reconcile(t, g)
		})
	}
}

func (c frames) check(t *testing.T, g *story.Gateway, n int, got string) {
	if !slices.Contains(strings.Split(c.want, "|"), got) {
		t.Errorf("the answer is %q, and should be %q", got, c.want)
	}
	saw := "-"
	for _, s := range g.Target.Requests() {
		if base := fmt.Sprint("/h2/", n); s.Path == base || strings.HasPrefix(s.Path, base) && strings.ContainsAny(s.Path[len(base):len(base)+1], "# ?/") {
			saw = s.Path + " " + string(s.Body)
		}
	}
	if !slices.Contains(strings.Split(strings.ReplaceAll(c.reaches, "$N", fmt.Sprint(n)), "|"), saw) {
		t.Errorf("the target saw %q, and should have seen %q", saw, c.reaches)
	}
}

// send returns the status of the answer, or "reset".
func (c frames) send(g *story.Gateway, values *strings.Replacer) (string, error) {
	conn, err := net.Dial("tcp", g.Address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	text, err := c.bytes(values)
	if err != nil {
		return "", err
	}
	if _, err := conn.Write(text); err != nil {
		return "", err
	}
	r := http2.NewFramer(io.Discard, conn)
	r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := r.ReadFrame()
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			return "", err
		}
		if err != nil {
			return "reset", nil
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status"), nil
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "reset", nil
		}
	}
}

// bytes are a connection's, from the preface on.
func (c frames) bytes(values *strings.Replacer) ([]byte, error) {
	var block, out bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encode := func(list []extproctest.Field) []byte {
		block.Reset()
		for _, f := range list {
			_ = encoder.WriteField(hpack.HeaderField{Name: f.Name, Value: values.Replace(f.Value)}) // into memory
		}
		return bytes.Clone(block.Bytes())
	}
	out.WriteString(http2.ClientPreface)
	w := http2.NewFramer(&out, nil)
	err := w.WriteSettings()
	last := c.body == "" && c.trailers == nil
	err = errors.Join(err, w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(c.head), EndHeaders: true, EndStream: last}))
	if c.body != "" {
		err = errors.Join(err, w.WriteData(1, c.trailers == nil, []byte(c.body)))
	}
	if c.trailers != nil {
		err = errors.Join(err, w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(c.trailers), EndHeaders: true, EndStream: true}))
	}
	return out.Bytes(), err
}
