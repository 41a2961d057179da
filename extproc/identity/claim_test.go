package identity

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A configuration names a claim by its exact name, by a pointer or by a path with dots.
func TestClaimsAreFoundByNameOrPath(t *testing.T) {
	claims, err := readObject([]byte(`{
		"roles": 1, "a.b": 2, "a": {"b": 3, "c.d": {"e": 4}, "c": {"d": {"f": 5}}},
		"https://x.test/roles.v2": 6, "https://y.test/claims": {"roles": 7}, "/p/q": 8, "p": {"q": 9, "~/": 10}, "none": null
	}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		want []string
	}{
		{"roles", []string{"roles"}},
		{"a.b", []string{"a.b"}},
		{"/a/b", []string{"a", "b"}},
		{"a.c.d.e", []string{"a", "c.d", "e"}},
		{"a.c.d.f", []string{"a", "c", "d", "f"}}, // the longer step leads nowhere
		{"https://x.test/roles.v2", []string{"https://x.test/roles.v2"}},
		{"https://y.test/claims.roles", []string{"https://y.test/claims", "roles"}},
		{"/p/q", []string{"/p/q"}},
		{"/p/~0~1", []string{"p", "~/"}},
		{"none", []string{"none"}},
		{"a.c.d.g", nil},
		{"roles.b", nil},
		{"a.", nil},
		{".b", nil},
		{"/a", []string{"a"}},
		{"/a/", nil},
		{"/", nil},
		{"", nil},
	} {
		if diff := cmp.Diff(c.want, find(claims, c.name)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.name, diff)
		}
		if _, there := lookUp(claims, c.name); there != (c.want != nil) {
			t.Errorf("%q is there: %v", c.name, there)
		}
	}
}
