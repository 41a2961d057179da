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
			g := watch(t, archive, story.Options{Attach: attach, Target: story.TargetOptions{Unrecorded: true}})
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
				{"120 at once, of many values", 120, same(120, zeros(1<<20))},
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
			for _, r := range g.Records() {
				if r.Type == gate.OperationDecided && r.Body["problem"] == string(gate.Unavailable) {
					return
				}
			}
			t.Error("no record tells of a request that was refused for want of memory")
		})
	}
}
