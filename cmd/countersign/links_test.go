package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

const rewriting = `
-- resource.yaml --
rewrite: ["$.next", "$..url"]
`

// pages follows a list to its end by what next says of a page, beginning with a redirect, and returns the URLs of its pages. It is an
// ordinary client, which follows where it is led.
func pages(t *testing.T, g *story.Gateway, next func(*http.Response, []byte) string) (urls []string) {
	t.Helper()
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	at := "http://" + g.Address + "/links/away"
	for at != "" {
		request, err := http.NewRequestWithContext(t.Context(), "GET", at, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token) // a client sends it on to the host that it was given for
		resp, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %d %s, %v", at, resp.StatusCode, body, err)
		}
		if u := resp.Request.URL; u.Host != g.Address {
			t.Fatalf("the client was led to %s", u)
		}
		urls = append(urls, resp.Request.URL.String())
		at = next(resp, body)
	}
	return urls
}

// nextLink is the URL of the link that is next, as a client reads it.
func nextLink(resp *http.Response, _ []byte) string {
	for _, field := range resp.Header.Values("Link") {
		for link := range strings.SplitSeq(field, ", <") {
			target, parameters, _ := strings.Cut(strings.TrimPrefix(link, "<"), ">")
			if strings.Contains(parameters, `rel="next"`) {
				return target
			}
		}
	}
	return ""
}

func nextMember(_ *http.Response, body []byte) string {
	var page struct{ Next string }
	_ = json.Unmarshal(body, &page)
	return page.Next
}

// pythonPages does the same in Python, with the client that most use there or, without it, with its own.
const pythonPages = `
import json, sys, urllib.request
url, token, how = sys.argv[1:]
fields = {"Authorization": "Bearer " + token}
try:
    import requests
    session = requests.Session()
    session.trust_env = False
    session.headers.update(fields)
    def get(url):
        r = session.get(url)
        r.raise_for_status()
        return r.url, r.json(), r.links.get("next", {}).get("url")
except ImportError:
    import re
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    def get(url):
        r = opener.open(urllib.request.Request(url, headers=fields))
        found = re.search('<([^>]*)>; rel="next"', ", ".join(r.headers.get_all("Link")))
        return r.geturl(), json.load(r), found and found.group(1)
while url:
    at, body, link = get(url)
    print(at)
    url = body["next"] if how == "body" else link
`

// TestLinksStayOnTheGateway: who follows a redirect, the Link of a page or the next page's URL in its body stays on the gateway,
// whether the answer is redacted or not.
func TestLinksStayOnTheGateway(t *testing.T) {
	t.Parallel()
	for name, policy := range map[string]string{"as it comes": allowAll, "redacted": redactAll + "-- more.rego --\npackage rules.payments\n\nredact contains {\"path\": \"$.items[0].id\"}\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, policy+rewriting, story.Options{})
			var want []string
			for page := range 4 {
				want = append(want, fmt.Sprintf("http://%s/links/pages?page=%d", g.Address, page+1))
			}
			held := func(how string, got []string) {
				t.Helper()
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s: %q, want %q", how, got, want)
				}
			}
			held("Link", pages(t, g, nextLink))
			held("the body", pages(t, g, nextMember))
			token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
			if err != nil {
				t.Fatal(err)
			}
			for _, how := range []string{"link", "body"} {
				out, err := exec.CommandContext(t.Context(), "python3", "-c", pythonPages, "http://"+g.Address+"/links/away", token, how).CombinedOutput()
				if err != nil {
					t.Fatalf("python: %v\n%s", err, out)
				}
				held("python, "+how, strings.Fields(string(out)))
			}

			a := ask(t, g, "GET", "/links/pages?page=1")
			if body := string(a.Body); !strings.Contains(body, `"url": "http://`+g.Address+`/v1/payments/1"`) && !strings.Contains(body, `"url":"http://`+g.Address+`/v1/payments/1"`) ||
				!strings.Contains(body, "https://elsewhere.test/") || strings.Contains(body, g.Target.Address) {
				t.Errorf("the body is %s", body)
			}
			for name := range a.Header {
				if strings.Contains(strings.Join(a.Header[name], " "), g.Target.Address) {
					t.Errorf("%s: %q leads to the target", name, a.Header[name])
				}
			}
			for _, name := range []string{"Etag", "Repr-Digest", "Alt-Svc"} {
				if v := a.Header.Get(name); v != "" {
					t.Errorf("%s: %s is of another body", name, v)
				}
			}
			asked := len(g.Target.Requests())
			for _, o := range outcomes(t, g, asked) {
				if o.Body["result"] != "completed" {
					t.Errorf("the outcome is %v", o.Body)
				}
				if o.Body["status"] == 302.0 && fmt.Sprint(o.Body["rewritten"]) != "map[location:1]" {
					t.Errorf("of the redirect %v is recorded", o.Body["rewritten"])
				}
				if o.Body["status"] == 200.0 && !strings.Contains(fmt.Sprint(o.Body["rewritten"]), "$..url:1") {
					t.Errorf("of a page %v is recorded", o.Body["rewritten"])
				}
			}
		})
	}
}

// TestWhatIsNotRewritten: what is not the target's URL, or cannot be read, passes as it came; and nothing is rewritten where the
// resource does not want it.
func TestWhatIsNotRewritten(t *testing.T) {
	t.Parallel()
	g := start(t, allowAll+rewriting, story.Options{})
	off := start(t, allowAll+"-- resource.yaml --\nrewrite_urls: false\n", story.Options{})
	said := func(g *story.Gateway, pairs ...string) *story.Answer {
		t.Helper()
		q := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			q.Add(pairs[i], pairs[i+1])
		}
		return ask(t, g, "GET", "/links/said?"+q.Encode())
	}
	n := 0
	for _, c := range []struct{ name, media, body, want, unread string }{
		{"invalid", "application/json", `{"url": "BASE/a", "x": [1, BASE, {"url": "BASE/a"}]}`, `{"url": "GATEWAY/a", "x": [1, BASE, {"url": "BASE/a"}]}`, "the body is not valid JSON"},
		{"another type", "text/html", `<a href="BASE/a">{"url": "BASE/a"}`, `<a href="BASE/a">{"url": "BASE/a"}`, ""},
		{"events", "text/event-stream", "event: x\nid: BASE/a\ndata: {\"url\":\ndata:\"BASE/a\"}\n\ndata: [DONE]\n\n", "event: x\nid: BASE/a\ndata: {\"url\":\ndata:\"GATEWAY/a\"}\n\ndata: [DONE]\n\n", ""},
		{"an event that is not JSON", "text/event-stream", "data: {\"url\":\"BASE/a\" x}\n\ndata: {\"url\":\"BASE/a\"}\n\n", "data: {\"url\":\"GATEWAY/a\" x}\n\ndata: {\"url\":\"GATEWAY/a\"}\n\n", "the body is not valid JSON"},
		{"another charset", "application/json; charset=utf-16", `{"url": "BASE/a"}`, `{"url": "BASE/a"}`, "charset \"utf-16\" cannot be redacted"},
		{"compressed, as it says", "application/json\x00gzip", `{"url": "BASE/a"}`, `{"url": "BASE/a"}`, "the target's answer is compressed, although it was not asked to be"},
		{"lines", "application/x-ndjson", "{\"url\": \"BASE/a\"}\n{\"url\": \"/a\"}\n", "{\"url\": \"GATEWAY/a\"}\n{\"url\": \"/a\"}\n", ""},
		{"text around it", "application/json", `{"url": "see BASE/a", "next": {"a": "BASE"}, "self": "BASE/a"}`, `{"url": "see BASE/a", "next": {"a": "BASE"}, "self": "BASE/a"}`, ""},
	} {
		media, coded, _ := strings.Cut(c.media, "\x00")
		pairs := []string{"type", media, "body", c.body}
		if coded != "" {
			pairs = append(pairs, "Content-Encoding", coded)
		}
		a := said(g, pairs...)
		want := strings.NewReplacer("BASE", g.Target.URL, "GATEWAY", "http://"+g.Address).Replace(c.want)
		if string(a.Body) != want {
			t.Errorf("%s: %s\nwant\n%s", c.name, a.Body, want)
		}
		n++
		unread, _ := outcomes(t, g, n)[n-1].Body["unrewritten"].(string)
		if unread != c.unread {
			t.Errorf("%s: it is recorded that %q, want %q", c.name, unread, c.unread)
		}
	}
	a := said(g, "type", "application/json", "body", `{}`, "Location", "https://other.test/HOST", "Content-Location", "/relative", "Link", `<BASE/a>; rel="x, y", <//HOST/b>`, "Refresh", "5; url=BASE/c", "X-Url", "BASE/d")
	for name, want := range map[string]string{
		"Location": "https://other.test/HOST", "Content-Location": "/relative", "Link": `<GATEWAY/a>; rel="x, y", <//SELF/b>`, "Refresh": "5; url=GATEWAY/c", "X-Url": "BASE/d",
	} {
		want = strings.NewReplacer("BASE", g.Target.URL, "HOST", g.Target.Address, "GATEWAY", "http://"+g.Address, "SELF", g.Address).Replace(want)
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if a := said(off, "type", "application/json", "body", `{"url": "BASE/a"}`, "Location", "BASE/a"); a.Header.Get("Location") != off.Target.URL+"/a" || string(a.Body) != `{"url": "`+off.Target.URL+`/a"}` {
		t.Errorf("without rewrite_urls: %v %s", a.Header, a.Body)
	}
}

// TestLinksOverHTTP2: the gateway's URL is the one by which the agent came.
func TestLinksOverHTTP2(t *testing.T) {
	t.Parallel()
	g := start(t, allowAll+rewriting, story.Options{})
	a, err := g.Send(t.Context(), &story.Request{Method: "GET", Target: "/links/away", HTTP2: true, Fields: []extproctest.Field{
		{Name: "Authorization", Value: "Bearer " + g.Issuer.Token(nil)},
	}})
	if err != nil || a.Header.Get("Location") != "http://"+g.Address+"/links/pages?page=1" {
		t.Errorf("%v, %v", a, err)
	}
}
