package redact

import "hash/maphash"

// nameSeed keeps a target from choosing names whose hashes meet, which would withhold its own answer but cost us time.
var nameSeed = maphash.MakeSeed()

// hashName never returns 0. Two names with one hash are taken for the same name; with 65,536 names in an object that has
// a chance of 1 in 8 thousand million, and then the body is withheld.
func hashName(name []byte) uint64 { return max(1, maphash.Bytes(nameSeed, name)) }

// fewNames is up to how many names are looked through one by one.
const fewNames = 16

// nameSet is the names of one open object. The hashes of all open objects stand in one list, in which those of the
// innermost are last: so a set is where its own begin, and a table over them when they are many.
type nameSet struct {
	from  int
	table []uint64 // open addressing; 0 is free; at most half full
}

func (s *nameSet) reset(from int) { s.from, s.table = from, s.table[:0] }

// keptTable is how large a table may be to be kept for the next object at its depth.
const keptTable = 1024

// release lets go of a large table: each depth could have one at some time, and they would add up.
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

// grow makes the table four times as large as own. A table that was grown before for another object is cleared only as
// far as it is needed, so that one large object does not slow down the small ones that come after it.
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
