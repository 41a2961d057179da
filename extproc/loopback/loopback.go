// Package loopback says what is on this machine alone, for everything that allows there what it does not allow elsewhere: plain
// http, an open admin interface. It is one rule, so that what one part accepts another does not refuse.
package loopback

import (
	"net/netip"
	"strings"
)

// Host reports whether a host is a name or an address of this machine only: a loopback address, in brackets or not, localhost,
// or a name below it, which RFC 6761 (section 6.3) gives to nobody else.
func Host(host string) bool {
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return ip.Unmap().IsLoopback()
	}
	name := strings.TrimSuffix(strings.ToLower(host), ".")
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}
