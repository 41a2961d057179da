package web

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/go-json-experiment/json/jsontext"
)

// Bounds on JSON. Policy and targets compute with numbers, and one like 1e999999999 costs them gigabytes.
const (
	maxDepth        = 200
	maxNumberLength = 100
	maxExponent     = 400
)

// DefaultValues is the default of [Options.MaxValues].
const DefaultValues = 100_000

// json reads text as one JSON value (RFC 8259, with the strictness of RFC 7493 on names and text) and returns it in canonical
// form, without building a tree: the package comment has what that costs. what names the text in a refusal.
func (i *Inspector) json(text []byte, what string) (gate.Raw, error) {
	if err := i.fitsJSON(text, what); err != nil {
		return "", err
	}
	r := i.newReader(len(text), what)
	if err := r.text(text); err != nil {
		return "", err
	}
	return gate.Raw(r.out), nil
}

// fitsJSON refuses text that begins with a byte order mark, and text that is too long for 32 bits (see jsonMember).
func (i *Inspector) fitsJSON(text []byte, what string) error {
	if bytes.HasPrefix(text, []byte("\xEF\xBB\xBF")) {
		return unreadable("The %s begins with a byte order mark. Leave it out.", what)
	}
	if int64(len(text))+40*int64(i.opt.maxValues()) > math.MaxInt32 { // 40 is what a number can grow by
		return &Error{gate.TooLarge, fmt.Sprintf("The %s is too large to be read as JSON. Send less at a time.", what)}
	}
	return nil
}

func (i *Inspector) newReader(n int, what string) *jsonReader {
	return &jsonReader{Inspector: i, what: what, out: make([]byte, 0, n+16), dec: jsontext.NewDecoder(&bytes.Buffer{})}
}

// errSeveral refuses JSON with more after its first value.
var errSeveral = &Error{gate.Unreadable, "The request's JSON body has more than one JSON value. Send several as application/x-ndjson, each on a line of its own."}

// text reads one value, and appends it.
func (r *jsonReader) text(text []byte) error {
	r.dec.Reset(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true)) // sort finds them; the decoder would keep every name
	err := r.value()
	if err == nil {
		if _, err = r.dec.ReadToken(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			return errSeveral
		}
	}
	var refused *Error
	if errors.As(err, &refused) {
		return refused
	}
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		return unreadable("The %s is not valid JSON at byte %d: %v. Send valid JSON in UTF-8.", r.what, syntactic.ByteOffset, syntactic.Err)
	}
	return unreadable("The %s is not valid JSON: %v.", r.what, err)
}

// jsonReader writes the canonical form of text to out while it reads. The members of all open objects are on one stack, and
// their names on another: those of an object are above those of the objects that it is in.
type jsonReader struct {
	*Inspector
	what    string
	dec     *jsontext.Decoder
	out     []byte
	members []jsonMember
	names   []byte
	scratch []byte
}

// jsonMember says where a name is in names, unescaped, and where the member is in out: `"name":value`. 32 bits are enough,
// see [Inspector.fitsJSON].
type jsonMember struct{ name, nameEnd, at, end int32 }

func (r *jsonReader) nameOf(m jsonMember) []byte { return r.names[m.name:m.nameEnd] }

func (r *jsonReader) value() error {
	if r.dec.StackDepth() > maxDepth {
		return unreadable("The %s is nested more than %d deep.", r.what, maxDepth)
	}
	if err := r.count(1); err != nil {
		return err
	}
	switch r.dec.PeekKind() {
	case '{':
		return r.object()
	case '[':
		return r.list()
	default:
		return r.scalar()
	}
}

// scalar appends a string, a number or a literal.
func (r *jsonReader) scalar() error {
	v, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	switch v.Kind() {
	case '"':
		return r.string(v)
	case '0':
		return r.number(string(v))
	default:
		r.out = append(r.out, v...)
		return nil
	}
}

// string appends a string. One without an escape is canonical already.
func (r *jsonReader) string(v jsontext.Value) (err error) {
	if bytes.IndexByte(v, '\\') < 0 {
		r.out = append(r.out, v...)
		return nil
	}
	text, err := jsontext.AppendUnquote(nil, v)
	if err == nil {
		r.out, err = gate.AppendString(r.out, string(text))
	}
	return err
}

func (r *jsonReader) list() error {
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	r.out = append(r.out, '[')
	for n := 0; r.dec.PeekKind() != ']'; n++ {
		if n > 0 {
			r.out = append(r.out, ',')
		}
		if err := r.value(); err != nil {
			return err
		}
	}
	r.out = append(r.out, ']')
	_, err := r.dec.ReadToken()
	return err
}

func (r *jsonReader) object() error {
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	base, names, from := len(r.members), len(r.names), len(r.out)
	r.out = append(r.out, '{')
	for r.dec.PeekKind() != '}' {
		if len(r.members) > base {
			r.out = append(r.out, ',')
		}
		if err := r.member(); err != nil {
			return err
		}
	}
	if err := r.sort(r.members[base:], from); err != nil {
		return err
	}
	if r.dec.StackDepth() == 1 {
		if err := r.topNames(r.members[base:]); err != nil {
			return err
		}
	}
	r.members, r.names = r.members[:base], r.names[:names]
	r.out = append(r.out, '}')
	_, err := r.dec.ReadToken()
	return err
}

func (r *jsonReader) member() error {
	name, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	m := jsonMember{name: int32(len(r.names)), at: int32(len(r.out))} //nolint:gosec // see jsonMember
	if r.names, err = jsontext.AppendUnquote(r.names, name); err != nil {
		return err
	}
	m.nameEnd = int32(len(r.names)) //nolint:gosec // as above
	if err := r.string(name); err != nil {
		return err
	}
	r.out = append(r.out, ':')
	if err := r.value(); err != nil {
		return err
	}
	m.end = int32(len(r.out)) //nolint:gosec // as above
	r.members = append(r.members, m)
	return nil
}

// sort puts the members of the object that begins at from into canonical order, and refuses a name that is there twice. An
// object that is not in order is copied once, so all of them together at most maxDepth times the body.
func (r *jsonReader) sort(members []jsonMember, from int) error {
	order := func(a, b jsonMember) int { return gate.CompareNames(r.nameOf(a), r.nameOf(b)) }
	if !slices.IsSortedFunc(members, order) {
		slices.SortFunc(members, order)
		r.scratch = append(r.scratch[:0], '{')
		for i, m := range members {
			if i > 0 {
				r.scratch = append(r.scratch, ',')
			}
			r.scratch = append(r.scratch, r.out[m.at:m.end]...)
		}
		copy(r.out[from:], r.scratch)
	}
	for i := 1; i < len(members); i++ {
		if bytes.Equal(r.nameOf(members[i-1]), r.nameOf(members[i])) {
			return unreadable("The %s has an object with the same name twice (%.100q), and servers differ in which one they read. Send each name once.", r.what, r.nameOf(members[i]))
		}
	}
	return r.sameButForCase(members)
}

// sameButForCase refuses two names that differ only in case, since Go's encoding/json and ASP.NET take them for one. They
// use Unicode's simple folding, in which the Kelvin sign is a k and the long s an s.
func (r *jsonReader) sameButForCase(members []jsonMember) error {
	hasCase := func(m jsonMember) bool {
		return slices.ContainsFunc(r.nameOf(m), func(c byte) bool { return c >= 'A' && c <= 'Z' || c >= utf8.RuneSelf })
	}
	same := func(a, b []byte) error {
		return unreadable("The %s has an object with the names %.100q and %.100q, which are one name to servers that ignore case. Send one of them.", r.what, a, b)
	}
	if len(members) <= 8 { // most objects: comparing each with each costs less than folding
		for i, a := range members {
			for _, b := range members[:i] {
				if bytes.EqualFold(r.nameOf(a), r.nameOf(b)) {
					return same(r.nameOf(b), r.nameOf(a))
				}
			}
		}
		return nil
	}
	if !slices.ContainsFunc(members, hasCase) {
		return nil
	}
	folded := make(map[string]jsonMember, len(members))
	for _, m := range members {
		key := fold(string(r.nameOf(m)))
		if other, in := folded[key]; in {
			return same(r.nameOf(other), r.nameOf(m))
		}
		folded[key] = m
	}
	return nil
}

// fold returns the same text for two texts that are equal under [strings.EqualFold].
func fold(s string) string { return strings.Map(foldRune, s) }

// foldRune returns the smallest of the letters that differ from c only in case. In ASCII that is the capital.
func foldRune(c rune) rune {
	if c < utf8.RuneSelf {
		if 'a' <= c && c <= 'z' {
			return c - 'a' + 'A'
		}
		return c
	}
	least := c
	for next := unicode.SimpleFold(c); next != c; next = unicode.SimpleFold(next) {
		least = min(least, next)
	}
	return least
}

func (r *jsonReader) number(literal string) (err error) {
	if len(literal) > maxNumberLength {
		return unreadable("The %s has a number of more than %d characters.", r.what, maxNumberLength)
	}
	if e := strings.IndexAny(literal, "eE"); e >= 0 {
		if n, err := strconv.Atoi(literal[e+1:]); err != nil || n > maxExponent || n < -maxExponent {
			return unreadable("The %s has a number with an exponent beyond ±%d.", r.what, maxExponent)
		}
	}
	var double bool
	if r.out, double, err = gate.AppendNumber(r.out, literal); err == nil && !double && !r.opt.ExactNumbers {
		return unreadable("The %s has the number %s at %.100q, which most servers round to another one (they read numbers as doubles), so that policy and target could see two. Send it as a string, or with fewer digits; "+
			"where the target reads such numbers exactly, whoever runs the gateway can set numbers: exact for this resource.", r.what, literal, r.dec.StackPointer())
	}
	return err
}

// count counts n more values of the body, and refuses too many.
func (i *Inspector) count(n int) error {
	if i.values += n; i.values > i.opt.maxValues() {
		return &Error{gate.TooLarge, fmt.Sprintf("The request's body has more than the %d values that this resource accepts (limits.values). Send less at a time.", i.opt.maxValues())}
	}
	return nil
}
