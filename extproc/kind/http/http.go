// Package http is the kind of resource that is an HTTP API.
package http

import (
	"github.com/countersign/countersign/extproc"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/evidence/otlp"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/cookie"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/kind"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/xds"
)

// Kind is the kind.
var Kind = kind.Kind{
	Config: config.KindHTTP,
	Policy: policy.Kind{Name: "http", Doc: "the request, for a resource of kind http", Detail: web.Schema{}, Body: "body", Bodies: "bodies", Redact: []gate.Selector{gate.ByPath, gate.ByDetect}},
	Card:   kind.Card{First: []string{"body", "bodies", "form", "query"}, Unseen: unseen},
	OTLP:   otlp.Kind{Protocol: "http", Verb: spanVerb, Operation: attributes, Result: resultAttributes},
	Own:    own,
	Check:  check,
	Notes:  notes,
}

// own makes what Envoy's services need of a resource.
func own(c config.Resource, s kind.Shared, out *lane.Resource) {
	r := c.(*config.HTTP) //nolint:forcetypeassert // made by config.KindHTTP
	by := &reading{
		Options: web.Options{
			Cookies: r.Cookies != "remove",
			MaxBody: int64(r.Limits.RequestBody), MaxValues: r.Limits.Values, ExactNumbers: r.Numbers == "exact",
			Stream: r.Body == "stream", Paths: r.Paths, Upgrades: r.Upgrades,
			Volatile: r.VolatileHeaders, Identity: r.IdentityHeaders, Methods: r.Methods,
		},
		sessions: r.Cookies == "session", secret: s.SessionKey,
	}
	own := &extproc.HTTP{
		Reader:       by.reader,
		ReadBy:       by,
		Refuser:      extproc.Problems,
		PassResponse: r.PassesAnswers(),
		ByAuthz:      r.Attach == "ext_authz",

		RewriteURLs:     *r.RewriteURLs,
		Rewrite:         r.Rewrite,
		ResponseHeaders: r.ResponseHeaders,
		Plans:           s.Plans,
		Cookies:         cookiesOf[r.Cookies],
		CookieKey:       s.SessionKey,
		SecureCookies:   r.Listen.TLS != nil,
		MaxHead:         int64(r.Limits.Headers),
		MaxAnswer:       int64(r.Limits.ResponseBody),
		MaxRedacted:     int64(r.Limits.ResponseBody),
		RequestTime:     r.Limits.RequestTime.Std(),
	}
	if host, port, tls, err := r.TargetAddress(); err == nil {
		own.Target = web.NewOrigin(host, port, tls)
	}
	if own.MaxRedacted == 0 {
		own.MaxRedacted = config.DefaultResponseBody
	}
	if r.Credential != nil {
		own.Credential = newCredential(r.Credential)
	}
	out.Own, out.Fingerprint, out.EndWithToken = own, xds.Fingerprint(r), r.EndWithToken
}

var cookiesOf = map[string]cookie.Mode{"pass": cookie.Pass, "session": cookie.Session}
