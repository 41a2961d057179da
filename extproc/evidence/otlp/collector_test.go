package otlp

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// collector is a real OTLP/gRPC receiver, whose answers a test decides.
type collector struct {
	collogspb.UnimplementedLogsServiceServer

	t       testing.TB
	address string
	server  *grpc.Server

	mu      sync.Mutex
	answer  func(request) (rejected int64, keep bool, err error)
	logs    []*logspb.LogRecord
	spans   []*tracepb.Span
	calls   int
	changed chan struct{}
}

// request is what a collector is asked to take: the numbers of the records in it.
type request struct {
	ctx   context.Context
	kind  string // "logs" or "spans"
	seqs  []uint64
	calls int
}

func (r request) has(seq uint64) bool { return slices.Contains(r.seqs, seq) }

func newCollector(t testing.TB, opts ...grpc.ServerOption) *collector {
	c := &collector{t: t, changed: make(chan struct{})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = listener.Addr().String()
	c.serve(listener, opts...)
	return c
}

func (c *collector) serve(listener net.Listener, opts ...grpc.ServerOption) {
	server := grpc.NewServer(opts...)
	collogspb.RegisterLogsServiceServer(server, c)
	coltracepb.RegisterTraceServiceServer(server, traceService{c: c})
	c.server = server
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	c.t.Cleanup(func() { server.Stop(); <-done })
}

// down ends the collector, after it has answered what it was asked; up begins it again at the same address.
func (c *collector) down() { c.server.GracefulStop() }

func (c *collector) up() {
	c.t.Helper()
	listener, err := net.Listen("tcp", c.address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.serve(listener)
}

func (c *collector) answers(f func(request) (rejected int64, keep bool, err error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = f
}

func (c *collector) decide(r request) (int64, bool, error) {
	c.mu.Lock()
	c.calls++
	r.calls = c.calls
	answer := c.answer
	c.mu.Unlock()
	if answer == nil {
		return 0, true, nil
	}
	return answer(r)
}

func (c *collector) note(keep func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *collector) Export(ctx context.Context, in *collogspb.ExportLogsServiceRequest) (*collogspb.ExportLogsServiceResponse, error) {
	records := in.ResourceLogs[0].ScopeLogs[0].LogRecords
	r := request{ctx: ctx, kind: "logs"}
	for _, l := range records {
		r.seqs = append(r.seqs, recordOf(l))
	}
	rejected, keep, err := c.decide(r)
	c.note(func() {
		if keep {
			c.logs = append(c.logs, records...)
		}
	})
	out := &collogspb.ExportLogsServiceResponse{}
	if rejected > 0 {
		out.PartialSuccess = &collogspb.ExportLogsPartialSuccess{RejectedLogRecords: rejected, ErrorMessage: "not these"}
	}
	return out, err
}

func (c *collector) exportSpans(ctx context.Context, in *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	spans := in.ResourceSpans[0].ScopeSpans[0].Spans
	r := request{ctx: ctx, kind: "spans"}
	for _, s := range spans {
		if seq := seqOf(s.Attributes); seq != 0 {
			r.seqs = append(r.seqs, seq)
		}
	}
	rejected, keep, err := c.decide(r)
	c.note(func() {
		if keep {
			c.spans = append(c.spans, spans...)
		}
	})
	out := &coltracepb.ExportTraceServiceResponse{}
	if rejected > 0 {
		out.PartialSuccess = &coltracepb.ExportTracePartialSuccess{RejectedSpans: rejected, ErrorMessage: "not these"}
	}
	return out, err
}

// traceService is the collector for spans: the two services have one name for their methods.
type traceService struct {
	coltracepb.UnimplementedTraceServiceServer
	c *collector
}

func (s traceService) Export(ctx context.Context, in *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	return s.c.exportSpans(ctx, in)
}

func attribute(list []*commonpb.KeyValue, key string) *commonpb.AnyValue {
	for _, kv := range list {
		if kv.Key == key {
			return kv.Value
		}
	}
	return nil
}

func seqOf(list []*commonpb.KeyValue) uint64 {
	return uint64(attribute(list, "countersign.seq").GetIntValue())
}

// recordOf is a record's number, and 0 for a checkpoint.
func recordOf(l *logspb.LogRecord) uint64 {
	if l.EventName == checkpointEvent {
		return 0
	}
	return seqOf(l.Attributes)
}

// seqs counts how often each record has arrived, checkpoints as record 0.
func (c *collector) seqs() map[uint64]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := map[uint64]int{}
	for _, l := range c.logs {
		count[recordOf(l)]++
	}
	for _, s := range c.spans {
		if seq := seqOf(s.Attributes); seq != 0 {
			count[seq]++
		}
	}
	return count
}

// wait returns when ok does. It looks whenever the collector has been called.
func (c *collector) wait(what string, ok func() bool) {
	c.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			c.t.Fatalf("waited for %s; the collector has %v", what, c.seqs())
		}
	}
}

// waitFor returns when records 1 to last have arrived.
func (c *collector) waitFor(last uint64) {
	c.t.Helper()
	c.wait(fmt.Sprintf("records 1 to %d", last), func() bool {
		got := c.seqs()
		for seq := uint64(1); seq <= last; seq++ {
			if got[seq] == 0 {
				return false
			}
		}
		return true
	})
}

// wantOnce checks that each record from 1 to last is there exactly once, and nothing else.
func (c *collector) wantOnce(last uint64) {
	c.t.Helper()
	got := c.seqs()
	delete(got, 0)
	want := map[uint64]int{}
	for seq := uint64(1); seq <= last; seq++ {
		want[seq] = 1
	}
	if diff := cmp.Diff(want, got); diff != "" {
		c.t.Errorf("records that arrived (-want +got):\n%s", diff)
	}
}
