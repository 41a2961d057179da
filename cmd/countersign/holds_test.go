package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// crowded is a gateway at which many operations wait for people at once.
type crowded struct {
	*watched
	console, agent, bob string
	client              *http.Client
}

func startCrowded(t testing.TB, hold string, o story.Options) *crowded {
	t.Helper()
	c := &crowded{console: extproctest.FreeAddress(t), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	t.Cleanup(c.client.CloseIdleConnections)
	c.watched = watch(t, fmt.Sprintf(`%s-- config.yaml --
people: {issuer: "${ISSUER}", client_id: countersign-console}
approvals: {hold: %s, limits: {total: 30000, per_agent: 30000, per_resource: 30000, rate: 1000000}}
limits: {memory: 1GiB} # all are one agent's, and a small machine has less for it
-- listen --
console: %q
`, refundPolicy, hold, c.console), o)
	var err error
	if c.agent, err = c.Issuer.AgentToken(t.Context(), "agent-1"); err != nil {
		t.Fatal(err)
	}
	c.bob = c.Issuer.Mint(extproctest.Mint{Type: "at+jwt", Claims: extproctest.Claims{
		"sub": "u-bob", "aud": "countersign-console", "client_id": "countersign-console", "groups": []string{"payments-oncall"}, "amr": []string{"pwd"},
	}})
	return c
}

// waiter is one agent's connection that waits for its answer.
type waiter struct {
	conn   net.Conn
	answer chan answered
}

type answered struct {
	status int
	body   string
	at     time.Time
	err    error
}

// send asks for a refund of payment n on a connection of its own.
func (c *crowded) send(n int) (*waiter, error) {
	conn, err := net.Dial("tcp", c.Address)
	if err != nil {
		return nil, err
	}
	body := fmt.Sprintf(`{"amount": %d}`, n+1)
	_, err = fmt.Fprintf(conn, "POST /v1/payments/%d/refunds HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		n, c.Address, c.agent, len(body), body)
	w := &waiter{conn: conn, answer: make(chan answered, 1)}
	go func() { w.answer <- w.read() }()
	return w, err
}

func (w *waiter) read() answered {
	var first [1]byte // a buffer for the answer is made when it comes
	if _, err := io.ReadFull(w.conn, first[:]); err != nil {
		return answered{err: err}
	}
	at := time.Now()
	resp, err := http.ReadResponse(bufio.NewReader(io.MultiReader(bytes.NewReader(first[:]), w.conn)), nil)
	if err != nil {
		return answered{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answered{resp.StatusCode, string(body), at, err}
}

// hold sends that many refunds at once and returns when all are held.
func (c *crowded) hold(t testing.TB, n int) []*waiter {
	t.Helper()
	waiters := make([]*waiter, n)
	t.Cleanup(func() {
		for _, w := range waiters {
			if w != nil {
				_ = w.conn.Close()
			}
		}
	})
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			for i := worker; i < n; i += 16 {
				var err error
				if waiters[i], err = c.send(i); err != nil {
					t.Errorf("refund %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	extproctest.Await(t, fmt.Sprintf("%d holds", n), 5*time.Minute, func(context.Context) error {
		_, text := get(t, "http://"+c.Admin+"/metrics")
		if held := metricOf(t, text, "countersign_approvals_held"); int(held) != n {
			return fmt.Errorf("%v are held", held)
		}
		return nil
	})
	return waiters
}

// requests are the open requests by the number of the payment, as the journal tells of them.
func (c *crowded) requests(t testing.TB) map[int]apiRequest {
	t.Helper()
	found := map[int]apiRequest{}
	for _, r := range c.Records() {
		if r.Type != "approval.requested" {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(fmt.Sprint(r.Body["target"]), "/v1/payments/%d/refunds", &n); err != nil {
			t.Fatalf("read the target in %v: %v", r.Body, err)
		}
		if _, twice := found[n]; twice {
			t.Errorf("payment %d was asked about twice", n)
		}
		found[n] = apiRequest{ID: fmt.Sprint(r.Body["approval"]), CardDigest: fmt.Sprint(r.Body["card_digest"])}
	}
	return found
}

// decide returns when the decision is acknowledged.
func (c *crowded) decide(ctx context.Context, r apiRequest, decision string) (time.Time, error) {
	body, _ := json.Marshal(map[string]string{"decision": decision, "reason": "number " + r.ID, "card": r.CardDigest})
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+c.console+"/api/approvals/"+r.ID+"/decisions", bytes.NewReader(body))
	if err != nil {
		return time.Time{}, err
	}
	req.Header.Set("Authorization", "Bearer "+c.bob)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	at := time.Now()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%s %s: %d %s", decision, r.ID, resp.StatusCode, text)
	}
	return at, err
}

// decideAll has people decide on all of them, from several tabs, and returns when each decision was acknowledged.
func (c *crowded) decideAll(t testing.TB, requests map[int]apiRequest, tabs int, how func(n int) string) map[int]time.Time {
	t.Helper()
	order := make(chan int, len(requests))
	for n := range requests {
		order <- n
	}
	close(order)
	var mu sync.Mutex
	acknowledged := map[int]time.Time{}
	var wg sync.WaitGroup
	for range tabs {
		wg.Go(func() {
			for n := range order {
				at, err := c.decide(t.Context(), requests[n], how(n))
				if err != nil {
					t.Errorf("refund %d: %v", n, err)
					continue
				}
				mu.Lock()
				acknowledged[n] = at
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return acknowledged
}

// reached is when the target saw the refund of each payment. Twice is an error.
func (c *crowded) reached(t testing.TB) map[int]time.Time {
	t.Helper()
	at := map[int]time.Time{}
	for _, seen := range c.Target.Requests() {
		if seen.Method != "POST" {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(seen.Path, "/v1/payments/%d/refunds", &n); err != nil || string(seen.Body) != fmt.Sprintf(`{"amount": %d}`, n+1) {
			t.Errorf("the target saw %s %s: %v", seen.Path, seen.Body, err)
		}
		if _, twice := at[n]; twice {
			t.Errorf("payment %d was refunded twice", n)
		}
		at[n] = seen.At
	}
	return at
}

// TestManyHolds: five hundred operations wait at once. Each is answered as it was decided, in its own person's words; nothing
// is lost and nothing stays behind.
func TestManyHolds(t *testing.T) {
	t.Parallel()
	const holds = 500
	c := startCrowded(t, "2m", story.Options{})
	waiters := c.hold(t, holds)
	if n := len(c.reached(t)); n != 0 {
		t.Fatalf("the target saw %d refunds during the hold", n)
	}
	requests := c.requests(t)
	if len(requests) != holds {
		t.Fatalf("%d requests for %d operations", len(requests), holds)
	}
	approved := func(n int) bool { return n%3 != 0 }
	c.decideAll(t, requests, 4, func(n int) string {
		if approved(n) {
			return "approve"
		}
		return "reject"
	})
	counts := map[int]int{}
	for n, w := range waiters {
		a := <-w.answer
		_ = w.conn.Close()
		counts[a.status]++
		switch {
		case a.err != nil:
			t.Errorf("refund %d is lost: %v", n, a.err)
		case approved(n) && (a.status != 201 || !strings.Contains(a.body, fmt.Sprintf(`"payment":"%d"`, n))):
			t.Errorf("refund %d was approved, and answered %d %s", n, a.status, a.body)
		case !approved(n) && (a.status != 403 || !strings.Contains(a.body, "number "+requests[n].ID)):
			t.Errorf("refund %d was rejected, and answered %d %s", n, a.status, a.body)
		}
	}
	reached := c.reached(t)
	for n := range holds {
		if _, ok := reached[n]; ok != approved(n) {
			t.Errorf("refund %d, approved %v, reached the target %v", n, approved(n), ok)
		}
	}
	t.Logf("answers by status: %v", counts)
	c.client.CloseIdleConnections()
	c.unharmed(t)
}

// TestStacksOfHolds: what waits for people has a stack of 8 KB, the deep ones of before having returned and been given up.
func TestStacksOfHolds(t *testing.T) {
	t.Parallel()
	for _, attach := range []string{"ext_proc", "ext_authz"} {
		t.Run(attach, func(t *testing.T) {
			const holds, most = 300, 9 << 10
			c := startCrowded(t, "2m", story.Options{Binary: extproctest.BuildShipped(t), Attach: attach})
			stacks := func() (n int) {
				_, text := get(t, "http://"+c.profiles+"/debug/pprof/heap?gc=1&debug=1")
				_, rest, _ := strings.Cut(text, "# Stack = ")
				if _, err := fmt.Sscan(rest, &n); err != nil {
					t.Fatalf("the heap's profile has no stacks: %v", err)
				}
				return n
			}
			for range 4 { // each collection halves a stack
				stacks()
			}
			before := stacks()
			c.hold(t, holds)
			extproctest.Await(t, "small stacks", time.Minute, func(context.Context) error {
				if each := (stacks() - before) / holds; each > most {
					return fmt.Errorf("%d bytes a hold", each)
				}
				return nil
			})
		})
	}
}

// quantile of sorted durations.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Round(time.Microsecond)
}

func sortedCopy(d []time.Duration) []time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d
}
