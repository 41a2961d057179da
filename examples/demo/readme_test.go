package main

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/extproctest"
)

var update = flag.Bool("update", false, "write what README.md and its like take from here")

func TestReadmeHasEveryConfigurationKey(t *testing.T) {
	reference, err := exec.CommandContext(t.Context(), extproctest.Build(t), "config", "reference").Output()
	if err != nil {
		t.Fatal(err)
	}
	documentHas(t, "extproc/config/REFERENCE.md", "config reference", strings.TrimSpace(string(reference)), func(s string) string { return s })
}

// excerpt is what README.md shows of the demo: the parts whose titles begin with these, as far as they go.
func excerpt(t *testing.T, out string) string {
	t.Helper()
	var parts []string
	for _, p := range []struct {
		begin, end string
		from, to   string // with these only the head and the lines from one that has from to one that has to
	}{
		{begin: "\n 2  ", end: "\n 3  "},
		{begin: "\n 4  ", end: "\n 5  "},
		{begin: "\n12  ", end: "\n13  ", from: "approval.requested", to: "status=201"},
		{begin: "\n14  ", end: "\n15  "},
		{begin: "\n15  ", end: "\nEverything was"},
	} {
		_, rest, begins := strings.Cut(out, p.begin)
		text, _, ends := strings.Cut(rest, p.end)
		if !begins || !ends {
			t.Fatalf("the demo has no part between %q and %q", p.begin, p.end)
		}
		lines := strings.Split(strings.TrimRight(p.begin[1:]+text, "\n "), "\n")
		if p.from != "" {
			has := func(text string) func(string) bool {
				return func(line string) bool { return strings.Contains(line, text) }
			}
			first, head := slices.IndexFunc(lines, has(p.from)), slices.Index(lines[2:], "")+3
			last := slices.IndexFunc(lines[max(first, 0):], has(p.to)) + first
			if first < head || last < first {
				t.Fatalf("part%q has no lines from %q to %q", p.begin, p.from, p.to)
			}
			lines = slices.Concat(lines[:head], []string{"      …"}, lines[first:last+1], []string{"      …"})
		}
		parts = append(parts, strings.Join(lines, "\n"))
	}
	return "```\n" + strings.Join(parts, "\n\n") + "\n```"
}

// chapter is what of the demo is about a database.
func chapter(t *testing.T, out string) string {
	t.Helper()
	_, rest, begins := strings.Cut(out, "\n 9  ")
	text, _, ends := strings.Cut(rest, "\n12  ")
	if !begins || !ends {
		t.Fatal("the demo has no chapter about a database")
	}
	return "```\n 9  " + strings.TrimRight(text, "\n") + "\n```"
}

// refusal is what an agent is told of a refund that nobody has answered, in the demo.
func refusal(t *testing.T, out string) string {
	t.Helper()
	_, rest, begins := strings.Cut(out, "\n 6  ")
	_, rest, refused := strings.Cut(rest, "   < HTTP/1.1 403 Forbidden\n")
	text, _, ends := strings.Cut(rest, "\n   ✓")
	if !begins || !refused || !ends {
		t.Fatal("the demo has no refusal in part 6")
	}
	return "```\n   < HTTP/1.1 403 Forbidden\n" + text + "\n```"
}

// varying is what differs from run to run: keys, tokens, digests, ids, sessions, times.
var varying = regexp.MustCompile(`[0-9a-f]{64}|[A-Z2-7]{26}|[0-9a-f]{8}-[0-9a-f-]{27}|tok_[0-9a-f]+|\+[0-9a-f]{8}\+\S+|\d+T?[\d:.-]*Z?`)

// documentHas holds that the part of a document between two markers is want, but for what varies.
func documentHas(t *testing.T, document, marker, want string, unvaried func(string) string) {
	t.Helper()
	root, err := extproctest.Root()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, document)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+marker+": begin -->\n", "\n<!-- "+marker+": end -->"
	before, rest, begins := strings.Cut(string(text), begin)
	got, after, ends := strings.Cut(rest, end)
	if !begins || !ends {
		t.Fatalf("%s has not both %q and %q", document, begin, end)
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(unvaried(got), unvaried(want)); diff != "" {
		t.Errorf("%s is not up to date; go test ./examples/demo -update writes it (-document +now):\n%s", document, diff)
	}
}
