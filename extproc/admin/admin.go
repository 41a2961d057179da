// Package admin is what whoever runs the gateway sees of it: /healthz, /readyz and /metrics. It reads and decides nothing.
//
// Who may ask is the configuration's to say (listen.admin); by default it is this machine only. What others choose, a name of a
// resource, an approver, a collector's words, is bounded and quoted here.
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

// Status is what the gateway knows of itself at one moment.
type Status struct {
	Stopping bool
	Active   bool   // there is a configuration
	Rejected string // why the file on disk is not what is active; "" where it is

	NoIssuer      error             // why nobody's agents can be served
	Issuers       []identity.State  // of agents' tokens
	PeoplesIssuer []identity.State  // of those who approve; empty where nobody can be asked
	Targets       map[string]string // what Envoy said of a resource's target, where that fails

	Journal   error                       // why nothing can be recorded
	Courier   *otlp.Courier               // nil where there is no collector
	Envoys    xds.State                   // what Envoys have taken of the configuration
	Supervise bool                        // an Envoy is run here
	Envoy     func(context.Context) error // asks that Envoy; nil until it is started
}

// write writes a line for each condition. It returns whether an operation could be allowed now.
//
// An issuer that is away has a line too, and turns nobody else's agents away; so have the issuer of people, a target that fails and
// a configuration that was not taken: with what is in force the gateway works. What Envoy refused is red until it has taken
// it: whoever changed the configuration must not believe that it is in force.
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

// refusals returns what Envoys did not take of the configuration that they were sent last.
func refusals(state xds.State) (list []string) {
	for _, n := range state.Nodes {
		for _, r := range n.Refused {
			list = append(list, fmt.Sprintf("%s refused: %s", r.Type, strings.TrimSpace(r.Message)))
		}
	}
	return list
}

// collector says how the courier fares. It stops nobody's access. The collector's words are quoted: they are a stranger's.
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
