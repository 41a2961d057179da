package policy

import "github.com/open-policy-agent/opa/v1/ast"

// Summaries and reasons are made of what an agent sent, and in Rego a rule whose element has a value that cannot be made says nothing:
// an agent that left the amount out would not be asked about, or not be denied. So words that are computed in the head of a rule
// that asks or denies are compiled as
//
//	words := {w | w := WORDS}                     # at the end of the body
//	object.get({set(): {""}}, words, words)[_]    # in the head
//
// which is each text that they give, or the empty one where they cannot be made, and the rule holds all the same.

// madeWords begins the names of these variables. Nobody calls theirs so.
const madeWords = "__words_that_are_made_"

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
				value = orEmpty(rule, string(name.Value.(ast.String)), value) //nolint:forcetypeassert // it is one of two texts
			}
			made.Insert(name, value)
		})
		rule.Head.Key = &ast.Term{Value: made, Location: rule.Head.Key.Location}
	}
}

// isSeveral reports whether t goes through all of something with a `_`, so that the rule adds an element for each, and none for none.
func isSeveral(t *ast.Term) bool {
	vars := ast.NewVarVisitor().WithParams(ast.VarVisitorParams{SkipClosures: true})
	vars.Walk(t)
	for v := range vars.Vars() {
		if v.IsWildcard() {
			return true
		}
	}
	return false
}

// orEmpty is each text that t gives the member called name of rule's element, or the empty one.
func orEmpty(rule *ast.Rule, name string, t *ast.Term) *ast.Term {
	at := func(x *ast.Term) *ast.Term { return x.SetLocation(t.Location) }
	w := func() *ast.Term { return at(ast.VarTerm(madeWords)) }
	words := func() *ast.Term { return at(ast.VarTerm(madeWords + name)) }
	assign := func(to, value *ast.Term) *ast.Expr { return ast.Assign.Expr(to, value).SetLocation(t.Location) }
	rule.Body.Append(assign(words(), at(ast.SetComprehensionTerm(w(), ast.NewBody(assign(w(), t))))))
	none := at(ast.ObjectTerm(ast.Item(at(ast.SetTerm()), at(ast.SetTerm(at(ast.StringTerm("")))))))
	texts := at(ast.CallTerm(at(ast.NewTerm(ast.ObjectGet.Ref())), none, words(), words()))
	return at(ast.RefTerm(texts, at(ast.VarTerm(ast.WildcardPrefix+name))))
}
