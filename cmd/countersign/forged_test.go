package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestForgedContext: what a client says of who it is, where it is, how it came and which request this is reaches neither the
// records nor the target.
func TestForgedContext(t *testing.T) {
	t.Parallel()
	for _, attach := range []string{"ext_proc", "ext_authz"} {
		t.Run(attach, func(t *testing.T) {
			t.Parallel()
			g := start(t, "\n-- policy.rego --\npackage rules.payments\n\nallow contains {\"id\": \"plain\"} if input.http.scheme == \"http\"\n", story.Options{Attach: attach})
			const forged = "6f3b1c52-0000-4000-8000-00000000f0f0"
			a, err := g.Send(t.Context(), &story.Request{Method: "GET", Target: "/v1/payments/7", Fields: []extproctest.Field{
				{Name: "Authorization", Value: "Bearer " + g.Issuer.Token(nil)},
				{Name: "X-Request-Id", Value: forged},
				{Name: "X-Forwarded-For", Value: "192.0.2.7"},
				{Name: "X-Forwarded-Proto", Value: "https"},
				{Name: "X-Forwarded-Client-Cert", Value: "Subject=\"CN=admin\""},
				{Name: "X-Forwarded-Host", Value: "other.example"},
				{Name: "X-Envoy-External-Address", Value: "192.0.2.7"},
				{Name: "X-Envoy-Internal", Value: "true"},
				{Name: "X-Envoy-Original-Dst-Host", Value: "192.0.2.7:80"},
				{Name: "X-Envoy-Upstream-Rq-Timeout-Ms", Value: "1"},
				{Name: "X-Countersign-Principal", Value: "admin"},
				{Name: "Traceparent", Value: "00-00000000000000000000000000000000-0000000000000000-01"},
				{Name: "Traceparent", Value: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
			}})
			must(t, err)
			if a.Status != 200 {
				t.Fatalf("answer %d %s", a.Status, a.Body)
			}
			seen := g.Target.Requests()
			if len(seen) != 1 {
				t.Fatalf("the target saw %d requests", len(seen))
			}
			for _, f := range seen[0].Header {
				name := strings.ToLower(f.Name)
				switch {
				case name == "x-request-id" && f.Value != forged, name == "x-forwarded-proto" && f.Value == "http", name == "traceparent":
				case name == "x-request-id", strings.HasPrefix(name, "x-forwarded-"), strings.HasPrefix(name, "x-envoy-"), strings.HasPrefix(name, "x-countersign-"):
					t.Errorf("the target saw %s: %s", f.Name, f.Value)
				}
			}
			reconcile(t, g)
			for _, r := range g.Records() {
				if text := fmt.Sprint(r.Body); strings.Contains(text, forged) || strings.Contains(text, "192.0.2.7") || strings.Contains(text, "admin") {
					t.Errorf("record %d has what was forged: %s", r.Seq, text)
				}
				if peer, ok := r.Body["peer"].(string); ok && !strings.HasPrefix(peer, "127.0.0.1:") {
					t.Errorf("record %d has the peer %q", r.Seq, peer)
				}
			}
		})
	}
}

// TestInformationalAnswersDoNotPass: what a target says before its answer (103 and its like) is not looked at, so an agent
// does not get it.
func TestInformationalAnswersDoNotPass(t *testing.T) {
	t.Parallel()
	for name, archive := range map[string]string{"passed": allowAll, "redacted": redactAll} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, archive, story.Options{})
			for _, path := range []string{"/hostile/early-hints", "/early-hints"} {
				w := dial(t, g)
				must(t, w.SetDeadline(time.Now().Add(10*time.Second)))
				w.send(t, "%s\r\n", head(t, g, "GET", path, "Connection: close"))
				text, err := io.ReadAll(w.Reader)
				must(t, err)
				resp := string(text)
				if !strings.HasPrefix(resp, "HTTP/1.1 200 ") || strings.Count(resp, "HTTP/1.1 ") != 1 || strings.Contains(resp, http.StatusText(http.StatusEarlyHints)) {
					t.Errorf("%s: %q", path, resp)
				}
			}
			reconcile(t, g)
		})
	}
}
