package extproctest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// within bounds a test's waiting for its parts.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestRunReportsWhatFatalfSaid(t *testing.T) {
	var log strings.Builder
	var order []string
	err := Run(&log, func(tb TB) {
		tb.Cleanup(func() { order = append(order, "first") })
		tb.Cleanup(func() { order = append(order, "second"); tb.Fatalf("and this too") })
		tb.Logf("started %d", 1)
		tb.Fatalf("it broke: %w", errors.ErrUnsupported)
		order = append(order, "never")
	})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("the error is %v", err)
	}
	if got := strings.Join(order, " "); got != "second first" {
		t.Errorf("the cleanups ran as %q, want the last one first and all of them", got)
	}
	if log.String() != "started 1\n" {
		t.Errorf("the log is %q", log.String())
	}
}

func TestRunOfAStoryThatEndsWell(t *testing.T) {
	var dir string
	if err := Run(&strings.Builder{}, func(tb TB) { dir = Dir(tb) }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of the story is still there: %v", err)
	}
}

func TestPanicOfAStoryIsThatOfRun(t *testing.T) {
	defer func() {
		if r := recover(); fmt.Sprint(r) != "boom" {
			t.Errorf("recovered %v", r)
		}
	}()
	_ = Run(&strings.Builder{}, func(TB) { panic("boom") })
	t.Error("Run returned")
}

func TestPortsAreGivenOutOnce(t *testing.T) {
	locks := t.TempDir()
	seen := map[int]bool{}
	for range 200 {
		port, release, err := reservePort(locks, lastPort, func(int) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		if seen[port] {
			t.Fatalf("port %d was given out twice", port)
		}
		seen[port] = true
		// The lock is what another process would find.
		if f, err := lockFile(filepath.Join(locks, strconv.Itoa(port)), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			f.Close()
			t.Fatalf("port %d is not locked", port)
		}
	}
}
