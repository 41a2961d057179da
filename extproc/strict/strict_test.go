package strict_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/strict"
)

const depth = 20

// read is the oracle: the standard library's tokens, whose one failing here is that it takes names twice and bad text.
func read(d *json.Decoder, deep int) (any, error) {
	token, err := d.Token()
	if err != nil || deep > depth {
		return nil, errors.Join(err, errors.New("too deep"))
	}
	switch token {
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := read(d, deep+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err
	case json.Delim('{'):
		object := map[string]any{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			text := name.(string)
			if _, twice := object[text]; twice {
				return nil, errors.New("a name is there twice")
			}
			if object[text], err = read(d, deep+1); err != nil {
				return nil, err
			}
		}
		_, err := d.Token()
		return object, err
	}
	return token, nil
}

var surrogate = regexp.MustCompile(`(?i)\\ud[89a-f]`) // alone it is no text, which the oracle does not see

func FuzzRead(f *testing.F) {
	for _, text := range []string{
		`{"a":[1,2.50,-0,1e400,true,false,null,"é\u00e9\n"],"b":{}}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `[[[]]]`, ` "x" `, `1 2`, `{"a":1}x`, "\"\xff\"", `"\ud800"`, `"\ud83d\ude00"`,
		``, `{`, `{"a"`, `[1,]`, `01`, "\xef\xbb\xbf1", `{"𐀀":1,"\uffff":2}`, strings.Repeat("[", depth) + "1" + strings.Repeat("]", depth), strings.Repeat("[", depth+1) + "1" + strings.Repeat("]", depth+1),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		v, err := strict.Reader{Depth: depth, Maps: true}.Read(text)
		if !bytes.Equal(text, before) {
			t.Fatalf("%q was written to", before)
		}
		if json.Valid(text) && utf8.Valid(text) {
			d := json.NewDecoder(bytes.NewReader(text))
			d.UseNumber()
			want, refused := read(d, 0)
			if refused != nil && err == nil || err != nil && refused == nil && !surrogate.Match(text) {
				t.Fatalf("%q: %v, and it should be %v", text, err, refused)
			}
			if err == nil && !reflect.DeepEqual(v, want) {
				t.Fatalf("%q is %#v, and should be %#v", text, v, want)
			}
		} else if err == nil {
			t.Fatalf("%q was read as %#v", text, v)
		}
		tree, again := strict.Reader{Depth: depth}.Read(text)
		if (err == nil) != (again == nil) {
			t.Fatalf("%q: %v as maps, and %v as objects", text, err, again)
		}
		if canonical, err := gate.AppendJSON(nil, tree); again == nil && err == nil { // a number can have too large an exponent
			if same, err := (strict.Reader{Depth: depth, Maps: true}).Read(canonical); err != nil || !sameNames(same, v) {
				t.Fatalf("%q is %q as objects: %v", text, canonical, err)
			}
		}
	})
}

// sameNames is true for two trees that are the same but for how their numbers are written.
func sameNames(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		for name := range a {
			ok = ok && sameNames(a[name], b[name])
		}
		return ok && len(a) == len(b)
	case []any:
		b, ok := b.([]any)
		for i := range a {
			ok = ok && i < len(b) && sameNames(a[i], b[i])
		}
		return ok && len(a) == len(b)
	case json.Number:
		_, ok := b.(json.Number)
		return ok
	default:
		return a == b
	}
}

func TestObject(t *testing.T) {
	for text, want := range map[string]string{
		`[]`: "it is not a JSON object", `null`: "it is not a JSON object", `{}{}`: strict.ErrMore.Error(), ``: io.ErrUnexpectedEOF.Error(), `{"a":{"b":{"c":1}}}`: "deeper than 2 levels", `{"a":1,"a":1}`: `duplicate object member name "a"`,
	} {
		if o, err := strict.Object([]byte(text), 2); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", text, o, err, want)
		}
	}
	if o, err := strict.Object([]byte(`{"b":{"c":1.50},"a":[]}`), 2); err != nil || !reflect.DeepEqual(o, gate.Object{{Name: "a", Value: []any{}}, {Name: "b", Value: gate.Object{{Name: "c", Value: json.Number("1.50")}}}}) {
		t.Errorf("%#v, %v", o, err)
	}
}
