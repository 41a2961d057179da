package gate_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// parse reads JSON into the values that AppendJSON takes, with encoding/json and not with any code of ours.
func parse(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	v, err := parseValue(dec)
	if err == nil {
		if _, end := dec.Token(); end != io.EOF {
			err = errors.New("more than one value")
		}
	}
	return v, err
}

func parseValue(dec *json.Decoder) (any, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			v, err := parseValue(dec)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.Token()
		return list, err
	case json.Delim('{'):
		var members []gate.Member
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, err
			}
			v, err := parseValue(dec)
			if err != nil {
				return nil, err
			}
			members = append(members, gate.Member{Name: name.(string), Value: v})
		}
		if _, err := dec.Token(); err != nil {
			return nil, err
		}
		return gate.MakeObject(members...)
	}
	return t, nil
}

func canonical(t *testing.T, text string) string {
	t.Helper()
	v, err := parse([]byte(text))
	if err != nil {
		t.Fatalf("parse %s: %v", text, err)
	}
	b, err := gate.AppendJSON(nil, v)
	if err != nil {
		t.Fatalf("encode %s: %v", text, err)
	}
	return string(b)
}

// The samples of RFC 8785, appendix B: the bits of an IEEE double, and its text.
func TestRFC8785Numbers(t *testing.T) {
	for _, c := range []struct {
		bits uint64
		want string
	}{
		{0x0000000000000000, "0"},
		{0x8000000000000000, "0"},
		{0x0000000000000001, "5e-324"},
		{0x8000000000000001, "-5e-324"},
		{0x7fefffffffffffff, "1.7976931348623157e+308"},
		{0xffefffffffffffff, "-1.7976931348623157e+308"},
		{0x4340000000000000, "9007199254740992"},
		{0xc340000000000000, "-9007199254740992"},
		{0x4430000000000000, "295147905179352830000"},
		{0x44b52d02c7e14af5, "9.999999999999997e+22"},
		{0x44b52d02c7e14af6, "1e+23"},
		{0x44b52d02c7e14af7, "1.0000000000000001e+23"},
		{0x444b1ae4d6e2ef4e, "999999999999999700000"},
		{0x444b1ae4d6e2ef4f, "999999999999999900000"},
		{0x444b1ae4d6e2ef50, "1e+21"},
		{0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"},
		{0x3eb0c6f7a0b5ed8d, "0.000001"},
		{0x41b3de4355555553, "333333333.3333332"},
		{0x41b3de4355555554, "333333333.33333325"},
		{0x41b3de4355555555, "333333333.3333333"},
		{0x41b3de4355555556, "333333333.3333334"},
		{0x41b3de4355555557, "333333333.33333343"},
		{0xbecbf647612f3696, "-0.0000033333333333333333"},
		{0x43143ff3c1cb0959, "1424953923781206.2"},
	} {
		f := math.Float64frombits(c.bits)
		if b, err := gate.AppendJSON(nil, f); err != nil || string(b) != c.want {
			t.Errorf("%016x: %s, %v; want %s", c.bits, b, err, c.want)
		}
		if b, err := gate.AppendJSON(nil, json.Number(c.want)); err != nil || string(b) != c.want {
			t.Errorf("the number %s became %s, %v", c.want, b, err)
		}
	}
	for _, bits := range []uint64{0x7fffffffffffffff, 0x7ff0000000000000, 0xfff0000000000000} {
		if b, err := gate.AppendJSON(nil, math.Float64frombits(bits)); err == nil {
			t.Errorf("%016x became %s", bits, b)
		}
	}
}

// RFC 8785, section 3.2.2 and 3.2.3, but for the number 333333333.33333329, which we do not round.
func TestRFC8785Sample(t *testing.T) {
	const in = `{
  "numbers": [333333333.3333333, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}`
	const want = `{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`
	if got := canonical(t, in); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := canonical(t, "333333333.33333329"); got != "3.3333333333333329e+8" {
		t.Errorf("333333333.33333329 became %s", got)
	}
}

func TestRFC8785Sorting(t *testing.T) {
	const in = `{
  "\u20ac": "Euro Sign",
  "\r": "Carriage Return",
  "\ufb33": "Hebrew Letter Dalet With Dagesh",
  "1": "One",
  "\ud83d\ude00": "Emoji: Grinning Face",
  "\u0080": "Control",
  "\u00f6": "Latin Small Letter O With Diaeresis"
}`
	const want = `{"\r":"Carriage Return","1":"One","` + "\u0080" + `":"Control","ö":"Latin Small Letter O With Diaeresis",` +
		`"€":"Euro Sign","😀":"Emoji: Grinning Face","` + "\ufb33" + `":"Hebrew Letter Dalet With Dagesh"}`
	if got := canonical(t, in); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := canonical(t, `{"aa":1,"a":2,"":3,"a\u0000":4}`); got != `{"":3,"a":2,"a\u0000":4,"aa":1}` {
		t.Errorf("got %s", got)
	}
}

func TestNumbersAreExact(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"an integer past 2^53 keeps its last digit", "12345678901234567890", "12345678901234567890"},
		{"and so does its neighbour", "12345678901234567891", "12345678901234567891"},
		{"a fraction of zero goes", "1.0", "1"},
		{"an exponent is worked out", "1e2", "100"},
		{"a capital exponent too", "1E+2", "100"},
		{"minus zero is zero", "-0", "0"},
		{"however it is written", "-0.000e99", "0"},
		{"zero with a great exponent is zero", "0e99999999999999999999", "0"},
		{"a power of two that a double holds keeps its digits", "4611686018427387904", "4611686018427387904"},
		{"a number past the doubles", "1e400", "1e+400"},
		{"a number below the doubles", "-12e-400", "-1.2e-399"},
		{"a long fraction", "0.10000000000000000001", "1.0000000000000000001e-1"},
		{"more than forty digits", "1" + strings.Repeat("0", 45) + "1", "1." + strings.Repeat("0", 45) + "1e+46"},
		{"thirty digits", "100000000000000000000000000001", "100000000000000000000000000001"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := gate.AppendJSON(nil, json.Number(c.in))
			if err != nil || string(b) != c.want {
				t.Errorf("%s became %s, %v; want %s", c.in, b, err, c.want)
			}
		})
	}
}

func TestWhatHasNoCanonicalForm(t *testing.T) {
	for _, c := range []struct {
		name  string
		value any
	}{
		{"an empty number", json.Number("")},
		{"a number with white space after it", json.Number("1 ")},
		{"a number with white space after many digits", json.Number("1234567890123456789\n")},
		{"a number with white space before it", json.Number(" 1")},
		{"a number with a zero before it", json.Number("01")},
		{"a number with a plus", json.Number("+1")},
		{"a bare minus", json.Number("-")},
		{"a point without a fraction", json.Number("1.")},
		{"an exponent without digits", json.Number("1e+")},
		{"a hexadecimal number", json.Number("0x10")},
		{"an underscore", json.Number("1_0")},
		{"NaN", json.Number("NaN")},
		{"text as a number", json.Number(`"1"`)},
		{"an exponent of millions", json.Number("1e9999999")},
		{"an exponent just past the limit, when worked out", json.Number("10e1048576")},
		{"an exponent past an int", json.Number("1e99999999999999999999")},
		{"text that is not UTF-8", "\xc0\xaf"},
		{"text that is not UTF-8 in a list", []string{"a", "\xff"}},
		{"a surrogate in UTF-8", "\xed\xa0\x80"},
		{"a name that is not UTF-8", gate.Object{{Name: "\xff"}}},
		{"members out of order", gate.Object{{Name: "b"}, {Name: "a"}}},
		{"a name twice", gate.Object{{Name: "a"}, {Name: "a"}}},
		{"a type that is not listed", uint8(1)},
		{"a map, whose order is not known", map[string]any{}},
		{"such a thing deep within", []any{gate.Object{{Name: "a", Value: []any{struct{}{}}}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if b, err := gate.AppendJSON(nil, c.value); err == nil {
				t.Errorf("became %s", b)
			}
		})
	}
	if _, err := gate.MakeObject(gate.Member{Name: "a"}, gate.Member{Name: "b"}, gate.Member{Name: "a"}); !errors.Is(err, gate.ErrDuplicateName) {
		t.Errorf("MakeObject with a name twice: %v", err)
	}
}

func TestEmptyAndNilValues(t *testing.T) {
	for want, v := range map[string]any{
		"null": nil, "{}": gate.Object(nil), "[]": []any(nil), `[""]`: []string{""}, `""`: "", "true": true, "-5": -5, "9007199254740993": int64(9007199254740993),
	} {
		if b, err := gate.AppendJSON(nil, v); err != nil || string(b) != want {
			t.Errorf("%#v became %s, %v; want %s", v, b, err, want)
		}
	}
	if b := gate.AppendText(nil, "a\xffb"); string(b) != `"a`+"\uFFFD"+`b"` {
		t.Errorf("AppendText gave %s", b)
	}
	o := gate.Object{{Name: "a", Value: 1}}
	if v, ok := o.Get("a"); v != 1 || !ok {
		t.Errorf("Get(a) = %v, %v", v, ok)
	}
	if v, ok := o.Get("b"); v != nil || ok {
		t.Errorf("Get(b) = %v, %v", v, ok)
	}
}

// Canonical text, read by encoding/json and written again, is the same text; and it means what the first text meant.
// A double gives back what it has digits for, and its shortest form.
func TestNumbersThatADoubleGivesBack(t *testing.T) {
	for literal, want := range map[string]bool{
		"0": true, "-0": true, "-0.0": true, "1.0": true, "100.00": true, "1e2": true, "0.1": true, "-12.5e-3": true, "123456789.123456": true, "0.0000000000001": true,
		"9007199254740991": true, "9007199254740992": true, "9007199254740993": false, "9007199254740994": true, "900719925474099.3": false, "900719925474099.2": true, "90071992547409.931": false,
		"1234567890123456768": false, "1234567890123456800": true, "12345678901234567890": false, "1e23": true, "100000000000000000000000": true,
		"99.99999999999999999999999999999999": false, "0.10000000000000001": false, "0.1000000000000000055511151231257827": false, "3.141592653589793": true, "3.14159265358979312": false,
		"5e-324": true, "4e-324": false, "1e-400": false, "1.7976931348623157e308": true, "1.7976931348623159e308": false, "1e400": false,
	} {
		b, double, err := gate.AppendNumber(nil, literal)
		canonical, wrong := gate.AppendJSON(nil, json.Number(literal))
		if double != want || err != nil || wrong != nil || string(b) != string(canonical) {
			t.Errorf("%s: %v, %s, %v; canonical %s, %v", literal, double, b, err, canonical, wrong)
		}
	}
	// The quick way says what the long one does.
	for i := range 200_000 {
		literal := strings.TrimRight(strconv.FormatFloat(float64(i)*1.0000001e-3, 'f', i%11, 64), ".")
		b, double, err := gate.AppendNumber(nil, literal)
		long, same, wrong := gate.AppendNumber(nil, literal+"e0")
		if err != nil || wrong != nil || !double || !same || string(b) != string(long) {
			t.Fatalf("%s: %s, %v, %v; %s, %v, %v", literal, b, double, err, long, same, wrong)
		}
	}
}

func TestRawIsWrittenAsItIs(t *testing.T) {
	b, err := gate.AppendJSON(nil, gate.Object{{Name: "a", Value: gate.Raw(`[1,{"b":2}]`)}})
	if err != nil || string(b) != `{"a":[1,{"b":2}]}` {
		t.Errorf("%s, %v", b, err)
	}
	if b, err := gate.AppendJSON(nil, gate.Raw("")); err == nil {
		t.Errorf("no value was written as %q", b)
	}
}

func FuzzAppendJSON(f *testing.F) {
	for _, s := range []string{
		`{"b":[1,2.50,-0,1e21,1E-7],"a":{"😀":"\u0000\u2028","\ufb33":null}}`, `12345678901234567890`, `10e1048575`, `"\ud83d\ude00"`, `[[],{},""]`,
		`0.1`, `1e400`, `123456789012345678e-400`, `{"a":1,"a":2}`, `"\ud800"`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := parse(text)
		if err != nil {
			return // not JSON: nothing to hold
		}
		first, err := gate.AppendJSON(nil, v)
		if err != nil {
			return
		}
		again, err := parse(first)
		if err != nil {
			t.Fatalf("%s became %s, which is not JSON: %v", text, first, err)
		}
		second, err := gate.AppendJSON(nil, again)
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%s became %s and then %s, %v", text, first, second, err)
		}
		if greatExponent.Match(text) {
			return
		}
		if a, b := fmt.Sprint(exact(v)), fmt.Sprint(exact(again)); a != b {
			t.Fatalf("%s became %s: %s is not %s", text, first, a, b)
		}
	})
}

// Two numbers have the same canonical text exactly when they are the same decimal.
func FuzzNumbersNeverCollide(f *testing.F) {
	f.Add("12345678901234567890", "12345678901234567891")
	f.Add("1.0", "1")
	f.Add("1e2", "100")
	f.Add("-0", "0")
	f.Add("4611686018427387904", "4611686018427388000")
	f.Add("0.1", "0.1000000000000000055511151231257827")
	f.Add("1e-324", "0")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, errX := gate.AppendJSON(nil, json.Number(a))
		y, errY := gate.AppendJSON(nil, json.Number(b))
		if errX != nil || errY != nil || greatExponent.MatchString(a) || greatExponent.MatchString(b) {
			return
		}
		rx, ry := exact(json.Number(a)), exact(json.Number(b))
		if same := fmt.Sprint(rx) == fmt.Sprint(ry); same != bytes.Equal(x, y) {
			t.Fatalf("%s became %s and %s became %s; equal: %v", a, x, b, y, same)
		}
	})
}

// greatExponent finds numbers that the oracle cannot expand in reasonable time.
var greatExponent = regexp.MustCompile(`[eE][+-]?[0-9]{5,}`)

// exact is v with every number as an exact fraction, by math/big.
func exact(v any) any {
	switch v := v.(type) {
	case json.Number:
		r, ok := new(big.Rat).SetString(string(v))
		if !ok {
			return "not a number: " + string(v)
		}
		return r.String()
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = exact(v[i])
		}
		return list
	case gate.Object:
		o := make([]any, 0, 2*len(v))
		for _, m := range v {
			o = append(o, m.Name, exact(m.Value))
		}
		return o
	case string:
		return fmt.Sprintf("%q", v)
	default:
		return v
	}
}

// TestAppendTime holds it against the layout of package time, which every reader of a record knows.
func TestAppendTime(t *testing.T) {
	for n := range 10_000 {
		at := time.Unix(rand.Int64N(253402300800+62167219200+1_000_000)-62167219200-500_000, rand.Int64N(1e9)).In(time.FixedZone("", n%86400-43200))
		if n%5 == 0 {
			at = at.Truncate(time.Duration(n) * time.Millisecond)
		}
		got, want := string(gate.AppendTime([]byte("x"), at)), at.UTC().Format("x2006-01-02T15:04:05.000000000Z07:00")
		if got != want {
			t.Fatalf("%v is written %s", want, got)
		}
	}
}

func BenchmarkAppendTime(b *testing.B) {
	var dst [40]byte
	at := time.Now()
	b.Run("here", func(b *testing.B) {
		for b.Loop() {
			gate.AppendTime(dst[:0], at)
		}
	})
	b.Run("time", func(b *testing.B) {
		for b.Loop() {
			at.UTC().AppendFormat(dst[:0], "2006-01-02T15:04:05.000000000Z07:00")
		}
	})
}
