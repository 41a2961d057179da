package datafile

import (
	"errors"
	"os"
	"syscall"
)

// syncData makes what was written to f durable. fdatasync does not write the file's times, and all else that reading it back needs.
func syncData(f *os.File) error {
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
