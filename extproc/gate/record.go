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
	SessionOpened     = "session.opened"
	SessionClosed     = "session.closed"
	PolicyActivated   = "policy.activated"
	ConfigActivated   = "config.activated"
	ConfigRejected    = "config.rejected"
	GatewayStarted    = "gateway.started"
	GatewayStopped    = "gateway.stopped"
	Heartbeat         = "heartbeat"
	Transit           = "transit"
	Alarm             = "alarm"
)

// Record is one line of evidence before the journal has numbered, timed and chained it.
type Record struct {
	Type string
	Op   string // the operation's id; empty where a record is about none
	Body Body
}

// Body is a record's own part. AppendJSON appends one canonical JSON object.
type Body interface {
	AppendJSON(dst []byte) ([]byte, error)
}

// Receipt says where a record stands in the journal. Its zero value says that it does not.
type Receipt struct {
	Seq  uint64 // first record is 1
	Time time.Time
	Hash string // SHA-256 of the line, in hex
}

// Recorder is the journal, as the gate needs it.
type Recorder interface {
	// Append writes r and returns when it is durable. After an error the record may or may not be there, and the
	// caller must refuse.
	Append(ctx context.Context, r *Record) (Receipt, error)
	// Begin puts r in the queue that Append uses, keeps its order, and returns at once what waits until r is durable and answers
	// as Append does. The record goes to the disk with the next Append, or when it is waited for: two records cost one sync.
	// durable is called once, or not at all where the answer does not matter.
	Begin(ctx context.Context, r *Record) (durable func() (Receipt, error))
	// Post puts r in the queue that Append uses, keeps its order, and returns without waiting for the disk. It waits
	// while the queue is full. An error says that the journal takes nothing more.
	Post(ctx context.Context, r *Record) error
}

// Decision is the body of an operation.decided record.
type Decision struct {
	Effect       Effect
	Rules        []string
	Reasons      []string
	Principal    *Principal // nil where the credential was good for nobody
	Resource     string
	Protocol     string
	Verb         string
	Target       string
	Digest       string // of the operation; empty where it could not be read
	Problem      Problem
	Context      Context
	PolicyDigest string
	RulesDigest  string
	ConfigDigest string
	Redact       []Redaction
	Approval     string // id of the request that is open, or whose grant was spent; empty when there is none

	Held time.Duration // how long people were waited for before this decision; 0 where nobody was
}

// AppendJSON writes the members in canonical order.
func (d *Decision) AppendJSON(b []byte) ([]byte, error) {
	b = append(b, `{"approval":`...)
	b = AppendText(b, d.Approval)
	b = append(b, `,"config_digest":`...)
	b = AppendText(b, d.ConfigDigest)
	b = append(b, `,"digest":`...)
	b = AppendText(b, d.Digest)
	b = append(b, `,"effect":"`...)
	b = append(b, d.Effect.String()...)
	b = append(b, '"')
	if d.Held > 0 {
		b = append(b, `,"held":`...)
		var err error
		if b, err = appendFloat(b, d.Held.Seconds()); err != nil {
			return b, err
		}
	}
	b = append(b, `,"peer":`...)
	b = AppendText(b, d.Context.Peer)
	b = append(b, `,"policy_digest":`...)
	b = AppendText(b, d.PolicyDigest)
	b = append(b, `,"principal":`...)
	b = d.Principal.appendRecord(b)
	b = append(b, `,"problem":`...)
	b = AppendText(b, string(d.Problem))
	b = append(b, `,"protocol":`...)
	b = AppendText(b, d.Protocol)
	b = append(b, `,"reasons":`...)
	b = appendTexts(b, d.Reasons)
	b = append(b, `,"redact":[`...)
	b = appendRedactions(b, d.Redact)
	b = append(b, `],"request_id":`...)
	b = AppendText(b, d.Context.RequestID)
	b = append(b, `,"resource":`...)
	b = AppendText(b, d.Resource)
	b = append(b, `,"rules":`...)
	b = appendTexts(b, d.Rules)
	b = append(b, `,"rules_digest":`...)
	b = AppendText(b, d.RulesDigest)
	b = append(b, `,"session":`...)
	b = AppendText(b, d.Context.Session)
	b = append(b, `,"target":`...)
	b = AppendText(b, d.Target)
	b = append(b, `,"trace_id":`...)
	b = AppendText(b, d.Context.TraceID())
	b = append(b, `,"traceparent":`...)
	b = AppendText(b, d.Context.TraceParent)
	b = append(b, `,"verb":`...)
	b = AppendText(b, d.Verb)
	return append(b, '}'), nil
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
		if r.Path != "" {
			b = append(b, `"path":`...)
			b = AppendText(b, r.Path)
		} else {
			b = append(b, `"detect":`...)
			b = AppendText(b, r.Detect)
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
		b = p.Actors[i].appendRecord(b)
	}
	b = append(b, `],"client_id":`...)
	b = AppendText(b, p.ClientID)
	b = append(b, `,"issuer":`...)
	b = AppendText(b, p.Issuer)
	b = append(b, `,"on_behalf_of":`...)
	b = p.OnBehalfOf.appendRecord(b)
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

func (p *Party) appendRecord(b []byte) []byte {
	if p == nil {
		return append(b, "null"...)
	}
	b = append(b, `{"issuer":`...)
	b = AppendText(b, p.Issuer)
	b = append(b, `,"subject":`...)
	b = AppendText(b, p.Subject)
	return append(b, '}')
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

	// GatewayFailed: a part of the gateway failed. What was not with the target by then did not get there, and the agent was
	// refused or got no more of an answer.
	GatewayFailed Result = "gateway_failed"
)

// Count is how often one redaction was applied, or one path or field rewritten.
type Count struct {
	Name string // path, detector or field
	N    int64
}

// Outcome is the body of an operation.finished record.
type Outcome struct {
	Result        Result
	Reason        string // why, where the result is not completed
	Problem       Problem
	Status        int    // HTTP status that the agent received; 0 when none
	BytesIn       int64  // body bytes from the agent
	BytesOut      int64  // body bytes to the agent
	BodySHA256    string // of the body that the agent received, in hex; empty where the body did not pass through here
	Redacted      []Count
	Rewritten     []Count       // URLs of the target that became the gateway's, by header field or path
	Unrewritten   string        // why others may not have, where they should
	RequestSHA256 string        // of a request body that was streamed past, in hex; a body that was held is in the input
	Duration      time.Duration // from the first byte seen here to the last
	Decided       uint64        // seq of the decision; set by Gate.Finish
}

// AppendJSON writes the members in canonical order. The duration is in seconds.
func (o *Outcome) AppendJSON(b []byte) ([]byte, error) {
	b = append(b, `{"body_sha256":`...)
	b = AppendText(b, o.BodySHA256)
	b = append(b, `,"bytes_in":`...)
	b = strconv.AppendInt(b, o.BytesIn, 10)
	b = append(b, `,"bytes_out":`...)
	b = strconv.AppendInt(b, o.BytesOut, 10)
	b = append(b, `,"decided":`...)
	b = strconv.AppendUint(b, o.Decided, 10)
	b = append(b, `,"duration":`...)
	b, err := appendFloat(b, o.Duration.Seconds())
	if err != nil {
		return b, err
	}
	b = append(b, `,"problem":`...)
	b = AppendText(b, string(o.Problem))
	b = append(b, `,"reason":`...)
	b = AppendText(b, o.Reason)
	b = append(b, `,"redacted":`...)
	b = appendCounts(b, o.Redacted)
	b = append(b, `,"request_sha256":`...)
	b = AppendText(b, o.RequestSHA256)
	b = append(b, `,"result":`...)
	b = AppendText(b, string(o.Result))
	if len(o.Rewritten) > 0 {
		b = append(b, `,"rewritten":`...)
		b = appendCounts(b, o.Rewritten)
	}
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(o.Status), 10)
	if o.Unrewritten != "" {
		b = append(b, `,"unrewritten":`...)
		b = AppendText(b, o.Unrewritten)
	}
	return append(b, '}'), nil
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

// addUp gives the counts in canonical order, those of equal names as one: two redactions can share a path and differ in
// what they put there. It leaves the caller's list as it is.
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
