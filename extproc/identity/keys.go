package identity

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/extproc/guard"
)

const (
	refetchGap    = 5 * time.Second // in which tokens may ask for one more fetch
	spareFetches  = 2               // that they may ask for at once, after a while of asking for none
	fetchTimeout  = 10 * time.Second
	tokenPatience = refetchGap + time.Second // that a token waits for keys: the fetch that is due can come
	maxWaiting    = 256                      // tokens of one issuer that wait for keys, and as many for a processor
	firstRetry    = time.Second
	lastRetry     = time.Minute
	maxKeys       = 100 // in a set; the largest public issuers have about ten
	maxKeysOfID   = 4   // that have one `kid`: a token is tried with each
)

// publicKey is a key of an issuer, and the algorithms that it may verify: those of its type and size, and only the one
// that it names where it names one. So no RSA key is ever taken for an HMAC secret.
type publicKey struct {
	id         string // `kid`, or the thumbprint (RFC 7638) where it has none
	named      bool   // whether it has a `kid`
	key        any
	algorithms []string
	thumbprint []byte
}

// keySet is what an issuer published at one time. It does not change.
type keySet struct {
	keys       []*publicKey
	fetched    time.Time
	generation uint64 // changes when the keys do, and not when the same keys are fetched again
}

// withID returns the keys called id; every key for "".
func (s *keySet) withID(id string) []*publicKey {
	if s == nil || id == "" && len(s.keys) > 8 {
		return nil // trying very many keys would make one bad token dear
	}
	var found []*publicKey
	for _, k := range s.keys {
		if id == "" || k.named && k.id == id {
			found = append(found, k)
		}
	}
	return found
}

// keyring holds an issuer's keys and keeps them fresh.
type keyring struct {
	fetch   func(context.Context) ([]byte, error) // a JSON Web Key Set
	use     string                                // a value of `use` that is accepted besides "sig"
	maxAge  time.Duration
	refresh time.Duration
	gap     time.Duration // refetchGap
	now     func() time.Time
	changed func(keyEvent) // told of what an operator should know

	set atomic.Pointer[keySet]

	life context.Context
	work sync.WaitGroup

	verifying chan struct{} // holds as many as the issuer's tokens may use processors
	queued    atomic.Int64  // tokens that wait for one

	mu        sync.Mutex
	inflight  chan struct{} // closed at the end of the fetch under way; nil when there is none
	attempted time.Time     // the start of the last fetch
	started   uint64        // fetches so far
	spare     int           // fetches that tokens may ask for now
	refilled  time.Time     // when spare last became one more, or less than the most
	waiting   int           // tokens that wait for a fetch
	err       error         // of the last fetch
	closed    bool
}

// keyEvent is a change in how an issuer's keys can be had.
type keyEvent struct {
	Kind string // "issuer-unreachable", "issuer-recovered", "issuer-keys"
	Text string
}

// current returns the keys, while they are fit to be used.
func (r *keyring) current() (*keySet, error) { return r.currentAt(r.now()) }

func (r *keyring) currentAt(now time.Time) (*keySet, error) {
	set := r.set.Load()
	if set != nil && now.Sub(set.fetched) <= r.maxAge {
		return set, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	why := "none were fetched yet"
	if r.err != nil {
		why = excerpt(r.err.Error())
	}
	if set == nil {
		return nil, fmt.Errorf("there are no keys of the issuer: %s", why)
	}
	return nil, fmt.Errorf("the keys of the issuer are older than %v: %s", r.maxAge, why)
}

// errNotYet says that nobody can tell yet whether the issuer has such a key.
var errNotYet = errors.New("keys that are new enough could not be had in time")

// newer waits until found is true of the keys, or false of keys whose fetch began after newer did: only those can show that
// the issuer has no such key. Where they cannot be had in time, because the issuer is slow or away, was asked often of late,
// or too many wait already, it is an error: then nobody knows.
func (r *keyring) newer(ctx context.Context, found func(*keySet) bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenPatience)
	defer cancel()
	r.mu.Lock()
	if r.waiting == maxWaiting {
		r.mu.Unlock()
		return false, errNotYet
	}
	r.waiting++
	enough := r.started + 1
	r.mu.Unlock()
	defer r.leave()
	for {
		done, due, err := r.next()
		if err != nil {
			return false, err
		}
		ended := waitFor(ctx, done, due)
		over, err := r.fetched(enough)
		if set, old := r.current(); old == nil && found(set) {
			return true, nil
		} else if over {
			return false, cmp.Or(err, old)
		}
		if !ended {
			return false, errNotYet
		}
	}
}

func (r *keyring) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting--
}

// next is the fetch that is under way, which it may have started, or how long it is until one may be.
func (r *keyring) next() (done <-chan struct{}, due time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inflight != nil {
		return r.inflight, 0, nil
	}
	if due = r.dueLocked(); due > 0 {
		return nil, due, nil
	}
	if started := r.startLocked(); started != nil {
		return started, 0, nil
	}
	return nil, 0, errors.New("closed")
}

// fetched reports whether that many fetches are over, and the error of the last.
func (r *keyring) fetched(many uint64) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	over := r.started
	if r.inflight != nil {
		over--
	}
	return over >= many, r.err
}

// waitFor waits for done, or for a time where there is nothing to wait for. It is false where ctx ends first.
func waitFor(ctx context.Context, done <-chan struct{}, d time.Duration) bool {
	var late <-chan time.Time
	if done == nil {
		timer := time.NewTimer(d)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-done:
	case <-late:
	case <-ctx.Done():
		return false
	}
	return true
}

// dueLocked is how long it is until a token may ask for a fetch. Where it is 0 one is taken.
func (r *keyring) dueLocked() time.Duration {
	now := r.now()
	for r.spare < spareFetches && now.Sub(r.refilled) >= r.gap {
		r.spare++
		r.refilled = r.refilled.Add(r.gap)
	}
	if r.spare == spareFetches || now.Before(r.refilled) {
		r.refilled = now
	}
	if r.spare == 0 {
		return r.gap - now.Sub(r.refilled)
	}
	r.spare--
	return 0
}

// processor takes one of the processors that the issuer's tokens may use, so that one issuer's cost no other its latency. It
// returns how to give it back, or an error where too many wait or ctx ends.
func (r *keyring) processor(ctx context.Context) (release func(), err error) {
	if r.queued.Add(1) > maxWaiting {
		r.queued.Add(-1)
		return nil, errNotYet
	}
	defer r.queued.Add(-1)
	select {
	case r.verifying <- struct{}{}:
		return func() { <-r.verifying }, nil
	case <-ctx.Done():
		return nil, errNotYet
	}
}

// startLocked starts a fetch, which ends with the keyring and not with the request that asked for it.
func (r *keyring) startLocked() chan struct{} {
	if r.closed {
		return nil
	}
	done := make(chan struct{})
	r.inflight = done
	r.started++
	r.attempted = r.now()
	r.work.Go(guard.Func("the keys of an issuer", func() {
		defer close(done)
		defer guard.Catch("the keys of an issuer", func(p guard.Panic) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.err, r.inflight = errors.New("reading its keys panicked: "+p.Value), nil
		})
		ctx, cancel := context.WithTimeout(r.life, fetchTimeout)
		defer cancel()
		b, err := r.fetch(ctx)
		r.install(b, err)
	}))
	return done
}

// install takes what a fetch brought. A set that cannot be read, or has no key that could verify anything, changes
// nothing: the keys that we have stay until they are too old.
func (r *keyring) install(b []byte, err error) {
	var set *keySet
	var remarks []string
	if err == nil {
		set, remarks, err = readKeys(b, r.use)
	}
	var events []keyEvent
	r.mu.Lock()
	switch {
	case err != nil && r.life.Err() != nil:
		err = errors.New("the gateway is stopping") // and not the issuer's fault
	case err != nil && r.err == nil:
		events = append(events, keyEvent{"issuer-unreachable", excerpt(err.Error())})
	case err == nil && r.err != nil:
		events = append(events, keyEvent{"issuer-recovered", "its keys were fetched"})
	}
	r.err, r.inflight = err, nil
	if err == nil {
		set.fetched = r.attempted
		old := r.set.Load()
		switch {
		case old == nil:
			set.generation = 1
		case sameKeys(old, set):
			set.generation = old.generation
			remarks = nil // they were told before
		default:
			set.generation = old.generation + 1
		}
		r.set.Store(set)
	}
	r.mu.Unlock()
	for _, text := range remarks {
		events = append(events, keyEvent{"issuer-keys", text})
	}
	for _, e := range events {
		r.changed(e)
	}
}

// run fetches in the background until the keyring is closed: again after refresh, or sooner and with growing pauses
// while that fails.
func (r *keyring) run() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.work.Go(guard.Loop(r.life, "the keys of an issuer", func() {
		retry := firstRetry
		for r.life.Err() == nil {
			wait := r.refresh
			if r.fetchNow() != nil {
				wait = min(retry, r.refresh)
				retry = min(2*retry, lastRetry)
			} else {
				retry = firstRetry
			}
			// A little unevenly, so that many gateways do not come all at once.
			timer := time.NewTimer(wait - wait/8 + rand.N(wait/4+1))
			select {
			case <-timer.C:
			case <-r.life.Done():
				timer.Stop()
			}
		}
	}))
}

// fetchNow fetches, whenever the last time was, and waits for it.
func (r *keyring) fetchNow() error {
	r.mu.Lock()
	done := r.inflight
	if done == nil {
		done = r.startLocked()
	}
	r.mu.Unlock()
	if done == nil {
		return errors.New("closed")
	}
	<-done
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// close waits for the background to end; r.life has been cancelled.
func (r *keyring) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.work.Wait()
}

// readKeys reads a JSON Web Key Set. Keys that are not for verifying signatures are left out; remarks tell of those
// that an issuer should not have published. Unknown types are left out too, as RFC 7517, section 5, asks.
func readKeys(b []byte, use string) (*keySet, []string, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, nil, fmt.Errorf("read the key set: %w", err)
	}
	if len(raw.Keys) > maxKeys {
		return nil, nil, fmt.Errorf("read the key set: it has %d keys, more than %d", len(raw.Keys), maxKeys)
	}
	set := &keySet{}
	var remarks []string
	for n, data := range raw.Keys {
		var k jose.JSONWebKey
		if err := json.Unmarshal(data, &k); err != nil {
			continue // one key that we cannot read must not take the others with it
		}
		key, err := newPublicKey(&k, use)
		if err != nil {
			remarks = append(remarks, fmt.Sprintf("key %d (%q) is not used: %v", n+1, excerpt(k.KeyID), err))
			continue
		}
		if key != nil && len(set.withID(key.id)) == maxKeysOfID && key.named {
			remarks = append(remarks, fmt.Sprintf("key %d (%q) is not used: %d others have its id", n+1, excerpt(k.KeyID), maxKeysOfID))
			continue
		}
		if key != nil {
			set.keys = append(set.keys, key)
		}
	}
	if len(set.keys) == 0 {
		return nil, remarks, fmt.Errorf("read the key set: none of its %d keys can verify a token", len(raw.Keys))
	}
	return set, remarks, nil
}

// newPublicKey returns nil for a key that has another purpose.
func newPublicKey(k *jose.JSONWebKey, use string) (*publicKey, error) {
	if k.Use != "" && k.Use != "sig" && (use == "" || k.Use != use) {
		return nil, nil
	}
	possible, err := verifiable(k.Key)
	if err != nil {
		return nil, err
	}
	if k.Algorithm != "" {
		if !slices.Contains(possible, k.Algorithm) {
			return nil, fmt.Errorf("its type cannot verify %q", excerpt(k.Algorithm))
		}
		possible = []string{k.Algorithm}
	}
	thumbprint, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	p := &publicKey{id: k.KeyID, named: k.KeyID != "", key: k.Key, algorithms: possible, thumbprint: thumbprint}
	if !p.named {
		p.id = base64.RawURLEncoding.EncodeToString(thumbprint)
	}
	return p, nil
}

// verifiable lists the algorithms for a key, by its type and size (RFC 7518, section 3.1; RFC 8037).
func verifiable(key any) ([]string, error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 8192 {
			return nil, fmt.Errorf("an RSA key has 2048 to 8192 bits, this has %d", bits)
		}
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, nil
	case *ecdsa.PublicKey:
		switch key.Curve.Params().BitSize {
		case 256:
			return []string{"ES256"}, nil
		case 384:
			return []string{"ES384"}, nil
		case 521:
			return []string{"ES512"}, nil
		}
		return nil, errors.New("its curve is not known")
	case ed25519.PublicKey:
		return []string{"EdDSA"}, nil
	case []byte:
		return nil, errors.New("it is a shared secret")
	case *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey:
		return nil, errors.New("its private part is published, so anybody can sign with it")
	default:
		return nil, fmt.Errorf("its type %T verifies nothing", key)
	}
}

// sameKeys reports whether two sets would verify the same tokens.
func sameKeys(a, b *keySet) bool {
	return slices.EqualFunc(a.keys, b.keys, func(x, y *publicKey) bool {
		return x.id == y.id && x.named == y.named && bytes.Equal(x.thumbprint, y.thumbprint) && slices.Equal(x.algorithms, y.algorithms)
	})
}
