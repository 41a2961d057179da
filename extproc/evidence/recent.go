package evidence

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync"
	"time"
)

// recent keeps the records that were written last in memory, for who reads where the journal is being written: nothing of them is read
// from a file or parsed again. It has nothing until somebody asks, and never more than most bytes.
type recent struct {
	mu     sync.Mutex
	most   int // bytes
	asked  bool
	bytes  int
	writes []*recentWrite // oldest first, without a gap
}

// recentBytes is a second at full load, several times over.
const recentBytes = 8 << 20

// recentWrite is what one commit wrote. Nothing in it changes again.
type recentWrite struct {
	first   uint64
	time    time.Time
	node    string
	lines   []byte // a copy, newlines included
	records []recentRecord
}

// recentRecord is where a record stands in lines, and what the writer knew of it.
type recentRecord struct {
	from, end  int // of the line
	head, body int // how long the line is up to the value of prev, and how long the body in it
	kind, op   string
	hash       [sha256.Size]byte
}

// hexSize is how long a hash is in hex.
const hexSize = 2 * sha256.Size

// recentCost is about what a record takes beside its line.
const recentCost = 128

// add takes a copy of what was written. It is called before anybody is told that there is more to read.
func (r *recent) add(node string, at time.Time, lines []byte, placed []place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked {
		return
	}
	w := &recentWrite{first: placed[0].seq, time: at.UTC(), node: node, lines: slices.Clone(lines), records: make([]recentRecord, len(placed))}
	for i := range placed {
		p := &placed[i]
		w.records[i] = recentRecord{from: p.from, end: p.end, head: len(p.entry.head), body: p.entry.body, kind: p.entry.kind, op: p.entry.op, hash: p.hash}
	}
	r.writes = append(r.writes, w)
	r.bytes += w.cost()
	gone := 0
	for r.bytes > r.most {
		r.bytes -= r.writes[gone].cost()
		gone++
	}
	if gone > 0 {
		r.writes = slices.Delete(r.writes, 0, gone)
	}
}

func (w *recentWrite) cost() int { return len(w.lines) + recentCost*len(w.records) }

// of returns the write that has a record, or nil.
func (r *recent) of(seq uint64) *recentWrite {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = true
	after, _ := slices.BinarySearchFunc(r.writes, seq+1, func(w *recentWrite, next uint64) int { return cmp.Compare(w.first, next) })
	if after == 0 || !r.writes[after-1].has(seq) {
		return nil
	}
	return r.writes[after-1]
}

// has reports whether a record is in this write.
func (w *recentWrite) has(seq uint64) bool {
	return w != nil && seq >= w.first && seq < w.first+uint64(len(w.records))
}

// hashes are those of its records, in hex, one after the other.
func (w *recentWrite) hashes() string {
	b := make([]byte, 0, hexSize*len(w.records))
	for i := range w.records {
		b = hex.AppendEncode(b, w.records[i].hash[:])
	}
	return string(b)
}

// entry is the record as parse would read it. It shares the bytes of lines and of hashes. before is the hash of the record before, if
// that is known.
func (w *recentWrite) entry(seq uint64, hashes, before string) Entry {
	r := &w.records[seq-w.first]
	line := w.lines[r.from:r.end:r.end]
	from := len(`{"body":`)
	if prev := line[r.head : r.head+hexSize]; string(prev) != before {
		before = string(prev)
	}
	return Entry{
		V: Version, Seq: seq, Time: w.time, Node: w.node, Type: r.kind, Op: r.op, Prev: before,
		Body: line[from : from+r.body : from+r.body], Line: line, Hash: hashes[hexSize*(seq-w.first):][:hexSize],
	}
}
