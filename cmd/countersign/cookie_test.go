package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// as sends a request as an agent, with its cookies.
func as(t *testing.T, g *story.Gateway, agent string, http2 bool, target, cookie string) *story.Answer {
	t.Helper()
	fields := []extproctest.Field{{Name: "Authorization", Value: "Bearer " + g.Issuer.Token(extproctest.Claims{"sub": agent})}}
	if cookie != "" {
		fields = append(fields, extproctest.Field{Name: "Cookie", Value: cookie})
	}
	a, err := g.Send(t.Context(), &story.Request{Method: "GET", Target: target, Fields: fields, HTTP2: http2})
	if err != nil {
		t.Fatalf("GET %s: %v", target, err)
	}
	return a
}

// seenCookies are the Cookie fields of the last request that the target saw.
func seenCookies(t *testing.T, g *story.Gateway) []string {
	t.Helper()
	seen := g.Target.Requests()
	if len(seen) == 0 {
		t.Fatal("the target saw no request")
	}
	return seen[len(seen)-1].Get("Cookie")
}

// TestCookiesByMode: no cookie passes in either direction unless the resource says so, however Envoy asks, in heads and in
// trailers. One that passes is judged.
func TestCookiesByMode(t *testing.T) {
	t.Parallel()
	const policy = allowAll + `
deny contains {"id": "evil"} if input.http.headers.cookie == ["a=evil"]
-- resource.yaml --
`
	for _, how := range []struct{ name, attach, keys string }{
		{"answers come by", "ext_proc", ""},
		{"answers pass", "ext_proc", "response: pass\n"},
		{"ext_authz", "ext_authz", ""},
	} {
		for _, mode := range []string{"", "remove", "pass"} {
			t.Run(how.name+" "+mode, func(t *testing.T) {
				t.Parallel()
				keys := how.keys
				if mode != "" {
					keys += "cookies: " + mode + "\n"
				}
				g := start(t, policy+keys, story.Options{Attach: how.attach})
				passes := mode == "pass"
				for _, http2 := range []bool{false, true} {
					a := as(t, g, "agent-1", http2, "/session/begin", "a=b")
					if a.Status != 200 || (len(a.Header["Set-Cookie"]) == 2) != passes || !passes && a.Header["Set-Cookie"] != nil || (a.Trailer["Set-Cookie"] != nil) != passes {
						t.Errorf("HTTP/2 %t: %d, Set-Cookie %q, in trailers %q", http2, a.Status, a.Header["Set-Cookie"], a.Trailer["Set-Cookie"])
					}
					if cookies := seenCookies(t, g); (len(cookies) == 1 && cookies[0] == "a=b") != passes || !passes && cookies != nil {
						t.Errorf("HTTP/2 %t: the target got the cookies %q", http2, cookies)
					}
				}
				if a := as(t, g, "agent-1", false, "/session/use", "a=evil"); (a.Status == 403) != passes {
					t.Errorf("a cookie that policy denies: %d", a.Status)
				}
			})
		}
	}
}

// TestSessionCookies: a session of the target is usable by the agent that it was given to and by nobody else, and says nothing
// to it; it goes on after a restart, and another directory of data opens nothing.
func TestSessionCookies(t *testing.T) {
	t.Parallel()
	g := start(t, allowAll+"-- resource.yaml --\ncookies: session\n", story.Options{})
	var cookie string
	for _, http2 := range []bool{false, true} {
		a := as(t, g, "agent-1", http2, "/session/begin", "")
		set := a.Header["Set-Cookie"]
		if a.Status != 200 || len(set) != 2 || a.Trailer["Set-Cookie"] != nil || strings.Contains(fmt.Sprint(a), extproctest.SessionSecret) {
			t.Fatalf("%d, Set-Cookie %q, in trailers %q", a.Status, set, a.Trailer["Set-Cookie"])
		}
		sealed, err := http.ParseSetCookie(set[0])
		if err != nil || sealed.Name != "session" || sealed.Domain != "" || sealed.Path != "/session" || sealed.Secure || !sealed.HttpOnly || sealed.MaxAge != 600 || sealed.Unparsed != nil {
			t.Errorf("the cookie is %q, %v", set[0], err)
		}
		if strings.Contains(set[1], "dark") || strings.Contains(set[1], "elsewhere") {
			t.Errorf("the cookie is %q", set[1])
		}
		cookie = "session=" + sealed.Value
	}
	known := func(agent, cookie string) bool {
		t.Helper()
		a := as(t, g, agent, false, "/session/use", cookie)
		if a.Status != 200 && a.Problem() != "unreadable" {
			t.Errorf("%s with %q: %d %s", agent, cookie, a.Status, a.Body)
		}
		return bytes.Contains(a.Body, []byte(`"known":true`))
	}
	before := len(g.Target.Requests())
	_, value, _ := strings.Cut(cookie, "=")
	for name, try := range map[string]func() bool{
		"another agent":            func() bool { return known("agent-2", cookie) },
		"another name":             func() bool { return known("agent-1", "sessions="+value) },
		"a changed byte":           func() bool { return known("agent-1", cookie[:len(cookie)-3]+"AAA") },
		"the target's own":         func() bool { return known("agent-1", "session="+extproctest.SessionSecret) },
		"its own beside another's": func() bool { return known("agent-1", cookie+"; b=c") },
		"a name alone":             func() bool { return known("agent-1", "session") },
	} {
		if try() || len(g.Target.Requests()) != before {
			t.Errorf("%s is accepted", name)
		}
	}
	if !known("agent-1", cookie) || fmt.Sprint(seenCookies(t, g)) != "[session="+extproctest.SessionSecret+"]" {
		t.Errorf("its own is not accepted: the target got %q", seenCookies(t, g))
	}
	if a := as(t, g, "agent-1", false, "/session/show", cookie); a.Status != 502 || bytes.Contains(a.Body, []byte(extproctest.SessionSecret)) {
		t.Errorf("a target that shows the session: %d %s", a.Status, a.Body)
	}
	if a := as(t, g, "agent-1", false, "/session/renew", cookie); a.Status != 200 || len(a.Header["Set-Cookie"]) != 1 || strings.Contains(fmt.Sprint(a.Header), extproctest.SessionSecret) {
		t.Errorf("a target that renews the session: %d %q", a.Status, a.Header["Set-Cookie"])
	}
	// Nothing that is kept has it.
	err := filepath.WalkDir(g.Data(), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(extproctest.SessionSecret)) {
			t.Errorf("%s has the session", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
