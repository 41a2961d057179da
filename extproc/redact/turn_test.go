package redact

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

// toGateway turns what begins with https://api.
func toGateway(text string) (string, bool) {
	rest, ok := strings.CutPrefix(text, "https://api")
	return "http://gw" + rest, ok
}

func turning(t testing.TB, rs []gate.Redaction, paths ...string) *Plan {
	t.Helper()
	p, err := Compile(rs, testKey, paths...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func turnAll(t testing.TB, p *Plan, media string, chunks ...string) (string, *Stream) {
	t.Helper()
	s, err := p.Stream(media, Options{MaxToken: 40, MaxDepth: 6, Turn: toGateway})
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, c := range chunks {
		b, err := s.Write([]byte(c))
		out = append(out, b...)
		if err != nil {
			return string(out) + "!", s
		}
	}
	b, err := s.Close()
	if out = append(out, b...); err != nil {
		return string(out) + "!", s
	}
	return string(out), s
}

// TestURLsOfABody: strings that are a URL of the target, at the paths that were named, and nothing else of a body changes.
// What cannot be read is passed as it came, whole, with a note.
func TestURLsOfABody(t *testing.T) {
	plan := turning(t, nil, "$.next", "$..url")
	for _, c := range []struct {
		name, media, in, want, unread string
		counts                        []gate.Count
	}{
		{
			"a page", "application/json", "{ \"next\" : \"https://api/p?a=1\",\n\t\"items\": [ {\"url\":\"https:\\/\\/api\\/1\"}, {\"url\" : \"https://other/\"}, { } ],\"self\":\"https://api/p\" }\r\n",
			"{ \"next\" : \"http://gw/p?a=1\",\n\t\"items\": [ {\"url\":\"http://gw/1\"}, {\"url\" : \"https://other/\"}, { } ],\"self\":\"https://api/p\" }\r\n", "",
			[]gate.Count{{Name: "$.next", N: 1}, {Name: "$..url", N: 1}},
		},
		{"not a string", "application/hal+json", `{"next":null,"url":{"url":["https://api/x",{"url":1}]}}`, `{"next":null,"url":{"url":["https://api/x",{"url":1}]}}`, "", nil},
		{"lines", "application/x-ndjson", "{\"url\":\"https://api/1\"}\n\n {\"url\":\"https://api/2\"} \n", "{\"url\":\"http://gw/1\"}\n\n {\"url\":\"http://gw/2\"} \n", "", []gate.Count{{Name: "$..url", N: 2}}},
		{"a sequence", "application/json-seq", "\x1e{\"url\":\"https://api/1\"}\n\x1e[ ]\n", "\x1e{\"url\":\"http://gw/1\"}\n\x1e[ ]\n", "", []gate.Count{{Name: "$..url", N: 1}}},
		{"nothing", "application/json", "", "", "", nil},
		{
			"events", "text/event-stream", ": hello\r\nid: https://api/1\r\ndata:\r\ndata:{\"url\":\"https://api/1\", \r\ndata:  \"n\": 1\rdata\rdata:}\n\ndata: [DONE]\n\ndata: https://api/2\n\ndatax: {\"url\":\"https://api/3\"}\n\ndata: [{\"url\":\"https://api/4\"}]\r\r",
			": hello\r\nid: https://api/1\r\ndata:\r\ndata:{\"url\":\"http://gw/1\", \r\ndata:  \"n\": 1\rdata\rdata:}\n\ndata: [DONE]\n\ndata: https://api/2\n\ndatax: {\"url\":\"https://api/3\"}\n\ndata: [{\"url\":\"http://gw/4\"}]\r\r", "",
			[]gate.Count{{Name: "$..url", N: 2}},
		},
		{"an event that is not JSON", "text/event-stream", "data: {\"a\":1} {\"url\":\"https://api/1\"}\n\ndata: {\"url\":\"https://api/2\"}\n\n", "data: {\"a\":1} {\"url\":\"https://api/1\"}\n\ndata: {\"url\":\"http://gw/2\"}\n\n", "data after the JSON value", []gate.Count{{Name: "$..url", N: 1}}},
		{"an event that is cut off by its lines", "text/event-stream", "data: {\"url\":\"https:\ndata: //api/1\"}\n\ndata: {\"url\":\"https://api/2\"}", "data: {\"url\":\"https:\ndata: //api/1\"}\n\ndata: {\"url\":\"http://gw/2\"}", "the body has a string that is not valid JSON", []gate.Count{{Name: "$..url", N: 1}}},
		{"invalid after a comma", "application/json", `{"url":"https://api/1", "a":[1, 2, x, {"url":"https://api/2"}]}`, `{"url":"http://gw/1", "a":[1, 2, x, {"url":"https://api/2"}]}`, "the body is not valid JSON", []gate.Count{{Name: "$..url", N: 1}}},
		{"a name twice", "application/json", `{"url":"https://api/1","url":"https://api/2"}`, `{"url":"http://gw/1","url":"https://api/2"}`, "an object has one name twice", []gate.Count{{Name: "$..url", N: 1}}},
		{"cut off in a string", "application/json", `{"url":"https://api/1","a":"bcd`, `{"url":"http://gw/1","a":"bcd`, "the JSON ends too early", []gate.Count{{Name: "$..url", N: 1}}},
		{"a long string", "application/json", `["` + strings.Repeat("x", 50) + `",{"url":"https://api/2"}]`, `["` + strings.Repeat("x", 50) + `",{"url":"http://gw/2"}]`, "", []gate.Count{{Name: "$..url", N: 1}}},
		{"a long name", "application/json", `{"` + strings.Repeat("x", 50) + `":{"url":"https://api/2"}}`, `{"` + strings.Repeat("x", 50) + `":{"url":"https://api/2"}}`, "a string of more than 40 bytes", nil},
		{"a long string that is bad at its end", "application/json", `["` + strings.Repeat("x", 50) + `\x"]`, `["` + strings.Repeat("x", 50) + `\x"]`, "the body has a string that is not valid JSON", nil},
		{"too deep", "application/json", `[[[[[[[{"url":"https://api/2"}]]]]]]]`, `[[[[[[[{"url":"https://api/2"}]]]]]]]`, "JSON nested more than 6 deep", nil},
		{"more than a value", "application/json", `{} {"url":"https://api/2"}`, `{} {"url":"https://api/2"}`, "data after the JSON value", nil},
		{"bad UTF-8", "application/json", "[\"\xff\",{\"url\":\"https://api/2\"}]", "[\"\xff\",{\"url\":\"https://api/2\"}]", "the body has a string that is not valid JSON", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for at := range len(c.in) + 1 {
				got, s := turnAll(t, plan, c.media, c.in[:at], c.in[at:])
				if got != c.want || s.Unread() != c.unread {
					t.Fatalf("cut at %d: %s, unread %q; want %s, %q", at, got, s.Unread(), c.want, c.unread)
				}
				if diff := cmp.Diff(c.counts, s.Turned()); diff != "" || s.Counts() != nil {
					t.Fatalf("counts: %s %v", diff, s.Counts())
				}
			}
		})
	}
	if _, err := plan.Stream("text/html", Options{}); err == nil {
		t.Error("HTML is turned")
	}
}

// TestURLsBesideRedactions: what is redacted stays redacted, and what stays is turned.
func TestURLsBesideRedactions(t *testing.T) {
	plan := turning(t, []gate.Redaction{{Path: "$.secret.url"}, {Detect: "email"}}, "$..url", "$.list.*")
	got, s := turnAll(t, plan, "application/json", `{"secret": {"url":"https://api/s"}, "url": "https://api/?m=a@b.example", "list":["https://api/1"]}`)
	if want := `{"secret":{"url":"[redacted]"},"url":"http://gw/?m=[redacted]","list":["http://gw/1"]}`; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if diff := cmp.Diff([]gate.Count{{Name: "$..url", N: 1}, {Name: "$.list.*", N: 1}}, s.Turned()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]gate.Count{{Name: "$.secret.url", N: 1}, {Name: "email", N: 1}}, s.Counts()); diff != "" {
		t.Error(diff)
	}
	if got, _ := turnAll(t, plan, "application/json", `{"url":"https://api/","x`); !strings.HasSuffix(got, "!") {
		t.Errorf("what cannot be read passes a plan that redacts: %s", got)
	}
	if got, _ := turnAll(t, plan, "text/event-stream", "data: {\"url\":\"https://api/1\"}\n\n"); got != "data: {\"url\":\"http://gw/1\"}\n\n" {
		t.Errorf("event: %q", got)
	}
	detects := turning(t, []gate.Redaction{{Detect: "email"}}, "$..url")
	if got, _ := turnAll(t, detects, "text/html", "<a href=https://api/>a@b.example"); got != "<a href=https://api/>[redacted]" {
		t.Errorf("HTML: %q", got)
	}
}

// FuzzCopy: where nothing is to be turned, and nothing redacted, what goes out is what came in, whatever it is and however it
// was cut.
func FuzzCopy(f *testing.F) {
	for _, s := range []string{`{"url":"x", "a" : [1,2,{}] }`, "[1,,2]", "{\"a\":1,\"a\":2}", "\x1e[]\n", "[\"\\u00", "1 2\n3", "tru", "[-", "\xef\xbb\xbf{}", "data: {\"a\":\r\ndata:1}\r\rid\n\ndata:[", "data: \"a\ndata:b\""} {
		for kind := range 4 {
			f.Add(s, 3, kind)
		}
	}
	plan := turning(f, nil, "$..url", "$.*")
	f.Fuzz(func(t *testing.T, body string, at, kind int) {
		at = max(0, min(at, len(body)))
		media := []string{"application/json", "application/x-ndjson", "application/json-seq", "text/event-stream"}[uint(kind)%4]
		body = strings.ReplaceAll(body, "https", "")
		if got, _ := turnAll(t, plan, media, body[:at], body[at:]); got != body {
			t.Errorf("%s: %q became %q", media, body, got)
		}
	})
}
