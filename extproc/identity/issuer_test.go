package identity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConfiguration(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := Issuer{Issuer: "https://idp.example.com", Audience: []string{"countersign"}}
	for _, tc := range []struct {
		name string
		edit func(*Issuer)
		want string // "" accepts
	}{
		{"the least", func(*Issuer) {}, ""},
		{"no issuer", func(i *Issuer) { i.Issuer = "" }, "has no issuer"},
		{"not a URL", func(i *Issuer) { i.Issuer = "idp.example.com" }, "is not the URL of an issuer"},
		{"a query", func(i *Issuer) { i.Issuer = "https://idp.example.com?x" }, "is not the URL of an issuer"},
		{"an empty query", func(i *Issuer) { i.Issuer = "https://idp.example.com?" }, "is not the URL of an issuer"},
		{"a fragment", func(i *Issuer) { i.Issuer = "https://idp.example.com#" }, "is not the URL of an issuer"},
		{"a password", func(i *Issuer) { i.Issuer = "https://u:p@idp.example.com" }, "is not the URL of an issuer"},
		{"another scheme", func(i *Issuer) { i.Issuer = "ftp://idp.example.com" }, "is not an https URL"},
		{"plain http", func(i *Issuer) { i.Issuer = "http://idp.example.com" }, "plain http"},
		{"plain http that looks like loopback", func(i *Issuer) { i.Issuer = "http://127.0.0.1.example.com" }, "plain http"},
		{"plain http on loopback", func(i *Issuer) { i.Issuer = "http://127.0.0.1:9000" }, ""},
		{"plain http on loopback, IPv6", func(i *Issuer) { i.Issuer = "http://[::1]:9000" }, ""},
		{"plain http on a name of loopback", func(i *Issuer) { i.Issuer = "http://idp.localhost:9000" }, ""},
		{"plain http that is called insecure", func(i *Issuer) { i.Issuer = "http://idp.example.com"; i.Insecure = true }, ""},
		{"no audience", func(i *Issuer) { i.Audience = nil }, "has no audience"},
		{"an empty audience", func(i *Issuer) { i.Audience = []string{""} }, "audience has an empty entry"},
		{"none", func(i *Issuer) { i.Algorithms = []string{"RS256", "none"} }, "nobody signed"},
		{"None", func(i *Issuer) { i.Algorithms = []string{"None"} }, "nobody signed"},
		{"a shared secret", func(i *Issuer) { i.Algorithms = []string{"HS256"} }, "shared secret"},
		{"an unknown algorithm", func(i *Issuer) { i.Algorithms = []string{"RS257"} }, "is not one of"},
		{"every algorithm", func(i *Issuer) { i.Algorithms = algorithms }, ""},
		{"a long skew", func(i *Issuer) { i.Skew = 61 * time.Second }, "is the most"},
		{"a negative skew", func(i *Issuer) { i.Skew = -1 }, "negative"},
		{"a negative lifetime", func(i *Issuer) { i.MaxLifetime = -1 }, "negative"},
		{"fetching too rarely", func(i *Issuer) { i.Refresh = 48 * time.Hour }, "is not less than"},
		{"an unknown kind", func(i *Issuer) { i.Kind = "okta" }, "kind \"okta\""},
		{"every tenant's issuer", func(i *Issuer) { i.Kind = "entra"; i.Issuer = "https://login.microsoftonline.com/common/v2.0" }, "every tenant"},
		{"a template", func(i *Issuer) { i.Kind = "entra"; i.Issuer = "https://login.microsoftonline.com/{tenantid}/v2.0" }, "is not the URL of an issuer"},
		{"all of GitHub", func(i *Issuer) { i.Kind = "github" }, "every repository"},
		{"one owner on GitHub", func(i *Issuer) { i.Kind = "github"; i.Tenants = []string{"65"} }, ""},
		{"every trust domain", func(i *Issuer) { i.Kind = "spiffe" }, "trust domains"},
		{"a trust domain without keys", func(i *Issuer) { i.Kind = "spiffe"; i.Issuer = "spiffe://example.org" }, "jwks_file"},
		{"a trust domain of another kind", func(i *Issuer) { i.Issuer = "spiffe://example.org" }, "kind spiffe"},
		{"no CA file", func(i *Issuer) { i.CAFile = filepath.Join(dir, "none") }, "ca_file"},
		{"a CA file without certificates", func(i *Issuer) { i.CAFile = text }, "no PEM certificate"},
		{"no key set file", func(i *Issuer) { i.JWKSFile = filepath.Join(dir, "none") }, "jwks_file"},
		{"a key set file that is none", func(i *Issuer) { i.JWKSFile = text }, "jwks_file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i := good
			tc.edit(&i)
			v, err := New(Options{Issuers: []Issuer{i}})
			switch {
			case err == nil:
				v.Close()
				if tc.want != "" {
					t.Errorf("accepted, want %q", tc.want)
				}
			case tc.want == "" || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), i.Issuer):
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestConfigurationErrorsAreReportedTogether(t *testing.T) {
	_, err := New(Options{Issuers: []Issuer{
		{Issuer: "http://one.example", Skew: time.Hour},
		{Issuer: "https://two.example", Audience: []string{"x"}, Algorithms: []string{"none"}},
		{Issuer: "https://three.example", Audience: []string{"x"}},
		{Issuer: "https://three.example", Audience: []string{"y"}},
	}})
	for _, want := range []string{"plain http", "no audience", "skew", "nobody signed", "configured twice"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}
