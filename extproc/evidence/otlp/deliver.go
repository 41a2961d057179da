package otlp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// deliver sends all that waits, each signal in requests of its own, and moves the cursor after each signal. The error is errRefusesAll
// if the collector refuses every record of a signal; then more are read, and it is tried again.
func (c *Courier) deliver(ctx context.Context) error {
	waiting := map[Signal][]*item{}
	for _, it := range c.waiting {
		switch s := it.signal(); {
		case s == Logs && it.seq <= c.cursor.Logs, s == Spans && it.seq <= c.cursor.Spans:
		default:
			waiting[s] = append(waiting[s], it)
		}
	}
	last := c.lastRecord()
	var errs []error
	for _, s := range []Signal{Logs, Spans, Checkpoints} {
		items := waiting[s]
		d := &delivery{courier: c, signal: s}
		err := d.all(ctx, items)
		switch s {
		case Logs:
			c.cursor.Logs = max(c.cursor.Logs, d.reached(last, items))
		case Spans:
			c.cursor.Spans = max(c.cursor.Spans, d.reached(last, items))
		case Checkpoints:
			for _, it := range items[:d.done] {
				c.cursor.Checkpoints = it.checkpoint
			}
		}
		if len(items) > 0 || s == Spans { // the last of the two that move the cursor for records
			err = errors.Join(err, c.moved(d.taken))
		}
		if errs = append(errs, err); err != nil && !errors.Is(err, errRefusesAll) {
			break
		}
	}
	return errors.Join(errs...)
}

// lastRecord returns the number of the last record that waits, or of the last that was accepted.
func (c *Courier) lastRecord() uint64 {
	last := c.cursor.both()
	for _, it := range c.waiting {
		last = max(last, it.seq)
	}
	return last
}

// moved drops from c.waiting what was accepted, and saves the cursor if that is due. taken says whether the collector has accepted
// anything since the last time.
func (c *Courier) moved(taken bool) error {
	both := c.cursor.both()
	left := c.waiting[:0]
	for _, it := range c.waiting {
		switch {
		case it.seq == 0 && it.checkpoint <= c.cursor.Checkpoints:
		case it.seq != 0 && it.seq <= both:
			c.cursor.Hash = it.hash
		default:
			left = append(left, it)
		}
	}
	clear(c.waiting[len(left):])
	c.waiting = left
	c.cursor.Open = c.joiner.oldest(both)
	for _, it := range left {
		if it.decided != 0 && it.decided <= both && (c.cursor.Open == 0 || it.decided < c.cursor.Open) {
			c.cursor.Open = it.decided
		}
	}
	c.taken = c.taken || taken
	if c.hurry || time.Since(c.saving) >= c.opts.SaveEvery {
		if err := c.save(); err != nil {
			return err
		}
	}
	c.settled()
	return nil
}

// save saves the cursor, unless the disk has it. Each save is two syncs, which the journal's may wait for.
func (c *Courier) save() error {
	if c.cursor == c.saved {
		return nil
	}
	if c.unsaved = c.cursor.save(c.opts.Cursor); c.unsaved == nil {
		c.saved, c.saving, c.hurry = c.cursor, time.Now(), false
	}
	return c.unsaved
}

// settled reports what was accepted.
func (c *Courier) settled() {
	if c.taken {
		c.worked()
	}
	c.taken = false
	both := c.cursor.both()
	c.accepted.Store(both)
	if c.source.Durable() == both {
		c.oldest.Store(0)
	}
	for _, it := range c.waiting {
		if it.seq != 0 {
			c.oldest.Store(it.time.UnixNano())
			break
		}
	}
}

// delivery is the sending of one list of items, in order.
type delivery struct {
	courier *Courier
	signal  Signal
	done    int     // items from the front that were accepted or listed as rejected
	bad     []*item // that were refused alone
	taken   bool    // something was accepted
	why     error   // the last refusal
}

// reached returns the last record up to which all were accepted or listed as rejected.
func (d *delivery) reached(last uint64, items []*item) uint64 {
	if d.done == len(items) {
		return last
	}
	return items[d.done].seq - 1
}

func (d *delivery) all(ctx context.Context, items []*item) error {
	err := d.send(ctx, items)
	if err != nil && len(d.bad) > 0 {
		d.done = slices.Index(items, d.bad[0]) // not settled
	}
	if err != nil {
		return err
	}
	for _, it := range d.bad {
		if err := d.settle(ctx, it); err != nil {
			d.done = slices.Index(items, it)
			return err
		}
	}
	d.done = len(items)
	return nil
}

// lonely is how often a record is tried alone before it is listed as rejected, if the collector accepted none of its batch.
const lonely = 3

// settle tries a record again that was refused alone, because the fault may have been the collector's. If it is refused again it is
// listed as rejected. If the collector accepted none of the batch, only one record is listed; before the next one the collector must
// accept something.
func (d *delivery) settle(ctx context.Context, it *item) error {
	c := d.courier
	tries := 1
	if !d.taken {
		if tries = lonely; !c.vouched {
			return fmt.Errorf("%w: %w", errRefusesAll, d.why)
		}
	}
	for n := range tries {
		if n > 0 {
			c.pause(ctx, c.opts.MinBackoff<<n)
		}
		d.bad = nil
		if err := d.send(ctx, []*item{it}); err != nil || len(d.bad) == 0 {
			return err
		}
	}
	c.vouched = d.taken
	return c.reject(d.signal, elements([]*item{it}), []*item{it}, d.why.Error())
}

// send sends items until they are accepted. If one of them is refused, it halves them to find that one.
func (d *delivery) send(ctx context.Context, items []*item) error {
	c := d.courier
	if len(items) == 0 {
		return nil
	}
	for pause := c.opts.MinBackoff; ; pause = min(2*pause, c.opts.MaxBackoff) {
		call, cancel := context.WithTimeout(ctx, c.opts.Timeout)
		rejected, why, err := c.export(call, d.signal, items)
		cancel()
		if err == nil {
			return d.accepted(items, rejected, why)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.failed(err)
		reason, asked := judge(err)
		if reason == aboutRecords {
			d.why = err
			break
		}
		if err := c.save(); err != nil { // who knows how long this takes
			return err
		}
		c.retries.Add(1)
		c.pause(ctx, max(asked, pause/2+rand.N(pause/2+1)))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if len(items) == 1 {
		d.bad = append(d.bad, items[0])
		d.done++
		return nil
	}
	half := len(items) / 2
	if err := d.send(ctx, items[:half]); err != nil {
		return err
	}
	return d.send(ctx, items[half:])
}

func (d *delivery) accepted(items []*item, rejected int64, why string) error {
	c := d.courier
	all := elements(items)
	if rejected = max(0, min(rejected, all)); rejected > 0 {
		if err := c.reject(d.signal, rejected, items, why); err != nil {
			return err
		}
	} else if why != "" {
		c.opts.Log.Warn("the collector accepted records with a warning", "warning", why)
	}
	d.done += len(items)
	if rejected < all {
		d.taken, c.vouched = true, true
	}
	c.sent.Add(uint64(int64(len(items)) - min(rejected, int64(len(items)))))
	return nil
}

// reject lists records as rejected, durably, because the cursor will move past them. It counts them and raises an alarm. It shortens
// the collector's words, because an alarm record must fit the journal.
func (c *Courier) reject(s Signal, count int64, among []*item, why string) error {
	why = shortened(why)
	r := Rejection{Signal: s, From: among[0].number(), To: among[len(among)-1].number(), Sent: elements(among), Rejected: count, Time: c.opts.Now().UTC(), Why: why}
	if err := changeRejected(c.data(), func(list []Rejection) []Rejection { return append(list, r) }); err != nil {
		return err
	}
	c.hurry = true // nothing of it may be sent again by itself
	c.rejected.Add(uint64(min(count, int64(len(among)))))
	detail := fmt.Sprintf("the collector rejected %d of %s: %s (evidence rejected lists it, evidence resend sends it again)", count, r.name(), why)
	c.opts.Log.Error(detail, "alarm", AlarmRejected)
	for _, it := range among {
		if !it.alarm {
			c.opts.Alarm(AlarmRejected, detail)
			break
		}
	}
	return nil
}

// elements returns how many log records and spans are sent for items.
func elements(items []*item) int64 {
	n := int64(0)
	for _, it := range items {
		n += it.elements
	}
	return n
}

// reason says what a refusal is about.
type reason int

const (
	aboutCollector reason = iota // it will pass, or somebody must mend the collector: try again
	aboutRecords                 // something in the request is refused
)

// judge reads an error as the OTLP specification says (OTLP/gRPC, "Failures"), and returns the pause that the collector asks for. It
// departs from the specification twice. Errors that do not depend on what is sent (no permission, no such service) count as the
// collector's, because otherwise every record would be dropped. Internal and Unknown count as the records', because a collector
// answers so to data that one of its components cannot take.
func judge(err error) (reason, time.Duration) {
	s, ok := status.FromError(err)
	if !ok {
		return aboutCollector, 0
	}
	asked, told := time.Duration(0), false
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			asked, told = info.GetRetryDelay().AsDuration(), true
		}
	}
	asked = min(max(asked, 0), 5*time.Minute)
	switch s.Code() {
	case codes.InvalidArgument, codes.Internal, codes.Unknown:
		return aboutRecords, asked
	case codes.ResourceExhausted:
		if told {
			return aboutCollector, asked
		}
		return aboutRecords, asked // such as a request that is too large
	default:
		return aboutCollector, asked
	}
}
