package evidence

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// Why a journal takes no record. Whoever gets one of these refuses access.
var (
	// ErrRefusing: the last write failed and was undone. The journal tries again, so this can pass.
	ErrRefusing = errors.New("the journal cannot write")
	// ErrFailed: nobody knows what is on the disk. Only a restart, which reads the disk again, helps.
	ErrFailed = errors.New("the journal has failed and takes nothing more until a restart")
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("the journal is closed")
	// ErrLocked: another process has the data directory.
	ErrLocked = errors.New("the data directory is in use")
)

// Options says where a journal is and how it behaves. Dir and Node are required.
type Options struct {
	Dir  string // <data>/journal; its parent also holds keys and the lock
	Node string // recorded in every line; names the key that is made at first start

	Now             func() time.Time
	FS              datafile.FS
	SegmentBytes    int64         // a segment that would grow over this is followed by a new one; default 64 MiB
	CheckpointEvery time.Duration // how often growth is signed; default 5 s
	RetryEvery      time.Duration // after a failed write, how soon the next is tried; default 100 ms
	QueueSize       int           // records that wait for the disk at most; default 8192
	Prepare         int64         // how many zeros are written ahead of the records; default 1 MiB, less than 0 for none

	Log *slog.Logger
	// Alarm is told of each alarm; most also become a record. It must not wait for the journal.
	Alarm func(kind, detail string)
}

// The kinds of alarm that a journal raises.
const (
	AlarmTornTail         = "torn_tail"
	AlarmMissing          = "journal_missing" // the key was here before, and no journal
	AlarmClock            = "clock_stepped_back"
	AlarmRefusing         = "journal_refusing"  // not recorded: the journal cannot write
	AlarmRefused          = "journal_refused"   // when it writes again: how many it refused, since when, why
	AlarmFailed           = "journal_failed"    // not recorded
	AlarmCheckpointFailed = "checkpoint_failed" // not recorded
)

// Alarms of the gateway that explain why a decision can be missing; see Completeness.Gaps.
const (
	AlarmPanic = "panic"         // a part of the gateway failed, and what it was doing was refused
	AlarmDrain = "drain_expired" // the gateway stopped while operations were under way
)

// SharedApprovals is the value of the member `approvals` of gateway.started if several gateways share the store of requests for
// approval. Each one's journal then has only the changes that it made itself.
const SharedApprovals = "shared"

// Journal is an append-only, chained, signed file of records. It implements [gate.Recorder].
type Journal struct {
	opts Options
	keys *keyRing
	lock *os.File

	queue   queue
	failed  atomic.Pointer[error] // ErrFailed with its cause
	refused atomic.Pointer[error] // ErrRefusing with its cause; nil while writing works
	durable atomic.Uint64
	recent  recent

	mu      sync.Mutex // guards what follows
	chain   chain
	open    map[uint64]string // decisions that allow and have no outcome: seq -> operation id
	pending []snapshot        // ends of segments, to be signed
	changed chan struct{}     // closed at the next change; nil while nobody waits

	writer      writer
	signing     signing
	wakeSigner  chan struct{}
	stop        chan struct{}
	background  sync.WaitGroup
	closing     sync.Once
	closeResult error
}

// chain is where the journal ends.
type chain struct {
	seq  uint64
	hash [sha256.Size]byte // of the last line
	time time.Time
	tree tree
}

// Open opens the journal in opts.Dir, or makes one, and repairs what a crash leaves: it cuts off a torn last line, and writes an
// operation.unknown for each allowed operation without an outcome. Damage that a crash cannot explain is an error that names the
// place, and changes nothing. Until Close no other process can open the journal.
func Open(ctx context.Context, opts Options) (*Journal, error) {
	opts.Now = defaultNow(opts.Now)
	opts.FS = cmp.Or[datafile.FS](opts.FS, datafile.Disk{})
	opts.SegmentBytes = cmp.Or(opts.SegmentBytes, 64<<20)
	opts.CheckpointEvery = cmp.Or(opts.CheckpointEvery, 5*time.Second)
	opts.RetryEvery = cmp.Or(opts.RetryEvery, 100*time.Millisecond)
	opts.QueueSize = cmp.Or(opts.QueueSize, 8192)
	opts.Prepare = cmp.Or(opts.Prepare, prepareAhead)
	opts.Log = cmp.Or(opts.Log, slog.New(slog.DiscardHandler))
	if opts.Alarm == nil {
		opts.Alarm = func(string, string) {}
	}
	opts.Dir = filepath.Clean(opts.Dir)
	if err := checkNode(opts.Node); err != nil {
		return nil, err
	}
	data := filepath.Dir(opts.Dir)
	if err := makeDirectories(opts.FS, data, opts.Dir); err != nil {
		return nil, err
	}
	lock, err := lockData(data)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		opts:       opts,
		lock:       lock,
		open:       map[uint64]string{},
		wakeSigner: make(chan struct{}, 1),
		stop:       make(chan struct{}),
	}
	j.queue.init(opts.QueueSize)
	j.recent.most = recentBytes
	if err := j.start(ctx, data); err != nil {
		return nil, errors.Join(err, j.release())
	}
	return j, nil
}

// makeDirectories makes the data directory, durably, and the journal's in it.
func makeDirectories(fsys datafile.FS, data, dir string) error {
	_, err := os.Stat(data)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the journal's directory: %w", err)
	}
	if err := datafile.CheckDirectory(dir); err != nil {
		return fmt.Errorf("open the journal's directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("keep the journal's directory to its owner: %w", err)
	}
	if !isNew {
		return nil
	}
	if err := fsys.SyncDir(filepath.Dir(data)); err != nil {
		return fmt.Errorf("make the data directory durable: %w", err)
	}
	return nil
}

func defaultNow(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}

func (j *Journal) start(ctx context.Context, data string) error {
	fresh, err := isFresh(j.opts.Dir)
	if err != nil {
		return err
	}
	_, err = os.Lstat(PublicKeyFile(data))
	missing := fresh && err == nil
	if j.keys, err = loadKeys(j.opts.FS, data, j.opts.Node, fresh); err != nil {
		return err
	}
	found, err := recoverJournal(ctx, j.opts, j.keys, fresh)
	if err != nil {
		return err
	}
	j.chain, j.open = found.chain, found.open
	j.durable.Store(found.chain.seq)
	j.writer.journal, j.writer.lost = j, map[uint64]string{}
	j.signing.file, j.signing.offset, j.signing.size = found.notes, found.notesSize, found.last.Size
	if err := j.writer.room.init(j, found); err != nil {
		return err
	}
	if j.signing.held, err = hold(checkpointsFile(j.opts.Dir)); err != nil {
		return err
	}
	if err := j.settle(found, missing); err != nil {
		return err
	}
	if err := j.Checkpoint(); err != nil {
		return err
	}
	j.background.Go(guard.Loop(context.Background(), "the journal's writer", j.writer.run))
	j.background.Go(guard.Loop(context.Background(), "the journal's signer", j.runSigner))
	j.background.Go(guard.Loop(context.Background(), "the journal's preparer", j.writer.room.run))
	j.writer.room.nudge()
	return nil
}

// settle records what the start found. It runs before anything else can be appended, so all that precedes a gateway.started record
// is settled.
func (j *Journal) settle(found *recovered, missing bool) error {
	var batch []*entry
	if missing {
		const detail = "the evidence key was here before, and no journal: a new one begins; if there was one, it has been removed"
		j.alarm(AlarmMissing, detail)
		batch = append(batch, own(j.opts.Node, gate.Alarm, "", gate.Object{
			{Name: "detail", Value: detail}, {Name: "key", Value: j.keys.verifier}, {Name: "kind", Value: AlarmMissing},
		}))
	}
	if found.torn > 0 {
		j.alarm(AlarmTornTail, fmt.Sprintf("cut %d bytes of an unfinished write off the end of the journal", found.torn))
		batch = append(batch, own(j.opts.Node, gate.Alarm, "", gate.Object{
			{Name: "bytes", Value: found.torn}, {Name: "kind", Value: AlarmTornTail}, {Name: "sha256", Value: found.tornHash},
		}))
	}
	batch = append(batch, j.unknown(sortedKeys(j.open), "the gateway stopped before the outcome was recorded")...)
	if len(batch) == 0 {
		return nil
	}
	if err := j.writer.commit(batch); err != nil {
		return fmt.Errorf("record what the last run left: %w", err)
	}
	return nil
}

// Append writes r and returns when it is durable.
//
// After an error the caller must refuse. The record is then not in the journal, except in two cases: after ErrFailed the next start
// may find it, and if ctx ended early it may be written all the same. If such a record is a decision that allows, the journal adds an
// operation.unknown.
func (j *Journal) Append(ctx context.Context, r *gate.Record) (gate.Receipt, error) {
	e, err := encode(j.opts.Node, r)
	if err != nil {
		return gate.Receipt{}, err
	}
	e.waits = true
	if err := j.put(ctx, e); err != nil {
		e.free()
		return gate.Receipt{}, err
	}
	select {
	case <-e.done:
	case <-ctx.Done():
		if e.state.CompareAndSwap(waiting, abandoned) {
			return gate.Receipt{}, fmt.Errorf("wait for the journal: %w", ctx.Err())
		}
		<-e.done
	}
	receipt, err := e.receipt, e.err
	e.free()
	return receipt, err
}

// Begin queues r; durable waits as Append does, for as long as the disk takes. r goes to the disk with the next Append, or when
// durable is called.
func (j *Journal) Begin(ctx context.Context, r *gate.Record) (durable func() (gate.Receipt, error)) {
	e, err := encode(j.opts.Node, r)
	if err != nil {
		return func() (gate.Receipt, error) { return gate.Receipt{}, err }
	}
	e.waits, e.patient = true, true
	if err := j.put(ctx, e); err != nil {
		e.free()
		return func() (gate.Receipt, error) { return gate.Receipt{}, err }
	}
	return func() (gate.Receipt, error) {
		if len(e.done) == 0 {
			j.queue.nudge()
		}
		<-e.done
		receipt, err := e.receipt, e.err
		e.free()
		return receipt, err
	}
}

// Post queues r in order with Append and does not wait for the disk. It waits while the queue is full; ctx matters only then. An
// error says that the journal takes nothing at the moment. If r cannot be written later, the next AlarmRefused record counts it.
func (j *Journal) Post(ctx context.Context, r *gate.Record) error {
	e, err := encode(j.opts.Node, r)
	if err != nil {
		return err
	}
	if err := j.put(ctx, e); err != nil {
		e.free()
		return err
	}
	return nil
}

func (j *Journal) put(ctx context.Context, e *entry) error {
	if err := j.failed.Load(); err != nil {
		return *err
	}
	return j.queue.put(ctx, e)
}

// Started records gateway.started. Call it once, before the first operation.
func (j *Journal) Started(ctx context.Context, body gate.Object) error {
	_, err := j.Append(ctx, &gate.Record{Type: gate.GatewayStarted, Body: body})
	return err
}

// StartHeartbeat posts a heartbeat record every interval, busy or idle, until Close: a longer silence in the journal is a gap. An
// interval of 0 is for no heartbeat.
func (j *Journal) StartHeartbeat(interval time.Duration, body func() gate.Object) {
	if interval <= 0 {
		return
	}
	j.background.Go(guard.Loop(context.Background(), "the heartbeat", func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-j.stop:
				return
			case <-tick.C:
				if err := j.Post(context.Background(), &gate.Record{Type: gate.Heartbeat, Body: body()}); err != nil {
					j.opts.Log.Error("heartbeat was not recorded", "error", err)
				}
			}
		}
	}))
}

// Close writes the records that are queued, an operation.unknown for each operation without an outcome, gateway.stopped and the last
// checkpoint, and unlocks the data directory. New records are refused.
func (j *Journal) Close() error {
	j.closing.Do(func() {
		close(j.stop)
		j.queue.close()
		j.background.Wait()
		j.closeResult = errors.Join(j.finish(), j.release())
		j.announce()
	})
	return j.closeResult
}

func (j *Journal) finish() error {
	if err := j.failed.Load(); err != nil {
		return *err
	}
	left := sortedKeys(j.open)
	lost := func(seq uint64) bool { _, lost := j.writer.lost[seq]; return lost } // commit adds these itself
	batch := j.unknown(slices.DeleteFunc(slices.Clone(left), lost), "the gateway stopped before the outcome was recorded")
	batch = append(batch, own(j.opts.Node, gate.GatewayStopped, "", gate.Object{{Name: "open", Value: len(left)}}))
	j.writer.refusal.retry = time.Time{} // the last chance
	defer j.writer.room.dropNext()
	if err := j.writer.commit(batch); err != nil {
		return fmt.Errorf("record the stop: %w", err)
	}
	return errors.Join(j.Checkpoint(), j.writer.cut(true))
}

func (j *Journal) release() error {
	errs := []error{j.writer.room.close()}
	if j.signing.file != nil {
		errs = append(errs, j.signing.file.Close())
	}
	return errors.Join(append(errs, j.lock.Close())...)
}

// Err says why the journal takes nothing at the moment; nil if it does. It is for a readiness check.
func (j *Journal) Err() error {
	if err := j.failed.Load(); err != nil {
		return *err
	}
	if err := j.refused.Load(); err != nil {
		return *err
	}
	return nil
}

// Dir is where the journal is.
func (j *Journal) Dir() string { return j.opts.Dir }

// Durable returns the number of the last record that is on the disk for good. Later ones in the files may still be undone.
func (j *Journal) Durable() uint64 { return j.durable.Load() }

// Appended counts the writes that had to make the file longer, because nothing was prepared for them.
func (j *Journal) Appended() uint64 { return j.writer.room.appended.Load() }

// Reader returns a reader of what is on the disk for good, which begins with record from. It reads what was written last from memory.
func (j *Journal) Reader(from uint64) *Reader {
	r := NewReader(j.opts.Dir, from, j.Durable)
	r.recent = &j.recent
	return r
}

// OpenOperations counts the allowed operations that have no outcome yet.
func (j *Journal) OpenOperations() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.open)
}

// DigestKey keys the digests of operations.
func (j *Journal) DigestKey() []byte { return j.keys.digest }

// RedactKey keys the tokens that stand for redacted values.
func (j *Journal) RedactKey() []byte { return j.keys.redact }

// PublicKey is the verifier key (golang.org/x/mod/sumdb/note) of the checkpoints.
func (j *Journal) PublicKey() string { return j.keys.verifier }

// Changed returns a channel that is closed when there is more to read (a durable record, a checkpoint) or the journal is closed.
// Call it before reading, then read, then wait.
func (j *Journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.changed == nil {
		j.changed = make(chan struct{})
	}
	return j.changed
}

func (j *Journal) announce() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

func (j *Journal) alarm(kind, detail string) {
	j.opts.Log.Error(detail, "alarm", kind)
	j.opts.Alarm(kind, detail)
}

// fail stops the journal for good.
func (j *Journal) fail(cause error) error {
	err := fmt.Errorf("%w: %w", ErrFailed, cause)
	if j.failed.CompareAndSwap(nil, &err) {
		j.alarm(AlarmFailed, err.Error())
	}
	return *j.failed.Load()
}

func (c *chain) hashText() string { return hex.EncodeToString(c.hash[:]) }
