package xds_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

func TestStaticFileDoesWhatXDSDoes(t *testing.T) {
	authority := extproctest.NewAuthority(t)
	issued := authority.Issue("agents.test")
	g := &gateway{target: extproctest.NewTarget(t, extproctest.TargetOptions{Authority: authority}), address: extproctest.FreeAddress(t)}
	plain := extproctest.FreeAddress(t)
	g.config = parse(t, extproctest.Dir(t), fmt.Sprintf(`
  - {name: payments, kind: http, listen: {address: %[1]q, host: payments.test}, target: %[2]q, target_tls: {ca_file: %[3]s}}
  - {name: authz, kind: http, listen: {address: %[1]q, host: authz.test}, target: %[2]q, target_tls: {ca_file: %[3]s}, attach: ext_authz}
  - {name: secure, kind: http, listen: {address: %[6]q, tls: {certificate_file: %[4]s, key_file: %[5]s}}, target: %[2]q, target_tls: {ca_file: %[3]s}}
`, g.address, g.target.URL, authority.CAFile, issued.CertFile, issued.KeyFile, plain))
	text, err := xds.Static(g.config)
	if err != nil {
		t.Fatal(err)
	}
	g.envoy = extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: string(text)})
	for _, host := range []string{"payments.test", "authz.test", "other.test"} {
		if got := g.do(t, "GET", "/v1/payments", host, ""); got.status != 503 || got.problem.Type != "urn:countersign:problem:unavailable" {
			t.Errorf("%s, without the service: %d %s, want 503 unavailable", host, got.status, got.body)
		}
	}
	if n := g.target.BytesIn(); n != 0 {
		t.Errorf("without the service the target saw %d bytes, want none", n)
	}
	g.service = startService(t, g.config)
	for _, host := range []string{"payments.test", "authz.test"} {
		g.target.Reset()
		g.do(t, "GET", "/v1/payments", host, "")
		if got := g.last(t).resource; got+".test" != host || len(g.target.Requests()) != 1 {
			t.Errorf("%s: asked for %q, the target saw %d requests", host, got, len(g.target.Requests()))
		}
	}
}

func TestBootstrapOverTCPProvesItself(t *testing.T) {
	authority := extproctest.NewAuthority(t)
	issued := authority.Issue("service.test")
	c := parse(t, extproctest.Dir(t), `
  - {name: payments, kind: http, listen: {address: "127.0.0.1:8080"}, target: "http://127.0.0.1:9000"}
`)
	c.Listen.EnvoyTLS = &config.ServerTLS{CertificateFile: config.Path(issued.CertFile), KeyFile: config.Path(issued.KeyFile), ClientCAFile: config.Path(authority.CAFile)}
	for address, want := range map[config.Address][]string{
		"10.0.0.7:9000":     {"address: 10.0.0.7", "san_type: IP_ADDRESS", "type: STATIC"},
		"[fd00::7]:9000":    {"address: fd00::7", "san_type: IP_ADDRESS", "type: STATIC"},
		"service.test:9000": {"address: service.test", "san_type: DNS", "sni: service.test", "type: STRICT_DNS"},
	} {
		c.Listen.Envoy = address
		made, err := xds.Bootstrap(c)
		if err != nil {
			t.Fatal(err)
		}
		text := string(made)
		for _, part := range append(want, "/etc/envoy/countersign-client.pem", "/etc/envoy/countersign-client-key.pem", "/etc/envoy/countersign-ca.pem") {
			if !strings.Contains(text, part) {
				t.Errorf("%s: the bootstrap has no %q:\n%s", address, part, text)
			}
		}
		if problems := xds.CheckFile("x", made); len(problems) > 0 {
			t.Errorf("%s: %v", address, problems)
		}
		local := strings.NewReplacer("/etc/envoy/countersign-client.pem", issued.CertFile, "/etc/envoy/countersign-client-key.pem", issued.KeyFile, "/etc/envoy/countersign-ca.pem", authority.CAFile).Replace(text)
		if err := extproctest.ValidateEnvoy(t, extproctest.EnvoyConfig{Bootstrap: local}); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// Each of the three layers that keep a client from having its request sent again is enough by itself. Without any of them,
// this client succeeds: the test would notice if Envoy had changed its mind.
func TestClientCannotHaveItsRequestSentAgain(t *testing.T) {
	layers := []struct{ name, on, off string }{
		{"x-envoy-* headers are removed", "prefix: x-envoy-", "prefix: x-none-"},
		{"nobody is internal", "address_prefix: 255.255.255.255\n                      prefix_len: 32", "address_prefix: 127.0.0.0\n                      prefix_len: 8"},
		{"no retry may be outstanding", "max_retries: 0", "max_retries: 3"},
	}
	for kept := -1; kept < len(layers); kept++ {
		g := &gateway{target: extproctest.NewTarget(t, extproctest.TargetOptions{}), address: extproctest.FreeAddress(t)}
		g.config = parse(t, extproctest.Dir(t), fmt.Sprintf(`
  - {name: payments, kind: http, listen: {address: %q}, target: %q}
`, g.address, g.target.URL))
		made, err := xds.Static(g.config)
		if err != nil {
			t.Fatal(err)
		}
		text, name := string(made), "no layer"
		for i, layer := range layers {
			if !strings.Contains(text, layer.on) {
				t.Fatalf("the static file has no %q", layer.on)
			}
			if i == kept {
				name = layer.name
				continue
			}
			text = strings.ReplaceAll(text, layer.on, layer.off)
		}
		g.service = startService(t, g.config)
		g.envoy = extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: text})
		g.do(t, "GET", "/status/503", "any.test", "", "x-envoy-retry-on: 5xx", "x-envoy-max-retries: 2")
		if n := len(g.target.Requests()); (n == 1) != (kept >= 0) {
			t.Errorf("%s: the target saw %d requests", name, n)
		}
	}
}
