package gate

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Limits bound what an operation that is let through may take. The zero value of each bounds nothing.
type Limits struct {
	Rows     int64         // of the answer
	Bytes    int64         // of the rows and of the data that is copied
	Time     time.Duration // from when the target has the operation until it has answered
	ReadOnly bool          // the target itself refuses to write
}

// Limit is the name of a limit: its member in policies and records.
type Limit string

// The limits. A kind of resource says which of them it keeps.
const (
	LimitBytes    Limit = "bytes"
	LimitReadOnly Limit = "read_only"
	LimitRows     Limit = "rows"
	LimitSeconds  Limit = "seconds"
)

// AllLimits are the limits that there are, in order.
var AllLimits = []Limit{LimitBytes, LimitReadOnly, LimitRows, LimitSeconds}

// Least is what holds where both l and other do: the lower of each.
func (l Limits) Least(other Limits) Limits {
	return Limits{least(l.Rows, other.Rows), least(l.Bytes, other.Bytes), least(l.Time, other.Time), l.ReadOnly || other.ReadOnly}
}

// least is the lower of two bounds, of which 0 is none.
func least[N int64 | time.Duration](a, b N) N {
	switch {
	case a == 0:
		return b
	case b == 0:
		return a
	default:
		return min(a, b)
	}
}

// Has reports whether l has a limit of that name.
func (l Limits) Has(name Limit) bool {
	switch name {
	case LimitBytes:
		return l.Bytes != 0
	case LimitReadOnly:
		return l.ReadOnly
	case LimitRows:
		return l.Rows != 0
	case LimitSeconds:
		return l.Time != 0
	default:
		return false
	}
}

// Object is l as records and people have it: the limits that there are, by their names.
func (l Limits) Object() Object {
	var o Object
	for _, name := range AllLimits {
		if !l.Has(name) {
			continue
		}
		var value any
		switch name {
		case LimitReadOnly:
			value = true
		case LimitBytes:
			value = json.Number(strconv.FormatInt(l.Bytes, 10))
		case LimitRows:
			value = json.Number(strconv.FormatInt(l.Rows, 10))
		case LimitSeconds:
			value = l.Time.Seconds()
		}
		o = append(o, Member{string(name), value})
	}
	return o
}

// String is l in one line: "rows 1000, seconds 5".
func (l Limits) String() string {
	var parts []string
	for _, m := range l.Object() {
		switch v := m.Value.(type) {
		case json.Number:
			parts = append(parts, m.Name+" "+v.String())
		case float64:
			parts = append(parts, m.Name+" "+strconv.FormatFloat(v, 'f', -1, 64))
		default:
			parts = append(parts, m.Name)
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}
