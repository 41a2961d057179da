package extproc

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/lane"
)

// connection is what gRPC knows of one of Envoy's connections to this service.
type connection struct {
	credentials.AuthInfo
	of *lane.Connection
}

// Watch returns credentials that do what inner does, and tell the server when a connection ends. Without them an operation
// whose answer does not come by here (ext_authz, response: pass) stays open when its Envoy dies, until the gateway stops.
func (s *Server) Watch(inner credentials.TransportCredentials) credentials.TransportCredentials {
	return &watch{inner, s}
}

type watch struct {
	credentials.TransportCredentials
	server *Server
}

// ServerHandshake is that of the inner credentials.
func (w *watch) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := w.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return conn, info, err
	}
	c := &connection{info, &lane.Connection{}}
	return &watchedConn{Conn: conn, closed: sync.OnceFunc(guard.Func("the end of a connection", func() { w.server.lane.Lost(c.of) }))}, c, nil
}

// Clone copies the credentials.
func (w *watch) Clone() credentials.TransportCredentials {
	return &watch{w.TransportCredentials.Clone(), w.server}
}

type watchedConn struct {
	net.Conn
	closed func()
}

// Close is called by gRPC at the end of every connection, whoever ended it.
func (c *watchedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// connectionOf is the connection that a call came by; nil where it is not watched.
func connectionOf(ctx context.Context) *lane.Connection {
	if p, ok := peer.FromContext(ctx); ok {
		if c, ok := p.AuthInfo.(*connection); ok {
			return c.of
		}
	}
	return nil
}
