package yamlfile_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/yamlfile"
)

func asJSON(text string) (string, *yamlfile.Error) {
	root, wrong := yamlfile.Parse([]byte(text))
	if wrong != nil {
		return "", wrong
	}
	out, wrong := yamlfile.JSON(root)
	return string(out), wrong
}

func TestYAMLAsJSON(t *testing.T) {
	for text, want := range map[string]string{
		"a: 1\nb:\n- x\n- true\n":         "{\"a\":1,\n\"b\":\n[\"x\",\ntrue]}",
		"{\n\t\"a\": [1.50, 1e40, null]}": "{\n\"a\":[1.50,1e40,null]}",
		"a: &x {b: 2026-01-01}\nc: *x":    "{\"a\":{\"b\":\"2026-01-01\"},\n\"c\":{\"b\":\"2026-01-01\"}}",
		"a: 0x10\nb: .5\n3: +1\n":         "{\"a\":16,\n\"b\":0.5,\n\"3\":1}",
	} {
		if got, wrong := asJSON(text); wrong != nil || got != want {
			t.Errorf("%q is %q, %v", text, got, wrong)
		}
	}
	deep := "a: &a [[x]]\n"
	for i := range 20 {
		deep += fmt.Sprintf("a%d: &a%d [*a%s,*a%s,*a%s,*a%s,*a%s]\n", i+1, i+1, before(i), before(i), before(i), before(i), before(i))
	}
	for text, want := range map[string]string{
		"":                        "1: is empty",
		"a: 1\n---\nb: 1":         "2: a second document begins here",
		"a: 1\na: 2":              "2: a stands here a second time: the first is on line 1",
		"a: &a {x: 1}\n<<: *a":    "2: a key must be plain text",
		"true: x":                 "1: a key must be plain text",
		"? [a]\n: b":              "1: a key must be plain text",
		"a:\n  b: !secret x":      "2: the tag !secret hides a value",
		"a: !x {b: c}":            "1: the tag !x hides a value",
		"a: !!binary aGk=":        "1: the tag !!binary hides a value",
		"a: !!bool yes":           `1: "yes" is neither true nor false`,
		"a: .inf":                 "1: .inf is not a number that JSON has",
		"a: [":                    "1: is not YAML",
		deep:                      "is too large or too deep once its aliases are written out",
		"a: &a\n  b: *a\n":        "is too large or too deep once its aliases are written out",
		nested(600):               "1: is too large or too deep",
		"a: 1\nb:\n\t- tab: no\n": "3: is not YAML",
	} {
		if got, wrong := asJSON(text); wrong == nil || !strings.Contains(fmt.Sprintf("%d: %s", wrong.Line, wrong), want) {
			t.Errorf("%.60q is %.60q, %v; want %q", text, got, wrong, want)
		}
	}
	if root, wrong := yamlfile.Parse([]byte("a: 1\n---\nb: 1")); root == nil || wrong == nil {
		t.Errorf("of the first of two documents comes %v, %v", root, wrong)
	}
}

func before(i int) string {
	if i == 0 {
		return ""
	}
	return fmt.Sprint(i)
}

func nested(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

// FuzzYAMLAsJSON: what is written is JSON, and says what the library reads of the same text.
func FuzzYAMLAsJSON(f *testing.F) {
	for _, text := range []string{"a: 1\nb: [x, true, ~]\n", "{\"a\":\t1}", "a: &x {b: 2026-01-01}\nc: *x", "a: |\n  text\n\nb: >-\n  more", "'': \"\\x41\"", "- 0x1F\n- 1_000\n- 0o7\n- -.5", "? a\n: b", "a: 1\na: 2", "!!str 1", "!x y"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		root, wrong := yamlfile.Parse([]byte(text))
		if wrong != nil {
			return
		}
		out, wrong := yamlfile.JSON(root)
		if wrong != nil {
			return
		}
		var got, want any
		if err := json.Unmarshal(out, &got); err != nil && !strings.Contains(err.Error(), "number") {
			t.Fatalf("%q becomes %q: %v", text, out, err)
		} else if err != nil {
			return // a number that no double is
		}
		if err := root.Decode(&want); err != nil {
			return // a name that is a number twice, say
		}
		if shaped := shape(want); !slices.Contains(shaped, "?") && !slices.Equal(shape(got), shaped) {
			t.Fatalf("%q becomes %q, and is %v", text, out, want)
		}
	})
}

// shape lists what two trees have in common: the kinds and texts of their values, in order of their names; "?" where they can differ.
func shape(v any) []string {
	var list []string
	switch r := reflect.ValueOf(v); {
	case v == nil:
		list = append(list, "null")
	case r.Kind() == reflect.Map && r.Type().Key().Kind() != reflect.String: // 0 and 00 are one name to the library
		list = append(list, "?")
	case r.Kind() == reflect.Map:
		keys := r.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int {
			return strings.Compare(fmt.Sprint(a.Interface()), fmt.Sprint(b.Interface()))
		})
		list = append(list, "{")
		for _, k := range keys {
			list = append(list, fmt.Sprintf("%d", len(keys)))
			list = append(list, shape(r.MapIndex(k).Interface())...)
		}
	case r.Kind() == reflect.Slice:
		list = append(list, "[")
		for i := range r.Len() {
			list = append(list, shape(r.Index(i).Interface())...)
		}
	case r.Kind() == reflect.String:
		list = append(list, "text "+r.String())
	case r.Kind() == reflect.Bool:
		list = append(list, fmt.Sprint(v))
	case r.Type() == reflect.TypeFor[time.Time]():
		list = append(list, "?")
	default:
		list = append(list, "other")
	}
	return list
}
