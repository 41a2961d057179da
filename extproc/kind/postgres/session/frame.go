package session

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// headSize is that of a message's type and length.
const headSize = 5

// errLength says that a message is longer than it may be, or shorter than it can.
var errLength = errors.New("the length of a message cannot be right")

// head is the beginning of a message: its type, and how many bytes follow.
type head struct {
	kind byte
	size int
	raw  [headSize]byte // as it came
}

// readHead reads one. most bounds what follows.
func readHead(r *bufio.Reader, most int) (h head, err error) {
	if _, err := io.ReadFull(r, h.raw[:]); err != nil {
		return h, err
	}
	h.kind = h.raw[0]
	n := binary.BigEndian.Uint32(h.raw[1:])
	if n < 4 || uint64(n)-4 > uint64(most) {
		return h, fmt.Errorf("%w: type %q has %d bytes, and %d are taken", errLength, h.kind, n, most)
	}
	h.size = int(n) - 4
	return h, nil
}

// readBody appends the rest of the message to b, head and all.
func readBody(r *bufio.Reader, h head, b []byte) ([]byte, error) {
	from := len(b)
	b = append(b, h.raw[:]...)
	// What is not there is not believed: a length costs memory as its bytes come.
	for left := h.size; left > 0; {
		n := min(left, 64<<10)
		at := len(b)
		b = append(b, make([]byte, n)...)
		if _, err := io.ReadFull(r, b[at:]); err != nil {
			return b[:from], unexpected(err)
		}
		left -= n
	}
	return b, nil
}

// pass copies the rest of a message to w, head and all, without holding it.
func pass(w io.Writer, r *bufio.Reader, h head) error {
	if _, err := w.Write(h.raw[:]); err != nil {
		return err
	}
	if h.size <= r.Buffered() {
		b, err := r.Peek(h.size)
		if err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		_, err = r.Discard(h.size)
		return err
	}
	_, err := io.CopyN(w, r, int64(h.size))
	return unexpected(err)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendMessage appends a message of one type with that body.
func appendMessage(b []byte, kind byte, body ...[]byte) []byte {
	at := len(b) + 1
	b = append(b, kind, 0, 0, 0, 0)
	for _, part := range body {
		b = append(b, part...)
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at))
	return b
}

// cstring is text with the NUL that ends it on the wire.
func cstring(s string) []byte { return append([]byte(s), 0) }

// oneCstring is the text of a body that is one NUL-terminated string and nothing else.
func oneCstring(body []byte) (string, bool) {
	if n := len(body); n > 0 && body[n-1] == 0 {
		for _, c := range body[:n-1] {
			if c == 0 {
				return "", false
			}
		}
		return string(body[:n-1]), true
	}
	return "", false
}

// cutCstring takes a NUL-terminated string off the front of b.
func cutCstring(b []byte) (s string, rest []byte, ok bool) {
	for i, c := range b {
		if c == 0 {
			return string(b[:i]), b[i+1:], true
		}
	}
	return "", nil, false
}
