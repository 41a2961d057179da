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

// cursor is how far the collector has accepted. Spans and log records go in requests of their own, so each has its
// number: between the two requests of one batch they differ.
type cursor struct {
	Logs        uint64 `json:"logs"`        // all records up to this one that are log records were accepted
	Spans       uint64 `json:"spans"`       // likewise, spans
	Hash        string `json:"hash"`        // of the record with the lower of the two numbers; empty for none
	Open        uint64 `json:"open"`        // oldest decision up to there whose span is still to come; 0 for none
	Checkpoints int64  `json:"checkpoints"` // bytes of the checkpoints file that were accepted
}

// both is the last record that is done with.
func (c cursor) both() uint64 { return min(c.Logs, c.Spans) }

// readFrom is where to begin reading, so as to know the decisions that spans will need.
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

// fits checks that the cursor was made for this journal. Where it was not, the collector would never get some records.
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

// save puts the cursor on the disk: the old one or the new one is there after a crash.
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
