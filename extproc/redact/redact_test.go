package redact

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

var testKey = []byte("a key that only this test has")

// rules reads "path-or-detector [replacement]" lines.
func rules(lines ...string) []gate.Redaction {
	var rs []gate.Redaction
	for _, line := range lines {
		what, with, _ := strings.Cut(line, " ")
		r := gate.Redaction{Path: what, With: gate.Replacement(with)}
		if !strings.HasPrefix(what, "$") {
			r.Path, r.Detect = "", what
		}
		rs = append(rs, r)
	}
	return rs
}

func plan(t testing.TB, lines ...string) *Plan {
	t.Helper()
	p, err := Compile(rules(lines...), testKey)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// result is everything that a body made, including what was complete before it failed.
type result struct {
	Out    string
	Counts []gate.Count
	Err    string
}

// feed runs chunks through a new stream.
func feed(t testing.TB, p *Plan, contentType string, opts Options, chunks ...[]byte) result {
	t.Helper()
	s, err := p.Stream(contentType, opts)
	if err != nil {
		return result{Err: err.Error()}
	}
	var r result
	step := func(out []byte, err error) bool {
		if err != nil {
			var w *Withheld
			if !errors.As(err, &w) {
				t.Fatalf("error %v: want a Withheld", err)
			}
			r.Err = err.Error()
		}
		r.Out += string(out)
		return err == nil
	}
	ok := true
	for _, c := range chunks {
		own := slices.Clone(c)
		if ok = step(s.Write(own)); !ok {
			break
		}
		clear(own) // a chunk is the caller's again
	}
	if ok {
		step(s.Close())
	}
	r.Counts = s.Counts()
	return r
}

func whole(t testing.TB, p *Plan, contentType, body string) result {
	t.Helper()
	return feed(t, p, contentType, Options{}, []byte(body))
}

// each feeds body in chunks of n bytes.
func each(t testing.TB, p *Plan, contentType, body string, n int) result {
	t.Helper()
	var chunks [][]byte
	for c := range slices.Chunk([]byte(body), n) {
		chunks = append(chunks, c)
	}
	return feed(t, p, contentType, Options{}, chunks...)
}

const (
	jsonType   = "application/json"
	visa       = "4111111111111111"
	german     = "DE89370400440532013000"
	socialDash = "219-09-9999"
)

func TestJSON(t *testing.T) {
	for _, c := range []struct {
		name string
		plan []string
		in   string
		want string
	}{
		{"an untouched value keeps its spelling", []string{"$.no"}, `{ "a" : 1.50e+3, "b": "\u0041\/" , "c":[ ] }`, `{"a":1.50e+3,"b":"\u0041\/","c":[]}`},
		{"a member is masked", []string{"$.ssn"}, `{"ssn":"1","n":2}`, `{"ssn":"[redacted]","n":2}`},
		{"an object is masked whole", []string{"$.a"}, `{"a":{"b":[1,{"c":2}]},"d":1}`, `{"a":"[redacted]","d":1}`},
		{"a null is masked too", []string{"$.a"}, `{"a":null}`, `{"a":"[redacted]"}`},
		{"the first member is removed", []string{"$.a remove"}, `{"a":[1,2],"b":1,"c":2}`, `{"b":1,"c":2}`},
		{"the middle member is removed", []string{"$.b remove"}, `{"a":1,"b":{"x":1},"c":2}`, `{"a":1,"c":2}`},
		{"the last member is removed", []string{"$.c remove"}, `{"a":1,"b":1,"c":"2"}`, `{"a":1,"b":1}`},
		{"every member is removed", []string{"$.* remove"}, `{"a":1,"b":1}`, `{}`},
		{"elements are removed", []string{"$[0] remove", "$[2] remove"}, `[1,[2],{"a":3},4]`, `[[2],4]`},
		{"all elements are removed", []string{"$[*] remove"}, `[1,2]`, `[]`},
		{"null takes the place", []string{"$.a null"}, `{"a":"x"}`, `{"a":null}`},
		{"the whole document is masked", []string{"$"}, ` {"a":1} `, `"[redacted]"`},
		{"a name at any depth, under an array at the root", []string{"$..ssn"}, `[{"ssn":1},[{"x":{"ssn":2}}]]`, `[{"ssn":"[redacted]"},[{"x":{"ssn":"[redacted]"}}]]`},
		{"a name at any depth inside a masked value", []string{"$..a"}, `{"a":{"a":1}}`, `{"a":"[redacted]"}`},
		{"any depth, then a child", []string{"$..a.b"}, `{"a":{"b":1,"a":{"b":2}},"b":3}`, `{"a":{"b":"[redacted]","a":{"b":"[redacted]"}},"b":3}`},
		{"any depth twice", []string{"$..a..b"}, `{"b":0,"a":[{"c":{"b":1}}]}`, `{"b":0,"a":[{"c":{"b":"[redacted]"}}]}`},
		{"any child of an array or object", []string{"$.*.x"}, `[{"x":1},{"y":{"x":2}}]`, `[{"x":"[redacted]"},{"y":{"x":2}}]`},
		{"an index is none of an object", []string{"$[0]"}, `{"0":1}`, `{"0":1}`},
		{"a name is none of an array", []string{"$['0']"}, `[1]`, `[1]`},
		{"names with quotes and escapes", []string{`$['it\'s']`, `$["a\"b"]`, `$['\u00e9']`}, `{"it's":1,"a\"b":2,"é":3}`, `{"it's":"[redacted]","a\"b":"[redacted]","é":"[redacted]"}`},
		{"remove wins over null, mask and token", []string{"$.a token", "$['a'] null", "$..a", "$.* remove"}, `{"a":1}`, `{}`},
		{"remove wins, also when it comes first", []string{"$.* remove", "$['a'] null", "$.a token"}, `{"a":1}`, `{}`},
		{"the same path twice", []string{"$.a null", "$.a"}, `{"a":1}`, `{"a":null}`},
		{"the same detector twice", []string{"email null", "email"}, `["a@b.com"]`, `[null]`},
		{"two objects with the same many names", []string{"$.x"}, `[{"a":1` + numbered(200) + `},{"a":1` + numbered(200) + `}]`, `[{"a":1` + numbered(200) + `},{"a":1` + numbered(200) + `}]`},
		{"null wins over mask", []string{"$.a", "$['a'] null"}, `{"a":1}`, `{"a":null}`},
		{"an e-mail address in a string", []string{"email"}, `{"a":"to <x@example.com>, y"}`, `{"a":"to \u003c[redacted]\u003e, y"}`},
		{"a detector that makes the value null", []string{"email null"}, `["to x@example.com",1]`, `[null,1]`},
		{"a detector that removes the member", []string{"email remove"}, `{"a":"x@example.com","b":1,"c":["y@example.com"]}`, `{"b":1,"c":[]}`},
		{"a detector cannot remove the document", []string{"email remove"}, `"x@example.com"`, `null`},
		{"a card as a number", []string{"card"}, `{"pan":` + visa + `,"n":4111111111111112}`, `{"pan":"[redacted]","n":4111111111111112}`},
		{"a social security number as a number", []string{"ssn"}, `[219099999,666099999,219099999.5]`, `["[redacted]",666099999,219099999.5]`},
		{"a name that is an address", []string{"email"}, `{"x@example.com":1,"y@example.com":{"z":2}}`, `{"[redacted]":1,"[redacted] 2":{"z":2}}`},
		{"a name that is an address is removed with its value", []string{"email remove"}, `{"a":0,"x@example.com":{"z":[1]},"b":2}`, `{"a":0,"b":2}`},
		{"two detectors in one string", []string{"email", "card null"}, `["x@example.com","x@example.com ` + visa + `"]`, `["[redacted]",null]`},
		{"an empty body", []string{"$.a"}, ``, ``},
		{"a scalar", []string{"$.a"}, ` 12 `, `12`},
		{"two plans meet: the path comes first", []string{"$.a", "email null"}, `{"a":"x@example.com"}`, `{"a":"[redacted]"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plan(t, c.plan...)
			got := whole(t, p, jsonType, c.in)
			if got.Err != "" || got.Out != c.want {
				t.Errorf("got %s %s, want %s", got.Out, got.Err, c.want)
			}
			if diff := cmp.Diff(got, each(t, p, jsonType, c.in, 1)); diff != "" {
				t.Errorf("byte by byte (-whole +bytes):\n%s", diff)
			}
		})
	}
}

func TestWithheld(t *testing.T) {
	many := `{"a":1` + numbered(70_000)
	for _, c := range []struct {
		name, contentType, in, reason string
	}{
		{"duplicate names", jsonType, `{"a":1,"a":2}`, "one name twice"},
		{"duplicate names, one escaped", jsonType, `{"ab":1,"\u0061b":2}`, "one name twice"},
		{"duplicate among many names", jsonType, `{"a":1` + numbered(500) + `,"n17":2}`, "one name twice"},
		{"too many names", jsonType, many + `}`, "more than 65536 names"},
		{"nested too deep", jsonType, strings.Repeat("[", 1001), "more than 1000 deep"},
		{"brackets that do not end deep inside a masked value", jsonType, `{"ssn":` + strings.Repeat(`[`, 1001) + strings.Repeat(`]`, 1000), "ends too early"},
		{"a string that is not valid deep inside a masked value", jsonType, `{"ssn":` + strings.Repeat(`[`, 1001) + "\"\xff", "not valid JSON"},
		{"not a number in a masked value", jsonType, `{"ssn":01}`, "not valid JSON"},
		{"a huge string", jsonType, `"` + strings.Repeat("a", 1<<20) + `"`, "more than 1048576 bytes"},
		{"a huge name", jsonType, `{"` + strings.Repeat("a", 1<<20) + `":1}`, "more than 1048576 bytes"},
		{"a huge number", jsonType, strings.Repeat("1", 2000), "more than 1024 bytes"},
		{"not a number", jsonType, `[NaN]`, "not valid JSON"},
		{"infinity", jsonType, `[-Infinity]`, "not valid JSON"},
		{"a leading zero", jsonType, `[01]`, "not valid JSON"},
		{"single quotes", jsonType, `{'a':1}`, "not valid JSON"},
		{"a comment", jsonType, `{/**/}`, "not valid JSON"},
		{"a comma too many", jsonType, `[1,]`, "not valid JSON"},
		{"a comma too many in an object", jsonType, `{"a":1,}`, "not valid JSON"},
		{"brackets that do not match", jsonType, `{"a":1]`, "not valid JSON"},
		{"a byte order mark", jsonType, "\uFEFF{}", "not valid JSON"},
		{"UTF-16", jsonType, "{\x00}\x00", "not valid JSON"},
		{"bytes that are not UTF-8", jsonType, "\"\xff\"", "not valid JSON"},
		{"an unpaired surrogate", jsonType, `"\ud800x"`, "not valid JSON"},
		{"a control character in a string", jsonType, "\"\x01\"", "not valid JSON"},
		{"data after the value", jsonType, `{} {}`, "data after the JSON value"},
		{"a script after the value", jsonType, `{};alert(1)`, "data after the JSON value"},
		{"a value that ends too early after another", jsonType, "{}\n{", "ends too early"},
		{"an end too early", jsonType, `{"a":1`, "ends too early"},
		{"an end in a string", jsonType, `"a`, "ends too early"},
		{"an end in a masked string", jsonType, `{"ssn":"a`, "ends too early"},
		{"white space only", jsonType, ` `, "no JSON value"},
		{"the second half of a surrogate pair", jsonType, `"\udc00\udc00"`, "not valid JSON"},
		{"two first halves of a surrogate pair", jsonType, `"\ud800\ud800"`, "not valid JSON"},
		{"an event that is too long", "text/event-stream", strings.Repeat("data: "+strings.Repeat(" ", 1<<18)+"\n", 5), "more than 1048576 bytes"},
		{"UTF-16 by its name", jsonType + `; charset=utf-16`, `{}`, `charset "utf-16"`},
		{"Latin-1 by its name", jsonType + `; charset=ISO-8859-1`, `{}`, `charset "iso-8859-1"`},
		{"two charsets", jsonType + `; charset=utf-8; charset=utf-16`, `{}`, "content type"},
		{"two content types", jsonType + `, text/plain`, `{}`, "content type"},
		{"no content type", "", `x`, "without a content type"},
		{"a multipart body", "multipart/form-data; boundary=x", `x`, "cannot be redacted"},
		{"an octet stream", "application/octet-stream", `x`, "cannot be redacted"},
		{"paths on a form", "application/x-www-form-urlencoded", `ssn=1`, "paths cannot be applied"},
		{"paths on XML", "application/xml", `<ssn>1</ssn>`, "paths cannot be applied"},
		{"CBOR", "application/cbor", "\xa0", "cannot be redacted: ask for JSON"},
		{"protobuf", "application/vnd.kubernetes.protobuf", "k8s", "cannot be redacted: ask for JSON"},
		{"paths on text", "text/plain", `x`, "paths cannot be applied"},
		{"two values in a line", "application/x-ndjson", "{} {}\n", "more than one JSON value in a line"},
		{"no record separator", "application/json-seq", "{}\n", "no record separator"},
		{"an event of which a part is written that is not JSON", "text/event-stream", "data: {\"b\":\"" + strings.Repeat("x ", 40<<10) + "\",\"c\":1,x}\n\n", "not valid JSON"},
		{"an event stream with a byte order mark", "text/event-stream", "\uFEFFdata: 1\n\n", "byte order mark"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := whole(t, plan(t, "$..ssn", "email"), c.contentType, c.in)
			if !strings.Contains(got.Err, c.reason) {
				t.Errorf("got error %q, want %q", got.Err, c.reason)
			}
			if strings.Contains(got.Err, "alert") {
				t.Errorf("the reason %q tells of the body", got.Err)
			}
		})
	}
}

// numbered makes n members.
func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"n%d":1`, i)
	}
	return b.String()
}

func TestTextWithheld(t *testing.T) {
	for _, c := range []struct{ name, in, reason string }{
		{"a line that does not end", strings.Repeat("a", 64<<10+1), "more than 65536 bytes"},
		{"a long line", strings.Repeat("a", 64<<10+1) + "\n", "more than 65536 bytes"},
		{"Latin-1", "caf\xe9\n", "not UTF-8"},
		{"UTF-16", "a\x00@\x00", "not UTF-8"},
		{"XML in UTF-7", `<?xml version="1.0" encoding='UTF-7'?><m>a+AEA-b.com</m>`, `charset "utf-7"`},
		{"XML that says its charset later", "<?xml version='1.0'\nencoding='UTF-7'?>", "several lines"},
	} {
		t.Run(c.name, func(t *testing.T) {
			contentType := "text/plain"
			if strings.HasPrefix(c.name, "XML") {
				contentType = "application/xml"
			}
			if got := whole(t, plan(t, "email"), contentType, c.in); !strings.Contains(got.Err, c.reason) || got.Out != "" {
				t.Errorf("got %.80q %q, want %q", got.Out, got.Err, c.reason)
			}
		})
	}
}

func TestWithheldStaysWithheld(t *testing.T) {
	s, err := plan(t, "$.a").Stream(jsonType, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := s.Write([]byte(`{"b":1,x`)); err == nil || string(out) != `{"b":1` {
		t.Fatalf("Write gave %q, %v", out, err)
	}
	if out, err := s.Write([]byte(`"c":1}`)); err == nil || len(out) > 0 {
		t.Errorf("Write after an error gave %q, %v", out, err)
	}
	if out, err := s.Close(); err == nil || len(out) > 0 {
		t.Errorf("Close after an error gave %q, %v", out, err)
	}
}

func TestEscapesDoNotHide(t *testing.T) {
	p := plan(t, "$..ssn", "email", "card")
	for _, c := range []struct{ name, in, want string }{
		{"an escaped name", `{"\u0073sn":1}`, `{"\u0073sn":"[redacted]"}`},
		{"an escaped at sign", `["a\u0040b.com"]`, `["[redacted]"]`},
		{"escaped digits", `["\u0034111 1111 1111 1111"]`, `["[redacted]"]`},
		{"an escape inside a member name that is an address", `{"a\u0040b.com":1}`, `{"[redacted]":1}`},
		{"a number with an exponent", `[4.111111111111111e15]`, `["[redacted]"]`},
		{"a number with a fraction of zeros", `[4111111111111111.000]`, `["[redacted]"]`},
		{"a number with a negative exponent", `[41111111111111110000E-4]`, `["[redacted]"]`},
		{"a negative number", `[-4111111111111111]`, `["[redacted]"]`},
		{"JSON inside a string", `["{\"m\":\"a\\u0040b.com\"}"]`, `["{\"m\":\"[redacted]\"}"]`},
		{"a percent sign in a URL", `["/u?m=a%40b.com"]`, `["/u?m=[redacted]"]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := whole(t, p, jsonType, c.in); got.Out != c.want {
				t.Errorf("got %s %s, want %s", got.Out, got.Err, c.want)
			}
		})
	}
}

func TestReplacedNamesStayApart(t *testing.T) {
	p := plan(t, "email")
	got := whole(t, p, jsonType, `{"[redacted]":0,"a@b.com":1,"c@d.com":2,"a@b.com x":3}`)
	want := `{"[redacted]":0,"[redacted] 2":1,"[redacted] 3":2,"[redacted] x":3}`
	if got.Out != want {
		t.Errorf("got %s %s, want %s", got.Out, got.Err, want)
	}
	if got := whole(t, p, jsonType, `{"a@b.com":1,"[redacted]":0}`); !strings.Contains(got.Err, "one name twice") {
		t.Errorf("a name that a replaced one already has: got %s %s", got.Out, got.Err)
	}
}

func TestLongValuesCanBeReplaced(t *testing.T) {
	long := strings.Repeat(`\u00e9é `, 1<<18)
	for _, c := range []struct{ with, want string }{
		{"", `{"a":"[redacted]","b":1}`}, {"remove", `{"b":1}`}, {"null", `{"a":null,"b":1}`},
	} {
		p := plan(t, strings.TrimSpace("$.a "+c.with))
		for _, in := range []string{`{"a":"` + long + `","b":1}`, `{"a":{"` + long + `":["` + long + `"]},"b":1}`} {
			for _, n := range []int{4093, len(in)} {
				if got := each(t, p, jsonType, in, n); got.Out != c.want {
					t.Errorf("%s, %d bytes at a time: got %.80s %s, want %s", c.with, n, got.Out, got.Err, c.want)
				}
			}
		}
		s, err := p.Stream(jsonType, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for c := range slices.Chunk([]byte(`{"a":"`+long), 4093) {
			if _, err := s.Write(c); err != nil {
				t.Fatal(err)
			}
		}
		if kept := cap(s.body.(*machine).pending); kept > 16<<10 {
			t.Errorf("%q keeps %d bytes of a value that is replaced", c.with, kept)
		}
	}
}

func TestTokens(t *testing.T) {
	p := plan(t, "$..a token", "card token")
	token := func(value string) string {
		t.Helper()
		got := whole(t, p, jsonType, `{"a":`+value+`}`)
		if len(got.Out) != len(`{"a":"tok_"}`)+32 || got.Err != "" {
			t.Fatalf("the token of %s is %s %s", value, got.Out, got.Err)
		}
		return got.Out
	}
	for _, c := range []struct {
		name, one, other string
		same             bool
	}{
		{"the same string", `"x"`, ` "\u0078" `, true},
		{"another order of members", `{"b":[1,true,null],"c":{}}`, `{ "c" : {}, "\u0062": [1,true, null]}`, true},
		{"another spelling of a number", `[100]`, `[1e2]`, true},
		{"big integers that a double cannot tell apart", `12345678901234567890`, `12345678901234567891`, false},
		{"a number and a string", `1`, `"1"`, false},
		{"another order of elements", `[1,2]`, `[2,1]`, false},
		{"an empty object and an empty array", `{}`, `[]`, false},
	} {
		if one, other := token(c.one), token(c.other); (one == other) != c.same {
			t.Errorf("%s: %s and %s", c.name, one, other)
		}
	}
	other, err := Compile(rules("$..a token"), []byte("another key, also long enough"))
	if err != nil {
		t.Fatal(err)
	}
	if got := whole(t, other, jsonType, `{"a":1}`).Out; got == token(`1`) {
		t.Errorf("two keys make one token: %s", got)
	}
	dashes, plain := whole(t, p, jsonType, `["4111-1111-1111-1111"]`), whole(t, p, jsonType, `[`+visa+`]`)
	if dashes.Out != plain.Out || !strings.HasPrefix(plain.Out, `["tok_`) {
		t.Errorf("two spellings of a card: %s and %s", dashes.Out, plain.Out)
	}
	p = plan(t, "$.a token", "email token", "ssn token")
	cases := whole(t, p, jsonType, `["Jo@Example.com","jo@example.com"]`).Out
	if one, other, _ := strings.Cut(strings.Trim(cases, "[]"), ","); one != other || len(one) < 30 {
		t.Errorf("two spellings of an address: %s", cases)
	}
	kinds := whole(t, p, jsonType, `{"a":219099999,"b":219099999}`).Out
	if one, other, _ := strings.Cut(kinds[5:len(kinds)-1], `,"b":`); one == other || len(one) != len(other) {
		t.Errorf("a value of a path and a match of a detector share a token: %s", kinds)
	}
	// What has no canonical form is one that looks like any other.
	for _, value := range []string{`{"b":1,"b":1}`, `1e99999`, `"` + strings.Repeat("x", 2<<20) + `"`, strings.Repeat("1", 2000), strings.Repeat("[", 1500) + strings.Repeat("]", 1500)} {
		if one := token(value); one != token(" "+value) || one == token(strings.Replace(value, "1", "2", 1)+"\t") && strings.Contains(value, "1") {
			t.Errorf("the token of %.20s", value)
		}
	}
}

func TestCounts(t *testing.T) {
	p := plan(t, "$..ssn", "$.no", "email", "card")
	got := whole(t, p, jsonType, `[{"ssn":1},{"ssn":{"ssn":2}},"a@b.com c@d.com",{"e@f.com":`+visa+`}]`)
	want := []gate.Count{{Name: "$..ssn", N: 2}, {Name: "email", N: 3}, {Name: "card", N: 1}}
	if diff := cmp.Diff(want, got.Counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	got = whole(t, p, "text/event-stream", "id: a@b.com\ndata: {\"no\":1}\n\ndata: {\"no\":\"a@b.com\",\"x\":\"a@b.com\"}\n\n")
	want = []gate.Count{{Name: "$.no", N: 2}, {Name: "email", N: 2}}
	if diff := cmp.Diff(want, got.Counts); diff != "" {
		t.Errorf("counts of events (-want +got):\n%s", diff)
	}
}

func TestEmptyPlanPassesEverything(t *testing.T) {
	for _, p := range []*Plan{{}, plan(t)} {
		if !p.Empty() {
			t.Fatal("the plan is not empty")
		}
		if got := whole(t, p, "image/png", "\x00\xff"); got.Out != "\x00\xff" || got.Err != "" || got.Counts != nil {
			t.Errorf("got %+v", got)
		}
	}
}

func TestSequences(t *testing.T) {
	for _, c := range []struct {
		name, contentType string
		plan              []string
		in, want          string
	}{
		{"lines", "application/x-ndjson", []string{"$.a"}, "{\"a\":1}\r\n\n{\"b\": 2}\n3", "{\"a\":\"[redacted]\"}\n\n{\"b\":2}\n3\n"},
		{"empty lines", "application/x-ndjson", []string{"$"}, "\n \r\n{\"a\":\n1}\n\n\n2\n\n", "\n\n\"[redacted]\"\n\n\n\"[redacted]\"\n\n"},
		{"no lines", "application/jsonl", []string{"$.a"}, "\n", "\n"},
		{"whole lines are masked", "application/jsonl", []string{"$"}, "1\n{}\n", "\"[redacted]\"\n\"[redacted]\"\n"},
		{"a line that a detector would remove", "application/jsonl", []string{"email remove"}, "\"a@b.com\"\n1\n", "null\n1\n"},
		{"a body of several values", jsonType, []string{"$.a"}, "{\"a\":1}\n {\"b\":2}\r\n\n[]\n", "{\"a\":\"[redacted]\"}\n{\"b\":2}\n[]"},
		{"a body of one value and a newline", jsonType, []string{"$.a"}, "{\"a\":1}\n", "{\"a\":\"[redacted]\"}"},
		{"JSON of AWS", "application/x-amz-json-1.1", []string{"$.a"}, `{"a":1}`, `{"a":"[redacted]"}`},
		{"lines of Elasticsearch", "application/vnd.elasticsearch+x-ndjson;compatible-with=8", []string{"$.a"}, "{\"a\":1}\n", "{\"a\":\"[redacted]\"}\n"},
		{"XML", "application/xml", []string{"email"}, "<m>a&#64;b.com</m>\n", "<m>[redacted]</m>\n"},
		{"XML that says what it is", "text/xml", []string{"email"}, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<m>a@b.com</m>\n", "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<m>[redacted]</m>\n"},
		{"XML by its suffix", "application/soap+xml", []string{"email"}, "<m>a@b.com</m>\n", "<m>[redacted]</m>\n"},
		{"YAML", "application/yaml", []string{"email"}, "m: a@b.com\n", "m: [redacted]\n"},
		{"records", "application/json-seq", []string{"$.a"}, "\x1e{\"a\":1}\n\x1e[ ]\n", "\x1e{\"a\":\"[redacted]\"}\n\x1e[]\n"},
		{"events", "text/event-stream", []string{"$.a"}, "event: m\nid: 7\ndata: {\"a\":\ndata:  1}\n\n", "event: m\nid: 7\ndata: {\"a\":\"[redacted]\"}\n\n"},
		{"events with other ends of lines", "text/event-stream", []string{"$.a"}, "data:{\"a\":1}\r\n\r\ndata:2\r\rdata: [DONE]\n\n", "data: {\"a\":\"[redacted]\"}\n\ndata: 2\n\ndata: [DONE]\n\n"},
		{"the end of some streams", "text/event-stream", []string{"$"}, "data: [DONE]\n\n", "data: [DONE]\n\n"},
		{"words among events", "text/event-stream", []string{"$.a"}, "data: ping\n\nevent: hb\ndata: HEARTBEAT\n\ndata:Ok\n\ndata: {\"a\":1}\n\n", "data: ping\n\nevent: hb\ndata: HEARTBEAT\n\ndata: Ok\n\ndata: {\"a\":\"[redacted]\"}\n\n"},
		{
			"what is neither JSON nor a word is lost with its event", "text/event-stream",
			[]string{"$.a"},
			"id: 4\nevent: m\ndata: ssn 219\nretry: 5\n\ndata: pings\n\ndata: Con\n\ndata: {\"a\":1,\ndata: x\n\ndata: 1\n\n",
			strings.Repeat(": an event was withheld: its data is not JSON\n\n", 4) + "data: 1\n\n",
		},
		{"a comment keeps the connection alive and says nothing", "text/event-stream", []string{"$.a"}, ": {\"a\":1}\n\n", ":\n\n"},
		{"other fields go", "text/event-stream", []string{"$.a"}, "{\"a\":1}\nretry: 10\nretry: x\n\n", "retry: 10\n\n"},
		{"events of text", "text/event-stream", []string{"email"}, "id: a@b.com\ndata: hi a@b.com\ndata: bye\n\n", "id: [redacted]\ndata: hi [redacted]\ndata: bye\n\n"},
		{"events of JSON, with detectors", "text/event-stream", []string{"email"}, "data: {\"m\":\"a\\u0040b.com\"}\n\ndata: [x] a@b.com\n\n", "data: {\"m\":\"[redacted]\"}\n\ndata: [x] [redacted]\n\n"},
		{"text", "text/plain; charset=UTF-8", []string{"email", "card remove"}, "a@b.com " + visa + "!\r\nok", "[redacted] !\r\nok"},
		{"a private key over lines", "text/plain", []string{"key"}, "a\n-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY----- b\nc\n", "a\n[redacted] b\nc\n"},
		{"a private key without end", "text/plain", []string{"key"}, "-----BEGIN PRIVATE KEY-----\nMHcC\n", "[redacted]"},
		{"a page where nothing is hidden", "text/html", []string{"email"}, "&#64;x &period; ?a=1&plus=2\n", "&#64;x &period; ?a=1&plus=2\n"},
		{"a page with a parameter that is like a reference", "text/html", []string{"email"}, "?a=1&plus=2 a@b.com\n", "?a=1&plus=2 [redacted]\n"},
		{"a page", "text/html", []string{"email"}, "<p>a&#64;b&period;com &amp;&lt; a&#x40;b.com</p>\n", "<p>[redacted] &amp;&lt; [redacted]</p>\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plan(t, c.plan...)
			got := whole(t, p, c.contentType, c.in)
			if got.Err != "" || got.Out != c.want {
				t.Errorf("got %q %s, want %q", got.Out, got.Err, c.want)
			}
			for n := 1; n < 4; n++ {
				if diff := cmp.Diff(got, each(t, p, c.contentType, c.in, n)); diff != "" {
					t.Errorf("%d bytes at a time (-whole +bytes):\n%s", n, diff)
				}
			}
		})
	}
}

func TestAValueLeavesAsSoonAsItIsComplete(t *testing.T) {
	for _, c := range []struct{ name, contentType, in, want string }{
		{"an element", jsonType, `[{"a":1}`, `[{"a":"[redacted]"}`},
		{"a member", jsonType, `{"b":[1,"x"`, `{"b":[1,"x"`},
		{"a line, before its end", "application/x-ndjson", `{"a":1}`, "{\"a\":\"[redacted]\"}\n"},
		{"an event", "text/event-stream", "data: {\"b\":1}\n\n", "data: {\"b\":1}\n\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := plan(t, "$..a").Stream(c.contentType, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.Write([]byte(c.in)); string(got) != c.want || err != nil {
				t.Errorf("got %q %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestCompileNamesWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ name, rule, want string }{
		{"no dollar", "$$a", `at byte 1`},
		{"a filter", "$[?@.a]", "not supported"},
		{"a slice", "$[0:2]", "not supported"},
		{"a list", "$['a','b']", "not supported"},
		{"a negative index", "$[-1]", "not supported"},
		{"an index with a leading zero", "$[01]", "not supported"},
		{"an index too large", "$[9007199254740992]", "not supported"},
		{"any child at any depth", "$..*", "name"},
		{"any child at any depth, in brackets", "$..[*]", "takes a name"},
		{"a name with a dash", "$.a-b", "['name']"},
		{"a name that begins with a digit", "$.1a", "['name']"},
		{"no name", "$.", "name is missing"},
		{"no name at any depth", "$..", "name is missing"},
		{"an open bracket", "$['a'", "lists and slices"},
		{"an open quote", "$['a]", "no closing quote"},
		{"a bad escape", `$['\x']`, "escape"},
		{"an unpaired surrogate", `$['\ud800']`, "escape"},
		{"a document cannot be removed", "$ remove", "cannot be removed"},
		{"an unknown replacement", "$.a hash", `unknown replacement "hash"`},
		{"an unknown detector", "phone", `unknown detector "phone"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rules(c.rule)
			_, err := Compile(r, testKey)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), strconv.Quote(strings.Fields(c.rule)[0])) {
				t.Errorf("got %v, want %q and the rule", err, c.want)
			}
			if check := Check(r[0]); check == nil || check.Error() != err.Error() {
				t.Errorf("Check says %v, Compile says %v", check, err)
			}
		})
	}
	for _, r := range []gate.Redaction{{}, {Path: "$.a", Detect: "email"}, {Path: "a"}} {
		if Check(r) == nil {
			t.Errorf("%+v passes", r)
		}
	}
	if _, err := Compile(rules("$.a token"), testKey[:15]); err == nil {
		t.Error("a key of 15 bytes passes")
	}
	if _, err := Compile(rules("$.a", "email null"), nil); err != nil {
		t.Errorf("without tokens no key is needed: %v", err)
	}
	if err := Check(rules("$.a token")[0]); err != nil {
		t.Errorf("Check needs no key: %v", err)
	}
}

// More paths than one word has bits.
func TestManyPaths(t *testing.T) {
	lines := []string{"$.q.r"} // so that a path begins in the last bit of a word
	in, want := `{"a":{"x":{"c":1}`, `{"a":{"x":{"c":1}`
	for i := range 100 {
		lines = append(lines, fmt.Sprintf("$.a.b%d..c", i))
		in += fmt.Sprintf(`,"b%d":[{"c":1}]`, i)
		want += fmt.Sprintf(`,"b%d":[{"c":"[redacted]"}]`, i)
	}
	if got := whole(t, plan(t, lines...), jsonType, in+`}}`); got.Out != want+`}}` {
		t.Errorf("got %s %s", got.Out, got.Err)
	}
}

// What a stream keeps does not grow with the body: not with its length, not with what was open before.
func TestMemoryIsBounded(t *testing.T) {
	p := plan(t, "$..ssn token", "$..x remove", "email", "card")
	s, err := p.Stream(jsonType, Options{})
	if err != nil {
		t.Fatal(err)
	}
	write := func(body string) {
		t.Helper()
		for c := range slices.Chunk([]byte(body), 4096) {
			if _, err := s.Write(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("[")
	for range 1000 {
		write(`{"ssn":"x","x":[{"a":"` + strings.Repeat("a ", 4000) + `"}],"b":"a@b.co"},`)
	}
	for range 50 { // at each depth a large object, which ends
		write(`[{"a":0` + numbered(5000) + `},`)
	}
	m := s.body.(*machine)
	kept := cap(m.out) + cap(m.pending) + cap(m.subtree) + cap(m.text) + cap(m.held) + 8*(cap(m.hashes)+cap(m.sets))
	for _, f := range m.frames[:cap(m.frames)] {
		kept += 8 * cap(f.names.table)
	}
	if kept > 256<<10 {
		t.Errorf("the stream keeps %d bytes", kept)
	}
}

func TestOneLargeObjectDoesNotSlowDownSmallOnes(t *testing.T) {
	var s nameSet
	var all []uint64
	for h := range uint64(5000) {
		all, _ = s.add(all, h+1)
	}
	s.release()
	s.reset(0)
	all = all[:0]
	for h := range uint64(fewNames + 1) {
		all, _ = s.add(all, h+1)
	}
	if len(s.table) > keptTable {
		t.Errorf("an object of %d names has a table of %d", len(all), len(s.table))
	}
	if _, isNew := s.add(all, 3); isNew {
		t.Error("a name is found new twice")
	}
}
