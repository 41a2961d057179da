package identity

import (
	"container/list"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// cacheSize is how many verified tokens are remembered, and cacheBytes how many bytes these may have together: about 30 MB of
// principals when full of tokens of 700 bytes, and 70 MB when full of large ones, of which each byte becomes four or five.
const (
	cacheSize  = 10_000
	cacheBytes = 16 << 20
)

// remembered is a token that was verified with one generation of its issuer's keys.
type remembered struct {
	digest     [sha256.Size]byte
	size       int // of the token
	principal  *gate.Principal
	keys       *keyring
	generation uint64
	until      time.Time
}

// valid reports whether verifying the token again would have the same result.
func (r *remembered) valid(now time.Time) bool {
	if !now.Before(r.until) {
		return false
	}
	set, err := r.keys.currentAt(now)
	return err == nil && set.generation == r.generation
}

// cache remembers verified tokens, the least recently used forgotten first. Refused ones are never in it, so that
// nobody without a good token can push out another's.
type cache struct {
	mu     sync.Mutex
	size   int
	bytes  int // of the tokens that are remembered
	byHash map[[sha256.Size]byte]*list.Element
	recent *list.List // of *remembered, latest use first
}

func newCache(size int) *cache {
	return &cache{size: size, byHash: make(map[[sha256.Size]byte]*list.Element), recent: list.New()}
}

func (c *cache) get(digest [sha256.Size]byte, now time.Time) *gate.Principal {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.getLocked(digest, now)
}

func (c *cache) getLocked(digest [sha256.Size]byte, now time.Time) *gate.Principal {
	e := c.byHash[digest]
	if e == nil {
		return nil
	}
	r, ok := e.Value.(*remembered)
	if !ok || !r.valid(now) {
		c.removeLocked(e)
		return nil
	}
	c.recent.MoveToFront(e)
	return r.principal
}

// put remembers r and returns its principal, or that of another goroutine that verified the same token first.
func (c *cache) put(digest [sha256.Size]byte, r remembered, now time.Time) *gate.Principal {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.getLocked(digest, now); p != nil {
		return p
	}
	r.digest = digest
	c.byHash[digest] = c.recent.PushFront(&r)
	c.bytes += r.size
	for c.recent.Len() > c.size || c.bytes > cacheBytes {
		c.removeLocked(c.recent.Back())
	}
	return r.principal
}

func (c *cache) removeLocked(e *list.Element) {
	if r, ok := c.recent.Remove(e).(*remembered); ok {
		delete(c.byHash, r.digest)
		c.bytes -= r.size
	}
}
