package extproctest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// passThrough is an Envoy that puts nothing between a listener and the target.
func passThrough(listen, target string) string {
	host, port, _ := strings.Cut(target, ":")
	ours, ourPort, _ := strings.Cut(listen, ":")
	return fmt.Sprintf(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}
static_resources:
  listeners:
  - address: {socket_address: {address: %s, port_value: %s}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: target}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: target
    type: STATIC
    load_assignment:
      cluster_name: target
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]
`, ours, ourPort, host, port)
}

func TestEnvoyServesAndLeaves(t *testing.T) {
	target := NewTarget(t, TargetOptions{})
	listen := FreeAddress(t)
	var pid int
	t.Run("serve", func(t *testing.T) {
		envoy := StartEnvoy(t, EnvoyConfig{Bootstrap: passThrough(listen, target.Address)})
		pid = envoy.PID()
		resp, err := http.Get("http://" + listen + "/v1/payments/7")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Contains(body, []byte(`"id":"7"`)) {
			t.Errorf("%s: %s, %v", resp.Status, body, err)
		}
		if seen := target.Requests(); len(seen) != 1 || len(seen[0].Get("x-request-id")) != 1 {
			t.Errorf("the target saw %+v, want one request with what Envoy adds", seen)
		}
		if n := envoy.Stats()["http.in.downstream_rq_2xx"]; n != 1 {
			t.Errorf("Envoy counts %d answers, want 1", n)
		}
		if !bytes.Contains(envoy.ConfigDump(), []byte(target.Address[strings.IndexByte(target.Address, ':')+1:])) {
			t.Error("the target is not in Envoy's configuration")
		}
	})
	awaitGone(t, pid)
}

func TestValidateEnvoyReportsWhatIsWrong(t *testing.T) {
	if err := ValidateEnvoy(t, EnvoyConfig{Bootstrap: passThrough("127.0.0.1:1", "127.0.0.1:2")}); err != nil {
		t.Error(err)
	}
	err := ValidateEnvoy(t, EnvoyConfig{Bootstrap: "static_resources: {listenrs: []}"})
	if err == nil || !strings.Contains(err.Error(), "listenrs") {
		t.Errorf("the error is %v", err)
	}
}

func TestEnvoyThatCannotStartFailsAtOnce(t *testing.T) {
	err := Run(io.Discard, func(tb TB) {
		StartEnvoy(tb, EnvoyConfig{Bootstrap: "static_resources: {listenrs: []}"})
	})
	if err == nil || !strings.Contains(err.Error(), "listenrs") || !strings.Contains(err.Error(), "exited") {
		t.Errorf("the error is %v", err)
	}
}
