package main

import (
	"context"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestTheTargetsCredentialDoesNotComeBack has a target send its own credential, cut into pieces, in an answer whose head is
// with the agent already: the answer breaks off before it, and the record says why (promise 7).
func TestTheTargetsCredentialDoesNotComeBack(t *testing.T) {
	t.Parallel()
	g := start(t, "\n-- policy.rego --\npackage rules.payments\n\nallow contains {\"id\": \"all\"}\n", story.Options{})
	token := g.Issuer.Token(nil)
	for name, pieces := range map[string][]string{
		"whole": {"before ", "Authorization: Bearer target-credential", " after"},
		"cut":   {"before ", "Authorization: Bearer target-", "cred", "ential", " after"},
		"bytes": strings.Split("before, Bearer target-credential after", ""),
	} {
		t.Run(name, func(t *testing.T) {
			answered := make(chan *story.Answer, 1)
			wanted, enough := context.WithCancel(t.Context()) // nobody takes what is sent after the answer has broken off
			go func() {
				defer close(answered)
				defer enough()
				a, err := g.Send(t.Context(), &story.Request{Method: "GET", Target: "/feed/" + name + "?type=text/plain", Fields: []extproctest.Field{{Name: "Authorization", Value: "Bearer " + token}}})
				if err != nil {
					t.Error(err)
				}
				answered <- a
			}()
			feed := g.Target.Feed(name)
			for _, p := range pieces {
				if feed.Send(wanted, p) != nil {
					break // the gateway has left
				}
			}
			_ = feed.Close(wanted)
			a := <-answered
			if a != nil && a.Status == 502 && a.Problem() == "withheld" {
				return // it broke off before Envoy had sent the head on
			}
			if a == nil || a.Status != 200 || a.Broken == nil {
				t.Fatalf("the answer is %+v", a)
			}
			if body := string(a.Body); strings.Contains(body, "target-cr") || !strings.HasPrefix("before, Authorization: Bearer ", body) && !strings.HasPrefix(body, "before") {
				t.Errorf("the agent got %q", body)
			}
		})
	}
	withheld := 0
	for _, o := range reconcile(t, g) {
		if o.ended == "finished withheld" {
			withheld++
		}
	}
	if withheld != 3 {
		t.Errorf("%d operations were withheld", withheld)
	}
}
