package extproc

import (
	"context"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authz "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ext "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	network "github.com/envoyproxy/go-control-plane/envoy/service/network_ext_proc/v3"
	"google.golang.org/grpc"

	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/wire"
)

// Server is the services that Envoy calls.
type Server struct {
	lane      *lane.Lane
	clocks    clocks
	differing differing
	targets   targets
	spliced   map[string]*splices // by kind; it does not change once the services are served
}

// New returns the services of a lane.
func New(l *lane.Lane) *Server { return &Server{lane: l} }

// Register adds the services to g, which must have the codec of package listener: their messages are those of package wire.
func (s *Server) Register(g *grpc.Server) {
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: ext.ExternalProcessor_ServiceDesc.ServiceName, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Process", ServerStreams: true, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			return s.Process(stream)
		}}},
	}, s)
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: network.NetworkExternalProcessor_ServiceDesc.ServiceName, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Process", ServerStreams: true, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			return s.ProcessConnection(stream)
		}}},
	}, s)
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: authz.Authorization_ServiceDesc.ServiceName, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Check", Handler: s.check}},
	}, s)
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: accesslog.AccessLogService_ServiceDesc.ServiceName, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "StreamAccessLogs", ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			return s.StreamAccessLogs(stream)
		}}},
	}, s)
}

// check reads one message and answers it. A panic is this call's, while it is read too.
func (s *Server) check(_ any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (out any, err error) {
	defer guard.Catch("ext_authz", func(guard.Panic) { out, err = nil, errFailed })
	var m wire.Check
	if err := read(&m); err != nil {
		return nil, err
	}
	return s.Check(ctx, &m)
}
