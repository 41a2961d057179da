package identity

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// While the issuer is down, cached keys verify new tokens until they are too old; then everything is refused, also what
// was remembered. When it is back, so are we.
func TestIssuerDownCachedKeys(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c, func(i *Issuer) { i.KeysMaxAge = time.Hour; i.MaxLifetime = 3 * time.Hour })
	if v.Ready() == nil {
		t.Fatal("ready before any keys were fetched")
	}
	claims := with(good(a, c), object{"exp": c.now().Add(3 * time.Hour).Unix()})
	first := sign(t, standard, claims, keyRSA())
	if got := reason(t, v, first); got != "" {
		t.Fatalf("before: got %q", got)
	}
	a.down(true)
	c.advance(59 * time.Minute)
	if got := reason(t, v, sign(t, standard, with(claims, object{"jti": "2"}), keyRSA())); got != "" {
		t.Errorf("a new token while the issuer is down: got %q", got)
	}
	if err := v.Ready(); err != nil {
		t.Errorf("not ready with cached keys: %v", err)
	}
	c.advance(2 * time.Minute)
	for _, token := range []string{first, sign(t, standard, with(claims, object{"jti": "3"}), keyRSA())} {
		if got := reason(t, v, token); got != Unavailable {
			t.Errorf("with keys that are too old: got %q, want %q", got, Unavailable)
		}
	}
	if err := v.Ready(); err == nil || !strings.Contains(err.Error(), a.URL) || !strings.Contains(err.Error(), "503") {
		t.Errorf("ready says %v", err)
	}
	a.down(false)
	c.advance(refetchGap)
	if got := reason(t, v, first); got != "" {
		t.Errorf("after the issuer came back: got %q", got)
	}
}

func TestIssuerDownAtStart(t *testing.T) {
	a, c := newAuthority(t), newClock()
	a.down(true)
	v := verifier(t, a, c)
	token := sign(t, standard, good(a, c), keyRSA())
	if got := reason(t, v, token); got != Unavailable {
		t.Fatalf("got %q, want %q", got, Unavailable)
	}
	a.down(false)
	if got := reason(t, v, token); got != "" {
		t.Fatalf("when it is back: got %q", got)
	}
}

// Rotation: a token with a new key makes us fetch it; a key that is gone verifies nothing more, not even what was
// remembered; the same keys fetched again forget nothing.
func TestRotationDropsOldKey(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	old := sign(t, standard, good(a, c), keyRSA())
	first, err := v.Verify(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	fetchAgain(t, v)
	if again, err := v.Verify(t.Context(), old); err != nil || again != first {
		t.Fatalf("the same keys made another principal (%v)", err)
	}

	a.publish(public("k1", keyRSA()), public("k2", keyOtherRSA()))
	c.advance(refetchGap)
	next := sign(t, with(standard, object{"kid": "k2"}), good(a, c), keyOtherRSA())
	if got := reason(t, v, next); got != "" {
		t.Fatalf("a token with the new key: got %q", got)
	}
	if again, err := v.Verify(t.Context(), old); err != nil || again == first {
		t.Fatalf("a principal outlived a change of the key set (%v)", err)
	}

	a.publish(public("k2", keyOtherRSA()))
	fetchAgain(t, v)
	if got := reason(t, v, old); got != Signature {
		t.Errorf("a remembered token of a key that is gone: got %q, want %q", got, Signature)
	}
}

func fetchAgain(t *testing.T, v *Verifier) {
	t.Helper()
	if err := v.order[0].keys.fetchNow(); err != nil {
		t.Fatal(err)
	}
}

// The same key id with another key is a change too.
func TestRotationUnderTheSameKeyID(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	old := sign(t, standard, good(a, c), keyRSA())
	if got := reason(t, v, old); got != "" {
		t.Fatal(got)
	}
	a.publish(public("k1", keyOtherRSA()), public("e1", keyEC()))
	fetchAgain(t, v)
	if got := reason(t, v, old); got != Signature {
		t.Errorf("got %q, want %q", got, Signature)
	}
}

func TestRotationWithoutKeyIDs(t *testing.T) {
	a, c := newAuthority(t), newClock()
	a.publish(public("", keyRSA()))
	v := verifier(t, a, c)
	bare := with(standard, object{"kid": nil})
	p, err := v.Verify(t.Context(), sign(t, bare, good(a, c), keyRSA()))
	if err != nil || len(p.Verified.KeyID) != 43 {
		t.Fatalf("the key's thumbprint is its id: %v", err)
	}
	a.publish(public("", keyOtherRSA()))
	c.advance(refetchGap)
	if got := reason(t, v, sign(t, bare, good(a, c), keyOtherRSA())); got != "" {
		t.Errorf("got %q", got)
	}
}

// A key that names its algorithm verifies no other, though its type could.
func TestKeyVerifiesOnlyItsOwnAlgorithm(t *testing.T) {
	a, c := newAuthority(t), newClock()
	named := public("k1", keyRSA())
	named.Algorithm = "RS256"
	a.publish(named, public("k2", keyRSA()))
	v := verifier(t, a, c, func(i *Issuer) { i.Algorithms = []string{"RS256", "RS384", "PS256"} })
	for kid, want := range map[string]string{"k1": Signature, "k2": ""} {
		for _, alg := range []jose.SignatureAlgorithm{jose.RS384, jose.PS256} {
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: keyRSA()}, (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", kid))
			if err != nil {
				t.Fatal(err)
			}
			claims, _ := json.Marshal(good(a, c))
			jws, err := signer.Sign(claims)
			if err != nil {
				t.Fatal(err)
			}
			token, _ := jws.CompactSerialize()
			if got := reason(t, v, token); got != want {
				t.Errorf("%s with %s: got %q, want %q", alg, kid, got, want)
			}
		}
	}
}

// A key set that cannot be used does not replace one that can.
func TestABadKeySetChangesNothing(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for name, set := range map[string]any{
		"empty":       object{"keys": []any{}},
		"no set":      "hello",
		"other uses":  jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "k1", Key: keyRSA().Public(), Use: "enc"}}},
		"too many":    jose.JSONWebKeySet{Keys: slices.Repeat([]jose.JSONWebKey{public("k1", keyRSA())}, maxKeys+1)},
		"too long":    object{"keys": []any{public("k1", keyRSA())}, "padding": strings.Repeat("x", maxDocument)},
		"wrong alg":   jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "k1", Key: keyRSA().Public(), Algorithm: "ES256"}}},
		"short key":   jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public("k1", short)}},
		"unknown kty": object{"keys": []any{object{"kty": "XYZ", "kid": "k1"}}},
	} {
		a.publish(public("k1", keyRSA()))
		fetchAgain(t, v)
		a.change(func() { a.set = set })
		if err := v.order[0].keys.fetchNow(); err == nil {
			t.Errorf("%s: accepted", name)
		}
		n++
		if got := reason(t, v, sign(t, standard, with(good(a, c), object{"jti": fmt.Sprint(n)}), keyRSA())); got != "" {
			t.Errorf("%s: got %q", name, got)
		}
	}
	// One odd key among good ones is left out, and the others stay.
	a.change(func() {
		a.set = object{"keys": []any{object{"kty": "XYZ"}, object{"kty": "RSA"}, public("k1", keyRSA())}}
	})
	fetchAgain(t, v)
}

// Discovery is taken only from the configured issuer, and what it says only if it is about that issuer and safe.
func TestDiscoveryIsNotBelievedBlindly(t *testing.T) {
	evil := newAuthority(t)
	for name, metadata := range map[string]object{
		"another issuer":      {"issuer": evil.URL},
		"the issuer plus /":   {"issuer": "/"},
		"plain http keys":     {"jwks_uri": "http://keys.example.com/keys"},
		"keys in a file":      {"jwks_uri": "file:///keys"},
		"no address of keys":  {"jwks_uri": ""},
		"keys that are not a": {"jwks_uri": 5},
	} {
		a, c := newAuthority(t), newClock()
		if metadata["issuer"] == "/" {
			metadata["issuer"] = a.URL + "/"
		}
		a.change(func() { a.metadata = metadata })
		v := verifier(t, a, c)
		if got := reason(t, v, sign(t, standard, good(a, c), keyRSA())); got != Unavailable {
			t.Errorf("%s: got %q, want %q", name, got, Unavailable)
		}
	}
}

// A redirect cannot take an https issuer to plain http, not even on loopback, where metadata services listen.
func TestRedirectsDoNotLeaveTLS(t *testing.T) {
	inside := newAuthority(t)
	for _, to := range []string{inside.URL + "/.well-known/openid-configuration", "http://169.254.169.254/", "https://"} {
		outside := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }))
		defer outside.Close()
		v, err := New(Options{HTTPClient: outside.Client(), Issuers: []Issuer{{Issuer: outside.URL, Audience: []string{"x"}}}})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		if err := v.order[0].keys.fetchNow(); err == nil {
			t.Errorf("%s was followed", to)
		}
	}
	if inside.discovery.Load() != 0 {
		t.Error("the redirect reached loopback")
	}
}

// The background fetches, tries again after failures, raises an alarm when the issuer goes and when it comes back, and
// ends when told.
func TestBackground(t *testing.T) {
	a := newAuthority(t)
	told := &alarms{}
	v, err := New(Options{Alarm: told.raise, Issuers: []Issuer{{Issuer: a.URL, Audience: []string{"countersign"}, Refresh: time.Millisecond}}})
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan struct{}, 1)
	wait := func(c chan struct{}) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(20 * time.Second):
			t.Fatal("nothing was fetched")
		}
	}
	v.Start(t.Context())
	wait(a.fetched)
	wait(a.fetched) // so the first was installed
	if err := v.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	a.change(func() {
		a.fault = func(w http.ResponseWriter) bool {
			w.WriteHeader(http.StatusBadGateway)
			select {
			case failed <- struct{}{}:
			default:
			}
			return true
		}
	})
	wait(failed)
	wait(failed)
	if err := v.Ready(); err != nil {
		t.Errorf("not ready with cached keys: %v", err)
	}
	a.down(false)
	select { // one that was sent before the fault
	case <-a.fetched:
	default:
	}
	wait(a.fetched)
	wait(a.fetched)
	v.Close()
	told.mu.Lock()
	defer told.mu.Unlock()
	if got := strings.Join(told.kinds, " "); got != "issuer-unreachable issuer-recovered" {
		t.Errorf("alarms %q", got)
	}
	if !strings.Contains(told.text[0], a.URL) || !strings.Contains(told.text[0], "502") {
		t.Errorf("the alarm says %q", told.text[0])
	}
}

func TestCloseEndsAFetchUnderWay(t *testing.T) {
	asked := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { close(asked); <-r.Context().Done() }))
	defer s.Close()
	v, err := New(Options{Issuers: []Issuer{{Issuer: s.URL, Audience: []string{"x"}}}})
	if err != nil {
		t.Fatal(err)
	}
	v.Start(t.Context())
	<-asked
	v.Close()
	v.Close()
}

func TestKeySetFromAFile(t *testing.T) {
	c := newClock()
	file := filepath.Join(t.TempDir(), "keys.json")
	write := func(keys ...jose.JSONWebKey) {
		b, _ := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(public("k1", keyRSA()))
	a := &authority{Server: &httptest.Server{URL: "https://issuer.example"}}
	v := verifier(t, a, c, func(i *Issuer) { i.JWKSFile = file })
	if err := v.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if got := reason(t, v, sign(t, standard, good(a, c), keyRSA())); got != "" {
		t.Errorf("got %q", got)
	}
	write(public("k2", keyOtherRSA()))
	c.advance(refetchGap)
	if got := reason(t, v, sign(t, with(standard, object{"kid": "k2"}), good(a, c), keyOtherRSA())); got != "" {
		t.Errorf("after the file changed: got %q", got)
	}
}

func TestRememberedTokens(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	v.cache.size = 2
	tokens := make([]string, 3)
	for n := range tokens {
		tokens[n] = sign(t, standard, with(good(a, c), object{"jti": fmt.Sprint(n)}), keyRSA())
	}
	verify := func(n int) any {
		p, err := v.Verify(t.Context(), tokens[n])
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	zero, one := verify(0), verify(1)
	if verify(0) != zero {
		t.Error("the same token made two principals")
	}
	verify(2) // pushes out 1, which was used less recently than 0
	if verify(0) != zero {
		t.Error("the more recently used was forgotten")
	}
	if verify(1) == one {
		t.Error("more are remembered than there is room for")
	}
	if n := len(v.cache.byHash); n != 2 || v.cache.recent.Len() != 2 {
		t.Errorf("%d remembered", n)
	}
	// Refused tokens push out nobody.
	for n := range 5 {
		reason(t, v, sign(t, standard, with(good(a, c), object{"jti": fmt.Sprint("bad", n)}), keyOtherRSA()))
	}
	if verify(0) != zero {
		t.Error("refused tokens pushed out an accepted one")
	}
	// Many at once get one principal.
	v.cache.size = 10
	c.advance(time.Second)
	fresh := sign(t, standard, with(good(a, c), object{"jti": "many"}), keyRSA())
	var all sync.WaitGroup
	got := make([]any, 16)
	for n := range got {
		all.Go(func() { got[n], _ = v.Verify(t.Context(), fresh) })
	}
	all.Wait()
	for _, p := range got {
		if p != got[0] {
			t.Fatal("one token made two principals at the same time")
		}
	}
}
