package otlp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/evidence"
)

// cursor is how far the collector has accepted the journal. Spans and log records go in requests of their own, so each has a number;
// the two differ between the requests of one batch.
type cursor struct {
	Logs        uint64 `json:"logs"`        // all records up to this one that are log records were accepted
	Spans       uint64 `json:"spans"`       // likewise, spans
	Hash        string `json:"hash"`        // of the record with the lower of the two numbers; empty for none
	Open        uint64 `json:"open"`        // oldest decision up to that record whose span is still to come; 0 for none
	Checkpoints int64  `json:"checkpoints"` // bytes of the checkpoints file that were accepted
}

// both returns the number of the last record that was accepted, with all before it.
func (c cursor) both() uint64 { return min(c.Logs, c.Spans) }

// readFrom returns where to begin reading, so that the decisions that spans need are read too.
func (c cursor) readFrom() uint64 {
	if c.Open != 0 {
		return min(c.Open, c.both()+1)
	}
	return c.both() + 1
}

func loadCursor(path string) (cursor, error) {
	if path == "" {
		return cursor{}, errors.New("the collector's cursor has no file")
	}
	data, err := datafile.ReadFile(path, 64<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return cursor{}, nil
	}
	if err != nil {
		return cursor{}, fmt.Errorf("read the collector's cursor: %w", err)
	}
	var c cursor
	if err := json.Unmarshal(data, &c); err != nil {
		return cursor{}, fmt.Errorf("read the collector's cursor %s: %w; remove it to send the whole journal again", path, err)
	}
	return c, nil
}

// fits checks that the cursor was made for this journal. Otherwise the collector might never get some records.
func (c cursor) fits(source Source) error {
	if last := source.Durable(); max(c.Logs, c.Spans) > last {
		return fmt.Errorf("it says that record %d was accepted and the journal ends with record %d", max(c.Logs, c.Spans), last)
	}
	if c.both() == 0 {
		return nil
	}
	e, err := recordAt(source.Dir(), c.both())
	if err != nil {
		return err
	}
	if e.Hash != c.Hash {
		return fmt.Errorf("it says that record %d had the hash %q and the journal has another record there", e.Seq, c.Hash)
	}
	return nil
}

// save writes the cursor, durably and in one step.
func (c cursor) save(path string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err = datafile.Replace(datafile.Disk{}, path, append(data, '\n')); err != nil {
		return fmt.Errorf("save the collector's cursor: %w", err)
	}
	return nil
}

// recordAt reads one record.
func recordAt(dir string, seq uint64) (evidence.Entry, error) {
	r := evidence.NewReader(dir, seq, nil)
	defer r.Close()
	e, err := r.Next()
	if errors.Is(err, io.EOF) {
		return e, fmt.Errorf("the journal has no record %d", seq)
	}
	return e, err
}
