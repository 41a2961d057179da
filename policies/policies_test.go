package policies_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/kind/postgres/session"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/extproc/redact"
	"github.com/countersign/countersign/policies"
)

// shipped are the packages that a resource can name.
var shipped = []string{"destructive", "export", "global", "personal_data", "readonly"}

var kinds = []policy.Kind{
	{Name: "http", Detail: web.Schema{}, Body: "body", Bodies: "bodies", Redact: []gate.Selector{gate.ByPath, gate.ByDetect}},
	{Name: session.Protocol, Detail: session.Schema{}, Redact: []gate.Selector{gate.ByColumn}},
}

// named are packages that resources of kind http name.
func named(names ...string) map[string][]string {
	packages := map[string][]string{}
	for _, name := range names {
		packages[name] = []string{"http"}
	}
	return packages
}

func TestPoliciesLoad(t *testing.T) {
	set, err := policy.Load(t.Context(), policy.Options{Path: ".", Kinds: kinds, Packages: named(shipped...), CheckRedaction: redact.Check, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(set.Packages(), " "); got != strings.Join(shipped, " ") {
		t.Errorf("packages %s; this test names %s", got, shipped)
	}
	if !set.MayRedact("personal_data") || set.MayRedact("readonly") {
		t.Error("personal_data redacts, readonly does not")
	}
}

// TestPoliciesBesideAnotherKind: what is shipped can be said in global where there are resources of other kinds too.
func TestPoliciesBesideAnotherKind(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, policies.Files); err != nil {
		t.Fatal(err)
	}
	included := "package rules.global\n"
	for _, set := range []string{"destructive.deny", "destructive.ask", "export.deny", "export.ask", "personal_data.redact", "readonly.deny"} {
		_, kind, _ := strings.Cut(set, ".")
		included += "\n" + kind + " contains rule if some rule in data.rules." + set + "\n"
	}
	for name, text := range map[string]string{"more.rego": included, "ledger.rego": "package rules.ledger\n\nallow contains {\"id\": \"a\"} if input.tcp.port == 5432\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tcp := policy.Kind{Name: "tcp", Detail: struct {
		Port int `json:"port"`
	}{}}
	packages := named("readonly")
	packages["ledger"] = []string{"tcp"}
	if _, err := policy.Load(t.Context(), policy.Options{Path: dir, Kinds: append(slices.Clone(kinds), tcp), Packages: packages, CheckRedaction: redact.Check, Timeout: time.Minute}); err != nil {
		t.Error(err)
	}
}

func TestRegoTestsPass(t *testing.T) {
	var out strings.Builder
	passed, err := policy.Test(t.Context(), ".", kinds, &out, false)
	if err != nil || !passed {
		t.Errorf("error %v\n%s", err, out.String())
	}
}

func TestCoverage(t *testing.T) {
	percent, missed, err := policy.Coverage(t.Context(), ".", kinds)
	if err != nil {
		t.Fatal(err)
	}
	if percent < 100 {
		t.Errorf("the tests cover %.1f%% of the policies; not %v", percent, missed)
	}
}

func TestFormatted(t *testing.T) {
	names, err := filepath.Glob("*.rego")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		want, err := policy.Format(name, text)
		if err != nil {
			t.Error(err)
		} else if string(want) != string(text) {
			t.Errorf("%s is not as opa fmt writes it", name)
		}
	}
}

func TestEmbedded(t *testing.T) {
	for _, pattern := range []string{"*.rego", "input.schema.json"} {
		onDisk, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		embedded, err := fs.Glob(policies.Files, pattern)
		if err != nil || len(embedded) != len(onDisk) || len(onDisk) == 0 {
			t.Errorf("%d files %s are embedded, %d are there (%v)", len(embedded), pattern, len(onDisk), err)
		}
	}
}

// The example of the package comment, taken at its word.
func TestIncluding(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, policies.Files); err != nil {
		t.Fatal(err)
	}
	team := `package rules.payments

import data.rules.destructive
import data.rules.personal_data

allow contains {"id": "clerks"} if "clerks" in input.principal.groups

ask contains rule if some rule in destructive.ask

deny contains rule if some rule in destructive.deny

redact contains what if some what in personal_data.redact
`
	if err := os.WriteFile(filepath.Join(dir, "payments.rego"), []byte(team), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := policy.Load(t.Context(), policy.Options{Path: dir, Kinds: kinds, Packages: named("payments"), CheckRedaction: redact.Check, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if !set.MayRedact("payments") {
		t.Error("what is included redacts too")
	}
	input := `{"principal": {"issuer": "i", "subject": "s", "kind": "agent", "groups": ["clerks"], "roles": []},
		"resource": {"name": "payments", "kind": "http", "labels": {"approvers": "oncall"}}, "context": {},
		"http": {"method": "METHOD", "segments": ["v1", "payments", "7"], "query": {}, "form": {}, "headers": {}, "body": null, "body_bytes": 0}}`
	for method, want := range map[string]gate.Effect{"GET": gate.Allow, "DELETE": gate.Ask, "PURGE": gate.Deny} {
		x, err := set.Explain(t.Context(), "payments", []byte(strings.Replace(input, "METHOD", method, 1)))
		if err != nil || x.Verdict.Effect != want {
			t.Errorf("%s: %v, error %v; want %v", method, &x, err, want)
		}
	}
}
