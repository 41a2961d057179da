package policy

import (
	"cmp"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
)

// What is known of rules where operations are of one kind: see kind.go.

// world is where operations are of one kind.
type world struct {
	compiler *ast.Compiler
	kind     string
	alone    bool               // the rules are for no other kind, so that they can take the input as a whole
	others   map[ast.Value]bool // by name of a kind: its detail is not there
	states   map[*ast.Rule]state
	touching map[*ast.Rule]ast.Ref
}

func (s *Set) world(kind string, alone bool, problems *Problems) *world {
	w := &world{compiler: s.compiler, kind: kind, alone: alone, others: map[ast.Value]bool{}, states: map[*ast.Rule]state{}, touching: map[*ast.Rule]ast.Ref{}}
	known := false
	for _, k := range s.options.Kinds {
		known = known || k.Name == kind
		w.others[ast.String(k.Name)] = k.Name != kind
	}
	if !known {
		problems.add("", 0, 0, "a resource is of kind %q, of which policies know nothing", kind)
	}
	return w
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

// trapped is the state of what depends on ref, which is not there.
func trapped(loc *ast.Location, ref ast.Ref, how string) state {
	return state{trap: &trap{loc, ref, how}, lost: ref}
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
			problems.at(cmp.Or(st.trap.loc, rule.Loc()), "for resources of kind %q this %s of %s depends on what is not there: %s. %s",
				w.kind, kind, packageClause(pkg), st.trap.how, advice(st.trap.ref))
		}
	}
}

// advice says how to write what depends on ref.
func advice(ref ast.Ref) string {
	if len(ref) < 2 || !isString(ref[1]) {
		return "Name the part that is meant, beside a condition on input.resource.kind"
	}
	return fmt.Sprintf("Add the condition `input.resource.kind == %s`, or move the rule to the package of these resources", ref[1])
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
	there := w.alone
	if len(ref) > 1 && isString(ref[1]) {
		there = !w.others[ref[1].Value]
	}
	if there {
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
