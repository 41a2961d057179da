package extproc

import (
	"io"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/cookie"
	"github.com/countersign/countersign/extproc/inspect/echo"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/problem"
	"github.com/countersign/countersign/extproc/redact"
)

// Reader reads one request, as the kind of its resource reads it. Head is called first and once, Write for each piece of the body,
// Trailers where there are any, and then Request. A request with any error is refused, and no more of it is read. The agent is told
// what a *[web.Error] says, and of other errors only that the request could not be read.
type Reader interface {
	// Head reads the pseudo-header and header fields. It says what it knows of the request beside an error too.
	Head(fields []web.Field) (Head, error)

	// Write takes the next piece of the body, which is the reader's from then on. It is not called for a body that streams.
	Write(piece []byte) error

	// Trailers reads the trailer fields.
	Trailers(fields []web.Field) error

	// Request returns the whole request, once all of it has come. by is whose it is. Before it takes memory the reader asks room
	// for as many bytes as it will take in all, until the request was judged; where that is false it returns any error.
	Request(by *gate.Principal, room func(bytes int64) bool) (*Request, error)

	// Holds is about how many bytes of memory the body takes with n more bytes of it: 0 while it waits for people.
	Holds(n int64) int64
}

// Head is what a reader knows of a request by its head.
type Head struct {
	Verb, Target string // for records; Target has no secrets that the reader knows of
	Streams      bool   // the request is judged by its head, and its body passes unseen
}

// Request is a request that was read whole: what is judged of it, and what of it goes to the target.
type Request struct {
	Detail   gate.Detail // what policy judges
	Approval string      // the approval that the agent names; "" where it names none

	Remove  []string    // header fields that do not reach the target
	Set     []web.Field // fields that the target gets in the place of the agent's
	Secrets []string    // what must not come back in the answer, beside the target's credential
	Body    Body        // empty where it streams

	// Scheme, Authority and Target are how the agent came: by them URLs of the target in answers are turned.
	Scheme, Authority, Target string

	// Redacted returns the fields that the target does not get where its answer is redacted. An error, a *[gate.Unfit], says why
	// this answer cannot be redacted; where Redacted is nil none can, and what policy redacts is refused.
	Redacted func() (remove []string, err error)
}

// Body is the body of a request that was judged: the bytes that go to the target. It is in memory ([InMemory]) or in a spool, which
// is read piece by piece when the target takes it, and must be there until then.
type Body struct {
	From io.ReaderAt
	Size int64
}

// InMemory is a body in memory. It is sent as it is there, without a copy.
type InMemory []byte

// ReadAt is that of [io.ReaderAt].
func (b InMemory) ReadAt(p []byte, at int64) (n int, err error) {
	if at < int64(len(b)) {
		n = copy(p, b[at:])
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Refuser writes what an agent gets in the place of a target's answer, in the words of a protocol.
type Refuser interface {
	// Refuse is the reply to a request that is refused, or whose answer is withheld. challenge is a WWW-Authenticate (RFC 9110,
	// section 11.6.1), for one that is unauthenticated. A refusal whose problem the refuser does not know, the zero one too, is a
	// refusal.
	Refuse(r gate.Refusal, requestID, challenge string) web.Reply

	// Note is what takes the place of a body that is withheld, where the head of the target's answer passes with that status. It
	// is false where clients do not go by the head: then all of the answer is withheld.
	Note(r gate.Refusal, status int, requestID string) (web.Reply, bool)
}

// Problems refuses as problem+json, and to clients of gRPC with their status too.
func Problems(head []web.Field) Refuser {
	if web.IsGRPC(head) {
		return problem.GRPC{}
	}
	return problem.JSON{}
}

// Credential is what a target wants to see in the place of the agent's token.
type Credential interface {
	// Field returns the header field to set. It is asked for every operation, so that a secret can be changed in place.
	Field() (web.Field, error)
}

// HTTP is what a resource that HTTP carries has of its own: see [lane.Resource].
type HTTP struct {
	// Reader returns a reader of one request. Where it is nil every request is refused. ReadBy is what those readers read by: a
	// request that is held is not released where a reload has changed it.
	Reader func(resource string) Reader
	ReadBy any

	// Refuser returns how a request with that head is refused; nil is [Problems].
	Refuser func(head []web.Field) Refuser

	Credential   Credential    // nil adds nothing
	PassResponse bool          // answers are not to come by here; whether they do is a fact of the call
	MaxHead      int64         // bytes of header fields; 0 is no limit
	MaxAnswer    int64         // bytes of any answer; 0 is no limit
	MaxRedacted  int64         // bytes of an answer that is redacted
	ByAuthz      bool          // it is attached by ext_authz
	RequestTime  time.Duration // how long a request that is inspected may take to arrive whole; 0 is no limit

	Plans *redact.Plans // of answers

	// The target's own URLs in answers become the gateway's: in header fields where RewriteURLs is true, and in JSON at the
	// paths of Rewrite.
	Target      web.Origin
	RewriteURLs bool
	Rewrite     []string

	// ResponseHeaders are names, or prefixes that end with "-*", of fields that may pass with a redacted answer beside those
	// of package web's list.
	ResponseHeaders []string

	Cookies       cookie.Mode // what becomes of them in answers
	CookieKey     []byte      // seals session cookies; at least 16 bytes where there are any
	SecureCookies bool        // agents connect over TLS, so that a cookie that is Secure comes back

	forms echo.Cache // of the target's credential
}

// httpOf is what a resource has of its own; nil where HTTP does not carry it.
func httpOf(r *lane.Resource) *HTTP {
	if r == nil {
		return nil
	}
	h, _ := r.Own.(*HTTP)
	return h
}

// refuser is how a request with that head is refused, also where there is no resource for it.
func (h *HTTP) refuser(head []web.Field) Refuser {
	if h == nil || h.Refuser == nil {
		return Problems(head)
	}
	return h.Refuser(head)
}
