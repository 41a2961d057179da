package identity

import (
	"encoding/base64"
	"net/url"
	"strings"
)

// secondCredentials are headers that some servers take a token from. With an Authorization header beside them, two
// readers of one request could see two principals.
var secondCredentials = []string{"Proxy-Authorization", "X-Forwarded-Access-Token", "X-Auth-Request-Access-Token", "X-Access-Token"}

// Credential finds the one credential of a request: `Authorization: Bearer TOKEN` (RFC 6750), or the password of
// `Authorization: Basic`, which is all that git can send; the user name that stands beside it is not looked at. headers
// returns every value of a header, its name in any case. A request with two is refused even when both are the same.
//
// A token in the query is for the caller to look for, with [HasQueryCredential]; one in a form body is not read.
func Credential(headers func(name string) []string) (token string, refusal *Refusal) {
	values := headers("Authorization")
	for _, name := range secondCredentials {
		if len(headers(name)) > 0 && len(values) > 0 {
			return "", &Refusal{Reason: Multiple, Detail: "the request has a credential in Authorization and another in " + name}
		}
	}
	switch len(values) {
	case 0:
		return "", &Refusal{Reason: Missing, Detail: "the request has no Authorization header; send Authorization: Bearer and an access token"}
	case 1:
	default:
		return "", &Refusal{Reason: Multiple, Detail: "the request has more than one Authorization header"}
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	switch strings.ToLower(scheme) {
	case "bearer":
		token = rest
	case "basic":
		user, err := base64.StdEncoding.Strict().DecodeString(rest)
		_, password, found := strings.Cut(string(user), ":")
		if err != nil || !found {
			return "", malformed("the Basic credential is not base64 of user:password")
		}
		token = password
	default:
		return "", malformed("the Authorization header is neither Bearer nor Basic")
	}
	if token == "" {
		return "", malformed("the Authorization header has no token")
	}
	if strings.Trim(token, tokenBytes) != "" { // a comma among them: two credentials joined by a proxy
		return "", malformed("the token in the Authorization header has bytes that no token has")
	}
	return token, nil
}

// tokenBytes are those of a JWT in compact serialization.
const tokenBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// HasQueryCredential reports whether a query has an access token (RFC 6750, section 2.3), which is refused beside a
// header, and refused alone because addresses end up in logs. Every spelling that some server could read as one counts.
func HasQueryCredential(rawQuery string) bool {
	for pair := range strings.FieldsFuncSeq(rawQuery, func(r rune) bool { return r == '&' || r == ';' || r == '?' }) {
		name, _, _ := strings.Cut(pair, "=")
		for range 2 { // also where a server decodes twice
			if decoded, err := url.QueryUnescape(name); err == nil {
				name = decoded
			}
		}
		name, _, _ = strings.Cut(strings.ToLower(name), "[") // access_token[] and access_token[0]
		name = strings.Map(func(r rune) rune {
			if r <= ' ' {
				return -1
			}
			return r
		}, name)
		switch name {
		case "access_token", "access.token", "id_token", "bearer_token":
			return true
		}
	}
	return false
}

// identityHeaders are the headers by which proxies and platforms tell a server who the client is, or by which a client
// shows a server a credential of its own. Those that end in "*" stand for all that begin so.
//
// Cookie is among them, and the API keys: an agent holds no credential of the target, so what it sends is either not
// one or should not be there; the resource's own is added after these are gone. What no list can know is a header that
// one target has made up for itself: policy can deny it by name.
var identityHeaders = []string{
	"authorization", "proxy-authorization", "cookie", "cookie2", "dpop",
	"api-key", "x-api-key", "x-api-token", "x-auth-token", "x-access-token", "x-id-token", "x-jwt-*", "private-token", "x-vault-token",
	"x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-forwarded-preferred-username", "x-forwarded-access-token",
	"x-forwarded-client-cert", "x-forwarded-tls-client-cert*", "x-forwarded-authorization",
	"client-cert", "client-cert-chain", "ssl-client-*", "x-ssl-*", "x-client-cert*", "x-client-verify", "x-client-dn", "x-arr-clientcert",
	"x-user", "x-user-*", "x-userinfo", "x-username", "x-email", "x-groups", "x-roles",
	"x-remote-*", "remote-user", "remote-groups", "remote-email", "remote-name",
	"x-authenticated-*", "x-webauth-*", "x-auth-request-*", "x-auth-user", "x-auth-*",
	"impersonate-*",                          // Kubernetes
	"x-ms-client-principal*", "x-ms-token-*", // Azure App Service
	"x-goog-authenticated-user-*", "x-goog-iap-*", // Google IAP
	"x-serverless-authorization",     // Cloud Run
	"x-amzn-oidc-*", "x-amzn-mtls-*", // AWS ALB
	"cf-access-*",                                               // Cloudflare Access
	"tailscale-*", "x-pomerium-*", "x-authentik-*", "x-vouch-*", // proxies that log people in
	"x-consumer-*", "x-credential-identifier", "x-anonymous-consumer", // Kong
	"x-endpoint-api-userinfo", // Google ESP
	"x-envoy-*", "x-spiffe-*", "x-countersign-*",
}

// ClientIdentityHeaders lists what must be removed from a request before it goes on, in lower case; a name that ends in
// "*" is a prefix.
func ClientIdentityHeaders() []string { return append([]string(nil), identityHeaders...) }

// IsIdentityHeader reports whether a header that a client sent must be removed. "_" counts as "-": servers that hand
// headers on as variables (CGI, WSGI, Rack) make the same HTTP_X_REMOTE_USER of both.
func IsIdentityHeader(name string) bool {
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	if identityNames[name] {
		return true
	}
	for _, prefix := range identityPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

var identityNames, identityPrefixes = func() (map[string]bool, []string) {
	names := map[string]bool{}
	var prefixes []string
	for _, h := range identityHeaders {
		if prefix, ok := strings.CutSuffix(h, "*"); ok {
			prefixes = append(prefixes, prefix)
		} else {
			names[h] = true
		}
	}
	return names, prefixes
}()
