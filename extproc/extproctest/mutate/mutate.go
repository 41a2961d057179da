package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Mutation takes away what keeps one promise.
type Mutation struct {
	Promise string `yaml:"promise"` // the beginning of its row in SECURITY.md's table of promises
	File    string `yaml:"file"`    // from the root of the repository
	Code    string `yaml:"code"`    // the text that keeps the promise; it is in the file exactly once. Indentation does not matter
	Becomes string `yaml:"becomes"` // the text in its place; none unless set
	Test    string `yaml:"test"`    // the test that must fail then
	Package string `yaml:"package"` // where that test is: ./extproc/gate
}

func (m *Mutation) String() string { return m.File + ": " + m.Test }

// readMutations reads the list strictly.
func readMutations(file string) ([]Mutation, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	var list []Mutation
	if err := dec.Decode(&list); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return list, nil
}

// apply returns the changed file. It is an error if the code is not in the file exactly once, or if the changed file is not Go.
func (m *Mutation) apply(root string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, m.File))
	if err != nil {
		return nil, err
	}
	code, err := m.code()
	if err != nil {
		return nil, err
	}
	found := code.FindAllIndex(text, -1)
	if len(found) != 1 {
		return nil, fmt.Errorf("%s: the code that keeps the promise stands in it %d times, and not once:\n%s", m.File, len(found), m.Code)
	}
	changed := slices.Concat(text[:found[0][0]], []byte(m.Becomes), text[found[0][1]:])
	if strings.HasSuffix(m.File, ".go") {
		if _, err := parser.ParseFile(token.NewFileSet(), m.File, changed, parser.SkipObjectResolution); err != nil {
			return nil, fmt.Errorf("what the mutation leaves is not Go: %w", err)
		}
	}
	return changed, nil
}

// code matches the code, whatever its indentation.
func (m *Mutation) code() (*regexp.Regexp, error) {
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(m.Code)) {
		lines = append(lines, regexp.QuoteMeta(strings.TrimSpace(line)))
	}
	return regexp.Compile(strings.Join(lines, `\s*\n\s*`))
}

// The ways a mutation ends.
var (
	errSurvived = errors.New("the test passes all the same")
	errBroken   = errors.New("the test did not run")
)

// play runs the test against the changed code in tree, a copy of the repository, and puts the file back. It returns nil if the test
// fails, as it must.
func (m *Mutation) play(ctx context.Context, tree string) (err error) {
	changed, err := m.apply(tree)
	if err != nil {
		return err
	}
	file := filepath.Join(tree, m.File)
	original, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, changed, 0o600); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.WriteFile(file, original, 0o600)) }()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout=10m", "-run", m.pattern(), m.Package)
	cmd.Dir = tree
	out, err := cmd.CombinedOutput()
	name, _, _ := strings.Cut(m.Test, "/")
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && (bytes.Contains(out, []byte("--- FAIL: "+name)) || bytes.Contains(out, []byte("panic: "))):
		return nil
	case err == nil && !bytes.Contains(out, []byte("no tests to run")):
		return errSurvived
	}
	return fmt.Errorf("%w:\n%s", errBroken, bytes.TrimSpace(out))
}

// pattern returns the -run that matches this test only.
func (m *Mutation) pattern() string {
	parts := strings.Split(m.Test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// playAll plays every mutation whose file, test, promise or package matches only in tree, and says how each ended.
func playAll(ctx context.Context, tree string, list []Mutation, only *regexp.Regexp, out io.Writer) error {
	var played, failed int
	for i := range list {
		m := &list[i]
		if !slices.ContainsFunc([]string{m.String(), m.Promise, m.Package}, only.MatchString) {
			continue
		}
		played++
		begin := time.Now()
		err := m.play(ctx, tree)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		took := time.Since(begin).Round(time.Second)
		if err != nil {
			failed++
			fmt.Fprintf(out, "FAIL  %s (%v): %v\n", m, took, err)
			continue
		}
		fmt.Fprintf(out, "ok    %s fails without it (%v)\n", m, took)
	}
	switch {
	case played == 0:
		return fmt.Errorf("no mutation matches %s", only)
	case failed > 0:
		return fmt.Errorf("%d of %d promises can be broken unnoticed", failed, played)
	}
	fmt.Fprintf(out, "%d promises, each kept by a line that a test misses\n", played)
	return nil
}
