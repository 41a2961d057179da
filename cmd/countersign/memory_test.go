package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/coding"
)

// bodies sends one after the other, each by one of so many clients at once, all of agent. It returns how often each status came.
func bodies(t testing.TB, g *story.Gateway, agent string, clients int, list [][]byte) map[int]int {
	t.Helper()
	token, err := g.Issuer.AgentToken(t.Context(), agent)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer client.CloseIdleConnections()
	next := make(chan []byte)
	var mu sync.Mutex
	statuses := map[int]int{}
	var work sync.WaitGroup
	for range clients {
		work.Go(func() {
			for body := range next {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+g.Address+"/upload", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer "+token)
				req.Header.Set("Content-Type", "application/json")
				status := 0 // Envoy answers before the whole body has come, and then it closes
				if resp, err := client.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					status = resp.StatusCode
					if status == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
						t.Error("a 503 does not say when to try again")
					}
				}
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	for _, body := range list {
		next <- body
	}
	close(next)
	work.Wait()
	return statuses
}

// another is an agent that wants little, and goes on asking until stop is called, which tells how it was served.
func another(t testing.TB, g *story.Gateway) (stop func() (answers int, refused int64, slowest time.Duration)) {
	t.Helper()
	token, err := g.Issuer.AgentToken(t.Context(), "agent-2")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var refused atomic.Int64
	var slowest time.Duration
	answers := 0
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			began := time.Now()
			a, err := g.Send(t.Context(), &story.Request{Method: "POST", Target: "/upload", Body: []byte(`{"amount": 1}`), Fields: fields("Authorization", "Bearer "+token, "Content-Type", "application/json")})
			if err != nil || a.Status != 200 {
				refused.Add(1)
				t.Logf("another agent: %+v, %v", a, err)
			}
			answers++
			slowest = max(slowest, time.Since(began))
		}
	}()
	return func() (int, int64, time.Duration) {
		cancel()
		<-done
		return answers, refused.Load(), slowest
	}
}

// peak is the most memory that a process had so far.
func peak(t testing.TB, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("the system does not say how much memory a process had")
	return 0
}

func zeros(n int) []byte { return []byte("[" + strings.Repeat("0,", n/2) + "0]") }

func quoted(n int) []byte { return []byte(`{"note":"` + strings.Repeat("x", n) + `"}`) }

// One agent sends all that it can, of what costs most to judge. The gateway stays within what its configuration says, gives back
// what it had, and another agent is served meanwhile.
func TestMemoryOfBodiesIsBounded(t *testing.T) {
	t.Parallel()
	for _, attach := range []string{"ext_proc", "ext_authz"} {
		t.Run(attach, func(t *testing.T) {
			const memory = 128 << 20
			archive := fmt.Sprintf("%s-- resource.yaml --\nlimits: {request_body: 32MiB}\n-- config.yaml --\nlimits: {memory: %d}\n", allowAll, memory)
			g := watch(t, archive, story.Options{Binary: extproctest.BuildShipped(t), Attach: attach, Target: story.TargetOptions{Unrecorded: true}})
			mixed := make([][]byte, 0, 492)
			for i := range cap(mixed) {
				mixed = append(mixed, [][]byte{zeros(1 << 20), quoted(1 << 20), zeros(1 << 18), quoted(1 << 16)}[i%4])
			}
			same := func(n int, body []byte) (list [][]byte) {
				for range n {
					list = append(list, body)
				}
				return list
			}
			for _, attack := range []struct {
				name    string
				clients int
				bodies  [][]byte
			}{
				{"120 at once, of too many values", 120, same(120, zeros(1<<20))},
				{"120 at once, of as many values as are accepted", 120, same(120, zeros(199_000))},
				{"20 MiB, one after the other", 1, same(8, quoted(20<<20))},
				{"492, of all kinds", 64, mixed},
			} {
				stop := another(t, g.Gateway)
				began := time.Now()
				statuses := bodies(t, g.Gateway, "agent-1", attack.clients, attack.bodies)
				took := time.Since(began)
				answers, refused, slowest := stop()
				t.Logf("%s: %v, statuses %v; peak %d MiB, now %d MiB; another agent had %d answers, %d refused, the slowest in %v", attack.name,
					took.Round(time.Millisecond), statuses, peak(t, g.Process.PID())>>20, resident(t, g.Process.PID())>>20, answers, refused, slowest.Round(time.Millisecond))
				if strings.Contains(attack.name, "accepted") && statuses[http.StatusServiceUnavailable] == 0 {
					t.Errorf("%s: what policy makes of them is not counted: %v", attack.name, statuses)
				}
				if refused > 0 {
					t.Errorf("%s: another agent was refused %d of %d times", attack.name, refused, answers)
				}
			}
			if most, bound := peak(t, g.Process.PID()), int64(memory+memory/2+192<<20); most > bound {
				t.Errorf("the gateway had %d MiB, and says that it stays below %d", most>>20, bound>>20)
			}
			extproctest.Await(t, "the gateway to give back what it had", 30*time.Second, func(context.Context) error {
				if now := resident(t, g.Process.PID()); now > 128<<20 {
					return fmt.Errorf("it has %d MiB", now>>20)
				}
				return nil
			})
			refused := 0
			for _, r := range g.Records() {
				if r.Type == gate.OperationDecided && r.Body["problem"] == string(gate.Unavailable) {
					refused++
				}
			}
			if refused == 0 {
				t.Error("no record tells of a request that was refused for want of memory")
			}
			g.unharmed(t)
		})
	}
}

// An answer can stream for hours. Nothing of the body that was judged for it lives as long.
func TestNothingOfABodyOutlivesItsForwarding(t *testing.T) {
	t.Parallel()
	for _, attach := range []string{"ext_proc", "ext_authz"} {
		t.Run(attach, func(t *testing.T) {
			g := watch(t, redactSome, story.Options{Binary: extproctest.BuildShipped(t), Attach: attach, Target: story.TargetOptions{Unrecorded: true}})
			const many = 32
			for _, target := range []string{"/feed/plain", "/feed/redacted?redact=1"} {
				if attach == "ext_authz" && strings.Contains(target, "redact=1") {
					continue // it sees no answers, and refuses
				}
				for range many {
					w := dial(t, g.Gateway)
					body := quoted(1<<20 - 64)
					w.send(t, "%s\r\n%s", head(t, g.Gateway, "POST", target, "Content-Type: application/json", fmt.Sprintf("Content-Length: %d", len(body))), body)
					if !strings.Contains(target, "redact=1") { // the head of one is held until there is some of it
						if resp := w.answer(t, "POST"); resp.StatusCode != 200 {
							t.Fatalf("%s: answer %d", target, resp.StatusCode)
						}
					}
				}
			}
			extproctest.Await(t, "what was judged to be let go", 30*time.Second, func(context.Context) error {
				now := g.vitals(t)
				_, text := get(t, "http://"+g.Admin+"/metrics")
				counted := metricOf(t, text, "countersign_memory_judged_bytes")
				if now.open < many || now.heap > g.before.heap+many<<18 || counted > 2*many*(300<<10) {
					return fmt.Errorf("%v are under way; before %+v, now %+v, counted %v", now.open, g.before, now, counted)
				}
				return nil
			})
		})
	}
}

const redactSome = `
-- policy.rego --
package rules.payments

allow contains {"id": "all"}

redact contains {"path": "$..ssn"} if "1" in input.http.query.redact
`

// Operations that wait for people keep their bodies, and are counted with them; another agent can still be held.
func TestHeldBodiesAreCounted(t *testing.T) {
	t.Parallel()
	for _, attach := range []string{"ext_proc", "ext_authz"} {
		t.Run(attach, func(t *testing.T) {
			const memory = 8 << 20
			g := start(t, fmt.Sprintf(`%s-- config.yaml --
people: {issuer: "${ISSUER}", client_id: countersign-console}
approvals: {hold: 50s, limits: {per_agent: 1000, rate: 10000}}
limits: {memory: %d}
`, refundPolicy, memory), story.Options{Attach: attach})
			ctx, leave := context.WithCancel(t.Context())
			var answered atomic.Int64
			var work sync.WaitGroup
			hold := func(agent string, i int) {
				token, err := g.Issuer.AgentToken(t.Context(), agent)
				if err != nil {
					t.Fatal(err)
				}
				work.Go(func() {
					body := fmt.Appendf(nil, `{"amount": %d, "note": "%s"}`, i, strings.Repeat("x", 40_000))
					a, err := g.Send(ctx, &story.Request{Method: "POST", Target: fmt.Sprintf("/v1/payments/%d/refunds", i), Body: body, Fields: fields("Authorization", "Bearer "+token, "Content-Type", "application/json")})
					if ctx.Err() != nil {
						return
					}
					answered.Add(1)
					if err != nil || a.Status != 503 || a.Header.Get("Retry-After") == "" || !strings.Contains(string(a.Body), "urn:countersign:problem:unavailable") {
						t.Errorf("%s, refund %d: %+v, %v", agent, i, a, err)
					}
				})
			}
			await := func(n int) (held int) {
				extproctest.Await(t, fmt.Sprintf("%d to be held or refused", n), 40*time.Second, func(context.Context) error {
					_, text := get(t, "http://"+g.Admin+"/metrics")
					held = int(metricOf(t, text, "countersign_approvals_held"))
					if counted := metricOf(t, text, "countersign_memory_judged_bytes"); counted > memory {
						t.Errorf("%v bytes are counted, of %d", counted, memory)
					}
					if held+int(answered.Load()) != n {
						return fmt.Errorf("%d are held, %d answered", held, answered.Load())
					}
					return nil
				})
				return held
			}
			held, most, sent := 0, memory/2/80_000, 0
			for ; answered.Load() == 0 && sent < 2*most; sent++ {
				hold("agent-1", sent)
				held = await(sent + 1)
			}
			if held > most || held < most/2 {
				t.Errorf("%d are held, and half of the memory is for %d", held, most)
			}
			hold("agent-2", sent)
			if now := await(sent + 1); now != held+1 {
				t.Errorf("another agent is not held: %d are, and %d were before", now, held)
			}
			leave()
			work.Wait()
		})
	}
}

// An answer that is redacted is held where a value in it has not ended. One agent has many such answers at once.
func TestMemoryOfAnswersIsBounded(t *testing.T) {
	t.Parallel()
	const memory, many = 64 << 20, 60
	for _, c := range []struct {
		name, query, sent string
		each              int64 // bytes that one is counted with
	}{
		{"long values", "", `{"x":"` + strings.Repeat("1234 ", 180_000), 8 << 20},
		{"a window of its coding each", "&coding=br", "", coding.Memory(coding.Brotli)},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := watch(t, fmt.Sprintf("%s-- config.yaml --\nlimits: {memory: %d}\n", redactAll, memory), story.Options{Target: story.TargetOptions{Unrecorded: true}})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			wires := make([]*wire, many)
			for i := range wires {
				wires[i] = dial(t, g.Gateway)
				wires[i].send(t, "%s\r\n", head(t, g.Gateway, "GET", fmt.Sprintf("/feed/%d?type=application/json%s", i, c.query)))
				if c.sent == "" {
					continue // the head is enough
				}
				if err := g.Target.Feed(strconv.Itoa(i)).Send(ctx, c.sent); err != nil && ctx.Err() != nil {
					t.Fatal(err)
				}
			}
			without := func() (n int) { // an answer, for want of memory: as it came, or before the request went on
				for _, r := range g.Records() {
					if r.Type == gate.OperationFinished && (r.Body["problem"] == string(gate.Unavailable) || strings.Contains(r.Body["reason"].(string), "memory")) {
						n++
					}
				}
				return n
			}
			extproctest.Await(t, "all but a few to be without an answer", 30*time.Second, func(context.Context) error {
				if n := without(); n < many-memory/2/int(c.each)-1 {
					return fmt.Errorf("%d are", n)
				}
				return nil
			})
			if now := g.vitals(t); now.open == 0 || now.heap > g.before.heap+memory {
				t.Errorf("before %+v, now %+v", g.before, now)
			}
			for _, w := range wires {
				_ = w.Close()
			}
			g.unharmed(t)
		})
	}
}
