package policy

import (
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/countersign/countersign/extproc/gate"
)

// A verdict that could be another one at another time is never remembered, however the rules get at the context.
func TestContextIsNeverRemembered(t *testing.T) {
	late := `input.context.time > "2026-11-23T12"`
	for _, c := range []struct {
		name  string
		files map[string]string
	}{
		{"directly", rego(`deny contains {"id": "late"} if ` + late)},
		{"in an element", rego(`deny contains {"id": "late", "reason": input.context.request_id} if ` + late)},
		{"through a variable", rego("deny contains {\"id\": \"late\"} if {\n\tx := input\n\tx.context.time > \"2026-11-23T12\"\n}")},
		{"through a computed name", rego("deny contains {\"id\": \"late\"} if {\n\tsome name in [\"context\"]\n\tinput[name].time > \"2026-11-23T12\"\n}")},
		{"by iterating", rego("deny contains {\"id\": \"late\"} if {\n\tsome part in input\n\tpart.time > \"2026-11-23T12\"\n}")},
		{"by walking", rego("deny contains {\"id\": \"late\"} if {\n\twalk(input, [[\"context\", \"time\"], t])\n\tt > \"2026-11-23T12\"\n}")},
		{"by a helper", rego("deny contains {\"id\": \"late\"} if late\n\nlate if " + late)},
		{"by an else of a helper", rego("deny contains {\"id\": \"late\"} if late\n\nlate := false if input.http.method == \"X\"\n\nelse := true if " + late)},
		{"by a default helper", rego("deny contains {\"id\": \"late\"} if late\n\ndefault late := false\n\nlate if " + late)},
		{"by an import", rego("package rules.payments\n\nimport input.context as around\n\ndeny contains {\"id\": \"late\"} if around.time > \"2026-11-23T12\"")},
		{"by a library", map[string]string{
			"p.rego": "package rules.payments\n\nimport data.lib\n\ndeny contains {\"id\": \"late\"} if lib.late",
			"l.rego": "package lib\n\nlate if later(input.context)\n\nlater(c) if c.time > \"2026-11-23T12\"",
		}},
		{"by a library's library, with the whole input", map[string]string{
			"p.rego": "package rules.payments\n\nimport data.lib\n\ndeny contains {\"id\": \"late\"} if lib.late(1)",
			"l.rego": "package lib\n\nimport data.deeper\n\nlate(_) if deeper.late(input)",
			"d.rego": "package deeper\n\nlate(x) if x.context.time > \"2026-11-23T12\"",
		}},
		{"by a computed library", map[string]string{
			"p.rego": "package rules.payments\n\ndeny contains {\"id\": \"late\"} if {\n\tsome name in [\"late\"]\n\tdata.lib[name]\n}",
			"l.rego": "package lib\n\nlate if " + late,
		}},
		{"by another package of rules", map[string]string{
			"p.rego": "package rules.payments\n\ndeny contains r if some r in data.rules.hours.deny",
			"h.rego": "package rules.hours\n\ndeny contains {\"id\": \"late\"} if " + late,
		}},
		{"by global", map[string]string{
			"p.rego": "package rules.payments\n\nredact contains {\"path\": \"$.a\"}",
			"g.rego": "package rules.global\n\ndeny contains {\"id\": \"late\"} if " + late,
		}},
		{"by replacing the input", rego("deny contains {\"id\": \"late\"} if late with input as {\"http\": {\"body\": input.context}}\n\nlate if input.http.body.time > \"2026-11-23T12\"")},
		{"by putting the input elsewhere", rego("deny contains {\"id\": \"late\"} if late with data.seen as input\n\nlate if data.seen.context.time > \"2026-11-23T12\"")},
		{"in a comprehension", rego("deny contains {\"id\": \"late\"} if count({t | t := input.context.time; t > \"2026-11-23T12\"}) > 0")},
		{"in every", rego("deny contains {\"id\": \"late\"} if {\n\tevery x in [input.context] {\n\t\tx.time > \"2026-11-23T12\"\n\t}\n}")},
		{"in a template", rego("deny contains {\"id\": \"late\"} if $\"{input.context.time}\" > \"2026-11-23T12\"")},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := c.files
			files["allow.rego"] = "package rules.payments\n\nallow contains {\"id\": \"any\"}"
			s, err := tryLoad(t, Options{CacheSize: 8}, files)
			if err != nil {
				t.Fatal(err)
			}
			if !s.packages["payments"].uses.context {
				t.Error("the package seems not to look at the context")
			}
			early, later := operation("payments", get("v1")), operation("payments", get("v1"))
			later.Context.Time = later.Context.Time.Add(5 * time.Hour)
			if v, err := s.Evaluate(t.Context(), early); err != nil || v.Effect != gate.Allow {
				t.Fatalf("early: verdict %+v, error %v", v, err)
			}
			if v, err := s.Evaluate(t.Context(), later); err != nil || v.Effect != gate.Deny {
				t.Errorf("late: verdict %+v, error %v", v, err)
			}
		})
	}
}

// A request id that differs each time neither defeats the memory of verdicts where no rule looks at it, nor gives an old
// verdict where one does, however it gets at it.
func TestVolatileFieldsAndTheMemory(t *testing.T) {
	for _, c := range []struct {
		name   string
		files  map[string]string
		depend bool
	}{
		{"another header", rego(`deny contains {"id": "bad"} if input.http.headers["x-other"][0] == "bad"`), false},
		{"no header", rego(`deny contains {"id": "bad"} if input.http.method == "PUT"`), false},
		{"another member of the same name", rego(`deny contains {"id": "bad"} if input.http.query["x-id"][0] == "bad"`), false},
		{"directly", rego(`deny contains {"id": "bad"} if input.http.headers["x-id"][0] == "bad"`), true},
		{"by object.get", rego(`deny contains {"id": "bad"} if object.get(input.http.headers, "x-id", ["good"])[0] == "bad"`), true},
		{"by object.get of the request", rego(`deny contains {"id": "bad"} if object.get(input.http, "headers", {})["x-id"][0] == "bad"`), true},
		{"by object.get of a path", rego(`deny contains {"id": "bad"} if object.get(input.http, ["headers", "x-id", 0], "good") == "bad"`), true},
		{"by object.get in the default", rego(`deny contains {"id": "bad"} if object.get(input.http.query, "x", input.http.headers["x-id"])[0] == "bad"`), true},
		{"by a computed name", rego("deny contains {\"id\": \"bad\"} if {\n\tname := concat(\"-\", [\"x\", \"id\"])\n\tinput.http.headers[name][0] == \"bad\"\n}"), true},
		{"by iterating over the headers", rego(`deny contains {"id": "bad"} if "bad" in input.http.headers[_]`), true},
		{"by iterating over the request", rego("deny contains {\"id\": \"bad\"} if {\n\tsome part in input.http\n\tpart[\"x-id\"][0] == \"bad\"\n}"), true},
		{"through a variable", rego("deny contains {\"id\": \"bad\"} if {\n\th := input.http.headers\n\th[\"x-id\"][0] == \"bad\"\n}"), true},
		{"by walking", rego("deny contains {\"id\": \"bad\"} if {\n\twalk(input.http, [_, \"bad\"])\n}"), true},
		{"by an import", rego("package rules.payments\n\nimport input.http.headers as fields\n\ndeny contains {\"id\": \"bad\"} if fields[\"x-id\"][0] == \"bad\""), true},
		{"by counting", rego(`deny contains {"id": "bad"} if count(json.marshal(input.http.headers)) == count(json.marshal(input.http.headers)) + 1`), true},
		{"by a function that is given the request", map[string]string{
			"p.rego": "package rules.payments\n\nimport data.lib\n\ndeny contains {\"id\": \"bad\"} if lib.bad(input.http)",
			"l.rego": "package lib\n\nbad(r) if r.headers[\"x-id\"][0] == \"bad\"",
		}, true},
		{"by global", map[string]string{
			"p.rego": "package rules.payments\n\nredact contains {\"path\": \"$.a\"}",
			"g.rego": "package rules.global\n\ndeny contains {\"id\": \"bad\"} if input.http.headers[\"x-id\"][0] == \"bad\"",
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.files["allow.rego"] = "package rules.payments\n\nallow contains {\"id\": \"any\"}"
			s := load(t, Options{CacheSize: 8}, c.files)
			with := func(id string) *gate.Operation {
				call := get("v1")
				call.volatile = gate.Object{{Name: "x-id", Value: []string{id}}}
				return operation("payments", call)
			}
			for _, id := range []string{"good", "bad", "good"} {
				want := gate.Allow
				if id == "bad" && c.depend && c.name != "by counting" {
					want = gate.Deny
				}
				if v, err := s.Evaluate(t.Context(), with(id)); err != nil || v.Effect != want {
					t.Errorf("%s: verdict %+v, error %v", id, v, err)
				}
			}
			if n := len(s.verdicts.young); n != map[bool]int{true: 0, false: 1}[c.depend] {
				t.Errorf("%d verdicts are remembered", n)
			}
			if _, err := s.Evaluate(t.Context(), operation("payments", get("v1"))); err != nil || len(s.verdicts.young) != 1 {
				t.Errorf("without the field %d verdicts are remembered, error %v", len(s.verdicts.young), err)
			}
		})
	}
}

func TestVerdictsAreRemembered(t *testing.T) {
	files := map[string]string{
		"payments.rego": designPolicy,
		"other.rego":    "package rules.other\n\ndeny contains {\"id\": \"x\"} if input.http.method",
	}
	s := load(t, Options{CacheSize: 2}, files)
	first, err := s.Evaluate(t.Context(), operation("payments", get("v1")))
	if err != nil || len(s.verdicts.young) != 1 {
		t.Fatalf("verdict %+v, error %v, remembered %d", first, err, len(s.verdicts.young))
	}
	again, err := s.Evaluate(t.Context(), operation("payments", get("v1")))
	if err != nil || again.Effect != gate.Allow || &again.Rules[0] != &first.Rules[0] {
		t.Errorf("the second verdict %+v, error %v, was made anew", again, err)
	}
	// The input is the same; the policy is not part of it.
	if v, err := s.Evaluate(t.Context(), operation("other", get("v1"))); err != nil || v.Effect != gate.Deny {
		t.Errorf("the other policy was given the verdict %+v, error %v", v, err)
	}
	for i := range 100 {
		if _, err := s.Evaluate(t.Context(), operation("payments", get("v1", strings.Repeat("x", i)))); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.verdicts.young) + len(s.verdicts.old); n > 4 {
		t.Errorf("%d verdicts are remembered", n)
	}
	if load(t, Options{}, files).verdicts != nil {
		t.Error("verdicts are remembered without being asked to")
	}
}

// Two principals are never taken for one another, and one that was forgotten is made again.
func TestPrincipalsAreKeptApart(t *testing.T) {
	s := load(t, Options{}, rego("allow contains {\"id\": \"alice\"} if input.principal.subject == \"alice\""))
	for i := range 3 * principalsKept {
		op := operation("payments", get("v1"))
		subject := []string{"alice", "mallory"}[i%2]
		op.Principal = &gate.Principal{Issuer: "i", Subject: subject}
		if v, err := s.Evaluate(t.Context(), op); err != nil || (v.Effect == gate.Allow) != (subject == "alice") {
			t.Fatalf("%s: verdict %+v, error %v", subject, v, err)
		}
	}
	if n := len(s.principals.young) + len(s.principals.old); n > 2*principalsKept {
		t.Errorf("%d principals are kept", n)
	}
}

// What is remembered is bounded in bytes too: a verdict can be computed of what an agent sends, and claims are the issuer's.
func TestCachesAreBounded(t *testing.T) {
	g := newGenerations(1000, weighVerdict)
	verdict := gate.Verdict{Redactions: make([]gate.Redaction, 100)}
	for i := range verdict.Redactions {
		verdict.Redactions[i].Path = strings.Repeat("x", 1000)
	}
	most := 0
	for n := range 2000 {
		key := verdictKey{pkg: strconv.Itoa(n)}
		g.put(key, verdict)
		if _, ok := g.get(key); !ok {
			t.Fatal("a verdict is not remembered")
		}
		most = max(most, (len(g.young)+len(g.old))*weighVerdict(key, verdict))
	}
	if most > 2*maxWeight || most < maxWeight {
		t.Errorf("verdicts of %d bytes are remembered", most)
	}
	huge := gate.Verdict{Rules: []gate.Rule{{Reason: strings.Repeat("x", maxWeight/8)}}}
	g.put(verdictKey{pkg: "huge"}, huge)
	if _, ok := g.get(verdictKey{pkg: "huge"}); ok {
		t.Error("one verdict that is most of the cache is remembered")
	}
	claims := gate.Object{{Name: "groups", Value: []any{strings.Repeat("x", 1000), []string{strings.Repeat("y", 1000)}}}}
	if n := weighValue(claims); n < 2000 || n > 3000 {
		t.Errorf("claims of 2,000 bytes weigh %d", n)
	}
}

// A verdict that quotes a few bytes of a large body does not keep the body.
func TestAVerdictKeepsNothingOfTheInput(t *testing.T) {
	body := strings.Repeat("x", 1<<20)
	reason, err := text(ast.String(body[:10]), maxTextBytes)
	if err != nil || reason != body[:10] || unsafe.StringData(reason) == unsafe.StringData(body) {
		t.Errorf("reason %q shares the body's memory, or error %v", reason, err)
	}
	b := newBuilder(termsOf(inputType(httpKinds)))
	b.pairs = make([][2]*ast.Term, maxPairs+1)
	b.release()
	if cap(b.pairs) > maxPairs {
		t.Errorf("a builder that is not used keeps room for %d members", cap(b.pairs))
	}
}
