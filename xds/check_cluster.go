package xds

import (
	"slices"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	proxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	quicv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/quic/v3"
	tcpstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tcp_stats/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/loopback"
)

// rules applies the rules for messages of one type, wherever they are in the file.
func (k *Checker) rules(m proto.Message, at Place) {
	switch m := m.(type) {
	case *hcmv3.HttpConnectionManager:
		k.manager(m, at)
	case *procv3.ExternalProcessor:
		if Asks(m.GetGrpcService()) { // one that asks another service is no business of ours, see beside
			k.processor(m, at)
		}
	case *authzv3.ExtAuthz:
		if Asks(m.GetGrpcService()) {
			k.authorizer(m, at)
		}
	case *listenerv3.Listener:
		k.checkListener(m, at)
	case *tlsv3.UpstreamTlsContext:
		k.verifies(m.GetCommonTlsContext(), at)
	case *clusterv3.Cluster:
		k.targetCluster(m, at)
	case *upstreamv3.HttpProtocolOptions:
		k.upstreamFilters(m.GetHttpFilters(), at.At("http_filters"))
	case *corev3.Http2ProtocolOptions:
		if m.GetAllowMetadata() {
			k.Problem(at.At("allow_metadata"), "allow_metadata lets frames through that countersign does not see: remove it")
		}
	case *routev3.InternalRedirectPolicy:
		k.Problem(at, "an internal redirect has Envoy go where a target's answer sends it, and a decision is for one request: remove it")
	case *routev3.RetryPolicy:
		k.Problem(at, "a retry policy sends a request again, and a decision is for one execution: remove it")
	case *routev3.RouteAction:
		clusters := []string{m.GetCluster()}
		for _, w := range m.GetWeightedClusters().GetClusters() {
			clusters = append(clusters, w.GetName())
		}
		if slices.ContainsFunc(clusters, func(c string) bool { return strings.HasPrefix(c, innerPrefix) }) {
			k.Problem(at, "clusters %s… are for connections that countersign itself encrypts, and requests would cross the network in the clear: use another", innerPrefix)
		}
	case *routev3.HedgePolicy:
		k.Problem(at, "a hedge policy sends a request again, and a decision is for one execution: remove it")
	case *routev3.RouteAction_RequestMirrorPolicy:
		k.Problem(at, "a mirror policy sends a copy of a request where no decision was made on it: remove it")
	}
	if name := m.ProtoReflect().Descriptor().FullName(); name.Name() == "TypedStruct" {
		k.Problem(at, "%s carries configuration that this check cannot see into: write its own type", name)
	}
}

// targetCluster checks that the target's credential goes to a known place, and that nobody can read it on the way.
func (k *Checker) targetCluster(c *clusterv3.Cluster, at Place) {
	if c.GetType() == clusterv3.Cluster_ORIGINAL_DST {
		k.Problem(at.At("type"), "an ORIGINAL_DST cluster lets the client choose where the target's credential is sent: name the target's address")
	}
	if kind := c.GetClusterType().GetTypedConfig(); strings.Contains(kind.GetTypeUrl(), "dynamic_forward_proxy") {
		k.Problem(at.At("cluster_type"), "a dynamic_forward_proxy cluster lets the client choose where the target's credential is sent: name the target's address")
	}
	if len(c.GetFilters()) > 0 {
		k.Problem(at.At("filters"), "filters of a cluster see what goes to it, with the credential, after the decision: remove them")
	}
	if c.GetUpstreamConfig() != nil {
		k.Problem(at.At("upstream_config"), "upstream_config changes how a request goes to its target after it was judged: remove it")
	}
	plain := slices.ContainsFunc(c.GetTransportSocketMatches(), func(m *clusterv3.Cluster_TransportSocketMatch) bool { return !encrypted(m.GetTransportSocket()) })
	if c.GetName() == ServiceCluster || strings.HasPrefix(c.GetName(), innerPrefix) || encrypted(c.GetTransportSocket()) && !plain || k.accepts(config.Resource.PlainTarget) {
		return
	}
	if c.GetType() == clusterv3.Cluster_EDS {
		k.Problem(at.At("type"), "an EDS cluster has the target's address come from elsewhere, and without TLS nothing shows who is there: set transport_socket, or name the address")
	}
	for _, locality := range c.GetLoadAssignment().GetEndpoints() {
		for _, e := range locality.GetLbEndpoints() {
			if a := e.GetEndpoint().GetAddress(); a != nil && !nearby(a) {
				k.Problem(at, "requests and the target's credential would cross the network in the clear: set transport_socket, or target_insecure for the resource")
				return
			}
		}
	}
}

// accepts reports whether a resource of the configuration says that it accepts something insecure.
func (k *Checker) accepts(what func(config.Resource) bool) bool {
	return k.config != nil && slices.ContainsFunc(k.config.Resources, what)
}

// besideNetwork are the network filters that refuse, count or name connections and do not forward them.
var besideNetwork = []string{
	"envoy.extensions.filters.network.rbac.v3.RBAC",
	"envoy.extensions.filters.network.ratelimit.v3.RateLimit",
	"envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
	"envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
	"envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
	"envoy.extensions.filters.network.set_filter_state.v3.Config",
	"envoy.extensions.filters.network.geoip.v3.Geoip",
}

func (k *Checker) checkListener(l *listenerv3.Listener, at Place) {
	k.listener.of, k.listener.at = l, at
	chains := l.GetFilterChains()
	if c := l.GetDefaultFilterChain(); c != nil {
		chains = append(chains[:len(chains):len(chains)], c)
	}
	addresses := []*corev3.Address{l.GetAddress()}
	for _, more := range l.GetAdditionalAddresses() {
		addresses = append(addresses, more.GetAddress())
	}
	for i, f := range l.GetListenerFilters() {
		if strings.Contains(f.GetTypedConfig().GetTypeUrl(), "udp_proxy") {
			k.Problem(at.At("listener_filters", i), "udp_proxy carries what countersign does not see: remove it")
		}
	}
	if slices.ContainsFunc(addresses, func(a *corev3.Address) bool { return a != nil && !nearby(a) }) && !k.accepts(func(r config.Resource) bool { return r.Common().Listen.Insecure }) &&
		slices.ContainsFunc(chains, func(c *listenerv3.FilterChain) bool {
			return !encrypted(c.GetTransportSocket()) && !passedOn(c) && !shown(c)
		}) {
		k.Problem(at, "agents' tokens would cross the network in the clear: set transport_socket in every filter chain, or insecure in a resource's listen")
	}
	for i, c := range l.GetFilterChains() {
		k.networkFilters(c, at.At("filter_chains", i, "filters"))
	}
	if c := l.GetDefaultFilterChain(); c != nil {
		k.networkFilters(c, at.At("default_filter_chain", "filters"))
	}
}

// passedOn reports whether a chain passes connections on to the gateway, which ends their TLS.
func passedOn(c *listenerv3.FilterChain) bool {
	p, _ := Passes(c)
	return p != nil
}

// networkFilters checks that connections end in an HTTP connection manager, in a filter of one of the kinds (both have rules of
// their own), or at this service.
func (k *Checker) networkFilters(chain *listenerv3.FilterChain, at Place) {
	for _, kind := range k.kinds {
		if kind.Check(k, chain, at) {
			return
		}
	}
	for i, f := range chain.GetFilters() {
		at := at.At(i)
		if f.GetConfigDiscovery() != nil {
			k.Problem(at, "filter %s comes from elsewhere (config_discovery), so that it cannot be checked", f.GetName())
			continue
		}
		inner, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			continue // reported by walk
		}
		switch inner := inner.(type) {
		case *hcmv3.HttpConnectionManager:
			k.scheme(inner, chain.GetTransportSocket(), at.At("typed_config"))
		case *tcpv3.TcpProxy:
			switch name := inner.GetCluster(); {
			case name == ServiceCluster:
				k.Problem(at, "tcp_proxy to %q leads agents to countersign's own services, which give Envoy its keys: remove it", name)
			case !strings.HasPrefix(name, ServiceCluster+"-"):
				k.Problem(at, "tcp_proxy to %q carries connections that countersign does not see: remove the listener, or have it ask countersign", name)
			}
		default:
			if kind := string(inner.ProtoReflect().Descriptor().FullName()); !slices.Contains(besideNetwork, kind) {
				k.Problem(at, "filter %s carries connections that countersign does not see: remove it", f.GetName())
			}
		}
	}
}

// verifies checks that Envoy verifies the other end's certificate. It does not unless it is told what to verify it with.
func (k *Checker) verifies(t *tlsv3.CommonTlsContext, at Place) {
	contexts := []*tlsv3.CertificateValidationContext{t.GetValidationContext(), t.GetCombinedValidationContext().GetDefaultValidationContext()}
	sds := t.GetValidationContextSdsSecretConfig() != nil || t.GetCombinedValidationContext().GetValidationContextSdsSecretConfig() != nil
	verified := sds
	for _, c := range contexts {
		verified = verified || c.GetTrustedCa() != nil || c.GetSystemRootCerts() != nil || c.GetCaCertificateProviderInstance() != nil
		if c.GetTrustChainVerification() == tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED {
			k.Problem(at, "trust_chain_verification ACCEPT_UNTRUSTED takes any certificate: remove it")
		}
		if c != nil && !sds && len(c.GetMatchTypedSubjectAltNames()) == 0 {
			k.Problem(at, "any name is taken in the other end's certificate: set match_typed_subject_alt_names")
		}
	}
	if !verified {
		k.Problem(at, "the other end's certificate is not verified: set validation_context with trusted_ca and match_typed_subject_alt_names")
	}
}

// bootstrap checks the file as a whole.
func (k *Checker) bootstrap(b *bootstrapv3.Bootstrap, at Place) {
	here := false
	for i, c := range b.GetStaticResources().GetClusters() {
		if asService := c.GetName() == ServiceCluster; asService || strings.HasPrefix(c.GetName(), ServiceCluster+"-") {
			here = here || asService
			k.serviceCluster(c, at.At("static_resources", "clusters", i))
		}
	}
	if !here {
		k.Problem(at.At("static_resources", "clusters"), "there is no cluster %q: it is how Envoy reaches countersign", ServiceCluster)
	}
	if d := b.GetDynamicResources(); d != nil {
		k.dynamic(d, at.At("dynamic_resources"))
	}
	if a := b.GetAdmin().GetAddress(); a != nil && !nearby(a) {
		k.Problem(at.At("admin", "address"), "the admin interface can change and stop Envoy, and other machines reach it here: use a unix socket or loopback")
	}
	if len(b.GetStaticResources().GetListeners()) == 0 && b.GetDynamicResources().GetLdsConfig() == nil {
		k.Problem(at, "there is no listener, and none comes over xDS")
	}
}

func (k *Checker) dynamic(d *bootstrapv3.Bootstrap_DynamicResources, at Place) {
	for _, s := range []struct {
		source *corev3.ConfigSource
		key    string
		what   string
	}{{d.GetLdsConfig(), "lds_config", "listeners come"}, {d.GetCdsConfig(), "cds_config", "clusters come"}} {
		if s.source != nil {
			k.fromService(s.source, at.At(s.key), s.what)
		}
	}
	if d.GetLdsResourcesLocator() != "" || d.GetCdsResourcesLocator() != "" {
		k.Problem(at, "resources locators name another source than countersign's ADS")
	}
	services := d.GetAdsConfig().GetGrpcServices()
	if d.GetAdsConfig() != nil && (len(services) == 0 || slices.ContainsFunc(services, func(g *corev3.GrpcService) bool { return !Asks(g) })) {
		k.Problem(at.At("ads_config"), "ADS comes from elsewhere than the cluster %q, so that what it gives cannot be checked", ServiceCluster)
	}
}

// serviceCluster checks that the service's cluster has one endpoint, speaks HTTP/2, and uses TLS across the network. A field
// that is not known to be harmless is a problem.
func (k *Checker) serviceCluster(c *clusterv3.Cluster, at Place) {
	options := new(upstreamv3.HttpProtocolOptions)
	if packed := c.GetTypedExtensionProtocolOptions()["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]; packed == nil ||
		packed.UnmarshalTo(options) != nil || options.GetExplicitHttpConfig().GetHttp2ProtocolOptions() == nil {
		k.Problem(at, "gRPC needs HTTP/2: set typed_extension_protocol_options with explicit_http_config.http2_protocol_options")
	}
	if t := c.GetType(); c.GetClusterDiscoveryType() != nil && !slices.Contains([]clusterv3.Cluster_DiscoveryType{clusterv3.Cluster_STATIC, clusterv3.Cluster_STRICT_DNS, clusterv3.Cluster_LOGICAL_DNS}, t) {
		k.Problem(at.At("type"), "type %v has countersign's address come from elsewhere, where another service could take its place: name the address, with STATIC or STRICT_DNS", t)
	}
	endpoints := c.GetLoadAssignment().GetEndpoints()
	if len(endpoints) != 1 || len(endpoints[0].GetLbEndpoints()) != 1 {
		k.Problem(at.At("load_assignment"), "the cluster %q has not exactly one endpoint, so that another service could answer in countersign's place: name one", c.GetName())
	}
	k.nothingBut(c, at, "name", "alt_stat_name", "type", "connect_timeout", "per_connection_buffer_limit_bytes", "load_assignment", "circuit_breakers",
		"typed_extension_protocol_options", "http2_protocol_options", "transport_socket", "upstream_connection_options", "upstream_bind_config",
		"dns_lookup_family", "dns_refresh_rate", "dns_failure_refresh_rate", "dns_jitter", "respect_dns_ttl", "typed_dns_resolver_config", "lb_policy",
		"health_checks", "outlier_detection", "metadata", "track_cluster_stats", "wait_for_warm_on_init", "close_connections_on_host_health_failure", "ignore_health_on_host_removal")
	assignment := at.At("load_assignment")
	k.nothingBut(c.GetLoadAssignment(), assignment, "cluster_name", "endpoints")
	for i, locality := range endpoints {
		at := assignment.At("endpoints", i)
		k.nothingBut(locality, at, "locality", "lb_endpoints", "load_balancing_weight", "priority", "metadata")
		for j, e := range locality.GetLbEndpoints() {
			k.serviceEndpoint(c, e, at.At("lb_endpoints", j))
		}
	}
}

func (k *Checker) serviceEndpoint(c *clusterv3.Cluster, e *endpointv3.LbEndpoint, at Place) {
	k.nothingBut(e, at, "endpoint", "metadata", "load_balancing_weight", "health_status")
	k.nothingBut(e.GetEndpoint(), at.At("endpoint"), "address", "hostname", "health_check_config", "observability_name")
	a, at := e.GetEndpoint().GetAddress(), at.At("endpoint", "address")
	k.nothingBut(a, at, "pipe", "socket_address")
	if a.GetSocketAddress() != nil {
		k.nothingBut(a.GetSocketAddress(), at.At("socket_address"), "address", "port_value", "ipv4_compat")
	}
	if !nearby(a) && !encrypted(c.GetTransportSocket()) {
		k.Problem(at, "requests and their tokens would cross the network in the clear: set transport_socket with a client certificate, or use a unix socket")
	}
}

// nothingBut reports every other field of m that is set: it could lead to another service, which would then decide.
func (k *Checker) nothingBut(m proto.Message, at Place, fields ...string) {
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if name := string(fd.Name()); !slices.Contains(fields, name) {
			k.Problem(at.At(name), "%s can lead to another service than countersign, which would then decide: remove it", name)
		}
		return true
	})
}

// encrypted reports whether a transport socket is TLS from the first byte: not one that can begin in plain text.
func encrypted(s *corev3.TransportSocket) bool {
	switch withinSocket(s).(type) {
	case *tlsv3.UpstreamTlsContext, *tlsv3.DownstreamTlsContext, *quicv3.QuicUpstreamTransport, *quicv3.QuicDownstreamTransport:
		return true
	}
	return false
}

// withinSocket is what a transport socket does, below what only writes before it or counts; nil if that cannot be read.
func withinSocket(s *corev3.TransportSocket) proto.Message {
	m, err := s.GetTypedConfig().UnmarshalNew()
	if err != nil {
		return nil
	}
	switch t := m.(type) {
	case *proxyv3.ProxyProtocolUpstreamTransport:
		return withinSocket(t.GetTransportSocket())
	case *tcpstatsv3.Config:
		return withinSocket(t.GetTransportSocket())
	}
	return m
}

// nearby reports whether only this machine can reach the address.
func nearby(a *corev3.Address) bool {
	return a.GetPipe() != nil || loopback.Host(a.GetSocketAddress().GetAddress())
}
