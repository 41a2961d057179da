package story

import (
	"context"
	"crypto/tls"
	"net"
)

// dialPlain is how HTTP/2 goes without TLS, with prior knowledge (RFC 9113, section 3.3).
func dialPlain(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}
