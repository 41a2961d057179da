package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// sequence is a gateway with everything around it, to which things happen at random.
type sequence struct {
	t        *testing.T
	random   *rand.Rand
	gateway  *story.Gateway
	receiver *receiver
	token    string
	told     []string // the steps so far

	issuerDown bool
	held       []string // names of what the target holds
	policies   int
	requests   int
	holding    sync.WaitGroup
	mu         sync.Mutex
	answers    map[string]int // by path; 0 where no whole answer came
}

// TestAnySequenceReconciles is the property behind every fault: whatever happens in whatever order, what the target saw was
// allowed in the journal, and every allowed operation has an outcome or an operation.unknown.
func TestAnySequenceReconciles(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed-", seed), func(t *testing.T) {
			t.Parallel()
			playSequence(t, seed, 10)
		})
	}
}

func playSequence(t *testing.T, seed uint64, steps int) {
	t.Helper()
	address := extproctest.FreeAddress(t)
	g := start(t, readAll+fmt.Sprintf("-- config.yaml --\nevidence: {otlp: {endpoint: %q, insecure: true}, segment: 64KiB, checkpoint: 300ms}\n", address), story.Options{Attach: []string{"ext_proc", "ext_authz"}[seed%2]})
	s := &sequence{
		t: t, random: rand.New(rand.NewPCG(seed, 0)), gateway: g, receiver: startReceiver(t, address), answers: map[string]int{},
		token: g.Issuer.Token(nil),
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d: %s", seed, strings.Join(s.told, ", "))
		}
	})
	for range steps {
		s.step()
	}
	s.told = append(s.told, "the end")
	s.startIssuer()
	s.receiver.is("")
	s.release(0)
	s.restart(false)
	s.holding.Wait()
	s.check()
}

// step does one thing. Requests come between all others.
func (s *sequence) step() {
	steps := []struct {
		name string
		do   func()
	}{
		{"requests that are allowed", func() { s.send("GET", "v1", 1+s.random.IntN(20)) }},
		{"requests that are denied", func() { s.send("DELETE", "v1", 1+s.random.IntN(10)) }},
		{"requests at once", func() { s.sendAtOnce("v1") }},
		{"requests that are held", func() { s.hold(1 + s.random.IntN(4)) }},
		{"a release", func() { s.release(s.random.IntN(2)) }},
		{"a policy", s.policy},
		{"a broken policy", func() { s.gateway.Write("policies/payments.rego", "package rules.payments\n\nallow contains") }},
		{"a hangup", func() { s.gateway.Process.Signal(syscall.SIGHUP) }},
		{"a kill", func() { s.restart(true) }},
		{"a kill amid requests", func() { s.amid(func() { s.gateway.Process.Kill() }); s.run() }},
		{"a stop amid requests", func() { s.release(0); s.amid(s.gateway.Process.Stop); s.run() }},
		{"the end of Envoy amid requests", s.killEnvoy},
		{"a collector that hangs", func() { s.receiver.is("hangs") }},
		{"a collector that fails", func() { s.receiver.is("fails") }},
		{"a collector that works", func() { s.receiver.is("") }},
		{"the issuer's end", func() { s.gateway.Issuer.Stop(); s.issuerDown = true }},
		{"the issuer's return", s.startIssuer},
		{"the target's end amid requests", func() { s.amid(s.gateway.Target.Stop); s.send("GET", "v1", 3); s.gateway.Target.Start() }},
	}
	next := steps[s.random.IntN(len(steps))]
	s.told = append(s.told, next.name)
	next.do()
	s.send("GET", "v1", 1+s.random.IntN(3))
}

// send sends n requests, one after the other.
func (s *sequence) send(method, below string, n int) {
	for range n {
		s.one(method, s.path(below))
	}
}

func (s *sequence) path(below string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	return fmt.Sprintf("/%s/r%d", below, s.requests)
}

// one sends a request and returns the status of its answer, or 0.
func (s *sequence) one(method, path string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	a, err := s.gateway.Send(ctx, &story.Request{Method: method, Target: path, Fields: []extproctest.Field{{Name: "Authorization", Value: "Bearer " + s.token}}})
	code := 0
	if err == nil && a.Broken == nil {
		code = a.Status
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = code
	return code
}

func (s *sequence) sendAtOnce(below string) {
	var work sync.WaitGroup
	for range 16 {
		path := s.path(below)
		work.Go(func() { s.one("GET", path) })
	}
	work.Wait()
}

// hold sends requests that the target answers once it is told to, or never.
func (s *sequence) hold(n int) {
	for range n {
		path := s.path("hold")
		s.held = append(s.held, strings.TrimPrefix(path, "/hold/"))
		s.holding.Go(func() { s.one("GET", path) })
	}
}

// release has the target answer all but the last keep requests that it holds.
func (s *sequence) release(keep int) {
	for len(s.held) > keep {
		s.gateway.Target.Release(s.held[0])
		s.held = s.held[1:]
	}
}

// amid does something while requests come and go.
func (s *sequence) amid(do func()) {
	var work sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		work.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if s.one("GET", s.path("amid")) == 0 { // nobody listens: do not spin
					select {
					case <-done:
					case <-time.After(20 * time.Millisecond):
					}
				}
			}
		})
	}
	do()
	close(done)
	work.Wait()
}

func (s *sequence) policy() {
	s.policies++
	s.gateway.Write("policies/payments.rego", fmt.Sprintf("package rules.payments\n\nallow contains {\"id\": \"read-%d\"} if input.http.method == \"GET\"\n", s.policies))
}

func (s *sequence) startIssuer() {
	if s.issuerDown {
		s.gateway.Issuer.Start()
		s.issuerDown = false
	}
}

// restart ends the gateway, as a crash does or in order, and starts it again.
func (s *sequence) restart(crash bool) {
	if crash {
		s.gateway.Process.Kill()
	} else {
		s.gateway.Process.Stop()
	}
	s.run()
}

// run starts the gateway with a policy that it can read, and waits until it is ready.
func (s *sequence) run() {
	s.startIssuer()
	s.policy()
	s.gateway.Run()
}

func (s *sequence) killEnvoy() {
	pid := envoyOf(s.t, s.gateway)
	s.amid(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	extproctest.Await(s.t, "Envoy's return", 60*time.Second, func(context.Context) error {
		if code := s.one("GET", s.path("v1")); code != 404 && code != 503 {
			return fmt.Errorf("status %d", code)
		}
		return nil
	})
}

// check reconciles, and holds what the agents were told against the journal.
func (s *sequence) check() {
	s.t.Helper()
	reached := map[string]int{}
	for _, seen := range s.gateway.Target.Requests() {
		reached[seen.Path]++
	}
	effects := map[string]string{}
	for _, o := range reconcile(s.t, s.gateway) {
		effects[o.target] = o.effect
	}
	count := map[int]int{}
	for path, code := range s.answers {
		count[code]++
		switch {
		case (code == 404 || code == 200) && effects[path] == "allow" && reached[path] == 1:
		case code == 403 && effects[path] == "deny" && reached[path] == 0:
		case code == 503 && reached[path] == 0: // unavailable: nothing was done
		case code == 502 && reached[path] <= 1: // the target broke off, or the gateway did while it answered
		case code == 0 && reached[path] <= 1:
		default:
			s.t.Errorf("%s was answered %d, is recorded as %q, and reached the target %d times", path, code, effects[path], reached[path])
		}
	}
	if _, err := os.Stat(s.gateway.Data()); err != nil || count[404] == 0 {
		s.t.Errorf("nothing was answered: %v, %v", count, err)
	}
	s.t.Logf("%d requests, answers %v: %s", len(s.answers), count, strings.Join(s.told, ", "))
}
