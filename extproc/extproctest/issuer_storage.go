package extproctest

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// tokenLifetime is that of every token the provider issues.
const tokenLifetime = time.Hour

// storage is what the provider knows, in memory: clients, people, keys, and sign-ins under way. Access tokens are JWTs and
// are not remembered.
type storage struct {
	mu       sync.Mutex
	clients  map[string]*client
	people   []Person
	keys     []*signingKey // the last one signs
	requests map[string]*authRequest
	codes    map[string]string // code to request
}

func newStorage(o IssuerOptions, key *signingKey) *storage {
	if o.Agents == nil {
		o.Agents = defaultAgents()
	}
	if o.People == nil {
		o.People = DefaultPeople()
	}
	if o.Applications == nil {
		o.Applications = []Application{{ID: "countersign-console"}}
	}
	s := &storage{
		clients: map[string]*client{}, people: o.People, keys: []*signingKey{key},
		requests: map[string]*authRequest{}, codes: map[string]string{},
	}
	for _, a := range o.Agents {
		s.clients[a.ID] = &client{id: a.ID, secret: a.Secret, agent: true, claims: a.Claims}
	}
	for _, a := range o.Applications {
		s.clients[a.ID] = &client{id: a.ID, secret: a.Secret, redirects: a.RedirectURIs}
	}
	return s
}

func (s *storage) agent(id string) (*client, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.clients[id]
	return c, ok && c.agent
}

func (s *storage) person(subject string) (Person, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.people {
		if p.Subject == subject {
			return p, nil
		}
	}
	return Person{}, fmt.Errorf("no person has the subject %q", subject)
}

func (s *storage) allowRedirect(application, uri string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.clients[application]
	if !ok || c.agent {
		return false
	}
	// A copy: the provider may be reading the old one.
	next := *c
	next.redirects = append(slices.Clone(c.redirects), uri)
	s.clients[application] = &next
	return true
}

// signIn ties the sign-in under way to the person of that name, if the password is theirs.
func (s *storage) signIn(request, name, password string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.requests[request]
	if !ok {
		return false
	}
	for _, p := range s.people {
		if p.Name == name && subtle.ConstantTimeCompare([]byte(p.Password), []byte(password)) == 1 {
			next := *r
			next.subject, next.authTime = p.Subject, time.Now()
			s.requests[request] = &next
			return true
		}
	}
	return false
}

// Keys.

type signingKey struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   any
}

func (k *signingKey) ID() string                                  { return k.id }
func (k *signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return k.algorithm }
func (k *signingKey) Key() any                                    { return k.private }

type publicKey struct{ *signingKey }

func (k publicKey) Algorithm() jose.SignatureAlgorithm { return k.algorithm }
func (k publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any {
	web := jose.JSONWebKey{Key: k.private}
	return web.Public().Key
}

func (s *storage) currentKey() *signingKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[len(s.keys)-1]
}

func (s *storage) addKey(k *signingKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = append(s.keys, k)
}

func (s *storage) retireKeys() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = slices.Clone(s.keys[len(s.keys)-1:])
}

func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return s.currentKey(), nil }

func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{s.currentKey().algorithm}, nil
}

func (s *storage) KeySet(context.Context) ([]op.Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []op.Key
	for _, k := range s.keys {
		keys = append(keys, publicKey{k})
	}
	return keys, nil
}

// Clients.

func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.clients[id]
	if !ok {
		return nil, fmt.Errorf("no client %q", id)
	}
	return c, nil
}

func (s *storage) AuthorizeClientIDSecret(ctx context.Context, id, secret string) error {
	_, err := s.ClientCredentials(ctx, id, secret)
	return err
}

func (s *storage) ClientCredentials(_ context.Context, id, secret string) (op.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.clients[id]
	if !ok || c.secret == "" || subtle.ConstantTimeCompare([]byte(c.secret), []byte(secret)) != 1 {
		return nil, errors.New("wrong client id or secret")
	}
	return c, nil
}

func (s *storage) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	return &agentRequest{agent: id, scopes: scopes}, nil
}

type agentRequest struct {
	agent  string
	scopes []string
}

func (r *agentRequest) GetSubject() string    { return r.agent }
func (r *agentRequest) GetAudience() []string { return []string{Audience} }
func (r *agentRequest) GetScopes() []string   { return r.scopes }

// Sign-ins.

func (s *storage) CreateAuthRequest(_ context.Context, r *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	if slices.Contains(r.Prompt, oidc.PromptNone) {
		return nil, oidc.ErrLoginRequired() // no session is kept, so nobody is signed in yet
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	request := &authRequest{id: rand.Text(), asked: *r}
	s.requests[request.id] = request
	return request, nil
}

func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.requests[id]
	if !ok {
		return nil, fmt.Errorf("no sign-in %q is under way", id)
	}
	return r, nil
}

func (s *storage) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	s.mu.Lock()
	id, ok := s.codes[code]
	s.mu.Unlock()
	if !ok {
		return nil, errors.New("no such code")
	}
	return s.AuthRequestByID(ctx, id)
}

func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code] = id
	return nil
}

func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.requests, id)
	maps.DeleteFunc(s.codes, func(_, request string) bool { return request == id })
	return nil
}

// authRequest is a person's sign-in to an application. It is replaced, not changed.
type authRequest struct {
	id       string
	asked    oidc.AuthRequest
	subject  string // empty until signed in
	authTime time.Time
}

func (r *authRequest) GetID() string                      { return r.id }
func (r *authRequest) GetACR() string                     { return "" }
func (r *authRequest) GetAMR() []string                   { return []string{"pwd"} }
func (r *authRequest) GetAudience() []string              { return []string{r.asked.ClientID} }
func (r *authRequest) GetAuthTime() time.Time             { return r.authTime }
func (r *authRequest) GetClientID() string                { return r.asked.ClientID }
func (r *authRequest) GetNonce() string                   { return r.asked.Nonce }
func (r *authRequest) GetRedirectURI() string             { return r.asked.RedirectURI }
func (r *authRequest) GetResponseType() oidc.ResponseType { return r.asked.ResponseType }
func (r *authRequest) GetResponseMode() oidc.ResponseMode { return r.asked.ResponseMode }
func (r *authRequest) GetScopes() []string                { return r.asked.Scopes }
func (r *authRequest) GetState() string                   { return r.asked.State }
func (r *authRequest) GetSubject() string                 { return r.subject }
func (r *authRequest) Done() bool                         { return r.subject != "" }
func (r *authRequest) GetCodeChallenge() *oidc.CodeChallenge {
	if r.asked.CodeChallenge == "" {
		return nil
	}
	return &oidc.CodeChallenge{Challenge: r.asked.CodeChallenge, Method: r.asked.CodeChallengeMethod}
}

// Tokens.

func (s *storage) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	return rand.Text(), time.Now().Add(tokenLifetime), nil
}

// GetPrivateClaimsFromScopes gives the claims of an access token that are not of the protocol.
func (s *storage) GetPrivateClaimsFromScopes(_ context.Context, subject, clientID string, _ []string) (map[string]any, error) {
	if agent, ok := s.agent(clientID); ok {
		return maps.Clone(agent.claims), nil
	}
	p, err := s.person(subject)
	if err != nil {
		return nil, err
	}
	return map[string]any{"groups": p.Groups}, nil
}

// SetUserinfoFromRequest gives the claims of an ID token.
func (s *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, r op.IDTokenRequest, _ []string) error {
	return s.describe(info, r.GetSubject())
}

func (s *storage) SetUserinfoFromToken(_ context.Context, info *oidc.UserInfo, _, subject, _ string) error {
	return s.describe(info, subject)
}

func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

func (s *storage) describe(info *oidc.UserInfo, subject string) error {
	p, err := s.person(subject)
	if err != nil {
		return err
	}
	info.Subject = p.Subject
	info.Name, info.PreferredUsername = p.Name, p.Name
	info.Email, info.EmailVerified = p.Email, true
	info.AppendClaims("groups", slices.Clone(p.Groups))
	return nil
}

// What this provider does not do.

var errUnsupported = errors.New("the test issuer does not do this")

func (s *storage) CreateAccessAndRefreshTokens(context.Context, op.TokenRequest, string) (string, string, time.Time, error) {
	return "", "", time.Time{}, errUnsupported
}

func (s *storage) TokenRequestByRefreshToken(context.Context, string) (op.RefreshTokenRequest, error) {
	return nil, op.ErrInvalidRefreshToken
}

func (s *storage) GetRefreshTokenInfo(context.Context, string, string) (string, string, error) {
	return "", "", op.ErrInvalidRefreshToken
}

func (s *storage) RevokeToken(context.Context, string, string, string) *oidc.Error {
	return oidc.ErrServerError().WithParent(errUnsupported)
}

func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errUnsupported
}

func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errUnsupported
}

func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errUnsupported
}

func (s *storage) TerminateSession(context.Context, string, string) error { return nil }
func (s *storage) Health(context.Context) error                           { return nil }

// client is an agent or an application.
type client struct {
	id        string
	secret    string
	agent     bool
	claims    Claims
	redirects []string
}

func (c *client) GetID() string                       { return c.id }
func (c *client) RedirectURIs() []string              { return c.redirects }
func (c *client) PostLogoutRedirectURIs() []string    { return nil }
func (c *client) LoginURL(request string) string      { return "/login?request=" + request }
func (c *client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }
func (c *client) IDTokenLifetime() time.Duration      { return tokenLifetime }
func (c *client) DevMode() bool                       { return true } // plain http on loopback
func (c *client) IsScopeAllowed(scope string) bool    { return scope == "groups" }
func (c *client) ClockSkew() time.Duration            { return 0 }

// IDTokenUserinfoClaimsAssertion puts groups and e-mail into ID tokens, where consoles look for them.
func (c *client) IDTokenUserinfoClaimsAssertion() bool { return true }

func (c *client) ApplicationType() op.ApplicationType {
	if c.secret == "" {
		return op.ApplicationTypeNative
	}
	return op.ApplicationTypeWeb
}

func (c *client) AuthMethod() oidc.AuthMethod {
	if c.secret == "" {
		return oidc.AuthMethodNone
	}
	return oidc.AuthMethodBasic
}

func (c *client) ResponseTypes() []oidc.ResponseType {
	if c.agent {
		return nil
	}
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}

func (c *client) GrantTypes() []oidc.GrantType {
	if c.agent {
		return []oidc.GrantType{oidc.GrantTypeClientCredentials}
	}
	return []oidc.GrantType{oidc.GrantTypeCode}
}

//nolint:staticcheck // the name is the interface's
func (c *client) RestrictAdditionalIdTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}

func (c *client) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}
