package otlp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc/gate"
)

// listed is the list, an entry a line.
func (f *fixture) listed() string {
	f.t.Helper()
	list, err := Rejected(f.data)
	if err != nil {
		f.t.Fatal(err)
	}
	var lines []string
	for _, r := range list {
		if r.Time.IsZero() {
			f.t.Errorf("entry %+v has no time", r)
		}
		lines = append(lines, fmt.Sprintf("%s %d-%d %d/%d %s", r.Signal, r.From, r.To, r.Rejected, r.Sent, r.Why))
	}
	return strings.Join(lines, "\n")
}

func (f *fixture) resend(from, to uint64) Resent {
	f.t.Helper()
	done, err := Resend(context.Background(), f.data, from, to, f.opts)
	if err != nil {
		f.t.Fatal(err)
	}
	return done
}

// TestWhatIsRejectedIsListedAndSentAgain: of a request that is accepted in part, and of a record that is refused, the list says
// which records, how many and why. The list outlives a restart, is sent again on command and not before, by record, and has
// afterwards what is rejected still.
func TestWhatIsRejectedIsListedAndSentAgain(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	c.answers(func(r request) (int64, bool, error) {
		switch {
		case r.has(3): // the collector takes the others, and says so
			return 1, true, nil
		case r.has(8):
			return 0, false, status.Error(codes.InvalidArgument, "the record is bad")
		}
		return 0, true, nil
	})
	f.events(5)
	f.start()
	c.waitFor(5)
	d := f.decided("op-1", gate.Allow, traceparent) // 6
	f.events(1)
	f.finished("op-1", d.Seq) // 8, the only span
	f.events(2)
	c.wait("record 10", func() bool { return c.seqs()[10] > 0 })
	f.stop()
	const want = "logs 1-5 1/5 not these\nspans 8-8 3/3 rpc error: code = InvalidArgument desc = the record is bad"
	if diff := cmp.Diff(want, f.listed()); diff != "" {
		t.Errorf("the list (-want +got):\n%s", diff)
	}
	f.start()
	f.events(1)
	c.wait("record 11", func() bool { return c.seqs()[11] > 0 })
	if got := c.seqs(); got[3] != 1 || got[8] != 0 {
		t.Errorf("something was sent again by itself: %v", got)
	}

	if done := f.resend(0, 4); done != (Resent{Sent: 4, Rejected: 1}) {
		t.Errorf("%+v", done)
	}
	const half = "logs 3-3 1/1 not these\nlogs 5-5 1/1 not these\nspans 8-8 3/3 rpc error: code = InvalidArgument desc = the record is bad"
	if diff := cmp.Diff(half, f.listed()); diff != "" {
		t.Errorf("the list after a part was sent again (-want +got):\n%s", diff)
	}
	c.answers(func(request) (int64, bool, error) { return 0, false, status.Error(codes.Unavailable, "away") })
	if done, err := Resend(t.Context(), f.data, 0, 99, f.opts); err == nil || done.Sent != 0 {
		t.Errorf("%+v %v", done, err)
	}
	if diff := cmp.Diff(half, f.listed()); diff != "" {
		t.Errorf("the list after the collector was away (-want +got):\n%s", diff)
	}
	c.answers(nil)
	if done := f.resend(0, 99); done != (Resent{Sent: 3}) || f.listed() != "" {
		t.Errorf("%+v, and there are left\n%s", done, f.listed())
	}
	if got := c.seqs(); got[3] != 3 || got[8] != 1 || got[5] != 2 {
		t.Errorf("arrived %v", got)
	}
}

// TestACheckpointThatIsRejectedIsSentAgain, by how many records it covers.
func TestACheckpointThatIsRejectedIsSentAgain(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	c.answers(func(r request) (int64, bool, error) {
		if r.kind == "logs" && r.has(0) {
			return int64(len(r.seqs)), false, nil
		}
		return 0, true, nil
	})
	f.events(4)
	if err := f.journal.Close(); err != nil {
		t.Fatal(err)
	}
	f.start()
	c.waitFor(5)
	f.stop()
	if got := f.listed(); got != "checkpoints 0-5 2/2 not these" {
		t.Errorf("the list is %q", got)
	}
	c.answers(nil)
	if done := f.resend(0, 99); done != (Resent{Sent: 2}) || c.seqs()[0] != 2 || f.listed() != "" {
		t.Errorf("%+v, arrived %v, listed %q", done, c.seqs(), f.listed())
	}
}

// TestOneBadRecordHoldsNothingUp: the last operation of a quiet gateway is the only span that waits, and is refused. What comes
// after it arrives, though nothing of its kind comes any more.
func TestOneBadRecordHoldsNothingUp(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	f.opts.BatchRecords = 8
	c.answers(func(r request) (int64, bool, error) {
		if r.kind == "spans" {
			return 0, false, status.Error(codes.InvalidArgument, "bad")
		}
		return 0, true, nil
	})
	d := f.decided("op-1", gate.Allow, "")
	f.finished("op-1", d.Seq)
	f.start()
	f.events(30) // more than a batch
	c.wait("record 32", func() bool { return c.seqs()[32] > 0 })
	f.stop()
	if got := f.listed(); !strings.HasPrefix(got, "spans 2-2 ") {
		t.Errorf("the list is %q", got)
	}
}

// TestACollectorThatRefusesEverythingFillsNoList: it has a fault of its own. One record at most is taken for the bad one.
func TestACollectorThatRefusesEverythingFillsNoList(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	f.events(3)
	f.start()
	c.waitFor(3)
	var refused sync.WaitGroup
	refused.Add(100)
	c.answers(func(r request) (int64, bool, error) {
		if r.calls <= 101 {
			refused.Done()
		}
		return 0, false, status.Error(codes.InvalidArgument, "broken")
	})
	f.events(20)
	refused.Wait()
	c.answers(nil)
	if list, err := Rejected(f.data); err != nil || len(list) > 1 || len(list) == 1 && list[0].From != list[0].To {
		t.Errorf("listed %+v, %v", list, err)
	}
}

// TestTheListIsOnTheDiskBeforeTheCursor: where it cannot be written, the records are not done with.
func TestTheListIsOnTheDiskBeforeTheCursor(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	if err := os.Mkdir(filepath.Join(f.data, rejectedFile), 0o700); err != nil { // it cannot be replaced by a file
		t.Fatal(err)
	}
	c.answers(func(request) (int64, bool, error) { return 1, true, nil })
	f.events(3)
	f.start()
	c.wait("record 1 once more", func() bool { return c.seqs()[1] > 1 })
	f.kill()
	if cur, err := loadCursor(f.opts.Cursor); err != nil || cur.Logs != 0 {
		t.Errorf("the cursor is at %+v (%v), and the list is not on the disk", cur, err)
	}
}

// TestTheListIsBounded: beyond its bound neighbours become one, and every record that was on it still is.
func TestTheListIsBounded(t *testing.T) {
	dir := t.TempDir()
	worst := strings.Repeat("\x01", 2*maxWhy) // six bytes each, in JSON
	err := changeRejected(dir, func(list []Rejection) []Rejection {
		for n := range uint64(3 * maxRejections) {
			list = append(list, Rejection{Signal: Logs, From: 10*n + 1, To: 10*n + 3, Sent: 3, Rejected: 1, Why: shortened(worst)})
		}
		return append(list, Rejection{Signal: Spans, From: 7, To: 7, Sent: 1, Rejected: 1})
	})
	if err != nil {
		t.Fatal(err)
	}
	list, err := Rejected(dir)
	if err != nil || len(list) != maxRejections {
		t.Fatalf("%d entries, %v", len(list), err)
	}
	rejected := int64(0)
	for n := range uint64(3 * maxRejections) {
		found := false
		for _, r := range list {
			found = found || r.Signal == Logs && r.From <= 10*n+1 && 10*n+3 <= r.To
		}
		if !found {
			t.Fatalf("records %d to %d are forgotten", 10*n+1, 10*n+3)
		}
	}
	for _, r := range list {
		rejected += r.Rejected
	}
	if rejected != 3*maxRejections+1 {
		t.Errorf("%d records are counted", rejected)
	}
}

// TestTwoCanChangeTheList at once, the gateway and the command, and neither loses what the other wrote.
func TestTwoCanChangeTheList(t *testing.T) {
	dir := t.TempDir()
	var writers sync.WaitGroup
	for w := range uint64(4) {
		writers.Go(func() {
			for n := range uint64(25) {
				at := 1000*w + 2*n + 1
				if err := changeRejected(dir, func(list []Rejection) []Rejection {
					return append(list, Rejection{Signal: Logs, From: at, To: at, Sent: 2, Rejected: 1})
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if list, err := Rejected(dir); err != nil || len(list) != 100 {
		t.Errorf("%d entries, %v", len(list), err)
	}
}

// TestOneSendsAgainAtATime.
func TestOneSendsAgainAtATime(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	started, goOn := make(chan struct{}), make(chan struct{})
	f.events(1)
	if err := changeRejected(f.data, func([]Rejection) []Rejection {
		return []Rejection{{Signal: Logs, From: 1, To: 1, Sent: 1, Rejected: 1}}
	}); err != nil {
		t.Fatal(err)
	}
	c.answers(func(request) (int64, bool, error) {
		close(started)
		<-goOn
		return 0, true, nil
	})
	first := make(chan error, 1)
	go func() {
		_, err := Resend(context.Background(), f.data, 0, 9, f.opts)
		first <- err
	}()
	<-started
	if _, err := Resend(t.Context(), f.data, 0, 9, f.opts); !errors.Is(err, ErrResending) {
		t.Errorf("the second is told %v", err)
	}
	close(goOn)
	if err := <-first; err != nil || f.listed() != "" {
		t.Errorf("%v, listed %q", err, f.listed())
	}
}
