package evidence

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// An operation's first record is looked for from idBefore before its id was made to idAfter after. Operations are decided within an
// hour, and the gateway's clock may step by an hour; after a greater step only [Records] finds the records.
const (
	idBefore = time.Hour
	idAfter  = time.Hour
)

// Operation reads the records of one operation, oldest first and at most limit, without reading the whole journal. The id says when
// it was made ([gate.NewID]), and reading begins with the segment of that time. It stops when the operation has ended and no record
// of it has come for quiet: a request for approval can outlive the operation that opened it. An id that no gateway made has no
// records.
func Operation(ctx context.Context, dir, op string, quiet time.Duration, limit int) ([]Entry, error) {
	made, ok := timeOfID(op)
	if !ok {
		return nil, nil
	}
	from, err := segmentOf(dir, made.Add(-idBefore))
	if err != nil {
		return nil, err
	}
	r := NewReader(dir, from, nil)
	defer r.Close()
	var list []Entry
	ends := made.Add(idAfter) // zero while it goes on
	for len(list) < limit {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if e.Op != op {
			if !ends.IsZero() && e.Time.After(ends) {
				break
			}
			continue
		}
		list = append(list, e)
		switch {
		case e.Type == gate.OperationDecided:
			ends = time.Time{}
		case e.Type == gate.OperationFinished, e.Type == gate.OperationUnknown, !ends.IsZero():
			ends = e.Time.Add(quiet)
		}
	}
	return list, nil
}

// segmentOf returns the first record number of the segment that was being written at t.
func segmentOf(dir string, t time.Time) (uint64, error) {
	list, err := segments(dir)
	if err != nil {
		return 0, err
	}
	from := uint64(1)
	for i, s := range list {
		if i > 0 { // the first need not be opened
			began, err := beginning(s)
			if err != nil {
				return 0, err
			}
			if began.After(t) {
				break
			}
		}
		from = s.first
	}
	return from, nil
}

// beginning returns when a segment's first record was written; now, if it has none yet.
func beginning(s segment) (time.Time, error) {
	l, err := openSegment(s.path)
	if err != nil {
		return time.Time{}, err
	}
	defer l.close()
	line, err := l.next()
	if errors.Is(err, io.EOF) {
		return time.Now(), nil
	}
	if err != nil {
		return time.Time{}, err
	}
	e, err := parse(line)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s line 1: %w", s.path, err)
	}
	return e.Time, nil
}

// timeOfID returns when a UUID of version 7 was made.
func timeOfID(id string) (time.Time, bool) {
	digits := strings.ReplaceAll(id, "-", "")
	if len(id) != 36 || len(digits) != 32 || digits[12] != '7' {
		return time.Time{}, false
	}
	b, err := hex.DecodeString("0000" + digits[:12])
	if err != nil {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b))), true
}
