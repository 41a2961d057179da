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

// overHTTP is the kind of a story unless its options say another: an API, with the sample API as its target.
var overHTTP = Kind{
	Resource: func(g *Gateway) string {
		var b strings.Builder
		fmt.Fprintf(&b, "kind: http\nlisten: {address: %q}\ntarget: %q\n", g.Address, g.Target.URL)
		if !strings.Contains(string(section(g.archive, "resource.yaml")), "credential:") {
			b.WriteString("credential: {value_file: ./secrets/payments}\n")
		}
		if g.options.Attach != "" {
			fmt.Fprintf(&b, "attach: %s\n", g.options.Attach)
		}
		return b.String()
	},
	Speak: func(c *Conversation) Speaker { return &speech{Conversation: c} },
}

// speech is a conversation over HTTP.
type speech struct {
	*Conversation

	request *Request // being written; sent at the next line that is not about it
	hold    bool     // it will be held
	held    *held    // nil if none is held
	answer  *Answer
	seen    int // how many of the target's requests were looked at
	last    *extproctest.Seen
}

// Say takes a line.
func (c *speech) Say(mark, rest string) bool {
	c.tb.Helper()
	if mark != "|" {
		c.Settle()
	}
	switch mark {
	case ">", ">>":
		c.begin(rest)
		c.hold = mark == ">>"
	case "|":
		c.field(rest)
	case "<", "<:", "<!", "<=", "<~", "<^":
		c.release()
		if c.answer == nil {
			c.Failf("nothing was asked yet")
			return true
		}
		c.expect(mark, rest)
	case "=":
		c.target(rest)
	case "=:", "=!":
		c.targetField(mark, rest)
	default:
		return false
	}
	return true
}

// Request is a request as it is to be sent, to the byte.
type Request struct {
	Method, Target string
	Fields         []extproctest.Field
	Body           []byte
	Chunked, HTTP2 bool
	Scheme         string // in HTTP/2; http unless set
}

// Answer is what came back.
type Answer struct {
	Status  int
	Header  http.Header
	Trailer http.Header
	Body    []byte
	Broken  error // why the body broke off; nil if it is whole
}

// Problem returns the problem type of a refusal, without the prefix that all have.
func (a *Answer) Problem() string {
	return strings.TrimPrefix(a.problem().Type, "urn:countersign:problem:")
}

// Approval returns the id of the request for approval that a refusal names.
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

func (c *speech) begin(rest string) {
	method, rest, _ := strings.Cut(rest, " ")
	target, body, _ := strings.Cut(rest, " ")
	r := &Request{Method: method, Target: target}
	switch {
	case strings.HasPrefix(body, "*"):
		n, err := strconv.Atoi(body[1:])
		if err != nil {
			c.Failf("body %s: %v", body, err)
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

func (c *speech) field(rest string) {
	if codings, ok := strings.CutPrefix(rest, "coded "); ok {
		body, err := extproctest.Encode(codings, c.request.Body)
		if err != nil {
			c.Failf("%v", err)
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
			c.Failf("%q is not a header field", rest)
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

// Settle sends the request that is being written.
func (c *speech) Settle() {
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
		c.Failf("%s %s: %v", r.Method, r.Target, err)
		return
	}
	c.answer = answer
}

func (c *speech) expect(mark, rest string) {
	c.tb.Helper()
	a := c.answer
	if id := a.Approval(); id != "" {
		c.asked = id
	}
	switch mark {
	case "<":
		want, problem, _ := strings.Cut(rest, " ")
		if strconv.Itoa(a.Status) != want || a.Problem() != problem {
			c.Failf("the answer is %d %s, and should be %s\n%s", a.Status, a.Problem(), rest, a.Body)
		}
		if problem == "" && a.Broken != nil {
			c.Failf("the answer broke off: %v", a.Broken)
		}
	case "<:":
		name, value, _ := strings.Cut(rest, ": ")
		if got := strings.Join(a.Header.Values(name), " | "); got != value {
			c.Failf("header field %s is %q, and should be %q", name, got, value)
		}
	case "<!":
		if got := a.Header.Values(rest); len(got) > 0 {
			c.Failf("the answer has the header field %s: %q", rest, got)
		}
	case "<=":
		if got := strings.TrimSuffix(string(a.Body), "\n"); got != rest {
			c.Failf("the body is\n    %s\nand should be\n    %s", got, rest)
		}
	case "<~":
		if !bytes.Contains(a.Body, []byte(rest)) {
			c.Failf("%q is not in the body\n    %s", rest, a.Body)
		}
	case "<^":
		if all := fmt.Sprint(a.Header, a.Trailer, string(a.Body)); strings.Contains(all, rest) {
			c.Failf("%q is in the answer\n    %s", rest, all)
		}
	}
}

func (c *speech) target(rest string) {
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
		c.Failf("the target saw %q, and should have seen %q", all, rest)
	}
}

func (c *speech) targetField(mark, rest string) {
	c.tb.Helper()
	if c.last == nil {
		c.Failf("the target saw nothing yet")
		return
	}
	name, value, _ := strings.Cut(rest, ": ")
	got := c.last.Get(name)
	if mark == "=!" && len(got) > 0 || mark == "=:" && strings.Join(got, " | ") != value {
		c.Failf("the target saw the header field %s as %q", name, got)
	}
}

// held is a request that waits for people.
type held struct {
	before int // records, when it was sent
	leave  context.CancelFunc
	answer chan *Answer
	err    error // why there is no answer; set before answer is closed
}

// wait sends r, and returns when people are asked about it.
func (c *speech) wait(r *Request) {
	c.tb.Helper()
	if c.held != nil {
		c.Failf("a request is held already")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	h := &held{before: len(c.gateway.Records()), leave: cancel, answer: make(chan *Answer, 1)}
	c.held, c.answer = h, nil
	go func() {
		defer close(h.answer)
		var a *Answer
		if a, h.err = c.gateway.Send(ctx, r); h.err == nil {
			h.answer <- a
		}
	}()
	c.tb.Cleanup(cancel)
	c.since(h, "operation.decided")
}

// since waits for a record of a type that came after h was sent.
func (c *speech) since(h *held, kind string) {
	c.tb.Helper()
	c.gateway.AwaitRecord(kind, func(r Record) bool { return r.Type == kind && r.Seq > uint64(h.before) })
}

// release waits for the answer to the request that is held.
func (c *speech) release() {
	c.tb.Helper()
	if c.held == nil {
		return
	}
	h := c.held
	c.held = nil
	if c.answer = <-h.answer; c.answer == nil {
		c.Failf("the request that was held got no answer: %v", h.err)
	}
}

// Leave closes the connection of the request that is held.
func (c *speech) Leave() {
	c.tb.Helper()
	if c.held == nil {
		c.Failf("no request is held")
		return
	}
	h := c.held
	c.held = nil
	h.leave()
	<-h.answer
	c.since(h, "operation.finished")
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
	// A gateway that refuses early may close before all is written; read its answer even then.
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
	return readAnswer(resp), nil
}

// Bytes returns r as HTTP/1.1. It adds a Host field and the length of the body if r does not say them.
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
		body = io.MultiReader(body) // hides the length, so that no field says it
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
	return readAnswer(resp), nil
}

func readAnswer(resp *http.Response) *Answer {
	defer resp.Body.Close()
	a := &Answer{Status: resp.StatusCode, Header: resp.Header}
	a.Body, a.Broken = io.ReadAll(resp.Body)
	a.Trailer = resp.Trailer
	return a
}
