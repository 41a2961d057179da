package evidence

import (
	"errors"
	"os"
	"syscall"
)

// diskFile syncs with fdatasync, which leaves out the times of a file and nothing that reading it back needs.
type diskFile struct{ *os.File }

func (f diskFile) Sync() error {
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
