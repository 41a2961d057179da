package otlp

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
)

// operation returns the records of one operation that was let through, as a story left them: decided, finished, transit.
func operation(t testing.TB) (list []*evidence.Entry) {
	t.Helper()
	lines, err := os.ReadFile(filepath.Join("testdata", "records.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var transit *evidence.Entry
	for line := range bytes.Lines(lines) {
		e := entryOf(t, bytes.TrimSpace(line))
		switch {
		case e.Type == gate.Transit:
			transit = e
		case e.Type == gate.OperationDecided && evidence.Value(e.Body).Get("effect").Is("allow"):
			list = []*evidence.Entry{e}
		case e.Type == gate.OperationFinished && len(list) == 1 && whole(evidence.Value(e.Body).Get("decided")) == list[0].Seq && transit != nil:
			return append(list, e, transit)
		}
	}
	t.Fatal("there is no such operation in testdata")
	return nil
}

// operations are some that differ as those of one agent do: each has a target, a digest, a connection and ids of its own.
func operations(b *testing.B) (all [][]*evidence.Entry) {
	b.Helper()
	for n := range 16 {
		var one []*evidence.Entry
		for _, e := range operation(b) {
			line := bytes.ReplaceAll(e.Line, []byte(e.Op), fmt.Appendf(nil, "0192f0c1-7a5e-7000-8000-%012d", n))
			for member, value := range map[string]string{"target": "/v1/payments/%d", "path": "/v1/payments/%d", "digest": "%064d", "peer": "127.0.0.1:4%04d", "request_id": "0192f0c1-7a5e-7000-8000-%012d"} {
				if old := evidence.Value(e.Body).Get(member); old != nil {
					line = bytes.ReplaceAll(line, old, fmt.Appendf(nil, "%q", fmt.Sprintf(value, n)))
				}
			}
			one = append(one, entryOf(b, line))
		}
		all = append(all, one)
	}
	return all
}

// BenchmarkEncodeOperation encodes all records of one operation. The target is 10 µs.
func BenchmarkEncodeOperation(b *testing.B) {
	all := operations(b)
	j := newJoiner(b.TempDir(), kindsOf([]Kind{said}))
	size := 0
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		j.room(true)
		for _, r := range all[n%len(all)] {
			j.item(r)
		}
		size = len(j.b)
	}
	b.ReportMetric(float64(size), "bytes/op")
	lines := 0
	for _, r := range all[0] {
		lines += len(r.Line)
	}
	b.ReportMetric(float64(lines), "lines-bytes/op")
}

// BenchmarkCourier sends operations to a receiver in this process, which answers without reading them. What counts is the processor
// time of both, since the courier rests between its slices.
func BenchmarkCourier(b *testing.B) {
	for _, from := range []string{"memory", "file"} {
		b.Run(from, func(b *testing.B) {
			answer := func(_ any, s grpc.ServerStream) error {
				var in, out raw
				if err := s.RecvMsg(&in); err != nil {
					return err
				}
				return s.SendMsg(&out)
			}
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			server := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(answer))
			defer server.Stop()
			go func() { _ = server.Serve(listener) }()
			journal, err := evidence.Open(b.Context(), evidence.Options{Dir: filepath.Join(b.TempDir(), "journal"), Node: "gw-1", CheckpointEvery: time.Hour})
			if err != nil {
				b.Fatal(err)
			}
			defer journal.Close()
			if from == "memory" {
				_, _ = journal.Reader(1).Next()
			}
			const operations = 2000 // as many as memory holds
			for n := range operations {
				post(b, journal, n)
			}
			if err := journal.Checkpoint(); err != nil {
				b.Fatal(err)
			}
			for n := 0; b.Loop(); n++ {
				opts := Options{Endpoint: listener.Addr().String(), TLS: TLS{Insecure: true}, Cursor: filepath.Join(b.TempDir(), fmt.Sprint("otlp.cursor", n)), Node: "gw-1", Kinds: []Kind{said}}
				before := cpu(b)
				courier, err := Start(journal, opts)
				if err != nil {
					b.Fatal(err)
				}
				if err := courier.Stop(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64((cpu(b)-before).Microseconds())/operations, "cpu-µs/operation")
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/operations, "µs/operation")
		})
	}
}

// raw is a codec that reads nothing.
type raw struct{}

func (raw) Marshal(any) (mem.BufferSlice, error) { return nil, nil }
func (raw) Unmarshal(mem.BufferSlice, any) error { return nil }
func (raw) Name() string                         { return "proto" }

// post writes the records of an operation.
func post(b *testing.B, journal *evidence.Journal, n int) {
	b.Helper()
	op := fmt.Sprintf("0192f0c1-7a5e-7000-8000-%012d", n)
	r, err := journal.Append(b.Context(), &gate.Record{Type: gate.OperationDecided, Op: op, Body: &gate.Decision{
		Effect: gate.Allow, Rules: []string{"read"}, Resource: "payments", Protocol: "http", Verb: "GET", Target: "/v1/payments/7",
		Digest: strings.Repeat("a", 64), PolicyDigest: strings.Repeat("b", 64), RulesDigest: strings.Repeat("c", 64), ConfigDigest: strings.Repeat("d", 64),
		Principal: &gate.Principal{Issuer: "https://idp.example.com", Subject: "agent-7", ClientID: "agent", Verified: gate.Verification{Method: "jwt", Algorithm: "RS256", KeyID: "1"}},
		Context:   gate.Context{TraceParent: traceparent, Peer: "10.1.2.3:4567", RequestID: op},
	}})
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range []*gate.Record{
		{Type: gate.OperationFinished, Op: op, Body: &gate.Outcome{Result: gate.Completed, Status: 200, BytesOut: 12, Decided: r.Seq, Duration: time.Millisecond}},
		{Type: gate.Transit, Op: op, Body: gate.Object{
			{Name: "bytes_in", Value: 0},
			{Name: "bytes_out", Value: 12},
			{Name: "duration", Value: 0.001234},
			{Name: "method", Value: "GET"},
			{Name: "path", Value: "/v1/payments/7"},
			{Name: "request_id", Value: op},
			{Name: "resource", Value: "payments"},
			{Name: "status", Value: 200},
			{Name: "trace_id", Value: ""},
			{Name: "upstream", Value: "10.0.0.1:80"},
		}},
	} {
		if err := journal.Post(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
