package xds_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

// Envoy is the oracle: where the check says nothing the target of ext_authz gets no trailers, and where it says that they go
// unseen the target gets them.
func TestCheckAgreesWithEnvoyOnTrailers(t *testing.T) {
	const (
		filter  = "                  - name: envoy.filters.http.header_mutation\n"
		config  = "                      '@type': type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation\n"
		route   = "                            envoy.filters.http.header_mutation:\n                              '@type': type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute\n"
		removes = "{request_trailers_mutations: [{remove_on_match: {key_matcher: {safe_regex: {regex: '.*'}}}}]}"
		perHost = "typed_per_filter_config: {envoy.filters.http.header_mutation: {'@type': type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute, mutations: " + removes + "}}"
	)
	g, made := byAuthz(t, ", cookies: pass")
	made = unmeasured(t, made)
	replace := func(pairs ...string) string { return replaced(t, made, pairs...) }
	unsaid := []string{"request_trailers_mutations:", "response_trailers_mutations:"}
	host := "                      routes:\n"
	for _, c := range []struct {
		name   string
		text   string
		passes bool
	}{
		{"as it is made", string(made), false},
		{"nobody removes them", replace(unsaid...), true},
		{"some are removed", replace("regex: .*", "regex: x-other.*"), true},
		{"the filter removes them", replace(append(unsaid, config, config+"                      mutations: "+removes+"\n")...), false},
		{"the virtual host has them removed", replace(append(unsaid, host, "                      "+perHost+"\n"+host)...), false},
		{"the route turns a filter on that is off", replace(filter, filter+"                    disabled: true\n"), false},
		{"the filter removes them, is off, and no route turns it on", replace(
			config, config+"                      mutations: "+removes+"\n                    disabled: true\n",
			route, "                            envoy.filters.http.header_mutation:\n                              '@type': type.googleapis.com/envoy.config.route.v3.FilterConfig\n                              disabled: true\n                            other:\n"+strings.SplitN(route, "\n", 2)[1]), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			told := false
			for _, p := range xds.CheckFile("x", []byte(c.text)) {
				if told = told || strings.Contains(p.Message, "does not show the trailers"); !told {
					t.Error(p)
				}
			}
			envoy := extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: c.text})
			defer envoy.Stop()
			g.target.Reset()
			g.trailers(t)
			seen := g.target.Requests()
			if len(seen) != 1 {
				t.Fatalf("the target saw %d requests", len(seen))
			}
			if passes := len(seen[0].Trailer) > 0; passes != c.passes || told != c.passes {
				t.Errorf("trailers pass: %v, want %v; the check says so: %v", passes, c.passes, told)
			}
		})
	}
}

// trailers sends a request that has one.
func (g *gateway) trailers(t *testing.T) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+g.address+"/", io.MultiReader(strings.NewReader("hello")))
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Sum": {"7"}}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
}
