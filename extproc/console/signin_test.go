package console

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
)

var (
	csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)
	cardField = regexp.MustCompile(`name="card" value="([^"]+)"`)
)

// form posts a form as a browser does from our page.
func (f *fixture) form(browser *http.Client, path string, fields url.Values, change ...func(*http.Request)) reply {
	f.t.Helper()
	req := f.filled(path, fields)
	for _, c := range change {
		c(req)
	}
	return f.send(browser, req)
}

// filled is a form as a browser sends it from our page.
func (f *fixture) filled(path string, fields url.Values) *http.Request {
	f.t.Helper()
	req := f.request("POST", path, "", fields.Encode())
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", f.url)
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	return req
}

// fields are those of the forms on a page.
func fields(t *testing.T, page reply) url.Values {
	t.Helper()
	v := url.Values{}
	if m := csrfField.FindStringSubmatch(page.body); m != nil {
		v.Set("csrf", m[1])
	}
	if m := cardField.FindStringSubmatch(page.body); m != nil {
		v.Set("card", m[1])
	}
	return v
}

func TestSignInSaysWhoAndHow(t *testing.T) {
	f := newFixture(t, false)
	browser := f.signIn("alice")
	page := f.send(browser, f.request("GET", "/me", "", ""))
	for _, want := range []string{"u-alice", f.issuer.URL, "payments-oncall", "security", "pwd"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page about me does not say %q", want)
		}
	}
	r := f.ask()
	card := f.send(browser, f.request("GET", "/approvals/"+r.ID, "", ""))
	v := fields(t, card)
	v.Set("decision", "approve")
	if done := f.form(browser, "/approvals/"+r.ID+"/decision", v); done.StatusCode != http.StatusSeeOther || done.Header.Get("Location") != "/approvals/"+r.ID+"#notice" {
		t.Fatalf("%s: %s", done.Status, done.body)
	}
	decided := f.records(approval.RecordDecided)
	by := decided[len(decided)-1]["approver"].(map[string]any)
	if by["subject"] != "u-alice" || fmt.Sprint(by["amr"]) != "[pwd]" || by["auth_time"] == "" || decided[len(decided)-1]["think"] == nil {
		t.Errorf("the record is %v", decided[len(decided)-1])
	}
}

// TestAConfidentialClient: the issuer gives a person's ID token to nobody without the client's secret. The secret is read at
// every sign-in; without one that can be read there is no sign-in, and never one of a public client.
func TestAConfidentialClient(t *testing.T) {
	const right = "a secret: with % and : and ä"
	given, failure := right, error(nil)
	f := newFixtureAt(t, extproctest.IssuerOptions{Applications: []extproctest.Application{{ID: clientID, Secret: right}}}, false, func(o *Options) {
		o.ClientSecret = func() (string, error) { return given, failure }
	})
	me := f.send(f.signIn("bob"), f.request("GET", "/me", "", ""))
	if me.StatusCode != http.StatusOK || !strings.Contains(me.body, "u-bob") {
		t.Fatalf("signed in with the secret: %s\n%s", me.Status, me.body)
	}
	given = "another one, which is wrong"
	before := len(f.records(gate.IdentityRefused))
	resp, _, err := f.issuer.SignIn(t.Context(), f.url+"/login", "bob", "bob-password", f.trust)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("with a wrong secret: %s", resp.Status)
	}
	f.wantRefused(before, ReasonSignIn)
	for _, c := range []struct {
		name   string
		secret string
		err    error
	}{
		{"the secret cannot be read", "", errors.New("permission denied")},
		{"the secret is empty", "", nil},
	} {
		given, failure = c.secret, c.err
		if got := f.get(f.url + "/login"); got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("Location") != "" {
			t.Errorf("%s: %s, %s", c.name, got.Status, got.Header.Get("Location"))
		}
	}
	given, failure = right, nil
	f.signIn("alice")
}

// TestHowAConfidentialClientShowsItsSecret: as the issuer's metadata says.
func TestHowAConfidentialClientShowsItsSecret(t *testing.T) {
	f := newFixture(t, false, func(o *Options) { o.ClientSecret = func() (string, error) { return "secret", nil } })
	for _, c := range []struct {
		name, methods string
		want          oauth2.AuthStyle
	}{
		{"an issuer that does not say", "", oauth2.AuthStyleInHeader},
		{"an issuer that takes both", `"client_secret_post","client_secret_basic"`, oauth2.AuthStyleInHeader},
		{"an issuer that takes it in the form only", `"client_secret_post","private_key_jwt"`, oauth2.AuthStyleInParams},
	} {
		t.Run(c.name, func(t *testing.T) {
			methods := ""
			if c.methods != "" {
				methods = `"token_endpoint_auth_methods_supported":[` + c.methods + `],`
			}
			var issuer *httptest.Server
			issuer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{%s"issuer":%q,"authorization_endpoint":"%s/a","token_endpoint":"%[3]s/t","jwks_uri":"%[3]s/k"}`, methods, issuer.URL, issuer.URL)
			}))
			defer issuer.Close()
			p, err := oidc.NewProvider(t.Context(), issuer.URL)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := f.console.signIn.config(p); err != nil || got.Endpoint.AuthStyle != c.want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestCookiesAreForThisHostAndNoScript(t *testing.T) {
	f := newFixture(t, false)
	begun := f.call("GET", "/login", "", "")
	cookies := begun.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("cookies %v", cookies)
	}
	c := cookies[0]
	if c.Name != signInCookie || !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
		t.Errorf("the cookie is %v", c)
	}
	to, err := url.Parse(begun.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	q := to.Query()
	if q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" || len(q.Get("state")) < 43 || len(q.Get("nonce")) < 43 || q.Get("response_type") != "code" {
		t.Errorf("the issuer is asked with %v", q)
	}
	for _, secret := range []string{q.Get("state"), q.Get("nonce")} {
		if strings.Contains(c.Value, secret) {
			t.Error("the cookie shows what it seals")
		}
	}
}

func TestHeadersOfPages(t *testing.T) {
	f := newFixture(t, false)
	browser := f.signIn("bob")
	r := f.ask()
	for _, path := range []string{"/", "/approvals/" + r.ID, "/history", "/holds", "/approvers", "/me", "/help", "/operations/" + r.Op, "/nothing", "/static/console.js", "/signed-out"} {
		page := f.send(browser, f.request("GET", path, "", ""))
		csp := page.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: the policy is %q, without %s", path, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") {
			t.Errorf("%s: the policy is %q", path, csp)
		}
		for name, want := range map[string]string{
			"Strict-Transport-Security": "max-age=31536000", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
			"Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store", "X-Frame-Options": "DENY",
		} {
			if got := page.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		for _, inline := range []string{"<style", " style=", " onclick=", "javascript:"} {
			if strings.Contains(page.body, inline) && path != "/static/console.js" {
				t.Errorf("%s has %s, which the policy would stop", path, inline)
			}
		}
	}
}

// TestOnlyWhatIsMeantToBeServedIs: two files, and neither a list of them nor what lies beside them.
func TestOnlyWhatIsMeantToBeServedIs(t *testing.T) {
	f := newFixture(t, false)
	for path, want := range map[string]int{
		"/static/console.css": 200, "/static/console.js": 200, "/static/": 404, "/static": 404, "/static/..%2fopenapi.yaml": 404,
		"/static/%2e%2e/templates/card.html": 404, "/templates/card.html": 404, "/openapi.yaml": 404, "/api/openapi.yaml": 200,
	} {
		if got := f.get(f.url + path); got.StatusCode != want {
			t.Errorf("%s: %s", path, got.Status)
		}
	}
}

func TestOpenRedirectsAreRefusedAndRecorded(t *testing.T) {
	f := newFixture(t, false)
	for _, c := range []struct {
		path string
		ok   bool
	}{
		{"/", true},
		{"/approvals/0190-a", true},
		{"/history?state=pending&after=x", true},
		{"//evil.example", false},
		{"/\\evil.example", false},
		{"\\\\evil.example", false},
		{"/\t/evil.example", false},
		{"/%2Fevil.example", false},
		{"/%5Cevil.example", false},
		{"/./../evil", false},
		{"/..//evil.example", false},
		{"https://evil.example", false},
		{"https:evil.example", false},
		{"javascript:alert(1)", false},
		{"evil.example", false},
		{"/a//b", false},
		{"/\x00", false},
		{"/é", false},
		{" /x", false},
		{"/x#y", false},
	} {
		before := len(f.records(gate.IdentityRefused))
		got := f.call("GET", "/login?return="+url.QueryEscape(c.path), "", "")
		if c.ok {
			if got.StatusCode != http.StatusSeeOther || !strings.HasPrefix(got.Header.Get("Location"), f.issuer.URL) {
				t.Errorf("%q: %s %s", c.path, got.Status, got.Header.Get("Location"))
			}
			continue
		}
		if got.StatusCode != http.StatusBadRequest || got.Header.Get("Location") != "" || len(got.Cookies()) != 0 {
			t.Errorf("%q: %s, to %q", c.path, got.Status, got.Header.Get("Location"))
			continue
		}
		f.wantRefused(before, ReasonReturn)
	}
}

func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{"/", "//x", "/\\x", "/a?b=//c", "/%2f%2fx", "/a/..//b", "https://x"} {
		f.Add(s)
	}
	base, err := url.Parse("https://console.test:8443/callback?code=x")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		path, ok := localPath(s)
		if !ok {
			return
		}
		// What a browser makes of it, and of what a lenient one makes of backslashes.
		for _, form := range []string{path, strings.ReplaceAll(path, "\\", "/"), strings.TrimSpace(path)} {
			to, err := base.Parse(form)
			if err != nil || to.Host != base.Host || to.Scheme != base.Scheme {
				t.Errorf("%q leads to %v, %v", s, to, err)
			}
		}
	})
}

func TestForgedCookiesAreRefusedAndRecorded(t *testing.T) {
	f := newFixture(t, false)
	r := f.ask()
	for _, c := range []struct {
		name   string
		cookie string
	}{
		{"made up", sessionCookie + "=" + secret()},
		{"empty", sessionCookie + "="},
		{"twice", sessionCookie + "=a; " + sessionCookie + "=b"},
	} {
		for _, method := range []string{"GET", "POST"} {
			before := len(f.records(gate.IdentityRefused))
			send := func(req *http.Request) { req.Header.Set("Cookie", c.cookie) }
			var got reply
			if method == "POST" {
				got = f.form(f.client, "/approvals/"+r.ID+"/decision", url.Values{"csrf": {"x"}, "card": {r.CardDigest}, "decision": {"approve"}}, send)
			} else {
				req := f.request("GET", "/approvals/"+r.ID, "", "")
				send(req)
				got = f.send(f.client, req)
			}
			if got.StatusCode != http.StatusUnauthorized || strings.Contains(got.body, r.CardDigest) {
				t.Errorf("%s %s: %s", c.name, method, got.Status)
			}
			f.wantRefused(before, ReasonSession)
		}
	}
	if now, err := f.desk.Get(t.Context(), r.ID); err != nil || now.State != approval.Pending {
		t.Errorf("the request is %s, %v", now.State, err)
	}
}

func TestCrossSiteFormsAreRefusedAndRecorded(t *testing.T) {
	f := newFixture(t, false)
	browser, other := f.signIn("bob"), f.signIn("alice")
	r := f.ask()
	page := f.send(browser, f.request("GET", "/approvals/"+r.ID, "", ""))
	good := fields(t, page)
	good.Set("decision", "approve")
	foreign := fields(t, f.send(other, f.request("GET", "/approvals/"+r.ID, "", "")))
	foreign.Set("decision", "approve")
	without := url.Values{"card": good["card"], "decision": {"approve"}}
	twice := url.Values{"card": good["card"], "decision": {"approve"}, "csrf": {good.Get("csrf"), good.Get("csrf")}}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	drop := func(names ...string) func(*http.Request) {
		return func(r *http.Request) {
			for _, name := range names {
				r.Header.Del(name)
			}
		}
	}
	for _, c := range []struct {
		name   string
		fields url.Values
		change func(*http.Request)
	}{
		{"from another site, by Sec-Fetch-Site", good, set("Sec-Fetch-Site", "cross-site")},
		{"from a sibling's host", good, set("Sec-Fetch-Site", "same-site")},
		{"typed by nobody", good, set("Sec-Fetch-Site", "none")},
		{"from another origin", good, set("Origin", "https://evil.example")},
		{"from an origin that is hidden", good, set("Origin", "null")},
		{"from a browser that says nothing", good, drop("Origin", "Sec-Fetch-Site")},
		{"without the session's token", without, drop()},
		{"with the token twice", twice, drop()},
		{"with another session's token", foreign, drop()},
	} {
		before := len(f.records(gate.IdentityRefused))
		got := f.form(browser, "/approvals/"+r.ID+"/decision", c.fields, c.change)
		if got.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s", c.name, got.Status)
		}
		f.wantRefused(before, ReasonCrossSite)
		if now, err := f.desk.Get(t.Context(), r.ID); err != nil || now.State != approval.Pending {
			t.Fatalf("%s: the request is %s, %v", c.name, now.State, err)
		}
	}
	// Signing somebody out is a change as well.
	before := len(f.records(gate.IdentityRefused))
	if got := f.form(browser, "/logout", url.Values{}); got.StatusCode != http.StatusForbidden {
		t.Errorf("logout without a token: %s", got.Status)
	}
	f.wantRefused(before, ReasonCrossSite)
	if done := f.form(browser, "/approvals/"+r.ID+"/decision", good); done.StatusCode != http.StatusSeeOther {
		t.Errorf("the good form: %s", done.Status)
	}
}

func TestFormsThatDoNotCount(t *testing.T) {
	f := newFixture(t, false)
	browser := f.signIn("bob")
	r := f.ask()
	page := f.send(browser, f.request("GET", "/approvals/"+r.ID, "", ""))
	form := func(change func(url.Values)) reply {
		v := fields(t, page)
		v.Set("decision", "approve")
		change(v)
		return f.form(browser, "/approvals/"+r.ID+"/decision", v)
	}
	for _, c := range []struct {
		name   string
		status int
		change func(url.Values)
		says   string
	}{
		{"an old card", 409, func(v url.Values) { v.Set("card", strings.Repeat("0", 64)) }, "another card"},
		{"a rejection without a reason", 400, func(v url.Values) { v.Set("decision", "reject") }, "needs a reason"},
		{"a field that no page of ours has", 400, func(v url.Values) { v.Set("force", "1") }, ""},
		{"two answers", 400, func(v url.Values) { v.Add("decision", "reject") }, ""},
		{"a form that is too large", 413, func(v url.Values) { v.Set("reason", strings.Repeat("x", 20<<10)) }, ""},
	} {
		got := form(c.change)
		if got.StatusCode != c.status || !strings.Contains(got.body, c.says) {
			t.Errorf("%s: %s", c.name, got.Status)
		}
		if now, err := f.desk.Get(t.Context(), r.ID); err != nil || len(now.Decisions) > 0 {
			t.Fatalf("%s: it counted: %v", c.name, err)
		}
	}
	if got := form(func(url.Values) {}); got.StatusCode != http.StatusSeeOther {
		t.Fatalf("the good form: %s", got.Status)
	}
	before := len(f.records(approval.RecordDecided))
	if got := form(func(url.Values) {}); got.StatusCode != http.StatusConflict || !strings.Contains(got.body, "not open any more") {
		t.Errorf("the same form again: %s", got.Status)
	}
	if list := f.records(approval.RecordDecided); len(list) != before+1 || list[before]["problem"] != "closed" {
		t.Errorf("the replay is not on record: %v", list[before:])
	}
}

func TestASignInThatThisBrowserDidNotBegin(t *testing.T) {
	f := newFixture(t, false)
	// The attacker signs in as themselves and keeps the last step for the victim.
	begun := f.call("GET", "/login", "", "")
	mine := begun.Cookies()[0]
	callback := f.codeFor(begun.Header.Get("Location"), "carol")
	victim := f.call("GET", "/login", "", "").Cookies()[0]
	for _, c := range []struct {
		name   string
		path   string
		cookie *http.Cookie
	}{
		{"no cookie (login CSRF)", callback, nil},
		{"the cookie of another sign-in (login CSRF)", callback, victim},
		{"a cookie that we did not seal", callback, &http.Cookie{Name: signInCookie, Value: strings.ToLower(mine.Value)}},
		{"a cookie that is ours with other bits at its end", callback, &http.Cookie{Name: signInCookie, Value: otherEnd(mine.Value)}},
		{"another state", strings.Replace(callback, "state=", "state=x", 1), mine},
		{"the state twice", callback + "&state=x", mine},
		{"another issuer (mix-up)", callback + "&iss=https%3A%2F%2Fevil.example", mine},
		{"a code of nobody", regexp.MustCompile(`code=[^&]+`).ReplaceAllString(callback, "code=guess"), mine},
		{"the issuer's error", regexp.MustCompile(`code=[^&]+`).ReplaceAllString(callback, "error=access_denied"), mine},
	} {
		before := len(f.records(gate.IdentityRefused))
		req := f.request("GET", c.path, "", "")
		if c.cookie != nil {
			req.AddCookie(c.cookie)
		}
		got := f.send(f.client, req)
		if got.StatusCode != http.StatusUnauthorized || hasCookie(got, sessionCookie) {
			t.Errorf("%s: %s, cookies %v", c.name, got.Status, got.Cookies())
		}
		f.wantRefused(before, ReasonSignIn)
	}
	req := f.request("GET", callback, "", "")
	req.AddCookie(mine)
	if got := f.send(f.client, req); got.StatusCode != http.StatusSeeOther || !hasCookie(got, sessionCookie) {
		t.Errorf("the good one: %s %s", got.Status, got.body)
	}
	before := len(f.records(gate.IdentityRefused))
	req = f.request("GET", callback, "", "")
	req.AddCookie(mine)
	if got := f.send(f.client, req); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("the same code again: %s", got.Status)
	}
	f.wantRefused(before, ReasonSignIn)
}

func hasCookie(r reply, name string) bool {
	for _, c := range r.Cookies() {
		if c.Name == name && c.Value != "" {
			return true
		}
	}
	return false
}

// codeFor signs name in at the issuer and returns the path that the browser is sent back to.
func (f *fixture) codeFor(authorize, name string) string {
	f.t.Helper()
	login := f.get(authorize)
	at, err := url.Parse(login.Header.Get("Location"))
	if err != nil {
		f.t.Fatal(err)
	}
	form := url.Values{"request": {at.Query().Get("request")}, "name": {name}, "password": {name + "-password"}}
	resp, err := f.client.PostForm(f.issuer.URL+"/login", form)
	if err != nil {
		f.t.Fatal(err)
	}
	resp.Body.Close()
	back := f.get(f.issuer.URL + strings.TrimPrefix(resp.Header.Get("Location"), f.issuer.URL)).Header.Get("Location")
	path, ok := strings.CutPrefix(back, f.url)
	if !ok {
		f.t.Fatalf("the issuer sends the browser to %q", back)
	}
	return path
}

func (f *fixture) get(address string) reply {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, address, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.send(f.client, req)
}

// TestIDTokens has the issuer answer the code with a token of our making.
func TestIDTokens(t *testing.T) {
	f := newFixture(t, false)
	now := time.Now()
	for _, c := range []struct {
		name   string
		claims extproctest.Claims
		fresh  bool
		ok     bool
	}{
		{name: "a good one", claims: extproctest.Claims{}, ok: true},
		{name: "one whose names are none", claims: extproctest.Claims{"name": []int{1}, "preferred_username": 7}, ok: true},
		{name: "two audiences and azp", claims: extproctest.Claims{"aud": []string{clientID, "wiki"}, "azp": clientID}, ok: true},
		{name: "the nonce of another sign-in", claims: extproctest.Claims{"nonce": "other"}},
		{name: "no nonce", claims: extproctest.Claims{"nonce": nil}},
		{name: "another client's", claims: extproctest.Claims{"aud": "wiki"}},
		{name: "two audiences and no azp", claims: extproctest.Claims{"aud": []string{clientID, "wiki"}}},
		{name: "issued to another client", claims: extproctest.Claims{"azp": "wiki"}},
		{name: "another issuer's", claims: extproctest.Claims{"iss": "https://elsewhere.example"}},
		{name: "expired", claims: extproctest.Claims{"exp": now.Add(-time.Minute).Unix()}},
		{name: "made long ago", claims: extproctest.Claims{"iat": now.Add(-time.Hour).Unix()}},
		{name: "made in the future", claims: extproctest.Claims{"iat": now.Add(time.Hour).Unix()}},
		{name: "for another access token", claims: extproctest.Claims{"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}},
		{name: "of an agent that acts for bob", claims: extproctest.Claims{"act": map[string]any{"sub": "agent-1"}}},
		{name: "of nobody", claims: extproctest.Claims{"sub": nil}},
		{name: "groups that are no texts", claims: extproctest.Claims{"groups": []any{1}}},
		{name: "groups that were left out", claims: extproctest.Claims{"groups": nil, "_claim_names": map[string]any{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]any{"endpoint": "https://x.example"}}}},
		{name: "asked anew, and signed in long ago", claims: extproctest.Claims{"auth_time": now.Add(-time.Hour).Unix()}, fresh: true},
		{name: "asked anew, and not said when", claims: extproctest.Claims{"auth_time": nil}, fresh: true},
		{name: "asked anew", claims: extproctest.Claims{}, fresh: true, ok: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.t = t
			path := "/login"
			if c.fresh {
				path += "?fresh=1"
			}
			begun := f.call("GET", path, "", "")
			asked, err := url.Parse(begun.Header.Get("Location"))
			if err != nil {
				t.Fatal(err)
			}
			if c.fresh && (asked.Query().Get("max_age") != "0" || asked.Query().Get("prompt") != "login") {
				t.Errorf("the issuer is asked with %v", asked.Query())
			}
			claims := extproctest.Claims{"sub": "u-bob", "aud": clientID, "client_id": nil, "nonce": asked.Query().Get("nonce"), "auth_time": time.Now().Unix(), "groups": []string{"payments-oncall"}}
			for name, value := range c.claims {
				claims[name] = value
			}
			for name, value := range claims {
				if value == nil && name != "client_id" && name != "sub" {
					delete(claims, name)
				}
			}
			f.answerCodes(f.issuer.Token(claims))
			before := len(f.records(gate.IdentityRefused))
			req := f.request("GET", "/callback?code=x&state="+asked.Query().Get("state"), "", "")
			req.AddCookie(begun.Cookies()[0])
			got := f.send(f.client, req)
			f.issuer.Intercept(nil)
			if c.ok != (got.StatusCode == http.StatusSeeOther) || c.ok != hasCookie(got, sessionCookie) {
				t.Errorf("%s: %s", got.Status, got.body)
			}
			if !c.ok {
				f.wantRefused(before, ReasonSignIn)
			}
		})
	}
}

// answerCodes has the issuer answer every code with this ID token, and serve its keys.
func (f *fixture) answerCodes(idToken string) {
	keys := f.get(f.issuer.URL + "/keys")
	metadata := f.get(f.issuer.URL + "/.well-known/openid-configuration")
	f.issuer.Intercept(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/keys":
			fmt.Fprint(w, keys.body)
		case "/.well-known/openid-configuration":
			fmt.Fprint(w, metadata.body)
		default:
			fmt.Fprintf(w, `{"access_token":"opaque","token_type":"Bearer","expires_in":60,"id_token":%q}`, idToken)
		}
	}))
}

func TestPlainHTTPIsForLoopback(t *testing.T) {
	for _, c := range []struct {
		url string
		ok  bool
	}{
		{"http://127.0.0.1:8443", true},
		{"http://localhost:8443", true},
		{"http://[::1]:8443", true},
		{"https://console.example", true},
		{"http://console.example", false},
		{"http://10.0.0.1:8443", false},
		{"https://console.example/path", false},
		{"https://u@console.example", false},
		{"ftp://localhost", false},
		{"", false},
		{"//localhost", false},
	} {
		if _, err := readBase(c.url); (err == nil) != c.ok {
			t.Errorf("%q: %v", c.url, err)
		}
	}
}

// otherEnd spells the same bytes in another way, where base64 leaves bits over: as RFC 4648 has it, a decoder may take it.
func otherEnd(text string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(digits, text[len(text)-1])
	return text[:len(text)-1] + string(digits[last^1])
}

// TestNoSessionApprovesItsOwn: a person who signed in at the console is told from whom an agent acts for as a bearer token of
// theirs is, and where that cannot be done the page says so to everybody.
func TestNoSessionApprovesItsOwn(t *testing.T) {
	const form, unclear = `action="/approvals/`, "It cannot be told which approver"
	here := func(subject string) func(*fixture) gate.Person {
		return func(f *fixture) gate.Person { return gate.Person{Directory: f.issuer.URL, ID: subject} }
	}
	elsewhere := func(p gate.Person) func(*fixture) gate.Person {
		p.Directory, p.ID = "https://agents.example", "a-7"
		return func(*fixture) gate.Person { return p }
	}
	for _, c := range []struct {
		name       string
		claim      string // that people share
		whose      func(*fixture) gate.Person
		bob, alice bool // may answer
		unclear    bool
	}{
		{"at one issuer", "", here("u-bob"), false, true, false},
		{"at another issuer", "", elsewhere(gate.Person{}), false, false, true},
		{"by a claim", "email", elsewhere(gate.Person{Shared: true, Claim: "bob@example.com"}), false, true, false},
		{"by a claim that is not there", "email", elsewhere(gate.Person{Shared: true}), false, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, false, func(o *Options) { o.PersonClaim = c.claim })
			f.desk = f.newDesk(func(o *approval.Options) { o.PeopleShared = c.claim != "" })
			r := f.ask(func(a *approval.Asking) {
				who := c.whose(f)
				a.Operation.Principal.OnBehalfOf = &gate.Party{Issuer: who.Directory, Subject: who.ID}
				a.Operation.Principal.People = []gate.Person{who}
			})
			for name, may := range map[string]bool{"bob": c.bob, "alice": c.alice} {
				page := f.send(f.signIn(name), f.request("GET", "/approvals/"+r.ID, "", ""))
				if strings.Contains(page.body, form) != may || strings.Contains(page.body, unclear) != c.unclear {
					t.Errorf("%s sees\n%s", name, page.body)
				}
			}
		})
	}
}
