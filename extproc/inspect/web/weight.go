package web

import "bytes"

// What a body takes (see the package comment, and TestWeight): its bytes with room to grow while they come, or with the text that
// was made of it while people are asked; while it is judged also what reading it leaves and the canonical input, in which it stands
// once more; and what policy makes of each value.
const (
	perByteHeld   = 2
	perByteJudged = 6
	perValue      = 180
)

// unjudged is about how many bytes of memory a body of n bytes takes while it comes, and while it waits for people.
func unjudged(n int64) int64 { return perByteHeld * n }

// Holds is about how many bytes of memory the body takes with n more bytes of it: what came, and what was made of it.
func (i *Inspector) Holds(n int64) int64 {
	return unjudged(max(i.request.BodyBytes+n, i.request.DecodedBytes))
}

// Weight is about how many bytes of memory the request takes at most while it is read and judged, beside its head.
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
	// What begins a value is counted wherever it stands, in a text too: that is fast, and never too little. Of more values
	// than are accepted none is ever policy's.
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

// keep adds chunk to the body. Room is doubled, and what was announced is not exceeded.
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

// Forget drops all of the request but its method and what is known of its body's size and digest, which records want. The
// body of a request that streams is counted on.
func (i *Inspector) Forget() {
	r := &i.request
	i.body, i.sent, i.remove = nil, nil, nil
	i.request = Request{Method: r.Method, BodySHA256: r.BodySHA256, BodyBytes: r.BodyBytes, BodyStreamed: r.BodyStreamed}
}
