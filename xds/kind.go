package xds

import (
	"net/netip"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign/countersign/extproc/config"
)

// Kind makes Envoy's part of a kind of resource that HTTP does not carry.
type Kind interface {
	// Make adds to b what Envoy needs for the resources of c that are of this kind.
	Make(b *Builder, c *config.Config)

	// Check reports what is wrong with a filter chain of an Envoy file, and returns true, if the chain is of this kind.
	Check(k *Checker, chain *listenerv3.FilterChain, at Place) bool
}

// Named returns the resource of that name in the configuration that the file is checked for. If the file is checked without a
// configuration, every name is known.
func Named[R config.Resource](k *Checker, name string) (r R, known bool) {
	if k.config == nil {
		return r, true
	}
	return config.Named[R](k.config, name)
}

// Socket is a socket of the configuration that the file is checked for.
func (k *Checker) Socket(name string) config.Address {
	if k.config == nil {
		return ""
	}
	return k.config.Socket(name)
}

// Listener adds a listener of one filter chain. If t is set its connections are TLS, with these protocols for ALPN if any.
func (b *Builder) Listener(address string, filters []*listenerv3.Filter, t *config.ServerTLS, protocols ...string) {
	chain := &listenerv3.FilterChain{Filters: filters}
	if t != nil {
		chain.TransportSocket = b.transportSocket(b.downstreamTLS(address, t, protocols))
		chain.TransportSocketConnectTimeout = seconds(10 * time.Second)
	}
	l := &listenerv3.Listener{
		Name:                          address,
		Address:                       b.socketAddress(address),
		FilterChains:                  []*listenerv3.FilterChain{chain},
		PerConnectionBufferLimitBytes: number(bufferLimit),
		TrafficDirection:              corev3.TrafficDirection_INBOUND,
	}
	b.valid(l)
	b.out.listeners = append(b.out.listeners, l)
}

// Filter is a network filter.
func (b *Builder) Filter(name string, m Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: b.Pack(m)}}
}

// Target is the cluster of a resource's target, with what is the same for every kind; [Builder.Cluster] adds it.
func (b *Builder) Target(name, host string, port uint32) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                          name,
		ConnectTimeout:                seconds(connectTimeout),
		PerConnectionBufferLimitBytes: number(answerLimit),
		LoadAssignment:                endpoint(name, socketAddress(host, port)),
		CircuitBreakers:               circuitBreakers(mostAtTarget),
		UpstreamConnectionOptions:     &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{}},
	}
	if _, err := netip.ParseAddr(host); err == nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	} else {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		c.DnsLookupFamily = clusterv3.Cluster_V4_PREFERRED
	}
	return c
}

// Cluster adds a cluster.
func (b *Builder) Cluster(c *clusterv3.Cluster) {
	b.valid(c)
	b.out.clusters = append(b.out.clusters, c)
}

// TargetTLS verifies the target of a resource by the roots of t, the system's where it is nil, and by the name that is configured.
func (b *Builder) TargetTLS(resource string, t *config.ClientTLS, host string, protocols ...string) *corev3.TransportSocket {
	name := t.Name(host)
	if t == nil {
		t = &config.ClientTLS{}
	}
	context := &tlsv3.UpstreamTlsContext{CommonTlsContext: b.commonTLS(protocols...)}
	kind := tlsv3.SubjectAltNameMatcher_IP_ADDRESS
	if _, err := netip.ParseAddr(name); err != nil { // an address is not sent as SNI (RFC 6066, section 3)
		kind = tlsv3.SubjectAltNameMatcher_DNS
		context.Sni = name
	}
	names := []*tlsv3.SubjectAltNameMatcher{sanMatcher(kind, name)}
	if t.CAFile != "" {
		b.authority(context.CommonTlsContext, "target-ca/"+resource, t.CAFile, names)
	} else {
		context.CommonTlsContext.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{
			ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: fileSource(config.Path(SystemRoots())), MatchTypedSubjectAltNames: names,
			},
		}
	}
	if t.CertificateFile != "" {
		b.certificate(context.CommonTlsContext, "target-certificate/"+resource, t.CertificateFile, t.KeyFile)
	}
	return b.transportSocket(context)
}

// TargetName is the name of the cluster of a resource's target. The slash cannot be in a resource's name, so that no resource can
// take the name of this service's cluster. Over xDS another target is another cluster: what was judged for the old one does not
// go to the new one, with the old one's credential, because the cluster has changed in the meantime. how is what tells targets
// apart.
func (b *Builder) TargetName(resource string, how any) string {
	if b.static {
		return "target/" + resource
	}
	return "target/" + resource + "/" + digestOf(how)
}

// Service is the gateway, as Envoy calls it. timeout is that of a call.
func (b *Builder) Service(timeout time.Duration) *corev3.GrpcService {
	return service(seconds(timeout))
}

// LongestHold is the longest that an operation on any resource is held.
func (b *Builder) LongestHold() time.Duration { return longestHold(b.c) }

// ConnectionLog sends the gateway an entry for every connection to the resource.
func (b *Builder) ConnectionLog(resource string) []*accesslogv3.AccessLog {
	common := logToService()
	common.CustomTags = []*tracingv3.CustomTag{{Tag: ResourceTag, Type: &tracingv3.CustomTag_Literal_{Literal: &tracingv3.CustomTag_Literal{Value: resource}}}}
	return []*accesslogv3.AccessLog{{
		Name:       "envoy.access_loggers.tcp_grpc",
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.Pack(&grpclogv3.TcpGrpcAccessLogConfig{CommonConfig: common})},
	}}
}

// Digest is 16 hex digits that tell v from other values of its type.
func Digest(v any) string { return digestOf(v) }

func (b *Builder) downstreamTLS(address string, t *config.ServerTLS, protocols []string) *tlsv3.DownstreamTlsContext {
	common := b.commonTLS(protocols...)
	b.certificate(common, "listen/"+address, t.CertificateFile, t.KeyFile)
	if t.ClientCAFile != "" {
		b.authority(common, "listen-ca/"+address, t.ClientCAFile, nil)
	}
	return &tlsv3.DownstreamTlsContext{CommonTlsContext: common, RequireClientCertificate: wrapperspb.Bool(t.ClientCAFile != "")}
}
