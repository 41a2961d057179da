package main

import (
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/extproctest"
)

// environ is the demo's environment: $ENVOY is for whoever runs the tests, and $PERSON is not.
func environ(name string) string {
	if name == "PERSON" {
		return ""
	}
	return os.Getenv(name) //nolint:forbidigo // see above
}

// TestDemo plays the demo, with a binary under the race detector, and holds what documents show of it to what it is.
func TestDemo(t *testing.T) {
	var out strings.Builder
	play(t, t.Context(), &terminal{w: &out}, extproctest.Build(t), environ, strings.NewReader(""))
	if strings.Contains(out.String(), "\x1b") {
		t.Error("there are colours where none were asked for")
	}
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(line); n > 101 {
			t.Errorf("a line is %d columns wide: %s", n-1, line)
		}
	}
	unvaried := func(s string) string {
		return strings.Join(strings.Fields(varying.ReplaceAllString(s, "0")), "\n") // lines break where numbers are longer
	}
	documentHas(t, "README.md", "demo", excerpt(t, out.String()), unvaried)
	documentHas(t, "extproc/problem/README.md", "demo refusal", refusal(t, out.String()), unvaried)
	documentHas(t, "extproc/kind/postgres/README.md", "demo", chapter(t, out.String()), unvaried)
	if t.Failed() {
		t.Log(out.String())
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a short line stays", "one two", "one two"},
		{"cut at the last space that fits", "aaaa bbbb cccc dddd", "aaaa bbbb|  cccc|  dddd"},
		{"two spaces leave none behind", "aaaa bbb  cccc", "aaaa bbb|  cccc"},
		{"at a comma where there is no space", "aaaaaa,bbbbbb,cc", "aaaaaa,|  bbbbbb,|  cc"},
		{"anywhere where there is neither", "aaaaaaaaaaaaaaaa", "aaaaaaaaaa|  aaaaaa"},
	} {
		if got := strings.Join(wrap(c.text, 10, 2), "|"); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
