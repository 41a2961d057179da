// Package identity turns a bearer token into a [gate.Principal], or into a [Refusal] that says why not. Nothing else in
// this program makes a Principal from what a client sent.
//
// # Who is trusted with what
//
// The configuration is trusted to name issuers, and the issuers to sign only for their own agents. An issuer is
// believed about its own subjects and nobody else's: a Principal's Issuer is always the configured one, whatever an
// `act` claim says. The agent is trusted with nothing: no header but Authorization is read, no key or address in a token
// is followed, and what a token says before its signature is checked is used to choose an issuer and to fill in a
// refusal, never to decide. The network between here and the issuer is TLS; plain http is for loopback, or for an issuer
// that the configuration calls insecure.
//
// # Order of checks
//
// One credential, the shape of the token, algorithm, issuer, keys, signature, type, bound tokens, audience, times,
// tenant, registered, revoked, and where it must be a person's own, whether it is. A refusal names the first that failed, so that two tokens refused for one reason look
// alike in the records. [Verifier.Verify] reads as that list, and a test removes nothing from it unseen.
//
// # How
//
// Discovery and the first reading of a token are go-oidc's; its remote key set is not used, because it fetches again for
// every signature that does not verify, and an agent with a bad token could make us hammer the issuer. The key set here
// fetches in the background, and seldom for tokens: two times at once, and then one in five seconds. A token that no key
// verifies may have one that is new, so it waits for a fetch that began after it came, and is refused by that alone. Where
// that cannot be had in time, or too many wait, the reason is "keys-unavailable": nobody knows. What one issuer publishes, and
// what its agents send, costs no other its time: keys, those of one id, tokens that wait and processors are bounded for each.
// Keys stay while the issuer is away until they are too old. go-oidc reads claims with encoding/json, which takes "ISS" for "iss" and the
// last of two members; we read the same bytes strictly (no duplicate names, exact case, valid UTF-8) and everything is
// decided on our reading. Both must accept.
//
// A principal is known by the issuer's immutable id, never by a name that can be given to somebody else later: Entra's
// `oid`, the uid of a Kubernetes service account, the numeric ids of a GitHub repository and its owner. Names stay in
// the claims, where policy can read them. One of them is beside the ids for people to read ([gate.Principal.Name]), as it was
// claimed: nothing is decided by it, and a claim that is no name is none.
//
// Where somebody acts for a person, the acting party is the principal and the person is OnBehalfOf; groups and roles are
// still those that the token carries, which is what the person has and lent. An Entra app is known by its object id
// when it acts by itself and by its application id when it acts for a user, because a delegated token has only that;
// ClientID is the same in both.
//
// Whose operation it is, among human beings, is in Principal.People, in a form in which it can be compared with who approves:
// the person acted for, an actor that has the claim of people, or the principal itself where its token shows that somebody
// signed in.
//
// A verified token is remembered by its SHA-256 until it expires, its issuer's key set changes, or the keys are too old.
// Revocation and every other change of configuration make a new Verifier, which remembers nothing. The same token gives
// the same *gate.Principal, so that others can keep what they computed of it.
//
// # Not checked here
//
// A token bound to a key (a `cnf` claim: RFC 8705, RFC 9449) is refused with the reason "bound". The proof is in the TLS
// session or in a DPoP header that are Envoy's to see; taking such a token as a plain bearer token would undo what its
// issuer asked for.
//
// An ID token is told from an access token by what only it has (nonce, at_hash, c_hash, a payload `typ` of "ID", a
// `token_use` of "id"). An issuer that signs both alike and puts none of these into an ID token leaves only the audience
// to tell them apart: an ID token's is the client's id, so an audience here should be the gateway's own name, never a
// client's id.
//
// # Measured
//
// On two shared cores of an Intel Xeon with SHA instructions (the benchmarks of this package): RS256 with 2048 bits in 62
// µs and 277 allocations, ES256 in 98 µs; of these go-jose's parsing and the signature itself are 35 µs, our strict
// reading is 5 µs, and most of the rest is go-oidc parsing the same bytes again: the price of two readers, paid once for
// a token. A remembered token of 700 bytes takes 0.48 µs and no allocation, most of it SHA-256. A stranger's
// token is refused in 6 µs.
package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// Issuer is one party that may say who an agent is.
type Issuer struct {
	// Issuer is the `iss` of its tokens, compared as text, and where discovery starts. For kind spiffe it may be
	// spiffe://TRUST-DOMAIN: then tokens have no `iss`, and the keys come from JWKSFile. Required.
	Issuer string

	// Audience lists the names of this gateway; a token's `aud` must have one. Required.
	Audience []string

	// Algorithms that signatures may have: RS, PS and ES with 256, 384 or 512, and EdDSA. Default RS256 and ES256.
	Algorithms []string

	// Kind says how claims name a principal: "" (RFC 9068 and RFC 8693), "entra", "kubernetes", "github" or "spiffe". Kind "mtls"
	// has certificates and no tokens: Issuer is then spiffe://TRUST-DOMAIN or any name, CAFile the authorities that sign them, and
	// of the rest only Certificates, Subjects and Revoked count.
	Kind string

	// Certificates are the subjects of certificates (RFC 4514: "CN=ci,O=Example") and who has them. Kind mtls only.
	Certificates map[string]string

	// CAFile is a PEM file of the authorities that signed the issuer's certificate. Default: the system's.
	CAFile string

	// JWKSFile is a JSON Web Key Set to use in the place of discovery. It is read again as keys would be fetched again.
	JWKSFile string

	// Insecure allows plain http where the issuer is not on loopback.
	Insecure bool

	// Types are the accepted values of the header's `typ`. Default "at+jwt", "application/at+jwt", "JWT" and "" (none);
	// for kind spiffe "JWT", "JOSE" and "". Case and an "application/" in front do not matter (RFC 7515, 4.1.9).
	Types []string

	// MaxLifetime is the longest time between `iat` and `exp`. Default 24 h.
	MaxLifetime time.Duration

	// Skew is how far the issuer's clock and ours may differ. Default and most: 60 s.
	Skew time.Duration

	// KeysMaxAge is how long keys are used after they were last fetched. Default 24 h.
	KeysMaxAge time.Duration

	// Refresh is how often keys are fetched. Default 10 min, or a third of KeysMaxAge where that is less.
	Refresh time.Duration

	// Clients, when set, say that the tokens are people's own, for a console: each must have been issued to one of these
	// clients, show that somebody signed in, and be of nobody who acts for another. Kind is then "" or "entra".
	Clients []string

	// PersonClaim is the claim that names the same person at every issuer that has one configured, an e-mail address say,
	// named as GroupsClaim is. Without it people of two issuers cannot be told apart.
	PersonClaim string

	// Tenants, when set, are the only ones accepted: of `tid` (generic, entra), `repository_owner_id` (github), the
	// namespace (kubernetes), the trust domain (spiffe). Kind github needs Tenants or Subjects, because its issuer
	// signs for every repository there is; kind spiffe needs Tenants where Issuer is a URL.
	Tenants []string

	// Subjects, when set, are the only principals accepted, as [gate.Principal] has them.
	Subjects []string

	// Revoked lists subjects, client ids and token ids that are refused, also anywhere in a chain of actors.
	Revoked []string

	// GroupsClaim and RolesClaim name the claims with the principal's groups and roles: the exact name, or else
	// a path ("realm_access.roles") or a JSON pointer ("/realm_access/roles"). Default "groups" and "roles".
	GroupsClaim, RolesClaim string

	// NameClaim and PersonNameClaim name, as GroupsClaim does, the claims with what the principal, and a person, is called: see
	// [gate.Principal.Name]. Default: the client's id, or what the kind has that is better; "preferred_username", then "name".
	NameClaim, PersonNameClaim string

	// KindClaim names, as GroupsClaim does, a claim that says whether the principal is a person, an agent or a workload (see
	// kindWords). Where a token has it, nothing else decides.
	KindClaim string
}

// Options are what a Verifier is made of.
type Options struct {
	Issuers []Issuer

	Now        func() time.Time          // default time.Now
	Log        *slog.Logger              // default: nothing is logged
	Alarm      func(kind, detail string) // called from several goroutines; may be nil
	HTTPClient *http.Client              // its Transport is used in the place of our own (and then CAFile is not)
}

// Verifier verifies tokens. Its zero value, and a nil one, refuse. A change of configuration makes a new Verifier.
type Verifier struct {
	issuers    map[string]*issuer
	order      []*issuer // as configured
	certifiers []*certifier
	now        func() time.Time
	cache      *cache
	cancel     context.CancelFunc
}

// New makes a Verifier, reporting everything that is wrong with the options at once. It reads files, and does not need
// an issuer to be reachable.
func New(o Options) (*Verifier, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Alarm == nil {
		o.Alarm = func(string, string) {}
	}
	life, cancel := context.WithCancel(context.Background())
	v := &Verifier{issuers: map[string]*issuer{}, now: o.Now, cache: newCache(cacheSize), cancel: cancel}
	var errs []error
	if len(o.Issuers) == 0 {
		errs = append(errs, errors.New("no issuer is configured"))
	}
	for _, c := range o.Issuers {
		if c.Kind == "mtls" {
			a, err := newCertifier(c)
			if errs = append(errs, err); err == nil {
				v.certifiers = append(v.certifiers, a)
			}
			continue
		}
		i, err := newIssuer(life, c, o)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if v.issuers[c.Issuer] != nil {
			errs = append(errs, fmt.Errorf("issuer %q: is configured twice", c.Issuer))
		}
		v.issuers[c.Issuer] = i
		v.order = append(v.order, i)
	}
	if err := errors.Join(errs...); err != nil {
		cancel()
		return nil, err
	}
	return v, nil
}

// Start fetches keys in the background, until ctx ends or the Verifier is closed. Without it keys are fetched when a
// token asks for them.
func (v *Verifier) Start(ctx context.Context) {
	context.AfterFunc(ctx, guard.Func("a verifier", v.cancel))
	for _, i := range v.order {
		i.keys.run()
	}
}

// Close ends everything that runs in the background and waits for it. Keys that were fetched stay usable until they are
// too old, so that work in hand can finish.
func (v *Verifier) Close() {
	v.cancel()
	for _, i := range v.order {
		i.keys.close()
	}
}

// Ready is nil when there are usable keys of some issuer, so that its agents are served whoever else is away; otherwise it says
// why there are none of any.
func (v *Verifier) Ready() error {
	if v == nil || len(v.order)+len(v.certifiers) == 0 {
		return errors.New("no issuer is configured")
	}
	if len(v.order) == 0 {
		return nil // certificates need nobody
	}
	var errs []error
	for _, i := range v.States() {
		if i.Err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("issuer %q: %w", i.Issuer, i.Err))
	}
	return errors.Join(errs...)
}

// State is whether the tokens of one issuer can be verified.
type State struct {
	Issuer string
	Err    error // why its keys cannot be had; nil where they can
}

// States are those of every issuer, in the order of the configuration.
func (v *Verifier) States() []State {
	states := make([]State, len(v.order))
	for n, i := range v.order {
		_, err := i.keys.current()
		states[n] = State{i.name, err}
	}
	return states
}

// Ask asks every issuer for its keys now, all at once, and says what came of it. The verifier keeps none of them.
func (v *Verifier) Ask(ctx context.Context) []State {
	states := make([]State, len(v.order))
	var asked sync.WaitGroup
	for n, i := range v.order {
		states[n].Issuer = i.name
		asked.Go(guard.Func("asking an issuer", func() {
			states[n].Err = errors.New("asking it panicked")
			text, err := i.keys.fetch(ctx)
			if err == nil {
				_, _, err = readKeys(text, i.keys.use)
			}
			states[n].Err = err
		}))
	}
	asked.Wait()
	return states
}

// Verify returns the principal that token is for. Every error is a *Refusal.
//
// The Principal is shared by everybody who shows the same token, and must not be changed.
func (v *Verifier) Verify(ctx context.Context, token string) (*gate.Principal, error) {
	if v == nil || v.now == nil {
		return nil, &Refusal{Reason: Unavailable, Detail: "no issuer is configured"}
	}
	if len(token) > maxToken {
		return nil, &Refusal{Reason: Malformed, Detail: fmt.Sprintf("the token has %d bytes, more than %d", len(token), maxToken)}
	}
	digest := digestOf(token)
	if p := v.cache.get(digest, v.now()); p != nil {
		return p, nil
	}
	t, refusal := v.check(ctx, token)
	if refusal != nil {
		return nil, refusal
	}
	return v.cache.put(digest, remembered{
		size:       len(token),
		principal:  t.principal,
		keys:       t.issuer.keys,
		generation: t.generation,
		until:      t.principal.Verified.Accepted,
	}, v.now()), nil
}

// Still is nil while a principal, verified by this Verifier or by one before it, is one that this one has: its issuer is configured,
// and its tenant, its subject and its token are accepted. Every error is a *Refusal. Whether the token's time is over, and what
// else a new configuration may ask of a token, it does not tell.
func (v *Verifier) Still(p *gate.Principal) error {
	refusal := &Refusal{Reason: UnknownParty, Detail: "the issuer is not one that is accepted here any more"}
	if v == nil || p == nil {
		return refusal
	}
	if i := v.issuers[p.Issuer]; i != nil && p.Verified.Method != "mtls" {
		refusal = i.has(p)
	}
	for _, a := range v.certifiers {
		if p.Verified.Method == "mtls" && a.name == p.Issuer {
			refusal = a.still(p)
		}
	}
	if refusal != nil {
		return refusal
	}
	return nil
}

// check makes the checks of the package comment, in that order.
func (v *Verifier) check(ctx context.Context, raw string) (*token, *Refusal) {
	t, refusal := parse(raw)
	if refusal != nil {
		return nil, refusal
	}
	for _, step := range []func() *Refusal{
		t.checkHeader,
		func() *Refusal { return t.checkIssuer(v) },
		t.checkAlgorithm,
		func() *Refusal { return t.checkSignature(ctx) },
		t.checkType,
		t.checkBinding,
		t.checkAudience,
		func() *Refusal { return t.checkTimes(v.now()) },
		t.readPrincipal,
		func() *Refusal { return t.issuer.has(t.principal) },
		t.checkPerson,
	} {
		if refusal := step(); refusal != nil {
			refusal.Issuer = excerpt(t.claimed("iss"))
			refusal.Subject = excerpt(t.claimed("sub"))
			return nil, refusal
		}
	}
	return t, nil
}

// Issuers are the issuers that tokens are accepted from, sorted.
func (v *Verifier) Issuers() []string {
	var names []string
	for _, i := range v.order {
		names = append(names, i.name)
	}
	slices.Sort(names)
	return names
}

// digestOf copies an ordinary token to the stack, to hash it without an allocation.
func digestOf(token string) [sha256.Size]byte {
	var stack [2048]byte
	if len(token) > len(stack) {
		return sha256.Sum256([]byte(token))
	}
	return sha256.Sum256(stack[:copy(stack[:], token)])
}
