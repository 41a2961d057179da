package evidence

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// entry is one record on its way to the disk.
type entry struct {
	head []byte // its line up to the value of prev
	body int    // how long the body in it is
	kind string
	op   string
	outcome

	waits   bool         // an Append waits for it, or a Begin's caller will
	patient bool         // it is a Begin's: it does not wake the writer
	state   atomic.Int32 // waiting, then answered or abandoned
	done    chan struct{}
	receipt gate.Receipt
	err     error
}

const (
	waiting int32 = iota
	answered
	abandoned // the caller left: it has refused by now
)

var entries = sync.Pool{New: func() any { return &entry{done: make(chan struct{}, 1)} }}

// encode makes an entry of r. It runs in the caller's goroutine; the writer only adds what depends on the record's place.
//
// It refuses a body that is not canonical.
func encode(node string, r *gate.Record) (*entry, error) {
	if !isType(r.Type) {
		return nil, fmt.Errorf("record %q: not a type of record", r.Type)
	}
	e := entries.Get().(*entry) //nolint:forcetypeassert // the pool holds nothing else
	e.kind, e.op, e.waits, e.patient, e.err, e.receipt = r.Type, r.Op, false, false, nil, gate.Receipt{}
	e.state.Store(waiting)
	b := append(e.head[:0], `{"body":`...)
	from := len(b)
	var err error
	if r.Body == nil {
		b = append(b, "{}"...)
	} else if b, err = r.Body.AppendJSON(b); err != nil {
		e.free()
		return nil, fmt.Errorf("record %s: write the body: %w", r.Type, err)
	}
	if len(b)-from > gate.MaxRecorded {
		if b, err = shorten(b, from); err != nil {
			e.free()
			return nil, fmt.Errorf("record %s: the body is not canonical JSON: %w", r.Type, err)
		}
	}
	body := b[from:]
	if len(body) > maxBody {
		e.free()
		return nil, fmt.Errorf("record %s: the body has %d bytes, and %d is the limit", r.Type, len(body), maxBody)
	}
	if e.outcome, err = outcomeIn(r, body); err != nil {
		e.free()
		return nil, fmt.Errorf("record %s: the body is not canonical JSON: %w", r.Type, err)
	}
	b = append(b, `,"node":`...)
	b = gate.AppendText(b, node)
	b = append(b, `,"op":`...)
	if len(r.Op) > 256 {
		e.free()
		return nil, fmt.Errorf("record %s: the operation id has %d bytes, and 256 is the limit", r.Type, len(r.Op))
	}
	if b, err = gate.AppendString(b, r.Op); err != nil {
		e.free()
		return nil, fmt.Errorf("record %s: operation id: %w", r.Type, err)
	}
	e.head, e.body = append(b, `,"prev":"`...), len(body)
	return e, nil
}

// own is encode for the records that the journal writes itself, whose bodies are known to be good.
func own(node, kind, op string, body gate.Object) *entry {
	e, err := encode(node, &gate.Record{Type: kind, Op: op, Body: body})
	if err != nil {
		e, _ = encode(node, &gate.Record{Type: gate.Alarm, Body: gate.Object{{Name: "kind", Value: "internal"}}})
	}
	return e
}

func (e *entry) free() {
	if cap(e.head) <= 16<<10 {
		entries.Put(e)
	}
}

// answer gives the caller its result, and reports false if the caller has left. The entry is not the writer's after that.
func (e *entry) answer(r gate.Receipt, err error) bool {
	if !e.waits {
		e.free()
		return true
	}
	e.receipt, e.err = r, err
	if !e.state.CompareAndSwap(waiting, answered) {
		return false
	}
	e.done <- struct{}{}
	return true
}

// queue holds entries in order. The writer takes all of them at once.
type queue struct {
	mu     sync.Mutex
	list   []*entry
	spare  []*entry // the list that the writer had last, to be used again
	size   int
	bytes  int
	waits  int // entries of list that an Append waits for
	want   int // how many of these wake the writer while it lingers; 0 else
	closed bool
	wake   chan struct{} // to the writer; capacity 1
	space  chan struct{} // closed when the writer has taken the list; nil while nobody waits for that
	later  *time.Timer   // wakes the writer for entries that nobody waits for
	due    bool          // later is running
	bound  *time.Timer   // of linger
}

// postDelay is how long an entry that nobody waits for may wait for an Append, to share its sync. A sync of its own would make the
// next Append wait for two: with 16 connections that halved what the gateway decides.
const postDelay = 20 * time.Millisecond

// maxBatch bounds how many bytes wait, and so how many one write and one sync take.
const maxBatch = 8 << 20

func (q *queue) init(size int) {
	q.size = size
	q.wake = make(chan struct{}, 1)
	q.later = time.AfterFunc(time.Hour, guard.Func("the journal's queue", q.nudge))
	q.later.Stop()
	q.bound = time.NewTimer(time.Hour)
	q.bound.Stop()
}

func (q *queue) put(ctx context.Context, e *entry) error {
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return ErrClosed
		}
		if len(q.list) < q.size && q.bytes < maxBatch {
			q.list = append(q.list, e)
			q.bytes += len(e.head)
			hurries := e.waits && !e.patient
			if hurries {
				q.waits++
			}
			urgent := hurries && q.waits >= q.want || q.full()
			if !urgent && !q.due {
				q.due = true
				q.later.Reset(postDelay)
			}
			q.mu.Unlock()
			if urgent {
				q.nudge()
			}
			return nil
		}
		if q.space == nil {
			q.space = make(chan struct{})
		}
		space := q.space
		q.mu.Unlock()
		select {
		case <-space:
		case <-ctx.Done():
			return fmt.Errorf("wait for room in the journal's queue: %w", ctx.Err())
		}
	}
}

// full reports whether the writer should not wait for more.
func (q *queue) full() bool { return len(q.list) >= q.size/4 || q.bytes >= maxBatch/4 }

func (q *queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// gather lets other goroutines run for as long as that brings more entries: callers that were answered a moment ago are about to
// come back, and each that comes in time saves a sync. With it 16 writers put 14 records into a sync, and without 8.
func (q *queue) gather() {
	for before := 0; ; {
		q.mu.Lock()
		n := len(q.list)
		q.mu.Unlock()
		if n == before || n >= q.size {
			return
		}
		before = n
		runtime.Gosched()
	}
}

// linger waits until want callers wait for the disk, or bound is over, and reports whether it waited. It does not wait if no caller
// does, or if the queue is full or closed.
func (q *queue) linger(want int, bound time.Duration) bool {
	q.mu.Lock()
	if q.waits == 0 || q.waits >= want || q.closed || q.full() {
		q.mu.Unlock()
		return false
	}
	select {
	case <-q.wake: // of an entry that is in the list by now
	default:
	}
	q.want = want
	q.mu.Unlock()
	q.bound.Reset(bound)
	select {
	case <-q.wake:
		q.bound.Stop()
	case <-q.bound.C:
	}
	return true
}

// callers returns how many Appends wait.
func (q *queue) callers() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waits
}

// take removes and returns all entries, and says how many callers wait for them and whether more can come. list is good until the
// next take.
func (q *queue) take() (list []*entry, callers int, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	list, callers = q.list, q.waits
	q.list, q.spare, q.bytes, q.due = q.spare[:0], list, 0, false
	q.waits, q.want = 0, 0
	if q.space != nil {
		close(q.space)
		q.space = nil
	}
	return list, callers, !q.closed
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	if q.space != nil {
		close(q.space)
		q.space = nil
	}
	q.mu.Unlock()
	q.nudge()
}
