package redact

import (
	"bytes"
	"math/bits"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/gate"
)

// kind is a detector.
type kind uint8

const (
	email kind = iota
	card
	iban
	ssn
	key
	token
	kinds
)

var kindNames = [kinds]string{"email", "card", "iban", "ssn", "key", "token"}

// kindSet is a set of detectors, a bit for each.
type kindSet uint8

const allKinds kindSet = 1<<kinds - 1

func (s kindSet) has(k kind) bool { return s&(1<<k) != 0 }

func kindOf(name string) (kind, bool) {
	i := slices.Index(kindNames[:], name)
	return kind(i), i >= 0
}

// detectors returns the names that a [gate.Redaction] can detect. The package comment says what each finds.
func detectors() []string { return slices.Clone(kindNames[:]) }

// span is a match of detectors in a text.
type span struct {
	from, to int
	kinds    kindSet
	open     bool // a private key whose end is not in the text
}

// finder looks for protected values in texts. It reuses its memory, and is for one goroutine.
type finder struct {
	spans  []span
	groups []group
	noJWT  int    // no JWT begins before this in the text
	digits []byte // the last number, written out
	text   []byte
	plain  []byte // a text with its escapes decoded
	out    []byte
	counts []int64
}

// fewest is the length of the shortest text in which a detector finds anything: a@b.co.
const fewest = 6

// find returns what the detectors in on find in text, in order; matches that overlap are merged. The result is valid until the
// next call.
func (f *finder) find(text []byte, on kindSet) []span {
	f.spans, f.noJWT = f.spans[:0], 0
	if len(text) < fewest {
		return nil
	}
	if on.has(email) {
		f.findEmails(text)
	}
	if on.has(key) {
		f.findPrivateKeys(text)
		f.findUserInfo(text)
	}
	var seen uint8
	if on&(1<<iban|1<<key|1<<token) != 0 {
		seen = f.findWords(text, on)
	} else {
		seen = isDigit
	}
	if on&(1<<card|1<<ssn) != 0 && seen&isDigit != 0 {
		f.findDigits(text, on)
	}
	return f.merge()
}

func (f *finder) add(from, to int, k kind) {
	f.spans = append(f.spans, span{from: from, to: to, kinds: 1 << k})
}

func (f *finder) merge() []span {
	if len(f.spans) < 2 {
		return f.spans
	}
	slices.SortFunc(f.spans, func(a, b span) int {
		if a.from != b.from {
			return a.from - b.from
		}
		return b.to - a.to
	})
	last := 0
	for _, s := range f.spans[1:] {
		l := &f.spans[last]
		if s.from >= l.to {
			last++
			f.spans[last] = s
			continue
		}
		l.to, l.kinds, l.open = max(l.to, s.to), l.kinds|s.kinds, l.open || s.open
	}
	f.spans = f.spans[:last+1]
	return f.spans
}

// action returns the strongest action of the detectors that found s.
func (p *Plan) action(s span) action {
	act := keep
	for k := range kinds {
		if s.kinds.has(k) {
			act = max(act, p.actions[k])
		}
	}
	return act
}

// strongest returns the strongest action of spans, and counts the spans.
func (p *Plan) strongest(spans []span, counts []int64) action {
	act := keep
	for _, s := range spans {
		act = max(act, p.action(s))
		for k := range kinds {
			if s.kinds.has(k) {
				counts[p.counts[k]]++
			}
		}
	}
	return act
}

// appendReplaced appends text with each span replaced. A part of a text cannot become null, so null masks.
func (p *Plan) appendReplaced(dst, text []byte, spans []span) []byte {
	at := 0
	for _, s := range spans {
		dst = append(dst, text[at:s.from]...)
		at = s.to
		switch p.action(s) {
		case remove:
		case tokenize:
			k := kind(bits.TrailingZeros8(uint8(s.kinds)))
			dst = p.appendToken(dst, kindNames[k], normalize(text[s.from:s.to], s.kinds))
		default:
			dst = append(dst, Masked...)
		}
	}
	return append(dst, text[at:]...)
}

// normalize gives the spellings of one value one form, so that they get one token. It removes the separators of numbers, and
// the case of IBANs and e-mail addresses.
func normalize(text []byte, k kindSet) []byte {
	switch k {
	case 1 << email:
		return bytes.ToLower(text)
	case 1 << card, 1 << ssn, 1 << iban:
		return bytes.ToUpper(bytes.Map(func(r rune) rune {
			if r >= utf8.RuneSelf || wordClass[r] == 0 {
				return -1
			}
			return r
		}, text))
	default:
		return text
	}
}

// findText is find for a text that may be JSON itself, sent as another type or inside a JSON string. If escapes such as \u0040
// hide a match, it returns the text with these escapes decoded.
func (f *finder) findText(text []byte, on kindSet) ([]byte, []span) {
	if bytes.IndexByte(text, '\\') >= 0 && bytes.Contains(text, []byte(`\u00`)) {
		f.plain = appendPlain(f.plain[:0], text)
		if spans := f.find(f.plain, on); len(spans) > 0 {
			return f.plain, spans
		}
	}
	return text, f.find(text, on)
}

// appendPlain appends text with every \u00XX of a printable ASCII character decoded, except quotes and backslashes, which would
// change the JSON.
func appendPlain(dst, text []byte) []byte {
	for {
		i := bytes.Index(text, []byte(`\u00`))
		if i < 0 {
			return append(dst, text...)
		}
		dst = append(dst, text[:i]...)
		text = text[i:]
		unit, status := scanUnit(text)
		if status != stringEnded || unit < ' ' || unit > '~' || unit == '"' || unit == '\\' {
			dst = append(dst, text[:2]...)
			text = text[2:]
			continue
		}
		dst = append(dst, byte(unit))
		text = text[6:]
	}
}

var finders = sync.Pool{New: func() any { return &finder{} }}

// Text redacts a text to which only detectors apply: the value of a header or trailer field, the text of an error. It replaces
// each match and keeps the rest, including bytes that are not UTF-8.
func (p *Plan) Text(s string) (string, []gate.Count) {
	if p.on == 0 || len(s) < fewest {
		return s, nil
	}
	f := finders.Get().(*finder) //nolint:forcetypeassert // the pool makes nothing else
	defer finders.Put(f)
	f.text = append(f.text[:0], s...)
	text, spans := f.findText(f.text, p.on)
	if len(spans) == 0 {
		return s, nil
	}
	f.counts = append(f.counts[:0], make([]int64, len(p.names))...)
	p.strongest(spans, f.counts)
	f.out = p.appendReplaced(f.out[:0], text, spans)
	return string(f.out), p.tally(f.counts, 0, p.own)
}

var maskAll = func() *Plan {
	p := &Plan{on: allKinds, names: detectors()}
	for k := range kinds {
		p.actions[k], p.counts[k] = mask, int(k)
	}
	return p
}()

// MaskText masks what any detector finds in s. It is for texts in records, whatever policy says: a path, an error.
func MaskText(s string) string {
	masked, _ := maskAll.Text(s)
	return masked
}
