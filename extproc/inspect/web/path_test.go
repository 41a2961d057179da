package web

import (
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/google/go-cmp/cmp"
)

func TestPathsThatAreRead(t *testing.T) {
	for _, c := range []struct {
		name, target string
		segments     []string
		query        gate.Object
	}{
		{"the root", "/", []string{}, nil},
		{"two segments", "/v1/payments", []string{"v1", "payments"}, nil},
		{"a slash at the end adds no segment", "/v1/payments/", []string{"v1", "payments"}, nil},
		{"an encoded letter is decoded", "/%61dmin", []string{"admin"}, nil},
		{"an encoded space", "/a%20b", []string{"a b"}, nil},
		{"a plus in a path is a plus", "/a+b", []string{"a+b"}, nil},
		{"encoded UTF-8", "/%C3%A9", []string{"é"}, nil},
		{"an encoded percent sign", "/100%25", []string{"100%"}, nil},
		{"an encoded percent sign before letters that are not digits", "/100%25zz", []string{"100%zz"}, nil},
		{"an encoded question mark and hash", "/a%3Fb%23c", []string{"a?b#c"}, nil},
		{"three dots are a name", "/...", []string{"..."}, nil},
		{"a name that begins with a dot", "/.well-known/x", []string{".well-known", "x"}, nil},
		{"a colon and an at sign", "/a:b@c", []string{"a:b@c"}, nil},
		{"an empty query", "/a?", []string{"a"}, nil},
		{"a query with everything", "/a?x=1&y&x=2+3&z=%26%3D%2B&=v&w=a=b", []string{"a"}, gate.Object{
			{Name: "", Value: []string{"v"}}, {Name: "w", Value: []string{"a=b"}}, {Name: "x", Value: []string{"1", "2 3"}}, {Name: "y", Value: []string{""}}, {Name: "z", Value: []string{"&=+"}},
		}},
		{"a query with a path in it", "/a?next=/b/../c//d?e", []string{"a"}, gate.Object{{Name: "next", Value: []string{"/b/../c//d?e"}}}},
		{"a query with an encoded line break", "/a?x=%0D%0A%09", []string{"a"}, gate.Object{{Name: "x", Value: []string{"\r\n\t"}}}},
		{"a query that is encoded twice, as URLs within URLs are", "/a?x=%252F", []string{"a"}, gate.Object{{Name: "x", Value: []string{"%2F"}}}},
		{"a query with an encoded semicolon", "/a?x=1%3By=2", []string{"a"}, gate.Object{{Name: "x", Value: []string{"1;y=2"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _, err := read(limits, get(c.target), "")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.segments, r.Segments); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.query, r.Query); diff != "" {
				t.Error(diff)
			}
			if p, _, _ := strings.Cut(c.target, "?"); r.Target != c.target || r.Path != p {
				t.Errorf("target %q, path %q", r.Target, r.Path)
			}
		})
	}
	r, _, err := read(limits, head("OPTIONS", "*"), "")
	if err != nil || r.Path != "*" || len(r.Segments) != 0 || r.Segments == nil {
		t.Errorf("OPTIONS *: %+v, %v", r, err)
	}
}

func TestPathsThatAreRefused(t *testing.T) {
	for _, c := range []struct{ name, target, form, say string }{
		{"an encoded slash", "/a%2fb", "encoded-slash", "encoded slash"},
		{"an encoded slash in capitals", "/a%2Fb", "encoded-slash", "encoded slash"},
		{"two dots", "/a/../b", "dot-segments", "dot segment"},
		{"two dots at the end", "/a/..", "dot-segments", "dot segment"},
		{"two dots and a slash at the end", "/a/../", "dot-segments", "dot segment"},
		{"two encoded dots", "/a/%2e%2e/b", "dot-segments", "dot segment"},
		{"two encoded dots in capitals", "/a/%2E%2E/b", "dot-segments", "dot segment"},
		{"a dot and an encoded dot", "/a/.%2e/b", "dot-segments", "dot segment"},
		{"an encoded dot and a dot", "/a/%2e./b", "dot-segments", "dot segment"},
		{"one dot", "/a/./b", "dot-segments", "dot segment"},
		{"one encoded dot", "/a/%2e/b", "dot-segments", "dot segment"},
		{"two slashes", "/a//b", "double-slash", "empty segment"},
		{"two slashes at the beginning, which some read as a host", "//evil.example/a", "double-slash", "empty segment"},
		{"two slashes at the end", "/a//", "double-slash", "empty segment"},
		{"nothing but two slashes", "//", "double-slash", "empty segment"},
		{"a backslash", `/a\b`, "backslash", "backslash"},
		{"an encoded backslash", "/a%5cb", "backslash", "backslash"},
		{"a semicolon", "/a;x=1/b", "parameters", "semicolon"},
		{"an encoded semicolon", "/a%3bx", "parameters", "semicolon"},
		{"a semicolon in the query", "/a?x=1;y=2", "parameters", "semicolon"},

		{"an encoded NUL", "/a%00.json", "", "control character"},
		{"an encoded line break", "/a%0d%0ab", "", "control character"},
		{"an encoded DEL", "/a%7f", "", "control character"},
		{"an encoded NUL in the query", "/a?x=%00", "", "control character"},
		{"an overlong slash", "/a%c0%afb", "", "not UTF-8"},
		{"an overlong dot", "/a/%c0%ae%c0%ae/b", "", "not UTF-8"},
		{"an encoded surrogate", "/%ed%a0%80", "", "not UTF-8"},
		{"half a character", "/%c3", "", "not UTF-8"},
		{"Latin-1", "/caf%e9", "", "not UTF-8"},
		{"bad UTF-8 in the query", "/a?x=%ff", "", "not UTF-8"},
		{"dots that are encoded twice", "/a/%252e%252e/b", "", "twice"},
		{"a slash that is encoded twice", "/a%252fb", "", "twice"},
		{"a slash that is encoded twice, digits first", "/a%25%32%66b", "", "twice"},
		{"a slash that is encoded twice, the last digit only", "/a%252%66b", "", "twice"},
		{"a slash that is encoded three times", "/a%25252fb", "", "twice"},
		{"a percent sign alone", "/100%", "", "not followed by two"},
		{"a percent sign and one digit", "/100%2", "", "not followed by two"},
		{"a percent sign and letters", "/100%zz", "", "not followed by two"},
		{"the %u of IIS", "/%u002f", "", "not followed by two"},
		{"a percent sign alone in the query", "/a?x=%", "", "not followed by two"},
		{"a fragment", "/a#b", "", "fragment"},
		{"a fragment in the query", "/a?b#c", "", "fragment"},
		{"a plain é", "/é", "", "0xC3"},
		{"a space", "/a b", "", "0x20"},
		{"a tab", "/a\tb", "", "control character"},
		{"a whole URL", "http://other/a", "", "begin with a slash"},
		{"no slash", "a", "", "begin with a slash"},
		{"a star with GET", "*", "", "begin with a slash"},
		{"an empty path", "", "", "begin with a slash"},
		{"only a query", "?a", "", "begin with a slash"},
		{"a method in the query, which some servers obey", "/a?_method=DELETE", "", "request's method"},
		{"a method in the query, encoded", "/a?%5fMethod=DELETE", "", "request's method"},
	} {
		t.Run(c.name, func(t *testing.T) {
			others := Options{Paths: slices.DeleteFunc([]string{"encoded-slash", "dot-segments", "double-slash", "backslash", "parameters"}, func(f string) bool { return f == c.form })}
			for _, opt := range []Options{{}, others} {
				_, _, err := read(opt, get(c.target), "")
				if c.say == "control character" && err != nil {
					continue // said of the field or of the path
				}
				wantRefused(t, err, gate.Unreadable, c.say)
			}
			if c.form != "" {
				if _, _, err := read(Options{Paths: []string{c.form}}, get(c.target), ""); err != nil {
					t.Errorf("refused although %q is accepted: %v", c.form, err)
				}
			}
		})
	}
}

// A form that is accepted does not bring in another.
func TestAcceptedFormsHideNoOther(t *testing.T) {
	for _, c := range []struct {
		name, target string
		paths        []string
		say          string
	}{
		{"dots behind encoded slashes", "/a%2f..%2fadmin", []string{"encoded-slash"}, "dot segment"},
		{"dots at the end of an encoded slash", "/a%2f..", []string{"encoded-slash"}, "dot segment"},
		{"an empty segment between encoded slashes", "/a%2f%2fb", []string{"encoded-slash"}, "empty segment"},
		{"an encoded slash beside a slash", "/a%2f/b", []string{"encoded-slash"}, "empty segment"},
		{"a backslash behind an encoded slash", "/a%2f%5cb", []string{"encoded-slash"}, "backslash"},
		{"a backslash at the beginning, which some read as a host", `/\evil.example`, []string{"backslash"}, "empty segment"},
		{"dots behind a backslash", `/a\..\admin`, []string{"backslash"}, "dot segment"},
		{"dots with a parameter, as Tomcat reads them", "/a/..;x=1/admin", []string{"parameters"}, "dot segment"},
		{"dots with an empty parameter", "/a/..;/admin", []string{"parameters"}, "dot segment"},
		{"nothing with a parameter", "/a/;x/admin", []string{"parameters"}, "empty segment"},
		{"dots with a parameter behind an encoded slash", "/a%2f..;%2fadmin", []string{"parameters", "encoded-slash"}, "dot segment"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := read(Options{Paths: c.paths}, get(c.target), "")
			wantRefused(t, err, gate.Unreadable, c.say)
		})
	}
}

func TestAcceptedFormsStandInSegments(t *testing.T) {
	opt := Options{Paths: []string{"encoded-slash", "dot-segments", "double-slash", "backslash", "parameters"}}
	r, _, err := read(opt, get(`/a%2Fb/.././/c\d;e/`), "")
	if diff := cmp.Diff([]string{"a/b", "..", ".", "", `c\d;e`}, r.Segments); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestTooManyPairs(t *testing.T) {
	for _, n := range []int{maxPairs, maxPairs + 1} {
		distinct, same := "/?", "/?"
		for j := range n {
			distinct += "a" + strconv.Itoa(j) + "=&"
			same += "a=&"
		}
		for _, target := range []string{distinct, same} {
			if _, _, err := read(limits, get(target), ""); (err == nil) != (n == maxPairs) {
				t.Errorf("%d pairs: %v", n, err)
			}
		}
	}
}

// FuzzTarget holds our reading of a request-target to that of net/url, and so of net/http's router.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"/", "/a/b/?x=1&y=%20+", "/%61%2e", "/a%252e", "/a%25%32%65", "/..%2f", "/a;b", `/\`, "/%c0%af", "*", "/a?%zz", "/a%3Fb%23", "/[a]^{}|`\"<>", "/:a", "/a:b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		r, _, err := read(limits, get(target), "")
		if err != nil {
			return
		}
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatalf("net/url refuses %q: %v", target, err)
		}
		if u.Host != "" || u.Opaque != "" || u.Fragment != "" {
			t.Fatalf("net/url reads %q as %+v", target, u)
		}
		joined := "/" + strings.Join(r.Segments, "/")
		if len(r.Segments) > 0 && strings.HasSuffix(r.Path, "/") {
			joined += "/"
		}
		if joined != u.Path {
			t.Fatalf("%q is %q here and %q to net/url", target, joined, u.Path)
		}
		if clean := path.Clean(u.Path); clean != strings.TrimSuffix(u.Path, "/") && u.Path != "/" {
			t.Fatalf("a router would send %q to %q", target, clean)
		}
		for n, raw := range strings.Split(strings.Trim(r.Path, "/"), "/") {
			if r.Path == "/" {
				break
			}
			once, err := url.PathUnescape(raw)
			if err != nil || once != r.Segments[n] {
				t.Fatalf("segment %q is %q here and %q to net/url, %v", raw, r.Segments[n], once, err)
			}
			if once == "" || once == "." || once == ".." || strings.ContainsAny(once, "/\\;\x00") {
				t.Fatalf("segment %q of %q was let through", once, target)
			}
			if twice, err := url.PathUnescape(once); err == nil && twice != once {
				t.Fatalf("segment %q of %q decodes once more, to %q", once, target, twice)
			}
			if again, err := decodeOnce(url.PathEscape(once), false); err != nil || again != once {
				t.Fatalf("segment %q, encoded and read again, is %q, %v", once, again, err)
			}
		}
		values, err := url.ParseQuery(u.RawQuery)
		if err != nil {
			t.Fatalf("net/url refuses the query of %q: %v", target, err)
		}
		ours := url.Values{}
		for _, m := range r.Query {
			ours[m.Name] = m.Value.([]string)
		}
		if diff := cmp.Diff(values, ours); diff != "" {
			t.Fatalf("%q: %s", target, diff)
		}
	})
}
