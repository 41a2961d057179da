package identity

import (
	"context"
	"crypto"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// near is a Verifier of issuers without a network, whose time is the test's.
func near(t *testing.T, all ...*authority) *Verifier {
	t.Helper()
	o := Options{HTTPClient: &http.Client{Transport: byHost{all}}}
	for _, a := range all {
		o.Issuers = append(o.Issuers, Issuer{Issuer: a.URL, Audience: []string{"countersign"}})
	}
	v, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

type byHost struct{ all []*authority }

func (b byHost) RoundTrip(r *http.Request) (*http.Response, error) {
	i := slices.IndexFunc(b.all, func(a *authority) bool { return strings.HasSuffix(a.URL, "//"+r.URL.Host) })
	return b.all[i].RoundTrip(r)
}

// tokenOf is a good one of now, but for what signs it, under which id.
func tokenOf(t *testing.T, a *authority, kid string, key crypto.Signer) string {
	t.Helper()
	c := &clock{}
	c.ns.Store(time.Now().UnixNano())
	return sign(t, with(standard, object{"kid": kid}), with(good(a, c), object{"jti": fmt.Sprint(serial.Add(1))}), key)
}

var serial atomic.Int64

// TestAGoodTokenWithANewKeyIsNeverRefused: whatever was asked of the issuer before, a token with a key that it has now is
// good, at once or after the fetch that is due.
func TestAGoodTokenWithANewKeyIsNeverRefused(t *testing.T) {
	for _, c := range []struct {
		name, bad, kid string // the id of the bad tokens before it, and its own
		keys           []jose.JSONWebKey
	}{
		{"a new id, after unknown ones", "made-up", "k2", []jose.JSONWebKey{public("k1", keyRSA()), public("k2", keyOtherRSA())}},
		{"the same id, after forgeries", "k1", "k1", []jose.JSONWebKey{public("k1", keyOtherRSA())}},
		{"the same id, after unknown ones", "made-up", "k1", []jose.JSONWebKey{public("k1", keyOtherRSA())}},
	} {
		for _, before := range []int{0, 1, 3} {
			t.Run(fmt.Sprintf("%s (%d)", c.name, before), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := newNearAuthority("issuer.test")
					v := near(t, a)
					if got := reason(t, v, tokenOf(t, a, "k1", keyRSA())); got != "" {
						t.Fatal(got)
					}
					for range before {
						if got := reason(t, v, tokenOf(t, a, c.bad, keyThird())); got != Signature {
							t.Fatalf("a bad one: got %q, want %q", got, Signature)
						}
					}
					a.publish(c.keys...)
					began := time.Now()
					if got := reason(t, v, tokenOf(t, a, c.kid, keyOtherRSA())); got != "" {
						t.Errorf("got %q", got)
					}
					if took := time.Since(began); took > refetchGap || before == 0 && took > 0 {
						t.Errorf("it took %v", took)
					}
				})
			})
		}
	}
}

var keyThird = sync.OnceValue(newRSA)

// TestWhatCannotBeKnownYetIsUnavailable: while an issuer's keys cannot be had nobody can tell a forgery from a new key, so that
// neither is called one; and what its known keys have signed is good all the while.
func TestWhatCannotBeKnownYetIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newNearAuthority("issuer.test")
		v := near(t, a)
		if got := reason(t, v, tokenOf(t, a, "k1", keyRSA())); got != "" {
			t.Fatal(got)
		}
		a.down(true)
		for range 2 {
			for name, bad := range map[string]string{"an unknown id": tokenOf(t, a, "k9", keyRSA()), "another key": tokenOf(t, a, "k1", keyThird())} {
				began := time.Now()
				if got := reason(t, v, bad); got != Unavailable {
					t.Errorf("%s: got %q, want %q", name, got, Unavailable)
				}
				if took := time.Since(began); took > tokenPatience {
					t.Errorf("%s: it took %v", name, took)
				}
			}
			began := time.Now()
			if got := reason(t, v, tokenOf(t, a, "k1", keyRSA())); got != "" || time.Since(began) > 0 {
				t.Errorf("a known key: got %q after %v", got, time.Since(began))
			}
		}
		// A token without a signature is nobody's, whoever has which keys.
		unsigned := tokenOf(t, a, "k1", keyRSA())
		if got := reason(t, v, unsigned[:strings.LastIndexByte(unsigned, '.')+1]); got != Signature {
			t.Errorf("no signature: got %q, want %q", got, Signature)
		}
		// Whoever asks need not wait for the end.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		p, err := v.Verify(ctx, tokenOf(t, a, "k9", keyRSA()))
		if got := reasonOf(t, p, err); got != Unavailable || time.Since(began) > time.Second {
			t.Errorf("got %q after %v", got, time.Since(began))
		}
	})
}

// TestUnknownKidDoesNotHammer: tokens can have us ask an issuer a few times at once and then seldom, and few of them wait; what
// is left gets an answer at once. Tokens with keys that are known notice nothing.
func TestUnknownKidDoesNotHammer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newNearAuthority("issuer.test")
		v := near(t, a)
		if got := reason(t, v, tokenOf(t, a, "k1", keyRSA())); got != "" {
			t.Fatal(got)
		}
		const waves, each = 30, 4 * maxWaiting
		bad := make([]string, each)
		for n := range bad {
			bad[n] = tokenOf(t, a, fmt.Sprint("made-up-", n), keyThird())
		}
		began := time.Now()
		var all sync.WaitGroup
		for range waves { // one a second
			var atOnce atomic.Int64
			now := time.Now()
			for _, token := range bad {
				all.Go(func() {
					p, err := v.Verify(t.Context(), token)
					if got := reasonOf(t, p, err); got != Signature && got != Unavailable {
						t.Errorf("got %q", got)
					}
					if time.Since(now) == 0 {
						atOnce.Add(1)
					} else if took := time.Since(now); took > tokenPatience {
						t.Errorf("an answer after %v", took)
					}
				})
			}
			synctest.Wait()
			if n := atOnce.Load(); n < each-2*maxWaiting {
				t.Errorf("%d of %d wait", each-n, each)
			}
			keys := v.order[0].keys
			keys.mu.Lock()
			n := keys.waiting
			keys.mu.Unlock()
			if n > maxWaiting {
				t.Errorf("%d wait", n)
			}
			if got := reason(t, v, tokenOf(t, a, "k1", keyRSA())); got != "" || time.Since(now) > 0 {
				t.Errorf("a known key: got %q after %v", got, time.Since(now))
			}
			<-time.After(time.Second) // of the bubble
		}
		all.Wait()
		if n, most := a.fetches.Load(), int64(1+spareFetches+time.Since(began)/refetchGap); n > most {
			t.Errorf("fetched %d times in %v, want no more than %d", n, time.Since(began), most)
		}
	})
}

// TestSlowIssuerHoldsNobodyElse: while an issuer's keys are fetched, the tokens that need them wait and no others, and no second
// fetch is started.
func TestSlowIssuerHoldsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newNearAuthority("slow.test"), newNearAuthority("quick.test")
		v := near(t, a, b)
		if got := reason(t, v, tokenOf(t, a, "k1", keyRSA())); got != "" {
			t.Fatal(got)
		}
		release := make(chan struct{})
		a.fault = func(http.ResponseWriter) bool { <-release; return false }
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if got := reason(t, v, tokenOf(t, a, "k9", keyRSA())); got != Signature {
					t.Errorf("got %q, want %q", got, Signature)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		for _, known := range []string{tokenOf(t, a, "k1", keyRSA()), tokenOf(t, b, "k1", keyRSA())} {
			if got := reason(t, v, known); got != "" || time.Since(began) > 0 {
				t.Errorf("got %q after %v", got, time.Since(began))
			}
		}
		if n := v.order[0].keys.started; n != 2 {
			t.Errorf("%d fetches were started, want 2", n)
		}
		close(release)
		all.Wait()
	})
}

// TestManyKeysUnderOneID: what an issuer publishes, and what its agents send, costs nobody else.
func TestManyKeysUnderOneID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newNearAuthority("many.test"), newNearAuthority("other.test")
		a.publish(append(slices.Repeat([]jose.JSONWebKey{public("k1", keyOtherRSA())}, maxKeys-1), public("k2", keyRSA()))...)
		v := near(t, a, b)
		if got := reason(t, v, tokenOf(t, a, "k2", keyRSA())); got != "" {
			t.Fatal(got)
		}
		set, err := v.order[0].keys.current()
		if err != nil || len(set.withID("k1")) != maxKeysOfID {
			t.Errorf("%d keys are tried: %v", len(set.withID("k1")), err)
		}
		// Its tokens wait for processors of their own, and few of them do.
		slow := v.order[0].keys
		for range cap(slow.verifying) {
			slow.verifying <- struct{}{}
		}
		var refused atomic.Int64
		var all sync.WaitGroup
		for range 2 * maxWaiting {
			one := tokenOf(t, a, "k2", keyRSA())
			all.Go(func() {
				p, err := v.Verify(t.Context(), one)
				if got := reasonOf(t, p, err); got == Unavailable {
					refused.Add(1)
				} else if got != "" {
					t.Errorf("got %q", got)
				}
			})
		}
		synctest.Wait()
		if n := slow.queued.Load(); n != maxWaiting {
			t.Errorf("%d wait, want %d", n, maxWaiting)
		}
		if got := reason(t, v, tokenOf(t, b, "k1", keyRSA())); got != "" {
			t.Errorf("another issuer's token: got %q", got)
		}
		for range cap(slow.verifying) {
			<-slow.verifying
		}
		all.Wait()
	})
}
