package datafile_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/countersign/countersign/extproc/datafile"
)

// TestOnlyFilesAreOpened: what is no file of this directory is not opened, not waited for and not written, and the error says
// what it is.
func TestOnlyFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	elsewhere := filepath.Join(t.TempDir(), "secret")
	for _, err := range []error{
		os.WriteFile(elsewhere, []byte("secret"), 0o600),
		os.WriteFile(at("file"), []byte("text"), 0o600),
		syscall.Mkfifo(at("a named pipe"), 0o600),
		os.Mkdir(at("a directory"), 0o700),
		os.Symlink(elsewhere, at("a symbolic link")),
		os.Symlink(at("nowhere"), at("a symbolic link to nothing")),
		os.Symlink("/dev/zero", at("a symbolic link to a device")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", at("a socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	paths := map[string]string{"/dev/zero": "a device"}
	for _, kind := range []string{"a named pipe", "a directory", "a socket", "a symbolic link"} {
		paths[at(kind)] = kind
	}
	paths[at("a symbolic link to nothing")], paths[at("a symbolic link to a device")] = "a symbolic link", "a symbolic link"
	for path, kind := range paths {
		for _, flag := range []int{os.O_RDONLY, os.O_RDWR | os.O_CREATE, os.O_WRONLY | os.O_CREATE | os.O_TRUNC} {
			if f, err := datafile.OpenFile(path, flag, 0o600); err == nil || !strings.Contains(err.Error(), path+" is "+kind) {
				t.Errorf("%s, opened with %#x: %v, %v", kind, flag, f, err)
			}
		}
		if _, err := datafile.ReadFile(path, 100); err == nil {
			t.Errorf("%s was read", kind)
		}
	}
	if text, err := os.ReadFile(elsewhere); err != nil || string(text) != "secret" {
		t.Errorf("what a link led to has %q now, %v", text, err)
	}
	if text, err := datafile.ReadFile(at("file"), 4); err != nil || string(text) != "text" {
		t.Errorf("a file has %q, %v", text, err)
	}
	if _, err := datafile.ReadFile(at("file"), 3); err == nil || !strings.Contains(err.Error(), "longer than 3 bytes") {
		t.Errorf("a file of 4 bytes, read with a limit of 3: %v", err)
	}
	if err := datafile.Replace(datafile.Disk{}, at("file"), []byte("new")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, at("linked")); err != nil {
		t.Fatal(err)
	}
	if err := datafile.CheckDirectory(at("linked")); err == nil || !strings.Contains(err.Error(), "is a symbolic link, and not a directory") {
		t.Errorf("a link to a directory: %v", err)
	}
	if text, err := datafile.ReadFile(at("file"), 100); err != nil || string(text) != "new" {
		t.Errorf("the file has %q, %v", text, err)
	}
}

// TestLook tells files apart, and how long they are, on either way to look.
func TestLook(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for _, err := range []error{os.WriteFile(a, []byte("text"), 0o600), os.WriteFile(b, []byte("text"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	first, err := datafile.Look(a)
	if err != nil || first.Size != 4 {
		t.Fatalf("%+v, %v", first, err)
	}
	open, err := os.Open(a) // a file that nobody has any more gives its number to the next one
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := os.WriteFile(a, []byte("a longer text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := datafile.Look(a); err != nil || !again.Same(first) || again.Size != 13 {
		t.Errorf("a file that grew: %+v, %v", again, err)
	}
	if err := os.Rename(b, a); err != nil {
		t.Fatal(err)
	}
	if other, err := datafile.Look(a); err != nil || other.Same(first) {
		t.Errorf("another file in its place: %+v, %v", other, err)
	}
	if _, err := datafile.Look(b); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is gone: %v", err)
	}
	if err := os.Symlink(a, b); err != nil {
		t.Fatal(err)
	}
	if link, err := datafile.Look(b); err != nil || link.Same(first) {
		t.Errorf("a link: %+v, %v", link, err)
	}
}

// steps is the real disk, which writes down what is asked of it and fails at one step.
type steps struct {
	datafile.Disk
	taken []string
	fails string
}

type stepsFile struct {
	datafile.File
	*steps
}

func (s *steps) take(step string) error {
	s.taken = append(s.taken, step)
	if step == s.fails {
		return errors.New(step + " fails")
	}
	return nil
}

func (s *steps) OpenFile(name string, flag int, perm fs.FileMode) (datafile.File, error) {
	f, err := s.Disk.OpenFile(name, flag, perm)
	return stepsFile{f, s}, err
}

func (f stepsFile) WriteAt(p []byte, at int64) (int, error) {
	if err := f.take("write"); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, at)
}

func (f stepsFile) Sync() error { return errors.Join(f.take("sync"), f.File.Sync()) }

func (f stepsFile) Close() error { return errors.Join(f.take("close"), f.File.Close()) }

func (s *steps) Rename(from, to string) error {
	if err := s.take("rename"); err != nil {
		return err
	}
	return s.Disk.Rename(from, to)
}

func (s *steps) SyncDir(dir string) error {
	return errors.Join(s.take("sync "+filepath.Base(dir)), s.Disk.SyncDir(dir))
}

func TestReplaceIsDurable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	path := filepath.Join(dir, "file")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	all := []string{"write", "sync", "close", "rename", "sync data"}
	for _, fails := range append([]string{""}, all...) {
		if err := datafile.Replace(datafile.Disk{}, path, []byte("a longer old text")); err != nil {
			t.Fatal(err)
		}
		disk := &steps{fails: fails}
		err := datafile.Replace(disk, path, []byte("new"))
		if (err != nil) != (fails != "") {
			t.Errorf("%q fails, and %v is said", fails, err)
		}
		if fails == "" && !slices.Equal(disk.taken, all) {
			t.Errorf("the steps were %q", disk.taken)
		}
		want := "a longer old text"
		if fails == "" || fails == "sync data" {
			want = "new"
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != want {
			t.Errorf("%q fails, and there is %q, %v", fails, text, err)
		}
	}
}
