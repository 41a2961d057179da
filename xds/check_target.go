package xds

import (
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/countersign/countersign/extproc/loopback"
)

// Target is where a resource's operations go, by the configuration.
type Target struct {
	Resource string
	Host     string
	Port     uint32
	TLS      string // the name that its certificate has; empty where it is spoken to without TLS
}

// LeadsTo wants a cluster to be the target of a resource. A cluster that comes over ADS is ours.
func (k *Checker) LeadsTo(cluster string, t Target, at Place) {
	c := k.clusters[cluster]
	if c == nil || k.config == nil {
		return
	}
	named := false
	for _, locality := range c.GetLoadAssignment().GetEndpoints() {
		for _, e := range locality.GetLbEndpoints() {
			a := e.GetEndpoint().GetAddress()
			named = named || a != nil
			if s := a.GetSocketAddress(); a == nil || s.GetPortValue() == t.Port && sameHost(s.GetAddress(), t.Host) {
				continue
			}
			k.Problem(at, "the cluster %q leads to another place than the target of resource %q in %s: its endpoint's socket_address should have address: %s and port_value: %d", cluster, t.Resource, k.config.File(), t.Host, t.Port)
		}
	}
	if !named && t.TLS == "" { // nothing shows who is there
		k.Problem(at, "the cluster %q does not say that it leads to the target of resource %q in %s: name the address, %s:%d", cluster, t.Resource, k.config.File(), t.Host, t.Port)
	}
	if t.TLS == "" {
		return
	}
	sockets := []*corev3.TransportSocket{c.GetTransportSocket()}
	for _, m := range c.GetTransportSocketMatches() {
		sockets = append(sockets, m.GetTransportSocket())
	}
	for _, s := range sockets {
		if tls, _ := withinSocket(s).(*tlsv3.UpstreamTlsContext); !names(tls, t.TLS) {
			k.Problem(at, "the cluster %q does not hold the target of resource %q to its name in %s: its transport_socket should be TLS with sni: %s and match_typed_subject_alt_names for exactly that", cluster, t.Resource, k.config.File(), t.TLS)
		}
	}
}

func sameHost(a, b string) bool {
	return strings.EqualFold(a, b) || loopback.Host(a) && loopback.Host(b)
}

// names reports whether t asks for the server of that name, and takes no other's certificate. An address is not asked for (RFC 6066,
// section 3).
func names(t *tlsv3.UpstreamTlsContext, name string) bool {
	if _, err := netip.ParseAddr(name); err != nil && !strings.EqualFold(t.GetSni(), name) {
		return false
	}
	common := t.GetCommonTlsContext()
	taken := append(slices.Clone(common.GetValidationContext().GetMatchTypedSubjectAltNames()), common.GetCombinedValidationContext().GetDefaultValidationContext().GetMatchTypedSubjectAltNames()...)
	return len(taken) == 0 && common.GetValidationContextSdsSecretConfig() != nil || // the secret has them
		len(taken) > 0 && !slices.ContainsFunc(taken, func(m *tlsv3.SubjectAltNameMatcher) bool { return !strings.EqualFold(m.GetMatcher().GetExact(), name) })
}
