package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest/story"
)

// side is one of two configurations that contradict each other in everything: each has a policy, data, a label and a
// credential that are good only together, allows the requests of its own parity under its own rule, and denies the others.
func side(name string, parity int) string {
	return fmt.Sprintf(`package rules.payments

whole if {
	data.side.name == %[1]q
	input.resource.labels.side == %[1]q
}

number := to_number(substring(input.http.segments[3], 1, -1))

allow contains {"id": %[1]q} if {
	whole
	number %% 2 == %[2]d
}

deny contains {"id": "half"} if not whole
`, name, parity)
}

// TestNoRequestIsJudgedByHalfAState swaps between two contradicting configurations every 50 ms under load. Each decision
// names a configuration and a policy that were activated together before it, says what exactly these say, and is carried out
// with their credential.
func TestNoRequestIsJudgedByHalfAState(t *testing.T) {
	t.Parallel()
	noHalfState(t, 4*time.Second)
}

func noHalfState(t *testing.T, lasts time.Duration) {
	t.Helper()
	g := start(t, readAll, story.Options{})
	text, err := os.ReadFile(g.Config)
	must(t, err)
	conf := map[string]string{}
	for parity, name := range []string{"a", "b"} {
		g.Write("policies-"+name+"/payments.rego", side(name, parity))
		g.Write("policies-"+name+"/side.json", fmt.Sprintf(`{"side": {"name": %q}}`, name))
		g.Write("secrets/"+name, "Bearer of-"+name+"\n")
		conf[name] = strings.NewReplacer("./policies", "./policies-"+name, "{value_file: ./secrets/payments}",
			fmt.Sprintf("{value_file: ./secrets/%[1]s}\n    labels: {side: %[1]s}", name)).Replace(string(text))
	}
	first := uint64(len(g.Records()))
	g.Write("countersign.yaml", conf["b"])
	g.Process.Signal(syscall.SIGHUP)
	g.AwaitRecord("the first of the two", func(r story.Record) bool { return r.Type == "policy.activated" && r.Seq > first })

	// Requests whose body comes in two parts are read under one state, and would be judged under the next.
	swapped := swapping{again: make(chan struct{})}
	l, slow := startLoad(t, g, "swap", 16), startLoadOf(t, g, "slow", 8, func() io.Reader {
		return io.MultiReader(strings.NewReader("{"), until(swapped.next), strings.NewReader("}"))
	})
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for end, n := time.After(lasts), 0; ; n++ {
		select {
		case <-every.C:
			g.Write("countersign.yaml", conf[[]string{"a", "b"}[n%2]])
			g.Process.Signal(syscall.SIGHUP)
			swapped.now()
			continue
		case <-end:
		}
		break
	}
	swapped.over()
	answers, late := l.end(), slow.end()
	maps.Copy(answers, late)
	reconcile(t, g)
	decided, swaps := checkStates(t, g, first)
	credential := map[string]string{}
	for _, s := range g.Target.Requests() {
		credential[s.Path] = fmt.Sprint(s.Get("Authorization"))
	}
	for path, code := range answers {
		rule, credential := decided[path], credential[path]
		switch {
		case code == 404 && rule != "" && credential == "[Bearer of-"+rule+"]":
		case code == 403 && rule == "" && credential == "":
		default:
			t.Errorf("%s was answered %d, was allowed by %q, and went to the target with %q", path, code, rule, credential)
		}
	}
	if swaps < 4 || len(answers) < 20 || len(late) < 20 {
		t.Errorf("%d swaps and %d requests, %d of them slow, tell nothing", swaps, len(answers), len(late))
	}
	t.Logf("%d requests, %d swaps, answers %v", len(answers), swaps, l.done())
}

// swapping tells of the swaps.
type swapping struct {
	mu    sync.Mutex
	again chan struct{} // closed at the next one, and at the end for good
}

// next is closed at the next swap, or at the end.
func (s *swapping) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.again
}

func (s *swapping) now() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.again)
	s.again = make(chan struct{})
}

// over is the last: nobody waits any more.
func (s *swapping) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.again)
}

// until is a reader that has nothing, and says so at the second swap: some 50 ms after the first, which has been taken up by then.
type until func() <-chan struct{}

func (u until) Read([]byte) (int, error) {
	<-u()
	<-u()
	return 0, io.EOF
}

// checkStates holds every decision after the record first against what was active. It returns, by path, the rule that
// allowed it, and the number of swaps.
func checkStates(t *testing.T, g *story.Gateway, first uint64) (decided map[string]string, swaps int) {
	t.Helper()
	decided = map[string]string{}
	type pair struct{ config, policy any }
	active := map[pair]bool{}
	rules := map[pair]string{} // what the pair has allowed by
	var now pair
	for _, r := range g.Records() {
		switch {
		case r.Seq <= first:
		case r.Type == "config.activated":
			now.config = r.Body["digest"]
		case r.Type == "policy.activated": // comes second, and both change in every swap
			now.policy = r.Body["digest"]
			active[now] = true
			swaps++
		case r.Type == "operation.decided":
			p := pair{r.Body["config_digest"], r.Body["policy_digest"]}
			path, said := fmt.Sprint(r.Body["target"]), strings.Trim(fmt.Sprint(r.Body["rules"]), "[]")
			if !active[p] {
				t.Errorf("record %d: %s was decided by %v, which were not active together", r.Seq, path, p)
			}
			if said == "" {
				continue
			}
			decided[path] = said
			if rules[p] == "" {
				rules[p] = said
			}
			if said != rules[p] {
				t.Errorf("record %d: %s was decided by rule %q of a state whose rule is %q", r.Seq, path, said, rules[p])
			}
		}
	}
	if len(active) != 2 || len(rules) != 2 {
		t.Errorf("%d states were active, with the rules %v", len(active), rules)
	}
	return decided, swaps
}
