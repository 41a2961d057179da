package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/guard"
)

// maxBatch is how many changes share a transaction at most.
const maxBatch = 256

// job is one change that waits to be written.
type job struct {
	apply func(*writing) error
	err   error
	done  chan struct{}
}

// writing is a transaction that is being made.
type writing struct {
	s      *Store
	tx     *bolt.Tx
	now    time.Time
	before map[string]*approval.Request // of each request that it changes; nil for a new one
	after  map[string]*approval.Request // of those, and of the ones that it forgets; nil where nothing is to be remembered
}

// do applies a change and returns when it is durable. One caller at a time writes, for all who wait. A change cannot be taken back,
// so do waits for it even if ctx ends.
func (s *Store) do(ctx context.Context, apply func(*writing) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("wait for the approvals file: %w", err)
	}
	j := &job{apply: apply, done: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, j)
	s.mu.Unlock()
	for {
		select {
		case <-j.done:
			return j.err
		case s.turn <- struct{}{}:
			s.answer()
			<-s.turn
		}
	}
}

// answer writes for those who wait, and answers them. After a panic the store takes nothing more.
func (s *Store) answer() {
	s.mu.Lock()
	n := min(len(s.waiting), maxBatch)
	batch, err := s.waiting[:n], s.failed
	s.waiting = s.waiting[n:]
	s.mu.Unlock()
	defer func() {
		for _, j := range batch {
			if err != nil && j.err == nil {
				j.err = err
			}
			close(j.done)
		}
	}()
	defer guard.Catch("the approvals file", func(p guard.Panic) { err = s.fail(errors.New("writing it panicked: " + p.Value)) })
	if err == nil && n > 0 {
		err = s.write(batch)
	}
}

// write makes the changes of a batch in one transaction. An error says that the store has failed.
func (s *Store) write(batch []*job) error {
	tx, err := s.db.Begin(true)
	if err != nil {
		return s.fail(err)
	}
	defer func() { _ = tx.Rollback() }() // unless it is committed
	w := &writing{s, tx, s.clock.now(), map[string]*approval.Request{}, map[string]*approval.Request{}}
	for _, j := range batch {
		if j.err = j.apply(w); errors.Is(j.err, errHalf) {
			return s.fail(j.err)
		}
	}
	if len(w.before) == 0 {
		return nil
	}
	if err := errors.Join(w.forget(), putTime(tx, w.now)); err != nil {
		return s.fail(err)
	}
	s.prepare(tx.Size())
	s.show(shown{w.before, s.shown.recent})
	s.point()
	if err := tx.Commit(); err != nil {
		return s.fail(err) // not under the lock: who reads does not wait
	}
	s.point()
	s.show(shown{recent: w.remember()})
	return nil
}

// zeros are written at the file's end, so that a sync of pages there finds their blocks allocated and has less to write.
var zeros [256 << 10]byte

// prepare has zeros written ahead of what is in use. An error here says nothing of the transaction, which writes itself.
func (s *Store) prepare(used int64) {
	if used+int64(len(zeros))/4 > s.prepared {
		at := max(s.prepared, used)
		s.prepared = at + int64(len(zeros))
		_, _ = s.file.WriteAt(zeros[:], at)
	}
}

func (s *Store) show(what shown) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown = what
}

// remember is what was changed last, this transaction's in front.
func (w *writing) remember() (recent []*approval.Request) {
	for _, r := range w.after {
		if r != nil {
			recent = append(recent, r)
		}
	}
	for _, r := range w.s.shown.recent {
		if _, changed := w.after[r.ID]; !changed {
			recent = append(recent, r)
		}
	}
	return slices.Clip(recent[:min(len(recent), recents)])
}

// get returns a request as the transaction has it.
func (w *writing) get(id string) (approval.Request, error) {
	r, changed := w.after[id]
	if !changed {
		r = w.s.shown.remembered(id)
	}
	if r == nil {
		return read(w.tx, id)
	}
	return r.Clone(), nil
}

// errHalf is a change of which a part may be in the transaction.
var errHalf = errors.New("a change was made in part")

// put adds a request to the transaction. before is nil if it is new, and opening then says which limits it counts for.
func (w *writing) put(before, r *approval.Request, opening *approval.Opening) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write request %s: %w", r.ID, err)
	}
	id, was, card := []byte(r.ID), approval.Request{}, r.Card
	if before != nil {
		was, card = *before, before.Card
	}
	if _, again := w.before[r.ID]; !again {
		w.before[r.ID] = before
	}
	errs := []error{w.tx.Bucket(bucketRequests).Put(id, slices.Concat(text, []byte("\n"), card))}
	if was.State.Live() && !r.State.Live() {
		errs = append(errs, w.tx.Bucket(bucketFinal).Put(finalKey(r.Closed, r.ID), nil))
	}
	switch is := open(r); {
	case is && !open(&was):
		errs = append(errs, w.tx.Bucket(bucketOpen).Put(id, nil))
	case !is && open(&was):
		errs = append(errs, w.tx.Bucket(bucketOpen).Delete(id))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: write request %s: %w", errHalf, r.ID, err)
	}
	w.after[r.ID] = nil
	if !bytes.Contains(text, []byte(`\ufffd`)) { // else the file has other bytes: not all were text
		kept := r.Clone()
		kept.Card = card
		w.after[r.ID] = &kept
	}
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.put(r)
	if opening != nil {
		s.state.count(opening, w.now)
	}
	return nil
}

func open(r *approval.Request) bool { return r.State.Live() || len(r.Outbox) > 0 }

func finalKey(closed time.Time, id string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(closed.UnixNano())), id...)
}

func putTime(tx *bolt.Tx, now time.Time) error {
	return tx.Bucket(bucketMeta).Put(keyClock, binary.BigEndian.AppendUint64(nil, uint64(now.UnixNano())))
}

// forget removes a few requests that were closed long ago.
func (w *writing) forget() error {
	tx := w.tx
	c := tx.Bucket(bucketFinal).Cursor()
	limit := uint64(w.now.Add(-w.s.retain).UnixNano())
	for range 16 {
		key, _ := c.First()
		if len(key) < 8 || binary.BigEndian.Uint64(key) >= limit {
			return nil
		}
		id := key[8:]
		if tx.Bucket(bucketOpen).Get(id) != nil {
			return nil
		}
		w.after[string(id)] = nil
		if err := errors.Join(tx.Bucket(bucketRequests).Delete(id), tx.Bucket(bucketCards).Delete(id), c.Delete()); err != nil {
			return err
		}
	}
	return nil
}

// fail ends the store: memory and disk are in doubt.
func (s *Store) fail(cause error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = fmt.Errorf("%w: %w", ErrFailed, cause)
	for feed := range s.feeds {
		feed.Put(approval.Change{})
	}
	return s.failed
}
