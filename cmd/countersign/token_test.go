package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestTokensThatAreNone sends tokens that are nearly good. Each is refused with a record that says why, and none of them
// reaches policy or the target.
func TestTokensThatAreNone(t *testing.T) {
	t.Parallel()
	g := start(t, readAll, story.Options{})
	acceptConsole(t, g)
	foreign := extproctest.StartIssuer(t, extproctest.IssuerOptions{})
	own, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	public := issuerKey(t, g)
	der, err := x509.MarshalPKIXPublicKey(public)
	must(t, err)
	good := g.Issuer.Token(nil)
	parts := strings.Split(good, ".")
	now := time.Now()
	mint := func(m extproctest.Mint) string { return g.Issuer.Mint(m) }
	with := func(c extproctest.Claims) string { return g.Issuer.Token(c) }
	for _, c := range []struct{ name, token, reason string }{
		{"alg none", mint(extproctest.Mint{Algorithm: "none"}), "algorithm"},
		{"alg none with the good signature", mint(extproctest.Mint{Algorithm: "none"}) + parts[2], "algorithm"},
		{"no signature", parts[0] + "." + parts[1] + ".", ""},
		{"the public key as an HMAC secret, DER", mint(extproctest.Mint{Algorithm: jose.HS256, Key: der}), "algorithm"},
		{"the public key as an HMAC secret, PEM", mint(extproctest.Mint{Algorithm: jose.HS256, Key: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}), "algorithm"},
		{"the modulus as an HMAC secret", mint(extproctest.Mint{Algorithm: jose.HS512, Key: public.N.Bytes()}), "algorithm"},
		{"an algorithm that is not accepted", mint(extproctest.Mint{Algorithm: jose.PS256}), "algorithm"},
		{"another key under the good key's id", mint(extproctest.Mint{Key: own}), "signature"},
		{"a key that the token brings along", mint(extproctest.Mint{Key: own, Header: map[string]any{"jwk": jose.JSONWebKey{Key: own.Public()}}}), ""},
		{"a key behind an address", mint(extproctest.Mint{Key: own, Header: map[string]any{"jku": foreign.URL + "/keys"}}), ""},
		{"a key id that is a path", mint(extproctest.Mint{KeyID: "../../../dev/null", Key: own}), "signature"},
		{"a critical header", mint(extproctest.Mint{Header: map[string]any{"crit": []string{"exp"}}}), ""},
		{"claims of another signature", parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"admin"}`)) + "." + parts[2], ""},
		{"a foreign issuer", foreign.Token(nil), "issuer"},
		{"a foreign issuer that says it is ours", foreign.Token(extproctest.Claims{"iss": g.Issuer.URL}), ""},
		{"our issuer with a slash", with(extproctest.Claims{"iss": g.Issuer.URL + "/"}), "issuer"},
		{"a foreign audience", with(extproctest.Claims{"aud": "another-gateway"}), "audience"},
		{"an audience that begins alike", with(extproctest.Claims{"aud": extproctest.Audience + "-staging"}), "audience"},
		{"no audience", with(extproctest.Claims{"aud": nil}), "audience"},
		{"expired", with(extproctest.Claims{"exp": now.Add(-2 * time.Minute).Unix()}), "expired"},
		{"no expiry", with(extproctest.Claims{"exp": nil}), ""},
		{"an expiry that is text", with(extproctest.Claims{"exp": "never"}), ""},
		{"not yet", with(extproctest.Claims{"nbf": now.Add(time.Hour).Unix(), "exp": now.Add(2 * time.Hour).Unix()}), ""},
		{"issued in the future", with(extproctest.Claims{"iat": now.Add(time.Hour).Unix(), "exp": now.Add(2 * time.Hour).Unix()}), ""},
		{"good for a year", with(extproctest.Claims{"exp": now.AddDate(1, 0, 0).Unix()}), ""},
		{"no subject", with(extproctest.Claims{"sub": nil}), ""},
		{"an empty subject", with(extproctest.Claims{"sub": ""}), ""},
		{"an ID token", idToken(t, g), "type"},
		{"what looks like an ID token", with(extproctest.Claims{"nonce": "n"}), "type"},
		{"a token of another type", mint(extproctest.Mint{Type: "logout+jwt"}), "type"},
		{"two tokens", good + "," + good, "malformed"},
		{"a token that goes on", good + "A", ""},
		{"a token in other letters", strings.ToUpper(good), ""},
		{"a token of another length", strings.Repeat("a.", 20000), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(g.Records())
			a, err := askWith(t, g, c.token, "/v1/payments/7")
			must(t, err)
			if a.Status != 401 || a.Problem() != "unauthenticated" {
				t.Fatalf("answer %d %s", a.Status, a.Body)
			}
			r := g.AwaitRecord("the refusal", func(r story.Record) bool { return r.Type == "identity.refused" && r.Seq > uint64(before) })
			if got := fmt.Sprint(r.Body["reason"]); c.reason != "" && got != c.reason {
				t.Errorf("refused for %s, and should be for %s: %v", got, c.reason, r.Body["detail"])
			}
			if text := fmt.Sprint(r.Body); len(c.token) > 40 && strings.Contains(text, c.token[len(c.token)-30:]) {
				t.Errorf("the record has the token: %s", text)
			}
		})
	}
	if n := len(g.Target.Requests()); n != 0 {
		t.Errorf("the target saw %d requests", n)
	}
	if a, err := askWith(t, g, good, "/v1/payments/7"); err != nil || a.Status != 200 {
		t.Errorf("the good token: %v, %v", a, err)
	}
	reconcile(t, g)
}

// acceptConsole has the gateway accept the audience of the people's console, so that an ID token has an audience that is
// accepted.
func acceptConsole(t *testing.T, g *story.Gateway) {
	t.Helper()
	reconfigure(t, g, "["+extproctest.Audience+"]", "["+extproctest.Audience+", countersign-console]")
}

// reconfigure replaces text in the configuration and waits until that is active.
func reconfigure(t *testing.T, g *story.Gateway, old, text string) {
	t.Helper()
	conf, err := os.ReadFile(g.Config)
	must(t, err)
	if !strings.Contains(string(conf), old) {
		t.Fatalf("%q is not in the configuration:\n%s", old, conf)
	}
	last := uint64(len(g.Records()))
	g.Write("countersign.yaml", strings.Replace(string(conf), old, text, 1))
	g.Process.Signal(syscall.SIGHUP)
	g.AwaitRecord("the new configuration", func(r story.Record) bool { return r.Type == "config.activated" && r.Seq > last })
}

// issuerKey is the key that the issuer publishes.
func issuerKey(t *testing.T, g *story.Gateway) *rsa.PublicKey {
	t.Helper()
	_, text := get(t, g.Issuer.URL+"/keys")
	var set struct {
		Keys []struct{ N, E string }
	}
	must(t, json.Unmarshal([]byte(text), &set))
	n, err := base64.RawURLEncoding.DecodeString(set.Keys[0].N)
	must(t, err)
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}
}

// idToken signs bob in to the console, as a browser does, and returns the ID token that the console gets.
func idToken(t *testing.T, g *story.Gateway) string {
	t.Helper()
	const verifier = "a-verifier-that-is-long-enough-for-the-specification"
	var token string
	mux := http.NewServeMux()
	console := httptest.NewServer(mux)
	defer console.Close()
	g.Issuer.AllowRedirect("countersign-console", console.URL+"/callback")
	mux.HandleFunc("/start", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, g.Issuer.URL+"/authorize?"+url.Values{
			"client_id": {"countersign-console"}, "response_type": {"code"}, "scope": {"openid"}, "redirect_uri": {console.URL + "/callback"},
			"code_challenge": {verifier}, "code_challenge_method": {"plain"}, "nonce": {"n-1"}, "state": {"s-1"},
		}.Encode(), http.StatusFound)
	})
	mux.HandleFunc("/callback", func(w http.ResponseWriter, r *http.Request) {
		resp, err := http.PostForm(g.Issuer.URL+"/oauth/token", url.Values{
			"grant_type": {"authorization_code"}, "client_id": {"countersign-console"}, "code": {r.FormValue("code")},
			"redirect_uri": {console.URL + "/callback"}, "code_verifier": {verifier},
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		var answer struct {
			IDToken string `json:"id_token"`
		}
		text, _ := io.ReadAll(resp.Body)
		_ = json.Unmarshal(text, &answer)
		token = answer.IDToken
		_, _ = w.Write(text)
	})
	bob := extproctest.DefaultPeople()[0]
	resp, _, err := g.Issuer.SignIn(t.Context(), console.URL+"/start", bob.Name, bob.Password, nil)
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	if strings.Count(token, ".") != 2 {
		t.Fatalf("the console got no ID token: %s %s", resp.Status, text)
	}
	return token
}

// TestRevocationByReload takes an agent's access away and gives it back, while its token stays good, and was remembered.
func TestRevocationByReload(t *testing.T) {
	t.Parallel()
	g := start(t, readAll, story.Options{})
	token := g.Issuer.Token(extproctest.Claims{"jti": "token-1"})
	const agents = "audience: [" + extproctest.Audience + "]"
	was := agents
	for _, c := range []struct{ more, reason string }{
		{"", ""},
		{"\n    revoked: [agent-1]", "revoked"},
		{"\n    revoked: [token-1]", "revoked"},
		{"\n    revoked: [agent-2]", ""},
		{"\n    subjects: [agent-2]", "unregistered"},
		{"\n    subjects: [agent-1, agent-2]", ""},
		{"\n    subjects: [agent-1]\n    revoked: [agent-1]", "revoked"},
	} {
		if is := agents + c.more; is != was {
			reconfigure(t, g, was, is)
			was = is
		}
		last := uint64(len(g.Records()))
		a, err := askWith(t, g, token, "/v1/payments/7")
		must(t, err)
		switch {
		case c.reason == "" && a.Status != 200:
			t.Errorf("%q: answer %d %s", c.more, a.Status, a.Body)
		case c.reason != "":
			r := g.AwaitRecord("the refusal", func(r story.Record) bool { return r.Type == "identity.refused" && r.Seq > last })
			if a.Status != 401 || r.Body["reason"] != c.reason {
				t.Errorf("%q: answer %d, refused for %v", c.more, a.Status, r.Body["reason"])
			}
		}
	}
	reconcile(t, g)
}
