package config

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const good = `node: gw-1
data: ./var
policies: .
agents:
  - issuer: https://idp.example.com
    audience: [countersign]
resources:
  - name: payments
    kind: http
    listen: {address: "127.0.0.1:8080"}
    target: https://payments.internal:8443
`

// directory has what a configuration can name, and gives the path of a configuration file there.
func directory(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "value"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]string{"cert": "key.pem", "ca": "ca.key"} {
		certificate(t, dir, name, ecKey(t), time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		if err := os.Rename(filepath.Join(dir, name+".key"), filepath.Join(dir, key)); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "countersign.yaml")
}

func TestDefaultsAndRelativePaths(t *testing.T) {
	path := directory(t)
	c, err := Parse(path, []byte(good+"people: {issuer: \"https://idp.example.com\", client_id: console}\n"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	for _, x := range []struct {
		what      string
		got, want any
	}{
		{"data", c.Data, Path(filepath.Join(dir, "var"))},
		{"policies", c.Policies, Path(dir)},
		{"listen.envoy", c.Listen.Envoy, Address("unix:" + filepath.Join(dir, "var/envoy.sock"))},
		{"listen.admin", c.Listen.Admin, Address("127.0.0.1:9440")},
		{"envoy.admin", c.Envoy.Admin, Address("unix:" + filepath.Join(dir, "var/envoy-admin.sock"))},
		{"envoy.drain", c.Envoy.Drain.Std(), 20 * time.Second},
		{"evidence.heartbeat", c.Evidence.Heartbeat.Std(), 10 * time.Second},
		{"evidence.checkpoint", c.Evidence.Checkpoint.Std(), 5 * time.Second},
		{"evidence.segment", c.Evidence.Segment, Size(64 << 20)},
		{"approvals", c.Approvals, Approvals{
			Store: "embedded", Hold: Duration(50 * time.Second), TTL: Duration(15 * time.Minute),
			Limits: AskLimits{Total: 20_000, PerAgent: 200, PerResource: 10_000, Rate: 60},
		}},
		{"agents[0].algorithms", c.Agents[0].Algorithms, []string{"RS256", "ES256"}},
		{"agents[0].kind", c.Agents[0].Kind, "oauth"},
		{"agents[0].skew", c.Agents[0].Skew.Std(), time.Minute},
		{"agents[0].max_lifetime", c.Agents[0].MaxLifetime.Std(), 24 * time.Hour},
		{"agents[0].groups_claim", c.Agents[0].GroupsClaim, "groups"},
		{"people.groups_claim", c.People.GroupsClaim, "groups"},
		{"people.clients", c.People.Clients, []string{"console"}},
		{"people.kind", c.People.Kind, "oauth"},
		{"people.audience", c.People.Audience, []string{"console"}},
		{"people.algorithms", c.People.Algorithms, []string{"RS256", "ES256"}},
		{"resources[0].policy", c.Resources[0].(*HTTP).Policy, "payments"},
		{"resources[0].attach", c.Resources[0].(*HTTP).Attach, "ext_proc"},
		{"resources[0].body", c.Resources[0].(*HTTP).Body, "inspect"},
		{"resources[0].response", c.Resources[0].(*HTTP).Response, "inspect"},
		{"resources[0].limits", c.Resources[0].(*HTTP).Limits, Limits{RequestBody: 1 << 20, Headers: 60 << 10, Values: 100_000, RequestTime: Duration(time.Minute)}},
		{"resources[0].numbers", c.Resources[0].(*HTTP).Numbers, "double"},
	} {
		if diff := cmp.Diff(x.want, x.got); diff != "" {
			t.Errorf("%s: %s", x.what, diff)
		}
	}
	if r, ok := Named[*HTTP](c, "payments"); !ok || r != c.Resources[0] {
		t.Error("the resource is not found")
	}
	if _, ok := Named[Resource](c, "other"); ok {
		t.Error("a resource is found that is not there")
	}
	host, port, tls, err := c.Resources[0].(*HTTP).TargetAddress()
	if host != "payments.internal" || port != 8443 || !tls || err != nil {
		t.Errorf("target %s %d %v %v", host, port, tls, err)
	}
	if c.File() != path || len(c.Digest()) != 64 {
		t.Errorf("file %q, digest %q", c.File(), c.Digest())
	}
}

func TestProblems(t *testing.T) {
	path := directory(t)
	dir := filepath.Dir(path)
	resource := func(s string) string { return good + "    " + s + "\n" }
	replace := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in the configuration", old)
		}
		return strings.Replace(good, old, with, 1)
	}
	for _, c := range []struct{ name, text, want string }{
		{"an empty file", "", ":1: is empty"},
		{"not YAML", "a: [", ":1: is not YAML: did not find expected node content, here or in what begins here"},
		{"a bracket that is not closed", "a: 1\nb: [1,2\n\n\nc: 4", ":2: is not YAML: did not find expected ',' or ']', here or in what begins here"},
		{"a value with a colon", "a: 1\nb: c: d\n", ":2: is not YAML: mapping values are not allowed in this context: a key is indented further than the one above it, or a value with a colon needs quotes"},
		{"a tab", "a: 1\n\tb: 2\n", ":2: is not YAML: found a tab character that violates indentation, here or below: indent with spaces"},
		{"a sign on the first line", "a: @x", ":1: is not YAML: found character that cannot start any token: indent with spaces and not with tabs, and put quotes around a value that begins with @, ` or %"},
		{"a list", "- a", `:1: wants a mapping of keys to values, not a list`},
		{"a key that is nearly known", replace("policies:", "polices:"), ": policies: is required\n" + `:3: polices: is not a key that is known here: did you mean "policies"?`},
		{"a key that is not known", good + "listen: {x_y_z_1: 1}\n", ":12: listen.x_y_z_1: is not a key that is known here: known are admin, admin_insecure, console, console_tls, envoy, envoy_tls"},
		{"a key twice", good + "node: gw-2\n", ":12: node: stands here a second time: the first is on line 1"},
		{"a second document", good + "---\nnode: b\n", ":12: a second document begins here: one file is one document"},
		{"text where a list belongs", replace("[countersign]", "countersign"), `:6: agents[0].audience: wants a list, not "countersign": write it as [value] or one "- value" a line`},
		{"a list where text belongs", replace("node: gw-1", "node: [a]"), ":1: node: wants a single value, not a list"},
		{"a number where text belongs", replace("node: gw-1", "node: 7"), ":1: node: wants text, and YAML reads 7 as int: put it in quotes"},
		{"yes where true belongs", resource("target_insecure: yes"), `:12: resources[0].target_insecure: wants true or false, not "yes"`},
		{"yes under true's tag", resource(`target_insecure: !!bool "yes"`), `:12: resources[0].target_insecure: wants true or false, not "yes"`},
		{"an alias", resource("labels: {a: &x b, c: *x}"), ":12: resources[0].labels.a: anchors and aliases are not accepted: write the value out\n:12: resources[0].labels.c: anchors and aliases are not accepted: write the value out"},
		{"a merge key", resource("labels: {<<: {a: b}}"), ":12: resources[0].labels: a key must be plain text: put quotes around what YAML reads as something else"},
		{"a key without a value", replace("node: gw-1", "node:"), ":1: node: has no value: give it one, or remove the key"},
		{"a label without a value", resource("labels: {a: }"), ":12: resources[0].labels.a: has no value: give it one, or remove the key"},
		{"a size with the wrong unit", resource("limits: {request_body: 1MB}"), `:12: resources[0].limits.request_body: "1MB" is not a size: write it like 65536, 64KiB, 1MiB or 2GiB`},
		{"a request that may take for ever", resource("limits: {request_time: 11m}"), `:12: resources[0].limits.request_time: is 11m0s: use 1s to 10m, and body: stream for requests that take longer`},
		{"a size below zero", resource("limits: {request_body: -1}"), `:12: resources[0].limits.request_body: "-1" is not a size: write it like 65536, 64KiB, 1MiB or 2GiB`},
		{"a size past what a number holds", resource("limits: {response_body: 9999999999GiB}"), `:12: resources[0].limits.response_body: "9999999999GiB" is not a size: write it like 65536, 64KiB, 1MiB or 2GiB`},
		{"a duration without a unit", resource("timeout: 10"), `:12: resources[0].timeout: "10" is not a duration: write it like 10s, 5m or 1h30m`},
		{"a duration below zero", resource("timeout: -1s"), `:12: resources[0].timeout: "-1s" is negative`},
		{"a heartbeat of nothing", good + "evidence: {heartbeat: 0s}\n", ":12: evidence.heartbeat: is 0, which cannot work: leave the key out for the default"},
		{"a size of nothing", resource("limits: {request_body: 0}"), ":12: resources[0].limits.request_body: is 0, which cannot work: leave the key out for the default"},
		{"a count of nothing", good + "approvals: {limits: {rate: 0}}\n", ":12: approvals.limits.rate: is 0, which cannot work: leave the key out for the default"},
		{"a list of no subjects", replace("[countersign]", "[countersign]\n    subjects: []"), ":7: agents[0].subjects: is empty: name at least one, or leave the key out"},
		{"more values than are read", resource("limits: {values: 10000001}"), ":12: resources[0].limits.values: is 10000001: use 1 to 10000000"},
		{"no values", resource("limits: {values: -1}"), ":12: resources[0].limits.values: is -1: use 1 to 10000000"},
		{"numbers of another kind", resource("numbers: float"), `:12: resources[0].numbers: is "float", and must be one of double, exact`},
		{"memory for next to nothing", good + "limits: {memory: 1MiB}\n", ":12: limits.memory: is 1048576 bytes: use at least 8MiB"},
		{"headers that are too small", resource("limits: {headers: 100}"), ":12: resources[0].limits.headers: is 100 bytes: use 1KiB to 1MiB"},
		{"a hold longer than a request lives", resource("hold: 1h"), ":12: resources[0].hold: is 1h0m0s, longer than approvals.ttl, 15m0s: a request would expire while it is held"},
		{"a kind that is not known", replace("kind: http", "kind: htp"), `:9: resources[0].kind: is "htp", and must be one of http`},
		{"a form of path that is not known", resource("paths: [slash]"), `:12: resources[0].paths[0]: is "slash", and must be one of encoded-slash, dot-segments, double-slash, backslash, parameters`},
		{"a field that no approval may leave out", resource("volatile_headers: [Content-Type]"), `:12: resources[0].volatile_headers[0]: is "content-type", and such a field says how the request is carried: an approval has to bind it`},
		{"a prefix of identities that is volatile", resource("volatile_headers: [sdk, \"x-user-*\"]"), `:12: resources[0].volatile_headers[1]: is "x-user-*", and such a field says who the client is or has a credential: an approval has to bind it`},
		{"a volatile field that may act as somebody", resource("volatile_headers: [sudo]\n    identity_headers: [Sudo]"), `:12: resources[0].volatile_headers[0]: is "sudo", and such a field says who the client is or has a credential: an approval has to bind it`},
		{"a volatile field that has the credential", resource("volatile_headers: [\"x-pay-*\"]\n    credential: {header: X-Pay-Ticket, value_file: value}"), `:12: resources[0].volatile_headers[0]: is "x-pay-*", and credential.header is "x-pay-ticket", which no agent's request has`},
		{"all fields are volatile", resource("volatile_headers: [\"*\"]"), `:12: resources[0].volatile_headers[0]: is "*": write the name of a header field, a prefix such as x-trace-*, or sdk`},
		{"an agent's token that passes", resource("identity_headers: [Authorization]"), `:12: resources[0].identity_headers[0]: is "authorization", which never reaches a target`},
		{"an opened field that is no identity", resource("identity_headers: [accept]"), `:12: resources[0].identity_headers[0]: is "accept", which is not taken for an identity: it passes without being named here`},
		{"an opened field that has the credential", resource("identity_headers: [x-api-key]\n    credential: {header: X-Api-Key, value_file: value}"), `:12: resources[0].identity_headers[0]: is "x-api-key", which credential.header sets for this target`},
		{"response headers that tell of the original", resource("response_headers: [ETag, x-amz-meta-owner, docker-content-digest, x-file-size, content-length]"), strings.Join([]string{
			`:12: resources[0].response_headers[0]: is "etag", which tells of the answer before redaction`, `:12: resources[0].response_headers[1]: is "x-amz-meta-owner", which tells of the answer before redaction`,
			`:12: resources[0].response_headers[2]: is "docker-content-digest", which tells of the answer before redaction`, `:12: resources[0].response_headers[3]: is "x-file-size", which tells of the answer before redaction`,
			`:12: resources[0].response_headers[4]: is "content-length", which tells of the answer before redaction`,
		}, "\n")},
		{"prefixes of response headers that have too much", resource("response_headers: [x-*, content-*, \"*\"]"), `:12: resources[0].response_headers[0]: is "x-*", which has fields that tell of the answer before redaction: name those that are meant` + "\n" +
			`:12: resources[0].response_headers[1]: is "content-*", which has fields that tell of the answer before redaction: name those that are meant` + "\n" +
			`:12: resources[0].response_headers[2]: is "*": write a field's name in small letters, or a prefix that ends with -*`},
		{"response headers that are not the target's", resource("response_headers: [set-cookie, x-envoy-a, connection]"), `:12: resources[0].response_headers[0]: is "set-cookie", which is not the target's to say: Envoy writes it, or it is a credential (see cookies)` + "\n" +
			`:12: resources[0].response_headers[1]: is "x-envoy-a", which is not the target's to say: Envoy writes it, or it is a credential (see cookies)` + "\n" +
			`:12: resources[0].response_headers[2]: is "connection", which is not the target's to say: Envoy writes it, or it is a credential (see cookies)`},
		{"cookies that are not known", resource("cookies: keep"), `:12: resources[0].cookies: is "keep", and must be one of remove, pass, session`},
		{"an end with the token where answers pass", resource("response: pass\n    end_with_token: true"), ":13: resources[0].end_with_token: is true, and answers of this resource do not come by here, so that nothing can end them: leave it out, or use attach: ext_proc and response: inspect"},
		{"an end with the token by ext_authz", resource("attach: ext_authz\n    end_with_token: true"), ":13: resources[0].end_with_token: is true, and answers of this resource do not come by here, so that nothing can end them: leave it out, or use attach: ext_proc and response: inspect"},
		{"a session where answers pass", resource("response: pass\n    cookies: session"), ":13: resources[0].cookies: is session, and answers of this resource do not come by here, so that its cookies cannot be sealed: use remove or pass, or attach: ext_proc and response: inspect"},
		{"URLs rewritten where answers pass", resource("response: pass\n    rewrite_urls: true"), ":13: resources[0].rewrite_urls: is true, and answers of this resource do not come by here, so that nothing in them can be rewritten: leave it out, or use attach: ext_proc and response: inspect"},
		{"bodies rewritten by ext_authz", resource("attach: ext_authz\n    rewrite: [$.next]"), ":13: resources[0].rewrite: is set, and answers of this resource do not come by here, so that nothing in them can be rewritten: leave it out, or use attach: ext_proc and response: inspect"},
		{"a method in small letters", resource("methods: [WIPE, wipe]"), `:12: resources[0].methods[1]: is "wipe": write a method in upper case, such as PURGE`},
		{"a method that is refused by name", resource("methods: [TRACE]"), ":12: resources[0].methods[0]: is TRACE, which is refused, or is let through as an upgrade: see upgrades"},
		{"what is no path", resource("rewrite: [$.next, next]"), `:12: resources[0].rewrite[1]: is not a path: rewrite path "next": it must begin with "$"`},
		{"a path twice", resource("rewrite: [$.next, $.next]"), `:12: resources[0].rewrite[1]: "$.next" is named twice`},
		{"a session by ext_authz", resource("attach: ext_authz\n    cookies: session"), ":13: resources[0].cookies: is session, and answers of this resource do not come by here, so that its cookies cannot be sealed: use remove or pass, or attach: ext_proc and response: inspect"},
		{"a policy that is a path", resource("policy: a/b"), `:12: resources[0].policy: is "a/b": write the last part of the package's name, PAYMENTS of data.rules.PAYMENTS`},

		{"a plain-http issuer", replace("https://idp", "http://idp"), `:5: agents[0].issuer: is "http://idp.example.com", whose keys would come over plain http: use https, or set insecure: true beside it`},
		{"a plain-http target", replace("https://payments", "http://payments"), `:11: resources[0].target: is "http://payments.internal:8443", which is plain http to another machine: use https, or set target_insecure: true beside it`},
		{"a plain listener", replace("127.0.0.1:8080", "0.0.0.0:8080"), ":10: resources[0].listen.address: is 0.0.0.0:8080, where agents' tokens would cross the network in the clear: set tls, or insecure: true beside it"},
		{"a plain collector", good + "evidence: {otlp: {endpoint: \"collector:4317\", insecure: true}}\n", ":12: evidence.otlp.insecure: is true, and collector:4317 is not on loopback: use TLS, or set insecure_network: true beside it"},
		{"a plain admin address", good + "listen: {admin: \"0.0.0.0:9440\"}\n", ":12: listen.admin: is 0.0.0.0:9440, which other machines can reach, over plain HTTP: use a loopback address, or set listen.admin_insecure: true"},
		{"people of a kind that has none", good + "people: {issuer: \"https://idp.example.com\", client_id: console, kind: github}\n", ":12: people.kind: is \"github\", and must be one of oauth, entra"},
		{"no clients of people", good + "people: {issuer: \"https://idp.example.com\", client_id: console, clients: []}\n", ":12: people.clients: names no client: name those whose tokens the API accepts, or leave the key out for people.client_id"},
		{"auditors that are nobody", good + "people: {issuer: \"https://idp.example.com\", client_id: console, auditors: []}\n", ":12: people.auditors: names nobody: name groups, or subject:ID for a person, or leave the key out"},
		{"an empty auditor", good + "people: {issuer: \"https://idp.example.com\", client_id: console, auditors: [\"\"]}\n", ":12: people.auditors[0]: is \"\", which names nobody: name a group as the people's issuer writes it, or subject:ID"},
		{"an auditor with spaces", good + "people: {issuer: \"https://idp.example.com\", client_id: console, auditors: [\"audit \"]}\n", ":12: people.auditors[0]: is \"audit \", which names nobody: name a group as the people's issuer writes it, or subject:ID"},
		{"an auditor without an id", good + "people: {issuer: \"https://idp.example.com\", client_id: console, auditors: [audit, \"subject:\"]}\n", ":12: people.auditors[1]: is \"subject:\", which names nobody: a person is subject:ID, with the ID as the people's issuer writes it"},
		{"an auditor whose group looks like a person", good + "people: {issuer: \"https://idp.example.com\", client_id: console, auditors: [\"Subject:u-1\"]}\n", ":12: people.auditors[0]: is \"Subject:u-1\", which is the name of a group: a person is subject:ID, without spaces and in lower case"},
		{"everybody an auditor", good + "people: {issuer: \"https://idp.example.com\", client_id: console, auditors: [\"*\"]}\n", ":12: people.auditors[0]: is \"*\", which is the name of a group and not everybody: name the groups of those who may see every operation"},
		{"an auditor twice", good + "people: {issuer: \"https://idp.example.com\", client_id: console, auditors: [audit, audit]}\n", ":12: people.auditors[1]: is \"audit\", which is there already"},
		{"auditors that are no list", good + "people: {issuer: \"https://idp.example.com\", client_id: console, auditors: audit}\n", ":12: people.auditors: wants a list, not \"audit\": write it as [value] or one \"- value\" a line"},
		{"an empty client of people", good + "people: {issuer: \"https://idp.example.com\", client_id: console, clients: [\"\"]}\n", ":12: people.clients: names no client: name those whose tokens the API accepts, or leave the key out for people.client_id"},
		{"a plain console", good + "listen: {console: \"192.0.2.1:8443\"}\n", ":12: listen.console: is 192.0.2.1:8443, where approvers' sessions would cross the network in the clear: set listen.console_tls, or use a loopback address"},
		{"a console that links cannot lead to", good + "listen: {console: \"0.0.0.0:8443\", console_tls: {certificate_file: cert.pem, key_file: key.pem}}\n", ":12: listen.console: is 0.0.0.0:8443, an address that nobody can open, and links that agents and approvers get would lead there: set approvals.console_url"},
		{"a console at every address of the machine", good + "listen: {console: \":8443\", console_tls: {certificate_file: cert.pem, key_file: key.pem}}\n", ":12: listen.console: is :8443, an address that nobody can open, and links that agents and approvers get would lead there: set approvals.console_url"},
		{"a console at a socket", good + "listen: {console: \"unix:/run/console.sock\"}\n", ":12: listen.console: is unix:/run/console.sock, an address that nobody can open, and links that agents and approvers get would lead there: set approvals.console_url"},
		{"links that lead nowhere", good + "approvals: {console_url: \"https://[::]:8443\"}\n", `:12: approvals.console_url: is "https://[::]:8443", an address that nobody can open: write the one that approvers use`},
		{"a TCP address for Envoy without mTLS", good + "listen: {envoy: \"127.0.0.1:9000\"}\n", ":12: listen.envoy: is a TCP address, so Envoy must prove itself: set listen.envoy_tls with certificate_file, key_file and client_ca_file, or use unix:PATH"},
		{"one address for two", good + "listen: {console: \"127.0.0.1:9440\"}\n", ":12: listen.console: is 127.0.0.1:9440, and so is listen.admin: give each an address of its own"},
		{"an address of ours for Envoy", good + "listen: {admin: \"127.0.0.1:8080\"}\n", ":10: resources[0].listen.address: is 127.0.0.1:8080, and so is listen.admin: Envoy listens here, and needs an address of its own"},
		{"a socket path that is too long", good + "listen: {envoy: \"unix:/" + strings.Repeat("a", 107) + "\"}\n", ":12: listen.envoy: is a socket path of 108 bytes, and the system takes 107: use a shorter one, such as unix:/run/countersign/envoy.sock"},
		{"Envoy's admin interface on the network", good + "envoy: {admin: \"192.0.2.1:9901\"}\n", ":12: envoy.admin: is 192.0.2.1:9901: Envoy's admin interface can change and stop it, so only loopback or unix:PATH is accepted"},
		{"a symmetric algorithm", replace("[countersign]", "[countersign]\n    algorithms: [HS256]"), `:7: agents[0].algorithms[0]: is "HS256", and must be one of RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384, PS512, EdDSA`},
		{"no algorithm", replace("[countersign]", "[countersign]\n    algorithms: []"), `:7: agents[0].algorithms: is empty: name at least one, or leave the key out for RS256 and ES256`},
		{"an issuer twice", replace("resources:", "  - {issuer: \"https://idp.example.com\", audience: [a]}\nresources:"), ":7: agents[1].issuer: https://idp.example.com is named twice"},
		{"more skew than a minute", replace("[countersign]", "[countersign]\n    skew: 61s"), ":7: agents[0].skew: is 1m1s, and at most 60s is accepted"},
		{"entra without tenants", replace("[countersign]", "[countersign]\n    kind: entra"), ":5: agents[0].tenants: is required for kind entra: name the tenant ids (tid) whose tokens are accepted"},
		{"a resource twice", good + "  - {name: payments, kind: http, listen: {address: \"127.0.0.1:8081\"}, target: \"https://a\"}\n", `:12: resources[1].name: "payments" is taken by an earlier resource`},
		{"an address and host twice", good + "  - {name: b, kind: http, listen: {address: \"127.0.0.1:8080\"}, target: \"https://a\"}\n", `:12: resources[1].listen: is the same address and host as resource "payments": give one of them another address, or another listen.host`},
		{"an address with TLS for one host only", good + "  - {name: b, kind: http, listen: {address: \"127.0.0.1:8080\", host: b, tls: {certificate_file: cert.pem, key_file: key.pem}}, target: \"https://a\"}\n", `:12: resources[1].listen.tls: differs from that of resource "payments", which listens on the same address`},
		{"a target with a path", replace(":8443", ":8443/v1"), `:11: resources[0].target: is "https://payments.internal:8443/v1": write the host only, without a path`},
		{"a target with a port past the last", replace(":8443", ":70000"), `:11: resources[0].target: has the port "70000": use a number from 1 to 65535`},
		{"a target with an odd host", replace("payments.internal:8443", "pay%20ments"), `:11: resources[0].target: is "https://pay%20ments": write https://HOST[:PORT]`},
		{"a certificate that is not there", replace(`{address: "127.0.0.1:8080"}`, `{address: "127.0.0.1:8080", tls: {certificate_file: none.pem, key_file: key.pem}}`), ":10: resources[0].listen.tls.certificate_file: names " + dir + "/none.pem, which cannot be read: no such file or directory"},
		{"a credential that is a directory", resource("credential: {value_file: .}"), ":12: resources[0].credential.value_file: names " + dir + ", which is a directory and not a file"},

		{"a password in a store's URL", good + "approvals: {store: \"redis://:hunter2@redis:6379/0\"}\n", ":12: approvals.store: has a password in it: secrets are files, not configuration"},
		{"a password in a store's URL that cannot be read", good + "approvals: {store: \"redis://:hunter2@redis:x/0\"}\n", `:12: approvals.store: is "redis://…@redis:x/0": use embedded, or redis://HOST:PORT/DB or rediss://HOST:PORT/DB`},
		{"a webhook without a secret", good + "approvals: {webhook: {url: \"https://chat.example/hook\"}}\n", ":12: approvals.webhook.secret_file: is required"},
		{"a webhook over plain http", good + "approvals: {webhook: {url: \"http://chat.example/hook\", secret_file: value}}\n", `:12: approvals.webhook.url: is "http://chat.example/hook", which is plain http to another machine: use https, or set insecure: true beside it`},
		{"a webhook that is no URL", good + "approvals: {webhook: {url: \"ftp://u:hunter2@chat.example\", secret_file: value}}\n", `:12: approvals.webhook.url: is "ftp://…@chat.example": write https://HOST[:PORT][/PATH]`},
		{"a password in a webhook", good + "approvals: {webhook: {url: \"https://u:hunter2@chat.example\", secret_file: value}}\n", ":12: approvals.webhook.url: has a user or password in it: the receiver knows the gateway by the signature"},
		{"a password in a target", replace("https://payments", "https://u:hunter2@payments"), ":11: resources[0].target: has a user or password in it: use credential.value_file"},
		{"a password in a target that cannot be read", replace("https://payments", "ftp://u:hunter2@payments"), `:11: resources[0].target: is "ftp://…@payments.internal:8443": write https://HOST[:PORT]`},
		{"a password in an issuer", replace("https://idp", "https://u:hunter2@idp"), `:5: agents[0].issuer: is "https://…@idp.example.com": write the issuer's exact URL, https://HOST[/PATH]`},
		{"everything missing", "node: a", ": data: is required\n: policies: is required\n: agents: is required: name at least one issuer of access tokens, or nobody can act\n: resources: is required: name at least one target"},
		{
			"several things at once", "node: \"a b\"\ndata: ./var\npolicies: .\nagents: {}\nresources:\n  - name: a\n    kind: http\n    target: x\n    nmae: b\n    listen: {address: a}\n",
			`:1: node: is "a b": use up to 63 letters, digits, '-', '_' and '.'` + "\n" + `:4: agents: wants a list, not a mapping: write it as [value] or one "- value" a line` + "\n" +
				`:8: resources[0].target: is "x": write https://HOST[:PORT]` + "\n" + `:9: resources[0].nmae: is not a key that is known here: did you mean "name"?` + "\n" +
				`:10: resources[0].listen.address: is "a": write HOST:PORT or unix:PATH`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse(path, []byte(c.text))
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("no problems: %v", err)
			}
			got := strings.ReplaceAll(err.Error(), path+":", ":")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(got, "hunter2") {
				t.Error("a problem shows a password")
			}
		})
	}
}

// A duration of nothing that means something is not the default.
func TestADurationOfNothing(t *testing.T) {
	text := strings.Replace(good, "[countersign]", "[countersign]\n    skew: 0s\n    revoked: []", 1) +
		"    hold: 0s\n    timeout: 0s\napprovals: {hold: 0s}\nenvoy: {drain: 0s, concurrency: 0}\n"
	c, err := Parse(directory(t), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]Duration{"skew": c.Agents[0].Skew, "hold": c.Approvals.Hold, "the resource's hold": c.Resources[0].(*HTTP).Hold, "drain": c.Envoy.Drain} {
		if d.Std() != time.Nanosecond {
			t.Errorf("%s is %v, want as good as nothing", name, d.Std())
		}
	}
}

// Each of these is refused above without the key that says so.
func TestPlainTextWhereItIsAccepted(t *testing.T) {
	path := directory(t)
	for name, text := range map[string]string{
		"a loopback issuer":    strings.Replace(good, "https://idp.example.com", "http://127.0.0.1:9000", 1),
		"an insecure issuer":   strings.Replace(good, "https://idp.example.com", "http://idp.example.com\n    insecure: true", 1),
		"a loopback target":    strings.Replace(good, "https://payments.internal:8443", "http://[::1]:8443", 1),
		"an insecure target":   strings.Replace(good, "https://payments.internal:8443", "http://payments.internal\n    target_insecure: true", 1),
		"an insecure listener": strings.Replace(good, `"127.0.0.1:8080"`, `"0.0.0.0:8080", insecure: true`, 1),
		"a listener with TLS":  strings.Replace(good, `"127.0.0.1:8080"`, `"0.0.0.0:8080", tls: {certificate_file: cert.pem, key_file: key.pem}`, 1),
		"a loopback collector": good + "evidence: {otlp: {endpoint: \"localhost:4317\", insecure: true}}\n",
		"an insecure network":  good + "evidence: {otlp: {endpoint: \"c:4317\", insecure: true, insecure_network: true}}\n",
		"an insecure admin":    good + "listen: {admin: \"0.0.0.0:9440\", admin_insecure: true}\n",
		"a console's links":    good + "listen: {console: \"0.0.0.0:8443\", console_tls: {certificate_file: cert.pem, key_file: key.pem}}\napprovals: {console_url: \"https://approvals.example.com\"}\n",
		"no admin":             good + "listen: {admin: none}\n",
		"Envoy over mTLS":      good + "listen: {envoy: \"0.0.0.0:9000\", envoy_tls: {certificate_file: cert.pem, key_file: key.pem, client_ca_file: ca.pem}}\n",
		"a socket of 107":      good + "listen: {envoy: \"unix:/" + strings.Repeat("a", 106) + "\"}\n",
		"a loopback webhook":   good + "approvals: {webhook: {url: \"http://127.0.0.1:9/hook?a=b\", secret_file: value}}\n",
		"an insecure webhook":  good + "approvals: {webhook: {url: \"http://chat.example\", secret_file: value, insecure: true}}\n",
		"a store in Redis":     good + "approvals: {store: \"rediss://redis:6379/0\"}\n",
		"two hosts, one place": good + "  - {name: b, kind: http, listen: {address: \"127.0.0.1:8080\", host: b}, target: \"https://a\"}\n",
	} {
		if _, err := Parse(path, []byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLoadSaysWhatCannotBeRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := Load(path); err == nil || err.Error() != path+": cannot be read: no such file or directory" {
		t.Errorf("%v", err)
	}
}

func TestEveryFieldHasATagAndAComment(t *testing.T) {
	var sources []ast.Node
	for _, name := range []string{"config.go", "resource.go", "http.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if d, ok := d.(*ast.GenDecl); ok && d.Tok == token.TYPE && d.Doc.Text() != "" && !strings.HasPrefix(d.Doc.Text(), "Kind is") {
				sources = append(sources, d)
			}
		}
	}
	every := func(n ast.Node) bool {
		s, ok := n.(*ast.StructType)
		if !ok {
			return true
		}
		for _, f := range s.Fields.List {
			if len(f.Names) == 0 || !f.Names[0].IsExported() {
				continue
			}
			name := f.Names[0].Name
			if f.Tag == nil || reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("yaml") == "" {
				t.Errorf("%s has no yaml tag", name)
			}
			if f.Doc.Text() == "" && f.Comment.Text() == "" {
				t.Errorf("%s has no comment", name)
			}
		}
		return true
	}
	for _, n := range sources {
		ast.Inspect(n, every)
	}
}

func TestReferenceHasEveryKey(t *testing.T) {
	found := map[string]Key{}
	for _, k := range allKeys() {
		if k.Comment == "" || k.Type == "" {
			t.Errorf("%s: type %q, meaning %q", k.Path, k.Type, k.Comment)
		}
		if k.Kind != "" && strings.Count(k.Path, ".") == 0 {
			t.Errorf("%s is said to be of kind %s", k.Path, k.Kind)
		}
		if _, twice := found[k.Path]; twice {
			t.Errorf("%s stands twice", k.Path)
		}
		found[k.Path] = k
		if !strings.Contains(Reference(), "| `"+k.Path+"` | "+k.Type+" | ") {
			t.Errorf("%s is not in the reference", k.Path)
		}
	}
	for path, kind := range map[string]string{
		"data": "path", "agents": "list of mapping", "agents[].skew": "duration", "resources[].listen.tls.key_file": "path", "resources[].limits.headers": "size",
		"evidence.otlp.header_files": "mapping of names to text", "listen.admin": "address", "envoy.concurrency": "number", "resources[].paths": "list of text", "people.insecure": "true or false",
	} {
		if found[path].Type != kind {
			t.Errorf("%s is a %q, want %q", path, found[path].Type, kind)
		}
	}
}

// FuzzParse: nothing panics, what is refused says where, and what is accepted is accepted again with the same result.
func FuzzParse(f *testing.F) {
	path := directory(f)
	for _, s := range []string{good, "", "# only a comment", "---", "a: &a [*a]", "? [a]\n: b", "\xff", "%YAML 1.1\n---\na: b", "resources: [{listen: {address: \"[::1]:1\"}}]", good + "approvals: {store: \"redis://u:p@h\"}\n", good + "evidence: {otlp: {endpoint: \"unix:x\", header_files: {a: value}}}\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		first, err := Parse(path, text)
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 || first != nil {
				t.Fatalf("refused without problems: %v", err)
			}
			return
		}
		d := &decoder{dir: filepath.Dir(path), file: path, kinds: []Kind{KindHTTP}, lines: first.lines}
		first.setDefaults()
		if first.validate(d); len(d.problems) > 0 {
			t.Fatalf("accepted, and then not: %v", d.problems)
		}
		second, err := Parse(path, text)
		if err != nil || !reflect.DeepEqual(first, second) {
			t.Fatalf("another result the second time: %v", err)
		}
		for _, r := range Each[*HTTP](first) {
			if _, _, _, err := r.TargetAddress(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
