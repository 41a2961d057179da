package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

// breakFile has the store write to another file from here on.
func breakFile(t *testing.T, path, other string, flag int) {
	t.Helper()
	f, err := os.OpenFile(other, flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range open {
		if at, _ := os.Readlink("/proc/self/fd/" + entry.Name()); at != path {
			continue
		}
		var fd int
		if _, err := fmt.Sscan(entry.Name(), &fd); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Dup3(int(f.Fd()), fd, syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("%s is not open", path)
}

// TestAWriteOrASyncThatFailsEndsTheStore: what is not durable is not shown, and nothing more is taken.
func TestAWriteOrASyncThatFailsEndsTheStore(t *testing.T) {
	for _, c := range []struct {
		name, other string
		flag        int
	}{
		{"the write", os.Args[0], os.O_RDONLY},
		{"the sync", os.DevNull, os.O_RDWR}, // which takes all bytes, and cannot be synced
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "approvals.db")
			s := mustOpen(t, path, Options{})
			r := ask(t, s, 1)
			want := all(t, s)
			changes, err := s.Watch(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			breakFile(t, path, c.other, c.flag)
			change := func(_ time.Time, r *approval.Request) error { r.Reason = "lost"; return nil }
			if _, err := s.Update(t.Context(), r.ID, change); !errors.Is(err, ErrFailed) {
				t.Errorf("the error is %v", err)
			}
			if got := all(t, s); got != want {
				t.Errorf("what is not durable is shown: %s", got)
			}
			select {
			case change := <-changes:
				if change != (approval.Change{}) {
					t.Errorf("who watches is told of %+v", change)
				}
			case <-time.After(10 * time.Second):
				t.Error("who watches is not told")
			}
			if _, err := s.Update(t.Context(), r.ID, change); !errors.Is(err, ErrFailed) {
				t.Errorf("after it the error is %v", err)
			}
			if _, _, err := s.Open(t.Context(), approval.Opening{Digest: r.Digest}, nil); !errors.Is(err, ErrFailed) {
				t.Errorf("joining it the error is %v", err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if got := all(t, mustOpen(t, path, Options{})); got != want {
				t.Errorf("a restart finds %s, want %s", got, want)
			}
		})
	}
}
