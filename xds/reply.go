package xds

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// reply is what Envoy says when it is the one to refuse. Each type of problem has one status, as in the service's own words.
type reply struct {
	when   string // CEL, on Envoy's attributes
	kind   string // of problem
	status uint32
	title  string
	detail string
}

// notReached is true where Envoy never had a connection to the target, so that the target cannot have acted.
const notReached = `(response.code_details.contains("connection_failure") || response.code_details.contains("{overflow}") || ` +
	`response.code_details.startsWith("no_healthy_upstream") || response.code_details.startsWith("cluster_not_found"))`

// replies are looked at in order. Details name what failed in words that help, and nothing of the inside.
var replies = []reply{
	{
		when: `response.code == 413`, kind: "too-large", status: 413, title: "The request is too large",
		detail: "The body is larger than this resource accepts.",
	}, {
		when: `response.code == 431`, kind: "too-large", status: 413, title: "The request is too large",
		detail: "The request's headers are more or larger than this resource accepts. Nothing was sent to the target.",
	}, {
		when: `response.code == 404`, kind: "denied", status: 403, title: "No resource is served here",
		detail: "No resource has this host and path form. Check the host, and ask with a path that begins with a slash.",
	}, {
		when: `response.code == 403`, kind: "denied", status: 403, title: "The request is not allowed",
		detail: "This resource does not let connections be upgraded or tunnelled.",
	}, {
		when: `response.code_details == "query_missing_content_type"`, kind: "unreadable", status: 400, title: "The request could not be read",
		detail: "A QUERY has to say what its content is. Send it with a Content-Type. Nothing was sent to the target.",
	}, {
		when: `response.code >= 400 && response.code < 500`, kind: "unreadable", status: 400, title: "The request could not be read",
		detail: "The request is not valid HTTP, has too many or too large headers, or did not arrive in time. Nothing was sent to the target.",
	}, {
		when: `response.code == 501`, kind: "unreadable", status: 400, title: "The request could not be read",
		detail: "The request has a Transfer-Encoding other than chunked. Send it chunked, or with a Content-Length. Nothing was sent to the target.",
	}, {
		when: `response.code >= 500 && response.code_details.startsWith("ext_proc") && upstream.address != ""`,
		kind: "withheld", status: 502, title: "The target's answer was withheld",
		detail: "The gateway could not look at the target's answer, so it was not passed on. The operation itself may have been carried out, " +
			"so do not repeat it blindly.",
	}, {
		when: `response.code >= 500 && (response.code_details.startsWith("ext_proc") || response.code_details.startsWith("ext_authz"))`,
		kind: "unavailable", status: 503, title: "No decision could be made",
		detail: "The gateway could not decide on this request, so it was not let through. Nothing was done. Try again later.",
	}, {
		when: `response.code_details.startsWith("overload")`, kind: "unavailable", status: 503, title: "The gateway is overloaded",
		detail: "Nothing was sent to the target. Try again later.",
	}, {
		when: `response.code >= 500 && ` + notReached, kind: "unavailable", status: 503, title: "The target is unavailable",
		detail: "The target could not be reached. Nothing was sent to it. Try again later.",
	}, {
		when: `response.code >= 500 && upstream.address == ""`, kind: "unavailable", status: 503, title: "The request could not be passed on",
		detail: "Nothing was sent to the target. Try again later.",
	}, {
		when: `response.code >= 500`, kind: "withheld", status: 502, title: "The target gave no answer that can be passed on",
		detail: "The target broke the connection off, took too long, or did not speak HTTP. Whether it acted on the request is not known, " +
			"so do not repeat it blindly.",
	},
}

// notOurs is true for a reply that Envoy made. What the service says comes through local replies too: a denied ext_authz
// check, and an ImmediateResponse, which carries the details that the service gave it, or none.
const notOurs = `response.code_details != "" && response.code_details != "ext_authz_denied" && !response.code_details.startsWith("` +
	DetailsPrefix + `")`

// retryAfter is in seconds, as in the service's own refusals.
const retryAfter = "5"

// isGRPC is true for a call of gRPC, as Envoy itself tells.
const isGRPC = `request.headers["content-type"].matches("^application/grpc([+;]|$)")`

// grpcStatuses are those of the service's own refusals, where Envoy would make another of the HTTP status: UNAVAILABLE has
// clients call again, and what was withheld may have been done.
var grpcStatuses = map[string]string{"withheld": "9", "unreadable": "3", "too-large": "3"}

// localReplies has Envoy refuse in the form that the service does: application/problem+json (RFC 9457).
func (b *Builder) localReplies() *hcmv3.LocalReplyConfig {
	out := &hcmv3.LocalReplyConfig{}
	for _, r := range replies {
		if status := grpcStatuses[r.kind]; status != "" {
			out.Mappers = append(out.Mappers, b.localReply(r, "("+r.when+") && "+isGRPC, "grpc-status", status))
		}
		if r.kind == "unavailable" {
			out.Mappers = append(out.Mappers, b.localReply(r, "("+r.when+")", "retry-after", retryAfter))
		} else {
			out.Mappers = append(out.Mappers, b.localReply(r, "("+r.when+")", "", ""))
		}
	}
	return out
}

// localReply is r with a header field beside it, unless that has no name.
func (b *Builder) localReply(r reply, when, name, value string) *hcmv3.ResponseMapper {
	m := &hcmv3.ResponseMapper{
		Filter:             b.when("(" + notOurs + ") && " + when),
		StatusCode:         wrapperspb.UInt32(r.status),
		BodyFormatOverride: r.problem(),
	}
	if name != "" {
		m.HeadersToAdd = []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: name, Value: value}}}
	}
	return m
}

func (b *Builder) when(expression string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{
		ExtensionFilter: &accesslogv3.ExtensionFilter{
			Name: "envoy.access_loggers.extension_filters.cel",
			ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{
				TypedConfig: b.Pack(&celv3.ExpressionFilter{Expression: expression}),
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
			"rules":      structpb.NewListValue(&structpb.ListValue{}),
		}}},
	}
}
