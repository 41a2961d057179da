package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/strict"
	"github.com/google/go-cmp/cmp"
)

var readBack = strict.Reader{Depth: maxDepth}.Read

func utf16Text(s string, bigEndian bool) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		if bigEndian {
			b = append(b, byte(u>>8), byte(u))
		} else {
			b = append(b, byte(u), byte(u>>8))
		}
	}
	return string(b)
}

const (
	jsonType = "content-type: application/json"
	textType = "content-type: text/plain"
	formType = "content-type: application/x-www-form-urlencoded"
	grpcType = "content-type: application/grpc"
)

func TestBodiesThatAreRefused(t *testing.T) {
	for _, c := range []struct{ name, contentType, body, say string }{
		{"a name twice", jsonType, `{"a":1,"a":2}`, "same name twice"},
		{"a name twice, once escaped", jsonType, `{"a":1,"\u0061":2}`, "same name twice"},
		{"a name twice, deep within", jsonType, `[{"x":{"a":1,"b":2,"a":3}}]`, "same name twice"},
		{"a name twice, as a surrogate pair", jsonType, `{"😀":1,"\ud83d\ude00":2}`, "same name twice"},
		{"a byte order mark", jsonType, "\xEF\xBB\xBF{}", "byte order mark"},
		{"UTF-16, little end first", jsonType, utf16Text(`{"a":1}`, false), "not valid JSON"},
		{"UTF-16, big end first", jsonType, utf16Text(`{"a":1}`, true), "not valid JSON"},
		{"UTF-16 with a byte order mark", jsonType, "\xFF\xFE" + utf16Text(`{"a":1}`, false), "not valid JSON"},
		{"garbage after the value", jsonType, `{"a":1}x`, "not valid JSON"},
		{"NUL after the value", jsonType, "{\"a\":1}\x00", "not valid JSON"},
		{"NUL before the value", jsonType, "\x00{\"a\":1}", "not valid JSON"},
		{"two values", jsonType, `{"a":1}{"a":2}`, "more than one JSON value"},
		{"two values on two lines", jsonType, "{}\n{}", "more than one JSON value"},
		{"no value", jsonType, "  ", "not valid JSON"},
		{"half a value", jsonType, `{"a":`, "not valid JSON"},
		{"a comma at the end of an object", jsonType, `{"a":1,}`, "not valid JSON"},
		{"a comma at the end of a list", jsonType, `[1,]`, "not valid JSON"},
		{"a comment", jsonType, `{"a":1/* */}`, "not valid JSON"},
		{"single quotes", jsonType, `{'a':1}`, "not valid JSON"},
		{"a name without quotes", jsonType, `{a:1}`, "not valid JSON"},
		{"a guard before the value", jsonType, ")]}',\n{}", "not valid JSON"},
		{"nesting of 10,000", jsonType, strings.Repeat("[", 10000) + strings.Repeat("]", 10000), "nested"},
		{"nesting one past the limit", jsonType, strings.Repeat("[", maxDepth+2) + strings.Repeat("]", maxDepth+2), "nested"},
		{"nesting that does not end", jsonType, strings.Repeat(`{"a":`, 9000), "nested"},
		{"names equal but for case", jsonType, `{"amount":1,"Amount":1000}`, "one name to servers that ignore case"},
		{"names equal but for case, deep within", jsonType, `[0,{"x":[{"ID":1,"b":2,"id":3}]}]`, `"ID" and "id"`},
		{"names equal but for case, one escaped", jsonType, `{"amount":1,"\u0041mount":1000}`, "ignore case"},
		{"the Kelvin sign and k", jsonType, "{\"key\":1,\"\u212aey\":2}", "ignore case"},
		{"the long s and S", jsonType, "{\"Sum\":1,\"\u017fum\":2}", "ignore case"},
		{"Greek sigmas", jsonType, `{"σ":1,"ς":2}`, "ignore case"},
		{"names equal but for case, among many", jsonType, `{"a1":0,"a2":0,"a3":0,"a4":0,"a5":0,"a6":0,"a7":0,"a8":0,"aKey":0,"A\u212aEY":0}`, "ignore case"},
		{"names equal but for case, hidden as text", textType, `{"amount":1,"Amount":1000}`, "ignore case"},
		{"an integer past what a double counts", jsonType, `{"a":[{"id":9007199254740993}]}`, `the number 9007199254740993 at "/a/0/id"`},
		{"an integer that a double has and does not write", jsonType, `1234567890123456768`, "numbers: exact"},
		{"an integer of 20 digits", jsonType, `12345678901234567891`, "as a string"},
		{"a fraction that a double rounds", jsonType, `{"amount":99.99999999999999999999999999999999}`, `at "/amount"`},
		{"a fraction of one digit too many", jsonType, `[0.10000000000000001]`, "round to another"},
		{"a number below all doubles", jsonType, `1e-400`, "round to another"},
		{"a number above all doubles", jsonType, `1e400`, "round to another"},
		{"an exponent of a thousand million", jsonType, `{"n":1e999999999}`, "exponent"},
		{"an exponent below that", jsonType, `1e-999999999`, "exponent"},
		{"an exponent past an int", jsonType, `1e99999999999999999999`, "exponent"},
		{"a number of 200 digits", jsonType, strings.Repeat("1", 200), "number of more than"},
		{"NaN", jsonType, `{"a":NaN}`, "not valid JSON"},
		{"Infinity", jsonType, `[Infinity]`, "not valid JSON"},
		{"a number with a zero before it", jsonType, `[010]`, "not valid JSON"},
		{"a hexadecimal number", jsonType, `[0x10]`, "not valid JSON"},
		{"a number with a plus", jsonType, `[+1]`, "not valid JSON"},
		{"half a surrogate pair", jsonType, `["\ud800"]`, "not valid JSON"},
		{"a surrogate pair in the wrong order", jsonType, `["\ude00\ud83d"]`, "not valid JSON"},
		{"bad UTF-8 in text", jsonType, "[\"\xff\"]", "not valid JSON"},
		{"an overlong slash in text", jsonType, "[\"\xc0\xaf\"]", "not valid JSON"},
		{"a plain control character in text", jsonType, "[\"\x01\"]", "not valid JSON"},
		{"an escape that is not one", jsonType, `["\x41"]`, "not valid JSON"},
		{"a name twice in a vendor's JSON", "content-type: application/vnd.api+json", `{"a":1,"a":2}`, "same name twice"},
		{"a name twice in JSON that says UTF-8", "content-type: application/JSON; charset=UTF-8", `{"a":1,"a":2}`, "same name twice"},
		{"a form under JSON's name", jsonType, `a=1`, "not valid JSON"},

		{"a name twice, hidden as text", textType, `{"a":1,"a":2}`, "same name twice"},
		{"a name twice, without a Content-Type", "x: y", `{"a":1,"a":2}`, "same name twice"},
		{"a name twice, hidden as bytes", "content-type: application/octet-stream", `{"a":1,"a":2}`, "same name twice"},
		{"a name twice, hidden as multipart", "content-type: multipart/form-data; boundary=x", ` {"a":1,"a":2}`, "same name twice"},
		{"a name twice, hidden as a form", formType, `{"a":1,"a":2}`, "same name twice"},
		{"a name twice, hidden as gRPC", grpcType, `{"a":1,"a":2}`, "same name twice"},
		{"a name twice behind white space", textType, "\r\n\t {\"a\":1,\"a\":2}", "same name twice"},
		{"a name twice behind a space that does not break", textType, "\u00a0{\"a\":1,\"a\":2}", "not valid JSON"},
		{"a name twice behind what has no width", textType, "\u200b\u2060{\"a\":1,\"a\":2}", "not valid JSON"},
		{"a name twice behind a control character", textType, "\x1f{\"a\":1,\"a\":2}", "not valid JSON"},
		{"a name twice behind a space of ISO 8859-1", "content-type: text/plain; charset=iso-8859-1", "\xa0 {\"a\":1,\"a\":2}", "not valid JSON"},
		{"NUL before JSON in text", textType, "\x00\x00{\"a\":1}", "not valid JSON"},
		{"a form feed before JSON in text", textType, "\f\v{\"a\":1}", "not valid JSON"},
		{"a byte order mark before JSON in text", textType, "\xEF\xBB\xBF{\"a\":1}", "byte order mark"},
		{"UTF-16 in text, little end first", textType, utf16Text(`{"a":1}`, false), "not valid JSON"},
		{"UTF-16 in text, big end first", textType, utf16Text(`{"a":1}`, true), "not valid JSON"},
		{"UTF-16 in text with a byte order mark", textType, "\xFE\xFF" + utf16Text(`"a"`, true), "not valid JSON"},
		{"UTF-16 behind the other byte order mark", textType, "\xFF\xFE" + utf16Text(`"a"`, false), "not valid JSON"},
		{"UTF-32 in text", textType, "\x00\x00\x00{\x00\x00\x00}", "not valid JSON"},
		{"UTF-32 as gRPC", grpcType, "\x00\x00\x00{\x00\x00\x00}", "not valid JSON"},
		{"two values in a line", linesType, "{}\n{} {}\n", "Value 2 of the request's body: The request's JSON body has more than one JSON value"},
		{"a value on two lines", linesType, "[\n{\"delete\":{}}\n]\n", "Value 1 of the request's body: The value is not valid JSON"},
		{"an empty line between values", linesType, "{}\n\n{}\n", "an empty line"},
		{"an empty line at the beginning", linesType, "\n{}\n", "an empty line"},
		{"a line that a carriage return ends", linesType, "{\"a\":\r1}\n", "carriage return"},
		{"a name twice in a line", linesType, "{}\n{\"a\":1,\"a\":2}\n", "Value 2 of the request's body: The value has an object with the same name twice"},
		{"a method in a line", linesType, "{}\n{\"_method\":\"PUT\"}\n", "request's method"},
		{"lines behind a byte order mark", linesType, "\xEF\xBB\xBF{}\n{}\n", "byte order mark"},
		{"lines that are not JSON", linesType, "a,b\n1,2\n", "not valid JSON"},
		{"a list under the name of lines", linesType, "[1,\n2]\n", "not valid JSON"},
		{"lines of Elasticsearch that are none", "content-type: application/vnd.elasticsearch+x-ndjson;compatible-with=8", "{}\nx\n", "not valid JSON"},
		{"a sequence without its separator", sequenceType, "{}\n", "record separator"},
		{"a sequence that was cut off", sequenceType, "\x1e{}\n\x1e{}", "newline"},
		{"a sequence with nothing in it", sequenceType, "\x1e\x1e{}\n", "newline"},
		{"two values of a sequence in one", sequenceType, "\x1e{}{}\n", "more than one JSON value"},

		{"a semicolon between pairs", formType, "a=1;b=2", "semicolon"},
		{"a broken encoding in a form", formType, "a=%4", "not followed by two"},
		{"bad UTF-8 in a form", formType, "a=%ff", "not UTF-8"},
		{"plain bad UTF-8 in a form", formType, "a=\xc3", "not UTF-8"},
		{"plain NUL in a form", formType, "a=\x00", "control character"},
		{"NUL in a form", formType, "a=%00", "control character"},
		{"more pairs than are read", formType, strings.Repeat("a&", maxPairs+1), "more than"},
		{"a method in a form, which Rails and Laravel obey", formType, "a=1&_method=DELETE", "request's method"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, i, err := read(limits, post(c.contentType), c.body)
			wantRefused(t, err, gate.Unreadable, c.say)
			if _, err := i.Request(); err == nil {
				t.Error("its first error was not final")
			}
		})
	}
}

func TestBodiesThatAreRead(t *testing.T) {
	n := func(s string) json.Number { return json.Number(s) }
	for _, c := range []struct {
		name, contentType, body string
		want                    any
		form                    gate.Object
	}{
		{"an object", jsonType, ` {"b":[1,2.50,-0],"a":{"x":null}} `, gate.Object{{Name: "a", Value: gate.Object{{Name: "x"}}}, {Name: "b", Value: []any{n("1"), n("2.5"), n("0")}}}, nil},
		{
			"numbers that a double gives back", jsonType, `[0.1,100.00,1e2,-1.5E-3,9007199254740992,9007199254740994,1e23,0.0,-0.0,5e-324,1.7976931348623157e308]`,
			[]any{n("0.1"), n("100"), n("100"), n("-0.0015"), n("9007199254740992"), n("9007199254740994"), n("1e+23"), n("0"), n("0"), n("5e-324"), n("1.7976931348623157e+308")},
			nil,
		},
		{"one name in two objects, in two cases", jsonType, `[{"a":1},{"A":{"a":2}}]`, []any{gate.Object{{Name: "a", Value: n("1")}}, gate.Object{{Name: "A", Value: gate.Object{{Name: "a", Value: n("2")}}}}}, nil},
		{"names that only look alike", jsonType, `{"a":1,"а":2,"ß":3,"ss":4,"ı":5,"i":6}`, gate.Object{{Name: "a", Value: n("1")}, {Name: "i", Value: n("6")}, {Name: "ss", Value: n("4")}, {Name: "ß", Value: n("3")}, {Name: "ı", Value: n("5")}, {Name: "а", Value: n("2")}}, nil},
		{"null", jsonType, "null", nil, nil},
		{"text", jsonType, `"\ud83d\ude00\u0000"`, "😀\x00", nil},
		{"an empty object and an empty list", jsonType, `[{},[]]`, []any{gate.Object(nil), []any{}}, nil},
		{"a patch", "content-type: application/merge-patch+json", `{}`, gate.Object(nil), nil},
		{"JSON in Latin-1's name, which is ASCII", "content-type: text/json; charset=ISO-8859-1", `[]`, []any{}, nil},
		{"JSON hidden as text", textType, "\n[true]", []any{true}, nil},
		{"JSON without a Content-Type", "x: y", `{"a":"b"}`, gate.Object{{Name: "a", Value: "b"}}, nil},
		{"JSON as curl sends it, under a form's name", formType, `{"a":"b"}`, gate.Object{{Name: "a", Value: "b"}}, gate.Object{{Name: `{"a":"b"}`, Value: []string{""}}}},
		{"a form", formType, "a=1&b=+%2B&a=%C3%A9", nil, gate.Object{{Name: "a", Value: []string{"1", "é"}}, {Name: "b", Value: []string{" +"}}}},
		{"text that is not JSON", textType, "hello {}", nil, nil},
		{"a number as text", textType, "17", nil, nil},
		{"bytes", "content-type: application/octet-stream", "\x89PNG\x00\xff", nil, nil},
		{"a gRPC message whose length looks like a brace", grpcType, "\x00\x00\x00\x00{" + strings.Repeat("x", '{'), nil, nil},
		{"two gRPC messages", grpcType + "+proto", "\x00\x00\x00\x00[" + strings.Repeat("x", '[') + "\x01\x00\x00\x00\x00", nil, nil},
		{"nothing, though it says JSON", jsonType, "", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, i, err := read(limits, post(c.contentType), c.body)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, tree(t, r)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.form, r.Form); diff != "" {
				t.Error(diff)
			}
			if string(i.Body()) != c.body || r.BodyBytes != int64(len(c.body)) || (r.BodySHA256 == "") != (c.body == "") {
				t.Errorf("held %q, %d bytes, digest %q", i.Body(), r.BodyBytes, r.BodySHA256)
			}
			if _, err := r.Object().AppendJSON(nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// tree is the body as values; nil where it is not JSON.
func tree(t *testing.T, r *Request) any {
	t.Helper()
	if !r.JSON {
		return nil
	}
	v, err := readBack([]byte(r.Body))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNestingAtTheLimitIsRead(t *testing.T) {
	text := strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth)
	r, _, err := read(limits, post(jsonType), text)
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Body) != text {
		t.Errorf("%s", r.Body)
	}
}

func TestValuesAreBounded(t *testing.T) {
	for _, c := range []struct {
		name, contentType, body string
		values                  int
	}{
		{"a list and what is in it", jsonType, `[0,0,0]`, 4},
		{"an object, which has its names beside", jsonType, `{"a":{"b":null},"c":[[]]}`, 5},
		{"text and numbers that are one", jsonType, `"[0,0,0]"`, 1},
		{"a list that is hidden as text", textType, ` [[],[]]`, 3},
		{"pairs", formType, `a=1&a=2&&b`, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			opt := limits
			opt.MaxValues = c.values
			if _, _, err := read(opt, post(c.contentType), c.body); err != nil {
				t.Errorf("%d values were refused: %v", c.values, err)
			}
			opt.MaxValues--
			if opt.MaxValues > 0 {
				_, _, err := read(opt, post(c.contentType), c.body)
				wantRefused(t, err, gate.TooLarge, "limits.values")
			}
		})
	}
	_, _, err := read(Options{MaxBody: 1 << 20}, post(jsonType), "["+strings.Repeat("0,", DefaultValues)+"0]")
	wantRefused(t, err, gate.TooLarge, fmt.Sprint(DefaultValues))
}

func TestNumbersWhereTheTargetIsExact(t *testing.T) {
	opt := limits
	opt.ExactNumbers = true
	r, _, err := read(opt, post(jsonType), `[9007199254740993,99.99999999999999999999999999999999,1e400,100.0,12345678901234567890]`)
	if err != nil || r.Body != `[9007199254740993,9.999999999999999999999999999999999e+1,1e+400,100,12345678901234567890]` {
		t.Errorf("%s, %v", r.Body, err)
	}
}

// shapesOfBodies are the ways in which a body of JSON could take much to hold.
var shapesOfBodies = map[string]string{
	"zeros":         "[" + strings.Repeat("0,", 90_000) + "0]",
	"text":          "[" + strings.Repeat(`"ab",`, 90_000) + "0]",
	"fractions":     "[" + strings.Repeat("0.0123456,", 90_000) + "0]",
	"lists":         "[" + strings.Repeat("[],", 90_000) + "0]",
	"objects":       "[" + strings.Repeat(`{"name":"abc def","id":12345,"amount":12.5,"tags":["a","b"]},`, 12_000) + "0]",
	"small objects": "[" + strings.Repeat(`{"a":0},`, 45_000) + "0]",
	"one long text": `"` + strings.Repeat("x", 1<<20) + `"`,
}

// What a body costs while it is read is a small multiple of it, whatever is in it: the body itself as it grew, its
// canonical form, and that again as text.
func TestParsingCostsASmallMultiple(t *testing.T) {
	for name, body := range shapesOfBodies {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, _, err := read(Options{MaxBody: 2 << 20}, post(jsonType), body); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			if times := float64(after.TotalAlloc-before.TotalAlloc) / float64(len(body)); times > 7 {
				t.Errorf("a body of %d bytes took %.1f times that", len(body), times)
			}
		})
	}
}

// Many names in one object are compared in about the time that it takes to read them.
func TestManyNamesAreComparedQuickly(t *testing.T) {
	var b strings.Builder
	const names = 96_000
	for i := range names {
		fmt.Fprintf(&b, `,"nAme%d":0`, (i*7919)%names)
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := read(Options{MaxBody: 4 << 20}, post(jsonType), "{"+b.String()[1:]+"}")
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second): // it takes a tenth of a second, and each compared with each takes minutes
		t.Fatal("names are compared each with each")
	}
}

// oracle reads JSON with encoding/json into our values. duplicate says that a name came twice.
func oracle(text []byte) (v any, duplicate bool, err error) {
	if !json.Valid(text) {
		return nil, false, errors.New("not JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if v, err = oracleValue(dec, &duplicate); err != nil {
		return nil, duplicate, err
	}
	if _, end := dec.Token(); end != io.EOF {
		return nil, duplicate, errors.New("more than one value")
	}
	return v, duplicate, nil
}

func oracleValue(dec *json.Decoder, duplicate *bool) (any, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	if d, ok := t.(json.Delim); !ok {
		return t, nil
	} else if d == '[' {
		list := []any{}
		for dec.More() {
			v, err := oracleValue(dec, duplicate)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.Token()
		return list, err
	}
	members := map[string]any{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		if _, again := members[name.(string)]; again {
			*duplicate = true
		}
		if members[name.(string)], err = oracleValue(dec, duplicate); err != nil {
			return nil, err
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	var list []gate.Member
	for name, v := range members {
		list = append(list, gate.Member{Name: name, Value: v})
	}
	return gate.MakeObject(list...)
}

// alone reports whether each number in v is what a double gives back, and each name one of its own whatever the case. It
// is slow and plain, for the fuzz test.
func alone(v any) bool {
	switch v := v.(type) {
	case json.Number:
		f, err := v.Float64()
		return err == nil && sameDecimal(string(v), strconv.FormatFloat(f, 'g', -1, 64))
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { return !alone(e) })
	case gate.Object:
		for i, m := range v {
			if !alone(m.Value) || slices.ContainsFunc(v[:i], func(o gate.Member) bool { return strings.EqualFold(o.Name, m.Name) }) {
				return false
			}
		}
	}
	return true
}

func sameDecimal(a, b string) bool {
	x, okX := new(big.Rat).SetString(a)
	y, okY := new(big.Rat).SetString(b)
	return okX && okY && x.Cmp(y) == 0
}

// FuzzJSON holds our reading of a body to that of encoding/json, which most targets in Go use.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":1,"\u0061":2}`, `[1,2.5e3,"\ud83d\ude00",null,true,{}]`, `"\ud800"`, "\xEF\xBB\xBF{}", `1e400`, `{"a":{"b":[{"c":-0}]}}`, `{"z":{"y":1,"x":[2]},"a\n":9007199254740993,"😀":0.10,"":"\/"}`, `{"aK":1,"ak":2}`, "{}{}", "\x00{", " [] "} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, _, err := read(limits, post(textType), string(text))
		if err != nil || len(text) == 0 {
			return
		}
		want, duplicate, oracleErr := oracle(text)
		if !r.JSON {
			if list, ok := want.([]any); ok && oracleErr == nil {
				t.Fatalf("%q is a list to encoding/json and nothing here: %v", text, list)
			}
			if o, ok := want.(gate.Object); ok && oracleErr == nil {
				t.Fatalf("%q is an object to encoding/json and nothing here: %v", text, o)
			}
			return
		}
		if oracleErr != nil || duplicate {
			t.Fatalf("%q was accepted; encoding/json: %v, a name twice: %v", text, oracleErr, duplicate)
		}
		theirs, err := gate.AppendJSON(nil, want)
		if err != nil || string(r.Body) != string(theirs) {
			t.Fatalf("%q is %s here and %s to encoding/json, %v", text, r.Body, theirs, err)
		}
		if v, err := readBack([]byte(r.Body)); err != nil || !alone(v) {
			t.Fatalf("%q was accepted: %v, %v", text, v, err)
		}
	})
}

// FuzzChunkSplit: however the body is split, the request or the refusal is the same.
func FuzzChunkSplit(f *testing.F) {
	for _, s := range []string{`{"a":[1,"é",2]}`, `{"a":1,"a":2}`, "a=1&b=2", strings.Repeat("x", 70), "\xEF\xBB\xBF{}", "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n--x--"} {
		for _, contentType := range []byte{0, 1, 2, 3, 4} {
			f.Add([]byte(s), []byte{1, 2, 3, 0, 40}, contentType)
		}
	}
	f.Fuzz(func(t *testing.T, body, cuts []byte, contentType byte) {
		opt := Options{MaxBody: 64}
		fields := post([]string{jsonType, formType, textType, partsType, "x: y"}[contentType%5])
		whole, _, wholeErr := read(opt, fields, string(body))
		i := New(opt)
		if err := i.Head(fields); err != nil {
			t.Fatal(err)
		}
		rest := body
		for _, c := range cuts {
			n := min(int(c), len(rest))
			piece := bytes.Clone(rest[:n])
			_ = i.Write(piece) // its first error is final
			clear(piece)       // it copies what it keeps
			rest = rest[n:]
		}
		_ = i.Write(rest)
		parts, partsErr := i.Request()
		if (wholeErr == nil) != (partsErr == nil) || wholeErr != nil && wholeErr.Error() != partsErr.Error() {
			t.Fatalf("whole: %v; in pieces: %v", wholeErr, partsErr)
		}
		if wholeErr == nil {
			a, errA := whole.Object().AppendJSON(nil)
			b, errB := parts.Object().AppendJSON(nil)
			if errA != nil || errB != nil || !bytes.Equal(a, b) {
				t.Fatalf("whole: %s, %v; in pieces: %s, %v", a, errA, b, errB)
			}
		}
	})
}

// FuzzHead: nothing panics, and what is accepted has a canonical form that binds its target.
func FuzzHead(f *testing.F) {
	f.Add(":method\nGET\n:scheme\nhttps\n:authority\na\n:path\n/\naccept\n*/*")
	f.Add(":method\nPOST\n:authority\n[::1]:80\n:path\n/a?b=c\ncontent-type\napplication/json; charset=utf-8\nte\ntrailers\nauthorization\nBearer x")
	f.Add(":method\nCONNECT\n:authority\na:1\n:protocol\nwebsocket")
	f.Add("host\na\n:method\nOPTIONS\n:path\n*\nconnection\nclose\nupgrade\nh2c\ncontent-length\n5")
	f.Fuzz(func(t *testing.T, text string) {
		var fields []Field
		lines := strings.Split(text, "\n")
		for n := 0; n+1 < len(lines); n += 2 {
			fields = append(fields, Field{lines[n], lines[n+1]})
		}
		i := New(Options{Stream: true, Upgrades: []string{"websocket", "connect"}})
		if err := i.Head(fields); err != nil {
			var refused *Error
			if !errors.As(err, &refused) || refused.Problem == "" || refused.Detail == "" {
				t.Fatalf("refused without saying why: %v", err)
			}
			return
		}
		r, err := i.Request()
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.Object().AppendJSON(nil)
		if err != nil {
			t.Fatalf("accepted, and has no canonical form: %v", err)
		}
		if again, _, err := oracle(b); err != nil {
			t.Fatalf("%s is not JSON: %v", b, err)
		} else if second, err := gate.AppendJSON(nil, again); err != nil || !bytes.Equal(b, second) {
			t.Fatalf("not canonical: %s, %s, %v", b, second, err)
		}
		for _, name := range i.Remove() {
			if _, found := r.Headers.Get(name); found {
				t.Fatalf("%q is judged and removed", name)
			}
		}
	})
}
