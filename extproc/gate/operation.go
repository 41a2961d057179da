package gate

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Party is one end of a chain of acting: the pair that names a principal, and nothing that only describes it.
type Party struct {
	Issuer  string
	Subject string
}

// Person is a human being, as far as a token tells. Two issuers, and two kinds of subject at one issuer, have different names
// for the same one, so that two of them are told apart only where both are of one Directory, or have a claim that the
// configuration says they share. The zero value cannot be told from anybody.
type Person struct {
	Directory string // in which an ID is one person's, and a person has one ID: an issuer, or a tenant of Entra ID
	ID        string
	Shared    bool   // the configuration names a claim that is the same for one person at every issuer
	Claim     string // its value; empty where the token has none
}

// Principal is who acts. It is the pair (Issuer, Subject), never a name, an e-mail address or a header that a client
// set. A Principal with either of the two empty is nobody, and [Gate.Decide] refuses it.
//
// A Principal is made once for a verified credential and shared by the operations that it comes with: it is not changed
// after that.
type Principal struct {
	Issuer   string
	Subject  string
	ClientID string // OAuth client that the token was issued to; empty when the issuer names none
	Kind     string // "agent", "workload" or, where the token shows it, "person"

	Groups []string
	Roles  []string

	OnBehalfOf *Party  // the person acted for; nil when the principal acts for itself
	Actors     []Party // RFC 8693 `act` chain, the current actor first

	// Claims are the token's own, less those that change when the same token is issued again (exp, iat, nbf, jti and the
	// like): what an approval binds must survive a renewal.
	Claims Object

	// People are the human beings whose operation it is: whom OnBehalfOf names, or the principal itself where it is one. None of
	// them approves it. Not part of the canonical input, which has what it is made from.
	People []Person

	// Verified says how the credential was checked. It is recorded, and not part of the canonical input.
	Verified Verification
}

// Verification is how a credential was verified.
type Verification struct {
	Method    string // "oidc"
	Algorithm string // JWS algorithm, "RS256"
	KeyID     string // `kid` of the key that verified the signature
	TokenID   string // `jti`, or Digest where it has none
	Digest    string // SHA-256 of the token's signed part, in hex
	Tenant    string // that the issuer has vouched for; empty where it names none

	Expires  time.Time
	Accepted time.Time // until when it is accepted: Expires, and how far the issuer's clock and ours may differ
}

// Known reports whether p names somebody.
func (p *Principal) Known() bool { return p != nil && p.Issuer != "" && p.Subject != "" }

// object leaves out on_behalf_of where nobody is acted for: in Rego null is true, and `not input.principal.on_behalf_of`
// must mean what it says.
func (p *Principal) object() Object {
	o := Object{
		{"actors", parties(p.Actors)},
		{"claims", p.Claims},
		{"client_id", p.ClientID},
		{"groups", p.Groups},
		{"issuer", p.Issuer},
		{"kind", p.Kind},
	}
	if p.OnBehalfOf != nil {
		o = append(o, Member{"on_behalf_of", p.OnBehalfOf.value()})
	}
	return append(o, Member{"roles", p.Roles}, Member{"subject", p.Subject})
}

func (p *Party) value() any {
	if p == nil {
		return nil
	}
	return Object{{"issuer", p.Issuer}, {"subject", p.Subject}}
}

func parties(ps []Party) []any {
	list := make([]any, len(ps))
	for i := range ps {
		list[i] = ps[i].value()
	}
	return list
}

// Resource is what is acted on, as the configuration names it.
type Resource struct {
	Name   string
	Kind   string // "http", "git", "postgres", …
	Labels Object // text values

	// Policy is the last part of the package that rules on this resource: data.rules.<Policy>. Not part of the input.
	Policy string
}

// Detail is the part of an operation that only its protocol knows.
type Detail interface {
	// Key is the name under which the detail stands in the input: "http", "git", "postgres".
	Key() string
	// Object is the detail as a JSON object in canonical order. It has every byte of the operation that the target can
	// act on, or a digest of it, less Volatile; the same operation gives the same object.
	Object() Object
	// Volatile is what the target gets too and what may differ between two attempts at the same operation, such as trace
	// context: {"headers": {"traceparent": …}}. Its members are objects, whose own belong into the member of that name in Object.
	// Policy sees them there. No digest binds them, so no approval does, and they are on no card.
	Volatile() Object
	// Recorded is what records of decisions have of it, under Key; nil for nothing. Its texts are bounded (see [Recorded]), and
	// none is a value that a detector would mask.
	Recorded() Object
}

// Operation is one thing that an agent asks a target to do.
type Operation struct {
	ID string // unique to this attempt; see [NewID]

	Principal *Principal
	Resource  Resource
	Protocol  string // "http", "git", "postgres"
	Verb      string // HTTP method, SQL command, …
	Target    string // what the verb is done to, fit to be recorded: no query, no value that a detector would mask
	Detail    Detail
	Context   Context
	Named     string // id of the request for approval that the agent says this is for; empty where it says nothing. Not judged.

	// Fits is asked of a verdict that does not deny, before it is recorded, before people are asked and again before a
	// grant is spent. Its error, which may be an [*Unfit], refuses. Optional.
	Fits func(Verdict) error

	input  []byte
	object Object
}

// Unfit refuses an operation that cannot be carried out as policy wants it.
type Unfit Refusal

func (e *Unfit) Error() string { return e.Detail }

// Context is what changes between two attempts at the same operation. Policy sees it as input.context; no approval
// binds to it.
type Context struct {
	Time        time.Time
	RequestID   string
	TraceParent string    // W3C traceparent, as the agent sent it; empty when it sent none or a malformed one
	Peer        string    // address of the agent's connection
	Session     string    // identifies the agent's token, so that what one session did can be told together
	Held        time.Time // when the wait for people began; zero where there is none. Policy does not see it
	Approval    *Grant    // people's yes to this operation, where policy is asked again because of it
}

// Object is the context as policy sees it.
func (c Context) Object(p *Principal) Object {
	var tokenID, expires string
	if p != nil {
		tokenID = p.Verified.TokenID
		if !p.Verified.Expires.IsZero() {
			expires = string(AppendTime(nil, p.Verified.Expires))
		}
	}
	o := make(Object, 0, 8)
	if c.Approval != nil {
		o = append(o, Member{"approval", c.Approval.object()})
	}
	return append(o,
		Member{"peer", c.Peer},
		Member{"request_id", c.RequestID},
		Member{"session", c.Session},
		Member{"time", string(AppendTime(nil, c.Time))},
		Member{"token_expires", expires},
		Member{"token_id", tokenID},
		Member{"traceparent", c.TraceParent},
	)
}

// Object is the canonical input as a value, made once.
func (op *Operation) Object() (Object, error) {
	if op.object != nil {
		return op.object, nil
	}
	switch {
	case !op.Principal.Known():
		return nil, errors.New("the operation has no principal")
	case op.Resource.Name == "" || op.Resource.Kind == "":
		return nil, errors.New("the operation has no resource")
	case op.Detail == nil:
		return nil, errors.New("the operation has no detail")
	}
	o, err := MakeObject(
		Member{op.Detail.Key(), op.Detail.Object()},
		Member{"principal", op.Principal.object()},
		Member{"resource", Object{{"kind", op.Resource.Kind}, {"labels", op.Resource.Labels}, {"name", op.Resource.Name}}},
	)
	if err != nil {
		return nil, err
	}
	op.object = o
	return o, nil
}

// Seen is what policy judges: the canonical input, with the volatile part of the detail in its place.
func (op *Operation) Seen() (Object, error) {
	o, err := op.Object()
	if err != nil {
		return nil, err
	}
	volatile := op.Detail.Volatile()
	if len(volatile) == 0 {
		return o, nil
	}
	if _, err := AppendJSON(make([]byte, 0, 512), volatile); err != nil {
		return nil, fmt.Errorf("write the volatile part of the operation as canonical JSON: %w", err)
	}
	seen := slices.Clone(o)
	i := slices.IndexFunc(seen, func(m Member) bool { return m.Name == op.Detail.Key() })
	detail := slices.Clone(op.Detail.Object())
	for _, m := range volatile {
		j := slices.IndexFunc(detail, func(d Member) bool { return d.Name == m.Name })
		more, isObject := m.Value.(Object)
		if j < 0 || !isObject {
			return nil, fmt.Errorf("the operation has nothing that its volatile %s belongs to", m.Name)
		}
		bound, isObject := detail[j].Value.(Object)
		if !isObject {
			return nil, fmt.Errorf("the operation's %s is no object, and a part of it is volatile", m.Name)
		}
		if detail[j].Value, err = MakeObject(slices.Concat(bound, more)...); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	seen[i].Value = detail
	return seen, nil
}

// Input is the operation as canonical JSON (RFC 8785), made once: these are the bytes that an approver is shown and that
// [Operation.Digest] binds. Policy judges them and the volatile part of the detail: see [Operation.Seen]. An operation without a principal, a resource or a detail has none.
func (op *Operation) Input() ([]byte, error) {
	if op.input != nil {
		return op.input, nil
	}
	o, err := op.Object()
	if err != nil {
		return nil, err
	}
	input, err := AppendJSON(make([]byte, 0, 2048), o)
	if err != nil {
		return nil, fmt.Errorf("write the operation as canonical JSON: %w", err)
	}
	op.input = input
	return input, nil
}

// Digest is the HMAC-SHA-256 of the input, in hex. It is keyed because an operation can hold values that are few enough
// to be guessed from a plain hash.
func (op *Operation) Digest(key []byte) (string, error) {
	if len(key) < 16 {
		return "", errors.New("the digest key is shorter than 16 bytes")
	}
	input, err := op.Input()
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(input)
	return hex.EncodeToString(mac.Sum(nil)), nil
}
