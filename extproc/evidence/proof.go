package evidence

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Proof shows that a checkpoint covers a record, to someone who has no other record: RFC 6962, section 2.1.1.
type Proof struct {
	Line       string      `json:"line"`       // the record as it stands in the journal
	Checkpoint string      `json:"checkpoint"` // signed note
	Hashes     []tlog.Hash `json:"hashes"`     // audit path from the record to the root, leaf first
}

// Prove makes a proof that the last checkpoint in dir covers record seq. It reads the journal once, up to the checkpoint, and keeps
// only the hashes that the proof needs.
func Prove(dir string, keys note.Verifiers, seq uint64) (Proof, error) {
	last, _, _, err := lastLine(checkpointsFile(dir))
	if err != nil {
		return Proof{}, err
	}
	if last == nil {
		return Proof{}, fmt.Errorf("prove record %d: there is no checkpoint", seq)
	}
	signed, err := noteOf(last)
	if err != nil {
		return Proof{}, fmt.Errorf("the last line of the checkpoints: %w", err)
	}
	c, err := openCheckpoint(signed, keys)
	if err != nil {
		return Proof{}, err
	}
	if seq == 0 || seq > c.Size {
		return Proof{}, fmt.Errorf("prove record %d: the last checkpoint covers records 1 to %d", seq, c.Size)
	}
	p := Proof{Checkpoint: c.Note}
	reader := tlog.HashReaderFunc(func(wanted []int64) ([]tlog.Hash, error) {
		line, hashes, err := collect(dir, c, seq, wanted)
		p.Line = line
		return hashes, err
	})
	path, err := tlog.ProveRecord(int64(c.Size), int64(seq-1), reader)
	if err != nil {
		return Proof{}, fmt.Errorf("prove record %d: %w", seq, err)
	}
	p.Hashes = path
	if p.Line == "" { // a tree of one record needs no hashes
		if p.Line, _, err = collect(dir, c, seq, nil); err != nil {
			return Proof{}, fmt.Errorf("prove record %d: %w", seq, err)
		}
	}
	return p, nil
}

// collect reads the lines that c covers and returns the wanted hashes of their tree, and the line of record seq.
func collect(dir string, c Checkpoint, seq uint64, wanted []int64) (string, []tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(wanted))
	var line string
	var t tree
	r := NewReader(dir, 1, nil)
	defer r.Close()
	for uint64(t.n) < c.Size {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return "", nil, fmt.Errorf("the journal ends with record %d, and the checkpoint covers %d", t.n, c.Size)
		}
		if err != nil {
			return "", nil, err
		}
		if e.Seq == seq {
			line = string(e.Line)
		}
		// A leaf adds its own hash to the tree, and those of the subtrees that end with it.
		stored := []tlog.Hash{tlog.RecordHash(e.Line)}
		edge := t.edge
		for n := t.n; n&1 == 1; n >>= 1 {
			stored = append(stored, tlog.NodeHash(edge[len(edge)-1], stored[len(stored)-1]))
			edge = edge[:len(edge)-1]
		}
		from := tlog.StoredHashIndex(0, t.n)
		for i, h := range stored {
			if at := slices.Index(wanted, from+int64(i)); at >= 0 {
				hashes[at] = h
			}
		}
		t.push(stored[0])
	}
	if t.root() != c.Root {
		return "", nil, errors.New("the records are not those that the checkpoint was signed over")
	}
	return line, hashes, nil
}

// VerifyProof checks a proof with the public keys, and returns the record that it is for.
func VerifyProof(p Proof, keys note.Verifiers) (Entry, error) {
	c, err := openCheckpoint([]byte(p.Checkpoint), keys)
	if err != nil {
		return Entry{}, err
	}
	e, err := parse([]byte(p.Line))
	if err != nil {
		return Entry{}, fmt.Errorf("the record in the proof: %w", err)
	}
	if e.Seq > c.Size {
		return Entry{}, fmt.Errorf("record %d is not among the %d that the checkpoint covers", e.Seq, c.Size)
	}
	if err := tlog.CheckRecord(p.Hashes, int64(c.Size), c.Root, int64(e.Seq-1), tlog.RecordHash(e.Line)); err != nil {
		return Entry{}, fmt.Errorf("record %d: %w", e.Seq, err)
	}
	return e, nil
}
