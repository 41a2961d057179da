package policy

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a watcher is told to look at is what a load reads, through links too, and nothing else.
func TestSourcesAreWhatALoadReads(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.rego", "package rules.a")
	write("deep/b_test.rego", "package rules.b")
	write("deep/data.yaml", "x: 1")
	write("empty/README.md", "x")
	write("gateway.log", "x")
	write("README.md", "x")
	write(".git/config.json", "{}")
	write("..2026/c.rego", "package rules.c")
	if err := os.Symlink("..2026", filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..data/c.rego", filepath.Join(dir, "c.rego")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range Sources(dir) {
		name, err := filepath.Rel(dir, p)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, name)
	}
	if diff := cmp.Diff([]string{".", "a.rego", "c.rego", "deep", "deep/b_test.rego", "deep/data.yaml", "empty"}, got); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
	read, err := readSource(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range read.files {
		if !slices.Contains(got, f.name) {
			t.Errorf("a load reads %s, which is not among the sources", f.name)
		}
	}
	bundle := filepath.Join(dir, "bundle.tar.gz")
	if diff := cmp.Diff([]string{bundle}, Sources(bundle)); diff != "" {
		t.Errorf("a bundle, also one that is not there (-want +got):\n%s", diff)
	}
}
