package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
	"github.com/countersign/countersign/extproc/gate"
)

// What somebody sends goes into records by its beginning and its digest: an agent's up to 2 KiB for a text, and all that a
// stranger sends into 4 KiB for a request.
func TestWhatIsRecordedIsBounded(t *testing.T) {
	t.Parallel()
	for _, attach := range []string{"ext_proc", "ext_authz"} {
		t.Run(attach, func(t *testing.T) {
			t.Parallel()
			g := start(t, allowAll, story.Options{Attach: attach})
			long := strings.Repeat("x", 11_000)
			claims := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"` + strings.Repeat(`\u0001`, 800) + `","sub":"` + strings.Repeat("é", 800) + `"}`))
			strangers := []*story.Request{
				{Method: "GET", Target: "/" + long},
				{Method: "GET", Target: "/" + strings.Repeat("%22", 3000) + "?" + long, Fields: fields("Authorization", "Bearer "+long)},
				{Method: "GET", Target: "/", Fields: fields("Authorization", "Bearer eyJhbGciOiJSUzI1NiJ9."+claims+".AAAA")},
				{Method: "GET", Target: "/", Fields: fields("Authorization", "Bearer a", "Authorization", "Bearer b", "X-Request-Id", long, "User-Agent", long, "X-Forwarded-For", long)},
				{Method: "GET", Target: "/", Fields: fields("Authorization", long+" "+long)},
			}
			for _, r := range strangers {
				if a, err := g.Send(t.Context(), r); err != nil || a.Status != 401 && a.Status != 400 {
					t.Fatalf("a stranger's %.40s: %+v, %v", r.Target, a, err)
				}
			}
			extproctest.Await(t, "what Envoy tells of the strangers", 20*time.Second, func(context.Context) error {
				n := 0
				for _, r := range g.Records() {
					if r.Type == gate.Transit {
						n++
					}
				}
				if n < len(strangers) {
					return fmt.Errorf("%d transits", n)
				}
				return nil
			})
			of := map[string]int{}
			for _, r := range g.Records() {
				if r.Type != gate.Transit && r.Type != gate.IdentityRefused {
					continue
				}
				text, err := json.Marshal(r.Body)
				if err != nil {
					t.Fatal(err)
				}
				of[fmt.Sprint(r.Op)] += len(text)
			}
			for op, n := range of {
				if n > 4<<10 {
					t.Errorf("operation %s of a stranger takes %d bytes of the journal", op, n)
				}
			}

			token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
			if err != nil {
				t.Fatal(err)
			}
			path := "/" + long
			for _, r := range []*story.Request{
				{Method: "GET", Target: path, Fields: fields("Authorization", "Bearer "+token, "User-Agent", long)},
				{Method: "POST", Target: "/echo", Body: []byte("x"), Fields: fields("Authorization", "Bearer "+token, "Content-Type", "text/plain; charset="+long)},
				{Method: "POST", Target: "/echo", Fields: fields("Authorization", "Bearer "+token, "X-HTTP-Method-Override", long)},
			} {
				if _, err := g.Send(t.Context(), r); err != nil {
					t.Fatalf("%s %.40s: %v", r.Method, r.Target, err)
				}
			}
			sum := sha256.Sum256([]byte(path))
			g.AwaitRecord("the decision on a long path", func(r story.Record) bool {
				target, _ := r.Body["target"].(string)
				return r.Type == gate.OperationDecided && strings.HasPrefix(target, path[:1900]) && strings.Contains(target, hex.EncodeToString(sum[:]))
			})
			for _, r := range g.Records() {
				longest(t, r.Type, r.Body)
			}
		})
	}
}

func longest(t *testing.T, where string, v any) {
	t.Helper()
	switch v := v.(type) {
	case string:
		if len(v) > gate.MaxRecorded {
			t.Errorf("%s has %d bytes", where, len(v))
		}
	case []any:
		for _, e := range v {
			longest(t, where, e)
		}
	case map[string]any:
		for name, e := range v {
			longest(t, where+"."+name, e)
		}
	}
}
