package policy

import (
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/countersign/countersign/extproc/gate"
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
	worlds, counts := map[key]*world{}, s.counts()
	for pkg := range s.shape {
		kinds, rules := s.options.kindsOf(pkg)
		if counts[pkg] {
			s.checkSelectors(pkg, kinds, problems)
		}
		for _, kind := range kinds {
			k := key{kind, len(kinds) == 1}
			if worlds[k] == nil {
				worlds[k] = s.world(kind, k.alone, problems)
			}
			if rules {
				worlds[k].check(pkg, problems)
				s.checkLimits(pkg, worlds[k], problems)
			}
		}
	}
}

// counts are the packages whose rules count: those that resources name, global, and what these refer to.
func (s *Set) counts() map[string]bool {
	f := newFollower(s.compiler)
	for pkg := range s.shape {
		if _, rules := s.options.kindsOf(pkg); rules {
			f.followPackages(pkg)
		}
	}
	found := map[string]bool{}
	for rule := range f.seen {
		if place := packagePlace(rule.Module); len(place) == 2 && place[0] == "rules" {
			found[place[1]] = true
		}
	}
	return found
}

// checkSelectors reports redactions that are for none of the kinds that pkg rules on.
func (s *Set) checkSelectors(pkg string, kinds []string, problems *Problems) {
	for _, r := range s.shape[pkg] {
		fits := func(k Kind) bool { return slices.Contains(kinds, k.Name) && slices.Contains(k.Redact, r.selector) }
		if r.selector != "" && len(kinds) > 0 && !slices.ContainsFunc(s.options.Kinds, fits) {
			problems.at(r.loc, "nothing can be redacted by %s here: resources of policy %q are of kind %s%s", r.selector, pkg, quoted(kinds), s.redactedBy(kinds))
		}
	}
}

// checkLimits reports limits that an operation of w's kind would have, and that are not kept for it.
func (s *Set) checkLimits(pkg string, w *world, problems *Problems) {
	set := said{pkg: pkg, kind: limitSet}
	for _, rule := range w.compiler.GetRulesExact(set.ref()) {
		i := slices.IndexFunc(s.shape[pkg], func(r setRule) bool { return r.kind == limitSet && r.loc.Compare(rule.Loc()) == 0 })
		if i < 0 {
			continue
		}
		r := s.shape[pkg][i]
		if unkept := s.unkept(w.kind, r.limits); unkept != "" && w.rule(rule).life == live {
			fix := "Take the rule out"
			if fit := s.keepers(unkept); len(fit) > 0 {
				fix = "Add the condition `input.resource.kind == " + quoted(fit) + "`, or move the rule to the package of such resources"
			}
			problems.at(r.loc, "nothing can be limited by %s for resources of kind %q, which %s rules on. %s", unkept, w.kind, packageClause(pkg), fix)
		}
	}
}

// unkept is the first of limits that is not kept for resources of a kind; empty where all are.
func (s *Set) unkept(kind string, limits []gate.Limit) gate.Limit {
	for _, limit := range limits {
		if !slices.Contains(s.keepers(limit), kind) {
			return limit
		}
	}
	return ""
}

// keepers are the kinds of resources for which a limit is kept.
func (s *Set) keepers(limit gate.Limit) (kinds []string) {
	for _, k := range s.options.Kinds {
		if slices.Contains(k.Limit, limit) {
			kinds = append(kinds, k.Name)
		}
	}
	return kinds
}

// keeps refuses an operation with limits that are not kept for its kind. Limits that are written out do not load.
func (s *Set) keeps(kind string, limits gate.Limits) error {
	named := slices.DeleteFunc(slices.Clone(gate.AllLimits), func(l gate.Limit) bool { return !limits.Has(l) })
	if unkept := s.unkept(kind, named); unkept != "" {
		return &gate.Unfit{Problem: gate.Denied, Detail: fmt.Sprintf("Policy limits this operation by %s, which cannot be kept for resources of kind %q, so it was refused. Repeating it will not help.", unkept, kind)}
	}
	return nil
}

// kindIn is the kind of the resource of an input; empty where it has none.
func kindIn(input *ast.Term) string {
	if kind := memberOf(memberOf(input, "resource"), "kind"); kind != nil {
		if name, ok := kind.Value.(ast.String); ok {
			return string(name)
		}
	}
	return ""
}

// redactedBy says by what something can be redacted in kinds.
func (s *Set) redactedBy(kinds []string) string {
	var list []string
	for _, k := range s.options.Kinds {
		if slices.Contains(kinds, k.Name) {
			for _, selector := range k.Redact {
				list = append(list, string(selector))
			}
		}
	}
	if list == nil {
		return ""
	}
	return ", which redacts by " + quoted(list)
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
		ref, ok := refFrom("input", t)
		if !ok || len(ref) < 2 {
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
