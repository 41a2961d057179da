package evidence

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/gate"
)

// snapshot is what a checkpoint is signed over, and where the next start may begin to read.
type snapshot struct {
	tree tree
	open uint64 // seq of the oldest decision that has no outcome; 0 if all have one
}

// signing is the checkpoints file. A goroutine of its own writes it, so that no operation waits for a signature's sync.
type signing struct {
	mu     sync.Mutex
	file   datafile.File
	held   held // file
	offset int64
	size   uint64 // of the last checkpoint
}

func (j *Journal) snapshot() snapshot {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.snapshotLocked()
}

func (j *Journal) snapshotLocked() snapshot {
	s := snapshot{tree: j.chain.tree.clone()}
	for seq := range j.open {
		if s.open == 0 || seq < s.open {
			s.open = seq
		}
	}
	return s
}

// Checkpoint signs what is durable now, if it has grown since the last checkpoint.
func (j *Journal) Checkpoint() error {
	j.signPending()
	return j.sign(j.snapshot())
}

func (j *Journal) nudgeSigner() {
	select {
	case j.wakeSigner <- struct{}{}:
	default:
	}
}

func (j *Journal) runSigner() {
	tick := time.NewTicker(j.opts.CheckpointEvery)
	defer tick.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-j.wakeSigner:
			j.signPending()
		case <-tick.C:
			_ = j.Checkpoint()
			if j.refused.Load() != nil {
				j.queue.nudge() // has the writer try the disk again, even if no record comes
			}
		}
	}
}

// signPending signs the ends of segments. If one fails, the next checkpoint covers it.
func (j *Journal) signPending() {
	j.mu.Lock()
	pending := j.pending
	j.pending = nil
	j.mu.Unlock()
	for _, s := range pending {
		_ = j.sign(s)
	}
}

// sign adds a checkpoint to the file, durably. A failure raises an alarm; the next checkpoint covers the same records.
func (j *Journal) sign(s snapshot) error {
	j.signing.mu.Lock()
	defer j.signing.mu.Unlock()
	if err := j.failed.Load(); err != nil {
		return *err
	}
	if uint64(s.tree.n) <= j.signing.size {
		return nil
	}
	c, err := signCheckpoint(j.keys.signer, &s.tree)
	if err == nil {
		err = j.addCheckpointLocked(c)
	}
	if err != nil {
		j.alarm(AlarmCheckpointFailed, err.Error())
		return err
	}
	if err := datafile.Replace(j.opts.FS, filepath.Join(j.opts.Dir, resumeName), resumeOf(s)); err != nil {
		j.opts.Log.Warn("the next start will read the whole journal", "error", err)
	}
	j.announce()
	return nil
}

func (j *Journal) addCheckpointLocked(c Checkpoint) error {
	line := c.line()
	if err := j.signing.held.check(j.signing.offset); errors.Is(err, errNotOurs) {
		return j.fail(err)
	} else if err != nil {
		return err
	}
	n, err := j.signing.file.WriteAt(line, j.signing.offset)
	if err == nil && n != len(line) {
		err = fmt.Errorf("wrote %d of %d bytes", n, len(line))
	}
	if err != nil {
		if undo := j.signing.file.Truncate(j.signing.offset); undo != nil {
			return j.fail(fmt.Errorf("undo a failed write of a checkpoint (%w): %w", err, undo))
		}
		return fmt.Errorf("write a checkpoint: %w", err)
	}
	if err := j.signing.file.Sync(); err != nil {
		return j.fail(fmt.Errorf("sync the checkpoints: %w", err))
	}
	j.signing.offset += int64(len(line))
	j.signing.size = c.Size
	return nil
}

// resumeName is a file that spares a start reading the whole journal. It is not trusted: its tree must have the root that the last
// checkpoint signed. Without a good one the start reads everything.
const resumeName = "resume.json"

func resumeOf(s snapshot) []byte {
	edge := make([]any, len(s.tree.edge))
	for i, h := range s.tree.edge {
		edge[i] = h.String()
	}
	b, err := gate.AppendJSON(nil, gate.Object{
		{Name: "edge", Value: edge},
		{Name: "open", Value: json.Number(strconv.FormatUint(s.open, 10))},
		{Name: "size", Value: s.tree.n},
	})
	if err != nil {
		return nil
	}
	return append(b, '\n')
}

// loadResume reads the file back, if it belongs to the checkpoint.
func loadResume(dir string, last Checkpoint) (snapshot, bool) {
	data, err := datafile.ReadFile(filepath.Join(dir, resumeName), 64<<10)
	if err != nil {
		return snapshot{}, false
	}
	var stored struct {
		Edge []string `json:"edge"`
		Open uint64   `json:"open"`
		Size int64    `json:"size"`
	}
	if json.Unmarshal(data, &stored) != nil || stored.Size <= 0 || uint64(stored.Size) != last.Size || stored.Open > last.Size {
		return snapshot{}, false
	}
	s := snapshot{tree: tree{n: stored.Size}, open: stored.Open}
	for _, text := range stored.Edge {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(raw) != tlog.HashSize {
			return snapshot{}, false
		}
		s.tree.edge = append(s.tree.edge, tlog.Hash(raw))
	}
	if len(s.tree.edge) != bits.OnesCount64(uint64(stored.Size)) || s.tree.root() != last.Root {
		return snapshot{}, false
	}
	return s, true
}
