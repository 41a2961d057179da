package coding

import (
	"encoding/binary"

	"github.com/klauspost/compress/zstd"
)

// Whole decodes a body that goes on as it came. It refuses a body that other readers could decode differently, and one that
// decodes to more than most bytes.
func Whole(c Coding, body []byte, most int64) ([]byte, error) {
	d := newDecoder([]Coding{c}, true)
	defer d.Close()
	var whole []byte
	for piece, err := range d.Decode(body, true) {
		if err != nil {
			return nil, err
		}
		if int64(len(whole)+len(piece)) > most {
			return nil, &Error{Reason: "is too long", Long: true}
		}
		whole = append(whole, piece...)
	}
	if len(body) > 0 && !plain(c, body) {
		return nil, fail("is in %s that servers read in different ways: it has to be one member or frame without optional parts, and nothing else", c)
	}
	return whole, nil
}

// plain reports whether all readers decode a body alike. It has been decoded already.
func plain(c Coding, body []byte) bool {
	const name = 1 << 3 // FNAME, the flag of a file name (RFC 1952, section 2.3.1)
	switch c {
	case Gzip:
		return body[3]&^name == 0
	case Deflate:
		return !wrapped(body) || !stored(body)
	case Zstd:
		return oneFrame(body)
	default:
		return true
	}
}

// stored reports whether a body begins with a stored block (RFC 1951, section 3.2.4) if it is read without a wrapper. Readers
// that try that first would decode it differently from those that expect the wrapper.
func stored(b []byte) bool {
	return len(b) >= 5 && b[0]>>1&3 == 0 && binary.LittleEndian.Uint16(b[1:]) == ^binary.LittleEndian.Uint16(b[3:])
}

// oneFrame reports whether b is one frame of zstd that is not skippable and needs no dictionary (RFC 8878, section 3.1.1).
func oneFrame(b []byte) bool {
	var h zstd.Header
	if err := h.Decode(b); err != nil || h.Skippable || h.DictionaryID != 0 {
		return false
	}
	at := h.HeaderSize
	for last := false; !last; {
		if len(b) < at+3 {
			return false
		}
		head := int(b[at]) | int(b[at+1])<<8 | int(b[at+2])<<16
		at += 3
		last = head&1 == 1
		if repeated := head>>1&3 == 1; repeated {
			at++
		} else {
			at += head >> 3
		}
	}
	if h.HasCheckSum {
		at += 4
	}
	return at == len(b)
}
