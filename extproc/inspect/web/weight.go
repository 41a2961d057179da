package web

import "bytes"

// The memory that a body takes, in bytes for each of its bytes and each of its values. The package comment says why, and
// TestWeight measures it.
const (
	perByteHeld   = 2   // while it comes: with room to grow; while people are asked: with its canonical form
	perByteJudged = 6   // while it is judged: also what reading it allocated, and the canonical input
	perValue      = 180 // what policy makes of a value
)

// unjudged estimates the memory of a body of n bytes while it comes, and while it waits for people.
func unjudged(n int64) int64 { return perByteHeld * n }

// Holds estimates the memory that the body takes once n more bytes of it have come.
func (i *Inspector) Holds(n int64) int64 {
	return unjudged(max(i.request.BodyBytes+n, i.request.DecodedBytes))
}

// Weight estimates the most memory that the request takes, without its head, while it is read and judged.
func (i *Inspector) Weight() int64 {
	if i.sent != nil {
		return i.weight
	}
	return i.weigh()
}

func (i *Inspector) weigh() int64 {
	if len(i.body) == 0 {
		return 0
	}
	// Bytes that can begin a value are counted, also within strings: that is fast, and never too few. A body of more values
	// than are accepted never reaches policy.
	values := 1
	begins := []string{",", ":", "[", "{", "&"}
	if i.kind == asLines || i.kind == asRecords || i.mayBeLines() {
		begins = append(begins, "\n")
	}
	for _, begin := range begins {
		values += bytes.Count(i.body, []byte(begin))
	}
	return perByteJudged*int64(len(i.body)) + perValue*int64(min(values, i.opt.maxValues()))
}

// keep adds chunk to the body. It doubles the room each time, up to the Content-Length.
func (i *Inspector) keep(chunk []byte) {
	if need := len(i.body) + len(chunk); need > cap(i.body) {
		room := max(2*cap(i.body), need)
		if i.length >= int64(need) {
			room = min(room, int(i.length))
		}
		i.body = append(make([]byte, 0, room), i.body...)
	}
	i.body = append(i.body, chunk...)
}

// Forget drops all of the request but what records need: its method, and the size and digest of its body. A body that streams
// is counted on.
func (i *Inspector) Forget() {
	r := &i.request
	i.body, i.sent, i.remove = nil, nil, nil
	i.request = Request{Method: r.Method, BodySHA256: r.BodySHA256, BodyBytes: r.BodyBytes, BodyStreamed: r.BodyStreamed}
}
