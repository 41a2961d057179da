package datafile

import (
	"errors"
	"io/fs"
	"os"
)

// FS is what writing needs of a file system, so that a test can make each step fail. Reading does not go through it.
type FS interface {
	// OpenFile is os.OpenFile.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Rename is os.Rename.
	Rename(from, to string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
}

// File is a file that is written.
type File interface {
	// WriteAt writes p at offset. After an error any part of p, or all of it, may be in the file.
	WriteAt(p []byte, offset int64) (int, error)
	// Sync makes what was written durable. After an error nobody knows what is on the disk.
	Sync() error
	Truncate(size int64) error
	Close() error
}

// Disk is the operating system's file system.
type Disk struct{}

// OpenFile opens a regular file.
func (Disk) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

// Rename is os.Rename.
func (Disk) Rename(from, to string) error { return os.Rename(from, to) }

// SyncDir is [SyncDir].
func (Disk) SyncDir(dir string) error { return SyncDir(dir) }

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type diskFile struct{ *os.File }

func (f diskFile) Sync() error { return syncData(f.File) }
