package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// askPolicy lets small refunds pass and asks about large ones: the same operation but for a number.
const askPolicy = `
-- policy.rego --
package rules.payments

allow contains {"id": "read"} if input.http.method == "GET"

allow contains {"id": "small"} if {
	input.http.method == "POST"
	input.http.segments[3] == "refunds"
	input.http.body.amount < 100000000
}

ask contains {"id": "refund", "reason": "refunds need a person", "approvers": ["payments-oncall"]} if {
	input.http.method == "POST"
	input.http.segments[3] == "refunds"
	input.http.body.amount >= 100000000
}
`

// BenchmarkAsk compares what an ask takes until its hold begins with what an allow takes until it is released, through Envoy,
// for operations that differ in one number, in both stores, with 1 and with 16 connections.
//
// An allow is timed from when the agent has sent it until the target has its head. The hold of an ask is over as soon as it
// has begun (1 ns), and the ask is timed from when the agent has sent it until the agent has the head of the hand-over: it goes the
// other way out of Envoy, and is as far. What counts against the ask is that the hand-over is rendered, and that the hold
// looks at the request once. The kinds take turns, so that what else the machine does meets all of them. The last column is
// what the gateway itself tells: the mean from the first byte that it sees of an operation until its decision is durable.
func BenchmarkAsk(b *testing.B) {
	for _, store := range []string{"embedded", "redis"} {
		b.Run(store, func(b *testing.B) {
			at := store
			if store == "redis" {
				at = "redis://" + extproctest.StartRedis(b, extproctest.RedisConfig{}).Address
			}
			benchmarkAsk(b, startAskedAbout(b, at))
		})
	}
}

func benchmarkAsk(b *testing.B, c *askedAbout) {
	const turns, rounds = 5, 480
	var out strings.Builder
	fmt.Fprintf(&out, "\n| %s: operation | connections | p50 | p99 | p50, × allow | processor time | decided |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n", b.Name())
	kinds := []askKind{allowed, joining, opening}
	c.send(b, allowed, 1, rounds) // warm
	c.send(b, opening, 16, rounds)
	for _, connections := range []int{1, 16} {
		var took [3][]time.Duration
		var spent, decided [3]time.Duration
		for range turns {
			for i, kind := range kinds {
				cpu, deciding := cpuOf(b, c.Process.PID()), c.deciding(b)
				took[i] = append(took[i], c.send(b, kind, connections, rounds)...)
				spent[i] += cpuOf(b, c.Process.PID()) - cpu
				decided[i] += c.deciding(b) - deciding
			}
		}
		var allow time.Duration
		for i, kind := range kinds {
			sorted := sortedCopy(took[i])
			p50, n := quantile(sorted, 0.5), time.Duration(len(sorted))
			if kind == allowed {
				allow = p50
			}
			fmt.Fprintf(&out, "| %s | %d | %v | %v | %.2f | %v | %v |\n", kind, connections, p50.Round(10*time.Microsecond), quantile(sorted, 0.99).Round(10*time.Microsecond),
				float64(p50)/float64(allow), (spent[i] / n).Round(time.Microsecond), (decided[i] / n).Round(10*time.Microsecond))
		}
	}
	fmt.Fprintln(os.Stdout, out.String()) // b.Log keeps ten lines
	b.ReportMetric(0, "ns/op")
}

// askKind is a kind of operation.
type askKind string

const (
	allowed askKind = "allow"
	joining askKind = "ask, joining"
	opening askKind = "ask, new"
)

// askedAbout is a gateway that hands over at once what it asks about.
type askedAbout struct {
	*watched
	agent string
	next  int
}

func startAskedAbout(b *testing.B, store string) *askedAbout {
	b.Helper()
	c := &askedAbout{next: 1}
	c.watched = watch(b, fmt.Sprintf(`%s-- config.yaml --
people: {issuer: "${ISSUER}", client_id: countersign-console}
approvals: {store: %q, hold: 1ns, limits: {total: 100000, per_agent: 100000, per_resource: 100000, rate: 1000000}}
-- listen --
console: %q
`, askPolicy, store, extproctest.FreeAddress(b)), story.Options{Binary: extproctest.BuildShipped(b)})
	var err error
	if c.agent, err = c.Issuer.AgentToken(b.Context(), "agent-1"); err != nil {
		b.Fatal(err)
	}
	return c
}

// send sends operations of one kind and returns what each took.
func (c *askedAbout) send(b *testing.B, kind askKind, connections, rounds int) []time.Duration {
	b.Helper()
	each := rounds / connections
	all := make(chan []trip, connections)
	for i := range connections {
		first := c.next + i*each
		go func() {
			trips, err := c.sendSome(b.Context(), kind, first, each)
			if err != nil {
				b.Errorf("%s: %v", kind, err)
			}
			all <- trips
		}()
	}
	c.next += rounds
	var trips []trip
	for range connections {
		trips = append(trips, <-all...)
	}
	return c.times(b, kind, trips)
}

// trip is one operation on its way.
type trip struct {
	path       string
	sent, back time.Time
}

// times are how long it took until the target had the operation, or until the agent was told that people are asked.
func (c *askedAbout) times(b *testing.B, kind askKind, trips []trip) []time.Duration {
	b.Helper()
	took := make([]time.Duration, 0, len(trips))
	reached := map[string]time.Time{}
	if kind == allowed {
		for _, seen := range c.Target.Requests() {
			reached[seen.Path] = seen.At
		}
	}
	for _, t := range trips {
		end := t.back
		if kind == allowed {
			if end = reached[t.path]; end.IsZero() {
				b.Fatalf("the target did not get %s", t.path)
			}
		}
		took = append(took, end.Sub(t.sent))
	}
	return took
}

func (c *askedAbout) sendSome(ctx context.Context, kind askKind, first, rounds int) ([]trip, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	var trips []trip
	for n := first; n < first+rounds; n++ {
		path, amount, want := fmt.Sprintf("/v1/payments/%d/refunds", n), n, 403
		switch kind {
		case allowed:
			want = 201
		case joining:
			path, amount = "/v1/payments/7/refunds", 1_000_000_000
		case opening:
			amount += 100_000_000
		}
		body := fmt.Sprintf(`{"amount": %d}`, amount)
		request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			path, c.Address, c.agent, len(body), body)
		t := trip{path: path, sent: time.Now()}
		if _, err := io.WriteString(conn, request); err != nil {
			return trips, err
		}
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			return trips, err
		}
		t.back = time.Now()
		if _, err = io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != want {
			return trips, fmt.Errorf("%s was answered %s (%w)", path, resp.Status, err)
		}
		trips = append(trips, t)
	}
	return trips, nil
}

// deciding is the time that the gateway has spent on deciding since it started.
func (c *askedAbout) deciding(b *testing.B) time.Duration {
	b.Helper()
	_, text := get(b, "http://"+c.Admin+"/metrics")
	return time.Duration(metricOf(b, text, "countersign_decision_duration_seconds_sum") * float64(time.Second))
}

// cpuOf is the processor time that a process has spent.
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
