package redact

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Whatever the length, the depth and the number of protected values, and wherever they bring a body to its limits, what comes
// out is the same: the limits are those of what is not protected, and of what is written.
func TestNoLimitTellsOfAProtectedValue(t *testing.T) {
	const sse = "text/event-stream"
	text := func(n int) string { return strings.Repeat("x", n) }
	address := func(n int) string { return strings.Repeat("a", n) + "@example.com" }
	values := []string{
		`""`, `1`, `"` + text(3<<20) + `"`, strings.Repeat("7", 5000), strings.Repeat("[", 1500) + `"]"` + strings.Repeat("]", 1500),
		`{` + strings.TrimPrefix(numbered(70_000), ",") + `}`, `{"a":1,"a":2}`, `[` + strings.Repeat(`"x",`, 1<<15) + `1]`,
	}
	for _, with := range []string{"mask", "remove", "null"} {
		p := plan(t, "$..ssn "+with)
		for _, c := range []struct{ media, before, after string }{
			{jsonType, `{"a":[1,{"ssn":`, `}],"b":2}`},
			{jsonType, strings.Repeat(`{"a":`, 999) + `{"ssn":`, `}` + strings.Repeat("}", 999)},
			{jsonType, `{"ssn":`, `,"b":"` + text(1<<20) + `"}`}, // withheld, each of them
			{jsonType, `{"ssn":`, numbered(65_535) + `}`},
			{jsonType, `{"ssn":`, numbered(65_536) + `}`}, // withheld
			{"application/x-ndjson", "{\"ssn\":", "}\n{\"b\":1}\n"},
			{"application/json-seq", "\x1e{\"ssn\":", "}\n"},
			{sse, "id: 7\ndata: {\"ssn\":", "}\n\n"},
			{sse, "data: {\"ssn\":\ndata:", "\ndata: }\nevent: x\n\ndata: {}\n\n"},
		} {
			want := whole(t, p, c.media, c.before+values[0]+c.after)
			for _, v := range values[1:] {
				for _, n := range []int{16 << 10, 1 << 30} {
					if got := each(t, p, c.media, c.before+v+c.after, n); !reflect.DeepEqual(want, got) {
						t.Errorf("%s: %.40s with %.20s: %d bytes and %q, want %d and %q", c.media, c.before, v, len(got.Out), got.Err, len(want.Out), want.Err)
					}
				}
			}
		}
	}
	p := plan(t, "email")
	for _, c := range []struct{ media, before, after string }{
		{jsonType, `["`, ` ` + text(1<<20-11) + `"]`},
		{jsonType, `["`, ` ` + text(1<<20-10) + `"]`}, // withheld
		{jsonType, `["` + text(1<<20-100) + ` `, `"]`},
		{jsonType, `{"`, ` ` + text(1<<20-11) + `":1}`},
		{"text/plain", text(64<<10-11) + " ", "\n"},
		{"text/plain", text(64<<10-10) + " ", "\n"}, // withheld
		{"text/html", text(64<<10-11) + " ", ""},
		{sse, "data: " + text(1<<20-11) + " ", "\n\n"},
		{sse, "data: " + text(1<<20-10) + " ", "\n\n"}, // withheld
		{sse, "data: " + text(1000) + "\nid: " + text(1<<20-100) + " ", "\n\n"},
	} {
		want := whole(t, p, c.media, c.before+address(1)+c.after)
		for _, n := range []int{2, 60, 3000} {
			if got := each(t, p, c.media, c.before+address(n)+c.after, 16<<10); !reflect.DeepEqual(want, got) {
				t.Errorf("%s: an address of %d bytes: %d bytes and %q, want %d and %q", c.media, n, len(got.Out), got.Err, len(want.Out), want.Err)
			}
		}
	}
}

// A value that was taken out of a body is found beside it, in the forms in which targets repeat it.
func TestWhatWasTakenIsFoundBeside(t *testing.T) {
	const body = `{"ssn":"987-65-4320","owner":{"name":"Ada Example","pin":4321,"n":7,"ok":true,"initials":"AE"},"mail":"see ada@example.com"}`
	for _, c := range []struct {
		text string
		want bool
	}{
		{"/people/987-65-4320", true},
		{"/people/987%2D65%2D4320", true},
		{"/people/987%252D65%252D4320", true},
		{"/find?name=ADA+EXAMPLE&x=%zz", true},
		{"/find?name=ada%20example", true},
		{"/pin/4321", true},
		{"/pin/54321", false}, // a short value is a word
		{"pin=4321", true},
		{"ok=true&n=7&initials=ae", false}, // so short that they stand there by chance
		{"ada@example.com", true},
		{"c=" + base64.StdEncoding.EncodeToString([]byte(`{"mail":"ada@example.com"}`)), true},
		{"c=x" + base64.RawURLEncoding.EncodeToString([]byte("987-65-4320")), true},
		{"c%3D" + base64.StdEncoding.EncodeToString([]byte("id=987-65-4320")), true},
		{hex.EncodeToString([]byte("987-65-4320")), true},
		{"0" + strings.ToUpper(hex.EncodeToString([]byte("987-65-4320"))), true},
		{"/people/7", false},
		{"", false},
	} {
		s, err := plan(t, "$.ssn", "$.owner token", "email").Stream(jsonType, Options{Beside: []string{"", c.text}})
		if err != nil {
			t.Fatal(err)
		}
		for chunk := range slices.Chunk([]byte(body), 3) {
			if _, err := s.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Close(); err != nil || s.Repeats(1) != c.want || s.Repeats(0) || s.Repeats(2) {
			t.Errorf("%s: found %t, %v", c.text, s.Repeats(1), err)
		}
	}
}

// The id and the name of an event do not repeat what a path took out of an event so far.
func TestEventsDoNotRepeatWhatWasTaken(t *testing.T) {
	p := plan(t, "$.mail", "$.n")
	for _, c := range []struct{ name, in, want string }{
		{"before its data", "id: ada@example.com\ndata: {\"mail\":\"ada@example.com\"}\n\n", "data: {\"mail\":\"[redacted]\"}\n\n"},
		{"after its data", "data: {\"mail\":\"ada@example.com\"}\nevent: ada%40example.com\nid: 7\n\n", "id: 7\ndata: {\"mail\":\"[redacted]\"}\n\n"},
		{"in a later event", "id: 1\ndata: {\"n\":40213}\n\nevent: payment\nid: c-40213\n\n", "id: 1\ndata: {\"n\":\"[redacted]\"}\n\nevent: payment\n\n"},
		{"a value too long for a line", "id: " + strings.Repeat("x", 2<<20) + "\r\ndata: {\"n\":\"" + strings.Repeat("x", 2<<20) + "\"}\n\n", "data: {\"n\":\"[redacted]\"}\n\n"},
		{"the last one counts", "id: 40213\nid: 8\ndata: {\"n\":40213}\n\n", "id: 8\ndata: {\"n\":\"[redacted]\"}\n\n"},
		{"a name that was looked at before", "event: p\ndata: {\"n\":1}\n\nevent: p\ndata: {\"n\":\"p x\"}\n\nevent: p x\ndata: {}\n\n", "event: p\ndata: {\"n\":\"[redacted]\"}\n\nevent: p\ndata: {\"n\":\"[redacted]\"}\n\ndata: {}\n\n"},
		{"data too long to be held", "id: ada@example.com\ndata: {\"mail\":\"ada@example.com\",\"x\":\"" + strings.Repeat("x", 70_000) + "\"}\n\n", "data: {\"mail\":\"[redacted]\",\"x\":\"" + strings.Repeat("x", 70_000) + "\"}\n\n"},
	} {
		for _, n := range []int{max(1, len(c.in)>>10), 1 << 30} {
			if got := each(t, p, "text/event-stream", c.in, n); got.Out != c.want || got.Err != "" {
				t.Errorf("%s, %d bytes at a time:\n got %.300q %s\nwant %.300q", c.name, n, got.Out, got.Err, c.want)
			}
		}
	}
	// What it remembers is bounded.
	var b strings.Builder
	for n := range 20_000 {
		fmt.Fprintf(&b, "data: {\"n\":\"value %d\"}\n\n", n)
	}
	s, err := p.Stream("text/event-stream", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte(b.String())); err != nil {
		t.Fatal(err)
	}
	if last := &s.body.(*events).last; last.bytes > recentBytes || len(last.known) != len(last.values) {
		t.Errorf("it remembers %d bytes in %d values", last.bytes, len(last.values))
	}
}
