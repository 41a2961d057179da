package web

import "strings"

// Volatile reports whether a header field may differ between two attempts at the same operation, so that it is not part
// of the canonical input: trace context, request ids, what the client calls itself, what encodings it takes, the length
// (body_bytes has it), and what Envoy adds.
func Volatile(name string) bool {
	return volatileNames[name] || strings.HasPrefix(name, "x-envoy-") || strings.HasPrefix(name, "x-b3-")
}

var volatileNames = set(
	"traceparent", "tracestate", "baggage", "b3", "x-cloud-trace-context", "x-amzn-trace-id", "uber-trace-id",
	"x-request-id", "x-correlation-id", "user-agent", "accept-encoding", "content-length", "x-forwarded-proto",
)

// Identity reports whether a header field says who or where the client is. What a client says of itself is no proof, and
// a target may believe it: these never reach the target. The agent's own credential is one of them.
func Identity(name string) bool {
	if identityNames[name] {
		return true
	}
	if name == "x-forwarded-proto" {
		return false // Envoy's own word
	}
	for _, prefix := range identityPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

var identityNames = set(
	"authorization", "proxy-authorization", "dpop", "cookie", "forwarded", "from",
	"x-forwarded", "x-original-forwarded-for", "x-host", "x-original-host", "x-http-host-override",
	"proxy-client-ip", "wl-proxy-client-ip", "x-azure-clientip", "x-azure-socketip",
	"x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-originating-ip", "x-remote-ip", "x-remote-addr", "client-ip",
	"true-client-ip", "cf-connecting-ip", "fastly-client-ip", "remote-user", "remote-addr", "via",
	"x-remote-user", "x-remote-group", "x-remote-email", "x-user", "x-user-id", "x-username", "x-email",
	"x-webauth-user", "x-authenticated-user", "x-authenticated-userid", "x-consumer-id", "x-consumer-username",
	"x-credential-identifier", "x-anonymous-consumer", "x-api-key", "api-key", "x-auth-token", "x-access-token", "x-id-token",
	"ocp-apim-subscription-key", "x-functions-key", "client-cert", "client-cert-chain", "ssl-client-cert", "x-ssl-client-cert",
	"x-client-cert", "x-jwt-assertion", "x-tailscale-user",
)

var identityPrefixes = []string{
	"x-auth-request-", "x-ms-client-principal", "x-ms-token-", "x-goog-authenticated-user-", "x-goog-iap-", "x-amzn-oidc-",
	"x-remote-extra-", "x-remote-user-", "x-ssl-client-", "ssl-client-", "impersonate-", "cf-access-", "x-pomerium-",
	"x-vouch-", "x-authentik-", "tailscale-user-", "x-countersign-", "x-forwarded-", "x-appengine-",
}

// overrides are header fields that change the method or the path behind policy's back.
var overrides = set(
	"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url", "x-original-uri",
	"x-original-method", "x-envoy-original-path",
)

// framing are header fields that say how a request is carried. Inspector.frame has a case for each that is not dropped.
var framing = set("host", "content-type", "content-encoding", "content-length", "upgrade", "connection", "keep-alive",
	"proxy-connection", "transfer-encoding", "te", "trailer", "http2-settings")

var hopByHop = set("connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer", "upgrade", "http2-settings")

// singular are header fields that have one value, so that two of them are two readings of one request.
var singular = set("content-type", "content-encoding", "content-length", "host", "content-range", "content-location",
	"range", "if-range", "transfer-encoding", "origin", "referer", "expect", "te", "upgrade")

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}
