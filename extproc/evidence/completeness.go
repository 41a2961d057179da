package evidence

import (
	"fmt"

	"github.com/countersign/countersign/extproc/gate"
)

// Completeness is what the records say of the operations, taken together.
type Completeness struct {
	Decided  uint64 // operation.decided
	Allowed  uint64 // of them, those that allow
	Finished uint64 // operation.finished
	Unknown  uint64 // operation.unknown
	Open     uint64 // allowed and without an outcome at the journal's end: under way, or cut off by a crash

	Transits        uint64 // transit records: what Envoy says it did
	NeverTransited  uint64 // allowed operations that Envoy says nothing about; only counted where there are transits
	Findings        []Finding
	FurtherFindings uint64 // beyond the first 100
}

// Finding is something that should not be in a complete record of what happened.
type Finding struct {
	Seq    uint64
	Op     string
	Reason string
}

// maxRemembered bounds the operations that a transit record is looked for. Envoy's access log is seconds behind its
// operations at most; with the bound a verification's memory does not grow with the journal.
const maxRemembered = 1 << 20

type completeness struct {
	Completeness
	open    map[uint64]string // allowed without an outcome: seq -> operation
	redacts map[uint64]bool   // those of open whose answer is to be redacted
	allowed map[string]bool   // operation -> it has transited
	order   []string          // of allowed
}

func newCompleteness() *completeness {
	return &completeness{open: map[uint64]string{}, redacts: map[uint64]bool{}, allowed: map[string]bool{}}
}

func (c *completeness) add(e *Entry) {
	o, _ := outcomeOf(e.Type, e.Body) // the whole line is canonical
	switch e.Type {
	case gate.OperationDecided:
		c.Decided++
		if o.allows {
			c.Allowed++
			c.open[e.Seq] = e.Op
			if redacts(e.Body) {
				c.redacts[e.Seq] = true
			}
			c.remember(e.Op)
		}
	case gate.OperationFinished:
		c.Finished++
		if c.redacts[o.settles] && passedAround(e.Body) {
			c.find(e.Seq, e.Op, fmt.Sprintf("record %d has the answer redacted, and it went to the agent without coming by the gateway", o.settles))
		}
		c.settle(o.settles)
	case gate.OperationUnknown:
		c.Unknown++
		c.settle(o.settles)
	case gate.GatewayStarted:
		// The start before this record has settled all that stands before it.
		for _, seq := range sortedKeys(c.open) {
			c.find(seq, c.open[seq], "it was allowed and has neither an outcome nor an operation.unknown")
		}
		clear(c.open)
		clear(c.redacts)
	case gate.Transit:
		c.Transits++
		c.transit(e)
	}
}

func (c *completeness) settle(seq uint64) {
	delete(c.open, seq)
	delete(c.redacts, seq)
}

// redacts reports whether a decision wants something taken out of the answer.
func redacts(decision []byte) bool {
	found := false
	_ = scanObject(decision, func(name, value []byte) {
		found = found || string(name) == "redact" && string(value) != "[]"
	})
	return found
}

// passedAround reports whether, by its outcome, an answer went to the agent that the gateway did not see: an answer that comes
// by is hashed from its head on, also one without a body.
func passedAround(outcome []byte) bool {
	unseen, sent := false, false
	_ = scanObject(outcome, func(name, value []byte) {
		switch string(name) {
		case "body_sha256":
			unseen = string(value) == `""`
		case "bytes_out":
			sent = sent || string(value) != "0"
		case "result":
			sent = sent || string(value) == `"`+string(gate.Completed)+`"`
		}
	})
	return unseen && sent
}

func (c *completeness) remember(op string) {
	if _, known := c.allowed[op]; known {
		return
	}
	c.allowed[op] = false
	c.order = append(c.order, op)
	if len(c.order) > maxRemembered {
		if !c.allowed[c.order[0]] {
			c.NeverTransited++
		}
		delete(c.allowed, c.order[0])
		c.order = c.order[1:]
	}
}

func (c *completeness) transit(e *Entry) {
	reached := false
	_ = scanObject(e.Body, func(name, value []byte) {
		if string(name) == "upstream" {
			text, ok := textValue(value)
			reached = ok && text != ""
		}
	})
	_, allowed := c.allowed[e.Op]
	switch {
	case allowed:
		c.allowed[e.Op] = true
	case reached && e.Op == "":
		c.find(e.Seq, "", "Envoy sent a request to a target, and it belongs to no operation")
	case reached:
		c.find(e.Seq, e.Op, "Envoy sent a request to a target, and no decision allowed the operation")
	}
}

func (c *completeness) find(seq uint64, op, reason string) {
	if len(c.Findings) == 100 {
		c.FurtherFindings++
		return
	}
	c.Findings = append(c.Findings, Finding{seq, op, reason})
}

func (c *completeness) result() Completeness {
	c.Open = uint64(len(c.open))
	for _, transited := range c.allowed {
		if !transited {
			c.NeverTransited++
		}
	}
	if c.Transits == 0 {
		c.NeverTransited = 0
	}
	return c.Completeness
}

func (f Finding) String() string {
	if f.Op == "" {
		return fmt.Sprintf("record %d: %s", f.Seq, f.Reason)
	}
	return fmt.Sprintf("record %d, operation %s: %s", f.Seq, f.Op, f.Reason)
}
