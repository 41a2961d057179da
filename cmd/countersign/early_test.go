package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
	"github.com/countersign/countersign/xds"
)

// earlyTarget answers 413 by the head of a request alone and reads no byte of its body. It keeps the connection open, or closes
// its own side.
func earlyTarget(t *testing.T, halfCloses bool) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			_ = c.(*net.TCPConn).SetReadBuffer(4096)
			go func() {
				r := bufio.NewReaderSize(c, 16)
				for line := "-"; strings.TrimSpace(line) != ""; {
					if line, err = r.ReadString('\n'); err != nil {
						return
					}
				}
				length := "Content-Length: 21\r\n"
				if halfCloses {
					length = ""
				}
				_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Type: application/json\r\n"+length+"\r\n"+`{"error":"too large"}`)
				if halfCloses {
					_ = c.(*net.TCPConn).CloseWrite()
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// TestATargetThatAnswersEarly sends up a great deal, to targets that say at once that it is too much and read none of it. The
// client gets that answer, however it sends and whenever it reads, and nothing that was on its way stays.
func TestATargetThatAnswersEarly(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body   string
		size   int64
		memory int64 // that the gateway may grow by
	}{
		{"stream", 200 << 20, 64 << 20},
		{"inspect", 32 << 20, 768 << 20},
	} {
		t.Run(c.body, func(t *testing.T) {
			g := watch(t, redactSome+"-- config.yaml --\nlimits: {memory: 384MiB}\n", story.Options{Binary: extproctest.BuildShipped(t), Target: story.TargetOptions{Unrecorded: true}})
			text, err := os.ReadFile(g.Config)
			must(t, err)
			g.Process.Stop()
			for _, host := range []string{"open", "half"} {
				text = fmt.Appendf(text, "  - {name: %s, kind: http, policy: payments, body: %s, limits: {request_body: 64MiB}, listen: {address: %q, host: %s.test}, target: %q}\n",
					host, c.body, g.Address, host, earlyTarget(t, host == "half"))
			}
			g.Write("countersign.yaml", string(text))
			g.Run()
			if a, err := g.ask(t, "GET", "/v1/payments/7"); err != nil || a.Status != 200 {
				t.Fatalf("before anything happened: %+v, %v", a, err)
			}
			g.before = g.vitals(t)
			for _, host := range []string{"open", "half"} {
				for _, query := range []string{"", "?redact=1"} {
					for name, send := range map[string]func(ctx context.Context, r *http.Request) (*http.Response, error){
						"HTTP/1.1, and reads when all is sent": func(ctx context.Context, r *http.Request) (*http.Response, error) { return sendAll(t, ctx, r) },
						"HTTP/1.1":                             func(_ context.Context, r *http.Request) (*http.Response, error) { return http.DefaultClient.Do(r) },
						"HTTP/2":                               func(_ context.Context, r *http.Request) (*http.Response, error) { return overHTTP2().Do(r) },
					} {
						ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
						r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.Address+"/"+query, io.LimitReader(endless{}, c.size))
						must(t, err)
						r.Host = host + ".test"
						r.Header.Set("Authorization", "Bearer "+g.Issuer.Token(nil))
						r.Header.Set("Content-Type", "application/octet-stream")
						resp, err := send(ctx, r)
						if err != nil {
							t.Fatalf("%s%s, %s: %v", host, query, name, err)
						}
						body, err := io.ReadAll(resp.Body)
						if resp.StatusCode != http.StatusRequestEntityTooLarge || string(body) != `{"error":"too large"}` || err != nil {
							t.Errorf("%s%s, %s: %d %q %v", host, query, name, resp.StatusCode, body, err)
						}
						_ = resp.Body.Close()
						cancel()
					}
				}
			}
			if grown := peak(t, g.Process.PID()) - g.before.resident; grown > c.memory {
				t.Errorf("the gateway grew by %d MiB", grown>>20)
			}
			// The answer does not wait for what is left of the request, and nothing sends that to anybody.
			if pieces, all := envoyStat(t, g.Gateway, "http.agents.ext_proc.stream_msgs_received"), int(12*c.size/(64<<10)); pieces > all/4 {
				t.Errorf("Envoy was sent %d messages, and %d are all of the bodies", pieces, all)
			}
			g.unharmed(t)
		})
	}
}

// endless is a body.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func overHTTP2() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}}
}

// sendAll sends a request and looks for its answer when it can send no more.
func sendAll(t *testing.T, ctx context.Context, r *http.Request) (*http.Response, error) {
	t.Helper()
	conn, err := net.Dial("tcp", r.URL.Host)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	until, _ := ctx.Deadline()
	must(t, conn.SetDeadline(until))
	_ = r.Write(conn) // breaks off where nobody reads any more
	return http.ReadResponse(bufio.NewReader(conn), r)
}

func duplex(t *testing.T, g *watched) *extproctest.Duplex {
	t.Helper()
	return extproctest.NewDuplex(t, t.Context(), filepath.Join(g.Data(), "envoy.sock"), map[string]string{xds.ResourceMetadata: "payments"}, fields(
		":method", "POST", ":scheme", "http", ":authority", g.Address, ":path", "/upload", "x-request-id", t.Name(),
		"content-type", "text/plain", "authorization", "Bearer "+g.Issuer.Token(nil))...)
}

// TestAnswersPassWhatIsLeftOfRequests: a send to Envoy blocks, and the answer is taken all the same, recorded, and sent before what
// is left of the request, which is counted until then.
func TestAnswersPassWhatIsLeftOfRequests(t *testing.T) {
	t.Parallel()
	g := watch(t, allowAll+"-- resource.yaml --\nlimits: {request_body: 8MiB}\n", story.Options{})
	const size = 8 << 20
	stream := duplex(t, g)
	for sent := 0; sent < size; sent += 1 << 20 {
		must(t, stream.Body(1<<20, sent+1<<20 == size))
	}
	m, err := stream.Next()
	if !m.Head || err != nil {
		t.Fatalf("the request was not let go on: %+v, %v", m, err)
	}
	must(t, stream.Answer("413"))
	g.AwaitRecord("the end of the operation", func(r story.Record) bool { return r.Type == "operation.finished" && r.Body["status"] == 413. })
	_, text := get(t, "http://"+g.Admin+"/metrics")
	if counted := metricOf(t, text, "countersign_memory_judged_bytes"); counted < size/2 || counted > size+1<<20 {
		t.Errorf("%v bytes are counted, and %d wait", counted, size)
	}
	pieces := 0
	for ; !m.Answer; pieces++ {
		m, err = stream.Next()
		must(t, err)
	}
	if pieces > size/(64<<10)/2 {
		t.Errorf("the answer came after %d pieces of the request", pieces)
	}
	must(t, stream.Close())
	for err = nil; err == nil; _, err = stream.Next() {
		// what was on its way
	}
	g.unharmed(t)
}

// TestNoMoreIsTakenThanIsSent: where Envoy reads nothing, it is soon asked for nothing either, and afterwards all that it sent
// comes back, in order.
func TestNoMoreIsTakenThanIsSent(t *testing.T) {
	t.Parallel()
	g := watch(t, allowAll+"-- resource.yaml --\nbody: stream\n", story.Options{})
	stream := duplex(t, g)
	const size, piece = 64 << 20, 256 << 10
	var sent atomic.Int64
	done := make(chan error, 1)
	go func() {
		for sent.Load() < size {
			if err := stream.Body(piece, sent.Add(piece) == size); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	stall(t, g)
	if n := sent.Load(); n > size/8 {
		t.Errorf("%d bytes were taken, and none of them read", n)
	}
	back := 0
	for end := false; !end; {
		m, err := stream.Next()
		must(t, err)
		back, end = back+m.Bytes, m.End
	}
	must(t, <-done)
	if back != size {
		t.Errorf("%d bytes came back, of %d", back, size)
	}
}
