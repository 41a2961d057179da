package custody

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
)

// TestWhatBelongsToSomebodyElseIsRefused: whose a file is can change it, whatever its mode says.
func TestWhatBelongsToSomebodyElseIsRefused(t *testing.T) {
	dir := extproctest.Dir(t)
	for _, c := range []struct {
		uid  uint32
		well bool
	}{{uint32(os.Geteuid()), true}, {uint32(os.Geteuid()) + 4711, os.Geteuid() == 0}} { // root's files are nobody's to fear
		var told []string
		in := newInspection(func(key, message string) { told = append(told, key+": "+message) })
		in.uid = c.uid
		if well := in.directory("data", dir); well != c.well || well != (len(told) == 0) {
			t.Errorf("for %d: well %v, %q", c.uid, well, told)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	for _, change := range []func(string) error{
		func(path string) error { return os.Chown(path, 4711, -1) },
		func(path string) error { return os.Chown(filepath.Dir(path), 4711, -1) },
		func(path string) error {
			return errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path), os.Lchown(path, 4711, -1))
		},
	} {
		path := filepath.Join(extproctest.Dir(t), "var")
		must(t, os.Mkdir(path, 0o700))
		must(t, change(path))
		var told []string
		newInspection(func(_, message string) { told = append(told, message) }).data(path)
		if len(told) != 1 || !strings.Contains(told[0], "belongs to user 4711 and not to root") {
			t.Errorf("told %q", told)
		}
	}
}

// A group of which nobody else is a member is no more than its user.
func TestAGroupOfOnesOwn(t *testing.T) {
	dir := extproctest.Dir(t)
	must(t, os.Chmod(dir, 0o770))
	for _, alone := range []bool{true, false} {
		in := newInspection(func(string, string) {})
		in.alone = func(uint32) bool { return alone }
		if well := in.directory("data", dir); well != alone {
			t.Errorf("alone in the group: %v, well: %v", alone, well)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
