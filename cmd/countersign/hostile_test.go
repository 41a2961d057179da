package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestSlowClients: a request that never becomes whole is ended by a bound, whether its head, its body or its trailers
// trickle, and tells nothing to the target.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	g := watch(t, allowAll+"-- resource.yaml --\nlimits: {request_time: 2s}\n", story.Options{})
	g.Target.Reset()
	token := head(t, g.Gateway, "POST", "/echo")
	type slow struct {
		name, begin, again string
		status             int
		within             time.Duration
		wire               *wire
	}
	all := []slow{
		{"a body that trickles", token + "Content-Length: 1000\r\n\r\n", "x", 400, 8 * time.Second, nil},
		{"a chunked body that trickles", token + "Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", 400, 8 * time.Second, nil},
		{"a body of which nothing comes", token + "Content-Length: 1000\r\n\r\n", "", 400, 8 * time.Second, nil},
		{"trailers that trickle", token + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", "X-More: 1\r\n", 400, 8 * time.Second, nil},
		{"a head that trickles", "GET /v1/payments/7 HTTP/1.1\r\nHost: a\r\n", "X-More: 1\r\n", 400, 15 * time.Second, nil},
	}
	stop := make(chan struct{})
	defer close(stop)
	began := time.Now()
	for i := range all {
		all[i].wire = dial(t, g.Gateway)
		all[i].wire.send(t, "%s", all[i].begin)
		go trickle(all[i].wire.Conn, all[i].again, stop)
	}
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			resp := c.wire.answer(t, "POST")
			if resp.StatusCode != c.status || time.Since(began) > c.within {
				t.Errorf("answer %d after %v", resp.StatusCode, time.Since(began))
			}
			var problem struct{ Type, Detail string }
			decodeJSON(t, resp.Body, &problem)
			if problem.Type != "urn:countersign:problem:unreadable" || c.within == 8*time.Second && !strings.Contains(problem.Detail, "within 2s") {
				t.Errorf("the problem is %+v", problem)
			}
		})
	}
	if n := len(g.Target.Requests()); n != 0 {
		t.Errorf("the target saw %d requests", n)
	}
	if got := g.ended(t); got["refused"] != 4 {
		t.Errorf("outcomes: %v", got)
	}
	g.unharmed(t)
}

// TestSlowBodyThroughExtAuthz: there Envoy holds the body, so Envoy is what bounds it: limits.request_time, the longest hold
// and a margin of ten seconds. Policy was not asked, and the target saw nothing.
func TestSlowBodyThroughExtAuthz(t *testing.T) {
	t.Parallel()
	g := watch(t, allowAll+"-- resource.yaml --\nlimits: {request_time: 1s}\n-- config.yaml --\napprovals: {hold: 1s}\n", story.Options{Attach: "ext_authz"})
	g.Target.Reset()
	w := dial(t, g.Gateway)
	w.send(t, "%s\r\n", head(t, g.Gateway, "POST", "/echo", "Content-Length: 1000"))
	stop := make(chan struct{})
	defer close(stop)
	go trickle(w.Conn, "x", stop)
	resp := w.answer(t, "POST")
	var problem struct{ Type string }
	decodeJSON(t, resp.Body, &problem)
	if resp.StatusCode != 400 || problem.Type != "urn:countersign:problem:unreadable" {
		t.Errorf("answer %d, %+v", resp.StatusCode, problem)
	}
	if n := len(g.Target.Requests()); n != 0 {
		t.Errorf("the target saw %d requests", n)
	}
	g.unharmed(t)
}

// trickle writes text ten times a second until it is stopped or refused.
func trickle(w io.Writer, text string, stop <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := io.WriteString(w, text); err != nil {
				return
			}
		case <-stop:
			return
		}
	}
}

// TestClientsThatLeave resets, half-closes and cancels in every phase of a request, many at a time.
func TestClientsThatLeave(t *testing.T) {
	t.Parallel()
	const each = 20
	g := watch(t, redactAll, story.Options{})
	g.Target.Reset()
	get := head(t, g.Gateway, "GET", "/hold/never")
	post := head(t, g.Gateway, "POST", "/echo", "Content-Length: 1000")
	feed := func(i int) string { return fmt.Sprintf("left-%d", i) }
	inBody := func(w *wire) { w.send(t, "%s\r\n%s", post, strings.Repeat("x", 500)) }
	inAnswer := func(i int, w *wire, coding string) {
		w.send(t, "%s\r\n", head(t, g.Gateway, "GET", "/feed/"+feed(i)+"?type=application/x-ndjson"+coding))
		if err := g.Target.Feed(feed(i)).Send(t.Context(), "{\"n\":1}\n"); err != nil {
			t.Error(err)
		}
		w.answer(t, "GET")
	}
	for _, phase := range []struct {
		name  string
		begin func(i int, w *wire)
	}{
		{"in the head", func(_ int, w *wire) { w.send(t, "%s", get) }},
		{"in the body", func(_ int, w *wire) { inBody(w) }},
		{"while the target thinks", func(_ int, w *wire) { w.send(t, "%s\r\n", get) }},
		{"in the answer", func(i int, w *wire) { inAnswer(i, w, "") }},
		{"in an answer in gzip", func(i int, w *wire) { inAnswer(i, w, "&coding=gzip") }},
	} {
		for _, leave := range []struct {
			name string
			do   func(*wire)
		}{
			{"a reset", func(w *wire) { _ = w.Conn.(*net.TCPConn).SetLinger(0); _ = w.Close() }},
			{"a close", func(w *wire) { _ = w.Close() }},
			{"half a close", func(w *wire) { _ = w.Conn.(*net.TCPConn).CloseWrite() }},
		} {
			if phase.name == "while the target thinks" || strings.Contains(phase.name, "answer") {
				if leave.name == "half a close" {
					continue // is no leaving: the client waits for its answer
				}
			}
			t.Run(leave.name+" "+phase.name, func(t *testing.T) {
				clients := make([]*wire, each)
				before := len(g.Target.Requests())
				known := accounted(g.Gateway)
				for i := range clients {
					clients[i] = dial(t, g.Gateway)
					phase.begin(i, clients[i])
				}
				if phase.name == "while the target thinks" {
					if _, err := g.Target.WaitRequests(t.Context(), func(s []extproctest.Seen) bool { return len(s) == before+each }); err != nil {
						t.Fatal(err)
					}
				}
				if phase.name == "in the body" {
					// A reset takes away what Envoy has not read yet.
					extproctest.Await(t, "Envoy to have every head", 20*time.Second, func(context.Context) error {
						if n := envoyStat(t, g.Gateway, "http.agents.downstream_rq_active"); n != each {
							return fmt.Errorf("it has %d", n)
						}
						return nil
					})
				}
				for _, w := range clients {
					leave.do(w)
				}
				if phase.name != "in the head" {
					extproctest.Await(t, "every decision", 20*time.Second, func(context.Context) error {
						if n := accounted(g.Gateway) - known; n != each {
							return fmt.Errorf("%d of %d", n, each)
						}
						return nil
					})
				}
			})
		}
	}
	if got := g.ended(t); len(got) != 2 || got["completed"] != 5 || got["client_gone"] < 4*each {
		t.Errorf("outcomes: %v; all but the first five operations were left by their clients", got)
	}
	if _, err := g.Target.WaitRequests(t.Context(), func(seen []extproctest.Seen) bool {
		return !slices.ContainsFunc(seen, func(s extproctest.Seen) bool { return !s.Gone })
	}); err != nil {
		t.Errorf("the target was not told that its clients left: %v", err)
	}
	g.unharmed(t)
}

// envoyStat asks Envoy for a statistic.
func envoyStat(t testing.TB, g *story.Gateway, name string) int {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", filepath.Join(g.Data(), "envoy-admin.sock"))
	}}}
	resp, err := client.Get("http://envoy/stats?filter=" + url.QueryEscape("^"+regexp.QuoteMeta(name)+"$"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, value, _ := strings.Cut(strings.TrimSpace(string(text)), ": ")
	n, err := strconv.Atoi(value)
	if err != nil {
		t.Fatalf("read Envoy's %s in %q: %v", name, text, err)
	}
	return n
}

// accounted counts the requests that the journal tells of: by a decision, and where the client was gone before there could
// be one, by Envoy's access log alone.
func accounted(g *story.Gateway) int {
	ids := map[any]bool{}
	for _, r := range g.Records() {
		if id := r.Body["request_id"]; id != nil && id != "" && (r.Type == "operation.decided" || r.Type == "transit") {
			ids[id] = true
		}
	}
	return len(ids)
}

// TestManyConnections holds a thousand requests at the target at once, each on a connection of its own or, over HTTP/2, on as
// many as it takes to stay below what a server lets onto one. Ten thousand are TestSoakConnections.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	const clients = 1000
	for name, archive := range map[string]string{"HTTP/1.1": allowAll, "HTTP/2": allowAll + "-- resource.yaml --\ntarget_http2: true\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := watch(t, archive, story.Options{})
			crowd(t, g, clients)
			g.unharmed(t)
		})
	}
}

// crowd has that many clients wait for the target at once, each on a connection of its own, and then be answered.
func crowd(t testing.TB, g *watched, clients int) {
	t.Helper()
	gate := fmt.Sprintf("crowd-%d", time.Now().UnixNano())
	text := head(t, g.Gateway, "GET", "/hold/"+gate) + "\r\n"
	conns := make([]*wire, clients)
	for i := range conns {
		conns[i] = dial(t, g.Gateway)
		conns[i].send(t, "%s", text)
	}
	extproctest.Await(t, "every request to be with the target", time.Minute, func(context.Context) error {
		if open := g.vitals(t).open; open != float64(clients) {
			return fmt.Errorf("%v are open", open)
		}
		return nil
	})
	held := g.vitals(t)
	t.Logf("%d at once: %+v, before %+v: %d bytes each", clients, held, g.before, (held.resident-g.before.resident)/int64(clients))
	g.Target.Release(gate)
	var wg sync.WaitGroup
	var failed sync.Map
	for i, w := range conns {
		wg.Go(func() {
			resp, err := http.ReadResponse(w.Reader, nil)
			if err != nil || resp.StatusCode != 200 {
				failed.Store(i, fmt.Sprint(err, resp))
			}
			_ = w.Close()
		})
	}
	wg.Wait()
	failed.Range(func(i, why any) bool {
		t.Errorf("client %v: %v", i, why)
		return false
	})
}

// h2 is an HTTP/2 client that says what it likes, frame by frame.
type h2 struct {
	net.Conn
	*http2.Framer
	block bytes.Buffer
	hpack *hpack.Encoder
	next  uint32
}

func dialH2(t testing.TB, g *story.Gateway) *h2 {
	t.Helper()
	w := dial(t, g)
	c := &h2{Conn: w.Conn, Framer: http2.NewFramer(w.Conn, w.Reader), next: 1}
	c.hpack = hpack.NewEncoder(&c.block)
	if _, err := io.WriteString(c.Conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// fields is a header block.
func (c *h2) fields(pairs ...string) []byte {
	c.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = c.hpack.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(c.block.Bytes())
}

// open sends the head of a request and returns its stream.
func (c *h2) open(end bool, method, path, token string) (uint32, error) {
	id := c.next
	c.next += 2
	return id, c.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, EndHeaders: true, EndStream: end,
		BlockFragment: c.fields(":method", method, ":scheme", "http", ":authority", "a.example", ":path", path, "authorization", "Bearer "+token),
	})
}

// goAway reads until the gateway ends the connection.
func (c *h2) goAway(t testing.TB) {
	t.Helper()
	for {
		f, err := c.ReadFrame()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Fatal("the connection was not ended")
		}
		if err != nil {
			return
		}
		if away, ok := f.(*http2.GoAwayFrame); ok && away.ErrCode != http2.ErrCodeNo {
			return
		}
	}
}

// TestHTTP2Abuse: rapid reset (CVE-2023-44487), header blocks without end (CVE-2024-27316), floods of frames that must be
// answered, and requests that are cancelled while they are judged.
func TestHTTP2Abuse(t *testing.T) {
	t.Parallel()
	g := watch(t, allowAll, story.Options{})
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		do   func(c *h2) error // until an error comes
	}{
		{"rapid reset", func(c *h2) error {
			id, err := c.open(true, "GET", "/v1/payments/7", token)
			return errors.Join(err, c.WriteRSTStream(id, http2.ErrCodeCancel))
		}},
		{"rapid reset of requests whose body is awaited", func(c *h2) error {
			id, err := c.open(false, "POST", "/echo", token)
			return errors.Join(err, c.WriteRSTStream(id, http2.ErrCodeCancel))
		}},
		{"a header block without end", func(c *h2) error {
			if c.next == 1 {
				c.next += 2
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(":method", "GET")})
			}
			return c.WriteContinuation(1, false, c.fields("x-more", strings.Repeat("x", 1000)))
		}},
		{"pings", func(c *h2) error { return c.WritePing(false, [8]byte{}) }},
		{"settings", func(c *h2) error { return c.WriteSettings() }},
		{"empty data frames", func(c *h2) error {
			if c.next == 1 {
				_, err := c.open(false, "POST", "/echo", token)
				return err
			}
			return c.WriteData(1, false, nil)
		}},
		{"priorities", func(c *h2) error { return c.WritePriority(1, http2.PriorityParam{StreamDep: 3}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := dialH2(t, g.Gateway)
			for range 20_000 {
				if c.do(conn) != nil {
					break
				}
			}
			conn.goAway(t)
		})
	}
	g.unharmed(t)
}

// TestWhatFollowsARefusalIsNoRequest: a refusal comes before the rest of the body is read, and that rest must not be taken
// for the next request.
func TestWhatFollowsARefusalIsNoRequest(t *testing.T) {
	t.Parallel()
	g := watch(t, `
-- policy.rego --
package rules.payments

allow contains {"id": "all"}

deny contains {"id": "no-put"} if input.http.method == "PUT"
-- resource.yaml --
limits: {request_body: 1KiB}
`, story.Options{})
	g.Target.Reset()
	hidden := head(t, g.Gateway, "DELETE", "/v1/payments/7") + "\r\n"
	padding := strings.Repeat("x", 2<<10)
	for _, c := range []struct {
		name, request string
		status        int
	}{
		{"too large", head(t, g.Gateway, "POST", "/echo", fmt.Sprintf("Content-Length: %d", len(padding)+len(hidden))) + "\r\n" + padding + hidden, 413},
		{"refused by its head", head(t, g.Gateway, "POST", "/a//b", fmt.Sprintf("Content-Length: %d", len(hidden))) + "\r\n" + hidden, 400},
		{"without a credential", fmt.Sprintf("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(hidden), hidden), 401},
		{"a length and chunks", head(t, g.Gateway, "POST", "/echo", "Content-Length: 4", "Transfer-Encoding: chunked") + "\r\n0\r\n\r\n" + hidden, 400},
		{"an upgrade that is not accepted", head(t, g.Gateway, "GET", "/v1/payments/7", "Connection: Upgrade", "Upgrade: websocket") + "\r\n" + hidden, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := dial(t, g.Gateway)
			w.send(t, "%s", c.request)
			resp := w.answer(t, "POST")
			if resp.StatusCode != c.status {
				t.Errorf("answer %d", resp.StatusCode)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = w.Conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, w) // until the gateway closes
			if seen := g.Target.Requests(); len(seen) > 0 {
				t.Errorf("the target saw %s %s", seen[0].Method, seen[0].Path)
			}
		})
	}
	g.Target.Reset()
	w := dial(t, g.Gateway)
	w.send(t, "%s\r\n%s\r\n{}%s\r\n", head(t, g.Gateway, "GET", "/v1/payments/1"), head(t, g.Gateway, "PUT", "/v1/payments/2", "Content-Length: 2"), head(t, g.Gateway, "GET", "/v1/payments/3"))
	for i, want := range []int{200, 403, 200} {
		resp := w.answer(t, "GET")
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != want {
			t.Errorf("answer %d of three in one write is %d, and should be %d", i+1, resp.StatusCode, want)
		}
	}
	if seen := g.Target.Requests(); len(seen) != 2 || seen[0].Path != "/v1/payments/1" || seen[1].Path != "/v1/payments/3" {
		t.Errorf("the target saw %+v", seen)
	}
	g.unharmed(t)
}

// TestDeclinedUpgradeIsNoTunnel: a target that does not upgrade must not be sent the bytes that follow, which it would read
// as a request that nobody judged.
func TestDeclinedUpgradeIsNoTunnel(t *testing.T) {
	t.Parallel()
	g := watch(t, allowAll+"-- resource.yaml --\nupgrades: [websocket, connect]\n", story.Options{})
	hidden := "DELETE /v1/payments/7 HTTP/1.1\r\nHost: a\r\nX-Hidden: yes\r\n\r\n"
	authority := "Host: other.example:80"
	for _, c := range []struct{ name, request string }{
		{"a websocket", head(t, g.Gateway, "GET", "/v1/payments/7", "Connection: Upgrade", "Upgrade: websocket") + "\r\n" + hidden},
		{"a tunnel", strings.Replace(head(t, g.Gateway, "CONNECT", "other.example:80"), "Host: "+g.Address, authority, 1) + "\r\n" + hidden},
		{"a websocket with a body", head(t, g.Gateway, "POST", "/echo", "Connection: Upgrade", "Upgrade: websocket", fmt.Sprintf("Content-Length: %d", len(hidden))) + "\r\n" + hidden},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := dial(t, g.Gateway)
			w.send(t, "%s", c.request)
			resp := w.answer(t, "GET")
			t.Logf("answer %d", resp.StatusCode)
			_ = w.Conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, w)
		})
	}
	g.ended(t)
	for _, s := range g.Target.Requests() {
		if s.Method == "DELETE" || len(s.Get("X-Hidden")) > 0 {
			t.Errorf("the target saw %s %s, which nobody judged", s.Method, s.Path)
		}
	}
	g.unharmed(t)
}

// TestOversizedParts: heads and trailers past the limits are refused before anything is held of them.
func TestOversizedParts(t *testing.T) {
	t.Parallel()
	g := watch(t, allowAll+"-- resource.yaml --\nlimits: {request_time: 3s}\n", story.Options{})
	g.Target.Reset()
	token := head(t, g.Gateway, "POST", "/echo", "Transfer-Encoding: chunked")
	const most = 64 << 20
	for _, c := range []struct{ name, begin, again string }{
		{"a head of many fields", head(t, g.Gateway, "GET", "/v1/payments/7"), "X-More: " + strings.Repeat("x", 100) + "\r\n"},
		{"a field without end", head(t, g.Gateway, "GET", "/v1/payments/7") + "X-Long: ", strings.Repeat("x", 1000)},
		{"a request line without end", "GET /", strings.Repeat("x", 1000)},
		{"trailers without end", token + "\r\n1\r\nx\r\n0\r\n", "X-More: " + strings.Repeat("x", 100) + "\r\n"},
		{"a trailer without end", token + "\r\n1\r\nx\r\n0\r\nX-Long: ", strings.Repeat("x", 1000)},
		{"a body without end", token + "\r\n", "3e8\r\n" + strings.Repeat("x", 1000) + "\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := dial(t, g.Gateway)
			written := make(chan int, 1)
			go func() {
				n, err := io.WriteString(w.Conn, c.begin)
				for err == nil && n < most {
					var m int
					m, err = io.WriteString(w.Conn, c.again)
					n += m
				}
				written <- n
			}()
			resp, err := http.ReadResponse(w.Reader, nil)
			if err == nil && resp.StatusCode < 400 {
				t.Errorf("answer %d", resp.StatusCode)
			}
			_ = w.Close()
			if n := <-written; n >= most {
				t.Errorf("%d bytes of it were taken", n)
			}
		})
	}
	t.Run("a chunk extension without end", func(t *testing.T) {
		// Envoy drops them as they come: they are held by time and take no memory.
		w := dial(t, g.Gateway)
		go func() {
			_, err := io.WriteString(w.Conn, token+"\r\n1;")
			for text := strings.Repeat("x", 1000); err == nil; {
				_, err = io.WriteString(w.Conn, text)
			}
		}()
		if resp, err := http.ReadResponse(w.Reader, nil); err != nil || resp.StatusCode != 400 {
			t.Errorf("answer %v, %v", resp, err)
		}
	})
	if seen := g.Target.Requests(); len(seen) > 0 {
		t.Errorf("the target saw %d requests", len(seen))
	}
	g.unharmed(t)
}

// TestHostileTargets asks for every kind of broken answer, redacted and not: each ends, with an outcome, and leaves nothing.
func TestHostileTargets(t *testing.T) {
	t.Parallel()
	for name, archive := range map[string]string{"passed": allowAll, "redacted": redactAll + "\nredact contains {\"detect\": \"ssn\"}\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := watch(t, archive+"-- resource.yaml --\ntimeout: 10s\n", story.Options{})
			n := 0
			for _, kind := range extproctest.HostileKinds() {
				for _, method := range []string{"GET", "HEAD", "POST"} {
					if kind == "gzip-bomb" && method != "GET" {
						continue // slow to make
					}
					if a, err := g.ask(t, method, "/hostile/"+kind); err == nil && name == "redacted" && strings.Contains(fmt.Sprint(a.Header, a.Trailer, string(a.Body)), "987-65-4320") {
						t.Errorf("%s %s shows a protected value: %s", method, kind, a.Body)
					}
					n++
				}
			}
			results := g.ended(t)
			sum := 0
			for _, c := range results {
				sum += c
			}
			if sum != n+5 {
				t.Errorf("%d requests have the outcomes %v", n, results)
			}
			g.unharmed(t)
		})
	}
}

// TestEndlessTargets: an answer without end, in whatever part of it, is broken off by a bound or goes to a client that
// wants it; neither takes memory.
func TestEndlessTargets(t *testing.T) {
	t.Parallel()
	for name, archive := range map[string]string{"passed": allowAll, "redacted": redactAll} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := watch(t, archive+"-- resource.yaml --\ntimeout: 2s\nlimits: {response_body: 16MiB}\n", story.Options{})
			g.Target.Reset()
			for _, kind := range extproctest.EndlessKinds() {
				a, err := g.ask(t, "GET", "/endless/"+kind)
				switch {
				case err != nil:
					t.Errorf("%s: %v", kind, err)
				case a.Status < 500 && a.Broken == nil:
					t.Errorf("%s: %d with %d bytes, to its end", kind, a.Status, len(a.Body))
				case len(a.Body) > 16<<20:
					t.Errorf("%s: %d bytes", kind, len(a.Body))
				}
			}
			results := g.ended(t)
			if results["withheld"]+results["target_failed"] != len(extproctest.EndlessKinds()) {
				t.Errorf("outcomes: %v", results)
			}
			if _, err := g.Target.WaitRequests(t.Context(), func(seen []extproctest.Seen) bool {
				return !slices.ContainsFunc(seen, func(s extproctest.Seen) bool { return !s.Gone })
			}); err != nil {
				t.Errorf("the target still talks: %v", err)
			}
			g.unharmed(t)
		})
	}
}

// TestTargetThatNeverAnswers is bounded by the resource's timeout.
func TestTargetThatNeverAnswers(t *testing.T) {
	t.Parallel()
	g := watch(t, allowAll+"-- resource.yaml --\ntimeout: 1s\n", story.Options{})
	if a, err := g.ask(t, "GET", "/hold/never"); err != nil || a.Status != 502 || a.Problem() != "withheld" {
		t.Errorf("answer %+v, %v", a, err)
	}
	if got := g.ended(t); got["target_failed"] != 1 {
		t.Errorf("outcomes: %v", got)
	}
	g.unharmed(t)
}

// TestLargeDownload passes 100 MB by: hashed, counted, and never held; also where the client takes them slowly.
func TestLargeDownload(t *testing.T) {
	t.Parallel()
	g := watch(t, allowAll, story.Options{})
	if first, second := download(t, g, 32<<20), download(t, g, 100<<20); second-first > 64<<20 { // see TestSoakDownloadIsFlat
		t.Errorf("memory grew by %d MiB over 200 MiB", (second-first)>>20)
	}
	g.unharmed(t)
}

// TestDescriptorsAreRaised: Envoy takes as many connections as the system lets it have, not as many as a shell does.
func TestDescriptorsAreRaised(t *testing.T) {
	t.Parallel()
	g := start(t, allowAll, story.Options{})
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	g.Process.Stop()
	p := extproctest.Start(t, extproctest.Command{Name: "countersign", Path: "/bin/bash", Args: []string{
		"-c",
		fmt.Sprintf("ulimit -S -n 256; exec %q serve --config %q --envoy", extproctest.Build(t), g.Config),
	}})
	if err := p.WaitLog(t.Context(), "Envoy started"); err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(p.Log(), "pid=")
	var pid int
	if _, err := fmt.Sscan(after, &pid); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); strings.HasPrefix(line, "Max open files") && f[3] != f[4] {
			t.Errorf("Envoy's limit is %s of %s", f[3], f[4])
		}
	}
}
