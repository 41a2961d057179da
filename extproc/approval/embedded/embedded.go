// Package embedded keeps the approvals of one gateway in one file, with bbolt and nothing around it: people answer asks, so simple
// beats fast.
//
// A change is durable when it returns. Whoever comes when nobody writes writes for all who wait: their conditions are checked and
// their changes made in one transaction, and they are answered when bbolt has synced it. What is not durable yet is not shown.
//
// On two cores with a sync of 0.1 to 0.2 ms an ask that opens a request takes 1.74 to 2.01 times as long as an allow through the whole
// gateway (BenchmarkAsk, one connection, three runs). Its transaction takes 0.42 ms, most of it in bbolt's two syncs and the pages
// that a change touches. So there are few buckets (six made it 0.15 times more), no list of free pages in the file (0.1), zeros are
// written ahead of the pages in use, so that a sync finds their blocks there (0.04 ms, and a p99 of 1.2 instead of 1.6), and what was
// changed last is remembered, so that it is not decoded again (0.02). With a log in front of the file, which was half of this package,
// it was 1.47. Cycles of request, approval and spend are 2,800 a second (BenchmarkCycles), and were 3,300.
//
// The file has mode 0600, and is locked, so that no other process can open it. Of requests that are open memory has what joins, limits
// and deadlines need. Final ones are kept for a while (Options.Retain) and then forgotten: the journal is the evidence. A copy of the
// file is whole if the gateway is stopped, or if it is a snapshot of the file system, which is what a crash leaves.
//
// # Crashes
//
// bbolt writes a transaction's pages beside those that they replace, syncs, writes one of two meta pages, which has a checksum and
// says which pages count, and syncs again. So what a crash leaves is the file before the transaction or after it. Which pages are
// free is not in the file: a start finds it out from the pages in use, as etcd has it, so that a crash cannot leave it wrong. That
// walks through the whole file, and ends the process where a page is damaged. So a start looks at these pages first, and says which
// is damaged (check.go): with 100,000 requests in 440 MB this takes 0.2 of the 0.4 to 0.6 s. Requests that are not text any more, and
// cards, are noticed when they are read. What else is damaged within a request is not: it has no checksum.
//
// After a write or a sync that failed nobody knows what is on the disk, so the store takes nothing more until a restart reads it
// again.
//
// The file is mapped larger than it is at first, because bbolt waits for whoever reads before it maps one that has grown anew.
//
// # Clock
//
// The store's clock never goes back, whatever the machine's does. It runs with the monotonic clock, and follows the wall clock if that
// is ahead (a machine that slept). It is stored with every change, so a clock that is set back while the gateway is down extends
// nothing by more than the time that it was down.
package embedded

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/guard"
)

// Why a store takes nothing.
var (
	ErrLocked     = errors.New("the approvals file is in use by another process")
	ErrFailed     = errors.New("the approvals file has failed and takes nothing more until a restart")
	ErrClosed     = errors.New("the approvals store is closed")
	ErrUnfinished = errors.New("an older version was not stopped in order, and its log has changes that the file does not have")
)

// Options are optional.
type Options struct {
	Retain time.Duration    // how long a final request is kept; 30 days unless set
	Now    func() time.Time // the wall clock
	NoSync bool             // do not sync; only for tests of something else

	mapped int    // bytes of the file that are mapped at first, or more; mapped unless set
	point  func() // is called where a crash could come: before a transaction is written, and when it is durable
}

// mapped is address space and not memory.
const mapped = 256 << 20

// Store implements [approval.Store].
type Store struct {
	db       *bolt.DB
	retain   time.Duration
	clock    clock
	point    func()
	turn     chan struct{} // holds something while somebody writes
	file     *os.File      // of db
	prepared int64         // file is written up to here; for who has the turn

	mu      sync.Mutex // guards what follows
	waiting []*job
	state   state // with what is about to be durable; who has the turn changes it, and reads it without the lock
	shown   shown
	failed  error // why it takes nothing more
	feeds   map[*approval.Feed]context.CancelFunc
}

// shown is of the requests that are not read from the file. Its parts are replaced, and not changed.
type shown struct {
	before map[string]*approval.Request // what is durable of those that a transaction changes, nil for nothing; the file may be ahead
	recent []*approval.Request          // which were changed last, at most recents
}

// recents is enough for those that are asked, answered and spent at the moment; a request with its card has 4 KB as a rule.
const recents = 64

// A page that need not be written makes a change cheaper, so there are few buckets.
var (
	bucketRequests = []byte("requests") // id -> JSON, a line feed and the card
	bucketOpen     = []byte("open")     // id -> nothing; of requests that are live, or have something in their outbox
	bucketFinal    = []byte("final")    // time closed, id -> nothing
	bucketMeta     = []byte("meta")
	bucketCards    = []byte("cards") // id -> card, of requests that an older version wrote last
	keyClock       = []byte("clock")
	keyVersion     = []byte("version")
	buckets        = [][]byte{bucketRequests, bucketOpen, bucketFinal, bucketMeta, bucketCards}

	// What is open was in these until version 3.
	olderBuckets = [][]byte{[]byte("live"), []byte("unrecorded")}
)

// formatVersion is what this program writes. It reads the versions before it; changes of version 2 were in a log first, see removeLogs.
const formatVersion = "3"

// Open opens or makes the file at path.
func Open(path string, o Options) (*Store, error) {
	var file *os.File
	open := func(path string, flag int, perm fs.FileMode) (_ *os.File, err error) {
		file, err = lockAndCheck(path, flag, perm)
		return file, err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoSync: o.NoSync, NoGrowSync: o.NoSync,
		InitialMmapSize: cmp.Or(o.mapped, mapped), OpenFile: open,
	})
	if err != nil {
		return nil, fmt.Errorf("open the approvals file %s: %w", path, err)
	}
	s := &Store{
		db: db, file: file, retain: cmp.Or(o.Retain, 30*24*time.Hour), point: o.point, turn: make(chan struct{}, 1),
		feeds: map[*approval.Feed]context.CancelFunc{},
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.point == nil {
		s.point = func() {}
	}
	if err := s.load(path, o.Now); err != nil {
		return nil, errors.Join(fmt.Errorf("read the approvals file %s: %w", path, err), db.Close())
	}
	return s, nil
}

// lockAndCheck opens the file for bbolt, which then locks it too.
func lockAndCheck(path string, flag int, perm fs.FileMode) (*os.File, error) {
	f, err := datafile.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err == nil {
		err = check(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (s *Store) load(path string, now func() time.Time) error {
	if err := removeLogs(path+"-log0", path+"-log1"); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	if !s.db.NoSync {
		if err := datafile.SyncDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	s.state.init()
	return s.db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if v := string(meta.Get(keyVersion)); !slices.Contains([]string{"", "1", "2", formatVersion}, v) {
			return fmt.Errorf("it has version %q and this program reads %q", v, formatVersion)
		}
		var last time.Time
		if v := meta.Get(keyClock); len(v) == 8 {
			last = time.Unix(0, int64(binary.BigEndian.Uint64(v)))
		}
		s.clock.init(now, last)
		open := tx.Bucket(bucketOpen)
		for _, name := range olderBuckets {
			older := tx.Bucket(name)
			if older == nil {
				continue
			}
			err := older.ForEach(func(id, _ []byte) error { return open.Put(id, nil) })
			if err = errors.Join(err, tx.DeleteBucket(name)); err != nil {
				return err
			}
		}
		if err := meta.Put(keyVersion, []byte(formatVersion)); err != nil {
			return err
		}
		return open.ForEach(func(id, _ []byte) error {
			r, err := read(tx, string(id))
			if errors.Is(err, approval.ErrNotFound) {
				err = fmt.Errorf("request %s is open and not there: %w", id, ErrDamaged)
			}
			if err == nil {
				s.state.put(&r)
			}
			return err
		})
	})
}

// removeLogs removes the logs of version 2. It is an error unless they are empty, as they are after that was stopped in order: then it
// has overwritten the head of the first frame. Otherwise the file may lack changes, a spend among them, which could be made again.
func removeLogs(logs ...string) error {
	for _, name := range logs {
		f, err := datafile.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		head, err := io.ReadAll(io.LimitReader(f, 64))
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if len(bytes.Trim(head, "\x00")) > 0 {
			return fmt.Errorf("%w: %s: start the version before this one once more and stop it with SIGTERM", ErrUnfinished, name)
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// Close waits for the changes in hand. What is asked afterwards gets ErrClosed.
func (s *Store) Close() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.answer()
	s.mu.Lock()
	s.failed = ErrClosed
	for _, end := range s.feeds {
		end()
	}
	s.mu.Unlock()
	return s.db.Close()
}

// Now is the store's clock.
func (s *Store) Now() time.Time { return s.clock.now() }

// Open implements [approval.Store].
func (s *Store) Open(
	ctx context.Context, o approval.Opening, create func(time.Time) (approval.Request, error),
) (approval.Request, bool, error) {
	// Cheap answers first, so that a thousand identical operations do not render a thousand cards.
	now := s.clock.now()
	s.mu.Lock()
	id, err := s.state.byDigest[o.Digest], s.failed
	if err == nil && id == "" {
		err = s.state.room(&o, now)
	}
	s.mu.Unlock()
	if err != nil || id != "" {
		return s.joined(ctx, id, err)
	}
	r, err := create(now)
	if err != nil {
		return approval.Request{}, false, err
	}
	if r.Digest != o.Digest || r.Agent != o.Agent || r.Resource != o.Resource || r.ID == "" || r.State != approval.Pending {
		return approval.Request{}, false, fmt.Errorf("the new request is not the one that is opened")
	}
	err = s.do(ctx, func(w *writing) error {
		if id = s.state.byDigest[o.Digest]; id != "" {
			return nil
		}
		if err := s.state.room(&o, w.now); err != nil {
			return err
		}
		r.Rev, r.Changed = 1, w.now
		return w.put(nil, &r, &o)
	})
	if err != nil || id != "" {
		return s.joined(ctx, id, err)
	}
	s.tell(&r)
	return r, false, nil
}

var errNothing = errors.New("nothing to change")

// joined returns the live request that is joined.
func (s *Store) joined(ctx context.Context, id string, err error) (approval.Request, bool, error) {
	if err != nil {
		return approval.Request{}, false, err
	}
	got, err := s.Get(ctx, id)
	if errors.Is(err, approval.ErrNotFound) { // it is about to be durable: wait for that
		if err := s.do(ctx, func(*writing) error { return errNothing }); !errors.Is(err, errNothing) {
			return approval.Request{}, false, err
		}
		got, err = s.Get(ctx, id)
	}
	if err == nil && got.Due(s.clock.now()) {
		err = approval.ErrDue
	}
	return got, true, err
}

// Get implements [approval.Store].
func (s *Store) Get(_ context.Context, id string) (approval.Request, error) {
	v, err := s.look()
	if err != nil {
		return approval.Request{}, err
	}
	defer v.end()
	return v.get(id)
}

// view is a look at what is durable. The store's lock is not taken while one is open: who holds that may be waiting to look, until
// bbolt has mapped the file anew, and bbolt waits for the views.
type view struct {
	tx *bolt.Tx
	shown
}

func (s *Store) look() (view, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx, err := s.db.Begin(false)
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		err = ErrClosed
	}
	return view{tx, s.shown}, err
}

func (v view) end() { _ = v.tx.Rollback() }

func (v view) get(id string) (approval.Request, error) {
	r, changing := v.before[id]
	if !changing {
		if r = v.remembered(id); r == nil {
			return read(v.tx, id)
		}
	}
	if r == nil {
		return approval.Request{}, approval.ErrNotFound
	}
	return r.Clone(), nil
}

func (s *shown) remembered(id string) *approval.Request {
	if i := slices.IndexFunc(s.recent, func(r *approval.Request) bool { return r.ID == id }); i >= 0 {
		return s.recent[i]
	}
	return nil
}

// read returns a request as tx has it, with its card. That is what people decide on, so it is held against its digest.
func read(tx *bolt.Tx, id string) (approval.Request, error) {
	var r approval.Request
	value := tx.Bucket(bucketRequests).Get([]byte(id))
	if value == nil {
		return r, approval.ErrNotFound
	}
	text, card, both := bytes.Cut(value, []byte("\n"))
	if !both {
		card = tx.Bucket(bucketCards).Get([]byte(id))
	}
	err := json.Unmarshal(text, &r)
	switch {
	case err != nil:
	case r.ID != id:
		err = errors.New("it is another one")
	case r.CardDigest != "" && r.CardDigest != approval.CardDigest(card):
		err = errors.New("its card is another one")
	}
	if err != nil {
		return approval.Request{}, fmt.Errorf("read request %s: %w: %w", id, err, ErrDamaged)
	}
	r.Card = bytes.Clone(card)
	return r, nil
}

// Update implements [approval.Store].
func (s *Store) Update(
	ctx context.Context, id string, change func(time.Time, *approval.Request) error,
) (approval.Request, error) {
	var after approval.Request
	var tell bool
	err := s.do(ctx, func(w *writing) error {
		before, err := w.get(id)
		if err != nil {
			return err
		}
		card := before.Card
		before.Card = nil
		after = before.Clone()
		err = try(change, w.now, &after)
		if err == nil {
			err = allowed(&before, &after, w.now)
		}
		if err != nil {
			after = before
			return err
		}
		after.Rev, after.Changed = before.Rev+1, w.now
		tell = after.NewsSince(&before)
		before.Card = card
		return w.put(&before, &after, nil)
	})
	if err == nil && tell {
		s.tell(&after)
	}
	return after, err
}

// try calls change. If that panics it is an error of that change alone.
func try(change func(time.Time, *approval.Request) error, now time.Time, r *approval.Request) (err error) {
	defer guard.Catch("a change of a request for approval", func(p guard.Panic) { err = errors.New("the change panicked: " + p.Value) })
	return change(now, r)
}

// allowed checks a change against the rules of [approval.Store]. now is the time that change was given.
func allowed(before, after *approval.Request, now time.Time) error {
	switch {
	case after.ID != before.ID || after.Digest != before.Digest || after.Agent != before.Agent || after.Resource != before.Resource:
		return errors.New("a change made another request of this one")
	case !before.State.Live() && after.State != before.State:
		return fmt.Errorf("a request that is %s cannot become %s", before.State, after.State)
	case before.Due(now) && (after.State.Live() && after.State != before.State || after.State == approval.Spent):
		return approval.ErrDue
	default:
		return nil
	}
}

// Watch implements [approval.Store].
func (s *Store) Watch(ctx context.Context) (<-chan approval.Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return nil, s.failed
	}
	ctx, end := context.WithCancel(ctx)
	feed, changes := approval.NewFeed(ctx)
	s.feeds[feed] = end
	context.AfterFunc(ctx, guard.Func("a watch over the approvals file", func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.feeds, feed)
	}))
	return changes, nil
}

func (s *Store) tell(r *approval.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for feed := range s.feeds {
		feed.Put(r.Change())
	}
}

// List implements [approval.Store].
func (s *Store) List(_ context.Context, f approval.Filter) (approval.Page, error) {
	now := s.clock.now()
	var ids iter.Seq[string]
	s.mu.Lock()
	switch {
	case f.Digest != "":
		ids = s.state.of(f.Digest)
		f = approval.Filter{States: []approval.State{approval.Pending, approval.Approved}}
	case f.Due:
		ids = s.state.due(now)
	case f.Unrecorded:
		ids = newest(s.state.unrecorded, f.After)
	case f.OnlyLive():
		ids = newest(s.state.live, f.After)
	}
	s.mu.Unlock()
	v, err := s.look()
	if err != nil {
		return approval.Page{}, err
	}
	defer v.end()
	if ids == nil {
		ids = v.newest(f.After)
	}
	return v.list(f, now, ids)
}

// list is the page of those of ids that f selects.
func (v view) list(f approval.Filter, now time.Time, ids iter.Seq[string]) (page approval.Page, err error) {
	looked := 0
	for id := range ids {
		looked++
		r, err := v.get(id)
		switch {
		case errors.Is(err, approval.ErrNotFound): // it is about to be durable
		case err != nil:
			return page, err
		case f.Due && !r.Due(now), f.Unrecorded && (len(r.Outbox) == 0 || now.Sub(r.Changed) < f.Idle):
		case !page.Add(&f, &r, looked):
			return page, nil
		}
	}
	return page, nil
}

// newest yields the ids of all requests before after, newest first.
func (v view) newest(after string) iter.Seq[string] {
	return func(yield func(string) bool) {
		c := v.tx.Bucket(bucketRequests).Cursor()
		step := c.Last
		if after != "" {
			if key, _ := c.Seek([]byte(after)); key != nil {
				step = c.Prev
			}
		}
		for key, _ := step(); key != nil && yield(string(key)); key, _ = c.Prev() {
		}
	}
}
