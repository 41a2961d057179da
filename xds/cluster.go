package xds

import (
	"net/netip"
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

// clusterName is the cluster of a resource's target. The slash cannot be in a resource's name, so that no resource can take
// the name of this service's cluster. Over xDS another target is another cluster: a request that was judged for the old one
// does not go to the new one, with the old one's credential, because the cluster has changed in the meantime.
func (b *builder) clusterName(r *config.HTTP) string {
	if b.static {
		return "target/" + r.Name
	}
	return "target/" + r.Name + "/" + digestOf(struct {
		URL   string
		TLS   *config.ClientTLS
		HTTP2 bool
	}{r.Target, r.TargetTLS, r.TargetHTTP2})
}

// mostAtTarget bounds the requests that wait for one target at once; more are refused with a 503. It leaves room beside ten
// thousand agents, and is below what Envoy takes of connections (see overload).
const mostAtTarget = 16384

// cluster is the target of r.
func (b *builder) cluster(r *config.HTTP) {
	host, port, tls, err := r.TargetAddress()
	if err != nil {
		b.fail(err)
		return
	}
	c := &clusterv3.Cluster{
		Name:                          b.clusterName(r),
		ConnectTimeout:                seconds(connectTimeout),
		PerConnectionBufferLimitBytes: number(answerLimit),
		LoadAssignment:                endpoint(b.clusterName(r), socketAddress(host, port)),
		CircuitBreakers:               circuitBreakers(mostAtTarget),
		TypedExtensionProtocolOptions: b.upstreamProtocol(&upstreamv3.HttpProtocolOptions{
			CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
				IdleTimeout:          seconds(targetIdle),
				MaxHeadersCount:      number(maxHeaders),
				MaxResponseHeadersKb: number(kib(r.Limits.Headers)),
			},
			UpstreamProtocolOptions: targetProtocol(r),
		}),
		UpstreamConnectionOptions: &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{}},
	}
	if _, err := netip.ParseAddr(host); err == nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	} else {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		c.DnsLookupFamily = clusterv3.Cluster_V4_PREFERRED
	}
	if tls {
		c.TransportSocket = b.transportSocket(b.upstreamTLS(r, host))
	}
	b.valid(c)
	b.out.clusters = append(b.out.clusters, c)
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

// upstreamTLS verifies the target by its roots and by the name it is configured under.
func (b *builder) upstreamTLS(r *config.HTTP, host string) *tlsv3.UpstreamTlsContext {
	settings := r.TargetTLS
	if settings == nil {
		settings = &config.ClientTLS{}
	}
	name := settings.ServerName
	if name == "" {
		name = host
	}
	protocol := "http/1.1"
	if r.TargetHTTP2 {
		protocol = "h2"
	}
	context := &tlsv3.UpstreamTlsContext{CommonTlsContext: b.commonTLS(protocol)}
	kind := tlsv3.SubjectAltNameMatcher_IP_ADDRESS
	if _, err := netip.ParseAddr(name); err != nil { // an address is not sent as SNI (RFC 6066, section 3)
		kind = tlsv3.SubjectAltNameMatcher_DNS
		context.Sni = name
	}
	names := []*tlsv3.SubjectAltNameMatcher{sanMatcher(kind, name)}
	if settings.CAFile != "" {
		b.authority(context.CommonTlsContext, "target-ca/"+r.Name, settings.CAFile, names)
	} else {
		context.CommonTlsContext.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{
			ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: fileSource(config.Path(SystemRoots())), MatchTypedSubjectAltNames: names,
			},
		}
	}
	if settings.CertificateFile != "" {
		b.certificate(context.CommonTlsContext, "target-certificate/"+r.Name, settings.CertificateFile, settings.KeyFile)
	}
	return context
}

// sanMatcher wants exactly that name, or a wildcard certificate that covers it.
func sanMatcher(kind tlsv3.SubjectAltNameMatcher_SanType, name string) *tlsv3.SubjectAltNameMatcher {
	return &tlsv3.SubjectAltNameMatcher{
		SanType: kind,
		Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}},
	}
}

// serviceCluster is this service. Streams to it are many and long: each operation is one, for as long as it is held.
func (b *builder) serviceCluster() *clusterv3.Cluster {
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
func (b *builder) upstreamProtocol(o *upstreamv3.HttpProtocolOptions) map[string]*anypb.Any {
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": b.pack(o)}
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
