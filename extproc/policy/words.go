package policy

import "github.com/open-policy-agent/opa/v1/ast"

// Summaries and reasons are made of what an agent sent, and in Rego a rule whose element has a value that cannot be made says nothing:
// an agent that left the amount out would not be asked about, or not be denied. So words that are computed in the head of a rule
// that asks or denies are compiled as
//
//	object.get({"words": w | w := WORDS}, "words", "")
//
// which is empty where they cannot be made, and the rule holds all the same.

// madeWords is the variable of that comprehension. Nobody calls theirs so.
const madeWords = "__words_that_are_made"

// speakWithoutWords makes every rule of a set ask or deny of module hold whether its words can be made or not.
func speakWithoutWords(module *ast.Module) {
	for _, rule := range module.Rules {
		if _, kind := setOf(rule); kind != askSet && kind != denySet || rule.Head.Key == nil {
			continue
		}
		object, ok := rule.Head.Key.Value.(ast.Object)
		if !ok {
			continue
		}
		made := ast.NewObject()
		object.Foreach(func(name, value *ast.Term) {
			if (is(name, "summary") || is(name, "reason")) && !isConstant(value.Value) && !isSeveral(value) {
				value = orEmpty(value)
			}
			made.Insert(name, value)
		})
		rule.Head.Key = &ast.Term{Value: made, Location: rule.Head.Key.Location}
	}
}

// isSeveral reports whether t goes through all of something, so that the rule adds an element for each.
func isSeveral(t *ast.Term) (several bool) {
	ast.WalkVars(t, func(v ast.Var) bool {
		several = several || v.IsWildcard()
		return several
	})
	return several
}

// orEmpty is t, or the empty text where t is undefined.
func orEmpty(t *ast.Term) *ast.Term {
	at := func(x *ast.Term) *ast.Term { return x.SetLocation(t.Location) }
	w := func() *ast.Term { return at(ast.VarTerm(madeWords)) }
	name := func() *ast.Term { return at(ast.StringTerm("words")) }
	assign := ast.Assign.Expr(w(), t).SetLocation(t.Location)
	made := at(ast.ObjectComprehensionTerm(name(), w(), ast.NewBody(assign)))
	return at(ast.CallTerm(at(ast.NewTerm(ast.ObjectGet.Ref())), made, name(), at(ast.StringTerm(""))))
}
