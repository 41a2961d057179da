package extproctest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// TestEachRunKeepsItsGateway: what another run builds is not what this one starts next, and what ended runs leave is removed.
func TestEachRunKeepsItsGateway(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(t.TempDir(), "gateway")
	must(os.WriteFile(binary, []byte("old"), 0o700))
	own, err := ownCopy(binary)
	must(err)
	ended := exec.Command(os.Args[0], "-test.run=^$")
	must(ended.Run())
	gone := filepath.Join(filepath.Dir(own), strconv.Itoa(ended.Process.Pid))
	other := filepath.Join(filepath.Dir(own), strconv.Itoa(os.Getppid()))
	must(os.WriteFile(gone, nil, 0o600))
	must(os.WriteFile(other, nil, 0o600))
	must(os.WriteFile(binary+".new", []byte("new"), 0o700))
	must(os.Rename(binary+".new", binary)) // as go build does
	if text, err := os.ReadFile(own); string(text) != "old" || err != nil {
		t.Errorf("this run has the %q gateway, %v", text, err)
	}
	own, err = ownCopy(binary)
	must(err)
	if text, err := os.ReadFile(own); string(text) != "new" || err != nil {
		t.Errorf("after another build it is the %q one, %v", text, err)
	}
	if _, err := os.Stat(gone); !os.IsNotExist(err) {
		t.Errorf("the gateway of a run that has ended is there: %v", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("the gateway of another run: %v", err)
	}
}
