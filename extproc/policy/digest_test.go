package policy

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/countersign/countersign/extproc/gate"
)

// digested is a policy of which each part is referred to in another way.
var digested = map[string]string{
	"payments.rego": `package rules.payments

import data.limits
import data.shared.money

allow contains {"id": "read"} if input.http.method == "GET"

ask contains {"id": "refund", "approvers": ["payments-oncall"]} if {
	money.amount(input.http.body) <= limits.refund
	some _ in input.http.segments
	some _ in input.http.segments
}
`,
	"ledger.rego": `package rules.ledger

allow contains {"id": "read"} if data.tables[input.http.segments[0]].open
`,
	"all.rego":          "package rules.all\n\nallow contains {\"id\": \"read\"} if {\n\tsome name, _ in data.limits\n\tname == input.http.method\n}\n",
	"global.rego":       "package rules.global\n\nimport data.banned\n\ndeny contains {\"id\": \"banned\"} if input.principal.subject in banned.subjects\n",
	"shared/money.rego": "package shared.money\n\nimport data.shared.numbers\n\namount(body) := numbers.floor(body.amount)\n",
	"shared/num.rego":   "package shared.numbers\n\nfloor(n) := n if is_number(n)\n\nother := 1\n",
	"shared/never.rego": "package shared.never\n\nused := 1\n",
	"data.json":         `{"limits": {"refund": 10, "other": [1]}, "banned": {"subjects": ["eve"]}, "tables": {"a": {"open": true}}, "unused": 1}`,
}

// with is digested with some files changed; "" takes a file away.
func with(changed map[string]string) map[string]string {
	files := maps.Clone(digested)
	for name, text := range changed {
		if files[name] = text; text == "" {
			delete(files, name)
		}
	}
	return files
}

// edited is digested with one piece of text in the place of another.
func edited(name, from, to string) map[string]string {
	if !strings.Contains(digested[name], from) {
		panic("no " + from + " in " + name)
	}
	return with(map[string]string{name: strings.Replace(digested[name], from, to, 1)})
}

// TestDigestIsOfWhatIsEvaluated: whatever can change a verdict changes the digest of the set and of the packages that depend on
// it, and nothing else does.
func TestDigestIsOfWhatIsEvaluated(t *testing.T) {
	packages := []string{"all", "global", "ledger", "payments"}
	base := load(t, Options{}, digested)
	for _, c := range []struct {
		name    string
		files   map[string]string
		set     bool   // the digest of the set changes
		changed string // the packages whose rules changed
	}{
		{"nothing", digested, false, ""},
		{"a comment", edited("payments.rego", "allow", "# why\nallow"), false, ""},
		{"metadata", edited("payments.rego", "allow", "# METADATA\n# title: reads\nallow"), false, ""},
		{"a comment at the end of a line", edited("global.rego", "banned.subjects", "banned.subjects # who"), false, ""},
		{"spaces and lines", edited("payments.rego", "if input.http.method", "if\n\n\n  input.http.method"), false, ""},
		{"semicolons", edited("payments.rego", "segments\n\tsome", "segments; some"), false, ""},
		{"a raw string", edited("payments.rego", `"GET"`, "`GET`"), false, ""},
		{"the order of imports", edited("payments.rego", "import data.limits\nimport data.shared.money", "import data.shared.money\nimport data.limits"), false, ""},
		{"an import that says how text is read", edited("payments.rego", "import data.limits", "import data.limits\nimport rego.v1"), false, ""},
		{"a file of another name", with(map[string]string{"payments.rego": "", "z/other.rego": digested["payments.rego"]}), false, ""},
		{"a test file", with(map[string]string{"payments_test.rego": "package rules.payments_test\n\ntest_one if true"}), false, ""},
		{"a test in a file", with(map[string]string{"payments.rego": digested["payments.rego"] + "\ntest_one if {\n\tsome _ in [1]\n\tdata.rules.ledger.allow\n}\n"}), false, ""},
		{"a test in a file, before the rules", edited("payments.rego", "allow", "test_one if {\n\tsome _ in [1]\n}\n\nallow"), false, ""},
		{"a test of global", with(map[string]string{"global.rego": digested["global.rego"] + "\ntest_one if data.shared.never.used\n"}), false, ""},
		{"data in another form", edited("data.json", `{"limits": {"refund": 10, "other": [1]},`, "{\n\t\"limits\": {\"other\": [ 1 ], \"refund\": 10},"), false, ""},
		{"data in YAML", with(map[string]string{"data.json": `{"banned": {"subjects": ["eve"]}, "tables": {"a": {"open": true}}, "unused": 1}`, "data.yaml": "limits:\n  refund: 10 # most\n  other: [1]\n"}), false, ""},
		{"data in another file", with(map[string]string{"data.json": `{"banned": {"subjects": ["eve"]}, "tables": {"a": {"open": true}}, "unused": 1}`, "limits/data.json": `{"refund": 10, "other": [1]}`}), false, ""},
		{"a schema", with(map[string]string{"x.schema.json": "{}"}), false, ""},

		{"a rule", edited("payments.rego", `"GET"`, `"HEAD"`), true, "payments"},
		{"a reason", edited("payments.rego", `{"id": "read"}`, `{"id": "read", "reason": "x"}`), true, "payments"},
		{"a rule that is never asked", with(map[string]string{"payments.rego": digested["payments.rego"] + "\nhelper := 1\n"}), true, "payments"},
		{"another package", edited("ledger.rego", "open", "shut"), true, "ledger"},
		{"a package more", with(map[string]string{"more.rego": "package rules.more\n\nallow contains {\"id\": \"x\"}"}), true, ""},
		{"global", edited("global.rego", `"banned"}`, `"bad"}`), true, "all global ledger payments"},
		{"a function of an import", edited("shared/money.rego", "body.amount", "body.sum"), true, "payments"},
		{"a function of an import's import", edited("shared/num.rego", "is_number(n)", "n > 0"), true, "payments"},
		{"a rule beside a function of an import's import", edited("shared/num.rego", "other := 1", "other := 2"), true, "payments"},
		{"another file of an import's package", with(map[string]string{"shared/more.rego": "package shared.money\n\namount(body) := 0 if not body.amount"}), true, "payments"},
		{"a package that nobody refers to", edited("shared/never.rego", "1", "2"), true, ""},
		{"a value that one refers to and one goes through", edited("data.json", `"refund": 10`, `"refund": 11`), true, "all payments"},
		{"a value beside it, which one goes through", edited("data.json", `"other": [1]`, `"other": [2]`), true, "all"},
		{"a value that global refers to", edited("data.json", "eve", "mallory"), true, "all global ledger payments"},
		{"a value under a computed name", edited("data.json", `"a": {"open": true}`, `"a": {"open": true}, "b": {}`), true, "ledger"},
		{"a value that nobody refers to", edited("data.json", `"unused": 1`, `"unused": 2`), true, ""},
		{"a value that is no more", edited("data.json", `"refund": 10, `, ""), true, "all payments"},
		{"a test that a rule refers to", edited("payments.rego", "if input.http.method", "if {\n\ttest_it\n\tinput.http.method == \"GET\"\n}\n\ntest_it if input.http.method"), true, "payments"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := load(t, Options{}, c.files)
			if (s.Digest() != base.Digest()) != c.set {
				t.Errorf("the digest of the set changed: %t", !c.set)
			}
			var changed []string
			for _, name := range packages {
				if s.RulesDigest(name) != base.RulesDigest(name) {
					changed = append(changed, name)
				}
			}
			if got := strings.Join(changed, " "); got != c.changed {
				t.Errorf("changed are the rules of %q, not %q", got, c.changed)
			}
		})
	}
}

// TestDigestOfWhatReadsEverything: a package that could refer to anything depends on all of it.
func TestDigestOfWhatReadsEverything(t *testing.T) {
	made := func(rule, data string) string {
		return load(t, Options{}, map[string]string{
			"p.rego":    "package rules.payments\n\nallow contains {\"id\": \"x\"} if {\n\tsome k in [\"d\", \"lib\"]\n\tdata[k]\n}",
			"l.rego":    "package lib.deep\n\nx := " + rule,
			"data.json": `{"d": ` + data + `}`,
		}).RulesDigest("payments")
	}
	if base := made("1", "1"); base == made("2", "1") || base == made("1", "2") {
		t.Error("a rule or data elsewhere changed, and the digest did not")
	}
}

// TestDigestOfCommentsThatAreRead: with rego.metadata a comment is a value, wherever it stands.
func TestDigestOfCommentsThatAreRead(t *testing.T) {
	files := func(title string) map[string]string {
		return map[string]string{
			"p.rego": "package rules.payments\n\nallow contains {\"id\": rego.metadata.chain()[1].annotations.title}\n",
			"q.rego": "# METADATA\n# scope: subpackages\n# title: " + title + "\npackage rules\n",
		}
	}
	one, two := load(t, Options{}, files("one")), load(t, Options{}, files("two"))
	if one.RulesDigest("payments") == two.RulesDigest("payments") || one.Digest() == two.Digest() {
		t.Error("a comment that is a rule's id changed, and the digest did not")
	}
}

// TestDigestIsOfTheEngine: another OPA, or other built-ins, can give another verdict.
func TestDigestIsOfTheEngine(t *testing.T) {
	s := load(t, Options{}, digested)
	c := &canon{engine: "a", modules: map[string]*canonModule{}, of: map[string][]string{}, sums: map[string]string{}}
	one, err := c.digest()
	if err != nil {
		t.Fatal(err)
	}
	c.engine = "b"
	if two, _ := c.digest(); one == two || len(s.Digest()) != 64 {
		t.Error("the engine is not in the digest")
	}
}

// everyForm has every form of Rego that the parser knows.
const everyForm = `package rules.forms

import data.limits as most
import future.keywords.not

default quorum := 1

quorum := 2 if {
	input.http.method == "POST"
} else := 3 if {
	not startswith(input.http.path, "/v1")
} else := 4

deny contains {"id": sprintf("%s-%d", ["a", 1.5]), "reason": $"no {input.http.path} today"} if {
	every i, x in input.http.segments {
		i + 1 > 0
		x != ` + "`raw`" + `
	}
	some k, _ in {"a": {1, 2, 3}, "b": [null, true, false]}
	some j
	input.http.segments[j] == k
	count({y | y := most[_]}) == count([z | z = most[_]])
	{a: b | a := "x"; b = most.max} == {"x": 3}
	not f(-1, [k, {"n": _}])
	f(1, [k, {"n": 2}]) with input.http.method as "PUT" with data.limits as {"max": 1}
	g with f as g
	(1 | 2) != {1} & {2}
}

f(1, [x, {"n": _}]) := x

f(2, _) := "two" if true

g := 1

p.q.r := 1

p[x].s contains y if some x, y in ["a"]

words[x] := 1 if some x in ["a", "b"]
`

// TestDigestBindsEveryPart changes every part of a module, one at a time: no two have one digest, and no change is lost.
func TestDigestBindsEveryPart(t *testing.T) {
	base := parseText(t, everyForm)
	seen := map[string]string{} // digest -> the rules as text, since two ways can lead to one change
	note := func(what string, m *ast.Module) {
		c, err := canonOf(m)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(m.Imports[0], m.Rules)
		if before, ok := seen[c.full]; ok && before != text {
			t.Errorf("%s: one digest of\n%s\n%s", what, before, text)
		}
		seen[c.full] = text
	}
	note("the module itself", base)
	count := func(look func(*int, *ast.Module)) (n int) {
		look(&n, base.Copy())
		return n
	}
	change := func(what string, look func(left *int, m *ast.Module)) {
		for i := range count(look) {
			m, left := base.Copy(), -i
			look(&left, m)
			note(fmt.Sprintf("%s %d", what, i), m)
		}
	}
	// Each of these changes the part at which the count becomes 1.
	change("a term", func(n *int, m *ast.Module) {
		m.Imports = m.Imports[:1] // the other says how the text is read
		ast.WalkTerms(m, func(term *ast.Term) bool {
			var to ast.Value
			switch v := term.Value.(type) {
			case ast.String:
				to = v + "x"
			case ast.Number:
				to = ast.Number("4711")
			case ast.Boolean:
				to = !v
			case ast.Null:
				to = ast.Boolean(true)
			case ast.Var:
				if v.IsWildcard() {
					to = ast.Var("w")
				} else {
					to = v + "x"
				}
			default:
				return false
			}
			if *n++; *n == 1 {
				term.Value = to
			}
			return false
		})
	})
	change("an expression that is false", func(n *int, m *ast.Module) {
		ast.WalkBodies(m, func(b ast.Body) bool {
			for i := range b {
				if *n++; *n == 1 {
					b[i] = ast.NewExpr(ast.BooleanTerm(false))
				}
			}
			return false
		})
	})
	change("an expression negated", func(n *int, m *ast.Module) {
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			if *n++; *n == 1 {
				e.Negated = !e.Negated
			}
			return false
		})
	})
	change("a with less", func(n *int, m *ast.Module) {
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			for i := range e.With {
				if *n++; *n == 1 {
					e.With = slices.Delete(slices.Clone(e.With), i, i+1)
					break
				}
			}
			return false
		})
	})
	change("a rule less", func(n *int, m *ast.Module) {
		for i := range m.Rules {
			if *n++; *n == 1 {
				m.Rules = slices.Delete(slices.Clone(m.Rules), i, i+1)
				return
			}
		}
	})
	change("an else less", func(n *int, m *ast.Module) {
		for _, r := range m.Rules {
			for ; r.Else != nil; r = r.Else {
				if *n++; *n == 1 {
					r.Else = nil
					return
				}
			}
		}
	})
	change("a default that is none", func(n *int, m *ast.Module) {
		for _, r := range m.Rules {
			if r.Default {
				if *n++; *n == 1 {
					r.Default = false
				}
			}
		}
	})
	if len(seen) < 180 {
		t.Errorf("only %d changes were tried", len(seen))
	}
}

// TestDigestOfFormattedText: formatting changes no digest, of the policies here and of a module with every form.
func TestDigestOfFormattedText(t *testing.T) {
	texts := map[string]string{"every form": everyForm}
	for _, root := range []string{"../../policies", "../../examples"} {
		err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(p) != ".rego" {
				return err
			}
			text, err := os.ReadFile(p)
			texts[p] = string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(texts) < 5 {
		t.Fatalf("only %d files were found", len(texts))
	}
	for name, text := range texts {
		one, err := canonOf(parseText(t, text))
		if err != nil {
			t.Fatal(err)
		}
		for form, other := range map[string]string{"indented": strings.ReplaceAll(text, "\n", "\n\n   "), "commented": strings.ReplaceAll(text, "\n", " # a comment\n")} {
			if strings.Contains(text, "`") {
				continue // a line in a raw string is part of it
			}
			sameDigest(t, name+", "+form, one, other)
		}
		formatted, err := Format(name, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		sameDigest(t, name+", formatted", one, string(formatted))
	}
}

func sameDigest(t *testing.T, name string, want *canonModule, text string) {
	t.Helper()
	got, err := canonOf(parseText(t, text))
	if err != nil {
		t.Fatal(err)
	}
	if got.full != want.full {
		t.Errorf("%s has another digest:\n%s", name, text)
	}
}

func parseText(t *testing.T, text string) *ast.Module {
	t.Helper()
	m, err := ast.ParseModuleWithOpts("p.rego", text, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestDigestsHoldAgainstVerdicts makes sets of packages that refer to each other at random, and changes one value of each: where
// the verdict on a package is another, so is the digest of its rules.
func TestDigestsHoldAgainstVerdicts(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 1))
	affected, spared := 0, 0
	for range 25 {
		libs, packages := 2+random.IntN(4), 1+random.IntN(3)
		files := map[string]string{"data.json": ""}
		values := make([]int, libs)
		data := func(values []int) string {
			var members []string
			for i, v := range values {
				members = append(members, fmt.Sprintf(`"d%d": {"v": %d}`, i, v))
			}
			return `{"tables": {` + strings.Join(members, ",") + "}}"
		}
		// refers is an expression for a number that depends on some library after i, on data, or on nothing.
		refers := func(i int) string {
			j := i + 1 + random.IntN(libs)
			switch kind := random.IntN(6); {
			case j >= libs:
				return "1"
			case kind == 0:
				return fmt.Sprintf("data.lib%d.l.value", j)
			case kind == 1:
				return fmt.Sprintf("data.lib%d.l.f(2)", j)
			case kind == 2:
				return fmt.Sprintf("sum([x | some n in [\"l\"]; x := data.lib%d[n].value])", j)
			case kind == 3:
				return fmt.Sprintf("data.tables.d%d.v", j)
			case kind == 4:
				return fmt.Sprintf("sum([x | some n in [\"d%d\"]; x := data.tables[n].v])", j)
			default:
				return fmt.Sprintf("object.get(data.lib%d, [\"l\", \"value\"], 7)", j)
			}
		}
		for i := range libs {
			files[fmt.Sprintf("l%d.rego", i)] = fmt.Sprintf("package lib%d.l\n\nvalue := %s + VALUE\n\nf(x) := (x + %s) + VALUE\n", i, refers(i), refers(i))
		}
		names := []string{global}
		for i := range packages {
			names = append(names, fmt.Sprintf("p%d", i))
		}
		for _, name := range names {
			files[name+".rego"] = fmt.Sprintf("package rules.%s\n\nallow contains {\"id\": sprintf(\"%%d\", [%s + VALUE])}\n", name, refers(-1))
		}
		files["data.json"] = data(values)
		made := func(changed string) *Set {
			now := maps.Clone(files)
			for name := range now {
				v := "0"
				if name == changed {
					v = "100"
				}
				now[name] = strings.ReplaceAll(now[name], "VALUE", v)
			}
			if changed == "data.json" {
				other := slices.Clone(values)
				other[random.IntN(libs)] += 100
				now[changed] = data(other)
			}
			return load(t, Options{Packages: of("p0")}, now)
		}
		before := made("")
		for changed := range files {
			after := made(changed)
			for _, name := range names {
				same := before.RulesDigest(name) == after.RulesDigest(name)
				one, err := before.Evaluate(t.Context(), operation(name, get("v1")))
				two, err2 := after.Evaluate(t.Context(), operation(name, get("v1")))
				if err != nil || err2 != nil {
					t.Fatal(err, err2)
				}
				differ := !slices.EqualFunc(one.Rules, two.Rules, func(a, b gate.Rule) bool { return a == b })
				if differ && same {
					t.Fatalf("%s changed, the verdict on %s with it, and the digest of its rules did not:\n%v", changed, name, files)
				}
				if same {
					spared++
				} else {
					affected++
				}
			}
		}
	}
	if spared < 50 || affected < 50 {
		t.Errorf("%d digests stayed and %d changed", spared, affected)
	}
}
