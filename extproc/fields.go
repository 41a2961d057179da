package extproc

import (
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/cookie"
	"github.com/countersign/countersign/extproc/inspect/echo"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/redact"
	"github.com/countersign/countersign/extproc/wire"
)

// responseFields looks at the answer's header fields, and for those that will have to be looked for in the body.
func (x *exchange) responseFields() error {
	r := &x.response
	if set := x.attempt.cookieSecrets(r.head.Fields); len(set) > 0 {
		r.echo = echo.New(x.attempt.http.forms.Forms(r.credential, set))
	}
	if x.echoes(r.head.Fields) {
		return errEcho
	}
	if r.plan == nil {
		return x.looksWithin()
	}
	if err := r.head.Redactable(); err != nil {
		return err
	}
	if err := x.decodes(); err != nil {
		return err
	}
	values := x.attempt.asked.Values()
	for i, f := range r.head.Fields {
		if x.passage(f.Name) != web.Searched {
			continue
		}
		text := f.Value
		if web.HasURLs(f.Name) {
			text = x.attempt.asked.Rest(text)
		} else if redact.Holds(text, x.wordsOf(f.Name, values)) {
			continue // and so it is not clean
		}
		r.searched, r.beside = append(r.searched, i), append(r.beside, text)
	}
	return nil
}

// wordsOf are those of the agent's values that a field must not have. Of one that the resource names they are the longer ones:
// a number of pages or of hits is a number that agents ask for too.
func (x *exchange) wordsOf(name string, values []string) []string {
	if web.PassageOf(name, nil) == web.Searched {
		return values
	}
	return slices.DeleteFunc(slices.Clone(values), func(v string) bool { return len(v) < 6 })
}

// clean reports whether a field that is searched may pass with the head, where the body is whole or not. The body of an
// answer to HEAD is never seen, and of one that is lost nobody knows what it had, so there only those pass without which the
// status says nothing.
func (x *exchange) clean(i int, whole bool) bool {
	r := &x.response
	if r.lost != nil && !r.head.Completes(r.head.Fields[i].Name) {
		return false
	}
	at := slices.Index(r.searched, i)
	return whole && at >= 0 && x.attempt.Op.Verb != "HEAD" && (r.stream == nil || !r.stream.Repeats(at))
}

// passage is how a field of a redacted answer passes. Where cookies pass, they are searched as others are. What describes a body
// goes with it.
func (x *exchange) passage(name string) web.Passage {
	if x.response.lost != nil && strings.HasPrefix(name, "content-") {
		return web.Removed
	}
	if name == "set-cookie" && x.attempt.http.Cookies == cookie.Pass {
		return web.Searched
	}
	return web.PassageOf(name, x.attempt.http.ResponseHeaders)
}

var errEcho = &web.Withheld{Reason: "the target's answer contains its own credential"}

// echoes reports whether one of the fields has the target's credential in it. A cookie that the agent does not get is not looked at.
func (x *exchange) echoes(fields []web.Field) bool {
	return slices.ContainsFunc(fields, func(f web.Field) bool {
		return (f.Name != "set-cookie" || x.attempt.http.Cookies == cookie.Pass) && x.response.echo.Text(f.Value)
	})
}

// rewriteFields removes the fields that do not pass, turns the URLs of the rest and redacts them. A name with several values is
// written whole again where one of them changed or does not pass.
func (x *exchange) rewriteFields(fields []web.Field, m *wire.Change, clean func(int) bool) {
	r := &x.response
	changed := map[string]bool{}
	values, passes := make([]string, len(fields)), make([]bool, len(fields))
	for i, f := range fields {
		if passes[i] = x.passes(f.Name, i, clean); !passes[i] {
			changed[f.Name] = true
			continue
		}
		v := f.Value
		if x.attempt.http.RewriteURLs && web.HasURLs(f.Name) {
			var n int64
			if v, n = x.attempt.turn.Field(f.Name, v); n > 0 {
				r.turned = addCounts(r.turned, []gate.Count{{Name: f.Name, N: n}})
			}
		}
		if r.plan != nil {
			var counts []gate.Count
			v, counts = r.plan.Text(v)
			r.counts = addCounts(r.counts, counts)
		}
		if values[i] = v; v != f.Value {
			changed[f.Name] = true
		}
	}
	for i, f := range fields {
		if changed[f.Name] && passes[i] {
			m.Set = append(m.Set, wire.Set{Name: f.Name, Value: values[i], Add: true})
		}
	}
	for name := range changed {
		m.Remove = append(m.Remove, name)
	}
}

// passes reports whether a field of the answer goes to the agent. Where the body changes so that no target could have made the
// field, and nothing is redacted, only those do not that are made of its bytes.
func (x *exchange) passes(name string, i int, clean func(int) bool) bool {
	r, a := &x.response, x.attempt
	if r.plan != nil {
		passage := x.passage(name)
		return passage == web.Passes || passage == web.Searched && clean(i)
	}
	turnable := a.turning != nil && redact.Turnable(r.head.ContentType) && r.unturned == "" && (r.stream != nil || a.Op.Verb == "HEAD")
	if turnable && web.Derived(name) {
		return false
	}
	return !a.http.RewriteURLs || name != "alt-svc"
}

// cookies decides what becomes of the cookies among the fields of an answer's head.
func (x *exchange) cookies(fields []web.Field, m *wire.Change) {
	mode := x.attempt.http.Cookies
	if mode == cookie.Pass {
		return // under a plan it is a field like others that are searched
	}
	removed := false
	for _, f := range fields {
		if f.Name != "set-cookie" && f.Name != "set-cookie2" {
			continue
		}
		if !removed {
			m.Remove = append(m.Remove, "set-cookie", "set-cookie2")
			removed = true
		}
		if mode != cookie.Session || f.Name != "set-cookie" {
			continue
		}
		if sealed, err := x.attempt.cookieBox().Seal(f.Value, x.attempt.Op.Target, x.attempt.http.SecureCookies); err != nil {
			x.server.lane.Log.Error("a cookie of the target was removed", "resource", x.attempt.Resource.Name, "error", err)
		} else if sealed != "" {
			m.Set = append(m.Set, wire.Set{Name: "set-cookie", Value: sealed, Add: true})
		}
	}
}

// cookieBox seals cookies for the agent at this resource.
func (a *attempt) cookieBox() cookie.Box {
	p := a.Op.Principal
	return cookie.NewBox(a.http.CookieKey, a.Resource.Name, p.Issuer, p.Subject)
}

// cookieSecrets are the values of cookies that must not come back in an answer, beside the target's credential: those that
// the agent's request opened, and those that the answer sets.
func (a *attempt) cookieSecrets(fields []web.Field) []string {
	if a.http.Cookies != cookie.Session {
		return nil
	}
	var set []string
	for _, f := range fields {
		if f.Name == "set-cookie" {
			set = append(set, f.Value)
		}
	}
	return cookie.Secrets(a.secrets, set)
}
