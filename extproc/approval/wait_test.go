package approval

import (
	"fmt"
	"testing"
	"time"
)

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
