package tcp

import (
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	proxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/xds"
)

// harmless are the network filters that may stand beside the one that asks: they refuse or count, and carry nothing.
var harmless = []string{
	"envoy.extensions.filters.network.rbac.v3.RBAC",
	"envoy.extensions.filters.network.ratelimit.v3.RateLimit",
	"envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
	"envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
	"envoy.extensions.filters.network.ext_authz.v3.ExtAuthz", // another's
}

// Check holds a filter chain that asks the gateway about connections to the rules that keep it fail-closed.
func (Envoy) Check(k *xds.Checker, chain *listenerv3.FilterChain, at xds.Place) bool {
	asks := func(m proto.Message) bool {
		a, ok := m.(*authzv3.ExtAuthz)
		return ok && xds.Asks(a.GetGrpcService())
	}
	filters := make([]proto.Message, len(chain.GetFilters()))
	for i, f := range chain.GetFilters() {
		filters[i], _ = f.GetTypedConfig().UnmarshalNew()
	}
	if !slices.ContainsFunc(filters, asks) {
		return false
	}
	resource := ""
	for i, m := range filters {
		at := at.At(i)
		switch m := m.(type) {
		case *proxyv3.TcpProxy:
			if resource == "" {
				k.Problem(at, "tcp_proxy stands before the filter that asks countersign, so that connections go through unseen: put it after")
			}
			proxied(k, m, resource, at.At("typed_config"))
		default:
			if asks(m) {
				resource = asking(k, m.(*authzv3.ExtAuthz), at.At("typed_config")) //nolint:forcetypeassert // as asks has seen
			} else if m == nil || !slices.Contains(harmless, string(m.ProtoReflect().Descriptor().FullName())) {
				k.Problem(at, "filter %s carries connections that countersign does not see: remove it", chain.GetFilters()[i].GetName())
			}
		}
	}
	if !proves(chain.GetTransportSocket()) {
		k.Problem(at, "agents are known by their certificates, and this filter chain asks for none: set transport_socket with require_client_certificate and a validation_context")
	}
	return true
}

// asking is about the filter that asks. It returns the resource that it asks about.
func asking(k *xds.Checker, a *authzv3.ExtAuthz, at xds.Place) (resource string) {
	if a.GetFailureModeAllow() {
		k.Problem(at.At("failure_mode_allow"), "failure_mode_allow lets connections through when countersign fails: remove it")
	}
	if a.GetShadowMode() {
		k.Problem(at.At("shadow_mode"), "shadow_mode ignores refusals: remove it")
	}
	if a.GetFilterEnabledMetadata() != nil {
		k.Problem(at.At("filter_enabled_metadata"), "filter_enabled_metadata lets connections through without a decision: remove it")
	}
	if !a.GetIncludePeerCertificate() {
		k.Problem(at.At("include_peer_certificate"), "include_peer_certificate is not set, so that nobody can be known by their certificate: set it to true")
	}
	if !a.GetIncludeTlsSession() {
		k.Problem(at.At("include_tls_session"), "include_tls_session is not set, so that policy sees no server name, and a rule that denies by it never holds: set it to true")
	}
	if a.GetTransportApiVersion() != corev3.ApiVersion_V3 {
		k.Problem(at.At("transport_api_version"), "transport_api_version is not V3")
	}
	k.Longer(a.GetGrpcService().GetTimeout(), 200*time.Millisecond, at.At("grpc_service", "timeout"), "the timeout of grpc_service")
	there := at.At("grpc_service", "initial_metadata")
	name := xds.Metadata(a.GetGrpcService().GetInitialMetadata(), xds.ResourceMetadata)
	r, known := xds.Named[*Resource](k, name)
	switch said := xds.Metadata(a.GetGrpcService().GetInitialMetadata(), xds.FingerprintMetadata); {
	case name == "":
		k.Problem(there, "no resource is named, so that every connection is refused: set initial_metadata with %s", xds.ResourceMetadata)
	case !known:
		k.Problem(there, "names the resource %q, which the configuration does not have as one of this kind", name)
	case r != nil && said != "" && said != fingerprint(r):
		k.Problem(there, "was made for another configuration of resource %q: make the file again (countersign envoy static)", name)
	}
	return name
}

// proxied is about where connections to a resource go.
func proxied(k *xds.Checker, p *proxyv3.TcpProxy, resource string, at xds.Place) {
	switch p.GetCluster() {
	case "":
		k.Problem(at, "where this connection leads is not one cluster, and a decision is for one target: name the cluster")
	case xds.ServiceCluster:
		k.Problem(at.At("cluster"), "this leads agents to countersign's own services: lead it to a target")
	}
	if p.GetTunnelingConfig() != nil {
		k.Problem(at.At("tunneling_config"), "tunneling_config sends the connection to where another proxy takes it: remove it")
	}
	if p.GetUpstreamConnectMode() != proxyv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA {
		k.Problem(at.At("upstream_connect_mode"), "the target is connected to before countersign is asked, and what it says first would reach an agent that nobody has let in: set upstream_connect_mode to ON_DOWNSTREAM_DATA, and max_early_data_bytes")
	}
	if p.GetOnDemand() != nil {
		k.Problem(at.At("on_demand"), "on_demand has the target come from elsewhere, so that it cannot be checked: remove it")
	}
	k.ConnectionLog(p, resource, at)
	if r, _ := xds.Named[*Resource](k, resource); r != nil {
		host, port, _ := r.address()
		t := xds.Target{Resource: resource, Host: host, Port: port}
		if r.TargetTLS != nil {
			t.TLS = r.TargetTLS.Name(host)
		}
		k.LeadsTo(p.GetCluster(), t, at.At("cluster"))
	}
}

// proves reports whether whoever connects has to prove who they are.
func proves(s *corev3.TransportSocket) bool {
	inner, err := s.GetTypedConfig().UnmarshalNew()
	if err != nil {
		return false
	}
	t, _ := inner.(*tlsv3.DownstreamTlsContext)
	common := t.GetCommonTlsContext()
	return t.GetRequireClientCertificate().GetValue() && (common.GetValidationContext() != nil || common.GetValidationContextSdsSecretConfig() != nil || common.GetCombinedValidationContext() != nil)
}
