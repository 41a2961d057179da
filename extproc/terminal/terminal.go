// Package terminal prints what others wrote. Agents, approvers, issuers and whoever hands over a journal choose text that a person
// reads in a terminal, and a terminal obeys text: it clears what was read, turns lines around, puts a line where another was, or
// shows nothing. So everything foreign is written out before it is printed, in one notation: \u{HEX} for a character, \x{HEX}
// for a byte that is not UTF-8.
//
// [Text] is for a text, [Value] for a value whose type matters, [Line] for a message that quotes either, [JSON] for JSON, which
// stays the same JSON. [Writer] is the net below them: a command's output goes through one, so that what nobody thought of does
// no harm either.
package terminal

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/gate"
)

// Acts reports whether a terminal could take r for something other than a character at its place, or show nothing of it.
func Acts(r rune) bool {
	return !unicode.IsGraphic(r) || r == utf8.RuneError || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp,
		unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// Text is s in one line, with a backslash of its own doubled: what is shown can be turned back into the text.
func Text(s string) string { return write(strings.ReplaceAll(s, `\`, `\\`), Acts) }

// Line is a message in one line. Its backslashes stay: it may quote what was written out already.
func Line(s string) string { return write(s, Acts) }

func write(s string, acts func(rune) bool) string {
	if plain(s, acts) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x{%02X}`, s[i])
		case acts(r):
			fmt.Fprintf(&b, `\u{%X}`, r)
		default:
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	return b.String()
}

func plain(s string, acts func(rune) bool) bool {
	for _, r := range s {
		if acts(r) { // utf8.RuneError too
			return false
		}
	}
	return true
}

// Value is a value of JSON, as one of several in a line: a string that could be taken for another type, for a quoted one, for
// nothing or for several is in quotes, and everything else is as JSON has it.
func Value(v any) string {
	if s, ok := v.(string); ok {
		return String(s)
	}
	b, err := gate.AppendJSON(nil, v)
	if err != nil {
		return Text(fmt.Sprint(v))
	}
	return JSON(string(b))
}

// String is Value for a string.
func String(s string) string {
	if IsOther(s) || strings.ContainsAny(s, " =\"") {
		return Quoted(Text(s))
	}
	return Text(s)
}

// Quoted puts a text that was written out into quotes.
func Quoted(s string) string { return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"` }

// IsOther reports whether a string, without quotes, could be taken for a value of another type, for none, or for one in quotes.
func IsOther(s string) bool {
	if s == "" || strings.ContainsRune("[{(\"", rune(s[0])) {
		return true
	}
	_, err := strconv.ParseFloat(s, 64)
	return err == nil || json.Valid([]byte(s))
}

// JSON is the same JSON, on as many lines, without what a terminal could act on.
func JSON(s string) string {
	var b strings.Builder
	for i, r := range s {
		if r == '\n' || !Acts(r) {
			b.WriteRune(r)
			continue
		}
		if _, size := utf8.DecodeRuneInString(s[i:]); r == utf8.RuneError && size == 1 {
			r = utf8.RuneError // JSON has no other way to say it
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// Lines is a message that may have several lines of its own: those after the first are indented, so that none can be taken for
// another message.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = Line(l)
	}
	return strings.Join(lines, "\n    ")
}

// Writer passes on lines, tabs and characters, and writes out the rest.
type Writer struct {
	w    io.Writer
	json bool
	mu   sync.Mutex
	part []byte // the beginning of a character
}

// NewWriter returns a writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// JSON is a writer to the same place, for lines of JSON, which they stay.
func (t *Writer) JSON() *Writer { return &Writer{w: t.w, json: true} }

// Write keeps the beginning of a character for the next call.
func (t *Writer) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := b
	if len(t.part) > 0 {
		all = append(t.part, b...)
		t.part = nil
	}
	whole := len(all)
	for back := 1; back < utf8.UTFMax && back <= len(all); back++ {
		if c := all[len(all)-back]; utf8.RuneStart(c) {
			if !utf8.FullRune(all[len(all)-back:]) {
				whole = len(all) - back
			}
			break
		}
	}
	t.part = append([]byte(nil), all[whole:]...)
	text := string(all[:whole])
	if t.json {
		text = JSON(text)
	} else {
		text = write(text, func(r rune) bool { return r != '\n' && r != '\t' && Acts(r) })
	}
	if _, err := io.WriteString(t.w, text); err != nil {
		return 0, err
	}
	return len(b), nil
}
