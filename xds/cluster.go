package xds

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/countersign/countersign/extproc/config"
)

func (b *Builder) clusterName(r *config.HTTP) string {
	return b.TargetName(r.Name, struct {
		URL   string
		TLS   *config.ClientTLS
		HTTP2 bool
	}{r.Target, r.TargetTLS, r.TargetHTTP2})
}

// mostAtTarget bounds the requests that wait for one target at once; more are refused with a 503. It leaves room beside ten
// thousand agents, and is below what Envoy takes of connections (see overload).
const mostAtTarget = 16384

// cluster is the target of r.
func (b *Builder) cluster(r *config.HTTP) {
	host, port, tls, err := r.TargetAddress()
	if err != nil {
		b.Fail(err)
		return
	}
	c := b.Target(b.clusterName(r), host, port)
	c.TypedExtensionProtocolOptions = b.upstreamProtocol(&upstreamv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:          seconds(targetIdle),
			MaxHeadersCount:      number(maxHeaders),
			MaxResponseHeadersKb: number(kib(r.Limits.Headers)),
		},
		UpstreamProtocolOptions: targetProtocol(r),
	})
	if tls {
		protocol := "http/1.1"
		if r.TargetHTTP2 {
			protocol = "h2"
		}
		c.TransportSocket = b.TargetTLS(r.Name, r.TargetTLS, host, protocol)
	}
	b.Cluster(c)
}

func targetProtocol(r *config.HTTP) *upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_ {
	explicit := &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
			HttpProtocolOptions: &corev3.Http1ProtocolOptions{EnableTrailers: true},
		},
	}
	if r.TargetHTTP2 {
		explicit.ProtocolConfig = &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
			Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
				InitialStreamWindowSize:     number(256 << 10),
				InitialConnectionWindowSize: number(16 << 20),
				AllowConnect:                len(r.Upgrades) > 0,

				// A server allows at least 100 as a rule (RFC 9113, section 5.1.2). With more on a connection whose settings have not
				// come yet it refuses some, and nothing is sent again here.
				MaxConcurrentStreams: number(100),
			},
		}
	}
	return &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit}
}

// sanMatcher wants exactly that name, or a wildcard certificate that covers it.
func sanMatcher(kind tlsv3.SubjectAltNameMatcher_SanType, name string) *tlsv3.SubjectAltNameMatcher {
	return &tlsv3.SubjectAltNameMatcher{
		SanType: kind,
		Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}},
	}
}

// serviceCluster is this service. Streams to it are many and long: each operation is one, for as long as it is held.
func (b *Builder) serviceCluster() *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                          ServiceCluster,
		ConnectTimeout:                seconds(time.Second),
		PerConnectionBufferLimitBytes: number(bufferLimit),
		CircuitBreakers:               circuitBreakers(1 << 20), // the downstream connection limit is what bounds work
		TypedExtensionProtocolOptions: b.upstreamProtocol(&upstreamv3.HttpProtocolOptions{
			UpstreamProtocolOptions: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_{
				ExplicitHttpConfig: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig{
					ProtocolConfig: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
						Http2ProtocolOptions: serviceHTTP2(),
					},
				},
			},
		}),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
	}
	if path, ok := b.c.Listen.Envoy.Unix(); ok {
		c.LoadAssignment = endpoint(ServiceCluster, pipeAddress(path))
	} else {
		b.serviceOverTCP(c)
	}
	b.valid(c)
	return c
}

// serviceHTTP2 has a stream window of some messages and a connection window for hundreds of streams whose data Envoy has
// not passed on yet: a slow agent must not stop the others on the same connection.
func serviceHTTP2() *corev3.Http2ProtocolOptions {
	return &corev3.Http2ProtocolOptions{
		InitialStreamWindowSize:     number(256 << 10),
		InitialConnectionWindowSize: number(64 << 20),
		MaxConcurrentStreams:        number(1024), // then another connection is opened
	}
}

// upstreamProtocol has Envoy speak one version of HTTP, the one that is named.
func (b *Builder) upstreamProtocol(o *upstreamv3.HttpProtocolOptions) map[string]*anypb.Any {
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": b.Pack(o)}
}

// circuitBreakers replaces Envoy's defaults, 1024 each: more requests than that are refused at once.
func circuitBreakers(limit int) *clusterv3.CircuitBreakers {
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections:     number(limit),
		MaxPendingRequests: number(limit),
		MaxRequests:        number(limit),
		MaxRetries:         number(0),
	}}}
}

func endpoint(cluster string, address *corev3.Address) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: cluster,
		Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address}},
		}}}},
	}
}
