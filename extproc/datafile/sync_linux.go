package datafile

import (
	"errors"
	"os"
	"syscall"
)

// Sync makes durable what was written to f. It leaves out the times of a file, and nothing that reading it back needs.
func Sync(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
		}
		return nil
	}
}
