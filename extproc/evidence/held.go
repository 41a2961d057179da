package evidence

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// held is a file that the journal has open, as its directory showed it then. A file that was deleted or replaced can be
// written and synced through its descriptor as if nothing had happened, and what was written is gone when the process
// is: so each commit looks whether the file is still there under its name. That costs 2 µs beside a sync's 150.
type held struct {
	path string
	info fs.FileInfo
}

func hold(path string) (held, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return held{}, fmt.Errorf("look at a file that was just opened: %w", err)
	}
	return held{path, info}, nil
}

// errNotOurs: somebody else deleted, replaced, cut or wrote a file of the journal.
var errNotOurs = errors.New("somebody else has changed the journal")

// check wants the file in its place, with size bytes. Its error is errNotOurs where the file is not what the journal
// left, and another where that cannot be told.
func (h held) check(size int64) error {
	info, err := os.Lstat(h.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s is gone", errNotOurs, h.path)
	case err != nil:
		return fmt.Errorf("look whether the journal is in its place: %w", err)
	case !os.SameFile(info, h.info):
		return fmt.Errorf("%w: another file is in the place of %s", errNotOurs, h.path)
	case info.Size() != size:
		return fmt.Errorf("%w: %s has %d bytes, and the journal left %d", errNotOurs, h.path, info.Size(), size)
	}
	return nil
}
