package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/kind"
	"github.com/countersign/countersign/extproc/kind/postgres/session"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/xds"
)

// load reads a configuration with one resource of kind postgres, whose keys more are.
func load(t *testing.T, more string) (*config.Config, error) {
	t.Helper()
	dir := extproctest.Dir(t)
	authority := extproctest.NewAuthority(t)
	server := authority.Issue("orders.test")
	if err := os.Mkdir(filepath.Join(dir, "policies"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"password": "correct horse\n", "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf(`
data: ./var
agents:
  - {issuer: "https://issuer.test", audience: [gateway], ca_file: %q}
policies: ./policies
resources:
  - name: orders
    kind: postgres
%s`, authority.CAFile, more)
	text = strings.NewReplacer("$CERT", server.CertFile, "$KEY", server.KeyFile, "$CA", authority.CAFile).Replace(text)
	return config.Parse(filepath.Join(dir, "countersign.yaml"), []byte(text), config.KindHTTP, Kind.Config)
}

const good = `
    listen: {address: "127.0.0.1:6432", tls: {certificate_file: $CERT, key_file: $KEY}}
    target: "postgres://db.internal:5432"
    target_tls: {ca_file: $CA, server_name: db.internal}
    roles:
      app: {password_file: ./password}
      batch: {certificate_file: $CERT, key_file: $KEY}
    databases: [orders]
    harmless_functions: [public.slug]
    limits: {statement: 1MiB, message: 16MiB, sessions: 200, session_time: 8h, idle: 10m}
`

func TestProblems(t *testing.T) {
	if _, err := load(t, good); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, text, want string }{
		{"postgres://db.internal:5432", "postgres://app:secret@db.internal:5432", "target: is no postgres://HOST:PORT"},
		{"postgres://db.internal:5432", "postgres://db.internal:5432/orders", "target: is no postgres://HOST:PORT"},
		{"postgres://db.internal:5432", "https://db.internal:5432", "target: is no postgres://HOST:PORT"},
		{"postgres://db.internal:5432", "postgres://db.internal", "write postgres://HOST:PORT"},
		{"    target: \"postgres://db.internal:5432\"\n", "", "target: is required"},
		{"    target_tls: {ca_file: $CA, server_name: db.internal}\n", "", "which is plain to another machine"},
		{"server_name: db.internal}", "server_name: db.internal, certificate_file: $CERT, key_file: $KEY}", "target_tls.certificate_file: is of no role"},
		{"{password_file: ./password}", "{}", "roles.app: has no credential"},
		{"{password_file: ./password}", "{password_file: ./empty}", "roles.app.password_file: names"},
		{"{password_file: ./password}", "{password_file: ./none}", "which cannot be read"},
		{"{password_file: ./password}", "{password: x}", "roles.app.password: is not a key that is known here"},
		{", key_file: $KEY}\n    databases", "}\n    databases", "roles.batch.certificate_file: and key_file go together"},
		{"[orders]", `["orders", ""]`, "databases: has a name that is empty"},
		{"public.slug", "slug", "harmless_functions: has \"slug\": write SCHEMA.NAME"},
		{"key_file: $KEY}}", "key_file: $KEY, client_ca_file: $CA}}", "agents are known by their tokens"},
		{"\"127.0.0.1:6432\", tls", "\"127.0.0.1:6432\", host: orders.test, tls", "listen.host: is for HTTP"},
		{"\"127.0.0.1:6432\", tls: {certificate_file: $CERT, key_file: $KEY}", "\"0.0.0.0:6432\"", "agents' tokens would cross the network in the clear"},
		{"statement: 1MiB", "statement: 32MiB", "limits.statement: is"},
		{"message: 16MiB", "message: 1KiB", "limits.message: is"},
		{"sessions: 200", "sessions: 100000", "limits.sessions: is 100000"},
		{"session_time: 8h", "session_time: 1ms", "limits.session_time: is 1ms"},
		{"idle: 10m", "idle: 1ms", "limits.idle: is 1ms"},
		{"    databases", "    auth: scram\n    databases", "auth: is \"scram\""},
		{"    databases", "    oauth: {scope: openid}\n    databases", "oauth: is for auth: oauthbearer"},
		{"    databases", "    auth: oauthbearer\n    oauth: {issuer: \"https://other.test\"}\n    databases", "oauth.issuer: is \"https://other.test\", whose tokens are not accepted"},
		{"    databases", "    auth: oauthbearer\n    oauth: {scope: \"a\\tb\"}\n    databases", "oauth.scope: is"},
		{"\"127.0.0.1:6432\", tls: {certificate_file: $CERT, key_file: $KEY}}", "\"127.0.0.1:6432\"}\n    auth: oauthbearer", "auth: is oauthbearer, by which a token is sent as it is: set listen.tls"},
		{"    databases", "    attach: sidecar\n    databases", "attach: is \"sidecar\""},
		{"    databases", "    egress: socks\n    databases", "egress: is \"socks\""},
	} {
		if !strings.Contains(good, c.old) {
			t.Fatalf("%q is not in the file", c.old)
		}
		_, err := load(t, strings.Replace(good, c.old, c.text, 1))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
	}
}

// A client that has no token is told of the issuer that is named, or of the first that gives tokens.
func TestWhereTokensAre(t *testing.T) {
	for more, want := range map[string]session.OAuth{
		"": {Discovery: "https://issuer.test/.well-known/openid-configuration"},
		"    oauth: {issuer: \"https://issuer.test\", scope: \"openid gateway\"}\n": {Discovery: "https://issuer.test/.well-known/openid-configuration", Scope: "openid gateway"},
	} {
		c, err := load(t, good+"    auth: oauthbearer\n"+more)
		if err != nil {
			t.Fatal(err)
		}
		var r lane.Resource
		Kind.Own(c.Resources[0], kind.Shared{Issuers: config.TokenIssuers(c.Agents)}, &r)
		if got := r.Own.(*session.Target).OAuth; got == nil || *got != want {
			t.Errorf("%q: %+v, want %+v", more, got, want)
		}
	}
	c, err := load(t, good)
	if err != nil {
		t.Fatal(err)
	}
	var r lane.Resource
	if Kind.Own(c.Resources[0], kind.Shared{Issuers: config.TokenIssuers(c.Agents)}, &r); r.Own.(*session.Target).OAuth != nil {
		t.Error("a token that is the password is asked for by OAUTHBEARER")
	}
}

// The files of the secrets are known to what checks who can read and change them.
func TestTheFilesOfRoles(t *testing.T) {
	c, err := load(t, good)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, p := range c.Paths() {
		keys[p.Key] = true
	}
	for _, key := range []string{"resources[0].roles.app.password_file", "resources[0].roles.batch.certificate_file", "resources[0].roles.batch.key_file"} {
		if !keys[key] {
			t.Errorf("%s is not among the files of the configuration", key)
		}
	}
}

// The static file for Envoy passes its own check, however the resource is attached, and a change of it that would open a door does not.
func TestStaticFile(t *testing.T) {
	for _, c := range []struct {
		name, keys string
		changes    []change
	}{
		{"passed on", "", []change{
			{"another socket", "", "/tmp/other.sock", "and countersign listens at"}, // of the kind's socket
			{"no header", "version: V2", "version: V1", "does not say who connects"},
			{"another resource", "b3JkZXJz", "b3RoZXJz", "which the configuration does not have"},
			{"a log that says nothing", "countersign.passed", "other", "does not tell which resource"},
		}},
		{"shown", "    attach: ext_proc\n", []change{
			{"fails open", "failure_mode_allow: false", "failure_mode_allow: true", "unseen when countersign fails"},
			{"the agent unseen", "processing_mode: {}", "processing_mode: {process_read: SKIP}", "set process_read to STREAMED"},
			{"the target unseen", "processing_mode: {}", "processing_mode: {process_write: SKIP}", "set process_write to STREAMED"},
			{"a short timeout", "message_timeout: 60s", "message_timeout: 0.2s", "message_timeout is 200ms"},
			{"no session in the log", "- countersign\n", "- other\n", "cannot tell which session"},
			{"no resource", "key: countersign-resource", "key: other", "no resource is named"},
			{"no fingerprint", "key: countersign-fingerprint", "key: other", "carries out is not said"},
			{"no peer", "'%DOWNSTREAM_REMOTE_ADDRESS%'", "'192.0.2.1:1'", "who connects is not told"},
			{"another resource", "value: orders", "value: others", "which the configuration does not have"},
			{"connects first", "upstream_connect_mode: ON_DOWNSTREAM_DATA", "upstream_connect_mode: IMMEDIATE", "before countersign has let anybody in"},
			{"the gateway itself", "cluster: inner/orders\n", "cluster: countersign\n", "is not the target's cluster"},
			{"another target", "port_value: 5432", "port_value: 5433", "leads to another place than the target of resource \"orders\""},
			{"a log without the resource", "tag: countersign.resource", "tag: other", "set custom_tags: [{tag: countersign.resource, literal: {value: orders}}]"},
			{"a tunnel", "cluster: inner/orders\n", "cluster: inner/orders\n                tunneling_config: {hostname: \"x.test:443\"}\n", "another proxy"},
		}},
		{"egress", "    egress: envoy\n", []change{
			{"other users", "mode: 384", "mode: 438", "other users of this machine can connect"},
			{"no mode", "mode: 384", "mode: 0", "other users of this machine can connect"},
			{"on the network", "pipe:\n          path: $EGRESS\n          mode: 384", "socket_address: {address: 0.0.0.0, port_value: 6000}", "whoever can connect to this address reaches the target"},
			{"on loopback", "pipe:\n          path: $EGRESS\n          mode: 384", "socket_address: {address: 127.0.0.1, port_value: 6000}", "whoever can connect to this address reaches the target"},
			{"more addresses", "name: unix:$EGRESS\n", "name: unix:$EGRESS\n      additional_addresses: [{address: {socket_address: {address: 127.0.0.1, port_value: 6000}}}]\n", "remove additional_addresses"},
			{"another socket", "path: $EGRESS", "path: /tmp/other.sock", "and countersign connects to"},
			{"no session in the log", "tlv_type: 226", "tlv_type: 227", "which session a connection is for"},
			{"without a header too", "            stat_prefix: egress\n      listener", "            stat_prefix: egress\n            allow_requests_without_proxy_protocol: true\n      listener", "which session a connection is for"},
			{"another target", "port_value: 5432", "port_value: 5433", "leads to another place than the target of resource \"orders\""},
			{"another resource", "value: orders", "value: others", "as one with egress: envoy"},
			{"TLS of Envoy's", "    - name: inner/orders\n", "    - name: inner/orders\n      transport_socket: {name: x, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}\n", "TLS to the target is countersign's own"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) { staticFile(t, c.keys, c.changes) })
	}
}

// change is one of a static file, and what the check says of it.
type change struct{ name, old, text, want string }

func staticFile(t *testing.T, keys string, changes []change) {
	c, err := load(t, strings.Replace(good, "127.0.0.1:6432", "0.0.0.0:6432", 1)+keys)
	if err != nil {
		t.Fatal(err)
	}
	file, err := xds.Static(c, Kind.Envoy)
	if err != nil {
		t.Fatal(err)
	}
	if err := extproctest.ValidateEnvoy(t, extproctest.EnvoyConfig{Bootstrap: string(file)}); err != nil {
		t.Error(err)
	}
	for _, p := range xds.CheckFileFor(c, "envoy.yaml", file, Kind.Envoy) {
		t.Errorf("%v", p)
	}
	for _, p := range xds.CheckFile("envoy.yaml", file, Kind.Envoy) {
		t.Errorf("without a configuration: %v", p)
	}
	socket, _ := c.Socket(name).Unix()
	out, _ := c.Socket(egress(config.Each[*Resource](c)[0])).Unix()
	for _, x := range changes {
		old := strings.ReplaceAll(x.old, "$EGRESS", out)
		if old == "" {
			old = socket
		}
		changed := strings.ReplaceAll(string(file), old, strings.ReplaceAll(x.text, "$EGRESS", out))
		if changed == string(file) {
			t.Errorf("%s: %q is not in the file:\n%s", x.name, old, file)
			continue
		}
		found := fmt.Sprint(xds.CheckFileFor(c, "envoy.yaml", []byte(changed), Kind.Envoy))
		if !strings.Contains(found, x.want) {
			t.Errorf("%s: %s, want %s", x.name, found, x.want)
		}
	}
}
