package gate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Object is a JSON object whose members stand in canonical order (RFC 8785, section 3.2.3: by UTF-16 code units) and
// whose names are unique. Make one with [MakeObject], or write a literal that is already in order.
//
// The values in it, and in every list within it, are nil, bool, string, int, int64, float64, [json.Number], []any,
// []string, Object or Raw. Anything else is an error where the value is encoded.
type Object []Member

// Raw is one JSON value of any kind as canonical text, as [AppendJSON] writes it. It is for JSON that somebody else can make
// large: a tree takes tens of bytes for each value, and the text `0,` takes two. Nothing checks the text again, so only a
// reader of JSON makes a Raw, with [AppendNumber], [AppendString] and [CompareNames].
type Raw string

// Member is one name and its value.
type Member struct {
	Name  string
	Value any
}

// ErrDuplicateName says that an object has one name twice, so that two readers could see two different values.
var ErrDuplicateName = errors.New("duplicate name in a JSON object")

// MakeObject sorts members into canonical order. It is an error for two members to have the same name.
func MakeObject(members ...Member) (Object, error) {
	slices.SortFunc(members, func(a, b Member) int { return CompareNames(a.Name, b.Name) })
	for i := 1; i < len(members); i++ {
		if members[i].Name == members[i-1].Name {
			return nil, fmt.Errorf("%w: %q", ErrDuplicateName, members[i].Name)
		}
	}
	return Object(members), nil
}

// Get returns the value of the member called name, or nil and false when there is none.
func (o Object) Get(name string) (any, bool) {
	for _, m := range o {
		if m.Name == name {
			return m.Value, true
		}
	}
	return nil, false
}

// Text returns the value of the member called name if it is text, or "".
func (o Object) Text(name string) string {
	v, _ := o.Get(name)
	s, _ := v.(string)
	return s
}

// AppendJSON appends o as canonical JSON.
func (o Object) AppendJSON(dst []byte) ([]byte, error) { return AppendJSON(dst, o) }

// CompareNames orders two member names by their UTF-16 code units, as RFC 8785 asks. The bytes of UTF-8 have the same order,
// with one exception: a supplementary character (its UTF-8 begins with F0 or more) sorts before one in U+E000–U+FFFF (EE or
// EF), because UTF-16 writes it as surrogates (D800–DFFF).
func CompareNames[T string | []byte](a, b T) int {
	for i := range min(len(a), len(b)) {
		if x, y := a[i], b[i]; x != y {
			if x >= 0xEE && y >= 0xEE && (x >= 0xF0) != (y >= 0xF0) {
				return int(y) - int(x)
			}
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

// AppendJSON appends v in the canonical form of RFC 8785: members in order, no white space, the shortest escapes. It
// departs from the RFC in one place, on purpose: a [json.Number] that is another decimal than the shortest form of its
// IEEE double keeps its own digits, because rounding would give two different operations the same bytes. So 1e2 and 100.0
// are both 100, and 12345678901234567890 and …891 stay two numbers.
//
// Text that is not valid UTF-8, a number that is not JSON and a type that [Object] does not list are errors.
func AppendJSON(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case string:
		return AppendString(dst, v)
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case float64:
		return appendFloat(dst, v)
	case json.Number:
		dst, _, err := AppendNumber(dst, string(v))
		return dst, err
	case Raw:
		if v == "" {
			return dst, errors.New("an empty text is no JSON value")
		}
		return append(dst, v...), nil
	case []string:
		return appendList(dst, v, AppendString)
	case []any:
		return appendList(dst, v, AppendJSON)
	case Object:
		return appendObject(dst, v)
	default:
		return dst, fmt.Errorf("a %T has no canonical JSON form", v)
	}
}

func appendList[T any](dst []byte, list []T, appendOne func([]byte, T) ([]byte, error)) (out []byte, err error) {
	dst = append(dst, '[')
	for i, v := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendOne(dst, v); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

func appendObject(dst []byte, o Object) (out []byte, err error) {
	dst = append(dst, '{')
	for i, m := range o {
		if i > 0 {
			if CompareNames(o[i-1].Name, m.Name) >= 0 {
				return dst, fmt.Errorf("members %q and %q are not in canonical order", o[i-1].Name, m.Name)
			}
			dst = append(dst, ',')
		}
		if dst, err = AppendString(dst, m.Name); err != nil {
			return dst, err
		}
		dst = append(dst, ':')
		if dst, err = AppendJSON(dst, m.Value); err != nil {
			return dst, fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return append(dst, '}'), nil
}

const hexDigits = "0123456789abcdef"

// AppendString appends s as a canonical JSON string. Text that is not valid UTF-8 is an error: replacing it would give
// two different texts the same bytes.
func AppendString(dst []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return dst, fmt.Errorf("text %q is not valid UTF-8", s)
	}
	return appendValidString(dst, s), nil
}

// AppendText appends s as a canonical JSON string, with U+FFFD in the place of bytes that are not UTF-8. It is for
// records (a reason, a path), never for what an approval binds.
func AppendText(dst []byte, s string) []byte {
	return appendValidString(dst, strings.ToValidUTF8(s, "\uFFFD"))
}

func appendValidString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\r':
			dst = append(dst, '\\', 'r')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xF])
		}
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// appendFloat writes f as ECMAScript's Number::toString does (RFC 8785, section 3.2.2.3).
func appendFloat(dst []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return dst, fmt.Errorf("%v is not a JSON number", f)
	}
	if f == 0 {
		return append(dst, '0'), nil // -0 too
	}
	if a := math.Abs(f); a >= 1e-6 && a < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, 64), nil
	}
	from := len(dst)
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	// Go writes at least two digits of exponent, ECMAScript as few as it takes.
	if e := bytes.LastIndexByte(dst[from:], 'e') + from; len(dst)-e == 4 && dst[e+2] == '0' {
		dst = append(dst[:e+2], dst[e+3])
	}
	return dst, nil
}

// AppendNumber appends a number as [AppendJSON] does. double reports whether an IEEE double can hold it: the shortest form of
// the nearest double is the same decimal. A reader that has only doubles, such as JavaScript, changes any other number.
func AppendNumber(dst []byte, literal string) (out []byte, double bool, err error) {
	if len(literal) > 0 && len(literal) <= 15 && isPlainInteger(literal) {
		if literal == "-0" {
			literal = "0"
		}
		return append(dst, literal...), true, nil
	}
	if !isNumber(literal) {
		return dst, false, fmt.Errorf("%.40q is not a JSON number", literal)
	}
	if len(literal) <= 15 && !strings.ContainsAny(literal, "eE") { // doubles tell all decimals of 15 digits apart
		f, err := strconv.ParseFloat(literal, 64)
		if err != nil {
			return dst, false, err
		}
		dst, err = appendFloat(dst, f)
		return dst, true, err
	}
	exact, err := parseDecimal(literal)
	if err != nil {
		return dst, false, err
	}
	if f, err := strconv.ParseFloat(literal, 64); err == nil {
		from := len(dst)
		if dst, err = appendFloat(dst, f); err != nil {
			return dst, false, err
		}
		if short, err := parseDecimal(string(dst[from:])); err == nil && short == exact {
			return dst, true, nil
		}
		dst = dst[:from]
	}
	return exact.append(dst), false, nil
}

func isPlainInteger(s string) bool {
	digits := strings.TrimPrefix(s, "-")
	return digits != "" && (digits[0] != '0' || len(digits) == 1) && countDigits(digits) == len(digits)
}

// isNumber checks s against the grammar of RFC 8259, section 6. [json.Valid] would accept white space around it.
func isNumber(s string) bool {
	s = strings.TrimPrefix(s, "-")
	whole := countDigits(s)
	if whole == 0 || whole > 1 && s[0] == '0' {
		return false
	}
	s = s[whole:]
	if fraction, ok := strings.CutPrefix(s, "."); ok {
		n := countDigits(fraction)
		if n == 0 {
			return false
		}
		s = fraction[n:]
	}
	if s == "" {
		return true
	}
	if s[0] != 'e' && s[0] != 'E' {
		return false
	}
	s = s[1:]
	if s != "" && (s[0] == '+' || s[0] == '-') {
		s = s[1:]
	}
	return s != "" && countDigits(s) == len(s)
}

// countDigits is how many digits s begins with.
func countDigits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// maxExponent bounds the power of ten of a number that is written out in its own digits.
const maxExponent = 1 << 20

// decimal is the exact value of a JSON number: ± 0.digits × 10^exponent, with no zero at either end of the digits.
type decimal struct {
	negative bool
	digits   string
	exponent int
}

func parseDecimal(literal string) (decimal, error) {
	var d decimal
	s, negative := strings.CutPrefix(literal, "-")
	mantissa, power := s, "0"
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa, power = s[:i], s[i+1:]
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	all := whole + fraction
	trimmed := strings.TrimLeft(all, "0")
	d.digits = strings.TrimRight(trimmed, "0")
	if d.digits == "" {
		return decimal{}, nil
	}
	// The limit is on the value, not on how it is written: what was accepted must be accepted again in canonical form.
	exponent, err := strconv.Atoi(power)
	if err == nil && exponent < 1<<40 && exponent > -1<<40 {
		d.exponent = exponent + len(whole) - (len(all) - len(trimmed))
	}
	if err != nil || exponent >= 1<<40 || exponent <= -1<<40 || d.exponent > maxExponent || d.exponent < -maxExponent {
		return decimal{}, fmt.Errorf("number %.40q has an exponent out of range", literal)
	}
	d.negative = negative
	return d, nil
}

func (d decimal) append(dst []byte) []byte {
	if d.negative {
		dst = append(dst, '-')
	}
	if n := d.exponent - len(d.digits); n >= 0 && d.exponent <= 40 {
		return append(append(dst, d.digits...), strings.Repeat("0", n)...)
	}
	dst = append(dst, d.digits[0])
	if len(d.digits) > 1 {
		dst = append(append(dst, '.'), d.digits[1:]...)
	}
	dst = append(dst, 'e')
	if d.exponent-1 >= 0 {
		dst = append(dst, '+')
	}
	return strconv.AppendInt(dst, int64(d.exponent-1), 10)
}

// AppendTime appends t as an RFC 3339 time in UTC, with nine digits of fraction always, so that text order is time order. Every record
// has one, and every input: package time's own layouts take three times as long (BenchmarkAppendTime).
func AppendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(dst, "2006-01-02T15:04:05.000000000Z07:00")
	}
	hour, minute, second := t.Clock()
	dst = append(appendDigits(dst, year, 4), '-')
	dst = append(appendDigits(dst, int(month), 2), '-')
	dst = append(appendDigits(dst, day, 2), 'T')
	dst = append(appendDigits(dst, hour, 2), ':')
	dst = append(appendDigits(dst, minute, 2), ':')
	dst = append(appendDigits(dst, second, 2), '.')
	return append(appendDigits(dst, t.Nanosecond(), 9), 'Z')
}

// appendDigits appends n, which is not negative, in so many digits.
func appendDigits(dst []byte, n, digits int) []byte {
	dst = append(dst, "000000000"[:digits]...)
	for i := len(dst) - 1; n > 0; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
	return dst
}
