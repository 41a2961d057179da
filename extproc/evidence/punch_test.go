//go:build linux

package evidence

import (
	"os"
	"syscall"
	"testing"
)

// punch takes a part of a file from the disk. It reads as zeros then.
func punch(f *os.File, at, n int64) error {
	const keepSize, punchHole = 1, 2
	return syscall.Fallocate(int(f.Fd()), keepSize|punchHole, at, n)
}

// TestAFileSystemThatDropsZeros: records go on where it has punched holes in the place of what was prepared.
func TestAFileSystemThatDropsZeros(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	mustAppend(t, j, event(0))
	prepared(j)
	before, size := f.written(1), len(f.read(f.segment()))
	file, err := os.OpenFile(segmentPath(f.dir, 1), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := punch(file, before, int64(size)-before); err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		mustAppend(t, j, event(n))
	}
	f.crash(j)
	if r := f.mustVerify(); r.Records != 21 || r.InProgress != 0 {
		t.Errorf("%+v", r)
	}
	j = f.open()
	mustAppend(t, j, event(1))
	f.mustVerify()
}
