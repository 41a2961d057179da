// Package otlp sends the journal to an OpenTelemetry collector, over OTLP/gRPC.
//
// # What arrives
//
// Auditors work with traces, so an operation that has ended is one span, made of its operation.finished record and the
// decision that this names. If the agent sent a traceparent, the span is in the agent's own trace. Child spans show how long policy,
// people and the target took. Every other record is a log record whose event name is its type; a decision's has the ids of the span
// that it will belong to. Each checkpoint is a log record "checkpoint" with the signed note, against which the journal can be
// verified later (evidence verify --checkpoint).
//
// Each record arrives with its number and its hash (countersign.seq, countersign.hash), so that whoever has the data
// can see a gap. Child spans have no number, and a checkpoint has that of the last record that it covers. Attributes follow the
// semantic conventions if there is one, and have the record's own members as countersign.*. All attribute names are this program's:
// names that others chose (a path that is redacted) are in values. A log record of an operation has its trace id.
//
// # Nothing is lost
//
// The journal is the queue. The courier reads it by a cursor, and moves the cursor, durably, only when the collector has
// accepted what precedes it. So a collector that is down costs only lag. (A batch processor of the OpenTelemetry SDK drops records
// when its queue is full, so none is used here.) What happens after each answer:
//
//   - Accepted: the cursor moves, and is on the disk within a second. If the answer is lost, or the gateway dies before that, the
//     records are sent again. They are identical then, because the ids of spans and traces come from the records.
//   - Accepted in part: the protocol forbids sending any of it again automatically, and does not say which records were rejected.
//     Their range, their number and the collector's words go onto the list of rejections before the cursor moves, and an alarm names
//     the range.
//   - Refused for a reason that can pass (unavailable, overloaded, too slow), or for one that is about the collector and not about
//     a record (no permission, no such service): tried again for ever, with growing pauses or after the pause that the collector
//     asks for.
//   - Refused because of a record: the batch is halved until that record is found. It is listed as rejected only if the collector
//     accepts others; a collector that refuses everything has a fault of its own, and is tried again. A record that goes alone (the
//     last one of a quiet day) is tried three times. It is then listed if the collector has accepted something since a record was
//     last listed in this way.
//
// What is on the list (otlp.rejected in the data directory, read by [Rejected]) is still in the journal, and is sent again on
// command ([Resend]), once the collector has been mended. The list has at most 1,000 entries; beyond that the nearest two become
// one, with what lies between them. The gateway and the command change it under a lock, durably and in one step.
//
// # What it costs
//
// A decision waits for nothing of this, and shares a processor with it. So:
//
//   - What was written last comes from the journal's memory (8 MiB, kept only if there is a courier), as the writer knew it: nothing
//     of it is read or parsed again. Older records come from the files. [evidence.Reader] alone decides which, and the bytes that are
//     sent are the same.
//   - Records become protobuf in one pass over their lines, without objects or messages between. The three records of an operation
//     took 85 µs when they were parsed, converted and marshalled; now some 5.5, with one allocation (BenchmarkEncodeOperation), on
//     2 shared cores on which a body of 500 bytes is checked in 1.2 µs. Reading them from memory adds some 1.5, and sending some 4
//     without TLS (BenchmarkCourier). A span takes the attributes of its decision as bytes, and each record takes those that the last
//     one of its type has at the same place, such as digests and who asks (7.7 µs without). What also paid: a walk that trusts what
//     was checked before and only looks for ends (a quarter, and once more a quarter when it had code of its own), doubles of up to 15
//     digits that nobody checks by writing them again, items and hashes that come out of room for many (half of all allocations), and
//     buffers of requests that nobody clears (2 µs).
//   - The courier works in slices of 200 µs, with rests that are three times as long while operations are under way. Rests are
//     sleeps: a goroutine that only yields keeps Go from looking at the network for up to 10 ms. While operations are under way
//     it reads five records for each four that are written, so catching up after an outage takes no more of the machine, and of
//     a collector that shares it, than a quarter beyond what these operations take anyway; the rest is caught up when it is quiet.
//   - Requests have 128 records, some 200 KB. What a full one leaves goes with what comes next. With 512 records an operation took about
//     1 µs less, twice the memory was allocated, and the collector would work in longer bursts. The cursor is saved once a second, because
//     its syncs are on the disk of the journal's.
//   - It shares the gateway's scheduler threads. At 1,000 requests a second p99 was 1.3 to 1.6 times that without a collector, by the
//     medians of turns that follow each other, in most runs on 2 noisy cores. With a locked thread of its own it was 1.2 to 1.9 times;
//     with the least priority (SCHED_IDLE) for that thread 0.9 to 1.8; with a nice value of 15 to 19 for it 0.9 to 1.1, and 0.82 of
//     the throughput in the place of 0.84. It is not done, because the gateway may have a single Go processor: a thread that holds it
//     and is not run by the system would hold up every decision, and nobody has measured that on a machine that others keep busy. As a
//     process of its own, with that nice value and one Go processor, it was 0.9 to 1.3 times, and took 165 µs a request in the place
//     of 142, because it reads and checks every record in the files again. Requests of 32 records took 163 µs and gained nothing that
//     the noise does not hide, nor did a cursor that is saved every 30 s.
//
// # Trust
//
// The collector is trusted to keep what it accepted. It cannot alter the journal, and cannot slow down an operation:
// nothing waits for the courier.
package otlp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/guard"
)

// Source is a journal to read from.
type Source interface {
	// Dir is where its files are.
	Dir() string
	// Durable is the last record that may be read.
	Durable() uint64
	// Reader returns a reader of these records, which begins with one of them.
	Reader(from uint64) *evidence.Reader
	// Changed returns a channel that is closed when there is more to read.
	Changed() <-chan struct{}
}

// Options says where to send and how. Endpoint, Cursor and Node are required.
type Options struct {
	Endpoint string // host:port of an OTLP/gRPC receiver
	TLS      TLS
	Headers  map[string]string // request header: the file that holds its value
	Cursor   string            // file of how much the collector has accepted; <data>/otlp.cursor. The list of rejections lies beside it
	Node     string            // resource attribute service.instance.id
	Version  string            // resource attribute service.version
	Kinds    []Kind            // of operations, for attributes by the semantic conventions

	BatchRecords int           // records in one request at most; default 128
	BatchBytes   int           // size of one request at most, unless it has one record; default 3.5 MiB, below gRPC's limit of 4
	SaveEvery    time.Duration // how long the cursor on the disk may be behind what was accepted while records come; default 1 s
	Flush        time.Duration // how long a record may wait for others to go with it; default 200 ms
	Timeout      time.Duration // of one request; default 10 s
	MinBackoff   time.Duration // first pause after a failure; default 100 ms
	MaxBackoff   time.Duration // longest pause; default 30 s
	AlarmAfter   time.Duration // how long sending may fail before that is an alarm; default 30 s

	Now func() time.Time
	Log *slog.Logger
	// Alarm is told of records that the collector rejected and of a collector that cannot be reached. It must not wait
	// for the journal. A rejected alarm record raises no alarm, because that would go on for ever.
	Alarm func(kind, detail string)
}

// The kinds of alarm that a courier raises.
const (
	AlarmRejected = "otlp_rejected" // the collector will not have some records
	AlarmFailing  = "otlp_failing"  // nothing has been accepted for a while
	AlarmJournal  = "otlp_journal"  // the journal cannot be read
)

// Stats says how the courier fares.
type Stats struct {
	Sent       uint64        // records and checkpoints accepted since the start
	Rejected   uint64        // records and checkpoints that the collector rejected since the start
	Retries    uint64        // requests that were made again
	LagRecords uint64        // durable records that the collector has not accepted
	LagTime    time.Duration // age of the oldest of them
	LastError  string        // empty when the last request was accepted
}

// Courier sends a journal to a collector until it is stopped.
type Courier struct {
	opts   Options
	source Source
	*client

	// Of the goroutine that sends:
	cursor  cursor
	reader  *evidence.Reader
	waiting []*item // read and not yet accepted, in order
	marks   marks
	joiner  *joiner
	pace    pace
	saved   cursor    // as it is on the disk
	saving  time.Time // when it was last saved
	hurry   bool      // it is to be saved before anything more is sent
	taken   bool      // the collector has accepted something since that was last reported
	unsaved error     // why the last save of the cursor failed; nil if it did not
	looked  time.Time // for checkpoints
	failing time.Time // since when nothing is accepted; zero while something is
	alarmed bool
	vouched bool // the collector has accepted something since a record that it was sent alone was last listed as rejected

	sent, rejected, retries, accepted atomic.Uint64
	oldest                            atomic.Int64 // UnixNano of the oldest record that waits; 0 when none does
	lastError                         atomic.Pointer[string]

	stopping chan struct{}
	cancel   context.CancelFunc
	done     chan struct{}
	once     sync.Once
}

// Start begins to send source from where the cursor stands. It does not wait for the collector, which may be down. A cursor that does
// not fit the journal is an error.
func Start(source Source, opts Options) (*Courier, error) {
	opts = withDefaults(opts)
	c := &Courier{opts: opts, source: source, marks: marks{open: source.Reader}, stopping: make(chan struct{}), done: make(chan struct{})}
	cur, err := loadCursor(opts.Cursor)
	if err != nil {
		return nil, err
	}
	if err := cur.fits(source); err != nil {
		return nil, fmt.Errorf("the cursor %s does not fit the journal in %s: %w; remove it to send the whole journal again", opts.Cursor, source.Dir(), err)
	}
	c.cursor, c.saved = cur, cur
	c.pace = pace{durable: source.Durable, least: leastRate, seen: source.Durable()}
	c.accepted.Store(cur.both())
	c.reader = source.Reader(cur.readFrom())
	if c.client, err = newClient(opts); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go guard.Func("the courier", func() {
		defer close(c.done)
		guard.Loop(ctx, "the courier", func() { c.run(ctx) })()
	})()
	return c, nil
}

func withDefaults(o Options) Options {
	o.BatchRecords = cmp.Or(o.BatchRecords, 128)
	o.BatchBytes = cmp.Or(o.BatchBytes, 7<<19)
	o.Flush = cmp.Or(o.Flush, 200*time.Millisecond)
	o.SaveEvery = cmp.Or(o.SaveEvery, time.Second)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	o.MinBackoff = cmp.Or(o.MinBackoff, 100*time.Millisecond)
	o.MaxBackoff = cmp.Or(o.MaxBackoff, 30*time.Second)
	o.AlarmAfter = cmp.Or(o.AlarmAfter, 30*time.Second)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Alarm == nil {
		o.Alarm = func(string, string) {}
	}
	return o
}

// Stop sends what is left, until ctx ends. What was not accepted by then is sent after the next start. Close the journal first, so
// that its last record is sent too.
func (c *Courier) Stop(ctx context.Context) error {
	c.once.Do(func() { close(c.stopping) })
	select {
	case <-c.done:
	case <-ctx.Done():
	}
	c.cancel()
	<-c.done
	c.reader.Close()
	c.marks.close()
	err := c.conn.Close()
	if lag := c.Stats().LagRecords; lag > 0 {
		return fmt.Errorf("%d records wait for the collector until the next start: %s", lag, c.Stats().LastError)
	}
	return err
}

// Stats says how the courier fares at the moment.
func (c *Courier) Stats() Stats {
	s := Stats{Sent: c.sent.Load(), Rejected: c.rejected.Load(), Retries: c.retries.Load()}
	if accepted, durable := c.accepted.Load(), c.source.Durable(); durable > accepted {
		s.LagRecords = durable - accepted
		if oldest := c.oldest.Load(); oldest != 0 {
			s.LagTime = max(0, c.opts.Now().Sub(time.Unix(0, oldest)))
		}
	}
	if text := c.lastError.Load(); text != nil {
		s.LastError = *text
	}
	return s
}

func (c *Courier) run(ctx context.Context) {
	c.restartReader()               // run may be here again after a panic
	defer func() { _ = c.save() }() // of what was accepted, also when there is no time for more
	for ctx.Err() == nil {
		changed := c.source.Changed()
		sent, err := c.round(ctx)
		switch {
		case err != nil:
			c.failed(err)
			c.pause(ctx, c.opts.MaxBackoff)
		case sent > 0 && c.isStopping():
		case sent >= c.opts.BatchRecords && (c.left() == 0 || c.left() >= sent): // checkpoints may be due, or the next full batch
		case c.isStopping():
			return
		default:
			c.await(ctx, changed)
		}
	}
}

// round sends one batch and says how many it had. An error is one of this machine, or says that the collector refuses everything.
func (c *Courier) round(ctx context.Context) (int, error) {
	if err := c.fill(ctx); err != nil {
		c.opts.Alarm(AlarmJournal, err.Error())
		return 0, err
	}
	if c.unsaved != nil { // send nothing more before the cursor is saved: a restart would send it again
		if err := c.save(); err != nil {
			return 0, err
		}
		c.settled()
	}
	waiting := len(c.waiting)
	if waiting == 0 {
		return 0, nil
	}
	if err := c.deliver(ctx); err != nil && ctx.Err() == nil {
		return 0, err
	}
	return waiting, nil
}

// fill reads from the journal until a batch is full or there is nothing more.
func (c *Courier) fill(ctx context.Context) error {
	size := 0
	for _, it := range c.waiting {
		size += len(it.encoded)
	}
	c.joiner.room(len(c.waiting) == 0)
	for len(c.waiting) < c.opts.BatchRecords && size < c.opts.BatchBytes {
		e, err := c.reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			err = fmt.Errorf("read the journal at record %d: %w", c.lastRecord()+1, err)
			c.restartReader() // the file may be readable next time
			return err
		}
		it := c.joiner.item(&e)
		c.pace.step(ctx)
		if e.Seq <= c.cursor.both() {
			continue // it was accepted, and read only because a span may need it
		}
		c.waiting = append(c.waiting, it)
		size += len(it.encoded)
		if len(c.waiting) == 1 {
			c.oldest.Store(e.Time.UnixNano())
		}
	}
	if full := len(c.waiting) >= c.opts.BatchRecords; full && time.Since(c.looked) < lookEvery {
		return nil
	}
	c.looked = time.Now()
	return c.fillCheckpoints()
}

// lookEvery is how often it looks for checkpoints while there are always more records.
const lookEvery = time.Second

func (c *Courier) restartReader() {
	c.reader.Close()
	c.marks.close()
	c.waiting = nil
	c.joiner = newJoiner(c.source.Dir(), kindsOf(c.opts.Kinds))
	c.reader = c.source.Reader(c.cursor.readFrom())
}

// fillCheckpoints adds the checkpoints that were not sent yet. They go in requests of their own, so a batch that is full of records has
// room for them.
func (c *Courier) fillCheckpoints() error {
	from, room := c.cursor.Checkpoints, c.opts.BatchRecords
	for _, it := range c.waiting {
		if it.seq == 0 {
			from, room = it.checkpoint, room-1
		}
	}
	notes, err := evidence.CheckpointNotes(c.source.Dir(), from)
	if err != nil {
		return err
	}
	read := c.lastRecord()
	for _, note := range notes[:min(len(notes), max(0, room))] {
		if max(1, covers(note)) > read {
			return nil // it goes after the records that it covers
		}
		last, err := c.marks.of(note)
		if err != nil { // without its time it is still worth sending
			c.opts.Log.Warn("the record that a checkpoint covers last cannot be read, so that the collector gets it without its time", "error", err)
		}
		c.waiting = append(c.waiting, checkpointItem(note, last, c.opts.Now()))
	}
	return nil
}

func (c *Courier) isStopping() bool {
	select {
	case <-c.stopping:
		return true
	default:
		return false
	}
}

// tick is how often await looks whether a batch is full. It is told of the first record only: at full load there is another one every
// 100 µs.
const tick = 20 * time.Millisecond

// left is how many records the collector has not accepted.
func (c *Courier) left() int {
	return int(c.source.Durable() - c.accepted.Load())
}

// await waits until the journal has more, unless something is left, and then until a batch is full or Flush is over. While it waits it
// saves the cursor.
func (c *Courier) await(ctx context.Context, changed <-chan struct{}) {
	var save <-chan time.Time
	if c.cursor != c.saved {
		timer := time.NewTimer(c.opts.SaveEvery - time.Since(c.saving))
		defer timer.Stop()
		save = timer.C
	}
	if c.left() > 0 && len(c.waiting) == 0 {
		changed = always
	}
	select {
	case <-ctx.Done():
		return
	case <-c.stopping:
		return
	case <-save:
		if err := c.save(); err != nil {
			c.failed(err)
		}
		return
	case <-changed:
	}
	if c.oldest.Load() == 0 && c.left() > 0 {
		c.oldest.Store(c.opts.Now().UnixNano())
	}
	for until := time.Now().Add(c.opts.Flush); c.left() < c.opts.BatchRecords; {
		left := time.Until(until)
		if left <= 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-c.stopping:
			return
		case <-time.After(min(left, tick)):
		}
	}
}

// always is a channel that is closed.
var always = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

// pause waits for d, or until ctx ends. It waits even while the courier stops; Stop's ctx bounds that.
func (c *Courier) pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// failed notes that something was not accepted, and raises an alarm when that lasts.
func (c *Courier) failed(err error) {
	text := shortened(err.Error())
	c.lastError.Store(&text)
	now := c.opts.Now()
	if c.failing.IsZero() {
		c.failing = now
		c.opts.Log.Warn("the collector did not accept records; they stay in the journal and are sent again", "error", text)
	}
	if !c.alarmed && now.Sub(c.failing) >= c.opts.AlarmAfter {
		c.alarmed = true
		c.opts.Alarm(AlarmFailing, fmt.Sprintf("nothing was accepted for %s: %s", now.Sub(c.failing).Round(time.Second), text))
	}
}

func (c *Courier) worked() {
	if !c.failing.IsZero() {
		c.opts.Log.Info("the collector accepts records again", "after", c.opts.Now().Sub(c.failing))
	}
	c.failing, c.alarmed = time.Time{}, false
	c.lastError.Store(nil)
}

var errRefusesAll = errors.New("the collector refuses every record")
