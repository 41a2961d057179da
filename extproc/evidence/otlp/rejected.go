package otlp

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/countersign/countersign/extproc/datafile"
)

// Signal says how a record is sent to the collector.
type Signal string

// The signals. A checkpoint is sent as a log record, in requests of its own.
const (
	Logs        Signal = "logs"
	Spans       Signal = "spans"
	Checkpoints Signal = "checkpoints"
)

// Rejection is a range of records of which the collector rejected some. Unless it rejected all, nobody knows which: the protocol only
// has their number.
type Rejection struct {
	Signal   Signal    `json:"signal"`   // only the records that are sent in this way
	From     uint64    `json:"from"`     // number of the first record; of a checkpoint, how many records it covers
	To       uint64    `json:"to"`       // of the last
	Sent     int64     `json:"sent"`     // how many log records or spans were sent for them
	Rejected int64     `json:"rejected"` // how many of those the collector rejected
	Time     time.Time `json:"time"`
	Why      string    `json:"why"` // the collector's words
}

const (
	rejectedFile  = "otlp.rejected"
	maxRejections = 1000    // beyond these, neighbours become one
	maxWhy        = 500     // bytes of a collector's words
	maxRejected   = 4 << 20 // bytes of the file; 1,000 entries with the longest words, each byte of them escaped
)

// Rejected reads the list of rejections from a data directory.
func Rejected(data string) ([]Rejection, error) {
	text, err := datafile.ReadFile(filepath.Join(data, rejectedFile), maxRejected)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what the collector rejected: %w", err)
	}
	var list []Rejection
	for line := range bytes.Lines(text) {
		var r Rejection
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("read what the collector rejected: %s line %d: %w", filepath.Join(data, rejectedFile), len(list)+1, err)
		}
		list = append(list, r)
	}
	return list, nil
}

// Listed returns the list of rejections as it is now.
func (c *Courier) Listed() ([]Rejection, error) { return Rejected(c.data()) }

func (c *Courier) data() string { return filepath.Dir(c.opts.Cursor) }

// changeRejected changes the list of a data directory, durably. The courier of a gateway and [Resend] may do so at once.
func changeRejected(data string, change func([]Rejection) []Rejection) error {
	lock, err := lockRejected(filepath.Join(data, rejectedFile+".lock"), 5*time.Second)
	if err != nil {
		return err
	}
	defer lock.Close()
	list, err := Rejected(data)
	if err != nil {
		return err
	}
	var text []byte
	for _, r := range bounded(change(list)) {
		line, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("write what the collector rejected: %w", err)
		}
		text = append(append(text, line...), '\n')
	}
	if err = datafile.Replace(datafile.Disk{}, filepath.Join(data, rejectedFile), text); err != nil {
		return fmt.Errorf("write what the collector rejected: %w", err)
	}
	return nil
}

// lockRejected waits for the lock, which is held for as long as it takes to write a file.
func lockRejected(path string, most time.Duration) (*os.File, error) {
	for deadline := time.Now().Add(most); ; time.Sleep(10 * time.Millisecond) { //nolint:forbidigo // a lock of another process has no event
		f, err := datafile.Lock(path)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			return f, err
		}
	}
}

// bounded sorts a list. While it is too long, it makes one of the nearest two. That loses nothing: what lies between them is sent
// again with them.
func bounded(list []Rejection) []Rejection {
	slices.SortStableFunc(list, func(a, b Rejection) int {
		return cmp.Or(cmp.Compare(a.Signal, b.Signal), cmp.Compare(a.From, b.From))
	})
	list = joined(list)
	for len(list) > maxRejections {
		nearest, gap := 0, ^uint64(0)
		for i := range list[1:] {
			if a, b := &list[i], &list[i+1]; a.Signal == b.Signal && b.From-min(a.To, b.From) < gap {
				nearest, gap = i, b.From-min(a.To, b.From)
			}
		}
		list[nearest].take(&list[nearest+1])
		list = slices.Delete(list, nearest+1, nearest+2)
	}
	return list
}

// joined makes one of neighbours that were rejected whole for the same reason.
func joined(list []Rejection) []Rejection {
	whole := list[:0]
	for _, r := range list {
		if n := len(whole); n > 0 && whole[n-1].goesOn(&r) {
			whole[n-1].take(&r)
			continue
		}
		whole = append(whole, r)
	}
	return whole
}

// shortened bounds a collector's words.
func shortened(why string) string { return fmt.Sprintf("%.*s", maxWhy, why) }

// name names the records: "record 7", "records 7 to 9".
func (r *Rejection) name() string {
	what := "record"
	if r.Signal == Checkpoints {
		what = "checkpoint"
	}
	if r.From == r.To {
		return fmt.Sprintf("%s %d", what, r.From)
	}
	return fmt.Sprintf("%ss %d to %d", what, r.From, r.To)
}

// goesOn reports whether next is the same range again, as after a crash, or follows r and was rejected whole for the same reason.
func (r *Rejection) goesOn(next *Rejection) bool {
	if r.Signal != next.Signal {
		return false
	}
	if r.From == next.From && r.To == next.To {
		return true
	}
	return next.From == r.To+1 && r.Why == next.Why && r.Rejected == r.Sent && next.Rejected == next.Sent
}

func (r *Rejection) take(next *Rejection) {
	if r.From == next.From && r.To == next.To {
		*r = *next
		return
	}
	r.To = max(r.To, next.To)
	r.Sent, r.Rejected = r.Sent+next.Sent, r.Rejected+next.Rejected
	r.Time, r.Why = next.Time, next.Why
}
