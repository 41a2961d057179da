package policy

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
	inspect "github.com/countersign/countersign/extproc/inspect/web"
)

// tcpSchema is the detail of a second kind.
type tcpSchema struct {
	Port int    `json:"port"`
	SNI  string `json:"sni,omitempty"`
}

var twoKinds = []Kind{{Name: "http", Detail: inspect.Schema{}, Redact: []gate.Selector{gate.ByPath, gate.ByDetect}}, {Name: "tcp", Detail: tcpSchema{}, Limit: []gate.Limit{gate.LimitRows, gate.LimitSeconds}}}

// tcp is a Detail of it.
type tcp struct{ port int64 }

func (tcp) Key() string { return "tcp" }

func (c tcp) Object() gate.Object { return gate.Object{{Name: "port", Value: c.port}} }

func (tcp) Volatile() gate.Object { return nil }

func (tcp) Recorded() gate.Object { return nil }

func connection(pkg string, port int64) *gate.Operation {
	op := operation(pkg, tcp{port})
	op.Resource.Kind = "tcp"
	return op
}

// bothKinds load with a resource of each kind, payments and ledger.
func bothKinds(t testing.TB, files map[string]string) (*Set, error) {
	t.Helper()
	for _, name := range []string{"payments", "ledger"} {
		if files[name+".rego"] == "" {
			files[name+".rego"] = "package rules." + name + "\n\nallow contains {\"id\": \"any\"}\n"
		}
	}
	return tryLoad(t, Options{Kinds: twoKinds, Packages: map[string][]string{"payments": {"http"}, "ledger": {"tcp"}}}, files)
}

// TestAbsenceOfADetail: in global and in what it refers to, a rule is for one kind by what it says, or for all; none says
// something of a kind, or nothing, because the detail of another is not there.
func TestAbsenceOfADetail(t *testing.T) {
	const better = "import future.keywords.not\n\n"
	lib := `package lib

words contains lower(s) if some s in input.http.segments

reads if input.http.method in {"GET", "HEAD"}

default inside := false

inside if startswith(input.http.host, "internal.")

default level := "low"

level := "high" if input.http.method == "DELETE"

is_http if input.resource.kind == "http"

target := input.http.host if is_http

target := input.tcp.sni if input.resource.kind == "tcp"

allowed if {
	input.resource.kind == "http"
	startswith(input.http.path, "/v1")
}

allowed if {
	input.resource.kind == "tcp"
	input.tcp.port == 5432
}

known if input.http.method == "GET"

known if "admins" in input.principal.groups

shown := sprintf("%s", [input.http.path])

size(x) := count(x.segments)

first(n) := input.http.segments[n]

graded := "http" if {
	input.http.method == "DELETE"
} else := "other"

split := "a" if {
	input.resource.kind == "http"
	input.http.method == "DELETE"
} else := "b"

not_v1 if not startswith(input.http.path, "/v1")
`
	for _, c := range []struct{ name, rule, problem string }{
		{"a condition on a detail", `deny contains {"id": "x"} if input.http.method == "DELETE"`, ""},
		{"the kind said", `deny contains {"id": "x"} if {` + "\n\tinput.resource.kind == \"http\"\n\tnot startswith(input.http.path, \"/v1\")\n}", ""},
		{"the kind said, in a set", `deny contains {"id": "x"} if {` + "\n\tinput.resource.kind in {\"http\"}\n\tnot startswith(input.http.path, \"/v1\")\n}", ""},
		{"the kind said, in a set with others", `deny contains {"id": "x"} if {` + "\n\tinput.resource.kind in {\"http\", \"tcp\"}\n\tnot startswith(input.http.path, \"/v1\")\n}", "not"},
		{"other kinds left out", `deny contains {"id": "x"} if {` + "\n\tinput.resource.kind != \"tcp\"\n\tnot startswith(input.http.path, \"/v1\")\n}", ""},
		{"another kind negated", `deny contains {"id": "x"} if {` + "\n\tnot input.resource.kind == \"tcp\"\n\tnot startswith(input.http.path, \"/v1\")\n}", ""},
		{"its own kind left out", `deny contains {"id": "x"} if {` + "\n\tinput.resource.kind != \"http\"\n\tnot startswith(input.http.path, \"/v1\")\n}", "is negated,"},
		{"the kind said by a helper", `deny contains {"id": "x"} if {` + "\n\tdata.lib.is_http\n\tnot startswith(input.http.path, \"/v1\")\n}", ""},
		{"the detail looked at beside", `deny contains {"id": "x"} if {` + "\n\tinput.http.method\n\tnot data.lib.reads\n}", ""},
		{"no detail", `deny contains {"id": "x"} if not input.principal.kind in {"agent", "workload"}`, ""},
		{"a function's detail", `deny contains {"id": "x"} if data.lib.first(0) == "exports"`, ""},
		{"a rule for each kind", `deny contains {"id": "x"} if data.lib.target == "evil.example"`, ""},
		{"a rule for each kind, negated", `deny contains {"id": "x"} if not data.lib.allowed`, ""},
		{"a default that is false", `deny contains {"id": "x"} if data.lib.inside`, ""},
		{"an element that is looked for", `deny contains {"id": "x"} if "exports" in data.lib.words`, ""},
		{"each element", `deny contains {"id": "x"} if {` + "\n\tsome word in data.lib.words\n\tword in {\"drop\", \"purge\"}\n}", ""},
		{"an element in the answer", `deny contains {"id": word} if some word in data.lib.words`, ""},
		{"an element that is not", `deny contains {"id": "x"} if {` + "\n\tsome s in input.http.segments\n\tnot s == \"v1\"\n}", ""},
		{"each of both kinds", "deny contains {\"id\": \"x\"} if input.http.method == \"DELETE\"\n\ndeny contains {\"id\": \"y\"} if input.tcp.port == 22", ""},
		{"an else after a kind", `deny contains {"id": "x"} if data.lib.split == "b"`, ""},
		{"a pattern", `deny contains {"id": "x"} if ["v1", "exports"] = input.http.segments`, ""},
		{"what another says", `deny contains rule if some rule in data.rules.open.deny`, ""},
		{"a condition under another name", `deny contains {"id": "x"} if {` + "\n\tpath := input.http.path\n\tstartswith(path, \"/admin\")\n\tnot startswith(path, \"/admin/public\")\n}", ""},

		{"negated", `deny contains {"id": "x"} if not startswith(input.http.path, "/v1")`, "is negated,"},
		{"negated the better way", better + `deny contains {"id": "x"} if not startswith(input.http.path, "/v1")`, "`not` is about input.http.path"},
		{"compared, negated", better + `allow contains {"id": "x"} if not input.http.method == "DELETE"`, "`not` is about"},
		{"the detail negated", better + `deny contains {"id": "x"} if not input.http`, "`not` is about input.http"},
		{"under another name, negated", `deny contains {"id": "x"} if {` + "\n\tpath := input.http.path\n\tnot path == \"/v1\"\n}", "is negated,"},
		{"a helper negated", better + `allow contains {"id": "x"} if not data.lib.reads`, "`not` is about"},
		{"a helper for some, negated", better + `deny contains {"id": "x"} if not data.lib.known`, "`not` is about"},
		{"a helper that negates", `deny contains {"id": "x"} if data.lib.not_v1`, "is negated,"},
		{"none of a comprehension", `deny contains {"id": "x"} if count([s | some s in input.http.segments; s != ""]) == 0`, "a value is made here"},
		{"none of a set", `deny contains {"id": "x"} if count(data.lib.words) == 0`, "all of a set"},
		{"a set against another", `allow contains {"id": "x"} if data.lib.words & {"drop"} == set()`, "all of a set"},
		{"not in a set", better + `allow contains {"id": "x"} if not "drop" in data.lib.words`, "`not` is about"},
		{"every", `deny contains {"id": "x"} if every s in input.http.segments { s != "public" }`, "is negated,"},
		{"every of something else", `deny contains {"id": "x"} if every g in input.principal.groups { g != input.http.host }`, "holds or fails by"},
		{"a default", `allow contains {"id": "x"} if data.lib.level == "low"`, "a default stands in"},
		{"a default that is false, negated", `allow contains {"id": "x"} if data.lib.inside == false`, "a default stands in"},
		{"object.get", `deny contains {"id": "x"} if object.get(input, ["http", "path"], "") == ""`, "as a whole"},
		{"a computed name", "deny contains {\"id\": \"x\"} if {\n\tsome name in [\"http\"]\n\tinput[name].method == \"GET\"\n}", "as a whole"},
		{"the input given away", `deny contains {"id": "x"} if data.lib.size(input) > 3`, "as a whole"},
		{"an else", `allow contains {"id": "x"} if data.lib.graded == "other"`, "an else stands in"},
		{"the reason", `deny contains {"id": "x", "reason": input.http.path} if input.principal.kind == "person"`, "a value is made here"},
		{"a reason of several parts", `deny contains {"id": "x", "reason": sprintf("no %s", [input.http.path])} if input.principal.kind == "person"`, "a value is made here"},
		{"a reason in a template", `deny contains {"id": "x", "reason": $"no {input.http.path}"} if input.principal.kind == "person"`, "a value is made here"},
		{"a reason under a name", `deny contains {"id": "x", "reason": why} if {` + "\n\tinput.principal.kind == \"person\"\n\twhy := sprintf(\"no %s\", [input.http.path])\n}", "or said is made of it"},
		{"a reason by a helper", `deny contains {"id": "x", "reason": data.lib.shown} if input.principal.kind == "person"`, "a value is made here"},
		{"a reason of a comprehension", `deny contains {"id": "x", "reason": concat("/", [s | some s in input.http.segments])}`, "a value is made here"},
		{"an approver", `ask contains {"id": "x", "approvers": [input.http.host]} if input.principal.kind == "agent"`, "or said is made of it"},
		{"a redaction", `redact contains {"path": concat("", ["$.", input.http.host])}`, "or said is made of it"},
		{"with", `deny contains {"id": "x"} if data.lib.reads with input.http.method as "GET"`, "a `with`"},
		{"what another says, where it negates", "deny contains rule if some rule in data.rules.shared.deny", "is negated,"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rule := c.rule
			if !strings.HasPrefix(rule, "import") {
				rule = "\n" + rule
			}
			shared := "package rules.shared\n\ndeny contains {\"id\": \"s\"} if not startswith(input.http.path, \"/v1\")\n"
			files := map[string]string{
				"lib.rego": lib, "global.rego": "package rules.global\n" + rule, "shared.rego": shared,
				"open.rego":     "package rules.open\n\ndeny contains {\"id\": \"o\"} if input.http.method == \"DELETE\"\n",
				"payments.rego": "package rules.payments\n\ndeny contains {\"id\": \"p\"} if not startswith(input.http.path, \"/v1\")\n",
			}
			_, err := bothKinds(t, files)
			switch {
			case c.problem == "" && err != nil:
				t.Error(err)
			case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
				t.Errorf("the error is %v, not about %q", err, c.problem)
			}
			// With one kind nothing is ever absent.
			files["lib.rego"] = strings.NewReplacer("input.tcp.sni", "input.http.host", "input.tcp.port", "input.http.body_bytes").Replace(lib)
			files["global.rego"] = strings.ReplaceAll(files["global.rego"], "input.tcp.port", "input.http.body_bytes")
			if _, err := tryLoad(t, Options{}, files); err != nil {
				t.Errorf("for one kind: %v", err)
			}
		})
	}
}

// TestPackagesOfAKind: a package that resources name speaks of their kind, whose detail is always there, and of no other.
func TestPackagesOfAKind(t *testing.T) {
	for _, c := range []struct {
		name, rule, problem string
		packages            map[string][]string
	}{
		{"its own", `deny contains {"id": "x"} if not input.http.method == "GET"`, "", nil},
		{"another's", `deny contains {"id": "x"} if input.tcp.port == 22`, "there is no input.tcp here", nil},
		{"another's, negated", `deny contains {"id": "x"} if not input.tcp.port == 22`, "there is no input.tcp here", nil},
		{"both, where it rules on both", `deny contains {"id": "x"} if input.tcp.port == 22`, "", map[string][]string{"payments": {"http", "tcp"}}},
		{"negated, where it rules on both", `deny contains {"id": "x"} if not input.http.method == "GET"`, "`not` is about", map[string][]string{"payments": {"tcp", "http", "http"}}},
		{"the input as a whole", `deny contains {"id": "x"} if object.get(input, ["http", "path"], "") == ""`, "", nil},
		{"a library of another kind", `deny contains {"id": "x"} if data.lib.closed`, "", nil},
		{"a library of another kind, negated", "import future.keywords.not\n\nallow contains {\"id\": \"x\"} if not data.lib.closed", "`not` is about input.tcp", nil},
		{"a redaction", `redact contains {"path": "$.ssn"}`, "", nil},
		{"a redaction in a kind that has none", `redact contains {"path": "$.ssn"}`, "nothing can be redacted by path here: resources of policy \"payments\" are of kind \"tcp\"", map[string][]string{"payments": {"tcp"}}},
		{"a redaction that is computed, in a kind that has none", `redact contains {"detect": name} if some name in ["email"]`, "nothing can be redacted by detect here", map[string][]string{"payments": {"tcp"}}},
		{"a redaction where one of two kinds has it", `redact contains {"detect": "email"}`, "", map[string][]string{"payments": {"tcp", "http"}}},
		{"a kind that is none", `deny contains {"id": "x"} if input.http.method == "GET"`, "of which policies know nothing", map[string][]string{"payments": {"udp"}}},
		{"a member that none has", `deny contains {"id": "x"} if input.udp.port == 1`, "undefined ref: input.udp", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Options{Kinds: twoKinds, Packages: c.packages}
			if o.Packages == nil {
				o.Packages = map[string][]string{"payments": {"http"}, "ledger": {"tcp"}}
			}
			_, err := tryLoad(t, o, map[string]string{
				"payments.rego": "package rules.payments\n\n" + c.rule, "lib.rego": "package lib\n\nclosed if input.tcp.port == 22\n",
				"ledger.rego": "package rules.ledger\n\nallow contains {\"id\": \"x\"} if input.tcp.port == 5432\n",
			})
			switch {
			case c.problem == "" && err != nil:
				t.Error(err)
			case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
				t.Errorf("the error is %v, not about %q", err, c.problem)
			}
		})
	}
}

// TestAPackageThatNobodyNames: what is shipped for one kind can lie beside the rules of another, as long as none of them refers to it.
func TestAPackageThatNobodyNames(t *testing.T) {
	for rule, problem := range map[string]string{
		`allow contains {"id": "x"} if input.tcp.port == 5432`:        "",
		`redact contains what if some what in data.rules.data.redact`: "nothing can be redacted by path here",
	} {
		_, err := tryLoad(t, Options{Kinds: twoKinds, Packages: map[string][]string{"payments": {"tcp"}}}, map[string]string{
			"payments.rego": "package rules.payments\n\n" + rule + "\n", "data.rego": "package rules.data\n\nredact contains {\"path\": \"$.ssn\"}\n",
		})
		if problem == "" && err != nil || problem != "" && (err == nil || !strings.Contains(err.Error(), problem)) {
			t.Errorf("%s: %v, want %q", rule, err, problem)
		}
	}
}

// TestAnOperationOfAnotherKindIsDenied: what was looked at when policies were loaded is what is evaluated.
func TestAnOperationOfAnotherKindIsDenied(t *testing.T) {
	s, err := bothKinds(t, map[string]string{})
	if err != nil {
		t.Fatal(err)
	}
	other := operation("payments", get("v1"))
	other.Resource.Kind = "tcp"
	for name, c := range map[string]struct {
		op     *gate.Operation
		denied bool
	}{
		"a request":                              {operation("payments", get("v1")), false},
		"a connection":                           {connection("ledger", 1), false},
		"a connection under the policy of http":  {connection("payments", 1), true},
		"a request that says it is a connection": {other, true},
	} {
		if v, err := s.Evaluate(t.Context(), c.op); (err != nil) != c.denied || (v.Effect == gate.Deny) != c.denied {
			t.Errorf("%s: %v, %v", name, v.Effect, err)
		}
	}
}

// TestAcceptedRulesDoNotDependOnAbsence makes global policies at random. For what loads: where a rule denied a request, and would not
// deny a connection that is the same in all else, a condition of it looks at the request; and nothing is allowed to a connection
// that is not allowed to the request as well, unless a condition looks at the kind or at connections.
func TestAcceptedRulesDoNotDependOnAbsence(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 7))
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	// Each is a condition, and whether it is one that only a request meets.
	conditions := []struct {
		text  string
		guard bool
	}{
		{`input.http.method == "GET"`, true},
		{`startswith(input.http.path, "/v1")`, true},
		{`input.resource.kind == "http"`, true},
		{`some word in input.http.segments`, true},
		{`"v1" in input.http.segments`, true},
		{`data.lib.reads`, true},
		{`data.lib.inside`, true},
		{`"v1" in data.lib.words`, true},
		{`input.principal.kind == "agent"`, false},
		{`not startswith(input.http.path, "/v2")`, false},
		{`not input.http.method == "PUT"`, false},
		{`not data.lib.writes`, false},
		{`count(data.lib.words) < 5`, false},
		{`count([s | some s in input.http.segments; s == "x"]) == 0`, false},
		{`every s in input.http.segments { s != "x" }`, false},
		{`data.lib.level == "low"`, false},
		{`object.get(input, ["http", "method"], "") != "PUT"`, false},
		{`not data.lib.inside`, false},
		{`data.lib.either`, true},
		{`data.lib.graded == "b"`, false},
	}
	lib := `package lib

import future.keywords.not

words contains s if some s in input.http.segments

reads if input.http.method == "GET"

writes if input.http.method == "POST"

default inside := false

inside if input.http.host == "payments.internal"

default level := "low"

level := "high" if input.http.method == "POST"

either if input.http.method == "GET"

either if "admins" in input.principal.groups

graded := "a" if {
	input.http.method == "POST"
} else := "b"
`
	accepted, refused, silent := 0, 0, 0
	for range 500 {
		set := pick("deny", "allow")
		guarded := false
		var body []string
		for range 1 + random.IntN(3) {
			c := conditions[random.IntN(len(conditions))]
			if n := len(body); n == 0 || body[n-1] != c.text {
				body = append(body, c.text)
				guarded = guarded || c.guard
			}
		}
		head := pick(`{"id": "x"}`, `{"id": "x"}`, `{"id": "x", "reason": input.http.path}`, `{"id": sprintf("%s", [input.http.method])}`, `{"id": "x", "reason": $"{input.http.path}"}`)
		text := "package rules.global\n\n" + pick("import future.keywords.not\n\n", "") + set + " contains " + head + " if {\n\t" + strings.Join(body, "\n\t") + "\n}\n"
		s, err := bothKinds(t, map[string]string{
			"lib.rego": lib, "global.rego": text,
			"payments.rego": "package rules.payments\n\nask contains {\"id\": \"p\", \"approvers\": [\"a\"]} if input.http.method == \"NONE\"\n",
			"ledger.rego":   "package rules.ledger\n\nask contains {\"id\": \"p\", \"approvers\": [\"a\"]} if input.tcp.port == 0\n",
		})
		if err != nil {
			if strings.Contains(err.Error(), "declared but unused") || strings.Contains(err.Error(), "assigned var") {
				continue
			}
			refused++
			if !strings.Contains(err.Error(), "depends on what is not there") && !strings.Contains(err.Error(), "does not hold") {
				t.Fatalf("%v\n%s", err, text)
			}
			continue
		}
		accepted++
		opened, err := s.Evaluate(t.Context(), connection("ledger", 1))
		if err != nil {
			t.Fatal(err)
		}
		saidToo := opened.Effect != gate.Deny || len(opened.Rules) > 0
		for _, call := range []web{get("v1", "payments"), {method: "POST", segments: []string{"x"}}} {
			request, err := s.Evaluate(t.Context(), operation("payments", call))
			if err != nil {
				t.Fatal(err)
			}
			said := request.Effect != gate.Deny || len(request.Rules) > 0
			if said && !saidToo {
				silent++
			}
			if said && !saidToo && !guarded {
				t.Errorf("it says nothing of a connection, and no condition is why:\n%s", text)
			}
			if saidToo && (guarded || !said) {
				t.Errorf("it speaks of a connection, by what is not there:\n%s", text)
			}
		}
	}
	if accepted < 100 || refused < 100 || silent < 30 {
		t.Errorf("%d accepted, %d refused, %d silent", accepted, refused, silent)
	}
}
