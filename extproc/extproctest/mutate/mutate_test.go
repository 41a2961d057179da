package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
)

// promises are the rows of SECURITY.md's table of promises: what is promised, and what is named as its proof.
func promises(t *testing.T, root string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| promise | tests |\n| --- | --- |\n")
	if !found {
		t.Fatal("SECURITY.md has no table of promises")
	}
	rows := map[string]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 4 {
			break
		}
		rows[strings.TrimSpace(cells[1])] = cells[2]
	}
	return rows
}

// Every promise has a line that keeps it and is in the list, with a test that its row names; and the list fits the code.
func TestEachPromiseHasAMutation(t *testing.T) {
	root, err := extproctest.Root()
	if err != nil {
		t.Fatal(err)
	}
	list, err := readMutations(filepath.Join(root, listFile))
	if err != nil {
		t.Fatal(err)
	}
	kept := map[string]bool{}
	rows := promises(t, root)
	for i := range list {
		m := &list[i]
		row := ""
		for promise, named := range rows {
			if m.Promise != "" && strings.HasPrefix(promise, m.Promise) {
				row, kept[promise] = named, true
			}
		}
		name, _, _ := strings.Cut(m.Test, "/")
		story := m.Test[strings.LastIndex(m.Test, "/")+1:]
		if row == "" {
			t.Errorf("%s: SECURITY.md has no promise that begins with %q", m, m.Promise)
		} else if !strings.Contains(row, "`"+name+"`") && !strings.Contains(row, "`"+story+"`") {
			t.Errorf("%s: the row of %q in SECURITY.md does not name the test", m, m.Promise)
		}
		if !testIsThere(t, root, m) {
			t.Errorf("%s: %s has no such test", m, m.Package)
		}
		if _, err := m.apply(root); err != nil {
			t.Errorf("%s: %v", m, err)
		}
	}
	for promise := range rows {
		if !kept[promise] {
			t.Errorf("no mutation takes this promise away: %s", promise)
		}
	}
}

func testIsThere(t *testing.T, root string, m *Mutation) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, m.Package, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(m.Test, "/")
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}

// A module of two functions shows each way that a mutation ends.
func TestPlay(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":       "module example\n\ngo 1.26\n",
		"door.go":      "package door\n\n// Open says who may come in.\nfunc Open(key string) bool {\n\tif key == \"\" {\n\t\treturn false\n\t}\n\treturn key == \"right\"\n}\n",
		"door_test.go": "package door\n\nimport \"testing\"\n\nfunc TestWrongKey(t *testing.T) {\n\tif Open(\"wrong\") {\n\t\tt.Error(\"open\")\n\t}\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	empty := "\tif key == \"\" {\n\t\treturn false\n\t}\n"
	original := text(t, filepath.Join(root, "door.go"))
	for _, c := range []struct {
		name          string
		code, becomes string
		test          string
		want          error
		say           string
	}{
		{"a line that the test misses", `return key == "right"`, "return true", "TestWrongKey", nil, ""},
		{"a line that no test misses", empty, "", "TestWrongKey", errSurvived, ""},
		{"a test that is not there", empty, "", "TestNoKey", errBroken, "no tests to run"},
		{"a change that does not compile", `return key == "right"`, "return key", "TestWrongKey", errBroken, "build failed"},
		{"a change that is not Go", `return key == "right"`, "return (", "TestWrongKey", nil, "not Go"},
		{"code that is not there", "return 7", "", "TestWrongKey", nil, "0 times"},
		{"code that is there twice", "return", "", "TestWrongKey", nil, "2 times"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := Mutation{File: "door.go", Code: c.code, Becomes: c.becomes, Test: c.test, Package: "."}
			err := m.play(t.Context(), root)
			if c.want == nil && c.say == "" && err != nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%v; want %v", err, c.want)
			}
			if c.say != "" && (err == nil || !strings.Contains(err.Error(), c.say)) {
				t.Errorf("%v; want %q", err, c.say)
			}
			if text(t, filepath.Join(root, "door.go")) != original {
				t.Error("the file was not put back")
			}
		})
	}
	all := []Mutation{{Promise: "p", File: "door.go", Code: empty, Test: "TestWrongKey", Package: "."}}
	var out strings.Builder
	if err := playAll(t.Context(), root, all, regexp.MustCompile(""), &out); err == nil || !strings.Contains(out.String(), "FAIL") {
		t.Errorf("a promise that can be broken unnoticed is not reported: %v, %s", err, &out)
	}
	if err := playAll(context.Background(), root, all, regexp.MustCompile("nothing"), &out); err == nil {
		t.Error("a pattern that matches nothing is not an error")
	}
}

func text(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The copy has what the repository has, and nothing that was removed from it.
func TestCopyTree(t *testing.T) {
	root, tree := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "git", "init", "-q", root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	write(".gitignore", ".tools\n")
	write(".tools/envoy", "a part")
	write(".tools/countersign-test", "made by tests")
	write("a/b.go", "1")
	write("old.go", "1")
	if err := copyTree(t.Context(), root, tree); err != nil {
		t.Fatal(err)
	}
	write("a/b.go", "2")
	if err := os.Remove(filepath.Join(root, "old.go")); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(t.Context(), root, tree); err != nil {
		t.Fatal(err)
	}
	if got := text(t, filepath.Join(tree, "a/b.go")); got != "2" {
		t.Errorf("the copy of a changed file is %q", got)
	}
	if got := text(t, filepath.Join(tree, ".tools/envoy")); got != "a part" {
		t.Errorf("the part is %q", got)
	}
	for _, gone := range []string{"old.go", ".tools/countersign-test"} {
		if _, err := os.Stat(filepath.Join(tree, gone)); !os.IsNotExist(err) {
			t.Errorf("%s is in the copy: %v", gone, err)
		}
	}
}
