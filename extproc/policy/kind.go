package policy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// An operation has the detail of its kind and no other: input.http, say, and no input.tcp. In Rego what is not there is undefined,
// and a rule that looks at it does not hold. Where a rule says something of that (`input.http.method == "DELETE"`) it is not for
// other kinds, as its author meant. But where it is negated, counted or put into the element, the rule goes silent for another
// kind, or speaks, because of what is not there: deny … if not startswith(input.http.path, "/v1") denies nothing of another
// kind, and allow … if not lib.writes allows all of it. So each set of rules is looked at once for each kind of resource that it
// rules on, as if only that kind's detail were there. What then depends on the absence of another does not load, unless a
// condition beside it (a positive reference to the same detail, or input.resource.kind) says that the rule is not for this kind.
//
// It errs to one side: what it cannot tell is a problem.

// kindsOf are the kinds that package pkg rules on, and whether resources name it. A package that none names is a library, and
// global is for all.
func (o *Options) kindsOf(pkg string) (kinds []string, named bool) {
	if kinds, named = o.Packages[pkg]; named && pkg != global {
		return slices.Compact(slices.Sorted(slices.Values(kinds))), true
	}
	for _, k := range o.Packages {
		kinds = append(kinds, k...)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds), pkg == global
}

// checkKinds reports what speaks of a kind where it is not, and what depends on that.
func (s *Set) checkKinds(modules map[string]*ast.Module, problems *Problems) {
	for _, m := range modules {
		s.checkMembers(m, problems)
	}
	type key struct {
		kind  string
		alone bool
	}
	worlds := map[key]*world{}
	for pkg := range s.shape {
		kinds, rules := s.options.kindsOf(pkg)
		s.checkSelectors(pkg, kinds, problems)
		for _, kind := range kinds {
			k := key{kind, len(kinds) == 1}
			if worlds[k] == nil {
				worlds[k] = s.world(kind, k.alone, problems)
			}
			if rules {
				worlds[k].check(pkg, problems)
			}
		}
	}
}

// checkSelectors reports redactions that are for none of the kinds that pkg rules on.
func (s *Set) checkSelectors(pkg string, kinds []string, problems *Problems) {
	for _, r := range s.shape[pkg] {
		fits := func(k Kind) bool { return slices.Contains(kinds, k.Name) && slices.Contains(k.Redact, r.selector) }
		if r.selector != "" && len(kinds) > 0 && !slices.ContainsFunc(s.options.Kinds, fits) {
			problems.at(r.loc, "nothing can be redacted by %s here: resources of policy %q are of kind %s", r.selector, pkg, quoted(kinds))
		}
	}
}

func (s *Set) world(kind string, alone bool, problems *Problems) *world {
	w := &world{compiler: s.compiler, kind: kind, alone: alone, others: map[string]bool{}, states: map[*ast.Rule]state{}, touching: map[*ast.Rule]ast.Ref{}}
	known := false
	for _, k := range s.options.Kinds {
		known = known || k.Name == kind
		w.others[k.Name] = k.Name != kind
	}
	if !known {
		problems.add("", 0, 0, "a resource is of kind %q, of which policies know nothing", kind)
	}
	return w
}

// checkMembers reports references, in a package that resources name, to the detail of a kind that none of them is of.
func (s *Set) checkMembers(m *ast.Module, problems *Problems) {
	place := packagePlace(m)
	if len(place) != 2 || place[0] != "rules" || place[1] == global {
		return
	}
	kinds, named := s.options.kindsOf(place[1])
	if !named {
		return
	}
	ast.WalkTerms(m, func(t *ast.Term) bool {
		ref, ok := t.Value.(ast.Ref)
		if !ok || len(ref) < 2 || ref[0].Value.Compare(ast.Var("input")) != 0 {
			return false
		}
		for _, k := range s.options.Kinds {
			if is(ref[1], k.Name) && !slices.Contains(kinds, k.Name) {
				problems.at(t.Location, "there is no input.%s here: resources of policy %q are of kind %s", k.Name, place[1], quoted(kinds))
			}
		}
		return false
	})
}

func quoted(names []string) string {
	text := ""
	for i, name := range names {
		if i > 0 {
			text += " or "
		}
		text += fmt.Sprintf("%q", name)
	}
	return text
}

// world is where operations are of one kind.
type world struct {
	compiler *ast.Compiler
	kind     string
	alone    bool            // the rules are for no other kind, so that they can take the input as a whole
	others   map[string]bool // by name of a kind: its detail is not there
	states   map[*ast.Rule]state
	touching map[*ast.Rule]ast.Ref
}

// life says whether something can hold in a world.
type life int

const (
	live    life = iota
	foreign      // it says that it is for another kind
	missing      // it looks at what is not there
)

// state is what is known of a rule or of an expression in a world.
type state struct {
	life  life
	lost  ast.Ref // what is not there, where the whole or a part of it is therefore undefined
	trap  *trap   // it depends on that
	known bool    // it asks for the kind only: it holds where it is live, and for certain
}

// trap is something that depends on what is not there.
type trap struct {
	loc *ast.Location
	ref ast.Ref
	how string
}

// check reports the traps of the sets of package pkg.
func (w *world) check(pkg string, problems *Problems) {
	for kind := allowSet; kind < setKinds; kind++ {
		set := said{pkg: pkg, kind: kind}
		for _, rule := range w.compiler.GetRulesExact(set.ref()) {
			st := w.rule(rule)
			if st.life != live || st.trap == nil {
				continue
			}
			problems.at(cmpLocation(st.trap.loc, rule.Loc()), "for resources of kind %q this %s of %s depends on what is not there: %s. %s",
				w.kind, kind, packageClause(pkg), st.trap.how, advice(st.trap.ref))
		}
	}
}

// advice says how to write what depends on ref.
func advice(ref ast.Ref) string {
	if len(ref) < 2 || !isString(ref[1]) {
		return "Name the part that is meant, beside a condition on input.resource.kind"
	}
	kind := string(ref[1].Value.(ast.String)) //nolint:forcetypeassert // isString
	return fmt.Sprintf("Add the condition `input.resource.kind == %q`, or move the rule to the package of these resources", kind)
}

// rule is the state of a rule with its else branches.
func (w *world) rule(rule *ast.Rule) state {
	if st, ok := w.states[rule]; ok {
		return st
	}
	st := w.body(rule.Body, rule)
	if rule.Else != nil {
		st = w.otherwise(st, w.rule(rule.Else), rule)
	}
	w.states[rule] = st
	return st
}

// otherwise is the state of a rule that is st, and otherwise next.
func (w *world) otherwise(st, next state, rule *ast.Rule) state {
	switch {
	case st.life == foreign:
		return next
	case next.life != live:
		st.lost = firstRef(st.lost, next.lost)
		return st
	case st.lost != nil:
		return state{trap: cmp.Or(st.trap, &trap{rule.Loc(), st.lost, "an else stands in for a rule that looks at " + st.lost.String()}), lost: st.lost}
	default:
		return state{trap: cmp.Or(st.trap, next.trap), lost: next.lost}
	}
}

func firstRef(a, b ast.Ref) ast.Ref {
	if a != nil {
		return a
	}
	return b
}

// body is the state of expressions that must all hold. rule is whose they are; nil where they are negated.
func (w *world) body(body ast.Body, rule *ast.Rule) state {
	r := reading{world: w, body: body, kindVars: map[ast.Var]bool{}}
	r.read(rule)
	var st, dead state
	for i, e := range body {
		s := r.expr(i)
		if s.life == live {
			st.trap, st.lost = cmp.Or(st.trap, s.trap), firstRef(st.lost, s.lost)
			continue
		}
		if !r.condition[i] {
			st.trap = cmp.Or(st.trap, &trap{e.Location, s.lost, "this is no condition of its own, but what is negated, or gone through with every, or said is made of it"})
			continue
		}
		if dead.life != foreign {
			dead = s
		}
	}
	if dead.life != live {
		return state{life: dead.life, lost: dead.lost}
	}
	if rule != nil && st.trap == nil {
		for _, t := range []*ast.Term{rule.Head.Key, rule.Head.Value} {
			if t != nil {
				if ref := w.touches(t); ref != nil {
					st.trap = &trap{t.Location, ref, "what is said is made of " + ref.String()}
				}
			}
		}
	}
	return st
}

// touches is a reference, in x or in what x refers to, to what is not there; nil where there is none.
func (w *world) touches(x any) (found ast.Ref) {
	ast.WalkTerms(x, func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Var:
			if v == "input" && found == nil && !w.alone {
				found = ast.Ref{t}
			}
		case ast.Ref:
			found = firstRef(found, w.lostIn(v))
			if v[0].Value.Compare(ast.Var("data")) == 0 && found == nil {
				for _, rule := range w.compiler.GetRulesDynamicWithOpts(v, ast.RulesOptions{}) {
					found = firstRef(found, w.ruleTouches(rule))
				}
			}
			for _, part := range v[1:] {
				found = firstRef(found, w.touches(part))
			}
			return true
		}
		return found != nil
	})
	return found
}

func (w *world) ruleTouches(rule *ast.Rule) ast.Ref {
	if ref, ok := w.touching[rule]; ok {
		return ref
	}
	w.touching[rule] = nil
	ref := w.touches(rule)
	w.touching[rule] = ref
	return ref
}

// lostIn is ref where it is one to what is not there, or to the input as a whole.
func (w *world) lostIn(ref ast.Ref) ast.Ref {
	if ref[0].Value.Compare(ast.Var("input")) != 0 {
		return nil
	}
	named := len(ref) > 1 && isString(ref[1])
	if named && !w.others[string(ref[1].Value.(ast.String))] || !named && w.alone { //nolint:forcetypeassert // isString
		return nil
	}
	return ref.GroundPrefix()
}

// rules is the state of a reference to rules of one name. whole says that it is to all of a set or object, and not to an element;
// fails, whether what refers to them fails with a value, where that is known.
func (w *world) rules(rules []*ast.Rule, loc *ast.Location, whole bool, fails func(ast.Value) bool) state {
	var st state
	var standard *ast.Rule
	alive, dead := false, live
	for _, rule := range rules {
		if rule.Default {
			standard = rule
			continue
		}
		s := w.rule(rule)
		if s.life == live {
			alive = true
			st.trap = cmp.Or(st.trap, s.trap)
		} else {
			dead = max(dead, s.life)
		}
		st.lost = firstRef(st.lost, s.lost)
	}
	switch {
	case standard != nil && fails != nil && standard.Head.Value != nil && fails(standard.Head.Value.Value):
		if !alive {
			st.life = dead
		}
	case standard != nil && st.lost != nil:
		st.trap = cmp.Or(st.trap, &trap{loc, st.lost, "a default stands in for what looks at " + st.lost.String()})
	case standard != nil:
	case whole && isPartial(rules[0]):
		if st.lost != nil {
			st.trap = cmp.Or(st.trap, &trap{loc, st.lost, "all of a set is taken that is made of " + st.lost.String()})
		}
	case !alive:
		st.life = dead
	}
	return st
}

// isPartial reports whether rule makes a part of a set or an object.
func isPartial(rule *ast.Rule) bool {
	return rule.Head.RuleKind() == ast.MultiValue || !rule.Head.Ref().IsGround()
}

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
		said = isSetRule(rule)
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

// isSetRule reports whether rule is of a set of data.rules.NAME.
func isSetRule(rule *ast.Rule) bool {
	if rule.Module == nil {
		return false
	}
	place, _ := rulePlace(rule.Module, rule)
	return len(place) == 3 && place[0] == "rules" && kindOf(place[2]) != notASet
}

func isKind(terms ...*ast.Term) bool {
	return slices.ContainsFunc(terms, func(t *ast.Term) bool {
		ref, ok := t.Value.(ast.Ref)
		return ok && len(ref) == 3 && ref[0].Value.Compare(ast.Var("input")) == 0 && is(ref[1], "resource") && is(ref[2], "kind")
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
			switch name := e.Operator().String(); {
			case t.Value.Compare(v) == 0:
				looks = (name == "internal.member_2" && k == 1) || (name == "internal.member_3" && k == 2)
			case isRefInto(t, v):
				looks = true
			default:
				continue
			}
			if !looks {
				return false
			}
		}
		if !looks {
			return false
		}
	}
	return true
}

func isRefInto(t *ast.Term, v ast.Var) bool {
	ref, ok := t.Value.(ast.Ref)
	return ok && ref[0].Value.Compare(v) == 0
}

// expr is the state of expression i.
func (r *reading) expr(i int) state {
	e := r.body[i]
	if len(e.With) > 0 {
		return r.opaque(e, "a `with` changes")
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
		return r.opaque(e, "this holds or fails by")
	}
	if e.Negated {
		return r.negated(e, st)
	}
	return st
}

// opaque is the state of what is not looked into: a trap where it touches what is not there.
func (r *reading) opaque(e *ast.Expr, how string) state {
	ref := r.touches(e)
	if ref == nil {
		return state{}
	}
	return state{trap: &trap{e.Location, ref, how + " what looks at " + ref.String()}, lost: ref}
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
	return state{trap: &trap{e.Location, ref, "this `not` is about " + ref.String()}, lost: ref}
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
		st = both(st, r.term(t, element || r.isMember(e, i), fails))
	}
	return st
}

func (r *reading) isMember(e *ast.Expr, i int) bool {
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
			return r.whole(ast.Ref{t}, t.Location)
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
	case ast.Null, ast.Boolean, ast.Number, ast.String:
	default: // a comprehension, and what else is there without what is in it
		if ref := r.touches(t); ref != nil {
			return state{trap: &trap{t.Location, ref, "a value is made here of " + ref.String()}, lost: ref}
		}
	}
	return st
}

func (r *reading) whole(ref ast.Ref, loc *ast.Location) state {
	return state{trap: &trap{loc, ref, "the input is taken as a whole"}, lost: ref}
}

func (r *reading) ref(ref ast.Ref, loc *ast.Location, element bool, fails func(ast.Value) bool) state {
	switch {
	case r.lostIn(ref) != nil && (len(ref) == 1 || !isString(ref[1])):
		return r.whole(ref, loc)
	case r.lostIn(ref) != nil:
		return state{life: missing, lost: ref}
	case ref[0].Value.Compare(ast.Var("data")) != 0:
		return state{}
	}
	rules := r.compiler.GetRulesForVirtualDocument(ref)
	if len(rules) == 0 {
		for _, rule := range r.compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{}) {
			if lost := r.ruleTouches(rule); lost != nil {
				return state{trap: &trap{loc, lost, "which rules are meant here cannot be told, and one looks at " + lost.String()}, lost: lost}
			}
		}
		return state{}
	}
	path := len(rules[0].Ref().GroundPrefix())
	return r.rules(rules, loc, !element && len(ref) <= path, fails)
}
