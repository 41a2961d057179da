// Package embedded keeps the approvals of one gateway, in one file (bbolt) with a log in front of it.
//
// A change is durable when it returns. It is written to the log and synced once, and changes that wait at the same time share the
// sync. Every second, and at a stop, the log is folded into the file; a start folds what a crash left. Until then changes are
// answered from memory. A commit of bbolt takes two syncs and a dozen pages, and an agent would wait for it. With the log a new ask
// takes half the processor time that it took without, and through the whole gateway one and a half times as long as an allow instead
// of more than twice (BenchmarkAsk); cycles of request, approval and spend are 1.5 to 1.8 times as many (BenchmarkCycles).
//
// The files have mode 0600, and the first is locked, so that no other process can open it. Live requests are also in memory. Final
// ones are kept for a while (Options.Retain) and then forgotten: the journal is the evidence. After a clean stop the file has
// everything and the logs are empty; a copy of a running store needs its logs (FILE-log0, FILE-log1) too. A log that does not
// continue the file, or that is damaged before its end, is an error at the start: changes would be missing, and a spend among them
// could be made again.
//
// After a write that failed nobody knows what is on the disk, so the store takes nothing more until a restart reads it again.
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
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/guard"
)

// Why a store takes nothing.
var (
	ErrLocked = errors.New("the approvals file is in use by another process")
	ErrFailed = errors.New("the approvals file has failed and takes nothing more until a restart")
	ErrClosed = errors.New("the approvals store is closed")
)

// Options are optional.
type Options struct {
	Retain time.Duration    // how long a final request is kept; 30 days unless set
	Now    func() time.Time // the wall clock
	NoSync bool             // do not sync; only for tests of something else

	foldEvery time.Duration // foldEvery unless set
	foldBytes int64         // foldBytes unless set
	point     func()        // is called where a crash could come between two writes
}

// Store implements [approval.Store].
type Store struct {
	db     *bolt.DB
	retain time.Duration
	clock  clock
	jobs   chan *job
	stop   chan struct{}
	done   chan struct{}

	foldEvery time.Duration
	foldBytes int64
	point     func()

	// The writer's own:
	log       log
	lastBatch int
	batch     []*version // what the batch in hand changes, in order
	due       *time.Timer
	folding   bool
	folded    chan error

	mu     sync.Mutex          // guards what follows; held by the writer while it applies jobs
	state  state               // with what is about to be durable
	recent map[string]*version // what is durable in the log and may not be in the file
	failed error
	feeds  map[*approval.Feed]struct{}

	closing sync.Once
}

var (
	bucketRequests   = []byte("requests")   // id -> JSON
	bucketCards      = []byte("cards")      // id -> card
	bucketLive       = []byte("live")       // id -> nothing
	bucketUnrecorded = []byte("unrecorded") // id -> nothing
	bucketFinal      = []byte("final")      // time closed, id -> nothing
	bucketMeta       = []byte("meta")
	keyClock         = []byte("clock")
	keyVersion       = []byte("version")
	keyTurn          = []byte("turn") // of the log, up to which all is in the file
	buckets          = [][]byte{bucketRequests, bucketCards, bucketLive, bucketUnrecorded, bucketFinal, bucketMeta}
)

// formatVersion is what this program writes. It reads a file of version 1, which has no log.
const formatVersion = "2"

// Open opens or makes the file at path.
func Open(path string, o Options) (*Store, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout: 200 * time.Millisecond, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoSync: o.NoSync,
		OpenFile: datafile.OpenFile,
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: %w", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("open the approvals file %s: %w", path, err)
	}
	s := &Store{
		db: db, retain: cmp.Or(o.Retain, 30*24*time.Hour), jobs: make(chan *job, maxBatch),
		stop: make(chan struct{}), done: make(chan struct{}), feeds: map[*approval.Feed]struct{}{},
		log: log{noSync: o.NoSync}, recent: map[string]*version{}, folded: make(chan error, 1),
		foldEvery: cmp.Or(o.foldEvery, foldEvery), foldBytes: cmp.Or(o.foldBytes, foldBytes), point: o.point,
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.point == nil {
		s.point = func() {}
	}
	s.due = time.NewTimer(time.Hour)
	s.due.Stop()
	if err := s.load(path, o.Now); err != nil {
		return nil, errors.Join(fmt.Errorf("read the approvals file %s: %w", path, err), s.log.close(), db.Close())
	}
	go guard.Func("the approvals file", s.run)()
	return s, nil
}

func (s *Store) load(path string, now func() time.Time) error {
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	err := s.db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if v := meta.Get(keyVersion); v != nil && string(v) != formatVersion && string(v) != "1" {
			return fmt.Errorf("it has version %q and this program reads %q", v, formatVersion)
		}
		return meta.Put(keyVersion, []byte(formatVersion))
	})
	if err != nil {
		return err
	}
	if err := s.log.open(path); err != nil {
		return err
	}
	if err := s.recover(); err != nil {
		return err
	}
	s.state.init()
	return s.db.View(func(tx *bolt.Tx) error {
		var last time.Time
		if v := tx.Bucket(bucketMeta).Get(keyClock); len(v) == 8 {
			last = time.Unix(0, int64(binary.BigEndian.Uint64(v)))
		}
		s.clock.init(now, last)
		return tx.Bucket(bucketLive).ForEach(func(id, _ []byte) error {
			r, err := read(tx, nil, string(id))
			if err != nil {
				return err
			}
			r.Card = nil
			s.state.add(&r)
			return nil
		})
	})
}

// Close waits for the changes in hand. What is asked afterwards gets ErrClosed.
func (s *Store) Close() error {
	var err error
	s.closing.Do(func() {
		close(s.stop)
		<-s.done
		err = errors.Join(s.log.close(), s.db.Close())
	})
	return err
}

// Now is the store's clock.
func (s *Store) Now() time.Time { return s.clock.now() }

// Open implements [approval.Store].
func (s *Store) Open(
	ctx context.Context, o approval.Opening, create func(time.Time) (approval.Request, error),
) (approval.Request, bool, error) {
	// Cheap answers first, so that a thousand identical operations do not render a thousand cards.
	if r, ok, err := s.joinable(o.Digest); ok || err != nil {
		return s.joined(ctx, r, err)
	}
	now := s.clock.now()
	s.mu.Lock()
	err := s.state.room(&o, now)
	s.mu.Unlock()
	if err != nil {
		return approval.Request{}, false, err
	}
	r, err := create(now)
	if err != nil {
		return approval.Request{}, false, err
	}
	if r.Digest != o.Digest || r.Agent != o.Agent || r.Resource != o.Resource || r.ID == "" || r.State != approval.Pending {
		return approval.Request{}, false, fmt.Errorf("the new request is not the one that is opened")
	}
	var isJoined bool
	err = s.do(ctx, func(now time.Time) error {
		if found, ok := s.state.byDigest[o.Digest]; ok {
			r, isJoined = found.Clone(), true
			return nil
		}
		if err := s.state.room(&o, now); err != nil {
			return err
		}
		r.Rev, r.Changed = 1, now
		kept, err := s.put(&r)
		if err != nil {
			return err
		}
		s.state.add(kept)
		s.state.count(&o, now)
		return nil
	})
	if err != nil {
		return approval.Request{}, false, err
	}
	if isJoined {
		return s.joined(ctx, r, nil)
	}
	s.tell(&r)
	return r, false, nil
}

func (s *Store) joinable(digest string) (approval.Request, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return approval.Request{}, false, s.failed
	}
	if r, ok := s.state.byDigest[digest]; ok {
		return r.Clone(), true, nil
	}
	return approval.Request{}, false, nil
}

var errNothing = errors.New("nothing to change")

func (s *Store) joined(ctx context.Context, r approval.Request, err error) (approval.Request, bool, error) {
	if err != nil {
		return approval.Request{}, false, err
	}
	if r.Due(s.clock.now()) {
		return r, true, approval.ErrDue
	}
	// What is joined must be durable, and memory can be a write ahead of the log.
	got, err := s.Get(ctx, r.ID)
	if errors.Is(err, approval.ErrNotFound) {
		if err := s.do(ctx, func(time.Time) error { return errNothing }); !errors.Is(err, errNothing) {
			return approval.Request{}, false, err
		}
		got, err = s.Get(ctx, r.ID)
	}
	return got, true, err
}

// Get implements [approval.Store].
func (s *Store) Get(_ context.Context, id string) (approval.Request, error) {
	s.mu.Lock()
	v := s.recent[id]
	if v != nil && v.card != nil {
		defer s.mu.Unlock()
		return v.whole(), nil
	}
	tx, err := s.viewLocked()
	s.mu.Unlock()
	if err != nil {
		return approval.Request{}, err
	}
	defer func() { _ = tx.Rollback() }()
	return read(tx, v, id)
}

// viewLocked begins a look at the file, which has all that is not in s.recent at this moment. The lock is never taken while one
// is open: a fold waits for those when the file must grow, and who holds the lock may wait for the fold.
func (s *Store) viewLocked() (*bolt.Tx, error) {
	tx, err := s.db.Begin(false)
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return nil, ErrClosed
	}
	return tx, err
}

// whole is the request with its card.
func (v *version) whole() approval.Request {
	r := v.request.Clone()
	r.Card = v.card
	return r
}

// Update implements [approval.Store].
func (s *Store) Update(
	ctx context.Context, id string, change func(time.Time, *approval.Request) error,
) (approval.Request, error) {
	var after approval.Request
	var tell bool
	err := s.do(ctx, func(now time.Time) error {
		before, err := s.latestLocked(id)
		if err != nil {
			return err
		}
		after = before.Clone()
		err = change(now, &after)
		if err == nil {
			err = allowed(&before, &after, now)
		}
		if err != nil {
			after = before
			return err
		}
		after.Rev, after.Changed = before.Rev+1, now
		kept, err := s.put(&after)
		if err != nil {
			return err
		}
		tell = after.NewsSince(&before)
		s.state.replace(kept)
		return nil
	})
	if err == nil && tell {
		s.tell(&after)
	}
	return after, err
}

// latestLocked returns the request as the last change left it, durable or about to be. Only the writer calls it.
func (s *Store) latestLocked(id string) (approval.Request, error) {
	if live, ok := s.state.live[id]; ok {
		return live.Clone(), nil
	}
	for _, v := range slices.Backward(s.batch) {
		if v.request.ID == id {
			return v.request.Clone(), nil
		}
	}
	if v := s.recent[id]; v != nil {
		return v.request.Clone(), nil
	}
	tx, err := s.viewLocked()
	if err != nil {
		return approval.Request{}, err
	}
	defer func() { _ = tx.Rollback() }()
	r, err := read(tx, nil, id)
	r.Card = nil
	return r, err
}

// put adds a request to the batch in hand, and returns what to keep of it in memory.
func (s *Store) put(r *approval.Request) (*approval.Request, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("write request %s: %w", r.ID, err)
	}
	v := &version{request: r.Clone(), text: text}
	v.request.Card = nil
	if r.Rev == 1 && len(r.Card) > 0 {
		v.card = r.Card
	}
	s.batch = append(s.batch, v)
	kept := v.request.Clone()
	return &kept, nil
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
	ctx, cancel := context.WithCancel(ctx)
	feed, changes := approval.NewFeed(ctx)
	s.feeds[feed] = struct{}{}
	go guard.Func("a watch over the approvals file", func() {
		defer cancel()
		select {
		case <-ctx.Done():
		case <-s.done:
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.feeds, feed)
	})()
	return changes, nil
}

func (s *Store) tell(r *approval.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for feed := range s.feeds {
		feed.Put(r.Change())
	}
}

// read is a request with its card: v, where it is not nil, and else what the file has.
func read(tx *bolt.Tx, v *version, id string) (approval.Request, error) {
	var r approval.Request
	if v != nil {
		r = v.whole()
	} else {
		text := tx.Bucket(bucketRequests).Get([]byte(id))
		if text == nil {
			return r, approval.ErrNotFound
		}
		if err := json.Unmarshal(text, &r); err != nil {
			return r, fmt.Errorf("read request %s: %w", id, err)
		}
	}
	if r.Card == nil {
		r.Card = bytes.Clone(tx.Bucket(bucketCards).Get([]byte(id)))
	}
	return r, nil
}

func finalKey(closed time.Time, id string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(closed.UnixNano())), id...)
}

// List implements [approval.Store].
func (s *Store) List(ctx context.Context, f approval.Filter) (approval.Page, error) {
	if f.Digest != "" {
		return s.listDigest(ctx, f.Digest)
	}
	s.mu.Lock()
	var next func() (string, bool)
	if f.Due || f.OnlyLive() {
		next = s.newestLiveLocked(f)
	}
	recent := maps.Clone(s.recent)
	tx, err := s.viewLocked()
	s.mu.Unlock()
	if err != nil {
		return approval.Page{}, err
	}
	defer func() { _ = tx.Rollback() }()
	if next == nil {
		next = newest(tx, recent, f)
	}
	return s.page(tx, recent, f, next)
}

// listDigest lists the live request of a digest.
func (s *Store) listDigest(ctx context.Context, digest string) (approval.Page, error) {
	s.mu.Lock()
	live := s.state.byDigest[digest]
	s.mu.Unlock()
	if live == nil {
		return approval.Page{}, nil
	}
	r, err := s.Get(ctx, live.ID)
	if errors.Is(err, approval.ErrNotFound) || err == nil && (r.Digest != digest || !r.State.Live()) {
		return approval.Page{}, nil // the state in memory can be a write ahead
	}
	return approval.Page{Requests: []approval.Request{r}}, err
}

func (s *Store) page(tx *bolt.Tx, recent map[string]*version, f approval.Filter, next func() (string, bool)) (approval.Page, error) {
	var page approval.Page
	for looked := 1; ; looked++ {
		id, ok := next()
		if !ok {
			return page, nil
		}
		r, err := read(tx, recent[id], id)
		if errors.Is(err, approval.ErrNotFound) {
			continue // the state in memory can be a write ahead
		}
		if err != nil {
			return page, err
		}
		if f.Unrecorded && (len(r.Outbox) == 0 || s.clock.now().Sub(r.Changed) < f.Idle) {
			continue
		}
		if !page.Add(&f, &r, looked) {
			return page, nil
		}
	}
}

// newest yields the ids that f may select, newest first, of the file and of what is recent.
func newest(tx *bolt.Tx, recent map[string]*version, f approval.Filter) func() (string, bool) {
	var ids []string
	for id := range recent {
		if f.After == "" || id < f.After {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	inFile := newestInFile(tx, f)
	id, more := inFile()
	return func() (string, bool) {
		last := len(ids) - 1
		if last < 0 || more && id > ids[last] {
			answer, ok := id, more
			if more {
				id, more = inFile()
			}
			return answer, ok
		}
		answer := ids[last]
		ids = ids[:last]
		if more && id == answer {
			id, more = inFile()
		}
		return answer, true
	}
}

func newestInFile(tx *bolt.Tx, f approval.Filter) func() (string, bool) {
	bucket := bucketRequests
	if f.Unrecorded {
		bucket = bucketUnrecorded
	}
	c := tx.Bucket(bucket).Cursor()
	var key []byte
	begun := false
	return func() (string, bool) {
		switch {
		case begun:
			key, _ = c.Prev()
		case f.After == "":
			key, _ = c.Last()
		default:
			if key, _ = c.Seek([]byte(f.After)); key == nil {
				key, _ = c.Last()
			}
			for key != nil && string(key) >= f.After {
				key, _ = c.Prev()
			}
		}
		begun = true
		return string(key), key != nil
	}
}

// newestLiveLocked yields the ids of live requests that f may select, newest first, or by deadline where f is for what is due.
func (s *Store) newestLiveLocked(f approval.Filter) func() (string, bool) {
	now := s.clock.now()
	var ids []string
	due := map[string]time.Time{}
	for id, r := range s.state.live {
		if f.Due && r.Due(now) {
			due[id] = r.Deadline()
			ids = append(ids, id)
		} else if !f.Due && (f.After == "" || id < f.After) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int {
		return cmp.Or(due[a].Compare(due[b]), cmp.Compare(b, a))
	})
	return func() (string, bool) {
		if len(ids) == 0 {
			return "", false
		}
		id := ids[0]
		ids = ids[1:]
		return id, true
	}
}
