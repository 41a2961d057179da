package extproctest

import (
	"bytes"
	"context"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filter "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	ext "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// Duplex is one ext_proc stream as Envoy makes it, but it reads only in [Duplex.Next]: a real Envoy always reads.
type Duplex struct {
	stream ext.ExternalProcessor_ProcessClient
}

// NewDuplex begins a POST to a resource whose answers come by. sent is the gRPC metadata of the stream.
func NewDuplex(tb TB, ctx context.Context, socket string, sent map[string]string, fields ...Field) *Duplex {
	tb.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStaticStreamWindowSize(64<<10))
	if err != nil {
		tb.Fatalf("connect to %s: %v", socket, err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	stream, err := ext.NewExternalProcessorClient(conn).Process(metadata.NewOutgoingContext(ctx, metadata.New(sent)))
	if err != nil {
		tb.Fatalf("begin a stream: %v", err)
	}
	err = stream.Send(&ext.ProcessingRequest{
		Request: &ext.ProcessingRequest_RequestHeaders{RequestHeaders: &ext.HttpHeaders{Headers: headers(fields)}},
		ProtocolConfig: &ext.ProtocolConfiguration{
			RequestBodyMode: filter.ProcessingMode_FULL_DUPLEX_STREAMED, ResponseBodyMode: filter.ProcessingMode_FULL_DUPLEX_STREAMED,
		},
	})
	if err != nil {
		tb.Fatalf("send the head of a request: %v", err)
	}
	return &Duplex{stream}
}

func headers(fields []Field) *core.HeaderMap {
	m := &core.HeaderMap{}
	for _, f := range fields {
		m.Headers = append(m.Headers, &core.HeaderValue{Key: f.Name, RawValue: []byte(f.Value)})
	}
	return m
}

// Body sends size bytes of the request's body.
func (d *Duplex) Body(size int, end bool) error {
	return d.stream.Send(&ext.ProcessingRequest{Request: &ext.ProcessingRequest_RequestBody{
		RequestBody: &ext.HttpBody{Body: bytes.Repeat([]byte("x"), size), EndOfStream: end},
	}})
}

// Answer sends the head of an answer without a body.
func (d *Duplex) Answer(status string) error {
	return d.stream.Send(&ext.ProcessingRequest{Request: &ext.ProcessingRequest_ResponseHeaders{
		ResponseHeaders: &ext.HttpHeaders{Headers: headers([]Field{{":status", status}}), EndOfStream: true},
	}})
}

// Close says that nothing more is sent.
func (d *Duplex) Close() error { return d.stream.CloseSend() }

// Sent is what the service sent: a part of the request for the target, or of the answer.
type Sent struct {
	Head, Answer bool
	Bytes        int // of the request's body
	End          bool
}

// Next waits for what the service sends.
func (d *Duplex) Next() (s Sent, err error) {
	m, err := d.stream.Recv()
	body := m.GetRequestBody().GetResponse().GetBodyMutation().GetStreamedResponse()
	return Sent{
		Head:   m.GetRequestHeaders() != nil,
		Answer: m.GetResponseHeaders() != nil || m.GetImmediateResponse() != nil,
		Bytes:  len(body.GetBody()), End: body.GetEndOfStream(),
	}, err
}
