package console

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-json-experiment/json"
	"golang.org/x/oauth2"

	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/keyfile"
	"github.com/countersign/countersign/extproc/loopback"
)

const (
	signInLife   = 10 * time.Minute // from the redirect to the issuer until the browser is back
	idTokenAge   = 5 * time.Minute  // since `iat`: the token was made for this sign-in
	signInSkew   = time.Minute
	issuerWait   = 10 * time.Second
	providerLife = time.Hour // then discovery is read again
)

// signIn is the client of the people's issuer.
type signIn struct {
	issuer, clientID string
	secret           func() (string, error)
	redirect         string
	algorithms       []string
	naming           identity.Issuer // how its claims are read
	client           *http.Client
	sealer           sealer
	now              func() time.Time

	mu       sync.Mutex
	provider *oidc.Provider
	since    time.Time
}

// flow is a sign-in under way, as the browser that began it keeps it, sealed.
type flow struct {
	State    string   `json:"state"`
	Nonce    string   `json:"nonce"`
	Verifier string   `json:"verifier"` // PKCE (RFC 7636)
	Return   string   `json:"return"`
	Began    int64    `json:"began"`
	Fresh    bool     `json:"fresh"` // the issuer was asked to have the person authenticate now
	ACR      []string `json:"acr"`
}

func newSignIn(o Options, base *url.URL) (*signIn, error) {
	u, err := url.Parse(o.Issuer)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !o.Insecure && !loopback.Host(u.Hostname())) {
		return nil, fmt.Errorf("the people's issuer %q is not https://HOST", o.Issuer)
	}
	seal, err := newSealer()
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one, unless this program changes it
	roots, err := keyfile.RootsOrSystem(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("the people's issuer: ca_file: %w", err)
	}
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	transport.MaxResponseHeaderBytes = 64 << 10
	return &signIn{
		issuer: o.Issuer, clientID: o.ClientID, secret: o.ClientSecret, redirect: base.String() + "/callback",
		algorithms: o.Algorithms, naming: identity.Issuer{Issuer: o.Issuer, Kind: o.Kind, GroupsClaim: o.GroupsClaim, PersonClaim: o.PersonClaim, PersonNameClaim: o.NameClaim}, sealer: seal, now: o.Now,
		client: &http.Client{
			Transport: sameScheme{transport, u.Scheme}, Timeout: issuerWait,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// sameScheme keeps an https issuer from sending us, and the code, to plain http.
type sameScheme struct {
	base   http.RoundTripper
	scheme string
}

func (t sameScheme) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && r.URL.Scheme != t.scheme {
		return nil, fmt.Errorf("%s is not https", r.URL.Redacted())
	}
	return t.base.RoundTrip(r)
}

// discover returns the issuer's metadata, read again from time to time. go-oidc wants exactly the issuer that was asked.
func (s *signIn) discover(ctx context.Context) (*oidc.Provider, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.provider != nil && s.now().Sub(s.since) < providerLife {
		return s.provider, nil
	}
	p, err := oidc.NewProvider(oidc.ClientContext(ctx, s.client), s.issuer)
	if err != nil {
		return nil, fmt.Errorf("discover the people's issuer: %w", err)
	}
	s.provider, s.since = p, s.now()
	return p, nil
}

// config is the client as the issuer wants it. A confidential client is never taken for a public one: without its secret
// there is no sign-in.
func (s *signIn) config(p *oidc.Provider) (*oauth2.Config, error) {
	c := &oauth2.Config{ClientID: s.clientID, Endpoint: p.Endpoint(), RedirectURL: s.redirect, Scopes: []string{oidc.ScopeOpenID, "profile", "groups"}}
	if s.naming.PersonClaim == "email" {
		c.Scopes = append(c.Scopes, "email")
	}
	var metadata struct {
		Scopes  []string `json:"scopes_supported"`
		Methods []string `json:"token_endpoint_auth_methods_supported"`
	}
	if err := p.Claims(&metadata); err != nil {
		return nil, fmt.Errorf("read the metadata of the people's issuer: %w", err)
	}
	if len(metadata.Scopes) > 0 {
		c.Scopes = slices.DeleteFunc(c.Scopes, func(scope string) bool {
			return scope != oidc.ScopeOpenID && !slices.Contains(metadata.Scopes, scope)
		})
	}
	c.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	if s.secret == nil {
		return c, nil
	}
	var err error
	if c.ClientSecret, err = s.secret(); err != nil {
		return nil, err
	}
	if c.ClientSecret == "" {
		return nil, errors.New("the console's client secret is empty")
	}
	// RFC 6749, section 2.3.1; OpenID Connect Discovery, section 3. Said outright: trying both would spend the code on the first.
	if len(metadata.Methods) == 0 || slices.Contains(metadata.Methods, "client_secret_basic") {
		c.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	}
	return c, nil
}

// begin returns where to send the browser, and what it must bring back.
func (s *signIn) begin(ctx context.Context, f flow) (address, sealed string, err error) {
	p, err := s.discover(ctx)
	if err != nil {
		return "", "", err
	}
	client, err := s.config(p)
	if err != nil {
		return "", "", err
	}
	f.State, f.Nonce, f.Verifier, f.Began = secret(), secret(), oauth2.GenerateVerifier(), s.now().Unix()
	if sealed, err = s.sealer.seal(signInCookie, f); err != nil {
		return "", "", err
	}
	options := []oauth2.AuthCodeOption{oidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier)}
	if f.Fresh {
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"), oauth2.SetAuthURLParam("max_age", "0"))
	}
	if len(f.ACR) > 0 {
		options = append(options, oauth2.SetAuthURLParam("acr_values", strings.Join(f.ACR, " ")))
	}
	return client.AuthCodeURL(f.State, options...), sealed, nil
}

// errIssuer is the issuer's failure and nobody's attack.
var errIssuer = errors.New("the people's issuer cannot be reached, or refused the sign-in")

// open returns the sign-in that a browser brings back.
func (s *signIn) open(sealed string) (f flow, err error) {
	if err := s.sealer.open(signInCookie, sealed, &f); err != nil {
		return f, err
	}
	if age := s.now().Sub(time.Unix(f.Began, 0)); age < 0 || age > signInLife {
		return f, fmt.Errorf("the sign-in took longer than %v", signInLife)
	}
	return f, nil
}

// end turns what the issuer sent the browser back with into a person.
func (s *signIn) end(ctx context.Context, f flow, q url.Values) (person, error) {
	for name, list := range q {
		if len(list) != 1 {
			return person{}, fmt.Errorf("the parameter %s is there %d times", quote(name), len(list))
		}
	}
	if state := q.Get("state"); subtle.ConstantTimeCompare([]byte(state), []byte(f.State)) != 1 {
		return person{}, errors.New("this browser did not begin the sign-in that it brings back (state)")
	}
	if iss, there := q["iss"]; there && iss[0] != s.issuer { // RFC 9207
		return person{}, fmt.Errorf("the sign-in comes back from issuer %s", quote(iss[0]))
	}
	if q.Has("error") {
		return person{}, fmt.Errorf("%w: %s", errIssuer, quote(q.Get("error")))
	}
	p, err := s.discover(ctx)
	if err != nil {
		return person{}, fmt.Errorf("%w: %w", errIssuer, err)
	}
	client, err := s.config(p)
	if err != nil {
		return person{}, fmt.Errorf("%w: %w", errIssuer, err)
	}
	ctx = oidc.ClientContext(ctx, s.client)
	token, err := client.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(f.Verifier))
	if err != nil {
		return person{}, fmt.Errorf("%w: exchange the code: %w", errIssuer, err)
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok || raw == "" {
		return person{}, errors.New("the issuer sent no ID token")
	}
	verified, err := p.Verifier(&oidc.Config{ClientID: s.clientID, SupportedSigningAlgs: s.algorithms, Now: s.now}).Verify(ctx, raw)
	if err != nil {
		return person{}, fmt.Errorf("the ID token is not good: %w", err)
	}
	if verified.AccessTokenHash != "" {
		if err := verified.VerifyAccessToken(token.AccessToken); err != nil {
			return person{}, fmt.Errorf("the ID token belongs to another access token (at_hash): %w", err)
		}
	}
	return s.person(f, raw)
}

// idClaims are those of an ID token (OpenID Connect Core, section 2) that we read for ourselves: exact names, none twice.
type idClaims struct {
	Issuer   string  `json:"iss"`
	Subject  string  `json:"sub"`
	Audience any     `json:"aud"`
	Party    string  `json:"azp"`
	IssuedAt float64 `json:"iat"`
	Nonce    string  `json:"nonce"`

	authentication `json:",embed"`
}

// person reads a verified ID token once more, strictly, and decides on that reading.
func (s *signIn) person(f flow, raw string) (person, error) {
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		return person{}, errors.New("the ID token cannot be read")
	}
	var c idClaims
	if err := json.Unmarshal(payload, &c); err != nil {
		return person{}, errors.New("the ID token's claims cannot be read in one way only")
	}
	who, err := identity.ReadIDToken(s.naming, payload, s.clientID)
	if err != nil {
		return person{}, err
	}
	p := person{Approver: approverOf(who), how: "session"}
	if err := c.into(&p.Approver); err != nil {
		return person{}, err
	}
	return p, c.check(s, f, p.AuthTime)
}

func (c *idClaims) check(s *signIn, f flow, authTime time.Time) error {
	audience, several := c.Audience.([]any)
	age := s.now().Sub(time.Unix(int64(c.IssuedAt), 0))
	switch {
	case c.Issuer != s.issuer:
		return fmt.Errorf("the ID token is of issuer %s", quote(c.Issuer))
	case c.Subject == "" || len(c.Subject) > 512 || strings.ContainsFunc(c.Subject, func(r rune) bool { return r < ' ' || r == 0x7F }):
		return errors.New("the ID token names nobody (sub)")
	case c.Audience != s.clientID && (!several || !slices.Contains(audience, any(s.clientID))):
		return errors.New("the ID token is for another client (aud)")
	case several && len(audience) > 1 && c.Party == "" || c.Party != "" && c.Party != s.clientID:
		return errors.New("the ID token was issued to another client (azp)")
	case c.Nonce == "" || subtle.ConstantTimeCompare([]byte(c.Nonce), []byte(f.Nonce)) != 1:
		return errors.New("the ID token is of another sign-in (nonce)")
	case age > idTokenAge || age < -signInSkew:
		return errors.New("the ID token was not issued just now (iat)")
	case f.Fresh && authTime.Before(time.Unix(f.Began, 0).Add(-signInSkew)):
		return errors.New("the issuer was asked to have the person sign in anew, and did not (auth_time)")
	default:
		return nil
	}
}

// beginSignIn is GET /login?return=PATH&fresh=1&acr=VALUE.
func (c *Console) beginSignIn(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	back, ok := localPath(q.Get("return"))
	if !ok || len(q["return"]) > 1 {
		c.refuse(w, r, false, &refusal{
			reason: ReasonReturn, detail: "a sign-in was to end at " + quote(q.Get("return")),
			problem: unreadable("The link that brought you here would have led to another site after signing in. Nothing was done."),
		})
		return
	}
	f := flow{Return: back, Fresh: q.Get("fresh") == "1"}
	for _, acr := range q["acr"] {
		if acr == "" || len(acr) > 256 || len(f.ACR) > 8 || strings.ContainsFunc(acr, func(r rune) bool { return r <= ' ' || r >= 0x7F }) {
			c.showProblem(w, r, unreadable("The sign-in that was asked for cannot be read."))
			return
		}
		f.ACR = append(f.ACR, acr)
	}
	address, sealed, err := c.signIn.begin(r.Context(), f)
	if err != nil {
		c.log.Error("a sign-in could not begin", "error", err)
		c.showProblem(w, r, unavailable("The people's issuer cannot be reached at the moment. Try again later."))
		return
	}
	setCookie(w, signInCookie, sealed, signInLife)
	http.Redirect(w, r, address, http.StatusSeeOther)
}

// endSignIn is where the issuer sends the browser back to.
func (c *Console) endSignIn(w http.ResponseWriter, r *http.Request) {
	sealed, there, one := cookie(r, signInCookie)
	setCookie(w, signInCookie, "", 0)
	var f flow
	var err error
	switch {
	case !there:
		err = errors.New("this browser has begun no sign-in")
	case !one:
		err = errors.New("this browser has two sign-ins under way")
	default:
		f, err = c.signIn.open(sealed)
	}
	var who person
	if err == nil {
		who, err = c.signIn.end(r.Context(), f, r.URL.Query())
	}
	if err != nil {
		p := problem{kind: "unauthenticated", title: "Not signed in", status: http.StatusUnauthorized, detail: "The sign-in did not work. Begin again.", at: f.Return}
		if errors.Is(err, errIssuer) {
			c.log.Error("a sign-in did not work", "error", err)
		}
		c.refuse(w, r, false, &refusal{reason: ReasonSignIn, detail: err.Error(), problem: p})
		return
	}
	// A session that the browser had, perhaps one that somebody put there, ends: the new one has an id of its own.
	if old, there, _ := cookie(r, sessionCookie); there {
		c.sessions.end(old)
	}
	setCookie(w, sessionCookie, c.sessions.begin(who, c.now()), sessionLife)
	back, ok := localPath(f.Return)
	if !ok {
		back = "/"
	}
	http.Redirect(w, r, back, http.StatusSeeOther)
}
