package approval

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text is a text as it is shown to a person. Everything that could look like something else, or like nothing, is written as
// \u{HEX} (a character) or \x{HEX} (a byte that is not UTF-8), and a backslash as \\. Unless it was cut, a shown text can be turned
// back into the one text that it came from.
//
// Shown as they are: printable ASCII, except a space at an end or beside another space; currency signs; and letters with their
// marks, of scripts that people write today. A look-alike letter is still a letter: Notes says which scripts a text has, and
// whether one word mixes them.
type Text struct {
	Bytes  int      `json:"bytes,omitzero"`   // of the whole, if Text was cut; else 0
	Notes  []string `json:"notes,omitempty"`  // see the Note constants; sorted
	SHA256 string   `json:"sha256,omitempty"` // of the whole, in hex, if Text was cut
	Text   string   `json:"text"`
}

// What is odd about a text.
const (
	NoteBidi     = "bidirectional controls"
	NoteCombined = "combining marks"
	NoteControl  = "control characters"
	NoteCut      = "cut"
	NoteEncoding = "not UTF-8"
	NoteHidden   = "invisible characters"
	NoteMarkup   = "markup"
	NoteMixed    = "mixed scripts in one word"
	NoteRTL      = "right-to-left letters"
	NoteSpaces   = "unusual spaces"
	NoteStrange  = "look-alike or unusual characters"
)

// shownRunes is how much of a long text is shown; the last tailRunes of that are its end.
const (
	shownRunes = 2048
	tailRunes  = 256
)

// Visible returns s as it is shown. It cuts a long text in the middle.
func Visible(s string) Text {
	if len(s) <= shownRunes && evident(s) {
		return Text{Text: s}
	}
	return examine(s, shownRunes)
}

// whole is Visible without the cut, for what a person decides on.
func whole(s string) Text {
	if evident(s) {
		return Text{Text: s}
	}
	return examine(s, len(s))
}

// evident reports whether s is shown as it is, without a note. It is a quick test that most texts of a card pass.
func evident(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c == ' ':
			if i == 0 || i == len(s)-1 || s[i-1] == ' ' {
				return false
			}
		case c < 0x20 || c >= 0x7F || c == '\\' || c == '<':
			return false
		}
	}
	return true
}

// examine shows at most limit runes of s: its beginning and its end.
func examine(s string, limit int) Text {
	var t Text
	notes := map[string]bool{}
	shown := s
	head, end := s, ""
	if n := utf8.RuneCountInString(s); n > limit {
		head, end = s[:runeOffset(s, limit-tailRunes)], s[runeOffset(s, n-tailRunes):]
		sum := sha256.Sum256([]byte(s))
		t.Bytes, t.SHA256 = len(s), hex.EncodeToString(sum[:])
		notes[NoteCut] = true
		shown = head + end
	}
	var b strings.Builder
	appendVisible(&b, head, notes)
	if t.Bytes > 0 {
		// No text can contain this by itself: a backslash of its own would be doubled.
		fmt.Fprintf(&b, `\{%d bytes left out}`, len(s)-len(head)-len(end))
		appendVisible(&b, end, notes)
	}
	t.Text = b.String()
	noteWords(shown, notes)
	if strings.ContainsRune(s, '<') && strings.ContainsRune(s, '>') {
		notes[NoteMarkup] = true
	}
	for note := range notes {
		t.Notes = append(t.Notes, note)
	}
	slices.Sort(t.Notes)
	return t
}

// runeOffset is where the nth rune of s begins.
func runeOffset(s string, n int) int {
	for i := range s {
		if n == 0 {
			return i
		}
		n--
	}
	return len(s)
}

func appendVisible(b *strings.Builder, s string, notes map[string]bool) {
	marks, previous := 0, rune(-1)
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			fmt.Fprintf(b, `\x{%02X}`, s[i])
			notes[NoteEncoding] = true
			previous, marks = -1, 0
			i++
			continue
		}
		i += size
		note := ""
		switch {
		case r == ' ':
			if previous == ' ' || previous == -1 || i == len(s) {
				note = NoteSpaces
			}
		case r == '\\':
			b.WriteByte('\\')
		case r > 0x20 && r < 0x7F:
		case unicode.Is(unicode.Mark, r):
			marks++
			if note = strangeness(r); note == "" && (marks > 3 || !unicode.IsLetter(previous)) {
				note = NoteCombined
			}
		default:
			note = strangeness(r)
		}
		if !unicode.Is(unicode.Mark, r) || note != "" {
			marks, previous = 0, r
			if note != "" && r != ' ' {
				previous = -2
			}
		}
		if note != "" {
			fmt.Fprintf(b, `\u{%X}`, r)
			notes[note] = true
			continue
		}
		b.WriteRune(r)
	}
}

// strangeness says why r, which is not printable ASCII, is not shown as it is; empty if it is.
func strangeness(r rune) string {
	switch {
	case unicode.Is(unicode.Bidi_Control, r):
		return NoteBidi
	case unicode.Is(unicode.Cc, r), r == '\u2028', r == '\u2029':
		return NoteControl
	case unicode.Is(unicode.Zs, r):
		return NoteSpaces
	case unicode.Is(unicode.Cf, r), unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r),
		unicode.Is(unicode.Variation_Selector, r):
		return NoteHidden
	case unicode.Is(unicode.Sc, r) && !compatible(r):
		return ""
	case unicode.Is(unicode.Mark, r) && !unicode.Is(unicode.Me, r):
		return ""
	case unicode.IsLetter(r) && !unicode.Is(unicode.Lm, r) && !compatible(r) && script(r) != "":
		return ""
	default:
		return NoteStrange
	}
}

// compatible reports whether r is another form of a usual character: full-width, mathematical, a ligature, letter-like. The blocks
// are those whose letters Unicode decomposes by compatibility (NFKC), and Latin beyond Extended-A, whose letters are on no keyboard.
func compatible(r rune) bool {
	for _, block := range [][2]rune{
		{0x0180, 0x02FF},
		{0x1D00, 0x1DFF},
		{0x2070, 0x218F},
		{0x2460, 0x24FF},
		{0x2C60, 0x2C7F},
		{0x3200, 0x33FF},
		{0xA720, 0xA7FF},
		{0xAB30, 0xAB6F},
		{0xF900, 0xFAFF},
		{0xFB00, 0xFDFF},
		{0xFE70, 0xFEFF},
		{0xFF00, 0xFFEF},
		{0x1D400, 0x1D7FF},
		{0x1EE00, 0x1EEFF},
		{0x1F100, 0x1F1FF},
		{0x2F800, 0x2FA1F},
	} {
		// The third block holds the euro and its neighbours (20A0–20CF), which are no look-alikes.
		if r >= block[0] && r <= block[1] && (r < 0x20A0 || r > 0x20CF) {
			return true
		}
	}
	return false
}

// scripts that people write today. Letters of others are shown by their number.
var scripts = []string{
	"Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Han", "Hiragana", "Katakana", "Hangul", "Devanagari", "Bengali",
	"Thai", "Armenian", "Georgian", "Tamil", "Telugu", "Gujarati", "Gurmukhi", "Kannada", "Malayalam", "Sinhala", "Khmer",
	"Lao", "Myanmar", "Ethiopic",
}

func script(r rune) string {
	if r < 0x80 {
		return "Latin"
	}
	for _, name := range scripts {
		if unicode.Is(unicode.Scripts[name], r) {
			return name
		}
	}
	return ""
}

// noteWords notes which scripts besides ASCII a text has, and words that mix them. Japanese and Korean words mix scripts by nature.
func noteWords(s string, notes map[string]bool) {
	var word map[string]bool
	for _, r := range s {
		if !unicode.IsLetter(r) && !unicode.Is(unicode.Mark, r) {
			word = nil
			continue
		}
		name := script(r)
		if name == "" {
			continue
		}
		if r >= 0x80 {
			notes["letters: "+name] = true
		}
		if name == "Arabic" || name == "Hebrew" {
			notes[NoteRTL] = true
		}
		switch name {
		case "Hiragana", "Katakana", "Hangul":
			name = "Han"
		}
		if word == nil {
			word = map[string]bool{}
		}
		word[name] = true
		if len(word) > 1 {
			notes[NoteMixed] = true
		}
	}
}
