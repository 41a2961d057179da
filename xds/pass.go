package xds

import (
	"slices"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	proxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign/countersign/extproc/config"
)

// A protocol that Envoy cannot read is read by the gateway itself. Envoy passes such a connection on, from its first byte,
// to a socket that only the gateway's user can reach, behind a PROXY protocol header (version 2) that says who connected. In
// its own fields are the resource's name and fingerprint, so that one socket serves all resources of a kind, and an agent can
// write neither. While the gateway is away, Envoy closes the connection.

// The types of the header's fields that are ours, of those that the PROXY protocol leaves to whoever uses it (0xE0 to 0xEF).
const (
	PassedResource    = 0xE0
	PassedFingerprint = 0xE1
)

// passPrefix begins the name of each cluster that passes connections on to the gateway. The slash cannot be in a resource's name.
const passPrefix = "session/"

// passedTag is the custom tag of the log of such connections. What is passed on has not come to a target.
const passedTag = "countersign.passed"

// Pass has connections to address passed on to the gateway's socket of the resource's kind. None lasts longer than longest.
func (b *Builder) Pass(address string, socket config.Address, resource, fingerprint string, longest time.Duration) {
	cluster := passPrefix + resource
	if !b.static {
		cluster += "/" + fingerprint
	}
	log := b.ConnectionLog(resource)
	tagPassed(b, log[0])
	b.Listener(address, []*listenerv3.Filter{b.Filter("envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
		StatPrefix:                      "agents",
		ClusterSpecifier:                &tcpv3.TcpProxy_Cluster{Cluster: cluster},
		IdleTimeout:                     durationpb.New(0), // the gateway's own holds: one that waits for people is quiet
		MaxDownstreamConnectionDuration: durationpb.New(longest),
		MaxConnectAttempts:              wrapperspb.UInt32(1),
		AccessLog:                       log,
	})}, nil)
	path, _ := socket.Unix()
	c := b.Target(cluster, "127.0.0.1", 1)
	c.LoadAssignment = endpoint(cluster, pipeAddress(path))
	c.UpstreamConnectionOptions = nil // of TCP
	c.TransportSocket = &corev3.TransportSocket{
		Name: "envoy.transport_sockets.upstream_proxy_protocol",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: b.Pack(&proxyv3.ProxyProtocolUpstreamTransport{
			Config: &corev3.ProxyProtocolConfig{
				Version: corev3.ProxyProtocolConfig_V2,
				AddedTlvs: []*corev3.TlvEntry{
					{Type: PassedResource, Value: []byte(resource)},
					{Type: PassedFingerprint, Value: []byte(fingerprint)},
				},
			},
			TransportSocket: &corev3.TransportSocket{
				Name:       "envoy.transport_sockets.raw_buffer",
				ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: b.Pack(&rawv3.RawBuffer{})},
			},
		})},
	}
	b.Cluster(c)
}

// tagPassed has a log of connections say that they were passed on.
func tagPassed(b *Builder, log *accesslogv3.AccessLog) {
	m := new(grpclogv3.TcpGrpcAccessLogConfig)
	if err := log.GetTypedConfig().UnmarshalTo(m); err != nil {
		b.Fail(err)
		return
	}
	m.CommonConfig.CustomTags = append(m.CommonConfig.CustomTags, &tracingv3.CustomTag{
		Tag: passedTag, Type: &tracingv3.CustomTag_Literal_{Literal: &tracingv3.CustomTag_Literal{Value: "yes"}},
	})
	log.ConfigType = &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.Pack(m)}
}

// Passes returns the filter of a chain that passes connections on to the gateway, and where it stands; nil if there is none.
func Passes(chain *listenerv3.FilterChain) (*tcpv3.TcpProxy, int) {
	for i, f := range chain.GetFilters() {
		m, err := f.GetTypedConfig().UnmarshalNew()
		if p, ok := m.(*tcpv3.TcpProxy); err == nil && ok && strings.HasPrefix(p.GetCluster(), passPrefix) {
			return p, i
		}
	}
	return nil, 0
}

// Passed is what a connection to the gateway is passed on with, by the configuration.
type Passed struct{ Resource, Fingerprint string }

// PassedOn checks a chain that passes connections on to the gateway's socket, and returns the resource that the header names.
func (k *Checker) PassedOn(chain *listenerv3.FilterChain, socket func(*config.Config) config.Address, at Place) (p Passed) {
	filter, i := Passes(chain)
	for j, f := range chain.GetFilters() {
		if name := f.GetTypedConfig().MessageName(); j != i && !slices.Contains(besideNetwork, string(name)) {
			k.Problem(at.At(j), "filter %s carries connections that countersign does not see: remove it", f.GetName())
		}
	}
	at = at.At(i, "typed_config")
	if chain.GetTransportSocket() != nil {
		k.Problem(at, "TLS is ended in countersign, since it is asked for in the protocol: remove transport_socket from the filter chain")
	}
	if filter.GetTunnelingConfig() != nil {
		k.Problem(at.At("tunneling_config"), "tunneling_config sends the connection to where another proxy takes it: remove it")
	}
	tagged := func(name string) string {
		for _, l := range filter.GetAccessLog() {
			m := new(grpclogv3.TcpGrpcAccessLogConfig)
			if l.GetTypedConfig().UnmarshalTo(m) != nil {
				continue
			}
			for _, t := range m.GetCommonConfig().GetCustomTags() {
				if t.GetTag() == name {
					return t.GetLiteral().GetValue()
				}
			}
		}
		return ""
	}
	c := k.clusters[filter.GetCluster()]
	if c == nil {
		return p // over ADS it is ours
	}
	transport := new(proxyv3.ProxyProtocolUpstreamTransport)
	if err := c.GetTransportSocket().GetTypedConfig().UnmarshalTo(transport); err != nil || transport.GetConfig().GetVersion() != corev3.ProxyProtocolConfig_V2 {
		k.Problem(at.At("cluster"), "the cluster %q does not say who connects: set transport_socket to upstream_proxy_protocol, version V2", filter.GetCluster())
	}
	for _, t := range transport.GetConfig().GetAddedTlvs() {
		switch t.GetType() {
		case PassedResource:
			p.Resource = string(t.GetValue())
		case PassedFingerprint:
			p.Fingerprint = string(t.GetValue())
		}
	}
	if p.Resource == "" {
		k.Problem(at.At("cluster"), "the cluster %q names no resource, so that every connection is refused: set added_tlvs with type %d", filter.GetCluster(), PassedResource)
	}
	if tagged(ResourceTag) != p.Resource || tagged(passedTag) == "" {
		k.Problem(at.At("access_log"), "the access log does not tell which resource a connection was to, and that it was passed on: set custom_tags with %s and %s in its common_config", ResourceTag, passedTag)
	}
	endpoints := c.GetLoadAssignment().GetEndpoints()
	path := ""
	if len(endpoints) == 1 && len(endpoints[0].GetLbEndpoints()) == 1 {
		path = endpoints[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetPipe().GetPath()
	}
	if k.config != nil {
		if want, _ := socket(k.config).Unix(); path != want {
			k.Problem(at.At("cluster"), "the cluster %q leads to %q, and countersign listens at %s: set that as its one endpoint's pipe", filter.GetCluster(), path, want)
		}
	} else if path == "" {
		k.Problem(at.At("cluster"), "the cluster %q does not lead to one unix socket, countersign's: connections would be another's to read", filter.GetCluster())
	}
	return p
}
