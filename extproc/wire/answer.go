package wire

import (
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Outgoing is what gRPC's codec writes to Envoy.
type Outgoing interface {
	// Append appends the message to b. It is an error if text that Envoy takes for UTF-8 is none.
	Append(b []byte) ([]byte, error)
	// Room is about how many bytes that takes.
	Room() int
}

// Change is what Envoy changes of header fields: it removes, and then sets.
type Change struct {
	Remove []string
	Set    []Set
}

// Put sets fields, each in the place of those of its name.
func (c *Change) Put(fields ...Field) {
	for _, f := range fields {
		c.Set = append(c.Set, Set{Name: f.Name, Value: f.Value})
	}
}

// Set is a header field that takes the place of those of its name or, where Add is true, comes beside them.
type Set struct {
	Name, Value string
	Add         bool
}

// Ruling is an envoy.service.auth.v3.CheckResponse.
type Ruling struct {
	Code uint32 // of gRPC; 0 lets the request pass
	HTTP bool   // it is on a request, and not on a connection
	Named

	Change // of a request that passes

	// Of a request that does not, what the agent gets, with the fields of Change:
	Status int
	Body   []byte
}

// Answer is an envoy.service.ext_proc.v3.ProcessingResponse.
type Answer struct {
	To Part // what of a request or an answer goes on; where it is zero, Envoy answers the agent with Status, Change and Body

	Change // of header fields, or of trailers
	Body   []byte
	Last   bool // nothing follows this piece of a body
	Status int

	Named // of a head that goes on, and of what Envoy answers
}

// Named has Envoy's access log name the operation, and the trace that its agent sent, if any. An empty one says nothing.
type Named struct{ Operation, Trace string }

// details is what Envoy calls an answer of ours in its access log.
const details = "countersign"

// errText is why a message is not sent.
var errText = errors.New("what is to be sent to Envoy has text that is not valid UTF-8")

// Room implements [Outgoing].
func (r *Ruling) Room() int { return r.Change.room() + r.Named.room() + len(r.Body) }

// Room implements [Outgoing].
func (a *Answer) Room() int { return a.Change.room() + a.Named.room() + len(a.Body) }

// room is that of the names, and of what each message has around it.
func (n *Named) room() int { return len(n.Operation) + len(n.Trace) + 192 }

func (c *Change) room() (n int) {
	for _, name := range c.Remove {
		n += len(name) + 8
	}
	for _, f := range c.Set {
		n += len(f.Name) + len(f.Value) + 32
	}
	return n
}

// Append implements [Outgoing].
func (r *Ruling) Append(b []byte) ([]byte, error) {
	w := writer{b: b}
	status := w.open(1)
	w.number(1, uint64(r.Code))
	w.close(status)
	if r.HTTP && r.Code == 0 { // ok_response
		ok := w.open(3)
		for _, f := range r.Set {
			w.set(2, f, 2)
		}
		for _, name := range r.Remove {
			w.text(5, name)
		}
		w.close(ok)
	} else if r.HTTP { // denied_response
		denied := w.open(2)
		w.status(r.Status)
		for _, f := range r.Set {
			w.set(2, f, 2)
		}
		if len(r.Body) > 0 {
			w.checked(3, r.Body)
		}
		w.close(denied)
	}
	if r.Operation != "" {
		metadata := w.open(4)
		w.named(r.Named)
		w.close(metadata)
	}
	return w.b, w.err
}

// Append implements [Outgoing].
func (a *Answer) Append(b []byte) ([]byte, error) {
	w := writer{b: b}
	switch a.To {
	case RequestHead, ResponseHead:
		head := w.open(a.To.answered())
		common := w.open(1)
		w.change(2, &a.Change)
		w.close(common)
		w.close(head)
	case RequestBody, ResponseBody:
		w.piece(a.To.answered(), a.Body, a.Last)
	case RequestTrailers, ResponseTrailers:
		trailers := w.open(a.To.answered())
		w.change(1, &a.Change)
		w.close(trailers)
	default: // immediate_response
		immediate := w.open(7)
		w.status(a.Status)
		w.change(2, &a.Change)
		if len(a.Body) > 0 {
			w.bytes(3, a.Body)
		}
		w.text(5, details)
		w.close(immediate)
	}
	if a.Operation != "" {
		metadata := w.open(8)
		entry := w.open(1)
		w.text(1, MetadataNamespace)
		value := w.open(2)
		within := w.open(5)
		w.named(a.Named)
		w.close(within)
		w.close(value)
		w.close(entry)
		w.close(metadata)
	}
	return w.b, w.err
}

// answered is the field of an answer to a part.
func (p Part) answered() protowire.Number { return protowire.Number(p) - 1 }

// writer appends the fields of a message.
type writer struct {
	b   []byte
	err error
}

// open begins a message in a message. It returns what close needs to end it.
func (w *writer) open(num protowire.Number) (at int) {
	w.b = append(protowire.AppendTag(w.b, num, protowire.BytesType), 0)
	return len(w.b)
}

// close writes the length of a message before it. Most are shorter than 128 bytes, and have one byte for that already.
func (w *writer) close(at int) {
	n := uint64(len(w.b) - at)
	more := protowire.SizeVarint(n) - 1
	for range more {
		w.b = append(w.b, 0)
	}
	copy(w.b[at+more:], w.b[at:len(w.b)-more])
	protowire.AppendVarint(w.b[:at-1], n)
}

func (w *writer) bytes(num protowire.Number, b []byte) {
	w.b = protowire.AppendBytes(protowire.AppendTag(w.b, num, protowire.BytesType), b)
}

// checked writes text.
func (w *writer) checked(num protowire.Number, text []byte) {
	if !utf8.Valid(text) {
		w.err = errText
	}
	w.bytes(num, text)
}

func (w *writer) text(num protowire.Number, s string) {
	if !utf8.ValidString(s) {
		w.err = errText
	}
	w.b = protowire.AppendString(protowire.AppendTag(w.b, num, protowire.BytesType), s)
}

func (w *writer) number(num protowire.Number, n uint64) {
	if n != 0 {
		w.b = protowire.AppendVarint(protowire.AppendTag(w.b, num, protowire.VarintType), n)
	}
}

// status writes a type.v3.HttpStatus.
func (w *writer) status(code int) {
	status := w.open(1)
	w.number(1, uint64(code))
	w.close(status)
}

// change writes an ext_proc.v3.HeaderMutation. Values are in raw_value, which need not be UTF-8.
func (w *writer) change(num protowire.Number, c *Change) {
	mutation := w.open(num)
	for _, f := range c.Set {
		w.set(1, f, 3)
	}
	for _, name := range c.Remove {
		w.text(2, name)
	}
	w.close(mutation)
}

// set writes a config.core.v3.HeaderValueOption, with the value as its field in: Envoy's ext_authz reads value (2), where ext_proc
// reads raw_value (3). ext_proc takes append_action for one that overwrites, unless append says it too.
func (w *writer) set(num protowire.Number, f Set, in protowire.Number) {
	option := w.open(num)
	header := w.open(1)
	if f.Name != "" {
		w.text(1, f.Name)
	}
	switch {
	case f.Value == "":
	case in == 2:
		w.text(in, f.Value)
	default:
		w.b = protowire.AppendString(protowire.AppendTag(w.b, in, protowire.BytesType), f.Value)
	}
	w.close(header)
	if f.Add {
		yes := w.open(2) // append
		w.number(1, 1)
		w.close(yes)
	} else {
		w.number(3, 2) // append_action: OVERWRITE_IF_EXISTS_OR_ADD
	}
	w.close(option)
}

// named writes the fields of a google.protobuf.Struct.
func (w *writer) named(n Named) {
	for _, m := range [...][2]string{{"op", n.Operation}, {"trace_id", n.Trace}} {
		entry := w.open(1)
		w.text(1, m[0])
		value := w.open(2)
		w.text(3, m[1])
		w.close(value)
		w.close(entry)
	}
}

// piece writes a BodyResponse that passes a piece of a body on. Its lengths are counted first: it is large.
func (w *writer) piece(num protowire.Number, body []byte, last bool) {
	n := 0
	if len(body) > 0 {
		n += 1 + protowire.SizeBytes(len(body))
	}
	if last {
		n += 2
	}
	around := [...]protowire.Number{num, 1, 3, 3} // response, body_mutation, streamed_response
	var lengths [len(around)]int
	for i := len(around) - 1; i >= 0; i-- {
		lengths[i] = n
		n = 1 + protowire.SizeBytes(n)
	}
	for i, num := range around {
		w.b = protowire.AppendVarint(protowire.AppendTag(w.b, num, protowire.BytesType), uint64(lengths[i]))
	}
	if len(body) > 0 {
		w.bytes(1, body)
	}
	if last {
		w.number(2, 1)
	}
}
