package lane

import (
	"errors"
	"time"

	"github.com/countersign/countersign/extproc/identity"
)

// tokenEnds is when the time of the agent's token is over: its `exp`, and for an operation that began after that, while the token
// was accepted all the same because two clocks may differ, the end of this leeway.
func (a *Attempt) tokenEnds() time.Time {
	v := a.Op.Principal.Verified
	if a.Started.Before(v.Expires) {
		return v.Expires
	}
	return v.Accepted
}

// tokenOver says why the agent's token, good when the operation began, is not good now, under st; nil where it is.
func (a *Attempt) tokenOver(st *State) *identity.Refusal {
	if !a.lane.Now().Before(a.tokenEnds()) {
		return &identity.Refusal{Reason: identity.Expired, Detail: "the token expired at " + stamp(a.Op.Principal.Verified.Expires)}
	}
	var why *identity.Refusal
	if err := st.Identity.Still(a.Op.Principal); err != nil && !errors.As(err, &why) {
		why = &identity.Refusal{Reason: identity.Unavailable, Detail: err.Error()}
	}
	return why
}

// pendingNote is what the agent of an operation that people are still asked about has to do beside sending it again.
func (a *Attempt) pendingNote() string {
	if a.Ruling.Pending() == nil {
		return ""
	}
	if why := a.tokenOver(a.lane.State()); why != nil {
		return " Send it with a new token: the credential was good when this operation was held, and is not now (" + why.Reason + "): " + why.Detail + "."
	}
	return ""
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
