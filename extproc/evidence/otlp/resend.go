package otlp

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/evidence"
)

// Resent is what came of sending again.
type Resent struct {
	Sent     int // records and checkpoints
	Rejected int // how many of these the collector rejected again
}

// ErrResending says that another process is sending rejected records again at this moment.
var ErrResending = errors.New("what was rejected is being sent again by somebody else")

// Resend sends again what is on the list of a data directory, of the records from from to to, and takes off the list what the
// collector accepts. It can run beside the gateway. Each record goes in a request of its own, so that the answer is about that record
// alone. If a request was accepted in part, the collector then has the accepted records twice, and identical. An error ends it;
// what was accepted by then is off the list. Of opts it uses what says where the collector is and who sends.
func Resend(ctx context.Context, data string, from, to uint64, opts Options) (done Resent, err error) {
	lock, err := datafile.Lock(filepath.Join(data, rejectedFile+".resend"))
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return done, ErrResending
	} else if err != nil {
		return done, err
	}
	defer lock.Close()
	list, err := Rejected(data)
	if err != nil {
		return done, err
	}
	opts = withDefaults(opts)
	c, err := newClient(opts)
	if err != nil {
		return done, err
	}
	defer c.conn.Close()
	for _, r := range list {
		if r.To < from || r.From > to {
			continue
		}
		s := resending{client: c, opts: opts, data: data, of: r, first: max(r.From, from), next: max(r.From, from)}
		err := s.all(ctx, min(r.To, to))
		done.Sent, done.Rejected = done.Sent+s.sent, done.Rejected+s.rejected
		if err := errors.Join(err, s.save()); err != nil {
			return done, err
		}
	}
	return done, nil
}

// resending is the sending of one rejection's records.
type resending struct {
	*client
	opts           Options
	data           string
	of             Rejection
	first          uint64 // record to send
	next           uint64 // the first record without an answer
	sent, rejected int
	still          []Rejection // what was rejected again
}

func (s *resending) all(ctx context.Context, to uint64) error {
	for it, err := range s.items(to) {
		if err == nil {
			err = s.one(ctx, it)
		}
		if err != nil {
			return fmt.Errorf("send again what the collector rejected: %w", err)
		}
		s.next = it.number() + 1
	}
	s.next = to + 1
	return nil
}

// one sends one record. An error is about the collector, not about the record.
func (s *resending) one(ctx context.Context, it *item) error {
	call, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	all := elements([]*item{it})
	rejected, why, err := s.export(call, s.of.Signal, []*item{it})
	if err != nil {
		if reason, _ := judge(err); reason != aboutRecords {
			return err
		}
		rejected, why = all, err.Error()
	}
	if s.sent++; rejected > 0 {
		s.rejected++
		s.still = joined(append(s.still, Rejection{
			Signal: s.of.Signal, From: it.number(), To: it.number(), Sent: all, Rejected: min(rejected, all), Time: s.opts.Now().UTC(), Why: shortened(why),
		}))
	}
	return nil
}

// items yields what is to be sent, from s.first to to.
func (s *resending) items(to uint64) iter.Seq2[*item, error] {
	journal := filepath.Join(s.data, "journal")
	if s.of.Signal == Checkpoints {
		return checkpointsOf(journal, s.first, to, s.opts.Now)
	}
	return func(yield func(*item, error) bool) {
		j, r := newJoiner(journal, kindsOf(s.opts.Kinds)), evidence.NewReader(journal, s.first, nil)
		defer r.Close()
		for e := (evidence.Entry{}); e.Seq < to; {
			var err error
			if e, err = r.Next(); err != nil {
				yield(nil, fmt.Errorf("read the journal: %w", err))
				return
			}
			j.room(true) // the one before is sent, or is none of these
			if it := j.item(&e); it.signal() == s.of.Signal && !yield(it, nil) {
				return
			}
		}
	}
}

// checkpointsOf yields the checkpoints that cover between from and to records.
func checkpointsOf(journal string, from, to uint64, now func() time.Time) iter.Seq2[*item, error] {
	return func(yield func(*item, error) bool) {
		m := marks{open: func(from uint64) *evidence.Reader { return evidence.NewReader(journal, from, nil) }}
		defer m.close()
		for offset := int64(0); ; {
			notes, err := evidence.CheckpointNotes(journal, offset)
			if err != nil {
				yield(nil, err)
				return
			}
			if len(notes) == 0 {
				return
			}
			for _, note := range notes {
				offset = note.End
				size := covers(note)
				if size > to {
					return
				}
				last, err := m.of(note)
				if size >= from && (err != nil || !yield(checkpointItem(note, last, now()), nil)) {
					if err != nil {
						yield(nil, fmt.Errorf("read the last record of a checkpoint: %w", err))
					}
					return
				}
			}
		}
	}
}

// save takes the records that got an answer off the list, and puts back those that were rejected again.
func (s *resending) save() error {
	if s.next == s.first {
		return nil
	}
	return changeRejected(s.data, func(list []Rejection) []Rejection {
		i := slices.Index(list, s.of)
		if i < 0 {
			return list // the gateway has joined it with a neighbour: accepted records stay on the list, and are sent once more
		}
		list = slices.Delete(list, i, i+1)
		if s.of.From < s.first {
			list = append(list, s.of.part(s.of.From, s.first-1))
		}
		if s.next <= s.of.To {
			list = append(list, s.of.part(s.next, s.of.To))
		}
		return append(list, s.still...)
	})
}

// part returns the part of r from from to to.
func (r Rejection) part(from, to uint64) Rejection {
	r.From, r.To = from, to
	r.Sent = int64(min(uint64(r.Sent), to-from+1))
	r.Rejected = min(r.Rejected, r.Sent)
	return r
}
