package evidence

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

var _ gate.Recorder = (*Journal)(nil)

// clock is a wall clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Millisecond)
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fixture is a data directory and how its journal is opened.
type fixture struct {
	t      testing.TB
	dir    string
	opts   Options
	clock  *clock
	mu     sync.Mutex
	alarms []string
}

func newFixture(t testing.TB) *fixture {
	f := &fixture{t: t, dir: filepath.Join(t.TempDir(), "journal"), clock: newClock()}
	f.opts = Options{
		Dir: f.dir, Node: "gw-1", Now: f.clock.Now, CheckpointEvery: time.Hour, RetryEvery: time.Nanosecond,
		Alarm: func(kind, _ string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.alarms = append(f.alarms, kind)
		},
	}
	return f
}

func (f *fixture) raised() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.alarms...)
}

func (f *fixture) open() *Journal {
	f.t.Helper()
	j, err := Open(context.Background(), f.opts)
	if err != nil {
		f.t.Fatalf("open: %v", err)
	}
	f.t.Cleanup(func() { _ = j.Close() })
	return j
}

func (f *fixture) verify() Report {
	f.t.Helper()
	r, err := Verify(context.Background(), VerifyOptions{Dir: f.dir})
	if err != nil {
		f.t.Fatalf("verify: %v", err)
	}
	return r
}

func (f *fixture) mustVerify() Report {
	f.t.Helper()
	r := f.verify()
	if r.Failure != nil {
		f.t.Fatalf("verify: %v", r.Failure)
	}
	return r
}

// crash ends a journal as kill -9 would: no record of a stop, no checkpoint.
func (f *fixture) crash(j *Journal) {
	close(j.stop)
	j.queue.close()
	j.background.Wait()
	j.closing.Do(func() { j.closeResult = j.release() })
}

func decided(op string, effect gate.Effect) *gate.Record {
	return &gate.Record{Type: gate.OperationDecided, Op: op, Body: &gate.Decision{
		Effect: effect, Resource: "payments", Protocol: "http", Verb: "GET", Target: "/v1/payments",
		Principal: &gate.Principal{Issuer: "https://idp.example.com", Subject: "agent-7"},
	}}
}

func finished(op string, seq uint64) *gate.Record {
	return &gate.Record{Type: gate.OperationFinished, Op: op, Body: &gate.Outcome{Result: gate.Completed, Status: 200, Decided: seq}}
}

func event(n int) *gate.Record {
	return &gate.Record{Type: gate.PolicyActivated, Body: gate.Object{{Name: "n", Value: n}}}
}

func mustAppend(t testing.TB, j *Journal, r *gate.Record) gate.Receipt {
	t.Helper()
	receipt, err := j.Append(context.Background(), r)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return receipt
}

// story tells what a journal holds, one line a record: type, and what matters of the body.
func (f *fixture) story() []string {
	f.t.Helper()
	var told []string
	for e, err := range Records(context.Background(), f.dir, Filter{}) {
		if err != nil {
			f.t.Fatalf("read: %v", err)
		}
		o, err := e.Object()
		if err != nil {
			f.t.Fatal(err)
		}
		line := e.Type
		for _, name := range []string{"effect", "kind", "n", "decided", "refused", "bytes", "open"} {
			if v, ok := o.Get(name); ok {
				line += fmt.Sprintf(" %s=%v", name, v)
			}
		}
		told = append(told, line)
	}
	return told
}

func (f *fixture) wantStory(want ...string) {
	f.t.Helper()
	if diff := cmp.Diff(want, f.story()); diff != "" {
		f.t.Errorf("the journal holds (-want +got):\n%s", diff)
	}
}

func TestAppendNumbersChainsAndSigns(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	first := mustAppend(t, j, event(1))
	second := mustAppend(t, j, event(2))
	if err := j.Post(context.Background(), event(3)); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if first.Seq != 1 || second.Seq != 2 {
		t.Errorf("got seq %d and %d, want 1 and 2", first.Seq, second.Seq)
	}
	f.wantStory("policy.activated n=1", "policy.activated n=2", "policy.activated n=3", "gateway.stopped open=0")
	for e, err := range Records(context.Background(), f.dir, Filter{From: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq == 2 && (e.Prev != first.Hash || e.Hash != second.Hash || !e.Time.Equal(second.Time)) {
			t.Errorf("record 2 is %s, receipts were %+v and %+v", e.Line, first, second)
		}
	}
	r := f.mustVerify()
	if r.Records != 4 || r.Covered != 4 || r.Uncovered != 0 || r.Checkpoints != 2 {
		t.Errorf("report %+v", r)
	}
}

func TestRecordsAreOnDiskWhenAppendReturns(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	r := mustAppend(t, j, event(1))
	text, err := os.ReadFile(segmentPath(f.dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"body":{"n":1},"node":"gw-1","op":"","prev":"` + zeros + `","seq":1,"time":"2026-03-01T12:00:00.001000000Z","type":"policy.activated","v":1}` + "\n"; strings.TrimRight(string(text), "\x00") != want {
		t.Errorf("the line is\n%swant\n%s", text, want)
	}
	if j.Durable() != r.Seq {
		t.Errorf("durable %d, want %d", j.Durable(), r.Seq)
	}
}

func TestEveryWriterGetsItsOwnReceipt(t *testing.T) {
	f := newFixture(t)
	f.opts.SegmentBytes = 16 << 10
	f.opts.QueueSize = 8
	j := f.open()
	const writers, each = 16, 40
	seen := make([]map[uint64]bool, writers)
	var wg sync.WaitGroup
	for w := range writers {
		seen[w] = map[uint64]bool{}
		wg.Go(func() {
			for n := range each {
				r, err := j.Append(context.Background(), event(w*each+n))
				if err != nil {
					t.Error(err)
					return
				}
				seen[w][r.Seq] = true
				if err := j.Post(context.Background(), event(-1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	all := map[uint64]bool{}
	for _, s := range seen {
		for seq := range s {
			all[seq] = true
		}
	}
	if len(all) != writers*each {
		t.Errorf("%d different receipts, want %d", len(all), writers*each)
	}
	r := f.mustVerify()
	if r.Records != 2*writers*each+1 || r.Segments < 3 || r.Checkpoints < r.Segments {
		t.Errorf("report %+v", r)
	}
}

func TestARecordThatIsNotCanonicalIsRefused(t *testing.T) {
	j := newFixture(t).open()
	for name, r := range map[string]*gate.Record{
		"a type with a quote":      {Type: `a"b`},
		"no type":                  {},
		"an op that is not UTF-8":  {Type: "alarm", Op: "\xff"},
		"a body with a newline":    {Type: "alarm", Body: raw("{\n}")},
		"a body that is a list":    {Type: "alarm", Body: raw("[]")},
		"a body with more after":   {Type: "alarm", Body: raw(`{},"seq":9`)},
		"members out of order":     {Type: "alarm", Body: raw(`{"b":1,"a":1}`)},
		"a name twice":             {Type: "alarm", Body: raw(`{"a":1,"a":1}`)},
		"a body over the limit":    {Type: "alarm", Body: raw(`{"a":[` + strings.Repeat("0,", maxBody/2) + `0]}`)},
		"a body nested too deeply": {Type: "alarm", Body: raw(`{"a":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`)},
	} {
		if receipt, err := j.Append(context.Background(), r); err == nil {
			t.Errorf("%s: got receipt %+v, want an error", name, receipt)
		}
		if err := j.Post(context.Background(), r); err == nil {
			t.Errorf("%s: posted, want an error", name)
		}
	}
	if j.Durable() != 0 {
		t.Errorf("%d records were written", j.Durable())
	}
}

type raw string

func (r raw) AppendJSON(dst []byte) ([]byte, error) { return append(dst, r...), nil }

func TestASecondProcessCannotOpen(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	if _, err := Open(context.Background(), f.opts); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("got %v, want ErrLocked and the process that holds it", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f.open()
}

func TestAClosedJournalTakesNothing(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(context.Background(), event(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("append: %v", err)
	}
	if err := j.Post(context.Background(), event(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("post: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	f.wantStory("gateway.stopped open=0")
}

func TestClockThatStepsBackIsAnAlarmNotAReordering(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	mustAppend(t, j, event(1))
	f.clock.move(-time.Hour)
	mustAppend(t, j, event(2))
	mustAppend(t, j, event(3))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f.clock.move(-time.Hour)
	j = f.open()
	mustAppend(t, j, event(4))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f.wantStory("policy.activated n=1", "alarm kind=clock_stepped_back", "policy.activated n=2", "policy.activated n=3",
		"gateway.stopped open=0", "alarm kind=clock_stepped_back", "policy.activated n=4", "gateway.stopped open=0")
	if diff := cmp.Diff([]string{AlarmClock, AlarmClock}, f.raised()); diff != "" {
		t.Error(diff)
	}
	f.mustVerify()
}

// TestEachWriteHasATimeOfItsOwn, also where the clock is slower than the disk.
func TestEachWriteHasATimeOfItsOwn(t *testing.T) {
	f := newFixture(t)
	now := f.clock.Now()
	f.opts.Now = func() time.Time { return now }
	j := f.open()
	last := mustAppend(t, j, event(0)).Time
	for n := range 100 {
		r := mustAppend(t, j, event(n))
		if !r.Time.After(last) || r.Time.Sub(now) > time.Microsecond {
			t.Fatalf("record %d is of %s, and the one before of %s", r.Seq, r.Time, last)
		}
		last = r.Time
	}
	if alarms := f.raised(); len(alarms) > 0 {
		t.Errorf("alarms %q", alarms)
	}
	f.mustVerify()
}

func TestAnAllowedOperationWithoutOutcomeBecomesUnknown(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	done := mustAppend(t, j, decided("op-1", gate.Allow))
	mustAppend(t, j, decided("op-2", gate.Allow))
	mustAppend(t, j, decided("op-3", gate.Deny))
	mustAppend(t, j, finished("op-1", done.Seq))
	f.crash(j)

	j = f.open()
	if err := j.Started(context.Background(), gate.Object{{Name: "version", Value: "test"}}); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, decided("op-4", gate.Allow))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f.open().Close()
	f.wantStory("operation.decided effect=allow", "operation.decided effect=allow", "operation.decided effect=deny",
		"operation.finished decided=1", "operation.unknown decided=2", "gateway.started",
		"operation.decided effect=allow", "operation.unknown decided=7", "gateway.stopped open=1", "gateway.stopped open=0")
	r := f.mustVerify()
	if len(r.Findings) > 0 || r.Open != 0 || r.Unknown != 2 || r.Allowed != 3 {
		t.Errorf("completeness %+v", r.Completeness)
	}
}

func TestAnOldOpenDecisionIsFoundInAnEarlierSegment(t *testing.T) {
	f := newFixture(t)
	f.opts.SegmentBytes = 2 << 10
	j := f.open()
	mustAppend(t, j, decided("op-1", gate.Allow))
	for n := range 50 {
		mustAppend(t, j, event(n))
	}
	if err := j.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, event(50))
	f.crash(j)
	for _, c := range []string{"with the resume file", "without it"} {
		t.Run(c, func(t *testing.T) {
			if c == "without it" {
				if err := os.Remove(filepath.Join(f.dir, resumeName)); err != nil {
					t.Fatal(err)
				}
			}
			j := f.open()
			if c == "with the resume file" && j.OpenOperations() != 0 {
				t.Errorf("%d operations are open after the start", j.OpenOperations())
			}
			f.crash(j)
		})
	}
	story := f.story()
	if got := story[len(story)-1]; got != "operation.unknown decided=1" || len(story) != 53 {
		t.Errorf("the last of %d records is %q", len(story), got)
	}
	f.mustVerify()
}

func TestAnAbandonedAllowIsSettled(t *testing.T) {
	f, disk, j := openFaulty(t)
	mustAppend(t, j, event(1))
	ctx, cancel := context.WithCancel(context.Background())
	returned := make(chan struct{})
	disk.on("sync", func(call) error { cancel(); <-returned; return nil })
	_, err := j.Append(ctx, decided("op-1", gate.Allow))
	disk.on("sync", nil)
	changed := j.Changed()
	close(returned)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("append: %v", err)
	}
	for j.Durable() < 3 {
		<-changed
		changed = j.Changed()
	}
	if open := j.OpenOperations(); open != 0 {
		t.Errorf("%d operations are open", open)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f.wantStory("policy.activated n=1", "operation.decided effect=allow", "operation.unknown decided=2", "gateway.stopped open=0")
}

func TestHeartbeatTellsThatAnIdleGatewayRuns(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	changed := j.Changed()
	j.StartHeartbeat(time.Millisecond, func() gate.Object { return gate.Object{{Name: "n", Value: 7}} })
	<-changed
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if story := f.story(); story[0] != "heartbeat n=7" {
		t.Errorf("the journal holds %q", story)
	}
}

func TestKeys(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	digest, redact, public := j.DigestKey(), j.RedactKey(), j.PublicKey()
	mustAppend(t, j, event(1))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(filepath.Dir(f.dir), "keys")
	for _, name := range []string{"evidence.key", "digest.key", "redact.key"} {
		info, err := os.Stat(filepath.Join(keys, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want 0600", name, info, err)
		}
	}
	j = f.open()
	if string(j.DigestKey()) != string(digest) || string(j.RedactKey()) != string(redact) || j.PublicKey() != public || len(digest) != 32 || string(digest) == string(redact) {
		t.Error("the keys are not the same at the second start, or not good")
	}
	j.Close()

	t.Run("a public key that is lost is derived again", func(t *testing.T) {
		if err := os.Remove(filepath.Join(keys, "evidence.pub")); err != nil {
			t.Fatal(err)
		}
		j := f.open()
		j.Close()
		f.mustVerify()
	})
	for _, name := range []string{"evidence.key", "digest.key", "redact.key"} {
		t.Run(name+" that is lost is an error that says what to do", func(t *testing.T) {
			path := filepath.Join(keys, name)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(context.Background(), f.opts); err == nil || !strings.Contains(err.Error(), "put the key back") {
				t.Errorf("got %v", err)
			}
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Whoever forgets to bound a text writes a record all the same, with the text's beginning and its digest.
func TestEveryTextOfARecordIsBounded(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	long := strings.Repeat("x", 3*gate.MaxRecorded)
	whole := strings.Repeat("y", gate.MaxRecorded)
	decision := &gate.Decision{Reasons: []string{long, "short"}, Target: long, Context: gate.Context{Session: whole}}
	op := gate.NewID(f.clock.Now())
	if _, err := j.Append(t.Context(), &gate.Record{Type: gate.OperationDecided, Op: op, Body: decision}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := Operation(t.Context(), f.dir, op, time.Hour, 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("%d records, %v", len(list), err)
	}
	body, err := list[0].Object()
	if err != nil {
		t.Fatal(err)
	}
	want := gate.Recorded(long, gate.MaxRecorded)
	target, _ := body.Get("target")
	reasons, _ := body.Get("reasons")
	session, _ := body.Get("session")
	if diff := cmp.Diff([]any{want, []any{want, "short"}, whole}, []any{target, reasons, session}); diff != "" {
		t.Error(diff)
	}
}
