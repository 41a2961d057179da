package redact

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

type scanStatus uint8

const (
	stringEnded  scanStatus = iota // the position is after the closing quote
	stringGoesOn                   // the position is where to go on once more has come
	stringBad                      // the position is at the first character that is not JSON
)

const (
	each01 = 0x0101010101010101
	each80 = 0x8080808080808080
)

// scanString reads a string on from b[at:]; at is after its opening quote and at the start of a character. It refuses invalid
// UTF-8, control characters, unknown escapes and unpaired surrogates. It ends at the same place if it is called again with more
// bytes.
func scanString(b []byte, at int) (next int, status scanStatus, escaped bool) {
	for {
		at = plainRun(b, at)
		if at == len(b) {
			return at, stringGoesOn, escaped
		}
		switch c := b[at]; {
		case c == '"':
			return at + 1, stringEnded, escaped
		case c == '\\':
			escaped = true
			n, status := scanEscape(b[at:])
			if status != stringEnded {
				return at, status, escaped
			}
			at += n
		case c < 0x20:
			return at, stringBad, escaped
		default:
			r, n := utf8.DecodeRune(b[at:])
			if r == utf8.RuneError && n == 1 {
				if !utf8.FullRune(b[at:]) {
					return at, stringGoesOn, escaped
				}
				return at, stringBad, escaped
			}
			at += n
		}
	}
}

// plainRun returns where the ASCII characters that stand for themselves end. It looks at eight bytes at a time: a byte below
// 0x20 borrows into its top bit, and a quote or backslash becomes zero and borrows too. Only the lowest flag is exact.
func plainRun(b []byte, at int) int {
	for ; at+8 <= len(b); at += 8 {
		x := binary.LittleEndian.Uint64(b[at:])
		flags := (x | (x - 0x20*each01) | ((x ^ '"'*each01) - each01) | ((x ^ '\\'*each01) - each01)) & each80
		if flags != 0 {
			return at + bits.TrailingZeros64(flags)/8
		}
	}
	for at < len(b) && b[at] >= 0x20 && b[at] < 0x80 && b[at] != '"' && b[at] != '\\' {
		at++
	}
	return at
}

// scanEscape returns the length of the escape at the beginning of b. A surrogate pair is one escape.
func scanEscape(b []byte) (int, scanStatus) {
	if len(b) < 2 {
		return 0, stringGoesOn
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, stringEnded
	case 'u':
	default:
		return 0, stringBad
	}
	unit, status := scanUnit(b)
	switch {
	case status != stringEnded:
		return 0, status
	case unit < 0xD800 || unit > 0xDFFF:
		return 6, stringEnded
	case unit >= 0xDC00:
		return 0, stringBad
	}
	low, status := scanUnit(b[6:])
	if status == stringEnded && (low < 0xDC00 || low > 0xDFFF) {
		status = stringBad
	}
	return 12, status
}

// scanUnit reads \uXXXX.
func scanUnit(b []byte) (unit rune, status scanStatus) {
	for i := range 6 {
		if i == len(b) {
			return 0, stringGoesOn
		}
		switch {
		case i == 0 && b[i] != '\\', i == 1 && b[i] != 'u', i > 1 && hexValue(b[i]) < 0:
			return 0, stringBad
		case i > 1:
			unit = unit<<4 | hexValue(b[i])
		}
	}
	return unit, stringEnded
}

func hexValue(c byte) rune {
	switch {
	case c >= '0' && c <= '9':
		return rune(c - '0')
	case c >= 'a' && c <= 'f':
		return rune(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return rune(c-'A') + 10
	default:
		return -1
	}
}

// appendDecoded appends the text of a string that [scanString] accepted. raw includes its quotes.
func appendDecoded(dst, raw []byte) []byte {
	raw = raw[1 : len(raw)-1]
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			from := i
			for i < len(raw) && raw[i] != '\\' {
				i++
			}
			dst = append(dst, raw[from:i]...)
			continue
		}
		c := raw[i+1]
		if c != 'u' {
			dst = append(dst, simpleEscape(c))
			i += 2
			continue
		}
		r, _ := scanUnit(raw[i:])
		i += 6
		if r >= 0xD800 && r <= 0xDFFF {
			low, _ := scanUnit(raw[i:])
			i += 6
			r = (r-0xD800)<<10 + (low - 0xDC00) + 0x10000
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

func simpleEscape(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	default:
		return c
	}
}

const hexDigits = "0123456789abcdef"

// appendQuoted appends text as a JSON string. It also escapes the characters that HTML gives a meaning: the document may be put
// into a page, and the original may have escaped them for that.
func appendQuoted(dst, text []byte) []byte {
	dst = append(dst, '"')
	from := 0
	for i, c := range text {
		if c >= 0x20 && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' {
			continue
		}
		dst = append(dst, text[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xF])
		}
	}
	return append(append(dst, text[from:]...), '"')
}

// numberRun returns where the characters that a number can have end.
func numberRun(b []byte) int {
	for i, c := range b {
		if (c < '0' || c > '9') && c != '-' && c != '+' && c != '.' && c != 'e' && c != 'E' {
			return i
		}
	}
	return len(b)
}

// isNumber reports whether b is a number of RFC 8259, section 6.
func isNumber(b []byte) bool {
	state := numberStart
	for _, c := range b {
		state = state.next(c)
	}
	return state.ends()
}

// numberState is the state of reading a number. With it a number of any length can be checked piece by piece.
type numberState uint8

const (
	noNumber numberState = iota
	numberStart
	afterMinus
	afterZero
	inWhole
	afterPoint
	inFraction
	afterE
	afterSign
	inExponent
)

func (s numberState) next(c byte) numberState {
	digit := c >= '0' && c <= '9'
	switch {
	case s == numberStart && c == '-':
		return afterMinus
	case (s == numberStart || s == afterMinus) && c == '0':
		return afterZero
	case digit && (s == numberStart || s == afterMinus || s == inWhole):
		return inWhole
	case c == '.' && (s == afterZero || s == inWhole):
		return afterPoint
	case digit && (s == afterPoint || s == inFraction):
		return inFraction
	case (c == 'e' || c == 'E') && (s == afterZero || s == inWhole || s == inFraction):
		return afterE
	case (c == '+' || c == '-') && s == afterE:
		return afterSign
	case digit && (s == afterE || s == afterSign || s == inExponent):
		return inExponent
	}
	return noNumber
}

// ends reports whether the number may end here.
func (s numberState) ends() bool {
	return s == afterZero || s == inWhole || s == inFraction || s == inExponent
}

func digitRun(b []byte) int {
	for i, c := range b {
		if c < '0' || c > '9' {
			return i
		}
	}
	return len(b)
}
