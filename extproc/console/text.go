package console

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/approval"
)

// textPart is a part of a text that is shown, or what stands in it for something invisible.
type textPart struct {
	Text string
	Mark bool
}

// partsOf are the text with what stands for something invisible told apart.
func partsOf(t approval.Text) []textPart {
	var parts []textPart
	rest := t.Text
	if rest != "" && !strings.Contains(rest, `\`) {
		return []textPart{{Text: rest}}
	}
	for rest != "" {
		at := escape.FindStringIndex(rest)
		if at == nil {
			return append(parts, textPart{Text: rest})
		}
		if at[0] > 0 {
			parts = append(parts, textPart{Text: rest[:at[0]]})
		}
		parts = append(parts, textPart{Text: rest[at[0]:at[1]], Mark: true})
		rest = rest[at[1]:]
	}
	return parts
}

var escape = regexp.MustCompile(`\\u\{[0-9A-F]+\}|\\x\{[0-9A-F]{2}\}|\\\{[0-9]+ bytes left out\}|\\\\`)

// shortWidth is how many characters want no box that scrolls.
const shortWidth = 160

func isLong(t approval.Text) bool { return utf8.RuneCountInString(t.Text) > shortWidth }

// short is the text where there is no room for all of it; the card has all of it.
func short(t approval.Text) approval.Text { return cut(t, 0, shortWidth) }

// ends is a text where there is no room for all of it, with its end: that of a path says what is done.
func ends(t approval.Text) approval.Text {
	const head, tail = 100, 56
	if p := piecesOf(t); isLong(t) && len(p) > head+tail {
		var b strings.Builder
		for i, piece := range p {
			if i == head {
				b.WriteString("…")
			}
			if i < head || i >= len(p)-tail {
				b.WriteString(piece.text)
			}
		}
		t.Text, t.SHA256 = b.String(), "" // the card has all of it
	}
	return t
}

// beginning returns the beginning of a long subject, for a list in which it stands behind a name; the card has all of it. A subject with
// anything odd in it is not cut.
func beginning(t approval.Text) approval.Text {
	if r := []rune(t.Text); len(r) > 12 && t.Notes == nil && !strings.Contains(t.Text, `\`) {
		t.Text = string(r[:8]) + "…"
	}
	return t
}

// label makes a party an attribute.
func label(p approval.CardParty) string {
	if !p.HasName() {
		return short(p.Subject).Text
	}
	return "“" + short(p.Name).Text + "”, " + short(beginning(p.Subject)).Text
}

// title makes a text that is not from a card an attribute.
func title(s string) string { return short(approval.Visible(s)).Text }
