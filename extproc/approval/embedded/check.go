package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// ErrDamaged is a file that no crash leaves.
var ErrDamaged = errors.New("the file is damaged: move it away to start without it; what was open or approved is then asked anew, and what happened is in the journal")

// The file as bbolt has it (its internal/common), in numbers of the machine's order. A page begins with its number (8 bytes), flags
// (2), how many elements it has (2), and how many pages it goes on for (4). Each element takes 16 bytes, and says where its key is.
const (
	headBytes    = 16
	elementBytes = 16
	metaBytes    = 64
	flagBranch   = 1
	flagLeaf     = 2
	flagFree     = 16
	metaMagic    = 0xED0CDAED
	metaVersion  = 2
	noFreeList   = ^uint64(0)
)

var order = binary.NativeEndian

// checker looks at every page in use as bbolt does at a start. bbolt believes what it reads, in a goroutine of its own at that: a
// number that is wrong there ends the process, or never ends.
type checker struct {
	file io.ReaderAt
	page int64  // bytes of one
	used []bool // by page
	leaf []byte
}

// check returns an error if a page that is in use is damaged. A file without a valid meta page is bbolt's to refuse.
func check(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	meta, page, err := lastMeta(f)
	if meta == nil || err != nil {
		return err
	}
	end := order.Uint64(meta[40:])
	if end > uint64(info.Size()/page) {
		return fmt.Errorf("it has %d bytes, and pages of %d up to number %d: %w", info.Size(), page, end, ErrDamaged)
	}
	c := &checker{file: f, page: page, used: make([]bool, end)}
	if err := c.tree(order.Uint64(meta[16:]), nil, nil, true); err != nil {
		return err
	}
	if free := order.Uint64(meta[32:]); free != noFreeList {
		return c.freeList(free)
	}
	return nil
}

// lastMeta returns the valid meta page of the last transaction, without its head, and the size of pages.
func lastMeta(f io.ReaderAt) (last []byte, page int64, err error) {
	at := func(offset int64) ([]byte, error) {
		m := make([]byte, headBytes+metaBytes)
		if _, err := f.ReadAt(m, offset); errors.Is(err, io.EOF) {
			return nil, nil // it is shorter
		} else if err != nil {
			return nil, err
		}
		m = m[headBytes:]
		sum := fnv.New64a()
		_, _ = sum.Write(m[:56])
		if order.Uint32(m) != metaMagic || order.Uint32(m[4:]) != metaVersion || order.Uint32(m[8:]) < 1024 || order.Uint64(m[56:]) != sum.Sum64() {
			return nil, nil
		}
		return m, nil
	}
	first, err := at(0)
	if first != nil {
		page = int64(order.Uint32(first[8:]))
		last = first
	}
	second := page
	for i := 0; i <= 14 && page == 0 && err == nil; i++ { // the first is not valid, and only the second says how long it is
		second = 1024 << i
		if last, err = at(second); last != nil {
			page = int64(order.Uint32(last[8:]))
		}
	}
	if err != nil || page == 0 || first == nil {
		return last, page, err
	}
	other, err := at(second)
	if other != nil && order.Uint64(other[48:]) > order.Uint64(last[48:]) {
		last = other
	}
	return last, page, err
}

func (c *checker) damaged(id uint64, what string) error {
	return fmt.Errorf("page %d, at byte %d: %s: %w", id, int64(id)*c.page, what, ErrDamaged)
}

// read returns a page whole, and notes that it is used.
func (c *checker) read(id uint64, buffer []byte) (p []byte, err error) {
	if id < 2 || id >= uint64(len(c.used)) {
		return nil, c.damaged(id, "there is no such page, and another one refers to it")
	}
	p = append(buffer[:0], make([]byte, c.page)...)
	if _, err := c.file.ReadAt(p, int64(id)*c.page); err != nil {
		return nil, err
	}
	more := uint64(order.Uint32(p[12:]))
	if order.Uint64(p) != id || more >= uint64(len(c.used))-id {
		return nil, c.damaged(id, "its head is not its own")
	}
	for n := id; n <= id+more; n++ {
		if c.used[n] {
			return nil, c.damaged(n, "it is used twice")
		}
		c.used[n] = true
	}
	p = append(p, make([]byte, int64(more)*c.page)...)
	_, err = c.file.ReadAt(p[c.page:], int64(id+1)*c.page)
	return p, err
}

// tree looks at a page and what is under it. Its keys are from low on and below high; nil is no bound. In the root's tree, and in no
// other, each value is a bucket.
func (c *checker) tree(id uint64, low, high []byte, root bool) error {
	p, err := c.read(id, c.leaf)
	if err != nil {
		return err
	}
	if order.Uint16(p[8:]) == flagLeaf {
		c.leaf = p
		return c.elements(id, p, low, high, root)
	}
	p = bytes.Clone(p) // it is needed while what is under it is read
	n := int(order.Uint16(p[10:]))
	if order.Uint16(p[8:]) != flagBranch || n == 0 || headBytes+n*elementBytes > len(p) {
		return c.damaged(id, "it is neither of a tree's kinds of pages")
	}
	keys := make([][]byte, n+1)
	keys[n] = high
	for i := range n {
		e := headBytes + i*elementBytes
		from := e + int(order.Uint32(p[e:]))
		to := from + int(order.Uint32(p[e+4:]))
		if to > len(p) {
			return c.damaged(id, "a key is not in it")
		}
		keys[i] = p[from:to]
	}
	for i := range n {
		if bytes.Compare(keys[i], low) < 0 || keys[i+1] != nil && bytes.Compare(keys[i], keys[i+1]) >= 0 {
			return c.damaged(id, "its keys are not in order")
		}
		if err := c.tree(order.Uint64(p[headBytes+i*elementBytes+8:]), keys[i], keys[i+1], root); err != nil {
			return err
		}
	}
	return nil
}

// elements looks at those of a leaf, and into the buckets that they are in the root's tree.
func (c *checker) elements(id uint64, p, low, high []byte, root bool) error {
	n := int(order.Uint16(p[10:]))
	if headBytes+n*elementBytes > len(p) {
		return c.damaged(id, "it has more elements than room")
	}
	var buckets [][]byte
	for i := range n {
		e := headBytes + i*elementBytes
		from := e + int(order.Uint32(p[e+4:]))
		value := from + int(order.Uint32(p[e+8:]))
		to := value + int(order.Uint32(p[e+12:]))
		if to > len(p) {
			return c.damaged(id, "an element is not in it")
		}
		key := p[from:value]
		if bytes.Compare(key, low) < 0 || i > 0 && bytes.Equal(key, low) || high != nil && bytes.Compare(key, high) >= 0 {
			return c.damaged(id, "its keys are not in order")
		}
		low = key
		if isBucket := order.Uint32(p[e:])&1 != 0; isBucket != root || root && to-value < headBytes {
			return c.damaged(id, "a bucket is a value, or a value a bucket")
		}
		if root {
			buckets = append(buckets, bytes.Clone(p[value:to]))
		}
	}
	for _, b := range buckets {
		if err := c.bucket(id, b); err != nil {
			return err
		}
	}
	return nil
}

// bucket looks at a bucket, which has a tree of its own, or is so small that its only page is in the value.
func (c *checker) bucket(id uint64, value []byte) error {
	if tree := order.Uint64(value); tree != 0 {
		return c.tree(tree, nil, nil, false)
	}
	p := value[headBytes:]
	if len(p) < headBytes || order.Uint64(p) != 0 || order.Uint16(p[8:]) != flagLeaf || order.Uint32(p[12:]) != 0 {
		return c.damaged(id, "the page of a small bucket is none")
	}
	return c.elements(id, p, nil, nil, false)
}

// freeList looks at the list of free pages, which a file has that an older version wrote last, or another program.
func (c *checker) freeList(id uint64) error {
	p, err := c.read(id, nil)
	if err != nil {
		return err
	}
	list, n := p[headBytes:], uint64(order.Uint16(p[10:]))
	if n == 0xFFFF {
		list, n = list[8:], order.Uint64(list)
	}
	if order.Uint16(p[8:]) != flagFree || n > uint64(len(list)/8) {
		return c.damaged(id, "it is no list of free pages")
	}
	last := uint64(1)
	for i := range n {
		free := order.Uint64(list[8*i:])
		if free <= last || free >= uint64(len(c.used)) || c.used[free] {
			return c.damaged(id, fmt.Sprintf("page %d is not free", free))
		}
		last = free
	}
	return nil
}
