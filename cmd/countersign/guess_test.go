package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestAFieldTellsNoGuess: a target repeats the agent's query in the header fields of an answer whose values are taken out. Whether
// such a field passes does not tell whether a guess in the query was right, and what paging needs passes.
func TestAFieldTellsNoGuess(t *testing.T) {
	t.Parallel()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Link", fmt.Sprintf("<http://%s%s?page=2&%s>; rel=\"next\", <%s?page=9&%[3]s>; rel=\"last\"", r.Host, r.URL.Path, r.URL.RawQuery, r.URL.Path))
		h.Set("Location", r.URL.Path+"?from=here&"+r.URL.Query().Encode())
		h.Set("Content-Disposition", "attachment; filename="+url.QueryEscape(r.URL.Query().Get("x")))
		h.Set("X-Of", r.URL.Query().Get("x"))
		if r.URL.Query().Has("own") {
			h.Set("Link", "</people?of=987-65-4320&"+r.URL.RawQuery+">; rel=next")
		}
		_, _ = fmt.Fprint(w, `{"ssn":"987-65-4320"}`)
	}))
	defer target.Close()
	g := start(t, redactAll, story.Options{})
	g.Process.Stop()
	text, err := os.ReadFile(g.Config)
	must(t, err)
	g.Write("countersign.yaml", string(text)+fmt.Sprintf("  - {name: own, kind: http, policy: payments, listen: {address: %q, host: own.test}, response_headers: [x-of], target: %q}\n", g.Address, target.URL))
	g.Run()
	ask := func(query string) http.Header {
		t.Helper()
		a, err := g.Send(t.Context(), &story.Request{Method: "GET", Target: "/people?" + query, Fields: fields("Host", "own.test", "Authorization", "Bearer "+g.Issuer.Token(nil))})
		must(t, err)
		if a.Status != 200 || string(a.Body) != `{"ssn":"[redacted]"}` {
			t.Fatalf("%s: answer %d %s", query, a.Status, a.Body)
		}
		return a.Header
	}
	for _, form := range []string{"x=%s", "x=0&x=1&x=%s", "x[]=%s", "x=%s&per_page=100&sort=-name", "q=ssn%%3D%s"} {
		right, wrong := ask(fmt.Sprintf(form, "987-65-4320")), ask(fmt.Sprintf(form, "123-45-6789"))
		for _, name := range []string{"Link", "Location", "Content-Disposition", "X-Of"} {
			if (right.Get(name) == "") != (wrong.Get(name) == "") {
				t.Errorf("%s: %s is %q where the guess is right, and %q where it is not", form, name, right.Get(name), wrong.Get(name))
			}
		}
		if right.Get("Link") == "" || right.Get("Location") == "" {
			t.Errorf("%s: paging does not pass: %v", form, right)
		}
	}
	// The target's own does not pass, whatever the agent guesses beside it.
	for _, query := range []string{"own=1", "own=1&x=987-65-4320", "own=987-65-4320"} {
		if link := ask(query).Get("Link"); link != "" {
			t.Errorf("%s: the target's own value passes: %s", query, link)
		}
	}
	// What an agent asks for in words that file names have is no guess.
	if h := ask("x=report.csv&format=csv"); h.Get("Link") == "" || ask("format=csv").Get("Content-Disposition") == "" {
		t.Errorf("an ordinary file does not pass: %v", h)
	}
}
