package console

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

// document is openapi.yaml.
type document map[string]any

func readDocument(t *testing.T) document {
	t.Helper()
	b, err := files.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var d map[string]any
	if err := yaml.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// at follows names and references.
func (d document) at(t *testing.T, path ...string) map[string]any {
	t.Helper()
	var v any = map[string]any(d)
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok || m[name] == nil {
			t.Fatalf("the document has no %s", strings.Join(path, " "))
		}
		v = d.resolve(t, m[name])
	}
	m, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("%s is no object in the document", strings.Join(path, " "))
	}
	return m
}

func (d document) resolve(t *testing.T, v any) any {
	t.Helper()
	if m, ok := v.(map[string]any); ok {
		if ref, ok := m["$ref"].(string); ok {
			return d.at(t, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		}
	}
	return v
}

// check holds a value against a schema: as much of JSON Schema as the document uses.
func (d document) check(t *testing.T, where string, schema any, v any) (problems []string) {
	t.Helper()
	s, _ := d.resolve(t, schema).(map[string]any)
	fail := func(format string, args ...any) { problems = append(problems, where+": "+fmt.Sprintf(format, args...)) }
	if one, ok := s["oneOf"].([]any); ok {
		for _, alternative := range one {
			if len(d.check(t, where, alternative, v)) == 0 {
				return nil
			}
		}
		fail("%v is none of the alternatives", v)
	}
	if kinds := kindsOf(s["type"]); len(kinds) > 0 && !slices.ContainsFunc(kinds, func(k string) bool { return is(k, v) }) {
		fail("%v (%T) is not %v", v, v, kinds)
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		fail("%v is not one of %v", v, enum)
	}
	if text, ok := v.(string); ok && s["format"] == "date-time" {
		if _, err := time.Parse(time.RFC3339Nano, text); err != nil || !strings.HasSuffix(text, "Z") {
			fail("%q is not a time in UTC", text)
		}
	}
	if list, ok := v.([]any); ok {
		for i, e := range list {
			problems = append(problems, d.check(t, fmt.Sprintf("%s[%d]", where, i), s["items"], e)...)
		}
	}
	o, ok := v.(map[string]any)
	if !ok {
		return problems
	}
	properties, _ := s["properties"].(map[string]any)
	for name, e := range o {
		if properties[name] == nil {
			if s["additionalProperties"] == false {
				fail("has %q, which is not documented", name)
			}
			continue
		}
		problems = append(problems, d.check(t, where+"."+name, properties[name], e)...)
	}
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := o[name.(string)]; !ok {
			fail("has no %q", name)
		}
	}
	return problems
}

func kindsOf(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var kinds []string
		for _, k := range v {
			kinds = append(kinds, k.(string))
		}
		return kinds
	default:
		return nil
	}
}

func is(kind string, v any) bool {
	switch v := v.(type) {
	case nil:
		return kind == "null"
	case string:
		return kind == "string"
	case bool:
		return kind == "boolean"
	case float64:
		return kind == "number" || kind == "integer" && v == float64(int64(v))
	case []any:
		return kind == "array"
	case map[string]any:
		return kind == "object"
	default:
		return false
	}
}

// TestTheDocumentSaysWhatTheAPIDoes produces every answer that is documented, and nothing that is not.
func TestTheDocumentSaysWhatTheAPIDoes(t *testing.T) {
	f := newFixture(t, false, auditedBy("security"))
	d := readDocument(t)
	f.operate(3)
	alice := f.token("u-alice")
	bob, carol, agent := f.token("u-bob"), f.token("u-carol"), f.token("agent-1", map[string]any{"client_id": "agent-1"})
	open := f.ask(func(a *approval.Asking) {
		a.Operation.Principal.OnBehalfOf = &gate.Party{Issuer: f.issuer.URL, Subject: "u-dora"}
		a.Operation.Principal.People = []gate.Person{{Directory: f.issuer.URL, ID: "u-dora"}}
		a.Operation.Principal.Actors = []gate.Party{{Issuer: f.issuer.URL, Subject: "agent-1"}}
		a.Operation.Principal.Name = "Refund bot"
		a.Demand = approval.Demand{ACR: []string{"mfa"}, MaxAge: time.Hour}
	})
	mine, rejected := f.ask(), f.ask()
	const list, one, decide, events = "/api/approvals", "/api/approvals/{id}", "/api/approvals/{id}/decisions", "/api/approvals/events"
	const operations = "/api/operations"
	seen := map[string]bool{}
	for _, c := range []struct {
		method, path, id, query, token, body, kind string
		status                                     int
	}{
		{"GET", "/api/openapi.yaml", "", "", "", "", "", 200},
		{"GET", list, "", "?state=pending", bob, "", "", 200},
		{"GET", list, "", "?nothing=1", bob, "", "", 400},
		{"GET", list, "", "", "", "", "", 401},
		{"GET", list, "", "", agent, "", "", 403},
		{"GET", one, open.ID, "", bob, "", "", 200},
		{"GET", one, open.ID, "", "", "", "", 401},
		{"GET", one, open.ID, "", agent, "", "", 403},
		{"GET", one, "none", "", bob, "", "", 404},
		{"POST", decide, mine.ID, "", bob, decision("approve", "", mine.CardDigest), "", 200},
		{"POST", decide, rejected.ID, "", bob, decision("reject", "no", rejected.CardDigest), "", 200},
		{"GET", list, "", "", bob, "", "", 200},
		{"POST", decide, open.ID, "", bob, "{}", "", 400},
		{"POST", decide, open.ID, "", "", decision("approve", "", open.CardDigest), "", 401},
		{"POST", decide, open.ID, "", carol, decision("approve", "", open.CardDigest), "", 403},
		{"POST", decide, "none", "", bob, decision("approve", "", open.CardDigest), "", 404},
		{"POST", decide, open.ID, "", bob, decision("approve", "", "00"), "", 409},
		{"POST", decide, mine.ID, "", bob, decision("approve", "", mine.CardDigest), "", 409},
		{"POST", decide, open.ID, "", bob, strings.Repeat(" ", 17<<10), "", 413},
		{"POST", decide, open.ID, "", bob, "x", "text/plain", 415},
		{"GET", operations, "", "?size=2", alice, "", "", 200},
		{"GET", operations, "", "?affect=deny", alice, "", "", 400},
		{"GET", operations, "", "", "", "", "", 401},
		{"GET", operations, "", "", bob, "", "", 403},
		{"GET", events, "", "?x=1", bob, "", "", 400},
		{"GET", events, "", "", "", "", "", 401},
		{"GET", events, "", "", agent, "", "", 403},
	} {
		req := f.request(c.method, strings.Replace(c.path, "{id}", c.id, 1)+c.query, c.token, c.body)
		if c.kind != "" {
			req.Header.Set("Content-Type", c.kind)
		}
		f.hold(d, seen, c.path, c.status, f.send(f.client, req))
	}
	f.unavailable(d, seen, bob, open)
	seen["GET "+events+" 200"] = true // TestEventsTellOfChanges
	var want []string
	for path, methods := range d.at(t, "paths") {
		for method, operation := range methods.(map[string]any) {
			for status := range operation.(map[string]any)["responses"].(map[string]any) {
				want = append(want, strings.ToUpper(method)+" "+path+" "+status)
			}
		}
	}
	for _, answer := range want {
		if !seen[answer] {
			t.Errorf("the document has %s, and it was not seen", answer)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("seen are %v", slices.Sorted(maps.Keys(seen)))
	}
}

// hold holds one answer against the document.
func (f *fixture) hold(d document, seen map[string]bool, path string, status int, got reply) {
	t := f.t
	t.Helper()
	name := fmt.Sprintf("%s %s %d", got.Request.Method, path, got.StatusCode)
	seen[name] = true
	if got.StatusCode != status {
		t.Errorf("%s: want %d: %s", name, status, got.body)
		return
	}
	responses := d.at(t, "paths", path, strings.ToLower(got.Request.Method), "responses")
	response, _ := d.resolve(t, responses[fmt.Sprint(status)]).(map[string]any)
	content, _ := response["content"].(map[string]any)
	media, ok := content[got.Header.Get("Content-Type")].(map[string]any)
	if !ok {
		t.Errorf("%s: the document has no answer of type %s", name, got.Header.Get("Content-Type"))
		return
	}
	var v any = got.body
	if strings.HasSuffix(got.Header.Get("Content-Type"), "json") {
		v = any(got.json(t))
	}
	for _, p := range d.check(t, name, media["schema"], v) {
		t.Error(p)
	}
}

// unavailable has the store closed, the last thing that is done to the fixture.
func (f *fixture) unavailable(d document, seen map[string]bool, token string, r approval.Request) {
	f.t.Helper()
	for range maxListeners {
		if f.console.feed.join() == nil {
			break
		}
	}
	f.hold(d, seen, "/api/approvals/events", http.StatusServiceUnavailable, f.call("GET", "/api/approvals/events", token, ""))
	f.console.opt.Desk = lost{f.desk}
	f.hold(d, seen, "/api/approvals", http.StatusServiceUnavailable, f.call("GET", "/api/approvals", token, ""))
	f.hold(d, seen, "/api/approvals/{id}", http.StatusServiceUnavailable, f.call("GET", "/api/approvals/"+r.ID, token, ""))
	f.console.opt.Journal = nil
	f.hold(d, seen, "/api/operations", http.StatusServiceUnavailable, f.call("GET", "/api/operations", f.token("u-alice"), ""))
	f.hold(d, seen, "/api/approvals/{id}/decisions", http.StatusServiceUnavailable, f.call("POST", "/api/approvals/"+r.ID+"/decisions", token, decision("approve", "", r.CardDigest)))
}
