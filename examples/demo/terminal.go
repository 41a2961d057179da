package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// width is how wide lines are beside their margin: a hundred columns have room for both.
const width = 96

// terminal writes text for people.
type terminal struct {
	w      io.Writer
	colour bool
}

// style is an ANSI SGR code.
type style string

const (
	plain style = ""
	bold  style = "1"
	dim   style = "2"
	red   style = "31"
	green style = "32"
	cyan  style = "36"
)

func (t *terminal) styled(s style, text string) string {
	if !t.colour || s == plain || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// line writes a line in a style, wrapped where it is too wide. What follows the first line is indented by hang more.
func (t *terminal) line(s style, hang int, text string) {
	for _, l := range wrap(text, width, hang) {
		fmt.Fprintf(t.w, "   %s\n", t.styled(s, l))
	}
}

func (t *terminal) title(text string) {
	fmt.Fprintf(t.w, "\n%s\n\n", t.styled(bold, text))
}

func (t *terminal) say(format string, args ...any) { t.line(plain, 0, fmt.Sprintf(format, args...)) }

// well says what was checked.
func (t *terminal) well(format string, args ...any) {
	t.line(green, 2, "✓ "+fmt.Sprintf(format, args...))
}

func (t *terminal) command(text string) { t.line(bold, 2, "$ "+text) }

// body writes an answer's body; JSON is laid out.
func (t *terminal) body(body []byte) {
	var laid bytes.Buffer
	if json.Indent(&laid, bytes.TrimSpace(body), "", "  ") == nil {
		body = laid.Bytes()
	}
	for line := range strings.Lines(string(body)) {
		t.line(plain, 4, "  "+strings.TrimRight(line, "\n"))
	}
}

// row writes cells in columns of the given widths. The last cell takes what is left of the line.
func (t *terminal) row(s style, widths []int, cells ...string) {
	var b strings.Builder
	left := width
	for i, c := range cells {
		if i < len(widths) {
			c = shorten(c, widths[i]-2)
			c += strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			left -= widths[i]
		} else {
			c = shorten(c, left)
		}
		b.WriteString(c)
	}
	fmt.Fprintf(t.w, "   %s\n", t.styled(s, strings.TrimRight(b.String(), " ")))
}

func shorten(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return text
}

// wrap cuts text into lines of at most n runes: at spaces where there are some, else after commas. All but the first begin
// with hang spaces.
func wrap(text string, n, hang int) []string {
	var lines []string
	rest := []rune(text)
	for len(rest) > n {
		cut := lastOf(rest[:n+1], ' ', max(n/2, hang+1))
		if cut < 0 {
			cut = lastOf(rest[:n], ',', hang+1) + 1
		}
		if cut <= 0 {
			cut = n
		}
		lines = append(lines, strings.TrimRight(string(rest[:cut]), " "))
		rest = []rune(strings.Repeat(" ", hang) + strings.TrimLeft(string(rest[cut:]), " "))
	}
	return append(lines, strings.TrimRight(string(rest), " "))
}

// lastOf is where r stands last in text, at from or after it; -1 where it does not.
func lastOf(text []rune, r rune, from int) int {
	for i := len(text) - 1; i >= from; i-- {
		if text[i] == r {
			return i
		}
	}
	return -1
}
