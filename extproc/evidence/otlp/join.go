package otlp

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
)

// item is one record or checkpoint as it is sent: as a log record or as spans.
type item struct {
	seq     uint64 // 0 for a checkpoint
	hash    string
	time    time.Time
	decided uint64 // number of the decision whose outcome this is; 0 for none
	alarm   bool   // it is an alarm record
	ended   bool   // it is sent as spans

	encoded  []byte // one log record or some spans, as fields of what they are sent in
	elements int64  // how many these are

	checkpoint int64  // of a checkpoint: where the next one begins in its file
	covers     uint64 // of a checkpoint: how many records
}

func (it *item) signal() Signal {
	switch {
	case it.seq == 0:
		return Checkpoints
	case it.ended:
		return Spans
	default:
		return Logs
	}
}

// number returns the record's number, or how many records a checkpoint covers.
func (it *item) number() uint64 { return max(it.seq, it.covers) }

// joiner makes items of records. It remembers decisions until their operations end, because a span is made of both records.
type joiner struct {
	converter
	dir     string
	allowed map[uint64]*decision // of operations that are under way
	refused map[uint64]*decision // an operation.finished may follow, or not
	order   []uint64             // of refused, oldest first
	spare   []*decision          // that are of no more use, but for last
	body    evidence.Members     // of the record at hand
	items   []item               // room for the next ones
}

// converter appends records as OTLP.
type converter struct {
	encoder
	kinds kinds
	say   Say
	ends  []int              // of a body's members, as they were added last
	last  *decision          // whose attributes were added last: the next one says much of the same
	likes map[string]*sample // likewise, of other records, by type
}

// sample is what was made of a body's members.
type sample struct {
	protocol string // of the kind whose operation it is about
	body     evidence.Members
	said     []byte // the attributes of each member, and what was added before them
	ends     []int  // of what was before them in said, and of each member
}

// Bounds of what a joiner keeps. A decision that was forgotten is read from the journal again.
const (
	maxRefused = 4096
	maxSpare   = 256
	itemsRoom  = 128
)

// decision is an operation.decided record.
type decision struct {
	seq  uint64
	hash []byte
	op   string
	time time.Time
	text []byte // of the body: a copy
	ids  ids
	sample
}

func newJoiner(dir string, kinds kinds) *joiner {
	j := &joiner{converter: newConverter(kinds), dir: dir, allowed: map[uint64]*decision{}, refused: map[uint64]*decision{}}
	j.say = j.attribute
	return j
}

func newConverter(kinds kinds) converter {
	return converter{kinds: kinds, last: &decision{}, likes: map[string]*sample{}}
}

// like is the last record of a type.
func (c *converter) like(kind string) *sample {
	s := c.likes[kind]
	if s == nil {
		s = &sample{}
		c.likes[kind] = s
	}
	return s
}

// item makes what is sent for a record. Call it with the records in order. What it encodes is appended to j.b.
func (j *joiner) item(r *evidence.Entry) *item {
	if len(j.items) == cap(j.items) {
		j.items = make([]item, 0, itemsRoom)
	}
	j.items = append(j.items, item{seq: r.Seq, hash: r.Hash, time: r.Time, alarm: r.Type == gate.Alarm, elements: 1})
	it := &j.items[len(j.items)-1]
	from := len(j.b)
	if r.Type != gate.OperationDecided {
		j.body = evidence.Value(r.Body).MembersLike(j.like(r.Type).body, j.body[:0])
	}
	switch r.Type {
	case gate.OperationDecided:
		d := j.decision(r)
		j.logRecord(r, d.body, d)
		j.remember(d)
	case gate.OperationFinished, gate.OperationUnknown:
		d := j.take(r)
		if it.ended = r.Type == gate.OperationFinished; it.ended {
			it.elements = j.spans(r, j.body, d)
		} else {
			j.logRecord(r, j.body, d)
		}
		if d != nil {
			it.decided = d.seq
			j.forget(d)
		}
	case gate.GatewayStarted:
		clear(j.allowed) // the start has settled whatever was open
		fallthrough
	default:
		j.logRecord(r, j.body, nil)
	}
	it.encoded = j.b[from:len(j.b):len(j.b)]
	return it
}

// room makes room for a batch. Nothing refers to the last one's bytes if none of it waits; else they are left to it.
func (j *joiner) room(unused bool) {
	if j.b, j.items = j.b[:0], j.items[:0]; !unused {
		j.b, j.items = nil, nil
	}
}

// decision keeps what a span will need of a decision.
func (j *joiner) decision(r *evidence.Entry) *decision {
	i := slices.IndexFunc(j.spare, func(d *decision) bool { return d != j.last })
	if i < 0 {
		i, j.spare = len(j.spare), append(j.spare, &decision{})
	}
	d, last := j.spare[i], len(j.spare)-1
	j.spare[i], j.spare = j.spare[last], j.spare[:last]
	d.seq, d.op, d.time = r.Seq, r.Op, r.Time
	d.hash = append(d.hash[:0], r.Hash...)
	d.text = append(d.text[:0], r.Body...)
	d.body = evidence.Value(d.text).MembersLike(j.last.body, d.body[:0])
	d.ids = idsOf(r, d.body.Get("traceparent"))
	return d
}

func (j *joiner) forget(d *decision) {
	if len(j.spare) < maxSpare && cap(d.text) < 16<<10 {
		j.spare = append(j.spare, d)
	}
}

func (j *joiner) remember(d *decision) {
	if d.body.Get("effect").Is(gate.Allow.String()) {
		j.allowed[d.seq] = d
		return
	}
	j.refused[d.seq] = d
	j.order = append(j.order, d.seq)
	if len(j.order) > maxRefused {
		if d, ok := j.refused[j.order[0]]; ok {
			delete(j.refused, d.seq)
			j.forget(d)
		}
		j.order = j.order[1:]
	}
}

// take returns the decision that the record at hand names, and forgets it; nil if the journal does not have it.
func (j *joiner) take(r *evidence.Entry) *decision {
	seq := whole(j.body.Get("decided"))
	if seq == 0 || seq >= r.Seq {
		return nil
	}
	for _, m := range [...]map[uint64]*decision{j.allowed, j.refused} {
		if d, ok := m[seq]; ok {
			delete(m, seq)
			return d
		}
	}
	found, err := recordAt(j.dir, seq)
	if err != nil || found.Type != gate.OperationDecided {
		return nil
	}
	d, from := j.decision(&found), len(j.b)
	j.field = 6
	j.asked(d)
	j.b = j.b[:from]
	return d
}

// oldest returns the oldest decision up to last whose operation is under way, or 0.
func (j *joiner) oldest(last uint64) uint64 {
	var oldest uint64
	for seq := range j.allowed {
		if seq <= last && (oldest == 0 || seq < oldest) {
			oldest = seq
		}
	}
	return oldest
}

// ids place an operation in a trace. They come from the record alone, so a record that is sent again has the same ids.
type ids struct {
	trace  [16]byte
	span   [8]byte
	parent [8]byte // the agent's span; zeros if it sent none
	flags  byte
}

// remote reports whether the agent sent a span.
func (i *ids) remote() bool { return i.parent != [8]byte{} }

// traceOf puts the trace of a record that has a trace_id into trace: the agent's own, or the one made of the operation's id if it is
// empty. It reports false for any other record.
func traceOf(trace *[16]byte, r *evidence.Entry, body evidence.Members) bool {
	id := body.Get("trace_id")
	switch {
	case id == nil:
		return false
	case id.IsText() && !isEmpty(id):
		n, err := hex.Decode(trace[:], id[1:len(id)-1])
		return err == nil && n == len(trace)
	case r.Op == "":
		return false
	default:
		*trace = evidence.TraceOf(r.Op)
		return true
	}
}

func idsOf(decided *evidence.Entry, traceparent evidence.Value) ids {
	i := ids{span: spanID(decided.Hash, "gateway")}
	if traceparent.IsText() && parseTraceparent(&i, traceparent[1:len(traceparent)-1]) {
		return i
	}
	i.trace, i.parent, i.flags = evidence.TraceOf(decided.Op), [8]byte{}, 1 // sampled: evidence is never left out
	return i
}

func spanID[H ~string | ~[]byte](hash H, role string) [8]byte {
	var room [128]byte
	b := append(room[:0], "countersign span\n"...)
	b = append(append(append(b, hash...), '\n'), role...)
	sum := sha256.Sum256(b)
	return [8]byte(sum[:8])
}

// parseTraceparent reads a W3C traceparent (Trace Context, section 3.2) of version 00, or what a later version has of it.
func parseTraceparent(i *ids, s []byte) bool {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || string(s[:2]) == "ff" || string(s[:2]) == "00" && len(s) != 55 {
		return false
	}
	var last [1]byte
	if !lowerHex(i.trace[:], s[3:35]) || !lowerHex(i.parent[:], s[36:52]) || !lowerHex(last[:], s[53:55]) {
		return false
	}
	i.flags = last[0]
	return i.trace != [16]byte{} && i.remote()
}

func lowerHex(dst, s []byte) bool {
	n, err := hex.Decode(dst, s)
	return err == nil && n == len(dst) && !bytes.ContainsAny(s, "ABCDEF")
}
