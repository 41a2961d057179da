// Package admin shows whoever runs the gateway how it is: /healthz, /readyz and /metrics. It decides nothing.
//
// The configuration says who may ask (listen.admin); by default only this machine. Texts that others choose, such as an approver's
// name or a collector's words, are bounded and quoted.
package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/countersign/countersign/extproc/evidence/otlp"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/supervisor"
	"github.com/countersign/countersign/xds"
)

// Handler serves /healthz, /readyz and /metrics.
func Handler(m *Metrics, status func() Status) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		var b strings.Builder
		ready := status().write(r.Context(), &b)
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprint(w, b.String())
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}

// Status is the state of the gateway at one moment.
type Status struct {
	Stopping bool
	Active   bool   // there is a configuration
	Rejected string // why the file on disk is not what is active; "" if it is

	NoIssuer      error             // why no agent can be served
	Issuers       []identity.State  // of agents' tokens
	PeoplesIssuer []identity.State  // of those who approve; empty if nobody can be asked
	Targets       map[string]string // by resource: what Envoy said of a target that fails

	Journal   error                       // why nothing can be recorded
	Courier   *otlp.Courier               // nil if there is no collector
	Envoys    xds.State                   // what Envoys have taken of the configuration
	Supervise bool                        // an Envoy is run here
	Envoy     func(context.Context) error // asks that Envoy whether it is ready; nil until it is started
}

// write writes a line for each condition, and returns whether the gateway is ready.
//
// Some conditions have a line and leave the gateway ready, because the rest of it works: one issuer that is away, the people's
// issuer, a target that fails, a collector that is away, a configuration that was rejected. A configuration that Envoy refused
// makes it unready: whoever changed it must not believe that it is in force.
func (s Status) write(ctx context.Context, w io.Writer) (ready bool) {
	ready = true
	needed := func(name string, err error) {
		if err != nil {
			ready = false
			fmt.Fprintf(w, "%s: %v\n", name, err)
			return
		}
		fmt.Fprintf(w, "%s: ok\n", name)
	}
	issuers := func(what string, states []identity.State) {
		for _, i := range states {
			state := "ok"
			if i.Err != nil {
				state = i.Err.Error()
			}
			fmt.Fprintf(w, "%s %s: %s\n", what, i.Issuer, state)
		}
	}
	if s.Stopping {
		needed("serving", errors.New("the gateway is stopping"))
	}
	switch {
	case !s.Active:
		needed("config", errors.New("no configuration is active"))
	case s.Rejected != "":
		fmt.Fprintf(w, "config: the file on disk is not what is active: it was rejected: %s\n", s.Rejected)
	default:
		needed("config", nil)
	}
	if s.Active {
		needed("policies", nil)
		needed("issuers", s.NoIssuer)
		issuers("issuer", s.Issuers)
	}
	issuers("people's issuer", s.PeoplesIssuer)
	for _, resource := range slices.Sorted(maps.Keys(s.Targets)) {
		fmt.Fprintf(w, "target of %s: failed when it was asked last: %s\n", resource, s.Targets[resource])
	}
	needed("journal", s.Journal)
	if s.Courier != nil {
		fmt.Fprintf(w, "collector: %s\n", collector(s.Courier))
	}
	refused := refusals(s.Envoys)
	switch {
	case s.Envoy != nil:
		err := s.Envoy(ctx)
		if errors.Is(err, supervisor.ErrNoListener) && len(refused) > 0 {
			err = errors.New(refused[0])
		}
		needed("envoy", err)
	case s.Supervise:
		needed("envoy", errors.New("not started yet"))
	}
	for _, text := range refused { // what Envoy carries out is not what is configured
		needed("envoy configuration", errors.New(text))
	}
	return ready
}

// refusals returns what Envoys refused of the configuration that they were sent last.
func refusals(state xds.State) (list []string) {
	for _, n := range state.Nodes {
		for _, r := range n.Refused {
			list = append(list, fmt.Sprintf("%s refused: %s", r.Type, strings.TrimSpace(r.Message)))
		}
	}
	return list
}

// collector says how the courier fares. The collector's words are quoted: they are a stranger's.
func collector(c *otlp.Courier) string {
	list, err := c.Listed()
	switch stats := c.Stats(); {
	case stats.LastError != "":
		return fmt.Sprintf("%d records wait to be accepted: %q", stats.LagRecords, stats.LastError)
	case err != nil:
		return err.Error()
	case len(list) > 0:
		return fmt.Sprintf("it has rejected something of %d stretches of the journal: see countersign evidence rejected", len(list))
	default:
		return "ok"
	}
}
