package policy

import (
	"cmp"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/countersign/countersign/extproc/gate"
)

// The shape of a policy is what its text shows: which sets it defines, and those parts of their elements that are written out.
// OPA would evaluate most of what is refused here, and nobody would read the result. A deny that nobody reads is the worst
// mistake a policy can have.

// setRule is one rule of one of the five sets.
type setRule struct {
	kind setKind
	loc  *ast.Location

	selector gate.Selector // of an element of redact, if it is written out
	limits   []gate.Limit  // of an element of limit, if they are written out
}

// shape has the rules of the sets of every package under data.rules.
type shape map[string][]setRule

func (s shape) has(pkg string, kind setKind) bool {
	return slices.ContainsFunc(s[pkg], func(r setRule) bool { return r.kind == kind })
}

// global is the package that rules on every resource.
const global = "global"

// read adds the rules of one module.
func (s shape) read(module *ast.Module, input reflect.Type, check func(gate.Redaction) error, test bool, problems *Problems) {
	for _, rule := range module.Rules {
		place, ground := rulePlace(module, rule)
		if len(place) == 0 || place[0] != "rules" {
			continue
		}
		if s.readRule(rule, place, ground, check, test, problems) {
			checkNegation(module, rule, input, kindOf(place[2]), problems)
		}
	}
}

// rulePlace returns where in data the rule stands. ground is false if only the beginning is known: payments, of a head such as
// payments[x].deny.
func rulePlace(module *ast.Module, rule *ast.Rule) (place []string, ground bool) {
	ref := rule.Head.Ref()
	for i, term := range slices.Concat(module.Package.Path[1:], ref) {
		switch v := term.Value.(type) {
		case ast.String:
			place = append(place, string(v))
		case ast.Var:
			if i != len(module.Package.Path)-1 { // the rule's own name is a Var; another one is a variable
				return place, false
			}
			place = append(place, string(v))
		default:
			return place, false
		}
	}
	return place, true
}

// setOf returns the package and the kind of the set that rule belongs to; the kind is notASet if it belongs to none.
func setOf(rule *ast.Rule) (pkg string, kind setKind) {
	if rule.Module == nil {
		return "", notASet
	}
	place, ground := rulePlace(rule.Module, rule)
	if !ground || len(place) != 3 || place[0] != "rules" {
		return "", notASet
	}
	return place[1], kindOf(place[2])
}

// readRule adds one rule under data.rules. It reports whether the rule belongs to a set and was added.
func (s shape) readRule(rule *ast.Rule, place []string, ground bool, check func(gate.Redaction) error, test bool, problems *Problems) bool {
	loc := rule.Loc()
	switch {
	case len(place) < 3 && !ground:
		problems.at(loc, "which set of rules this is a part of cannot be told from its name; write package rules.NAME and a set called allow, ask, deny, redact or limit")
		return false
	case len(place) < 3:
		problems.at(loc, "data.%s is a rule where a package belongs: write package rules.NAME above it", strings.Join(place, "."))
		return false
	}
	pkg, name := place[1], place[2]
	kind := kindOf(name)
	if kind == notASet {
		checkNearby(rule, place, problems)
		return false
	}
	if !s.checkSet(rule, kind, place, ground, problems) {
		return false
	}
	if test {
		problems.at(loc, "%s is defined in a test file, which is not loaded; move it to a file whose name does not end in _test.rego", kind)
		return false
	}
	one := setRule{kind: kind, loc: loc}
	one.selector, one.limits = checkElement(rule, kind, check, problems)
	s[pkg] = append(s[pkg], one)
	return true
}

// checkSet checks that a rule called allow, ask, deny, redact or limit is a set. A boolean of that name would be ignored.
func (s shape) checkSet(rule *ast.Rule, kind setKind, place []string, ground bool, problems *Problems) bool {
	fix := kind.String() + " contains " + kind.form() + " if …"
	switch head := rule.Head; {
	case rule.Default:
		problems.at(rule.Loc(), "%s has a default, but it is a set: leave the line out (nothing said denies) and write %s", kind, fix)
	case len(place) > 3 || !ground:
		problems.at(rule.Loc(), "%s has members of its own, but it is a set: write %s", kind, fix)
	case len(head.Args) > 0:
		problems.at(rule.Loc(), "%s is a function, but it must be a set: write %s", kind, fix)
	case head.Key == nil || head.Value != nil:
		problems.at(rule.Loc(), "%s is a single value, but it must be a set, or it would be ignored: write %s", kind, fix)
	default:
		return true
	}
	return false
}

// checkNearby reports sets that their author seems to think count: deeper down than sets are looked for, or with almost the
// name of a set. Only sets are reported: a boolean `denied` is a fair name for a helper.
func checkNearby(rule *ast.Rule, place []string, problems *Problems) {
	isSet := rule.Head.Key != nil && rule.Head.Value == nil
	for _, part := range place[3:] {
		if kind := kindOf(part); kind != notASet && isSet {
			problems.at(rule.Loc(), "data.%s is never evaluated: a resource's rules are the sets of data.rules.NAME itself; move it to package rules.%s, or out of rules when it is a library",
				strings.Join(place, "."), place[1])
			return
		}
	}
	if kind := nearMiss(place[2]); isSet && kind != notASet {
		problems.at(rule.Loc(), "the set %s is never evaluated; did you mean %s? If it is a set of another kind, give it a name that is further away", place[2], kind)
	}
}

// nearMiss returns the kind of set that name was probably meant to be, or notASet.
func nearMiss(name string) setKind {
	for kind := allowSet; kind < setKinds; kind++ {
		word := kind.String()
		stem := strings.TrimSuffix(strings.TrimSuffix(word, "y"), "e")
		lower := strings.Trim(strings.ToLower(name), "_")
		for _, ending := range []string{"", "s", "es", "ed", "ies", "ied", "y", "ys", "ion", "ions", "ing", "al", "er"} {
			if lower == word+ending || lower == stem+ending && len(stem) > 2 && ending != "" {
				return kind
			}
		}
		// Short words have too many neighbours: task and mask are fair names.
		if len(word) > 3 && oneEditApart(lower, word) || transposed(lower, word) {
			return kind
		}
	}
	return notASet
}

// oneEditApart reports whether adding, removing or changing one letter turns a into b.
func oneEditApart(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	if len(a) == len(b) {
		return i < len(a) && a[i+1:] == b[i+1:]
	}
	return a[i:] == b[i+1:]
}

func transposed(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i+1 < len(a); i++ {
		if a[i] != b[i] {
			return a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
		}
	}
	return false
}

// checkElement reports what is visibly wrong with the elements that a rule adds to its set. What is computed is checked when it
// is evaluated. It returns the selector of a redaction, and the names of limits, if these are written out.
func checkElement(rule *ast.Rule, kind setKind, check func(gate.Redaction) error, problems *Problems) (selector gate.Selector, limits []gate.Limit) {
	term := rule.Head.Key
	loc := cmp.Or(term.Location, rule.Loc())
	object, ok := term.Value.(ast.Object)
	if !ok {
		if isConstant(term.Value) || isCollection(term.Value) {
			problems.at(loc, "an element of %s is a %s, not an object %s", kind, ast.ValueName(term.Value), kind.form())
		}
		return "", nil
	}
	var e element
	seen := true // everything is written out
	object.Foreach(func(name, value *ast.Term) {
		var err error
		switch {
		case !isConstant(name.Value):
			seen = false
		case isConstant(value.Value):
			err = e.set(kind, name.Value, value.Value)
		default:
			err = e.mark(kind, name.Value)
			seen = false
		}
		if err != nil {
			problems.at(cmp.Or(name.Location, loc), "%s", err)
			seen = false
		}
	})
	if err := e.complete(kind); err != nil && (seen || allNamesConstant(object)) {
		problems.at(loc, "%s", err)
		return "", nil
	}
	if kind == redactSet && seen {
		if err := checkRedaction(check, e.redaction()); err != nil {
			problems.at(loc, "%s", err)
		}
	}
	switch {
	case e.hasPath:
		return gate.ByPath, nil
	case e.hasDetect:
		return gate.ByDetect, nil
	case e.hasColumn:
		return gate.ByColumn, nil
	default:
		return "", e.limited
	}
}

func allNamesConstant(o ast.Object) bool {
	return !o.Until(func(name, _ *ast.Term) bool { return !isConstant(name.Value) })
}

// isConstant reports whether v is written out: no variable, reference, call or comprehension in it.
func isConstant(v ast.Value) bool {
	switch v := v.(type) {
	case ast.Null, ast.Boolean, ast.Number, ast.String:
		return true
	case *ast.Array:
		return !v.Until(func(t *ast.Term) bool { return !isConstant(t.Value) })
	case ast.Object:
		return !v.Until(func(name, value *ast.Term) bool { return !isConstant(name.Value) || !isConstant(value.Value) })
	case ast.Set:
		return !v.Until(func(t *ast.Term) bool { return !isConstant(t.Value) })
	default:
		return false
	}
}

// isCollection reports whether v is a list, a set or a comprehension: never an object, whatever is in it.
func isCollection(v ast.Value) bool {
	switch v.(type) {
	case *ast.Array, ast.Set, *ast.ArrayComprehension, *ast.SetComprehension, *ast.TemplateString:
		return true
	default:
		return false
	}
}

// others lists the policies that there are rules for, to help whoever misspelt one.
func (s shape) others() string {
	var names []string
	for pkg, rules := range s {
		if pkg != global && len(rules) > 0 {
			names = append(names, strconv.Quote(pkg))
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	if len(names) > 10 {
		names = append(names[:10], "…")
	}
	return "; there are rules for " + strings.Join(names, ", ")
}

// checkPackages reports packages that resources name and that do not exist, and packages that were probably meant to be global.
func (s shape) checkPackages(packages map[string][]string, where string, problems *Problems) {
	for pkg := range packages {
		switch {
		case len(s[pkg]) > 0:
		case pkg == "":
			problems.add("", 0, 0, "a resource names no policy; `policy: NAME` evaluates data.rules.NAME")
		case strings.Contains(pkg, ".") && len(s[strings.Split(pkg, ".")[0]]) > 0:
			problems.add(where, 0, 0, "no rules for policy %q: it is one name, so its package is rules[%s], not rules.%s", pkg, strconv.Quote(pkg), pkg)
		default:
			problems.add(where, 0, 0, "no rules for policy %q: nothing defines allow, ask, deny, redact or limit in %s%s", pkg, packageClause(pkg), s.others())
		}
	}
	for pkg, rules := range s {
		lower := strings.ToLower(pkg)
		if pkg != global && (lower == global || oneEditApart(lower, global) || transposed(lower, global)) && packages[pkg] == nil {
			problems.at(rules[0].loc, "package rules.%s is never evaluated; did you mean rules.global?", pkg)
		}
	}
}

// packageClause returns the first line of a file of the package.
func packageClause(pkg string) string {
	if ast.IsVarCompatibleString(pkg) && !ast.IsKeyword(pkg) {
		return "package rules." + pkg
	}
	return "package rules[" + strconv.Quote(pkg) + "]"
}
