package xds_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

// Envoy is the oracle: where the check says nothing the service sees every body and is told that it does, and where it says
// that bodies go unseen they do. Over HTTP/2 nothing else tells of them.
func TestCheckAgreesWithEnvoyOnBodies(t *testing.T) {
	const (
		settings = "                              check_settings:\n"
		filter   = "                      with_request_body:\n                        max_request_bytes: 1048576\n                        pack_as_bytes: true\n"
		route    = "                                with_request_body:\n                                  max_request_bytes: 1048576\n                                  pack_as_bytes: true\n"
		says     = "                                  body: whole\n"
		off      = settings + "                                disable_request_body_buffering: true\n"
		routes   = "                      routes:\n"
		perHost  = "                      typed_per_filter_config: {envoy.filters.http.ext_authz: {'@type': type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, check_settings: %s}}\n" + routes
	)
	g, made := byAuthz(t, "")
	made = unmeasured(t, made)
	replace := func(pairs ...string) string { return replaced(t, made, pairs...) }
	for _, c := range []struct {
		name        string
		text        string
		seen, whole bool   // the service saw the body; it was told that it does
		want        string // of the check
	}{
		{"as it is made", string(made), true, true, ""},
		{"the filter sends them", replace(route, ""), true, true, ""},
		{"nobody sends them", replace(filter, "", route, ""), false, true, "are not sent to countersign"},
		{"nobody sends them, and nobody says so", replace(filter, "", route, "", says, ""), false, false, "bodies go unseen"},
		{"the route turns them off", replace(route, "", settings, off), false, true, "are not sent to countersign"},
		{"nobody says so", replace(says, ""), true, false, "nothing tells countersign"},
		{"the virtual host says so", replace(says, "", routes, fmt.Sprintf(perHost, "{context_extensions: {body: whole}}")), true, true, ""},
		{"the virtual host says so, and the route turns them off", replace(says, "", route, "", settings, off, routes, fmt.Sprintf(perHost, "{context_extensions: {body: whole}}")), false, true, "are not sent to countersign"},
		{"the virtual host turns them off, and the route speaks of something else", replace(route, "", routes, fmt.Sprintf(perHost, "{disable_request_body_buffering: true}")), true, true, ""},
		{"the route says something else", replace(says, "                                  body: part\n", routes, fmt.Sprintf(perHost, "{context_extensions: {body: whole}}")), true, false, "nothing tells countersign"},
	} {
		t.Run(c.name, func(t *testing.T) {
			problems := xds.CheckFile("x", []byte(c.text))
			if c.want != "" {
				want(t, c.name, problems, 0, c.want)
			} else if len(problems) > 0 {
				t.Errorf("check says %v", problems)
			}
			envoy := extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: c.text})
			defer envoy.Stop()
			g.target.Reset()
			g.unframed(t)
			got := g.last(t)
			if seen := got.body == "hello"; seen != c.seen || got.whole != c.whole {
				t.Errorf("the service saw %q and was told that it sees bodies: %v; want seen %v, told %v", got.body, got.whole, c.seen, c.whole)
			}
			if all := g.target.Requests(); len(all) != 1 || string(all[0].Body) != "hello" {
				t.Errorf("the target saw %+v", all)
			}
		})
	}
}

// unframed sends a body over HTTP/2 of which no header field tells.
func (g *gateway) unframed(t *testing.T) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+g.address+"/", io.MultiReader(strings.NewReader("hello")))
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Transport{DisableKeepAlives: true, Protocols: protocols}
	resp, err := client.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
}

// unmeasured is a file without the filter that measures bodies, which hides what the others do.
func unmeasured(t *testing.T, made []byte) []byte {
	t.Helper()
	const measure = `                            envoy.filters.http.buffer:
                              '@type': type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute
                              buffer:
                                max_request_bytes: 1048576
`
	if !strings.Contains(string(made), measure) {
		t.Fatalf("no route measures bodies:\n%s", made)
	}
	return []byte(strings.Replace(string(made), measure, "", 1))
}

// byAuthz is a gateway with one resource that is attached by ext_authz, which more says more of, and Envoy's file for it.
func byAuthz(t *testing.T, more string) (g *gateway, file []byte) {
	t.Helper()
	target := extproctest.NewTarget(t, extproctest.TargetOptions{})
	address := extproctest.FreeAddress(t)
	c := parse(t, extproctest.Dir(t), fmt.Sprintf(`
  - {name: payments, kind: http, listen: {address: %q}, target: %q, attach: ext_authz%s}
`, address, target.URL, more))
	file, err := xds.Static(c)
	if err != nil {
		t.Fatal(err)
	}
	return &gateway{service: startService(t, c), target: target, config: c, address: address}, file
}

// replaced is file with each first of a pair replaced by the second, once.
func replaced(t *testing.T, file []byte, pairs ...string) string {
	t.Helper()
	text := string(file)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the file has no %q", pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}
