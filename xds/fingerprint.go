package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/countersign/countersign/extproc/config"
)

// carried is what of a resource's configuration Envoy carries out and a decision relies on: how the service is asked, what
// comes by, whose connections are taken, where requests go. What Envoy merely bounds (timeouts, sizes) is not in it, nor what
// the service sees to by itself: a change of these costs nobody a refusal. Of files it has that there is one and not its path,
// since a file for Envoy is often printed on another machine.
type carried struct {
	Attach, Body, Response string
	Upgrades               []string
	CookiesRemoved         bool // by Envoy

	Address, Host    string
	TLS, Certificate bool // agents must show one

	Target                    string
	ServerName                string
	HTTP2, OwnRoots, ShowsOwn bool // roots that are not the system's; a client certificate
}

// Fingerprint is a short digest of what Envoy carries out for r. Each route tells the service the one that it was made with, so
// that the service can refuse what comes by a file of another configuration, or by a connection that is older than a reload.
func Fingerprint(r *config.HTTP) string {
	c := carried{
		Attach: r.Attach, Body: r.Body, Response: r.Response, Upgrades: slices.Sorted(slices.Values(r.Upgrades)), CookiesRemoved: removesCookies(r),
		Address: r.Listen.Address, Host: r.Listen.Host,
		Target: r.Target, HTTP2: r.TargetHTTP2,
	}
	if t := r.Listen.TLS; t != nil {
		c.TLS, c.Certificate = true, t.ClientCAFile != ""
	}
	if t := r.TargetTLS; t != nil {
		c.ServerName, c.OwnRoots, c.ShowsOwn = t.ServerName, t.CAFile != "", t.CertificateFile != ""
	}
	return digestOf(c)
}

// digestOf is 16 hex digits that tell v from other values of its type.
func digestOf(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		text = fmt.Appendf(nil, "%#v", v) // nothing that is put here fails to marshal
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
