package web

import (
	"slices"
	"strings"
	"testing"
)

// What is the agent's in a URL is left out, and what is the target's own stays.
func TestWhatAnAgentHadRepeated(t *testing.T) {
	a := NewAsked("api.test:8080", "/people?x=SECRET&x=2&y=a%20b&flag")
	for text, own := range map[string]bool{
		"</people?x=SECRET&x=2&page=2>; rel=next":                         false,
		"</people?page=2&x=SECRET&y=a+b&x=2>; rel=\"next\", </a>; rel=up": false,
		"<http://API.test:8080/people?x=SECRET&x=2#top>; rel=next":        false,
		"/people?x=SECRET":                  true, // one of two: not the agent's list
		"/people?x=SECRET&x=2&x=SECRET":     true,
		"/people?z=SECRET&x=SECRET&x=2":     true,
		"/SECRET?x=SECRET&x=2":              true,
		"/people/SECRET":                    true,
		"http://SECRET/people?x=SECRET&x=2": true,
		"/people?x=SECRET&x=2#SECRET":       true,
		"5; url=/people?x=2&x=SECRET":       true,
	} {
		if got := strings.Contains(a.Rest(text), "SECRET"); got != own {
			t.Errorf("of %q stays %q", text, a.Rest(text))
		}
	}
	if got := (Asked{}).Rest("/people?x=SECRET"); !strings.Contains(got, "/people") || !strings.Contains(got, "SECRET") {
		t.Errorf("of what nobody asked stays %q", got)
	}
	values := a.Values()
	slices.Sort(values)
	if got := strings.Join(values, " "); got != "2 SECRET a b" {
		t.Errorf("the agent's values are %q", got)
	}
}
