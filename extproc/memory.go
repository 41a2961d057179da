package extproc

import (
	"context"
	"fmt"
	"sync"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/web"
)

// memory is the account of what is under judgement: heads, bodies and what reading and judging them takes, held operations,
// and answers that are redacted. What would not fit is refused before it is kept. Only agents that have proved who they are
// have an account, so that a stranger, who is refused by the head, takes nothing.
//
// An agent may have as much as it leaves free: one alone gets half of the memory, two a third each, and whoever comes next
// finds room (the dynamic thresholds of Choudhury and Hahne, 1998). What it has nothing beside only has to fit.
//
// The figures are what the garbage collector was seen to keep ([web.Inspector.Weight], attemptBytes); garbage comes on top,
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

// What an operation has beside its body: its goroutines and what gRPC and the journal keep of it (BenchmarkHolds), and each
// byte of its head as field, as input and as policy's value.
const (
	attemptBytes = 16 << 10
	perHeadByte  = 4
)

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

// share is what one operation has of the memory. It is for one goroutine. The zero share has nothing and gets nothing.
type share struct {
	of    *memory
	who   gate.Party
	bytes int64
}

// set makes the share n bytes. It is false, and the share is as it was, where it would grow and there is no room. Less is
// always granted.
func (s *share) set(n int64) bool {
	if n == s.bytes {
		return true
	}
	if s.of == nil || !s.of.change(s.who, s.bytes, n-s.bytes) {
		return false
	}
	s.bytes = n
	return true
}

// admit begins the account of an operation whose agent is known. It is false where there is no room for it, and then it is
// refused.
func (a *attempt) admit(ctx context.Context, fields []web.Field) bool {
	p := a.op.Principal
	a.share = share{of: &a.server.memory, who: gate.Party{Issuer: p.Issuer, Subject: p.Subject}}
	a.light = attemptBytes + weighFields(fields)
	return a.take(ctx, a.light)
}

// trailers takes trailer fields into the account.
func (a *attempt) trailers(ctx context.Context, fields []web.Field) bool {
	n := weighFields(fields)
	a.light += n
	return a.take(ctx, a.share.bytes+n)
}

func weighFields(fields []web.Field) (n int64) {
	for _, f := range fields {
		n += perHeadByte * int64(len(f.Name)+len(f.Value))
	}
	return n
}

// take makes the operation's share n bytes, or refuses it.
func (a *attempt) take(ctx context.Context, n int64) bool {
	if a.share.set(n) {
		return true
	}
	if n > a.server.memory.whole() {
		return a.refuse(ctx, gate.Refusal{Problem: gate.TooLarge, Detail: fmt.Sprintf(
			"To judge this request would take %d bytes of memory, which is more than this gateway has for all. Nothing was done. Send less at a time.", n)})
	}
	return a.refuse(ctx, noMemory)
}

var noMemory = gate.Refusal{
	Problem: gate.Unavailable,
	Detail:  "The gateway has no memory left for this request, with what else it is judging, of yours or of others. Nothing was done. Send less at once, and try again later.",
}

// forward is called when the request is sent on: nothing of what was judged lives as long as the answer, which can stream for
// hours.
func (a *attempt) forward() {
	a.again(a.op.Resource)
	a.op.Detail = nil
	a.inspector.Forget()
	if a.plan == nil {
		a.share.set(attemptBytes)
	} else {
		a.redacts(0)
	}
}

// What an answer takes while it is redacted: the least, and the most, which one is counted with that holds a value of more than
// the least: a text that a detector reads is there a few times ([redact.Options]). There is nothing in between, because what
// is held depends on what is redacted, and must not be measured by filling the rest.
const (
	answerBytes      = 256 << 10
	largeAnswerBytes = 8 << 20
)

// redacts makes room for an answer that is redacted, of which n bytes are held.
func (a *attempt) redacts(n int) bool {
	if n <= answerBytes {
		return a.share.set(attemptBytes + answerBytes)
	}
	return a.share.set(attemptBytes + largeAnswerBytes)
}

// errNoMemory withholds an answer of which too much has to be held to redact it.
var errNoMemory = &web.Withheld{Reason: "to redact the target's answer takes more memory than the gateway has left, with what else is being judged"}
