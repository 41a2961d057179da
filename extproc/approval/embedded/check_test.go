package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/countersign/countersign/extproc/approval"
)

// manyPages is a file with pages of each kind, and how long they are.
func manyPages(t *testing.T, o bolt.Options) (text []byte, page int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "approvals.db")
	s := mustOpen(t, path, Options{NoSync: true})
	for n := range 12 {
		r := ask(t, s, n)
		if n%2 == 0 {
			continue
		}
		_, err := s.Update(t.Context(), r.ID, func(now time.Time, r *approval.Request) error {
			r.State, r.Closed, r.Outbox = approval.Rejected, now, nil
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, &o)
	if err != nil {
		t.Fatal(err)
	}
	page = db.Info().PageSize
	var used int64
	err = db.View(func(tx *bolt.Tx) error { used = tx.Size(); return nil })
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return text[:used], page
}

// TestADamagedFileIsRefused: whatever byte of a page is another one, a start finds a store that works, or says that the file is
// damaged. It never ends the process, as bbolt does.
func TestADamagedFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "approvals.db")
	for _, c := range []struct {
		name   string
		free   bool // the file has a list of free pages
		beside int  // of the bytes that are no numbers of bbolt's, one in so many is changed
	}{{"as it is written", false, 301}, {"as an older version may have written it", true, 1 << 20}} {
		t.Run(c.name, func(t *testing.T) {
			text, page := manyPages(t, bolt.Options{NoFreelistSync: !c.free})
			refused, worked := 0, 0
			try := func(what string, text []byte) {
				t.Helper()
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
				s, err := Open(path, Options{NoSync: true, mapped: 1})
				if err != nil {
					refused++
					if text := err.Error(); !strings.Contains(text, path) || !errors.Is(err, ErrDamaged) && !strings.Contains(text, "it has version") {
						t.Errorf("%s: the error is %v", what, err)
					}
					return
				}
				worked++
				if _, err := s.List(t.Context(), approval.Filter{}); err != nil && !errors.Is(err, ErrDamaged) {
					t.Errorf("%s: %v", what, err)
				}
				ask(t, s, 1000)
				if err := s.Close(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			try("nothing", text)
			for at := 0; at < len(text); at++ {
				first := at - at%page
				head := text[first : first+headBytes]
				numbers := 0 // a page that another goes on for, or that is free, begins with none
				if order.Uint64(head) == uint64(first/page) {
					numbers = headBytes + max(metaBytes, int(order.Uint16(head[10:]))*elementBytes)
				}
				if at%page >= numbers && at%c.beside != 0 {
					continue
				}
				damaged := slices.Clone(text)
				damaged[at] ^= 1 << (at / 7 % 8)
				try(fmt.Sprintf("page %d, byte %d", first/page, at%page), damaged)
			}
			for at := page; at < len(text); at += page {
				try(fmt.Sprintf("cut before page %d", at/page), text[:at])
			}
			if refused < 100 || worked < 100 {
				t.Errorf("%d were refused and %d worked", refused, worked)
			}
		})
	}
}

// TestWhatIsRememberedIsWhatIsStored: the requests that memory has are the ones in the file, and few.
func TestWhatIsRememberedIsWhatIsStored(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "approvals.db"), Options{NoSync: true})
	check := func(id string) {
		t.Helper()
		remembered, err := s.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var stored approval.Request
		err = s.db.View(func(tx *bolt.Tx) (err error) { stored, err = read(tx, id); return err })
		if err != nil {
			t.Fatal(err)
		}
		want, _ := json.Marshal(stored)
		got, _ := json.Marshal(remembered)
		if string(got) != string(want) || string(remembered.Card) != string(stored.Card) {
			t.Errorf("remembered is\n%s and stored\n%s", got, want)
		}
		remembered.Outbox[0].Body, remembered.Decisions = "changed by its reader", nil
	}
	var ids []string
	for n := range 2 * recents {
		r := ask(t, s, n)
		ids = append(ids, r.ID)
		check(r.ID)
		check(r.ID)
		if n%3 > 0 {
			continue
		}
		first := ids[n/3]
		_, err := s.Update(t.Context(), first, func(_ time.Time, r *approval.Request) error {
			r.Reason = "not text: \xff"
			r.Decisions = append(r.Decisions, approval.Decision{Nonce: "1", At: time.Now()})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		check(first)
		refused := errors.New("refused")
		_, err = s.Update(t.Context(), r.ID, func(_ time.Time, r *approval.Request) error {
			r.Reason, r.Outbox[0].Body = "refused", "changed"
			return refused
		})
		if !errors.Is(err, refused) {
			t.Fatal(err)
		}
		check(r.ID)
	}
	for _, id := range ids {
		check(id)
	}
	if n := len(s.shown.recent); n != recents {
		t.Errorf("it remembers %d", n)
	}
}
