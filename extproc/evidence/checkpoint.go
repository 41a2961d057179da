package evidence

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/gate"
)

// Checkpoint is a signed statement of how many records there were and what they said.
type Checkpoint struct {
	Origin string
	Size   uint64    // records covered: those with seq up to Size
	Root   tlog.Hash // of the Merkle tree over their lines
	Note   string    // the signed note, as C2SP tlog-checkpoint has it
}

const checkpointsName = "checkpoints"

// checkpointsFile returns the path of a journal's checkpoints: one line of JSON each, {"note":"…"}.
func checkpointsFile(dir string) string { return filepath.Join(dir, checkpointsName) }

// signCheckpoint signs the root over t's lines.
func signCheckpoint(signer note.Signer, t *tree) (Checkpoint, error) {
	c := Checkpoint{Origin: signer.Name(), Size: uint64(t.n), Root: t.root()}
	signed, err := note.Sign(&note.Note{Text: c.text()}, signer)
	if err != nil {
		return c, fmt.Errorf("sign a checkpoint: %w", err)
	}
	c.Note = string(signed)
	return c, nil
}

func (c *Checkpoint) text() string {
	return c.Origin + "\n" + strconv.FormatUint(c.Size, 10) + "\n" + c.Root.String() + "\n"
}

// line returns the checkpoint as it stands in the file, with its newline.
func (c *Checkpoint) line() []byte {
	b := append([]byte(`{"note":`), gate.AppendText(nil, c.Note)...)
	return append(b, "}\n"...)
}

// openCheckpoint verifies a signed note and reads the checkpoint in it. Further signatures, such as a witness's, are ignored.
func openCheckpoint(signed []byte, keys note.Verifiers) (Checkpoint, error) {
	n, err := note.Open(signed, keys)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("verify a checkpoint's signature: %w", err)
	}
	for _, s := range n.Sigs {
		// x/mod reads base64 leniently: two spellings of one signature would both pass.
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return Checkpoint{}, fmt.Errorf("verify a checkpoint's signature: %w", err)
		}
	}
	lines := strings.SplitN(n.Text, "\n", 4)
	if len(lines) < 4 {
		return Checkpoint{}, errors.New("a checkpoint has three lines: origin, size, root hash")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("checkpoint size %.40q is not a number", lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil || root.String() != lines[2] {
		return Checkpoint{}, fmt.Errorf("checkpoint root %.80q is not a SHA-256 in base64", lines[2])
	}
	c := Checkpoint{Origin: lines[0], Size: uint64(size), Root: root, Note: string(signed)}
	for _, s := range n.Sigs {
		if s.Name == c.Origin {
			return c, nil
		}
	}
	return Checkpoint{}, fmt.Errorf("checkpoint of %q is not signed by its origin", c.Origin)
}

// Verifiers parses verifier keys.
func Verifiers(keys []string) (note.Verifiers, error) {
	var list []note.Verifier
	for _, key := range keys {
		v, err := note.NewVerifier(strings.TrimSpace(key))
		if err != nil {
			return nil, fmt.Errorf("read public key %.100q: %w", key, err)
		}
		list = append(list, v)
	}
	return note.VerifierList(list...), nil
}

// noteOf takes the signed note out of one line of the checkpoints file.
func noteOf(line []byte) ([]byte, error) {
	var signed string
	var found, other bool
	err := scanObject(line, func(name, value []byte) {
		if string(name) == "note" {
			signed, found = textValue(value)
			return
		}
		other = true
	})
	if err != nil {
		return nil, err
	}
	if !found || other {
		return nil, errors.New(`it is not {"note":"…"}`)
	}
	return []byte(signed), nil
}

// isUnfinished reports whether tail can be the beginning of a line that is still being written.
func isUnfinished(tail []byte) bool {
	if len(tail) == 0 {
		return true
	}
	s := scanner{b: tail}
	if tail[0] != '{' {
		return false
	}
	if err := s.object(1, nil); err != nil {
		return s.i >= len(tail)-len(`\u0000`) // the error is at the end: at most within an escape
	}
	return s.i == len(tail)
}

// SignedNote is a checkpoint as it stands in the file, not verified.
type SignedNote struct {
	Text string
	End  int64 // where the next one begins in the file
}

// notesAtOnce is how much of a checkpoints file is read at a time.
const notesAtOnce = 1 << 20

// CheckpointNotes reads the signed notes in dir's checkpoints file from offset on, at most a MiB of them. It verifies nothing. It
// leaves a last line that is still being written for the next call.
func CheckpointNotes(dir string, offset int64) ([]SignedNote, error) {
	f, err := datafile.Open(checkpointsFile(dir))
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	if info.Size() < offset {
		return nil, fmt.Errorf("read the checkpoints: %s has %d bytes and had %d", f.Name(), info.Size(), offset)
	}
	data := make([]byte, min(info.Size()-offset, notesAtOnce))
	if _, err := f.ReadAt(data, offset); err != nil && len(data) > 0 {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	var notes []SignedNote
	for {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole && len(notes) == 0 && len(data) == notesAtOnce {
			return nil, fmt.Errorf("read the checkpoints: %s has a line of more than %d bytes at byte %d", f.Name(), notesAtOnce, offset)
		}
		if !whole {
			return notes, nil
		}
		signed, err := noteOf(line)
		if err != nil {
			return notes, fmt.Errorf("read the checkpoints: %s at byte %d: %w", f.Name(), offset, err)
		}
		offset += int64(len(line)) + 1
		notes = append(notes, SignedNote{Text: string(signed), End: offset})
		data = rest
	}
}
