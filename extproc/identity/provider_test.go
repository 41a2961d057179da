package identity

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/countersign/countersign/extproc/gate"
)

// providerStorage is zitadel's example storage, with JWT access tokens that are for this gateway.
type providerStorage struct{ *storage.Storage }

type jwtClient struct{ op.Client }

func (jwtClient) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

func (s providerStorage) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	c, err := s.Storage.ClientCredentials(ctx, id, secret)
	return jwtClient{c}, err
}

func (s providerStorage) ClientCredentialsTokenRequest(ctx context.Context, id string, scopes []string) (op.TokenRequest, error) {
	r, err := s.Storage.ClientCredentialsTokenRequest(ctx, id, scopes)
	if err != nil {
		return nil, err
	}
	r.(*oidc.JWTTokenRequest).Audience = []string{"countersign"}
	return r, nil
}

// provider starts zitadel's OpenID provider on loopback, and returns it with its issuer.
func provider(t *testing.T) (*op.Provider, string) {
	var handler http.Handler
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(s.Close)
	p, err := op.NewProvider(
		&op.Config{CryptoKey: sha256.Sum256([]byte("test")), CodeMethodS256: true, AuthMethodPost: true},
		providerStorage{storage.NewStorage(storage.NewUserStore(s.URL))},
		op.StaticIssuer(s.URL), op.WithAllowInsecure(),
	)
	if err != nil {
		t.Fatal(err)
	}
	handler = p
	return p, s.URL
}

func TestOpenIDProvider(t *testing.T) {
	_, issuer := provider(t)
	resp, err := http.PostForm(issuer+"/oauth/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"sid1"}, "client_secret": {"verysecret"}, "scope": {"openid"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || strings.Count(answer.AccessToken, ".") != 2 {
		t.Fatalf("the provider answered %s, %+v, %v", resp.Status, answer, err)
	}

	v, err := New(Options{Issuers: []Issuer{{Issuer: issuer, Audience: []string{"countersign"}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	v.Start(t.Context())
	p, err := v.Verify(t.Context(), answer.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	want := &gate.Principal{
		Issuer: issuer, Subject: "sid1", ClientID: "sid1", Kind: "agent", Name: "sid1",
		Verified: gate.Verification{Method: "oidc", Algorithm: "RS256"},
	}
	if diff := cmp.Diff(want, p, cmpopts.IgnoreFields(gate.Principal{}, "Claims"), cmpopts.IgnoreUnexported(gate.Principal{}), cmpopts.IgnoreFields(gate.Verification{}, "KeyID", "TokenID", "Digest", "Expires", "Accepted")); diff != "" {
		claims, _ := gate.AppendJSON(nil, p.Claims)
		t.Errorf("(-want +got)\n%s%s", diff, claims)
	}
	if p.Verified.KeyID == "" || p.Verified.TokenID == "" || time.Until(p.Verified.Expires) <= 0 {
		t.Errorf("verified %+v", p.Verified)
	}
	if err := v.Ready(); err != nil {
		t.Error(err)
	}
}

// The provider's own ID token, for an audience that would be accepted.
func TestOpenIDProviderIDToken(t *testing.T) {
	p, issuer := provider(t)
	client, err := p.Storage().(providerStorage).Storage.ClientCredentials(t.Context(), "sid1", "verysecret")
	if err != nil {
		t.Fatal(err)
	}
	request := &idTokenRequest{JWTTokenRequest: &oidc.JWTTokenRequest{Subject: "id1", Audience: []string{"countersign"}, Scopes: []string{"openid"}}}
	ctx := op.ContextWithIssuer(t.Context(), issuer)
	token, err := op.CreateIDToken(ctx, issuer, request, time.Hour, "an-access-token", "", p.Storage(), client)
	if err != nil {
		t.Fatal(err)
	}
	v, err := New(Options{Issuers: []Issuer{{Issuer: issuer, Audience: []string{"countersign"}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if got := reason(t, v, token); got != Type {
		t.Errorf("got %q, want %q", got, Type)
	}
}

type idTokenRequest struct{ *oidc.JWTTokenRequest }

func (idTokenRequest) GetAMR() []string       { return nil }
func (idTokenRequest) GetAuthTime() time.Time { return time.Time{} }
func (idTokenRequest) GetClientID() string    { return "sid1" }
