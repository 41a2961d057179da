package redact

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

// A policy that computes its paths of what an agent sends makes plans without end.
func TestPlansAreBounded(t *testing.T) {
	plans := NewPlans([]byte(strings.Repeat("k", 32)))
	for _, length := range []int{1, 1000} {
		for n := range 10 * maxPlans {
			path := fmt.Sprintf("$.%s%d", strings.Repeat("x", length), n)
			p, err := plans.Plan([]gate.Redaction{{Path: path, With: gate.Mask}}, nil)
			if err != nil || p == nil {
				t.Fatalf("plan %d is %v, error %v", n, p, err)
			}
			if again, _ := plans.Plan([]gate.Redaction{{Path: path, With: gate.Mask}}, nil); again != p {
				t.Fatalf("plan %d is not kept", n)
			}
			bytes := 0
			for text := range plans.byText {
				bytes += len(text)
			}
			if len(plans.byText) > maxPlans || bytes > maxPlanBytes || bytes != plans.bytes {
				t.Fatalf("%d plans with %d bytes are kept, counted as %d", len(plans.byText), bytes, plans.bytes)
			}
		}
	}
}
