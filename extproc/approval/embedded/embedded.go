// Package embedded is the approvals of one gateway, in one file (bbolt).
//
// A change is durable when it returns: bbolt syncs its pages, then the page that makes them current, and changes that wait
// at the same time share one commit. The file has mode 0600 and is locked, so that a second process cannot open it. What is
// live is also in memory; what is final is kept for a while (Options.Retain) and then forgotten: the journal is the evidence.
//
// A commit that fails leaves the disk in doubt, so the store takes nothing more until a restart reads it again.
//
// # Clock
//
// The store's clock never goes back, whatever the machine's does: it runs with the monotonic clock, follows the wall clock
// where that is ahead (a machine that slept), and is stored with every commit, so that a clock set back while the gateway
// was down extends nothing by more than the time that it was down.
package embedded

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/countersign/countersign/extproc/approval"
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
}

// Store implements [approval.Store].
type Store struct {
	db     *bolt.DB
	retain time.Duration
	clock  clock
	jobs   chan *job
	stop   chan struct{}
	done   chan struct{}

	lastBatch int // the writer's own

	mu     sync.Mutex // guards what follows; held by the writer while it applies jobs
	state  state
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
	buckets          = [][]byte{bucketRequests, bucketCards, bucketLive, bucketUnrecorded, bucketFinal, bucketMeta}
)

const version = "1"

// Open opens or makes the file at path.
func Open(path string, o Options) (*Store, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout: 200 * time.Millisecond, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoSync: o.NoSync,
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
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := s.load(path, o.Now); err != nil {
		return nil, errors.Join(fmt.Errorf("read the approvals file %s: %w", path, err), db.Close())
	}
	go s.run()
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
		if v := meta.Get(keyVersion); v != nil && string(v) != version {
			return fmt.Errorf("it has version %q and this program reads %q", v, version)
		}
		return meta.Put(keyVersion, []byte(version))
	})
	if err != nil {
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
			r, err := read(tx, string(id))
			if err != nil {
				return err
			}
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
		err = s.db.Close()
	})
	return err
}

// Now is the store's clock.
func (s *Store) Now() time.Time { return s.clock.now() }

// Open implements [approval.Store].
func (s *Store) Open(
	ctx context.Context, o approval.Opening, create func(time.Time) (approval.Request, error),
) (approval.Request, bool, error) {
	// Cheap answers first: a thousand identical operations must not render a thousand cards.
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
	err = s.do(ctx, func(tx *bolt.Tx, now time.Time) error {
		if found, ok := s.state.byDigest[o.Digest]; ok {
			r, isJoined = found.Clone(), true
			return nil
		}
		if err := s.state.room(&o, now); err != nil {
			return err
		}
		r.Rev, r.Changed = 1, now
		err := errors.Join(tx.Bucket(bucketCards).Put([]byte(r.ID), r.Card), write(tx, nil, &r))
		if err != nil {
			return writeError{err}
		}
		kept := r.Clone()
		kept.Card = nil
		s.state.add(&kept)
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
	// What is joined must be durable: memory can be a commit ahead of the file.
	got, err := s.Get(ctx, r.ID)
	if errors.Is(err, approval.ErrNotFound) {
		if err := s.do(ctx, func(*bolt.Tx, time.Time) error { return errNothing }); !errors.Is(err, errNothing) {
			return approval.Request{}, false, err
		}
		got, err = s.Get(ctx, r.ID)
	}
	return got, true, err
}

// Get implements [approval.Store].
func (s *Store) Get(_ context.Context, id string) (approval.Request, error) {
	var r approval.Request
	err := s.view(func(tx *bolt.Tx) error {
		var err error
		if r, err = read(tx, id); err != nil {
			return err
		}
		r.Card = bytes.Clone(tx.Bucket(bucketCards).Get([]byte(id)))
		return nil
	})
	return r, err
}

// Update implements [approval.Store].
func (s *Store) Update(
	ctx context.Context, id string, change func(time.Time, *approval.Request) error,
) (approval.Request, error) {
	var after approval.Request
	var tell bool
	err := s.do(ctx, func(tx *bolt.Tx, now time.Time) error {
		live, isLive := s.state.live[id]
		var before approval.Request
		if isLive {
			before = live.Clone()
		} else {
			var err error
			if before, err = read(tx, id); err != nil {
				return err
			}
		}
		after = before.Clone()
		err := change(now, &after)
		if err == nil {
			err = allowed(&before, &after, now)
		}
		if err != nil {
			after = before
			return err
		}
		after.Rev, after.Changed = before.Rev+1, now
		if err := write(tx, &before, &after); err != nil {
			return writeError{err}
		}
		tell = before.State != after.State || len(before.Decisions) != len(after.Decisions)
		kept := after.Clone()
		s.state.replace(&kept)
		return nil
	})
	if err == nil && tell {
		s.tell(&after)
	}
	return after, err
}

// allowed holds a change to the store's part of the rules. Change was told the time that it is held to.
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
	go func() {
		defer cancel()
		select {
		case <-ctx.Done():
		case <-s.done:
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.feeds, feed)
	}()
	return changes, nil
}

func (s *Store) tell(r *approval.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for feed := range s.feeds {
		feed.Put(approval.Change{ID: r.ID, Rev: r.Rev, State: r.State})
	}
}

func (s *Store) view(f func(tx *bolt.Tx) error) error {
	err := s.db.View(f)
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

func read(tx *bolt.Tx, id string) (approval.Request, error) {
	text := tx.Bucket(bucketRequests).Get([]byte(id))
	if text == nil {
		return approval.Request{}, approval.ErrNotFound
	}
	var r approval.Request
	if err := json.Unmarshal(text, &r); err != nil {
		return approval.Request{}, fmt.Errorf("read request %s: %w", id, err)
	}
	return r, nil
}

// write stores r and keeps the indexes; before is nil for a new request.
func write(tx *bolt.Tx, before, r *approval.Request) error {
	id := []byte(r.ID)
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write request %s: %w", r.ID, err)
	}
	if err := tx.Bucket(bucketRequests).Put(id, text); err != nil {
		return err
	}
	wasLive := before != nil && before.State.Live()
	if r.State.Live() && !wasLive {
		err = tx.Bucket(bucketLive).Put(id, nil)
	} else if !r.State.Live() && wasLive {
		err = errors.Join(tx.Bucket(bucketLive).Delete(id), tx.Bucket(bucketFinal).Put(finalKey(r.Closed, r.ID), nil))
	}
	if err != nil {
		return err
	}
	wasUnrecorded := before != nil && len(before.Outbox) > 0
	if len(r.Outbox) > 0 && !wasUnrecorded {
		return tx.Bucket(bucketUnrecorded).Put(id, nil)
	} else if len(r.Outbox) == 0 && wasUnrecorded {
		return tx.Bucket(bucketUnrecorded).Delete(id)
	}
	return nil
}

func finalKey(closed time.Time, id string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(closed.UnixNano())), id...)
}

// List implements [approval.Store].
func (s *Store) List(_ context.Context, f approval.Filter) (approval.Page, error) {
	var page approval.Page
	// The lock is never taken inside a transaction: a commit that holds it waits for readers when the file must grow.
	var live func() (string, bool)
	if f.Digest != "" || f.Due || f.OnlyLive() {
		live = s.newestLive(f)
	}
	err := s.view(func(tx *bolt.Tx) error {
		next := live
		if next == nil {
			next = newest(tx, f)
		}
		for {
			id, ok := next()
			if !ok {
				return nil
			}
			r, err := read(tx, id)
			if errors.Is(err, approval.ErrNotFound) {
				continue // an index in memory can be ahead of the file
			}
			if err != nil {
				return err
			}
			if f.Digest == "" && !f.Match(&r) || f.Unrecorded && (len(r.Outbox) == 0 || s.clock.now().Sub(r.Changed) < f.Idle) {
				continue
			}
			if f.Digest != "" && (r.Digest != f.Digest || !r.State.Live()) {
				continue
			}
			if len(page.Requests) == f.Limit() {
				page.Next = page.Requests[len(page.Requests)-1].ID
				return nil
			}
			r.Card = bytes.Clone(tx.Bucket(bucketCards).Get([]byte(id)))
			page.Requests = append(page.Requests, r)
		}
	})
	return page, err
}

// newest yields the ids that f may select, newest first.
func newest(tx *bolt.Tx, f approval.Filter) func() (string, bool) {
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

// newestLive yields the ids of live requests that f may select, newest first, or by deadline where f is for what is due.
func (s *Store) newestLive(f approval.Filter) func() (string, bool) {
	now := s.clock.now()
	s.mu.Lock()
	var ids []string
	due := map[string]time.Time{}
	switch {
	case f.Digest != "":
		if r, ok := s.state.byDigest[f.Digest]; ok {
			ids = []string{r.ID}
		}
	default:
		for id, r := range s.state.live {
			if f.Due && r.Due(now) {
				due[id] = r.Deadline()
				ids = append(ids, id)
			} else if !f.Due && (f.After == "" || id < f.After) {
				ids = append(ids, id)
			}
		}
	}
	s.mu.Unlock()
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
