package otlp

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
)

// checkpointEvent is the event name of a checkpoint, which is no record and so has no type.
const checkpointEvent = "checkpoint"

// element is the field of a log record in ScopeLogs, and of a span in ScopeSpans.
const element = 2

// logRecord appends an event of a record. d is the decision that it is, or that it names, if there is one.
func (c *converter) logRecord(r *evidence.Entry, body evidence.Members, d *decision) {
	severity, name := severityOf(r.Type)
	at := uint64(r.Time.UnixNano())
	log := c.begin(element)
	c.fixed64(1, at)
	c.number(2, uint64(severity))
	c.text(3, name)
	value := c.begin(5)
	text := c.begin(stringField)
	c.summary(r, body)
	c.end(text)
	c.end(value)
	c.field = 6
	c.place(r)
	if r.Type == gate.OperationDecided {
		c.asked(d)
	} else {
		of := c.kinds.of(body)
		s := c.like(r.Type)
		c.members(body, &of, "", s, s, len(c.b))
	}
	var trace [16]byte
	switch {
	case d != nil:
		c.fixed32(8, uint32(d.ids.flags))
		c.bytes(9, d.ids.trace[:])
		c.bytes(10, d.ids.span[:])
	case traceOf(&trace, r, body):
		c.bytes(9, trace[:])
	}
	c.fixed64(11, at)
	c.text(12, r.Type)
	c.end(log)
}

// summary describes a record in a few words, for people who look through logs.
func (c *converter) summary(r *evidence.Entry, body evidence.Members) {
	c.b = append(c.b, r.Type...)
	for _, name := range [...]string{"effect", "kind", "verb", "resource", "target", "reason"} {
		if word := body.Get(name); word.IsText() && !isEmpty(word) {
			c.b = word.AppendText(append(c.b, ' '))
		}
	}
}

func severityOf(kind string) (logspb.SeverityNumber, string) {
	switch {
	case kind == gate.Alarm:
		return logspb.SeverityNumber_SEVERITY_NUMBER_ERROR, "ERROR"
	case kind == gate.OperationUnknown, kind == gate.ConfigRejected, strings.HasSuffix(kind, ".refused"): // an identity, a session
		return logspb.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
	default:
		return logspb.SeverityNumber_SEVERITY_NUMBER_INFO, "INFO"
	}
}

// covers returns how many records a checkpoint covers; 0 if that cannot be read.
func covers(note evidence.SignedNote) uint64 {
	lines := strings.SplitN(note.Text, "\n", 3)
	size, err := strconv.ParseUint(lines[min(1, len(lines)-1)], 10, 64)
	if err != nil {
		return 0
	}
	return size
}

// checkpointItem makes an event of a checkpoint. A note has no time, gateway or number, so these are those of last, the last record
// that it covers. last is nil if that cannot be read.
func checkpointItem(note evidence.SignedNote, last *evidence.Entry, now time.Time) *item {
	size := covers(note)
	at := now
	if last != nil {
		at = last.Time
	}
	e := encoder{field: 6}
	log := e.begin(element)
	e.fixed64(1, uint64(at.UnixNano()))
	e.number(2, uint64(logspb.SeverityNumber_SEVERITY_NUMBER_INFO))
	e.text(3, "INFO")
	value := e.begin(5)
	e.text(stringField, note.Text)
	e.end(value)
	e.attributeNumber("countersign.seq", size)
	e.attributeText("countersign.type", checkpointEvent)
	if last != nil {
		e.attributeText("countersign.node", last.Node)
	}
	if lines := strings.SplitN(note.Text, "\n", 4); len(lines) == 4 {
		e.attributeText("countersign.checkpoint.origin", lines[0])
		e.attributeNumber("countersign.checkpoint.size", size)
		e.attributeText("countersign.checkpoint.root", lines[2])
	}
	e.attributeText("countersign.checkpoint.note", note.Text)
	e.fixed64(11, uint64(now.UnixNano()))
	e.text(12, checkpointEvent)
	e.end(log)
	return &item{checkpoint: note.End, covers: size, encoded: e.b, elements: 1}
}

// marks finds the last record that a checkpoint covers. It reads forward, so ask for checkpoints in order.
type marks struct {
	open   func(from uint64) *evidence.Reader
	reader *evidence.Reader
	last   *evidence.Entry // what of returned last
}

// of returns the last record that note covers, or the first record if it covers none.
func (m *marks) of(note evidence.SignedNote) (*evidence.Entry, error) {
	seq := max(1, covers(note))
	if m.reader == nil || m.last != nil && m.last.Seq > seq {
		m.close()
		m.reader = m.open(seq)
	}
	if m.last != nil && m.last.Seq == seq {
		return m.last, nil
	}
	m.reader.Skip(seq)
	e, err := m.reader.Next()
	if err != nil {
		m.close()
		return nil, err
	}
	m.last = &evidence.Entry{Seq: e.Seq, Time: e.Time, Node: e.Node}
	return m.last, nil
}

func (m *marks) close() {
	if m.reader != nil {
		m.reader.Close()
	}
	m.reader, m.last = nil, nil
}

// spans appends an operation's spans and returns how many: the gateway's own, which has what the record says, and its children, which
// show how long policy, people and the target took. d is nil if the decision cannot be found; then the record is sent without it.
func (c *converter) spans(r *evidence.Entry, body evidence.Members, d *decision) int64 {
	if d == nil {
		d = &decision{op: r.Op, time: r.Time, hash: []byte(r.Hash), ids: idsOf(r, nil)}
	}
	end := r.Time
	start := end.Add(-seconds(body.Get("duration")))
	if d.time.Before(start) {
		start = d.time
	}
	of := c.kinds.of(d.body)
	span := c.begin(element)
	c.bytes(1, d.ids.trace[:])
	c.bytes(2, d.ids.span[:])
	if d.ids.remote() {
		c.bytes(4, d.ids.parent[:])
	}
	name := c.begin(5)
	c.spanName(&of, d.body)
	c.end(name)
	c.number(6, uint64(tracepb.Span_SPAN_KIND_SERVER))
	c.times(start, end)
	c.field = 9
	c.place(r)
	if d.seq != 0 {
		c.attributeNumber("countersign.decided.seq", d.seq)
		c.b = appendText(c.b, c.field, "countersign.decided.hash", d.hash)
		c.again(d.said[:d.ends[0]])
	}
	c.result(&of, body)
	s := c.like(r.Type)
	c.members(body, &of, "decided", s, s, len(c.b))
	c.rest(d, &of, body)
	if hasFailed(body) {
		c.failure(body.Get("reason"))
	}
	c.fixed32(16, d.ids.spanFlags())
	c.end(span)
	if d.seq == 0 || d.time.After(end) {
		return 1 // the time of the decision is not known, or the clock stepped back
	}
	decided, released := d.time, d.time
	if held := seconds(d.body.Get("held")); held > 0 && d.time.Sub(start) >= held {
		decided = d.time.Add(-held)
	}
	if approval := d.body.Get("approval"); d.body.Get("effect").Is(gate.Ask.String()) && approval.IsText() && !isEmpty(approval) {
		released = end // it was still held when it ended: the hold was over, or the client left
	}
	c.child(d, "policy", tracepb.Span_SPAN_KIND_INTERNAL, start, decided)
	count := int64(2)
	if released.After(decided) {
		c.child(d, "hold", tracepb.Span_SPAN_KIND_INTERNAL, decided, released)
		count++
	}
	if d.body.Get("effect").Is(gate.Allow.String()) && !body.Get("result").Is(string(gate.Refused)) {
		c.child(d, "target", tracepb.Span_SPAN_KIND_CLIENT, d.time, end)
		count++
	}
	return count
}

// failure appends the status of a span whose operation failed.
func (c *converter) failure(reason evidence.Value) {
	status := c.begin(15)
	if !isEmpty(reason) {
		text := c.begin(2)
		c.b = reason.AppendText(c.b)
		c.end(text)
	}
	c.number(3, uint64(tracepb.Status_STATUS_CODE_ERROR))
	c.end(status)
}

func (c *converter) child(d *decision, role string, kind tracepb.Span_SpanKind, from, to time.Time) {
	span := c.begin(element)
	c.bytes(1, d.ids.trace[:])
	id := spanID(d.hash, role)
	c.bytes(2, id[:])
	c.bytes(4, d.ids.span[:])
	c.text(5, role)
	c.number(6, uint64(kind))
	c.times(from, to)
	c.attributeText("countersign.op", d.op)
	c.fixed32(16, uint32(d.ids.flags)|parentKnown)
	c.end(span)
}

func (c *converter) times(start, end time.Time) {
	c.fixed64(7, uint64(start.UnixNano()))
	c.fixed64(8, uint64(end.UnixNano()))
}

// Bits of a span's flags beside those of the trace context.
const (
	parentKnown  = uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK) // parentRemote means something
	parentRemote = uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)     // the parent is in another process
)

func (i *ids) spanFlags() uint32 {
	flags := uint32(i.flags) | parentKnown
	if i.remote() {
		flags |= parentRemote
	}
	return flags
}

// spanName appends the name of an operation's span. It has few values, as it should, although an agent can send any method.
func (c *converter) spanName(k *Kind, body evidence.Members) {
	verb, from := body.Get("verb"), len(c.b)
	if k.Verb != nil {
		c.b = append(c.b, k.Verb(verb.Text())...)
	} else {
		c.b = verb.AppendText(c.b)
	}
	isLong := len(c.b)-from > 32
	c.b = body.Get("resource").AppendText(append(c.b, ' '))
	name := bytes.TrimSpace(c.b[from:])
	if len(name) == 0 || isLong {
		name = []byte("operation")
	}
	c.b = append(c.b[:from], name...)
}

// hasFailed reports whether an operation's end is an error of its span.
func hasFailed(finished evidence.Members) bool {
	result := finished.Get("result")
	return result.Is(string(gate.TargetFailed)) || result.Is(string(gate.WithheldBy)) || result.Is(string(gate.GatewayFailed))
}

// place says where a record stands in the journal.
func (c *converter) place(r *evidence.Entry) {
	c.attributeNumber("countersign.seq", r.Seq)
	c.attributeText("countersign.hash", r.Hash)
	c.attributeText("countersign.type", r.Type)
	c.attributeText("countersign.op", r.Op)
	c.attributeText("countersign.node", r.Node)
}

// operation adds what was asked, under the names of the semantic conventions.
func (c *converter) operation(k *Kind, decided evidence.Members) {
	if k.Operation != nil {
		k.Operation(decided, c.say)
	}
	if peer := decided.Get("peer"); peer.IsText() {
		c.scratch = peer.AppendText(c.scratch[:0])
		if address := host(c.scratch); len(address) > 0 {
			c.b = appendText(c.b, c.field, "client.address", address)
		}
	}
	if subject := decided.Get("principal").Get("subject"); subject.IsText() {
		c.attribute("enduser.id", subject)
	}
}

// result adds how it ended, under the names of the semantic conventions.
func (c *converter) result(k *Kind, finished evidence.Members) {
	if k.Result != nil {
		k.Result(finished, c.say)
	}
	if hasFailed(finished) {
		c.attribute("error.type", finished.Get("result"))
	}
}

// isReserved reports whether a body's member does not get the name countersign.NAME; it becomes countersign.body.NAME.
func isReserved(name []byte) bool {
	switch string(name) {
	case "seq", "hash", "type", "op", "node", "decided", "checkpoint":
		return true
	default:
		return false
	}
}

// hasParts reports whether a member's own members become attributes, because this program chose their names. The names in any other
// object may be chosen by others (a path that is redacted), so they become values.
func hasParts(name []byte) bool {
	switch string(name) {
	case "agent", "approver", "on_behalf_of", "principal", "verified":
		return true
	default:
		return false
	}
}

// members adds a body's members as countersign.NAME, and the members of parts and of the kind's own member as countersign.NAME.NAME.
// It leaves out what is empty, and the member but. What like, a record of the same type and kind, says in the same place it takes from
// there. It keeps in s, which can be like, what it has added, and what was added since from.
func (c *converter) members(body evidence.Members, of *Kind, but string, like, s *sample, from int) {
	isLike := like.protocol == of.Protocol
	c.ends = append(c.ends[:0], len(c.b)-from)
	for i := range body {
		m := &body[i]
		switch {
		case isLike && i < len(like.body) && m.Is(&like.body[i]):
			c.b = append(c.b, like.said[like.ends[i]:like.ends[i+1]]...)
		case string(m.Name) == but && but != "":
		case m.Value.IsObject() && string(m.Name) == of.Protocol:
			c.own(m, nil)
		default:
			c.named(m.Name)
			c.member(m.Name, m.Value)
		}
		c.ends = append(c.ends, len(c.b)-from)
	}
	s.protocol = of.Protocol
	s.body = append(s.body[:0], body...)
	s.said = append(s.said[:0], c.b[from:]...)
	s.ends = append(s.ends[:0], c.ends...)
}

// named begins the name of a body's member.
func (c *converter) named(name []byte) {
	c.key = append(c.key[:0], "countersign."...)
	if isReserved(name) {
		c.key = append(c.key, "body."...)
	}
}

// own adds the members of the kind's own member, but for those that said has.
func (c *converter) own(m *evidence.Member, said evidence.Value) {
	m.Value.Each(func(name, value []byte) {
		if said.Get(string(name)) == nil {
			c.named(m.Name)
			c.key = append(evidence.AppendName(c.key, m.Name), '.')
			c.member(name, value)
		}
	})
}

// asked adds what a decision says, and keeps it for the span.
func (c *converter) asked(d *decision) {
	from := len(c.b)
	of := c.kinds.of(d.body)
	c.operation(&of, d.body)
	c.members(d.body, &of, "", &c.last.sample, &d.sample, from)
	c.last = d
}

// rest adds what a decision says and its operation's end, body, does not.
func (c *converter) rest(d *decision, of *Kind, body evidence.Members) {
	for i := range d.body {
		m := &d.body[i]
		said := body.Get(string(m.Name))
		switch {
		case said == nil:
			c.again(d.said[d.ends[i]:d.ends[i+1]])
		case m.Value.IsObject() && string(m.Name) == of.Protocol:
			c.own(m, said)
		}
	}
}

// again adds attributes of a log record to a span.
func (c *converter) again(attributes []byte) {
	at := len(c.b)
	c.b = append(c.b, attributes...)
	for at < len(c.b) {
		c.b[at] = byte(c.field<<3) | byte(protowire.BytesType)
		size, n := protowire.ConsumeVarint(c.b[at+1:])
		at += 1 + n + int(size)
	}
}

// member adds a member under the name that c.key begins with.
func (c *converter) member(name []byte, v evidence.Value) {
	c.key = evidence.AppendName(c.key, name)
	switch {
	case v.IsObject() && hasParts(name):
		c.key = append(c.key, '.')
		prefix := len(c.key)
		v.Each(func(name, value []byte) {
			c.key = c.key[:prefix]
			c.member(name, value)
		})
	case v.IsObject() && len(v) == 2, isEmpty(v):
	case v.IsText() && bytes.IndexByte(v, '\\') < 0:
		c.b = appendText(c.b, c.field, c.key, v[1:len(v)-1])
	default:
		attribute := c.begin(c.field)
		c.bytes(keyField, c.key)
		value := c.begin(valueField)
		if v.IsObject() {
			c.names(v)
		} else {
			c.any(v)
		}
		c.endAttribute(attribute, value)
	}
}

// whole is the whole number that a value is, or 0.
func whole(v evidence.Value) uint64 {
	if len(v) == 0 {
		return 0
	}
	n, err := strconv.ParseUint(string(v), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// seconds is the number of seconds that a value is, or 0.
func seconds(v evidence.Value) time.Duration {
	if len(v) == 0 {
		return 0
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || f < 0 || f > 1e9 {
		return 0
	}
	return time.Duration(f * float64(time.Second))
}

// host returns the address in host:port, or all of peer if it has no port.
func host(peer []byte) []byte {
	if i := bytes.LastIndexByte(peer, ':'); i > 0 && bytes.Count(peer, []byte(":")) == 1 || bytes.HasPrefix(peer, []byte("[")) && i > bytes.LastIndexByte(peer, ']') {
		return bytes.Trim(peer[:i], "[]")
	}
	return peer
}
