package otlp

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
)

// fixture is a journal with a courier.
type fixture struct {
	t       *testing.T
	journal *evidence.Journal
	data    string
	opts    Options
	courier *Courier
	mu      sync.Mutex
	alarms  []string
}

// said tells one thing of what was asked, and one of how it ended.
var said = Kind{
	Protocol: "http",
	Operation: func(decided evidence.Members, say Say) {
		say("test.verb", decided.Get("verb"))
		say("test.empty", evidence.Value(`""`))
	},
	Result: func(finished evidence.Members, say Say) { say("test.status", finished.Get("status")) },
}

func newFixture(t *testing.T, c *collector) *fixture {
	f := &fixture{t: t, data: t.TempDir()}
	f.openJournal()
	f.opts = Options{
		Endpoint: c.address, TLS: TLS{Insecure: true}, Cursor: filepath.Join(f.data, "otlp.cursor"), Node: "gw-1", Version: "test", Kinds: []Kind{said},
		Flush: time.Millisecond, MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond, AlarmAfter: time.Hour,
		Alarm: func(kind, detail string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.alarms = append(f.alarms, kind+": "+detail)
		},
	}
	return f
}

func (f *fixture) openJournal() {
	f.t.Helper()
	j, err := evidence.Open(context.Background(), evidence.Options{Dir: filepath.Join(f.data, "journal"), Node: "gw-1", CheckpointEvery: time.Hour, SegmentBytes: 8 << 10})
	if err != nil {
		f.t.Fatal(err)
	}
	f.journal = j
	f.t.Cleanup(func() { _ = j.Close() })
}

func (f *fixture) start() {
	f.t.Helper()
	c, err := Start(f.journal, f.opts)
	if err != nil {
		f.t.Fatal(err)
	}
	f.courier = c
	f.t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = c.Stop(ended)
	})
}

func (f *fixture) stop() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := f.courier.Stop(ctx); err != nil {
		f.t.Fatalf("stop: %v", err)
	}
}

// kill stops without time to send anything.
func (f *fixture) kill() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = f.courier.Stop(ended)
}

func (f *fixture) raised() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.alarms)
}

func (f *fixture) append(r *gate.Record) gate.Receipt {
	f.t.Helper()
	receipt, err := f.journal.Append(context.Background(), r)
	if err != nil {
		f.t.Fatal(err)
	}
	return receipt
}

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func (f *fixture) decided(op string, effect gate.Effect, parent string) gate.Receipt {
	return f.append(&gate.Record{Type: gate.OperationDecided, Op: op, Body: &gate.Decision{
		Effect: effect, Rules: []string{"read"}, Resource: "payments", Protocol: "http", Verb: "GET", Target: "/v1/payments/7",
		Principal: &gate.Principal{Issuer: "https://idp.example.com", Subject: "agent-7"},
		Context:   gate.Context{TraceParent: parent, Peer: "10.1.2.3:4567", RequestID: "r-1"},
	}})
}

func (f *fixture) finished(op string, decided uint64) gate.Receipt {
	return f.append(&gate.Record{Type: gate.OperationFinished, Op: op, Body: &gate.Outcome{
		Result: gate.Completed, Status: 200, BytesOut: 12, Decided: decided, Duration: time.Millisecond,
	}})
}

func (f *fixture) events(n int) uint64 {
	var last uint64
	for i := range n {
		last = f.append(&gate.Record{Type: gate.PolicyActivated, Body: gate.Object{{Name: "n", Value: i}}}).Seq
	}
	return last
}

func TestEachRecordArrivesOnce(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	f.opts.BatchRecords = 7
	f.start()
	for n := range 20 {
		op := fmt.Sprint("op-", n)
		d := f.decided(op, gate.Effect(n%3), "")
		f.finished(op, d.Seq)
		f.events(1)
	}
	if err := f.journal.Close(); err != nil {
		t.Fatal(err)
	}
	f.stop()
	c.wantOnce(61)
	if got := c.seqs()[0]; got < 2 {
		t.Errorf("%d checkpoints arrived, want the first, the last and those of segments", got)
	}
	s := f.courier.Stats()
	if s.LagRecords != 0 || s.Rejected != 0 || s.Sent != 61+uint64(c.seqs()[0]) {
		t.Errorf("stats %+v", s)
	}
}

func TestACheckpointThatArrivesCanBeHeldAgainstTheJournal(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	f.start()
	f.events(3)
	if err := f.journal.Close(); err != nil {
		t.Fatal(err)
	}
	f.stop()
	var last string
	times := map[int64]uint64{} // of records, by number
	for _, l := range c.logs {
		seq := max(1, attribute(l.Attributes, "countersign.seq").GetIntValue())
		if l.EventName != "checkpoint" {
			times[seq] = l.TimeUnixNano
			continue
		}
		last = attribute(l.Attributes, "countersign.checkpoint.note").GetStringValue()
		if l.TimeUnixNano != times[seq] {
			t.Errorf("a checkpoint over %d records has the time %d, and the last of these has %d", seq, l.TimeUnixNano, times[seq])
		}
	}
	r, err := evidence.Verify(t.Context(), evidence.VerifyOptions{Dir: f.journal.Dir(), Checkpoint: []byte(last)})
	if err != nil || !r.Passed() || r.Covered != 4 {
		t.Errorf("%v %+v", err, r)
	}
}

func TestAnOperationIsOneSpanInTheAgentsTrace(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	f.start()
	d := f.decided("op-1", gate.Allow, traceparent)
	e := f.finished("op-1", d.Seq)
	c.waitFor(2)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.spans) != 3 {
		t.Fatalf("%d spans", len(c.spans))
	}
	s := c.spans[0]
	got := map[string]string{"name": s.Name, "kind": s.Kind.String(), "trace": fmt.Sprintf("%x", s.TraceId), "parent": fmt.Sprintf("%x", s.ParentSpanId)}
	for _, kv := range s.Attributes {
		text, err := json.Marshal(kv.Value.GetStringValue())
		if err != nil {
			t.Fatal(err)
		}
		switch v := kv.Value.Value.(type) {
		case *commonpb.AnyValue_IntValue:
			got[kv.Key] = fmt.Sprint(v.IntValue)
		case *commonpb.AnyValue_StringValue:
			got[kv.Key] = string(text)
		default:
			got[kv.Key] = kv.Value.String()
		}
	}
	for key, want := range map[string]string{
		"name": "GET payments", "kind": "SPAN_KIND_SERVER",
		"trace": "0af7651916cd43dd8448eb211c80319c", "parent": "b7ad6b7169203331",
		"countersign.seq": "2", "countersign.hash": `"` + e.Hash + `"`, "countersign.op": `"op-1"`, "countersign.node": `"gw-1"`,
		"countersign.decided.seq": "1", "countersign.decided.hash": `"` + d.Hash + `"`,
		"test.verb": `"GET"`, "test.status": "200", "test.empty": "",
		"enduser.id": `"agent-7"`, "client.address": `"10.1.2.3"`,
		"countersign.effect": `"allow"`, "countersign.result": `"completed"`, "countersign.principal.issuer": `"https://idp.example.com"`,
	} {
		if got[key] != want {
			t.Errorf("%s is %s, want %s", key, got[key], want)
		}
	}
	for i, name := range []string{"policy", "target"} {
		child := c.spans[i+1]
		if child.Name != name || string(child.ParentSpanId) != string(s.SpanId) || string(child.TraceId) != string(s.TraceId) || child.StartTimeUnixNano > child.EndTimeUnixNano {
			t.Errorf("child span %v", child)
		}
	}
	var decidedLog *logspb.LogRecord
	for _, l := range c.logs {
		if l.EventName == gate.OperationDecided {
			decidedLog = l
		}
	}
	if string(decidedLog.GetSpanId()) != string(s.SpanId) || string(decidedLog.GetTraceId()) != string(s.TraceId) {
		t.Errorf("the decision's log record %v does not belong to the span", decidedLog)
	}
}

func TestACollectorThatIsDownCostsNothing(t *testing.T) {
	c := newCollector(t)
	c.down()
	f := newFixture(t, c)
	f.opts.BatchRecords = 10
	f.start()
	f.events(35)
	if s := f.courier.Stats(); s.LagRecords != 35 {
		t.Errorf("stats %+v", s)
	}
	c.up()
	c.waitFor(35)
	c.down()
	f.events(30)
	c.up()
	c.waitFor(65)
	if err := f.journal.Close(); err != nil {
		t.Fatal(err)
	}
	f.stop()
	c.wantOnce(66)
}

func TestALostAnswerRepeatsItsRecordsIdentically(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	lost := map[string]int{}
	c.answers(func(r request) (int64, bool, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if lost[r.kind] < 2 {
			lost[r.kind]++
			return 0, true, status.Error(codes.Unavailable, "the answer is lost")
		}
		return 0, true, nil
	})
	d := f.decided("op-1", gate.Allow, "")
	f.finished("op-1", d.Seq)
	f.start()
	c.wait("the third spans", func() bool { return c.seqs()[2] == 3 })
	if got := c.seqs(); got[1] != 3 {
		t.Errorf("arrived %v", got)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if diff := cmp.Diff(c.spans[0].String(), c.spans[3].String()); diff != "" || c.spans[0].TraceId == nil {
		t.Errorf("a span that was sent again differs:\n%s", diff)
	}
}

func TestRefusals(t *testing.T) {
	retryLater, err := status.New(codes.ResourceExhausted, "later").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	for name, refusal := range map[string]error{
		"unavailable":                            status.Error(codes.Unavailable, "no"),
		"a deadline":                             status.Error(codes.DeadlineExceeded, "no"),
		"aborted":                                status.Error(codes.Aborted, "no"),
		"overloaded, and says when to come back": retryLater.Err(),
		"no permission":                          status.Error(codes.PermissionDenied, "no"),
		"no credentials":                         status.Error(codes.Unauthenticated, "no"),
		"no such service":                        status.Error(codes.Unimplemented, "no"),
		"every record is refused as invalid":     status.Error(codes.InvalidArgument, "no"),
		"every record is refused as internal":    status.Error(codes.Internal, "no"),
		"every record is refused as too large":   status.Error(codes.ResourceExhausted, "no"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCollector(t)
			f := newFixture(t, c)
			f.opts.AlarmAfter = time.Nanosecond
			var refused sync.WaitGroup
			refused.Add(60) // more often than it takes to try each record on its own, twice
			c.answers(func(r request) (int64, bool, error) {
				if r.calls <= 60 {
					refused.Done()
					return 0, false, refusal
				}
				return 0, true, nil
			})
			f.events(9)
			f.start()
			refused.Wait()
			c.waitFor(9)
			if err := f.journal.Close(); err != nil {
				t.Fatal(err)
			}
			f.stop()
			c.wantOnce(10)
			if s := f.courier.Stats(); s.Rejected != 0 || s.LastError != "" {
				t.Errorf("stats %+v", s)
			}
			if alarms := f.raised(); len(alarms) == 0 || !strings.HasPrefix(alarms[0], AlarmFailing) {
				t.Errorf("alarms %q", alarms)
			}
		})
	}
}

func TestARecordThatIsRefusedIsFoundAndTheRestArrive(t *testing.T) {
	for _, code := range []codes.Code{codes.InvalidArgument, codes.Internal, codes.Unknown, codes.ResourceExhausted} {
		t.Run(code.String(), func(t *testing.T) {
			c := newCollector(t)
			f := newFixture(t, c)
			c.answers(func(r request) (int64, bool, error) {
				if r.has(4) || r.has(11) {
					return 0, false, status.Error(code, "not this one")
				}
				return 0, true, nil
			})
			f.events(9)
			d := f.decided("op-1", gate.Allow, "")
			f.finished("op-1", d.Seq) // 11: the only span, so that at first everything in its request is refused
			f.start()
			c.wait("record 10", func() bool { return c.seqs()[10] > 0 })
			e := f.decided("op-2", gate.Allow, "")
			f.finished("op-2", e.Seq)
			c.wait("record 13", func() bool { return c.seqs()[13] > 0 })
			if err := f.journal.Close(); err != nil {
				t.Fatal(err)
			}
			f.stop()
			got := c.seqs()
			for seq := uint64(1); seq <= 14; seq++ {
				want := 1
				if seq == 4 || seq == 11 {
					want = 0
				}
				if got[seq] != want {
					t.Errorf("record %d arrived %d times, want %d", seq, got[seq], want)
				}
			}
			if s := f.courier.Stats(); s.Rejected != 2 {
				t.Errorf("stats %+v", s)
			}
			alarms := strings.Join(f.raised(), "\n")
			if !strings.Contains(alarms, "record 4:") || !strings.Contains(alarms, "record 11:") {
				t.Errorf("alarms %q", alarms)
			}
		})
	}
}

func TestPartialSuccessIsCountedAndNotRepeated(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	c.answers(func(r request) (int64, bool, error) {
		if r.has(3) {
			return 2, true, nil
		}
		return 0, true, nil
	})
	f.events(5)
	f.start()
	c.waitFor(5)
	if err := f.journal.Close(); err != nil {
		t.Fatal(err)
	}
	f.stop()
	c.wantOnce(6)
	if s := f.courier.Stats(); s.Rejected != 2 {
		t.Errorf("stats %+v", s)
	}
	if alarms := f.raised(); len(alarms) != 1 || !strings.Contains(alarms[0], "rejected 2 of records 1 to 5: not these") {
		t.Errorf("alarms %q", alarms)
	}
}

// An alarm record that is rejected raises no alarm: that would be a record again, and rejected again.
func TestARejectedAlarmRaisesNone(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	f.opts.BatchRecords = 1
	c.answers(func(r request) (int64, bool, error) {
		if r.has(2) {
			return 1, true, nil
		}
		return 0, true, nil
	})
	f.events(1)
	f.append(&gate.Record{Type: gate.Alarm, Body: gate.Object{{Name: "kind", Value: AlarmRejected}}})
	f.start()
	c.waitFor(2)
	f.events(1)
	c.waitFor(3)
	if alarms := f.raised(); len(alarms) != 0 || f.courier.Stats().Rejected != 1 {
		t.Errorf("alarms %q", alarms)
	}
}

// A hostile collector cannot make an alarm that is too large to be recorded, nor numbers that mean nothing.
func TestWhatACollectorSaysIsBounded(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	f.opts.AlarmAfter = time.Nanosecond
	c.answers(func(r request) (int64, bool, error) {
		if r.calls == 1 {
			return 0, false, status.Error(codes.Unavailable, strings.Repeat("lies ", 1000))
		}
		return 1 << 62, true, nil
	})
	f.events(3)
	f.start()
	c.waitFor(3)
	f.stop()
	if s := f.courier.Stats(); s.Rejected > 4 {
		t.Errorf("stats %+v", s)
	}
	for _, alarm := range f.raised() {
		if len(alarm) > 700 {
			t.Errorf("an alarm of %d bytes", len(alarm))
		}
	}
}

func TestStopGivesUpInTimeAndTheNextStartGoesOn(t *testing.T) {
	c := newCollector(t)
	c.down()
	f := newFixture(t, c)
	f.events(5)
	f.start()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := f.courier.Stop(ctx); err == nil || !strings.Contains(err.Error(), "5 records wait") {
		t.Errorf("stop: %v", err)
	}
	c.up()
	f.start()
	c.waitFor(5)
	f.stop()
	c.wantOnce(5)
}

// The cursor is on the disk before the courier goes on: without it the same records would go out after every start.
func TestACursorThatCannotBeSavedIsAFailure(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	f.opts.Cursor = filepath.Join(f.data, "missing", "otlp.cursor")
	f.opts.AlarmAfter = time.Nanosecond
	alarmed := make(chan string, 100)
	f.opts.Alarm = func(kind, _ string) { alarmed <- kind }
	f.events(3)
	f.start()
	if kind := <-alarmed; kind != AlarmFailing {
		t.Errorf("alarm %s", kind)
	}
	if s := f.courier.Stats(); s.LagRecords != 3 || !strings.Contains(s.LastError, "save the collector's cursor") {
		t.Errorf("stats %+v", s)
	}
	if err := os.Mkdir(filepath.Dir(f.opts.Cursor), 0o700); err != nil {
		t.Fatal(err)
	}
	f.stop()
	if s := f.courier.Stats(); s.LagRecords != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestTheCollectorSaysWhenToComeBack(t *testing.T) {
	const delay = 150 * time.Millisecond
	later, err := status.New(codes.Unavailable, "later").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	if err != nil {
		t.Fatal(err)
	}
	c := newCollector(t)
	f := newFixture(t, c)
	var first, second time.Time
	c.answers(func(r request) (int64, bool, error) {
		switch r.calls {
		case 1:
			first = time.Now()
			return 0, false, later.Err()
		case 2:
			second = time.Now()
		}
		return 0, true, nil
	})
	f.events(1)
	f.start()
	c.waitFor(1)
	f.stop()
	if waited := second.Sub(first); waited < delay {
		t.Errorf("came back after %s, and was asked to after %s", waited, delay)
	}
}

func TestASlowCollectorIsAskedAgain(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	f.opts.Timeout = 100 * time.Millisecond
	c.answers(func(r request) (int64, bool, error) {
		if r.calls == 1 {
			<-r.ctx.Done()
			return 0, false, r.ctx.Err()
		}
		return 0, true, nil
	})
	f.events(3)
	f.start()
	c.waitFor(3)
	if s := f.courier.Stats(); s.Retries == 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestARestartGoesOnWhereTheCursorStands(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	f.opts.BatchRecords = 4
	f.start()
	d := f.decided("op-1", gate.Allow, traceparent)
	r := f.decided("op-2", gate.Deny, traceparent)
	f.events(40)
	c.waitFor(42)
	f.stop()
	f.finished("op-1", d.Seq) // its decision was sent long before this start
	f.finished("op-2", r.Seq)
	f.start()
	c.waitFor(44)
	if err := f.journal.Close(); err != nil {
		t.Fatal(err)
	}
	f.stop()
	c.wantOnce(45)
	for _, s := range c.spans {
		if s.Kind == tracepb.Span_SPAN_KIND_SERVER && (fmt.Sprintf("%x", s.ParentSpanId) != "b7ad6b7169203331" || s.Name != "GET payments") {
			t.Errorf("span %v does not know its decision", s)
		}
	}
	// And again, with nothing left to send.
	f.openJournal()
	f.start()
	c.waitFor(45)
	f.kill()
}

func TestLogRecordsThatWereAcceptedAreNotRepeatedWithTheirSpans(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	asked := make(chan struct{}, 1000)
	c.answers(func(r request) (int64, bool, error) {
		if r.kind == "spans" {
			asked <- struct{}{}
			return 0, false, status.Error(codes.Unavailable, "no traces today")
		}
		return 0, true, nil
	})
	d := f.decided("op-1", gate.Allow, "")
	f.finished("op-1", d.Seq)
	f.events(2)
	f.start()
	<-asked
	if saved, err := loadCursor(f.opts.Cursor); err != nil || saved.Logs != 4 || saved.Spans != 0 {
		t.Errorf("while the spans are under way the cursor is %+v (%v): a crash would repeat the log records", saved, err)
	}
	f.kill()
	c.answers(nil)
	f.start()
	c.waitFor(4)
	f.stop()
	c.wantOnce(4)
	if got := c.seqs()[0]; got != 1 {
		t.Errorf("%d checkpoints arrived, want 1", got)
	}
}

func TestACursorThatDoesNotFitTheJournalIsAnError(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	f.start()
	f.events(3)
	c.waitFor(3)
	f.stop()
	good, err := os.ReadFile(f.opts.Cursor)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"it is ahead of the journal":  `{"logs":9,"spans":9}`,
		"one of its numbers is ahead": `{"logs":9,"spans":0}`,
		"the record there is another": strings.Replace(string(good), `"hash":"`, `"hash":"0`, 1),
		"it is cut":                   string(good[:10]),
		"it is empty":                 "",
		"it is another journal's":     `{"logs":2,"spans":2,"hash":"aa"}`,
	} {
		if err := os.WriteFile(f.opts.Cursor, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Start(f.journal, f.opts); err == nil || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTheCursorIsSavedNowAndThen: a save is two syncs, which the journal's wait for. So while records come it is behind what was
// accepted for as long as SaveEvery, but for what was rejected, which must not be sent again by itself; a stop saves it.
func TestTheCursorIsSavedNowAndThen(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	f.opts.BatchRecords, f.opts.SaveEvery = 1, time.Hour
	c.answers(func(r request) (int64, bool, error) {
		if r.has(6) {
			return 1, true, nil
		}
		return 0, true, nil
	})
	saved := func() uint64 {
		t.Helper()
		cur, err := loadCursor(f.opts.Cursor)
		if err != nil {
			t.Fatal(err)
		}
		return cur.Logs
	}
	f.events(4)
	f.start()
	c.waitFor(4)
	if got := saved(); got != 1 {
		t.Errorf("the cursor says %d, want 1, of the first batch", got)
	}
	extproctest.Await(t, "a lag of nothing", 20*time.Second, func(context.Context) error {
		if s := f.courier.Stats(); s.LagRecords > 0 || s.LagTime > 0 {
			return fmt.Errorf("the collector has accepted all, and the lag is said to be %+v", s)
		}
		return nil
	})
	if got := saved(); got != 1 {
		t.Errorf("the cursor says %d, and nothing was due to be saved since", got)
	}
	f.events(3)
	c.waitFor(7)
	if got := saved(); got != 6 {
		t.Errorf("the cursor says %d, want 6, which was rejected", got)
	}
	f.kill()
	if got := saved(); got < 6 {
		t.Errorf("after the stop the cursor says %d", got)
	}
	f.start()
	f.stop()
	if got := saved(); got != 7 {
		t.Errorf("after a stop in order the cursor says %d", got)
	}
}
