package otlp

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"time"

	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

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

	log   *logspb.LogRecord
	spans []*tracepb.Span
	size  int // about how many bytes it takes in a request

	checkpoint int64  // of a checkpoint: where the next one begins in its file
	covers     uint64 // of a checkpoint: how many records
}

func (it *item) signal() Signal {
	switch {
	case it.seq == 0:
		return Checkpoints
	case it.log != nil:
		return Logs
	default:
		return Spans
	}
}

// number returns the record's number, or how many records a checkpoint covers.
func (it *item) number() uint64 { return max(it.seq, it.covers) }

// joiner remembers decisions until their operations end, because a span is made of both records.
type joiner struct {
	dir     string
	kinds   kinds
	allowed map[uint64]*decision // of operations that are under way
	refused map[uint64]*decision // an operation.finished may follow, or not
	order   []uint64             // of refused, oldest first
}

// maxRefused bounds refused. A decision that was forgotten is read from the journal again.
const maxRefused = 4096

// decision is an operation.decided record.
type decision struct {
	seq  uint64
	hash string
	op   string
	time time.Time
	body gate.Object
	ids  ids
}

func newJoiner(dir string, kinds kinds) joiner {
	return joiner{dir: dir, kinds: kinds, allowed: map[uint64]*decision{}, refused: map[uint64]*decision{}}
}

// item makes what is sent for a record. Call it with the records in order.
func (j *joiner) item(e *evidence.Entry) *item {
	it := &item{seq: e.Seq, hash: e.Hash, time: e.Time, alarm: e.Type == gate.Alarm}
	body, err := e.Object()
	if err != nil { // cannot be: the reader has checked the line
		body = gate.Object{}
	}
	switch e.Type {
	case gate.OperationDecided:
		d := newDecision(e, body)
		j.remember(d)
		it.log = j.kinds.logRecord(e, body)
		it.log.TraceId, it.log.SpanId, it.log.Flags = d.ids.trace[:], d.ids.span[:], uint32(d.ids.flags)
	case gate.OperationFinished:
		d := j.take(e, body)
		it.spans = j.kinds.spansOf(e, body, d)
		if d != nil {
			it.decided = d.seq
		}
	case gate.OperationUnknown:
		it.log = j.kinds.logRecord(e, body)
		if d := j.take(e, body); d != nil {
			it.decided = d.seq
			it.log.TraceId, it.log.SpanId, it.log.Flags = d.ids.trace[:], d.ids.span[:], uint32(d.ids.flags)
		}
	case gate.GatewayStarted:
		clear(j.allowed) // the start has settled whatever was open
		it.log = j.kinds.logRecord(e, body)
	default:
		it.log = j.kinds.logRecord(e, body)
	}
	if it.log != nil {
		it.size = proto.Size(it.log) + 16
	}
	for _, s := range it.spans {
		it.size += proto.Size(s) + 16
	}
	return it
}

func newDecision(e *evidence.Entry, body gate.Object) *decision {
	return &decision{seq: e.Seq, hash: e.Hash, op: e.Op, time: e.Time, body: body, ids: idsOf(e, body.Text("traceparent"))}
}

func (j *joiner) remember(d *decision) {
	if d.body.Text("effect") == gate.Allow.String() {
		j.allowed[d.seq] = d
		return
	}
	j.refused[d.seq] = d
	j.order = append(j.order, d.seq)
	if len(j.order) > maxRefused {
		delete(j.refused, j.order[0])
		j.order = j.order[1:]
	}
}

// take returns the decision that a record names, and forgets it; nil if the journal does not have it.
func (j *joiner) take(e *evidence.Entry, body gate.Object) *decision {
	seq := number(body, "decided")
	if seq == 0 || seq >= e.Seq {
		return nil
	}
	for _, m := range []map[uint64]*decision{j.allowed, j.refused} {
		if d, ok := m[seq]; ok {
			delete(m, seq)
			return d
		}
	}
	found, err := recordAt(j.dir, seq)
	if err != nil || found.Type != gate.OperationDecided {
		return nil
	}
	of, err := found.Object()
	if err != nil {
		return nil
	}
	return newDecision(&found, of)
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
	parent []byte // the agent's span; nil if it sent none
	flags  byte
}

// traceOf returns the trace of a record that has a trace_id: the agent's own, or the one made of the operation's id if it is empty.
// It returns nil for any other record.
func traceOf(e *evidence.Entry, body gate.Object) []byte {
	v, says := body.Get("trace_id")
	own, _ := v.(string)
	if !says || own == "" && e.Op == "" {
		return nil
	}
	trace, err := hex.DecodeString(cmp.Or(own, evidence.TraceID(e.Op)))
	if err != nil || len(trace) != 16 {
		return nil
	}
	return trace
}

func idsOf(decided *evidence.Entry, traceparent string) ids {
	var i ids
	i.span = spanID(decided.Hash, "gateway")
	if trace, parent, flags, ok := parseTraceparent(traceparent); ok {
		i.trace, i.parent, i.flags = trace, parent[:], flags
		return i
	}
	_, _ = hex.Decode(i.trace[:], []byte(evidence.TraceID(decided.Op)))
	i.flags = 1 // sampled: evidence is never left out
	return i
}

func spanID(hash, role string) [8]byte {
	sum := sha256.Sum256([]byte("countersign span\n" + hash + "\n" + role))
	return [8]byte(sum[:8])
}

// parseTraceparent reads a W3C traceparent (Trace Context, section 3.2) of version 00, or what a later version has of it.
func parseTraceparent(s string) (trace [16]byte, parent [8]byte, flags byte, ok bool) {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" || s[:2] == "00" && len(s) != 55 {
		return
	}
	var last [1]byte
	if !lowerHex(trace[:], s[3:35]) || !lowerHex(parent[:], s[36:52]) || !lowerHex(last[:], s[53:55]) {
		return
	}
	return trace, parent, last[0], trace != [16]byte{} && parent != [8]byte{}
}

func lowerHex(dst []byte, s string) bool {
	if n, err := hex.Decode(dst, []byte(s)); err != nil || n != len(dst) {
		return false
	}
	return hex.EncodeToString(dst) == s
}
