package xds

import (
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	"google.golang.org/protobuf/proto"
)

// asker is an HTTP filter that asks this service.
type asker struct {
	at       Place
	manager  Place
	name     string // that per-route configuration has it under
	attach   string // ext_proc or ext_authz
	resource string // that it names where a route does not

	fingerprint string // that it has where a route does not

	mode      *procv3.ProcessingMode // of ext_proc, where a route does not set another
	cleaners  []cleaner              // the filters beside it that can take away what it does not show
	anyMethod bool                   // Envoy lets methods pass that it does not know
	buffers   bool                   // of ext_authz: it sends bodies along, where a route says nothing
}

// harmless are the HTTP filters that may stand between the decision and the router: they refuse, count or add, and do not
// change what was judged.
var harmless = []string{
	"envoy.extensions.filters.http.rbac.v3.RBAC",
	"envoy.extensions.filters.http.ratelimit.v3.RateLimit",
	"envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
	"envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit",
	"envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
	"envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
	"envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
}

// answering are the HTTP filters that answer by themselves, so that before the decision they answer without one.
var answering = []string{
	"envoy.extensions.filters.http.cache.v3.CacheConfig",
	"envoy.extensions.filters.http.cache_v2.v3.CacheV2Config",
	"envoy.extensions.filters.http.file_server.v3.FileServerConfig",
}

// manager checks one HTTP connection manager.
func (k *Checker) manager(m *hcmv3.HttpConnectionManager, at Place) {
	askers := k.httpFilters(m.GetHttpFilters(), at.At("http_filters"))
	for i := range askers {
		askers[i].manager, askers[i].anyMethod = at, m.GetHttpProtocolOptions().GetAllowCustomMethods()
	}
	k.AccessLog(m.GetAccessLog(), at, "envoy.access_loggers.http_grpc", func(m proto.Message) *grpclogv3.CommonGrpcAccessLogConfig {
		log, _ := m.(*grpclogv3.HttpGrpcAccessLogConfig)
		return log.GetCommonConfig()
	})
	k.managerTimeouts(m, at)
	if !removesEnvoyHeaders(m) {
		k.Problem(at.At("early_header_mutation_extensions"), "x-envoy-retry-on of an agent makes Envoy send a request again, and a decision is for one execution: remove x-envoy-* in early_header_mutation_extensions (remove_on_match, prefix x-envoy-)")
	}
	if !m.GetUseRemoteAddress().GetValue() && len(m.GetOriginalIpDetectionExtensions()) == 0 {
		k.Problem(at.At("use_remote_address"), "use_remote_address is not true, so that records and policy would take who connected from X-Forwarded-For, which an agent can write: set it, with xff_num_trusted_hops where proxies stand before Envoy")
	}
	if o := m.GetAccessLogOptions(); o.GetAccessLogFlushInterval() != nil || o.GetFlushAccessLogOnNewRequest() || o.GetFlushLogOnTunnelSuccessfullyEstablished() ||
		m.GetAccessLogFlushInterval() != nil || m.GetFlushAccessLogOnNewRequest() { //nolint:staticcheck // Envoy still reads them
		k.Problem(at.At("access_log_options"), "the access log tells of requests that have not ended, which countersign would take for their end: remove the options that flush it early")
	}
	for i, u := range m.GetUpgradeConfigs() {
		if len(u.GetFilters()) > 0 {
			k.Problem(at.At("upgrade_configs", i, "filters"), "upgrade_configs has filters of its own, which this check does not follow: remove them")
		}
	}
	switch r := m.GetRouteSpecifier().(type) {
	case *hcmv3.HttpConnectionManager_RouteConfig:
		k.routeConfiguration(r.RouteConfig, askers, at.At("route_config"))
	case *hcmv3.HttpConnectionManager_Rds:
		k.fromService(r.Rds.GetConfigSource(), at.At("rds", "config_source"), "routes come")
	default:
		k.Problem(at, "scoped routes cannot be checked: use route_config, or rds from countersign")
	}
}

// scheme checks that the scheme and X-Forwarded-Proto say how the agent is connected. Countersign refuses a request in which
// they differ. Envoy writes X-Forwarded-Proto itself, unless it is told to trust a proxy before it.
func (k *Checker) scheme(m *hcmv3.HttpConnectionManager, socket *corev3.TransportSocket, at Place) {
	connected := "http"
	if socket != nil && !strings.HasSuffix(socket.GetTypedConfig().GetTypeUrl(), ".RawBuffer") {
		connected = "https"
	}
	t := m.GetSchemeHeaderTransformation()
	at = at.At("scheme_header_transformation")
	switch said := t.GetSchemeToOverwrite(); {
	case t.GetMatchUpstream():
		k.Problem(at, "match_upstream has the target told another scheme than was judged: use scheme_to_overwrite: %s", connected)
	case said != "" && said != connected && m.GetXffNumTrustedHops() == 0:
		k.Problem(at, "scheme_to_overwrite is %q where agents connect by %s: write %s, or xff_num_trusted_hops where proxies stand before Envoy", said, connected, connected)
	case said == "" && !m.GetUseRemoteAddress().GetValue() && len(m.GetOriginalIpDetectionExtensions()) > 0:
		k.Problem(at, "without use_remote_address Envoy believes the X-Forwarded-Proto of an agent, and so would policy: set scheme_header_transformation with scheme_to_overwrite")
	}
}

// fromService checks that resources come from this service, over ADS.
func (k *Checker) fromService(s *corev3.ConfigSource, at Place, what string) {
	if s.GetAds() == nil {
		k.Problem(at, "%s from elsewhere than countersign's ADS, so that they cannot be checked", what)
	}
}

func (k *Checker) httpFilters(filters []*hcmv3.HttpFilter, at Place) []asker {
	var askers []asker
	var cleaners []cleaner
	for i, f := range filters {
		at := at.At(i)
		if f.GetConfigDiscovery() != nil {
			k.Problem(at, "filter %s comes from elsewhere (config_discovery), so that it cannot be checked", f.GetName())
			continue
		}
		inner, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			continue // reported by walk
		}
		if f.GetName() == clock {
			k.clockFilter(f, inner, len(askers) > 0, at)
			continue
		}
		if g, ok := askerOf(f, inner); ok {
			if g.at = at; k.alwaysOn(f, at) {
				askers = append(askers, g)
			}
			continue
		}
		if m, ok := inner.(*headerv3.HeaderMutation); ok {
			cleaners = append(cleaners, cleaner{f.GetName(), f.GetDisabled(), m.GetMutations()})
		}
		k.beside(f, inner, len(askers) > 0, at)
	}
	for i := range askers {
		askers[i].cleaners = cleaners
	}
	if len(askers) == 0 {
		k.Problem(at, "no filter asks countersign before the router, so that requests go through unseen: add ext_proc or ext_authz with envoy_grpc cluster_name: %s", ServiceCluster)
	}
	return askers
}

func askerOf(f *hcmv3.HttpFilter, inner proto.Message) (asker, bool) {
	switch inner := inner.(type) {
	case *procv3.ExternalProcessor:
		return asker{
			name: f.GetName(), attach: "ext_proc", resource: namedIn(inner.GetGrpcService().GetInitialMetadata()), mode: inner.GetProcessingMode(),
			fingerprint: Metadata(inner.GetGrpcService().GetInitialMetadata(), FingerprintMetadata),
		}, Asks(inner.GetGrpcService())
	case *authzv3.ExtAuthz:
		return asker{name: f.GetName(), attach: "ext_authz", buffers: inner.GetWithRequestBody() != nil}, Asks(inner.GetGrpcService())
	}
	return asker{}, false
}

func namedIn(metadata []*corev3.HeaderValue) string { return Metadata(metadata, ResourceMetadata) }

// Metadata returns the value of a key of gRPC metadata, or "".
func Metadata(metadata []*corev3.HeaderValue, key string) string {
	for _, h := range metadata {
		if strings.EqualFold(h.GetKey(), key) {
			return h.GetValue() + string(h.GetRawValue())
		}
	}
	return ""
}

func (k *Checker) alwaysOn(f *hcmv3.HttpFilter, at Place) bool {
	if f.GetDisabled() {
		k.Problem(at.At("disabled"), "disabled turns the filter off where a route does not turn it on: remove it")
	}
	if f.GetIsOptional() {
		k.Problem(at.At("is_optional"), "is_optional has Envoy go on without the filter: remove it")
	}
	return !f.GetDisabled() && !f.GetIsOptional()
}

// beside checks a filter that does not ask this service.
func (k *Checker) beside(f *hcmv3.HttpFilter, inner proto.Message, judged bool, at Place) {
	kind := string(inner.ProtoReflect().Descriptor().FullName())
	r, isRouter := inner.(*routerv3.Router)
	if isRouter {
		k.upstreamFilters(r.GetUpstreamHttpFilters(), at.At("typed_config", "upstream_http_filters"))
	}
	switch {
	case isRouter || judged && slices.Contains(harmless, kind):
	case judged:
		k.Problem(at, "filter %s comes after the decision and can change what was judged: put it before the filter that asks countersign", f.GetName())
	case slices.Contains(answering, kind):
		k.Problem(at, "filter %s answers requests before countersign is asked: put it away", f.GetName())
	}
}

func (k *Checker) managerTimeouts(m *hcmv3.HttpConnectionManager, at Place) {
	if d := m.GetStreamIdleTimeout(); d.AsDuration() != 0 {
		k.Longer(d, 5*time.Minute, at.At("stream_idle_timeout"), "stream_idle_timeout")
	} else if d == nil {
		k.Longer(nil, 5*time.Minute, at, "stream_idle_timeout")
	}
	if d := m.GetRequestTimeout(); d.AsDuration() != 0 {
		k.Longer(d, 0, at.At("request_timeout"), "request_timeout")
	}
	options := m.GetCommonHttpProtocolOptions()
	if d := options.GetMaxStreamDuration(); d.AsDuration() != 0 {
		k.Longer(d, 0, at.At("common_http_protocol_options", "max_stream_duration"), "max_stream_duration")
	}
}

func removesEnvoyHeaders(m *hcmv3.HttpConnectionManager) bool {
	for _, e := range m.GetEarlyHeaderMutationExtensions() {
		inner, err := e.GetTypedConfig().UnmarshalNew()
		if err != nil {
			continue
		}
		early, _ := inner.(*earlyv3.HeaderMutation)
		for _, mutation := range early.GetMutations() {
			if p := mutation.GetRemoveOnMatch().GetKeyMatcher().GetPrefix(); p != "" && strings.HasPrefix("x-envoy-", p) {
				return true
			}
		}
	}
	return false
}
