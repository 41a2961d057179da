package policy

import (
	"cmp"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// What is known of the expressions of a body where operations are of one kind: see kind.go.

// reading is a body in a world.
type reading struct {
	*world
	body      ast.Body
	kindVars  map[ast.Var]bool // that are input.resource.kind
	outputs   []ast.Var        // the variable that an expression makes; "" where it makes none
	condition []bool           // an expression is a condition, or makes a value for one
	element   []bool           // the set that an expression takes is only looked into
}

// read tells conditions from what only makes values: for the rule's element, or for what is negated. Of a rule that is no set the
// value is what others look at, and therefore counts.
func (r *reading) read(rule *ast.Rule) {
	bound := ast.NewVarSet()
	head := ast.NewVarSet()
	said := false
	if rule != nil {
		for _, t := range rule.Head.Args {
			bound.Update(varsIn(t))
		}
		for _, t := range []*ast.Term{rule.Head.Key, rule.Head.Value} {
			if t != nil {
				head.Update(varsIn(t))
			}
		}
		for _, t := range rule.Head.Ref() {
			head.Update(varsIn(t))
		}
		_, set := setOf(rule)
		said = set != notASet
	}
	r.outputs, r.condition, r.element = make([]ast.Var, len(r.body)), make([]bool, len(r.body)), make([]bool, len(r.body))
	for i, e := range r.body {
		r.outputs[i] = r.output(e, bound)
		bound.Update(varsIn(e))
		if v := r.outputs[i]; v != "" && e.IsEquality() && isKind(e.Operand(0), e.Operand(1)) {
			r.kindVars[v] = true
		}
	}
	for i := range r.body {
		v := r.outputs[i]
		r.condition[i] = v == "" || !said && head.Contains(v) || !head.Contains(v) && !r.usedElsewhere(i)
		r.element[i] = v != "" && !head.Contains(v) && r.onlyLookedInto(i)
	}
	for again := true; again; {
		again = false
		for i := range r.body {
			if !r.condition[i] && r.feedsCondition(i) {
				r.condition[i], again = true, true
			}
		}
	}
}

func isKind(terms ...*ast.Term) bool {
	return slices.ContainsFunc(terms, func(t *ast.Term) bool {
		ref, ok := refFrom("input", t)
		return ok && len(ref) == 3 && is(ref[1], "resource") && is(ref[2], "kind")
	})
}

func varsIn(x any) ast.VarSet {
	vars := ast.NewVarSet()
	ast.WalkVars(x, func(v ast.Var) bool {
		vars.Add(v)
		return false
	})
	return vars
}

// output is the variable that e does nothing but give a value. What goes through a list or a set is a condition: there is an
// element.
func (r *reading) output(e *ast.Expr, bound ast.VarSet) ast.Var {
	if e.Negated {
		return ""
	}
	fresh := func(t *ast.Term) ast.Var {
		if v, ok := t.Value.(ast.Var); ok && !bound.Contains(v) {
			return v
		}
		return ""
	}
	terms, ok := e.Terms.([]*ast.Term)
	if !ok || len(terms) < 2 {
		return ""
	}
	var v ast.Var
	var from []*ast.Term
	if e.IsEquality() && len(terms) == 3 {
		if v = fresh(terms[1]); v != "" {
			from = terms[2:]
		} else if v = fresh(terms[2]); v != "" {
			from = terms[1:2]
		}
	} else if arity := r.arity(e.Operator()); arity >= 0 && len(terms)-1 == arity+1 {
		v, from = fresh(terms[len(terms)-1]), terms[1:len(terms)-1]
	}
	for _, t := range from {
		if ref, ok := t.Value.(ast.Ref); ok {
			for _, part := range ref[1:] {
				if fresh(part) != "" {
					return ""
				}
			}
		}
	}
	return v
}

// arity is how many arguments a function takes; -1 where it is not known.
func (r *reading) arity(operator ast.Ref) int {
	if rules := r.compiler.GetRulesExact(operator); len(rules) > 0 {
		return len(rules[0].Head.Args)
	}
	if b, ok := ast.BuiltinMap[operator.String()]; ok {
		return b.Decl.Arity()
	}
	return -1
}

func (r *reading) usedElsewhere(i int) bool {
	for j, e := range r.body {
		if j != i && varsIn(e).Contains(r.outputs[i]) {
			return true
		}
	}
	return false
}

// feedsCondition reports whether a condition that is not negated looks at what expression i makes.
func (r *reading) feedsCondition(i int) bool {
	for j, e := range r.body {
		if j != i && r.condition[j] && !e.Negated && outside(e).Contains(r.outputs[i]) {
			return true
		}
	}
	return false
}

// outside are the variables of e that are not within what can do without them: a comprehension, an every, a not.
func outside(e *ast.Expr) ast.VarSet {
	vars := ast.NewVarSet()
	terms, ok := e.Terms.([]*ast.Term)
	if t, single := e.Terms.(*ast.Term); single {
		terms, ok = []*ast.Term{t}, true
	}
	if !ok {
		return vars
	}
	for _, t := range terms {
		ast.WalkTerms(t, func(t *ast.Term) bool {
			switch v := t.Value.(type) {
			case ast.Var:
				vars.Add(v)
			case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
				return true
			}
			return false
		})
	}
	return vars
}

// onlyLookedInto reports whether all that is done with what expression i makes is to look for an element of it: with a smaller set
// there is less to find.
func (r *reading) onlyLookedInto(i int) bool {
	v := r.outputs[i]
	for j, e := range r.body {
		if j == i || !varsIn(e).Contains(v) {
			continue
		}
		terms, ok := e.Terms.([]*ast.Term)
		if !ok || e.Negated || len(e.With) > 0 {
			return false
		}
		looks := false
		for k, t := range terms[1:] {
			itself := t.Value.Compare(v) == 0
			if itself && !isSearched(e, k) {
				return false
			}
			_, into := refFrom(v, t)
			looks = looks || itself || into
		}
		if !looks {
			return false
		}
	}
	return true
}

// refFrom is the reference that t is, where it begins at root.
func refFrom(root ast.Var, t *ast.Term) (ast.Ref, bool) {
	ref, ok := t.Value.(ast.Ref)
	return ref, ok && ref[0].Value.Compare(root) == 0
}

// expr is the state of expression i.
func (r *reading) expr(i int) state {
	e := r.body[i]
	if len(e.With) > 0 {
		return r.opaque(e, e.Location, "a `with` changes what looks at ")
	}
	var st state
	switch t := e.Terms.(type) {
	case *ast.SomeDecl:
		return state{}
	case *ast.Not:
		return r.negated(e, r.world.body(t.Body, nil))
	case *ast.Term:
		st = r.term(t, false, func(v ast.Value) bool { return v.Compare(ast.Boolean(false)) == 0 })
	case []*ast.Term:
		st = r.call(e, t, r.element[i])
	default: // an every, an and, an or
		return r.opaque(e, e.Location, "this holds or fails by what looks at ")
	}
	if e.Negated {
		return r.negated(e, st)
	}
	return st
}

// opaque is the state of what is not looked into: a trap where it touches what is not there.
func (r *reading) opaque(x any, loc *ast.Location, how string) state {
	ref := r.touches(x)
	if ref == nil {
		return state{}
	}
	return trapped(loc, ref, how+ref.String())
}

// negated is the state of the negation of what is st.
func (r *reading) negated(e *ast.Expr, st state) state {
	switch {
	case st.known && st.life == live:
		return state{life: foreign, known: true}
	case st.known:
		return state{known: true}
	case st.trap != nil:
		return st
	}
	ref := firstRef(st.lost, r.touches(e))
	if ref == nil || st.life == live && st.lost == nil {
		return state{}
	}
	return trapped(e.Location, ref, "this `not` is about "+ref.String())
}

// call is the state of a call, comparison or assignment.
func (r *reading) call(e *ast.Expr, terms []*ast.Term, element bool) state {
	if st, ok := r.asksForKind(e, terms); ok {
		return st
	}
	st := state{}
	if operator := e.Operator(); operator[0].Value.Compare(ast.Var("data")) == 0 {
		if rules := r.compiler.GetRulesExact(operator); len(rules) > 0 {
			st = r.rules(rules, e.Location, false, nil)
		}
	}
	for i, t := range terms[1:] {
		var fails func(ast.Value) bool
		if e.IsEquality() && len(terms) == 3 {
			if other := terms[2-i]; isConstant(other.Value) {
				fails = func(v ast.Value) bool { return isConstant(v) && v.Compare(other.Value) != 0 }
			}
		}
		st = both(st, r.term(t, element || isSearched(e, i), fails))
	}
	return st
}

// isSearched reports whether operand i of e is what e looks for an element in.
func isSearched(e *ast.Expr, i int) bool {
	name := e.Operator().String()
	return !e.Negated && (name == "internal.member_2" && i == 1 || name == "internal.member_3" && i == 2)
}

// both is the state of what needs a and b.
func both(a, b state) state {
	st := state{life: a.life, lost: firstRef(a.lost, b.lost), trap: cmp.Or(a.trap, b.trap)}
	if st.life == live {
		st.life = b.life
	}
	return st
}

// asksForKind is the state of a comparison of input.resource.kind with what is written out.
func (r *reading) asksForKind(e *ast.Expr, terms []*ast.Term) (state, bool) {
	if len(terms) != 3 {
		return state{}, false
	}
	kind, with := terms[1], terms[2]
	if isConstant(kind.Value) {
		kind, with = with, kind
	}
	v, isVar := kind.Value.(ast.Var)
	if !isConstant(with.Value) || !isKind(kind) && (!isVar || !r.kindVars[v]) {
		return state{}, false
	}
	var holds bool
	switch own := ast.String(r.kind); e.Operator().String() {
	case "eq", "equal":
		holds = with.Value.Compare(own) == 0
	case "neq":
		holds = with.Value.Compare(own) != 0
	case "internal.member_2":
		holds = contains(with.Value, own)
	default:
		return state{}, false
	}
	if holds {
		return state{known: true}, true
	}
	return state{life: foreign, known: true}, true
}

func contains(list, v ast.Value) bool {
	switch list := list.(type) {
	case ast.Set:
		return list.Contains(ast.NewTerm(v))
	case *ast.Array:
		return list.Until(func(t *ast.Term) bool { return t.Value.Compare(v) == 0 })
	default:
		return false
	}
}

// term is the state of what evaluates t.
func (r *reading) term(t *ast.Term, element bool, fails func(ast.Value) bool) (st state) {
	switch v := t.Value.(type) {
	case ast.Var:
		if v == "input" && !r.alone {
			return trapped(t.Location, ast.Ref{t}, wholeInput)
		}
	case ast.Ref:
		st = r.ref(v, t.Location, element, fails)
		for _, part := range v[1:] {
			st = both(st, r.term(part, false, nil))
		}
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { st = both(st, r.term(t, false, nil)) })
	case ast.Set:
		v.Foreach(func(t *ast.Term) { st = both(st, r.term(t, false, nil)) })
	case ast.Object:
		v.Foreach(func(name, value *ast.Term) { st = both(st, both(r.term(name, false, nil), r.term(value, false, nil))) })
	default: // a comprehension, and what else is there without what is in it
		return r.opaque(t, t.Location, "a value is made here of ")
	}
	return st
}

const wholeInput = "the input is taken as a whole"

func (r *reading) ref(ref ast.Ref, loc *ast.Location, element bool, fails func(ast.Value) bool) state {
	switch lost := r.lostIn(ref); {
	case lost != nil && (len(ref) == 1 || !isString(ref[1])):
		return trapped(loc, ref, wholeInput)
	case lost != nil:
		return state{life: missing, lost: ref}
	case ref[0].Value.Compare(ast.Var("data")) != 0:
		return state{}
	}
	rules := r.compiler.GetRulesForVirtualDocument(ref)
	if len(rules) == 0 {
		for _, rule := range r.compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{}) {
			if lost := r.ruleTouches(rule); lost != nil {
				return trapped(loc, lost, "which rules are meant here cannot be told, and one looks at "+lost.String())
			}
		}
		return state{}
	}
	path := len(rules[0].Ref().GroundPrefix())
	return r.rules(rules, loc, !element && len(ref) <= path, fails)
}
