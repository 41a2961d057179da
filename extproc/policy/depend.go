package policy

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/countersign/countersign/extproc/gate"
)

// uses says what in the input a package's verdict can depend on, by the text of its rules. In doubt it is a dependence.
type uses struct {
	context bool // input.context, or something that could be it

	everything bool           // any part of the detail
	of         map[place]bool // these parts of the detail
}

// place is input.DETAIL.member.name. An empty name means any: the rule takes the whole member, or computes the name.
type place struct{ member, name string }

// any reports whether the verdict can depend on something in volatile. Volatile fields are not in the key of the cache.
func (u *uses) any(volatile gate.Object) bool {
	for _, m := range volatile {
		names, _ := m.Value.(gate.Object)
		for _, n := range names {
			if u.everything || u.of[place{m.Name, ""}] || u.of[place{m.Name, n.Name}] {
				return true
			}
		}
	}
	return false
}

// usesOf returns what the rules of pkg and global, and everything that they reach, use of the input.
func usesOf(compiler *ast.Compiler, pkg string) uses {
	f := newFollower(compiler)
	f.followPackages(pkg)
	return f.uses
}

// follower walks rules and what they refer to, and collects what that uses.
type follower struct {
	compiler *ast.Compiler
	seen     map[*ast.Rule]bool
	uses     uses
	data     map[string][]string // places in data that are referred to, as far as they are written out

	whole    map[string][]string // modules of each package; if it is set, reaching one rule of a package reaches all
	packages map[string]bool     // the packages that were followed whole

	list      string // a name to look for in texts, or ""
	namesList bool   // it was found
}

func newFollower(compiler *ast.Compiler) *follower {
	return &follower{
		compiler: compiler, seen: map[*ast.Rule]bool{}, uses: uses{of: map[place]bool{}},
		data: map[string][]string{}, packages: map[string]bool{},
	}
}

// followPackages follows the rules of package pkg and of global.
func (f *follower) followPackages(pkg string) {
	for _, name := range []string{pkg, global} {
		place := ast.Ref{ast.DefaultRootDocument, ast.StringTerm("rules"), ast.StringTerm(name)}
		f.followAll(f.compiler.GetRules(place))
	}
}

// followAll follows rules, but not tests: a test counts only if another rule refers to it.
func (f *follower) followAll(rules []*ast.Rule) {
	for _, rule := range rules {
		if !isTestRule(rule) {
			f.follow(rule)
		}
	}
}

func (f *follower) follow(rule *ast.Rule) {
	if f.seen[rule] {
		return
	}
	f.seen[rule] = true
	f.takeIn(rule.Module)
	f.read(rule)
	for dependency := range f.compiler.Graph.Dependencies(rule) {
		if next, ok := dependency.(*ast.Rule); ok {
			f.follow(next)
		}
	}
	if rule.Else != nil {
		f.follow(rule.Else)
	}
}

// takeIn follows all rules of module's package, if packages are followed whole.
func (f *follower) takeIn(module *ast.Module) {
	if f.whole == nil || module == nil || f.packages[module.Package.Path.String()] {
		return
	}
	pkg := module.Package.Path.String()
	f.packages[pkg] = true
	for _, name := range f.whole[pkg] {
		f.followAll(f.compiler.Modules[name].Rules)
	}
}

// read notes every reference in x. A bare `input` (given to a function, walked, assigned, or replaced with `with`) could lead
// anywhere, and so could a bare `data`.
func (f *follower) read(x any) {
	ast.WalkTerms(x, func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Ref:
			f.ref(v)
			for _, part := range v[1:] { // v[0] alone would look bare
				f.read(part)
			}
			return true
		case ast.String:
			f.namesList = f.namesList || f.list != "" && string(v) == f.list
		case ast.Var:
			if v == "input" || v == "data" {
				f.all()
			}
		}
		return false
	})
}

func (f *follower) all() { f.uses.context, f.uses.everything = true, true }

func (f *follower) ref(ref ast.Ref) {
	root, _ := ref[0].Value.(ast.Var)
	if root == "data" {
		f.dataRef(ref[1:])
	}
	switch {
	case root == "input" && (len(ref) == 1 || !isString(ref[1])), root == "data" && (len(ref) == 1 || !isString(ref[1])):
		f.all()
	case root == "input" && is(ref[1], "context"):
		f.uses.context = true
	case root == "input" && !is(ref[1], "principal") && !is(ref[1], "resource"):
		f.detail(ref[2:])
	}
}

// dataRef notes a reference to data: the place up to which its path is written out, and all below it.
func (f *follower) dataRef(path ast.Ref) {
	var at []string
	for _, t := range path {
		name, ok := t.Value.(ast.String)
		if !ok {
			break
		}
		at = append(at, string(name))
	}
	f.data[fmt.Sprintf("%q", at)] = at
}

// detail notes a reference to path in the operation's detail.
func (f *follower) detail(path ast.Ref) {
	if len(path) == 0 || !isString(path[0]) {
		f.uses.everything = true
		return
	}
	at := place{member: string(path[0].Value.(ast.String))} //nolint:forcetypeassert // isString
	if len(path) > 1 && isString(path[1]) {
		at.name = string(path[1].Value.(ast.String)) //nolint:forcetypeassert // isString
	}
	f.uses.of[at] = true
}

func isString(t *ast.Term) bool {
	_, ok := t.Value.(ast.String)
	return ok
}

func is(t *ast.Term, s string) bool { return t.Value.Compare(ast.String(s)) == 0 }
