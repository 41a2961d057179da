package embedded

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/approvaltest"
)

func mustOpen(t *testing.T, path string, o Options) *Store {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func deskOf(t *testing.T, s *Store) *approval.Desk {
	t.Helper()
	desk, err := approval.NewDesk(approval.Options{Store: s, Recorder: &approvaltest.Journal{}, Node: "gw-1", People: approvaltest.People})
	if err != nil {
		t.Fatal(err)
	}
	return desk
}

// ask opens request n.
func ask(t *testing.T, s *Store, n int) approval.Request {
	t.Helper()
	r, _, err := deskOf(t, s).Ask(t.Context(), approvaltest.Asking(approvaltest.Operation(n), approvaltest.Verdict("p1", 1)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// all is everything that the store shows.
func all(t *testing.T, s *Store) string {
	t.Helper()
	page, err := s.List(t.Context(), approval.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, r := range page.Requests {
		if approval.CardDigest(r.Card) != r.CardDigest {
			t.Errorf("request %s has another card", r.ID)
		}
		if err := json.NewEncoder(&text).Encode(r); err != nil {
			t.Fatal(err)
		}
	}
	return text.String()
}

// transaction is the file before a transaction and after it.
type transaction struct{ before, after []byte }

// transactions are those of a few requests that are asked, approved and spent.
func transactions(t *testing.T) (list []transaction) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "approvals.db")
	begun := false
	s := mustOpen(t, path, Options{mapped: 1, point: func() {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		if begun = !begun; begun {
			list = append(list, transaction{before: text})
		} else {
			list[len(list)-1].after = text
		}
	}})
	desk, v := deskOf(t, s), approvaltest.Verdict("p1", 1)
	for n := range 6 {
		r := ask(t, s, n)
		if _, err := desk.Decide(t.Context(), approvaltest.Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest}); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := desk.Spend(t.Context(), approvaltest.Spending(approvaltest.Operation(n), v)); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestWhatACrashOfTheMachineLeaves: of the pages that were not synced yet any can be written, in part or not at all; and of the meta
// page, which is written when they are durable, any part. Each such file is the one before the transaction or the one after it.
func TestWhatACrashOfTheMachineLeaves(t *testing.T) {
	const page, metas = 4096, 2
	list := transactions(t)
	if len(list) < 18 {
		t.Fatalf("there were %d transactions", len(list))
	}
	path := filepath.Join(t.TempDir(), "approvals.db")
	opened := func(text []byte) string {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path, Options{NoSync: true, mapped: 1})
		if err != nil {
			t.Errorf("open what a crash left: %v", err)
			return ""
		}
		defer s.Close()
		return all(t, s)
	}
	for i, tx := range list {
		before, after := opened(tx.before), opened(tx.after)
		if before == after {
			t.Fatalf("transaction %d changed nothing", i)
		}
		grown := append(slices.Clone(tx.before), make([]byte, len(tx.after)-len(tx.before))...) // that is synced first
		var pages []int
		meta := -1
		for at := 0; at < len(grown); at += page {
			if bytes.Equal(grown[at:at+page], tx.after[at:at+page]) {
				continue
			}
			if at < metas*page {
				meta = at
				continue
			}
			pages = append(pages, at)
		}
		if meta < 0 || len(pages) == 0 {
			t.Fatalf("transaction %d wrote %d pages, and the meta page at %d", i, len(pages), meta)
		}
		for n := range len(pages) { // only this one, all but this one, a part of this one
			only, but, part := slices.Clone(grown), slices.Clone(tx.after), slices.Clone(grown)
			copy(but[:metas*page], grown)
			at, half := pages[n], pages[n]+page/2
			copy(only[at:at+page], tx.after[at:])
			copy(but[at:at+page], grown[at:])
			copy(part[at:half], tx.after[at:])
			for kind, text := range [][]byte{only, but, part} {
				if got := opened(text); got != before {
					t.Errorf("transaction %d, page %d, kind %d: it is not what it was before:\n%s", i, at/page, kind, got)
				}
			}
		}
		for n := 0; n <= 128; n += 8 { // and of that page a crash can leave a part
			torn := slices.Clone(tx.after)
			copy(torn[meta+n:meta+page], grown[meta+n:])
			if got := opened(torn); got != before && got != after || n == 128 && got != after {
				t.Errorf("transaction %d, %d bytes of the meta page: it is neither what it was before nor what it is after:\n%s", i, n, got)
			}
		}
	}
}

// TestNothingIsShownBeforeItIsDurable, although bbolt shows it a moment before.
func TestNothingIsShownBeforeItIsDurable(t *testing.T) {
	var s *Store
	var look func()
	s = mustOpen(t, filepath.Join(t.TempDir(), "approvals.db"), Options{point: func() {
		if look != nil {
			look()
		}
	}})
	var shown []string
	look = func() { shown = append(shown, all(t, s)) }
	r := ask(t, s, 1)
	if _, err := s.Update(t.Context(), r.ID, func(_ time.Time, r *approval.Request) error { r.Reason = "seen"; return nil }); err != nil {
		t.Fatal(err)
	}
	look = nil
	after := all(t, s)
	if len(shown) != 4 || shown[0] != "" || shown[1] != "" || shown[2] == "" || shown[3] != shown[2] || after == shown[2] {
		t.Errorf("it showed %q, and then %q", shown, after)
	}
}

// TestTwoThatAskAtOnceAskOnce, although both find that nobody has asked yet.
func TestTwoThatAskAtOnceAskOnce(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "approvals.db"), Options{})
	var making, askers sync.WaitGroup
	making.Add(2)
	var joined [2]bool
	for i := range joined {
		askers.Go(func() {
			r, j, err := s.Open(t.Context(), approval.Opening{Digest: "d"}, func(now time.Time) (approval.Request, error) {
				making.Done()
				making.Wait()
				return approval.Request{ID: fmt.Sprint(i), Digest: "d", State: approval.Pending, Expires: now.Add(time.Hour)}, nil
			})
			if joined[i] = j; err != nil || r.ID == "" {
				t.Errorf("opened %+v, %v", r, err)
			}
		})
	}
	askers.Wait()
	if joined[0] == joined[1] {
		t.Errorf("joined: %v", joined)
	}
}

// TestWhoReadsHoldsNobodyUp, nor is held up, while the file grows and is mapped anew.
func TestWhoReadsHoldsNobodyUp(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "approvals.db"), Options{NoSync: true, mapped: 1})
	first := ask(t, s, 0)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				_ = all(t, s)
				if _, err := s.Get(t.Context(), first.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := range 300 {
		ask(t, s, n+1)
	}
	close(done)
	readers.Wait()
}

func TestFinalRequestsAreForgotten(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	s := mustOpen(t, filepath.Join(t.TempDir(), "approvals.db"), Options{Retain: time.Hour, Now: func() time.Time { return now }})
	open, final, late, owed := ask(t, s, 1), ask(t, s, 2), ask(t, s, 3), ask(t, s, 4)
	closing := func(r approval.Request, recorded bool) {
		t.Helper()
		_, err := s.Update(t.Context(), r.ID, func(now time.Time, r *approval.Request) error {
			r.State, r.Closed = approval.Rejected, now
			if recorded {
				r.Outbox = nil
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	closing(final, true)
	now = now.Add(30 * time.Minute)
	closing(late, true)
	closing(owed, false)
	now = now.Add(31 * time.Minute)
	ask(t, s, 5)
	for _, c := range []struct {
		r    approval.Request
		want error
	}{{open, nil}, {final, approval.ErrNotFound}, {late, nil}} {
		if _, err := s.Get(t.Context(), c.r.ID); !errors.Is(err, c.want) {
			t.Errorf("request %s: %v, want %v", c.r.ID, err, c.want)
		}
	}
	now = now.Add(2 * time.Hour)
	ask(t, s, 6)
	ask(t, s, 7)
	if _, err := s.Get(t.Context(), owed.ID); err != nil {
		t.Errorf("what is not on record is forgotten: %v", err)
	}
}

func TestVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "approvals.db")
	s := mustOpen(t, path, Options{})
	ask(t, s, 1)
	want := all(t, s)
	for _, version := range []string{"1", "2", formatVersion, "4"} {
		_ = s.Close()
		db, err := bolt.Open(path, 0o600, nil)
		if err == nil {
			err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyVersion, []byte(version)) })
		}
		if err = errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(path, Options{}); version == "4" {
			if err == nil || !strings.Contains(err.Error(), `version "4"`) {
				t.Errorf("the error is %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := all(t, s); got != want {
			t.Errorf("version %s: found %v", version, got)
		}
	}
}

// TestChangesOfAnOlderVersionAreNotLost: version 2 made changes durable in a log before they were in the file. A stop in order emptied
// it: it overwrote the first 64 bytes.
func TestChangesOfAnOlderVersionAreNotLost(t *testing.T) {
	frame := append([]byte("csal\x00\x00\x01\x00"), bytes.Repeat([]byte("x"), 400)...)
	emptied := append(make([]byte, 64), frame...)
	for _, c := range []struct {
		name       string
		log0, log1 []byte // nil for none
		refused    bool
	}{
		{"it was never begun", []byte{}, []byte{}, false},
		{"it was emptied", []byte{}, emptied, false},
		{"one file of two was", emptied, emptied, false},
		{"the first has changes", frame, []byte{}, true},
		{"the second has", emptied, frame, true},
		{"one is gone and the other has changes", nil, frame, true},
		{"its first bytes were torn off", emptied, append(make([]byte, 32), frame...), true},
		{"it was cut", frame[:5], nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "approvals.db")
			for i, text := range [][]byte{c.log0, c.log1} {
				if text == nil {
					continue
				}
				if err := os.WriteFile(fmt.Sprintf("%s-log%d", path, i), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				s, err := Open(path, Options{})
				if err == nil {
					_ = s.Close()
				}
				if c.refused != errors.Is(err, ErrUnfinished) || !c.refused && err != nil {
					t.Errorf("the error is %v", err)
				}
			}
			left, _ := filepath.Glob(path + "-log*")
			if c.refused == (len(left) == 0) {
				t.Errorf("left are %v", left)
			}
		})
	}
}
