package redact

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

const (
	isDigit uint8 = 1 << iota
	isUpper
	isLower
)

// wordClass is the class of a byte that can be in a word, and 0 for others. Words are ASCII letters and digits. Every secret
// that is recognised by its prefix begins at the beginning of a word.
var wordClass = func() (class [256]uint8) {
	for c := range 256 {
		switch {
		case c >= '0' && c <= '9':
			class[c] = isDigit
		case c >= 'A' && c <= 'Z':
			class[c] = isUpper
		case c >= 'a' && c <= 'z':
			class[c] = isLower
		}
	}
	return class
}()

// localPart has the characters of an unquoted local part, except those that separate things in URLs and prose (/ ? & = # and
// quotes): with them whole paths would be masked.
var localPart = asciiSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!$%*+-^_{}~")

func asciiSet(s string) (set [256]bool) {
	for _, c := range []byte(s) {
		set[c] = true
	}
	return set
}

// findEmails looks for addresses by their @, or %40 as in URLs.
func (f *finder) findEmails(text []byte) {
	done := 0 // nothing before this is looked at again
	for at := 0; at < len(text); {
		i := bytes.IndexAny(text[at:], "@%")
		if i < 0 {
			return
		}
		at += i
		width := 1
		if text[at] == '%' {
			if !bytes.HasPrefix(text[at:], []byte("%40")) {
				at++
				continue
			}
			width = 3
		}
		from, to := localStart(text, at, done), domainEnd(text, at+width)
		at += width
		if from < at-width && to > 0 {
			f.add(from, to, email)
		}
		done = at
	}
}

// localStart returns where the local part before at begins, or at if there is none.
func localStart(text []byte, at, done int) int {
	if at > done && text[at-1] == '"' { // a quoted local part
		if open := bytes.LastIndexByte(text[max(done, at-66):at-1], '"'); open >= 0 {
			return max(done, at-66) + open
		}
	}
	from := at
	for from > done {
		if c := text[from-1]; c < utf8.RuneSelf {
			if !localPart[c] {
				break
			}
			from--
			continue
		}
		r, n := utf8.DecodeLastRune(text[done:from])
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) {
			break
		}
		from -= n
	}
	for from < at && text[from] == '.' {
		from++
	}
	return from
}

// domainEnd returns where the domain at from ends, or 0 if there is none. A domain is labels with dots between; one of them,
// not the first, has at least two characters and a letter.
func domainEnd(text []byte, from int) int {
	to, label := from, from // label is where the last one begins
	letter, top := false, false
	for to < len(text) {
		c := text[to]
		switch {
		case wordClass[c] > isDigit:
			letter = true
		case c == '-', wordClass[c] != 0:
		case c == '.' && to > label && startsLabel(text, to+1):
			top = top || letter && label > from && to-label >= 2
			label, letter = to+1, false
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRune(text[to:])
			if !unicode.IsLetter(r) && !unicode.IsMark(r) {
				return domain(from, to, label, letter, top)
			}
			letter = true
			to += n
			continue
		default:
			return domain(from, to, label, letter, top)
		}
		to++
	}
	return domain(from, to, label, letter, top)
}

// startsLabel reports whether a label can begin after a dot. If not, the dot ends a sentence.
func startsLabel(text []byte, next int) bool {
	return next < len(text) && (wordClass[text[next]] != 0 || text[next] == '-' || text[next] >= utf8.RuneSelf)
}

func domain(from, to, label int, letter, top bool) int {
	if top || letter && label > from && to-label >= 2 {
		return to
	}
	return 0
}

var (
	beginArmor = []byte("-----BEGIN ")
	privateKey = []byte("PRIVATE KEY")
	endArmor   = []byte("-----END ")
	dashes     = []byte("-----")
)

// findPrivateKeys looks for armored private keys (RFC 7468, OpenSSH, PGP). One without an end takes the rest of the text.
func (f *finder) findPrivateKeys(text []byte) {
	for at := 0; ; {
		i := bytes.Index(text[at:], beginArmor)
		if i < 0 {
			return
		}
		from := at + i
		at = from + len(beginArmor)
		label := text[at:min(len(text), at+64)]
		if end := bytes.Index(label, dashes); end >= 0 {
			label = label[:end]
		}
		if !bytes.Contains(label, privateKey) {
			continue
		}
		to, ended := armorEnd(text, at)
		f.spans = append(f.spans, span{from: from, to: to, kinds: 1 << key, open: !ended})
		at = to
	}
}

// armorEnd returns where the armor that text is in at position at ends.
func armorEnd(text []byte, at int) (to int, ended bool) {
	i := bytes.Index(text[at:], endArmor)
	if i < 0 {
		return len(text), false
	}
	label := at + i + len(endArmor)
	i = bytes.Index(text[label:min(len(text), label+64)], dashes)
	if i < 0 {
		return label, true
	}
	return label + i + len(dashes), true
}

// findUserInfo looks for a name and a password in a URL (RFC 3986, section 3.2.1).
func (f *finder) findUserInfo(text []byte) {
	for at := 0; ; {
		i := bytes.Index(text[at:], []byte("://"))
		if i < 0 {
			return
		}
		from := at + i + len("://")
		end := from
		for end < len(text) && text[end] > ' ' && text[end] != '/' && text[end] != '?' && text[end] != '#' && text[end] != '"' {
			end++
		}
		if a := bytes.LastIndexByte(text[from:end], '@'); a > 0 && bytes.IndexByte(text[from:from+a], ':') >= 0 {
			f.add(from, from+a, key)
		}
		at = from
	}
}

// findWords looks for an IBAN, a key or a token at the beginning of each word. It returns the classes of all words.
func (f *finder) findWords(text []byte, on kindSet) (seen uint8) {
	covered := 0 // up to where a word that was found reaches
	for at := 0; at < len(text); {
		if wordClass[text[at]] == 0 {
			at++
			continue
		}
		from := at
		var class uint8
		for at < len(text) {
			c := wordClass[text[at]]
			if c == 0 {
				break
			}
			class |= c
			at++
		}
		seen |= class
		if from < covered {
			continue
		}
		known := len(f.spans)
		if on.has(iban) && at-from >= 4 && class&isDigit != 0 && wordClass[text[from]] > isDigit && wordClass[text[from+1]] > isDigit {
			if to := ibanAt(text, from); to > 0 {
				f.add(from, to, iban)
			}
		}
		if on.has(key) {
			f.keyAt(text, from, at)
		}
		if on.has(token) {
			f.tokenAt(text, from, at)
		}
		for _, s := range f.spans[known:] {
			covered = max(covered, s.to)
		}
	}
	return seen
}
