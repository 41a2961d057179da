package embedded

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/approvaltest"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
)

// These make a copy of the test program the gateway that kills itself.
var (
	crashDir = flag.String("crash-dir", "", "run operations on the data in this directory")
	crashAt  = flag.Int64("crash-at", 0, "kill this process at this write, counted from 1; 0 for never")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *crashDir == "" {
		m.Run()
		return
	}
	if err := runOperations(*crashDir, *crashAt); err != nil {
		fmt.Fprintln(os.Stdout, "error", err)
	}
}

// killer counts writes, each twice: just before it and just after, when it is durable and nobody knows.
type killer struct {
	at    int64
	n     atomic.Int64
	armed atomic.Bool
}

func (k *killer) point() {
	if k.armed.Load() && k.n.Add(1) == k.at {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

type killingStore struct {
	approval.Store
	k *killer
}

func (s killingStore) Open(ctx context.Context, o approval.Opening, f func(time.Time) (approval.Request, error)) (approval.Request, bool, error) {
	s.k.point()
	defer s.k.point()
	return s.Store.Open(ctx, o, f)
}

func (s killingStore) Update(ctx context.Context, id string, f func(time.Time, *approval.Request) error) (approval.Request, error) {
	s.k.point()
	defer s.k.point()
	return s.Store.Update(ctx, id, f)
}

type killingRecorder struct {
	gate.Recorder
	k *killer
}

func (r killingRecorder) Append(ctx context.Context, record *gate.Record) (gate.Receipt, error) {
	r.k.point()
	defer r.k.point()
	return r.Recorder.Append(ctx, record)
}

func (r killingRecorder) Begin(ctx context.Context, record *gate.Record) func() (gate.Receipt, error) {
	r.k.point()
	durable := r.Recorder.Begin(ctx, record)
	r.k.point()
	return func() (gate.Receipt, error) {
		r.k.point()
		defer r.k.point()
		return durable()
	}
}

// reopen opens what is in dir: a real journal and a real store.
func reopen(dir string, k *killer) (*approval.Desk, *Store, *evidence.Journal, error) {
	journal, err := evidence.Open(context.Background(), evidence.Options{Dir: filepath.Join(dir, "journal"), Node: "gw-1"})
	if err != nil {
		return nil, nil, nil, err
	}
	store, err := Open(filepath.Join(dir, "approvals.db"), Options{point: k.point})
	if err != nil {
		return nil, nil, nil, err
	}
	desk, err := approval.NewDesk(approval.Options{
		Store: killingStore{store, k}, Recorder: killingRecorder{journal, k}, Node: "gw-1", People: approvaltest.People, TTL: time.Minute,
	})
	return desk, store, journal, err
}

// runOperations says on standard output what was acknowledged to it, as soon as it was.
func runOperations(dir string, at int64) error {
	k := &killer{at: at}
	desk, store, journal, err := reopen(dir, k)
	if err != nil {
		return err
	}
	ctx, v := context.Background(), approvaltest.Verdict("p1", 1)
	k.armed.Store(true)
	for n := range 3 {
		op := approvaltest.Operation(n)
		r, _, err := desk.Ask(ctx, approvaltest.Asking(op, v))
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "asked", r.ID)
		answer := approval.Answer{Approve: n != 1, Card: r.CardDigest}
		if _, err := desk.Decide(ctx, approvaltest.Oncall("bob"), r.ID, answer); err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "decided", r.ID)
		_, ok, err := desk.Spend(ctx, approvaltest.Spending(op, v))
		if err != nil {
			return err
		}
		if ok {
			fmt.Fprintln(os.Stdout, "spent", r.ID)
		}
		if err := desk.Settle(ctx); err != nil {
			return err
		}
	}
	k.armed.Store(false)
	fmt.Fprintln(os.Stdout, "writes", k.n.Load())
	if err := store.Close(); err != nil {
		return err
	}
	return journal.Close()
}

func TestKilledAtEveryWrite(t *testing.T) {
	for at := int64(1); ; at++ {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-crash-dir", dir, "-crash-at", fmt.Sprint(at))
		out, _ := cmd.Output()
		told := map[string]map[string]bool{}
		whole := false
		for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
			word, id, _ := strings.Cut(lines.Text(), " ")
			if word == "error" {
				t.Fatalf("killed at write %d: %s", at, out)
			}
			if told[id] == nil {
				told[id] = map[string]bool{}
			}
			told[id][word] = true
			whole = whole || word == "writes"
		}
		if !whole && cmd.ProcessState.Success() {
			t.Fatalf("killed at write %d: it neither was nor ended: %s", at, out)
		}
		checkCrash(t, at, dir, told)
		if whole {
			if at < 30 {
				t.Errorf("there were only %d writes", at-1)
			}
			return
		}
	}
}

// checkCrash starts again on dir: what was acknowledged stands, nothing is spent twice, and every change has its record.
func checkCrash(t *testing.T, at int64, dir string, told map[string]map[string]bool) {
	t.Helper()
	desk, store, journal, err := reopen(dir, &killer{})
	if err != nil {
		t.Fatalf("killed at write %d: open again: %v", at, err)
	}
	ctx, v := t.Context(), approvaltest.Verdict("p1", 1)
	if err := desk.Settle(ctx); err != nil {
		t.Fatalf("killed at write %d: settle: %v", at, err)
	}
	page, err := store.List(ctx, approval.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]approval.Request{}
	for _, r := range page.Requests {
		states[r.ID] = r
		if len(r.Outbox) > 0 {
			t.Errorf("killed at write %d: request %s is settled and has %v in its outbox", at, r.ID, r.Outbox)
		}
	}
	for id, words := range told {
		r, there := states[id]
		if words["asked"] && !there {
			t.Errorf("killed at write %d: request %s is lost", at, id)
		}
		if words["decided"] && len(r.Decisions) != 1 || words["spent"] && r.State != approval.Spent {
			t.Errorf("killed at write %d: request %s is %s with %d decisions after %v", at, id, r.State, len(r.Decisions), words)
		}
	}
	spent := map[string]bool{}
	for id, words := range told {
		spent[id] = words["spent"]
	}
	for n := range 3 {
		g, ok, err := desk.Spend(ctx, approvaltest.Spending(approvaltest.Operation(n), v))
		if err != nil {
			t.Fatal(err)
		}
		if id := g.Request().ID; ok && (spent[id] || states[id].State != approval.Approved) {
			t.Errorf("killed at write %d: request %s was spent twice, or without an approval", at, id)
		}
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	if err := journal.Close(); err != nil {
		t.Error(err)
	}
	checkRecords(t, at, dir, states)
}

// checkRecords holds the journal to the requests: each event at least once, and no request with two spends.
func checkRecords(t *testing.T, at int64, dir string, states map[string]approval.Request) {
	t.Helper()
	records := map[string]map[string]map[string]bool{} // request -> type -> event
	files, err := filepath.Glob(filepath.Join(dir, "journal", "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no journal in %s: %v", dir, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
			var record struct {
				Type string
				Body struct{ Approval, Event string }
			}
			if err := json.Unmarshal([]byte(line), &record); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			id := record.Body.Approval
			if records[id] == nil {
				records[id] = map[string]map[string]bool{}
			}
			if records[id][record.Type] == nil {
				records[id][record.Type] = map[string]bool{}
			}
			records[id][record.Type][record.Body.Event] = true
		}
	}
	for id, r := range states {
		got := records[id]
		spent := len(got[approval.RecordSpent])
		if len(got[approval.RecordRequested]) != 1 || len(got[approval.RecordDecided]) != len(r.Decisions) || spent > 1 ||
			r.State == approval.Spent && spent != 1 {
			t.Errorf("killed at write %d: request %s is %s with %d decisions and has the records %v", at, id, r.State, len(r.Decisions), got)
		}
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "approvals.db")
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), ErrLocked.Error()) {
		t.Errorf("the error is %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestClockNeverGoesBack(t *testing.T) {
	wall := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	now := func() time.Time { return wall }
	path := filepath.Join(t.TempDir(), "approvals.db")
	s, err := Open(path, Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	o := approval.Opening{Digest: "d", Resource: "payments"}
	_, _, err = s.Open(t.Context(), o, func(now time.Time) (approval.Request, error) {
		return approval.Request{ID: "1", Digest: "d", Resource: "payments", State: approval.Pending, Created: now, Expires: now.Add(time.Minute)}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wall = wall.Add(59 * time.Second)
	_, err = s.Update(t.Context(), "1", func(_ time.Time, r *approval.Request) error { r.Reason = "seen"; return nil })
	if err != nil {
		t.Fatal(err)
	}
	wall = wall.Add(-time.Hour)
	if got := s.Now(); got.Before(wall.Add(time.Hour)) {
		t.Errorf("it went back to %v", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path, Options{Now: now}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := s.Now(); got.Before(wall.Add(time.Hour)) {
		t.Errorf("after a restart it went back to %v", got)
	}
	wall = wall.Add(2 * time.Second)
	if page, err := s.List(t.Context(), approval.Filter{Due: true}); err != nil || len(page.Requests) != 1 {
		t.Errorf("a clock that was set back has extended a request: %v, %v", page, err)
	}
}
