package datafile_test

import (
	"net"
	"os"
	"path/filepath"
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
	if err := datafile.Replace(at("file"), []byte("new")); err != nil {
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
