package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

const endsWithToken = `
-- policy.rego --
package rules.payments

allow contains {"id": "all"}

redact contains {"path": "$..ssn"} if input.http.query.redacted
-- resource.yaml --
upgrades: [websocket]
`

// underWay is an answer, or a request, that goes on until somebody ends it.
type underWay struct {
	name   string
	head   string // method and target
	fields []string
	begin  func(t *testing.T, g *story.Gateway, w *wire) // until it is under way
	told   int                                           // the status that is told at the end; 0 where the answer has begun
}

var underWays = []underWay{
	{"an event stream", "GET /feed/plain?type=text/event-stream", nil, beginFeed("plain"), 0},
	{"an event stream that is redacted", "GET /feed/redacted?type=text/event-stream&redacted=1", nil, beginFeed("redacted"), 0},
	{"a download that nobody reads", "GET /blob?size=1000000000", nil, beginAnswer(200), 0},
	{"an answer that has not begun", "GET /hold/answer", nil, func(t *testing.T, g *story.Gateway, _ *wire) {
		extproctest.Await(t, "the request at the target", 20*time.Second, func(context.Context) error {
			for _, s := range g.Target.Requests() {
				if s.Path == "/hold/answer" {
					return nil
				}
			}
			return fmt.Errorf("it is not there")
		})
	}, 502},
	{"an upgraded connection", "GET /upgrade", []string{"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}, func(t *testing.T, g *story.Gateway, w *wire) {
		t.Helper()
		beginAnswer(101)(t, g, w)
		w.send(t, "hello")
		if _, err := io.ReadFull(w, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}, 0},
}

func beginAnswer(status int) func(*testing.T, *story.Gateway, *wire) {
	return func(t *testing.T, _ *story.Gateway, w *wire) {
		t.Helper()
		if resp := w.answer(t, "GET"); resp.StatusCode != status {
			t.Fatalf("answer %d", resp.StatusCode)
		}
	}
}

func beginFeed(name string) func(*testing.T, *story.Gateway, *wire) {
	return func(t *testing.T, g *story.Gateway, w *wire) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		must(t, g.Target.Feed(name).Send(ctx, "data: {\"n\": 1}\n\n"))
		beginAnswer(200)(t, g, w)
		for line := ""; !strings.HasPrefix(line, "data:"); {
			var err error
			if line, err = w.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// ended reads to the end of what is under way, and returns when that was and what was told.
func (u *underWay) ended(t *testing.T, w *wire) (at time.Time, detail string) {
	t.Helper()
	if u.told == 0 {
		if _, err := io.Copy(io.Discard, w); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("it has no end: %v", err)
		}
		return time.Now(), ""
	}
	resp := w.answer(t, "GET")
	defer resp.Body.Close()
	var problem struct{ Type, Detail string }
	must(t, json.NewDecoder(resp.Body).Decode(&problem))
	if resp.StatusCode != u.told || problem.Type != "urn:countersign:problem:withheld" {
		t.Errorf("the answer is %d %+v", resp.StatusCode, problem)
	}
	return time.Now(), problem.Detail
}

func awaitTime(t *testing.T, at time.Time) {
	t.Helper()
	extproctest.Await(t, at.String(), 20*time.Second, func(context.Context) error {
		if time.Now().Before(at) {
			return fmt.Errorf("it is not yet")
		}
		return nil
	})
}

// start sends the request with a token.
func (u *underWay) start(t *testing.T, g *story.Gateway, token string) *wire {
	t.Helper()
	w := dial(t, g)
	method, target, _ := strings.Cut(u.head, " ")
	all := append([]string{method + " " + target + " HTTP/1.1", "Host: " + g.Address, "Authorization: Bearer " + token}, u.fields...)
	w.send(t, "%s\r\n\r\n", strings.Join(all, "\r\n"))
	u.begin(t, g, w)
	return w
}

// endedWith looks at how the record of the operation says that it ended.
func endedWith(t *testing.T, g *story.Gateway, reason string) {
	t.Helper()
	for _, r := range outcomes(t, g, 1) {
		if r.Body["result"] != "withheld" || r.Body["problem"] != "withheld" || !strings.Contains(fmt.Sprint(r.Body["reason"]), reason) {
			t.Errorf("the outcome is %v", r.Body)
		}
	}
	reconcile(t, g)
}

// TestWhatEndsWithItsToken: with end_with_token, what is under way is broken off when the token expires, and when a reload revokes
// it; and what came while the token was good, and whole only after that, is refused.
func TestWhatEndsWithItsToken(t *testing.T) {
	t.Parallel()
	for _, u := range underWays {
		t.Run(u.name, func(t *testing.T) {
			t.Parallel()
			g := start(t, endsWithToken+"end_with_token: true\n", story.Options{})
			expires := time.Now().Add(3 * time.Second).Truncate(time.Second)
			w := u.start(t, g, g.Issuer.Token(extproctest.Claims{"exp": expires.Unix()}))
			at, told := u.ended(t, w)
			if at.Before(expires) || u.told != 0 && !strings.Contains(told, "(expired): the token expired at ") {
				t.Errorf("it ended %v after the token: %s", at.Sub(expires), told)
			}
			endedWith(t, g, "(expired): the token expired at ")
		})
		t.Run(u.name+", revoked", func(t *testing.T) {
			t.Parallel()
			g := start(t, endsWithToken+"end_with_token: true\n", story.Options{})
			w := u.start(t, g, g.Issuer.Token(extproctest.Claims{"jti": "token-1"}))
			audience := "audience: [" + extproctest.Audience + "]"
			reconfigure(t, g, audience, audience+"\n    revoked: [another]")
			reconfigure(t, g, "[another]", "[token-1]")
			if _, told := u.ended(t, w); u.told != 0 && !strings.Contains(told, "(revoked): ") {
				t.Errorf("it is told: %s", told)
			}
			endedWith(t, g, "(revoked): ")
		})
	}
	t.Run("an upload that streams", func(t *testing.T) {
		t.Parallel()
		g := start(t, endsWithToken+"end_with_token: true\nbody: stream\n", story.Options{})
		u := underWay{head: "POST /upload", fields: []string{"Content-Type: application/octet-stream", "Content-Length: 1000000"}, told: 502, begin: func(t *testing.T, _ *story.Gateway, w *wire) {
			t.Helper()
			w.send(t, "%s", strings.Repeat("x", 1000))
		}}
		expires := time.Now().Add(3 * time.Second).Truncate(time.Second)
		w := u.start(t, g, g.Issuer.Token(extproctest.Claims{"exp": expires.Unix()}))
		if at, told := u.ended(t, w); at.Before(expires) || !strings.Contains(told, "(expired)") {
			t.Errorf("it ended %v after the token: %s", at.Sub(expires), told)
		}
		endedWith(t, g, "(expired): the token expired at ")
	})
	t.Run("a request that is whole too late", func(t *testing.T) {
		t.Parallel()
		g := start(t, endsWithToken+"end_with_token: true\n", story.Options{})
		expires := time.Now().Add(2 * time.Second).Truncate(time.Second)
		u := underWay{head: "POST /upload", fields: []string{"Content-Type: text/plain", "Content-Length: 2"}, begin: func(t *testing.T, _ *story.Gateway, w *wire) {
			t.Helper()
			w.send(t, "x")
			awaitTime(t, expires)
			w.send(t, "x")
		}}
		w := u.start(t, g, g.Issuer.Token(extproctest.Claims{"exp": expires.Unix()}))
		if resp := w.answer(t, "POST"); resp.StatusCode != 401 || !strings.Contains(resp.Header.Get("WWW-Authenticate"), `error_description="expired"`) {
			t.Errorf("answer %d %v", resp.StatusCode, resp.Header)
		}
		if n := len(g.Target.Requests()); n != 0 {
			t.Errorf("the target saw %d requests", n)
		}
	})
	t.Run("a stream over HTTP/2", func(t *testing.T) {
		t.Parallel()
		g := start(t, endsWithToken+"end_with_token: true\n", story.Options{})
		expires := time.Now().Add(3 * time.Second).Truncate(time.Second)
		h2 := plainHTTP2()
		defer h2.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.Address+"/feed/h2?type=text/event-stream", nil)
		must(t, err)
		r.Header.Set("Authorization", "Bearer "+g.Issuer.Token(extproctest.Claims{"exp": expires.Unix()}))
		resp, err := h2.RoundTrip(r)
		must(t, err)
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err == nil || time.Now().Before(expires) {
			t.Errorf("it ended %v after the token: %v", time.Since(expires), err)
		}
		endedWith(t, g, "(expired): the token expired at ")
	})
	t.Run("without the key", func(t *testing.T) {
		t.Parallel()
		g := start(t, endsWithToken, story.Options{})
		expires := time.Now().Add(2 * time.Second).Truncate(time.Second)
		w := underWays[0].start(t, g, g.Issuer.Token(extproctest.Claims{"exp": expires.Unix()}))
		awaitTime(t, expires.Add(time.Second))
		must(t, g.Target.Feed("plain").Send(t.Context(), "data: after\n\n"))
		must(t, g.Target.Feed("plain").Close(t.Context()))
		for line := ""; line != "data: after\n"; {
			var err error
			if line, err = w.ReadString('\n'); err != nil {
				t.Fatalf("it ended: %v", err)
			}
		}
	})
}
