// Package coding decodes the content codings of bodies (RFC 9110, section 8.4): gzip (RFC 1952), deflate (RFC 1950, and RFC
// 1951 without its wrapper, as clients accept it), br (RFC 7932) and zstd (RFC 8878). It decodes bytes as they come, so an
// event stream in gzip still flows.
//
// # Two readers
//
// [Decoder] is for an answer, which goes on decoded. The agent gets our reading and no other, so everything that is well
// formed is read: several members of gzip, several frames of zstd.
//
// [Whole] is for a request, which goes on as it came and is decoded again by the target. It accepts one coding, with one
// member or frame and nothing around it: readers differ in whether they read on after the first, and on a deflate that can be
// read both with and without its wrapper.
//
// # Bounds
//
// Decoding stops once the output has more than [Free] bytes and more than [Ratio] times the bytes of input. This holds for the
// output of each coding if two are stacked, so nothing large is made on the way to something small. Windows are at most 8 MiB
// for zstd (RFC 9659) and 16 MiB for br, its standard's maximum. [Memory] says what a decoder takes.
//
// # No goroutine of its own
//
// The libraries pull their input, and here it is pushed. So a decoder runs as a coroutine ([iter.Pull]): it takes turns with
// its caller and never runs beside it, and the caller gets its panics. [Decoder.Close] ends it.
package coding

import (
	"fmt"
	"strings"
)

// Coding is one content coding. The zero value is none.
type Coding uint8

// The known codings.
const (
	None Coding = iota
	Gzip
	Deflate
	Brotli
	Zstd
)

var names = [...]string{"no coding", "gzip", "deflate", "br", "zstd"}

func (c Coding) String() string { return names[c] }

// Of returns the coding with exactly this name, or None.
func Of(name string) Coding {
	for c, n := range names[1:] {
		if n == name {
			return Coding(c + 1)
		}
	}
	return None
}

// maxStacked is how many codings one body may have.
const maxStacked = 2

// The bounds of a decoded body: Free bytes, or Ratio times the bytes that came if that is more. Rows of a table that differ in
// their numbers are compressed to between a tenth and a fiftieth, a text of one letter to a thousandth and less.
const (
	Free  = 1 << 20
	Ratio = 200
)

// Most is how many bytes n bytes may decode to.
func Most(n int64) int64 { return max(Free, Ratio*n) }

// Error says why a body is not decoded. Its reason continues a sentence that begins with the body, and quotes nothing of it.
type Error struct {
	Reason string
	Long   bool // the body may be well formed, but decodes to more bytes than the caller accepts
}

func (e *Error) Error() string { return e.Reason }

func fail(format string, args ...any) *Error { return &Error{Reason: fmt.Sprintf(format, args...)} }

// Parse reads the values of an answer's Content-Encoding fields. It returns the codings in the order in which they were applied,
// without "identity" and empty elements.
func Parse(values []string) ([]Coding, error) {
	var codings []Coding
	all := strings.Join(values, ",")
	for element := range strings.SplitSeq(all, ",") {
		name := strings.ToLower(strings.Trim(element, " \t"))
		if name == "" || name == "identity" {
			continue
		}
		c := Of(strings.TrimPrefix(name, "x-"))
		if c == None || name != c.String() && c != Gzip {
			return nil, fail("is encoded in a way that cannot be read here (Content-Encoding: %.40s)", all)
		}
		codings = append(codings, c)
	}
	if len(codings) > maxStacked {
		return nil, fail("is encoded more than %d times (Content-Encoding: %.40s)", maxStacked, all)
	}
	return codings, nil
}

// The most that a decoder of each coding keeps: its window, its tables and what it has read ahead (TestMemory).
var memory = [...]int64{0, 192 << 10, 192 << 10, 20 << 20, 12 << 20}

// Memory estimates the bytes of memory that it takes to decode codings.
func Memory(codings ...Coding) (n int64) {
	for _, c := range codings {
		n += memory[c]
	}
	return n
}
