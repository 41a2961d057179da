package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/version"
)

// A digest covers what is evaluated, not files: the parsed rules, the data, and the engine. Comments, layout, names of files
// and tests are not in it, since no verdict depends on them. The order of modules can decide whether a built-in that fails is
// reached, so modules are compiled in the order of their text and not of their files' names (see [canon.name]).
//
// A set of policies has a digest. Each package has one too, of all that its verdicts can depend on: the package, global, and
// the rules and data that these refer to. An approval is bound to that one. It covers rather too much: every rule of a package
// that is referred to, and everything that a computed reference could mean.

// canon has the modules of a set in the form that is digested.
type canon struct {
	engine  string
	modules map[string]*canonModule // by the name it is compiled under
	data    map[string]any
	sums    map[string]string   // digests of places in data
	of      map[string][]string // names of the modules of each package
	tests   bool                // an evaluated rule refers to a test_ rule, so tests count too
	raw     string              // the digest of all files if a rule reads its own comments, else ""
}

type canonModule struct {
	module      *ast.Module
	rules, full string // digests: without rules that are tests, and with them
}

func newCanon(src *source, p *parsed) (*canon, error) {
	capabilities, err := capabilitiesFile()
	if err != nil {
		return nil, err
	}
	c := &canon{
		engine: sum("countersign policy 1", version.Version, string(capabilities)), data: p.data,
		modules: map[string]*canonModule{}, of: map[string][]string{}, sums: map[string]string{},
	}
	for _, module := range p.modules {
		m, err := canonOf(module)
		if err != nil {
			return nil, err
		}
		c.modules[c.name(m)] = m
		if readsComments(module) {
			c.raw = src.digest()
		}
	}
	return c, nil
}

// name returns the name under which m is compiled. OPA orders modules by name. Two equal modules get different names.
func (c *canon) name(m *canonModule) string {
	name := m.rules + m.full
	for n := 1; c.modules[name] != nil; n++ {
		name = m.rules + m.full + strconv.Itoa(n)
	}
	return name
}

// compiled returns the modules by the names under which they are compiled.
func (c *canon) compiled() map[string]*ast.Module {
	modules := make(map[string]*ast.Module, len(c.modules))
	for name, m := range c.modules {
		modules[name] = m.module
	}
	return modules
}

func canonOf(module *ast.Module) (*canonModule, error) {
	var imports, rules, tests []string
	for _, i := range module.Imports {
		path, _ := i.Path.Value.(ast.Ref)
		if root := path[0].Value; root.Compare(ast.Var("future")) == 0 || root.Compare(ast.Var("rego")) == 0 {
			continue // says how text is read; what was read is in the rules
		}
		text, err := canonical(i)
		if err != nil {
			return nil, err
		}
		imports = append(imports, text)
	}
	slices.Sort(imports)
	for _, r := range module.Rules {
		text, err := canonical(r)
		if err != nil {
			return nil, err
		}
		if tests = append(tests, text); !isTestRule(r) {
			rules = append(rules, text)
		}
	}
	place, err := canonical(module.Package)
	if err != nil {
		return nil, err
	}
	head := append([]string{place}, slices.Compact(imports)...)
	return &canonModule{module: module, rules: sum(append(head, rules...)...), full: sum(append(head, tests...)...)}, nil
}

// form matches what in OPA's JSON of a node is only form: the number of a `_` in its file, whether a rule has := or =, and
// whether a body was left out or is `true`. It cannot match within a text, since quotes are escaped there.
var form = regexp.MustCompile(`"assign":true,|"generated":true,|"type":"var","value":"\$[0-9]+"`)

// canonical returns OPA's JSON of a node, which has its whole structure, and no location or comment, without its form.
func canonical(node any) (string, error) {
	text, err := json.Marshal(node)
	if err != nil {
		return "", fmt.Errorf("digest the policies: %w", err)
	}
	return string(form.ReplaceAllFunc(text, func(found []byte) []byte {
		if !bytes.HasPrefix(found, []byte(`"type"`)) {
			return nil
		}
		return []byte(`"type":"var","value":"_"`)
	})), nil
}

// isTestRule reports whether rule is one that `opa test` runs.
func isTestRule(rule *ast.Rule) bool {
	name, _ := rule.Head.Ref()[0].Value.(ast.Var)
	return strings.HasPrefix(string(name), "test_") || strings.HasPrefix(string(name), "todo_test_")
}

// readsComments reports whether a rule of module calls rego.metadata, by which comments become values.
func readsComments(module *ast.Module) (reads bool) {
	ast.WalkRefs(module, func(ref ast.Ref) bool {
		root, _ := ref[0].Value.(ast.Var)
		reads = reads || root == "rego" && len(ref) > 1 && is(ref[1], "metadata")
		return reads
	})
	return reads
}

// prepare finds the modules of each package, and whether tests count, once the modules are compiled.
func (c *canon) prepare(compiler *ast.Compiler) {
	f := newFollower(compiler)
	for name, m := range compiler.Modules {
		pkg := m.Package.Path.String()
		c.of[pkg] = append(c.of[pkg], name)
		f.followAll(m.Rules)
	}
	for rule := range f.seen {
		c.tests = c.tests || isTestRule(rule)
	}
}

// digest returns the digest of the whole set.
func (c *canon) digest() (string, error) {
	return c.sum("set", slices.Collect(maps.Keys(c.modules)), map[string][]string{"": nil})
}

// closure returns the digest of what a verdict of package pkg can depend on.
func (c *canon) closure(compiler *ast.Compiler, pkg string) (string, error) {
	f := newFollower(compiler)
	f.whole = c.of
	f.followPackages(pkg)
	var names []string
	for pkg := range f.packages {
		names = append(names, c.of[pkg]...)
	}
	return c.sum("rules", names, f.data)
}

// sum returns the digest of modules and of places in data.
func (c *canon) sum(what string, modules []string, places map[string][]string) (string, error) {
	parts := make([]string, 0, len(modules)+len(places))
	for _, name := range modules {
		m := c.modules[name]
		if c.tests {
			parts = append(parts, m.full)
		} else {
			parts = append(parts, m.rules)
		}
	}
	slices.Sort(parts)
	for _, key := range slices.Sorted(maps.Keys(places)) {
		s, err := c.dataSum(key, places[key])
		if err != nil {
			return "", err
		}
		parts = append(parts, s)
	}
	return sum(append([]string{what, c.engine, c.raw}, parts...)...), nil
}

func (c *canon) dataSum(key string, place []string) (string, error) {
	if s, ok := c.sums[key]; ok {
		return s, nil
	}
	text, err := json.Marshal(dataAt(c.data, place))
	if err != nil {
		return "", fmt.Errorf("digest the policies' data: %w", err)
	}
	c.sums[key] = sum("data", key, string(text))
	return c.sums[key], nil
}

// dataAt returns a list of the value at place in data, empty if there is none.
func dataAt(data any, place []string) []any {
	for _, name := range place {
		object, ok := data.(map[string]any)
		if !ok {
			return []any{data} // a list, or what has no members: what is in it is more than enough
		}
		if data, ok = object[name]; !ok {
			return []any{}
		}
	}
	return []any{data}
}

// sum returns the SHA-256, in hex, of parts, each after its length.
func sum(parts ...string) string {
	var text bytes.Buffer
	for _, part := range parts {
		fmt.Fprintf(&text, "%d:%s", len(part), part)
	}
	digest := sha256.Sum256(text.Bytes())
	return hex.EncodeToString(digest[:])
}
