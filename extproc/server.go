package extproc

import (
	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authz "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ext "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"

	"github.com/countersign/countersign/extproc/lane"
)

// Server is the services that Envoy calls.
type Server struct {
	ext.UnimplementedExternalProcessorServer
	authz.UnimplementedAuthorizationServer
	accesslog.UnimplementedAccessLogServiceServer

	lane      *lane.Lane
	clocks    clocks
	differing differing
	targets   targets
}

// New returns the services of a lane.
func New(l *lane.Lane) *Server { return &Server{lane: l} }

// Register adds the services to g.
func (s *Server) Register(g *grpc.Server) {
	ext.RegisterExternalProcessorServer(g, s)
	authz.RegisterAuthorizationServer(g, s)
	accesslog.RegisterAccessLogServiceServer(g, s)
}
