package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/countersign/countersign/extproc/config"
)

// carried is the part of a resource's configuration that Envoy carries out and decisions rely on: how the service is asked, what
// it sees, whose connections are accepted, where requests go. It leaves out what Envoy merely bounds (timeouts, sizes) and what
// the service does itself, so that changing these refuses nothing. For files it says that there is one and not its path, since
// Envoy's file is often printed on another machine.
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

// Fingerprint is a short digest of what Envoy carries out for r. Each route tells the service the fingerprint that it was made
// with. So the service can refuse requests of an Envoy file for another configuration, or on a connection from before a reload.
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

// digestOf returns a digest of v, of 16 hex digits.
func digestOf(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		text = fmt.Appendf(nil, "%#v", v) // nothing that is put here fails to marshal
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
