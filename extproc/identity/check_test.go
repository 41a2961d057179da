package identity

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// TestChecks has a case for every check; a token that fails two is refused for the first.
func TestChecks(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c, func(i *Issuer) { i.Revoked = []string{"stolen-agent", "stolen-client", "stolen-token"} })
	ok := good(a, c)
	at := func(d time.Duration) int64 { return c.now().Add(d).Unix() }
	for _, tc := range []struct {
		name   string
		header object
		claims any
		key    any
		want   string
	}{
		{"an access token is accepted", standard, ok, keyRSA(), ""},
		{"so is one signed with ES256", with(standard, object{"alg": "ES256", "kid": "e1"}), ok, keyEC(), ""},
		{"so is one without a key id", with(standard, object{"kid": nil}), ok, keyRSA(), ""},
		{"so is one of type JWT", with(standard, object{"typ": "JWT"}), ok, keyRSA(), ""},
		{"so is one without a type", with(standard, object{"typ": nil}), ok, keyRSA(), ""},
		{"so is one of type application/AT+JWT", with(standard, object{"typ": "application/AT+JWT"}), ok, keyRSA(), ""},
		{"so is one for several audiences", standard, with(ok, object{"aud": []string{"other", "countersign"}}), keyRSA(), ""},
		{"so is one whose times have fractions", standard, with(ok, object{"exp": float64(at(time.Minute)) + 0.5}), keyRSA(), ""},

		{"claims that are a list", standard, `["iss"]`, keyRSA(), Malformed},
		{"claims that are not JSON", standard, `{"iss":}`, keyRSA(), Malformed},
		{"claims that are not UTF-8", standard, "{\"iss\":\"\xff\"}", keyRSA(), Malformed},
		{"claims with something after them", standard, `{} {}`, keyRSA(), Malformed},
		{"claims that are very deep", standard, `{"a":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}`, keyRSA(), Malformed},
		{"a header without an algorithm", with(standard, object{"alg": nil}), ok, keyRSA(), Malformed},
		{"a header whose algorithm is no text", with(standard, object{"alg": 256}), ok, keyRSA(), Malformed},
		{"a critical extension", with(standard, object{"crit": []string{"exp"}}), ok, keyRSA(), Malformed},
		{"an address of keys", with(standard, object{"jku": "https://evil.example/keys"}), ok, keyRSA(), Malformed},
		{"an address of a certificate", with(standard, object{"x5u": "https://evil.example/cert"}), ok, keyRSA(), Malformed},
		{"a certificate", with(standard, object{"x5c": []string{"AA"}}), ok, keyRSA(), Malformed},
		{"a payload that is not encoded", with(standard, object{"b64": false}), ok, keyRSA(), Malformed},

		{"an algorithm the issuer does not use", with(standard, object{"alg": "PS256"}), ok, keyRSA(), Algorithm},
		{"an algorithm in another case", with(standard, object{"alg": "rs256"}), ok, keyRSA(), Algorithm},
		{"no issuer", standard, with(ok, object{"iss": nil}), keyRSA(), UnknownParty},
		{"an issuer that is no text", standard, with(ok, object{"iss": []string{a.URL}}), keyRSA(), UnknownParty},
		{"the issuer with a slash more", standard, with(ok, object{"iss": a.URL + "/"}), keyRSA(), UnknownParty},
		{"the issuer in capitals", standard, with(ok, object{"iss": strings.ToUpper(a.URL)}), keyRSA(), UnknownParty},
		{"a key id the issuer does not have", with(standard, object{"kid": "k9"}), ok, keyRSA(), Signature},
		{"a signature with another key", standard, ok, keyOtherRSA(), Signature},
		{"an RSA token that names an EC key", with(standard, object{"kid": "e1"}), ok, keyRSA(), Signature},
		{"no signature", standard, ok, nil, Signature},

		{"another type", with(standard, object{"typ": "logout+jwt"}), ok, keyRSA(), Type},
		{"a DPoP proof", with(standard, object{"typ": "dpop+jwt"}), ok, keyRSA(), Type},
		{"a logout token", with(standard, object{"typ": "JWT"}), with(ok, object{"events": object{}}), keyRSA(), Type},
		{"a Keycloak refresh token", with(standard, object{"typ": "JWT"}), with(ok, object{"typ": "Refresh"}), keyRSA(), Type},
		{"a Cognito ID token", with(standard, object{"typ": nil}), with(ok, object{"token_use": "id"}), keyRSA(), Type},
		{"a token bound to a certificate", standard, with(ok, object{"cnf": object{"x5t#S256": "AA"}}), keyRSA(), Bound},
		{"a token bound to a DPoP key", standard, with(ok, object{"cnf": object{"jkt": "AA"}}), keyRSA(), Bound},
		{"a token bound to nothing we know", standard, with(ok, object{"cnf": object{}}), keyRSA(), Bound},

		{"no audience", standard, with(ok, object{"aud": nil}), keyRSA(), Audience},
		{"an empty audience", standard, with(ok, object{"aud": []string{}}), keyRSA(), Audience},
		{"an audience that begins like ours", standard, with(ok, object{"aud": "countersign.evil"}), keyRSA(), Audience},
		{"an audience in another case", standard, with(ok, object{"aud": "Countersign"}), keyRSA(), Audience},
		{"an audience that is a number", standard, with(ok, object{"aud": 1}), keyRSA(), Malformed},
		{"audiences of which one is a number", standard, with(ok, object{"aud": []any{"countersign", 1}}), keyRSA(), Malformed},

		{"no expiry", standard, with(ok, object{"exp": nil}), keyRSA(), Malformed},
		{"an expiry that is text", standard, with(ok, object{"exp": "4102444800"}), keyRSA(), Malformed},
		{"an expiry at the end of all days", standard, with(ok, object{"exp": 1e18}), keyRSA(), Malformed},
		{"no time of issue", standard, with(ok, object{"iat": nil}), keyRSA(), Malformed},
		{"expired for longer than the skew", standard, with(ok, object{"iat": at(-time.Hour), "exp": at(-61 * time.Second)}), keyRSA(), Expired},
		{"not valid for longer than the skew", standard, with(ok, object{"nbf": at(61 * time.Second)}), keyRSA(), NotYet},
		{"valid soon, within the skew", standard, with(ok, object{"nbf": at(59 * time.Second)}), keyRSA(), ""},
		{"issued in the future", standard, with(ok, object{"iat": at(61 * time.Second)}), keyRSA(), NotYet},
		{"valid for a day and a second", standard, with(ok, object{"exp": at(24*time.Hour + time.Second)}), keyRSA(), Lifetime},
		{"valid for a day", standard, with(ok, object{"exp": at(24 * time.Hour)}), keyRSA(), ""},
		{"expired before it was issued", standard, with(ok, object{"iat": at(30 * time.Second), "exp": at(20 * time.Second)}), keyRSA(), Lifetime},

		{"no subject", standard, with(ok, object{"sub": nil}), keyRSA(), Claims},
		{"an empty subject", standard, with(ok, object{"sub": ""}), keyRSA(), Claims},
		{"a subject with a line end", standard, with(ok, object{"sub": "a\nb"}), keyRSA(), Claims},
		{"an empty client", standard, with(ok, object{"client_id": ""}), keyRSA(), Claims},
		{"two clients", standard, with(ok, object{"azp": "other"}), keyRSA(), Claims},
		{"groups that are an object", standard, with(ok, object{"groups": object{"a": true}}), keyRSA(), Claims},
		{"groups of which one is a number", standard, with(ok, object{"groups": []any{"a", 1}}), keyRSA(), Claims},
		{"groups that were too many for the token", standard, with(ok, object{"_claim_names": object{"groups": "src1"}, "_claim_sources": object{"src1": object{"endpoint": "https://graph.example"}}}), keyRSA(), Claims},
		{"groups that were too many, as Entra says it in a fragment", standard, with(ok, object{"hasgroups": true}), keyRSA(), Claims},
		{"a number that has no canonical form", standard, `{"iss":"` + a.URL + `","sub":"a","aud":"countersign","iat":` + itoa(at(0)) + `,"exp":` + itoa(at(time.Hour)) + `,"n":1e999999999}`, keyRSA(), Claims},

		{"a revoked subject", standard, with(ok, object{"sub": "stolen-agent", "client_id": nil}), keyRSA(), Revoked},
		{"a revoked client", standard, with(ok, object{"client_id": "stolen-client"}), keyRSA(), Revoked},
		{"a revoked token", standard, with(ok, object{"jti": "stolen-token"}), keyRSA(), Revoked},
		{"an agent that acts for somebody revoked", standard, with(ok, object{"sub": "stolen-agent", "act": object{"sub": "x"}}), keyRSA(), Revoked},
		{"a revoked party among the actors", standard, with(ok, object{"act": object{"sub": "x", "act": object{"sub": "stolen-agent"}}}), keyRSA(), Revoked},

		{"an actor of another issuer", standard, with(ok, object{"act": object{"sub": "x", "iss": "https://other.example"}}), keyRSA(), Claims},
		{"an actor without a subject", standard, with(ok, object{"act": object{"client_id": "x"}}), keyRSA(), Claims},
		{"an actor that is text", standard, with(ok, object{"act": "x"}), keyRSA(), Claims},
		{"an actor that is null", standard, `{"iss":"` + a.URL + `","sub":"a","aud":"countersign","act":null,"iat":` + itoa(at(0)) + `,"exp":` + itoa(at(time.Hour)) + `}`, keyRSA(), Claims},
		{"nine actors", standard, with(ok, object{"act": actors(9)}), keyRSA(), Claims},
		{"eight actors", standard, with(ok, object{"act": actors(8)}), keyRSA(), ""},

		{"a bad algorithm comes before a bad issuer", with(standard, object{"alg": "none"}), with(ok, object{"iss": "x"}), nil, Algorithm},
		{"a bad signature comes before a bad type", with(standard, object{"typ": "x"}), ok, keyOtherRSA(), Signature},
		{"a bad type comes before a bad audience", with(standard, object{"typ": "x"}), with(ok, object{"aud": "x"}), keyRSA(), Type},
		{"a bad audience comes before an expiry", standard, with(ok, object{"aud": "x", "exp": 1}), keyRSA(), Audience},
		{"an expiry comes before a revocation", standard, with(ok, object{"sub": "stolen-agent", "iat": at(-time.Hour), "exp": at(-time.Minute)}), keyRSA(), Expired},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token := sign(t, tc.header, tc.claims, tc.key)
			for range 2 { // the second time from what is remembered
				if got := reason(t, v, token); got != tc.want {
					_, err := v.Verify(t.Context(), token)
					t.Fatalf("got %q, want %q (%v)", got, tc.want, err)
				}
			}
		})
	}
}

func actors(n int) object {
	act := object{"sub": "first"}
	for range n - 1 {
		act = object{"sub": "next", "act": act}
	}
	return act
}

func itoa(n int64) string { return big.NewInt(n).String() }

func TestShape(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	token := sign(t, standard, good(a, c), keyRSA())
	for _, tc := range []struct{ name, token, want string }{
		{"nothing", "", Missing},
		{"one word", "hello", Malformed},
		{"two parts", token[:strings.LastIndexByte(token, '.')], Malformed},
		{"four parts", token + ".AA", Malformed},
		{"five parts, which is encrypted", token + ".AA.AA", Malformed},
		{"a space in front", " " + token, Malformed},
		{"a line end behind", token + "\n", Malformed},
		{"a line end inside, which decoders skip", token[:9] + "\r\n" + token[9:], Malformed},
		{"padding", token + "=", Malformed},
		{"the JSON serialization", `{"payload":"","signatures":[]}`, Malformed},
		{"larger than any token", token + strings.Repeat("A", maxToken), Malformed},
		{"as it was made", token, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := reason(t, v, tc.token); got != tc.want {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// A last character with spare bits set is the same signature to a lenient decoder: a second spelling of one token.
func TestSpareBitsAreNoSecondToken(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	token := sign(t, standard, good(a, c), keyRSA()) // 256 bytes: 4 spare bits
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	other := token[:len(token)-1] + string(alphabet[last|1])
	if _, err := base64.RawURLEncoding.DecodeString(other[strings.LastIndexByte(other, '.')+1:]); err != nil || other == token {
		t.Fatal("this test does not test what it says")
	}
	if got := reason(t, v, other); got != Malformed {
		t.Fatalf("got %q, want %q", got, Malformed)
	}
}

func TestAttackAlgNone(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "none ", ""} {
		for _, key := range []any{nil, keyOtherRSA()} {
			token := sign(t, with(standard, object{"alg": alg}), good(a, c), key)
			if got := reason(t, v, token); got != Algorithm && got != Malformed {
				t.Errorf("alg %q: got %q", alg, got)
			}
		}
	}
	if a.discovery.Load() != 0 {
		t.Error("the issuer was asked for the sake of an unsigned token")
	}
}

// The public key, in every form that a verifier could have taken for a secret.
func TestAttackAlgHS256WithPublicKey(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	der, err := x509.MarshalPKIXPublicKey(keyRSA().Public())
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := (&jose.JSONWebKey{Key: keyRSA().Public(), KeyID: "k1"}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{
		der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), keyRSA().N.Bytes(), jwk, {},
	} {
		token := sign(t, with(standard, object{"alg": "HS256"}), good(a, c), secret)
		if got := reason(t, v, token); got != Algorithm {
			t.Errorf("got %q, want %q", got, Algorithm)
		}
	}
}

// A shared secret in the key set is never a key, nor is a private key that should not be there.
func TestAttackSymmetricKeyInTheKeySet(t *testing.T) {
	a, c := newAuthority(t), newClock()
	told := &alarms{}
	a.publish(public("k1", keyRSA()), jose.JSONWebKey{KeyID: "s1", Key: []byte("0123456789abcdef0123456789abcdef")}, jose.JSONWebKey{KeyID: "p1", Key: keyOtherRSA()})
	v, err := New(Options{Issuers: []Issuer{{Issuer: a.URL, Audience: []string{"countersign"}}}, Now: c.now, Alarm: told.raise})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if got := reason(t, v, sign(t, with(standard, object{"kid": "p1"}), good(a, c), keyOtherRSA())); got != Signature {
		t.Errorf("signed with a published private key: got %q, want %q", got, Signature)
	}
	if got := reason(t, v, sign(t, standard, good(a, c), keyRSA())); got != "" {
		t.Errorf("the good key of the same set: got %q", got)
	}
	v.Close()
	if len(told.kinds) != 2 || told.kinds[0] != "issuer-keys" {
		t.Errorf("alarms %q %q", told.kinds, told.text)
	}
}

func TestAttackIDTokenAsAccessToken(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	for _, typ := range []any{"JWT", nil} {
		for _, mark := range []string{"nonce", "at_hash", "c_hash", "s_hash"} {
			token := sign(t, with(standard, object{"typ": typ}), with(good(a, c), object{mark: "AA"}), keyRSA())
			if got := reason(t, v, token); got != Type {
				t.Errorf("typ %v with %s: got %q, want %q", typ, mark, got, Type)
			}
		}
	}
}

func TestAttackForeignAudience(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	for _, aud := range []any{"payments-api", []string{"a", "b"}, "", "countersign,other", []any{[]string{"countersign"}}, object{"countersign": true}} {
		if got := reason(t, v, sign(t, standard, with(good(a, c), object{"aud": aud}), keyRSA())); got != Audience && got != Malformed {
			t.Errorf("audience %v: got %q", aud, got)
		}
	}
}

// Two issuers with the same key: each still speaks for itself only, and the audience of one is not that of the other.
func TestAttackForeignIssuerSameKey(t *testing.T) {
	a, b, other, c := newAuthority(t), newAuthority(t), newAuthority(t), newClock()
	v, err := New(Options{Now: c.now, Issuers: []Issuer{
		{Issuer: a.URL, Audience: []string{"countersign"}},
		{Issuer: b.URL, Audience: []string{"countersign-b"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if got := reason(t, v, sign(t, standard, with(good(a, c), object{"iss": other.URL}), keyRSA())); got != UnknownParty {
		t.Errorf("an issuer that is not configured: got %q", got)
	}
	if got := reason(t, v, sign(t, standard, good(b, c), keyRSA())); got != Audience {
		t.Errorf("the audience of another issuer: got %q", got)
	}
	if n := other.discovery.Load(); n != 0 {
		t.Errorf("an issuer that is not configured was asked %d times", n)
	}
}

// A key of issuer b does not verify what claims to be of issuer a.
func TestAttackKeyOfAnotherIssuer(t *testing.T) {
	a, b, c := newAuthority(t), newAuthority(t), newClock()
	b.publish(public("k1", keyOtherRSA()), public("k2", keyOtherRSA()))
	v, err := New(Options{Now: c.now, Issuers: []Issuer{{Issuer: a.URL, Audience: []string{"countersign"}}, {Issuer: b.URL, Audience: []string{"countersign"}}}})
	if err != nil {
		t.Fatal(err)
	}
	v.order[0].keys.gap = 0
	defer v.Close()
	if got := reason(t, v, sign(t, standard, good(b, c), keyOtherRSA())); got != "" {
		t.Fatalf("a token of b: got %q", got)
	}
	for _, kid := range []any{"k1", "k2", nil} {
		if got := reason(t, v, sign(t, with(standard, object{"kid": kid}), good(a, c), keyOtherRSA())); got != Signature {
			t.Errorf("kid %v: got %q, want %q", kid, got, Signature)
		}
	}
}

func TestAttackJWKHeaderInjection(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	own := public("k1", keyOtherRSA())
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, keyRSA().Public(), keyRSA())
	if err != nil {
		t.Fatal(err)
	}
	chain := []string{base64.StdEncoding.EncodeToString(certificate)}
	if got := reason(t, v, sign(t, with(standard, object{"x5c": chain}), good(a, c), keyRSA())); got != Malformed {
		t.Errorf("a good token with a certificate: got %q, want %q", got, Malformed)
	}
	for _, header := range []object{
		{"jwk": own}, {"jwk": own, "kid": nil}, {"jku": a.URL + "/evil"}, {"x5u": a.URL + "/evil"}, {"x5c": []string{"AA"}},
	} {
		if got := reason(t, v, sign(t, with(standard, header), good(a, c), keyOtherRSA())); got != Malformed {
			t.Errorf("%v: got %q, want %q", header, got, Malformed)
		}
	}
	if a.discovery.Load() != 0 {
		t.Error("the issuer was asked")
	}
}

// A key id is compared and never used to find anything.
func TestAttackKidPathTraversal(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	for _, kid := range []string{"../../dev/null", "/dev/null", "k1' OR '1'='1", "k1\x00", "https://evil.example/k", "K1", " k1", strings.Repeat("k", 4096)} {
		for _, key := range []any{keyOtherRSA(), nil} {
			if got := reason(t, v, sign(t, with(standard, object{"kid": kid}), good(a, c), key)); got != Signature && got != Malformed {
				t.Errorf("kid %.20q: got %q", kid, got)
			}
		}
	}
}

// Two readers of one object may take the first or the last member of a name.
func TestAttackDuplicateClaims(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	times := `"iat":` + itoa(c.now().Unix()) + `,"exp":` + itoa(c.now().Add(time.Hour).Unix())
	for name, claims := range map[string]string{
		"subject":             `{"iss":"` + a.URL + `","sub":"a","sub":"b","aud":"countersign",` + times + `}`,
		"issuer":              `{"iss":"x","iss":"` + a.URL + `","sub":"a","aud":"countersign",` + times + `}`,
		"escaped name":        `{"iss":"` + a.URL + `","sub":"a","\u0073ub":"b","aud":"countersign",` + times + `}`,
		"inside another":      `{"iss":"` + a.URL + `","sub":"a","aud":"countersign","act":{"sub":"x","sub":"y"},` + times + `}`,
		"a lone surrogate":    `{"iss":"` + a.URL + `","sub":"a\ud800","aud":"countersign",` + times + `}`,
		"issuer in two cases": `{"iss":"` + a.URL + `","ISS":"x","sub":"a","aud":"countersign",` + times + `}`,
	} {
		if got := reason(t, v, sign(t, standard, claims, keyRSA())); got != Malformed {
			t.Errorf("%s: got %q, want %q", name, got, Malformed)
		}
	}
	if got := reason(t, v, sign(t, `{"alg":"none","alg":"RS256","kid":"k1"}`, good(a, c), keyRSA())); got != Malformed {
		t.Errorf("algorithm: got %q, want %q", got, Malformed)
	}
}

func TestAttackExpiredWithinSkew(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c, func(i *Issuer) { i.Skew = 10 * time.Second })
	token := sign(t, standard, with(good(a, c), object{"exp": c.now().Add(5 * time.Second).Unix()}), keyRSA())
	for _, tc := range []struct {
		advance time.Duration
		want    string
	}{{0, ""}, {14 * time.Second, ""}, {time.Second, Expired}, {time.Hour, Expired}} {
		c.advance(tc.advance)
		if got := reason(t, v, token); got != tc.want {
			t.Errorf("after %v more: got %q, want %q", tc.advance, got, tc.want)
		}
	}
}

// (r, n-s) is as valid an ECDSA signature as (r, s), so the same revoked token has two digests; it must not have two ids.
func TestAttackRevokedTokenWithTheOtherSignature(t *testing.T) {
	a, c := newAuthority(t), newClock()
	token := sign(t, with(standard, object{"alg": "ES256", "kid": "e1"}), with(good(a, c), object{"jti": nil}), keyEC())
	p, err := verifier(t, a, c).Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	signed, signature, _ := cutLast(token)
	b, _ := base64.RawURLEncoding.DecodeString(signature)
	s := new(big.Int).SetBytes(b[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(b[32:])
	other := signed + "." + base64.RawURLEncoding.EncodeToString(b)

	if q, err := verifier(t, a, c).Verify(t.Context(), other); err != nil || q.Verified.TokenID != p.Verified.TokenID {
		t.Fatalf("the other signature: %v", err)
	}
	sum := sha256.Sum256([]byte(signed))
	if want := hex.EncodeToString(sum[:]); p.Verified.TokenID != want {
		t.Fatalf("token id %q, want %q", p.Verified.TokenID, want)
	}
	revoking := verifier(t, a, c, func(i *Issuer) { i.Revoked = []string{p.Verified.TokenID} })
	for _, spelling := range []string{token, other} {
		if got := reason(t, revoking, spelling); got != Revoked {
			t.Errorf("got %q, want %q", got, Revoked)
		}
	}
}

// A token can be revoked by its digest also where it has a jti.
func TestRevokedByDigest(t *testing.T) {
	a, c := newAuthority(t), newClock()
	token := sign(t, standard, good(a, c), keyRSA())
	v := verifier(t, a, c, func(i *Issuer) { i.Revoked = []string{signedDigest(token)} })
	if got := reason(t, v, token); got != Revoked {
		t.Errorf("got %q, want %q", got, Revoked)
	}
}

func cutLast(token string) (string, string, bool) {
	n := strings.LastIndexByte(token, '.')
	return token[:n], token[n+1:], n >= 0
}

func TestRegistered(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c, func(i *Issuer) { i.Subjects = []string{"billing-agent"}; i.Tenants = []string{"t1"} })
	for _, tc := range []struct {
		name   string
		change object
		want   string
	}{
		{"registered", object{"tid": "t1"}, ""},
		{"not registered", object{"tid": "t1", "sub": "Billing-agent"}, Unregistered},
		{"the agent counts, not the person", object{"tid": "t1", "act": object{"sub": "other"}}, Unregistered},
		{"another tenant", object{"tid": "t2"}, Tenant},
		{"no tenant", object{}, Tenant},
		{"another tenant comes before not registered", object{"tid": "t2", "sub": "x"}, Tenant},
	} {
		if got := reason(t, v, sign(t, standard, with(good(a, c), tc.change), keyRSA())); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

// A refusal is fit to be recorded: it has what the token claims, bounded, and not the token.
func TestRefusalIsFitForTheRecord(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	token := sign(t, standard, with(good(a, c), object{"iss": "https://evil.example", "sub": strings.Repeat("x", 3000) + "\n"}), keyRSA())
	_, err := v.Verify(t.Context(), token)
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok {
		t.Fatalf("got %v, want a refusal", err)
	}
	if refusal.Issuer != "https://evil.example" || len(refusal.Subject) != 256 {
		t.Errorf("issuer %q, subject of %d bytes", refusal.Issuer, len(refusal.Subject))
	}
	_, signature, _ := cutLast(token)
	if strings.Contains(refusal.Error(), signature) {
		t.Error("the refusal has the token's signature")
	}
	for reason, want := range map[string]string{
		Missing: `Bearer realm="countersign"`, Multiple: "invalid_request", Expired: "invalid_token",
	} {
		if got := (&Refusal{Reason: reason}).Challenge(); !strings.Contains(got, want) {
			t.Errorf("%s: %s", reason, got)
		}
	}
}

func TestTheZeroVerifierRefuses(t *testing.T) {
	var none *Verifier
	for _, v := range []*Verifier{none, {}} {
		if got := reason(t, v, "a.b.c"); got != Unavailable {
			t.Errorf("got %q", got)
		}
		if v.Ready() == nil {
			t.Error("ready")
		}
	}
	if _, err := New(Options{}); err == nil {
		t.Error("a Verifier without issuers was made")
	}
}
