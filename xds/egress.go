package xds

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	proxiedv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign/countersign/extproc/config"
)

// Where the gateway ends a session itself it can reach the target by Envoy: Envoy listens at a unix socket that only its own user can
// reach, which is the gateway's, and leads what comes by it to the target. It sees what passes as bytes: TLS to the target and the
// credential are the gateway's, inside. A connection begins with a PROXY protocol header of the gateway's, that has who the
// connection is for and, in a field of its own, the session, so that Envoy's log can be held against the records.

// EgressSession is the type of the header's field that has the session's id.
const EgressSession = 0xE2

// SessionMetadata is the member of MetadataNamespace that has the session's id.
const SessionMetadata = "session"

// innerPrefix begins the name of each cluster that leads to a target with the gateway's own TLS inside.
const innerPrefix = "inner/"

// socketMode lets nobody but its owner connect to a socket.
const socketMode = 0o600

// longestSocket is the longest path that a unix socket can have (sun_path, less its NUL).
const longestSocket = 107

// Inner is a target that the gateway speaks to itself, by a connection of Envoy's.
type Inner struct {
	Resource, Fingerprint string
	Host                  string
	Port                  uint32
	Longest               time.Duration // that a connection lasts
}

// Egress has Envoy listen at a unix socket for the gateway's own connections to a target.
func (b *Builder) Egress(socket config.Address, to Inner) {
	path, _ := socket.Unix()
	if len(path) > longestSocket {
		b.Fail(fmt.Errorf("the socket %s has a longer path than the %d bytes that a unix socket can have: set data to a shorter one", path, longestSocket))
		return
	}
	address := pipeAddress(path)
	address.GetPipe().Mode = socketMode
	l := &listenerv3.Listener{
		Name:    string(socket),
		Address: address,
		ListenerFilters: []*listenerv3.ListenerFilter{{
			Name: "envoy.filters.listener.proxy_protocol",
			ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: b.Pack(&proxiedv3.ProxyProtocol{
				StatPrefix: "egress",
				Rules: []*proxiedv3.ProxyProtocol_Rule{{
					TlvType:      EgressSession,
					OnTlvPresent: &proxiedv3.ProxyProtocol_KeyValuePair{MetadataNamespace: MetadataNamespace, Key: SessionMetadata},
				}},
			})},
		}},
		ListenerFiltersTimeout: seconds(5 * time.Second),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{b.Filter("envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
			StatPrefix:                      "egress",
			ClusterSpecifier:                &tcpv3.TcpProxy_Cluster{Cluster: b.inner(to)},
			IdleTimeout:                     durationpb.New(0), // the gateway's own holds
			MaxDownstreamConnectionDuration: durationpb.New(to.Longest),
			MaxConnectAttempts:              wrapperspb.UInt32(1),
			AccessLog:                       b.ConnectionLog(to.Resource),
		})}}},
		PerConnectionBufferLimitBytes: number(bufferLimit),
		TrafficDirection:              corev3.TrafficDirection_OUTBOUND,
	}
	b.valid(l)
	b.out.listeners = append(b.out.listeners, l)
}

// inner adds the cluster of such a target, unless it is there, and returns its name.
func (b *Builder) inner(to Inner) string {
	name := innerPrefix + to.Resource
	if !b.static {
		name += "/" + to.Fingerprint
	}
	for _, c := range b.out.clusters {
		if c.GetName() == name {
			return name
		}
	}
	b.Cluster(b.Target(name, to.Host, to.Port))
	return name
}

// leadsIn returns the filter of a chain that leads to a target with the gateway's own TLS inside, and where it stands; nil if there is none.
func leadsIn(chain *listenerv3.FilterChain) (*tcpv3.TcpProxy, int) {
	for i, f := range chain.GetFilters() {
		m, err := f.GetTypedConfig().UnmarshalNew()
		if p, ok := m.(*tcpv3.TcpProxy); err == nil && ok && strings.HasPrefix(p.GetCluster(), innerPrefix) {
			return p, i
		}
	}
	return nil, 0
}

// Way is how the gateway reaches a target by Envoy, by the configuration.
type Way struct {
	Socket config.Address // at which Envoy listens for the gateway
	Host   string
	Port   uint32
}

// saysSession reports whether a listener's filter takes the session out of a header that every connection has to have.
func saysSession(f *listenerv3.ListenerFilter) bool {
	p := new(proxiedv3.ProxyProtocol)
	if f.GetTypedConfig().UnmarshalTo(p) != nil || p.GetAllowRequestsWithoutProxyProtocol() {
		return false
	}
	return slices.ContainsFunc(p.GetRules(), func(r *proxiedv3.ProxyProtocol_Rule) bool {
		return r.GetTlvType() == EgressSession && r.GetOnTlvPresent().GetMetadataNamespace() == MetadataNamespace && r.GetOnTlvPresent().GetKey() == SessionMetadata
	})
}

// LetsOut checks a chain by which the gateway reaches a target, and is false if it is none. of returns how the gateway reaches the target of
// a resource, which is nil where the file is checked by itself, and false where it does not by Envoy.
func (k *Checker) LetsOut(chain *listenerv3.FilterChain, at Place, of func(resource string) (*Way, bool)) bool {
	proxy, i := leadsIn(chain)
	if proxy == nil {
		return false
	}
	there := at.At(i, "typed_config")
	resource := k.ConnectionLog(proxy, "", there)
	way, known := of(resource)
	if !known {
		k.Problem(there.At("access_log"), "names the resource %q, which the configuration does not have as one with egress: envoy", resource)
	}
	k.ownSocket(resource, way)
	for j, f := range chain.GetFilters() {
		if j != i {
			k.Problem(at.At(j), "filter %s carries connections that countersign does not see: remove it", f.GetName())
		}
	}
	if chain.GetTransportSocket() != nil {
		k.Problem(there, "TLS to the target is countersign's own, inside: remove transport_socket from the filter chain")
	}
	k.inner(proxy, resource, way, there)
	return true
}

// ownSocket wants a listener that nobody but the gateway can reach, and that says whose connection each is.
func (k *Checker) ownSocket(resource string, way *Way) {
	l, at := k.listener.of, k.listener.at
	pipe := l.GetAddress().GetPipe()
	switch {
	case pipe == nil || strings.HasPrefix(pipe.GetPath(), "@"):
		k.Problem(at.At("address"), "whoever can connect to this address reaches the target of resource %q past countersign: have the listener listen at a pipe, with mode: %d", resource, socketMode)
	case pipe.GetMode() != socketMode:
		k.Problem(at.At("address", "pipe"), "other users of this machine can connect to this socket, and reach the target of resource %q past countersign: set mode: %d in its pipe", resource, socketMode)
	case way != nil:
		if want, _ := way.Socket.Unix(); pipe.GetPath() != want {
			k.Problem(at.At("address", "pipe", "path"), "the listener is at %q, and countersign connects to %s for this configuration of resource %q: make the file again (countersign envoy static)", pipe.GetPath(), want, resource)
		}
	}
	if len(l.GetAdditionalAddresses()) > 0 {
		k.Problem(at.At("additional_addresses"), "whoever can connect to these addresses reaches the target of resource %q past countersign: remove additional_addresses", resource)
	}
	if !slices.ContainsFunc(l.GetListenerFilters(), saysSession) {
		k.Problem(at.At("listener_filters"), "the listener does not take from the PROXY header which session a connection is for: set listener_filters to proxy_protocol, with a rule for tlv_type %d (metadata_namespace: %s, key: %s) and without allow_requests_without_proxy_protocol", EgressSession, MetadataNamespace, SessionMetadata)
	}
}

// inner is about where a connection leads that has the gateway's own TLS inside.
func (k *Checker) inner(p *tcpv3.TcpProxy, resource string, way *Way, at Place) {
	if p.GetTunnelingConfig() != nil {
		k.Problem(at.At("tunneling_config"), "tunneling_config sends the connection to where another proxy takes it: remove it")
	}
	if p.GetOnDemand() != nil {
		k.Problem(at.At("on_demand"), "on_demand has the target come from elsewhere, so that it cannot be checked: remove it")
	}
	if c := k.clusters[p.GetCluster()]; c.GetTransportSocket() != nil || len(c.GetTransportSocketMatches()) > 0 {
		k.Problem(at.At("cluster"), "TLS to the target is countersign's own, inside, so that nobody else sees what passes: remove transport_socket from the cluster %q", p.GetCluster())
	}
	if way != nil {
		k.LeadsTo(p.GetCluster(), Target{Resource: resource, Host: way.Host, Port: way.Port}, at.At("cluster"))
	}
}

// ConnectionLog checks the log of connections to a resource, and returns the resource that it names. want is the one that it should
// name; empty where any will do.
func (k *Checker) ConnectionLog(p *tcpv3.TcpProxy, want string, at Place) (resource string) {
	if o := p.GetAccessLogOptions(); o.GetAccessLogFlushInterval() != nil || o.GetFlushAccessLogOnConnected() || o.GetFlushAccessLogOnStart() || p.GetFlushAccessLogOnConnected() || p.GetAccessLogFlushInterval() != nil { //nolint:staticcheck // Envoy still reads them
		k.Problem(at.At("access_log_options"), "the access log tells of connections that have not ended, which countersign would take for their end: remove the options that flush it early")
	}
	var common *grpclogv3.CommonGrpcAccessLogConfig
	k.AccessLog(p.GetAccessLog(), at, "envoy.access_loggers.tcp_grpc", func(m proto.Message) *grpclogv3.CommonGrpcAccessLogConfig {
		log, _ := m.(*grpclogv3.TcpGrpcAccessLogConfig)
		common = log.GetCommonConfig()
		return common
	})
	for _, t := range common.GetCustomTags() {
		switch t.GetTag() {
		case ResourceTag:
			resource = t.GetLiteral().GetValue()
		case passedTag:
			k.Problem(at.At("access_log"), "the access log says of connections to the target that they were passed on to countersign: remove the tag %s", passedTag)
		}
	}
	if Asks(common.GetGrpcService()) && (resource == "" || want != "" && resource != want) {
		k.Problem(at.At("access_log"), "the access log does not tell which resource a connection was to: set custom_tags: [{tag: %s, literal: {value: %s}}] in its common_config", ResourceTag, cmp.Or(want, "NAME"))
	}
	return resource
}
