package echo

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"html/template"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// pass gives text to e in pieces of the given lengths, and the rest as one.
func pass(e *Finder, text []byte, cuts ...int) (out []byte, found bool) {
	for _, n := range append(cuts, len(text)) {
		n = min(n, len(text))
		got, echoed := e.Write(text[:n], n == len(text))
		if echoed {
			return out, true
		}
		out = append(out, got...)
		if text = text[n:]; len(text) == 0 {
			break
		}
	}
	return out, false
}

func TestEcho(t *testing.T) {
	const secret = "abcabcabd-secret"
	for _, c := range []struct {
		name, value, body string
		found             bool
	}{
		{"the token behind its scheme", "Bearer " + secret, "you sent " + secret + ", thank you", true},
		{"the token with its scheme", "Bearer " + secret, "Authorization: Bearer " + secret, true},
		{"a value without a scheme", secret, secret, true},
		{"a beginning that begins anew", secret, "abc" + secret, true},
		{"nearly", secret, secret[:len(secret)-1] + "X", false},
		{"all but the end", secret, secret[:len(secret)-1], false},
		{"what is too short to be looked for", "Bearer abc", "abc", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for cut := range len(c.body) + 1 {
				for next := range len(c.body) - cut + 1 {
					out, found := pass(New(newForms(c.value)), []byte(c.body), cut, next)
					if found != c.found || !found && string(out) != c.body {
						t.Fatalf("cut at %d and %d: passed %q, found %t", cut, next, out, found)
					}
					if found && bytes.Contains(out, []byte(secret[:leastKept([]byte(secret))])) && !strings.Contains(c.name, "anew") {
						t.Fatalf("cut at %d and %d: passed %q before it was found", cut, next, out)
					}
				}
			}
		})
	}
}

// TestEchoOfWritten: a target that writes the credential out by the usual means has not made it another one.
func TestEchoOfWritten(t *testing.T) {
	marshal := func(s string) string {
		b, err := json.Marshal(map[string]string{"authorization": s})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	inTemplate := func(s string) string {
		var b strings.Builder
		if err := template.Must(template.New("").Parse("<td>{{.}}</td>")).Execute(&b, s); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for _, value := range []string{
		"Bearer tok+en/with==", "Bearer plain-token_1.2~3", `Bearer q"uo\te<&>'s`, "a-key+without/scheme=",
		"Basic " + base64.StdEncoding.EncodeToString([]byte("gateway:a-longer+password/x")),
	} {
		scheme, secret, ok := strings.Cut(value, " ")
		if !ok {
			secret = value
		}
		written := map[string]string{
			"JSON":                   marshal(value),
			"JSON by PHP":            `{"a":"` + strings.ReplaceAll(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value), "/", `\/`) + `"}`,
			"JSON by Gson":           `{"a":"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "=", `\u003d`, "'", `\u0027`, "<", `\u003c`, ">", `\u003e`, "&", `\u0026`).Replace(value) + `"}`,
			"JSON by .NET":           `{"a":"` + strings.NewReplacer(`\`, `\\`, `"`, `\u0022`, "+", `\u002B`, "'", `\u0027`, "<", `\u003C`, ">", `\u003E`, "&", `\u0026`).Replace(value) + `"}`,
			"a query":                "https://a.example/login?token=" + url.QueryEscape(value),
			"a query in small":       "?token=" + lowerPercent(url.QueryEscape(secret)),
			"a path":                 "/tokens/" + url.PathEscape(secret),
			"HTML":                   "<p>" + html.EscapeString(value) + "</p>",
			"a template":             inTemplate(value),
			"HTML by Python":         strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#x27;").Replace(value),
			"hexadecimal":            hex.EncodeToString([]byte("authorization: " + value)),
			"base64 of the value":    base64.StdEncoding.EncodeToString([]byte(value)),
			"base64 of the secret":   base64.RawURLEncoding.EncodeToString([]byte(secret)),
			"base64 of a dump":       base64.StdEncoding.EncodeToString([]byte("authorization: " + value + "\r\naccept: */*\r\n")),
			"base64 of a dump, by 1": base64.URLEncoding.EncodeToString([]byte("GET / authorization: " + value + "\r\n\r\n")),
			"base64 of a dump, by 2": base64.StdEncoding.EncodeToString([]byte("GET /xauthorization: " + value + "\r\n\r\n")),
		}
		if scheme == "Basic" {
			decoded, _ := base64.StdEncoding.DecodeString(secret)
			_, password, _ := strings.Cut(string(decoded), ":")
			written["what Basic hides"] = "login failed for " + string(decoded)
			written["the password"] = marshal("wrong password: " + password)
			written["the password in a URL"] = "https://gateway:" + url.QueryEscape(password) + "@a.example/"
		}
		for name, text := range written {
			for cut := range len(text) {
				if out, found := pass(New(newForms(value)), []byte(text), cut); !found {
					t.Errorf("%s of %s, cut at %d: passed %q", name, value, cut, out)
					break
				}
			}
		}
		for _, harmless := range []string{"nothing of the kind", marshal("Bearer tok"), strings.Repeat("gateway pass ", 1000)} {
			if out, found := pass(New(newForms(value)), []byte(harmless), 5, 50); found || string(out) != harmless {
				t.Errorf("%q, for %s: passed %q, found %t", harmless, value, out, found)
			}
		}
	}
	if e := New(newForms("Basic " + base64.StdEncoding.EncodeToString([]byte("admin:production")))); e.in([]byte("the production site")) {
		t.Error("a password that is a word is looked for by itself")
	}
}

// TestEchoIsNoOracle: an agent that has its own text sent to it in pieces learns nothing from when they come about the first
// half of the credential, however it guesses.
func TestEchoIsNoOracle(t *testing.T) {
	const secret = "sk-0123456789abcdefghij"
	for n := range len(secret) {
		e := New(newForms("Bearer " + secret))
		out, found := e.Write([]byte("my guess is "+secret[:n]), false)
		if found {
			t.Fatalf("%d bytes of it are found", n)
		}
		if kept := len("my guess is ") + n - len(out); kept > 0 != (n >= len(secret)/2) {
			t.Errorf("of %d bytes that are right, %d are kept back", n, kept)
		}
	}
}

// lowerPercent writes the digits of percent-encoding in small letters.
func lowerPercent(s string) string {
	b := []byte(s)
	for i := range b {
		if i >= 2 && (b[i-1] == '%' || b[i-2] == '%') {
			b[i] = strings.ToLower(string(b[i]))[0]
		}
	}
	return string(b)
}

// FuzzEcho: whatever the secret and wherever the body is cut, what passes is the body, and nothing with the secret passes.
func FuzzEcho(f *testing.F) {
	f.Add("abababab", []byte("xababababx"), uint64(1))
	f.Add("aaaaaaaa", []byte("aaaaaaa baaaaaaa"), uint64(2))
	f.Fuzz(func(t *testing.T, secret string, body []byte, seed uint64) {
		e := New(newForms(secret))
		if e == nil {
			return
		}
		random := rand.New(rand.NewPCG(seed, 0))
		var cuts []int
		for range 20 {
			cuts = append(cuts, random.IntN(12))
		}
		out, found := pass(e, body, cuts...)
		in := func(text []byte) bool {
			return slices.ContainsFunc(e.forms, func(form []byte) bool { return bytes.Contains(text, form) })
		}
		if want := in(body); found != want {
			t.Fatalf("found %t, and the body has it: %t", found, want)
		}
		if !found && !bytes.Equal(out, body) || in(out) {
			t.Fatalf("passed %q of %q", out, body)
		}
	})
}

// BenchmarkForms reads an answer that does not have the credential.
func BenchmarkForms(b *testing.B) {
	n := newForms("Bearer " + strings.Repeat("0123456789abcdef", 3))
	random := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, 64<<10)
	for i := range text {
		text[i] = "abcdefghijklmnopqrstuvwxyz0123456789 \",:{}"[random.IntN(42)]
	}
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if n.in(text) {
			b.Fatal("found")
		}
	}
}

// BenchmarkNewForms is what a credential costs when it is first sent.
func BenchmarkNewForms(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		newForms("Bearer 0123456789abcdef0123456789abcdef")
	}
}
