package evidence

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/countersign/countersign/extproc/gate"
)

// written makes a journal of 30 records in several segments, with checkpoints over 10, 20 and all of them.
func written(t testing.TB) *fixture {
	f := newFixture(t)
	f.opts.SegmentBytes = 2200
	j := f.open()
	for n := 1; n < 30; n++ {
		mustAppend(t, j, event(n))
		if n%10 == 0 {
			if err := j.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return f
}

// journalLines is a journal as a list, for tests that change it: all segments' lines in order.
func (f *fixture) journalLines() (lines []string, starts []int) {
	f.t.Helper()
	list, err := segments(f.dir)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, s := range list {
		text, err := os.ReadFile(s.path)
		if err != nil {
			f.t.Fatal(err)
		}
		starts = append(starts, len(lines))
		lines = append(lines, strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")...)
		lines[len(lines)-1] += "\n"
	}
	return lines, starts
}

// rewrite puts lines into the segments, which begin at starts, as a forger would.
func (f *fixture) rewrite(lines []string, starts []int) {
	f.t.Helper()
	for i, from := range starts {
		to := len(lines)
		if i+1 < len(starts) {
			to = starts[i+1]
		}
		f.write(filepath.Base(segmentPath(f.dir, uint64(from)+1)), strings.Join(lines[from:to], ""))
	}
}

func (f *fixture) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) read(name string) string {
	f.t.Helper()
	text, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

func (f *fixture) remove(name string) {
	f.t.Helper()
	if err := os.Remove(filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

// rechain makes the chain of lines whole again from index at on.
func rechain(lines []string, at int) {
	for i := at; i < len(lines); i++ {
		prev := zeros
		if i > 0 {
			sum := sha256.Sum256([]byte(strings.TrimSuffix(lines[i-1], "\n")))
			prev = hex.EncodeToString(sum[:])
		}
		from := strings.Index(lines[i], `,"prev":"`) + len(`,"prev":"`)
		lines[i] = lines[i][:from] + prev + lines[i][from+64:]
	}
}

func TestVerifyNamesTheFirstBadRecord(t *testing.T) {
	edit := func(lines []string, seq int) {
		lines[seq-1] = strings.Replace(lines[seq-1], `{"n":`, `{"n":9`, 1)
	}
	for _, c := range []struct {
		name   string
		tamper func(f *fixture, lines []string, starts []int)
		seq    uint64
		reason string
	}{
		{"a body is edited", func(f *fixture, l []string, s []int) { edit(l, 14); f.rewrite(l, s) }, 14, "not the record that record 15 was written after"},
		{"a prev is edited", func(f *fixture, l []string, s []int) {
			l[13] = strings.Replace(l[13], `"prev":"`, `"prev":"00`, 1)
			l[13] = l[13][:strings.Index(l[13], `","seq"`)-2] + l[13][strings.Index(l[13], `","seq"`):]
			f.rewrite(l, s)
		}, 14, "was not written after the record 13"},
		{"a body is edited and the line chained anew", func(f *fixture, l []string, s []int) {
			edit(l, 14)
			rechain(l, 14)
			f.rewrite(l, s)
		}, 0, "are not those that the checkpoint"},
		{"all is chained anew and the checkpoints removed but the first", func(f *fixture, l []string, s []int) {
			edit(l, 3)
			l[29] = strings.Replace(l[29], "T12:00", "T19:00", 1)
			rechain(l, 3)
			f.rewrite(l, s)
			f.write(checkpointsName, strings.SplitAfter(f.read(checkpointsName), "\n")[0])
		}, 1, "no checkpoint covers them"},
		{"the checkpoints are missing", func(f *fixture, _ []string, _ []int) { f.remove(checkpointsName) }, 0, "the checkpoints are missing"},
		{"the checkpoints are emptied", func(f *fixture, _ []string, _ []int) { f.write(checkpointsName, "") }, 0, "there is no checkpoint"},
		{"two lines are swapped", func(f *fixture, l []string, s []int) { l[13], l[14] = l[14], l[13]; f.rewrite(l, s) }, 14, "holds record 15 where record 14 is due"},
		{"a line is there twice", func(f *fixture, l []string, s []int) {
			l[13] += l[13]
			f.rewrite(l, s)
		}, 15, "holds record 14 where record 15 is due"},
		{"a line is removed", func(f *fixture, l []string, s []int) { l[13] = ""; f.rewrite(l, s) }, 14, "holds record 15 where record 14 is due"},
		{"a line is from another journal", func(f *fixture, l []string, s []int) {
			other, _ := written(f.t).journalLines()
			other[12] = strings.Replace(other[12], `{"n":13}`, `{"n":12}`, 1)
			rechain(other, 13)
			l[13] = other[13]
			f.rewrite(l, s)
		}, 14, "was not written after the record 13"},
		{"the end is from another journal", func(f *fixture, l []string, s []int) {
			other, _ := written(f.t).journalLines()
			edit(other, 5)
			rechain(other, 5)
			f.rewrite(append(l[:10:10], other[10:]...), s)
		}, 11, "was not written after the record 10"},
		{"the first segment is removed", func(f *fixture, _ []string, _ []int) { f.remove(filepath.Base(segmentPath(f.dir, 1))) }, 1, "a segment is missing"},
		{"a middle segment is removed", func(f *fixture, _ []string, s []int) {
			f.remove(filepath.Base(segmentPath(f.dir, uint64(s[1])+1)))
		}, 0, "a segment is missing"},
		{"the last segment is removed", func(f *fixture, _ []string, s []int) {
			f.remove(filepath.Base(segmentPath(f.dir, uint64(s[len(s)-1])+1)))
		}, 0, "records are missing at the end"},
		{"all segments are removed", func(f *fixture, _ []string, s []int) {
			for _, from := range s {
				f.remove(filepath.Base(segmentPath(f.dir, uint64(from)+1)))
			}
		}, 1, "records are missing at the end"},
		{"a segment is cut within a line", func(f *fixture, l []string, s []int) {
			l[s[1]-1] = l[s[1]-1][:50]
			f.rewrite(l, s)
		}, 0, "the line does not end"},
		{"the last lines are removed", func(f *fixture, l []string, s []int) { l[28], l[29] = "", ""; f.rewrite(l, s) }, 29, "the journal has 28"},
		{"the last line is cut", func(f *fixture, l []string, s []int) { l[29] = l[29][:20]; f.rewrite(l, s) }, 30, "the journal has 29"},
		{"a line is not canonical", func(f *fixture, l []string, s []int) {
			l[13] = strings.Replace(l[13], `{"n":14}`, `{"n": 14}`, 1)
			rechain(l, 14)
			f.rewrite(l, s)
		}, 14, "not a record"},
		{"a line has a further member", func(f *fixture, l []string, s []int) {
			l[13] = strings.Replace(l[13], `,"v":1}`, `,"v":1,"w":1}`, 1)
			f.rewrite(l, s)
		}, 14, "has the members"},
		{"a version that is not known", func(f *fixture, l []string, s []int) {
			l[13] = strings.Replace(l[13], `"v":1}`, `"v":2}`, 1)
			f.rewrite(l, s)
		}, 14, "knows versions up to 1"},
		{"a time in another form", func(f *fixture, l []string, s []int) {
			l[13] = strings.Replace(l[13], `000000Z"`, `0Z"`, 1)
			f.rewrite(l, s)
		}, 14, "its time"},
		{"a time that goes back", func(f *fixture, l []string, s []int) {
			l[13] = strings.Replace(l[13], `T12:00`, `T11:00`, 1)
			rechain(l, 14)
			f.rewrite(l, s)
		}, 14, "its time is before"},
		{"a checkpoint's root is edited", func(f *fixture, _ []string, _ []int) {
			f.write(checkpointsName, strings.Replace(f.read(checkpointsName), `\n10\n`, `\n11\n`, 1))
		}, 0, "the checkpoint is not good"},
		{"a checkpoint is repeated", func(f *fixture, _ []string, _ []int) {
			lines := strings.SplitAfter(f.read(checkpointsName), "\n")
			f.write(checkpointsName, strings.Join(slices.Insert(lines, 1, lines[1]), ""))
		}, 0, "the checkpoint is not good"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := written(t)
			lines, starts := f.journalLines()
			c.tamper(f, lines, starts)
			r := f.verify()
			if r.Failure == nil {
				t.Fatal("it passed")
			}
			if c.seq != 0 && r.Failure.Seq != c.seq || !strings.Contains(r.Failure.Error(), c.reason) {
				t.Errorf("got %v\nwant record %d and %q", r.Failure, c.seq, c.reason)
			}
		})
	}
}

func TestVerifyHoldsAJournalAgainstACheckpointSeenElsewhere(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	mustAppend(t, j, event(1))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(filepath.Dir(f.dir))); err != nil {
		t.Fatal(err)
	}
	j = f.open()
	mustAppend(t, j, event(2))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	notes, err := CheckpointNotes(f.dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := []byte(notes[len(notes)-1].Text)
	verify := func(dir string, checkpoint []byte) (Report, error) {
		return Verify(context.Background(), VerifyOptions{Dir: filepath.Join(dir, "journal"), Checkpoint: checkpoint})
	}

	if r, err := verify(filepath.Dir(f.dir), seen); err != nil || !r.Passed() {
		t.Errorf("the journal itself: %v %v", r.Failure, err)
	}
	if r, err := verify(old, nil); err != nil || !r.Passed() {
		t.Errorf("the old copy alone: %v %v", r.Failure, err)
	}
	if r, err := verify(old, seen); err != nil || r.Passed() || r.Failure.Seq != 3 {
		t.Errorf("a rolled-back journal: %v %v, want a failure that names record 3", r.Failure, err)
	}

	// The old copy goes on, with the real key: another history of the same length.
	forked := f.opts
	forked.Dir = filepath.Join(old, "journal")
	k, err := Open(context.Background(), forked)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, k, event(99))
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := verify(old, nil); err != nil || !r.Passed() {
		t.Errorf("the fork alone: %v %v", r.Failure, err)
	}
	if r, err := verify(old, seen); err != nil || r.Passed() || !strings.Contains(r.Failure.Error(), "the checkpoint given") {
		t.Errorf("a forked journal: %v %v", r.Failure, err)
	}
	kept, err := os.ReadFile(checkpointsFile(f.dir))
	if err != nil {
		t.Fatal(err)
	}
	for name, given := range map[string][]byte{
		"a note without the end of its last line":  bytes.TrimSpace(seen),
		"a copy of the checkpoints file":           kept,
		"a copy that was made while the file grew": append(bytes.Clone(kept), `{"note":"count`...),
	} {
		if r, err := verify(filepath.Dir(f.dir), given); err != nil || !r.Passed() {
			t.Errorf("%s, and the journal itself: %v %v", name, r.Failure, err)
		}
		if r, err := verify(old, given); err != nil || r.Passed() {
			t.Errorf("%s, and a forked journal: passed, %v", name, err)
		}
	}
	for _, none := range []string{"no checkpoint", "", "\n", "{}", string(kept) + "{}\n" + string(kept)} {
		if _, err := verify(old, []byte(none)); err == nil {
			t.Errorf("%.20q, which is no checkpoint, was taken", none)
		}
	}
}

func TestVerifyBesideARunningGateway(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	mustAppend(t, j, event(1))
	if err := j.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, event(2))
	file, err := os.OpenFile(segmentPath(f.dir, 1), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte(`{"body":`), f.written(1)); err != nil {
		t.Fatal(err)
	}
	r := f.mustVerify()
	if r.Records != 2 || r.Covered != 1 || r.Uncovered != 1 || r.InProgress != 8 {
		t.Errorf("report %+v", r)
	}
}

func TestVerifyWithAKeyThatIsNotTheJournals(t *testing.T) {
	f, other := written(t), newFixture(t)
	j := other.open()
	r, err := Verify(context.Background(), VerifyOptions{Dir: f.dir, Keys: []string{j.PublicKey()}})
	if err != nil || r.Passed() || r.Failure.File != checkpointsName {
		t.Errorf("got %v and %v", r.Failure, err)
	}
	if _, err := Verify(context.Background(), VerifyOptions{Dir: f.dir, Keys: []string{"nonsense"}}); err == nil {
		t.Error("a key that is none was taken")
	}
}

func TestVerifyTellsWhatIsIncomplete(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	transit := func(op, upstream string) *gate.Record {
		return &gate.Record{Type: gate.Transit, Op: op, Body: gate.Object{{Name: "upstream", Value: upstream}}}
	}
	a := mustAppend(t, j, decided("op-a", gate.Allow))
	mustAppend(t, j, decided("op-b", gate.Deny))
	mustAppend(t, j, decided("op-c", gate.Allow))
	mustAppend(t, j, finished("op-a", a.Seq))
	mustAppend(t, j, transit("op-a", "10.0.0.1:443"))
	mustAppend(t, j, transit("op-b", ""))
	bad := []uint64{
		mustAppend(t, j, transit("op-b", "10.0.0.1:443")).Seq,
		mustAppend(t, j, transit("op-x", "10.0.0.1:443")).Seq,
		mustAppend(t, j, transit("", "10.0.0.1:443")).Seq,
	}
	if r := f.mustVerify(); r.Open != 1 {
		t.Errorf("while op-c is under way: %+v", r.Completeness)
	}
	if err := j.Started(context.Background(), nil); err != nil { // as if a start had forgotten op-c
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	r := f.mustVerify()
	var found []uint64
	for _, x := range r.Findings {
		found = append(found, x.Seq)
	}
	if !strings.Contains(r.Findings[2].String(), "belongs to no operation") {
		t.Errorf("finding %v", r.Findings[2])
	}
	if !slices.Equal(found, append(bad, 3, 11)) || r.NeverTransited != 1 || r.Transits != 5 || r.Allowed != 2 {
		t.Errorf("completeness %+v", r.Completeness)
	}
}

// TestVerifyHoldsConnectionsAgainstSessions: Envoy connects to a target for a session that was opened, and for that resource, and each
// session is one whose connection it tells of.
func TestVerifyHoldsConnectionsAgainstSessions(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	record := func(kind string, members ...string) uint64 {
		var body gate.Object
		for i := 0; i < len(members); i += 2 {
			body = append(body, gate.Member{Name: members[i], Value: members[i+1]})
		}
		return mustAppend(t, j, &gate.Record{Type: kind, Body: body}).Seq
	}
	for _, id := range []string{"1", "2", "3"} {
		record("session.opened", "peer", "192.0.2.7:"+id, "resource", "orders", "session", id)
	}
	record(gate.Transit, "peer", "192.0.2.7:1", "resource", "orders", "session", "", "upstream", "")            // passed on
	record(gate.Transit, "peer", "192.0.2.7:2", "resource", "orders", "session", "2", "upstream", "10.0.0.1:1") // to the target
	record(gate.Transit, "peer", "192.0.2.7:9", "resource", "orders", "session", "", "upstream", "")            // of nobody
	bad := []uint64{
		record(gate.Transit, "peer", "192.0.2.7:8", "resource", "orders", "session", "8", "upstream", "10.0.0.1:1"),
		record(gate.Transit, "peer", "192.0.2.7:3", "resource", "others", "session", "3", "upstream", "10.0.0.1:1"),
		record(gate.Transit, "peer", "192.0.2.7:3", "resource", "orders", "session", "", "upstream", "10.0.0.1:1"),
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	r := f.mustVerify()
	var found []uint64
	for _, x := range r.Findings {
		found = append(found, x.Seq)
	}
	if !slices.Equal(found, bad) || r.Sessions != 3 || r.NeverCarried != 1 {
		t.Errorf("completeness %+v", r.Completeness)
	}
}

// TestVerifyFindsAnswersThatPassedAround: a decision that redacts is carried out only where the answer comes by the gateway.
func TestVerifyFindsAnswersThatPassedAround(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	for _, c := range []struct {
		name    string
		plain   bool // nothing is redacted
		outcome gate.Outcome
		found   bool
	}{
		{"it came by", false, gate.Outcome{Result: gate.Completed, Status: 200, BytesOut: 9, BodySHA256: hash}, false},
		{"it passed around", false, gate.Outcome{Result: gate.Completed, Status: 200, BytesOut: 9}, true},
		{"one without a body passed around", false, gate.Outcome{Result: gate.Completed, Status: 204}, true},
		{"a part passed around", false, gate.Outcome{Result: gate.ClientGone, Status: 200, BytesOut: 9}, true},
		{"a part passed around, then the target broke off", false, gate.Outcome{Result: gate.TargetFailed, Status: 200, BytesOut: 9}, true},
		{"a part came by", false, gate.Outcome{Result: gate.ClientGone, Status: 200, BytesOut: 9, BodySHA256: hash}, false},
		{"the agent left before there was any", false, gate.Outcome{Result: gate.ClientGone}, false},
		{"it was refused after it was decided", false, gate.Outcome{Result: gate.Refused, Status: 403, BytesOut: 9, BodySHA256: hash}, false},
		{"nothing is redacted", true, gate.Outcome{Result: gate.Completed, Status: 200, BytesOut: 9}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			j := f.open()
			d := decided("op-a", gate.Allow)
			if body, ok := d.Body.(*gate.Decision); ok && !c.plain {
				body.Redact = []gate.Redaction{{Path: "$.ssn", With: gate.Mask}}
			}
			c.outcome.Decided = mustAppend(t, j, d).Seq
			end := mustAppend(t, j, &gate.Record{Type: gate.OperationFinished, Op: "op-a", Body: &c.outcome}).Seq
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			r := f.mustVerify()
			if (len(r.Findings) == 1 && r.Findings[0].Seq == end) != c.found || len(r.Findings) > 1 {
				t.Errorf("findings %v", r.Findings)
			}
		})
	}
}

// TestAnyChangedByteIsFound is the oracle of FuzzReader over every byte of a small journal.
func TestAnyChangedByteIsFound(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	a := mustAppend(t, j, decided("op-ü\"\\\u0001", gate.Allow))
	mustAppend(t, j, finished("op-ü\"\\\u0001", a.Seq))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filepath.Base(segmentPath(f.dir, 1)), checkpointsName} {
		text := []byte(f.read(name))
		for i := range text {
			changed := bytes.Clone(text)
			changed[i] ^= []byte{0x01, 0x02, 0x20, 0x80}[(i+i/4)%4]
			f.write(name, string(changed))
			if r := f.verify(); r.Passed() {
				t.Fatalf("%s: byte %d of %d, %q for %q, was not found", name, i, len(text), changed[i], text[i])
			}
		}
		f.write(name, string(text))
	}
	f.mustVerify()
}

func FuzzReader(f *testing.F) {
	j := newFixture(f)
	journal := j.open()
	mustAppend(f, journal, decided("op-1", gate.Allow))
	mustAppend(f, journal, event(1))
	if err := journal.Close(); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(segmentPath(j.dir, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, 3, byte(1))
	f.Add([]byte(`{"body":{},"node":"n","op":"","prev":"`+zeros+`","seq":1,"time":"2026-01-01T00:00:00.000000000Z","type":"a","v":1}`+"\n"), 0, byte(0))
	f.Fuzz(func(t *testing.T, segment []byte, at int, flip byte) {
		if bytes.Equal(segment, good) && at >= 0 && at < len(good) {
			segment = bytes.Clone(segment)
			segment[at] ^= flip
		}
		if err := os.WriteFile(segmentPath(j.dir, 1), segment, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, err := range Records(context.Background(), j.dir, Filter{}) {
			_ = err
		}
		r, err := Verify(context.Background(), VerifyOptions{Dir: j.dir})
		if err != nil {
			t.Fatal(err)
		}
		if r.Passed() && !bytes.Equal(segment, good) {
			t.Fatalf("a changed journal passes:\n%s", segment)
		}
	})
}

// FuzzCanonical holds the scanner against its definition: canonical is what decoding and encoding again leaves as it is.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":1,"b":[true,null,-0,1e21,1.50]}`, `{"é":"\u001f\n","𝒳":{},"":[]}`, `{"a":"\u0041"}`, `{"\\":1,"]":2}`, `{"a":12345678901234567890}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		o, err := decodeLoosely(b)
		if err == nil {
			again, err = gate.AppendJSON(nil, o)
		}
		want := err == nil && bytes.Equal(again, b)
		if got := scanObject(b, nil) == nil; got != want {
			t.Fatalf("%q: the scanner says %v, encoding again gives %q (%v)", b, got, again, err)
		}
	})
}

func TestProof(t *testing.T) {
	for _, records := range []int{1, 2, 3, 8, 13} {
		f := newFixture(t)
		f.opts.SegmentBytes = 600
		j := f.open()
		for n := 1; n < records; n++ {
			mustAppend(t, j, event(n))
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		keys, err := Verifiers([]string{j.PublicKey()})
		if err != nil {
			t.Fatal(err)
		}
		for seq := 1; seq <= records; seq++ {
			p, err := Prove(f.dir, keys, uint64(seq))
			if err != nil {
				t.Fatalf("record %d of %d: %v", seq, records, err)
			}
			text, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			p = Proof{}
			if err := json.Unmarshal(text, &p); err != nil {
				t.Fatal(err)
			}
			e, err := VerifyProof(p, keys)
			if err != nil || e.Seq != uint64(seq) {
				t.Fatalf("record %d of %d: %v %v", seq, records, e.Seq, err)
			}
			p.Line = strings.Replace(p.Line, "gw-1", "gw-2", 1)
			if _, err := VerifyProof(p, keys); err == nil {
				t.Errorf("record %d of %d: a changed record was proved", seq, records)
			}
		}
		if _, err := Prove(f.dir, keys, uint64(records)+1); err == nil {
			t.Error("a record that is not there was proved")
		}
	}
}

func TestTreeAgreesWithTlog(t *testing.T) {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		list := make([]tlog.Hash, len(at))
		for i, n := range at {
			list[i] = stored[n]
		}
		return list, nil
	})
	var own tree
	for n := range int64(70) {
		want, err := tlog.TreeHash(n, reader)
		if err != nil || own.root() != want {
			t.Fatalf("%d leaves: got %v, want %v (%v)", n, own.root(), want, err)
		}
		leaf := tlog.RecordHash([]byte{byte(n)})
		more, err := tlog.StoredHashesForRecordHash(n, leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		own.push(leaf)
	}
}

func TestFollowSeesWhatIsAppendedAcrossSegments(t *testing.T) {
	f := newFixture(t)
	f.opts.SegmentBytes = 500
	j := f.open()
	mustAppend(t, j, event(1))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	seen := 0
	for e, err := range Follow(ctx, f.dir, Filter{Types: []string{"policy.*"}}) {
		if err != nil {
			t.Fatal(err)
		}
		seen++
		if e.Seq != uint64(seen) {
			t.Fatalf("record %d came as number %d", e.Seq, seen)
		}
		if seen == 12 {
			break
		}
		mustAppend(t, j, event(seen+1))
	}
	if seen != 12 {
		t.Errorf("saw %d records", seen)
	}
}

func TestAReaderWithALimitNeverSeesWhatIsUndone(t *testing.T) {
	f, faults, j := openFaulty(t)
	mustAppend(t, j, event(1))
	prepared(j)
	r := NewReader(f.dir, 1, j.Durable)
	defer r.Close()
	next := func() string {
		e, err := r.Next()
		if err != nil {
			return err.Error()
		}
		return string(e.Body)
	}
	// The reader looks at a moment when a write is in the file that will be taken back.
	faults.on("truncate", segmentsOnly(func(call) error {
		if got := []string{next(), next()}; got[0] != `{"n":1}` || got[1] != "EOF" {
			t.Errorf("read %q", got)
		}
		return nil
	}))
	faults.on("write", segmentsOnly(func(c call) error {
		if _, err := c.file.WriteAt(c.data, c.offset); err != nil {
			return err
		}
		return os.ErrDeadlineExceeded
	}))
	if _, err := j.Append(context.Background(), event(2)); err == nil {
		t.Fatal("no error")
	}
	faults.on("write", nil)
	faults.on("truncate", nil)
	mustAppend(t, j, event(3))
	if got := []string{next(), next(), next()}; !strings.Contains(got[0], AlarmRefused) || got[1] != `{"n":3}` || got[2] != "EOF" {
		t.Errorf("read %q", got)
	}
}
