package console

import (
	"fmt"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

// What people can make the console remember is bounded: their own sessions, everybody's, and which cards they were shown. Who
// listens is too (TestTheDocumentSaysWhatTheAPIDoes).
func TestWhatIsRememberedOfPeopleIsBounded(t *testing.T) {
	now := time.Now()
	var s sessions
	s.init()
	begin := func(n int) string {
		return s.begin(person{Approver: approval.Approver{Issuer: "https://idp", Subject: fmt.Sprint(n)}}, now)
	}
	first := begin(0)
	for range maxSessionsPerPerson {
		now = now.Add(time.Millisecond)
		begin(0)
	}
	if _, known := s.find(first, now, false); known || len(s.list) != maxSessionsPerPerson {
		t.Errorf("one person has %d sessions, the first of them still %v", len(s.list), known)
	}
	for n := range maxSessions + 100 {
		begin(n + 1)
	}
	if len(s.list) != maxSessions {
		t.Errorf("there are %d sessions", len(s.list))
	}

	var cards shown
	cards.init()
	for n := range shownLimit + 100 {
		cards.note(approval.Party{Subject: "bob"}, fmt.Sprint(n), now)
	}
	if len(cards.first) != shownLimit {
		t.Errorf("%d cards are remembered as shown", len(cards.first))
	}
}
