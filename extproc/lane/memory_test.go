package lane

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
	var shares []*Share
	for i, name := range agents {
		had := int64(0)
		for {
			s := &Share{of: m, who: party(name)}
			if !s.Set(1 << 20) {
				break
			}
			shares = append(shares, s)
			had += s.bytes
		}
		if least := int64(limit) >> (i + 1); had < least-1<<20 || had > least+1<<20 {
			t.Errorf("agent %s came after %d others and got %d bytes", name, i, had)
		}
	}
	one := &Share{of: m, who: party("late")}
	if !one.Set(limit >> 5) {
		t.Error("whoever comes last finds no room")
	}
	if m.taken > limit {
		t.Errorf("%d bytes are taken of %d", m.taken, int64(limit))
	}
	one.Set(0)
	for _, s := range shares {
		s.Set(0)
	}
	if m.taken != 0 || len(m.by) != 0 {
		t.Errorf("when all has ended %d bytes are taken, by %d agents", m.taken, len(m.by))
	}
}

func TestMemoryOfOneOperation(t *testing.T) {
	m := &memory{}
	first := &Share{of: m, who: party("a")}
	if first.Set(1) || (&Share{}).Set(1) || !(&Share{}).Set(0) {
		t.Error("there is memory where none was given")
	}
	m.resize(1000)
	if !first.Set(900) || !first.Set(1000) || first.Set(1001) || first.bytes != 1000 {
		t.Errorf("what an agent has nothing beside gets %d of 1000", first.bytes)
	}
	if !first.Set(600) {
		t.Error("less is not granted")
	}
	second := &Share{of: m, who: party("a")}
	if second.Set(1) {
		t.Error("an agent that has more than it leaves free gets more")
	}
	other := &Share{of: m, who: party("b")}
	if !other.Set(400) || other.Set(401) {
		t.Error("another agent's first operation does not get what is free, or gets more")
	}
	m.resize(500) // by a reload: what is there stays
	if other.Set(401) || !other.Set(10) || !first.Set(20) || !second.Set(10) {
		t.Error("a smaller limit is not one, or is not enough for less")
	}
	if most, now := m.peak(); most != 1000 || now != 40 {
		t.Errorf("%d bytes were taken at one time, and now %d", most, now)
	}
	if most, now := m.peak(); most != 40 || now != 40 {
		t.Errorf("since then %d bytes were taken at one time, and now %d", most, now)
	}
}
