// Package datafile opens and replaces the files of a data directory, and nothing else: no link that leads elsewhere, no named pipe on which
// reading waits for ever, no socket, no device. A data directory is copied, mailed, and verified by people who do not trust who
// made it; and it is written by a gateway that another user of its host may have set a trap for. Whatever reads or writes a file
// of a data directory opens it here, and a test holds that.
//
// A directory above the data directory can be a link, and so can the data directory itself: where it is, its owner says.
package datafile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Open opens a file for reading.
func Open(path string) (*os.File, error) { return OpenFile(path, os.O_RDONLY, 0) }

// OpenFile is os.OpenFile for a regular file that is not reached by a link, and for one that is not there yet. It does not wait.
func OpenFile(path string, flag int, perm fs.FileMode) (*os.File, error) {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist): // made, or refused, below
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular(): // before it is opened: opening a device can do something
		return nil, NotAFile(path, info.Mode())
	}
	// What is put there meanwhile is not followed, not waited for, and found below.
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, perm)
	if errors.Is(err, syscall.ELOOP) {
		return nil, NotAFile(path, fs.ModeSymlink)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = NotAFile(path, info.Mode())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ReadFile reads all of a file of at most limit bytes.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes: it is not what belongs there", path, limit)
	}
	return data, nil
}

// Replace puts data in the place of a file, durably and in one step: whoever reads, and a crash, sees the old file or the new.
func Replace(disk FS, path string, data []byte) error {
	temporary := path + ".new"
	f, err := disk.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(data, 0); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := disk.Rename(temporary, path); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(path))
}

// Lock takes the file at path for this process alone, until the file is closed. It waits for nobody: the error is
// syscall.EWOULDBLOCK where another has it.
func Lock(path string) (*os.File, error) {
	f, err := OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// CheckDirectory wants a directory that is not reached by a link.
func CheckDirectory(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is %s, and not a directory", path, kindOf(info.Mode()))
	}
	return nil
}

// NotAFileError says that something else than a file stands where a file belongs.
type NotAFileError struct {
	Path string
	Kind string
}

func (e *NotAFileError) Error() string {
	return fmt.Sprintf("%s is %s, and not a file", e.Path, e.Kind)
}

// NotAFile is the error for what stands at path in the place of a file.
func NotAFile(path string, mode fs.FileMode) error { return &NotAFileError{path, kindOf(mode)} }

func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "a file"
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	default:
		return "something else"
	}
}
