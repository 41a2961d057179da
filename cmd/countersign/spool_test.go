package main

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"github.com/countersign/countersign/extproc"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/lane"
)

// spools has a reader put its body into a file.
type spools struct {
	extproc.Reader
	file string
	cut  bool // the file loses a part before it is sent
}

func (s spools) Request(by *gate.Principal, room func(int64) bool) (*extproc.Request, error) {
	r, err := s.Reader.Request(by, room)
	if err != nil {
		return nil, err
	}
	body, _ := r.Body.From.(extproc.InMemory)
	if err := os.WriteFile(s.file, body, 0o600); err != nil {
		return nil, err
	}
	if s.cut {
		if err := os.Truncate(s.file, r.Body.Size/2); err != nil {
			return nil, err
		}
	}
	r.Body.From, err = os.Open(s.file)
	return r, err
}

// TestASpooledBodyIsSentAsItWasJudged: a body that a kind keeps in a file reaches the target whole, or the request is broken off.
func TestASpooledBodyIsSentAsItWasJudged(t *testing.T) {
	g := start(t, "-- policy.rego --\npackage rules.payments\n\nallow contains {\"id\": \"all\"}\n", story.Options{Attach: "ext_proc"})
	g.Process.Stop()
	cut := false
	stop := serveOn(t, g, serving{state: func(st *lane.State) {
		for _, r := range st.Resources {
			own := r.Own.(*extproc.HTTP)
			reader := own.Reader
			own.Reader = func(resource string) extproc.Reader {
				return spools{reader(resource), filepath.Join(t.TempDir(), "body"), cut}
			}
		}
	}})
	defer func() { must(t, stop()) }()
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	must(t, err)
	body := bytes.Repeat([]byte("0123456789abcdef"), 40<<10) // ten pieces
	for _, cut = range []bool{false, true} {
		g.Target.Reset()
		a, err := g.Send(t.Context(), &story.Request{Method: "POST", Target: "/v1/payments", Body: body, Fields: []extproctest.Field{
			{Name: "Authorization", Value: "Bearer " + token}, {Name: "Content-Type", Value: "application/octet-stream"},
		}})
		seen := g.Target.Requests()
		if cut {
			if err == nil && a.Broken == nil && a.Status < 500 {
				t.Errorf("half of the body is gone, and the answer is %d", a.Status)
			}
			continue
		}
		if err != nil || len(seen) != 1 || seen[0].BodySHA256 != sha256.Sum256(body) {
			t.Errorf("%v: the target has seen %d requests, and another body", err, len(seen))
		}
	}
}
