package evidence

import (
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// tree is the right edge of the Merkle tree over all lines (RFC 6962, section 2.1): the roots of its complete subtrees,
// largest first. These at most 64 hashes are enough to add a leaf and to know the root.
type tree struct {
	n    int64
	edge []tlog.Hash
}

func (t *tree) clone() tree { return tree{n: t.n, edge: slices.Clone(t.edge)} }

// push adds a leaf, given the hash of its line.
func (t *tree) push(h tlog.Hash) {
	for n := t.n; n&1 == 1; n >>= 1 {
		last := len(t.edge) - 1
		h = tlog.NodeHash(t.edge[last], h)
		t.edge = t.edge[:last]
	}
	t.edge = append(t.edge, h)
	t.n++
}

func (t *tree) root() tlog.Hash {
	if t.n == 0 {
		h, _ := tlog.TreeHash(0, nil)
		return h
	}
	h := t.edge[len(t.edge)-1]
	for i := len(t.edge) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.edge[i], h)
	}
	return h
}
