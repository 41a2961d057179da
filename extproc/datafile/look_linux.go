package datafile

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Look says which file is at path, and how long it is. It follows no link. It does not ask for the file's times: after somebody has,
// the next write has to note a new one (Linux 6.13 and later), which costs as much again as the write and its sync.
func Look(path string) (Seen, error) {
	var s unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE|unix.STATX_INO|unix.STATX_SIZE, &s)
	switch {
	case errors.Is(err, unix.EINTR):
		return Look(path)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM): // an old kernel, or one that is kept from it
		return lookAtAll(path)
	case err != nil:
		return Seen{}, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return Seen{Size: int64(s.Size), disk: unix.Mkdev(s.Dev_major, s.Dev_minor), file: s.Ino}, nil
}
