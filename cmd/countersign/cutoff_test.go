package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestAnswersThatAreCutOff: a target that closes early, or states a length that is not so, is never taken for one that was
// done. Whether the head was on its way by then is a matter of moments: the agent gets an error, or an answer that is broken
// off, and a part of a protected value in neither. The record says that the target failed, or what was withheld.
func TestAnswersThatAreCutOff(t *testing.T) {
	t.Parallel()
	for name, archive := range map[string]string{"passed": allowAll, "redacted": redactAll} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, archive, story.Options{})
			token := g.Issuer.Token(nil)
			type asked struct{ kind, method string }
			var all []asked
			for _, kind := range []string{"cut-off", "cut-off-in-a-value", "cut-off-at-once", "no-answer", "length-too-long", "bad-chunk", "no-last-chunk", "two-lengths", "garbage"} {
				for _, method := range []string{"GET", "POST"} {
					all = append(all, asked{kind, method})
				}
			}
			for _, c := range all {
				for range 3 {
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					a, err := g.Send(ctx, &story.Request{Method: c.method, Target: "/hostile/" + c.kind, Fields: []extproctest.Field{{Name: "Authorization", Value: "Bearer " + token}}})
					if ctx.Err() != nil {
						t.Errorf("%s %s: no end after 30 s", c.method, c.kind)
					}
					cancel()
					if err != nil {
						continue // broken off before its head
					}
					if a.Status < 500 && a.Broken == nil {
						t.Errorf("%s %s: %d to its end: %s", c.method, c.kind, a.Status, a.Body)
					}
					if name == "redacted" && strings.Contains(string(a.Body), "987-65") {
						t.Errorf("%s %s shows a part of a protected value: %s", c.method, c.kind, a.Body)
					}
				}
			}
			ends := map[string]int{}
			for _, o := range reconcile(t, g) {
				ends[o.ended]++
				if !slices.Contains([]string{"finished target_failed", "finished withheld"}, o.ended) {
					t.Errorf("%s has ended as %q", o.target, o.ended)
				}
			}
			if n := ends["finished target_failed"] + ends["finished withheld"]; n != 3*len(all) {
				t.Errorf("%d operations have the ends %v", 3*len(all), fmt.Sprint(ends))
			}
		})
	}
}
