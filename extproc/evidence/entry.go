package evidence

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// Version is the version of the line format that this program writes. It reads every version up to this one.
const Version = 1

// maxBody bounds one record's body, and maxLine one line. [shorten] bounds each text in a body, and whoever makes a list bounds
// that, so a record over this is a mistake of the caller, and is refused.
const (
	maxBody = 1 << 20
	maxLine = maxBody + 4096
)

// Entry is one record as it stands in the journal.
type Entry struct {
	V    int
	Seq  uint64 // the first record is 1
	Time time.Time
	Node string
	Type string
	Op   string // operation id; empty if the record is about none
	Prev string // SHA-256 of the line before, in hex; 64 zeros in the first
	Body []byte // one canonical JSON object

	Line []byte // the whole line, without its newline
	Hash string // SHA-256 of Line, in hex
}

// Object returns the body as a value, with numbers as they are written.
func (e *Entry) Object() (gate.Object, error) {
	o, err := decodeObject(e.Body)
	if err != nil {
		return nil, fmt.Errorf("read the body of record %d: %w", e.Seq, err)
	}
	return o, nil
}

// zeros is the prev of the first record.
const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

// timeLayout is what gate.AppendTime writes: always UTC, always nine digits of fraction.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// appendLine appends the line of a record, without a newline. head is the line up to the value of prev, which [encode] has made
// outside of any lock; the rest depends on the record's place.
func appendLine(dst, head []byte, prev *[sha256.Size]byte, seq uint64, now time.Time, kind string) []byte {
	dst = append(dst, head...)
	if seq == 1 {
		dst = append(dst, zeros...)
	} else {
		dst = hex.AppendEncode(dst, prev[:])
	}
	dst = append(dst, `","seq":`...)
	dst = strconv.AppendUint(dst, seq, 10)
	dst = append(dst, `,"time":"`...)
	dst = gate.AppendTime(dst, now)
	dst = append(dst, `","type":"`...)
	dst = append(dst, kind...)
	return append(dst, `","v":1}`...)
}

// parse reads one line, which must be a record in the canonical form of its version. It checks nothing that needs
// another line. The entry keeps line.
func parse(line []byte) (Entry, error) {
	var fields [8][]byte // in the order of names
	var version []byte
	known, count := 0, 0
	err := scanObject(line, func(name, value []byte) {
		if known < len(lineMembers) && string(name) == lineMembers[known] {
			fields[known] = value
			known++
		}
		if string(name) == "v" {
			version = value
		}
		count++
	})
	if err != nil {
		return Entry{}, err
	}
	switch v := string(version); v {
	case "1":
		if known != len(lineMembers) || count != len(lineMembers) {
			return Entry{}, fmt.Errorf("a record has the members %v, this one does not", lineMembers)
		}
		return parseV1(line, fields)
	case "":
		return Entry{}, errors.New("it has no version")
	default:
		return Entry{}, fmt.Errorf("it has version %.20s, and this program knows versions up to %d", v, Version)
	}
}

var lineMembers = []string{"body", "node", "op", "prev", "seq", "time", "type", "v"}

func parseV1(line []byte, f [8][]byte) (Entry, error) {
	e := Entry{V: 1, Body: f[0], Line: line}
	if len(e.Body) == 0 || e.Body[0] != '{' {
		return e, errors.New("its body is not a JSON object")
	}
	texts := []struct {
		name  string
		value []byte
		into  *string
	}{{"node", f[1], &e.Node}, {"op", f[2], &e.Op}, {"prev", f[3], &e.Prev}, {"type", f[6], &e.Type}}
	for _, t := range texts {
		text, ok := textValue(t.value)
		if !ok {
			return e, fmt.Errorf("its %s is not a string", t.name)
		}
		*t.into = text
	}
	if !isHash(e.Prev) {
		return e, fmt.Errorf("its prev %.80q is not a SHA-256 in lower-case hex", e.Prev)
	}
	if !isType(e.Type) {
		return e, fmt.Errorf("its type %.80q is not a type of record", e.Type)
	}
	if e.Seq = seqValue(f[4]); e.Seq == 0 {
		return e, fmt.Errorf("its seq %.30s is not a record number", f[4])
	}
	clock, _ := textValue(f[5])
	t, err := time.Parse(timeLayout, clock)
	if err != nil || len(clock) != len(timeLayout) {
		return e, fmt.Errorf("its time %.40q is not in the form %s", clock, timeLayout)
	}
	e.Time = t
	sum := sha256.Sum256(line)
	e.Hash = hex.EncodeToString(sum[:])
	return e, nil
}

func isHash(s string) bool {
	if len(s) != 2*sha256.Size {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isType(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' {
			return false
		}
	}
	return true
}

// outcome is what a record says about the operations that are under way.
type outcome struct {
	allows  bool   // operation.decided with effect allow: the target may see it, so an outcome is owed
	settles uint64 // operation.finished or operation.unknown: the number of the decision that has an outcome now
}

// outcomeIn is what a record says of them before it is written. A body that is sure of itself is not read; any other is, and must be
// canonical: nobody could tell it from an edited one later.
func outcomeIn(r *gate.Record, body []byte) (outcome, error) {
	if of, ok := r.Body.(gate.Sure); ok {
		if allows, decided, sure := of.Says(); sure {
			return outcome{allows, decided}, nil
		}
	}
	return outcomeOf(r.Type, body)
}

// outcomeOf reads the outcome from a record's body. It also checks that the body is canonical.
func outcomeOf(kind string, body []byte) (outcome, error) {
	var o outcome
	visit := func(name, value []byte) {}
	switch kind {
	case gate.OperationDecided:
		visit = func(name, value []byte) {
			if string(name) == "effect" && bytes.Equal(value, []byte(`"allow"`)) {
				o.allows = true
			}
		}
	case gate.OperationFinished, gate.OperationUnknown:
		visit = func(name, value []byte) {
			if string(name) == "decided" {
				o.settles = seqValue(value)
			}
		}
	}
	err := scanObject(body, visit)
	return o, err
}

// shorten bounds every text of the body that begins at b[from:], in case whoever made the record forgot one. It is called only for
// bodies long enough to hold such a text; few are.
func shorten(b []byte, from int) ([]byte, error) {
	body, err := decodeObject(b[from:])
	if err != nil {
		return b, err
	}
	return gate.AppendJSON(b[:from], shortened(body))
}

func shortened(v any) any {
	switch v := v.(type) {
	case string:
		return gate.Recorded(v, gate.MaxRecorded)
	case []any:
		for i := range v {
			v[i] = shortened(v[i])
		}
	case gate.Object:
		for i := range v {
			v[i].Value = shortened(v[i].Value)
		}
	}
	return v
}
