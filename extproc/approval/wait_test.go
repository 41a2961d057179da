package approval

import (
	"fmt"
	"testing"
	"time"
)

// An answer that was seen is missed where it is not there, though it was one of several and another has taken its place.
func TestALostAnswerIsNoticed(t *testing.T) {
	var m memory
	m.init()
	m.note(&Request{ID: "r", Rev: 3, State: Pending, Decisions: []Decision{{Nonce: "a"}}})
	m.change(Change{ID: "r", Rev: 4, State: Pending, Answer: "b"})
	m.change(Change{ID: "r", Rev: 9, State: Pending, Answer: "b"})
	for _, c := range []struct {
		has  []Decision
		lost bool
	}{
		{[]Decision{{Nonce: "a"}, {Nonce: "b"}}, false},
		{[]Decision{{Nonce: "a"}, {Nonce: "b"}, {Nonce: "c"}}, false},
		{[]Decision{{Nonce: "a"}}, true},
		{[]Decision{{Nonce: "a"}, {Nonce: "c"}}, true},
		{[]Decision{{Nonce: "b"}}, true},
		{nil, true},
	} {
		if got := m.of("r").lost(&Request{Rev: 3, State: Pending, Decisions: c.has}); got != c.lost {
			t.Errorf("%v: lost is %t", c.has, got)
		}
	}
}

// A gateway does not remember every request that it has seen.
func TestWhatADeskRemembersIsBounded(t *testing.T) {
	var m memory
	m.init()
	for n := range memoryLimit + 100 {
		m.change(Change{ID: fmt.Sprint(n), Rev: 1})
	}
	m.prune(time.Now())
	if len(m.seen) != memoryLimit {
		t.Errorf("%d requests are remembered", len(m.seen))
	}
	m.prune(time.Now().Add(memoryFor + time.Minute))
	if len(m.seen) != 0 {
		t.Errorf("%d requests are remembered for longer than they live", len(m.seen))
	}
}
