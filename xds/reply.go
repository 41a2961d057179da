package xds

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// reply is what Envoy says when it is the one to refuse.
type reply struct {
	when   string // CEL, on Envoy's attributes
	kind   string // of problem
	title  string
	detail string
}

// replies are looked at in order. Details name what failed in words that help, and nothing of the inside.
var replies = []reply{
	{
		when: `response.code == 413`, kind: "too-large", title: "The request is too large",
		detail: "The body is larger than this resource accepts.",
	}, {
		when: `response.code == 404`, kind: "denied", title: "No resource is served here",
		detail: "No resource has this host and path form. Check the host, and ask with a path that begins with a slash.",
	}, {
		when: `response.code == 403`, kind: "denied", title: "The request is not allowed",
		detail: "This resource does not let connections be upgraded or tunnelled.",
	}, {
		when: `response.code >= 400 && response.code < 500`, kind: "unreadable", title: "The request could not be read",
		detail: "The request is not valid HTTP, has too many or too large headers, or did not arrive in time. Nothing was sent to the target.",
	}, {
		when: `response.code >= 500 && (response.code_details.startsWith("ext_proc") || response.code_details.startsWith("ext_authz"))`,
		kind: "unavailable", title: "No decision could be made",
		detail: "The gateway could not decide on this request, so it was not let through, or its answer was withheld. Try again later.",
	}, {
		when: `response.code_details.startsWith("overload")`, kind: "unavailable", title: "The gateway is overloaded",
		detail: "Nothing was sent to the target. Try again later.",
	}, {
		when: `response.code >= 500`, kind: "unavailable", title: "The target is unavailable",
		detail: "The target could not be reached, broke the connection off, or took too long. Whether it acted on the request is not known.",
	},
}

// notOurs is true for a reply that Envoy made. What the service says comes through local replies too: a denied ext_authz
// check, and an ImmediateResponse, which carries the details that the service gave it, or none.
const notOurs = `response.code_details != "" && response.code_details != "ext_authz_denied" && !response.code_details.startsWith("` +
	DetailsPrefix + `")`

// localReplies has Envoy refuse in the form that the service does: application/problem+json (RFC 9457).
func (b *builder) localReplies() *hcmv3.LocalReplyConfig {
	out := &hcmv3.LocalReplyConfig{}
	for _, r := range replies {
		out.Mappers = append(out.Mappers, &hcmv3.ResponseMapper{
			Filter:             b.when("(" + notOurs + ") && (" + r.when + ")"),
			BodyFormatOverride: r.problem(),
		})
	}
	return out
}

func (b *builder) when(expression string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{
		ExtensionFilter: &accesslogv3.ExtensionFilter{
			Name: "envoy.access_loggers.extension_filters.cel",
			ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{
				TypedConfig: b.pack(&celv3.ExpressionFilter{Expression: expression}),
			},
		},
	}}
}

func (r reply) problem() *corev3.SubstitutionFormatString {
	text := structpb.NewStringValue
	return &corev3.SubstitutionFormatString{
		ContentType:     "application/problem+json",
		OmitEmptyValues: true, // a request that could not be parsed has no id yet
		Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: &structpb.Struct{Fields: map[string]*structpb.Value{
			"type":       text("urn:countersign:problem:" + r.kind),
			"title":      text(r.title),
			"status":     text("%RESPONSE_CODE%"),
			"detail":     text(r.detail),
			"request_id": text("%REQ(X-REQUEST-ID)%"),
		}}},
	}
}
