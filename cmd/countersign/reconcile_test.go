package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// operation is what the journal says of one operation.
type operation struct {
	target  string
	effect  string
	decided uint64
	ended   string // "finished" with its result, or "unknown"; empty while it is open
	status  float64
	bytesIn float64
}

// operations reads the journal's operations by id.
func operations(g *story.Gateway) map[string]*operation {
	all := map[string]*operation{}
	for _, r := range g.Records() {
		switch r.Type {
		case "operation.decided":
			all[r.Op] = &operation{target: fmt.Sprint(r.Body["target"]), effect: fmt.Sprint(r.Body["effect"]), decided: r.Seq}
		case "operation.finished":
			o := all[r.Op]
			o.ended = fmt.Sprint("finished ", r.Body["result"])
			o.status, _ = r.Body["status"].(float64)
			o.bytesIn, _ = r.Body["bytes_in"].(float64)
		case "operation.unknown":
			all[r.Op].ended = "unknown"
		}
	}
	return all
}

// reconcile is the property that every fault must leave standing: what the target saw was allowed in the journal, path by
// path and as often; every allowed operation has an outcome or an operation.unknown; and the journal verifies. It waits for
// outcomes that are still on their way. It returns the operations.
func reconcile(t *testing.T, g *story.Gateway) map[string]*operation {
	t.Helper()
	var all map[string]*operation
	extproctest.Await(t, "the end of every operation", 40*time.Second, func(context.Context) error {
		all = operations(g)
		for id, o := range all {
			if o.ended == "" {
				return fmt.Errorf("operation %s (%s %s, record %d) has no outcome", id, o.effect, o.target, o.decided)
			}
		}
		return nil
	})
	allowed := map[string]int{}
	for _, o := range all {
		if o.effect == "allow" {
			allowed[o.target]++
		}
	}
	for _, s := range g.Target.Requests() {
		path, _, _ := strings.Cut(s.Path, "?")
		if allowed[path]--; allowed[path] < 0 {
			t.Errorf("the target saw %s %s, and the journal does not say that it was allowed", s.Method, path)
		}
	}
	verify(t, g)
	return all
}

// verify holds the journal against its checkpoints, beside the gateway where it runs.
func verify(t *testing.T, g *story.Gateway) {
	t.Helper()
	if out, code := runCommand(t, "evidence", "verify", "--data", g.Data()); code != 0 || !strings.Contains(out, "PASS") {
		t.Errorf("verify: exit %d\n%s", code, out)
	}
}

// load is agents that ask again and again, each time for a path of its own, until they are told to stop.
type load struct {
	t      *testing.T
	stop   chan struct{}
	work   sync.WaitGroup
	mu     sync.Mutex
	status map[string]int // by path; 0 where no whole answer came
	slow   time.Duration  // the longest that an answer took

	body func() io.Reader // of requests; nil for GETs without one
}

// startLoad has clients ask g for /v1/NAME/CLIENT/NUMBER, as agent-1.
func startLoad(t *testing.T, g *story.Gateway, name string, clients int) *load {
	t.Helper()
	return startLoadOf(t, g, name, clients, nil)
}

// startLoadOf is startLoad with POSTs that have a body, where body is not nil.
func startLoadOf(t *testing.T, g *story.Gateway, name string, clients int, body func() io.Reader) *load {
	t.Helper()
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	l := &load{t: t, stop: make(chan struct{}), status: map[string]int{}, body: body}
	for i := range clients {
		l.work.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: 60 * time.Second}
			defer client.CloseIdleConnections()
			for n := 0; l.ask(client, g.Address, token, fmt.Sprintf("/v1/%s/c%d/n%d", name, i, n)); n++ {
			}
		})
	}
	t.Cleanup(func() { l.end() })
	return l
}

// ask sends one request and reports whether to go on.
func (l *load) ask(client *http.Client, address, token, path string) bool {
	select {
	case <-l.stop:
		return false
	default:
	}
	r, err := http.NewRequest(http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		l.t.Error(err)
		return false
	}
	if l.body != nil {
		r.Method, r.Body, r.ContentLength = http.MethodPost, io.NopCloser(l.body()), -1
	}
	r.Header.Set("Authorization", "Bearer "+token)
	began, code := time.Now(), 0
	resp, err := client.Do(r)
	if err == nil {
		if _, err = io.Copy(io.Discard, resp.Body); err == nil {
			code = resp.StatusCode
		}
		_ = resp.Body.Close()
	}
	l.mu.Lock()
	l.status[path] = code
	l.slow = max(l.slow, time.Since(began))
	l.mu.Unlock()
	if err != nil { // nobody listens: do not spin
		select {
		case <-l.stop:
		case <-time.After(10 * time.Millisecond):
		}
	}
	return true
}

// done counts the answers so far by status.
func (l *load) done() map[int]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := map[int]int{}
	for _, code := range l.status {
		count[code]++
	}
	return count
}

// reach waits until n more answers with that status came.
func (l *load) reach(code, n int) {
	l.t.Helper()
	n += l.done()[code]
	extproctest.Await(l.t, fmt.Sprintf("%d answers with status %d", n, code), 60*time.Second, func(context.Context) error {
		if got := l.done(); got[code] < n {
			return fmt.Errorf("the answers are %v", got)
		}
		return nil
	})
}

// end stops the agents and returns what each of their requests got.
func (l *load) end() map[string]int {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.work.Wait()
	return l.status
}
