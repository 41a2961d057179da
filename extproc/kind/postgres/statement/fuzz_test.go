package statement_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// small is a catalog with little in it, for tests that need no server.
func small() *statement.Catalog {
	const text, integer, boolean = 25, 23, 16
	rel := &statement.Relation{OID: 20000, Name: statement.Name{Schema: "public", Name: "t"}, Kind: 'r', Columns: []statement.Attribute{
		{Name: "id", Type: integer}, {Name: "email", Type: text}, {Name: "low", Type: text, Generated: "lower(email)"},
	}}
	view := &statement.Relation{OID: 20001, Name: statement.Name{Schema: "public", Name: "v"}, Kind: 'v', Definition: "SELECT t.id, t.email FROM public.t", Columns: rel.Columns[:2]}
	loop := &statement.Relation{OID: 20002, Name: statement.Name{Schema: "public", Name: "loop"}, Kind: 'v', Definition: "SELECT loop.id FROM public.loop", Columns: rel.Columns[:1]}
	function := func(oid uint32, schema, name string, result uint32, args ...uint32) *statement.Routine {
		return &statement.Routine{OID: oid, Name: statement.Name{Schema: schema, Name: name}, Kind: 'f', Volatility: 'i', Args: args, Result: result}
	}
	c := &statement.Catalog{
		Version: 170000, Database: "d", Role: "r", Schemas: map[string]bool{"public": true, "pg_catalog": true},
		Relations: map[statement.Name]*statement.Relation{rel.Name: rel, view.Name: view, loop.Name: loop},
		Functions: map[statement.Name][]*statement.Routine{}, Operators: map[statement.Name][]*statement.Operator{}, Types: map[uint32]*statement.Type{},
		TypeNames: map[statement.Name]uint32{}, Routines: map[uint32]*statement.Routine{}, Casts: map[[2]uint32]statement.Cast{},
	}
	for _, f := range []*statement.Routine{
		function(100, "pg_catalog", "lower", text, text), function(101, "pg_catalog", "count", integer), function(102, "pg_catalog", "set_config", text, text, text, boolean),
		function(20003, "public", "f", text, text),
	} {
		c.Functions[f.Name], c.Routines[f.OID] = append(c.Functions[f.Name], f), f
	}
	for oid, name := range map[uint32]string{text: "text", integer: "int4", boolean: "bool"} {
		n := statement.Name{Schema: "pg_catalog", Name: name}
		c.Types[oid], c.TypeNames[n] = &statement.Type{OID: oid, Name: n, Kind: 'b'}, oid
	}
	for _, o := range []string{"=", "<", "<=", ">", ">=", "||"} {
		n := statement.Name{Schema: "pg_catalog", Name: o}
		c.Operators[n] = []*statement.Operator{{Name: n, Left: text, Right: text, Result: boolean, Function: 100}, {Name: n, Left: integer, Right: integer, Result: boolean, Function: 100}}
	}
	return c
}

func newState() *statement.State {
	return statement.NewState("d", "r", []string{"$user", "public"}, true)
}

// FuzzAnalyze holds that nothing that an agent sends makes the analysis panic or run for ever, that a statement and its copy do the same, and
// that no text of a call of f is judged a read.
func FuzzAnalyze(f *testing.F) {
	for _, path := range []string{"testdata/access.cases", "testdata/lineage.cases", "testdata/session.cases"} {
		for _, c := range seeds(f, path) {
			f.Add(c, true)
		}
	}
	f.Add("SELECT * FROM loop; SELECT '\\'", false)
	cat := small()
	f.Fuzz(func(t *testing.T, text string, conforming bool) {
		if len(text) > 4096 {
			return
		}
		list, err := statement.Parse(text, conforming)
		if err != nil {
			return
		}
		st := newState()
		for _, s := range list {
			a, err := s.Analyze(cat, st)
			if err != nil {
				t.Errorf("%q: %v", text, err)
			}
			if a.Access == statement.Read && a.Doubt != nil {
				t.Errorf("%q is a read, and in doubt", text)
			}
			if b, _ := s.Analyze(cat, st); strings.Join(shown(a), "\n") != strings.Join(shown(b), "\n") {
				t.Errorf("%q is one thing and another", text)
			}
			if _, err := s.Normalized(); err != nil {
				t.Errorf("%q: %v", text, err)
			}
			st.Apply(a.Changes)
			st.Ready("IT"[s.Index%2])
		}
	})
}

func BenchmarkAnalyze(b *testing.B) {
	const text = "SELECT t.id, v.email FROM t JOIN v USING (id) WHERE lower(t.email) = 'x' ORDER BY 1 LIMIT 10"
	cat, st := small(), newState()
	for name, fresh := range map[string]bool{"remembered": false, "anew": true} {
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				list, err := statement.Parse(text, true)
				if err != nil {
					b.Fatal(err)
				}
				if fresh {
					st.Harmless = map[string]bool{strconv.Itoa(i): true}
				}
				if a, err := list[0].Analyze(cat, st); err != nil || a.Access != statement.Read {
					b.Fatal(a, err)
				}
			}
		})
	}
}

// TestJSON is of what only newer servers have.
func TestJSON(t *testing.T) {
	cat := small()
	for sql, want := range map[string]string{
		"SELECT JSON_VALUE(email, '$.a') FROM t":         "= uses public.t.email as expression",
		"SELECT JSON_OBJECT('k': email) FROM t":          "= uses public.t.email as expression",
		"SELECT JSON_ARRAYAGG(email ORDER BY id) FROM t": "= uses public.t.id as order",
		"SELECT JSON_ARRAY(SELECT email FROM t)":         "= uses public.t.email as expression",
		"SELECT email IS JSON FROM t":                    "= uses public.t.email as expression",
		"SELECT j.a FROM t, JSON_TABLE(t.email, '$' COLUMNS (a text PATH '$.a', NESTED PATH '$.b' COLUMNS (c int4))) j": "= answers a of public.t.email",
		"SELECT JSON_QUERY(email, '$' DEFAULT f('x') ON ERROR) FROM t":                                                  "= calls public.f immutable",
		"SELECT JSON_SERIALIZE(JSON(email)) FROM t":                                                                     "= uses public.t.email as expression",
	} {
		list, err := statement.Parse(sql, true)
		if err != nil {
			t.Errorf("%s: %v", sql, err)
			continue
		}
		a, err := list[0].Analyze(cat, newState())
		if got := shown(a); err != nil || !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("%s\n%s\n%v", sql, strings.Join(got, "\n"), err)
		}
	}
	old := small()
	old.Version = 150000
	list, _ := statement.Parse("SELECT JSON_SCALAR(1)", true)
	if a, _ := list[0].Analyze(old, newState()); a.Doubt == nil {
		t.Error("a server that does not know JSON_SCALAR would call a function of that name")
	}
}
