package tcp_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/extproctest"
)

// TestACollectorHearsOfConnections: what a connection is stands in its span by the names of the semantic conventions, and nothing
// of HTTP does.
func TestACollectorHearsOfConnections(t *testing.T) {
	collector := extproctest.StartCollector(t, extproctest.CollectorOptions{})
	w := newWorld(t)
	g := start(t, w, fmt.Sprintf("-- config.yaml --\nevidence: {otlp: {endpoint: %q, insecure: true}}\n", collector.Endpoint()))
	c := w.dial("/reader")
	fmt.Fprintln(c, "ping")
	if got, err := bufio.NewReader(c).ReadString('\n'); got != "hello\n" {
		t.Fatalf("%q, error %v", got, err)
	}
	_ = c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var span extproctest.Span
	var transit, decided extproctest.LogRecord
	collector.WaitFor(ctx, "the span of the connection, and what Envoy says of it", func(spans []extproctest.Span, logs []extproctest.LogRecord) bool {
		for _, s := range spans {
			if s.Attributes["countersign.type"] == "operation.finished" {
				span = s
			}
		}
		for _, l := range logs {
			switch l.EventName {
			case "transit":
				transit = l
			case "operation.decided":
				decided = l
			}
		}
		return span.Name != "" && transit.EventName != ""
	})
	if transit.TraceID != span.TraceID || span.TraceID == "" {
		t.Errorf("what Envoy says of a connection is in trace %q, and its operation in %q", transit.TraceID, span.TraceID)
	}
	if status, has := transit.Attributes["countersign.status"]; has {
		t.Errorf("a connection has the status %v", status)
	}
	found := map[string]bool{}
	for e, err := range evidence.Records(ctx, filepath.Join(g.Data(), "journal"), evidence.Filter{Request: fmt.Sprint(decided.Attributes["countersign.request_id"])}) {
		if err != nil {
			t.Fatal(err)
		}
		found[e.Type] = true
	}
	if !found["operation.decided"] || !found["operation.finished"] || !found["transit"] {
		t.Errorf("by the id of its request (%v) a connection has only the records %v", decided.Attributes["countersign.request_id"], found)
	}
	host, port, err := net.SplitHostPort(w.target.address)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"network.transport": "tcp", "server.address": host, "client.address": "127.0.0.1", "countersign.result": "completed",
		"tls.client.server_name": "ledger.test", "countersign.tcp.server_name": "ledger.test",
	}
	for name, value := range want {
		if span.Attributes[name] != value {
			t.Errorf("%s is %v, want %v", name, span.Attributes[name], value)
		}
	}
	if got := fmt.Sprint(span.Attributes["server.port"]); got != port || span.Name != "CONNECT payments" {
		t.Errorf("%s to port %s, want CONNECT payments to %s", span.Name, got, port)
	}
	for name := range span.Attributes {
		if strings.HasPrefix(name, "http.") || strings.HasPrefix(name, "url.") {
			t.Errorf("%s is said of a connection", name)
		}
	}
}
