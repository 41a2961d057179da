package extproc

import (
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

func party(name string) gate.Party { return gate.Party{Issuer: "https://idp", Subject: name} }

// However many agents take all that they can get, in whatever order, the whole is not exceeded and whoever comes next finds room.
func TestMemoryIsSharedFairly(t *testing.T) {
	const limit = 1 << 30
	m := &memory{}
	m.resize(limit)
	agents := []string{"a", "b", "c", "d"}
	var shares []*share
	for i, name := range agents {
		had := int64(0)
		for {
			s := &share{of: m, who: party(name)}
			if !s.set(1 << 20) {
				break
			}
			shares = append(shares, s)
			had += s.bytes
		}
		if least := int64(limit) >> (i + 1); had < least-1<<20 || had > least+1<<20 {
			t.Errorf("agent %s came after %d others and got %d bytes", name, i, had)
		}
	}
	one := &share{of: m, who: party("late")}
	if !one.set(limit >> 5) {
		t.Error("whoever comes last finds no room")
	}
	if m.taken > limit {
		t.Errorf("%d bytes are taken of %d", m.taken, int64(limit))
	}
	one.set(0)
	for _, s := range shares {
		s.set(0)
	}
	if m.taken != 0 || len(m.by) != 0 {
		t.Errorf("when all has ended %d bytes are taken, by %d agents", m.taken, len(m.by))
	}
}

func TestMemoryOfOneOperation(t *testing.T) {
	m := &memory{}
	first := &share{of: m, who: party("a")}
	if first.set(1) || (&share{}).set(1) || !(&share{}).set(0) {
		t.Error("there is memory where none was given")
	}
	m.resize(1000)
	if !first.set(900) || !first.set(1000) || first.set(1001) || first.bytes != 1000 {
		t.Errorf("what an agent has nothing beside gets %d of 1000", first.bytes)
	}
	if !first.set(600) {
		t.Error("less is not granted")
	}
	second := &share{of: m, who: party("a")}
	if second.set(1) {
		t.Error("an agent that has more than it leaves free gets more")
	}
	other := &share{of: m, who: party("b")}
	if !other.set(400) || other.set(401) {
		t.Error("another agent's first operation does not get what is free, or gets more")
	}
	m.resize(500) // by a reload: what is there stays
	if other.set(401) || !other.set(10) || !first.set(20) || !second.set(10) {
		t.Error("a smaller limit is not one, or is not enough for less")
	}
	if most, now := m.peak(); most != 1000 || now != 40 {
		t.Errorf("%d bytes were taken at one time, and now %d", most, now)
	}
	if most, now := m.peak(); most != 40 || now != 40 {
		t.Errorf("since then %d bytes were taken at one time, and now %d", most, now)
	}
}
