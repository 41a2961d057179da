package identity

import (
	"encoding/base64"
	"net/http"
	"testing"
)

func TestCredential(t *testing.T) {
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, tc := range []struct {
		name    string
		headers http.Header
		token   string
		reason  string
	}{
		{"a bearer token", http.Header{"Authorization": {"Bearer a.b.c"}}, "a.b.c", ""},
		{"the scheme in any case", http.Header{"Authorization": {"bEARER a.b.c"}}, "a.b.c", ""},
		{"git's password", http.Header{"Authorization": {basic("git:a.b.c")}}, "a.b.c", ""},
		{"git's password without a user", http.Header{"Authorization": {basic(":a.b.c")}}, "a.b.c", ""},
		{"nothing", http.Header{}, "", Missing},
		{"only a cookie", http.Header{"Cookie": {"session=a.b.c"}}, "", Missing},
		{"only a second-hand token", http.Header{"X-Forwarded-Access-Token": {"a.b.c"}}, "", Missing},
		{"two headers", http.Header{"Authorization": {"Bearer a.b.c", "Bearer a.b.d"}}, "", Multiple},
		{"the same header twice", http.Header{"Authorization": {"Bearer a.b.c", "Bearer a.b.c"}}, "", Multiple},
		{"an empty header first", http.Header{"Authorization": {"", "Bearer a.b.c"}}, "", Multiple},
		{"two in one header", http.Header{"Authorization": {"Bearer a.b.c, Bearer a.b.d"}}, "", Malformed},
		{"two, joined by a comma", http.Header{"Authorization": {"Bearer a.b.c,a.b.d"}}, "", Malformed},
		{"one for a proxy too", http.Header{"Authorization": {"Bearer a.b.c"}, "Proxy-Authorization": {"Bearer a.b.d"}}, "", Multiple},
		{"a forwarded one too", http.Header{"Authorization": {"Bearer a.b.c"}, "X-Forwarded-Access-Token": {"a.b.d"}}, "", Multiple},
		{"two spaces", http.Header{"Authorization": {"Bearer  a.b.c"}}, "", Malformed},
		{"a tab", http.Header{"Authorization": {"Bearer\ta.b.c"}}, "", Malformed},
		{"a space behind", http.Header{"Authorization": {"Bearer a.b.c "}}, "", Malformed},
		{"no token", http.Header{"Authorization": {"Bearer "}}, "", Malformed},
		{"no scheme", http.Header{"Authorization": {"a.b.c"}}, "", Malformed},
		{"an empty header", http.Header{"Authorization": {""}}, "", Malformed},
		{"another scheme", http.Header{"Authorization": {"DPoP a.b.c"}}, "", Malformed},
		{"negotiation", http.Header{"Authorization": {"Negotiate YQ=="}}, "", Malformed},
		{"Basic without a password", http.Header{"Authorization": {basic("a.b.c")}}, "", Malformed},
		{"Basic with an empty password", http.Header{"Authorization": {basic("a.b.c:")}}, "", Malformed},
		{"Basic that is not base64", http.Header{"Authorization": {"Basic !"}}, "", Malformed},
		{"Basic with a line end in it", http.Header{"Authorization": {basic("u:a.b\n.c")}}, "", Malformed},
		{"a NUL", http.Header{"Authorization": {"Bearer a.b.c\x00"}}, "", Malformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token, refusal := Credential(tc.headers.Values)
			var reason string
			if refusal != nil {
				reason = refusal.Reason
			}
			if token != tc.token || reason != tc.reason {
				t.Errorf("got %q, %q; want %q, %q", token, reason, tc.token, tc.reason)
			}
		})
	}
}

func TestAttackTwoCredentials(t *testing.T) {
	for _, second := range secondCredentials {
		h := http.Header{}
		h.Set("Authorization", "Bearer a.b.c")
		h.Set(second, "")
		if _, refusal := Credential(h.Values); refusal == nil || refusal.Reason != Multiple {
			t.Errorf("%s, empty: %v", second, refusal)
		}
	}
}

func TestAttackTokenInQueryAndHeader(t *testing.T) {
	for query, want := range map[string]bool{
		"": false, "a=b": false, "page=2&token=x": false, "q=access_token": false, "my_access_token=x": false,
		"access_token=a.b.c": true, "a=b&access_token=": true, "access_token": true,
		"ACCESS_TOKEN=x": true, "Access_Token=x": true, "%61ccess_token=x": true, "access%5Ftoken=x": true,
		"access%255Ftoken=x": true, "a=b;access_token=x": true, "access_token[]=x": true, "access_token%5B0%5D=x": true,
		"+access_token=x": true, "%20access_token=x": true, "access_token%00=x": true, "access.token=x": true,
		"?access_token=x": true, "&&access_token=x": true, "%zz&access_token=x": true, "id_token=x": true,
	} {
		if got := HasQueryCredential(query); got != want {
			t.Errorf("%q: got %v, want %v", query, got, want)
		}
	}
}
