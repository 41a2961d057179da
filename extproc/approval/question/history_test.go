package question

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

// An agent fills the history with long targets in many sessions; it has a bound, and others keep theirs.
func TestHistoryIsBounded(t *testing.T) {
	h := NewHistory()
	act := func(agent, session, target string) *gate.Operation {
		op := &gate.Operation{
			Principal: &gate.Principal{Issuer: "https://idp", Subject: agent}, Verb: "GET", Target: target,
			Context: gate.Context{Session: session},
		}
		h.Add(op, gate.Deny, time.Now())
		return op
	}
	other := act("other", "s", "/mine")
	for n := range 300 {
		for range historyLength + 1 {
			act("agent", fmt.Sprint(n), "/"+strings.Repeat("x", 50_000))
		}
	}
	if past := h.of(other); len(past) != 1 || past[0].Target != "/mine" {
		t.Errorf("another agent's history is %v", past)
	}
	if own := len(h.order) - 1; own != historyPerAgent {
		t.Errorf("%d sessions of one agent are kept", own)
	}
	for _, past := range h.sessions {
		if len(past) > historyLength || historyBytes(past) > historyLength*(historyText+100) {
			t.Errorf("a session has %d operations with %d bytes", len(past), historyBytes(past))
		}
	}
	for n := range 2 * historySessions {
		act(fmt.Sprintf("agent-%d", n), "s", "/")
	}
	if len(h.sessions) != historySessions || len(h.order) != historySessions {
		t.Errorf("%d sessions are kept, %d in order", len(h.sessions), len(h.order))
	}
}

// Two issuers may give their agents the same subject and the same token id: what one did is nothing of the other's, and on no card
// of it.
func TestHistoryIsOfOneAgent(t *testing.T) {
	h := NewHistory()
	op := func(issuer, subject, session string) *gate.Operation {
		return &gate.Operation{
			Principal: &gate.Principal{Issuer: issuer, Subject: subject}, Verb: "GET", Target: "/" + issuer,
			Context: gate.Context{Session: session},
		}
	}
	h.Add(op("https://idp", "agent", "1"), gate.Allow, time.Now())
	for _, other := range []*gate.Operation{op("https://other", "agent", "1"), op("https://idp", "agent-2", "1"), op("https://idp", "agent", "2"), op("", "agent", "1"), op("https://idp", "agent", "")} {
		if past := h.of(other); len(past) != 0 {
			t.Errorf("%+v has done %v", other.Principal, past)
		}
	}
	if past := h.of(op("https://idp", "agent", "1")); len(past) != 1 {
		t.Errorf("it has done %v", past)
	}
}

func historyBytes(past []approval.Past) int {
	n := 0
	for _, p := range past {
		n += len(p.Verb) + len(p.Target) + len(p.Result)
	}
	return n
}
