package xds

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign/countersign/extproc/config"
)

// listener is one address and the resources that share it, in the order of the file.
type listener struct {
	address   string
	tls       *config.ServerTLS // of all of them: the configuration refuses two that differ
	resources []*config.HTTP
}

func listeners(c *config.Config) []*listener {
	var list []*listener
	at := map[string]*listener{}
	for _, r := range config.Each[*config.HTTP](c) {
		l, ok := at[r.Listen.Address]
		if !ok {
			l = &listener{address: r.Listen.Address, tls: r.Listen.TLS}
			at[r.Listen.Address] = l
			list = append(list, l)
		}
		l.resources = append(l.resources, r)
	}
	return list
}

// attaches reports whether a resource of l is attached that way.
func (l *listener) attaches(how string) bool {
	return slices.ContainsFunc(l.resources, func(r *config.HTTP) bool { return r.Attach == how })
}

// cleans reports whether Envoy takes something away on a route of l.
func (l *listener) cleans() bool { return slices.ContainsFunc(l.resources, cleans) }

// upgrades reports whether a resource of l lets some upgrade through.
func (l *listener) upgrades() bool {
	return slices.ContainsFunc(l.resources, func(r *config.HTTP) bool { return len(r.Upgrades) > 0 })
}

func (l *listener) scheme() string {
	if l.tls != nil {
		return "https"
	}
	return "http"
}

// headersKB is the largest header limit of the resources, in KiB. The service holds each resource to its own.
func (l *listener) headersKB() int {
	var most config.Size
	for _, r := range l.resources {
		most = max(most, r.Limits.Headers)
	}
	return kib(most)
}

func kib(s config.Size) int { return int((s + 1023) / 1024) }

func (b *Builder) listener(l *listener) {
	routes := b.routes(l)
	manager := b.manager(l)
	if b.static {
		manager.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes}
	} else {
		manager.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: routes.Name}}
		b.out.routes = append(b.out.routes, routes)
	}
	b.Listener(l.address, []*listenerv3.Filter{b.Filter("envoy.filters.network.http_connection_manager", manager)}, l.tls, "h2", "http/1.1")
}

// manager is the HTTP connection manager of l, less its routes.
func (b *Builder) manager(l *listener) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		CodecType:                 hcmv3.HttpConnectionManager_AUTO,
		StatPrefix:                "agents",
		HttpFilters:               b.filters(l),
		AccessLog:                 b.accessLog(),
		LocalReplyConfig:          b.localReplies(),
		CommonHttpProtocolOptions: agentProtocol(),
		HttpProtocolOptions:       agentHTTP1(),
		Http2ProtocolOptions:      agentHTTP2(l),
		MaxRequestHeadersKb:       number(l.headersKB()),
		RequestHeadersTimeout:     seconds(10 * time.Second),
		RequestTimeout:            b.requestTimeout(l),
		StreamIdleTimeout:         seconds(idleTimeout(longestHold(b.c))),
		DelayedCloseTimeout:       seconds(time.Second),

		// The peer is who connected, whatever a header says, and the target is not told: an operation that is the same from
		// two addresses stays the same operation.
		UseRemoteAddress:      yes(),
		SkipXffAppend:         true,
		InternalAddressConfig: nobodyIsInternal(),

		// The scheme is how the agent connects to this listener, and not what it says.
		SchemeHeaderTransformation: &corev3.SchemeHeaderTransformation{
			Transformation: &corev3.SchemeHeaderTransformation_SchemeToOverwrite{SchemeToOverwrite: l.scheme()},
		},

		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{b.withoutEnvoyHeaders()},

		GenerateRequestId:            yes(),
		PreserveExternalRequestId:    false,
		AlwaysSetRequestIdInResponse: true,

		ServerHeaderTransformation:   hcmv3.HttpConnectionManager_PASS_THROUGH,
		NormalizePath:                no(),
		MergeSlashes:                 false,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
	}
}

// requestTimeout bounds how long a request may take to arrive and be decided on, where every resource of l inspects bodies:
// where ext_authz is asked, Envoy alone sees a body that trickles. Where a body streams, or a connection is upgraded, nil. What a
// resource has shorter the service keeps: see timed.
func (b *Builder) requestTimeout(l *listener) *durationpb.Duration {
	var longest time.Duration
	for _, r := range l.resources {
		if r.Body == "stream" || len(r.Upgrades) > 0 {
			return nil
		}
		longest = max(longest, r.Limits.RequestTime.Std())
	}
	return seconds(longest + longestHold(b.c) + holdMargin)
}

func agentProtocol() *corev3.HttpProtocolOptions {
	return &corev3.HttpProtocolOptions{
		IdleTimeout:                  seconds(minIdleTimeout),
		MaxHeadersCount:              number(maxHeaders),
		HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_ALLOW,
	}
}

func agentHTTP1() *corev3.Http1ProtocolOptions {
	return &corev3.Http1ProtocolOptions{
		AllowAbsoluteUrl: no(), // a request line that names another host than Host does is not for a resource
		EnableTrailers:   true, // dropped in silence otherwise

		// Which methods there are the service says, for HTTP/2 too. Envoy calls this work in progress; all that it does is to take
		// any token for a method, and the service looks at each again.
		AllowCustomMethods: true,
	}
}

func agentHTTP2(l *listener) *corev3.Http2ProtocolOptions {
	return &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:        number(128),
		InitialStreamWindowSize:     number(256 << 10),
		InitialConnectionWindowSize: number(1 << 20),
		AllowConnect:                l.upgrades(), // RFC 8441 too: websockets over HTTP/2
		StreamResetBurst:            wrapperspb.UInt64(200),
		StreamResetRate:             wrapperspb.UInt64(20),
	}
}

// nobodyIsInternal keeps Envoy from believing headers of clients with private addresses. An empty list would mean Envoy's
// default, so it names the one address that cannot connect: the broadcast address.
func nobodyIsInternal() *hcmv3.HttpConnectionManager_InternalAddressConfig {
	return &hcmv3.HttpConnectionManager_InternalAddressConfig{
		CidrRanges: []*corev3.CidrRange{{AddressPrefix: "255.255.255.255", PrefixLen: number(32)}},
	}
}

// withoutEnvoyHeaders removes every x-envoy-* header that a client sent, before anything reads it. They make Envoy retry,
// shorten timeouts and rename statistics.
func (b *Builder) withoutEnvoyHeaders() *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{
		Name: "envoy.http.early_header_mutation.header_mutation",
		TypedConfig: b.Pack(&earlyv3.HeaderMutation{Mutations: []*mutationv3.HeaderMutation{{
			Action: &mutationv3.HeaderMutation_RemoveOnMatch_{RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{
				KeyMatcher: &matcherv3.StringMatcher{
					MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "x-envoy-"},
					IgnoreCase:   true,
				},
			}},
		}}}),
	}
}

func (b *Builder) socketAddress(hostPort string) *corev3.Address {
	host, text, err := net.SplitHostPort(hostPort)
	if err != nil {
		b.Fail(fmt.Errorf("address %q: %w", hostPort, err))
		return nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		b.Fail(fmt.Errorf("address %q: its port is not a number", hostPort))
		return nil
	}
	return socketAddress(host, uint32(port))
}

func socketAddress(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func pipeAddress(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}
