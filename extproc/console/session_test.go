package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

func TestASessionsEnd(t *testing.T) {
	f := newFixture(t, false)
	var late atomic.Int64
	f.console.now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	get := func(browser *http.Client, path string) int {
		t.Helper()
		return f.send(browser, f.request("GET", path, "", "")).StatusCode
	}
	idle := f.signIn("bob")
	late.Add(int64(14 * time.Minute))
	if got := get(idle, "/"); got != 200 {
		t.Fatalf("after 14 minutes: %d", got)
	}
	// Live updates do not keep it.
	late.Add(int64(8 * time.Minute))
	if got := get(idle, "/queue"); got != 200 {
		t.Fatalf("the queue after 8 more: %d", got)
	}
	late.Add(int64(8 * time.Minute))
	before := len(f.records(gate.IdentityRefused))
	if got := get(idle, "/"); got != http.StatusSeeOther {
		t.Errorf("after 16 idle minutes: %d", got)
	}
	if after := len(f.records(gate.IdentityRefused)); after != before {
		t.Error("a session that ended is on record as a forgery")
	}

	busy := f.signIn("bob")
	for range 5 {
		late.Add(int64(11 * time.Minute))
		if got := get(busy, "/"); got != 200 {
			t.Fatalf("a busy session: %d", got)
		}
	}
	late.Add(int64(6 * time.Minute))
	if got := get(busy, "/"); got != http.StatusSeeOther {
		t.Errorf("after an hour: %d", got)
	}
}

func TestSigningOutEndsTheSession(t *testing.T) {
	f := newFixture(t, false)
	browser := f.signIn("bob")
	page := f.send(browser, f.request("GET", "/me", "", ""))
	base, _ := url.Parse(f.url)
	var old *http.Cookie
	for _, c := range browser.Jar.Cookies(base) {
		if c.Name == sessionCookie {
			old = c
		}
	}
	if got := f.form(browser, "/logout", fields(t, page)); got.StatusCode != http.StatusSeeOther || got.Header.Get("Location") != "/signed-out" {
		t.Fatalf("%s: %s", got.Status, got.body)
	}
	req := f.request("GET", "/", "", "")
	req.AddCookie(old)
	if got := f.send(f.client, req); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("the old cookie after signing out: %s", got.Status)
	}
}

func TestASessionPutThereByAnotherIsNotTakenOver(t *testing.T) {
	f := newFixture(t, false)
	begun := f.call("GET", "/login", "", "")
	callback := f.codeFor(begun.Header.Get("Location"), "bob")
	planted := secret()
	req := f.request("GET", callback, "", "")
	req.AddCookie(begun.Cookies()[0])
	req.AddCookie(&http.Cookie{Name: sessionCookie, Value: planted})
	got := f.send(f.client, req)
	if got.StatusCode != http.StatusSeeOther || !hasCookie(got, sessionCookie) || strings.Contains(fmt.Sprint(got.Header["Set-Cookie"]), planted) {
		t.Fatalf("%s %v", got.Status, got.Header["Set-Cookie"])
	}
	req = f.request("GET", "/", "", "")
	req.AddCookie(&http.Cookie{Name: sessionCookie, Value: planted})
	if got := f.send(f.client, req); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("the planted session: %s", got.Status)
	}
}

func TestABearerTokenOpensNoPage(t *testing.T) {
	f := newFixture(t, false)
	if got := f.call("GET", "/", f.token("u-bob"), ""); got.StatusCode != http.StatusSeeOther {
		t.Errorf("the queue with a bearer token: %s", got.Status)
	}
}
