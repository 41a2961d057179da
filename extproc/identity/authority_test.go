package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/extproc/gate"
)

// The keys of the tests are made once: RSA keys take long to find.
var (
	keyRSA      = sync.OnceValue(newRSA)
	keyOtherRSA = sync.OnceValue(newRSA)
	keyEC       = sync.OnceValue(func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		return k
	})
)

func newRSA() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
}

// authority is an issuer on loopback that can be told to misbehave.
type authority struct {
	*httptest.Server
	discovery, fetches atomic.Int64

	mu       sync.Mutex
	set      any                              // answered as the key set
	metadata map[string]any                   // of discovery, over the ordinary ones
	fault    func(w http.ResponseWriter) bool // true when it has answered
	fetched  chan struct{}                    // told of every fetch of the keys, when somebody listens
}

func newAuthority(t testing.TB) *authority {
	a := &authority{fetched: make(chan struct{}, 1)}
	a.publish(public("k1", keyRSA()), public("e1", keyEC()))
	a.Server = httptest.NewServer(a.handler())
	t.Cleanup(a.Close)
	return a
}

// newNearAuthority is one without a network, for tests whose time is testing/synctest's.
func newNearAuthority(name string) *authority {
	a := &authority{fetched: make(chan struct{}, 1), Server: &httptest.Server{URL: "https://" + name}}
	a.publish(public("k1", keyRSA()), public("e1", keyEC()))
	return a
}

// RoundTrip answers as the server would.
func (a *authority) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	a.handler().ServeHTTP(w, r)
	return w.Result(), nil
}

func (a *authority) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.fault != nil && a.fault(w) {
			return
		}
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			a.discovery.Add(1)
			doc := map[string]any{"issuer": a.URL, "jwks_uri": a.URL + "/keys", "authorization_endpoint": a.URL + "/a", "token_endpoint": a.URL + "/t"}
			maps.Copy(doc, a.metadata)
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(doc)
		case "/keys":
			a.fetches.Add(1)
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(a.set)
			select {
			case a.fetched <- struct{}{}:
			default:
			}
		default:
			http.NotFound(w, r)
		}
	})
	return mux
}

func (a *authority) publish(keys ...jose.JSONWebKey) {
	a.change(func() { a.set = jose.JSONWebKeySet{Keys: keys} })
}

func (a *authority) change(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

func (a *authority) down(down bool) {
	a.change(func() {
		a.fault = nil
		if down {
			a.fault = func(w http.ResponseWriter) bool {
				http.Error(w, "down", http.StatusServiceUnavailable)
				return true
			}
		}
	})
}

func public(kid string, key crypto.Signer) jose.JSONWebKey {
	return jose.JSONWebKey{KeyID: kid, Key: key.Public(), Use: "sig"}
}

// clock is a time that tests move.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

type alarms struct {
	mu    sync.Mutex
	kinds []string
	text  []string
}

func (a *alarms) raise(kind, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kinds = append(a.kinds, kind)
	a.text = append(a.text, text)
}

// verifier makes a Verifier of one issuer, changed by edits.
func verifier(t testing.TB, a *authority, c *clock, edits ...func(*Issuer)) *Verifier {
	i := Issuer{Issuer: a.URL, Audience: []string{"countersign"}}
	for _, edit := range edits {
		if edit != nil {
			edit(&i)
		}
	}
	v, err := New(Options{Issuers: []Issuer{i}, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	for _, i := range v.order {
		i.keys.gap = 0 // or each refused token would wait for its own fetch
	}
	return v
}

type object = map[string]any

// good are the claims of a client credentials token that is accepted (RFC 9068).
func good(a *authority, c *clock) object {
	return object{
		"iss": a.URL, "sub": "billing-agent", "client_id": "billing-agent", "aud": "countersign",
		"iat": c.now().Unix(), "exp": c.now().Add(time.Hour).Unix(), "jti": "token-1",
	}
}

func with(base object, changes object) object {
	o := maps.Clone(base)
	for name, value := range changes {
		if value == nil {
			delete(o, name)
		} else {
			o[name] = value
		}
	}
	return o
}

var standard = object{"alg": "RS256", "kid": "k1", "typ": "at+jwt"}

// sign makes a token of any header and claims; strings are taken as they are. It uses no JOSE library, so that it can
// make what no library would.
func sign(t testing.TB, header, claims any, key any) string {
	signed := encode(t, header) + "." + encode(t, claims)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signatureOf(t, signed, key))
}

func encode(t testing.TB, v any) string {
	s, raw := v.(string)
	if !raw {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		s = string(b)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(s))
}

func signatureOf(t testing.TB, signed string, key any) []byte {
	sum := sha256.Sum256([]byte(signed))
	switch key := key.(type) {
	case nil:
		return nil
	case []byte:
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(signed))
		return mac.Sum(nil)
	case *rsa.PrivateKey:
		b, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return b
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	default:
		t.Fatalf("cannot sign with a %T", key)
		return nil
	}
}

// reason verifies token and returns why it was refused, or "".
func reason(t testing.TB, v *Verifier, token string) string {
	t.Helper()
	p, err := v.Verify(t.Context(), token)
	return reasonOf(t, p, err)
}

func reasonOf(t testing.TB, p *gate.Principal, err error) string {
	t.Helper()
	if err == nil {
		if !p.Known() {
			t.Fatalf("accepted without a principal: %+v", p)
		}
		return ""
	}
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok {
		t.Fatalf("error %T is no Refusal: %v", err, err)
	}
	if p != nil {
		t.Fatalf("refused (%v) with a principal", err)
	}
	if refusal.Reason == "" || refusal.Detail == "" {
		t.Fatalf("refusal without a reason: %+v", refusal)
	}
	return refusal.Reason
}
