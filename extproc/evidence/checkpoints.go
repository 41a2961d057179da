package evidence

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"golang.org/x/mod/sumdb/note"
)

// checkpoints are those that a journal is verified against, smallest first: the file's, which are read along with the records, and
// those that were given. What is added to the file later is not read.
type checkpoints struct {
	keys  note.Verifiers
	given []numbered
	lines *lines    // nil if there is no file, or no more of it
	ahead *numbered // read from the file, and not taken yet
	count int       // lines of the file that were read
	size  uint64    // what the last one read from the file covers

	missing *Failure // what is wrong with the file itself
}

type numbered struct {
	Checkpoint
	file string
	line int
}

// openCheckpoints opens the checkpoints and checks those over no records.
func (v *verification) openCheckpoints(keys note.Verifiers) error {
	c := &checkpoints{keys: keys}
	v.checkpoints = c
	if v.opts.Checkpoint != nil {
		notes, err := givenNotes(v.opts.Checkpoint)
		if err != nil {
			return fmt.Errorf("the checkpoint to hold the journal against: %w", err)
		}
		for _, signed := range notes {
			given, err := openCheckpoint(signed, keys)
			if err != nil {
				return fmt.Errorf("the checkpoint to hold the journal against: %w", err)
			}
			c.given = append(c.given, numbered{Checkpoint: given, file: "the checkpoint given"})
		}
		slices.SortStableFunc(c.given, func(a, b numbered) int { return cmp.Compare(a.Size, b.Size) })
	}
	l, err := openLines(checkpointsFile(v.opts.Dir))
	if errors.Is(err, fs.ErrNotExist) {
		c.missing = &Failure{File: checkpointsName, Reason: "the checkpoints are missing"}
		return nil
	}
	if err != nil {
		return err
	}
	c.lines = l
	info, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("read the checkpoints: %w", err)
	}
	if l.most = info.Size(); l.most == 0 {
		c.close()
		c.missing = noCheckpoint
		return nil
	}
	if err := l.rewind(0, 0); err != nil {
		return err
	}
	v.reach(0)
	return nil
}

var noCheckpoint = &Failure{File: checkpointsName, Reason: "there is no checkpoint, and a journal begins with one"}

func (c *checkpoints) close() {
	if c.lines != nil {
		c.lines.close()
		c.lines = nil
	}
}

// next returns the smallest that was not taken, or nil. A given one comes before the file's of the same size.
func (c *checkpoints) next() *numbered {
	if c.ahead == nil && c.lines != nil {
		c.read()
	}
	if len(c.given) > 0 && (c.ahead == nil || c.given[0].Size <= c.ahead.Size) {
		return &c.given[0]
	}
	return c.ahead
}

func (c *checkpoints) take() {
	if c.next() == c.ahead {
		c.ahead = nil
		return
	}
	c.given = c.given[1:]
}

// read reads one line of the file. It stops at the first bad one, and notes what is wrong in c.missing.
func (c *checkpoints) read() {
	line, err := c.lines.next()
	if errors.Is(err, io.EOF) {
		switch {
		case !isUnfinished(c.lines.part):
			c.missing = &Failure{File: checkpointsName, Line: c.count + 1, Reason: "the last line does not end, and is not the beginning of a checkpoint"}
		case c.count == 0:
			c.missing = noCheckpoint
		}
		c.close()
		return
	}
	c.count++
	var signed []byte
	if err == nil {
		signed, err = noteOf(line)
	}
	var read Checkpoint
	if err == nil {
		read, err = openCheckpoint(signed, c.keys)
	}
	if err == nil && c.count > 1 && read.Size <= c.size {
		err = fmt.Errorf("it covers %d records, and the one before it %d", read.Size, c.size)
	}
	if err != nil {
		c.missing = &Failure{File: checkpointsName, Line: c.count, Reason: "the checkpoint is not good: " + err.Error()}
		c.close()
		return
	}
	c.size = read.Size
	c.ahead = &numbered{read, checkpointsName, c.count}
}

// givenNotes reads a signed note, or the lines of a checkpoints file, that somebody kept elsewhere. A note's last newline may be
// missing, because copying a text often loses it.
func givenNotes(data []byte) ([][]byte, error) {
	if text := bytes.TrimSpace(data); len(text) == 0 {
		return nil, errors.New("there is none: it is empty")
	} else if text[0] != '{' {
		return [][]byte{append(bytes.Clone(text), '\n')}, nil
	}
	var notes [][]byte
	for n, line := range bytes.Split(data, []byte("\n")) {
		signed, err := noteOf(line)
		switch {
		case err == nil:
			notes = append(notes, signed)
		case len(notes) > 0 && bytes.HasSuffix(data, line) && isUnfinished(line): // it was copied while it grew
		default:
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	return notes, nil
}
