package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// receiver is an OTLP collector that misbehaves as it is told.
type receiver struct {
	collogspb.UnimplementedLogsServiceServer
	coltracepb.UnimplementedTraceServiceServer

	mu    sync.Mutex
	mood  string // "" takes all; "hangs", "fails", "rejects a part"
	asked map[string]int
	taken map[int64]int // by seq, and how often
	lost  map[int64]bool
	other chan struct{} // closed when the mood changes
}

func startReceiver(t testing.TB, address string) *receiver {
	t.Helper()
	r := &receiver{asked: map[string]int{}, taken: map[int64]int{}, lost: map[int64]bool{}, other: make(chan struct{})}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collogspb.RegisterLogsServiceServer(s, logsReceiver{receiver: r})
	coltracepb.RegisterTraceServiceServer(s, tracesReceiver{receiver: r})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return r
}

func (r *receiver) is(mood string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mood = mood
	close(r.other)
	r.other = make(chan struct{})
}

// take takes the records, all but the first where a part is rejected, and says how many those were.
func (r *receiver) take(ctx context.Context, seqs []int64) (rejected int64, err error) {
	r.mu.Lock()
	mood, other := r.mood, r.other
	if len(seqs) > 0 {
		r.asked[mood]++
	}
	r.mu.Unlock()
	switch mood {
	case "hangs":
		select {
		case <-other:
			return 0, status.Error(codes.DeadlineExceeded, "too late")
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	case "fails":
		return 0, status.Error(codes.Unavailable, "not now")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, seq := range seqs {
		if mood == "rejects a part" && i == 0 {
			rejected++
			r.lost[seq] = true
			continue
		}
		r.taken[seq]++
	}
	return rejected, nil
}

// sequences are how often each record was taken.
func (r *receiver) sequences() map[int64]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.taken)
}

type logsReceiver struct {
	collogspb.UnimplementedLogsServiceServer
	*receiver
}

func (r logsReceiver) Export(ctx context.Context, m *collogspb.ExportLogsServiceRequest) (*collogspb.ExportLogsServiceResponse, error) {
	var seqs []int64
	for _, a := range m.ResourceLogs {
		for _, b := range a.ScopeLogs {
			for _, c := range b.LogRecords {
				if c.EventName != "checkpoint" {
					seqs = append(seqs, seqOf(c.Attributes))
				}
			}
		}
	}
	n, err := r.take(ctx, seqs)
	out := &collogspb.ExportLogsServiceResponse{}
	if n > 0 {
		out.PartialSuccess = &collogspb.ExportLogsPartialSuccess{RejectedLogRecords: n, ErrorMessage: "one too many"}
	}
	return out, err
}

type tracesReceiver struct {
	coltracepb.UnimplementedTraceServiceServer
	*receiver
}

func (r tracesReceiver) Export(ctx context.Context, m *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	var seqs []int64
	for _, a := range m.ResourceSpans {
		for _, b := range a.ScopeSpans {
			for _, c := range b.Spans {
				if n := seqOf(c.Attributes); n > 0 { // a child has none
					seqs = append(seqs, n)
				}
			}
		}
	}
	n, err := r.take(ctx, seqs)
	out := &coltracepb.ExportTraceServiceResponse{}
	if n > 0 {
		out.PartialSuccess = &coltracepb.ExportTracePartialSuccess{RejectedSpans: n, ErrorMessage: "one too many"}
	}
	return out, err
}

func seqOf(attributes []*commonpb.KeyValue) int64 {
	for _, a := range attributes {
		if a.Key == "countersign.seq" {
			return a.Value.GetIntValue()
		}
	}
	return 0
}

// TestCollectorMisbehaves has a collector that is away, hangs, fails and rejects a part while agents ask. Access does not
// depend on it, and every record comes to it in the end, but those that it said it rejected, which are counted.
func TestCollectorMisbehaves(t *testing.T) {
	t.Parallel()
	address := extproctest.FreeAddress(t)
	g := start(t, readAll+fmt.Sprintf("-- config.yaml --\nevidence: {otlp: {endpoint: %q, insecure: true}}\n", address), story.Options{})
	l := startLoad(t, g, "otlp", 2)
	l.reach(404, 20) // while nobody listens
	r := startReceiver(t, address)
	for _, mood := range []string{"", "hangs", "fails", "rejects a part", ""} {
		r.is(mood)
		extproctest.Await(t, fmt.Sprintf("a collector that is asked while it %q", mood), 60*time.Second, func(context.Context) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.asked[mood] == 0 {
				return fmt.Errorf("asked %v", r.asked)
			}
			return nil
		})
		l.reach(404, 20)
	}
	for path, code := range l.end() {
		if code != 404 {
			t.Errorf("%s was answered %d", path, code)
		}
	}
	if l.slow > 5*time.Second {
		t.Errorf("an answer took %v", l.slow)
	}
	reconcile(t, g)
	last := int64(len(g.Records()))
	extproctest.Await(t, "every record", 60*time.Second, func(context.Context) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for seq := int64(1); seq <= last; seq++ {
			if r.taken[seq] == 0 && !r.lost[seq] {
				return fmt.Errorf("record %d of %d has not come", seq, last)
			}
		}
		return nil
	})
	r.mu.Lock()
	lost := maps.Clone(r.lost)
	if n := len(lost); n != r.asked["rejects a part"] {
		t.Errorf("%d records were rejected, in %d requests", n, r.asked["rejects a part"])
	}
	r.mu.Unlock()
	if _, text := get(t, "http://"+g.Admin+"/metrics"); !strings.Contains(text, fmt.Sprintf("\ncountersign_otlp_rejected %d\n", len(lost))) {
		t.Errorf("the metrics do not tell of %d rejected records:\n%s", len(lost), text)
	}
	if code, text := get(t, "http://"+g.Admin+"/readyz"); code != 200 || !strings.Contains(text, "\ncollector: it has rejected something of ") {
		t.Errorf("readyz: %d %s", code, text)
	}

	// Each is within what is listed, which is sent again beside the gateway when somebody says so.
	out, code := runCommand(t, "evidence", "rejected", "--config", g.Config, "--json")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	for seq := range lost {
		if !slices.ContainsFunc(strings.Split(strings.TrimSpace(out), "\n"), func(line string) bool {
			var e struct {
				From, To int64
				Why      string
			}
			return json.Unmarshal([]byte(line), &e) == nil && e.From <= seq && seq <= e.To && e.Why == "one too many"
		}) {
			t.Errorf("record %d is not listed:\n%s", seq, out)
		}
	}
	r.is("fails")
	if out, code := runCommand(t, "evidence", "resend", "--config", g.Config); code != 1 || !strings.Contains(out, "not now") {
		t.Errorf("resend to a collector that fails: exit %d: %s", code, out)
	}
	r.is("")
	if out, code := runCommand(t, "evidence", "resend", "--config", g.Config); code != 0 || !strings.Contains(out, "sent ") {
		t.Errorf("resend: exit %d: %s", code, out)
	}
	r.mu.Lock()
	for seq := range lost {
		if r.taken[seq] == 0 {
			t.Errorf("record %d was not sent again", seq)
		}
	}
	r.mu.Unlock()
	if out, code := runCommand(t, "evidence", "rejected", "--data", g.Data()); code != 0 || !strings.Contains(out, "has rejected nothing") {
		t.Errorf("rejected: exit %d: %s", code, out)
	}
	if _, text := get(t, "http://"+g.Admin+"/readyz"); !strings.Contains(text, "\ncollector: ok\n") {
		t.Errorf("readyz: %s", text)
	}
}
