package xds_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

// Envoy is the oracle: where the check says that a file gives out the target's credential, real Envoy does, in an answer or
// in a log; and where it says nothing, Envoy does not.
func TestCheckAgreesWithEnvoyOnCredentials(t *testing.T) {
	const (
		add     = `response_headers_to_add: [{header: {key: x-echo, value: "%s"}}]`
		host    = "                    - name: payments\n"
		route   = "                        - name: payments\n"
		table   = "                route_config:\n"
		logs    = "                access_log:\n"
		filters = "                http_filters:\n"
	)
	dir := extproctest.Dir(t)
	log := filepath.Join(dir, "access.log")
	g, made := byAuthz(t, "")
	behind := func(indent int, after, text string) string {
		at := string(made)
		if !strings.Contains(at, after) {
			t.Fatalf("the file has no %q:\n%s", after, at)
		}
		return strings.Replace(at, after, after+strings.Repeat(" ", indent)+text+"\n", 1)
	}
	mutation := "- {name: more, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation, mutations: {response_mutations: [{append: {header: {key: x-echo, value: \"%s\"}}}]}}}"
	lua := "- {name: lua, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, default_source_code: {inline_string: \"%s\"}}}"
	file := "- {name: file, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: " + log + ", log_format: %s}}"
	for _, c := range []struct{ name, text, want string }{
		{"as it is made", string(made), ""},
		{"the route configuration", behind(18, table, fmt.Sprintf(add, "%REQ(authorization)%")), "gives out the header field"},
		{"the virtual host", behind(22, host, fmt.Sprintf(add, "%REQ(Authorization)%")), "gives out the header field"},
		{"the route", behind(26, route, fmt.Sprintf(add, "%REQ(x-none?authorization)%")), "gives out the header field"},
		{"a few letters of it", behind(22, host, fmt.Sprintf(add, "%REQ(authorization):12%")), "gives out the header field"},
		{"the newer name of it", behind(22, host, fmt.Sprintf(add, "%REQUEST_HEADER(authorization)%")), "gives out the header field"},
		{"another header field", behind(22, host, fmt.Sprintf(add, "%REQ(x-request-id)%")), ""},
		{"text that only looks like it", behind(22, host, fmt.Sprintf(add, "%%REQ(authorization)%%")), "gives out the header field"},
		{"a filter that changes answers", behind(18, filters, fmt.Sprintf(mutation, "%REQ(authorization)%")), "gives out the header field"},
		{"a filter that adds something else", behind(18, filters, fmt.Sprintf(mutation, "%REQ(:path)%")), ""},
		{"code", behind(18, filters, fmt.Sprintf(lua, "function envoy_on_response(h) h:headers():add('x-lua', '1') end")), "code that the check cannot see into"},
		{"a log as text", behind(18, logs, fmt.Sprintf(file, "{text_format_source: {inline_string: \"%REQ(AUTHORIZATION)%\\n\"}}")), "gives out the header field"},
		{"a log as JSON", behind(18, logs, fmt.Sprintf(file, "{json_format: {a: {b: [\"%REQ(authorization)%\"]}}}")), "gives out the header field"},
		{"a log of something else", behind(18, logs, fmt.Sprintf(file, "{json_format: {a: \"%REQ(:path)% %RESPONSE_CODE%\"}}")), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			problems := xds.CheckFile("x", []byte(c.text))
			if c.want != "" {
				want(t, c.name, problems, 0, c.want)
			} else if len(problems) > 0 {
				t.Errorf("check says %v", problems)
			}
			if err := os.RemoveAll(log); err != nil {
				t.Fatal(err)
			}
			envoy := extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: c.text})
			got := g.do(t, "GET", "/v1/payments/7", "payments.test", "", "Authorization: Bearer agent")
			envoy.Stop() // writes what it has
			text, err := os.ReadFile(log)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			said := fmt.Sprint(got.header) + got.body + string(text)
			const doubled, code = "text that only looks like it", "code" // refused for what they look like, or may do
			if gives := strings.Contains(said, "Bearer targ"); gives != (c.want != "") && c.name != doubled && c.name != code {
				t.Errorf("Envoy gives out the credential: %v\n%d %s", gives, got.status, said)
			}
			if got.status != 200 {
				t.Errorf("answer %d %s", got.status, got.body)
			}
		})
	}
}

func TestCheckReportsWhoElseCouldReadTheCredential(t *testing.T) {
	made := static(t)
	for _, c := range []struct{ name, from, to, want string }{
		{"a reply of Envoy's own", "                  mappers:\n", "                  body_format: {text_format_source: {inline_string: \"%REQ(authorization)%\"}}\n                  mappers:\n", "gives out the header field"},
		{"our own log", "                      common_config:\n", "                      additional_request_headers_to_log: [cookie]\n                      common_config:\n", "gives out the header field"},
		{"a trace", "                stat_prefix: agents\n", "                stat_prefix: agents\n                tracing: {custom_tags: [{tag: x, request_header: {name: authorization}}]}\n", "gives out the header field"},
		{"a rate limit service", "                            cluster: target/payments\n", "                            cluster: target/payments\n                            rate_limits: [{actions: [{request_headers: {header_name: x-api-key, descriptor_key: x}}]}]\n", "gives out the header field"},
		{"a redirect", "                      routes:\n", "                      routes:\n                        - {match: {path: /x}, redirect: {path_redirect: \"/%REQ(authorization)%\"}}\n", "gives out the header field"},
		{"an expression", "                    - name: payments\n", "                    - name: payments\n                      response_headers_to_add: [{header: {key: x, value: \"%CEL(request.headers['authorization'])%\"}}]\n", "cannot be checked"},
		{"a file", "                    - name: payments\n", "                    - name: payments\n                      response_headers_to_add: [{header: {key: x, value: \"%FILE_CONTENT(/secrets/payments)%\"}}]\n", "cannot be checked"},
		{"a tap", "                http_filters:\n", "                http_filters:\n                  - {name: tap, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.tap.v3.Tap, common_config: {admin_config: {config_id: x}}}}\n", "a tap copies requests"},
		{"a filter of the target's cluster", "    - name: target/payments\n", "    - name: target/payments\n      filters: [{name: x}]\n", "filters of a cluster"},
		{"another upstream", "    - name: target/payments\n", "    - name: target/payments\n      upstream_config: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.tcp.v3.TcpConnectionPoolProto}}\n", "upstream_config changes"},
	} {
		if !strings.Contains(made, c.from) {
			t.Errorf("%s: the file has no %q", c.name, c.from)
			continue
		}
		want(t, c.name, xds.CheckFile("x", []byte(strings.Replace(made, c.from, c.to, 1))), 0, c.want)
	}
	// A header of another name is a credential where the configuration says so.
	dir := extproctest.Dir(t)
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := parse(t, dir, strings.Replace(checked, `target: "https://payments.internal"`, `target: "https://payments.internal", credential: {header: x-tenant, value_file: ./token}`, 1))
	text := strings.Replace(made, "                    - name: payments\n", "                    - name: payments\n                      response_headers_to_add: [{header: {key: x, value: \"%REQ(X-Tenant)%\"}}]\n", 1)
	want(t, "a header field of the configuration's", xds.CheckFileFor(c, "x", []byte(text)), 0, "gives out the header field")
	for _, p := range xds.CheckFile("x", []byte(text)) {
		t.Errorf("without the configuration: %v", p)
	}
}

// TestCheckWantsOneService: who decides is countersign and nobody else, whatever Envoy has to choose between.
func TestCheckWantsOneService(t *testing.T) {
	made := static(t)
	const (
		name     = "    - name: countersign\n"
		endpoint = "          - lb_endpoints:\n              - endpoint:\n                  address:\n                    pipe:\n"
		another  = "{endpoint: {address: {pipe: {path: /tmp/other}}}}"
	)
	for _, c := range []struct{ name, from, to, want string }{
		{"a second endpoint", endpoint, "          - lb_endpoints:\n              - " + another + "\n              - endpoint:\n                  address:\n                    pipe:\n", "not exactly one endpoint"},
		{"a second locality, for when the first fails", endpoint, "          - {priority: 1, lb_endpoints: [" + another + "]}\n" + endpoint, "not exactly one endpoint"},
		{"no endpoint", endpoint, "          - locality: {zone: x}\n            metadata:\n              filter_metadata:\n                x:\n", "not exactly one endpoint"},
		{"another address of the endpoint", endpoint, strings.Replace(endpoint, "                  address:\n", "                  additional_addresses: [{address: {pipe: {path: /tmp/other}}}]\n                  address:\n", 1), "additional_addresses can lead"},
		{"endpoints from elsewhere", "      type: STATIC\n", "      type: EDS\n      eds_cluster_config: {eds_config: {path_config_source: {path: /tmp/x}}}\n", "come from elsewhere"},
		{"the address that the client wanted", "      type: STATIC\n", "      type: ORIGINAL_DST\n", "come from elsewhere"},
		{"an aggregate", "      type: STATIC\n", "      cluster_type: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig, clusters: [target/payments]}}\n", "cluster_type can lead"},
		{"subsets", name, name + "      lb_subset_config: {fallback_policy: ANY_ENDPOINT}\n", "lb_subset_config can lead"},
		{"a load balancer", name, name + "      load_balancing_policy: {policies: [{typed_extension_config: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random}}}]}\n", "load_balancing_policy can lead"},
		{"a socket for some", name, name + "      transport_socket_matches: [{name: x, match: {}, transport_socket: {name: raw, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}]\n", "transport_socket_matches can lead"},
		{"another upstream", name, name + "      upstream_config: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.tcp.v3.TcpConnectionPoolProto}}\n", "upstream_config can lead"},
		{"a name that something resolves", "                    pipe:\n", "                    socket_address: {address: localhost, named_port: x}\n                  hostname: x\n                  health_check_config:\n                    address:\n                      pipe:\n  ", "named_port can lead"},
		{"a socket that is not TLS", "                    pipe:\n", "                    socket_address: {address: 192.0.2.1, port_value: 9}\n                  health_check_config:\n                    address:\n                      pipe:\n  ", "in the clear"},
		{"a cluster beside it", "    - name: target/payments\n", "    - name: countersign-more\n      load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [" + another + ", " + another + "]}]}\n    - name: target/payments\n", `"countersign-more" has not exactly one endpoint`},
		{"a service that is asked for seconds only", "                          cluster_name: countersign\n                        initial_metadata:\n", "                          cluster_name: countersign\n                        timeout: 3s\n                        initial_metadata:\n", "cuts them off"},
	} {
		if !strings.Contains(made, c.from) {
			t.Errorf("%s: the file has no %q:\n%s", c.name, c.from, made)
			continue
		}
		want(t, c.name, xds.CheckFile("x", []byte(strings.Replace(made, c.from, c.to, 1))), 0, c.want)
	}
}

// TestCheckWantsTLSThatIsTLS: a transport socket that only stands where TLS would is the network in the clear.
func TestCheckWantsTLSThatIsTLS(t *testing.T) {
	made := static(t)
	before, rest, found := strings.Cut(made, "      transport_socket:\n        name: envoy.transport_sockets.tls\n")
	block, after, more := strings.Cut(rest, "      upstream_connection_options:\n")
	if !found || !more {
		t.Fatalf("the file has no TLS to a target:\n%s", made)
	}
	var whole strings.Builder // the TLS context, on one level more
	for line := range strings.Lines(block) {
		whole.WriteString("    " + line)
	}
	const at = "      transport_socket:\n        name: x\n        typed_config:\n          '@type': type.googleapis.com/envoy.extensions.transport_sockets."
	nested := func(kind string) string {
		return at + kind + "\n          transport_socket:\n            name: tls\n" + whole.String()
	}
	for _, c := range []struct{ name, socket, want string }{
		{"TLS", "      transport_socket:\n        name: envoy.transport_sockets.tls\n" + block, ""},
		{"bytes as they are", at + "raw_buffer.v3.RawBuffer\n", "in the clear"},
		{"TLS later", at + "starttls.v3.UpstreamStartTlsConfig\n", "in the clear"},
		{"TLS with its statistics", nested("tcp_stats.v3.Config"), ""},
		{"bytes as they are, with a PROXY line", at + "proxy_protocol.v3.ProxyProtocolUpstreamTransport\n          transport_socket: {name: raw, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}\n", "in the clear"},
		{"TLS for some", "      transport_socket:\n        name: envoy.transport_sockets.tls\n" + block + "      transport_socket_matches: [{name: x, match: {}, transport_socket: {name: raw, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}]\n", "in the clear"},
	} {
		problems := xds.CheckFile("x", []byte(before+c.socket+"      upstream_connection_options:\n"+after))
		if c.want != "" {
			want(t, c.name, problems, 0, c.want)
		} else if len(problems) > 0 {
			t.Errorf("%s: %v", c.name, problems)
		}
	}
}
