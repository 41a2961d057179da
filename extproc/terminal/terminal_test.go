package terminal_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/terminal"
)

// harmless fails where a terminal could act on what is printed; newlines may be allowed.
func harmless(t *testing.T, name, printed string, lines bool) {
	t.Helper()
	if !utf8.ValidString(printed) {
		t.Errorf("%s: %q is not UTF-8", name, printed)
	}
	for _, r := range printed {
		if terminal.Acts(r) && (!lines || r != '\n') {
			t.Errorf("%s: %q has %U", name, printed, r)
		}
	}
}

// TestForeignTextDoesNothingInATerminal: however it is printed, and in whatever pieces; and JSON stays what it was.
func TestForeignTextDoesNothingInATerminal(t *testing.T) {
	for name, text := range extproctest.HostileTexts() {
		for how, printed := range map[string]string{
			"text": terminal.Text(text), "line": terminal.Line(text), "value": terminal.Value(text), "in an object": terminal.Value(gate.Object{{Name: "a", Value: strings.ToValidUTF8(text, "?")}}),
			"not JSON's": terminal.Value(map[string]string{"a": text}),
		} {
			harmless(t, name+", "+how, printed, false)
		}
		harmless(t, name, terminal.Lines(text), true)
		for size := 1; size <= 4; size++ {
			var b bytes.Buffer
			w := terminal.NewWriter(&b)
			for at := 0; at < len(text); at += size {
				if _, err := w.Write([]byte(text[at:min(len(text), at+size)])); err != nil {
					t.Fatal(err)
				}
			}
			_, _ = w.Write([]byte("\n"))
			harmless(t, name+", written in pieces", b.String(), true)
			if want := strings.ReplaceAll(terminal.Line(text), `\u{A}`, "\n") + "\n"; b.String() != want {
				t.Errorf("%s, in pieces of %d: %q, want %q", name, size, b.String(), want)
			}
		}
		if !utf8.ValidString(text) {
			continue
		}
		line, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		printed := terminal.JSON(string(line))
		harmless(t, name+", JSON", printed, false)
		var again string
		if err := json.Unmarshal([]byte(printed), &again); err != nil || again != text {
			t.Errorf("%s: as JSON it is %q, %v", name, again, err)
		}
		var b bytes.Buffer
		if _, err := terminal.NewWriter(&b).JSON().Write(append(line, '\n')); err != nil {
			t.Fatal(err)
		}
		harmless(t, name+", lines of JSON", b.String(), true)
		if err := json.Unmarshal(b.Bytes(), &again); err != nil || again != text {
			t.Errorf("%s: in a line of JSON it is %q, %v", name, again, err)
		}
	}
}

// TestTextCanBeTurnedBack: two texts that differ are shown as two.
func TestTextCanBeTurnedBack(t *testing.T) {
	shown := map[string]string{}
	for _, text := range []string{"\n", `\n`, `\u{A}`, `\\u{A}`, "\u202e", `\u{202E}`, "\xff", `\x{FF}`, "\ufffd", `\u{FFFD}`, "a", `a\`} {
		s := terminal.Text(text)
		if before, again := shown[s]; again {
			t.Errorf("%q and %q are both shown as %s", before, text, s)
		}
		shown[s] = text
	}
	if got := terminal.Lines("a\nb\x1b"); got != "a\n    b\\u{1B}" {
		t.Errorf("%q", got)
	}
}

// TestValuesTellTheirTypes: two values that differ are told as two.
func TestValuesTellTheirTypes(t *testing.T) {
	told := map[string]any{}
	for _, v := range []any{
		false, "false", true, "true", nil, "null", 10, "10", `"10"`, "1e1", "", "a", `"a"`, "a b", "a=b", "0x10", "NaN", "[]", "{}", []any{}, gate.Object{}, []any{"a"}, `["a"]`, "(empty)",
	} {
		s := terminal.Value(v)
		if before, again := told[s]; again && !reflect.DeepEqual(before, v) {
			t.Errorf("%#v and %#v are both told as %s", before, v, s)
		}
		told[s] = v
	}
	for v, want := range map[any]string{false: "false", "false": `"false"`, 10: "10", "10": `"10"`, "GET": "GET", "/v1/payments/7": "/v1/payments/7", "no bulk export": `"no bulk export"`} {
		if got := terminal.Value(v); got != want {
			t.Errorf("%#v is told as %s, want %s", v, got, want)
		}
	}
}
