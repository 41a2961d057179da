package redact

import (
	"bytes"
	"strconv"
)

// group is a run of digits. A sequence of groups has single separators between them.
type group struct{ from, to int }

// findDigits looks for payment cards and US social security numbers.
func (f *finder) findDigits(text []byte, on kindSet) {
	for at := 0; at < len(text); {
		if text[at]-'0' > 9 {
			at++
			continue
		}
		total := 0
		f.groups = f.groups[:0]
		for {
			from := at
			for at < len(text) && text[at]-'0' <= 9 {
				at++
			}
			f.groups = append(f.groups, group{from, at})
			total += at - from
			n := separator(text, at)
			if n == 0 || at+n == len(text) || text[at+n]-'0' > 9 {
				break
			}
			at += n
		}
		if total < 9 {
			continue
		}
		if on.has(card) {
			f.findCards(text)
		}
		if on.has(ssn) {
			f.findSSNs(text)
		}
	}
}

// separator returns the length of the character at position at, if people write it between the groups of a number: a space,
// a dash, a dot; a space that does not break (U+00A0, U+202F) or is thin (U+2009), a dash of typography (U+2010 to U+2015).
func separator(text []byte, at int) int {
	if at == len(text) {
		return 0
	}
	switch text[at] {
	case ' ', '-', '.':
		return 1
	case 0xC2:
		if at+1 < len(text) && text[at+1] == 0xA0 {
			return 2
		}
	case 0xE2:
		if at+2 < len(text) && text[at+1] == 0x80 && (text[at+2] >= 0x90 && text[at+2] <= 0x95 || text[at+2] == 0xAF || text[at+2] == 0x89) {
			return 3
		}
	}
	return 0
}

const (
	shortestCard = 13
	longestCard  = 19
)

// findCards looks in f.groups for a card: whole groups, 13 to 19 digits together. If there is one, all groups are taken: those
// beside the card are its expiry date or its code, and since one number in ten passes the check by chance, leaving them would
// tell something of the card's digits.
func (f *finder) findCards(text []byte) {
	for a := range f.groups {
		var digits [longestCard]byte
		n := 0
		for b := a; b < len(f.groups); b++ {
			g := f.groups[b]
			if n+g.to-g.from > longestCard {
				break
			}
			n += copy(digits[n:], text[g.from:g.to])
			if n >= shortestCard && isCard(digits[:n]) && f.separatedLikeACard(text, a, b) {
				f.add(f.groups[0].from, f.groups[len(f.groups)-1].to, card)
				return
			}
		}
	}
}

// separatedLikeACard tells the groups of a card from a decimal fraction. With dots between them, groups must have three to
// seven digits; a group on its own must not follow a dot.
func (f *finder) separatedLikeACard(text []byte, a, b int) bool {
	if a > 0 && text[f.groups[a].from-1] == '.' && a == b {
		return false
	}
	dots := false
	short, long := longestCard, 0
	for i := a; i <= b; i++ {
		g := f.groups[i]
		short, long = min(short, g.to-g.from), max(long, g.to-g.from)
		dots = dots || i < b && text[g.to] == '.'
	}
	return !dots || short >= 3 && long <= 7
}

// isCard reports whether an issuer has cards of this range and length, and the check digit is right (ISO/IEC 7812).
func isCard(digits []byte) bool {
	return len(digits) >= shortestCard && len(digits) <= longestCard && knownIssuer(digits) && luhn(digits)
}

// knownIssuer reports whether an issuer has cards with these first digits and this length. That leaves out most numbers that
// are no cards: times in milliseconds and nanoseconds, and many identifiers, begin with 0 or 1.
func knownIssuer(digits []byte) bool {
	six, n := 0, len(digits)
	for _, d := range digits[:6] {
		six = six*10 + int(d-'0')
	}
	two, three, four := six/10000, six/1000, six/100
	switch {
	case two >= 40 && two <= 49: // Visa; some of 49 are Maestro
		return true
	case two >= 51 && two <= 55, four >= 2221 && four <= 2720: // Mastercard
		return n == 16
	case two == 34, two == 37: // American Express
		return n == 15
	case three >= 300 && three <= 305, three == 309, two == 36, two == 38, two == 39: // Diners Club
		return n >= 14
	case four >= 3528 && four <= 3589: // JCB
		return n >= 16
	case four >= 2200 && four <= 2204: // Mir
		return n >= 16
	case two == 50, two >= 56 && two <= 58: // Maestro, RuPay
		return true
	case two >= 60 && two <= 69: // Discover, UnionPay, Maestro, RuPay
		return true
	case two == 81, two == 82: // RuPay, UnionPay
		return n >= 16
	default:
		return false
	}
}

// luhn is the check of ISO/IEC 7812-1, annex B.
func luhn(digits []byte) bool {
	sum := 0
	for i := range digits {
		d := int(digits[len(digits)-1-i] - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

// findSSNs looks in f.groups for AAA-GG-SSSS, with dashes, spaces or dots, and for nine digits that stand alone in a cell or
// after "ssn" or the like.
func (f *finder) findSSNs(text []byte) {
	for i, g := range f.groups {
		switch {
		case g.to-g.from == 9 && isSSN(text[g.from:g.to]) && (aloneInCell(text, g.from, g.to) || namedSSN(text, g.from)):
			f.add(g.from, g.to, ssn)
		case i+2 < len(f.groups) && g.to-g.from == 3:
			second, third := f.groups[i+1], f.groups[i+2]
			if second.to-second.from != 2 || third.to-third.from != 4 ||
				!bytes.Equal(text[g.to:second.from], text[second.to:third.from]) {
				continue
			}
			var digits [9]byte
			n := copy(digits[:], text[g.from:g.to])
			n += copy(digits[n:], text[second.from:second.to])
			copy(digits[n:], text[third.from:third.to])
			if isSSN(digits[:]) {
				f.add(g.from, third.to, ssn)
			}
		}
	}
}

// isSSN reports whether nine digits can be a social security number. Area 000 and 666, group 00 and serial 0000 are never
// issued. Areas from 900 are accepted, since taxpayer identification numbers (ITIN), which are personal too, have them.
func isSSN(digits []byte) bool {
	n, err := strconv.Atoi(string(digits))
	area, grp, serial := n/1_000_000, n/10_000%100, n%10_000
	return err == nil && area != 0 && area != 666 && grp != 0 && serial != 0
}

func aloneInCell(text []byte, from, to int) bool {
	return (from == 0 || isCellEnd(text[from-1])) && (to == len(text) || isCellEnd(text[to]))
}

func isCellEnd(c byte) bool {
	switch c {
	case ',', ';', '|', '"', '\'', '\t', '\r', '\n':
		return true
	default:
		return false
	}
}

// namedSSN reports whether the 24 bytes before from mention a social security number.
func namedSSN(text []byte, from int) bool {
	before := bytes.ToLower(text[max(0, from-24):from])
	return bytes.Contains(before, []byte("ssn")) || bytes.Contains(before, []byte("social sec"))
}

// findNumber looks for a card or a social security number in a JSON number. It looks at the value and not at the spelling:
// 4.2e15 and 4200000000000000.0 are the same. It leaves the digits in f.digits.
func (f *finder) findNumber(raw []byte, on kindSet) []span {
	f.spans = f.spans[:0]
	if on&(1<<card|1<<ssn) == 0 || len(raw) < 2 {
		return nil
	}
	var ok bool
	if f.digits, ok = appendInteger(f.digits[:0], raw); !ok {
		return nil
	}
	if on.has(card) && isCard(f.digits) {
		f.add(0, len(f.digits), card)
	}
	if on.has(ssn) && len(f.digits) == 9 && isSSN(f.digits) {
		f.add(0, len(f.digits), ssn)
	}
	return f.merge()
}

// appendInteger appends the digits of a JSON number that is an integer of at most 19 digits, without its sign.
func appendInteger(dst, raw []byte) ([]byte, bool) {
	if raw[0] == '-' {
		raw = raw[1:]
	}
	if digitRun(raw) == len(raw) {
		return append(dst, raw...), len(raw) <= longestCard
	}
	mantissa, exponent := raw, 0
	if e := bytes.IndexAny(raw, "eE"); e >= 0 {
		n, err := strconv.Atoi(string(raw[e+1:]))
		if err != nil || n > maxNumber || n < -maxNumber {
			return dst, false
		}
		mantissa, exponent = raw[:e], n
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	dst = append(append(dst, whole...), fraction...)
	for exponent -= len(fraction); exponent < 0; exponent++ {
		if len(dst) == 0 || dst[len(dst)-1] != '0' {
			return dst, false
		}
		dst = dst[:len(dst)-1]
	}
	dst = bytes.TrimLeft(dst, "0")
	if len(dst) == 0 || len(dst)+exponent > longestCard {
		return dst, false
	}
	for ; exponent > 0; exponent-- {
		dst = append(dst, '0')
	}
	return dst, true
}

// ibanLengths are the lengths of the countries in the IBAN registry (ISO 13616, SWIFT).
var ibanLengths = map[[2]byte]int{}

func init() {
	const registry = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 " +
		"FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 " +
		"LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 " +
		"SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
	for i := 0; i < len(registry); i += 5 {
		ibanLengths[[2]byte{registry[i], registry[i+1]}] = int(registry[i+2]-'0')*10 + int(registry[i+3]-'0')
	}
}

// ibanAt returns where the IBAN that begins at from ends, or 0. It may be in groups with a space or a dash between.
func ibanAt(text []byte, from int) int {
	if from+15 > len(text) || wordClass[text[from+2]] != isDigit || wordClass[text[from+3]] != isDigit {
		return 0
	}
	length := ibanLengths[[2]byte{text[from] &^ 0x20, text[from+1] &^ 0x20}]
	if length == 0 {
		return 0
	}
	var compact [34]byte
	n, at := 0, from
	for n < length && at < len(text) {
		switch c := text[at]; {
		case wordClass[c] == isDigit:
			compact[n] = c
		case wordClass[c] != 0:
			compact[n] = c &^ 0x20
		default:
			between := separator(text, at)
			if between == 0 || at+between == len(text) || wordClass[text[at+between]] == 0 {
				return 0
			}
			at += between
			continue
		}
		n++
		at++
	}
	if n < length || at < len(text) && wordClass[text[at]] != 0 || !mod97(compact[:n]) {
		return 0
	}
	return at
}

// mod97 is the check of ISO 7064, MOD 97-10, with the first four characters moved to the end.
func mod97(iban []byte) bool {
	rest := 0
	for i := range iban {
		switch c := iban[(i+4)%len(iban)]; {
		case c <= '9':
			rest = (rest*10 + int(c-'0')) % 97
		default:
			rest = (rest*100 + int(c-'A') + 10) % 97
		}
	}
	return rest == 1
}
