package policy

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/countersign/countersign/extproc/gate"
)

// testTimeout bounds one Rego test. Tests run with tracing, and may try many inputs.
const testTimeout = 5 * time.Second

// Test runs the Rego tests at path (a directory or a bundle), as `opa test` does but with the schema, the capabilities and
// the strictness that policies are loaded with: a built-in error fails a test. It writes what failed, where, and a closing
// line such as "PASS: 12/12"; with verbose, every test. No test at all is not a pass.
func Test(ctx context.Context, path string, kinds []Kind, w io.Writer, verbose bool) (passed bool, err error) {
	results, _, err := runTests(ctx, path, kinds, nil)
	if err != nil {
		return false, err
	}
	good := 0
	for _, r := range results {
		if r.Pass() {
			good++
		}
		if !r.Pass() || verbose {
			writeResult(w, r)
		}
	}
	skipped := slices.IndexFunc(results, func(r *tester.Result) bool { return r.Skip }) >= 0
	verdict := "PASS"
	if good < len(results) || len(results) == 0 || skipped {
		verdict = "FAIL"
	}
	why := ""
	if len(results) == 0 {
		why = ": " + path + " has no tests, which are rules whose names begin with test_"
	}
	_, err = fmt.Fprintf(w, "%s: %d/%d%s\n", verdict, good, len(results), why)
	return verdict == "PASS", err
}

func writeResult(w io.Writer, r *tester.Result) {
	outcome := "PASS"
	switch {
	case r.Skip:
		outcome = "SKIP"
	case r.Error != nil:
		outcome = "ERROR " + r.Error.Error()
	case r.Fail:
		outcome = "FAIL"
	}
	fmt.Fprintf(w, "%s:%d: %s.%s: %s\n", r.Location.File, r.Location.Row, r.Package, r.Name, outcome)
	if e := failedAt(r.Trace); e != nil && !r.Pass() {
		fmt.Fprintf(w, "    %s:%d: %s\n", e.Location.File, e.Location.Row, e.Location.Text)
	}
	if text := strings.TrimSpace(string(r.Output)); text != "" {
		fmt.Fprintf(w, "    %s\n", strings.ReplaceAll(text, "\n", "\n    "))
	}
}

// failedAt is the last expression that did not hold.
func failedAt(trace []*topdown.Event) *topdown.Event {
	for _, e := range slices.Backward(trace) {
		if _, isExpr := e.Node.(*ast.Expr); isExpr && e.Op == topdown.FailOp && e.Location != nil && e.Location.File != "" {
			return e
		}
	}
	return nil
}

// Coverage runs the Rego tests at path and gives the percentage of the policies' lines (tests not counted) that they went
// through, and the places that they did not.
func Coverage(ctx context.Context, path string, kinds []Kind) (percent float64, missed []Place, err error) {
	tracer := cover.New()
	_, p, err := runTests(ctx, path, kinds, tracer)
	if err != nil {
		return 0, nil, err
	}
	report := tracer.Report(p.modules)
	for _, file := range slices.Sorted(maps.Keys(p.modules)) {
		if f := report.Files[file]; f != nil {
			for _, r := range f.NotCovered {
				missed = append(missed, Place{File: file, Line: r.Start.Row})
			}
		}
	}
	return report.Coverage, missed, nil
}

// Format is Rego source as `opa fmt` writes it.
func Format(name string, source []byte) ([]byte, error) {
	text, err := format.SourceWithOpts(name, source, format.Opts{RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, fmt.Errorf("format %s: %w", name, err)
	}
	return text, nil
}

// runTests compiles policies and tests at path together and runs the tests, in order of their places.
func runTests(ctx context.Context, path string, kinds []Kind, coverage *cover.Cover) ([]*tester.Result, *parsed, error) {
	input := inputType(kinds)
	src, err := readSource(path)
	if err != nil {
		return nil, nil, err
	}
	problems := &Problems{}
	// Whether a redaction can be carried out is checked where policies are loaded to be used.
	p := src.parse(input, func(gate.Redaction) error { return nil }, problems)
	if err := problems.err(); err != nil {
		return nil, nil, err
	}
	modules := maps.Clone(p.modules)
	maps.Copy(modules, p.tests)
	store := inmem.NewFromObjectWithOpts(p.data, inmem.OptRoundTripOnWrite(false))
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("open the policies' data: %w", err)
	}
	defer store.Abort(ctx, txn)
	runner := tester.NewRunner().
		SetCompiler(newCompiler(input).WithEnablePrintStatements(true)).
		SetStore(store).
		SetModules(modules).
		SetTimeout(testTimeout).
		RaiseBuiltinErrors(true).
		CapturePrintOutput(true)
	if coverage != nil {
		runner = runner.SetCoverageQueryTracer(coverage)
	} else {
		runner = runner.EnableTracing(true)
	}
	channel, err := runner.RunTests(ctx, txn)
	if err != nil {
		problems.addOPA(err)
		return nil, nil, problems.err()
	}
	var results []*tester.Result
	for r := range channel {
		results = append(results, r)
	}
	slices.SortFunc(results, func(a, b *tester.Result) int {
		return cmp.Or(cmp.Compare(a.Location.File, b.Location.File), cmp.Compare(a.Location.Row, b.Location.Row), cmp.Compare(a.Name, b.Name))
	})
	return results, p, ctx.Err()
}
