package gate

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The types of record.
const (
	OperationDecided  = "operation.decided"
	OperationFinished = "operation.finished"
	OperationUnknown  = "operation.unknown"
	IdentityRefused   = "identity.refused"
	PolicyActivated   = "policy.activated"
	ConfigActivated   = "config.activated"
	ConfigRejected    = "config.rejected"
	GatewayStarted    = "gateway.started"
	GatewayStopped    = "gateway.stopped"
	Heartbeat         = "heartbeat"
	Transit           = "transit"
	Alarm             = "alarm"
)

// Record is one line of evidence, before the journal adds its number, time and hash.
type Record struct {
	Type string
	Op   string // the operation's id; empty where a record is about none
	Body Body
}

// Body is what a record of one type says.
type Body interface {
	// AppendJSON appends the body as one canonical JSON object.
	AppendJSON(dst []byte) ([]byte, error)
}

// Sure is a body whose JSON is canonical whatever is in it, so that the journal does not read it again: with three records a request
// that was 6 µs of 90. TestSureBodiesAreCanonical does it.
type Sure interface {
	Body
	// Says is what the record means for operations that are under way: that one begins, or the number of the decision of one that
	// ends. Where sure is false the JSON is to be read all the same.
	Says() (allows bool, decided uint64, sure bool)
}

// Receipt says where a record stands in the journal. The zero value says that there is no record.
type Receipt struct {
	Seq  uint64 // first record is 1
	Time time.Time
	Hash string // SHA-256 of the line, in hex
}

// Recorder is the journal, as the gate needs it.
type Recorder interface {
	// Append writes r and returns when it is durable. After an error the record may or may not stand, and the caller must refuse.
	Append(ctx context.Context, r *Record) (Receipt, error)
	// Begin queues r in order with Append and returns at once. durable waits and answers as Append does. r goes to the disk with
	// the next Append or when durable is called, so that two records cost one sync. durable is called at most once.
	Begin(ctx context.Context, r *Record) (durable func() (Receipt, error))
	// Post queues r in order with Append and does not wait for the disk. It waits while the queue is full. An error says that the
	// journal takes nothing more.
	Post(ctx context.Context, r *Record) error
}

// Decision is the body of an operation.decided record.
type Decision struct {
	Effect       Effect
	Rules        []string
	Reasons      []string
	Principal    *Principal // nil if the credential did not verify
	Resource     string
	Protocol     string
	Verb         string
	Target       string
	Digest       string // of the operation; empty if it could not be read
	Problem      Problem
	Context      Context
	PolicyDigest string
	RulesDigest  string
	ConfigDigest string
	Redact       []Redaction
	Limit        Limits // none is not written
	Approval     string // id of the request that is open, or whose grant was spent; empty if there is none

	Held time.Duration // how long the operation waited for people before this decision; 0 if it did not
	Own  Member        // what only this kind of operation has, under the kind's name; the zero Member for nothing
}

// Says implements [Sure]. What a kind adds is as good as the kind.
func (d *Decision) Says() (allows bool, decided uint64, sure bool) {
	return d.Effect == Allow, 0, d.Own.Name == ""
}

// AppendJSON writes the members in canonical order.
func (d *Decision) AppendJSON(b []byte) ([]byte, error) {
	w := WriteBody(b)
	w.own = d.Own
	w.Text("approval", d.Approval)
	w.Text("config_digest", d.ConfigDigest)
	w.Text("digest", d.Digest)
	w.Text("effect", d.Effect.String())
	if d.Held > 0 {
		w.Seconds("held", d.Held)
	}
	if limits := d.Limit.Object(); len(limits) > 0 {
		w.Object("limit", limits)
	}
	w.Text("peer", d.Context.Peer)
	w.Text("policy_digest", d.PolicyDigest)
	w.name("principal")
	w.b = d.Principal.appendRecord(w.b)
	w.Text("problem", string(d.Problem))
	w.Text("protocol", d.Protocol)
	w.name("reasons")
	w.b = appendTexts(w.b, d.Reasons)
	w.name("redact")
	w.b = append(appendRedactions(append(w.b, '['), d.Redact), ']')
	w.Text("request_id", d.Context.RequestID)
	w.Text("resource", d.Resource)
	w.name("rules")
	w.b = appendTexts(w.b, d.Rules)
	w.Text("rules_digest", d.RulesDigest)
	w.Text("session", d.Context.Session)
	w.Text("target", d.Target)
	w.Text("trace_id", d.Context.TraceID())
	w.Text("traceparent", d.Context.TraceParent)
	w.Text("verb", d.Verb)
	return w.End()
}

func appendRedactions(b []byte, rs []Redaction) []byte {
	for i, r := range rs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		if r.OnCard {
			b = append(b, `"card":false,`...)
		}
		b = append(append(append(b, '"'), r.Selector()...), '"', ':')
		b = AppendText(b, r.Name())
		if r.Use {
			b = append(b, `,"use":true`...)
		}
		b = append(b, `,"with":`...)
		b = AppendText(b, string(r.With))
		b = append(b, '}')
	}
	return b
}

// TraceID is the trace id of the agent's traceparent, 32 hex digits, or empty.
func (c Context) TraceID() string {
	if len(c.TraceParent) < 35 {
		return ""
	}
	return c.TraceParent[3:35]
}

func (p *Principal) appendRecord(b []byte) []byte {
	if p == nil {
		return append(b, "null"...)
	}
	b = append(b, `{"actors":[`...)
	for i := range p.Actors {
		if i > 0 {
			b = append(b, ',')
		}
		name := ""
		if i < len(p.ActorNames) {
			name = p.ActorNames[i]
		}
		b = p.Actors[i].appendRecord(b, name)
	}
	b = append(b, `],"client_id":`...)
	b = AppendText(b, p.ClientID)
	b = append(b, `,"issuer":`...)
	b = AppendText(b, p.Issuer)
	b = appendName(b, p.Name)
	b = append(b, `,"on_behalf_of":`...)
	b = p.OnBehalfOf.appendRecord(b, p.OnBehalfOfName)
	b = append(b, `,"subject":`...)
	b = AppendText(b, p.Subject)
	b = append(b, `,"verified":{"algorithm":`...)
	b = AppendText(b, p.Verified.Algorithm)
	b = append(b, `,"key_id":`...)
	b = AppendText(b, p.Verified.KeyID)
	b = append(b, `,"method":`...)
	b = AppendText(b, p.Verified.Method)
	b = append(b, `,"token_id":`...)
	b = AppendText(b, p.Verified.TokenID)
	return append(b, `}}`...)
}

func (p *Party) appendRecord(b []byte, name string) []byte {
	if p == nil {
		return append(b, "null"...)
	}
	b = append(b, `{"issuer":`...)
	b = AppendText(b, p.Issuer)
	b = appendName(b, name)
	b = append(b, `,"subject":`...)
	b = AppendText(b, p.Subject)
	return append(b, '}')
}

// appendName adds what a party is claimed to be called, where that is anything.
func appendName(b []byte, name string) []byte {
	if name == "" {
		return b
	}
	return AppendText(append(b, `,"name":`...), name)
}

func appendTexts(b []byte, texts []string) []byte {
	b = append(b, '[')
	for i, s := range texts {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendText(b, s)
	}
	return append(b, ']')
}

// Result is how an operation ended.
type Result string

const (
	Completed    Result = "completed"     // the target's answer went to the agent
	Refused      Result = "refused"       // nothing went to the target
	WithheldBy   Result = "withheld"      // the target answered and the agent was not shown it, or not all of it
	ClientGone   Result = "client_gone"   // the agent left before the end
	TargetFailed Result = "target_failed" // the target did not answer, or broke off

	// GatewayFailed: a part of the gateway failed. What the target did not have by then it never got, and the agent was refused or
	// its answer was broken off.
	GatewayFailed Result = "gateway_failed"

	Unknown Result = "unknown" // nobody can say: there is an operation.unknown, and no operation.finished
)

// Count is how often one redaction was applied, or one path or field rewritten.
type Count struct {
	Name string // path, detector or field
	N    int64
}

// Outcome is the body of an operation.finished record.
type Outcome struct {
	Result        Result
	Reason        string // why the result is not Completed
	Problem       Problem
	Status        int    // HTTP status that the agent received; 0 if none
	BytesIn       int64  // body bytes from the agent
	BytesOut      int64  // body bytes to the agent
	BodySHA256    string // of the body that the agent received, in hex; empty if it did not pass through here
	Redacted      []Count
	Rewritten     []Count       // URLs of the target that became the gateway's, by header field or path
	Unrewritten   string        // why some URLs of the target may be left; empty if none should be
	RequestSHA256 string        // of a request body that streamed past, in hex; a body that was held is in the input
	Duration      time.Duration // from the first byte seen here to the last
	Decided       uint64        // seq of the decision; set by Gate.Finish
	Own           Member        // as a [Decision] has it
}

// Says implements [Sure].
func (o *Outcome) Says() (allows bool, decided uint64, sure bool) {
	return false, o.Decided, o.Own.Name == ""
}

// AppendJSON writes the members in canonical order. The duration is in seconds.
func (o *Outcome) AppendJSON(b []byte) ([]byte, error) {
	w := WriteBody(b)
	w.own = o.Own
	w.Text("body_sha256", o.BodySHA256)
	w.Count("bytes_in", o.BytesIn)
	w.Count("bytes_out", o.BytesOut)
	w.name("decided")
	w.b = strconv.AppendUint(w.b, o.Decided, 10)
	w.Seconds("duration", o.Duration)
	w.Text("problem", string(o.Problem))
	w.Text("reason", o.Reason)
	w.name("redacted")
	w.b = appendCounts(w.b, o.Redacted)
	w.Text("request_sha256", o.RequestSHA256)
	w.Text("result", string(o.Result))
	if len(o.Rewritten) > 0 {
		w.name("rewritten")
		w.b = appendCounts(w.b, o.Rewritten)
	}
	w.Count("status", int64(o.Status))
	if o.Unrewritten != "" {
		w.Text("unrewritten", o.Unrewritten)
	}
	return w.End()
}

func appendCounts(b []byte, counts []Count) []byte {
	b = append(b, '{')
	for i, c := range addUp(counts) {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendText(b, c.Name)
		b = append(b, ':')
		b = strconv.AppendInt(b, c.N, 10)
	}
	return append(b, '}')
}

// addUp returns the counts in canonical order and adds up those of one name: two redactions can share a path and differ in what
// they put there. It does not change the caller's list.
func addUp(counts []Count) []Count {
	sorted := make([]Count, len(counts))
	for i, c := range counts {
		sorted[i] = Count{strings.ToValidUTF8(c.Name, "\uFFFD"), c.N}
	}
	slices.SortFunc(sorted, func(a, b Count) int { return CompareNames(a.Name, b.Name) })
	sums := sorted[:0]
	for _, c := range sorted {
		if n := len(sums); n > 0 && sums[n-1].Name == c.Name {
			sums[n-1].N += c.N
			continue
		}
		sums = append(sums, c)
	}
	return sums
}
