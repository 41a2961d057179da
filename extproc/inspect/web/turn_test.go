package web

import (
	"net/url"
	"strings"
	"testing"
)

var turn = NewOrigin("api.example.com", 443, true).For("http", "gw:8080")

// TestURLsOfTheTarget: every spelling of the target's own URL, and nothing else, leads to the gateway.
func TestURLsOfTheTarget(t *testing.T) {
	odd := NewOrigin("api.example.com", 8443, true).For("https", "gw")
	six := NewOrigin("2001:db8::7", 443, true).For("https", "[::1]:8443")
	four := NewOrigin("127.0.0.1", 9000, false).For("http", "gw:8080")
	for _, c := range []struct {
		turn     Turn
		in, want string
	}{
		{turn, "https://api.example.com/a?b=c#d", "http://gw:8080/a?b=c#d"},
		{turn, "https://api.example.com", "http://gw:8080"},
		{turn, "https://api.example.com?x", "http://gw:8080?x"},
		{turn, "https://api.example.com:443/a", "http://gw:8080/a"},
		{turn, "https://api.example.com:/a", "http://gw:8080/a"},
		{turn, "HTTPS://API.Example.COM/A", "http://gw:8080/A"},
		{turn, "https://api.example.com./a", "http://gw:8080/a"},
		{turn, "https://api%2Eexample.com/a", "http://gw:8080/a"},
		{turn, "https://user:secret@api.example.com/a", "http://gw:8080/a"},
		{turn, "https://a@b@api.example.com/a", "http://gw:8080/a"},
		{turn, "//api.example.com/a", "//gw:8080/a"},
		{turn, "http://api.example.com/a", "http://gw:8080/a"},
		{turn, "http://api.example.com:80/a", "http://gw:8080/a"},
		{turn, "wss://api.example.com/a", "ws://gw:8080/a"},
		{turn, "https://api.example.com/a//b/../c%2Fé?u=https://api.example.com/", "http://gw:8080/a//b/../c%2Fé?u=https://api.example.com/"},
		{odd, "https://api.example.com:8443/a", "https://gw/a"},
		{odd, "https://api.example.com:08443/a", "https://gw/a"},
		{odd, "http://api.example.com:8443/a", "https://gw/a"},
		{odd, "//api.example.com:8443/a", "//gw/a"},
		{odd, "ws://api.example.com:8443/a", "wss://gw/a"},
		{six, "https://[2001:db8::7]/a", "https://[::1]:8443/a"},
		{six, "https://[2001:DB8:0:0::7]:443/a", "https://[::1]:8443/a"},
		{four, "http://127.0.0.1:9000/a", "http://gw:8080/a"},
		{four, "http://[::ffff:127.0.0.1]:9000/a", "http://gw:8080/a"},

		// Left alone.
		{odd, "https://api.example.com/a", ""},
		{odd, "//api.example.com/a", ""},
		{turn, "https://api.example.com:8443/a", ""},
		{turn, "https://api.example.com:x/a", ""},
		{turn, "https://api.example.com:99999/a", ""},
		{turn, "https://api.example.com.evil.test/a", ""},
		{turn, "https://www.api.example.com/a", ""},
		{turn, "https://example.com/a", ""},
		{turn, "https://evil.test/https://api.example.com/a", ""},
		{turn, "https://evil.test?https://api.example.com/a", ""},
		{turn, "https://api.example.com@evil.test/a", ""},
		{turn, "https://api.example.com\\@evil.test/a", ""},
		{turn, "https:\\\\api.example.com/a", ""},
		{turn, "https:/api.example.com/a", ""},
		{turn, "/a", ""},
		{turn, "a?u=//api.example.com/", ""},
		{turn, "../a", ""},
		{turn, "?page=2", ""},
		{turn, "", ""},
		{turn, "//", ""},
		{turn, "https://", ""},
		{turn, "see https://api.example.com/a", ""},
		{turn, "https://api.example.com/a b", ""},
		{turn, "https://api.example.com/a\tb", ""},
		{turn, "ftp://api.example.com/a", ""},
		{turn, "mailto:a@api.example.com", ""},
		{turn, "javascript://api.example.com/%0aalert(1)", ""},
		{six, "https://2001:db8::7/a", ""},
		{four, "http://localhost:9000/a", ""},
		{Turn{}, "https://api.example.com/a", ""},
		{Origin{}.For("http", "gw"), "https:///a", ""},
	} {
		got, ok := c.turn.URL(c.in)
		want := c.want
		if want == "" {
			want = c.in
		}
		if got != want || ok != (c.want != "") {
			t.Errorf("%q: %q, %t; want %q", c.in, got, ok, want)
		}
	}
}

func TestURLsInFields(t *testing.T) {
	for _, c := range []struct {
		field, in, want string
		n               int64
	}{
		{"location", "https://api.example.com/a", "http://gw:8080/a", 1},
		{"location", "https://api.example.com/a, https://api.example.com/b", "https://api.example.com/a, https://api.example.com/b", 0},
		{"content-location", "/a", "/a", 0},
		{"link", `<https://api.example.com/a?page=2>; rel="next"`, `<http://gw:8080/a?page=2>; rel="next"`, 1},
		{
			"link", `<https://api.example.com/a?x=1,2>; rel=next; title="a, <https://api.example.com/> \" b", <https://api.example.com/l>;rel="last",</x>,<https://other.test/>; rel="up"`,
			`<http://gw:8080/a?x=1,2>; rel=next; title="a, <https://api.example.com/> \" b", <http://gw:8080/l>;rel="last",</x>,<https://other.test/>; rel="up"`, 2,
		},
		{"link", `</a>; rel="https://api.example.com/rels/x"; Anchor = "https://api.example.com/b"`, `</a>; rel="https://api.example.com/rels/x"; Anchor = "http://gw:8080/b"`, 1},
		{"link", `<https://api.example.com/a`, `<https://api.example.com/a`, 0},
		{"link", `</a>; title="<https://api.example.com/a>`, `</a>; title="<https://api.example.com/a>`, 0},
		{"link", `https://api.example.com/a; rel=next`, `https://api.example.com/a; rel=next`, 0},
		{"refresh", "5; url=https://api.example.com/a", "5; url=http://gw:8080/a", 1},
		{"refresh", `0;URL = "https://api.example.com/a"`, `0;URL = "http://gw:8080/a"`, 1},
		{"refresh", "5, https://api.example.com/a", "5, http://gw:8080/a", 1},
		{"refresh", "5", "5", 0},
		{"refresh", "5; url=/a", "5; url=/a", 0},
		{"operation-location", "https://api.example.com/a", "http://gw:8080/a", 1},
	} {
		if got, n := turn.Field(c.field, c.in); got != c.want || n != c.n {
			t.Errorf("%s: %s\n%s, %d; want\n%s, %d", c.field, c.in, got, n, c.want, c.n)
		}
	}
}

// FuzzTurn holds that what leads to the target for Go's own client is what is turned, and that nothing but the origin changes.
func FuzzTurn(f *testing.F) {
	for _, s := range []string{"https://api.example.com/a", "//u:p@API.example.com.:443/a?b#c", "http://api.example.com@x/", "https://api.example.com:80", "<https://api.example.com/>; a=\"\\\"\""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := turn.URL(text)
		u, err := url.Parse(text)
		leads := err == nil && u.Opaque == "" && (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "" && strings.HasPrefix(text, "//")) &&
			strings.EqualFold(strings.TrimSuffix(u.Hostname(), "."), "api.example.com") && (u.Port() == "" || u.Port() == "443" || u.Port() == "80")
		if leads && !ok {
			t.Errorf("%q leads to the target, and is left", text)
		}
		if !ok {
			if got != text {
				t.Errorf("%q became %q, and was not turned", text, got)
			}
			return
		}
		if again, twice := turn.URL(got); twice || again != got {
			t.Errorf("%q became %q, and then %q", text, got, again)
		}
		if v, err := url.Parse(got); err == nil && v.Host != "gw:8080" {
			t.Errorf("%q became %q, which leads to %q", text, got, v.Host)
		}
		for _, name := range urlFields {
			out, n := turn.Field(name, text)
			if (n == 0) != (out == text) {
				t.Errorf("%s: %q became %q, and %d were turned", name, text, out, n)
			}
		}
	})
}
