package http_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/policy"
)

var update = flag.Bool("update", false, "write the evidence section of the story")

func TestStory(t *testing.T) {
	t.Parallel()
	story.Play(t, "script.txtar", story.Options{Policies: "policies", Update: *update})
}

// The configuration as it stands, with the secrets that README.md says to write.
func TestConfigurationPassesCheck(t *testing.T) {
	t.Parallel()
	dir := extproctest.Dir(t)
	if err := os.CopyFS(dir, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "countersign.yaml")
	if got := check(t, config); !strings.Contains(got, "secrets/payments") || !strings.Contains(got, "2 problems") {
		t.Errorf("without its secrets check says:\n%s", got)
	}
	if err := os.MkdirAll(filepath.Join(dir, "secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"payments", "files"} {
		if err := os.WriteFile(filepath.Join(dir, "secrets", name), []byte("Bearer for-"+name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := check(t, config); !strings.Contains(got, "countersign.yaml is well: 2 resource(s), 1 issuer(s)") {
		t.Errorf("check says:\n%s", got)
	}
	got := countersign(t, "policy", "explain", "--config", config, "--input", "request.json")
	if !strings.HasPrefix(got, "verdict: ask\n") || !strings.Contains(got, "refunds need a person") || !strings.Contains(got, "payments.rego:") {
		t.Errorf("policy explain says of request.json:\n%s", got)
	}
}

func check(t *testing.T, config string) string {
	t.Helper()
	return countersign(t, "check", "--config", config)
}

// countersign returns what a command of the program writes.
func countersign(t *testing.T, args ...string) string {
	t.Helper()
	p := extproctest.Start(t, extproctest.Command{Name: "countersign " + args[0], Path: extproctest.Build(t), Args: args})
	select {
	case <-p.Done():
	case <-time.After(time.Minute):
		t.Fatalf("countersign %s takes more than a minute", strings.Join(args, " "))
	}
	return p.Log()
}

var kinds = []policy.Kind{{Name: "http", Detail: web.Schema{}, Redact: []gate.Selector{gate.ByPath, gate.ByDetect}}}

func TestPolicies(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if passed, err := policy.Test(t.Context(), "policies", kinds, &out, false); err != nil || !passed {
		t.Errorf("error %v\n%s", err, out.String())
	}
	if percent, missed, err := policy.Coverage(t.Context(), "policies", kinds); err != nil || percent < 100 {
		t.Errorf("the tests cover %.1f%% of the policies; not %v (error %v)", percent, missed, err)
	}
	files, err := filepath.Glob("policies/*.rego")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := policy.Format(name, text); err != nil || string(want) != string(text) {
			t.Errorf("%s is not as opa fmt writes it (error %v)", name, err)
		}
	}
}
