package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/listener"
	"github.com/countersign/countersign/extproc/supervisor"
	"github.com/countersign/countersign/xds"
)

// admin serves /healthz, /readyz and /metrics.
func (g *gateway) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", g.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}

// listenProfile serves the runtime's profiles. They show what the process works on, so only this machine can have them.
func (g *gateway) listenProfile(ctx context.Context, a config.Address) error {
	if !a.Loopback() {
		return usagef("serve: --pprof %s: only a loopback address is accepted", a)
	}
	l, err := listener.Listen(ctx, a)
	if err != nil {
		return fmt.Errorf("--pprof: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := listener.HTTP("the profiles", mux)
	server.WriteTimeout = 10 * time.Minute // a profile takes as long as it was asked to
	listener.Serve("the profiles", server, l, func(detail string) { g.log.Warn("profiles are no longer served", "error", detail) })
	return nil
}

// ready answers 200 where an operation could be allowed now, and 503 where none could; the body has a line for each condition.
// An issuer that is away has a line too, and turns nobody else's agents away; so have the issuer of people, a target that fails and
// a configuration that was not taken: with what is in force the gateway works. What Envoy refused is red until it has taken
// it: whoever changed the configuration must not believe that it is in force.
func (g *gateway) ready(w http.ResponseWriter, r *http.Request) {
	var b strings.Builder
	well := true
	line := func(name string, err error) {
		if err != nil {
			well = false
			fmt.Fprintf(&b, "%s: %v\n", name, err)
			return
		}
		fmt.Fprintf(&b, "%s: ok\n", name)
	}
	var failing []string
	tell := func(what string, states []identity.State) { // what keeps others from nothing
		for _, i := range states {
			said := "ok"
			if i.Err != nil {
				said = i.Err.Error()
			}
			fmt.Fprintf(&b, "%s %s: %s\n", what, i.Issuer, said)
		}
	}
	g.mu.Lock()
	a, envoy, draining, courier, rejected := g.active, g.envoy, g.draining, g.courier, g.rejected
	g.mu.Unlock()
	if draining {
		line("serving", fmt.Errorf("the gateway is stopping"))
	}
	if a == nil {
		line("config", fmt.Errorf("no configuration is active"))
	} else {
		if rejected == "" {
			line("config", nil)
		} else {
			fmt.Fprintf(&b, "config: the file on disk is not what is active: it was rejected: %s\n", rejected)
		}
		line("policies", nil)
		line("issuers", a.verifier.Ready())
		tell("issuer", a.verifier.States())
	}
	tell("people's issuer", g.peoplesIssuer())
	for resource, words := range g.server.FailingTargets() {
		failing = append(failing, fmt.Sprintf("target of %s: failed when it was asked last: %s\n", resource, words))
	}
	slices.Sort(failing)
	b.WriteString(strings.Join(failing, ""))
	line("journal", g.journal.Err())
	if courier != nil {
		fmt.Fprintf(&b, "collector: %s\n", collectorState(courier))
	}
	refused := refusals(g.envoys.State())
	switch {
	case envoy != nil:
		err := envoy.Ready(r.Context())
		if errors.Is(err, supervisor.ErrNoListener) && len(refused) > 0 {
			err = errors.New(refused[0])
		}
		line("envoy", err)
	case g.withEnvoy:
		line("envoy", errors.New("not started yet"))
	}
	for _, text := range refused { // what Envoy carries out is not what is configured
		line("envoy configuration", errors.New(text))
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if !well {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprint(w, b.String())
}

// refusals are what Envoys did not take of the configuration that they have been sent last.
func refusals(state xds.State) (list []string) {
	for _, n := range state.Nodes {
		for _, r := range n.Refused {
			list = append(list, fmt.Sprintf("%s refused: %s", r.Type, strings.TrimSpace(r.Message)))
		}
	}
	return list
}

// metrics are the service's own, made with the OpenTelemetry SDK and read by Prometheus.
type metrics struct {
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

func newMetrics() (*metrics, error) {
	m := &metrics{registry: prometheus.NewRegistry()}
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

func (m *metrics) observer() lane.Observer {
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

// maxLabels bounds the sets of labels, and with them the metrics. Resources are of the configuration, so there are few; but what
// Envoy calls a route's resource could be of its own making.
const maxLabels = 10_000

// labels makes each set of attributes once: making one costs more than all the rest of counting.
func (m *metrics) labels(name, resource, value string) metric.MeasurementOption {
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

func (m *metrics) alarm(kind string) {
	m.alarms.Add(context.Background(), 1, metric.WithAttributes(attribute.String("kind", kind)))
}

func (m *metrics) reload(taken bool) {
	m.reloads.Add(context.Background(), 1, metric.WithAttributes(attribute.Bool("taken", taken)))
}

// issuers registers which of them can be verified.
func (m *metrics) issuers(name, description string, states func() []identity.State) error {
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

// gauge registers a value that is read when the metrics are.
func (m *metrics) gauge(name, unit, description string, read func() float64) error {
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
