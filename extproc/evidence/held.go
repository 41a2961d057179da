package evidence

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/countersign/countersign/extproc/datafile"
)

// held is a file that the journal has open, as it was when it was opened. A file that somebody deletes or replaces can still be
// written and synced, and what was written is gone when the process ends. So each commit checks that the file is still there under
// its name; that takes 2 µs beside a sync's 150.
type held struct {
	path string
	seen datafile.Seen
}

func hold(path string) (held, error) {
	seen, err := datafile.Look(path)
	if err != nil {
		return held{}, fmt.Errorf("look at a file that was just opened: %w", err)
	}
	return held{path, seen}, nil
}

// errNotOurs says that somebody else deleted, replaced, cut or wrote a file of the journal.
var errNotOurs = errors.New("somebody else has changed the journal")

// check checks that the file is in its place and has size bytes. If it is not as the journal left it, the error is errNotOurs; any
// other error says that this cannot be told.
func (h held) check(size int64) error {
	now, err := datafile.Look(h.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s is gone", errNotOurs, h.path)
	case err != nil:
		return fmt.Errorf("look whether the journal is in its place: %w", err)
	case !now.Same(h.seen):
		return fmt.Errorf("%w: another file is in the place of %s", errNotOurs, h.path)
	case now.Size != size:
		return fmt.Errorf("%w: %s has %d bytes, and the journal left %d", errNotOurs, h.path, now.Size, size)
	}
	return nil
}
