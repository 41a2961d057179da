package console

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
)

// person is who asks something of the console.
type person struct {
	approval.Approver
	expires time.Time // of the token or session
	how     string    // "bearer token" or "session"
	session *session  // nil with a bearer token
}

func (p *person) key() approval.Party { return approval.Party{Issuer: p.Issuer, Subject: p.Subject} }

// Mark tells people apart in a page without saying who they are.
func (p *person) Mark() string {
	sum := sha256.Sum256([]byte(p.Issuer + "\x00" + p.Subject))
	return hex.EncodeToString(sum[:8])
}

// bearer is the person that a request's one bearer token is for. A token of an agent, or of anybody who acts for another,
// is refused, however good it is: package identity tells them apart (Issuer.Clients).
func (c *Console) bearer(r *http.Request) (*person, *refusal) {
	if identity.HasQueryCredential(r.URL.RawQuery) {
		return nil, refusalFrom(&identity.Refusal{Reason: identity.Multiple, Detail: "the request has a credential in its query; send one, as Authorization: Bearer"})
	}
	token, why := identity.Credential(func(name string) []string { return r.Header.Values(name) })
	if why != nil {
		return nil, refusalFrom(why)
	}
	if scheme, _, _ := strings.Cut(strings.TrimLeft(r.Header.Get("Authorization"), " "), " "); !strings.EqualFold(scheme, "Bearer") {
		return nil, refusalFrom(&identity.Refusal{Reason: identity.Malformed, Detail: "the console takes Authorization: Bearer only"})
	}
	p, err := c.opt.People.Verify(r.Context(), token)
	if err != nil {
		if !errors.As(err, &why) {
			why = &identity.Refusal{Reason: identity.Unavailable, Detail: err.Error()}
		}
		return nil, refusalFrom(why)
	}
	if p.Issuer != c.opt.Issuer || p.Kind != "person" || p.OnBehalfOf != nil || len(p.Actors) > 0 {
		return nil, refusalFrom(&identity.Refusal{
			Reason: identity.NotAPerson, Detail: "the token is good, and not a person's own: it is of kind " + quote(p.Kind) + ", of client " + quote(p.ClientID),
			Issuer: p.Issuer, Subject: p.Subject,
		})
	}
	who := &person{
		Approver: approverOf(p), expires: p.Verified.Expires, how: "bearer token",
	}
	if err := readAuthentication(token, &who.Approver); err != nil {
		return nil, refusalFrom(&identity.Refusal{Reason: identity.Claims, Detail: err.Error(), Issuer: p.Issuer, Subject: p.Subject})
	}
	return who, nil
}

// approverOf is the person as the desk wants them. Without People nobody could tell them from anybody, and they do not count.
func approverOf(p *gate.Principal) approval.Approver {
	by := approval.Approver{Issuer: p.Issuer, Name: p.Name, Subject: p.Subject, Groups: p.Groups}
	if len(p.People) == 1 {
		by.Person = approval.Person(p.People[0])
	}
	return by
}

// authentication is how somebody signed in (OpenID Connect Core, section 2; RFC 9068, section 2.2.1).
type authentication struct {
	ACR      string   `json:"acr"`
	AMR      []string `json:"amr"`
	AuthTime float64  `json:"auth_time"`
}

var errAuthentication = errors.New("acr, amr or auth_time cannot be read")

// readAuthentication reads what a verified token says of the sign-in. These claims change with each token, so package
// identity keeps them out of a principal.
func readAuthentication(token string, into *approval.Approver) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return errAuthentication
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return errAuthentication
	}
	var a authentication
	if err := json.Unmarshal(payload, &a); err != nil {
		return errAuthentication
	}
	return a.into(into)
}

func (a *authentication) into(who *approval.Approver) error {
	if a.AuthTime < 0 || a.AuthTime > 253402300799 {
		return errAuthentication
	}
	who.ACR, who.AMR = a.ACR, a.AMR
	if a.AuthTime > 0 {
		who.AuthTime = time.Unix(int64(a.AuthTime), 0).UTC()
	}
	return nil
}

var (
	_ Verifier = (*identity.Verifier)(nil)
	_ Desk     = (*approval.Desk)(nil)
)
