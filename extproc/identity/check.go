package identity

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	jose "github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/extproc/gate"
)

// refusedHeaders are parameters that point at a key of the sender's choosing, or that change how the token must be read
// and that we do not implement (RFC 7515, section 4.1; RFC 7797; RFC 7516).
var refusedHeaders = []string{"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc", "epk"}

func (t *token) checkHeader() *Refusal {
	for _, name := range refusedHeaders {
		if hasName(t.header, name) {
			return malformed("the header has %q, which is not accepted", name)
		}
	}
	r := reader{claims: t.header}
	t.algorithm = r.need("alg")
	t.keyID = r.text("kid")
	r.text("typ")
	if r.err != nil {
		return malformed("in the header: %v", r.err)
	}
	if !slices.Contains(algorithms, t.algorithm) {
		return &Refusal{Reason: Algorithm, Detail: fmt.Sprintf("algorithm %q is never accepted", excerpt(t.algorithm))}
	}
	return nil
}

// checkIssuer finds the issuer by its exact name. A JWT-SVID need not name one (JWT-SVID, section 3): there the trust
// domain of the subject does.
func (t *token) checkIssuer(v *Verifier) *Refusal {
	name := t.claimed("iss")
	if !hasName(t.claims, "iss") {
		domain, _, ok := cutSPIFFE(t.claimed("sub"))
		if !ok {
			return &Refusal{Reason: UnknownParty, Detail: "the token names no issuer"}
		}
		name = "spiffe://" + domain
	} else if strings.HasPrefix(name, "spiffe://") {
		return &Refusal{Reason: UnknownParty, Detail: "a token names no issuer by a SPIFFE id"}
	}
	t.issuer = v.issuers[name]
	if name == "" || t.issuer == nil {
		return &Refusal{Reason: UnknownParty, Detail: fmt.Sprintf("issuer %q is not one that is accepted here", excerpt(name))}
	}
	return nil
}

func (t *token) checkAlgorithm() *Refusal {
	if !slices.Contains(t.issuer.Algorithms, t.algorithm) {
		return &Refusal{Reason: Algorithm, Detail: fmt.Sprintf("algorithm %q is not accepted from this issuer", t.algorithm)}
	}
	return nil
}

func (t *token) checkSignature(ctx context.Context) *Refusal {
	s := &signature{token: t}
	if _, err := oidc.NewVerifier(t.issuer.name, s, t.issuer.oidc).Verify(ctx, t.raw); err != nil {
		if s.refusal != nil {
			return s.refusal
		}
		return malformed("%s", excerpt(err.Error()))
	}
	if t.key == nil || !bytes.Equal(s.payload, t.payload) {
		return &Refusal{Reason: Signature, Detail: "what was signed is not what was read"}
	}
	return nil
}

// signature is the oidc.KeySet of one token's verification.
type signature struct {
	token   *token
	payload []byte   // that was signed
	tried   *keySet  // the last keys that it was held against
	refusal *Refusal // because go-oidc gives on the text of an error only
}

func (s *signature) VerifySignature(ctx context.Context, raw string) ([]byte, error) {
	t := s.token
	jws, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(t.algorithm)})
	if err != nil {
		s.refusal = malformed("the token cannot be read: %s", excerpt(err.Error()))
		return nil, s.refusal
	}
	found, err := s.find(ctx, jws)
	switch {
	case err != nil:
		// Why is for the operator, who is told by Ready, the log and an alarm: it can have inner addresses in it.
		s.refusal = &Refusal{Reason: Unavailable, Detail: "the issuer's keys cannot be had at the moment; nothing is wrong with the token that is known, try again later"}
	case found:
		return s.payload, nil
	case len(s.tried.withID(t.keyID)) == 0:
		s.refusal = &Refusal{Reason: Signature, Detail: fmt.Sprintf("the issuer has no key with the id %q", excerpt(t.keyID))}
	default:
		s.refusal = &Refusal{Reason: Signature, Detail: "the signature was not made with a key of the issuer"}
	}
	return nil, s.refusal
}

// find tries the keys that are there and then, because an issuer may have another key by now, under a new id or the same,
// those of a fetch that began after the token came. An error means that nobody can tell yet.
func (s *signature) find(ctx context.Context, jws *jose.JSONWebSignature) (found bool, err error) {
	keys := s.token.issuer.keys
	if set, err := keys.current(); err == nil {
		if found, err = s.try(ctx, set, jws); found || err != nil {
			return found, err
		}
	}
	if len(jws.Signatures[0].Signature) == 0 {
		return false, nil // no key has made it
	}
	var broken error
	found, err = keys.newer(ctx, func(set *keySet) bool {
		if s.tried != nil && s.tried.generation == set.generation {
			return false
		}
		var ok bool
		ok, broken = s.try(ctx, set, jws)
		return ok
	})
	return found, cmp.Or(err, broken)
}

// try holds the signature against the keys of set that the token may mean.
func (s *signature) try(ctx context.Context, set *keySet, jws *jose.JSONWebSignature) (bool, error) {
	release, err := s.token.issuer.keys.processor(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	s.tried = set
	for _, k := range set.withID(s.token.keyID) {
		if !slices.Contains(k.algorithms, s.token.algorithm) {
			continue
		}
		if payload, err := jws.Verify(k.key); err == nil {
			s.payload, s.token.key, s.token.generation = payload, k, set.generation
			return true, nil
		}
	}
	return false, nil
}

// checkType tells an access token from the other things that an issuer signs with the same key.
func (t *token) checkType() *Refusal {
	typ := mediaType(t.header.Text("typ"))
	if !slices.Contains(t.issuer.Types, typ) {
		return &Refusal{Reason: Type, Detail: fmt.Sprintf("type %q is not that of an access token", excerpt(typ))}
	}
	if typ != "at+jwt" {
		for _, name := range []string{"nonce", "at_hash", "c_hash", "s_hash"} {
			if hasName(t.claims, name) {
				return &Refusal{Reason: Type, Detail: fmt.Sprintf("this is an ID token (it has %q); send the access token", name)}
			}
		}
	}
	if hasName(t.claims, "events") {
		return &Refusal{Reason: Type, Detail: "this is a security event or logout token (it has \"events\"); send the access token"}
	}
	use := t.claimed("token_use")   // Amazon Cognito
	payloadType := t.claimed("typ") // Keycloak
	for _, kind := range []string{"id", "refresh", "offline", "logout"} {
		if strings.EqualFold(use, kind) || strings.EqualFold(payloadType, kind) {
			return &Refusal{Reason: Type, Detail: fmt.Sprintf("the issuer calls this a token of type %q; send the access token", kind)}
		}
	}
	return nil
}

func (t *token) checkBinding() *Refusal {
	if hasName(t.claims, "cnf") || strings.EqualFold(t.claimed("typ"), "DPoP") || strings.EqualFold(t.claimed("token_type"), "DPoP") {
		return &Refusal{Reason: Bound, Detail: "the token is bound to a key (cnf), and the proof of it cannot be checked here; ask the issuer for a token that is not"}
	}
	return nil
}

func (t *token) checkAudience() *Refusal {
	r := reader{claims: t.claims}
	audiences := r.list("aud")
	if r.err != nil {
		return malformed("%v", r.err)
	}
	for _, a := range audiences {
		if slices.Contains(t.issuer.Audience, a) {
			return nil
		}
	}
	return &Refusal{Reason: Audience, Detail: fmt.Sprintf("the token is for %s, not for this gateway", excerpt(fmt.Sprintf("%q", audiences)))}
}

func (t *token) checkTimes(now time.Time) *Refusal {
	r := reader{claims: t.claims}
	expires, issued, notBefore := r.instant("exp"), r.instant("iat"), r.instant("nbf")
	switch {
	case r.err != nil:
		return malformed("%v", r.err)
	case expires.IsZero():
		return malformed("there is no claim \"exp\"")
	case issued.IsZero() && t.issuer.Kind != "spiffe": // JWT-SVID, section 3: only exp is there always
		return malformed("there is no claim \"iat\"")
	case !now.Before(expires.Add(t.issuer.Skew)):
		return &Refusal{Reason: Expired, Detail: "the token expired at " + stamp(expires)}
	case now.Add(t.issuer.Skew).Before(notBefore):
		return &Refusal{Reason: NotYet, Detail: "the token is not valid before " + stamp(notBefore)}
	case now.Add(t.issuer.Skew).Before(issued):
		return &Refusal{Reason: NotYet, Detail: "the token was issued in the future, at " + stamp(issued)}
	}
	life := expires.Sub(issued)
	if issued.IsZero() {
		life = max(expires.Sub(now), 1)
	}
	if life <= 0 || life > t.issuer.MaxLifetime {
		return &Refusal{Reason: Lifetime, Detail: fmt.Sprintf("the token is valid for %v, and %v is the most", life, t.issuer.MaxLifetime)}
	}
	t.expires = expires
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// has is whether this issuer's principal is of a tenant that is accepted, registered, and not revoked.
func (i *issuer) has(p *gate.Principal) *Refusal {
	switch name := i.revoked(p); {
	case len(i.Tenants) > 0 && !slices.Contains(i.Tenants, p.Verified.Tenant):
		return &Refusal{Reason: Tenant, Detail: fmt.Sprintf("tenant %q is not one that is accepted here", excerpt(p.Verified.Tenant))}
	case len(i.Subjects) > 0 && !slices.Contains(i.Subjects, p.Subject):
		return &Refusal{Reason: Unregistered, Detail: fmt.Sprintf("subject %q is not registered here", excerpt(p.Subject))}
	case name != "":
		return &Refusal{Reason: Revoked, Detail: fmt.Sprintf("%q is revoked", excerpt(name))}
	default:
		return nil
	}
}

// revoked looks at everybody whom the token would act for or through, and at the claim `sub` as the issuer wrote it. It is the
// name that is revoked, or "".
func (i *issuer) revoked(p *gate.Principal) string {
	if len(i.Revoked) == 0 {
		return ""
	}
	names := []string{p.Subject, p.ClientID, p.Verified.TokenID, p.Verified.Digest, p.Claims.Text("sub")}
	if p.OnBehalfOf != nil {
		names = append(names, p.OnBehalfOf.Subject)
	}
	for _, party := range p.Actors {
		names = append(names, party.Subject)
	}
	at := slices.IndexFunc(names, func(name string) bool { return name != "" && slices.Contains(i.Revoked, name) })
	if at < 0 {
		return ""
	}
	return names[at]
}
