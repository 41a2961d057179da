package console

import (
	"testing"

	"github.com/countersign/countersign/extproc/approval"
)

// TestAListenerThatMissedIsToldAlone: whoever is slow is told to look again, and everybody else is told what changed.
func TestAListenerThatMissedIsToldAlone(t *testing.T) {
	f := &feed{listeners: map[*listener]bool{}}
	slow := &listener{changes: make(chan approval.Change, 1), missed: true}
	f.listeners[slow] = true
	var others []*listener
	for range 20 {
		l := &listener{changes: make(chan approval.Change, 1)}
		f.listeners[l] = true
		others = append(others, l)
	}
	for range 20 { // they are told in no order
		slow.missed = true
		f.tell(approval.Change{ID: "1"})
		if c := <-slow.changes; c.ID != "" || slow.missed {
			t.Errorf("the slow one is told %+v", c)
		}
		for i, l := range others {
			if c := <-l.changes; c.ID != "1" {
				t.Errorf("listener %d is told %+v", i, c)
			}
		}
	}
}
