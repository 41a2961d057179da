package envoy_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/envoy"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

var update = flag.Bool("update", false, "write the ready-made files")

// home is where the files say that countersign is installed.
const home = "/etc/countersign"

// made are the ready-made files and what makes them.
var made = []struct {
	file, config string
	make         func(*config.Config) ([]byte, error)
}{
	{"bootstrap.yaml", "http.yaml", xds.Bootstrap},
	{"static-http.yaml", "http.yaml", static},
	{"static-ext-authz.yaml", "ext-authz.yaml", static},
}

func static(c *config.Config) ([]byte, error) { return xds.Static(c) }

// load reads a configuration of testdata as if it were at home, with the files that it names.
func load(t *testing.T, name string) (c *config.Config, dir string) {
	t.Helper()
	dir = extproctest.Dir(t)
	authority := extproctest.NewAuthority(t)
	issued := authority.Issue("agents.internal")
	for _, sub := range []string{"tls", "policies", "run"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for to, from := range map[string]string{
		"countersign.yaml": filepath.Join("testdata", name), "tls/agents.pem": issued.CertFile,
		"tls/agents-key.pem": issued.KeyFile, "tls/internal-ca.pem": authority.CAFile,
	} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Load(filepath.Join(dir, "countersign.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return c, dir
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := envoy.Files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFilesAreWhatThisVersionMakes(t *testing.T) {
	for _, m := range made {
		c, dir := load(t, m.config)
		text, err := m.make(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := extproctest.ValidateEnvoy(t, extproctest.EnvoyConfig{Bootstrap: string(text)}); err != nil {
			t.Errorf("%s: %v", m.file, err)
		}
		want := strings.ReplaceAll(string(text), dir, home)
		want = strings.ReplaceAll(want, xds.SystemRoots(), "/etc/ssl/certs/ca-certificates.crt")
		if *update {
			if err := os.WriteFile(m.file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if diff := cmp.Diff(want, read(t, m.file)); diff != "" {
			t.Errorf("%s is not what `countersign envoy` prints; `go test ./envoy -update` writes it (-want +got):\n%s", m.file, diff)
		}
	}
}

func TestFilesAreFailClosed(t *testing.T) {
	for _, m := range made {
		c, _ := load(t, m.config)
		for _, problems := range [][]xds.Problem{xds.CheckFile(m.file, []byte(read(t, m.file))), xds.CheckFileFor(c, m.file, []byte(read(t, m.file)))} {
			for _, p := range problems {
				t.Errorf("%v", p)
			}
		}
	}
}

// A change is a line of the file, what stands for it instead, and a part of what the check says of it. The problem must be
// on a line of the change, or on one that encloses it.
type change struct {
	name, file, line, instead, want string
}

const (
	http  = "static-http.yaml"
	authz = "static-ext-authz.yaml"
	boot  = "bootstrap.yaml"
)

func TestChangesThatOpenAreReported(t *testing.T) {
	for _, c := range []change{
		{"ext_proc lets through when it fails", http, "failure_mode_allow: false", "failure_mode_allow: true", "failure_mode_allow lets"},
		{"ext_authz lets through when it fails", authz, "failure_mode_allow: false", "failure_mode_allow: true", "failure_mode_allow lets"},
		{"a word that Envoy takes for true", http, "failure_mode_allow: false", "failure_mode_allow: yes", "invalid value for bool"},
		{"a route lets through when it fails", http, "processing_mode:#2", "failure_mode_allow: true\nprocessing_mode:", "failure_mode_allow lets"},
		{"the service may change the modes", http, "failure_mode_allow: false", "allow_mode_override: true", "allow_mode_override"},
		{"refusals are ignored", http, "failure_mode_allow: false", "disable_immediate_response: true", "ignores refusals"},
		{"nobody waits for the decision", http, "failure_mode_allow: false", "observability_mode: true", "does not wait"},
		{"refusals of ext_authz are ignored", authz, "failure_mode_allow: false", "shadow_mode: true", "ignores refusals"},
		{"a share of requests is not decided on", authz, "failure_mode_allow: false", "filter_enabled: {default_value: {numerator: 50}}", "without a decision"},
		{"a header says that it failed", authz, "failure_mode_allow: false", "failure_mode_allow_header_add: true", "failure_mode_allow_header_add"},
		{"headers are hidden", authz, "failure_mode_allow: false", "disallowed_headers: {patterns: [{exact: x-secret}]}", "hides headers"},
		{"headers are joined", authz, "encode_raw_headers: true", "encode_raw_headers: false", "duplicate headers"},
		{"half a body is judged", authz, "pack_as_bytes: true", "pack_as_bytes: true\nallow_partial_message: true", "a part of a body"},
		{"a failure looks like a decision", authz, "code: ServiceUnavailable", "code: Forbidden", "5xx"},
		{"a failure of ext_proc looks like a decision", http, "code: ServiceUnavailable", "code: OK", "5xx"},
		{"the filter is off", http, "- name: envoy.filters.http.ext_proc", "- disabled: true\n  name: envoy.filters.http.ext_proc", "disabled turns"},
		{"the filter is optional", authz, "- name: envoy.filters.http.ext_authz", "- is_optional: true\n  name: envoy.filters.http.ext_authz", "is_optional"},
		{"the filter asks somebody else", http, "cluster_name: countersign", "cluster_name: target/payments", "unseen"},
		{"a route names no resource", http, "- key: countersign-resource", "- key: other", "names no resource"},
		{"a check names no resource", authz, "resource: payments", "other: payments", "names no resource"},
		{"the client names the resource", http, "value: payments", `value: "%REQ(x-resource)%"`, "not a plain name"},
		{"the timeout is short", http, "message_timeout: 60s", "message_timeout: 0.2s", "message_timeout is 200ms"},
		{"the longest timeout is short", http, "max_message_timeout: 60s", "max_message_timeout: 1s", "max_message_timeout is 1s"},
		{"the timeout of a check is short", authz, "timeout: 60s", "timeout: 0.2s", "timeout of grpc_service is 200ms"},
		{"streams are idle while they are held", http, "stream_idle_timeout: 300s", "stream_idle_timeout: 10s", "stream_idle_timeout is 10s"},
		{"routes are idle while they are held", http, "idle_timeout: 300s", "idle_timeout: 10s", "idle_timeout is 10s"},
		{"bodies go unseen", http, "request_body_mode: FULL_DUPLEX_STREAMED", "request_body_mode: NONE", "bodies go unseen"},
		{"nobody knows who connected", http, "value: '%DOWNSTREAM_REMOTE_ADDRESS%'", "value: '%REQ(X-FORWARDED-FOR)%'", "who connected"},
		{"nobody knows who answered", http, "- response.code_details", "- response.code", "answer of the target"},
		{"trailers are not sent", http, "request_trailer_mode: SEND", "request_trailer_mode: SKIP", "request_trailer_mode"},
		{"response trailers are not sent", http, "response_trailer_mode: SEND", "response_trailer_mode: SKIP", "response_trailer_mode"},
		{"headers go unseen", http, "request_header_mode: SEND", "request_header_mode: SKIP", "hides the request"},
		{"the operation's name is not kept", http, "- countersign", "- other", "could not be compared with the records"},
		{"a route does not keep the operation's name", http, "processing_mode:#2", "metadata_options: {receiving_namespaces: {untyped: [other]}}\nprocessing_mode:", "could not be compared with the records"},
		{"the peer is what a header says", http, "use_remote_address: true", "use_remote_address: false", "X-Forwarded-For"},
		{"a scheme that agents do not connect by", http, "scheme_to_overwrite: https", "scheme_to_overwrite: http", "agents connect by https"},
		{"a scheme that the target alone is told", authz, "scheme_to_overwrite: https", "match_upstream: true", "another scheme than was judged"},
		{"the log tells of what has not ended", http, "use_remote_address: true", "use_remote_address: true\naccess_log_options: {flush_access_log_on_new_request: true}", "have not ended"},
		{"the token cannot be taken away", http, "disallow_system: true", "disallow_expression: {regex: authorization}", "agent's token"},
		{"the token cannot be taken away after a check", authz, "disallow_system: true", "disallow_all: true", "agent's token"},
		{"trailers go unseen", authz, "regex: .*", "regex: x-.*", "does not show the trailers"},
		{"trailers are not removed", authz, "regex: .*", "regex: x-other", "does not show the trailers"},
		{"a route adds a header", http, "- name: payments#2", "- request_headers_to_add: [{header: {key: x-admin, value: '1'}}]\n  name: payments", "changes a request after"},
		{"a virtual host adds a header", http, "- name: payments", "- request_headers_to_add: [{header: {key: x-admin, value: '1'}}]\n  name: payments", "changes a request after"},
		{"a header is taken away after the decision", http, "- x-envoy-internal", "- x-dry-run", "takes x-dry-run away"},
		{"a filter on the way to the target", http, "suppress_envoy_headers: true", "suppress_envoy_headers: true\nupstream_http_filters: [{name: lua, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}}]", "comes after the decision"},
		{"a filter of a cluster", http, "explicit_http_config:#2", "http_filters: [{name: lua, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}}]\nexplicit_http_config:", "comes after the decision"},
		{"frames that nobody sees", http, "max_concurrent_streams: 128", "max_concurrent_streams: 128\nallow_metadata: true", "allow_metadata"},
		{"a target sends the request elsewhere", http, "cluster: target/payments", "cluster: target/payments\ninternal_redirect_policy: {}", "internal redirect"},
		{"a target sends the request elsewhere, as it was said before", http, "cluster: target/payments", "cluster: target/payments\ninternal_redirect_action: HANDLE_INTERNAL_REDIRECT", "internal_redirect_action"},
		{"the client chooses the target's address", http, "type: STRICT_DNS", "type: ORIGINAL_DST", "lets the client choose"},
		{"the client chooses the target's name", http, "type: STRICT_DNS", "cluster_type: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig}}", "lets the client choose"},
		{"the access log goes elsewhere", http, "cluster_name: countersign#2", "cluster_name: target/payments", "no access log"},
		{"the access log leaves some out", http, "- name: envoy.access_loggers.http_grpc", "- filter: {status_code_filter: {comparison: {op: GE, value: {default_value: 400, runtime_key: x}}}}\n  name: envoy.access_loggers.http_grpc", "keeps requests out"},
		{"requests are sent again", http, "cluster: target/payments", "cluster: target/payments\nretry_policy: {retry_on: 5xx}", "decision is for one"},
		{"requests are sent twice", http, "cluster: target/payments", "cluster: target/payments\nrequest_mirror_policies: [{cluster: target/reports}]", "sends a copy"},
		{"agents have requests sent again", http, "prefix: x-envoy-", "prefix: x-other-", "x-envoy-retry-on"},
		{"the path changes after the decision", http, "cluster: target/payments", "cluster: target/payments\nprefix_rewrite: /admin", "prefix_rewrite changes"},
		{"the client chooses the target", http, "cluster: target/payments", "cluster_header: x-target", "depends on the request"},
		{"agents reach the service", http, "cluster: target/payments", "cluster: countersign", "countersign's own services"},
		{"the target is not verified", http, "trusted_ca:", "crl:", "not verified"},
		{"any name will do", http, "match_typed_subject_alt_names:", "only_verify_leaf_cert_crl: true\nallow_expired_certificate: false\nx:", "unknown field"},
		{"a field that Envoy does not know", http, "failure_mode_allow: false", "failure_mode_alow: false", `unknown field "failure_mode_alow"`},
		{"a value twice", http, "failure_mode_allow: false", "failure_mode_allow: false\nfailure_mode_allow: true", "second time"},
		{"a filter that nobody knows", http, "'@type': type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor", `"@type": type.googleapis.com/unknown.Filter`, "unknown.Filter"},
		{"a value that Envoy refuses", http, "connect_timeout: 5s", "connect_timeout: -5s", "connect_timeout"},
		{"the service is gone", http, "- name: countersign", "- name: other", "no cluster"},
		{"xDS comes from elsewhere", boot, "cluster_name: countersign#2", "cluster_name: other", "ADS comes from elsewhere"},
		{"listeners come from elsewhere", boot, "ads: {}", "path_config_source: {path: /tmp/lds.yaml}", "come from elsewhere"},
		{"the admin interface is public", boot, "pipe:", "socket_address: {address: 0.0.0.0, port_value: 9901}\nx:", "unknown field"},
	} {
		t.Run(c.name, func(t *testing.T) { c.report(t) })
	}
}

func (c change) report(t *testing.T) {
	t.Helper()
	text, first, last := c.apply(t)
	problems := xds.CheckFile(c.file, []byte(text))
	for _, p := range problems {
		if p.File == c.file && strings.Contains(p.Message, c.want) {
			if (p.Line < first || p.Line > last) && !slices.Contains(enclosing(text, first), p.Line) {
				t.Errorf("reported on line %d, and the change is on %d to %d: %v", p.Line, first, last, p)
			}
			return
		}
	}
	t.Errorf("no problem says %q; there are %v", c.want, problems)
}

// enclosing are the lines of the keys that the line stands below, in a file that is indented as ours are.
func enclosing(text string, line int) []int {
	lines := strings.Split(text, "\n")
	indentation := func(i int) int { return len(lines[i]) - len(strings.TrimLeft(lines[i], " ")) }
	var out []int
	for i, inner := line-2, indentation(line-1); i >= 0; i-- {
		if lines[i] != "" && indentation(i) < inner {
			inner = indentation(i)
			out = append(out, i+1)
		}
	}
	return out
}

// apply replaces the line that c names: the first one, or the one of the number behind '#'. What stands instead has the same
// indentation.
func (c change) apply(t *testing.T) (text string, first, last int) {
	t.Helper()
	wanted, number := c.line, 1
	if name, n, ok := strings.Cut(c.line, "#"); ok {
		wanted = name
		if _, err := fmt.Sscan(n, &number); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(read(t, c.file), "\n")
	for i, line := range lines {
		if strings.TrimSpace(line) != wanted && strings.TrimPrefix(strings.TrimSpace(line), "- ") != wanted {
			continue
		}
		if number--; number > 0 {
			continue
		}
		indent := line[:strings.Index(line, wanted)]
		rest := strings.Repeat(" ", len(indent))
		lines[i] = indent + strings.ReplaceAll(c.instead, "\n", "\n"+rest)
		return strings.Join(lines, "\n"), i + 1, i + 1 + strings.Count(c.instead, "\n")
	}
	t.Fatalf("%s has no line %q", c.file, c.line)
	return "", 0, 0
}
