package question

import (
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

// History remembers the last operations of each session, for the card that an approver sees. A restart loses it; the journal is what
// lasts. An agent chooses how many tokens it uses, how often it acts and how long its targets are, so each is bounded: a full
// history has 20 MB, and no agent more than 200 KB of it.
type History struct {
	mu       sync.Mutex
	sessions map[sessionKey][]approval.Past
	order    []sessionKey // oldest first
}

// sessionKey is a session of an agent.
type sessionKey struct {
	agent approval.Party
	name  string
}

const (
	historySessions = 2000
	historyPerAgent = 20  // sessions
	historyLength   = 20  // operations of a session
	historyText     = 256 // bytes of a target: the card has the whole of the one that is asked about
)

// NewHistory returns an empty history.
func NewHistory() *History { return &History{sessions: map[sessionKey][]approval.Past{}} }

func sessionOf(op *gate.Operation) (key sessionKey, known bool) {
	if op.Context.Session == "" || !op.Principal.Known() {
		return key, false
	}
	return sessionKey{approval.Party{Issuer: op.Principal.Issuer, Subject: op.Principal.Subject}, op.Context.Session}, true
}

// Add remembers that op was decided.
func (h *History) Add(op *gate.Operation, effect gate.Effect, at time.Time) {
	key, known := sessionOf(op)
	if !known {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	past, known := h.sessions[key]
	if !known {
		h.makeRoomLocked(key.agent)
		h.order = append(h.order, key)
	}
	past = append(past, approval.Past{Time: at, Verb: op.Verb, Target: gate.Recorded(op.Target, historyText), Result: effect.String()})
	if len(past) > historyLength {
		past = slices.Clone(past[len(past)-historyLength:])
	}
	h.sessions[key] = past
}

// makeRoomLocked makes room for a session of agent: it forgets that agent's oldest if it has its share, or the oldest of all if the
// history is full.
func (h *History) makeRoomLocked(agent approval.Party) {
	own, oldest := 0, -1
	for i := len(h.order) - 1; i >= 0; i-- {
		if h.order[i].agent == agent {
			own, oldest = own+1, i
		}
	}
	if own < historyPerAgent {
		oldest = 0
	}
	if own >= historyPerAgent || len(h.order) >= historySessions {
		delete(h.sessions, h.order[oldest])
		h.order = slices.Delete(h.order, oldest, oldest+1)
	}
}

// of returns the earlier operations of op's session.
func (h *History) of(op *gate.Operation) []approval.Past {
	key, _ := sessionOf(op)
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sessions[key])
}
