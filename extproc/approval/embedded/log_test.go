package embedded

import (
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
	"github.com/countersign/countersign/extproc/approval/approvaltest"
)

// never is for a store that folds nothing before it is closed.
var never = Options{foldEvery: time.Hour}

func mustOpen(t *testing.T, path string, o Options) *Store {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// ask opens request n, and returns its id.
func ask(t *testing.T, s *Store, n int) string {
	t.Helper()
	desk, err := approval.NewDesk(approval.Options{Store: s, Recorder: &approvaltest.Journal{}, Node: "gw-1", People: approvaltest.People})
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := desk.Ask(t.Context(), approvaltest.Asking(approvaltest.Operation(n), approvaltest.Verdict("p1", 1)))
	if err != nil {
		t.Fatal(err)
	}
	return r.ID
}

// sorted is newest first: ids of one millisecond are in no order of time.
func sorted(ids ...string) []string {
	slices.Sort(ids)
	slices.Reverse(ids)
	return ids
}

// ids are all requests of the store, newest first.
func ids(t *testing.T, s *Store) []string {
	t.Helper()
	page, err := s.List(t.Context(), approval.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, r := range page.Requests {
		if approval.CardDigest(r.Card) != r.CardDigest {
			t.Errorf("request %s has another card", r.ID)
		}
		list = append(list, r.ID)
	}
	return list
}

// crashed is what a store that ends now leaves: a copy of its files.
func crashed(t *testing.T, path string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "approvals.db")
	for _, suffix := range []string{"", "-log0", "-log1"} {
		text, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+suffix, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func rewrite(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWhatACrashLeavesInTheLogIsFolded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "approvals.db")
	s := mustOpen(t, path, never)
	want := sorted(ask(t, s, 1), ask(t, s, 2), ask(t, s, 3))
	left := crashed(t, path)
	for range 2 { // the second start finds it in the file
		again := mustOpen(t, left, never)
		if got := ids(t, again); !slices.Equal(got, want) {
			t.Errorf("found %v, want %v", got, want)
		}
		if again.log.turn != 2 && again.log.turn != 3 {
			t.Errorf("turn %d", again.log.turn)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// After a clean stop the file alone is everything, and whatever file is put in its place is not held against the logs.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	early, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		s = mustOpen(t, path, never)
		ask(t, s, 4+n)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	rewrite(t, path, func([]byte) []byte { return early })
	if got := ids(t, mustOpen(t, path, never)); !slices.Equal(got, want) {
		t.Errorf("with the file of before %v, want %v", got, want)
	}
}

// A machine that dies during a write leaves any part of the last frame. What was acknowledged is before it.
func TestALogIsReadUpToWhereItsLastWriteWasCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "approvals.db")
	s := mustOpen(t, path, never)
	first, second := ask(t, s, 1), ask(t, s, 2)
	before := s.log.size
	third := ask(t, s, 3)
	name := path + "-log1"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := before; i < s.log.size; i++ {
		cut := slices.Clone(text[:i])
		bad := slices.Clone(text)
		bad[i] ^= 1
		for _, torn := range [][]byte{cut, append(cut, make([]byte, 5000)...), bad} {
			found, err := readLog(torn, name)
			if err != nil || len(found.payloads) != 2 {
				t.Fatalf("byte %d: %d frames, %v", i, len(found.payloads), err)
			}
		}
	}
	left := crashed(t, path)
	rewrite(t, left+"-log1", func(text []byte) []byte { return text[:len(text)-1] })
	again := mustOpen(t, left, never)
	if got := ids(t, again); !slices.Equal(got, sorted(first, second)) {
		t.Errorf("found %v, want %v and %v, and not %v, which nobody was told of", got, second, first, third)
	}
	fourth := ask(t, again, 4) // goes on after it
	if got := ids(t, mustOpen(t, crashed(t, left), never)); !slices.Equal(got, sorted(first, second, fourth)) {
		t.Errorf("found %v", got)
	}
}

// What no crash explains is an error: changes would be missing, and a spend among them could be made again.
func TestALogThatIsDamagedOrAnothersIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "approvals.db")
	s := mustOpen(t, path, never)
	ask(t, s, 1)
	early := crashed(t, path)
	ask(t, s, 2)
	for _, c := range []struct {
		name   string
		change func(path string)
	}{
		{"a byte of a frame that others follow", func(path string) {
			rewrite(t, path+"-log1", func(text []byte) []byte { text[frameStart+100] ^= 1; return text })
		}},
		{"a file put back from before two turns", func(path string) {
			for n := range 3 { // each close ends a turn
				s := mustOpen(t, path, never)
				ask(t, s, 10+n)
				if n < 2 {
					_ = s.Close()
					continue
				}
				later := crashed(t, path)
				_ = s.Close()
				rewrite(t, path, func([]byte) []byte { text, _ := os.ReadFile(early); return text })
				for _, suffix := range []string{"-log0", "-log1"} {
					rewrite(t, path+suffix, func([]byte) []byte { text, _ := os.ReadFile(later + suffix); return text })
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			left := crashed(t, path)
			c.change(left)
			if s, err := Open(left, never); !errors.Is(err, ErrDamaged) {
				t.Errorf("opened %v with the error %v", s, err)
			}
		})
	}
}

// What is left of an earlier turn behind the frames of this one is no part of it, whatever it says.
func TestAnEarlierTurnIsNoPartOfThisOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "approvals.db")
	s := mustOpen(t, path, never)
	ask(t, s, 1)
	ask(t, s, 2)
	text, err := os.ReadFile(path + "-log1")
	if err != nil {
		t.Fatal(err)
	}
	size, _ := frameSize(text, nil)
	for i := 8; i < frameHead; i++ { // turn and salt
		other := slices.Clone(text[:size])
		other[i] ^= 1
		sum := frameSum(other)
		copy(other[frameHead:], sum[:])
		if found, err := readLog(append(other, text[size:]...), "log"); err != nil || len(found.payloads) != 1 {
			t.Errorf("byte %d of the head: %d frames, %v", i, len(found.payloads), err)
		}
	}
}

func TestALogThatCannotBeWrittenEndsTheStore(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "approvals.db"), never)
	id := ask(t, s, 1)
	if err := s.log.files[1].Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Update(t.Context(), id, func(_ time.Time, r *approval.Request) error { r.Reason = "lost"; return nil })
	if !errors.Is(err, ErrFailed) {
		t.Errorf("the error is %v", err)
	}
	if r, err := s.Get(t.Context(), id); err != nil || r.Reason != "" {
		t.Errorf("what is not durable is shown: %+v, %v", r, err)
	}
	if _, err := s.Update(t.Context(), id, func(time.Time, *approval.Request) error { return nil }); !errors.Is(err, ErrFailed) {
		t.Errorf("after it the error is %v", err)
	}
}

func TestVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "approvals.db")
	s := mustOpen(t, path, never)
	id := ask(t, s, 1)
	for _, version := range []string{"1", formatVersion, "3"} {
		_ = s.Close()
		db, err := bolt.Open(path, 0o600, nil)
		if err == nil {
			err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyVersion, []byte(version)) })
		}
		if err = errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(path, never); version == "3" {
			if err == nil || !strings.Contains(err.Error(), `version "3"`) {
				t.Errorf("the error is %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := ids(t, s); !slices.Equal(got, []string{id}) {
			t.Errorf("version %s: found %v", version, got)
		}
	}
}

func FuzzReadLog(f *testing.F) {
	dir := f.TempDir()
	l := log{noSync: true}
	if err := l.open(filepath.Join(dir, "x")); err != nil {
		f.Fatal(err)
	}
	l.begin(1)
	for n := range 2 {
		r := approval.Request{ID: fmt.Sprint("request-", n)}
		if err := l.append(7, []*version{{request: r, text: []byte(`{"id":"` + r.ID + `"}`), card: []byte("{}")}}); err != nil {
			f.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "x-log1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(text[:len(text)-3])
	f.Fuzz(func(t *testing.T, text []byte) {
		found, err := readLog(text, "log")
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
		for _, payload := range found.payloads {
			_, _, _ = parsePayload(payload)
		}
	})
}
