package redact

import (
	"fmt"
	"sync"

	"github.com/countersign/countersign/extproc/gate"
)

// Plans compiles redactions and remembers the plans. Most policies have a few, which are written out; one that computes paths
// from what an agent sends makes as many as the agent likes. So all are forgotten once there are too many: compiling a plan
// again takes 20 µs, and the largest, of 4,096 path segments, takes 2.4 MB for 12 KiB of text.
type Plans struct {
	key    []byte
	mu     sync.RWMutex
	byText map[string]*Plan
	bytes  int // of the texts
}

// Bounds on what Plans remembers: 50 MB at the very most, and a few hundred KB if policies write their redactions out.
const (
	maxPlans     = 256
	maxPlanBytes = 256 << 10
)

func (p *Plans) get(text []byte) (*Plan, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	plan, ok := p.byText[string(text)]
	return plan, ok
}

func (p *Plans) put(text []byte, plan *Plan) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(text) > maxPlanBytes {
		return
	}
	if p.byText == nil || len(p.byText) >= maxPlans || p.bytes+len(text) > maxPlanBytes {
		p.byText, p.bytes = map[string]*Plan{}, 0
	}
	if _, known := p.byText[string(text)]; !known {
		p.byText[string(text)] = plan
		p.bytes += len(text)
	}
}

// NewPlans returns plans whose tokens are made with key.
func NewPlans(key []byte) *Plans { return &Plans{key: key} }

// Plan compiles redactions and paths of URLs, as [Compile] does. It returns nil if they change nothing.
func (p *Plans) Plan(rs []gate.Redaction, turned []string) (*Plan, error) {
	if len(rs) == 0 && len(turned) == 0 {
		return nil, nil
	}
	text := fmt.Appendf(nil, "%q\n", turned)
	for _, r := range rs {
		text = fmt.Appendf(text, "%q %q %q\n", r.Path, r.Detect, r.With)
	}
	if plan, ok := p.get(text); ok {
		return plan, nil
	}
	plan, err := Compile(rs, p.key, turned...)
	if err != nil {
		return nil, err
	}
	if plan.Empty() {
		plan = nil
	}
	p.put(text, plan)
	return plan, nil
}

// Tokens returns a plan that redacts nothing, and makes tokens of texts; nil where there is no key for them.
func (p *Plans) Tokens() *Plan {
	if p == nil || len(p.key) < minKey {
		return nil
	}
	return &Plan{key: p.key}
}
