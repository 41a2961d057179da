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
