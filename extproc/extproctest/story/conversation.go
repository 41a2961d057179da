package story

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"

	"github.com/countersign/countersign/extproc/extproctest"
)

// conversation is a story being told.
type conversation struct {
	gateway *Gateway
	tb      extproctest.TB
	file    string
	told    func(string)

	line    int
	who     string
	expires time.Time // when the token that was sent last does, where who says it
	request *Request  // being written; sent at the next line that is not its own
	hold    bool      // it is to be held
	held    *held     // the one that is held; nil where its answer has come
	answer  *Answer
	asked   string // id of the request for approval that an answer named last
	awaited uint64 // seq of the record that was awaited last
	seen    int    // requests of the target that were looked at
	last    *extproctest.Seen
}

// Request is a request as it is to be sent, to the byte.
type Request struct {
	Method, Target string
	Fields         []extproctest.Field
	Body           []byte
	Chunked, HTTP2 bool
	Scheme         string // that HTTP/2 says; http unless set
}

// Answer is what came back.
type Answer struct {
	Status  int
	Header  http.Header
	Trailer http.Header
	Body    []byte
	Broken  error // why the body ended before its end; nil when it did not
}

// Problem is the problem type of a refusal, without the prefix that all have.
func (a *Answer) Problem() string {
	return strings.TrimPrefix(a.problem().Type, "urn:countersign:problem:")
}

// Approval is the id of the request for approval that a refusal names.
func (a *Answer) Approval() string { return a.problem().Approval.ID }

type problem struct {
	Type     string `json:"type"`
	Approval struct {
		ID string `json:"id"`
	} `json:"approval"`
}

func (a *Answer) problem() (p problem) {
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "application/problem+json") || json.Unmarshal(a.Body, &p) != nil {
		return problem{}
	}
	return p
}

func (c *conversation) failf(format string, args ...any) {
	c.tb.Helper()
	c.tb.Fatalf("%s: conversation line %d: %s", c.file, c.line, fmt.Sprintf(format, args...))
}

func (c *conversation) play(text string) {
	c.tb.Helper()
	c.who = "agent-1"
	for line := range strings.Lines(text) {
		c.line++
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		mark, rest, _ := strings.Cut(line, " ")
		if mark != "|" {
			c.send()
		}
		if c.told != nil {
			c.told(line)
		}
		c.say(mark, rest)
		if c.tb.Failed() {
			return
		}
	}
	c.send()
}

func (c *conversation) say(mark, rest string) {
	c.tb.Helper()
	switch mark {
	case "@":
		c.who = rest
	case ">", ">>":
		c.begin(rest)
		c.hold = mark == ">>"
	case "|":
		c.field(rest)
	case "<", "<:", "<!", "<=", "<~", "<^":
		c.release()
		if c.answer == nil {
			c.failf("nothing was asked yet")
			return
		}
		c.expect(mark, rest)
	case "=":
		c.target(rest)
	case "=:", "=!":
		c.targetField(mark, rest)
	case "!":
		c.command(rest)
	default:
		c.failf("%q begins no line of a conversation", mark)
	}
}

func (c *conversation) begin(rest string) {
	method, rest, _ := strings.Cut(rest, " ")
	target, body, _ := strings.Cut(rest, " ")
	r := &Request{Method: method, Target: target}
	switch {
	case strings.HasPrefix(body, "*"):
		n, err := strconv.Atoi(body[1:])
		if err != nil {
			c.failf("body %s: %v", body, err)
			return
		}
		r.Body = bytes.Repeat([]byte("x"), n)
	case strings.HasPrefix(body, "<"):
		r.Body = section(c.gateway.archive, body[1:])
		if strings.HasSuffix(body, ".crlf") {
			r.Body = bytes.ReplaceAll(r.Body, []byte("\n"), []byte("\r\n"))
		}
	default:
		r.Body = []byte(body)
	}
	c.request = r
}

func (c *conversation) field(rest string) {
	if codings, ok := strings.CutPrefix(rest, "coded "); ok {
		body, err := extproctest.Encode(codings, c.request.Body)
		if err != nil {
			c.failf("%v", err)
			return
		}
		c.request.Body = body
		return
	}
	switch rest {
	case "chunked":
		c.request.Chunked = true
	case "h2", "h2 https":
		c.request.HTTP2 = true
		c.request.Scheme = strings.TrimPrefix(strings.TrimPrefix(rest, "h2"), " ")
	default:
		name, value, ok := strings.Cut(rest, ":")
		if !ok {
			c.failf("%q is not a header field", rest)
			return
		}
		value = strings.ReplaceAll(unescape(strings.TrimPrefix(value, " ")), "$ID", c.asked)
		c.request.Fields = append(c.request.Fields, extproctest.Field{Name: name, Value: value})
	}
}

// unescape reads \xNN.
func unescape(s string) string {
	for {
		i := strings.Index(s, `\x`)
		if i < 0 || i+4 > len(s) {
			return s
		}
		n, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
		if err != nil {
			return s
		}
		s = s[:i] + string([]byte{byte(n)}) + s[i+4:]
	}
}

func (c *conversation) send() {
	c.tb.Helper()
	if c.request == nil {
		return
	}
	r := c.request
	c.request = nil
	if token := c.token(); token != "" {
		r.Fields = append([]extproctest.Field{{Name: "Authorization", Value: "Bearer " + token}}, r.Fields...)
	}
	if c.hold {
		c.wait(r)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	answer, err := c.gateway.Send(ctx, r)
	if err != nil {
		c.failf("%s %s: %v", r.Method, r.Target, err)
		return
	}
	c.answer = answer
}

func (c *conversation) token() string {
	c.tb.Helper()
	switch {
	case c.who == "nobody":
		return ""
	case strings.HasPrefix(c.who, "{"):
		var claims extproctest.Claims
		if err := json.Unmarshal([]byte(c.who), &claims); err != nil {
			c.failf("claims: %v", err)
		}
		if in, ok := claims["exp"].(string); ok {
			d, err := time.ParseDuration(in)
			if err != nil {
				c.failf("claims: exp: %v", err)
			}
			c.expires = time.Now().Add(d + time.Second).Truncate(time.Second)
			claims["exp"] = c.expires.Unix()
		}
		return c.gateway.Issuer.Token(claims)
	}
	token, err := c.gateway.Issuer.AgentToken(context.Background(), c.who)
	if err != nil {
		c.failf("get a token for %s: %v", c.who, err)
	}
	return token
}

func (c *conversation) expect(mark, rest string) {
	c.tb.Helper()
	a := c.answer
	if id := a.Approval(); id != "" {
		c.asked = id
	}
	switch mark {
	case "<":
		want, problem, _ := strings.Cut(rest, " ")
		if strconv.Itoa(a.Status) != want || a.Problem() != problem {
			c.failf("the answer is %d %s, and should be %s\n%s", a.Status, a.Problem(), rest, a.Body)
		}
		if problem == "" && a.Broken != nil {
			c.failf("the answer broke off: %v", a.Broken)
		}
	case "<:":
		name, value, _ := strings.Cut(rest, ": ")
		if got := strings.Join(a.Header.Values(name), " | "); got != value {
			c.failf("header field %s is %q, and should be %q", name, got, value)
		}
	case "<!":
		if got := a.Header.Values(rest); len(got) > 0 {
			c.failf("the answer has the header field %s: %q", rest, got)
		}
	case "<=":
		if got := strings.TrimSuffix(string(a.Body), "\n"); got != rest {
			c.failf("the body is\n    %s\nand should be\n    %s", got, rest)
		}
	case "<~":
		if !bytes.Contains(a.Body, []byte(rest)) {
			c.failf("%q is not in the body\n    %s", rest, a.Body)
		}
	case "<^":
		if all := fmt.Sprint(a.Header, a.Trailer, string(a.Body)); strings.Contains(all, rest) {
			c.failf("%q is in the answer\n    %s", rest, all)
		}
	}
}

func (c *conversation) target(rest string) {
	c.tb.Helper()
	seen := c.gateway.Target.Requests()
	var got []string
	for i := range seen[c.seen:] {
		s := seen[c.seen+i]
		got = append(got, s.Method+" "+s.Path)
		c.last = &s
	}
	c.seen = len(seen)
	if all := strings.Join(got, ", "); all != rest && (rest != "nothing" || all != "") {
		c.failf("the target saw %q, and should have seen %q", all, rest)
	}
}

func (c *conversation) targetField(mark, rest string) {
	c.tb.Helper()
	if c.last == nil {
		c.failf("the target saw nothing yet")
		return
	}
	name, value, _ := strings.Cut(rest, ": ")
	got := c.last.Get(name)
	if mark == "=!" && len(got) > 0 || mark == "=:" && strings.Join(got, " | ") != value {
		c.failf("the target saw the header field %s as %q", name, got)
	}
}

func (c *conversation) command(rest string) {
	c.tb.Helper()
	name, argument, _ := strings.Cut(rest, " ")
	switch name {
	case "policy":
		before := len(c.gateway.Records())
		text, file, _ := strings.Cut(argument, " ")
		c.gateway.write("policies/"+cmp.Or(file, "payments.rego"), string(section(c.gateway.archive, text)))
		c.gateway.AwaitRecord("policy.activated", func(r Record) bool { return r.Type == "policy.activated" && r.Seq > uint64(before) })
	case "agent":
		before := len(c.gateway.Records())
		c.gateway.write("countersign.yaml", c.gateway.config(string(section(c.gateway.archive, argument))))
		c.gateway.AwaitRecord("config.activated", func(r Record) bool { return r.Type == "config.activated" && r.Seq > uint64(before) })
	case "approve", "reject":
		c.decide(name, argument)
	case "expire":
		time.Sleep(time.Until(c.expires)) // there is no event of it: that is the point
	case "leave":
		c.leave()
	case "await":
		c.awaited = c.gateway.AwaitRecord(argument, func(r Record) bool { return r.Type == argument && r.Seq > c.awaited }).Seq
	default:
		c.failf("there is no command %q", name)
	}
}

// Send sends r to the gateway's listener, on a connection of its own, which is closed when ctx ends.
func (g *Gateway) Send(ctx context.Context, r *Request) (*Answer, error) {
	if r.HTTP2 {
		return g.sendHTTP2(ctx, r)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", g.Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	// A gateway that refuses early may close before all is written; what it said is read all the same.
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(r.Bytes(g.Address))
		written <- err
	}()
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, &http.Request{Method: r.Method})
	for err == nil && resp.StatusCode == http.StatusContinue {
		resp, err = http.ReadResponse(reader, &http.Request{Method: r.Method})
	}
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return readAnswer(resp)
}

// Bytes is r as HTTP/1.1. A Host field is added where r has none, and the length of the body where nothing says it.
func (r *Request) Bytes(host string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", r.Method, r.Target)
	has := map[string]bool{}
	for _, f := range r.Fields {
		has[strings.ToLower(f.Name)] = true
	}
	if !has["host"] {
		fmt.Fprintf(&b, "Host: %s\r\n", host)
	}
	for _, f := range r.Fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	switch {
	case r.Chunked:
		b.WriteString("Transfer-Encoding: chunked\r\n")
	case len(r.Body) > 0 && !has["content-length"] && !has["transfer-encoding"]:
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.Body))
	}
	b.WriteString("\r\n")
	if !r.Chunked {
		b.Write(r.Body)
		return b.Bytes()
	}
	for body := r.Body; len(body) > 0; {
		n := min(len(body), 1000)
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	b.WriteString("0\r\n\r\n")
	return b.Bytes()
}

func (g *Gateway) sendHTTP2(ctx context.Context, r *Request) (*Answer, error) {
	// With prior knowledge (RFC 9113, section 3.3), whatever the scheme says.
	plain := func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	t := &http2.Transport{DisableCompression: true, AllowHTTP: true, DialTLSContext: plain} //nolint:staticcheck // net/http's own goes by the scheme
	defer t.CloseIdleConnections()                                                          //nolint:staticcheck // as above
	var body io.Reader
	if len(r.Body) > 0 {
		body = bytes.NewReader(r.Body)
	}
	if r.Chunked {
		body = io.MultiReader(body) // of no length that is known, so that no field tells of it
	}
	request, err := http.NewRequestWithContext(ctx, r.Method, cmp.Or(r.Scheme, "http")+"://"+g.Address+r.Target, body)
	if err != nil {
		return nil, err
	}
	for _, f := range r.Fields {
		request.Header.Add(f.Name, f.Value)
	}
	resp, err := t.RoundTrip(request) //nolint:staticcheck // as above
	if err != nil {
		return nil, err
	}
	return readAnswer(resp)
}

func readAnswer(resp *http.Response) (*Answer, error) {
	defer resp.Body.Close()
	a := &Answer{Status: resp.StatusCode, Header: resp.Header}
	a.Body, a.Broken = io.ReadAll(resp.Body)
	a.Trailer = resp.Trailer
	return a, nil
}
