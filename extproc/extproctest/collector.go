package extproctest

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const collectorBudget = 30 * time.Second

// CollectorOptions vary a [CollectorProcess].
type CollectorOptions struct {
	Authority  *Authority // with one, the collector speaks TLS
	MessageMiB int        // the largest request that it takes; 4 unless set
	Forget     bool       // it decodes what it gets and keeps nothing, for measuring
}

// CollectorProcess is a running OpenTelemetry collector that takes OTLP over gRPC and writes what it got to files.
type CollectorProcess struct {
	*Process
	tb     TB
	path   string
	config string
	port   int
	traces lineFile
	logs   lineFile

	mu    sync.Mutex
	spans []Span
	lines []LogRecord
}

// StartCollector starts a collector and returns when it takes connections.
func StartCollector(tb TB, o CollectorOptions) *CollectorProcess {
	tb.Helper()
	dir := Dir(tb)
	c := &CollectorProcess{
		tb: tb, path: findPart(tb, Parts.FindCollector), config: filepath.Join(dir, "collector.yaml"), port: FreePort(tb),
		traces: lineFile{path: filepath.Join(dir, "traces.jsonl"), begins: `{"resourceSpans":`},
		logs:   lineFile{path: filepath.Join(dir, "logs.jsonl"), begins: `{"resourceLogs":`},
	}
	tls := ""
	if o.Authority != nil {
		cert := o.Authority.Issue("collector.test")
		tls = fmt.Sprintf("        tls: {cert_file: %q, key_file: %q}\n", cert.CertFile, cert.KeyFile)
	}
	// With a rotation the file exporter has written what it acknowledges, and without one it may have it in memory only: killed,
	// this collector loses nothing. It may leave half a line of what it has not acknowledged.
	kind, traces, logs := "file", fmt.Sprintf(keepIn, c.traces.path), fmt.Sprintf(keepIn, c.logs.path)
	if o.Forget {
		kind, traces, logs = "debug", countOnly, countOnly
	}
	config := fmt.Sprintf(`receivers:
  otlp:
    protocols:
      grpc:
        endpoint: %[1]s
        max_recv_msg_size_mib: %[2]d
%[3]sexporters:
  %[4]s/traces: %[5]s
  %[4]s/logs: %[6]s
service:
  telemetry:
    metrics: {level: none}
  pipelines:
    traces: {receivers: [otlp], exporters: [%[4]s/traces]}
    logs: {receivers: [otlp], exporters: [%[4]s/logs]}
`, c.Endpoint(), cmp.Or(o.MessageMiB, 4), tls, kind, traces, logs)
	if err := os.WriteFile(c.config, []byte(config), 0o600); err != nil {
		tb.Fatalf("write the collector's configuration: %v", err)
	}
	c.Start()
	return c
}

// Settings of exporters.
const (
	keepIn    = "{path: %q, rotation: {max_megabytes: 1000000}}"
	countOnly = "{verbosity: basic, sampling_thereafter: 1000}" // it logs how many there were, and of a thousand of these lines one
)

// Start runs the collector again after Stop or Kill, at the same endpoint and over the same files.
func (c *CollectorProcess) Start() {
	c.tb.Helper()
	c.Process = Start(c.tb, Command{Name: "collector", Path: c.path, Args: []string{"--config", c.config}})
	c.awaitReady(collectorBudget, func(ctx context.Context) error {
		return c.WaitLog(ctx, "Everything is ready.")
	})
}

// Endpoint is the host and port that OTLP over gRPC goes to.
func (c *CollectorProcess) Endpoint() string { return fmt.Sprintf("127.0.0.1:%d", c.port) }

// Spans returns the spans that have arrived, in that order.
func (c *CollectorProcess) Spans() []Span {
	c.tb.Helper()
	spans, _ := c.read()
	return spans
}

// Logs returns the log records that have arrived, in that order.
func (c *CollectorProcess) Logs() []LogRecord {
	c.tb.Helper()
	_, logs := c.read()
	return logs
}

// WaitFor waits until ok returns true for what has arrived. It fails the test if ctx ends first.
func (c *CollectorProcess) WaitFor(ctx context.Context, what string, ok func([]Span, []LogRecord) bool) {
	c.tb.Helper()
	err := await(ctx, func(context.Context) error {
		spans, logs := c.read()
		if !ok(spans, logs) {
			return fmt.Errorf("not among %d spans and %d log records", len(spans), len(logs))
		}
		return nil
	})
	if err != nil {
		c.tb.Fatalf("wait for the collector to have %s: %v", what, err)
	}
}

// Sequences returns how often each record of the journal has arrived, by its number. It keeps nothing else of them.
func (c *CollectorProcess) Sequences() map[int64]int {
	c.tb.Helper()
	arrived := map[int64]int{}
	count := func(attributes map[string]any) {
		if seq, ok := attributes["countersign.seq"].(int64); ok { // a child span has none
			arrived[seq]++
		}
	}
	traces, logs := lineFile{path: c.traces.path, begins: c.traces.begins}, lineFile{path: c.logs.path, begins: c.logs.begins}
	err := traces.each(func(message []byte) error {
		spans, err := readSpans(message)
		for _, s := range spans {
			count(s.Attributes)
		}
		return err
	})
	if err == nil {
		err = logs.each(func(message []byte) error {
			records, err := readLogs(message)
			for _, l := range records {
				if l.EventName != "checkpoint" { // which has the number of the last record that it covers
					count(l.Attributes)
				}
			}
			return err
		})
	}
	if err != nil {
		c.tb.Fatalf("read what the collector wrote: %v", err)
	}
	return arrived
}

// read reads what was appended to the files since the last time, and returns everything.
func (c *CollectorProcess) read() ([]Span, []LogRecord) {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.traces.each(func(line []byte) error {
		spans, err := readSpans(line)
		c.spans = append(c.spans, spans...)
		return err
	})
	if err == nil {
		err = c.logs.each(func(line []byte) error {
			logs, err := readLogs(line)
			c.lines = append(c.lines, logs...)
			return err
		})
	}
	if err != nil {
		c.tb.Fatalf("read what the collector wrote: %v", err)
	}
	return c.spans[:len(c.spans):len(c.spans)], c.lines[:len(c.lines):len(c.lines)]
}
