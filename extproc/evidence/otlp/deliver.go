package otlp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// export makes one request with items and says how many of them the collector rejected while it accepted the rest.
type export func(ctx context.Context, items []*item) (rejected int64, why string, err error)

// deliver sends all that waits: first the log records, then the spans, and moves the cursor after each. It returns
// when that is done, when the collector refuses every record of the batch (more are read and it is tried again), or
// when ctx ends.
func (c *Courier) deliver(ctx context.Context) error {
	var logs, spans []*item
	for _, it := range c.waiting {
		switch {
		case it.log != nil && (it.seq == 0 || it.seq > c.cursor.Logs):
			logs = append(logs, it)
		case it.spans != nil && it.seq > c.cursor.Spans:
			spans = append(spans, it)
		}
	}
	last := c.lastRecord()
	d := &delivery{courier: c, export: c.exportLogs}
	err := d.all(ctx, logs)
	c.cursor.Logs = max(c.cursor.Logs, d.reached(last, logs))
	for _, it := range logs[:d.done] {
		c.cursor.Checkpoints = max(c.cursor.Checkpoints, it.checkpoint)
	}
	if err != nil || len(logs) > 0 && len(spans) > 0 {
		if err := errors.Join(err, c.save(d.taken)); err != nil {
			return err
		}
	}
	taken := d.taken
	d = &delivery{courier: c, export: c.exportSpans}
	err = d.all(ctx, spans)
	c.cursor.Spans = max(c.cursor.Spans, d.reached(last, spans))
	return errors.Join(err, c.save(taken || d.taken))
}

// lastRecord is the number of the last record that waits, or of the last that was accepted.
func (c *Courier) lastRecord() uint64 {
	last := c.cursor.both()
	for _, it := range c.waiting {
		last = max(last, it.seq)
	}
	return last
}

// save drops what is done with from what waits, and puts the cursor on the disk. taken says whether the collector has
// accepted anything since the last time.
func (c *Courier) save(taken bool) error {
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
	if c.unsaved = c.cursor.save(c.opts.Cursor); c.unsaved != nil {
		return c.unsaved
	}
	if taken {
		c.worked()
	}
	c.accepted.Store(both)
	c.oldest.Store(0)
	for _, it := range left {
		if it.seq != 0 {
			c.oldest.Store(it.time.UnixNano())
			break
		}
	}
	return nil
}

// delivery is the sending of one list of items, in order.
type delivery struct {
	courier *Courier
	export  export
	done    int     // items from the front that were accepted, or refused for good
	bad     []*item // refused on their own
	taken   bool    // something was accepted
	why     error   // the last refusal
}

// reached is the last record up to which all is done with.
func (d *delivery) reached(last uint64, items []*item) uint64 {
	if d.done == len(items) {
		return last
	}
	for i := d.done; i < len(items); i++ {
		if items[i].seq != 0 {
			return items[i].seq - 1
		}
	}
	return last
}

func (d *delivery) all(ctx context.Context, items []*item) error {
	if len(items) == 0 {
		return nil
	}
	err := d.send(ctx, items)
	if len(d.bad) > 0 && !d.taken {
		d.done = 0
		return fmt.Errorf("%w: %w", errRefusesAll, d.why)
	}
	if err != nil {
		if len(d.bad) > 0 {
			d.done = slices.Index(items, d.bad[0]) // not settled
		}
		return err
	}
	return d.again(ctx, items)
}

// again gives each record that was refused on its own a second chance, now that the collector is known to accept others:
// what it said before may have been about itself. One that is refused again is given up.
func (d *delivery) again(ctx context.Context, items []*item) error {
	suspects := d.bad
	for _, it := range suspects {
		d.bad = nil
		if err := d.send(ctx, []*item{it}); err != nil {
			d.done = slices.Index(items, it)
			return err
		}
		if len(d.bad) > 0 {
			d.courier.reject(1, d.bad, d.why.Error())
		}
	}
	d.done = len(items)
	return nil
}

// send gets items accepted, and halves them where something in them is refused.
func (d *delivery) send(ctx context.Context, items []*item) error {
	c := d.courier
	for pause := c.opts.MinBackoff; ; pause = min(2*pause, c.opts.MaxBackoff) {
		call, cancel := context.WithTimeout(ctx, c.opts.Timeout)
		rejected, why, err := d.export(call, items)
		cancel()
		if err == nil {
			d.accepted(items, rejected, why)
			return nil
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

func (d *delivery) accepted(items []*item, rejected int64, why string) {
	c := d.courier
	d.done += len(items)
	d.taken = true
	c.sent.Add(uint64(max(0, int64(len(items))-rejected)))
	switch {
	case rejected > 0:
		c.reject(rejected, items, why)
	case why != "":
		c.opts.Log.Warn("the collector accepted records with a warning", "warning", why)
	}
}

// reject counts records that the collector will not have, and raises the alarm. What a collector says is not believed to
// be short, nor its numbers to be true: an alarm record must fit the journal.
func (c *Courier) reject(count int64, among []*item, why string) {
	count = min(count, int64(elements(among)))
	c.rejected.Add(uint64(count))
	detail := fmt.Sprintf("the collector rejected %d of %s: %.500s", count, name(among), why)
	c.opts.Log.Error(detail, "alarm", AlarmRejected)
	for _, it := range among {
		if !it.alarm {
			c.opts.Alarm(AlarmRejected, detail)
			return
		}
	}
}

// elements is how many log records and spans go out for items.
func elements(items []*item) int {
	n := 0
	for _, it := range items {
		n += max(1, len(it.spans))
	}
	return n
}

func name(items []*item) string {
	first, last := items[0].seq, items[len(items)-1].seq
	switch {
	case len(items) == 1 && first != 0:
		return fmt.Sprintf("record %d", first)
	case len(items) == 1:
		return "a checkpoint"
	}
	for i := len(items) - 1; i >= 0 && last == 0; i-- {
		last = items[i].seq
	}
	return fmt.Sprintf("records %d to %d", first, last)
}

// reason is what a refusal is about.
type reason int

const (
	aboutCollector reason = iota // it passes, or somebody has to see to the collector: tried again
	aboutRecords                 // something in the request is refused for what it is
)

// judge reads an error as the OTLP specification has it (OTLP/gRPC, "Failures"), with two departures for the sake of the
// records. Errors that are the same for whatever is sent (no permission, no such service) count as the collector's, since
// dropping everything is no answer to them. Internal and Unknown count as the records': a collector says so of data that one
// of its components cannot take.
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
		return aboutRecords, asked // the request is too large, for one
	default:
		return aboutCollector, asked
	}
}

func (c *Courier) exportLogs(ctx context.Context, items []*item) (int64, string, error) {
	scope := &logspb.ScopeLogs{Scope: instrumentation}
	for _, it := range items {
		scope.LogRecords = append(scope.LogRecords, it.log)
	}
	answer, err := c.logs.Export(ctx, &collogspb.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{{
		Resource: c.resource(), ScopeLogs: []*logspb.ScopeLogs{scope},
	}}})
	partial := answer.GetPartialSuccess()
	return partial.GetRejectedLogRecords(), partial.GetErrorMessage(), err
}

func (c *Courier) exportSpans(ctx context.Context, items []*item) (int64, string, error) {
	scope := &tracepb.ScopeSpans{Scope: instrumentation}
	for _, it := range items {
		scope.Spans = append(scope.Spans, it.spans...)
	}
	answer, err := c.spans.Export(ctx, &coltracepb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource: c.resource(), ScopeSpans: []*tracepb.ScopeSpans{scope},
	}}})
	partial := answer.GetPartialSuccess()
	return partial.GetRejectedSpans(), partial.GetErrorMessage(), err
}
