package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestTheResourceIsEnvoysWord serves two resources at one address. Which of them a request is for follows from its host
// alone, as Envoy reads it, and never from what an agent writes about it; a host of neither is refused and recorded.
func TestTheResourceIsEnvoysWord(t *testing.T) {
	t.Parallel()
	for _, attach := range []string{"ext_proc", "ext_authz"} {
		t.Run(attach, func(t *testing.T) {
			t.Parallel()
			g := start(t, readAll, story.Options{Attach: attach})
			twoResources(t, g, attach)
			begin := len(g.Records())
			token := g.Issuer.Token(nil)
			for _, c := range []struct {
				host   string
				more   []string
				status int
				rule   string
			}{
				{"payments.example", nil, 200, "read"},
				{"PAYMENTS.example:8080", nil, 200, "read"},
				{"ledger.example", nil, 403, ""},
				{"ledger.example", []string{"countersign-resource", "payments", "x-countersign-resource", "payments"}, 403, ""},
				{"ledger.example", []string{"x-forwarded-host", "payments.example"}, 403, ""},
				{"ledger.example", []string{"x-host", "payments.example"}, 403, ""},
				{"ledger.example", []string{"x-envoy-original-dst-host", g.Target.Address}, 403, ""},
				{"ledger.example", []string{"grpc-metadata-countersign-resource", "payments"}, 403, ""},
				{"ledger.example.", nil, 0, ""},
				{"elsewhere.example", nil, 0, ""},
				{"payments.example.elsewhere.example", nil, 0, ""},
				{"*", nil, 0, ""},
				{"countersign.unmatched", nil, 0, ""},
			} {
				before := len(g.Target.Requests())
				request := &story.Request{Method: "GET", Target: "/v1/payments/7", Fields: []extproctest.Field{{Name: "Host", Value: c.host}, {Name: "Authorization", Value: "Bearer " + token}}}
				for i := 0; i < len(c.more); i += 2 {
					request.Fields = append(request.Fields, extproctest.Field{Name: c.more[i], Value: c.more[i+1]})
				}
				a, err := g.Send(t.Context(), request)
				must(t, err)
				if a.Status != c.status && (c.status != 0 || a.Status/100 != 4) || c.rule == "" && a.Problem() == "" {
					t.Errorf("%s with %q: %d %s", c.host, c.more, a.Status, a.Body)
				}
				if saw := len(g.Target.Requests()) - before; saw > 0 != (c.rule != "") {
					t.Errorf("%s with %q: the target saw %d requests", c.host, c.more, saw)
				}
			}
			reconcile(t, g)
			for _, r := range g.Records()[begin:] {
				if r.Type == "operation.decided" && (r.Body["effect"] == "allow") != (r.Body["resource"] == "payments") {
					t.Errorf("record %d: %v for the resource %v", r.Seq, r.Body["effect"], r.Body["resource"])
				}
			}
		})
	}
}

// twoResources adds the resource ledger, which allows nothing, at the address of payments.
func twoResources(t *testing.T, g *story.Gateway, attach string) {
	t.Helper()
	conf, err := os.ReadFile(g.Config)
	must(t, err)
	here := fmt.Sprintf("listen: {address: %q}", g.Address)
	text := strings.Replace(string(conf), here, fmt.Sprintf("listen: {address: %q, host: payments.example}", g.Address), 1)
	text += fmt.Sprintf("  - name: ledger\n    kind: http\n    listen: {address: %q, host: ledger.example}\n    target: %q\n    attach: %s\n", g.Address, g.Target.URL, attach)
	g.Write("policies/ledger.rego", "package rules.ledger\n\nallow contains {\"id\": \"none\"} if input.resource.name == \"payments\"\n")
	last := uint64(len(g.Records()))
	g.Write("countersign.yaml", text)
	g.Process.Signal(syscall.SIGHUP)
	g.AwaitRecord("both resources", func(r story.Record) bool { return r.Type == "config.activated" && r.Seq > last })
	awaitRoute(t, g, "ledger.example", "ledger")
}

// awaitRoute waits until Envoy takes what is sent to host for resource's, which the record of the decision says. While
// the gateway's configuration is newer than Envoy's, the old routes refuse too.
func awaitRoute(t *testing.T, g *story.Gateway, host, resource string) {
	t.Helper()
	token := g.Issuer.Token(nil)
	extproctest.Await(t, "Envoy's new routes", 20*time.Second, func(ctx context.Context) error {
		_, err := g.Send(ctx, &story.Request{Method: "GET", Target: "/v1/payments/7", Fields: []extproctest.Field{{Name: "Host", Value: host}, {Name: "Authorization", Value: "Bearer " + token}}})
		if err == nil && !slices.ContainsFunc(g.Records(), func(r story.Record) bool { return r.Type == "operation.decided" && r.Body["resource"] == resource }) {
			err = fmt.Errorf("nothing was decided for %s", resource)
		}
		return err
	})
}

// TestBodiesInDisguise sends a body that policy denies in forms that hide it from a reader who does not look twice.
func TestBodiesInDisguise(t *testing.T) {
	t.Parallel()
	policy := `
-- policy.rego --
package rules.payments

allow contains {"id": "post"} if input.http.method == "POST"

deny contains {"id": "large"} if input.http.body.amount > 100
`
	const body = `{"amount":1000}`
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	_, err := w.Write([]byte(body))
	must(t, err)
	must(t, w.Close())
	wide := func(order binary.AppendByteOrder, mark bool) []byte {
		var out []byte
		if mark {
			out = order.AppendUint16(out, 0xFEFF)
		}
		for _, unit := range utf16.Encode([]rune(body)) {
			out = order.AppendUint16(out, unit)
		}
		return out
	}
	for _, attach := range []string{"ext_proc", "ext_authz"} {
		t.Run(attach, func(t *testing.T) {
			t.Parallel()
			g := start(t, policy, story.Options{Attach: attach})
			token := g.Issuer.Token(nil)
			for _, c := range []struct {
				name, kind, coding string
				body               []byte
			}{
				{"plain", "application/json", "", []byte(body)},
				{"gzip", "application/json", "gzip", compressed.Bytes()},
				{"gzip in capitals", "application/json", "GZIP", compressed.Bytes()},
				{"gzip under its old name", "application/json", "x-gzip", compressed.Bytes()},
				{"gzip, twice", "application/json", "gzip, gzip", compressed.Bytes()},
				{"a coding that is not known", "application/json", "rot13", []byte(body)},
				{"UTF-16, little end", "application/json", "", wide(binary.LittleEndian, false)},
				{"UTF-16, big end", "application/json", "", wide(binary.BigEndian, false)},
				{"UTF-16 with a mark, little end", "application/json", "", wide(binary.LittleEndian, true)},
				{"UTF-16 with a mark, big end", "application/json", "", wide(binary.BigEndian, true)},
				{"UTF-16 that says so", "application/json; charset=utf-16", "", wide(binary.BigEndian, true)},
				{"UTF-16 that says it is text", "text/plain", "", wide(binary.LittleEndian, true)},
				{"UTF-16 that says nothing", "", "", wide(binary.BigEndian, false)},
				{"a mark", "application/json", "", append([]byte("\xEF\xBB\xBF"), body...)},
				{"white space of another kind before it", "text/plain", "", []byte("\v\f\u00a0" + body)},
				{"bytes", "application/octet-stream", "", []byte(body)},
			} {
				for _, chunked := range []bool{false, true} {
					r := &story.Request{Method: "POST", Target: "/echo", Body: c.body, Chunked: chunked, Fields: []extproctest.Field{{Name: "Authorization", Value: "Bearer " + token}}}
					if c.kind != "" {
						r.Fields = append(r.Fields, extproctest.Field{Name: "Content-Type", Value: c.kind})
					}
					if c.coding != "" {
						r.Fields = append(r.Fields, extproctest.Field{Name: "Content-Encoding", Value: c.coding})
					}
					a, err := g.Send(t.Context(), r)
					must(t, err)
					if a.Status != 400 && a.Status != 403 {
						t.Errorf("%s, chunked %t: %d %s", c.name, chunked, a.Status, a.Body)
					}
				}
			}
			if n := len(g.Target.Requests()); n != 0 {
				t.Errorf("the target saw %d requests", n)
			}
			reconcile(t, g)
		})
	}
}
