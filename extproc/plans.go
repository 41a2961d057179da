package extproc

import (
	"fmt"
	"sync"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/redact"
)

// plans are redactions that were compiled. Most policies have a few, written out in them; one that computes paths of what an
// agent sends makes as many as the agent likes. So they are all forgotten where they would be too many: a plan is compiled
// again in 20 µs, and one of 4,096 path segments, the largest there is, takes 2.4 MB for 12 KiB of text.
type plans struct {
	mu     sync.RWMutex
	byText map[string]*redact.Plan
	bytes  int // of the texts
}

// 50 MB of plans at the very most, and a few hundred KB of those that a policy has written out.
const (
	maxPlans     = 256
	maxPlanBytes = 256 << 10
)

func (p *plans) get(text []byte) (*redact.Plan, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	plan, ok := p.byText[string(text)]
	return plan, ok
}

func (p *plans) put(text []byte, plan *redact.Plan) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(text) > maxPlanBytes {
		return
	}
	if p.byText == nil || len(p.byText) >= maxPlans || p.bytes+len(text) > maxPlanBytes {
		p.byText, p.bytes = map[string]*redact.Plan{}, 0
	}
	if _, known := p.byText[string(text)]; !known {
		p.byText[string(text)] = plan
		p.bytes += len(text)
	}
}

// plan compiles redactions; nil where they redact nothing.
func (st *State) plan(rs []gate.Redaction) (*redact.Plan, error) {
	if len(rs) == 0 {
		return nil, nil
	}
	var text []byte
	for _, r := range rs {
		text = fmt.Appendf(text, "%q %q %q\n", r.Path, r.Detect, r.With)
	}
	if p, ok := st.plans.get(text); ok {
		return p, nil
	}
	p, err := redact.Compile(rs, st.RedactKey)
	if err != nil {
		return nil, err
	}
	if p.Empty() {
		p = nil
	}
	st.plans.put(text, p)
	return p, nil
}
