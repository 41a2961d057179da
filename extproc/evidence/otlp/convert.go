package otlp

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
)

// checkpointEvent is the event name of a checkpoint, which is no record and so has no type.
const checkpointEvent = "checkpoint"

var instrumentation = &commonpb.InstrumentationScope{Name: "github.com/countersign/countersign/extproc/evidence", Version: strconv.Itoa(evidence.Version)}

func resource(o Options) *resourcepb.Resource {
	a := attributes{}
	a.text("service.name", "countersign")
	a.text("service.instance.id", o.Node)
	a.text("service.version", o.Version)
	return &resourcepb.Resource{Attributes: a}
}

// logRecord makes an event of a record.
func (k kinds) logRecord(e *evidence.Entry, body gate.Object) *logspb.LogRecord {
	a := attributes{}
	a.place(e)
	of := k[body.Text("protocol")]
	if e.Type == gate.OperationDecided {
		a.operation(of, body)
	}
	a.members(body, of, nil)
	severity, name := severityOf(e.Type)
	at := uint64(e.Time.UnixNano())
	return &logspb.LogRecord{
		TraceId:      traceOf(e, body),
		TimeUnixNano: at, ObservedTimeUnixNano: at,
		EventName: e.Type, SeverityNumber: severity, SeverityText: name,
		Body:       &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: summary(e, body)}},
		Attributes: a,
	}
}

// summary describes a record in a few words, for people who look through logs.
func summary(e *evidence.Entry, body gate.Object) string {
	words := []string{e.Type}
	for _, name := range []string{"effect", "kind", "verb", "resource", "target", "reason"} {
		if word := body.Text(name); word != "" {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

func severityOf(kind string) (logspb.SeverityNumber, string) {
	switch kind {
	case gate.Alarm:
		return logspb.SeverityNumber_SEVERITY_NUMBER_ERROR, "ERROR"
	case gate.IdentityRefused, gate.OperationUnknown, gate.ConfigRejected:
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
	a := attributes{}
	a.add("countersign.seq", integer(int64(size)))
	a.text("countersign.type", checkpointEvent)
	at := now
	if last != nil {
		a.text("countersign.node", last.Node)
		at = last.Time
	}
	lines := strings.SplitN(note.Text, "\n", 4)
	if len(lines) == 4 {
		a.text("countersign.checkpoint.origin", lines[0])
		a.add("countersign.checkpoint.size", integer(int64(size)))
		a.text("countersign.checkpoint.root", lines[2])
	}
	a.text("countersign.checkpoint.note", note.Text)
	return &item{checkpoint: note.End, covers: size, size: 2*len(note.Text) + 256, log: &logspb.LogRecord{
		TimeUnixNano: uint64(at.UnixNano()), ObservedTimeUnixNano: uint64(now.UnixNano()),
		EventName:      checkpointEvent,
		SeverityNumber: logspb.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO",
		Body:       &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: note.Text}},
		Attributes: a,
	}}
}

// marks finds the last record that a checkpoint covers. It reads forward, so ask for checkpoints in order.
type marks struct {
	dir    string
	reader *evidence.Reader
	last   *evidence.Entry // what of returned last
}

// of returns the last record that note covers, or the first record if it covers none. The error is io.EOF if that is not there yet.
func (m *marks) of(note evidence.SignedNote) (*evidence.Entry, error) {
	seq := max(1, covers(note))
	if m.reader == nil || m.last != nil && m.last.Seq > seq {
		m.close()
		m.reader = evidence.NewReader(m.dir, seq, nil)
	}
	if m.last != nil && m.last.Seq == seq {
		return m.last, nil
	}
	m.reader.Skip(seq)
	e, err := m.reader.Next()
	if err != nil {
		if !errors.Is(err, io.EOF) {
			m.close()
		}
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

// spansOf makes an operation's spans: the gateway's own, which has what the record says, and its children, which show how long
// policy, people and the target took. d is nil if the decision cannot be found; then the record is sent without it.
func (k kinds) spansOf(e *evidence.Entry, body gate.Object, d *decision) []*tracepb.Span {
	if d == nil {
		d = &decision{op: e.Op, time: e.Time, hash: e.Hash, ids: idsOf(e, "")}
	}
	end := e.Time
	start := end.Add(-seconds(body, "duration"))
	if d.time.Before(start) {
		start = d.time
	}
	a := attributes{}
	a.place(e)
	if d.seq != 0 {
		a.add("countersign.decided.seq", integer(int64(d.seq)))
		a.text("countersign.decided.hash", d.hash)
	}
	of := k[d.body.Text("protocol")]
	a.operation(of, d.body)
	a.result(of, body)
	a.members(body, of, gate.Object{{Name: "decided"}})
	a.members(d.body, of, body)
	span := &tracepb.Span{
		TraceId: d.ids.trace[:], SpanId: d.ids.span[:], ParentSpanId: d.ids.parent, Flags: spanFlags(d.ids),
		Name: of.spanName(d.body), Kind: tracepb.Span_SPAN_KIND_SERVER,
		StartTimeUnixNano: uint64(start.UnixNano()), EndTimeUnixNano: uint64(end.UnixNano()),
		Attributes: a, Status: spanStatus(body),
	}
	spans := []*tracepb.Span{span}
	if d.seq == 0 || d.time.After(end) {
		return spans // the time of the decision is not known, or the clock stepped back
	}
	decided, released := d.time, d.time
	if held := seconds(d.body, "held"); held > 0 && d.time.Sub(start) >= held {
		decided = d.time.Add(-held)
	}
	if d.body.Text("effect") == gate.Ask.String() && d.body.Text("approval") != "" {
		released = end // it was still held when it ended: the hold was over, or the client left
	}
	spans = append(spans, child(d, "policy", tracepb.Span_SPAN_KIND_INTERNAL, start, decided))
	if released.After(decided) {
		spans = append(spans, child(d, "hold", tracepb.Span_SPAN_KIND_INTERNAL, decided, released))
	}
	if d.body.Text("effect") == gate.Allow.String() && gate.Result(body.Text("result")) != gate.Refused {
		spans = append(spans, child(d, "target", tracepb.Span_SPAN_KIND_CLIENT, d.time, end))
	}
	return spans
}

func child(d *decision, role string, kind tracepb.Span_SpanKind, from, to time.Time) *tracepb.Span {
	a := attributes{}
	a.text("countersign.op", d.op)
	id := spanID(d.hash, role)
	return &tracepb.Span{
		TraceId: d.ids.trace[:], SpanId: id[:], ParentSpanId: d.ids.span[:], Flags: uint32(d.ids.flags) | parentKnown,
		Name: role, Kind: kind,
		StartTimeUnixNano: uint64(from.UnixNano()), EndTimeUnixNano: uint64(to.UnixNano()),
		Attributes: a,
	}
}

// Bits of a span's flags beside those of the trace context.
const (
	parentKnown  = uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK) // parentRemote means something
	parentRemote = uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)     // the parent is in another process
)

func spanFlags(i ids) uint32 {
	flags := uint32(i.flags) | parentKnown
	if i.parent != nil {
		flags |= parentRemote
	}
	return flags
}

// spanName returns the name of an operation's span. It has few values, as it should, although an agent can send any method.
func (k Kind) spanName(body gate.Object) string {
	verb := body.Text("verb")
	if k.Verb != nil {
		verb = k.Verb(verb)
	}
	name := strings.TrimSpace(verb + " " + body.Text("resource"))
	if name == "" || len(verb) > 32 {
		return "operation"
	}
	return name
}

func spanStatus(body gate.Object) *tracepb.Status {
	switch gate.Result(body.Text("result")) {
	case gate.TargetFailed, gate.WithheldBy, gate.GatewayFailed:
		return &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: body.Text("reason")}
	default:
		return nil
	}
}

// attributes are those of a span or an event, in the order in which they were added.
type attributes []*commonpb.KeyValue

func (a *attributes) add(key string, v *commonpb.AnyValue) {
	if v != nil {
		*a = append(*a, &commonpb.KeyValue{Key: key, Value: v})
	}
}

func (a *attributes) text(key, value string) {
	if value != "" {
		a.add(key, &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}})
	}
}

// place says where a record stands in the journal.
func (a *attributes) place(e *evidence.Entry) {
	a.add("countersign.seq", integer(int64(e.Seq)))
	a.text("countersign.hash", e.Hash)
	a.text("countersign.type", e.Type)
	a.text("countersign.op", e.Op)
	a.text("countersign.node", e.Node)
}

// operation adds what was asked, under the names of the semantic conventions.
func (a *attributes) operation(k Kind, body gate.Object) {
	a.all(k.Operation, body)
	a.text("client.address", host(body.Text("peer")))
	if principal, ok := body.Get("principal"); ok {
		if p, ok := principal.(gate.Object); ok {
			a.text("enduser.id", p.Text("subject"))
		}
	}
}

// result adds how it ended, under the names of the semantic conventions.
func (a *attributes) result(k Kind, body gate.Object) {
	a.all(k.Result, body)
	if spanStatus(body) != nil {
		a.text("error.type", body.Text("result"))
	}
}

// reserved are the names under countersign. that a body's members do not get; they become countersign.body.NAME.
var reserved = map[string]bool{"seq": true, "hash": true, "type": true, "op": true, "node": true, "decided": true, "checkpoint": true}

// parts are the members whose own members become attributes, because this program chose their names. The names in any other object
// may be chosen by others (a path that is redacted), so they become values.
var parts = map[string]bool{"agent": true, "approver": true, "on_behalf_of": true, "principal": true, "verified": true}

// members adds a body's members as countersign.NAME, and the members of parts and of the kind's own member as countersign.NAME.NAME.
// It leaves out what is empty, and what except has.
func (a *attributes) members(body gate.Object, of Kind, except gate.Object) {
	for _, m := range body {
		said, again := except.Get(m.Name)
		prefix := "countersign."
		if reserved[m.Name] {
			prefix += "body."
		}
		own, isObject := m.Value.(gate.Object)
		switch {
		case isObject && m.Name == of.Protocol:
			before, _ := said.(gate.Object)
			for _, part := range own {
				if _, again := before.Get(part.Name); !again {
					a.member(prefix+m.Name+".", part)
				}
			}
		case !again:
			a.member(prefix, m)
		}
	}
}

func (a *attributes) member(prefix string, m gate.Member) {
	o, isObject := m.Value.(gate.Object)
	switch {
	case isObject && parts[m.Name]:
		for _, part := range o {
			a.member(prefix+m.Name+".", part)
		}
	case isObject:
		entries := make([]any, len(o))
		for i, e := range o {
			entries[i] = gate.Object{{Name: "name", Value: e.Name}, {Name: "value", Value: e.Value}}
		}
		a.add(prefix+m.Name, listValue(entries))
	default:
		a.add(prefix+m.Name, anyValue(m.Value))
	}
}

func anyValue(v any) *commonpb.AnyValue {
	switch v := v.(type) {
	case bool:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: v}}
	case string:
		if v == "" {
			return nil
		}
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: v}}
	case json.Number:
		return numberValue(v)
	case []any:
		return listValue(v)
	case gate.Object:
		list := &commonpb.KeyValueList{}
		for _, m := range v {
			list.Values = append(list.Values, &commonpb.KeyValue{Key: m.Name, Value: anyValue(m.Value)})
		}
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_KvlistValue{KvlistValue: list}}
	default:
		return nil // null
	}
}

func listValue(list []any) *commonpb.AnyValue {
	if len(list) == 0 {
		return nil
	}
	array := &commonpb.ArrayValue{}
	for _, e := range list {
		v := anyValue(e)
		if v == nil {
			v = &commonpb.AnyValue{}
		}
		array.Values = append(array.Values, v)
	}
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: array}}
}

// numberValue keeps a number's exact value: as text, if neither of OTLP's numbers can hold it.
func numberValue(n json.Number) *commonpb.AnyValue {
	if i, err := n.Int64(); err == nil {
		return integer(i)
	}
	f, err := n.Float64()
	if err == nil && !math.IsInf(f, 0) {
		if again, err := gate.AppendJSON(nil, f); err == nil && string(again) == n.String() {
			return &commonpb.AnyValue{Value: &commonpb.AnyValue_DoubleValue{DoubleValue: f}}
		}
	}
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: n.String()}}
}

func integer(n int64) *commonpb.AnyValue {
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: n}}
}

// number returns a member that is a whole number, or 0.
func number(o gate.Object, name string) uint64 {
	v, _ := o.Get(name)
	n, _ := v.(json.Number)
	i, err := strconv.ParseUint(string(n), 10, 64)
	if err != nil {
		return 0
	}
	return i
}

// seconds returns a member that is a number of seconds, or 0.
func seconds(o gate.Object, name string) time.Duration {
	v, _ := o.Get(name)
	n, _ := v.(json.Number)
	f, err := n.Float64()
	if err != nil || f < 0 || f > 1e9 {
		return 0
	}
	return time.Duration(f * float64(time.Second))
}

// host returns the address in host:port, or all of peer if it has no port.
func host(peer string) string {
	if i := strings.LastIndexByte(peer, ':'); i > 0 && strings.Count(peer, ":") == 1 || strings.HasPrefix(peer, "[") && i > strings.LastIndexByte(peer, ']') {
		return strings.Trim(peer[:i], "[]")
	}
	return peer
}
