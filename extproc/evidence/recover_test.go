package evidence

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

// left makes a journal as a crash leaves it that comes before anything is prepared: four records, of which a checkpoint covers two.
func left(t testing.TB) *fixture {
	f := newFixture(t)
	j := f.open()
	mustAppend(t, j, event(1))
	mustAppend(t, j, event(2))
	if err := j.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, event(3))
	mustAppend(t, j, event(4))
	f.crash(j)
	if err := os.Truncate(segmentPath(f.dir, 1), f.written(1)); err != nil {
		t.Fatal(err)
	}
	return f
}

// written is how much of a segment is written: without the zeros at its end.
func (f *fixture) written(first uint64) int64 {
	f.t.Helper()
	file, err := os.Open(segmentPath(f.dir, first))
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	end, err := endOfData(file)
	if err != nil {
		f.t.Fatal(err)
	}
	return end
}

func (f *fixture) segment() string { return filepath.Base(segmentPath(f.dir, 1)) }

// files are all files of the journal with their contents.
func (f *fixture) files() map[string]string {
	f.t.Helper()
	list, err := os.ReadDir(f.dir)
	if err != nil {
		f.t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range list {
		all[e.Name()] = f.read(e.Name())
	}
	return all
}

func TestATornTailIsCutAndRecorded(t *testing.T) {
	for _, c := range []struct {
		name string
		tail func(last string) string
		kept int
	}{
		{"one byte of a line", func(string) string { return "{" }, 4},
		{"half a line", func(last string) string { return last[:len(last)/2] }, 4},
		{"a line without its newline", func(last string) string { return strings.TrimSuffix(last, "\n") }, 4},
		{"zeros and a newline", func(string) string { return strings.Repeat("\x00", 50) + "\n" }, 4},
		{"something far behind more zeros than a line may have bytes", func(string) string { return strings.Repeat("\x00", maxLine+200_000) + "x" }, 4},
		{"half a line, zeros, and a line of before", func(last string) string { return last[:len(last)/2] + strings.Repeat("\x00", 5000) + "\n" + last }, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := left(t)
			text := f.read(f.segment())
			lines := strings.SplitAfter(text, "\n")
			tail := c.tail(lines[3])
			f.write(f.segment(), text+tail)
			if r := f.verify(); strings.Contains(c.name, "a line without") && (r.Failure != nil || r.InProgress != len(tail)) {
				t.Errorf("before the start: %+v", r)
			}
			j := f.open()
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			story := f.story()
			if got := story[c.kept]; !strings.HasPrefix(got, "alarm kind=torn_tail bytes=") || !strings.HasSuffix(got, "="+strconv.Itoa(len(tail))) {
				t.Errorf("the journal holds %q, and %d bytes were cut", story, len(tail))
			}
			f.mustVerify()
			if alarms := f.raised(); !slices.Contains(alarms, AlarmTornTail) {
				t.Errorf("alarms %q", alarms)
			}
		})
	}
}

func TestEveryCutOfTheLastLineIsRecovered(t *testing.T) {
	f := left(t)
	text := f.read(f.segment())
	lines := strings.SplitAfter(text, "\n")
	whole := f.files()
	before := len(text) - len(lines[3])
	for cut := before + 1; cut < len(text); cut += 7 {
		for name, content := range whole {
			f.write(name, content)
		}
		f.write(f.segment(), text[:cut])
		j := f.open()
		mustAppend(t, j, event(5))
		f.crash(j)
		f.wantStory("policy.activated n=1", "policy.activated n=2", "policy.activated n=3", "alarm kind=torn_tail bytes="+strconv.Itoa(cut-before), "policy.activated n=5")
	}
}

// TestDamageThatNoCrashExplains: a start that would have to drop evidence refuses, names the place and changes nothing.
func TestDamageThatNoCrashExplains(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(f *fixture, lines []string)
		want   string
	}{
		{"a line is broken and a good one follows", func(f *fixture, l []string) {
			l[2] = "x" + l[2][1:]
			f.write(f.segment(), strings.Join(l, ""))
		}, "line 3, where record 3 is due"},
		{"the last line is chained to another", func(f *fixture, l []string) {
			l[2] = strings.Replace(l[2], `{"n":3}`, `{"n":7}`, 1)
			f.write(f.segment(), strings.Join(l, ""))
		}, "record 4 was not written after the record 3"},
		{"a line is missing", func(f *fixture, l []string) {
			l[2] = ""
			f.write(f.segment(), strings.Join(l, ""))
		}, "holds record 4 where record 3 is due"},
		{"a covered record is cut off", func(f *fixture, l []string) { f.write(f.segment(), l[0]) }, "ends with record 1, and its last checkpoint was signed over 2"},
		{"a covered record is torn", func(f *fixture, l []string) { f.write(f.segment(), l[0]+l[1][:30]) }, "line 1, where record 2 is due"},
		{"all records are gone", func(f *fixture, _ []string) { f.remove(f.segment()) }, "ends with record 0, and its last checkpoint was signed over 2"},
		{"the first segment is gone", func(f *fixture, l []string) {
			f.remove(f.segment())
			f.write(filepath.Base(segmentPath(f.dir, 3)), l[2]+l[3])
		}, "records 1 to 2 are missing"},
		{"a segment is named after another record", func(f *fixture, l []string) {
			f.write(f.segment(), strings.Join(l[:2], ""))
			f.write(filepath.Base(segmentPath(f.dir, 4)), l[2]+l[3])
		}, "where record 3 is due"},
		{"a covered record was changed and all chained anew", func(f *fixture, l []string) {
			l[1] = strings.Replace(l[1], `{"n":2}`, `{"n":7}`, 1)
			rechain(l[:4], 2)
			f.write(f.segment(), strings.Join(l, ""))
			f.remove(resumeName)
		}, "not those that the last checkpoint was signed over"},
		{"the checkpoints are gone", func(f *fixture, _ []string) { f.remove(checkpointsName) }, "no checkpoints"},
		{"the checkpoints are empty", func(f *fixture, _ []string) { f.write(checkpointsName, "") }, "has no checkpoint"},
		{"the last checkpoint is another key's", func(f *fixture, _ []string) {
			other := left(f.t)
			f.write(checkpointsName, other.read(checkpointsName))
		}, "not signed with keys/evidence.key"},
		{"the last checkpoint is no checkpoint", func(f *fixture, _ []string) {
			f.write(checkpointsName, f.read(checkpointsName)+"{}\n")
		}, "is not a checkpoint"},
		{"a record is zeros, and the next one is good", func(f *fixture, l []string) {
			l[2] = strings.Repeat("\x00", len(l[2]))
			f.write(f.segment(), strings.Join(l, ""))
		}, "line 2, where record 3 is due"},
		{"zeros are over the middle of two records", func(f *fixture, l []string) {
			text := []byte(strings.Join(l, ""))
			from := len(l[0]) + len(l[1]) + len(l[2]) - 50
			copy(text[from:], make([]byte, 100))
			f.write(f.segment(), string(text)+l[3])
		}, "line 2, where record 3 is due"},
		{"a record has a zero", func(f *fixture, l []string) {
			l[2] = strings.Replace(l[2], `{"n":3}`, "{\"n\":3\x00", 1)
			f.write(f.segment(), strings.Join(l, ""))
		}, "line 2, where record 3 is due"},
		{"a segment that is not the last ends in zeros", func(f *fixture, l []string) {
			f.write(f.segment(), strings.Join(l[:2], "")+strings.Repeat("\x00", 5000))
			f.write(filepath.Base(segmentPath(f.dir, 3)), l[2]+l[3])
		}, "does not end with a whole record, and it is not the last segment"},
		{"a covered record is zeros", func(f *fixture, l []string) {
			f.write(f.segment(), l[0]+strings.Repeat("\x00", 5000))
		}, "ends with record 1, and its last checkpoint was signed over 2"},
		{"the journal is followed by more than a write has", func(f *fixture, l []string) {
			f.write(f.segment(), strings.Join(l, "")+"x")
			if err := os.Truncate(filepath.Join(f.dir, f.segment()), maxTail+1<<20); err != nil {
				f.t.Fatal(err)
			}
		}, "no write has left so many"},
		{"a file is named like a segment and is none", func(f *fixture, _ []string) { f.write("7.jsonl", "") }, "not named after a record number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := left(t)
			lines := strings.SplitAfter(f.read(f.segment()), "\n")
			c.damage(f, lines)
			before := f.files()
			j, err := Open(context.Background(), f.opts)
			if err == nil {
				j.Close()
				t.Fatal("it opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %q", err, c.want)
			}
			if diff := cmp.Diff(before, f.files()); diff != "" {
				t.Errorf("the start changed files:\n%s", diff)
			}
		})
	}
}

func TestWhatACrashCanLeaveIsNoDamage(t *testing.T) {
	for _, c := range []struct {
		name  string
		leave func(f *fixture)
		want  []string
	}{
		{"zeros that were prepared", func(f *fixture) { f.write(f.segment(), f.read(f.segment())+strings.Repeat("\x00", 3<<20)) }, nil},
		{"a next segment of nothing but zeros", func(f *fixture) {
			f.write(filepath.Base(segmentPath(f.dir, 5)), strings.Repeat("\x00", 5000))
		}, nil},
		{"a checkpoint that is not whole", func(f *fixture) { f.write(checkpointsName, f.read(checkpointsName)+`{"note":"coun`) }, nil},
		{"a next segment that is empty", func(f *fixture) { f.write(filepath.Base(segmentPath(f.dir, 5)), "") }, nil},
		{"no resume file", func(f *fixture) { f.remove(resumeName) }, nil},
		{"a resume file that is empty", func(f *fixture) { f.write(resumeName, "") }, nil},
		{"a resume file with another tree", func(f *fixture) {
			f.write(resumeName, `{"edge":["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="],"open":0,"size":2}`)
		}, nil},
		{"a resume file with no tree", func(f *fixture) { f.write(resumeName, `{"edge":[],"open":0,"size":2}`) }, nil},
		{"a resume file of an earlier checkpoint", func(f *fixture) { f.write(resumeName, `{"edge":[],"open":0,"size":1}`) }, nil},
		{"a file that was being replaced", func(f *fixture) { f.write(resumeName+".new", "{") }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := left(t)
			c.leave(f)
			j := f.open()
			mustAppend(t, j, event(5))
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			f.wantStory("policy.activated n=1", "policy.activated n=2", "policy.activated n=3", "policy.activated n=4", "policy.activated n=5", "gateway.stopped open=0")
			f.mustVerify()
		})
	}
}

func TestAFirstStartThatWasCutOffIsBegunAgain(t *testing.T) {
	for _, step := range []string{"open", "write", "sync", "rename", "syncdir"} {
		for failAt := range 12 {
			f := newFixture(t)
			faults := &faultyDisk{}
			var count atomic.Int64 // of the preparer's steps too
			faults.on(step, func(call) error {
				if count.Add(1) > int64(failAt) {
					return os.ErrDeadlineExceeded
				}
				return nil
			})
			f.opts.FS = faults
			j, err := Open(context.Background(), f.opts)
			if err == nil {
				j.Close()
				continue // it has fewer steps of this kind
			}
			f.opts.FS = nil
			j = f.open()
			mustAppend(t, j, event(1))
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			f.mustVerify()
		}
	}
}

// TestAStartThatFailsLeavesNothingOpen, whichever file cannot be opened.
func TestAStartThatFailsLeavesNothingOpen(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	mustAppend(t, j, event(1))
	f.crash(j)
	faults := &faultyDisk{}
	f.opts.FS, f.opts.Prepare = faults, -1
	for failAt, started := int64(1), false; !started; failAt++ {
		var count atomic.Int64
		faults.on("open", func(call) error {
			if count.Add(1) == failAt {
				return os.ErrPermission
			}
			return nil
		})
		j, err := Open(t.Context(), f.opts)
		if started = err == nil; started {
			_ = j.Close()
		}
		if left := faults.open.Load(); left != 0 || started && failAt < 5 {
			t.Errorf("file %d cannot be opened (%v), and %d stay open", failAt, err, left)
		}
	}
}

// A forged resume file can make a start overlook an open operation. It cannot hide that from a verifier.
func TestAnOverlookedOperationIsAFinding(t *testing.T) {
	f := newFixture(t)
	f.opts.SegmentBytes = 1 << 10
	j := f.open()
	mustAppend(t, j, decided("op-1", gate.Allow))
	for n := range 20 {
		mustAppend(t, j, event(n))
	}
	if err := j.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	f.crash(j)
	forged := strings.Replace(f.read(resumeName), `"open":1,`, `"open":0,`, 1)
	f.write(resumeName, forged)
	j = f.open()
	if err := j.Started(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if r := f.mustVerify(); len(r.Findings) != 1 || r.Findings[0].Seq != 1 || r.Findings[0].Op != "op-1" {
		t.Errorf("findings %v", r.Findings)
	}
}

// TestAJournalOfVersion1Verifies reads a journal that an earlier program wrote. It stays as it is for ever: when the
// format changes, the new version gets a journal of its own beside it.
func TestAJournalOfVersion1Verifies(t *testing.T) {
	dir := filepath.Join("testdata", "v1", "journal")
	checkpoint, err := os.ReadFile(filepath.Join("testdata", "v1", "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Verify(context.Background(), VerifyOptions{Dir: dir, Checkpoint: checkpoint})
	if err != nil || !r.Passed() {
		t.Fatalf("%v %v", err, r.Failure)
	}
	want := Report{
		Records: 10, Segments: 4, Checkpoints: 6, From: r.From, To: r.To, LastHash: r.LastHash, Covered: 10,
		Completeness: Completeness{Decided: 3, Allowed: 2, Finished: 1, Unknown: 1},
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
