package evidence

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// Completeness is what the records say of the operations, taken together.
type Completeness struct {
	Decided  uint64 // operation.decided
	Allowed  uint64 // of them, those that allow
	Finished uint64 // operation.finished
	Unknown  uint64 // operation.unknown
	Open     uint64 // allowed and without an outcome at the journal's end: under way, or cut off by a crash

	Spent    uint64 // approval.spent
	Spending uint64 // of them, those whose decision may yet come

	Transits       uint64 // transit records: what Envoy says it did
	NeverTransited uint64 // allowed operations that Envoy says nothing about; 0 if there are no transits at all

	Sessions     uint64 // session.opened
	NeverCarried uint64 // of them, those whose connection Envoy says nothing about; 0 if there are no transits at all

	Findings        []Finding
	FurtherFindings uint64 // beyond the first 100

	// Gaps are grants that were spent and let nothing through, because of a crash or a failure that is on record. They are legal.
	Gaps        []Finding
	FurtherGaps uint64 // beyond the first 100
}

// Finding is something that should not be in a complete record of what happened.
type Finding struct {
	Seq    uint64
	Op     string
	Reason string
}

// completeness checks the records against what is legal. It forgets an operation when maxEnded others have ended after it.
type completeness struct {
	Completeness
	gateway state
	started time.Time // of the last gateway.started
	last    time.Time // of the last record
	shared  bool      // several gateways share the store of approvals

	maxEnded, maxRequests int

	live  map[string]*recordedOp
	open  map[uint64]string // allowed without an outcome: seq -> operation
	ended map[string]*recordedOp
	order []string // of ended

	sessions     map[string]*recordedSession
	peers        map[string]*recordedSession // the last of each resource and peer
	sessionOrder []*recordedSession

	requests     map[string]*recordedRequest
	requestOrder []string
	forgot       bool               // a request was forgotten because of maxRequests
	spends       []*recordedRequest // spent, and not used yet
	draining     string             // why grants that are spent from here on may not be used
}

func newCompleteness() *completeness {
	return &completeness{
		gateway: running, maxEnded: maxEnded, maxRequests: maxRequests, live: map[string]*recordedOp{}, open: map[uint64]string{}, ended: map[string]*recordedOp{},
		sessions: map[string]*recordedSession{}, peers: map[string]*recordedSession{}, requests: map[string]*recordedRequest{},
	}
}

func (c *completeness) add(e *Entry) {
	switch e.Type {
	case gate.OperationDecided:
		c.while(e)
		c.decided(e)
	case gate.OperationFinished:
		c.while(e)
		c.Finished++
		what, _ := endOf(e.Body)
		c.end(e, what)
	case gate.OperationUnknown: // a start writes it, too
		c.Unknown++
		c.end(e, endUnknown)
	case gate.IdentityRefused:
		c.while(e)
		if e.Op != "" { // what the console refuses is no operation
			c.move(e, noCredential)
		}
	case gate.GatewayStarted:
		c.begin(e)
	case gate.GatewayStopped:
		c.settleSpends(e.Time, stop)
		c.gateway, _ = follow(c.gateway, stop)
	case gate.Alarm:
		c.alarm(e)
	case sessionOpened:
		c.while(e)
		c.opened(e)
	case gate.Transit:
		c.while(e)
		c.Transits++
		c.transit(e)
	case approvalRequested, approvalDecided, approvalSpent, approvalExpired, approvalVoided:
		c.approval(e) // a start records some before it says that it has started
	}
	c.last = e.Time
}

// while checks that the gateway runs.
func (c *completeness) while(e *Entry) {
	if _, ok := follow(c.gateway, work); !ok {
		c.find(e.Seq, e.Op, fmt.Sprintf("%s of a gateway that %s", e.Type, c.gateway))
		c.gateway = running // so that this is found once
	}
}

func (c *completeness) begin(e *Entry) {
	c.gateway, _ = follow(c.gateway, begin)
	// The start has settled all operations before it writes this record.
	for _, seq := range sortedKeys(c.open) {
		c.find(seq, c.open[seq], "it was allowed and has neither an outcome nor an operation.unknown")
	}
	clear(c.open)
	for id := range c.live {
		c.drop(id)
	}
	c.settleSpends(c.last, begin)
	c.started, c.draining = e.Time, ""
	if store := textOf(e.Body, "approvals"); store != "" {
		c.shared = store == SharedApprovals
	}
}

// operation returns what is known of an operation.
func (c *completeness) operation(id string) *recordedOp {
	for _, known := range []map[string]*recordedOp{c.live, c.ended} {
		if o := known[id]; o != nil {
			return o
		}
	}
	return &recordedOp{state: opUnknown}
}

// move applies a record to the state of its operation; ok is false if that is not legal.
func (c *completeness) move(e *Entry, what step) (o *recordedOp, ok bool) {
	o = c.operation(e.Op)
	to, ok := follow(o.state, what)
	if !ok {
		c.find(e.Seq, e.Op, fmt.Sprintf("%s, of an operation that %s", inWords(e, what), o.state))
		return o, false
	}
	o.state = to
	c.live[e.Op] = o
	if to == opEnded {
		c.drop(e.Op)
	}
	return o, true
}

func (c *completeness) decided(e *Entry) {
	c.Decided++
	var d decision
	if err := json.Unmarshal(e.Body, &d); err != nil {
		c.find(e.Seq, e.Op, "it is not what a record of a decision says: "+err.Error())
	}
	what := d.step()
	if what == allow {
		c.Allowed++
		c.allowedBy(e, &d)
	} else {
		c.refusedAfter(e.Op)
	}
	o, ok := c.move(e, what)
	if !ok {
		return
	}
	if what == allow && o.decided != 0 && !d.same(&o.last) { // a refusal may say less of the operation
		c.find(e.Seq, e.Op, fmt.Sprintf("%s, about something else than the decision of record %d", what, o.decided))
	}
	o.decided, o.last = e.Seq, d
	if what == allow {
		o.allowed = true
		o.redacts = redacts(e.Body)
		c.open[e.Seq] = e.Op
	}
}

func (c *completeness) end(e *Entry, what step) {
	settles, _ := outcomeOf(e.Type, e.Body) // the whole line is canonical
	o := c.operation(e.Op)
	if o.state != opUnknown && o.state != opEnded && settles.settles != o.decided {
		c.find(e.Seq, e.Op, fmt.Sprintf("%s of record %d, and the operation was decided by record %d", inWords(e, what), settles.settles, o.decided))
		return
	}
	o, ok := c.move(e, what)
	if !ok {
		return
	}
	delete(c.open, o.decided)
	if o.redacts && what != endUnknown && passedAround(e.Body) {
		c.find(e.Seq, e.Op, fmt.Sprintf("record %d has the answer redacted, and it went to the agent without coming by the gateway", o.decided))
	}
}

// redacts reports whether a decision has the answer redacted.
func redacts(decision []byte) bool {
	found := false
	_ = scanObject(decision, func(name, value []byte) {
		found = found || string(name) == "redact" && string(value) != "[]"
	})
	return found
}

// passedAround reports whether, by its outcome, the agent got an answer that the gateway did not see. The gateway hashes each answer
// that it sees, even one without a body.
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

// drop is called at an operation's end. The operation is remembered until maxEnded others have ended.
func (c *completeness) drop(id string) {
	o := c.live[id]
	o.state, o.last = opEnded, decision{}
	delete(c.live, id)
	c.ended[id] = o
	c.order = append(c.order, id)
	if len(c.order) > c.maxEnded {
		oldest := c.order[0]
		c.order = c.order[1:]
		if o := c.ended[oldest]; o.allowed && !o.transited {
			c.NeverTransited++
		}
		delete(c.ended, oldest)
	}
}

// alarm notes if an alarm explains that a decision is missing.
func (c *completeness) alarm(e *Entry) {
	kind := textOf(e.Body, "kind")
	why := missedBecause[kind]
	if why == "" {
		return
	}
	c.explain(why)
	if kind == AlarmDrain {
		c.draining = why
	}
}

// missedBecause are the alarms after which a decision can be missing.
var missedBecause = map[string]string{
	AlarmRefused: "the journal could not be written",
	AlarmPanic:   "the gateway failed while it decided",
	AlarmDrain:   "the gateway stopped before it could decide",
}

func (c *completeness) transit(e *Entry) {
	reached := textOf(e.Body, "upstream") != ""
	if e.Op == "" && c.carried(e, reached) {
		return
	}
	o := c.operation(e.Op)
	switch {
	case o.allowed:
		o.transited = true
	case reached && e.Op == "":
		c.find(e.Seq, "", "Envoy sent a request to a target, and it belongs to no operation")
	case reached:
		c.find(e.Seq, e.Op, "Envoy sent a request to a target, and no decision allowed the operation")
	}
}

func (c *completeness) gap(seq uint64, op, reason string) {
	if len(c.Gaps) == 100 {
		c.FurtherGaps++
		return
	}
	c.Gaps = append(c.Gaps, Finding{seq, op, reason})
}

func (c *completeness) find(seq uint64, op, reason string) {
	if len(c.Findings) == 100 {
		c.FurtherFindings++
		return
	}
	c.Findings = append(c.Findings, Finding{seq, op, reason})
}

func (c *completeness) result() Completeness {
	c.settleSpends(c.last, "")
	c.Open = uint64(len(c.open))
	for _, known := range []map[string]*recordedOp{c.live, c.ended} {
		for _, o := range known {
			if o.allowed && !o.transited {
				c.NeverTransited++
			}
		}
	}
	for _, s := range c.sessions {
		if !s.carried {
			c.NeverCarried++
		}
	}
	if c.Transits == 0 {
		c.NeverTransited, c.NeverCarried = 0, 0
	}
	return c.Completeness
}

func (f Finding) String() string {
	if f.Op == "" {
		return fmt.Sprintf("record %d: %s", f.Seq, f.Reason)
	}
	return fmt.Sprintf("record %d, operation %s: %s", f.Seq, f.Op, f.Reason)
}
