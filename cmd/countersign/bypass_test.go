package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest/story"
)

// exceptExports lets anything but exports through, so that what reaches the target tells what Envoy and the gateway made of the
// bytes that came.
const exceptExports = `
-- policy.rego --
package rules.payments

allow contains {"id": "all"}

deny contains {"id": "exports"} if "exports" in input.http.segments
`

// bypass is raw bytes as an agent may send them. In request, $T is the line with the agent's token, $H the Host line, and
// line ends are CRLF. A second request follows each, which tells how much of the bytes the first was taken to be.
type bypass struct {
	name    string
	request string
	want    string // the statuses of all answers, or, behind a bar, others that they may be; "closed" is no answer at all
	body    string // what the target gets as the body of the first; "-" where it must get nothing, $S for the smuggled one; or others
}

const smuggled = "GET /v1/exports/all HTTP/1.1\n$H\n$T\n\n"

var bypasses = []bypass{
	{"content length and chunked", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: 6\nTransfer-Encoding: chunked\n\n0\n\n" + smuggled, "400", "-"},
	{"chunked and content length", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\nContent-Length: 60\n\n0\n\n" + smuggled, "400", "-"},
	{"two content lengths that differ", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: 5\nContent-Length: 60\n\nhello" + smuggled, "400", "-"},
	{"two content lengths that agree", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: 5\nContent-Length: 5\n\nhello", "400", "-"},
	{"a list of content lengths", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: 5, 5\n\nhello", "400", "-"},
	{"a content length with a plus", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: +5\n\nhello", "400", "-"},
	{"a content length with a minus", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: -5\n\nhello", "400", "-"},
	{"a hexadecimal content length", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: 0x5\n\nhello", "400", "-"},
	{"a content length with a space in it", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: 5 0\n\nhello", "400", "-"},
	{"a content length beyond 64 bits", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: 18446744073709551621\n\nhello", "400", "-"},
	{"an empty content length", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length:\n\nhello", "400", "-"},
	{"a space before the colon", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: 5\nTransfer-Encoding : chunked\n\nhello", "400", "-"},
	{"a folded header field", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding:\n chunked\nContent-Length: 5\n\nhello", "400", "-"},
	{"a folded first header field", "POST /echo/$N HTTP/1.1\n X: y\n$H\n$T\nContent-Length: 5\n\nhello", "400", "-"},
	{"a folded token", "GET /echo/$N HTTP/1.1\n$H\n$T\n more\n\n", "401 404", "-"},
	{"transfer encoding xchunked", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: xchunked\n\n5\nhello\n0\n\n", "400", "-"},
	{"transfer encoding gzip, chunked", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: gzip, chunked\n\n5\nhello\n0\n\n", "400", "-"},
	{"transfer encoding chunked, identity", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked, identity\n\n5\nhello\n0\n\n", "400", "-"},
	{"transfer encoding identity", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: identity\nContent-Length: 5\n\nhello", "400", "-"},
	{"transfer encoding twice", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n", "400", "-"},
	{"transfer encoding twice, once unknown", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\nTransfer-Encoding: x\n\n5\nhello\n0\n\n", "400", "-"},
	{"transfer encoding behind a tab", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding:\tchunked\n\n5\nhello\n0\n\n", "404 404", "hello"},
	{"transfer encoding behind a vertical tab", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: 5\nTransfer-Encoding: \vchunked\n\nhello", "400", "-"},
	{"transfer encoding in quotes", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: 5\nTransfer-Encoding: \"chunked\"\n\nhello", "400", "-"},
	{"transfer encoding in capitals", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: CHUNKED\n\n5\nhello\n0\n\n", "404 404", "hello"},
	{"transfer encoding of an HTTP/1.0 request", "POST /echo/$N HTTP/1.0\n$H\n$T\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n", "400", "-"},
	{"chunk extensions", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n5;a=b;c=\"d\"\nhello\n0;x\n\n", "404 404", "hello"},
	{"a chunk extension with a bare line feed", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n5;a\\nb\nhello\n0\n\n", "closed|400", "-"},
	{"a chunk size with a plus", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n+5\nhello\n0\n\n", "closed|400", "-"},
	{"a chunk size with 0x", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n0x5\nhello\n0\n\n", "closed|400", "-"},
	{"a negative chunk size", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n-5\nhello\n0\n\n", "closed|400", "-"},
	{"a chunk size beyond 64 bits", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n10000000000000005\nhello\n0\n\n", "closed|400", "-"},
	{"a chunk longer than its size", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n5\nhello!!\n0\n\n", "404 404", "hello"},
	{"chunks ended by a bare line feed", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n5\\nhello\\n0\\n\\n", "closed|400", "-"},
	{"bare line feeds", "GET /echo/$N HTTP/1.1\\n$H\\n$T\\n\\n", "404 404", ""},
	{"a bare line feed between header fields", "GET /echo/$N HTTP/1.1\n$H\n$T\nX-A: b\\nX-C: d\n\n", "404 404", ""},
	{"a bare carriage return in a value", "GET /echo/$N HTTP/1.1\n$H\n$T\nX-A: b\rX-C: d\n\n", "404 404", ""},
	{"a NUL in a value", "GET /echo/$N HTTP/1.1\n$H\n$T\nX-A: b\x00c\n\n", "400", "-"},
	{"a NUL in a name", "GET /echo/$N HTTP/1.1\n$H\n$T\nX-A\x00: b\n\n", "400", "-"},
	{"a header line without a colon", "GET /echo/$N HTTP/1.1\n$H\n$T\nX-A\n\n", "400", "-"},
	{"an empty header name", "GET /echo/$N HTTP/1.1\n$H\n$T\n: x\n\n", "400", "-"},
	{"a pseudo-header as a header", "GET /echo/$N HTTP/1.1\n$H\n$T\n:path: /v1/exports/all\n\n", "400", "-"},
	{"an empty line before the request", "\nGET /echo/$N HTTP/1.1\n$H\n$T\n\n", "404 404", ""},
	{"a space in the path", "GET /echo/$N /v1 HTTP/1.1\n$H\n$T\n\n", "400", "-"},
	{"a tab in the request line", "GET\t/echo/$N\tHTTP/1.1\n$H\n$T\n\n", "404 404", ""},
	{"two spaces in the request line", "GET  /echo/$N  HTTP/1.1\n$H\n$T\n\n", "404 404", ""},
	{"a request line without a version", "GET /echo/$N\n$H\n$T\n\n", "400", "-"},
	{"HTTP/1.0", "GET /echo/$N HTTP/1.0\n$H\n$T\n\n", "400", "-"},
	{"HTTP/1.0 kept alive", "GET /echo/$N HTTP/1.0\n$H\n$T\nConnection: keep-alive\n\n", "400", "-"},
	{"HTTP/1.9", "GET /echo/$N HTTP/1.9\n$H\n$T\n\n", "400", "-"},
	{"HTTP/2.0 in words", "GET /echo/$N HTTP/2.0\n$H\n$T\n\n", "400", "-"},
	{"http in small letters", "GET /echo/$N http/1.1\n$H\n$T\n\n", "400", "-"},
	{"the absolute form", "GET http://payments.example/echo/$N HTTP/1.1\n$H\n$T\n\n", "403 404", "-"},
	{"the absolute form with https", "GET https://payments.example/echo/$N HTTP/1.1\n$H\n$T\n\n", "403 404", "-"},
	{"the authority form", "GET payments.example:80 HTTP/1.1\n$H\n$T\n\n", "400", "-"},
	{"CONNECT", "CONNECT 127.0.0.1:1 HTTP/1.1\nHost: 127.0.0.1:1\n$T\n\n", "403|404", "-"},
	{"CONNECT with a path", "CONNECT /echo/$N HTTP/1.1\n$H\n$T\n\n", "400", "-"},
	{"a fragment", "GET /echo/$N#/../x HTTP/1.1\n$H\n$T\n\n", "400", "-"},
	{"no host", "GET /echo/$N HTTP/1.1\n$T\n\n", "400", "-"},
	{"two hosts", "GET /echo/$N HTTP/1.1\n$H\nHost: other.example\n$T\n\n", "400", "-"},
	{"an empty host", "GET /echo/$N HTTP/1.1\nHost:\n$T\n\n", "400", "-"},
	{"upgrade to h2c", "GET /echo/$N HTTP/1.1\n$H\n$T\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\n\n", "404 404", ""},
	{"upgrade to websocket", "GET /echo/$N HTTP/1.1\n$H\n$T\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n\n", "403", "-"},
	{"a body on GET", "GET /echo/$N HTTP/1.1\n$H\n$T\nContent-Length: 5\n\nhello", "404 404", "hello"},
	{"a request in the body", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Type: text/plain\nContent-Length: $L\n\n" + smuggled, "404 404", "$S"},
	{"a second request behind the first", "GET /echo/$N HTTP/1.1\n$H\n$T\n\n" + smuggled, "404 403 404", ""},
	{"a second request without a token", "GET /echo/$N HTTP/1.1\n$H\n$T\n\nGET /v1/payments/1 HTTP/1.1\n$H\n\n", "404 401 404", ""},
	{"a token in a trailer", "POST /echo/$N HTTP/1.1\n$H\nTransfer-Encoding: chunked\n\n5\nhello\n0\n$T\n\n", "401 404", "-"},
	{"an identity in a trailer", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n5\nhello\n0\nX-Forwarded-User: admin\n\n", "400|404 404", "-|hello"},
	{"a credential in a trailer", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n5\nhello\n0\nAuthorization: Bearer x\n\n", "400|404 404", "-|hello"},
	{"a length in a trailer", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n5\nhello\n0\nContent-Length: 60\n\n", "400|404 404", "-|hello"},
	{"a method override in a trailer", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n5\nhello\n0\nX-HTTP-Method-Override: DELETE\n\n", "400|404 404", "-|hello"},
	{"a plain trailer", "POST /echo/$N HTTP/1.1\n$H\n$T\nTransfer-Encoding: chunked\n\n5\nhello\n0\nX-Plain: yes\n\n", "404 404", "hello"},
	{"an expectation that is not known", "POST /echo/$N HTTP/1.1\n$H\n$T\nExpect: 200-maybe\nContent-Length: 5\n\nhello", "417 404", "-"},
	{"a header beyond the limit", "GET /echo/$N HTTP/1.1\n$H\n$T\nX-Big: $B\n\n", "413", "-"},
	{"headers beyond the limit", "GET /echo/$N HTTP/1.1\n$H\n$T\n$M\n", "413", "-"},
	{"a path beyond the limit", "GET /echo/$N/$B HTTP/1.1\n$H\n$T\n\n", "413", "-"},
	{"bytes that are no text in the path", "GET /echo/$N/\xff\xfe HTTP/1.1\n$H\n$T\n\n", "400", "-"},
	{"bytes that are no text in a name", "GET /echo/$N HTTP/1.1\n$H\n$T\nX-\xff: y\n\n", "400", "-"},
	{"OPTIONS of the whole server", "OPTIONS * HTTP/1.1\n$H\n$T\n\n", "403 404", "-"},
	{"a PROXY line before the request", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\nGET /echo/$N HTTP/1.1\n$H\n$T\n\n", "400", "-"},
	{"an expectation that is met", "POST /echo/$N HTTP/1.1\n$H\n$T\nExpect: 100-continue\nContent-Length: 5\n\nhello", "100 404 404", "hello"},
	{"an expectation of a denied request", "GET /v1/exports/$N HTTP/1.1\n$H\n$T\nExpect: 100-continue\nContent-Length: 5\n\nhello", "100 403 404", "-"},
	{"an extension method", "PURGE /echo/$N HTTP/1.1\n$H\n$T\n\n", "404 404", ""},
	{"a method of five thousand letters", "$M5 /echo/$N HTTP/1.1\n$H\n$T\n\n", "400", "-"},
	{"a method with a dot", "GET.X /echo/$N HTTP/1.1\n$H\n$T\n\n", "400", "-"},
	{"a query with semicolons", "GET /echo/$N?a=1;b=2 HTTP/1.1\n$H\n$T\n\n", "400", "-"},
	{"a query name in percent-encoding", "GET /echo/$N?%61=1&a=2 HTTP/1.1\n$H\n$T\n\n", "404 404", "-"},
	{"a second question mark", "GET /echo/$N?a=1?b=2 HTTP/1.1\n$H\n$T\n\n", "404 404", "-"},
	{"Connection names the credential", "GET /echo/$N HTTP/1.1\n$H\n$T\nConnection: authorization\n\n", "401 404", "-"},
	{"Connection names the host", "GET /echo/$N HTTP/1.1\n$H\n$T\nConnection: host, content-length\n\n", "400", "-"},
	{"TE with weights", "GET /echo/$N HTTP/1.1\n$H\n$T\nTE: trailers;q=0.5, gzip\nConnection: TE\n\n", "404 404", ""},
	{"two tokens in one field", "GET /echo/$N HTTP/1.1\n$H\nAuthorization: Bearer a, Bearer b\n\n", "401 404", "-"},
	{"two Authorization fields", "GET /echo/$N HTTP/1.1\n$H\n$T\n$T\n\n", "401 404", "-"},
	{"two Content-Types", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Type: text/plain\nContent-Type: application/json\nContent-Length: 5\n\nhello", "400", "-"},
	{"a Content-Type with two charsets", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Type: application/json; charset=utf-8; charset=utf-16\nContent-Length: 2\n\n{}", "400", "-"},
	{"JSON with more behind it", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Type: application/json\nContent-Length: 4\n\n{}{}", "400", "-"},
	{"JSON with a number beyond any", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Type: application/json\nContent-Length: 11\n\n{\"a\":1e999}", "400", "-"},
	{"JSON with half a surrogate", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Type: application/json\nContent-Length: 12\n\n{\"\\ud800\":1}", "400", "-"},
	{"JSON with one name in two spellings", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Type: application/json\nContent-Length: 18\n\n{\"a\":1,\"\\u0061\":2}", "400", "-"},
	{"an early-data header", "GET /echo/$N HTTP/1.1\n$H\n$T\nEarly-Data: 1\n\n", "404 404", ""},
	{"gzip that nobody can read", "POST /echo/$N HTTP/1.1\n$H\n$T\nContent-Encoding: gzip\nContent-Length: 5\n\nhello", "400", "-"},
}

// TestRawBytes sends what two servers could read in two ways: each is refused, or reaches the target as exactly the one
// request that the journal tells of.
func TestRawBytes(t *testing.T) {
	t.Parallel()
	for _, attach := range []string{"ext_proc", "ext_authz"} {
		t.Run(attach, func(t *testing.T) {
			t.Parallel()
			g := start(t, exceptExports, story.Options{Attach: attach})
			token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
			if err != nil {
				t.Fatal(err)
			}
			// All at once: Envoy keeps a connection for a second after it refused what it could not parse.
			answers := make([]string, len(bypasses))
			var work sync.WaitGroup
			for n, c := range bypasses {
				work.Go(func() {
					request, _ := c.bytes(n, token)
					answers[n] = exchangeRaw(g, request)
				})
			}
			work.Wait()
			for n, c := range bypasses {
				t.Run(strings.ReplaceAll(c.name, "/", "-"), func(t *testing.T) { c.check(t, g, n, token, answers[n]) })
			}
			held := map[string]float64{}
			for _, o := range reconcile(t, g) {
				held[o.target] = o.bytesIn
			}
			for _, s := range g.Target.Requests() {
				if strings.Contains(s.Path, "exports") || len(s.Trailer) > 0 && s.Trailer[0].Name != "x-plain" {
					t.Errorf("the target saw %s %s with the trailers %q", s.Method, s.Path, s.Trailer)
				}
				if float64(s.BodyBytes) != held[s.Path] || !s.Complete {
					t.Errorf("the target saw a body of %d bytes for %s, and the journal tells of %v", s.BodyBytes, s.Path, held[s.Path])
				}
			}
		})
	}
}

func (c bypass) check(t *testing.T, g *story.Gateway, n int, token, got string) {
	_, inner := c.bytes(n, token)
	if !slices.Contains(strings.Split(c.want, "|"), got) {
		t.Errorf("the answers are %q, and should be %q", got, c.want)
	}
	var saw []string
	for _, s := range g.Target.Requests() {
		if s.Path == fmt.Sprintf("/echo/%d", n) {
			saw = append(saw, string(s.Body))
		}
	}
	if saw == nil {
		saw = []string{"-"}
	}
	if all := strings.Join(saw, "|"); !slices.Contains(strings.Split(strings.ReplaceAll(c.body, "$S", inner), "|"), all) {
		t.Errorf("the target saw the bodies %q, and should have seen %q", saw, c.body)
	}
}

// bytes are the request with one more behind it, and what smuggled is in them.
func (c bypass) bytes(n int, token string) (request, inner string) {
	var many strings.Builder
	for i := range 300 {
		fmt.Fprintf(&many, "X-Many-%d: y\n", i)
	}
	values := strings.NewReplacer("$H", "Host: payments.example", "$T", "Authorization: Bearer "+token, "$N", fmt.Sprint(n),
		"$B", strings.Repeat("b", 70<<10), "$M5", strings.Repeat("M", 5000), "$M", many.String(), "\\n", "\x01")
	inner = strings.ReplaceAll(values.Replace(smuggled), "\n", "\r\n")
	request = values.Replace(c.request + "GET /echo/last/$N HTTP/1.1\n$H\n$T\nConnection: close\n\n")
	return strings.NewReplacer("\n", "\r\n", "\x01", "\n", "$L", fmt.Sprint(len(inner))).Replace(request), inner
}

// exchangeRaw writes text and returns the statuses of all answers until the connection is closed.
func exchangeRaw(g *story.Gateway, text string) string {
	conn, err := net.Dial("tcp", g.Address)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err.Error()
	}
	go func() { _, _ = io.WriteString(conn, text) }() // the gateway may close before it has read all
	var statuses []string
	for reader := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(reader, nil)
		if err == nil {
			statuses = append(statuses, fmt.Sprint(resp.StatusCode))
			_, err = io.Copy(io.Discard, resp.Body)
		}
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			statuses = append(statuses, "and the connection stays open")
		}
		if err != nil {
			break
		}
	}
	if len(statuses) == 0 {
		return "closed"
	}
	return strings.Join(statuses, " ")
}
