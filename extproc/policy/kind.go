package policy

import (
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
			problems.at(r.loc, "nothing can be redacted by %s here: resources of policy %q are of kind %s", r.selector, pkg, quoted(kinds))
		}
	}
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
