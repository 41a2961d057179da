package lane

import (
	"fmt"
	"sync"

	"github.com/countersign/countersign/extproc/gate"
)

// memory is the account of what is under judgement: heads, bodies and what reading and judging them takes, held operations,
// and answers that are redacted. What would not fit is refused before it is kept. Only agents that have proved who they are
// have an account, so that a stranger, who is refused by the head, takes nothing.
//
// An agent may have as much as it leaves free: one alone gets half of the memory, two a third each, and whoever comes next
// finds room (the dynamic thresholds of Choudhury and Hahne, 1998). What it has nothing beside only has to fit.
//
// The figures are what the garbage collector was seen to keep (Weight of package web's Inspector, [Bytes]); garbage comes on top,
// which is why the program's own limit (GOMEMLIMIT) leaves room beside this one.
//
// Measured on two shared cores, all of the program's memory at its most, before there was an account and a bound on values; then with
// what a machine of 24 GB has by default (1.5 GB); then with 128 MiB (TestMemoryOfBodiesIsBounded):
//
//	                                           ext_proc                  ext_authz
//	120 at once, 1 MB of `[0,0,…]`             900 MB   190 MB  115 MB   1040 MB   115 MB  115 MB
//	20 MiB, eight times one after the other    975 MB   340 MB  340 MB   1040 MB   580 MB  355 MB
//	492 of all kinds, 64 at once              2270 MB   340 MB  345 MB   4550 MB   630 MB  360 MB
//
// Another agent's slowest answer meanwhile went from 8 and 12 s to about 1 s, as long as Envoy and the clients took for the rest.
// Before, the last 2 to 4 GB stayed; now it is less than 90 MB a few seconds later.
type memory struct {
	mu    sync.Mutex
	limit int64 // nothing fits while it is 0
	taken int64
	most  int64 // taken at one time since the last peak
	by    map[gate.Party]int64
}

// Bytes is what an operation has beside what its kind reads: its goroutines and what gRPC and the journal keep of it
// (BenchmarkHolds).
const Bytes = 16 << 10

func (m *memory) resize(limit int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit = limit
}

// whole is what there is for everybody together.
func (m *memory) whole() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.limit
}

// peak is the most that was taken at one time since it was last asked for, and what is taken now.
func (m *memory) peak() (most, now int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	most, m.most = m.most, m.taken
	return most, m.taken
}

// change gives an operation of who, which has own bytes, n bytes more, or takes them back where n is negative. It is false where
// there is no room for them.
func (m *memory) change(who gate.Party, own, n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	has, free := m.by[who], m.limit-m.taken-n
	if n > 0 && (free < 0 || has > own && has+n > free) {
		return false
	}
	if m.by == nil {
		m.by = map[gate.Party]int64{}
	}
	if m.by[who] = has + n; has+n == 0 {
		delete(m.by, who)
	}
	m.taken += n
	m.most = max(m.most, m.taken)
	return true
}

// Share is what one operation has of the memory. It is for one goroutine. The zero Share has nothing and gets nothing.
type Share struct {
	of    *memory
	who   gate.Party
	bytes int64
}

// Set makes the share n bytes. It is false, and the share is as it was, where it would grow and there is no room. Less is
// always granted.
func (s *Share) Set(n int64) bool {
	if n == s.bytes {
		return true
	}
	if s.of == nil || !s.of.change(s.who, s.bytes, n-s.bytes) {
		return false
	}
	s.bytes = n
	return true
}

// Admit begins the account of an operation whose agent is known.
func (a *Attempt) Admit() {
	p := a.Op.Principal
	a.Share = Share{of: &a.lane.memory, who: gate.Party{Issuer: p.Issuer, Subject: p.Subject}}
}

// Taken is how many bytes the share has.
func (s *Share) Taken() int64 { return s.bytes }

// Room makes the operation's share n bytes. Where there is no room for them it returns what the agent is to be told.
func (a *Attempt) Room(n int64) (refusal gate.Refusal, ok bool) {
	switch {
	case a.Share.Set(n):
		return gate.Refusal{}, true
	case n > a.lane.memory.whole():
		return gate.Refusal{Problem: gate.TooLarge, Detail: fmt.Sprintf(
			"To judge this request would take %d bytes of memory, which is more than this gateway has for all. Nothing was done. Send less at a time.", n)}, false
	default:
		return gate.Refusal{
			Problem: gate.Unavailable,
			Detail:  "The gateway has no memory left for this request, with what else it is judging, of yours or of others. Nothing was done. Send less at once, and try again later.",
		}, false
	}
}
