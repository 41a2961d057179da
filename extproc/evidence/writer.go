package evidence

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// writer belongs to the one goroutine that writes segments. One write and one sync serve all who wait.
type writer struct {
	journal *Journal
	room    room
	rolling bool // nothing more goes into this segment: the next one may be in the directory already
	pace    pace

	buf     []byte
	placed  []place
	refusal refusal
	lost    map[uint64]string // allowed operations whose outcome no caller will record, by seq of the decision: why
}

// place is where an entry of the batch stands in the journal.
type place struct {
	entry     *entry
	seq       uint64
	hash      [sha256.Size]byte
	from, end int // of its line in what is written
}

// refusal is what was refused since writing last worked.
type refusal struct {
	err   error
	since time.Time
	count int
	retry time.Time // by the monotonic clock
}

func (w *writer) run() {
	j := w.journal
	for more := true; more; {
		<-j.queue.wake
		j.queue.gather()
		if want := w.pace.want(); want > 0 && j.queue.linger(want, paceAhead) {
			j.queue.gather()
		}
		var batch []*entry
		var callers int
		batch, callers, more = j.queue.take()
		if len(batch) > 0 || w.refusal.err != nil {
			w.mustCommit(batch)
			w.pace.committed(time.Now(), callers, j.queue.callers())
		}
		if len(w.lost) > 0 && w.refusal.err == nil {
			_ = w.commit(nil)
		}
	}
}

// mustCommit commits, and fails the journal after a panic: nobody knows then what is in the file and what in memory, as after a
// failed sync.
func (w *writer) mustCommit(batch []*entry) {
	published := w.journal.durable.Load()
	defer guard.Catch("the journal's writer", func(p guard.Panic) {
		err := w.journal.fail(errors.New("the writer panicked: " + p.Value))
		if w.journal.durable.Load() == published { // otherwise they have been answered
			w.answerAll(batch, err)
		}
	})
	_ = w.commit(batch)
}

// commit makes batch durable and answers those who wait for it. After an error nothing of it is in the journal, unless the journal
// has failed.
func (w *writer) commit(batch []*entry) error {
	j := w.journal
	if err := j.failed.Load(); err != nil {
		w.answerAll(batch, *err)
		return *err
	}
	if w.refusal.err != nil && time.Now().Before(w.refusal.retry) {
		return w.turnAway(batch)
	}
	all := batch
	if owed := w.owed(); len(owed) > 0 {
		all = append(owed, batch...)
	}
	next, stepped := w.lay(all)
	if len(w.placed) == 0 {
		return nil
	}
	if err := w.write(); err != nil {
		if failed := j.failed.Load(); failed != nil {
			w.answerAll(batch, *failed)
			return *failed
		}
		w.refuse(err)
		return w.turnAway(batch)
	}
	if stepped != "" {
		j.alarm(AlarmClock, stepped)
	}
	w.recovered()
	w.publish(next)
	return nil
}

// owed returns the records that the journal itself has to add before others.
func (w *writer) owed() []*entry {
	j := w.journal
	var list []*entry
	if w.refusal.err != nil {
		list = append(list, own(j.opts.Node, gate.Alarm, "", gate.Object{
			{Name: "error", Value: strings.ToValidUTF8(w.refusal.err.Error(), "\uFFFD")},
			{Name: "kind", Value: AlarmRefused},
			{Name: "refused", Value: w.refusal.count},
			{Name: "since", Value: string(gate.AppendTime(nil, w.refusal.since))},
		}))
	}
	for _, seq := range sortedKeys(w.lost) {
		list = append(list, j.unknown([]uint64{seq}, w.lost[seq])...)
	}
	return list
}

// unknown makes operation.unknown records for decisions that are open.
func (j *Journal) unknown(decided []uint64, reason string) []*entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []*entry
	for _, seq := range decided {
		if op, open := j.open[seq]; open {
			list = append(list, own(j.opts.Node, gate.OperationUnknown, op, gate.Object{
				{Name: "decided", Value: int64(seq)}, {Name: "reason", Value: reason},
			}))
		}
	}
	return list
}

// lay writes the lines of a batch into w.buf and returns where the chain stands after it. The journal's chain moves only when the
// batch is durable. All records of a batch have one time, and no other batch has it: what a crash leaves of a batch is known by that.
func (w *writer) lay(batch []*entry) (next chain, stepped string) {
	j := w.journal
	w.buf, w.placed = w.buf[:0], w.placed[:0]
	next = chain{seq: j.chain.seq, hash: j.chain.hash, time: j.chain.time, tree: j.chain.tree.clone()}
	now := j.opts.Now().Round(0) // the wall clock alone: the monotonic one never steps back
	if behind := next.time.Sub(now); behind >= 0 && behind < time.Millisecond {
		now = next.time.Add(1)
	} else if behind > 0 && len(batch) > 0 {
		stepped = fmt.Sprintf("the clock stepped back from %s to %s", gate.AppendTime(nil, next.time), gate.AppendTime(nil, now))
		w.place(&next, now, own(j.opts.Node, gate.Alarm, "", gate.Object{
			{Name: "from", Value: string(gate.AppendTime(nil, next.time))},
			{Name: "kind", Value: AlarmClock},
			{Name: "seconds", Value: next.time.Sub(now).Seconds()},
		}))
	}
	for _, e := range batch {
		w.place(&next, now, e)
	}
	return next, stepped
}

func (w *writer) place(next *chain, now time.Time, e *entry) {
	next.seq++
	next.time = now
	from := len(w.buf)
	w.buf = appendLine(w.buf, e.head, &next.hash, next.seq, now, e.kind)
	line := w.buf[from:]
	next.hash = sha256.Sum256(line)
	next.tree.push(tlog.RecordHash(line))
	w.buf = append(w.buf, '\n')
	w.placed = append(w.placed, place{entry: e, seq: next.seq, hash: next.hash, from: from, end: len(w.buf) - 1})
}

// write writes w.buf after the last durable byte and syncs it. After an error nothing of it is in the file, durably, or the journal has
// failed.
func (w *writer) write() error {
	j, r, n := w.journal, &w.room, int64(len(w.buf))
	if w.rolling || r.file == nil || r.used > 0 && r.used+n > j.opts.SegmentBytes {
		w.rolling = true
		if err := w.roll(); err != nil {
			return err
		}
	}
	if err := w.ours(r.check(n)); err != nil {
		return err
	}
	err := r.write(w.buf)
	if isFull(err) && r.giveBack() == nil {
		err = r.write(w.buf)
	}
	if err != nil {
		return w.undo(fmt.Errorf("write the journal: %w", err))
	}
	if err := r.file.Sync(); err != nil {
		// Nobody knows what the disk has, and a second sync could succeed although the kernel has dropped the pages. The callers
		// refuse, so the tail is cut off if that still works; nothing relies on it.
		_ = r.cut(false)
		return j.fail(fmt.Errorf("sync the journal: %w", err))
	}
	if err := w.ours(r.wrote(n)); err != nil {
		return w.undo(err)
	}
	r.keep(n)
	return nil
}

// ours fails the journal if err says that somebody else has changed it, and returns err.
func (w *writer) ours(err error) error {
	if errors.Is(err, errNotOurs) {
		return w.journal.fail(err)
	}
	return err
}

// undo takes back a write that failed, whatever part of it is in the file, and with it what was prepared.
func (w *writer) undo(cause error) error {
	if err := w.cut(false); err != nil {
		return w.journal.fail(fmt.Errorf("undo a failed write (%w): %w", cause, err))
	}
	return cause
}

// cut ends the segment with its last record, durably. over says that no more will come.
func (w *writer) cut(over bool) error {
	if err := w.room.cut(over); err != nil {
		return err
	}
	return w.room.file.Sync()
}

// roll ends the segment and starts the next one. The old one is as long as its records before the new one has a name, so that only
// the last one can end in zeros.
func (w *writer) roll() error {
	j := w.journal
	if w.room.file != nil {
		if err := w.cut(true); err != nil {
			return j.fail(fmt.Errorf("end a segment: %w", err))
		}
	}
	path := segmentPath(j.opts.Dir, j.chain.seq+1)
	size := w.room.takeNext(path)
	f, err := j.opts.FS.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("start a segment: %w", err)
	}
	if size == 0 {
		if err := f.Truncate(0); err != nil { // an earlier try may have left it
			_ = f.Close()
			return fmt.Errorf("start segment %s: %w", path, err)
		}
	}
	if err := j.opts.FS.SyncDir(j.opts.Dir); err != nil {
		_ = f.Close()
		if opening := (*fs.PathError)(nil); errors.As(err, &opening) && opening.Op == "open" {
			return fmt.Errorf("open the journal's directory: %w", err) // no sync was tried, so this can pass
		}
		return j.fail(fmt.Errorf("sync the journal's directory: %w", err))
	}
	if w.room.file != nil {
		if err := w.room.close(); err != nil {
			j.opts.Log.Warn("close a segment that is durable", "error", err)
		}
		j.mu.Lock()
		j.pending = append(j.pending, j.snapshotLocked())
		j.mu.Unlock()
		j.nudgeSigner()
	}
	if err := w.room.use(f, path, 0, size); err != nil {
		return fmt.Errorf("start a segment: %w", err)
	}
	w.rolling = false
	return nil
}

// publish moves the journal's end and answers those who wait.
func (w *writer) publish(next chain) {
	j := w.journal
	j.mu.Lock()
	for i := range w.placed {
		p := &w.placed[i]
		if p.entry.allows {
			j.open[p.seq] = p.entry.op
		}
		delete(j.open, p.entry.settles)
	}
	j.chain = next
	j.mu.Unlock()
	j.recent.add(j.opts.Node, next.time, w.buf, w.placed)
	j.durable.Store(next.seq)
	j.announce()
	clear(w.lost)
	for i := range w.placed {
		p := &w.placed[i]
		allows := p.entry.allows
		receipt := gate.Receipt{}
		if p.entry.waits {
			receipt = gate.Receipt{Seq: p.seq, Time: next.time, Hash: hex.EncodeToString(p.hash[:])}
		}
		if !p.entry.answer(receipt, nil) && allows {
			w.lost[p.seq] = "the gateway stopped waiting for the journal and refused; nothing was let through"
		}
	}
}

// refuse has the journal refuse because a write failed and was undone.
func (w *writer) refuse(err error) {
	j := w.journal
	if w.refusal.err == nil {
		w.refusal.since = j.opts.Now()
		j.alarm(AlarmRefusing, err.Error())
	}
	w.refusal.err = err
	w.refusal.retry = time.Now().Add(j.opts.RetryEvery)
	refusing := fmt.Errorf("%w: %w", ErrRefusing, err)
	j.refused.Store(&refusing)
}

// turnAway tells batch that the journal refuses, and notes the operations whose outcome is lost by that.
func (w *writer) turnAway(batch []*entry) error {
	err := *w.journal.refused.Load()
	w.refusal.count += len(batch)
	for _, e := range batch {
		if e.settles != 0 {
			w.lost[e.settles] = "the outcome could not be recorded: the journal could not write"
		}
	}
	w.answerAll(batch, err)
	return err
}

func (w *writer) recovered() {
	if w.refusal.err == nil {
		return
	}
	w.journal.alarm(AlarmRefused, fmt.Sprintf("the journal writes again; it refused %d records since %s", w.refusal.count, gate.AppendTime(nil, w.refusal.since)))
	w.refusal = refusal{}
	w.journal.refused.Store(nil)
}

func (w *writer) answerAll(batch []*entry, err error) {
	for _, e := range batch {
		e.answer(gate.Receipt{}, err)
	}
}

func sortedKeys(m map[uint64]string) []uint64 { return slices.Sorted(maps.Keys(m)) }
