package xds

import (
	"regexp"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	httptapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/tap/v3"
	httpwasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	tapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tap/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/extproc/config"
)

// The rules that keep the target's credential from going elsewhere. From the decision on it is in the request's header fields,
// and Envoy can be told to copy them into an answer, a log, a trace or a call of another service.

const gives = "%s gives out the header field %q, in which the target's credential may stand by then: take it out"

// readsHeader matches a command of Envoy's format strings that inserts a request's header field. It may name a second field,
// to use if the first is missing.
var readsHeader = regexp.MustCompile(`(?i)%(?:REQ|REQUEST_HEADER|REQ_WITHOUT_QUERY)\(([^)%]*)\)`)

// computes are commands that can insert a header field whose name cannot be checked.
var computes = regexp.MustCompile(`(?i)%(?:CEL|FILE_CONTENT|SECRET)\(`)

// text checks every text in the file: most texts that Envoy writes somewhere can be format strings.
func (k *Checker) text(field, s string, at Place) {
	for _, m := range readsHeader.FindAllStringSubmatch(s, -1) {
		for name := range strings.SplitSeq(m[1], "?") {
			if k.secretive(name) {
				k.Problem(at, gives, field, name)
			}
		}
	}
	if computes.MatchString(s) {
		k.Problem(at, "%s has %s…), which can give out the target's credential in ways that cannot be checked: take it out", field, strings.Trim(computes.FindString(s), "%"))
	}
}

// secretive reports whether a credential may be in the header field: one of the configuration's, or by its name.
func (k *Checker) secretive(name string) bool {
	name = strings.ToLower(strings.TrimSpace(name))
	if k.config != nil {
		for _, r := range config.Each[*config.HTTP](k.config) {
			if c := r.Credential; c != nil && strings.EqualFold(c.Header, name) {
				return true
			}
		}
	}
	return name != ":authority" && slices.ContainsFunc([]string{"auth", "token", "cookie", "key", "secret", "credential", "password", "session", "signature"},
		func(part string) bool { return strings.Contains(name, part) })
}

// leaks applies the rules of this file for messages of one type.
func (k *Checker) leaks(m proto.Message, at Place) {
	named := func(field string, names ...string) {
		for _, name := range names {
			if k.secretive(name) {
				k.Problem(at.At(field), gives, field, name)
			}
		}
	}
	switch m := m.(type) {
	case *grpclogv3.HttpGrpcAccessLogConfig:
		named("additional_request_headers_to_log", m.GetAdditionalRequestHeadersToLog()...)
	case *tracingv3.CustomTag_Header:
		named("name", m.GetName())
	case *routev3.RateLimit_Action_RequestHeaders:
		named("header_name", m.GetHeaderName())
	case *procv3.ExternalProcessor:
		for _, a := range m.GetResponseAttributes() {
			if strings.HasPrefix(a, "request.headers") {
				k.Problem(at.At("response_attributes"), gives, "response_attributes", a)
			}
		}
	case *httptapv3.Tap, *tapv3.Tap:
		k.Problem(at, "a tap copies requests, with the target's credential, to where others can read them: remove it")
	case *luav3.Lua, *luav3.LuaPerRoute, *httpwasmv3.Wasm:
		k.Problem(at, "this runs code that the check cannot see into, on requests that carry a credential and on answers that were redacted: remove it")
	}
}
