package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
	"github.com/countersign/countersign/extproc/inspect/web"
)

var fieldName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*-?$`)

// knownFields are all names of header fields in the tables of package web, those that begin with one of its prefixes, and
// some that no table has.
func knownFields(t *testing.T) []string {
	t.Helper()
	names := map[string]bool{}
	for _, n := range []string{"accept", "accept-language", "content-language", "x-anything", "expect", "max-forwards", "early-data", "priority", "x-request-start", "via", "x-amz-copy-source-if-match"} {
		names[n] = true
	}
	files, err := filepath.Glob("../../extproc/inspect/web/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("find package web: %v", err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil && fieldName.MatchString(text) {
					if strings.HasSuffix(text, "-") {
						text += "x"
					}
					names[text] = true
				}
			}
			return true
		})
	}
	return slices.Sorted(maps.Keys(names))
}

// change is one line of the table in the package comment of extproc.
type change struct {
	name, what, where, why string
	matches                func(field string) bool
	happened               bool
}

func (c *change) covers(field, what, attach string) bool {
	return c.matches(field) && c.what == what && (c.where == "both" || c.where == attach)
}

// tableOfChanges reads it.
func tableOfChanges(t *testing.T) []*change {
	t.Helper()
	text, err := os.ReadFile("../../extproc/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "// # What changes after the judgement\n")
	after, _, _ = strings.Cut(after, "// # ")
	var table []*change
	for line := range strings.Lines(after) {
		row, ok := strings.CutPrefix(line, "//\t")
		if !ok {
			continue
		}
		cells := regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(row), -1)
		if len(cells) != 4 || cells[1] != "removed" && cells[1] != "set" || cells[2] != "both" && cells[2] != "ext_proc" && cells[2] != "ext_authz" {
			t.Fatalf("a line of the table cannot be read: %s", row)
		}
		c := &change{name: cells[0], what: cells[1], where: cells[2], why: cells[3]}
		switch c.name {
		case "(identity)":
			c.matches = web.Identity
		case "(credential)":
			c.matches = func(field string) bool { return field == "authorization" }
		default:
			pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(c.name), `\*`, ".*") + "$")
			c.matches = pattern.MatchString
		}
		table = append(table, c)
	}
	if len(table) == 0 {
		t.Fatal("the package comment of extproc has no table of what changes after the judgement")
	}
	return table
}

// held holds what a target received against what an agent sent: every difference stands in the table.
func held(t *testing.T, table []*change, attach string, sent, got []extproctest.Field) {
	t.Helper()
	note := func(field, what string) {
		known := false
		for _, c := range table {
			if c.covers(field, what, attach) {
				c.happened, known = true, true
			}
		}
		if !known {
			t.Errorf("%s: %s is %s on the way to the target, and the table in the package comment of extproc does not say so", attach, field, what)
		}
	}
	values := func(fields []extproctest.Field) map[string]string {
		m := map[string]string{}
		for _, f := range fields {
			name := strings.ToLower(f.Name)
			m[name] += "\n" + f.Value
		}
		return m
	}
	before, after := values(sent), values(got)
	for name := range before {
		if _, in := after[name]; !in {
			note(name, "removed")
		}
	}
	for name, value := range after {
		if before[name] != value {
			note(name, "set")
		}
	}
}

// TestWhatChangesAfterTheJudgement: the target receives what was judged but for what the package comment of extproc lists, and
// everything in that list happens.
func TestWhatChangesAfterTheJudgement(t *testing.T) {
	t.Parallel()
	table := tableOfChanges(t)
	var gateways []*story.Gateway
	for _, how := range []struct{ attach, query, keys string }{
		{"ext_proc", "", "cookies: session\n"},
		{"ext_proc", "?redacted=1", ""},
		{"ext_authz", "", ""},
	} {
		g := start(t, allowAll+`
redact contains {"path": "$..ssn"} if input.http.query.redacted
-- resource.yaml --
`+how.keys, story.Options{Attach: how.attach})
		gateways = append(gateways, g)
		token := extproctest.Field{Name: "Authorization", Value: "Bearer " + g.Issuer.Token(nil)}
		send := func(r *story.Request) {
			t.Helper()
			host := extproctest.Field{Name: "Host", Value: g.Address}
			r.Fields = append([]extproctest.Field{host, token}, r.Fields...)
			g.Target.Reset()
			if _, err := g.Send(t.Context(), r); err != nil {
				t.Fatalf("%s %s %v: %v", r.Method, r.Target, r.Fields, err)
			}
			if seen := g.Target.Requests(); len(seen) == 1 { // or it was refused, and nothing changed
				sent := r.Fields
				if r.Chunked {
					sent = append(sent, extproctest.Field{Name: "Transfer-Encoding", Value: "chunked"})
				}
				held(t, table, how.attach, sent, seen[0].Header)
			}
		}
		for _, name := range knownFields(t) {
			if name != "host" && name != "authorization" && name != "expect" && name != "content-length" && name != "transfer-encoding" && name != "countersign-approval" {
				send(&story.Request{Method: "GET", Target: "/hello" + how.query, Fields: []extproctest.Field{{Name: name, Value: "*"}}})
			}
		}
		send(&story.Request{Method: "GET", Target: "/hello" + how.query, Fields: []extproctest.Field{{Name: "Countersign-Approval", Value: "019ac000-0000-7000-8000-000000000000"}, {Name: "TE", Value: "trailers"}, {Name: "Connection", Value: "te"}}})
		send(&story.Request{Method: "POST", Target: "/echo" + how.query, Body: []byte(`{"a":1}`), Fields: []extproctest.Field{{Name: "Content-Type", Value: "application/json"}, {Name: "Content-Length", Value: "7"}}})
		send(&story.Request{Method: "POST", Target: "/echo" + how.query, Body: []byte(`{"a":1}`), Chunked: true, Fields: []extproctest.Field{{Name: "Expect", Value: "100-continue"}}})

		g.Target.Reset()
		w := dial(t, g)
		w.send(t, "%s\r\n2\r\n{}\r\n0\r\nX-Check: good\r\n\r\n", head(t, g, "POST", "/echo"+how.query, "Transfer-Encoding: chunked"))
		w.answer(t, "POST")
		if seen := g.Target.Requests(); len(seen) == 1 && len(seen[0].Trailer) == 0 {
			held(t, table, how.attach, []extproctest.Field{{Name: "(trailers)"}}, nil)
		}
	}
	// A cookie that the agent was given.
	g := gateways[0]
	set, _, _ := strings.Cut(as(t, g, "agent-1", false, "/session/begin", "").Header.Get("Set-Cookie"), ";")
	g.Target.Reset()
	as(t, g, "agent-1", false, "/session/use", set)
	held(t, table, "ext_proc", []extproctest.Field{{Name: "Host"}, {Name: "Authorization"}, {Name: "Cookie", Value: set}}, g.Target.Requests()[0].Header)
	for _, c := range table {
		if !c.happened {
			t.Errorf("the table says that %s is %s (%s), and that did not happen: %s", c.name, c.what, c.where, c.why)
		}
	}
}
