package guard_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/countersign/countersign/extproc/guard"
)

// TestPanicsEndNothingElse: a goroutine or a loop that panics is told of, with a stack
// at most once a second, and the process goes on; a loop begins anew.
func TestPanicsEndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		var stacks []bool
		guard.Report(func(p guard.Panic) {
			told = append(told, p.Where+": "+p.Value)
			stacks = append(stacks, strings.Contains(p.Stack, "guard_test.go"))
			if p.Stack != "" && !stacks[len(stacks)-1] {
				t.Errorf("the stack does not say where: %s", p.Stack)
			}
		})
		defer guard.Report(func(guard.Panic) {})
		var work sync.WaitGroup
		work.Go(guard.Func("once", func() { panic(errors.New("broken")) }))
		work.Wait()
		runs := 0
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		work.Go(guard.Loop(ctx, "loop", func() {
			if runs++; runs < 3 {
				panic(runs)
			}
		}))
		work.Wait()
		if want := []string{"once: broken", "loop: 1", "loop: 2"}; !slices.Equal(told, want) || runs != 3 {
			t.Errorf("told %q, want %q; %d runs", told, want, runs)
		}
		if want := []bool{true, false, true}; !slices.Equal(stacks, want) { // the third is a second later
			t.Errorf("with a stack: %v, want %v", stacks, want)
		}
		work.Go(guard.Loop(ctx, "for ever", func() { cancel(); panic("again") }))
		work.Wait()
		guard.Report(func(guard.Panic) { panic("what tells is broken too") })
		work.Go(guard.Func("once", func() { panic("broken") }))
		work.Wait()
	})
}
