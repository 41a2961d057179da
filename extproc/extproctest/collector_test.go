package extproctest

import (
	"context"
	"crypto/tls"
	"testing"

	"github.com/google/go-cmp/cmp"
	collectlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collecttrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

func TestCollectorKeepsWhatItGotOverARestart(t *testing.T) {
	c := StartCollector(t, CollectorOptions{})
	send(t, c, insecure.NewCredentials(), "first")
	// It says that it is ready before it minds the signal to stop. One that comes between kills it, with what it has in memory.
	c.WaitFor(within(t), "the first span and log record", func(s []Span, l []LogRecord) bool { return len(s) == 1 && len(l) == 1 })
	c.Stop()
	c.Start()
	send(t, c, insecure.NewCredentials(), "second")
	c.WaitFor(within(t), "two spans and two log records", func(s []Span, l []LogRecord) bool {
		return len(s) == 2 && len(l) == 2
	})

	want := Span{
		Name: "second", TraceID: "0102030405060708090a0b0c0d0e0f10", SpanID: "0102030405060708", ParentID: "0807060504030201", Kind: 2,
		StatusCode: 2, StatusMessage: "denied", Scope: "countersign",
		Attributes: map[string]any{
			"text": "x", "seq": int64(1 << 60), "yes": true, "half": 0.5, "raw": []byte{0xff}, "rules": []any{"a", "b"},
			"map": map[string]any{"k": "v"},
		},
		Resource: map[string]any{"service.name": "countersign"},
		Events:   []Event{{Name: "held", Attributes: map[string]any{}}},
	}
	got := c.Spans()[1]
	if got.Start.UnixNano() != 1700000000000000001 || got.End.UnixNano() != 1700000000000000002 {
		t.Errorf("the span is from %v to %v", got.Start, got.End)
	}
	want.Start, want.End, want.Events[0].Time = got.Start, got.End, got.Start
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the span (-want +got):\n%s", diff)
	}
	record := c.Logs()[1]
	if record.EventName != "second" || record.Body != "a body" || record.Severity != 9 || record.Attributes["seq"] != int64(7) {
		t.Errorf("the log record is %+v", record)
	}
}

func TestCollectorOverTLS(t *testing.T) {
	authority := NewAuthority(t)
	c := StartCollector(t, CollectorOptions{Authority: authority})
	send(t, c, credentials.NewTLS(&tls.Config{RootCAs: authority.Pool}), "sealed")
	c.WaitFor(within(t), "the span", func(s []Span, _ []LogRecord) bool { return len(s) == 1 })
}

func text(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
}

func send(t *testing.T, c *CollectorProcess, creds credentials.TransportCredentials, name string) {
	t.Helper()
	conn, err := grpc.NewClient(c.Endpoint(), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	attributes := []*common.KeyValue{
		{Key: "text", Value: text("x")},
		{Key: "seq", Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: 1 << 60}}},
		{Key: "yes", Value: &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: true}}},
		{Key: "half", Value: &common.AnyValue{Value: &common.AnyValue_DoubleValue{DoubleValue: 0.5}}},
		{Key: "raw", Value: &common.AnyValue{Value: &common.AnyValue_BytesValue{BytesValue: []byte{0xff}}}},
		{Key: "rules", Value: &common.AnyValue{Value: &common.AnyValue_ArrayValue{
			ArrayValue: &common.ArrayValue{Values: []*common.AnyValue{text("a"), text("b")}},
		}}},
		{Key: "map", Value: &common.AnyValue{Value: &common.AnyValue_KvlistValue{
			KvlistValue: &common.KeyValueList{Values: []*common.KeyValue{{Key: "k", Value: text("v")}}},
		}}},
	}
	from := &resource.Resource{Attributes: []*common.KeyValue{{Key: "service.name", Value: text("countersign")}}}
	scope := &common.InstrumentationScope{Name: "countersign"}
	_, err = collecttrace.NewTraceServiceClient(conn).Export(ctx, &collecttrace.ExportTraceServiceRequest{
		ResourceSpans: []*trace.ResourceSpans{{Resource: from, ScopeSpans: []*trace.ScopeSpans{{Scope: scope, Spans: []*trace.Span{{
			Name: name, Kind: trace.Span_SPAN_KIND_SERVER, Attributes: attributes,
			TraceId: []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, SpanId: []byte{1, 2, 3, 4, 5, 6, 7, 8},
			ParentSpanId:      []byte{8, 7, 6, 5, 4, 3, 2, 1},
			StartTimeUnixNano: 1700000000000000001, EndTimeUnixNano: 1700000000000000002,
			Status: &trace.Status{Code: trace.Status_STATUS_CODE_ERROR, Message: "denied"},
			Events: []*trace.Span_Event{{Name: "held", TimeUnixNano: 1700000000000000001}},
		}}}}}},
	}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	_, err = collectlogs.NewLogsServiceClient(conn).Export(ctx, &collectlogs.ExportLogsServiceRequest{
		ResourceLogs: []*logs.ResourceLogs{{Resource: from, ScopeLogs: []*logs.ScopeLogs{{Scope: scope, LogRecords: []*logs.LogRecord{{
			EventName: name, Body: text("a body"), SeverityNumber: logs.SeverityNumber_SEVERITY_NUMBER_INFO,
			Attributes: []*common.KeyValue{{Key: "seq", Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: 7}}}},
		}}}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
}
