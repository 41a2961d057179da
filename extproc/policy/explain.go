package policy

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/strict"
)

// Explanation is a verdict with what made it.
type Explanation struct {
	Verdict gate.Verdict

	// Failure is why the evaluation failed, which denies; empty when it did not.
	Failure string

	// Said is every element of every set, including those that were outranked.
	Said []Statement

	// Silent are the allow rules that did not hold, if the operation was denied because nothing was said.
	Silent []Place

	// Strange are members of the input that no operation has: whoever wrote the input made them up.
	Strange []string
}

// Statement is one element of a set, and where it comes from.
type Statement struct {
	Set     string // "allow", "ask", "deny", "redact" or "limit"
	Package string
	Element string // as canonical text
	Places  []Place
}

// Place is a rule in a file.
type Place struct {
	File string
	Line int
}

func (p Place) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// ByDefault reports whether the operation was denied because no rule said anything.
func (e *Explanation) ByDefault() bool {
	return e.Failure == "" && e.Verdict.Effect == gate.Deny && len(e.Verdict.Rules) == 0
}

// String is the explanation for a person, one line for each thing.
func (e *Explanation) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "verdict: %s\n", e.Verdict.Effect)
	switch {
	case e.Failure != "":
		fmt.Fprintf(&out, "because the evaluation failed: %s\n", inOneLine(e.Failure))
	case e.ByDefault():
		fmt.Fprintf(&out, "because nothing was said: no rule allows it\n")
	}
	for _, s := range e.Said {
		places := make([]string, len(s.Places))
		for i, p := range s.Places {
			places[i] = p.String()
		}
		fmt.Fprintf(&out, "%-7s %s %s  %s\n", s.Set, s.Package, s.Element, strings.Join(places, ", "))
	}
	for _, p := range e.Silent {
		fmt.Fprintf(&out, "silent  an allow rule that does not hold here  %s\n", p)
	}
	for _, name := range e.Strange {
		fmt.Fprintf(&out, "warning: input.%s is nothing that an operation has\n", inOneLine(name))
	}
	return out.String()
}

// inOneLine keeps text of the input from looking like a line of the explanation.
func inOneLine(s string) string { return strings.ReplaceAll(s, "\n", `\u{A}`) }

// Explain evaluates package pkg and global on input: an operation's input as policies see it, with the context, as JSON. A
// failure of the evaluation is part of the explanation. An error means that there is nothing to explain: no such package, or
// an input that is not one strict JSON object.
func (s *Set) Explain(ctx context.Context, pkg string, input []byte) (Explanation, error) {
	p, ok := s.packages[pkg]
	if !ok {
		return Explanation{}, fmt.Errorf("explain: there are no rules for policy %q; there are %q", pkg, s.Packages())
	}
	o, err := parseObject(input)
	if err != nil {
		return Explanation{}, fmt.Errorf("explain: read the input: %w", err)
	}
	b := newBuilder(s.terms)
	defer b.release()
	term, err := b.value(o, 0)
	if err != nil {
		return Explanation{}, fmt.Errorf("explain: read the input: %w", err)
	}
	trace := &sources{found: map[string][]Place{}}
	x := Explanation{Strange: strange(o, s.schema, "")}
	x.Verdict, err = s.judge(ctx, p, term, time.Time{}, trace)
	if err == nil {
		err = s.keeps(kindIn(term), x.Verdict.Limits)
	}
	x.Verdict.PolicyDigest, x.Verdict.RulesDigest = s.digest, p.digest
	if err != nil {
		x.Verdict, x.Failure = gate.Verdict{PolicyDigest: s.digest, RulesDigest: p.digest}, err.Error()
	}
	x.Said = s.said(ctx, p, term, trace)
	if x.ByDefault() {
		x.Silent = s.silent(p)
	}
	return x, nil
}

// said lists the elements of every set, and those that the other form of the body adds (see several.go).
func (s *Set) said(ctx context.Context, p *preparedPackage, input *ast.Term, trace *sources) []Statement {
	list := s.statements(ctx, p.question, input, trace)
	a, inputs := p.asides(s.options.Kinds, input)
	if a == nil {
		return list
	}
	for in := range inputs {
		for _, said := range s.statements(ctx, a.question, in, trace) {
			if said.Set != allowSet.String() && !slices.ContainsFunc(list, said.same) {
				list = append(list, said)
			}
		}
		if len(list) > maxElements {
			break
		}
	}
	return list
}

func (s *Statement) same(other Statement) bool {
	return s.Set == other.Set && s.Package == other.Package && s.Element == other.Element
}

// statements lists the elements of each set of q, or nothing if the evaluation fails.
func (s *Set) statements(ctx context.Context, q *question, input *ast.Term, trace *sources) []Statement {
	answer, err := s.run(ctx, q, input, time.Time{}, nil)
	if err != nil {
		return nil
	}
	var list []Statement
	for _, r := range q.reads {
		set, ok := answer[r.variable].Value.(ast.Set)
		if !ok {
			continue
		}
		set.Foreach(func(t *ast.Term) {
			places := trace.found[sourceKey(r.pkg, r.kind, t.Value)]
			list = append(list, Statement{Set: r.kind.String(), Package: r.pkg, Element: t.Value.String(), Places: places})
		})
	}
	return list
}

func (s *Set) silent(p *preparedPackage) []Place {
	var places []Place
	for _, pkg := range slices.Compact([]string{p.name, global}) {
		for _, rule := range s.shape[pkg] {
			if rule.kind == allowSet {
				places = append(places, Place{rule.loc.File, rule.loc.Row})
			}
		}
	}
	return places
}

// sources is a tracer that notes which rule put which element into which set.
type sources struct {
	found map[string][]Place
}

func (*sources) Enabled() bool               { return true }
func (*sources) Config() topdown.TraceConfig { return topdown.TraceConfig{PlugLocalVars: true} }

func (s *sources) TraceEvent(e topdown.Event) {
	rule, ok := e.Node.(*ast.Rule)
	if !ok || e.Op != topdown.ExitOp || rule.Head.Key == nil {
		return
	}
	pkg, kind := setOf(rule)
	if kind == notASet {
		return
	}
	key := sourceKey(pkg, kind, plugged(rule.Head.Key, e.Locals).Value)
	at := Place{rule.Loc().File, rule.Loc().Row}
	if !slices.Contains(s.found[key], at) {
		s.found[key] = append(s.found[key], at)
	}
}

// plugged returns a copy of t with values in place of variables. t itself is being evaluated, so OPA's transformers, which
// write into their argument, cannot be used.
func plugged(t *ast.Term, values *ast.ValueMap) *ast.Term {
	switch v := t.Value.(type) {
	case ast.Var:
		if bound := values.Get(v); bound != nil {
			return ast.NewTerm(bound)
		}
	case *ast.Array:
		list := make([]*ast.Term, 0, v.Len())
		v.Foreach(func(item *ast.Term) { list = append(list, plugged(item, values)) })
		return ast.ArrayTerm(list...)
	case ast.Object:
		var pairs [][2]*ast.Term
		v.Foreach(func(name, value *ast.Term) {
			pairs = append(pairs, [2]*ast.Term{plugged(name, values), plugged(value, values)})
		})
		return ast.ObjectTerm(pairs...)
	case ast.Set:
		var items []*ast.Term
		v.Foreach(func(item *ast.Term) { items = append(items, plugged(item, values)) })
		return ast.SetTerm(items...)
	}
	return t
}

func sourceKey(pkg string, kind setKind, element ast.Value) string {
	return pkg + "\x00" + kind.String() + "\x00" + element.String()
}

// parseObject reads one strict JSON object: no name twice, nothing after it.
func parseObject(text []byte) (gate.Object, error) {
	if len(text) > maxFileBytes {
		return nil, fmt.Errorf("it is larger than %d MiB", maxFileBytes>>20)
	}
	return strict.Object(text, maxDepth)
}

// strange lists the members of o that the schema does not have.
func strange(o gate.Object, t reflect.Type, at string) []string {
	var list []string
	for _, m := range o {
		field, ok := fieldNamed(t, m.Name)
		if !ok {
			list = append(list, at+m.Name)
			continue
		}
		inner := field.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if object, ok := m.Value.(gate.Object); ok && inner.Kind() == reflect.Struct {
			list = append(list, strange(object, inner, at+m.Name+".")...)
		}
	}
	return list
}

func fieldNamed(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if memberName(t.Field(i)) == name {
			return t.Field(i), true
		}
	}
	return reflect.StructField{}, false
}
