package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/webhook"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// Approvals registers gauges of the requests that wait for people and of the operations that are held. It follows store until ctx
// ends.
func (m *Metrics) Approvals(ctx context.Context, store approval.Store, held func() int, log *slog.Logger) error {
	q := &queue{log: log, since: map[string]time.Time{}}
	go guard.Loop(ctx, "the count of approvals", func() { q.follow(ctx, store) })()
	return errors.Join(
		m.Gauge("countersign.approvals.pending", "{request}", "Requests that wait for people.", func() float64 { n, _ := q.read(time.Now()); return float64(n) }),
		m.Gauge("countersign.approvals.oldest.age", "s", "How long the oldest of them has waited.", func() float64 { _, age := q.read(time.Now()); return age.Seconds() }),
		m.Gauge("countersign.approvals.held", "{operation}", "Operations that are held until people have decided.", func() float64 { return float64(held()) }),
	)
}

// Webhook registers what a notifier has not delivered.
func (m *Metrics) Webhook(n *webhook.Notifier) error {
	return errors.Join(
		m.Gauge("countersign.webhook.waiting", "{event}", "Notifications that wait for the receiver.", func() float64 { return float64(n.Stats().Waiting) }),
		m.Gauge("countersign.webhook.dropped", "{event}", "Notifications that were given up since the start.", func() float64 { return float64(n.Stats().Dropped) }),
	)
}

// queue follows the requests that wait for people, so that a reading does not ask the store.
type queue struct {
	log   *slog.Logger
	mu    sync.Mutex
	since map[string]time.Time // pending requests, by id
}

func (q *queue) read(now time.Time) (pending int, oldest time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, since := range q.since {
		oldest = max(oldest, now.Sub(since))
	}
	return len(q.since), oldest
}

// follow keeps up with the store until ctx ends.
func (q *queue) follow(ctx context.Context, store approval.Store) {
	f := approval.Follower{
		Watch: store.Watch,
		All:   func(ctx context.Context) error { return q.all(ctx, store) },
		Change: func(_ context.Context, c approval.Change) error {
			q.change(c, time.Now())
			return nil
		},
		Failed: func(err error) { q.log.Error("approvals: cannot count what waits; trying again", "error", err) },
	}
	f.Run(ctx)
}

func (q *queue) change(c approval.Change, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if c.State != approval.Pending {
		delete(q.since, c.ID)
	} else if _, known := q.since[c.ID]; !known {
		q.since[c.ID] = now
	}
}

func (q *queue) all(ctx context.Context, store approval.Store) error {
	since := map[string]time.Time{}
	for page, err := range approval.Pages(ctx, store.List, approval.Filter{States: []approval.State{approval.Pending}}) {
		if err != nil {
			return fmt.Errorf("count what waits for people: %w", err)
		}
		for i := range page {
			since[page[i].ID] = page[i].Created
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.since = since
	return nil
}

// countingRecorder counts people's decisions as they become durable. Each gateway counts those that it records, so a sum over
// gateways is right. After a crash the gateway that makes up for a missing record counts it.
//
// The approver is an attribute: one whose median think time is a second, and who never rejects, does not read. At most
// maxApprovers are named, since an issuer can have as many subjects as it likes; the rest are "other". Refused attempts name
// nobody, because anybody can make them.
type countingRecorder struct {
	gate.Recorder
	decisions metric.Int64Counter
	think     metric.Float64Histogram

	mu    sync.Mutex
	named map[string]bool // approvers
}

// maxApprovers is how many time series of approvers a gateway makes between two starts.
const maxApprovers = 500

// CountDecisions returns a recorder that writes to r and counts people's decisions.
func (m *Metrics) CountDecisions(r gate.Recorder) (gate.Recorder, error) {
	decisions, err := m.meter.Int64Counter("countersign.approvals.decisions",
		metric.WithDescription("People's decisions, by approve, reject or refused, and by the approver's subject."))
	if err != nil {
		return nil, fmt.Errorf("make the metric countersign.approvals.decisions: %w", err)
	}
	think, err := m.meter.Float64Histogram("countersign.approvals.think.time", metric.WithUnit("s"),
		metric.WithDescription("From when a card was shown to the decision, by the approver's subject. A median near zero is a rubber stamp."),
		metric.WithExplicitBucketBoundaries(1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600, 1800))
	if err != nil {
		return nil, fmt.Errorf("make the metric countersign.approvals.think.time: %w", err)
	}
	return &countingRecorder{Recorder: r, decisions: decisions, think: think, named: map[string]bool{}}, nil
}

// Append counts r once it is durable.
func (c *countingRecorder) Append(ctx context.Context, r *gate.Record) (gate.Receipt, error) {
	receipt, err := c.Recorder.Append(ctx, r)
	if err == nil && r.Type == approval.RecordDecided {
		c.count(ctx, r.Body)
	}
	return receipt, err
}

// Begin counts r once it was waited for.
func (c *countingRecorder) Begin(ctx context.Context, r *gate.Record) func() (gate.Receipt, error) {
	durable := c.Recorder.Begin(ctx, r)
	if r.Type != approval.RecordDecided {
		return durable
	}
	return func() (gate.Receipt, error) {
		receipt, err := durable()
		if err == nil {
			c.count(ctx, r.Body)
		}
		return receipt, err
	}
}

// label returns the attribute of an approver: their subject, or "other".
func (c *countingRecorder) label(subject string) attribute.KeyValue {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.named[subject] {
		if len(c.named) >= maxApprovers || len(subject) > 256 {
			return attribute.String("approver", "other")
		}
		c.named[subject] = true
	}
	return attribute.String("approver", subject)
}

func (c *countingRecorder) count(ctx context.Context, body gate.Body) {
	var d struct {
		Decision string `json:"decision"`
		Approver struct {
			Subject string `json:"subject"`
		} `json:"approver"`
		Think *float64 `json:"think"`
	}
	text, err := body.AppendJSON(nil)
	if err != nil || json.Unmarshal(text, &d) != nil {
		return
	}
	attrs := []attribute.KeyValue{attribute.String("decision", d.Decision)}
	if d.Decision == "refused" {
		c.decisions.Add(ctx, 1, metric.WithAttributes(attrs...))
		return
	}
	approver := c.label(d.Approver.Subject)
	c.decisions.Add(ctx, 1, metric.WithAttributes(append(attrs, approver)...))
	if d.Think != nil {
		c.think.Record(ctx, *d.Think, metric.WithAttributes(approver))
	}
}
