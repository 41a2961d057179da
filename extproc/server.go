package extproc

import (
	"time"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authz "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ext "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"

	"github.com/countersign/countersign/extproc/inspect/cookie"
	"github.com/countersign/countersign/extproc/inspect/echo"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/redact"
)

// Credential is what a target wants to see in the place of the agent's token.
type Credential interface {
	// Field returns the header field to set. It is asked for every operation, so that a secret can be changed in place.
	Field() (web.Field, error)
}

// HTTP is what a resource that HTTP carries has of its own: see [lane.Resource].
type HTTP struct {
	Web          web.Options
	Credential   Credential    // nil adds nothing
	PassResponse bool          // answers are not to come by here; whether they do is a fact of the call
	MaxHead      int64         // bytes of header fields; 0 is no limit
	MaxAnswer    int64         // bytes of any answer; 0 is no limit
	MaxRedacted  int64         // bytes of an answer that is redacted
	StreamBody   bool          // policy rules on the head alone
	ByAuthz      bool          // it is attached by ext_authz
	RequestTime  time.Duration // how long a request that is inspected may take to arrive whole; 0 is no limit

	Plans *redact.Plans // of answers

	// The target's own URLs in answers become the gateway's: in header fields where RewriteURLs is true, and in JSON at the
	// paths of Rewrite.
	Target      web.Origin
	RewriteURLs bool
	Rewrite     []string

	// ResponseHeaders are names, or prefixes that end with "-*", of fields that may pass with a redacted answer beside those
	// of package web's list.
	ResponseHeaders []string

	Cookies       cookie.Mode
	CookieKey     []byte // seals session cookies; at least 16 bytes where there are any
	SecureCookies bool   // agents connect over TLS, so that a cookie that is Secure comes back

	forms echo.Cache // of the target's credential
}

// httpOf is what a resource has of its own; nil where HTTP does not carry it.
func httpOf(r *lane.Resource) *HTTP {
	if r == nil {
		return nil
	}
	h, _ := r.Own.(*HTTP)
	return h
}

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
