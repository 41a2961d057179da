package policy

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/countersign/countersign/extproc/gate"
)

// maxDepth bounds how deep an input or a data file can be nested.
const maxDepth = 512

// The longest number that an input can have, and the largest exponent of ten; a double ends at 308.
const (
	maxNumberBytes = 400
	maxExponent    = 400
)

// termsOf returns terms for the strings that most inputs have: the names and usual values of the schema. They are made once
// and shared; nobody writes to the map afterwards.
func termsOf(input reflect.Type) map[string]*ast.Term {
	terms := map[string]*ast.Term{"": ast.StringTerm("")}
	inputNames(input, func(s string) { terms[s] = ast.StringTerm(s) })
	return terms
}

var (
	nullTerm    = ast.NullTerm()
	trueTerm    = ast.BooleanTerm(true)
	falseTerm   = ast.BooleanTerm(false)
	emptyObject = ast.ObjectTerm()
	emptyList   = ast.ArrayTerm()
)

// builder turns a gate.Object into OPA's values without JSON text in between. It hands out terms from blocks, since an
// input has some sixty of them: measured on the design's policy, that and the table above save a third of the allocations.
type builder struct {
	terms map[string]*ast.Term
	block []ast.Term
	pairs [][2]*ast.Term // a stack: an object's own members are above its parents'
}

var builders sync.Pool

// maxPairs is how many members a builder keeps room for between two uses. An object can have many more.
const maxPairs = 1024

func newBuilder(terms map[string]*ast.Term) *builder {
	b, ok := builders.Get().(*builder)
	if !ok {
		b = &builder{pairs: make([][2]*ast.Term, 0, 64)}
	}
	b.terms = terms
	return b
}

// release gives b back to the pool. The terms that it built stay valid: a block is not used twice.
func (b *builder) release() {
	b.block = nil
	if cap(b.pairs) > maxPairs {
		b.pairs = nil
	}
	clear(b.pairs[:cap(b.pairs)])
	b.pairs = b.pairs[:0]
	builders.Put(b)
}

func (b *builder) term(v ast.Value) *ast.Term {
	if len(b.block) == 0 {
		b.block = make([]ast.Term, 64)
	}
	t := &b.block[0]
	b.block = b.block[1:]
	t.Value = v
	return t
}

func (b *builder) text(s string) *ast.Term {
	if len(s) <= 16 {
		if t, ok := b.terms[s]; ok {
			return t
		}
	}
	return b.term(ast.String(s))
}

// value returns the term of v, which has one of the types that gate.Object lists.
func (b *builder) value(v any, depth int) (*ast.Term, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("the input is nested deeper than %d levels", maxDepth)
	}
	switch v := v.(type) {
	case nil:
		return nullTerm, nil
	case bool:
		if v {
			return trueTerm, nil
		}
		return falseTerm, nil
	case string:
		return b.text(v), nil
	case int:
		return ast.InternedTerm(v), nil
	case int64:
		return ast.InternedTerm(v), nil
	case float64:
		return b.number(v)
	case json.Number:
		if isShortInteger(string(v)) {
			return b.shortInteger(string(v)), nil
		}
		if err := checkNumber(string(v)); err != nil {
			return nil, err
		}
		return b.number(v)
	case []string:
		if len(v) == 0 {
			return emptyList, nil
		}
		list := make([]*ast.Term, len(v))
		for i, s := range v {
			list[i] = b.text(s)
		}
		return b.term(ast.NewArray(list...)), nil
	case []any:
		list := make([]*ast.Term, len(v))
		for i, item := range v {
			var err error
			if list[i], err = b.value(item, depth+1); err != nil {
				return nil, err
			}
		}
		return b.term(ast.NewArray(list...)), nil
	case gate.Object:
		return b.object(v, depth)
	case gate.Raw:
		return b.raw(string(v), depth)
	default:
		return nil, fmt.Errorf("a %T is not a JSON value", v)
	}
}

// number returns v as the canonical input writes it. 100, 1e2 and 100.0 have one digest, so a rule must see one text too.
func (b *builder) number(v any) (*ast.Term, error) {
	text, err := gate.AppendJSON(nil, v)
	if err != nil {
		return nil, err
	}
	return b.term(ast.Number(text)), nil
}

func (b *builder) shortInteger(literal string) *ast.Term {
	if t := ast.InternedIntNumberTermFromString(literal); t != nil {
		return t
	}
	return b.term(ast.Number(literal))
}

// isShortInteger reports whether literal is an integer of at most 15 digits. Most numbers are, and these are canonical as they
// are written.
func isShortInteger(literal string) bool {
	if literal == "" || len(literal) > 15 || literal[0] == '0' && len(literal) > 1 {
		return false
	}
	for i := range len(literal) {
		if literal[i] < '0' || literal[i] > '9' {
			return false
		}
	}
	return true
}

// checkNumber refuses numbers far outside of what a double can hold. OPA's parsers refuse them too ("number too big"), but
// they never see an input that is given as a value, and OPA computes with all digits of a number: on 1.22.2, `amount * 2 > 10`
// with 1e-999999, nine bytes from an agent, ran for minutes without asking a Cancel.
func checkNumber(literal string) error {
	exponent := 0
	if i := strings.IndexAny(literal, "eE"); i >= 0 {
		var err error
		if exponent, err = strconv.Atoi(literal[i+1:]); err != nil {
			exponent = math.MaxInt
		}
	}
	if len(literal) > maxNumberBytes || exponent > maxExponent || exponent < -maxExponent {
		return fmt.Errorf("the number %.40s has too many digits to compute with", literal)
	}
	return nil
}

func (b *builder) object(o gate.Object, depth int) (*ast.Term, error) {
	if len(o) == 0 {
		return emptyObject, nil
	}
	base := len(b.pairs)
	for _, m := range o {
		v, err := b.value(m.Value, depth+1)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		b.pairs = append(b.pairs, [2]*ast.Term{b.text(m.Name), v})
	}
	object := ast.NewObject(b.pairs[base:]...)
	b.pairs = b.pairs[:base]
	return b.term(object), nil
}

// input returns the whole input of op: its canonical object, its volatile fields, and the context.
func (b *builder) input(op *gate.Operation, principals *generations[*gate.Principal, *ast.Term]) (*ast.Term, error) {
	o, err := op.Seen()
	if err != nil {
		return nil, err
	}
	base := len(b.pairs)
	for _, m := range o {
		if m.Name == "context" {
			return nil, fmt.Errorf("the operation has a context of its own")
		}
		v, err := b.member(op, m, principals)
		if err != nil {
			return nil, err
		}
		b.pairs = append(b.pairs, [2]*ast.Term{b.text(m.Name), v})
	}
	around, err := b.context(op)
	if err != nil {
		return nil, err
	}
	b.pairs = append(b.pairs, [2]*ast.Term{b.text("context"), around})
	object := ast.NewObject(b.pairs[base:]...)
	b.pairs = b.pairs[:base]
	return b.term(object), nil
}

// context returns the term of op.Context.Object without making that object, which saves an evaluation ten allocations.
// TestValueIsTheInput compares the two. For an operation that was approved, which is rare, it does make the object.
func (b *builder) context(op *gate.Operation) (*ast.Term, error) {
	if op.Context.Approval != nil {
		return b.value(op.Context.Object(op.Principal), 1)
	}
	var id, expires string
	if p := op.Principal; p != nil {
		id = p.Verified.TokenID
		if !p.Verified.Expires.IsZero() {
			expires = timeText(p.Verified.Expires)
		}
	}
	c := &op.Context
	return b.term(ast.NewObject(
		[2]*ast.Term{b.text("peer"), b.text(c.Peer)},
		[2]*ast.Term{b.text("request_id"), b.text(c.RequestID)},
		[2]*ast.Term{b.text("session"), b.text(c.Session)},
		[2]*ast.Term{b.text("time"), b.text(timeText(c.Time))},
		[2]*ast.Term{b.text("token_expires"), b.text(expires)},
		[2]*ast.Term{b.text("token_id"), b.text(id)},
		[2]*ast.Term{b.text("traceparent"), b.text(c.TraceParent)},
	)), nil
}

func timeText(t time.Time) string {
	var text [40]byte
	return string(gate.AppendTime(text[:0], t))
}

// member returns the term of one member of the input. The principal's is kept for its next operations: a principal does not
// change, and the claims of a token are often larger than the rest of the input.
func (b *builder) member(op *gate.Operation, m gate.Member, principals *generations[*gate.Principal, *ast.Term]) (*ast.Term, error) {
	if m.Name != "principal" || principals == nil {
		return b.value(m.Value, 1)
	}
	if t, ok := principals.get(op.Principal); ok {
		return t, nil
	}
	own := newBuilder(b.terms)
	defer own.release()
	t, err := own.value(m.Value, 1)
	if err != nil {
		return nil, err
	}
	principals.put(op.Principal, t)
	return t, nil
}
