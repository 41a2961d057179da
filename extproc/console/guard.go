package console

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
)

// The reasons of identity.refused records that are this package's. Others are package identity's.
const (
	ReasonSession    = "session"     // a cookie that is of no session we know: forged, or from before a restart
	ReasonCrossSite  = "cross-site"  // a form that did not come from our own page
	ReasonSignIn     = "sign-in"     // a sign-in that this browser did not begin, or whose ID token is not good
	ReasonReturn     = "return-path" // a sign-in that was to end on another site
	ReasonNotAuditor = "not-auditor" // somebody whom people.auditors does not name, at what only auditors see
	ReasonHost       = "host"        // a request for another name than the console's (DNS rebinding)
)

const policyOfPages = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

const policyOfData = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"

// guard is before everything: the headers of every answer, and what no request may be.
func (c *Console) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		api := strings.HasPrefix(r.URL.Path, "/api/")
		h.Set("Content-Security-Policy", policyOfPages)
		if api {
			h.Set("Content-Security-Policy", policyOfData)
		}
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
		if c.secure {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if !strings.EqualFold(r.Host, c.base.Host) && !strings.HasPrefix(r.URL.Path, "/static/") { // the page that says so has the look of ours
			c.refuse(w, r, api, &refusal{reason: ReasonHost, detail: "the request is for the host " + quote(r.Host) + ", and the console is " + quote(c.base.Host), problem: c.misdirected(r)})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// misdirected names the address that the console was configured with. What the request says of a host is in none of it; its path is,
// where it can be one of ours.
func (c *Console) misdirected(r *http.Request) problem {
	path := "/"
	if local, ok := localPath(r.URL.RequestURI()); ok && r.Method == http.MethodGet && r.URL.Path != "/callback" {
		path = local
	}
	p := unreadable("The console does not go by this name, so nothing was done. It is at " + c.base.String() + ".")
	p.title, p.status, p.at = "Not for this host", http.StatusMisdirectedRequest, c.base.String()+path
	return p
}

// sameSite reports whether a request that changes something comes from our own page, as the browser says. A browser that
// sends neither header is refused: none of the last years is like that.
func (c *Console) sameSite(r *http.Request) bool {
	origins := r.Header.Values("Origin")
	if len(origins) > 1 || len(origins) == 1 && origins[0] != c.base.String() {
		return false
	}
	sites := r.Header.Values("Sec-Fetch-Site")
	if len(sites) == 0 {
		return len(origins) == 1
	}
	return len(sites) == 1 && sites[0] == "same-origin"
}

// localPath is a path of this console to go to after a sign-in; false for everything that a browser could take for
// another site, or for something other than a page.
func localPath(path string) (string, bool) {
	if path == "" {
		return "/", true
	}
	if len(path) > 1024 || path[0] != '/' || strings.HasPrefix(path, "//") {
		return "", false
	}
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c >= 0x7F || c == '\\' {
			return "", false
		}
	}
	u, err := url.ParseRequestURI(path)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return "", false
	}
	// What decodes to another path could be another page to somebody in between.
	if u.EscapedPath() != u.Path || strings.Contains(u.Path, "//") || strings.Contains(u.Path, "/.") {
		return "", false
	}
	return path, true
}

// refusal is why a request is not let in.
type refusal struct {
	reason          string // of the record
	detail          string
	issuer, subject string // as claimed
	problem         problem
	challenge       string
}

// refuse records and answers. Nothing is acted on before it returns.
func (c *Console) refuse(w http.ResponseWriter, r *http.Request, api bool, why *refusal) {
	p := why.problem
	if err := c.recordRefusal(r, why); err != nil {
		c.log.Error("a refusal could not be recorded", "reason", why.reason, "error", err)
		p = unrecorded
	}
	if why.challenge != "" && p.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", why.challenge)
	}
	c.tell(w, r, api, p)
}

// tell answers as the API does, or with a page.
func (c *Console) tell(w http.ResponseWriter, r *http.Request, api bool, p problem) {
	if api {
		writeProblem(w, p)
		return
	}
	c.showProblem(w, r, p)
}

func (c *Console) recordRefusal(r *http.Request, why *refusal) error {
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		peer = r.RemoteAddr
	}
	body := gate.Object{
		{Name: "claimed_issuer", Value: excerpt(why.issuer)},
		{Name: "claimed_subject", Value: excerpt(why.subject)},
		{Name: "config_digest", Value: c.opt.ConfigDigest()},
		{Name: "detail", Value: gate.Recorded(why.detail, 2*gate.MaxClaimed)}, // quotes what is claimed
		{Name: "peer", Value: excerpt(peer)},
		{Name: "protocol", Value: "http"},
		{Name: "reason", Value: why.reason},
		{Name: "request_id", Value: ""},
		{Name: "resource", Value: "console"},
		{Name: "target", Value: excerpt(r.URL.Path)},
		{Name: "trace_id", Value: ""},
		{Name: "verb", Value: excerpt(r.Method)},
	}
	_, err = c.opt.Recorder.Append(context.WithoutCancel(r.Context()), &gate.Record{Type: gate.IdentityRefused, Body: body})
	return err
}

// excerpt is what a stranger wrote, as a record has it.
func excerpt(s string) string { return gate.Recorded(s, gate.MaxClaimed) }

func quote(s string) string { return "\"" + excerpt(s) + "\"" }

// refusalFrom is what package identity says, as ours.
func refusalFrom(why *identity.Refusal) *refusal {
	r := &refusal{reason: why.Reason, detail: why.Detail, issuer: why.Issuer, subject: why.Subject, challenge: why.Challenge()}
	r.problem = unauthenticated("The credential was not accepted (" + why.Reason + "): " + strings.TrimSuffix(why.Detail, ".") + ".")
	if why.Reason == identity.NotAPerson {
		r.problem = denied(why.Reason, "Only people decide here, each with a token of their own that shows it: "+strings.TrimSuffix(why.Detail, ".")+".")
	}
	if why.Temporary() {
		r.problem = unavailable("The credential could not be verified, because its issuer's keys cannot be had at the moment. Nothing was done. Try again later.")
	}
	return r
}
