package xds

import (
	"slices"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	bufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/countersign/countersign/extproc/config"
)

// The names of the filters, which per-route configuration refers to.
const (
	extProc  = "envoy.filters.http.ext_proc"
	extAuthz = "envoy.filters.http.ext_authz"
	trailers = "envoy.filters.http.header_mutation"
	lengths  = "envoy.filters.http.buffer"
	clock    = "countersign.clock"
	router   = "envoy.filters.http.router"
)

// filters returns the HTTP filters of l: those that ask the service, those that prepare requests for them, and the router. Those
// that ask are enabled unless a route turns them off.
func (b *Builder) filters(l *listener) []*hcmv3.HttpFilter {
	wait := longestHold(b.c) + holdMargin
	var list []*hcmv3.HttpFilter
	if slices.ContainsFunc(l.resources, func(r *config.HTTP) bool { return b.timed(l, r) }) {
		times := b.filter(clock, processor(l, wait))
		times.Disabled = true // routes turn it on: see timing
		list = append(list, times)
	}
	if l.cleans() {
		list = append(list, b.filter(trailers, &headerv3.HeaderMutation{})) // routes say what it does: see cleaned
	}
	if l.attaches("ext_authz") {
		measure := b.filter(lengths, &bufferv3.Buffer{MaxRequestBytes: number(int(largestBody(l)))})
		measure.Disabled = true // routes turn it on: see measured
		list = append(list, measure)
	}
	if l.attaches("ext_proc") {
		list = append(list, b.filter(extProc, processor(l, wait)))
	}
	if l.attaches("ext_authz") {
		list = append(list, b.filter(extAuthz, authorizer(l, wait)))
	}
	return append(list, b.filter(router, &routerv3.Router{SuppressEnvoyHeaders: true}))
}

func (b *Builder) filter(name string, m Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.Pack(m)}}
}

func processor(l *listener, wait time.Duration) *procv3.ExternalProcessor {
	streams := service(nil)
	streams.InitialMetadata = []*corev3.HeaderValue{{Key: PeerMetadata, Value: peerFormat}}
	return &procv3.ExternalProcessor{
		GrpcService:       streams,
		FailureModeAllow:  false,
		AllowModeOverride: false,
		ProcessingMode:    processingMode(true), // routes that inspect answers say so; see the package comment
		RequestAttributes: attributes(l),

		// Tells an answer of the target (via_upstream) from one that Envoy made in its place.
		ResponseAttributes: []string{"response.code_details"},

		// The body modes that are used have no timeout of a message, so that a hold can last; these count for others.
		MessageTimeout:    seconds(wait),
		MaxMessageTimeout: seconds(wait),
		StatusOnError:     unavailable(),

		MutationRules: mutationRules(),
		MetadataOptions: &procv3.MetadataOptions{ReceivingNamespaces: &procv3.MetadataOptions_MetadataNamespaces{
			Untyped: []string{MetadataNamespace},
		}},
		RouteCacheAction: procv3.ExternalProcessor_RETAIN, // what was judged for one route does not move to another

		// Without it every body becomes chunked, which some targets refuse. The service sends the exact length or none.
		AllowContentLengthHeader: true,
	}
}

// attributes returns what Envoy tells the service beside the request. Each costs time in every stream.
func attributes(l *listener) []string {
	var list []string
	if l.tls != nil && l.tls.ClientCAFile != "" {
		list = append(list, "connection.sha256_peer_certificate_digest") // for tokens that are bound to a certificate (RFC 8705)
	}
	return list
}

// processingMode sends the whole request, and the whole answer unless it passes. In FULL_DUPLEX_STREAMED the service says
// when the request's head goes on and what its body is; without trailers sent Envoy refuses the mode.
func processingMode(pass bool) *procv3.ProcessingMode {
	mode := &procv3.ProcessingMode{
		RequestHeaderMode:   procv3.ProcessingMode_SEND,
		RequestBodyMode:     procv3.ProcessingMode_FULL_DUPLEX_STREAMED,
		RequestTrailerMode:  procv3.ProcessingMode_SEND,
		ResponseHeaderMode:  procv3.ProcessingMode_SEND,
		ResponseBodyMode:    procv3.ProcessingMode_FULL_DUPLEX_STREAMED,
		ResponseTrailerMode: procv3.ProcessingMode_SEND,
	}
	if pass {
		mode.ResponseHeaderMode = procv3.ProcessingMode_SKIP
		mode.ResponseBodyMode = procv3.ProcessingMode_NONE
		mode.ResponseTrailerMode = procv3.ProcessingMode_SKIP
	}
	return mode
}

func authorizer(l *listener, wait time.Duration) *authzv3.ExtAuthz {
	return &authzv3.ExtAuthz{
		Services:                   &authzv3.ExtAuthz_GrpcService{GrpcService: service(seconds(wait))},
		TransportApiVersion:        corev3.ApiVersion_V3,
		FailureModeAllow:           false,
		StatusOnError:              unavailable(),
		WithRequestBody:            wholeBody(largestBody(l)),
		EncodeRawHeaders:           true, // keeps duplicates, and bytes that are not UTF-8
		ValidateMutations:          true,
		ClearRouteCache:            false,
		DecoderHeaderMutationRules: mutationRules(),
	}
}

// cleaned removes what the service does not see and what must not pass. ext_authz does not show the trailers of a request, and a
// target can read them as header fields. A target can also set a cookie in a trailer of its answer; the route removes cookies
// from the head (see cookiesToRemove).
func cleaned(r *config.HTTP) *headerv3.HeaderMutationPerRoute {
	m := &headerv3.Mutations{}
	if r.Attach == "ext_authz" {
		m.RequestTrailersMutations = []*mutationv3.HeaderMutation{{
			Action: &mutationv3.HeaderMutation_RemoveOnMatch_{RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{
				KeyMatcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
					SafeRegex: &matcherv3.RegexMatcher{Regex: ".*"},
				}},
			}},
		}}
	}
	for _, name := range cookiesToRemove(r) {
		m.ResponseTrailersMutations = append(m.ResponseTrailersMutations, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Remove{Remove: name}})
	}
	return &headerv3.HeaderMutationPerRoute{Mutations: m}
}

// cleans reports whether Envoy removes something on a route of r.
func cleans(r *config.HTTP) bool { return r.Attach == "ext_authz" || removesCookies(r) }

// removesCookies reports whether Envoy has to keep the target's cookies from the agent. The service does so if it sees answers.
func removesCookies(r *config.HTTP) bool { return r.PassesAnswers() && r.Cookies != "pass" }

func cookiesToRemove(r *config.HTTP) []string {
	if !removesCookies(r) {
		return nil
	}
	return []string{"set-cookie", "set-cookie2"}
}

// timed reports whether r needs the clock filter, because the listener does not bound a request to r by its request time. With
// ext_proc the service needs no clock.
func (b *Builder) timed(l *listener, r *config.HTTP) bool {
	if r.Attach != "ext_authz" || r.Body == "stream" {
		return false
	}
	for _, other := range l.resources {
		if other.Body == "stream" || len(other.Upgrades) > 0 || other.Limits.RequestTime > r.Limits.RequestTime {
			return true
		}
	}
	return false
}

// timing tells the service only when a request to r begins. The trailers are sent so that the stream does not end with the
// head; the service ends it when ext_authz asks.
func timing(r *config.HTTP) *procv3.ExtProcPerRoute {
	return &procv3.ExtProcPerRoute{Override: &procv3.ExtProcPerRoute_Overrides{Overrides: &procv3.ExtProcOverrides{
		ProcessingMode:      timingMode(),
		GrpcInitialMetadata: []*corev3.HeaderValue{{Key: ClockMetadata, Value: r.Name}, {Key: FingerprintMetadata, Value: Fingerprint(r)}},
	}}}
}

func timingMode() *procv3.ProcessingMode {
	return &procv3.ProcessingMode{
		RequestHeaderMode:   procv3.ProcessingMode_SEND,
		RequestBodyMode:     procv3.ProcessingMode_NONE,
		RequestTrailerMode:  procv3.ProcessingMode_SEND,
		ResponseHeaderMode:  procv3.ProcessingMode_SKIP,
		ResponseBodyMode:    procv3.ProcessingMode_NONE,
		ResponseTrailerMode: procv3.ProcessingMode_SKIP,
	}
}

// measured has Envoy read the whole body and state its Content-Length before the service is asked. If the body is then not sent
// along, because somebody changed the configuration, the service sees that it is missing. It is not for bodies that are
// streamed or upgraded, which have no end to wait for.
func measured(r *config.HTTP) *bufferv3.BufferPerRoute {
	return &bufferv3.BufferPerRoute{Override: &bufferv3.BufferPerRoute_Buffer{
		Buffer: &bufferv3.Buffer{MaxRequestBytes: number(int(r.Limits.RequestBody))},
	}}
}

func largestBody(l *listener) config.Size {
	var most config.Size
	for _, r := range l.resources {
		most = max(most, r.Limits.RequestBody)
	}
	return most
}

// wholeBody has Envoy hold the body, and answer 413 if it is larger: a part of it must not be judged.
func wholeBody(limit config.Size) *authzv3.BufferSettings {
	return &authzv3.BufferSettings{MaxRequestBytes: uint32(limit), AllowPartialMessage: false, PackAsBytes: true}
}

// mutationRules let the service set, add and remove headers, but neither the host, nor the method and path that it judged,
// nor anything that steers Envoy. An attempt fails the request.
func mutationRules() *mutationv3.HeaderMutationRules {
	return &mutationv3.HeaderMutationRules{
		AllowAllRouting: no(),
		AllowEnvoy:      no(),
		DisallowSystem:  yes(),
		DisallowIsError: yes(),
	}
}

func unavailable() *typev3.HttpStatus {
	return &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable}
}

// service returns this service, over gRPC. timeout bounds a call; a stream has none.
func service(timeout *durationpb.Duration) *corev3.GrpcService {
	return &corev3.GrpcService{
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: ServiceCluster}},
		Timeout:         timeout,
	}
}

const accessLogBuffer = 1 << 20

// accessLog sends an entry for every request, whatever became of it. The service's records are the evidence, and are compared
// with these entries. Envoy drops entries while the service is away, and while more than accessLogBuffer bytes wait. With its
// default of 16 KiB it dropped some because bodies for ext_authz, on the same connection, held them up.
func (b *Builder) accessLog() []*accesslogv3.AccessLog {
	return []*accesslogv3.AccessLog{{
		Name:       "envoy.access_loggers.http_grpc",
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.Pack(&grpclogv3.HttpGrpcAccessLogConfig{CommonConfig: logToService()})},
	}}
}

func logToService() *grpclogv3.CommonGrpcAccessLogConfig {
	return &grpclogv3.CommonGrpcAccessLogConfig{
		LogName:             AccessLogName,
		GrpcService:         service(nil),
		TransportApiVersion: corev3.ApiVersion_V3,
		BufferFlushInterval: seconds(200 * time.Millisecond),
		BufferSizeBytes:     number(accessLogBuffer),
	}
}
