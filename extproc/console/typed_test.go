package console

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/countersign/countersign/extproc/extproctest/chromium"
	"github.com/countersign/countersign/extproc/gate"
)

const (
	typedReason = "not this: <b>\"bob\"</b>\nask Ä first"
	typedLine   = "You typed this before. Nothing was sent."
)

var (
	personField = regexp.MustCompile(`name="person" value="([^"]+)"`)
	signInLink  = regexp.MustCompile(`<a class="button" href="(/login[^"]*)">`)
)

// typedForm is the form of a card's page as this browser would send it, rejecting for that reason.
func (f *fixture) typedForm(browser *http.Client, id, reason string) url.Values {
	f.t.Helper()
	page := f.send(browser, f.request("GET", "/approvals/"+id, "", ""))
	v := fields(f.t, page)
	m := personField.FindStringSubmatch(page.body)
	if m == nil {
		f.t.Fatalf("the form does not say whose page it is:\n%s", page.body)
	}
	v.Set("person", m[1])
	v.Set("decision", "reject")
	v.Set("reason", strings.ReplaceAll(reason, "\n", "\r\n"))
	return v
}

func typedIn(r reply) *http.Cookie {
	for _, c := range r.Cookies() {
		if c.Name == typedCookie {
			return c
		}
	}
	return nil
}

// remembering is the browser after it was given those cookies.
func (f *fixture) remembering(browser *http.Client, cookies ...*http.Cookie) *http.Client {
	f.t.Helper()
	base, err := url.Parse(f.url)
	if err != nil {
		f.t.Fatal(err)
	}
	browser.Jar.SetCookies(base, cookies)
	return browser
}

// shows reports whether the request's page has the reason in its field, with the line that says so.
func (f *fixture) shows(browser *http.Client, id string) bool {
	f.t.Helper()
	page := f.send(browser, f.request("GET", "/approvals/"+id, "", ""))
	if page.StatusCode != http.StatusOK {
		f.t.Fatalf("the request's page: %s", page.Status)
	}
	text, line := strings.Contains(html.UnescapeString(page.body), ">"+typedReason+"</textarea>"), strings.Contains(page.body, typedLine)
	if text != line {
		f.t.Errorf("the text is there: %v; the line is: %v", text, line)
	}
	return text
}

// TestWhatWasTypedIsThereAgain: whatever became of the session, the server keeps the reason for the browser that sent it; it is shown
// once, to who typed it, on that request's page, after they have signed in, and counts for nothing.
func TestWhatWasTypedIsThereAgain(t *testing.T) {
	f := newFixture(t, false)
	var late atomic.Int64
	f.console.now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	for _, c := range []struct {
		name string
		end  func(bob *http.Client) *http.Client // the browser whose session has ended
	}{
		{"it was idle", func(bob *http.Client) *http.Client { late.Add(int64(sessionIdle)); return bob }},
		{"nobody knows it", func(bob *http.Client) *http.Client {
			return f.remembering(bob, &http.Cookie{Name: sessionCookie, Value: secret(), Path: "/", Secure: true})
		}},
		{"its cookie is gone", func(*http.Client) *http.Client { return f.client }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, other, before := f.ask(), f.ask(), f.signIn("bob")
			v := f.typedForm(before, r.ID, typedReason)
			got := f.form(c.end(before), "/approvals/"+r.ID+"/decision", v)
			kept := typedIn(got)
			if got.StatusCode != http.StatusUnauthorized || kept == nil || !strings.Contains(got.body, "Nothing was sent") {
				t.Fatalf("%s, the cookie %v:\n%s", got.Status, kept, got.body)
			}
			if !kept.Secure || !kept.HttpOnly || kept.SameSite != http.SameSiteLaxMode || kept.Path != "/" || kept.Domain != "" || kept.MaxAge != int(typedLife/time.Second) || strings.Contains(kept.Value, "not this") {
				t.Errorf("the cookie is %v", kept)
			}
			m := signInLink.FindStringSubmatch(got.body)
			if m == nil || m[1] != "/login?return=%2Fapprovals%2F"+r.ID {
				t.Fatalf("the page leads to %q", m)
			}
			resp, bob, err := f.issuer.SignIn(t.Context(), f.url+m[1], "bob", "bob-password", f.trust)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.Request.URL.Path != "/approvals/"+r.ID {
				t.Errorf("the sign-in ends at %s", resp.Request.URL)
			}
			f.remembering(bob, kept)
			if f.shows(bob, other.ID) {
				t.Error("another request's page has it")
			}
			if f.shows(f.remembering(f.signIn("alice"), kept), r.ID) {
				t.Error("it is shown to somebody else")
			}
			if !f.shows(bob, r.ID) {
				t.Error("it is lost")
			}
			if f.shows(bob, r.ID) {
				t.Error("it is shown twice")
			}
			if now := f.state(r.ID); !now.State.Live() || len(now.Decisions) > 0 {
				t.Errorf("it was sent: the request is %s", now.State)
			}
		})
	}
}

// TestWhatWasTypedIsNotShown where it may be another's, or old, or where it can be shown in no field.
func TestWhatWasTypedIsNotShown(t *testing.T) {
	f := newFixture(t, false)
	var late atomic.Int64
	f.console.now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	r := f.ask()
	before := f.signIn("bob")
	v := f.typedForm(before, r.ID, typedReason)
	path := "/approvals/" + r.ID + "/decision"
	kept := typedIn(f.form(f.client, path, v))
	if f.shows(f.remembering(before, kept), r.ID) {
		t.Error("a session that lived all the time shows what was typed without one")
	}
	out := f.form(before, "/logout", v)
	if gone := typedIn(out); gone == nil || gone.MaxAge >= 0 {
		t.Errorf("who signs out leaves it behind: %s, %v", out.Status, gone)
	}
	for name, value := range map[string]string{"made up": "AAAA", "no text": "%", "of a sign-in": f.call("GET", "/login", "", "").Cookies()[0].Value} {
		if f.shows(f.remembering(f.signIn("bob"), &http.Cookie{Name: typedCookie, Value: value, Path: "/", Secure: true}), r.ID) {
			t.Errorf("a cookie that is %s shows something", name)
		}
	}
	late.Add(int64(typedLife + time.Second))
	if f.shows(f.remembering(f.signIn("bob"), kept), r.ID) {
		t.Error("it is shown when it is old")
	}
	// Somebody else was faster: there is no field any more, and the text is not lost.
	kept = typedIn(f.form(f.client, path, v))
	alice := f.signIn("alice")
	if done := f.form(alice, path, f.typedForm(alice, r.ID, "no")); done.StatusCode != http.StatusSeeOther {
		t.Fatalf("%s: %s", done.Status, done.body)
	}
	page := f.send(f.remembering(f.signIn("bob"), kept), f.request("GET", "/approvals/"+r.ID, "", ""))
	if !strings.Contains(html.UnescapeString(page.body), "What you have typed was not sent: "+typedReason) {
		t.Errorf("the text is lost:\n%s", page.body)
	}
}

// TestNobodyPlantsAReason: what is kept comes from a form of our page, and fits into a cookie.
func TestNobodyPlantsAReason(t *testing.T) {
	f := newFixture(t, false)
	r := f.ask()
	good := f.typedForm(f.signIn("bob"), r.ID, typedReason)
	path := "/approvals/" + r.ID + "/decision"
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, change := range map[string]func(*http.Request){
		"another site, by Sec-Fetch-Site": set("Sec-Fetch-Site", "cross-site"),
		"a sibling's host":                set("Sec-Fetch-Site", "same-site"),
		"another origin":                  set("Origin", "https://evil.example"),
		"an origin that is hidden":        set("Origin", "null"),
		"no form":                         set("Content-Type", "text/plain"),
		"a browser that says nothing": func(r *http.Request) {
			r.Header.Del("Origin")
			r.Header.Del("Sec-Fetch-Site")
		},
	} {
		if got := f.form(f.client, path, good, change); got.StatusCode != http.StatusUnauthorized || typedIn(got) != nil || strings.Contains(got.body, "kept") {
			t.Errorf("%s: %s, %v", name, got.Status, typedIn(got))
		}
	}
	for name, change := range map[string]func(url.Values){
		"nothing typed": func(v url.Values) { v.Set("reason", " \r\n") },
		"two reasons":   func(v url.Values) { v.Add("reason", "x") },
		"two people":    func(v url.Values) { v.Add("person", "x") },
		"too much":      func(v url.Values) { v.Set("reason", strings.Repeat("x", maxTyped)) },
		"far too much":  func(v url.Values) { v.Set("reason", strings.Repeat("x", 20<<10)) },
	} {
		v := url.Values{}
		for field, list := range good {
			v[field] = append([]string(nil), list...)
		}
		change(v)
		if got := f.form(f.client, path, v); got.StatusCode != http.StatusUnauthorized || typedIn(got) != nil || strings.Contains(got.body, "kept") {
			t.Errorf("%s: %s, %v", name, got.Status, typedIn(got))
		}
	}
	// As much as the field takes fits.
	good.Set("reason", strings.Repeat("字", 500))
	if got := typedIn(f.form(f.client, path, good)); got == nil || len(got.Name)+len(got.Value) > 4000 {
		t.Errorf("the longest reason of the field is not kept: %v", got)
	}
	if list := f.records(gate.IdentityRefused); len(list) > 0 {
		t.Errorf("somebody without a session is on record as a forger: %v", list)
	}
}

// TestBrowserKeepsWhatWasTypedWithoutScripts: the 401 page's button leads back to the form, with the text in it.
func TestBrowserKeepsWhatWasTypedWithoutScripts(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	r := f.ask()
	b.signIn(f, "bob")
	b.withoutScripts()
	b.do("open the card", chromedp.Navigate(f.url+"/approvals/"+r.ID), chromium.WaitVisible("#reason"))
	b.do("type", chromium.SendKeys("#reason", "not this, Bob"))
	f.console.sessions.mu.Lock()
	clear(f.console.sessions.list)
	f.console.sessions.mu.Unlock()
	b.do("send it", chromium.Click("#reject"), chromium.WaitVisible("p[role=alert]"))
	b.shootScreen("typed-ended")
	b.do("sign in again", chromium.Click("a.button"), chromium.WaitVisible("input[name=name]"))
	b.do("who", chromium.SendKeys("input[name=name]", "bob"), chromium.SendKeys("input[name=password]", "bob-password"+kb.Enter), chromium.WaitVisible("#reason"))
	b.await("it is there, and was not sent", "document.getElementById('reason').value === 'not this, Bob' && document.getElementById('wants').textContent === '"+typedLine+"'")
	b.do("a phone", chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile))
	b.shootScreen("typed-again")
	b.do("once more", chromedp.Navigate(f.url+"/approvals/"+r.ID), chromium.WaitVisible("#reason"))
	b.await("once", "document.getElementById('reason').value === '' && document.getElementById('wants').textContent === ''")
	if got := f.state(r.ID); !got.State.Live() || len(got.Decisions) > 0 {
		t.Errorf("the request is %s", got.State)
	}
}
