package redact

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"
)

// A target may repeat a value of the body beside it: in a header field, in the id of an event. So values that were taken out
// are looked for there as they are, percent-encoded, in base64 and in hexadecimal, in any case.
//
// Values of fewer than shortestTaken bytes, and true, false and null, are not looked for: other texts have them by chance. One
// of fewer than shortestWithin bytes must be a word of its own. Of a long one the first longestTaken bytes are looked for.
const (
	shortestTaken  = 3
	shortestWithin = 6
	longestTaken   = 256
)

// beside is a text beside a body, with the decoded forms in which it could hold a value.
type beside struct {
	plain []byte // as it is, and percent-decoded
	coded []byte // decoded from base64 and hexadecimal
	found bool
}

func newBeside(text string) *beside {
	b := &beside{plain: []byte(text)}
	once := percentDecoded(text)
	for _, form := range []string{once, percentDecoded(once), strings.ReplaceAll(once, "+", " ")} {
		if form != text {
			b.plain = append(append(b.plain, 0), form...)
		}
	}
	b.coded = appendUncoded(nil, text)
	if once != text {
		b.coded = appendUncoded(b.coded, once)
	}
	lower(b.plain)
	lower(b.coded)
	return b
}

// has reports whether the text holds the value, which is in lower case.
func (b *beside) has(value []byte) bool {
	if len(value) >= shortestWithin {
		return bytes.Contains(b.plain, value) || bytes.Contains(b.coded, value)
	}
	for from := 0; ; {
		i := bytes.Index(b.plain[from:], value)
		if i < 0 {
			return false
		}
		i += from
		if end := i + len(value); (i == 0 || !isWord(b.plain[i-1])) && (end == len(b.plain) || !isWord(b.plain[end])) {
			return true
		}
		from = i + 1
	}
}

func isWord(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 0x80 }

func lower(text []byte) {
	for i, c := range text {
		if c >= 'A' && c <= 'Z' {
			text[i] = c + 'a' - 'A'
		}
	}
}

// percentDecoded decodes percent-encoded bytes, and keeps a percent sign that encodes nothing.
func percentDecoded(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	if decoded, err := url.PathUnescape(s); err == nil {
		return decoded
	}
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && hexValue(s[i+1]) >= 0 && hexValue(s[i+2]) >= 0 {
			out = append(out, byte(hexValue(s[i+1])<<4|hexValue(s[i+2])))
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

// appendUncoded decodes the runs of text that could be base64 or hexadecimal, from every offset at which that could begin.
func appendUncoded(dst []byte, text string) []byte {
	text = strings.NewReplacer("-", "+", "_", "/").Replace(text)
	for run := range strings.FieldsFuncSeq(text, func(r rune) bool { return r >= 0x80 || !base64Class[r] }) {
		for from := range min(4, len(run)) {
			part := run[from:]
			if len(part)%4 == 1 {
				part = part[:len(part)-1]
			}
			if decoded, err := base64.RawStdEncoding.DecodeString(part); err == nil && len(decoded) >= shortestWithin {
				dst = append(append(dst, 0), decoded...)
			}
		}
	}
	for run := range strings.FieldsFuncSeq(text, func(r rune) bool { return r >= 0x80 || hexValue(byte(r)) < 0 }) {
		for from := range min(2, len(run)) {
			part := run[from:]
			if decoded, err := hex.DecodeString(part[:len(part)&^1]); err == nil && len(decoded) >= shortestWithin {
				dst = append(append(dst, 0), decoded...)
			}
		}
	}
	return dst
}

var base64Class = func() (table [128]bool) {
	for c := range table {
		table[c] = c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '+' || c == '/'
	}
	return table
}()

// mostCompared bounds what Holds looks at, in bytes of text for each value.
const mostCompared = 16 << 20

// Holds reports whether a text has one of the values, which are looked for as values that were taken are. It is also true if
// there is too much to compare.
func Holds(text string, values []string) bool {
	if len(text)*len(values) > mostCompared {
		return true
	}
	b := newBeside(text)
	return slices.ContainsFunc(values, func(v string) bool {
		value := sought([]byte(v))
		return value != nil && b.has(value)
	})
}

// sought returns a value in the form that is looked for, or nil if it is not looked for. It reuses the memory of text.
func sought(text []byte) []byte {
	text = bytes.TrimSpace(text[:min(len(text), longestTaken)])
	if len(text) < shortestTaken {
		return nil
	}
	lower(text)
	return text
}

// recent has the values that were taken last, up to recentBytes of them. An event stream may never end, so it forgets others.
type recent struct {
	values  []string
	known   map[string]bool
	bytes   int
	dropped int // values that are forgotten
}

const recentBytes = 64 << 10

func (r *recent) add(value []byte) {
	if r.known[string(value)] {
		return
	}
	if r.known == nil {
		r.known = map[string]bool{}
	}
	v := string(value)
	r.values, r.known[v], r.bytes = append(r.values, v), true, r.bytes+len(v)
	for r.bytes > recentBytes {
		delete(r.known, r.values[0])
		r.bytes -= len(r.values[0])
		r.values = slices.Delete(r.values, 0, 1)
		r.dropped++
	}
}
