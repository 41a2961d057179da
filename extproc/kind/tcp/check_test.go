package tcp

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

// load reads a configuration with one resource of kind tcp, whose keys more are.
func load(t *testing.T, more string) (*config.Config, error) {
	t.Helper()
	return loadFor(t, `certificates: {"CN=ci": ci}`, more)
}

// loadFor is load with agents that have that key.
func loadFor(t *testing.T, agents, more string) (*config.Config, error) {
	t.Helper()
	dir := extproctest.Dir(t)
	authority := extproctest.NewAuthority(t)
	server := authority.Issue("ledger.test")
	if err := os.Mkdir(filepath.Join(dir, "policies"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`
data: ./var
agents:
  - {issuer: "urn:example:ca", kind: mtls, ca_file: %q, %s}
policies: ./policies
resources:
  - name: ledger
    kind: tcp
%s`, authority.CAFile, agents, more)
	text = strings.NewReplacer("$CERT", server.CertFile, "$KEY", server.KeyFile, "$CA", authority.CAFile, "$OTHER", extproctest.NewAuthority(t).CAFile).Replace(text)
	return config.Parse(filepath.Join(dir, "countersign.yaml"), []byte(text), config.KindHTTP, Kind.Config)
}

const good = `
    listen: {address: "127.0.0.1:6400", tls: {certificate_file: $CERT, key_file: $KEY, client_ca_file: $CA}}
    target: "tcp://127.0.0.1:6500"
`

func TestProblems(t *testing.T) {
	if _, err := load(t, good); err != nil {
		t.Fatal(err)
	}
	for old, c := range map[string]struct{ text, want string }{
		"client_ca_file: $CA":     {"client_ca_file: $OTHER", "no issuer of kind mtls has an authority of it"},
		", client_ca_file: $CA":   {"", "listen.tls: needs client_ca_file"},
		`"tcp://127.0.0.1:6500"`:  {`"https://127.0.0.1:6500"`, "target: is \"https://127.0.0.1:6500\": write tcp://HOST:PORT"},
		"tcp://127.0.0.1:6500":    {"tcp://ledger.internal:6500", "which is plain to another machine"},
		"127.0.0.1:6500\"":        {"127.0.0.1\"", "write tcp://HOST:PORT"},
		"    target":              {"    attach: ext_proc\n    target", "attach: is not a key that is known here"},
		"\"127.0.0.1:6400\", tls": {"\"127.0.0.1:6400\", host: ledger.test, tls", "listen.host: is for HTTP"},
		"6500\"\n":                {"6500\"\n    limits: {connections: 20000}\n", "limits.connections: is 20000"},
		"6500\"\n ":               {"6500\"\n  - {name: web, kind: http, listen: {address: \"127.0.0.1:6400\", tls: {certificate_file: $CERT, key_file: $KEY, client_ca_file: $CA}}, target: \"http://127.0.0.1:1\"}\n", "is that of resource \"ledger\", which is of kind tcp"},
	} {
		_, err := load(t, strings.Replace(good+" ", old, c.text, 1))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
	}
}

// What says which tokens are good says nothing of certificates.
func TestWhatIsForTokens(t *testing.T) {
	for _, key := range []string{"audience: [a]", "max_lifetime: 1h", "skew: 0s", "algorithms: [RS256]", "insecure: true", "groups_claim: groups", "kind_claim: kind", "people_claim: email"} {
		name, _, _ := strings.Cut(key, ":")
		if _, err := loadFor(t, key, good); err == nil || !strings.Contains(err.Error(), "agents[0]."+name+": is for tokens") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// What is printed for an Envoy without xDS is well, and each change of it that would open something is found.
func TestCheck(t *testing.T) {
	c, err := load(t, good)
	if err != nil {
		t.Fatal(err)
	}
	made, err := xds.Static(c, Kind.Envoy)
	if err != nil {
		t.Fatal(err)
	}
	text := string(made)
	if err := extproctest.ValidateEnvoy(t, extproctest.EnvoyConfig{Bootstrap: text}); err != nil {
		t.Error(err)
	}
	if problems := xds.CheckFileFor(c, "envoy.yaml", made, Kind.Envoy); len(problems) > 0 {
		t.Errorf("our own file: %v\n%s", problems, text)
	}
	for _, c2 := range []struct{ name, old, text, want string }{
		{"fails open", "failure_mode_allow: false", "failure_mode_allow: true", "lets connections through when countersign fails"},
		{"no certificate", "include_peer_certificate: true", "include_peer_certificate: false", "nobody can be known by their certificate"},
		{"no proof", "require_client_certificate: true", "require_client_certificate: false", "this filter chain asks for none"},
		{"connects first", "upstream_connect_mode: ON_DOWNSTREAM_DATA", "upstream_connect_mode: IMMEDIATE", "before countersign is asked"},
		{"another resource", "value: ledger", "value: other", "which the configuration does not have"},
		{"another configuration", fingerprint(config.Each[*Resource](c)[0]), "0123456789abcdef", "for another configuration"},
		{"ignores refusals", "failure_mode_allow: false", "shadow_mode: true", "ignores refusals"},
		{"a short timeout", "timeout: 60s", "timeout: 5s", "a decision can take"},
		{"no server name", "include_tls_session: true", "include_tls_session: false", "never holds"},
		{"several targets", "cluster: target/ledger\n", "weighted_clusters: {clusters: [{name: target/ledger, weight: 1}, {name: countersign, weight: 1}]}\n", "is not one cluster"},
		{"countersign itself", "cluster: target/ledger\n", "cluster: countersign\n", "countersign's own services"},
		{"a tunnel", "cluster: target/ledger\n", "cluster: target/ledger\n                tunneling_config: {hostname: \"ledger.test:443\"}\n", "another proxy"},
		{"another place", "port_value: 6500", "port_value: 6501", "leads to another place than the target of resource \"ledger\""},
		{"a log without the resource", "tag: countersign.resource", "tag: resource", "set custom_tags: [{tag: countersign.resource, literal: {value: ledger}}]"},
		{"log before the end", "max_connect_attempts", "flush_access_log_on_connected: true\n                max_connect_attempts", "have not ended"},
	} {
		changed := strings.Replace(text, c2.old, c2.text, 1)
		if changed == text {
			t.Errorf("%s: the file has no %q\n%s", c2.name, c2.old, text)
			continue
		}
		found := fmt.Sprint(xds.CheckFileFor(c, "envoy.yaml", []byte(changed), Kind.Envoy))
		if !strings.Contains(found, c2.want) {
			t.Errorf("%s: %s, want %s", c2.name, found, c2.want)
		}
	}
	if found := fmt.Sprint(xds.CheckFileFor(c, "envoy.yaml", made)); !strings.Contains(found, "countersign does not see") {
		t.Errorf("without the kind its connections are unseen, and the check says %s", found)
	}
}
