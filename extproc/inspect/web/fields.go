package web

import "strings"

// Identity reports whether a header field says who or where the client is, or for whom it acts. A client's word is no proof,
// but a target may believe it, so these fields do not reach the target unless the resource lets them pass. The agent's own
// credential is one of them, and so are the fields that are addressed to this gateway.
func Identity(name string) bool {
	if common[name] || strings.HasPrefix(name, "x-envoy-") { // Envoy's own, some of which it lets nobody remove
		return false
	}
	name = strings.TrimPrefix(name, "grpc-metadata-") // grpc-gateway removes it
	if identityNames[name] || actingNames[name] || ours(name) || actsAs(name) {
		return true
	}
	return hasPrefix(identityPrefixes, name)
}

// common are fields that most requests have. Identity does not look at them further, to save time.
var common = set("accept", "accept-encoding", "accept-language", "cache-control", "content-type", "content-length", "user-agent", "x-forwarded-proto",
	"x-request-id", "traceparent", "tracestate", "baggage", "idempotency-key")

// identityNames and identityPrefixes are the fields by which proxies and platforms tell a server who the client is, or in
// which a client shows a credential of its own. Cookie and API keys are among them: an agent holds no credential of the
// target, so whatever it sends there should not arrive. The resource's own credential is added after these are removed. A
// field that one target made up for itself is in no list; policy can deny it by name.
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

// oddName reports whether servers that turn header fields into variables, as CGI does, could confuse the name with another:
// PHP replaces dots and hyphens by "_", lighttpd everything but letters and digits. In the name of stored metadata
// (X-Amz-Meta-a.b) dots after the prefix are accepted: they belong to the object.
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

// framing are header fields that say how a request is carried. [Inspector.frame] drops those that it has no case for.
var framing = set("host", "content-type", "content-encoding", "content-length", "upgrade", "connection", "keep-alive",
	"proxy-connection", "transfer-encoding", "te", "trailer", "http2-settings")

// singular are header fields that have one value. Of two, servers could read either.
var singular = set("content-type", "content-encoding", "content-length", "host", "content-range", "content-location",
	"range", "if-range", "transfer-encoding", "origin", "referer", "expect", "te", "upgrade", "x-forwarded-proto", approvalField)

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}
