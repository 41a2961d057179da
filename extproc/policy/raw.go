package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"
)

// raw is the value of canonical text. Its strings and numbers are parts of the text and not copies, and the names that come
// more than once (a list of objects has each as often as it is long) are one term: measured on such a list, a value takes
// 60 bytes less.
func (b *builder) raw(text string, depth int) (*ast.Term, error) {
	r := rawReader{builder: b, rest: text, names: map[string]*ast.Term{}}
	t, err := r.value(depth)
	if err == nil && r.rest != "" {
		err = errNotCanonical
	}
	return t, err
}

// rawReader reads what gate.Raw is, and nothing else: JSON without white space. What is no such text is an error, though
// not all that is not canonical: whoever made it answers for that.
type rawReader struct {
	*builder
	rest  string
	names map[string]*ast.Term
	terms []*ast.Term // a stack: a list's own elements are above its parents'
}

var errNotCanonical = errors.New("a value is not canonical JSON")

// maxSharedNames bounds names, so that an object of many names does not pay for sharing them.
const maxSharedNames = 256

// take reports whether the rest begins with s, and leaves it behind.
func (r *rawReader) take(s string) (ok bool) {
	r.rest, ok = strings.CutPrefix(r.rest, s)
	return ok
}

func (r *rawReader) value(depth int) (*ast.Term, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("the input is nested deeper than %d levels", maxDepth)
	}
	switch {
	case r.take("null"):
		return nullTerm, nil
	case r.take("true"):
		return trueTerm, nil
	case r.take("false"):
		return falseTerm, nil
	case r.take("["):
		return r.list(depth)
	case r.take("{"):
		return r.object(depth)
	case strings.HasPrefix(r.rest, `"`):
		s, err := r.string()
		if err != nil {
			return nil, err
		}
		return r.text(s), nil
	default:
		return r.number()
	}
}

func (r *rawReader) number() (*ast.Term, error) {
	n := strings.IndexFunc(r.rest, func(c rune) bool { return c == ',' || c == ']' || c == '}' })
	if n < 0 {
		n = len(r.rest)
	}
	literal := r.rest[:n]
	r.rest = r.rest[n:]
	if isShortInteger(literal) {
		return r.shortInteger(literal), nil
	}
	if err := checkNumber(literal); err != nil {
		return nil, err
	}
	if v := jsontext.Value(literal); v.Kind() != '0' || !v.IsValid() || strings.TrimSpace(literal) != literal {
		return nil, errNotCanonical
	}
	return r.term(ast.Number(literal)), nil
}

func (r *rawReader) string() (string, error) {
	for i := 1; i < len(r.rest); i++ {
		switch r.rest[i] {
		case '\\':
			i++
		case '"':
			quoted := r.rest[:i+1]
			r.rest = r.rest[i+1:]
			if strings.IndexByte(quoted, '\\') < 0 {
				return quoted[1:i], nil
			}
			text, err := jsontext.AppendUnquote(nil, quoted)
			return string(text), err
		}
	}
	return "", errNotCanonical
}

func (r *rawReader) list(depth int) (*ast.Term, error) {
	if r.take("]") {
		return emptyList, nil
	}
	base := len(r.terms)
	for {
		t, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		r.terms = append(r.terms, t)
		if r.take("]") {
			break
		}
		if !r.take(",") {
			return nil, errNotCanonical
		}
	}
	list := append(make([]*ast.Term, 0, len(r.terms)-base), r.terms[base:]...)
	r.terms = r.terms[:base]
	return r.term(ast.NewArray(list...)), nil
}

func (r *rawReader) object(depth int) (*ast.Term, error) {
	if r.take("}") {
		return emptyObject, nil
	}
	base := len(r.pairs)
	for {
		name, err := r.name()
		if err != nil {
			return nil, err
		}
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		r.pairs = append(r.pairs, [2]*ast.Term{name, v})
		if r.take("}") {
			break
		}
		if !r.take(",") {
			return nil, errNotCanonical
		}
	}
	object := ast.NewObject(r.pairs[base:]...)
	r.pairs = r.pairs[:base]
	return r.term(object), nil
}

func (r *rawReader) name() (*ast.Term, error) {
	if !strings.HasPrefix(r.rest, `"`) {
		return nil, errNotCanonical
	}
	s, err := r.string()
	if err != nil {
		return nil, err
	}
	if !r.take(":") {
		return nil, errNotCanonical
	}
	t, in := r.names[s]
	if !in {
		t = r.text(s)
		if len(r.names) < maxSharedNames {
			r.names[s] = t
		}
	}
	return t, nil
}
