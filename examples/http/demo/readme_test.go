package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/extproctest"
)

var update = flag.Bool("update", false, "write what README.md takes from here")

func TestReadmeHasEveryConfigurationKey(t *testing.T) {
	readmeHas(t, "config reference", strings.TrimSpace(config.Reference()), func(s string) string { return s })
}

// excerpt is what README.md shows of the demo: the parts whose titles begin with these, as far as they go.
func excerpt(t *testing.T, out string) string {
	t.Helper()
	var parts []string
	for _, p := range []struct {
		begin, end string
		lines      int // 0 for all
	}{
		{"\n 2  ", "\n 3  ", 0},
		{"\n 3  ", "\n 4  ", 0},
		{"\n 7  ", "\n 8  ", 12},
		{"\n 9  ", "\n10  ", 0},
		{"\n10  ", "\nEverything was", 0},
	} {
		_, rest, begins := strings.Cut(out, p.begin)
		text, _, ends := strings.Cut(rest, p.end)
		if !begins || !ends {
			t.Fatalf("the demo has no part between %q and %q", p.begin, p.end)
		}
		lines := strings.Split(strings.TrimRight(p.begin[1:]+text, "\n "), "\n")
		if p.lines > 0 && len(lines) > p.lines {
			lines = append(lines[:p.lines], "      …")
		}
		parts = append(parts, strings.Join(lines, "\n"))
	}
	return "```\n" + strings.Join(parts, "\n\n") + "\n```"
}

// varying is what differs from run to run: keys, tokens, ids, times.
var varying = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}|tok_[0-9a-f]+|\+[0-9a-f]{8}\+\S+|\d+T?[\d:.-]*Z?`)

// readmeHas holds that the part of README.md between two markers is want, but for what varies.
func readmeHas(t *testing.T, marker, want string, unvaried func(string) string) {
	t.Helper()
	root, err := extproctest.Root()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "README.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+marker+": begin -->\n", "\n<!-- "+marker+": end -->"
	before, rest, begins := strings.Cut(string(text), begin)
	got, after, ends := strings.Cut(rest, end)
	if !begins || !ends {
		t.Fatalf("README.md has not both %q and %q", begin, end)
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(unvaried(got), unvaried(want)); diff != "" {
		t.Errorf("README.md is not up to date; go test ./examples/http/demo -update writes it (-README +now):\n%s", diff)
	}
}
