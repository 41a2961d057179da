package xds_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

// Filters that ask somebody else: what another team's service is told, and how long it may take, is that team's own affair as
// long as it is asked before countersign. After the decision nothing may change what was judged, or ask again.
func TestCheckOfFiltersThatAskOthers(t *testing.T) {
	const (
		ours    = "                  - name: envoy.filters.http.ext_proc\n"
		router  = "                  - name: envoy.filters.http.router"
		cluster = "    - name: countersign\n      type: STATIC\n"
		route   = "                          typed_per_filter_config:\n"

		proc = `                  - name: theirs
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
                      grpc_service: {envoy_grpc: {cluster_name: theirs}, timeout: 1s}
                      failure_mode_allow: true
                      processing_mode: {request_body_mode: FULL_DUPLEX_STREAMED, request_trailer_mode: SEND, response_body_mode: FULL_DUPLEX_STREAMED, response_header_mode: SEND, response_trailer_mode: SEND}
`
		authz = `                  - name: theirs
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      grpc_service: {envoy_grpc: {cluster_name: theirs}}
                      transport_api_version: V3
                      failure_mode_allow: true
                      clear_route_cache: true
`
		byHTTP = `                  - name: theirs
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      http_service: {server_uri: {uri: "http://127.0.0.1:9001", cluster: theirs, timeout: 0.25s}}
                      transport_api_version: V3
`
		again = `                  - name: again
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
                      grpc_service: {envoy_grpc: {cluster_name: countersign}}
                      message_timeout: 60s
                      request_attributes: [source.address]
                      response_attributes: [response.code_details]
                      metadata_options: {receiving_namespaces: {untyped: [countersign]}}
                      processing_mode: {request_body_mode: FULL_DUPLEX_STREAMED, request_trailer_mode: SEND, response_body_mode: FULL_DUPLEX_STREAMED, response_header_mode: SEND, response_trailer_mode: SEND}
`
		theirs = "    - {name: theirs, type: STATIC, load_assignment: {cluster_name: theirs, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9001}}}}]}]}}\n"

		procOnRoute  = `                            theirs: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, overrides: {failure_mode_allow: true, grpc_service: {envoy_grpc: {cluster_name: theirs}}}}` + "\n"
		authzOnRoute = `                            theirs: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, check_settings: {grpc_service: {envoy_grpc: {cluster_name: theirs}, timeout: 1s}}}` + "\n"
	)
	before := func(filter string) func(string) string {
		return func(s string) string { return strings.Replace(s, ours, filter+ours, 1) }
	}
	after := func(filter string) func(string) string {
		return func(s string) string { return strings.Replace(s, router, filter+router, 1) }
	}
	onRoute := func(settings string) func(string) string {
		return func(s string) string { return strings.Replace(s, route, route+settings, 1) }
	}
	for _, c := range []struct {
		name   string
		change []func(string) string
		want   string // "" where nothing is wrong
	}{
		{"ext_proc before ours", []func(string) string{before(proc)}, ""},
		{"ext_authz before ours", []func(string) string{before(authz)}, ""},
		{"ext_authz by HTTP before ours", []func(string) string{before(byHTTP)}, ""},
		{"ext_proc before ours, and on a route", []func(string) string{before(proc), onRoute(procOnRoute)}, ""},
		{"ext_authz before ours, and on a route", []func(string) string{before(authz), onRoute(authzOnRoute)}, ""},
		{"ext_proc after ours", []func(string) string{after(proc)}, "filter theirs comes after the decision"},
		{"ext_authz after ours", []func(string) string{after(authz)}, "filter theirs comes after the decision"},
		{"ext_authz by HTTP after ours", []func(string) string{after(byHTTP)}, "filter theirs comes after the decision"},
		{"ours a second time", []func(string) string{after(again)}, "filter again asks countersign a second time"},
		{"theirs, which asks ours on a route", []func(string) string{before(proc), onRoute(strings.ReplaceAll(procOnRoute, "cluster_name: theirs", "cluster_name: countersign"))}, "filter theirs asks countersign a second time"},
		{"theirs, which asks ours on a route, by ext_authz", []func(string) string{before(authz), onRoute(strings.ReplaceAll(authzOnRoute, "cluster_name: theirs", "cluster_name: countersign"))}, "filter theirs asks countersign a second time"},
		{"ours, which asks theirs on a route", []func(string) string{func(s string) string {
			return strings.Replace(s, "overrides:\n", "overrides:\n                                grpc_service: {envoy_grpc: {cluster_name: theirs}}\n", 1)
		}}, "asks another service"},
		{"an access log that comes too late", []func(string) string{func(s string) string {
			return strings.Replace(s, "buffer_flush_interval: 0.200s", "buffer_flush_interval: 60s", 1)
		}}, "buffer_flush_interval is 1m0s"},
		{"an access log that goes elsewhere", []func(string) string{func(s string) string {
			head, tail, _ := strings.Cut(s, "access_log:")
			return head + "access_log:" + strings.Replace(tail, "cluster_name: countersign", "cluster_name: theirs", 1)
		}}, "no access log"},
		{"no access log", []func(string) string{func(s string) string {
			head, tail, _ := strings.Cut(s, "                access_log:")
			_, tail, _ = strings.Cut(tail, "                use_remote_address")
			return head + "                use_remote_address" + tail
		}}, "no access log"},
	} {
		original := static(t)
		text := strings.Replace(original, "\n  clusters:\n", "\n  clusters:\n"+theirs, 1)
		for _, change := range c.change {
			next := change(text)
			if next == text {
				t.Fatalf("%s: the file is as before", c.name)
			}
			text = next
		}
		if problems := xds.CheckFile("x", []byte(text)); c.want != "" {
			want(t, c.name, problems, 0, c.want)
		} else if len(problems) > 0 {
			t.Errorf("%s: %v", c.name, problems)
		}
		if err := extproctest.ValidateEnvoy(t, extproctest.EnvoyConfig{Bootstrap: text}); err != nil {
			t.Errorf("%s: Envoy itself refuses it: %v", c.name, err)
		}
	}
}
