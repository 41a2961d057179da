// Package policy is what Rego says of an operation. It loads a directory or a bundle, refuses at load whatever it can see
// to be wrong, and evaluates the packages of a resource and rules.global to one [gate.Verdict]. It is the only importer of
// OPA; no OPA type leaves it.
//
// # What it is trusted with
//
// Whoever writes the policies decides everything: this package trusts their intent, and nothing else. It does not trust
// the input, which an agent chose. It does not trust that a mistake in a policy is harmless: Rego gives `undefined` for
// most mistakes, undefined reads as "this deny does not hold", and so a typing error in a deny rule would allow. That is
// why there is a schema (input.htp.method does not load), why a rule called deny that is not a set does not load, why a
// set called denies does not load, why built-in errors are errors (StrictBuiltinErrors), and why an element that cannot be
// decoded denies. A `not` that an agent could make vanish by leaving something out does not load either: see negation.go. Nor
// does a rule that depends on an operation being of another kind, so that its detail is not there: see kind.go. A rule
// about one body of JSON holds for each of several, and the other way round: see several.go. A rule whose words cannot be made of
// what an agent sent speaks all the same: see words.go.
//
// # Names
//
// The sets of data.rules.NAME count, for the NAME that a resource gives as its policy and for global, whose sets count
// always. NAME is one part: payments-eu is package rules["payments-eu"]. Everything outside data.rules is a library. In
// rules, these are problems: a set's name with another kind of rule; a set's name deeper down; a partial set whose name is
// a set's name in another form (denies, denied, Deny) or one letter away from one (dony; for the short ask only swapped
// letters, since task and mask are fair names); a package one letter away from global that no resource names; and any of
// the four in a file called *_test.rego. Test files are parsed with the rest but not part of what is evaluated.
//
// # Kinds
//
// What there is of kinds of resources, a [Kind] says: this package knows no protocol. A package is for the kinds of the resources
// that name it, and global for all of them; a library is for those from which it is reached.
//
// # Purity
//
// A verdict is a function of the input and the policies. Built-ins with a network, a clock, an environment or a dice are
// not there (see capabilitiesFile); time is input.context.time, which is recorded. So what was decided can be decided again
// from the same input, and a package that never looks at input.context can have its verdicts remembered: for the canonical
// input, which has nothing that differs from one attempt to the next. Where a package can see a volatile field that an
// operation has (by its name, or because it goes through all of them, object.get included), it is evaluated anew.
//
// # Learnings
//
// Measured on OPA 1.22.2, two shared cores, the policy of BenchmarkEvaluate (the design's): 14 µs and 159 allocations
// beside 10 or 1,000 other packages, 0.7 µs and none where the verdict is remembered. Beside 10,000 it is the same without
// the garbage collector and up to twice as much with it: a compiled package weighs 8 KB in many small pieces, and an
// evaluation leaves 10 KB behind. What made the difference, from 174 allocations and a goroutine: topdown's query on terms
// in the place of rego's prepared query, which makes result sets; a Cancel that looks at the clock every 64th time it
// is asked in the place of a timer; terms from blocks and a table; the principal's value kept.
//
// OPA's transformers (ast.TransformVars) write into the tree they are given. In a tracer that is the policy that is being
// evaluated: the first version of Explain changed every verdict after it.
package policy

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/countersign/countersign/extproc/gate"
)

// defaultTimeout bounds one evaluation where [Options] does not.
const defaultTimeout = 100 * time.Millisecond

// principalsKept is how many principals' values a Set keeps, at least; each is a few kilobytes.
const principalsKept = 1024

// Options say what to load and how to evaluate it.
type Options struct {
	// Path is a directory of .rego, .json and .yaml files, a directory with a bundle's .manifest, or a bundle (.tar.gz).
	Path string

	// Kinds are those that policies may speak of, each with its schema.
	Kinds []Kind

	// Packages are the policies that resources name, each with the kinds of these resources. Each must have rules.
	Packages map[string][]string

	// CheckRedaction says whether a redaction can be carried out. Without it none can, and a policy that redacts is refused.
	CheckRedaction func(gate.Redaction) error

	// Timeout bounds one evaluation; 100 ms when zero. Longer is an error, and that denies.
	Timeout time.Duration

	// CacheSize is how many verdicts are remembered, at least; none when zero. Only verdicts of packages that cannot see
	// input.context are.
	CacheSize int

	Log *slog.Logger     // none when nil
	Now func() time.Time // measures Timeout; time.Now when nil
}

// Set is a set of policies that was loaded and checked. It does not change: a reload makes another Set. It implements
// [gate.Policy] and may be used by many goroutines.
type Set struct {
	options  Options
	compiler *ast.Compiler
	store    storage.Store
	txn      storage.Transaction // one for all reads; nothing writes to the store

	schema   reflect.Type         // of the input
	terms    map[string]*ast.Term // see termsOf
	shape    shape
	packages map[string]*preparedPackage
	digest   string
	source   string // digest of the files
	loaded   int    // files

	principals *generations[*gate.Principal, *ast.Term]
	redactions *generations[gate.Redaction, error]
	verdicts   *generations[verdictKey, gate.Verdict] // nil when none are remembered

	// large has room for as many evaluations of a large input as there are processors. Evaluating waits for nothing, so that
	// more at once would only hold more values: up to forty bytes for each byte of input.
	large chan struct{}
}

// largeInput is the canonical input from which an evaluation counts as a large one.
const largeInput = 64 << 10

// preparedPackage is a package of rules with its query, and what can be told of it from its text.
type preparedPackage struct {
	*question
	name   string
	kinds  []string // of resources that it rules on
	uses   uses
	digest string           // of all that it can depend on
	beside map[place]*aside // by the form of a body that did not come; of those that a set can depend on
}

// question is a query for some sets.
type question struct {
	query ast.Body
	qc    ast.QueryCompiler
	reads []said
}

// said names one set and the variable that the query binds to it.
type said struct {
	variable ast.Var
	pkg      string
	kind     setKind
}

// Load reads, checks and compiles the policies at o.Path. Its error is a *[Problems] with everything that is wrong, or says
// that the path could not be read.
func Load(ctx context.Context, o Options) (*Set, error) {
	src, err := readSource(o.Path)
	if err != nil {
		return nil, err
	}
	problems := &Problems{}
	p := src.parse(inputType(o.Kinds), o.CheckRedaction, problems)
	s, err := newSet(ctx, o, src, p)
	if err != nil {
		return nil, err
	}
	canon, err := newCanon(src, p)
	if err != nil {
		return nil, err
	}
	if !p.broken { // what a broken file would have defined would be missed all over
		s.compile(ctx, canon.compiled(), problems)
		p.shape.checkPackages(o.Packages, o.Path, problems)
		if !s.compiler.Failed() {
			s.checkKinds(p.modules, problems)
		}
	}
	if err := problems.err(); err != nil {
		return nil, err
	}
	if err := s.prepareAll(canon); err != nil {
		return nil, err
	}
	if o.Log != nil {
		o.Log.LogAttrs(ctx, slog.LevelInfo, "policies loaded", slog.String("path", o.Path), slog.String("digest", s.digest),
			slog.Int("files", len(src.files)), slog.Int("packages", len(s.packages)))
	}
	return s, nil
}

func newSet(ctx context.Context, o Options, src *source, p *parsed) (*Set, error) {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Set{
		options:    o,
		store:      inmem.NewFromObjectWithOpts(p.data, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true)),
		schema:     inputType(o.Kinds),
		terms:      termsOf(inputType(o.Kinds)),
		shape:      p.shape,
		packages:   map[string]*preparedPackage{},
		source:     src.digest(),
		loaded:     len(src.files),
		principals: newGenerations(principalsKept, func(p *gate.Principal, _ *ast.Term) int { return weighValue(p.Claims) }),
		redactions: newGenerations[gate.Redaction, error](principalsKept, nil),
		large:      make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	if o.CacheSize > 0 {
		s.verdicts = newGenerations(o.CacheSize, weighVerdict)
	}
	var err error
	if s.txn, err = s.store.NewTransaction(ctx); err != nil {
		return nil, fmt.Errorf("open the policies' data: %w", err)
	}
	return s, nil
}

func (s *Set) compile(ctx context.Context, modules map[string]*ast.Module, problems *Problems) {
	s.compiler = newCompiler(s.schema).WithPathConflictsCheck(storage.NonEmpty(ctx, s.store, s.txn))
	s.compiler.Compile(modules)
	if s.compiler.Failed() {
		problems.addOPA(s.compiler.Errors)
	}
}

func (s *Set) prepareAll(c *canon) (err error) {
	c.prepare(s.compiler)
	if s.digest, err = c.digest(); err != nil {
		return err
	}
	for name := range s.shape {
		p, err := s.prepare(name)
		if err != nil {
			return err
		}
		if p.digest, err = c.closure(s.compiler, name); err != nil {
			return err
		}
		s.packages[name] = p
	}
	return nil
}

// prepare makes the query of a package: one variable for each set that it or global defines. A set that a rule defines is
// there for every input, empty or not, so the query has exactly one answer.
func (s *Set) prepare(name string) (*preparedPackage, error) {
	p := &preparedPackage{name: name, uses: usesOf(s.compiler, name), beside: map[place]*aside{}}
	p.kinds, _ = s.options.kindsOf(name)
	packages := []string{name, global}
	if name == global {
		packages = packages[:1]
	}
	var sets []said
	for i, pkg := range packages {
		for kind := allowSet; kind < setKinds; kind++ {
			if s.shape.has(pkg, kind) {
				sets = append(sets, said{variable: ast.Var(fmt.Sprintf("%s%d", kind, i)), pkg: pkg, kind: kind})
			}
		}
	}
	var err error
	if p.question, err = s.ask(sets); err != nil {
		return nil, fmt.Errorf("prepare the query of %s: %w", packageClause(name), err)
	}
	for _, k := range s.options.Kinds {
		if k.Body == "" {
			continue
		}
		for _, form := range []string{k.Body, k.Bodies} {
			a, err := s.asideFor(sets, form, k.Bodies)
			if err != nil {
				return nil, fmt.Errorf("prepare the query of %s about %s: %w", packageClause(name), form, err)
			}
			if a != nil {
				p.beside[place{k.Name, form}] = a
			}
		}
	}
	return p, nil
}

func (s *Set) ask(sets []said) (*question, error) {
	q := &question{qc: s.compiler.QueryCompiler(), reads: sets}
	var body ast.Body
	for _, set := range sets {
		body.Append(ast.Equality.Expr(ast.NewTerm(set.variable), ast.NewTerm(set.ref())))
	}
	var err error
	q.query, err = q.qc.Compile(body)
	return q, err
}

func (s *said) ref() ast.Ref {
	return ast.Ref{ast.DefaultRootDocument, ast.StringTerm("rules"), ast.StringTerm(s.pkg), ast.StringTerm(s.kind.String())}
}

// MayAsk reports whether package pkg or global has a rule that asks for a person.
func (s *Set) MayAsk(pkg string) bool {
	return s.shape.has(pkg, askSet) || s.shape.has(global, askSet)
}

// MayRedact reports whether a verdict on a resource of policy pkg can have redactions: its answers must then be such that
// they can be read. It is true also of a package that is not there.
func (s *Set) MayRedact(pkg string) bool {
	return s.packages[pkg] == nil || s.shape.has(pkg, redactSet) || s.shape.has(global, redactSet)
}

// LooksAt reports whether a verdict of pkg can depend on one of these members of the detail, as far as can be told from the text
// of the rules. It is a hint for diagnostics: a resource that streams its bodies has none to judge.
func (s *Set) LooksAt(pkg string, members ...string) bool {
	p := s.packages[pkg]
	return p == nil || p.uses.everything || slices.ContainsFunc(members, func(member string) bool {
		for at := range p.uses.of {
			if at.member == member {
				return true
			}
		}
		return false
	})
}

// Packages are the names of all packages of rules, in order.
func (s *Set) Packages() []string {
	names := make([]string, 0, len(s.packages))
	for name := range s.packages {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Digest is the SHA-256, in hex, of all that can be evaluated: see digest.go.
func (s *Set) Digest() string { return s.digest }

// RulesDigest is the SHA-256, in hex, of what a verdict on a resource of policy pkg can depend on: the rules of pkg and of
// global, and the rules and data that these refer to. It is empty where there is no such package.
func (s *Set) RulesDigest(pkg string) string {
	if p := s.packages[pkg]; p != nil {
		return p.digest
	}
	return ""
}

// SourceDigest is the SHA-256, in hex, over the names and contents of all files that were read.
func (s *Set) SourceDigest() string { return s.source }

// Loaded is how many files of policies and data the set was made of.
func (s *Set) Loaded() int { return s.loaded }
