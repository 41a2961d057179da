package postgres

import (
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/xds"
)

// Envoy is Envoy's part of the kind: it takes the connection and passes it on.
type Envoy struct{}

// closing is how much longer than a session Envoy lets its connection be, so that the session can say why it ends.
const closing = time.Minute

// Make adds a listener and a cluster for each resource.
func (Envoy) Make(b *xds.Builder, c *config.Config) {
	for _, r := range config.Each[*Resource](c) {
		b.Pass(r.Listen.Address, c.Socket(name), r.Name, fingerprint(r), r.Limits.SessionTime.Std()+closing)
	}
}

// Check holds a filter chain that passes connections on to the rules that keep it fail-closed.
func (Envoy) Check(k *xds.Checker, chain *listenerv3.FilterChain, at xds.Place) bool {
	if filter, _ := xds.Passes(chain); filter == nil {
		return false
	}
	p := k.PassedOn(chain, func(c *config.Config) config.Address { return c.Socket(name) }, at)
	if p.Resource == "" {
		return true
	}
	r, known := xds.Named[*Resource](k, p.Resource)
	switch {
	case !known:
		k.Problem(at, "names the resource %q, which the configuration does not have as one of kind %s", p.Resource, name)
	case r != nil && p.Fingerprint != fingerprint(r):
		k.Problem(at, "was made for another configuration of resource %q: make the file again (countersign envoy static)", p.Resource)
	}
	return true
}

// fingerprint is a short digest of what Envoy carries out for r and a decision relies on: where agents connect. All else is the
// gateway's own to carry out.
func fingerprint(r *Resource) string { return xds.Digest(struct{ Address string }{r.Listen.Address}) }
