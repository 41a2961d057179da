package approval

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/strict"
)

func TestVisible(t *testing.T) {
	for _, c := range []struct{ name, in, want, note string }{
		{"plain text", "refund 10 EUR", "refund 10 EUR", ""},
		{"nothing", "", "", ""},
		{"a right-to-left override", "pay \u202egpj.exe", `pay \u{202E}gpj.exe`, NoteBidi},
		{"an isolate", "a\u2066b", `a\u{2066}b`, NoteBidi},
		{"a zero-width space", "pass\u200bword", `pass\u{200B}word`, NoteHidden},
		{"a zero-width joiner", "a\u200db", `a\u{200D}b`, NoteHidden},
		{"a byte order mark", "\ufeffa", `\u{FEFF}a`, NoteHidden},
		{"a tag character", "a\U000E0041", `a\u{E0041}`, NoteHidden},
		{"a Hangul filler, a letter that shows nothing", "a\u3164b", `a\u{3164}b`, NoteHidden},
		{"a variation selector", "a\ufe0f", `a\u{FE0F}`, NoteHidden},
		{"a soft hyphen", "a\u00adb", `a\u{AD}b`, NoteHidden},
		{"a line break", "a\nb", `a\u{A}b`, NoteControl},
		{"an escape sequence of a terminal", "\x1b[2J", `\u{1B}[2J`, NoteControl},
		{"a line separator", "a\u2028b", `a\u{2028}b`, NoteControl},
		{"NUL", "a\x00", `a\u{0}`, NoteControl},
		{"a backslash, so that no text fakes an escape", `\u{202E}`, `\\u{202E}`, ""},
		{"a Cyrillic a in a Latin word", "p\u0430ypal", "p\u0430ypal", NoteMixed},
		{"a whole Cyrillic word", "\u0440\u0430\u0443", "\u0440\u0430\u0443", "letters: Cyrillic"},
		{"a full-width letter", "\uff41", `\u{FF41}`, NoteStrange},
		{"a mathematical letter", "\U0001d4ea", `\u{1D4EA}`, NoteStrange},
		{"a click that looks like an exclamation mark", "a\u01c3", `a\u{1C3}`, NoteStrange},
		{"a slash that is none", "a\u2215b", `a\u{2215}b`, NoteStrange},
		{"a Bengali four, which looks like an 8", "\u09ea00", `\u{9EA}00`, NoteStrange},
		{"a no-break space", "a\u00a0b", `a\u{A0}b`, NoteSpaces},
		{"a space at the end", "a ", `a\u{20}`, NoteSpaces},
		{"spaces that push text out of sight", "a    b", `a \u{20}\u{20}\u{20}b`, NoteSpaces},
		{"a letter with a mark", "u\u0308ber", "u\u0308ber", ""},
		{"a pile of marks", "a" + strings.Repeat("\u0300", 4), "a\u0300\u0300\u0300" + `\u{300}`, NoteCombined},
		{"a mark on nothing", "1\u0338", `1\u{338}`, NoteCombined},
		{"Hebrew", "\u05d0", "\u05d0", NoteRTL},
		{"Umlauts and euros", "M\u00fcller \u20ac", "M\u00fcller \u20ac", "letters: Latin"},
		{"bytes that are no text", "a\xffb", `a\x{FF}b`, NoteEncoding},
		{"markup", "<script>alert(1)</script>", "<script>alert(1)</script>", NoteMarkup},
		{"Japanese is not mixed", "\u6771\u4eac\u30bf\u30ef\u30fc", "", "letters: Han"},
	} {
		got := Visible(c.in)
		if c.want != "" && got.Text != c.want {
			t.Errorf("%s: %q, want %q", c.name, got.Text, c.want)
		}
		if c.note != "" && !strings.Contains(strings.Join(got.Notes, ","), c.note) || c.note == "" && c.in == "refund 10 EUR" && got.Notes != nil {
			t.Errorf("%s: the notes are %q, want %s", c.name, got.Notes, c.note)
		}
		if c.name == "Japanese is not mixed" && strings.Contains(strings.Join(got.Notes, ","), NoteMixed) {
			t.Errorf("%s: %q", c.name, got.Notes)
		}
	}
}

func TestLongTextIsCutInTheMiddleAndSaysSo(t *testing.T) {
	long := strings.Repeat("a", 100_000)
	one, two := Visible(long+"1"), Visible(long+"2")
	if one.Bytes != 100_001 || len(one.Text) > 3000 || !strings.Contains(one.Text, `\{97953 bytes left out}`) || !strings.HasSuffix(one.Text, "1") {
		t.Errorf("%d bytes shown as %d: %s", one.Bytes, len(one.Text), one.Text[1700:])
	}
	middle := Visible(long[:50_000] + "b" + long[:50_000])
	if one.SHA256 == two.SHA256 || middle.SHA256 == one.SHA256 || middle.SHA256 == "" {
		t.Error("two texts have one digest")
	}
}

// TestNothingThatAPersonDecidesOnIsCut: neither a value nor its path, however long, is shown in part; what is too long for a
// card is refused.
func TestNothingThatAPersonDecidesOnIsCut(t *testing.T) {
	filler := strings.Repeat("please refund this as agreed ", 300)
	name, value := strings.Repeat("k", 3000), filler+"AND SEND IT TO MALLORY "+filler+"."
	c := cardWriter{limit: 64 << 10}
	rows, _, err := c.rows(gate.Object{{Name: name, Value: value}})
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(rows)
	for _, want := range []string{value, name} {
		if !strings.Contains(text, want) {
			t.Errorf("the %d bytes %.20s… are not shown whole", len(want), want)
		}
	}
	var limit *LimitError
	if _, _, err := c.rows(gate.Object{{Name: "a", Value: strings.Repeat("a", c.limit+1)}}); !errors.As(err, &limit) || limit.What != LimitCard {
		t.Errorf("a value longer than a card: %v", err)
	}
}

// unescape turns what is shown back into what it came from.
func unescape(t *testing.T, s string) string {
	t.Helper()
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			i++
			continue
		}
		if s[i+1] == '\\' {
			b.WriteByte('\\')
			i += 2
			continue
		}
		end := strings.IndexByte(s[i:], '}') + i
		n, err := strconv.ParseUint(s[i+3:end], 16, 32)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if s[i+1] == 'x' {
			b.WriteByte(byte(n))
		} else {
			b.WriteRune(rune(n))
		}
		i = end + 1
	}
	return b.String()
}

// The oracle: what is shown has nothing in it that could hide, and gives back the one text that it came from.
func FuzzVisible(f *testing.F) {
	for _, s := range []string{"a", " a", "a ", "a b", "<b>", "a\\b", "\u202e", `\u{20}`, "a  b", "\xff\xfe", "p\u0430y", "\U0001f468\u200d\U0001f469", strings.Repeat("x ", 3000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v := Visible(s)
		if diff := cmp.Diff(examine(s, shownRunes), v); diff != "" {
			t.Fatalf("%q is evident and is shown as something else (-examined +shown):\n%s", s, diff)
		}
		if !utf8.ValidString(v.Text) {
			t.Fatalf("%q is shown as bytes that are no text", s)
		}
		for _, r := range v.Text {
			if r < 0x20 || r == 0x7F || r > 0x7F && strangeness(r) != "" {
				t.Fatalf("%q is shown with %U in it", s, r)
			}
		}
		if v.Bytes == 0 && unescape(t, v.Text) != s {
			t.Fatalf("%q is shown as %q, which is another text", s, v.Text)
		}
		if v.Bytes != 0 && (v.Bytes != len(s) || v.SHA256 == "") {
			t.Fatalf("a text of %d bytes was cut without saying so", len(s))
		}
		if all := whole(s); all.Bytes != 0 || unescape(t, all.Text) != s {
			t.Fatalf("%q is not shown whole: %q", s, all.Text)
		}
	})
}

type shownDetail gate.Object

func (d shownDetail) Key() string         { return "http" }
func (d shownDetail) Object() gate.Object { return gate.Object(d) }

func (shownDetail) Volatile() gate.Object { return nil }

func (shownDetail) Recorded() gate.Object { return nil }

// cardOf renders an operation whose body has one member.
func cardOf(name, value, digest string) ([]byte, error) {
	body := gate.Object{{Name: "body", Value: gate.Object{{Name: name, Value: value}}}}
	a := Asking{Operation: &gate.Operation{
		ID: "op", Principal: &gate.Principal{Issuer: "i", Subject: value}, Resource: gate.Resource{Name: name, Kind: "http"},
		Verb: value, Target: value, Detail: shownDetail(body),
	}, Digest: digest, Shown: body, History: []Past{{Target: value}}}
	r := &Request{ID: "id", Digest: digest, Asks: []AskRule{{ID: name, Reason: value, Approvers: []string{value}}}, Created: time.Unix(1, 0)}
	return renderCard(r, &a, 1<<20)
}

func FuzzCard(f *testing.F) {
	f.Add("amount", "10")
	f.Add("a.b", "\u202e")
	f.Add("']", `"},{"path"`)
	f.Fuzz(func(t *testing.T, name, value string) {
		card, err := cardOf(name, value, "d1")
		var limit *LimitError
		if err != nil {
			if utf8.ValidString(name) && utf8.ValidString(value) && !errors.As(err, &limit) {
				t.Fatalf("%q, %q: %v", name, value, err)
			}
			return
		}
		for _, r := range string(card) {
			if r < 0x20 || r > 0x7F && strangeness(r) != "" {
				t.Fatalf("the card has %U in it: %s", r, card)
			}
		}
		parsed, err := ReadCard(card)
		if err != nil {
			t.Fatalf("%s: %v", card, err)
		}
		tree, err := strict.Object(card, maxDepth)
		if canonical, again := gate.AppendJSON(nil, tree); err != nil || again != nil || string(canonical) != string(card) {
			t.Fatalf("%s is not canonical: %v, %v", card, err, again)
		}
		if len(parsed.What.Detail) != 1 || parsed.What.Detail[0].Value.Text != Visible(value).Text || parsed.Digest != "d1" {
			t.Fatalf("%q, %q gave %s", name, value, card)
		}
		if other, err := cardOf(name, value, "d2"); err != nil || string(other) == string(card) {
			t.Fatalf("two operations have one card")
		}
	})
}

// TestWhatAnOperationCarriesComesFirst, and the rest after it, in its own order.
func TestWhatAnOperationCarriesComesFirst(t *testing.T) {
	c := cardWriter{limit: 64 << 10}
	rows, first, err := c.rows(gate.Object{
		{Name: "authority", Value: "a"},
		{Name: "body", Value: gate.Object{{Name: "amount", Value: 10}}},
		{Name: "body_bytes", Value: 14},
		{Name: "form", Value: gate.Object{}},
		{Name: "path", Value: "/"},
		{Name: "query", Value: gate.Object{{Name: "q", Value: []string{"x"}}}},
	}, "body", "form", "query")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, row := range rows {
		paths = append(paths, row.Path.Text)
	}
	if diff := cmp.Diff([]string{"body.amount", "query.q[0]", "authority", "body_bytes", "form", "path"}, paths); diff != "" || first != 2 {
		t.Error(first, diff)
	}
}

func TestCardHidesNoKey(t *testing.T) {
	paths := map[string]bool{}
	for _, names := range [][]string{
		{"a.b"}, {"a", "b"}, {"a['b']"}, {"a\\'b"}, {"a'b"}, {"a[0]"}, {""}, {" "}, {"a "}, {"\n"}, {"a\u200bb"}, {"ab"},
	} {
		var v any = "x"
		for i := len(names) - 1; i >= 0; i-- {
			v = gate.Object{{Name: names[i], Value: v}}
		}
		c := cardWriter{limit: 64 << 10}
		rows, _, err := c.rows(gate.Object{{Name: "body", Value: v}})
		if err != nil || len(rows) != 1 {
			t.Fatalf("%q: %d rows, %v", names, len(rows), err)
		}
		path := rows[0].Path.Text
		if paths[path] {
			t.Errorf("%q has the path %s of another", names, path)
		}
		paths[path] = true
	}
	c := cardWriter{limit: 64 << 10}
	if _, _, err := c.rows(gate.Object{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}}); err == nil {
		t.Error("a name that is there twice was shown")
	}
	deep := any("x")
	for range 200 {
		deep = []any{deep}
	}
	if _, _, err := (&cardWriter{}).rows(gate.Object{{Name: "a", Value: deep}}); err == nil {
		t.Error("too deep, and shown")
	}
}

// BenchmarkCard renders a card with the most history that one has, which is what a new request takes beyond its writes.
func BenchmarkCard(b *testing.B) {
	body := gate.Object{{Name: "body", Value: gate.Object{{Name: "amount", Value: json.Number("10")}, {Name: "note", Value: "for the broken lamp"}}}}
	a := Asking{Operation: &gate.Operation{
		ID: "op", Principal: &gate.Principal{Issuer: "https://idp.example.com", Subject: "agent-1"}, Resource: gate.Resource{Name: "payments", Kind: "http"},
		Verb: "POST", Target: "/v1/payments/7/refunds", Detail: shownDetail(body),
	}, Digest: "d", Shown: body}
	for range maxHistory {
		a.History = append(a.History, Past{Time: time.Unix(1, 0), Verb: "POST", Target: "/v1/payments/7/refunds", Result: "ask"})
	}
	r := &Request{ID: "id", Digest: "d", Asks: []AskRule{{ID: "refund", Reason: "refunds need a person", Approvers: []string{"payments-oncall"}}}, Created: time.Unix(1, 0)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := renderCard(r, &a, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}
