package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/countersign/countersign/extproc/guard"
)

// When what is in the log is folded into the file.
const (
	foldEvery = time.Second
	foldBytes = 4 << 20
	logBytes  = 64 << 20 // the log grows no longer than about this: changes wait for the fold then
)

// recover folds what a crash left in the log, and begins a new turn.
func (s *Store) recover() error {
	var left []frames
	for _, f := range s.log.files {
		text, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		found, err := readLog(text, f.Name())
		if err != nil {
			return err
		}
		left = append(left, found)
	}
	slices.SortFunc(left, func(a, b frames) int {
		if a.turn < b.turn {
			return -1
		}
		return 1
	})
	var turn uint64
	err := s.db.Update(func(tx *bolt.Tx) error {
		if v := tx.Bucket(bucketMeta).Get(keyTurn); len(v) == 8 {
			turn = binary.BigEndian.Uint64(v)
		}
		for _, found := range left {
			if found.turn <= turn {
				continue
			}
			if found.turn != turn+1 {
				return fmt.Errorf("%w: it goes on at turn %d and the file ends with turn %d; where the file was put back from a copy on purpose, remove its logs",
					ErrDamaged, found.turn, turn)
			}
			turn = found.turn
			for _, payload := range found.payloads {
				clock, list, err := parsePayload(payload)
				if err != nil {
					return fmt.Errorf("read the log of turn %d: %w", turn, err)
				}
				if err := fold(tx, list, turn, clock); err != nil {
					return err
				}
			}
		}
		return nil
	})
	s.log.begin(turn + 1)
	return err
}

// fold puts requests into the file.
func fold(tx *bolt.Tx, list []*version, turn uint64, clock int64) error {
	meta := tx.Bucket(bucketMeta)
	errs := []error{
		meta.Put(keyTurn, binary.BigEndian.AppendUint64(nil, turn)),
		meta.Put(keyClock, binary.BigEndian.AppendUint64(nil, uint64(clock))),
	}
	for _, v := range list {
		r, id := &v.request, []byte(v.request.ID)
		errs = append(errs, tx.Bucket(bucketRequests).Put(id, v.text))
		if v.card != nil {
			errs = append(errs, tx.Bucket(bucketCards).Put(id, v.card))
		}
		if r.State.Live() {
			errs = append(errs, tx.Bucket(bucketLive).Put(id, nil))
		} else {
			errs = append(errs, tx.Bucket(bucketLive).Delete(id), tx.Bucket(bucketFinal).Put(finalKey(r.Closed, r.ID), nil))
		}
		if len(r.Outbox) > 0 {
			errs = append(errs, tx.Bucket(bucketUnrecorded).Put(id, nil))
		} else {
			errs = append(errs, tx.Bucket(bucketUnrecorded).Delete(id))
		}
	}
	return errors.Join(errs...)
}

// rotate begins a fold of what is recent; meanwhile changes go to the other file of the log. Only the writer calls it.
func (s *Store) rotate() {
	if s.folding || s.log.size == 0 || s.err() != nil {
		return
	}
	s.mu.Lock()
	list := make([]*version, 0, len(s.recent))
	for _, v := range s.recent {
		list = append(list, v)
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b *version) int { return bytes.Compare([]byte(a.request.ID), []byte(b.request.ID)) })
	turn, now := s.log.turn, s.clock.now()
	s.log.begin(turn + 1)
	s.folding = true
	go guard.Func("the fold of the approvals' log", func() {
		err := errors.New("the fold of the log panicked")
		defer func() { s.folded <- err }()
		err = s.foldAll(list, turn, now)
	})()
}

func (s *Store) foldAll(list []*version, turn uint64, now time.Time) error {
	s.point()
	err := s.db.Update(func(tx *bolt.Tx) error {
		if err := forget(tx, now.Add(-s.retain)); err != nil {
			return err
		}
		return fold(tx, list, turn, now.UnixNano())
	})
	s.point()
	if err != nil {
		return fmt.Errorf("fold the log into the file: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range list {
		if s.recent[v.request.ID] == v {
			delete(s.recent, v.request.ID)
		}
	}
	return nil
}

// hasFolded takes note of a fold that has ended.
func (s *Store) hasFolded(err error) {
	s.folding = false
	if err != nil {
		_ = s.fail(err)
	}
	if s.log.size > 0 {
		s.due.Reset(s.foldEvery)
	}
}
