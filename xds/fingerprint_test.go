package xds_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

// TestFingerprintTellsWhatEnvoyCarriesOut changes each key of a resource. A key that is added to the configuration belongs in
// one of the two lists: what Envoy carries out and a decision relies on, and what the service sees to, or merely bounds.
func TestFingerprintTellsWhatEnvoyCarriesOut(t *testing.T) {
	const seenTo = ""
	resource := func() *config.HTTP {
		return &config.HTTP{
			Base: config.Base{Name: "payments", Kind: "http", Listen: config.ResourceListen{Address: "127.0.0.1:8080"}}, Target: "https://payments.internal",
			Attach: "ext_proc", Body: "inspect", Response: "inspect",
		}
	}
	keys := map[string]string{ // a key, and a value that Envoy carries out differently
		"name": seenTo, "kind": seenTo, "policy": seenTo, "labels": seenTo, "credential": seenTo, "limits": seenTo, "paths": seenTo, "numbers": seenTo,
		"timeout": seenTo, "hold": seenTo, "approval": seenTo, "target_insecure": seenTo, "volatile_headers": seenTo, "identity_headers": seenTo, "response_headers": seenTo,
		"rewrite_urls": seenTo, "rewrite": seenTo, "methods": seenTo, "end_with_token": seenTo,
		"cookies": seenTo,               // where answers come by; elsewhere below
		"listen":  "", "target_tls": "", // below
		"target": "https://other.internal", "target_http2": "true", "attach": "ext_authz", "body": "stream", "response": "pass", "upgrades": "websocket",
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[config.HTTP]()) {
		key := f.Tag.Get("yaml")
		if f.Anonymous {
			continue
		}
		value, known := keys[key]
		if !known {
			t.Errorf("nothing says whether Envoy carries out resources[].%s: see Fingerprint, and add the key here", key)
		}
		if value == seenTo {
			continue
		}
		r := resource()
		switch v := reflect.ValueOf(r).Elem().FieldByIndex(f.Index); v.Kind() {
		case reflect.String:
			v.SetString(value)
		case reflect.Bool:
			v.SetBool(true)
		default:
			v.Set(reflect.ValueOf([]string{value}))
		}
		if xds.Fingerprint(r) == xds.Fingerprint(resource()) {
			t.Errorf("%s: %s has the same fingerprint", key, value)
		}
	}
	seen := map[string]string{}
	for name, change := range map[string]func(*config.HTTP){
		"nothing":                  func(*config.HTTP) {},
		"another address":          func(r *config.HTTP) { r.Listen.Address = "127.0.0.1:8081" },
		"another host":             func(r *config.HTTP) { r.Listen.Host = "payments.test" },
		"cookies by ext_authz":     func(r *config.HTTP) { r.Attach, r.Cookies = "ext_authz", "pass" },
		"no cookies by ext_authz":  func(r *config.HTTP) { r.Attach, r.Cookies = "ext_authz", "remove" },
		"TLS":                      func(r *config.HTTP) { r.Listen.TLS = &config.ServerTLS{CertificateFile: "/a"} },
		"certificates of agents":   func(r *config.HTTP) { r.Listen.TLS = &config.ServerTLS{ClientCAFile: "/a"} },
		"another name of a target": func(r *config.HTTP) { r.TargetTLS = &config.ClientTLS{ServerName: "other"} },
		"roots of a target":        func(r *config.HTTP) { r.TargetTLS = &config.ClientTLS{CAFile: "/a"} },
		"a certificate for it":     func(r *config.HTTP) { r.TargetTLS = &config.ClientTLS{CertificateFile: "/a"} },
	} {
		r := resource()
		change(r)
		if other, twice := seen[xds.Fingerprint(r)]; twice {
			t.Errorf("%s and %s have the same fingerprint", name, other)
		}
		seen[xds.Fingerprint(r)] = name
	}
	for name, change := range map[string]func(*config.HTTP){
		"a certificate that moved": func(r *config.HTTP) { r.Listen.TLS = &config.ServerTLS{CertificateFile: "/b"} },
		"a limit":                  func(r *config.HTTP) { r.Limits.RequestBody = 7 },
		"a timeout":                func(r *config.HTTP) { r.Timeout = config.Duration(time.Second) },
	} {
		r := resource()
		change(r)
		if _, known := seen[xds.Fingerprint(r)]; !known {
			t.Errorf("%s has a fingerprint of its own, so that changing it costs refusals", name)
		}
	}
}

// TestCheckFindsAFileOfAnotherConfiguration: what it finds the service refuses.
func TestCheckFindsAFileOfAnotherConfiguration(t *testing.T) {
	const resource = `
  - {name: payments, kind: http, listen: {address: "127.0.0.1:8080"}, target: "https://payments.internal", attach: %s%s}
`
	for _, attach := range []string{"ext_proc", "ext_authz"} {
		dir := extproctest.Dir(t)
		c := parse(t, dir, fmt.Sprintf(resource, attach, ""))
		text, err := xds.Static(c)
		if err != nil {
			t.Fatal(err)
		}
		if problems := xds.CheckFileFor(c, "x", text); len(problems) > 0 {
			t.Errorf("%s: its own file: %v", attach, problems)
		}
		if problems := xds.CheckFileFor(parse(t, dir, fmt.Sprintf(resource, attach, ", timeout: 3s")), "x", text); len(problems) > 0 {
			t.Errorf("%s: a time-out: %v", attach, problems)
		}
		other := parse(t, dir, fmt.Sprintf(resource, attach, ", target_http2: true"))
		want(t, attach, xds.CheckFileFor(other, "x", text), 0, "made of another configuration")
		if problems := xds.CheckFile("x", text); len(problems) > 0 {
			t.Errorf("%s: by itself: %v", attach, problems)
		}
		written := strings.NewReplacer("- key: countersign-fingerprint", "- key: x-none", "fingerprint:", "none:").Replace(string(text))
		if problems := xds.CheckFileFor(other, "x", []byte(written)); len(problems) > 0 {
			t.Errorf("%s: without a fingerprint: %v", attach, problems)
		}
	}
}

// TestAnOldConnectionKeepsTheRoutesOfItsFilters: Envoy leaves connections with the filters that they began with. The routes of
// other filters turn off what these have, so with them a request on an old connection would be asked about by nobody.
func TestAnOldConnectionKeepsTheRoutesOfItsFilters(t *testing.T) {
	const before = `
  - {name: payments, kind: http, listen: {address: "%[1]s", host: payments.test}, target: "%[2]s", attach: %[3]s}
  - {name: other, kind: http, listen: {address: "%[1]s", host: other.test}, target: "%[2]s", attach: %[4]s}
`
	for _, c := range []struct{ from, to string }{{"ext_proc", "ext_authz"}, {"ext_authz", "ext_proc"}} {
		t.Run("from "+c.from, func(t *testing.T) {
			g := startGateway(t, strings.NewReplacer("%[3]s", c.from, "%[4]s", c.from).Replace(before))
			was, _ := config.Named[*config.HTTP](g.config, "payments")
			conn, err := net.Dial("tcp", g.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			answers := bufio.NewReader(conn)
			ask := func() *http.Response {
				t.Helper()
				if _, err := fmt.Fprint(conn, "GET /v1/payments HTTP/1.1\r\nHost: payments.test\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(answers, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := resp.Body.Close(); err != nil {
					t.Fatal(err)
				}
				return resp
			}
			ask()
			after := parse(t, filepath.Dir(g.config.File()), fmt.Sprintf(before, g.address, g.target.URL, c.to, c.from))
			if err := g.xds.Update(t.Context(), after); err != nil {
				t.Fatal(err)
			}
			if err := g.xds.Wait(within(t)); err != nil {
				t.Fatal(err)
			}
			now, _ := config.Named[*config.HTTP](after, "payments")
			extproctest.Await(t, "the new filters", 20*time.Second, func(context.Context) error {
				g.do(t, "GET", "/v1/payments", "payments.test", "")
				if a := g.last(t); a.by != c.to || a.carried != xds.Fingerprint(now) {
					return fmt.Errorf("a new connection is asked about as %+v", a)
				}
				return nil
			})

			n := g.count()
			g.target.Reset()
			resp := ask()
			if g.count() != n+1 || g.last(t).carried != xds.Fingerprint(was) || g.last(t).by != c.from {
				t.Errorf("an old connection was asked about %d times, at last as %+v; the target saw %d requests", g.count()-n, g.last(t), len(g.target.Requests()))
			}
			if !resp.Close {
				t.Error("Envoy goes on with the old connection")
			}
		})
	}
}

// TestARouteLeadsToItsOwnTarget: what was judged for one target does not go to another because a cluster has changed by the
// time that Envoy chooses it. So no two targets have a cluster of the same name, and an unchanged one keeps its.
func TestARouteLeadsToItsOwnTarget(t *testing.T) {
	dir := extproctest.Dir(t)
	roots, err := os.ReadFile(extproctest.NewAuthority(t).CAFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.pem", "b.pem"} {
		if err := os.WriteFile(filepath.Join(dir, name), roots, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	names := map[string]string{}
	for _, keys := range []string{
		`target: "https://a.internal"`,
		`target: "https://b.internal"`,
		`target: "https://a.internal", target_http2: true`,
		`target: "https://a.internal", target_tls: {server_name: other}`,
		`target: "https://a.internal", target_tls: {ca_file: ./a.pem}`,
		`target: "https://a.internal", target_tls: {ca_file: ./b.pem}`,
	} {
		c := parse(t, dir, fmt.Sprintf("\n  - {name: payments, kind: http, listen: {address: \"127.0.0.1:8080\"}, %s}\n", keys))
		for range 2 {
			made, err := xds.Resources(c, "1")
			if err != nil {
				t.Fatal(err)
			}
			for name := range made.GetResources(resource.ClusterType) {
				if other, twice := names[name]; twice && other != keys {
					t.Errorf("%s and %s are both cluster %s", keys, other, name)
				}
				names[name] = keys
			}
			config.Each[*config.HTTP](c)[0].Response, config.Each[*config.HTTP](c)[0].Attach = "pass", "ext_authz"
		}
	}
	if len(names) != 6 {
		t.Errorf("the clusters are %v", names)
	}
}
