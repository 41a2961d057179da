package evidence

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// unpacked puts an archive into a new data directory and returns that.
func unpacked(t testing.TB, archive io.Reader) string {
	t.Helper()
	dir := t.TempDir()
	z, err := gzip.NewReader(archive)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, text, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestExportWhileSegmentsAreBegun: whatever is written between any two steps of an export, the archive verifies.
func TestExportWhileSegmentsAreBegun(t *testing.T) {
	f := newFixture(t)
	f.opts.SegmentBytes = 600
	j := f.open()
	mustAppend(t, j, event(1))
	parts := 0
	var archive bytes.Buffer
	err := export(t.Context(), filepath.Dir(f.dir), &archive, func(string) {
		parts++
		for n := range 5 { // at least one segment is begun, and signed for
			mustAppend(t, j, event(n))
		}
		if err := j.Checkpoint(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Verify(t.Context(), VerifyOptions{Dir: filepath.Join(unpacked(t, &archive), "journal")})
	if err != nil || !r.Passed() || r.Covered == 0 || parts < 5 {
		t.Errorf("%d parts: %v, %v, %d records are covered", parts, err, r.Failure, r.Covered)
	}
}

// TestReadingALiveJournal: while records, checkpoints and segments come as fast as they can, verifying passes, an export
// verifies, and showing shows all that was there.
func TestReadingALiveJournal(t *testing.T) {
	f := newFixture(t)
	f.opts.SegmentBytes, f.opts.CheckpointEvery = 2000, time.Millisecond
	j := f.open()
	mustAppend(t, j, event(1))
	const records = 2000 // reading takes longer the more there are: without an end neither has one
	var written atomic.Bool
	done := make(chan error, 1)
	go func() {
		defer written.Store(true)
		for n := 2; n <= records; n++ {
			if _, err := j.Append(t.Context(), event(n)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for !written.Load() {
		before := j.Durable()
		if r := f.verify(); !r.Passed() || r.Records < before {
			t.Fatalf("verify: %v; %d records of %d", r.Failure, r.Records, before)
		}
		var archive bytes.Buffer
		if err := Export(t.Context(), filepath.Dir(f.dir), &archive); err != nil {
			t.Fatal(err)
		}
		r, err := Verify(t.Context(), VerifyOptions{Dir: filepath.Join(unpacked(t, &archive), "journal")})
		if err != nil || !r.Passed() || r.Records < before {
			t.Fatalf("an export: %v, %v; %d records of %d", err, r.Failure, r.Records, before)
		}
		shown := uint64(0)
		for _, err := range Records(t.Context(), f.dir, Filter{}) {
			if err != nil {
				t.Fatalf("show: %v", err)
			}
			shown++
		}
		if shown < before {
			t.Fatalf("showed %d records of %d", shown, before)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestVerifyLooksAtWhatWasThereWhenItBegan: records that come while it reads are nobody's proof that checkpoints are missing.
func TestVerifyLooksAtWhatWasThereWhenItBegan(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	mustAppend(t, j, event(1))
	if err := j.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	v := &verification{opts: VerifyOptions{Dir: f.dir}, completeness: newCompleteness()}
	keys, err := Verifiers([]string{j.PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.openCheckpoints(keys); err != nil {
		t.Fatal(err)
	}
	list, err := listWritten(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		f.clock.move(time.Hour)
		mustAppend(t, j, event(n))
	}
	if err := v.segment(t.Context(), list[0], nil); err != nil {
		t.Fatal(err)
	}
	if v.end(); !v.report.Passed() || v.report.Records != 1 {
		t.Errorf("%v, %d records", v.report.Failure, v.report.Records)
	}
}

// TestHugeFilesAreNotReadWhole: a file of 8 GiB (a hole) in the place of each file of a copy costs a few MiB and no time.
func TestHugeFilesAreNotReadWhole(t *testing.T) {
	for _, name := range []string{"checkpoints", "00000000000000000001.jsonl", "../keys/evidence.pub"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			f := written(t)
			path := filepath.Join(f.dir, name)
			for _, prepare := range []func() error{func() error { return os.WriteFile(path, nil, 0o600) }, func() error { return os.Truncate(path, 8<<30) }} {
				if err := prepare(); err != nil {
					t.Fatal(err)
				}
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r, err := Verify(t.Context(), VerifyOptions{Dir: f.dir})
			runtime.ReadMemStats(&after)
			if err == nil && r.Passed() {
				t.Error("it passed")
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
				t.Errorf("%d MiB were allocated", got>>20)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := Export(ctx, filepath.Dir(f.dir), io.Discard); err == nil {
				t.Error("it was exported after the command had ended")
			}
		})
	}
}

// TestCheckpointsAreReadAsTheRecordsAre: a long checkpoints file, all of it good, is not kept in memory.
func TestCheckpointsAreReadAsTheRecordsAre(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	const records = 50
	for n := range records {
		mustAppend(t, j, event(n))
		if err := j.Checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	v := &verification{opts: VerifyOptions{Dir: f.dir}, completeness: newCompleteness()}
	keys, err := Verifiers([]string{j.PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.openCheckpoints(keys); err != nil {
		t.Fatal(err)
	}
	defer v.checkpoints.close()
	if c := v.checkpoints.next(); c == nil || v.checkpoints.count != 2 {
		t.Errorf("%d checkpoints were read for the first record", v.checkpoints.count)
	}
	if r := f.mustVerify(); r.Checkpoints != records+2 {
		t.Errorf("%d checkpoints", r.Checkpoints)
	}
	line := strings.SplitAfter(f.read(checkpointsName), "\n")[0]
	const many = 2*notesAtOnce/200 + 1
	f.write(checkpointsName, strings.Repeat(line, many))
	notes, at := 0, int64(0)
	for {
		list, err := CheckpointNotes(f.dir, at)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		notes, at = notes+len(list), list[len(list)-1].End
	}
	if notes != many {
		t.Errorf("%d notes of %d were read, a piece at a time", notes, many)
	}
	f.write(checkpointsName, strings.Repeat("x", notesAtOnce+1))
	if _, err := CheckpointNotes(f.dir, 0); err == nil {
		t.Error("a line without an end was waited for")
	}
}
