package xds

import (
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_proc/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Instead of passing a connection on, Envoy can show it to the gateway by its network ext_proc filter: what either end sends goes to the
// gateway and no further, and what the gateway answers goes on in its place. tcp_proxy connects to the target once the gateway
// has something for it. Envoy says of this filter that it is work in progress, and outside its threat model.

// earlyData is how much Envoy holds for a target that it is connecting to.
const earlyData = 64 << 10

// shownTimeout is how long Envoy waits for the gateway to take a message of a connection, which it does at once, whatever a hold takes.
const shownTimeout = time.Minute

// Show has connections to address shown to the gateway, and what it answers led to a target.
func (b *Builder) Show(address string, to Inner) {
	streams := service(nil)
	streams.InitialMetadata = []*corev3.HeaderValue{
		{Key: ResourceMetadata, Value: to.Resource}, {Key: FingerprintMetadata, Value: to.Fingerprint}, {Key: PeerMetadata, Value: peerFormat},
	}
	b.Listener(address, []*listenerv3.Filter{
		b.Filter("envoy.filters.network.ext_proc", &procv3.NetworkExternalProcessor{
			StatPrefix: "agents", GrpcService: streams, MessageTimeout: durationpb.New(shownTimeout), ProcessingMode: &procv3.ProcessingMode{},
			MetadataOptions: &procv3.MetadataOptions{ReceivingNamespaces: &procv3.MetadataOptions_MetadataNamespaces{Untyped: []string{MetadataNamespace}}},
		}),
		b.Filter("envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
			StatPrefix:                      "agents",
			ClusterSpecifier:                &tcpv3.TcpProxy_Cluster{Cluster: b.inner(to)},
			IdleTimeout:                     durationpb.New(0), // the gateway's own holds: one that waits for people is quiet
			MaxDownstreamConnectionDuration: durationpb.New(to.Longest),
			MaxConnectAttempts:              wrapperspb.UInt32(1),
			UpstreamConnectMode:             tcpv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA,
			MaxEarlyDataBytes:               wrapperspb.UInt32(earlyData),
			AccessLog:                       b.ConnectionLog(to.Resource),
		}),
	}, nil)
}

// shows returns the filter of a chain that shows the gateway its connections, and where it stands; nil if there is none.
func shows(chain *listenerv3.FilterChain) (*procv3.NetworkExternalProcessor, int) {
	for i, f := range chain.GetFilters() {
		m, err := f.GetTypedConfig().UnmarshalNew()
		if p, ok := m.(*procv3.NetworkExternalProcessor); err == nil && ok && Asks(p.GetGrpcService()) {
			return p, i
		}
	}
	return nil, 0
}

func shown(chain *listenerv3.FilterChain) bool {
	p, _ := shows(chain)
	return p != nil
}

// Shown checks a chain whose connections are shown to the gateway, and is false if it is none. of returns where the gateway's answers
// are to go for a resource, which is nil where the file is checked by itself, and false where it is not attached so.
func (k *Checker) Shown(chain *listenerv3.FilterChain, at Place, of func(resource string) (*Way, bool)) (p Passed, is bool) {
	filter, i := shows(chain)
	if filter == nil {
		return p, false
	}
	p = k.showing(filter, at.At(i, "typed_config"))
	way, _ := of(p.Resource)
	seen := false
	for j, f := range chain.GetFilters() {
		m, err := f.GetTypedConfig().UnmarshalNew()
		switch proxy, ok := m.(*tcpv3.TcpProxy); {
		case j == i:
			seen = true
		case err == nil && ok:
			if !seen {
				k.Problem(at.At(j), "tcp_proxy stands before the filter that shows countersign the connection, so that it goes through unseen: put it after")
			}
			k.shownTo(proxy, p.Resource, way, at.At(j, "typed_config"))
		case !slices.Contains(besideNetwork, messageName(m)):
			k.Problem(at.At(j), "filter %s carries connections that countersign does not see: remove it", f.GetName())
		}
	}
	if chain.GetTransportSocket() != nil {
		k.Problem(at, "TLS is ended in countersign, since it is asked for in the protocol: remove transport_socket from the filter chain")
	}
	return p, true
}

func messageName(m proto.Message) string {
	if m == nil {
		return ""
	}
	return string(m.ProtoReflect().Descriptor().FullName())
}

// showing is about the filter itself. It returns what it tells the gateway of a connection.
func (k *Checker) showing(f *procv3.NetworkExternalProcessor, at Place) (p Passed) {
	if f.GetFailureModeAllow() {
		k.Problem(at.At("failure_mode_allow"), "failure_mode_allow lets what agents send through unseen when countersign fails: remove it")
	}
	mode := at.At("processing_mode")
	if f.GetProcessingMode().GetProcessRead() != procv3.ProcessingMode_STREAMED {
		k.Problem(mode.At("process_read"), "what agents send goes past countersign: set process_read to STREAMED")
	}
	if f.GetProcessingMode().GetProcessWrite() != procv3.ProcessingMode_STREAMED {
		k.Problem(mode.At("process_write"), "what the target answers goes past countersign: set process_write to STREAMED")
	}
	if d := f.GetMessageTimeout().AsDuration(); d < shownTimeout {
		k.Problem(at.At("message_timeout"), "message_timeout is %v, after which Envoy gives up a connection of a gateway that is busy: set it to %ds", d, int(shownTimeout.Seconds()))
	}
	if !slices.Contains(f.GetMetadataOptions().GetReceivingNamespaces().GetUntyped(), MetadataNamespace) {
		k.Problem(at.At("metadata_options"), "the access log cannot tell which session a connection was of: set metadata_options with receiving_namespaces: {untyped: [%s]}", MetadataNamespace)
	}
	told := f.GetGrpcService().GetInitialMetadata()
	there := at.At("grpc_service", "initial_metadata")
	p.Resource, p.Fingerprint = Metadata(told, ResourceMetadata), Metadata(told, FingerprintMetadata)
	if p.Resource == "" {
		k.Problem(there, "no resource is named, so that every connection is refused: set initial_metadata with %s", ResourceMetadata)
	}
	if p.Fingerprint == "" {
		k.Problem(there, "which configuration Envoy carries out is not said, so that every connection is refused: set initial_metadata with %s, or make the file again (countersign envoy static)", FingerprintMetadata)
	}
	if Metadata(told, PeerMetadata) != peerFormat {
		k.Problem(there, "who connects is not told: set initial_metadata with %s: %q", PeerMetadata, peerFormat)
	}
	return p
}

// shownTo is about where the gateway's answers go.
func (k *Checker) shownTo(proxy *tcpv3.TcpProxy, resource string, way *Way, at Place) {
	if c := proxy.GetCluster(); c == "" || c == ServiceCluster {
		k.Problem(at, "where this connection leads is not the target's cluster: name that")
	}
	if proxy.GetUpstreamConnectMode() != tcpv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA {
		k.Problem(at.At("upstream_connect_mode"), "the target is connected to before countersign has let anybody in: set upstream_connect_mode to ON_DOWNSTREAM_DATA, and max_early_data_bytes")
	}
	k.ConnectionLog(proxy, resource, at)
	k.inner(proxy, resource, way, at)
}
