package xds_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

// startTLS is a gateway with TLS on both sides: agents show a certificate when mutual, and the target has the names.
func startTLS(t *testing.T, authority *extproctest.Authority, resource string) *gateway {
	t.Helper()
	agents, own := authority.Issue("agents.test"), authority.Issue("gateway.test")
	g := &gateway{
		target:  extproctest.NewTarget(t, extproctest.TargetOptions{Authority: authority, WantClient: true}),
		address: extproctest.FreeAddress(t),
	}
	g.config = parse(t, extproctest.Dir(t), fmt.Sprintf(`
  - name: secure
    kind: http
    listen: {address: %q, tls: {certificate_file: %s, key_file: %s, client_ca_file: %s}}
    target: %q
    target_tls: {ca_file: %s, certificate_file: %s, key_file: %s%s
`, g.address, agents.CertFile, agents.KeyFile, authority.CAFile, g.target.URL, authority.CAFile, own.CertFile, own.KeyFile, resource))
	g.service = startService(t, g.config)
	boot, err := xds.Bootstrap(g.config)
	if err != nil {
		t.Fatal(err)
	}
	g.envoy = extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: string(boot)})
	if err := g.xds.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gateway) secure(t *testing.T, c *tls.Config) (answer, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+g.address+"/v1/payments", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	return read(t, resp), nil
}

func TestTLSOnBothSides(t *testing.T) {
	authority := extproctest.NewAuthority(t)
	for _, c := range []struct {
		name, resource, proto string
		status                int
	}{
		{"HTTP/1.1 to the target", `}`, "HTTP/1.1", 200},
		{"HTTP/2 to the target", "}\n    target_http2: true", "HTTP/2.0", 200},
		{"the target's name is configured", `, server_name: target.test}`, "HTTP/1.1", 200},
		{"the target has another name", `, server_name: other.test}`, "", 503},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := startTLS(t, authority, c.resource)
			client := &tls.Config{RootCAs: authority.Pool, ServerName: "agents.test", Certificates: []tls.Certificate{authority.Issue("agent-7").TLS}}
			got, err := g.secure(t, client)
			if err != nil {
				t.Fatal(err)
			}
			seen := g.target.Requests()
			if got.status != c.status || (len(seen) == 1) != (c.status == 200) {
				t.Fatalf("%d %s, the target saw %d requests; want %d", got.status, got.body, len(seen), c.status)
			}
			if c.status == 200 && (seen[0].Proto != c.proto || seen[0].ClientCert.Subject.CommonName != "gateway.test") {
				t.Errorf("the target saw %s and the client %v", seen[0].Proto, seen[0].ClientCert.Subject)
			}
			if digest := g.last(t).attributes["connection.sha256_peer_certificate_digest"]; len(digest) != 64 {
				t.Errorf("the agent's certificate is %q to the service, want its SHA-256", digest)
			}
		})
	}
}

func TestAgentsTLSIsHeldTo(t *testing.T) {
	authority := extproctest.NewAuthority(t)
	g := startTLS(t, authority, `}`)
	agent := authority.Issue("agent-7").TLS
	for _, c := range []struct {
		name   string
		client *tls.Config
	}{
		{"no certificate", &tls.Config{RootCAs: authority.Pool}},
		{"a certificate of another authority", &tls.Config{RootCAs: authority.Pool, Certificates: []tls.Certificate{extproctest.NewAuthority(t).Issue("agent-7").TLS}}},
		{"TLS 1.1", &tls.Config{RootCAs: authority.Pool, Certificates: []tls.Certificate{agent}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}},
	} {
		if got, err := g.secure(t, c.client); err == nil {
			t.Errorf("%s: %d %s, want no connection", c.name, got.status, got.body)
		}
	}
	if g.count() != 0 {
		t.Errorf("the service was asked %d times, want never", g.count())
	}
}

func TestRenewedCertificateIsServedAfterUpdate(t *testing.T) {
	authority := extproctest.NewAuthority(t)
	g := startTLS(t, authority, `}`)
	files := xds.Files(g.config)
	if len(files) != 5 {
		t.Fatalf("Files: %v, want the five of the configuration", files)
	}
	renewed := authority.Issue("renewed.test")
	for from, to := range map[string]string{
		renewed.CertFile: string(g.config.Resources[0].Common().Listen.TLS.CertificateFile),
		renewed.KeyFile:  string(g.config.Resources[0].Common().Listen.TLS.KeyFile),
	} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.xds.Update(t.Context(), g.config); err != nil {
		t.Fatal(err)
	}
	if err := g.xds.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	client := &tls.Config{RootCAs: authority.Pool, ServerName: "renewed.test", Certificates: []tls.Certificate{authority.Issue("agent-7").TLS}}
	if _, err := g.secure(t, client); err != nil {
		t.Errorf("the certificate before is still served: %v", err)
	}
}
