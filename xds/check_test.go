package xds_test

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

const checked = `
  - {name: payments, kind: http, listen: {address: "127.0.0.1:8080", host: payments.test}, target: "https://payments.internal"}
  - {name: authz, kind: http, listen: {address: "127.0.0.1:8080", host: authz.test}, target: "http://127.0.0.1:9000", attach: ext_authz}
`

// static is a file that nothing is wrong with.
func static(t *testing.T) string {
	t.Helper()
	text, err := xds.Static(parse(t, extproctest.Dir(t), checked))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func want(t *testing.T, name string, problems []xds.Problem, line int, part string) {
	t.Helper()
	for _, p := range problems {
		if strings.Contains(p.Message, part) {
			if line != 0 && p.Line != line {
				t.Errorf("%s: line %d, want %d: %v", name, p.Line, line, p)
			}
			return
		}
	}
	t.Errorf("%s: no problem says %q; there are %v", name, part, problems)
}

func TestCheckAcceptsWhatIsMade(t *testing.T) {
	for _, resources := range []string{
		checked,
		`
  - {name: countersign, kind: http, listen: {address: "127.0.0.1:8080"}, target: "https://[::1]:8443", upgrades: [websocket, connect], hold: 10m}
  - {name: v6, kind: http, listen: {address: "[::1]:8080", host: V6.test}, target: "https://v6.test", target_http2: true, body: stream, response: pass, timeout: 30s}
  - {name: big, kind: http, listen: {address: "127.0.0.1:8081"}, target: "http://localhost", attach: ext_authz, body: stream, limits: {headers: 1MiB}}
`,
		`
  - {name: plain, kind: http, listen: {address: "0.0.0.0:8080", insecure: true}, target: "http://192.0.2.1", target_insecure: true}
`,
	} {
		c := parse(t, extproctest.Dir(t), resources)
		for name, generate := range map[string]func() ([]byte, error){
			"static":    func() ([]byte, error) { return xds.Static(c) },
			"bootstrap": func() ([]byte, error) { return xds.Bootstrap(c) },
		} {
			text, err := generate()
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range xds.CheckFileFor(c, name, text) {
				t.Errorf("%v", p)
			}
			if err := extproctest.ValidateEnvoy(t, extproctest.EnvoyConfig{Bootstrap: string(text)}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestCheckReadsEverySpellingOfAFile(t *testing.T) {
	text := static(t)
	var tree any
	if err := yaml.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatal(err)
	}
	tabs, err := json.MarshalIndent(tree, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	for name, same := range map[string]string{
		"JSON with tabs": string(tabs),
		"anchors": strings.Replace(strings.Replace(text, "code: ServiceUnavailable", "code: &down ServiceUnavailable", 1),
			"code: ServiceUnavailable", "code: *down", 1),
		"the other names of fields": strings.ReplaceAll(strings.ReplaceAll(text, "http_filters:", "httpFilters:"), "envoy_grpc:", "envoyGrpc:"),
	} {
		for _, p := range xds.CheckFile(name, []byte(same)) {
			t.Errorf("%v", p)
		}
	}
	broken := strings.ReplaceAll(strings.Replace(text, "failure_mode_allow: false", "failureModeAllow: true", 1), "http_filters:", "httpFilters:")
	want(t, "the other names of fields", xds.CheckFile("x", []byte(broken)), lineOf(t, broken, "failureModeAllow: true"), "failure_mode_allow")
}

func lineOf(t *testing.T, text, part string) int {
	t.Helper()
	before, _, ok := strings.Cut(text, part)
	if !ok {
		t.Fatalf("no %q in the text", part)
	}
	return 1 + strings.Count(before, "\n")
}

func TestCheckReportsWhatLeadsAround(t *testing.T) {
	const hcm = `type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`
	for _, c := range []struct{ name, from, to, want string }{
		{
			"a second listener passes TCP through", "\n  clusters:\n    - name: countersign\n", `
    - name: door
      address: {socket_address: {address: 127.0.0.1, port_value: 9999}}
      filter_chains:
        - filters:
            - name: tcp
              typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, cluster: target/payments}
  clusters:
    - name: countersign
`, `tcp_proxy to "target/payments"`,
		},
		{
			"a second listener leads to our own services", "\n  clusters:\n    - name: countersign\n", `
    - name: door
      address: {socket_address: {address: 127.0.0.1, port_value: 9999}}
      filter_chains:
        - filters:
            - name: tcp
              typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, cluster: countersign}
  clusters:
    - name: countersign
`, `tcp_proxy to "countersign" leads agents to countersign's own services`,
		},
		{
			"a second listener has an HTTP connection manager without a filter", "\n  clusters:\n    - name: countersign\n", `
    - name: door
      address: {socket_address: {address: 127.0.0.1, port_value: 9999}}
      default_filter_chain:
        filters:
          - name: http
            typed_config:
              "@type": ` + hcm + `
              stat_prefix: x
              route_config: {virtual_hosts: [{name: x, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: target/payments}}]}]}
              http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters:
    - name: countersign
`, "no filter asks countersign",
		},
		{
			"a second listener speaks redis", "\n  clusters:\n    - name: countersign\n", `
    - name: door
      address: {socket_address: {address: 127.0.0.1, port_value: 9999}}
      filter_chains:
        - filters:
            - {name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}
  clusters:
    - name: countersign
`, "connections that countersign does not see",
		},
		{
			"a filter after the decision", "                  - name: envoy.filters.http.router", `                  - name: lua
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}
                  - name: envoy.filters.http.router`, "comes after the decision",
		},
		{
			"a cache before the decision", "                  - name: envoy.filters.http.ext_proc\n", `                  - name: cache
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cache.v3.CacheConfig}
                  - name: envoy.filters.http.ext_proc
`, "before countersign is asked",
		},
		{
			"a filter that comes from elsewhere", "                  - name: envoy.filters.http.router", `                  - name: later
                    config_discovery: {config_source: {ads: {}}, type_urls: ["x"]}
                  - name: envoy.filters.http.router`, "config_discovery",
		},
		{"an upgrade with filters of its own", "                stat_prefix: agents\n", "                stat_prefix: agents\n                upgrade_configs: [{upgrade_type: websocket, filters: [{name: r, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}]\n", "filters of its own"},
		{"a virtual host turns retries on", "                    - name: payments\n", "                    - name: payments\n                      retry_policy: {retry_on: reset}\n", "decision is for one execution"},
		{"HTTP/1.1 to the service", "            http2_protocol_options:\n              max_concurrent_streams: 1024\n              initial_stream_window_size: 262144\n              initial_connection_window_size: 67108864\n", "            http_protocol_options: {}\n", "gRPC needs HTTP/2"},
		{"any name in the target's certificate", "              match_typed_subject_alt_names:\n                - san_type: DNS\n                  matcher:\n                    exact: payments.internal\n", "", "any name is taken"},
		{"a tag that Envoy skips", "code: ServiceUnavailable", "code: !ignore ServiceUnavailable", "hides a value"},
		{"a second document", "\nadmin:", "\n---\nadmin:", "second document"},
		{"a runtime key of a check", "encode_raw_headers: true", "encode_raw_headers: true\n                      filter_enabled_metadata: {filter: x, path: [{key: y}], value: {present_match: true}}", "without a decision"},
	} {
		text := static(t)
		if !strings.Contains(text, c.from) {
			t.Errorf("%s: the file has no %q", c.name, c.from)
			continue
		}
		want(t, c.name, xds.CheckFile("x", []byte(strings.Replace(text, c.from, c.to, 1))), 0, c.want)
	}
}

func TestCheckReportsWhatComesFromElsewhere(t *testing.T) {
	text := handwritten("", "", `{"@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, overrides: {grpc_initial_metadata: [{key: countersign-resource, value: x}]}}`, "")
	head, _, _ := strings.Cut(text, "                route_config:")
	for _, c := range []struct{ name, text, want string }{
		{"nothing", text, ""},
		{"routes by ADS", head + "                rds: {route_config_name: x, config_source: {ads: {}}}\n", ""},
		{"routes from a file", head + "                rds: {route_config_name: x, config_source: {path_config_source: {path: /x}}}\n", "routes come from elsewhere"},
		{"clusters from a file", text + "dynamic_resources: {cds_config: {path_config_source: {path: /x}}}\n", "clusters come from elsewhere"},
		{"an admin interface for all", text + "admin: {address: {socket_address: {address: 0.0.0.0, port_value: 9901}}}\n", "admin interface"},
		{"an admin interface for this machine", text + "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}\n", ""},
		{"the service across the network in the clear", strings.Replace(text, "pipe: {path: /tmp/x}", "socket_address: {address: 192.0.2.1, port_value: 9}", 1), "in the clear"},
		{"agents across the network in the clear", strings.Replace(text, "address: 127.0.0.1, port_value: 10000", "address: 0.0.0.0, port_value: 10000", 1), "agents' tokens"},
		{"a target across the network in the clear", strings.Replace(text, "address: 127.0.0.1, port_value: 9999", "address: 192.0.2.1, port_value: 9999", 1), "the target's credential"},
	} {
		problems := xds.CheckFile("x", []byte(c.text))
		if c.want != "" {
			want(t, c.name, problems, 0, c.want)
		} else if len(problems) > 0 {
			t.Errorf("%s: %v", c.name, problems)
		}
	}
}

// Where a listener has both filters, a route that turns its own off has none left.
func TestCheckCountsBothFilters(t *testing.T) {
	text := static(t)
	before, rest, _ := strings.Cut(text, "                              overrides:\n")
	_, after, _ := strings.Cut(rest, "- key: countersign-fingerprint\n")
	_, after, _ = strings.Cut(after, "\n")
	want(t, "both off", xds.CheckFile("x", []byte(before+"                              disabled: true\n"+after)), 0, "every filter that asks countersign is turned off")
}

// Envoy is the oracle: what the check says is guarded, real Envoy does not let through unasked, and what it says is turned
// off, real Envoy does.
func TestCheckAgreesWithEnvoyOnOverrides(t *testing.T) {
	const (
		off     = `{"@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, disabled: true}`
		named   = `{"@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, overrides: {grpc_initial_metadata: [{key: Countersign-Resource, value: payments}]}}`
		other   = `{"@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, overrides: {grpc_initial_metadata: [{key: countersign-resource, value: other}]}}`
		posing  = `{"@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, overrides: {grpc_initial_metadata: [{key: countersign-resource, value: payments}, {key: countersign-peer, value: "192.0.2.1:7"}]}}`
		none    = `{"@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, overrides: {processing_mode: {request_body_mode: FULL_DUPLEX_STREAMED, request_trailer_mode: SEND, response_header_mode: SKIP}}}`
		wrapped = `{"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}`
		within  = `{"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: ` + off + `}`
		wrapper = `{"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: ` + named + `}`
	)
	target := extproctest.NewTarget(t, extproctest.TargetOptions{})
	c := parse(t, extproctest.Dir(t), fmt.Sprintf(`
  - {name: payments, kind: http, listen: {address: "127.0.0.1:8080"}, target: %q}
`, target.URL))
	g := &gateway{service: startService(t, c), target: target, config: c}
	for _, c := range []struct{ name, table, host, route, cluster, resource, want string }{
		{"the route names it", "", "", named, "", "payments", ""},
		{"the route names the peer too", "", "", posing, "", "payments", "who connected"},
		{"the route names it in a wrapper", "", "", wrapper, "", "payments", ""},
		{"the virtual host names it", "", named, "", "", "payments", ""},
		{"the route configuration names it", named, "", "", "", "payments", ""},
		{"the inner name counts", "", other, named, "", "payments", ""},
		{"the outer name stays", "", named, none, "", "payments", ""},
		{"nobody names it", "", "", none, "", "", "names no resource"},
		{"nobody speaks of it", "", "", "", "", "", "names no resource"},
		{"the route turns it off", "", named, off, "", "unasked", "turned off"},
		{"the route turns it off with a wrapper", "", named, wrapped, "", "unasked", "turned off"},
		{"the route turns it off within a wrapper", "", named, within, "", "unasked", "turned off"},
		{"the virtual host turns it off", named, off, "", "", "unasked", "turned off"},
		{"the virtual host turns it off with a wrapper", named, wrapped, "", "", "unasked", "turned off"},
		{"the route turns it on again", "", off, named, "", "payments", ""},
		{"the route turns it on again after a wrapper", "", wrapped, named, "", "payments", ""},
		{"a weighted cluster turns it off", "", "", named, off, "unasked", "turned off"},
		{"a weighted cluster turns it off with a wrapper", "", "", named, wrapped, "unasked", "turned off"},
		{"a weighted cluster names it", "", "", "", named, "payments", ""},
	} {
		g.address = extproctest.FreeAddress(t)
		text := handwritten(c.table, c.host, c.route, c.cluster)
		if problems := xds.CheckFile("x", []byte(text)); c.want != "" {
			want(t, c.name, problems, 0, c.want)
		} else if len(problems) > 0 {
			t.Errorf("%s: %v", c.name, problems)
		}
		if got := g.through(t, text); got != c.resource {
			t.Errorf("%s: Envoy asked for resource %q, want %q", c.name, got, c.resource)
		}
	}
}

// through sends a request through an Envoy of its own and returns the resource that the service was asked for.
func (g *gateway) through(t *testing.T, bootstrap string) string {
	t.Helper()
	socket, _ := g.config.Listen.Envoy.Unix()
	_, from, _ := net.SplitHostPort(g.address)
	_, to, _ := net.SplitHostPort(g.target.Address)
	envoy := extproctest.StartEnvoy(t, extproctest.EnvoyConfig{
		Bootstrap: strings.NewReplacer("/tmp/x", socket, "port_value: 10000", "port_value: "+from, "port_value: 9999", "port_value: "+to).Replace(bootstrap),
	})
	defer envoy.Stop()
	before := g.count()
	g.target.Reset()
	got := g.do(t, "GET", "/", "x.test", "")
	if asked := g.count() > before; !asked && len(g.target.Requests()) > 0 {
		return "unasked"
	} else if !asked {
		t.Fatalf("neither asked nor let through: %d %s", got.status, got.body)
	}
	return g.last(t).resource
}

// What tells Envoy how an agent is connected must not be the agent.
func TestCheckOfSchemes(t *testing.T) {
	text := static(t)
	overwrite := "scheme_header_transformation:\n                  scheme_to_overwrite: http\n"
	if !strings.Contains(text, overwrite) {
		t.Fatalf("no scheme is overwritten in\n%s", text)
	}
	const believing = `original_ip_detection_extensions:
                  - name: xff
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.http.original_ip_detection.xff.v3.XffConfig, xff_num_trusted_hops: 1}
`
	detected := strings.Replace(text, "use_remote_address: true\n", believing, 1)
	for name, file := range map[string]string{
		"detected by an extension, and overwritten": detected,
		"not overwritten, and seen by Envoy":        strings.Replace(text, overwrite, "stream_error_on_invalid_http_message: true\n", 1),
		"behind a proxy that ends TLS":              strings.Replace(text, "scheme_to_overwrite: http\n", "scheme_to_overwrite: https\n                xff_num_trusted_hops: 1\n", 1),
	} {
		for _, p := range xds.CheckFile(name, []byte(file)) {
			if strings.Contains(p.Message, "scheme") {
				t.Errorf("%s: %v", name, p)
			}
		}
	}
	want(t, "detected by an extension", xds.CheckFile("x", []byte(strings.Replace(detected, overwrite, "stream_error_on_invalid_http_message: true\n", 1))), 0, "believes the X-Forwarded-Proto")
	want(t, "said to be encrypted", xds.CheckFile("x", []byte(strings.Replace(text, "scheme_to_overwrite: http\n", "scheme_to_overwrite: https\n", 1))), 0, "agents connect by http")
	want(t, "of the target", xds.CheckFile("x", []byte(strings.Replace(text, "scheme_to_overwrite: http\n", "match_upstream: true\n", 1))), 0, "another scheme than was judged")
}

// handwritten is as small as a file can be, with what each level says of ext_proc.
func handwritten(table, host, route, cluster string) string {
	level := func(s string) string {
		if s == "" {
			return "{}"
		}
		return "{ext: " + s + "}"
	}
	return fmt.Sprintf(`
static_resources:
  clusters:
    - name: target
      load_assignment: {cluster_name: target, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9999}}}}]}]}
    - name: countersign
      load_assignment: {cluster_name: countersign, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /tmp/x}}}}]}]}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
  listeners:
    - name: l
      address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
      filter_chains:
        - filters:
            - name: http
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: x
                use_remote_address: true
                access_log:
                  - name: log
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig
                      common_config: {log_name: x, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: countersign}}}
                early_header_mutation_extensions:
                  - name: early
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
                      mutations: [{remove_on_match: {key_matcher: {prefix: x-envoy-}}}]
                http_filters:
                  - name: ext
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
                      grpc_service: {envoy_grpc: {cluster_name: countersign}}
                      message_timeout: 60s
                      request_attributes: [source.address]
                      response_attributes: [response.code_details]
                      metadata_options: {receiving_namespaces: {untyped: [countersign]}}
                      processing_mode:
                        {request_body_mode: FULL_DUPLEX_STREAMED, request_trailer_mode: SEND, response_header_mode: SKIP}
                  - name: router
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
                route_config:
                  typed_per_filter_config: %s
                  virtual_hosts:
                    - name: h
                      domains: ["*"]
                      typed_per_filter_config: %s
                      routes:
                        - match: {prefix: /}
                          typed_per_filter_config: %s
                          route: {weighted_clusters: {clusters: [{name: target, weight: 1, typed_per_filter_config: %s}]}}
`, level(table), level(host), level(route), level(cluster))
}

func TestCheckForAConfigurationKnowsItsResources(t *testing.T) {
	c := parse(t, extproctest.Dir(t), checked)
	made, err := xds.Static(c)
	if err != nil {
		t.Fatal(err)
	}
	text := string(made)
	renamed := strings.Replace(text, "value: payments", "value: refunds", 1)
	want(t, "another resource", xds.CheckFileFor(c, "x", []byte(renamed)), 0, `"refunds" is not in`)
	swapped := strings.Replace(text, "resource: authz", "resource: payments", 1)
	want(t, "another attachment", xds.CheckFileFor(c, "x", []byte(swapped)), 0, "attached by ext_authz here")
	c.Approvals.Hold *= 10
	want(t, "a longer hold", xds.CheckFileFor(c, "x", []byte(text)), lineOf(t, text, "message_timeout: 60s"), "message_timeout is 1m0s")
	c.Approvals.Hold /= 10
	config.Each[*config.HTTP](c)[0].Body, config.Each[*config.HTTP](c)[1].Body = "inspect", "inspect"
	streamed := strings.Replace(text, "context_extensions:", "disable_request_body_buffering: true\n                                context_extensions:", 1)
	streamed = strings.Replace(streamed, "                                with_request_body:\n                                  max_request_bytes: 1048576\n                                  pack_as_bytes: true\n", "", 1)
	passed := strings.Replace(text, "response_body_mode: FULL_DUPLEX_STREAMED", "response_body_mode: NONE", 1)
	want(t, "answers do not come by", xds.CheckFileFor(c, "x", []byte(passed)), 0, "could not be redacted")
	unsaid := strings.Replace(text, "                                processing_mode:\n", "                                async_mode: false\n                                x:\n", 1)
	_, rest, _ := strings.Cut(unsaid, "                                x:\n")
	_, after, _ := strings.Cut(rest, "grpc_initial_metadata")
	before, _, _ := strings.Cut(unsaid, "                                x:\n")
	want(t, "a route does not say that answers come by", xds.CheckFileFor(c, "x", []byte(before+"                                grpc_initial_metadata"+after)), 0, "could not be redacted")
	want(t, "a body is hidden", xds.CheckFileFor(c, "x", []byte(streamed)), 0, "inspects bodies")
}

// Where answers do not come by countersign, a file of a team's own has to keep the target's cookies from agents.
func TestCheckReportsCookies(t *testing.T) {
	const resources = `
  - {name: authz, kind: http, listen: {address: "127.0.0.1:8080", host: authz.test}, target: "http://127.0.0.1:9000", attach: ext_authz}
  - {name: pass, kind: http, listen: {address: "127.0.0.1:8080", host: pass.test}, target: "http://127.0.0.1:9000", response: pass}
`
	c := parse(t, extproctest.Dir(t), resources)
	open := parse(t, extproctest.Dir(t), strings.ReplaceAll(strings.ReplaceAll(resources, "ext_authz}", "ext_authz, cookies: pass}"), "response: pass}", "response: pass, cookies: pass}"))
	made, err := xds.Static(c)
	if err != nil {
		t.Fatal(err)
	}
	text := string(made)
	inHead, inTrailers := "                          response_headers_to_remove:\n                            - set-cookie\n", "remove: set-cookie\n"
	if n := strings.Count(text, inHead); n != 2 || strings.Count(text, inTrailers) != 2 {
		t.Fatalf("the file removes them %d times:\n%s", n, text)
	}
	if problems := xds.CheckFileFor(c, "x", made); len(problems) > 0 {
		t.Errorf("as it is made: %v", problems)
	}
	for _, r := range []struct {
		name string
		cut  func(string, string) string // of two
	}{
		{"authz", func(s, part string) string {
			return strings.Replace(s, part, strings.Replace(part, "set-cookie", "x-other", 1), 1)
		}},
		{"pass", func(s, part string) string {
			i := strings.LastIndex(s, part)
			return s[:i] + strings.Replace(s[i:], part, strings.Replace(part, "set-cookie", "x-other", 1), 1)
		}},
	} {
		head, trailers := r.cut(text, inHead), r.cut(text, inTrailers)
		want(t, r.name+", in the head", xds.CheckFileFor(c, "x", []byte(head)), 0, fmt.Sprintf("cookies reach agents of resource %q, whose", r.name))
		want(t, r.name+", in trailers", xds.CheckFileFor(c, "x", []byte(trailers)), 0, fmt.Sprintf("cookies reach agents of resource %q in trailers", r.name))
		for _, p := range xds.CheckFileFor(open, "x", []byte(head)) {
			if strings.Contains(p.Message, "cookies reach agents") {
				t.Errorf("where cookies pass: %v", p)
			}
		}
		outer := strings.Replace(head, "- server\n", "- Set-Cookie\n", 1)
		if problems := xds.CheckFileFor(c, "x", []byte(outer)); len(problems) > 0 {
			t.Errorf("%s, where the route configuration removes them: %v", r.name, problems)
		}
	}
}

// FuzzCheck: nothing panics, and a file that passes is one that we can read again with the same result.
func FuzzCheck(f *testing.F) {
	f.Add([]byte(handwritten("", "", "", "")))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("static_resources: {clusters: [{name: \"\\xff\"}]}"))
	f.Add([]byte("{\"admin\":\t{}}"))
	f.Add([]byte("? [a]\n: b"))
	f.Add([]byte("a: .inf\nb: 0x10\nc: 2001-01-01\nd: !!binary aGk="))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, p := range xds.CheckFile("x", text) {
			if p.Message == "" || p.Line < 0 || p.Line > 1+strings.Count(string(text), "\n") {
				t.Errorf("problem %+v of %q", p, text)
			}
		}
	})
}

// TestCheckOfTargets: a cluster is its resource's target, by address and by name, the access log tells which resource a request was
// for, and methods that Envoy does not know reach the service.
func TestCheckOfTargets(t *testing.T) {
	c := parse(t, extproctest.Dir(t), `
  - {name: payments, kind: http, listen: {address: "127.0.0.1:8080", host: payments.test}, target: "https://payments.internal:8443", methods: [BAKE]}
  - {name: numbered, kind: http, listen: {address: "127.0.0.1:8080", host: numbered.test}, target: "https://192.0.2.1", target_tls: {server_name: other.test}}
  - {name: plain, kind: http, listen: {address: "127.0.0.1:8080", host: plain.test}, target: "http://127.0.0.1:9321"}
`)
	made, err := xds.Static(c)
	if err != nil {
		t.Fatal(err)
	}
	if problems := xds.CheckFileFor(c, "x", made); len(problems) > 0 {
		t.Errorf("our own file: %v", problems)
	}
	plain := "type: STATIC\n      connect_timeout: 5s\n      per_connection_buffer_limit_bytes: 131072\n      load_assignment:\n        cluster_name: target/plain\n        endpoints:\n" +
		"          - lb_endpoints:\n              - endpoint:\n                  address:\n                    socket_address:\n                      address: 127.0.0.1\n                      port_value: 9321\n"
	fromElsewhere := `type: EDS
      eds_cluster_config: {eds_config: {path_config_source: {path: /tmp/x}}}
      transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: x.test, common_tls_context: {validation_context: {system_root_certs: {}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: x.test}}]}}}}
`
	for _, f := range []struct{ old, text, want string }{
		{plain, fromElsewhere, "\"target/plain\" does not say that it leads to the target of resource \"plain\""},
		{"address: payments.internal", "address: elsewhere.internal", `"target/payments" leads to another place than the target of resource "payments"`},
		{"port_value: 8443", "port_value: 443", "address: payments.internal and port_value: 8443"},
		{"address: 192.0.2.1", "address: 192.0.2.2", "address: 192.0.2.1 and port_value: 443"},
		{"sni: payments.internal", "sni: elsewhere.internal", "sni: payments.internal"},
		{"exact: other.test", "exact: another.test", "sni: other.test"},
		{"exact: other.test", "prefix: other.test", "sni: other.test"},
		{"name: payments\n                          ", "", "write name: payments"},
		{"allow_custom_methods: true", "allow_custom_methods: false", "takes BAKE, which Envoy refuses by itself"},
	} {
		want(t, f.text, xds.CheckFileFor(c, "x", []byte(replaced(t, made, f.old, f.text))), 0, f.want)
	}
}
