// Package datafile opens and replaces the files of a data directory. It opens regular files only: no link that leads elsewhere, no
// named pipe on which reading waits for ever, no socket, no device. People verify copies of data directories whose maker they do
// not trust, and another user of a gateway's host may set a trap in the one that it writes. So every file of a data directory is
// opened here, and a test holds that.
//
// The data directory itself may be a link, and so may the directories above it: its owner says where it is.
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

// OpenFile is os.OpenFile for a regular file, or for one that does not exist yet. It follows no link and does not wait.
func OpenFile(path string, flag int, perm fs.FileMode) (*os.File, error) {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist): // made, or refused, below
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular(): // before it is opened: opening a device can do something
		return nil, NotAFile(path, info.Mode())
	}
	// The flags and the second look below are for what somebody puts there meanwhile.
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

// ReadFile reads a whole file, which may have at most limit bytes.
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

// Replace writes data in the place of a file, durably and in one step: a reader, or a start after a crash, finds the old file or
// the new one.
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

// Lock locks the file at path for this process until the file is closed. It does not wait: the error is syscall.EWOULDBLOCK if
// another process has the lock.
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

// Seen is a file as somebody looked at it.
type Seen struct {
	Size       int64
	disk, file uint64
}

// Same reports whether s and t are the same file.
func (s Seen) Same(t Seen) bool { return s.disk == t.disk && s.file == t.file }

func lookAtAll(path string) (Seen, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return Seen{}, err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Seen{}, &fs.PathError{Op: "lstat", Path: path, Err: errors.ErrUnsupported}
	}
	return Seen{Size: info.Size(), disk: uint64(s.Dev), file: s.Ino}, nil //nolint:unconvert // other systems have other types
}

// CheckDirectory returns an error unless path is a directory, and not a link to one.
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

// NotAFileError says that something other than a regular file is where a file belongs.
type NotAFileError struct {
	Path string
	Kind string
}

func (e *NotAFileError) Error() string {
	return fmt.Sprintf("%s is %s, and not a file", e.Path, e.Kind)
}

// NotAFile returns the error for what is at path.
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
