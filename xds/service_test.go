package xds_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/xds"
)

const refusal = `{"type":"urn:countersign:problem:denied","title":"the service says so"}`

// service is the smallest thing that answers Envoy: it lets requests through that name a resource, and does what their
// x-verdict says otherwise. The real one has its own tests, in package extproc.
type service struct {
	procv3.UnimplementedExternalProcessorServer
	authv3.UnimplementedAuthorizationServer
	accesslogv3.UnimplementedAccessLogServiceServer

	xds  *xds.Server
	grpc *grpc.Server

	mu      sync.Mutex
	asked   []asked
	logged  []*datav3.HTTPAccessLogEntry
	alarms  []string
	sent    map[string]int // messages of ADS, by type
	changed chan struct{}
}

// asked is one request as the service got it.
type asked struct {
	by         string // ext_proc or ext_authz
	resource   string
	carried    string // the fingerprint
	peer       string
	headers    map[string]string
	attributes map[string]string
	body       string
	whole      bool // ext_authz was told that bodies are sent along
}

// credential is what ext_authz puts in the place of an agent's token.
const credential = "target-credential"

// startService serves c to Envoy, at c.Listen.Envoy.
func startService(t *testing.T, c *config.Config) *service {
	t.Helper()
	s := &service{sent: map[string]int{}, changed: make(chan struct{})}
	s.xds = xds.NewServer(xds.Options{Alarm: func(kind, detail string) {
		s.update(func() { s.alarms = append(s.alarms, kind+": "+detail) })
	}})
	if err := s.xds.Update(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	s.listen(t, c)
	return s
}

func (s *service) listen(t *testing.T, c *config.Config) {
	t.Helper()
	network, address := c.Listen.Envoy.Network()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s.grpc = grpc.NewServer(grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		return handle(srv, &counted{stream, s})
	}))
	s.xds.Register(s.grpc)
	procv3.RegisterExternalProcessorServer(s.grpc, s)
	authv3.RegisterAuthorizationServer(s.grpc, s)
	accesslogv3.RegisterAccessLogServiceServer(s.grpc, s)
	go func(g *grpc.Server) { _ = g.Serve(listener) }(s.grpc)
	t.Cleanup(s.grpc.Stop)
}

// counted is a stream whose messages of ADS to Envoy are counted, by type.
type counted struct {
	grpc.ServerStream
	s *service
}

func (c *counted) SendMsg(m any) error {
	if r, ok := m.(*discoveryv3.DiscoveryResponse); ok {
		c.s.update(func() { c.s.sent[r.GetTypeUrl()]++ })
	}
	return c.ServerStream.SendMsg(m)
}

func (s *service) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

// await waits until ok, which is called with the service locked.
func (s *service) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		s.mu.Lock()
		changed, done := s.changed, ok()
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("waited too long for %s", what)
		}
	}
}

func (s *service) last(t *testing.T) asked {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asked) == 0 {
		t.Fatal("the service was not asked")
	}
	return s.asked[len(s.asked)-1]
}

func (s *service) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// Process lets every part of a request and of its answer pass as it came.
func (s *service) Process(stream procv3.ExternalProcessor_ProcessServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	a := asked{by: "ext_proc", resource: strings.Join(md.Get(xds.ResourceMetadata), ","), carried: strings.Join(md.Get(xds.FingerprintMetadata), ","), peer: strings.Join(md.Get(xds.PeerMetadata), ",")}
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(md.Get(xds.ClockMetadata)) > 0 { // about time alone: nothing was asked, and nothing more is said
			return stream.Send(&procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_RequestHeaders{RequestHeaders: &procv3.HeadersResponse{}}})
		}
		out, err := s.answer(in, &a)
		if err != nil {
			return err
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

func (s *service) answer(in *procv3.ProcessingRequest, a *asked) (*procv3.ProcessingResponse, error) {
	switch m := in.GetRequest().(type) {
	case *procv3.ProcessingRequest_RequestHeaders:
		a.headers = headersOf(m.RequestHeaders.GetHeaders())
		a.attributes = map[string]string{}
		for _, fields := range in.GetAttributes() {
			for name, value := range fields.GetFields() {
				a.attributes[name] = value.GetStringValue()
			}
		}
		s.update(func() { s.asked = append(s.asked, *a) })
		switch verdict := a.headers["x-verdict"]; {
		case verdict == "error":
			return nil, io.ErrUnexpectedEOF
		case a.resource == "" || verdict == "refuse":
			return immediate(xds.DetailsPrefix + "_denied"), nil
		case verdict == "refuse without details":
			return immediate(""), nil
		}
		return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_RequestHeaders{RequestHeaders: &procv3.HeadersResponse{}}}, nil
	case *procv3.ProcessingRequest_RequestBody:
		return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_RequestBody{RequestBody: same(m.RequestBody)}}, nil
	case *procv3.ProcessingRequest_RequestTrailers:
		return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_RequestTrailers{RequestTrailers: &procv3.TrailersResponse{}}}, nil
	case *procv3.ProcessingRequest_ResponseHeaders:
		if a.headers["x-verdict"] == "error at the answer" {
			return nil, io.ErrUnexpectedEOF
		}
		return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &procv3.HeadersResponse{}}}, nil
	case *procv3.ProcessingRequest_ResponseBody:
		return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_ResponseBody{ResponseBody: same(m.ResponseBody)}}, nil
	default:
		return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &procv3.TrailersResponse{}}}, nil
	}
}

func same(b *procv3.HttpBody) *procv3.BodyResponse {
	return &procv3.BodyResponse{Response: &procv3.CommonResponse{BodyMutation: &procv3.BodyMutation{
		Mutation: &procv3.BodyMutation_StreamedResponse{StreamedResponse: &procv3.StreamedBodyResponse{
			Body: b.GetBody(), EndOfStream: b.GetEndOfStream(),
		}},
	}}}
}

func immediate(details string) *procv3.ProcessingResponse {
	return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &procv3.ImmediateResponse{
		Status:  &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden},
		Headers: &procv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{problemType()}},
		Body:    []byte(refusal),
		Details: details,
	}}}
}

func problemType() *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: "content-type", RawValue: []byte("application/problem+json")},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func headersOf(m *corev3.HeaderMap) map[string]string {
	out := map[string]string{}
	for _, h := range m.GetHeaders() {
		out[h.GetKey()] += string(h.GetRawValue())
	}
	return out
}

// Check is Process for ext_authz.
func (s *service) Check(_ context.Context, in *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	request := in.GetAttributes().GetRequest().GetHttp()
	a := asked{
		by: "ext_authz", resource: in.GetAttributes().GetContextExtensions()[xds.ResourceExtension], carried: in.GetAttributes().GetContextExtensions()[xds.FingerprintExtension],
		headers: headersOf(request.GetHeaderMap()), body: string(request.GetRawBody()),
		whole: in.GetAttributes().GetContextExtensions()[xds.BodyExtension] == xds.WholeBody,
	}
	s.update(func() { s.asked = append(s.asked, a) })
	if a.headers["x-verdict"] == "error" {
		return nil, io.ErrUnexpectedEOF
	}
	if a.resource == "" || strings.HasPrefix(a.headers["x-verdict"], "refuse") {
		denied := &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden}, Body: refusal,
			Headers: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "content-type", Value: "application/problem+json"}}},
		}
		return &authv3.CheckResponse{
			Status:       &status.Status{Code: int32(codes.PermissionDenied)},
			HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: denied},
		}, nil
	}
	ok := &authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{{
		Header:       &corev3.HeaderValue{Key: "authorization", Value: "Bearer " + credential},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}}}
	return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.OK)}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok}}, nil
}

// StreamAccessLogs keeps the entries.
func (s *service) StreamAccessLogs(stream accesslogv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // Envoy has left
		}
		s.update(func() { s.logged = append(s.logged, m.GetHttpLogs().GetLogEntry()...) })
	}
}

// parse reads a configuration in a directory of its own, with the files that every configuration names.
func parse(t *testing.T, dir, resources string) *config.Config {
	t.Helper()
	text := `
node: test-1
data: ` + dir + `
agents:
  - {issuer: "https://issuer.example", audience: [countersign]}
policies: ` + dir + `
resources:
` + resources
	c, err := config.Parse(filepath.Join(dir, "countersign.yaml"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
