package redact

import "hash/maphash"

// nameSeed keeps a target from choosing names whose hashes collide: that would cost us time.
var nameSeed = maphash.MakeSeed()

// hashName never returns 0. Two names with one hash are taken for the same name, and the body is withheld. With 65,536 names in
// an object the chance of that is 1 in 8 thousand million.
func hashName(name []byte) uint64 { return max(1, maphash.Bytes(nameSeed, name)) }

// fewNames is how many names are compared one by one; more get a table.
const fewNames = 16

// nameSet has the names of one open object. The hashes of all open objects are in one list, those of the innermost last. So a
// set is where its own begin, and a table of them if they are many.
type nameSet struct {
	from  int
	table []uint64 // open addressing; 0 is free; at most half full
}

func (s *nameSet) reset(from int) { s.from, s.table = from, s.table[:0] }

// keptTable is the size up to which a table is kept for the next object at its depth.
const keptTable = 1024

// release drops a large table: if each depth kept one, they would add up.
func (s *nameSet) release() {
	if cap(s.table) > keptTable {
		s.table = nil
	}
}

// add appends h to all, the hashes of every open object, unless s has it.
func (s *nameSet) add(all []uint64, h uint64) (list []uint64, isNew bool) {
	own := all[s.from:]
	if len(own) < fewNames {
		for _, o := range own {
			if o == h {
				return all, false
			}
		}
		return append(all, h), true
	}
	if 2*len(own) >= len(s.table) {
		s.grow(own)
	}
	if !s.insert(h) {
		return all, false
	}
	return append(all, h), true
}

// grow makes the table at least four times as large as own. A table of an earlier object is cleared only as far as it is needed,
// so that one large object does not slow down the small ones after it.
func (s *nameSet) grow(own []uint64) {
	size := 4 * fewNames
	for size < 4*len(own) {
		size *= 2
	}
	if cap(s.table) < size {
		s.table = make([]uint64, size)
	} else {
		s.table = s.table[:size]
		clear(s.table)
	}
	for _, o := range own {
		s.insert(o)
	}
}

func (s *nameSet) insert(h uint64) bool {
	last := uint64(len(s.table) - 1)
	for i := h & last; ; i = (i + 1) & last {
		switch s.table[i] {
		case 0:
			s.table[i] = h
			return true
		case h:
			return false
		}
	}
}
