package evidence

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/countersign/countersign/extproc/datafile"
)

// FS is the part of a file system that the journal writes through, so that a test can make each step fail. Reading
// goes to the operating system directly.
type FS interface {
	// OpenFile is os.OpenFile.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Rename is os.Rename.
	Rename(from, to string) error
	// SyncDir makes durable which files a directory has.
	SyncDir(dir string) error
}

// File is a file that the journal writes.
type File interface {
	// WriteAt writes p at offset. After an error any part of p, or all of it, may be in the file.
	WriteAt(p []byte, offset int64) (int, error)
	// Sync makes durable what was written. After an error nothing is known of what is on the disk.
	Sync() error
	Truncate(size int64) error
	Close() error
}

// Disk is the operating system's file system.
type Disk struct{}

// OpenFile opens a regular file.
func (Disk) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := datafile.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

// Rename is os.Rename.
func (Disk) Rename(from, to string) error { return os.Rename(from, to) }

// SyncDir opens the directory and syncs it.
func (Disk) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeDurably replaces a file with data, durably and in one step: a reader, or a crash, sees the old file or the new.
func writeDurably(fsys FS, path string, data []byte) error {
	temporary := path + ".new"
	f, err := fsys.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(data, 0); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(temporary, path); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// lockData takes the data directory for this process alone, until it ends or the file is closed.
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
