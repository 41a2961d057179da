package policy

import "github.com/open-policy-agent/opa/v1/ast"

// A summary is made of what an agent sent, and in Rego a rule whose element has a value that cannot be made says nothing: an agent
// that left the amount out would not be asked about. So a summary that is computed in a rule's head is compiled as
//
//	object.get({"summary": s | s := SUMMARY}, "summary", "")
//
// which is empty where it cannot be made, and the rule asks all the same.

// madeSummary is the variable of that comprehension. Nobody calls theirs so.
const madeSummary = "__summary_that_is_made"

// askWithoutSummary makes every rule of a set ask of module hold whether its summary can be made or not.
func askWithoutSummary(module *ast.Module) {
	for _, rule := range module.Rules {
		if _, kind := setOf(rule); kind != askSet || rule.Head.Key == nil {
			continue
		}
		object, ok := rule.Head.Key.Value.(ast.Object)
		if !ok {
			continue
		}
		summary := object.Get(ast.StringTerm("summary"))
		if summary == nil || isConstant(summary.Value) {
			continue
		}
		made := ast.NewObject()
		object.Foreach(func(name, value *ast.Term) {
			if value == summary {
				value = orEmpty(summary)
			}
			made.Insert(name, value)
		})
		rule.Head.Key = &ast.Term{Value: made, Location: rule.Head.Key.Location}
	}
}

// orEmpty is t, or the empty text where t is undefined.
func orEmpty(t *ast.Term) *ast.Term {
	at := func(x *ast.Term) *ast.Term { return x.SetLocation(t.Location) }
	s := func() *ast.Term { return at(ast.VarTerm(madeSummary)) }
	assign := ast.Assign.Expr(s(), t).SetLocation(t.Location)
	name := func() *ast.Term { return at(ast.StringTerm("summary")) }
	made := at(ast.ObjectComprehensionTerm(name(), s(), ast.NewBody(assign)))
	return at(ast.CallTerm(at(ast.NewTerm(ast.ObjectGet.Ref())), made, name(), at(ast.StringTerm(""))))
}
