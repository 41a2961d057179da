package identity

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// Whoever can have an issuer make tokens fills the cache of those that were verified: in number, or with large ones.
func TestTokensRememberedAreBounded(t *testing.T) {
	now := time.Now()
	keys := &keyring{maxAge: time.Hour, now: func() time.Time { return now }}
	keys.set.Store(&keySet{fetched: now, generation: 1})
	for _, size := range []int{700, maxToken} {
		c := newCache(cacheSize)
		for n := range 2 * cacheSize {
			digest := sha256.Sum256(fmt.Append(nil, n))
			p := &gate.Principal{}
			c.put(digest, remembered{size: size, principal: p, keys: keys, generation: 1, until: now.Add(time.Minute)}, now)
			if c.get(digest, now) != p {
				t.Fatalf("token %d of %d bytes is not remembered", n, size)
			}
		}
		if most := min(cacheSize, cacheBytes/size); len(c.byHash) != most || c.recent.Len() != most || c.bytes != most*size {
			t.Errorf("%d tokens of %d bytes are remembered, %d in order, %d bytes", len(c.byHash), size, c.recent.Len(), c.bytes)
		}
	}
}
