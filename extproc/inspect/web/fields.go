package web

import "strings"

// Identity reports whether a header field says who or where the client is, or for whom it acts. What a client says of itself
// is no proof, and a target may believe it: these do not reach the target, unless the resource opens them. The agent's own
// credential is one of them, and so is what is addressed to this gateway.
func Identity(name string) bool {
	if common[name] || strings.HasPrefix(name, "x-envoy-") { // Envoy's own, some of which it lets nobody remove
		return false
	}
	name = strings.TrimPrefix(name, "grpc-metadata-") // grpc-gateway hands on what follows
	if identityNames[name] || actingNames[name] || ours(name) || actsAs(name) {
		return true
	}
	return hasPrefix(identityPrefixes, name)
}

// common are fields that most requests have, and that need no closer look.
var common = set("accept", "accept-encoding", "accept-language", "cache-control", "content-type", "content-length", "user-agent", "x-forwarded-proto",
	"x-request-id", "traceparent", "tracestate", "baggage", "idempotency-key")

// identityNames and identityPrefixes are the fields by which proxies and platforms tell a server who the client is, or by
// which a client shows a server a credential of its own. Cookie is among them, and the API keys: an agent holds no
// credential of the target, so what it sends is either not one or should not be there; the resource's own is added after
// these are gone. What neither a list nor a shape can know is a field that one target has made up for itself: policy can deny it by
// name.
var identityNames = set(
	"authorization", "proxy-authorization", "cookie", "cookie2", "dpop",
	"api-key", "x-api-key", "x-api-token", "x-access-token", "x-id-token", "private-token", "x-vault-token",
	"ocp-apim-subscription-key", "x-functions-key",
	"client-cert", "client-cert-chain", "x-client-verify", "x-client-dn", "x-arr-clientcert",
	"x-user", "x-userinfo", "x-username", "x-email", "x-groups", "x-roles",
	"remote-user", "remote-groups", "remote-email", "remote-name",
	"x-credential-identifier", "x-anonymous-consumer", // Kong
	"x-endpoint-api-userinfo",    // Google ESP
	"x-serverless-authorization", // Cloud Run

	// where the client is, and what it asked for before a proxy changed that
	"forwarded", "from", "via", "x-forwarded", "x-original-forwarded-for", "x-host", "x-original-host", "x-http-host-override",
	"x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-originating-ip", "client-ip", "true-client-ip", "remote-addr",
	"front-end-https", "x-url-scheme", "x-scheme", "x-https",
	"proxy-client-ip", "wl-proxy-client-ip", "x-azure-clientip", "x-azure-socketip", "cf-connecting-ip", "fastly-client-ip",
)

var identityPrefixes = []string{
	"x-forwarded-", "x-auth-", "x-authenticated-", "x-webauth-", "x-remote-", "x-user-", "x-jwt-", "x-consumer-",
	"ssl-client-", "x-ssl-", "x-client-cert",
	"impersonate-",                         // Kubernetes
	"x-ms-client-principal", "x-ms-token-", // Azure App Service
	"x-goog-authenticated-user-", "x-goog-iap-", "x-appengine-", // Google
	"x-amzn-oidc-", "x-amzn-mtls-", // AWS ALB
	"cf-access-", "tailscale-", "x-tailscale-", "x-pomerium-", "x-authentik-", "x-vouch-", // proxies that log people in
	"x-spiffe-", "x-hasura-",
}

// overrides are header fields that change the method or the path behind policy's back.
var overrides = set(
	"x-http-method-override", "x-http-method", "x-method-override", "x-tunneled-method", "x-original-url", "x-rewrite-url", "x-original-uri",
	"x-original-method", "x-envoy-original-path",
	"x-rewrite-uri", "x-original-path", "x-rewrite-path", "x-override-url", "x-ms-original-url", "x-waws-unencoded-url",
	"x-original-http-method", "x-http-destinationurl",
	"x-script-name", // cut off the path by what mounts WSGI programs
)

func overridesRequest(name string) bool { return overrides[name] || overridesMethod(name) }

// oddName reports whether servers that hand header fields on as variables (CGI and what came of it) take the name for another
// one: PHP makes "_" of a dot as it does of a hyphen, lighttpd of everything that is no letter and no digit. Behind what begins a
// name of stored metadata (X-Amz-Meta-a.b) a dot is the object's own.
func oddName(name string) bool {
	if stored := strings.Index(name, "-meta-"); stored > 0 && strings.Trim(name[stored:], "-.abcdefghijklmnopqrstuvwxyz0123456789") == "" {
		name = name[:stored]
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return true
		}
	}
	return false
}

// framing are header fields that say how a request is carried. Inspector.frame has a case for each that is not dropped.
var framing = set("host", "content-type", "content-encoding", "content-length", "upgrade", "connection", "keep-alive",
	"proxy-connection", "transfer-encoding", "te", "trailer", "http2-settings")

// singular are header fields that have one value, so that two of them are two readings of one request.
var singular = set("content-type", "content-encoding", "content-length", "host", "content-range", "content-location",
	"range", "if-range", "transfer-encoding", "origin", "referer", "expect", "te", "upgrade", "x-forwarded-proto", approvalField)

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}
