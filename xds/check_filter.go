package xds

import (
	"slices"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/countersign/countersign/extproc/config"
)

// Asks reports whether a gRPC service is this one.
func Asks(g *corev3.GrpcService) bool {
	return g.GetEnvoyGrpc().GetClusterName() == ServiceCluster
}

// Longer checks that a timeout is longer than the hold. unset says what Envoy does without one.
func (k *Checker) Longer(d *durationpb.Duration, unset time.Duration, at Place, what string) {
	got := unset
	if d != nil {
		got = d.AsDuration()
	}
	if got <= k.hold {
		k.Problem(at, "%s is %v, and a decision can take %v: set it above that", what, got, k.hold)
	}
}

// processor checks an ext_proc filter that asks this service.
func (k *Checker) processor(p *procv3.ExternalProcessor, at Place) {
	if p.GetFailureModeAllow() {
		k.Problem(at.At("failure_mode_allow"), "failure_mode_allow lets requests through when countersign fails: remove it")
	}
	if p.GetAllowModeOverride() {
		k.Problem(at.At("allow_mode_override"), "allow_mode_override lets a part of the request go unseen: remove it")
	}
	if p.GetDisableImmediateResponse() {
		k.Problem(at.At("disable_immediate_response"), "disable_immediate_response ignores refusals: remove it")
	}
	if p.GetObservabilityMode() {
		k.Problem(at.At("observability_mode"), "observability_mode does not wait for a decision: remove it")
	}
	if p.GetForwardRules() != nil {
		k.Problem(at.At("forward_rules"), "forward_rules hides headers from countersign, and what it does not see it cannot judge: remove them")
	}
	if p.GetProcessingRequestModifier() != nil {
		k.Problem(at.At("processing_request_modifier"), "processing_request_modifier changes what countersign sees: remove it")
	}
	if p.GetOnProcessingResponse() != nil {
		k.Problem(at.At("on_processing_response"), "on_processing_response runs on what countersign said: remove it")
	}
	if p.GetRouteCacheAction() == procv3.ExternalProcessor_CLEAR {
		k.Problem(at.At("route_cache_action"), "route_cache_action CLEAR can move a request to another route after it was judged: use RETAIN")
	}
	if s := p.GetStatusOnError(); s != nil && s.GetCode() < 500 {
		k.Problem(at.At("status_on_error"), "status_on_error is %d: use a 5xx, so that a failure is not taken for a decision", s.GetCode())
	}
	if rules := p.GetMutationRules(); rules.GetAllowAllRouting().GetValue() || rules.GetAllowExpression() != nil {
		k.Problem(at.At("mutation_rules"), "mutation_rules let the route change after it was judged: remove allow_all_routing and allow_expression")
	}
	k.mutable(p.GetMutationRules(), at.At("mutation_rules"))
	k.timesNothing(Metadata(p.GetGrpcService().GetInitialMetadata(), ClockMetadata), at.At("grpc_service", "initial_metadata"))
	k.keepsMetadata(p.GetMetadataOptions(), at.At("metadata_options"))
	if d := p.GetGrpcService().GetTimeout(); d.AsDuration() != 0 {
		k.Problem(at.At("grpc_service", "timeout"), "the timeout of grpc_service is that of a whole request and its answer (%v), and cuts them off: remove it", d.AsDuration())
	}
	k.Longer(p.GetMessageTimeout(), 200*time.Millisecond, at.At("message_timeout"), "message_timeout")
	if p.GetMaxMessageTimeout() != nil {
		k.Longer(p.GetMaxMessageTimeout(), 0, at.At("max_message_timeout"), "max_message_timeout")
	}
	if !slices.Contains(p.GetRequestAttributes(), "source.address") && Metadata(p.GetGrpcService().GetInitialMetadata(), PeerMetadata) != peerFormat {
		k.Problem(at.At("grpc_service.initial_metadata"), "initial_metadata lacks %s: records would not say who connected; add {key: %s, value: %q} to grpc_service.initial_metadata", PeerMetadata, PeerMetadata, peerFormat)
	}
	if !slices.Contains(p.GetResponseAttributes(), "response.code_details") {
		k.Problem(at.At("response_attributes"), "response_attributes lacks response.code_details: records could not tell an answer of the target from one of Envoy")
	}
	k.processingMode(p.GetProcessingMode(), at.At("processing_mode"))
}

// keepsMetadata checks that what the service says of an operation is kept for the access log.
func (k *Checker) keepsMetadata(m *procv3.MetadataOptions, at Place) {
	if !slices.Contains(m.GetReceivingNamespaces().GetUntyped(), MetadataNamespace) {
		k.Problem(at, "metadata_options does not take what countersign says of a request, so that the access log could not be compared with the records: add receiving_namespaces {untyped: [%s]}", MetadataNamespace)
	}
}

// processingMode checks that the whole request is sent, and the whole answer or nothing of it.
func (k *Checker) processingMode(m *procv3.ProcessingMode, at Place) {
	const duplex = procv3.ProcessingMode_FULL_DUPLEX_STREAMED
	if m.GetRequestHeaderMode() == procv3.ProcessingMode_SKIP {
		k.Problem(at.At("request_header_mode"), "request_header_mode SKIP hides the request from countersign: use SEND")
	}
	if m.GetRequestBodyMode() != duplex {
		k.Problem(at.At("request_body_mode"), "request_body_mode is %v: use FULL_DUPLEX_STREAMED, or bodies go unseen", m.GetRequestBodyMode())
	}
	if m.GetRequestTrailerMode() != procv3.ProcessingMode_SEND {
		k.Problem(at.At("request_trailer_mode"), "request_trailer_mode is %v: use SEND, which FULL_DUPLEX_STREAMED needs", m.GetRequestTrailerMode())
	}
	switch m.GetResponseBodyMode() {
	case duplex:
		if m.GetResponseHeaderMode() == procv3.ProcessingMode_SKIP {
			k.Problem(at.At("response_header_mode"), "response_header_mode is SKIP where response bodies are inspected: use SEND")
		}
		if m.GetResponseTrailerMode() != procv3.ProcessingMode_SEND {
			k.Problem(at.At("response_trailer_mode"), "response_trailer_mode is %v: use SEND, which FULL_DUPLEX_STREAMED needs", m.GetResponseTrailerMode())
		}
	case procv3.ProcessingMode_NONE:
		if m.GetResponseHeaderMode() != procv3.ProcessingMode_SKIP {
			k.Problem(at.At("response_body_mode"), "response_body_mode is NONE where response headers are sent: use FULL_DUPLEX_STREAMED, or SKIP the headers (response: pass)")
		}
	default:
		k.Problem(at.At("response_body_mode"), "response_body_mode is %v: use FULL_DUPLEX_STREAMED, or NONE (response: pass)", m.GetResponseBodyMode())
	}
}

// processorOnRoute checks what a route changes of ext_proc. The route's own rules say whether it may turn it off.
func (k *Checker) processorOnRoute(p *procv3.ExtProcPerRoute, at Place) {
	o, at := p.GetOverrides(), at.At("overrides")
	if o.GetFailureModeAllow().GetValue() {
		k.Problem(at.At("failure_mode_allow"), "failure_mode_allow lets requests through when countersign fails: remove it")
	}
	if o.GetGrpcService() != nil && !Asks(o.GetGrpcService()) {
		k.Problem(at.At("grpc_service"), "grpc_service asks another service than the cluster %q", ServiceCluster)
	}
	if o.GetProcessingRequestModifier() != nil {
		k.Problem(at.At("processing_request_modifier"), "processing_request_modifier changes what countersign sees: remove it")
	}
	if o.GetMetadataOptions() != nil {
		k.keepsMetadata(o.GetMetadataOptions(), at.At("metadata_options"))
	}
	k.timesNothing(Metadata(o.GetGrpcService().GetInitialMetadata(), ClockMetadata), at.At("grpc_service"))
	if o.GetProcessingMode() != nil && Metadata(o.GetGrpcInitialMetadata(), ClockMetadata) == "" { // see clocksOnRoute
		k.processingMode(o.GetProcessingMode(), at.At("processing_mode"))
	}
	if said := Metadata(o.GetGrpcInitialMetadata(), PeerMetadata); said != "" && said != peerFormat {
		k.Problem(at.At("grpc_initial_metadata"), "grpc_initial_metadata says who connected: %s is %q; remove it here, and leave it to the filter's grpc_service", PeerMetadata, said)
	}
}

// authorizer checks an ext_authz filter that asks this service.
func (k *Checker) authorizer(a *authzv3.ExtAuthz, at Place) {
	if a.GetFailureModeAllow() {
		k.Problem(at.At("failure_mode_allow"), "failure_mode_allow lets requests through when countersign fails: remove it")
	}
	if a.GetFailureModeAllowHeaderAdd() {
		k.Problem(at.At("failure_mode_allow_header_add"), "failure_mode_allow_header_add is for filters that let requests through when they fail: remove it")
	}
	if a.GetShadowMode() {
		k.Problem(at.At("shadow_mode"), "shadow_mode ignores refusals: remove it")
	}
	if a.GetFilterEnabled() != nil {
		k.Problem(at.At("filter_enabled"), "filter_enabled lets requests through without a decision: remove it")
	}
	if a.GetFilterEnabledMetadata() != nil {
		k.Problem(at.At("filter_enabled_metadata"), "filter_enabled_metadata lets requests through without a decision: remove it")
	}
	if a.GetAllowedHeaders() != nil {
		k.Problem(at.At("allowed_headers"), "allowed_headers hides headers from countersign, and what it does not see it cannot judge: remove them")
	}
	if a.GetDisallowedHeaders() != nil {
		k.Problem(at.At("disallowed_headers"), "disallowed_headers hides headers from countersign, and what it does not see it cannot judge: remove them")
	}
	if !a.GetEncodeRawHeaders() {
		k.Problem(at.At("encode_raw_headers"), "encode_raw_headers is not set, so that duplicate headers are joined and bytes are lost: set it to true")
	}
	if a.GetClearRouteCache() {
		k.Problem(at.At("clear_route_cache"), "clear_route_cache can move a request to another route after it was judged: remove it")
	}
	if a.GetTransportApiVersion() != corev3.ApiVersion_V3 {
		k.Problem(at.At("transport_api_version"), "transport_api_version is not V3")
	}
	if s := a.GetStatusOnError(); s.GetCode() < 500 {
		k.Problem(at.At("status_on_error"), "status_on_error is not a 5xx: without it a failure is a 403, which is taken for a decision")
	}
	k.mutable(a.GetDecoderHeaderMutationRules(), at.At("decoder_header_mutation_rules"))
	k.wholeBody(a.GetWithRequestBody(), at.At("with_request_body"))
	k.Longer(a.GetGrpcService().GetTimeout(), 200*time.Millisecond, at.At("grpc_service", "timeout"), "the timeout of grpc_service")
}

func (k *Checker) wholeBody(b *authzv3.BufferSettings, at Place) {
	switch {
	case b == nil:
		k.Problem(at, "with_request_body is not set, so that bodies go unseen: set it, and disable_request_body_buffering on routes with body: stream")
	case b.GetAllowPartialMessage():
		k.Problem(at.At("allow_partial_message"), "allow_partial_message has a part of a body judged and all of it sent: remove it")
	case !b.GetPackAsBytes():
		k.Problem(at.At("pack_as_bytes"), "pack_as_bytes is not set, so that bytes that are not UTF-8 are lost: set it to true")
	}
}

// authorizerOnRoute checks what a route changes of ext_authz.
func (k *Checker) authorizerOnRoute(a *authzv3.ExtAuthzPerRoute, at Place) {
	s, at := a.GetCheckSettings(), at.At("check_settings")
	if s.GetServiceOverride() != nil && !Asks(s.GetGrpcService()) {
		k.Problem(at, "asks another service than the cluster %q", ServiceCluster)
	}
	if s.GetGrpcService().GetTimeout() != nil {
		k.Longer(s.GetGrpcService().GetTimeout(), 0, at.At("grpc_service", "timeout"), "the timeout of grpc_service")
	}
	if s.GetWithRequestBody() != nil {
		k.wholeBody(s.GetWithRequestBody(), at.At("with_request_body"))
	}
	if s.GetDisableRequestBodyBuffering() && k.config != nil {
		r, ok := config.Named[*config.HTTP](k.config, s.GetContextExtensions()[ResourceExtension])
		if ok && r.Body != "stream" {
			k.Problem(at.At("disable_request_body_buffering"), "resource %q inspects bodies (body: inspect), and this hides them", r.Name)
		}
	}
}

// latestEntry is how long the service waits for an entry of the access log, without the time that it takes to arrive.
const latestEntry = 4 * time.Second

// AccessLog wants an unconditional log to this service, of that name: envoy.access_loggers.http_grpc, say. commonOf is what
// a log has in common with others; nil where it is not such a log.
func (k *Checker) AccessLog(logs []*accesslogv3.AccessLog, at Place, name string, commonOf func(proto.Message) *grpclogv3.CommonGrpcAccessLogConfig) {
	for i, log := range logs {
		inner, err := log.GetTypedConfig().UnmarshalNew()
		if err != nil {
			continue
		}
		common := commonOf(inner)
		if !Asks(common.GetGrpcService()) {
			continue
		}
		if log.GetFilter() != nil {
			k.Problem(at.At("access_log", i, "filter"), "this filter keeps requests out of the access log that countersign compares its records with: remove it")
		}
		if d := common.GetBufferFlushInterval().AsDuration(); d > latestEntry {
			k.Problem(at.At("access_log", i, "typed_config", "common_config", "buffer_flush_interval"), "buffer_flush_interval is %v, and countersign waits %v for an entry: the outcome of requests would be unknown; set it to 0.2s", d, latestEntry)
		}
		return
	}
	k.Problem(at.At("access_log"), "no access log (%s) goes to the cluster %q: a request that was not decided on would leave no trace", name, ServiceCluster)
}
