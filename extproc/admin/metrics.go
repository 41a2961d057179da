package admin

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/countersign/countersign/extproc/evidence/otlp"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/lane"
)

// Metrics are the gateway's own, made with the OpenTelemetry SDK and read by Prometheus.
type Metrics struct {
	registry   *prometheus.Registry
	meter      metric.Meter
	operations metric.Int64Counter
	outcomes   metric.Int64Counter
	targets    metric.Int64Counter
	deciding   metric.Float64Histogram
	alarms     metric.Int64Counter
	reloads    metric.Int64Counter
	sets       sync.Map     // [3]string -> metric.MeasurementOption
	count      atomic.Int64 // of sets
}

// NewMetrics returns metrics that have counted nothing yet.
func NewMetrics() (*Metrics, error) {
	m := &Metrics{registry: prometheus.NewRegistry()}
	exporter, err := otelprom.New(otelprom.WithRegisterer(m.registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	m.meter = sdk.NewMeterProvider(sdk.WithReader(exporter)).Meter("countersign")
	for _, c := range []struct {
		to                *metric.Int64Counter
		name, description string
	}{
		{&m.operations, "countersign.operations", "Decisions, by resource and effect."},
		{&m.outcomes, "countersign.outcomes", "Operations that ended, by resource and result."},
		{&m.targets, "countersign.target.failures", "Requests whose target could not be reached or broke off, by resource."},
		{&m.alarms, "countersign.alarms", "Alarms, by kind."},
		{&m.reloads, "countersign.reloads", "Reloads of the configuration, by whether the new one was taken."},
	} {
		if *c.to, err = m.meter.Int64Counter(c.name, metric.WithDescription(c.description)); err != nil {
			return nil, fmt.Errorf("make the metric %s: %w", c.name, err)
		}
	}
	m.deciding, err = m.meter.Float64Histogram("countersign.decision.duration", metric.WithUnit("s"),
		metric.WithDescription("From the first byte of a request to its durable decision."),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5))
	if err != nil {
		return nil, fmt.Errorf("make the metric countersign.decision.duration: %w", err)
	}
	return m, nil
}

// Observer counts operations.
func (m *Metrics) Observer() lane.Observer {
	ctx := context.Background()
	return lane.Observer{
		Decided: func(op *gate.Operation, r gate.Ruling, took time.Duration) {
			m.operations.Add(ctx, 1, m.labels("effect", op.Resource.Name, r.Verdict().Effect.String()))
			m.deciding.Record(ctx, took.Seconds(), m.labels("", op.Resource.Name, ""))
		},
		Finished: func(resource string, result gate.Result, _ time.Duration) {
			m.outcomes.Add(ctx, 1, m.labels("result", resource, string(result)))
		},
		TargetFailed: func(resource string) { m.targets.Add(ctx, 1, m.labels("", resource, "")) },
	}
}

// maxLabels bounds the sets of attributes, and so the time series. The configuration has few resources, but an Envoy could make up
// names for them.
const maxLabels = 10_000

// labels returns a set of attributes. It makes each once: making one costs more than all the rest of counting.
func (m *Metrics) labels(name, resource, value string) metric.MeasurementOption {
	if m.count.Load() > maxLabels {
		resource = "other"
	}
	key := [3]string{name, resource, value}
	known, _ := m.sets.Load(key)
	if o, ok := known.(metric.MeasurementOption); ok {
		return o
	}
	attrs := []attribute.KeyValue{attribute.String("resource", resource)}
	if name != "" {
		attrs = append(attrs, attribute.String(name, value))
	}
	o := metric.WithAttributeSet(attribute.NewSet(attrs...))
	m.sets.Store(key, o)
	m.count.Add(1)
	return o
}

// Alarm counts an alarm.
func (m *Metrics) Alarm(kind string) {
	m.alarms.Add(context.Background(), 1, metric.WithAttributes(attribute.String("kind", kind)))
}

// Reload counts a reload, and whether the new configuration was taken.
func (m *Metrics) Reload(taken bool) {
	m.reloads.Add(context.Background(), 1, metric.WithAttributes(attribute.Bool("taken", taken)))
}

// Issuers registers a gauge with a value for each issuer: 1 while its tokens can be verified, and 0 otherwise.
func (m *Metrics) Issuers(name, description string, states func() []identity.State) error {
	_, err := m.meter.Int64ObservableGauge(name, metric.WithUnit("1"), metric.WithDescription(description),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			for _, i := range states() {
				var ready int64
				if i.Err == nil {
					ready = 1
				}
				o.Observe(ready, metric.WithAttributes(attribute.String("issuer", i.Issuer)))
			}
			return nil
		}))
	if err != nil {
		return fmt.Errorf("make the metric %s: %w", name, err)
	}
	return nil
}

// Gauge registers a value that is read when the metrics are.
func (m *Metrics) Gauge(name, unit, description string, read func() float64) error {
	_, err := m.meter.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			o.Observe(read())
			return nil
		}))
	if err != nil {
		return fmt.Errorf("make the metric %s: %w", name, err)
	}
	return nil
}

// Courier registers gauges of what the collector has accepted and what not.
func (m *Metrics) Courier(courier *otlp.Courier) error {
	for _, g := range []struct {
		name, unit, description string
		read                    func(otlp.Stats) float64
	}{
		{"countersign.otlp.lag", "{record}", "Durable records that the collector has not accepted.", func(s otlp.Stats) float64 { return float64(s.LagRecords) }},
		{"countersign.otlp.lag.time", "s", "Age of the oldest record that the collector has not accepted.", func(s otlp.Stats) float64 { return s.LagTime.Seconds() }},
		{"countersign.otlp.sent", "{record}", "Records and checkpoints that the collector accepted since the start.", func(s otlp.Stats) float64 { return float64(s.Sent) }},
		{"countersign.otlp.rejected", "{record}", "Records that the collector would not have.", func(s otlp.Stats) float64 { return float64(s.Rejected) }},
		{"countersign.otlp.retries", "{request}", "Requests that were made again.", func(s otlp.Stats) float64 { return float64(s.Retries) }},
	} {
		if err := m.Gauge(g.name, g.unit, g.description, func() float64 { return g.read(courier.Stats()) }); err != nil {
			return err
		}
	}
	return m.Gauge("countersign.otlp.listed", "{entry}", "Stretches of the journal of which the collector rejected something: evidence rejected lists them, evidence resend sends them again.", func() float64 {
		list, err := courier.Listed()
		if err != nil {
			return math.NaN()
		}
		return float64(len(list))
	})
}
