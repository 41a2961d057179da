package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestEachResourceHasItsOwnLimits: resources that share a listener share none of their limits. Envoy knows some of these for a
// listener only, so that the service has to keep each resource to its own.
func TestEachResourceHasItsOwnLimits(t *testing.T) {
	t.Parallel()
	g := start(t, allowAll+"-- resource.yaml --\nlimits: {request_time: 2s, request_body: 1KiB, headers: 4KiB}\n-- config.yaml --\napprovals: {hold: 1s}\n", story.Options{Attach: "ext_authz"})
	g.Process.Stop()
	text, err := os.ReadFile(g.Config)
	must(t, err)
	config := string(text)
	for _, more := range []string{
		"name: proc, attach: ext_proc, limits: {request_time: 3s, request_body: 2KiB, headers: 8KiB}",
		"name: later, attach: ext_authz, limits: {request_time: 6s, request_body: 4KiB, headers: 16KiB}",
		"name: streams, attach: ext_authz, body: stream, limits: {headers: 32KiB}",
		"name: through, attach: ext_proc, body: stream, limits: {headers: 16KiB}",
	} {
		name, _, _ := strings.Cut(strings.TrimPrefix(more, "name: "), ",")
		config += fmt.Sprintf("  - {%s, kind: http, policy: payments, listen: {address: %q, host: %s.test}, target: %q}\n", more, g.Address, name, g.Target.URL)
	}
	g.Write("countersign.yaml", config)
	g.Run()
	t.Run("limits", func(t *testing.T) { eachHasItsOwn(t, g) })
	reconcile(t, g)
}

func eachHasItsOwn(t *testing.T, g *story.Gateway) {
	for _, c := range []struct {
		name    string
		time    time.Duration // 0 where a body may take as long as it likes
		body    int           // 0 where it may be of any size
		headers int
	}{
		{"payments", 2 * time.Second, 1 << 10, 4 << 10},
		{"proc", 3 * time.Second, 2 << 10, 8 << 10},
		{"later", 6 * time.Second, 4 << 10, 16 << 10},
		{"streams", 0, 0, 32 << 10},
		{"through", 0, 0, 16 << 10},
	} {
		send := func(t *testing.T, body, headers int) (status int, text string) {
			t.Helper()
			r := &story.Request{Method: "POST", Target: "/echo/x", Body: make([]byte, body), Fields: fields("Host", c.name+".test", "Content-Type", "application/octet-stream", "Authorization", "Bearer "+g.Issuer.Token(nil))}
			r.Fields = append(r.Fields, fields("X-Big", strings.Repeat("x", headers))...)
			a, err := g.Send(t.Context(), r)
			must(t, err)
			return a.Status, string(a.Body)
		}
		allowed := func(status int) bool { return status == 404 } // the target's own
		t.Run(c.name+": the body", func(t *testing.T) {
			t.Parallel()
			most := c.body
			if most == 0 {
				most = 64 << 10
			}
			if status, text := send(t, most, 0); !allowed(status) {
				t.Errorf("at the limit: %d %s", status, text)
			}
			if status, text := send(t, most+1, 0); c.body > 0 && status != 413 || c.body == 0 && !allowed(status) {
				t.Errorf("past the limit: %d %s", status, text)
			}
		})
		t.Run(c.name+": the header fields", func(t *testing.T) {
			t.Parallel()
			if status, text := send(t, 0, c.headers-2<<10); !allowed(status) {
				t.Errorf("below the limit: %d %s", status, text)
			}
			if status, text := send(t, 0, c.headers); status != 413 {
				t.Errorf("past the limit: %d %s", status, text)
			}
		})
		t.Run(c.name+": the time", func(t *testing.T) {
			t.Parallel()
			const letters = 80 // ten a second
			w := dial(t, g)
			must(t, w.SetDeadline(time.Now().Add(40*time.Second)))
			began := time.Now()
			w.send(t, "POST /echo/x HTTP/1.1\r\nHost: %s.test\r\nContent-Type: application/octet-stream\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", c.name, g.Issuer.Token(nil), letters)
			stop := make(chan struct{})
			defer close(stop)
			go trickle(w.Conn, "x", stop)
			resp := w.answer(t, "POST")
			answer, err := io.ReadAll(resp.Body)
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(err)
			}
			took := time.Since(began)
			if c.time == 0 {
				if !allowed(resp.StatusCode) {
					t.Errorf("answer %d after %v: %s", resp.StatusCode, took, answer)
				}
				return
			}
			if resp.StatusCode != 400 || !strings.Contains(string(answer), fmt.Sprintf("within %v", c.time)) || took < c.time || took > c.time+5*time.Second {
				t.Errorf("answer %d after %v: %s", resp.StatusCode, took, answer)
			}
		})
	}
}
