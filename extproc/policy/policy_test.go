package policy

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
	inspect "github.com/countersign/countersign/extproc/inspect/web"
)

// designPolicy is the example of the design, which the numbers there were measured with.
const designPolicy = `package rules.payments

allow contains {"id": "read"} if input.http.method == "GET"

ask contains {"id": "refund", "reason": "refunds need a person", "approvers": ["payments-oncall"], "quorum": 1} if {
	input.http.method == "POST"
	input.http.segments = ["v1", "payments", _, "refunds"]
}

deny contains {"id": "export", "reason": "no bulk export"} if input.http.segments[1] == "exports"

redact contains {"path": "$..ssn"} if not "pii-reader" in input.principal.groups

redact contains {"detect": "email", "with": "mask"}
`

// web is a Detail as package web makes it.
type web struct {
	method   string
	segments []string
	headers  gate.Object
	volatile gate.Object // header fields
	body     any
	bodies   string // of several values, canonical
}

func (web) Key() string { return "http" }

func (web) Recorded() gate.Object { return nil }

func (w web) Volatile() gate.Object {
	if w.volatile == nil {
		return nil
	}
	return gate.Object{{Name: "headers", Value: w.volatile}}
}

func (w web) Object() gate.Object {
	headers := w.headers
	if headers == nil {
		headers = gate.Object{{Name: "accept", Value: []string{"*/*"}}, {Name: "content-type", Value: []string{"application/json"}}}
	}
	o := gate.Object{
		{Name: "authority", Value: "payments.internal:8443"},
		{Name: "body", Value: w.body},
		{Name: "body_bytes", Value: int64(13)},
		{Name: "body_sha256", Value: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{Name: "body_streamed", Value: false},
		{Name: "form", Value: gate.Object{}},
		{Name: "headers", Value: headers},
		{Name: "host", Value: "payments.internal"},
		{Name: "method", Value: w.method},
		{Name: "path", Value: "/" + strings.Join(w.segments, "/")},
		{Name: "query", Value: gate.Object{}},
		{Name: "request_target", Value: "/" + strings.Join(w.segments, "/")},
		{Name: "scheme", Value: "https"},
		{Name: "segments", Value: w.segments},
		{Name: "trailers", Value: gate.Object{}},
	}
	if w.body == nil {
		o = slices.Delete(o, 1, 2)
	}
	if w.bodies != "" {
		o = slices.Insert(o, 1, gate.Member{Name: "bodies", Value: gate.Raw(w.bodies)})
	}
	return o
}

var clerk = &gate.Principal{
	Issuer: "https://idp.example.com", Subject: "agent-7", ClientID: "clerk", Kind: "agent",
	Groups: []string{"clerks"}, Roles: []string{"reader"},
	OnBehalfOf: &gate.Party{Issuer: "https://idp.example.com", Subject: "alice"},
	Actors:     []gate.Party{{Issuer: "https://idp.example.com", Subject: "agent-7"}},
	Claims: gate.Object{
		{Name: "aud", Value: []string{"countersign"}},
		{Name: "scope", Value: "payments.read payments.refund"},
		{Name: "tenant", Value: gate.Object{{Name: "id", Value: "t-1"}, {Name: "level", Value: json.Number("3")}}},
	},
}

// operation is a call of policy pkg.
func operation(pkg string, detail gate.Detail) *gate.Operation {
	return &gate.Operation{
		ID: "1", Principal: clerk, Protocol: "http", Detail: detail,
		Resource: gate.Resource{Name: "payments", Kind: "http", Policy: pkg, Labels: gate.Object{{Name: "data", Value: "pii"}}},
		Context: gate.Context{
			Time: time.Date(2026, 11, 23, 9, 30, 0, 0, time.UTC), RequestID: "r-1", Peer: "10.0.0.7:4711", Session: "s-1",
			TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		},
	}
}

func get(segments ...string) web { return web{method: "GET", segments: segments} }

// write puts files, named by their places, into a new directory.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		at := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// rego is one policy file, with the package clause for payments when it has none.
func rego(text string) map[string]string {
	if !strings.HasPrefix(text, "package ") {
		text = "package rules.payments\n\n" + text
	}
	return map[string]string{"payments.rego": text}
}

// httpKinds are the kinds of most tests.
var httpKinds = []Kind{{Name: "http", Doc: "the request, for a resource of kind http", Detail: inspect.Schema{}, Body: "body", Bodies: "bodies", Redact: []gate.Selector{gate.ByPath, gate.ByDetect}}}

// of are packages that resources of kind http name.
func of(names ...string) map[string][]string {
	packages := map[string][]string{}
	for _, name := range names {
		packages[name] = []string{"http"}
	}
	return packages
}

func anyRedaction(gate.Redaction) error { return nil }

func load(t testing.TB, o Options, files map[string]string) *Set {
	t.Helper()
	s, err := tryLoad(t, o, files)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tryLoad(t testing.TB, o Options, files map[string]string) (*Set, error) {
	t.Helper()
	o.Path = write(t, files)
	if o.Packages == nil {
		o.Packages = of("payments")
	}
	if o.Kinds == nil {
		o.Kinds = httpKinds
	}
	if o.CheckRedaction == nil {
		o.CheckRedaction = anyRedaction
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute // on a machine that does other things as well
	}
	return Load(t.Context(), o)
}

func TestDesignPolicy(t *testing.T) {
	s := load(t, Options{}, rego(designPolicy))
	email := gate.Redaction{Detect: "email", With: gate.Mask}
	ssn := gate.Redaction{Path: "$..ssn", With: gate.Mask}
	read := gate.Rule{Package: "payments", ID: "read"}
	refund := gate.Rule{Package: "payments", ID: "refund", Reason: "refunds need a person"}
	export := gate.Rule{Package: "payments", ID: "export", Reason: "no bulk export"}
	for _, c := range []struct {
		name string
		call web
		want gate.Verdict
	}{
		{"a read is allowed, with redactions", get("v1", "payments"), gate.Verdict{
			Effect: gate.Allow, Rules: []gate.Rule{read}, Redactions: []gate.Redaction{email, ssn},
		}},
		{"a refund needs a person", web{method: "POST", segments: []string{"v1", "payments", "7", "refunds"}}, gate.Verdict{
			Effect: gate.Ask, Rules: []gate.Rule{refund},
			Asks:       []gate.AskRule{{Rule: refund, Approvers: []string{"payments-oncall"}, Quorum: 1}},
			Redactions: []gate.Redaction{email, ssn},
		}},
		{"an export is denied although reads are allowed", get("v1", "exports"), gate.Verdict{Effect: gate.Deny, Rules: []gate.Rule{export}}},
		{"nothing is said of a deletion, so it is denied", web{method: "DELETE", segments: []string{"v1"}}, gate.Verdict{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := s.Evaluate(t.Context(), operation("payments", c.call))
			if err != nil {
				t.Fatal(err)
			}
			c.want.PolicyDigest, c.want.RulesDigest = s.Digest(), s.RulesDigest("payments")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What each package of a resource cannot see to be right is refused before it is used, with the place and the fix.
func TestLoadRefuses(t *testing.T) {
	allow := "allow contains {\"id\": \"read\"}\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"a default", rego("default allow := false\n\n" + allow), "payments.rego:3:1: allow has a default"},
		{"a boolean allow", rego("allow if input.http.method == \"GET\""), "payments.rego:3:1: allow is a single value"},
		{"a boolean deny", rego(allow + "deny if input.http.method == \"GET\""), "payments.rego:4:1: deny is a single value"},
		{"a deny that is an object", rego(allow + "deny := {\"id\": \"x\"}"), "deny is a single value"},
		{"a deny that is a map", rego(allow + "deny[\"x\"] := {\"id\": \"x\"}"), "deny has members of its own"},
		{"a deny that is a map of sets", rego(allow + "deny.x contains {\"id\": \"x\"}"), "deny has members of its own"},
		{"a deny by a computed name", rego(allow + "deny[x] contains {\"id\": \"x\"} if some x in [\"a\"]"), "deny has members of its own"},
		{"a function called redact", rego(allow + "redact(x) := x"), "redact is a function"},
		{"a misspelled set", rego(allow + "denies contains {\"id\": \"x\"}"), "payments.rego:4:1: the set denies is never evaluated; did you mean deny?"},
		{"a set in capitals", rego(allow + "Deny contains {\"id\": \"x\"}"), "did you mean deny?"},
		{"swapped letters", rego(allow + "aks contains {\"id\": \"x\"}"), "did you mean ask?"},
		{"one letter off", rego(allow + "redatc contains {\"path\": \"$.x\"}"), "did you mean redact?"},
		{"a string for an element", rego(`allow contains "x"`), "an element of allow is a string, not an object"},
		{"a list for an element", rego(`deny contains [input.http.path]`), "an element of deny is a array"},
		{"an unknown name", rego(`allow contains {"id": "x", "raison": "y"}`), `payments.rego:3:28: an element of allow has the unknown name "raison"`},
		{"an unknown name beside a computed value", rego(`allow contains {"id": input.http.path, "x": 1}`), `unknown name "x"`},
		{"approvers in an allow", rego(`allow contains {"id": "x", "approvers": ["a"]}`), `unknown name "approvers"`},
		{"no id", rego(`allow contains {"reason": "y"}`), "has no id"},
		{"an empty id", rego(`allow contains {"id": ""}`), "id of an element of allow is empty"},
		{"an id with a line break", rego(`allow contains {"id": "a\nb"}`), "control character"},
		{"a number for a reason", rego(`deny contains {"id": "x", "reason": 7}`), "reason of an element of deny is a number, not text"},
		{"a number for a summary", rego(`ask contains {"id": "x", "approvers": ["a"], "summary": 7}`), "summary of an element of ask is a number, not text"},
		{"a summary of 301 bytes", rego(`ask contains {"id": "x", "approvers": ["a"], "summary": "` + strings.Repeat("x", 301) + `"}`), "payments.rego:3:46: summary of an element of ask is longer than 300 bytes"},
		{"a summary in an allow", rego(`allow contains {"id": "x", "summary": "y"}`), `an element of allow has the unknown name "summary"`},
		{"ask without approvers", rego(`ask contains {"id": "x"}`), "has no approvers"},
		{"ask with empty approvers", rego(`ask contains {"id": "x", "approvers": []}`), "nobody could approve"},
		{"ask with a text for approvers", rego(`ask contains {"id": "x", "approvers": "all"}`), "is a string, not a list"},
		{"ask with an empty approver", rego(`ask contains {"id": "x", "approvers": [""]}`), "has an entry that is empty"},
		{"an approver of no subject", rego(`ask contains {"id": "x", "approvers": ["subject:"]}`), "names nobody"},
		{"an approver of a subject with a space before it", rego(`ask contains {"id": "x", "approvers": ["subject: bob"]}`), "names nobody"},
		{"a subject in capitals", rego(`ask contains {"id": "x", "approvers": ["Subject:bob"]}`), "is the name of a group"},
		{"a subject with a space", rego(`ask contains {"id": "x", "approvers": ["subject :bob"]}`), "is the name of a group"},
		{"a duplicate approver", rego(`ask contains {"id": "x", "approvers": ["a", "a"]}`), `has "a" twice`},
		{"a negative quorum", rego(`ask contains {"id": "x", "approvers": ["a"], "quorum": -1}`), "quorum of an element of ask is -1"},
		{"a quorum of nobody", rego(`ask contains {"id": "x", "approvers": ["a"], "quorum": 0}`), "quorum of an element of ask is 0"},
		{"a fractional quorum", rego(`ask contains {"id": "x", "approvers": ["a"], "quorum": 1.5}`), "is 1.5, not a whole number"},
		{"a huge quorum", rego(`ask contains {"id": "x", "approvers": ["a"], "quorum": 11}`), "not a whole number from 1 to 10"},
		{"redact with path and detect", rego(`redact contains {"path": "$.a", "detect": "email"}`), "exactly one of path, detect and column"},
		{"redact with neither", rego(`redact contains {"with": "mask"}`), "exactly one of path, detect and column"},
		{"redact with use of no column", rego(`redact contains {"path": "$.a", "use": true}`), "use, which is for columns"},
		{"redact with a card that is no boolean", rego(`redact contains {"path": "$.a", "card": "no"}`), "card of an element of redact is a string, not true or false"},
		{"a card of another set", rego(`allow contains {"id": "y", "card": false}`), `unknown name "card"`},
		{"redact with an unknown replacement", rego(`redact contains {"path": "$.a", "with": "hide"}`), `is "hide", not one of`},
		{"a redaction that cannot be done", rego(`redact contains {"path": "bad"}`), `redact "bad": no such path`},
		{"a limit that limits nothing", rego(`limit contains {}`), "an element of limit limits nothing"},
		{"a limit of no rows", rego(`limit contains {"rows": 0}`), "payments.rego:3:17: rows of an element of limit is 0, not a whole number from 1"},
		{"a limit of a part of a row", rego(`limit contains {"rows": 1.5}`), "is 1.5, not a whole number"},
		{"a limit of a text", rego(`limit contains {"bytes": "1MiB"}`), "bytes of an element of limit is a string, not a number"},
		{"a limit of no time", rego(`limit contains {"seconds": 0}`), "seconds of an element of limit is 0, not a number of seconds"},
		{"a limit of a month", rego(`limit contains {"seconds": 2592000}`), "not a number of seconds from 0.001 to 2147483"},
		{"a limit that is no boolean", rego(`limit contains {"read_only": "yes"}`), "read_only of an element of limit is a string, not true or false"},
		{"an unknown limit", rego(`limit contains {"row": 5}`), `an element of limit has the unknown name "row"; it is {"rows": …}`},
		{"a limit with an id", rego(`limit contains {"id": "x", "rows": 5}`), `an element of limit has the unknown name "id"`},
		{"rows in an allow", rego(`allow contains {"id": "x", "rows": 5}`), `an element of allow has the unknown name "rows"`},
		{"a limit that is a single value", rego(allow + "limit := 7"), "limit is a single value"},
		{"limits", rego(allow + `limits contains {"rows": 5}`), "did you mean limit?"},
		{"a limit of a kind that has none", rego(allow + `limit contains {"rows": 5}`), `nothing can be limited by rows for resources of kind "http", which package rules.payments rules on. Take the rule out`},
		{"a schema on the network", rego("deny contains {\"id\": \"x\"} if json.match_schema(input.http.body, {\"$ref\": \"http://127.0.0.1/\"})[0]"), "a schema can refer to the network"},
		{"an unknown input", rego(`deny contains {"id": "x"} if input.htp.method == "GET"`), "payments.rego:3:30: rego_type_error: undefined ref: input.htp.method"},
		{"an unknown member of the request", rego(`deny contains {"id": "x"} if input.http.verb == "GET"`), "undefined ref: input.http.verb"},
		{"a comparison that never holds", rego(`deny contains {"id": "x"} if input.http.method == 1`), "rego_type_error"},
		{"the network", rego(`deny contains {"id": "x"} if http.send({"method": "GET", "url": "x"}).status_code == 200`), "policies have no network"},
		{"the clock", rego(`deny contains {"id": "x"} if time.now_ns() > 0`), "input.context.time"},
		{"the environment", rego(`deny contains {"id": "x"} if opa.runtime().env.HOME == "x"`), "do not see the gateway's environment"},
		{"dice", rego(`deny contains {"id": "x"} if rand.intn("x", 2) == 1`), "not random"},
		{"an unused variable", rego("deny contains {\"id\": \"x\"} if {\n\tx := 1\n\tinput.http.method == \"GET\"\n}"), "assigned var x unused"},
		{"a syntax error", rego("deny contains {"), "payments.rego:3:15: rego_parse_error"},
		{"Rego version 0", rego(`deny[x] { x := {"id": "x"} }`), "rego_parse_error"},
		{"an empty file", rego("package rules.payments\n\n" + allow), ""},
		{"a file without a package", map[string]string{"payments.rego": "# nothing"}, "empty module"},
		{"a not that an agent can make vanish", rego(allow + `deny contains {"id": "x"} if not startswith(input.http.segments[1], "a")`), "payments.rego:4:30: when there is no input.http.segments[1], this `not` does not hold"},
		{"a not in before a claim", rego(allow + `ask contains {"id": "x", "approvers": ["a"]} if not input.principal.claims.level in {1, 2}`), "no input.principal.claims.level"},
		{"a not before an order", rego(allow + `deny contains {"id": "x"} if not input.http.body.amount < 10`), "no input.http.body.amount"},
		{"a not before a body that may not be there", rego(allow + `deny contains {"id": "x"} if not is_object(input.http.body)`), "no input.http.body"},
		{"a not before a nested call", rego(allow + `deny contains {"id": "x"} if not lower(input.http.headers.a[0]) == "b"`), "no input.http.headers.a[0]"},
		{"a not inside a comprehension", rego(allow + `redact contains {"path": "$.a"} if count([1 | not startswith(input.http.body.a, "b")]) > 0`), "no input.http.body.a"},
		{"a not before a looked-up name", rego(allow + `deny contains {"id": "x"} if not data.known[input.http.body.name]`), "no input.http.body.name"},
		{"the better not", rego("package rules.payments\n\nimport future.keywords.not\n\n" + allow + `deny contains {"id": "x"} if not startswith(input.http.segments[1], "a")`), ""},
		{"a not before what is always there", rego(allow + `deny contains {"id": "x"} if not startswith(input.http.path, "/a")`), ""},
		{"a not before a comparison", rego(allow + `deny contains {"id": "x"} if not input.http.body.name == "a"`), ""},
		{"a not in an allow, where the old meaning refuses", rego(`allow contains {"id": "x"} if not startswith(input.http.segments[1], "a")`), ""},
		{"a missing package", rego("package rules.other\n\n" + allow), `no rules for policy "payments": nothing defines allow, ask, deny, redact or limit in package rules.payments`},
		{"a misspelled package", map[string]string{"payment.rego": "package rules.payment\n\n" + allow}, `no rules for policy "payments": nothing defines allow, ask, deny, redact or limit in package rules.payments; there are rules for "payment"`},
		{"a package without sets", rego("x := 1"), `no rules for policy "payments"`},
		{"a rule in the place of a package", rego("package rules\n\npayments := {\"allow\": [{\"id\": \"x\"}]}"), "data.rules.payments is a rule where a package belongs"},
		{"a set by a computed package", rego("package rules\n\n[x].deny contains {\"id\": \"x\"} if some x in [\"payments\"]"), "rego_parse_error"},
		{"a set one deeper", map[string]string{"a.rego": "package rules.payments\n\n" + allow, "b.rego": "package rules.payments.eu\n\ndeny contains {\"id\": \"x\"}"}, "data.rules.payments.eu.deny is never evaluated"},
		{"a set in a test file", map[string]string{"a.rego": "package rules.payments\n\n" + allow, "a_test.rego": "package rules.payments\n\ndeny contains {\"id\": \"x\"}"}, "a_test.rego:3:1: deny is defined in a test file"},
		{"a misspelled global", map[string]string{"a.rego": "package rules.payments\n\n" + allow, "b.rego": "package rules.globals\n\ndeny contains {\"id\": \"x\"}"}, "did you mean rules.global?"},
		{"data that allows", map[string]string{"a.rego": "package rules.payments\n\n" + allow, "rules/payments/deny/data.json": `{}`}, "only rules can allow"},
		{"data that allows, written at the top", map[string]string{"a.rego": "package rules.payments\n\n" + allow, "data.json": `{"rules": {"payments": {"ask": []}}}`}, "only rules can allow"},
		{"a name twice in JSON", map[string]string{"a.rego": "package rules.payments\n\n" + allow, "data.json": "{\"a\": 1,\n\"a\": 2}"}, "data.json:2:1: not JSON that can be trusted"},
		{"a name twice in YAML", map[string]string{"a.rego": "package rules.payments\n\n" + allow, "data.yaml": "a: 1\na: 2\n"}, `data.yaml:2:1: a stands here a second time: the first is on line 1`},
		{"two YAML documents", map[string]string{"a.rego": "package rules.payments\n\n" + allow, "data.yaml": "a: 1\n---\nb: 2\n"}, "data.yaml:2:1: a second document begins here"},
		{"a YAML merge key", map[string]string{"a.rego": "package rules.payments\n\n" + allow, "data.yaml": "a: &a {x: 1}\nb:\n  <<: *a\n"}, "data.yaml:3:1: a key must be plain text"},
		{"two files for one place", map[string]string{"a.rego": "package rules.payments\n\n" + allow, "a.json": `{"a": 1}`, "b.json": `{"a": 2}`}, "data.a is also in another file"},
		{"data where a rule is", map[string]string{"a.rego": "package rules.payments\n\n" + allow + "limit := 1", "rules/payments/data.json": `{"limit": 2}`}, "conflicting rule"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := tryLoad(t, Options{CheckRedaction: func(r gate.Redaction) error {
				if r.Path == "bad" {
					return errors.New("no such path")
				}
				return nil
			}}, c.files)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var problems *Problems
			if !errors.As(err, &problems) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("loaded with error %v; want problems with %q", err, c.want)
			}
		})
	}
}

func TestLoadReportsEverythingAtOnce(t *testing.T) {
	_, err := tryLoad(t, Options{Packages: of("payments", "nowhere")}, map[string]string{
		"a.rego":    "package rules.payments\n\nallow if true\n\ndeny contains {\"id\": \"\"}\n\nask contains {\"id\": \"x\", \"approvers\": [input.htp]}\n",
		"b.rego":    "package rules.payments\n\nredact contains {\"path\": input.nothing}\n",
		"data.json": "{",
	})
	var problems *Problems
	if !errors.As(err, &problems) {
		t.Fatalf("loaded with error %v", err)
	}
	var got []string
	for _, p := range problems.Problems {
		got = append(got, filepath.Base(p.File)+":"+strings.SplitN(p.Message, ":", 2)[0])
	}
	if len(got) != 6 {
		t.Errorf("%d problems, want 6:\n%v", len(got), err)
	}
}

func TestFairNamesAreNotTakenForSets(t *testing.T) {
	load(t, Options{}, rego(`allow contains {"id": "x"}

task contains "a"

mask contains "b"

denied if input.http.method == "GET"

dents contains "c"

allowed_hosts contains "d"

asset contains "e"
`))
}

// The zero value of every part refuses.
func TestZeroRefuses(t *testing.T) {
	s := load(t, Options{}, rego(designPolicy))
	for _, c := range []struct {
		name string
		op   *gate.Operation
	}{
		{"no operation to speak of", &gate.Operation{}},
		{"no principal", func() *gate.Operation { op := operation("payments", get()); op.Principal = nil; return op }()},
		{"no policy", operation("", get("v1"))},
		{"an unknown policy", operation("payment", get("v1"))},
		{"global as a resource's policy where there is none", operation("global", get("v1"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := s.Evaluate(t.Context(), c.op)
			if err == nil || v.Effect != gate.Deny || v.PolicyDigest != s.Digest() {
				t.Errorf("verdict %+v, error %v", v, err)
			}
		})
	}
	t.Run("no way to check a redaction", func(t *testing.T) {
		_, err := Load(t.Context(), Options{Path: write(t, rego(designPolicy)), Kinds: httpKinds, Packages: of("payments")})
		if err == nil || !strings.Contains(err.Error(), "nothing here can redact") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a resource without a policy", func(t *testing.T) {
		if _, err := tryLoad(t, Options{Packages: of("")}, rego(designPolicy)); err == nil {
			t.Error("loaded")
		}
	})
}

// Each of these policies would let the call through if its mistake were passed over.
func TestMistakesDeny(t *testing.T) {
	allow := "allow contains {\"id\": \"any\"}\n\n"
	slow := "allow contains {\"id\": \"any\"}\n\ndeny contains {\"id\": \"x\"} if count([1 | some a in numbers.range(1, 9000); some b in numbers.range(1, 9000); a * b < 0]) > 0"
	for _, c := range []struct {
		name, rego, want string
	}{
		{"a built-in error in a deny rule", allow + `deny contains {"id": "x"} if to_number(input.http.method) > 1`, "to_number"},
		{"a built-in error under not", allow + `deny contains {"id": "x"} if not json.unmarshal(input.http.method).x`, "json.unmarshal"},
		{"a division by zero", allow + `deny contains {"id": "x"} if 1 / (count(input.http.method) - 3) > 1`, "divide by zero"},
		{"two values for one rule", allow + "most := 1 if input.http.method == \"GET\"\n\nmost := 2 if input.http.method != \"PUT\"\n\ndeny contains {\"id\": \"x\"} if most > 2", "conflict"},
		{"two results for one call", allow + "f(x) := 1 if x\n\nf(x) := 2 if x != false\n\ndeny contains {\"id\": \"x\"} if f(true) == 7", "conflict"},
		{"an evaluation that does not end", slow, "longer than"},
		{"a range that does not end", allow + `deny contains {"id": "x"} if count(numbers.range(1, 100000000000)) == 0`, "longer than"},
		{"an unknown name that was computed", allow + `deny contains {concat("", ["i", "d"]): "x", "id2": "y"} if not input.http.body`, ""},
		{"a computed element with an extra name", `allow contains x if x := {"id": "any", "unless": input.http.method}`, `unknown name "unless"`},
		{"a computed element without an id", `allow contains x if x := {"reason": input.http.method}`, "has no id"},
		{"a computed string for an element", `allow contains input.http.method`, "is a string, not an object"},
		{"a computed id that is empty", `allow contains {"id": trim(input.http.method, "GET")}`, "is empty"},
		{"a computed id that is a number", `allow contains {"id": count(input.http.method)}`, "is a number, not text"},
		{"a computed id that is too long", `allow contains {"id": concat("", ["x" | some _ in numbers.range(1, 200)])}`, "longer than"},
		{"a computed quorum that is negative", allow + `ask contains {"id": "x", "approvers": ["a"], "quorum": 1 - count(input.http.method)}`, "is -2"},
		{"computed approvers that are empty", allow + `ask contains {"id": "x", "approvers": [g | some g in input.principal.groups; g == "none"]}`, "nobody could approve"},
		{"a computed summary that is a number", allow + `ask contains {"id": "x", "approvers": ["a"], "summary": count(input.http.method)}`, "summary of an element of ask is a number, not text"},
		{"a computed summary that is too long", allow + `ask contains {"id": "x", "approvers": ["a"], "summary": sprintf("%0301d", [1])}`, "summary of an element of ask is longer than 300 bytes"},
		{"a computed duplicate approver", allow + `ask contains {"id": "x", "approvers": ["clerks", input.principal.groups[0]]}`, "twice"},
		{"approvers that are a set", allow + `ask contains {"id": "x", "approvers": {g | some g in input.principal.groups}}`, "is a set, not a list"},
		{"a computed redaction that cannot be done", allow + `redact contains {"path": concat("", ["b", "ad"])}`, "no such path"},
		{"a computed replacement", allow + `redact contains {"path": "$.a", "with": lower(input.http.method)}`, `is "get", not one of`},
		{"more elements than anybody reads", `allow contains {"id": sprintf("%d", [x])} if some x in numbers.range(1, 2000)`, "more than 1000 elements"},
	} {
		t.Run(c.name, func(t *testing.T) {
			timeout := time.Duration(0)
			if strings.HasSuffix(c.name, "does not end") {
				timeout = defaultTimeout
			}
			s, err := tryLoad(t, Options{Timeout: timeout, CheckRedaction: func(r gate.Redaction) error {
				if r.Path == "bad" {
					return errors.New("no such path")
				}
				return nil
			}}, rego(c.rego))
			if err != nil {
				if c.want == "" {
					return // seen at load: as good
				}
				t.Fatal(err)
			}
			v, err := s.Evaluate(t.Context(), operation("payments", get("v1")))
			if err == nil || !strings.Contains(err.Error(), c.want) || v.Effect != gate.Deny {
				t.Errorf("verdict %+v, error %v; want an error with %q", v, err, c.want)
			}
		})
	}
}

func TestGlobalCountsAlways(t *testing.T) {
	files := map[string]string{
		"payments.rego": "package rules.payments\n\nallow contains {\"id\": \"any\"}\n\nredact contains {\"path\": \"$.a\", \"with\": \"token\"}",
		"global.rego":   "package rules.global\n\ndeny contains {\"id\": \"no-delete\"} if input.http.method == \"DELETE\"\n\nredact contains {\"path\": \"$.a\", \"with\": \"null\"}",
	}
	s := load(t, Options{}, files)
	v, err := s.Evaluate(t.Context(), operation("payments", web{method: "DELETE"}))
	if err != nil || v.Effect != gate.Deny || len(v.Rules) != 1 || v.Rules[0] != (gate.Rule{Package: "global", ID: "no-delete"}) {
		t.Errorf("verdict %+v, error %v", v, err)
	}
	v, err = s.Evaluate(t.Context(), operation("payments", get("v1")))
	if err != nil || v.Effect != gate.Allow {
		t.Fatalf("verdict %+v, error %v", v, err)
	}
	if diff := cmp.Diff([]gate.Redaction{{Path: "$.a", With: gate.Null}}, v.Redactions); diff != "" {
		t.Errorf("the stronger of two redactions holds:\n%s", diff)
	}
}

func TestOddPackageNames(t *testing.T) {
	for _, name := range []string{"payments-eu", "payments.eu", "if", "Zahlungen für 2026", `a"b`} {
		quoted, err := json.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		files := rego("package rules[" + string(quoted) + "]\n\nallow contains {\"id\": \"any\"}")
		s, err := tryLoad(t, Options{Packages: of(name)}, files)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if v, err := s.Evaluate(t.Context(), operation(name, get("v1"))); err != nil || v.Effect != gate.Allow {
			t.Errorf("%q: verdict %+v, error %v", name, v, err)
		}
	}
	_, err := tryLoad(t, Options{Packages: of("payments.eu")}, rego(designPolicy))
	if err == nil || !strings.Contains(err.Error(), `its package is rules["payments.eu"]`) {
		t.Errorf("error %v", err)
	}
}

func TestEvaluationEndsWithItsContext(t *testing.T) {
	s := load(t, Options{Timeout: time.Hour}, rego("allow contains {\"id\": \"any\"} if count(numbers.range(1, 100000000000)) == 0"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if v, err := s.Evaluate(ctx, operation("payments", get("v1"))); !errors.Is(err, context.DeadlineExceeded) || v.Effect != gate.Deny {
		t.Errorf("verdict %+v, error %v", v, err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	quick := load(t, Options{}, rego(designPolicy))
	if _, err := quick.Evaluate(done, operation("payments", get("v1"))); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v from a context that was done before", err)
	}
}

// detail is a Detail of any name and any members.
type detail struct {
	key    string
	object gate.Object
}

func (d detail) Key() string         { return d.key }
func (d detail) Object() gate.Object { return d.object }

func (detail) Volatile() gate.Object { return nil }

func (detail) Recorded() gate.Object { return nil }

func TestUncanonicalOperations(t *testing.T) {
	s := load(t, Options{}, rego("allow contains {\"id\": \"any\"}"))
	for _, c := range []struct {
		name   string
		detail gate.Detail
	}{
		{"a name twice", detail{"http", gate.Object{{Name: "method", Value: "GET"}, {Name: "method", Value: "DELETE"}}}},
		{"names out of order", detail{"http", gate.Object{{Name: "path", Value: "/"}, {Name: "method", Value: "GET"}}}},
		{"text that is not UTF-8", detail{"http", gate.Object{{Name: "path", Value: "\xff"}}}},
		{"a value that is none", detail{"http", gate.Object{{Name: "path", Value: struct{}{}}}}},
		{"a context of its own", detail{"context", gate.Object{{Name: "time", Value: "2000-01-01"}}}},
		{"a principal of its own", detail{"principal", gate.Object{{Name: "subject", Value: "root"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if v, err := s.Evaluate(t.Context(), operation("payments", c.detail)); err == nil || v.Effect != gate.Deny {
				t.Errorf("verdict %+v, error %v", v, err)
			}
		})
	}
}

func TestPanicDenies(t *testing.T) {
	s := load(t, Options{CheckRedaction: func(gate.Redaction) error { panic("no") }},
		rego("allow contains {\"id\": \"any\"}\n\nredact contains {\"path\": concat(\"\", [\"$.\", input.http.host])}"))
	v, err := s.Evaluate(t.Context(), operation("payments", get("v1")))
	if err == nil || !strings.Contains(err.Error(), "the policy engine failed: no") || v.Effect != gate.Deny {
		t.Errorf("verdict %+v, error %v", v, err)
	}
}

func TestDeepAndHugeInputs(t *testing.T) {
	s := load(t, Options{}, rego("allow contains {\"id\": \"any\"}\n\ndeny contains {\"id\": \"x\"} if {\n\twalk(input.http.body, [_, v])\n\tv == \"stop\"\n}\n\ndeny contains {\"id\": \"much\"} if input.http.body.amount * 2 > 10"))
	nest := func(depth int) any {
		var v any = "stop"
		for range depth {
			v = []any{v}
		}
		return v
	}
	for _, c := range []struct {
		name   string
		body   any
		effect gate.Effect
		fails  bool
	}{
		{"nested as deep as is read", nest(maxDepth - 10), gate.Deny, false},
		{"nested deeper", nest(maxDepth + 10), gate.Deny, true},
		{"a number of a million digits", gate.Object{{Name: "amount", Value: json.Number("1e999999")}}, gate.Deny, true},
		{"a number of a million zeros", gate.Object{{Name: "amount", Value: json.Number("1e-999999")}}, gate.Deny, true},
		{"a number of a thousand digits", gate.Object{{Name: "amount", Value: json.Number(strings.Repeat("7", 1000))}}, gate.Deny, true},
		{"the largest number that is read", gate.Object{{Name: "amount", Value: json.Number("1e400")}}, gate.Deny, false},
		{"the smallest number that is read", gate.Object{{Name: "amount", Value: json.Number("1e-400")}}, gate.Allow, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := s.Evaluate(t.Context(), operation("payments", web{method: "POST", body: c.body}))
			if v.Effect != c.effect || (err != nil) != c.fails {
				t.Errorf("verdict %+v, error %v", v, err)
			}
		})
	}
}

func TestStaticHints(t *testing.T) {
	s := load(t, Options{Packages: of("a", "b", "c", "d", "e")}, map[string]string{
		"a.rego": "package rules.a\n\nallow contains {\"id\": \"x\"} if input.http.method == \"GET\"",
		"b.rego": "package rules.b\n\nimport data.lib\n\nallow contains {\"id\": \"x\"} if lib.small",
		"c.rego": "package rules.c\n\nallow contains {\"id\": \"x\"}\n\nredact contains {\"path\": \"$.a\"}",
		"d.rego": "package rules.d\n\nallow contains {\"id\": \"x\"} if input.http.multipart[0].bytes == 1",
		"e.rego": "package rules.e\n\nallow contains {\"id\": \"x\"} if input.http.form.a",
		"l.rego": "package lib\n\nsmall if input.http.body.amount < 10",
	})
	for _, c := range []struct {
		pkg          string
		redact, body bool
	}{{"a", false, false}, {"b", false, true}, {"c", true, false}, {"d", false, true}, {"e", false, true}, {"nowhere", true, true}} {
		if s.MayRedact(c.pkg) != c.redact || s.LooksAt(c.pkg, inspect.BodyMembers...) != c.body {
			t.Errorf("%s: may redact %v, needs body %v; want %v, %v", c.pkg, s.MayRedact(c.pkg), s.LooksAt(c.pkg, inspect.BodyMembers...), c.redact, c.body)
		}
	}
	with := load(t, Options{}, map[string]string{"a.rego": "package rules.payments\n\nallow contains {\"id\": \"x\"}", "g.rego": "package rules.global\n\nredact contains {\"path\": \"$.a\"}"})
	if !with.MayRedact("payments") || with.MayAsk("payments") {
		t.Error("a redact rule of global may redact every answer, and asks nobody")
	}
	asks := load(t, Options{}, map[string]string{"a.rego": "package rules.payments\n\nallow contains {\"id\": \"x\"}", "g.rego": "package rules.global\n\nask contains {\"id\": \"y\", \"approvers\": [\"a\"]}"})
	if !asks.MayAsk("payments") || asks.MayRedact("payments") {
		t.Error("an ask rule of global may ask about every operation, and redacts nothing")
	}
}

func TestDataFiles(t *testing.T) {
	s := load(t, Options{}, map[string]string{
		"payments.rego": `package rules.payments

allow contains {"id": "any"} if {
	data.limits.amount == 10.50
	data.limits.names == ["x", "no", "2026-01-01"]
	data.teams.oncall.alice == null
	data.hex == 31
}
`,
		"limits/a.yaml":      "# limits\namount: 10.50\nnames: [x, \"no\", 2026-01-01]\n",
		"teams/oncall.json":  `{"oncall": {"alice": null}}`,
		"top.yml":            "hex: 0x1F\nagain: &a {x: 1}\nonce: *a\n",
		"empty.yaml":         "",
		"input.schema.json":  `{"limits": 3}`,
		"README.md":          "not read",
		".hidden/data.json":  `{"limits": 3}`,
		".hidden.rego":       "package rules.payments\n\ndeny contains {\"id\": \"x\"}",
		"payments_test.rego": "package rules.payments_test\n\ntest_x if true",
	})
	if v, err := s.Evaluate(t.Context(), operation("payments", get("v1"))); err != nil || v.Effect != gate.Allow {
		t.Errorf("verdict %+v, error %v", v, err)
	}
}
