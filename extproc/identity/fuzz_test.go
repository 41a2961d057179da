package identity

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzVerify shows a Verifier every token there is but those that were signed: none may be accepted, and none may make it
// panic. What is accepted has to be one of the signed ones, byte for byte.
func FuzzVerify(f *testing.F) {
	a, c := newAuthority(f), newClock()
	v := verifier(f, a, c)
	signed := []string{
		sign(f, standard, good(a, c), keyRSA()),
		sign(f, with(standard, object{"kid": nil, "typ": nil}), with(good(a, c), object{"act": actors(3), "groups": []string{"x"}}), keyRSA()),
	}
	for _, token := range signed {
		if got := reason(f, v, token); got != "" {
			f.Fatal(got)
		}
		f.Add(token)
		f.Add(strings.Replace(token, ".", "..", 1))
	}
	f.Add(sign(f, with(standard, object{"alg": "none"}), good(a, c), nil))
	f.Add(sign(f, with(standard, object{"alg": "HS256"}), good(a, c), keyRSA().N.Bytes()))
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		v.cache = newCache(10)
		if reason(t, v, token) == "" && !slices.Contains(signed, token) {
			t.Fatalf("accepted a token that nobody signed: %q", token)
		}
	})
}

// FuzzMutate changes one byte of the decoded header, claims or signature of a signed token.
func FuzzMutate(f *testing.F) {
	a, c := newAuthority(f), newClock()
	v := verifier(f, a, c)
	parts := strings.Split(sign(f, standard, good(a, c), keyRSA()), ".")
	f.Add(0, 0, byte(1))
	f.Add(1, 9, byte(0x80))
	f.Add(2, 255, byte(1))
	f.Fuzz(func(t *testing.T, part, at int, flip byte) {
		if part < 0 || part > 2 || flip == 0 {
			return
		}
		b, err := base64.RawURLEncoding.DecodeString(parts[part])
		if err != nil || at < 0 || at >= len(b) {
			return
		}
		b[at] ^= flip
		changed := slices.Clone(parts)
		changed[part] = base64.RawURLEncoding.EncodeToString(b)
		if reason(t, v, strings.Join(changed, ".")) == "" {
			t.Fatalf("byte %d of part %d changed by %#x, and accepted", at, part, flip)
		}
	})
}

// FuzzClaims signs whatever it is given: a hostile issuer. What is accepted names somebody, and can be written down.
func FuzzClaims(f *testing.F) {
	a, c := newAuthority(f), newClock()
	v := verifier(f, a, c)
	times := `,"iss":"` + a.URL + `","aud":"countersign","iat":` + itoa(c.now().Unix()) + `,"exp":` + itoa(c.now().Add(time.Hour).Unix()) + `}`
	for _, claims := range []string{`{"sub":"a"`, `{"sub":"a","act":{"sub":"b"}`, `{"sub":"a","n":1e400`, `{"sub":"a","groups":["b"]`, `{"sub":"é","x":[{}]`} {
		f.Add(claims)
	}
	f.Fuzz(func(t *testing.T, claims string) {
		v.cache = newCache(10)
		p, err := v.Verify(t.Context(), sign(t, standard, claims+times, keyRSA()))
		if reasonOf(t, p, err) != "" {
			return
		}
		if p.Issuer != a.URL || p.Kind == "" || p.Verified.TokenID == "" || len(p.Actors) > maxActors {
			t.Fatalf("%q made %+v", claims, p)
		}
		if _, err := p.Claims.AppendJSON(nil); err != nil {
			t.Fatalf("%q made claims that cannot be written: %v", claims, err)
		}
	})
}

func FuzzHasQueryCredential(f *testing.F) {
	f.Add("a=b&access_token=c")
	f.Add("%61%63cess_token")
	f.Fuzz(func(t *testing.T, query string) {
		if !HasQueryCredential(query + "&access_token=x") {
			t.Fatalf("%q hides a token", query)
		}
	})
}

func BenchmarkVerifyRS256(b *testing.B) { benchmarkVerify(b, standard, keyRSA()) }

func BenchmarkVerifyES256(b *testing.B) {
	benchmarkVerify(b, with(standard, object{"alg": "ES256", "kid": "e1"}), keyEC())
}

func benchmarkVerify(b *testing.B, header object, key any) {
	a, c := newAuthority(b), newClock()
	v := verifier(b, a, c)
	token := sign(b, header, with(good(a, c), object{"scope": "payments:read payments:write", "groups": []string{"a", "b"}}), key)
	if _, err := v.Verify(b.Context(), token); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, refusal := v.check(b.Context(), token); refusal != nil {
			b.Fatal(refusal)
		}
	}
}

func BenchmarkVerifyCached(b *testing.B) {
	a, c := newAuthority(b), newClock()
	v := verifier(b, a, c)
	token := sign(b, standard, with(good(a, c), object{"scope": "payments:read payments:write", "groups": []string{"a", "b"}}), keyRSA())
	ctx := b.Context()
	if _, err := v.Verify(ctx, token); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(token)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(ctx, token); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyCachedParallel(b *testing.B) {
	a, c := newAuthority(b), newClock()
	v := verifier(b, a, c)
	token := sign(b, standard, good(a, c), keyRSA())
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := v.Verify(b.Context(), token); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkRefused is what a stranger's token costs us: nothing is asked of anybody.
func BenchmarkRefused(b *testing.B) {
	a, c := newAuthority(b), newClock()
	v := verifier(b, a, c)
	token := sign(b, standard, with(good(a, c), object{"iss": "https://stranger.example"}), keyRSA())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), token); err == nil {
			b.Fatal("accepted")
		}
	}
}

func BenchmarkDigest(b *testing.B) {
	token := strings.Repeat("x", 1000)
	var sum [sha256.Size]byte
	for b.Loop() {
		sum = digestOf(token)
	}
	_ = sum
}
