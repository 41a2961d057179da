package policy

import (
	"reflect"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Rego evaluates the arguments of a negated call before the `not`: not startswith(input.http.segments[1], "x") is
// undefined, and not true, when there is no segment 1. A deny that is written so does not hold exactly when the agent
// leaves out what it looks at. Rego has had a better `not` behind an import since OPA 1.18, and a rule that denies, asks or
// redacts must use it where the difference can be seen to matter. An allow is left alone: there the old meaning refuses.

// betterNot is the import, in the forms that have it.
var betterNot = []string{"future.keywords.not", "rego.v2"}

// checkNegation reports the negated calls of rule that could go undefined.
func checkNegation(module *ast.Module, rule *ast.Rule, input reflect.Type, kind setKind, problems *Problems) {
	imported := slices.ContainsFunc(module.Imports, func(i *ast.Import) bool {
		return slices.Contains(betterNot, i.Path.String())
	})
	if imported || kind == allowSet {
		return
	}
	ast.WalkExprs(rule, func(e *ast.Expr) bool {
		if !e.Negated {
			return false
		}
		if ref := (optional{input}).evaluatedBefore(e); ref != nil {
			problems.at(e.Location, "when there is no %s, this `not` does not hold and the %s says nothing: add `import future.keywords.not` to the file, which makes it hold", ref, kind)
		}
		return false
	})
}

// optional finds references to parts of the input that an operation may be without.
type optional struct{ input reflect.Type }

// evaluatedBefore is a reference to an optional part of the input that is evaluated before the `not` of e: an argument of
// its call, or what is nested in a reference or a comparison. Only == and a bare reference are themselves negated whole.
func (o optional) evaluatedBefore(e *ast.Expr) ast.Ref {
	var terms []*ast.Term
	switch t := e.Terms.(type) {
	case *ast.Term:
		return o.nestedInput(t)
	case []*ast.Term:
		terms = t[1:]
	default:
		return nil
	}
	look := o.optionalInput
	if name := e.Operator().String(); name == "equal" || name == "eq" {
		look = o.nestedInput
	}
	for _, t := range terms {
		if ref := look(t); ref != nil {
			return ref
		}
	}
	return nil
}

// nestedInput is like optionalInput, for what is inside t.
func (o optional) nestedInput(t *ast.Term) ast.Ref {
	ref, ok := t.Value.(ast.Ref)
	if !ok {
		return o.optionalInput(t)
	}
	for _, part := range ref[1:] {
		if found := o.optionalInput(part); found != nil {
			return found
		}
	}
	return nil
}

// optionalInput is a reference within t to a part of the input that an operation may be without.
func (o optional) optionalInput(t *ast.Term) (found ast.Ref) {
	ast.WalkRefs(t, func(ref ast.Ref) bool {
		if found == nil && ref[0].Value.Compare(ast.Var("input")) == 0 && o.isOptional(ref[1:]) {
			found = ref
		}
		return found != nil
	})
	return found
}

// isOptional follows the names of a reference through the schema. Inside of lists and free objects nothing is sure.
func (o optional) isOptional(names ast.Ref) bool {
	t := o.input
	for _, name := range names {
		s, ok := name.Value.(ast.String)
		if !ok || t.Kind() != reflect.Struct {
			return true
		}
		field, ok := fieldNamed(t, string(s))
		if !ok || mayBeMissing(field) {
			return true
		}
		t = field.Type
	}
	return false
}
