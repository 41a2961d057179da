package extproctest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Audience is what agents ask tokens for.
const Audience = "countersign"

// Agent is a client that gets tokens for itself, by client credentials.
type Agent struct {
	ID     string
	Secret string
	Claims Claims // more claims of its tokens
}

// Person is someone who signs in with a password.
type Person struct {
	Subject  string // stable, and not the name
	Name     string // to sign in with
	Password string
	Email    string
	Groups   []string
}

// Application is a client that people sign in to, by authorization code with PKCE.
type Application struct {
	ID           string
	Secret       string // none for a public client
	RedirectURIs []string
}

// IssuerOptions vary an [Issuer]. The zero value has the agents agent-1 and agent-2, the people bob, alice and carol and the
// application countersign-console.
type IssuerOptions struct {
	Agents       []Agent
	People       []Person
	Applications []Application
	Algorithm    jose.SignatureAlgorithm // RS256 unless set; or ES256
	Authority    *Authority              // with one, the issuer speaks TLS
}

// defaultAgents are an issuer's agents unless its options say others.
func defaultAgents() []Agent {
	return []Agent{
		{ID: "agent-1", Secret: "agent-1-secret", Claims: Claims{"groups": []string{"agents"}}},
		{ID: "agent-2", Secret: "agent-2-secret", Claims: Claims{"groups": []string{"agents", "pii-reader"}}},
	}
}

// DefaultPeople returns an issuer's people unless its options say others.
func DefaultPeople() []Person {
	return []Person{
		{Subject: "u-bob", Name: "bob", Password: "bob-password", Email: "bob@example.com", Groups: []string{"payments-oncall"}},
		{Subject: "u-alice", Name: "alice", Password: "alice-password", Email: "alice@example.com", Groups: []string{"payments-oncall", "security"}},
		{Subject: "u-carol", Name: "carol", Password: "carol-password", Email: "carol@example.com"},
	}
}

// Issuer is an OpenID provider: discovery, keys, client credentials, and sign-in of people with a page for their password.
type Issuer struct {
	URL     string // the issuer, exactly
	Address string

	tb        TB
	authority *Authority
	algorithm jose.SignatureAlgorithm
	storage   *storage
	provider  http.Handler
	server    *http.Server
	client    *http.Client

	mu        sync.Mutex
	fetches   map[string]int
	intercept http.Handler
}

// StartIssuer starts an issuer that serves until the test ends.
func StartIssuer(tb TB, o IssuerOptions) *Issuer {
	tb.Helper()
	i := &Issuer{
		Address: FreeAddress(tb), tb: tb, authority: o.Authority, algorithm: o.Algorithm,
		fetches: map[string]int{}, client: &http.Client{Timeout: 10 * time.Second},
	}
	i.URL = "http://" + i.Address
	if o.Authority != nil {
		i.URL = "https://" + i.Address
		i.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: o.Authority.Pool, MinVersion: tls.VersionTLS12}}
	}
	if i.algorithm == "" {
		i.algorithm = jose.RS256
	}
	i.storage = newStorage(o, i.newKey())
	provider, err := newProvider(i.URL, i.storage)
	if err != nil {
		tb.Fatalf("make the issuer: %v", err)
	}
	i.provider = i.routes(provider)
	i.Start()
	tb.Cleanup(i.Stop)
	return i
}

func newProvider(issuer string, s *storage) (*op.Provider, error) {
	config := &op.Config{
		CryptoKey:             [32]byte{1}, // encrypts codes, which live only as long as this process
		CryptoKeyId:           "1",
		CodeMethodS256:        true,
		AuthMethodPost:        true,
		GrantTypeRefreshToken: false,
		SupportedScopes:       []string{"openid", "profile", "email", "groups"},
	}
	return op.NewProvider(config, s, op.StaticIssuer(issuer), op.WithAllowInsecure())
}

// Start serves again after [Issuer.Stop], at the same address and with the same keys.
func (i *Issuer) Start() {
	i.tb.Helper()
	listener, err := net.Listen("tcp", i.Address)
	if err != nil {
		i.tb.Fatalf("start the issuer: %v", err)
	}
	i.server = &http.Server{Handler: i, ErrorLog: quiet}
	if i.authority != nil {
		cert := i.authority.Issue("issuer.test")
		i.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert.TLS}, MinVersion: tls.VersionTLS12}
	}
	go func(server *http.Server, secure bool) {
		if secure {
			_ = server.ServeTLS(listener, "", "")
			return
		}
		_ = server.Serve(listener)
	}(i.server, i.authority != nil)
}

// Stop makes the issuer unreachable: connections are refused.
func (i *Issuer) Stop() { _ = i.server.Close() }

// Intercept has h answer in the issuer's place, to hang, fail or lie. Intercept(nil) ends that.
func (i *Issuer) Intercept(h http.Handler) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.intercept = h
}

// Fetches counts the requests by path: "/.well-known/openid-configuration", "/keys", "/oauth/token".
func (i *Issuer) Fetches() map[string]int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maps.Clone(i.fetches)
}

// ServeHTTP counts and serves.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.fetches[r.URL.Path]++
	h := i.intercept
	i.mu.Unlock()
	if h == nil {
		h = i.provider
	}
	h.ServeHTTP(w, r)
}

func (i *Issuer) routes(provider *op.Provider) http.Handler {
	interceptor := op.NewIssuerInterceptor(provider.IssuerFromRequest)
	callback := op.AuthCallbackURL(provider)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		_ = loginPage.Execute(w, loginForm{Request: r.URL.Query().Get("request")})
	})
	mux.HandleFunc("POST /login", interceptor.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request := r.PostFormValue("request")
		if !i.storage.signIn(request, r.PostFormValue("name"), r.PostFormValue("password")) {
			w.WriteHeader(http.StatusUnauthorized)
			_ = loginPage.Execute(w, loginForm{Request: request, Error: "That name and password do not go together."})
			return
		}
		http.Redirect(w, r, callback(r.Context(), request), http.StatusFound)
	}))
	mux.Handle("/", provider)
	return mux
}

type loginForm struct{ Request, Error string }

var loginPage = template.Must(template.New("login").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Sign in</title>
<h1>Sign in</h1>
{{with .Error}}<p role="alert">{{.}}</p>{{end}}
<form method="post" action="/login">
<input type="hidden" name="request" value="{{.Request}}">
<label>Name <input name="name" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Sign in</button>
</form>
</html>
`))

// AllowRedirect registers one more redirect URI of an application, for those that learn their port late.
func (i *Issuer) AllowRedirect(application, uri string) {
	i.tb.Helper()
	if !i.storage.allowRedirect(application, uri) {
		i.tb.Fatalf("allow a redirect: the issuer has no application %q", application)
	}
}

// AgentToken gets a token as agents do: from the token endpoint, with the agent's secret.
func (i *Issuer) AgentToken(ctx context.Context, agent string) (string, error) {
	client, ok := i.storage.agent(agent)
	if !ok {
		return "", fmt.Errorf("get a token: the issuer has no agent %q", agent)
	}
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"openid"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.URL+"/oauth/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(client.id), url.QueryEscape(client.secret))
	resp, err := i.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("get a token for %s: %w", agent, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("get a token for %s: %w", agent, err)
	}
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.AccessToken == "" {
		return "", fmt.Errorf("get a token for %s: %s: %s", agent, resp.Status, bytes.TrimSpace(body))
	}
	return answer.AccessToken, nil
}

// SignIn goes, as a browser would, to start, which must redirect to this issuer, signs name in, and follows redirects to
// the end. It returns the last answer, whose body is the caller's to close, and the browser with its cookies.
func (i *Issuer) SignIn(ctx context.Context, start, name, password string, trust *tls.Config) (*http.Response, *http.Client, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, nil, err
	}
	browser := &http.Client{Jar: jar, Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: trust}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, start, nil)
	if err != nil {
		return nil, nil, err
	}
	page, err := browser.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", start, err)
	}
	page.Body.Close()
	at := page.Request.URL
	if !strings.HasPrefix(at.String(), i.URL+"/login?") {
		return nil, nil, fmt.Errorf("open %s: it leads to %s (%s), not to the issuer's login", start, at, page.Status)
	}
	form := url.Values{"request": {at.Query().Get("request")}, "name": {name}, "password": {password}}
	req, err = http.NewRequestWithContext(ctx, http.MethodPost, i.URL+"/login", strings.NewReader(form.Encode()))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := browser.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("sign in as %s: %w", name, err)
	}
	return resp, browser, nil
}

// Rotate makes a new key that signs from now on. The old ones stay published, so that their tokens verify, until [Issuer.Retire].
func (i *Issuer) Rotate() {
	i.tb.Helper()
	i.storage.addKey(i.newKey())
}

// Retire stops publishing every key but the current one.
func (i *Issuer) Retire() { i.storage.retireKeys() }

// KeyID is the id of the key that signs now.
func (i *Issuer) KeyID() string { return i.storage.currentKey().id }

func (i *Issuer) newKey() *signingKey {
	i.tb.Helper()
	var key any
	var err error
	switch i.algorithm {
	case jose.RS256:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		err = fmt.Errorf("there is no key for algorithm %q", i.algorithm)
	}
	if err != nil {
		i.tb.Fatalf("make a signing key: %v", err)
	}
	return &signingKey{id: "key-" + rand.Text()[:8], algorithm: i.algorithm, private: key}
}
