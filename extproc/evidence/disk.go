package evidence

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/countersign/countersign/extproc/datafile"
)

// lockData locks the data directory for this process, until it ends or the file is closed.
func lockData(data string) (*os.File, error) {
	path := filepath.Join(data, "lock")
	f, err := datafile.Lock(path)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		holder, _ := datafile.ReadFile(path, 64)
		return nil, fmt.Errorf("%w: %s is held by process %s; stop it, or give this gateway a data directory of its own (%w)",
			ErrLocked, path, strings.TrimSpace(string(holder)), err)
	case err != nil:
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := errors.Join(f.Truncate(0), writePid(f)); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock the data directory: write %s: %w", path, err)
	}
	return f, nil
}

func writePid(f *os.File) error {
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// segment is one file of the journal, named after its first record.
type segment struct {
	path  string
	first uint64
	size  int64 // when it was listed by listWritten; else 0
}

const segmentSuffix = ".jsonl"

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", first, segmentSuffix))
}

// segments lists the journal's files, oldest first.
func segments(dir string) ([]segment, error) {
	if err := datafile.CheckDirectory(dir); err != nil {
		return nil, fmt.Errorf("list the journal: %w", err)
	}
	files, err := os.ReadDir(dir) // sorted by name, and the names have a fixed width
	if err != nil {
		return nil, fmt.Errorf("list the journal: %w", err)
	}
	var list []segment
	for _, f := range files {
		number, ok := strings.CutSuffix(f.Name(), segmentSuffix)
		if !ok {
			continue
		}
		first, err := strconv.ParseUint(number, 10, 64)
		path := filepath.Join(dir, f.Name())
		if err != nil || first == 0 || segmentPath(dir, first) != path {
			return nil, fmt.Errorf("%s is not named after a record number of 20 digits", path)
		}
		if !f.Type().IsRegular() {
			return nil, fmt.Errorf("list the journal: %w", datafile.NotAFile(path, f.Type()))
		}
		list = append(list, segment{path: path, first: first})
	}
	return list, nil
}
