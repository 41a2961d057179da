package extproctest

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"
)

// verify reads a token as a relying party does that knows nothing of the issuer but its URL.
func verify(t *testing.T, i *Issuer, audience, token string, algorithms ...string) (*oidc.IDToken, error) {
	t.Helper()
	ctx := oidc.ClientContext(within(t), i.client)
	provider, err := oidc.NewProvider(ctx, i.URL)
	if err != nil {
		return nil, err
	}
	return provider.Verifier(&oidc.Config{ClientID: audience, SupportedSigningAlgs: algorithms}).Verify(ctx, token)
}

func TestAgentGetsATokenThatVerifies(t *testing.T) {
	authority := NewAuthority(t)
	for _, c := range []struct {
		name    string
		options IssuerOptions
	}{
		{"RS256", IssuerOptions{}},
		{"ES256", IssuerOptions{Algorithm: jose.ES256}},
		{"over TLS", IssuerOptions{Authority: authority}},
	} {
		t.Run(c.name, func(t *testing.T) {
			issuer := StartIssuer(t, c.options)
			token, err := issuer.AgentToken(within(t), "agent-2")
			if err != nil {
				t.Fatal(err)
			}
			algorithm := string(c.options.Algorithm)
			if algorithm == "" {
				algorithm = oidc.RS256
			}
			got, err := verify(t, issuer, Audience, token, algorithm)
			if err != nil {
				t.Fatal(err)
			}
			var claims struct {
				ClientID string `json:"client_id"`
				Groups   []string
			}
			if err := got.Claims(&claims); err != nil {
				t.Fatal(err)
			}
			if got.Subject != "agent-2" || claims.ClientID != "agent-2" || !slices.Contains(claims.Groups, "pii-reader") {
				t.Errorf("the token is of %q with %+v", got.Subject, claims)
			}
		})
	}
}

func TestWrongSecretGetsNoToken(t *testing.T) {
	issuer := StartIssuer(t, IssuerOptions{})
	resp, err := http.PostForm(issuer.URL+"/oauth/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"agent-1"}, "client_secret": {"guess"},
	})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		t.Error("a wrong secret got a token")
	}
}

func TestRotatedAndRetiredKeys(t *testing.T) {
	issuer := StartIssuer(t, IssuerOptions{})
	old := issuer.Token(nil)
	issuer.Rotate()
	if _, err := verify(t, issuer, Audience, old); err != nil {
		t.Errorf("after Rotate an old token does not verify: %v", err)
	}
	issuer.Retire()
	if _, err := verify(t, issuer, Audience, old); err == nil {
		t.Error("after Retire an old token verifies")
	}
	if _, err := verify(t, issuer, Audience, issuer.Token(nil)); err != nil {
		t.Errorf("a new token does not verify: %v", err)
	}
}

func TestMintedTokensAreWhatWasAsked(t *testing.T) {
	issuer := StartIssuer(t, IssuerOptions{})
	token, err := verify(t, issuer, Audience, issuer.Token(Claims{
		"sub": "u-bob", "act": map[string]any{"sub": "agent-1"}, "client_id": nil,
	}))
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := token.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	if _, there := claims["client_id"]; there || token.Subject != "u-bob" || claims["act"].(map[string]any)["sub"] != "agent-1" {
		t.Errorf("the claims are %v", claims)
	}
	for name, bad := range map[string]Mint{
		"unsigned":        {Algorithm: "none"},
		"HMAC":            {Algorithm: jose.HS256, Key: make([]byte, 32)},
		"another's key":   {Key: issuer.newKey().private},
		"unknown key":     {KeyID: "who"},
		"of the past":     {Claims: Claims{"exp": 1}},
		"another's token": {Claims: Claims{"iss": "http://other.example"}},
	} {
		if _, err := verify(t, issuer, Audience, issuer.Mint(bad)); err == nil {
			t.Errorf("%s: the token verifies", name)
		}
	}
}

func TestIssuerComesBackWithItsKeys(t *testing.T) {
	issuer := StartIssuer(t, IssuerOptions{})
	token := issuer.Token(nil)
	issuer.Stop()
	if _, err := verify(t, issuer, Audience, token); err == nil {
		t.Error("a stopped issuer answers")
	}
	issuer.Start()
	if _, err := verify(t, issuer, Audience, token); err != nil {
		t.Error(err)
	}
	if n := issuer.Fetches()["/keys"]; n != 1 {
		t.Errorf("its keys were fetched %d times, want 1", n)
	}
	issuer.Intercept(http.NotFoundHandler())
	if _, err := verify(t, issuer, Audience, token); err == nil {
		t.Error("the interceptor is passed by")
	}
}

// A person signs in to an application of ours: authorization code with PKCE, through the page, with a browser's redirects.
func TestPersonSignsIn(t *testing.T) {
	issuer := StartIssuer(t, IssuerOptions{})
	ctx := within(t)
	provider, err := oidc.NewProvider(ctx, issuer.URL)
	if err != nil {
		t.Fatal(err)
	}
	address := FreeAddress(t)
	app := &oauth2.Config{
		ClientID: "countersign-console", Endpoint: provider.Endpoint(), RedirectURL: "http://" + address + "/callback",
		Scopes: []string{"openid", "email", "groups"},
	}
	issuer.AllowRedirect(app.ClientID, app.RedirectURL)
	verifier := oauth2.GenerateVerifier()
	start := app.AuthCodeURL("state", oidc.Nonce("nonce"), oauth2.S256ChallengeOption(verifier))

	server := &http.Server{Addr: address, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.URL.Query().Get("code"))
	})}
	go func() { _ = server.ListenAndServe() }()
	t.Cleanup(func() { _ = server.Close() })

	resp, _, err := issuer.SignIn(ctx, start, "bob", "alice-password", nil)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("with another's password: %v, %v", resp, err)
	}
	resp.Body.Close()
	resp, _, err = issuer.SignIn(ctx, start, "bob", "bob-password", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	code, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := app.Exchange(ctx, string(code), oauth2.VerifierOption(oauth2.GenerateVerifier())); err == nil {
		t.Error("the code was exchanged with another verifier")
	}
	tokens, err := app.Exchange(ctx, string(code), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	id, err := verify(t, issuer, app.ClientID, tokens.Extra("id_token").(string))
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Email  string
		Groups []string
	}
	if err := errors.Join(id.Claims(&claims)); err != nil {
		t.Fatal(err)
	}
	if id.Subject != "u-bob" || id.Nonce != "nonce" || claims.Email != "bob@example.com" || !slices.Equal(claims.Groups, []string{"payments-oncall"}) {
		t.Errorf("signed in as %q with %+v", id.Subject, claims)
	}
}
