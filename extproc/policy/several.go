package policy

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/countersign/countersign/extproc/gate"
)

// A body of JSON comes as Kind.Body (input.http.body), or as Kind.Bodies where several values came one after another. A target may
// make of the one what was sent as the other: it reads lines whatever the type says, or the first of several values. So what
// a rule says of the one counts for the other. Beside the input as it came, the rules are asked about each of several values
// as a body of its own, and about a single value as a list of one. What they deny, ask and redact there counts. What allows
// must allow the input as it came, and where an allow rule can hold because a form is not there, the other form too.

// aside is what is asked of a body in the form that it did not come in.
type aside struct {
	*question      // of the sets that can depend on that form
	allows    bool // an allow rule can hold because the form is not there
}

// asideFor returns what is to be asked of form; nil where no set can depend on it.
func (s *Set) asideFor(sets []said, form, list string) (*aside, error) {
	var a aside
	var depend []said
	for _, set := range sets {
		depends := false
		for _, rule := range s.compiler.GetRulesExact(set.ref()) {
			f := newFollower(s.compiler)
			f.list = list
			f.follow(rule)
			depends = depends || f.reaches(form)
			a.allows = a.allows || set.kind == allowSet && f.reaches(form) && f.holdsWithout(form, rule)
		}
		if depends {
			depend = append(depend, set)
		}
	}
	if len(depend) == 0 {
		return nil, nil
	}
	var err error
	a.question, err = s.ask(depend)
	return &a, err
}

// reaches reports whether what f followed can depend on the form of a body. Rules that look at all of the input find each value
// of a list in the list; that they want a list where one value came is told by its name.
func (f *follower) reaches(form string) bool {
	if f.uses.everything {
		return form != f.list || f.namesList
	}
	for p := range f.uses.of {
		if p.member == form {
			return true
		}
	}
	return false
}

// holdsWithout reports whether the root of what f followed can hold because the form is not there: where something that
// depends on it is negated, counted, or has something to fall back on. It errs to one side.
func (f *follower) holdsWithout(form string, root *ast.Rule) bool {
	holds := f.uses.everything
	depends := func(x any) bool {
		within := newFollower(f.compiler)
		within.list = f.list
		within.read(x)
		ast.WalkRefs(x, func(r ast.Ref) bool {
			for _, rule := range f.compiler.GetRules(r.GroundPrefix()) {
				within.follow(rule)
			}
			return false
		})
		return within.reaches(form)
	}
	for rule := range f.seen {
		if rule.Default || rule.Else != nil || rule != root && rule.Head.RuleKind() == ast.MultiValue {
			holds = holds || depends(ast.NewTerm(rule.Ref().GroundPrefix()))
		}
		ast.WalkExprs(rule, func(e *ast.Expr) bool {
			holds = holds || (e.IsNegated() || e.IsEvery()) && depends(e)
			return holds
		})
		ast.WalkTerms(rule, func(t *ast.Term) bool {
			switch t.Value.(type) {
			case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
				holds = holds || depends(t)
			}
			return holds
		})
	}
	return holds
}

// asides are what is to be asked about input beside what it came as: its body in the other form, or in the other forms. It is nil
// where nothing is.
func (p *preparedPackage) asides(kinds []Kind, input *ast.Term) (a *aside, inputs iter.Seq[*ast.Term]) {
	for _, k := range kinds {
		detail := memberOf(input, k.Name)
		form, other, values := k.Bodies, k.Body, memberOf(detail, k.Bodies)
		if body := memberOf(detail, k.Body); body != nil {
			form, other, values = k.Body, k.Bodies, ast.ArrayTerm(ast.ArrayTerm(body))
		}
		if a = p.beside[place{k.Name, other}]; a != nil && values != nil {
			return a, each(values, func(value *ast.Term) *ast.Term {
				return withMember(input, k.Name, withMember(withMember(detail, form, nil), other, value))
			})
		}
	}
	return nil, nil
}

// each are the inputs with each value of a list in its place. Equal values are one.
func each(values *ast.Term, input func(value *ast.Term) *ast.Term) iter.Seq[*ast.Term] {
	list, ok := values.Value.(*ast.Array)
	if !ok {
		list = ast.NewArray(values)
	}
	return func(yield func(*ast.Term) bool) {
		seen := ast.NewSet()
		for i := range list.Len() {
			value := list.Elem(i)
			if seen.Contains(value) {
				continue
			}
			seen.Add(value)
			if !yield(input(value)) {
				return
			}
		}
	}
}

// maxAsides is how many evaluations' time it may take to ask about all values of a body.
const maxAsides = 10

// askAside is sets with what is said of the body in the form that it did not come in.
func (s *Set) askAside(ctx context.Context, p *preparedPackage, input *ast.Term, now time.Time, tracer topdown.QueryTracer, sets [2]Sets) ([2]Sets, error) {
	a, inputs := p.asides(s.options.Kinds, input)
	if a == nil {
		return sets, nil
	}
	end := s.options.Now().Add(maxAsides * s.options.Timeout)
	for in := range inputs {
		if s.options.Now().After(end) {
			return sets, fmt.Errorf("it took longer than %v to look at each value of the body", maxAsides*s.options.Timeout)
		}
		var alone [2]Sets
		if err := s.say(ctx, a.question, in, now, tracer, &alone); err != nil {
			return sets, err
		}
		for i := range sets {
			sets[i].addAside(&alone[i])
		}
		if a.allows && len(alone[0].Allow)+len(alone[1].Allow) == 0 {
			sets[0].Allow, sets[1].Allow = nil, nil
		}
		switch {
		case len(sets[0].Deny)+len(sets[1].Deny) > 0:
			return sets, nil // and nothing outranks that
		case len(sets[0].Ask)+len(sets[1].Ask) > maxElements:
			return sets, fmt.Errorf("the values of the body are asked about in more than %d ways", maxElements)
		}
	}
	return sets, nil
}

// addAside takes in what is said of a body in another form: nothing of it allows.
func (s *Sets) addAside(more *Sets) {
	s.Deny = append(s.Deny, more.Deny...)
	for _, ask := range more.Ask {
		if !slices.ContainsFunc(s.Ask, func(a gate.AskRule) bool { return a.Equal(&ask) }) {
			s.Ask = append(s.Ask, ask)
		}
	}
	for _, r := range more.Redact {
		if !slices.Contains(s.Redact, r) {
			s.Redact = append(s.Redact, r)
		}
	}
	s.Limit = s.Limit.Least(more.Limit)
}

func memberOf(object *ast.Term, name string) *ast.Term {
	if object == nil {
		return nil
	}
	o, ok := object.Value.(ast.Object)
	if !ok {
		return nil
	}
	return o.Get(ast.StringTerm(name))
}

// withMember is a copy of an object in which name has that value, or is not there where it is nil.
func withMember(object *ast.Term, name string, value *ast.Term) *ast.Term {
	var pairs [][2]*ast.Term
	object.Value.(ast.Object).Foreach(func(k, v *ast.Term) { //nolint:forcetypeassert // memberOf found a member in it
		if k.Value.Compare(ast.String(name)) != 0 {
			pairs = append(pairs, [2]*ast.Term{k, v})
		}
	})
	if value != nil {
		pairs = append(pairs, [2]*ast.Term{ast.StringTerm(name), value})
	}
	return ast.ObjectTerm(pairs...)
}
