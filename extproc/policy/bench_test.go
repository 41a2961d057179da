package policy

import (
	"fmt"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

// BenchmarkEvaluate measures one evaluation of the design's policy, for a read that is allowed with two redactions, beside
// more and more other packages. Its operation is the same each time: its canonical input is made once, as the gate has done
// by then for the digest, and nothing else of it is kept from one evaluation to the next but the principal.
func BenchmarkEvaluate(b *testing.B) {
	for _, packages := range []int{1, 10, 1_000, 10_000} {
		b.Run(fmt.Sprintf("packages=%d", packages), func(b *testing.B) {
			benchmarkEvaluate(b, load(b, Options{}, manyPackages(packages)))
		})
	}
	b.Run("remembered", func(b *testing.B) {
		benchmarkEvaluate(b, load(b, Options{CacheSize: 16}, manyPackages(1)))
	})
	b.Run("parallel", func(b *testing.B) {
		s := load(b, Options{}, manyPackages(1))
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			op := operation("payments", get("v1", "payments", "7"))
			for pb.Next() {
				evaluateOnce(b, s, op)
			}
		})
	})
}

func benchmarkEvaluate(b *testing.B, s *Set) {
	op := operation("payments", get("v1", "payments", "7"))
	b.ReportAllocs()
	for b.Loop() {
		evaluateOnce(b, s, op)
	}
}

func evaluateOnce(b *testing.B, s *Set, op *gate.Operation) {
	if v, err := s.Evaluate(b.Context(), op); err != nil || v.Effect != gate.Allow {
		b.Fatal(v, err)
	}
}

func manyPackages(n int) map[string]string {
	files := rego(designPolicy)
	for i := 1; i < n; i++ {
		files[fmt.Sprintf("p%d.rego", i)] = fmt.Sprintf("package rules.p%d\n\nallow contains {\"id\": \"read\"} if input.http.method == \"GET\"\n", i)
	}
	return files
}
