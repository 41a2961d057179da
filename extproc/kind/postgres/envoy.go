package postgres

import (
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/xds"
)

// Envoy is Envoy's part of the kind: it takes the connection, and passes it on or shows what is sent by it; and where egress says so it
// leads the gateway to the target.
type Envoy struct{}

// closing is how much longer than a session Envoy lets its connection be, so that the session can say why it ends.
const closing = time.Minute

// Make adds a listener and a cluster for each resource.
func (Envoy) Make(b *xds.Builder, c *config.Config) {
	for _, r := range config.Each[*Resource](c) {
		host, port, err := r.address()
		if err != nil {
			b.Fail(err)
			continue
		}
		longest := r.Limits.SessionTime.Std() + closing
		target := xds.Inner{Resource: r.Name, Fingerprint: fingerprint(r), Host: host, Port: port, Longest: longest}
		if r.Attach == shown {
			b.Show(r.Listen.Address, target)
		} else {
			b.Pass(r.Listen.Address, c.Socket(name), r.Name, fingerprint(r), longest)
		}
		if r.Egress == byEnvoy {
			b.Egress(c.Socket(egress(r)), target)
		}
	}
}

// Check holds a filter chain of the kind to the rules that keep it fail-closed.
func (Envoy) Check(k *xds.Checker, chain *listenerv3.FilterChain, at xds.Place) bool {
	if filter, _ := xds.Passes(chain); filter != nil {
		named(k, k.PassedOn(chain, func(c *config.Config) config.Address { return c.Socket(name) }, at), at)
		return true
	}
	if p, is := k.Shown(chain, at, func(resource string) (*xds.Way, bool) {
		return way(k, resource, func(r *Resource) bool { return r.Attach == shown })
	}); is {
		named(k, p, at)
		return true
	}
	return k.LetsOut(chain, at, func(resource string) (*xds.Way, bool) {
		return way(k, resource, func(r *Resource) bool { return r.Egress == byEnvoy })
	})
}

// named is about the resource that Envoy names to the gateway.
func named(k *xds.Checker, p xds.Passed, at xds.Place) {
	if p.Resource == "" {
		return // that is a problem of its own
	}
	r, known := xds.Named[*Resource](k, p.Resource)
	switch {
	case !known:
		k.Problem(at, "names the resource %q, which the configuration does not have as one of kind %s", p.Resource, name)
	case r != nil && p.Fingerprint != "" && p.Fingerprint != fingerprint(r):
		k.Problem(at, "was made for another configuration of resource %q: make the file again (countersign envoy static)", p.Resource)
	}
}

// way is how the gateway reaches the target of a resource by Envoy, if that is so.
func way(k *xds.Checker, resource string, so func(*Resource) bool) (*xds.Way, bool) {
	r, known := xds.Named[*Resource](k, resource)
	if r == nil || !known || !so(r) {
		return nil, known && r == nil
	}
	host, port, _ := r.address()
	return &xds.Way{Socket: k.Socket(egress(r)), Host: host, Port: port}, true
}

// egress is the name of the socket by which the gateway reaches the target of r. Another target, or another way to it, has another
// socket: what was decided for the one cannot go to the other because Envoy has changed, or has not.
func egress(r *Resource) string {
	return "egress-" + xds.Digest(struct{ Resource, Fingerprint string }{r.Name, fingerprint(r)})
}

// fingerprint is a short digest of what Envoy carries out for r and a decision relies on: where agents connect, how that comes to the
// gateway, and where Envoy connects to for it. All else is the gateway's own to carry out.
func fingerprint(r *Resource) string {
	carried := struct{ Address, Attach, Egress, Target string }{Address: r.Listen.Address, Attach: r.Attach, Egress: r.Egress}
	if r.Attach == shown || r.Egress == byEnvoy {
		carried.Target = r.Target
	}
	return xds.Digest(carried)
}
