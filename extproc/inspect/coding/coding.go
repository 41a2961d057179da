// Package coding takes content codings off bodies (RFC 9110, section 8.4): gzip (RFC 1952), deflate (RFC 1950, and RFC 1951
// without its wrapper, as clients accept it), br (RFC 7932) and zstd (RFC 8878). Bytes go in as they come, and what they stand for
// comes out as soon as it is there, so an event stream in gzip still flows.
//
// # Two readers
//
// [Decoder] is for an answer, which goes on without its coding. The agent gets our reading of it and no other, so whatever is
// well formed is read: several members of gzip, several frames of zstd.
//
// [Whole] is for a request, which goes on as it came and is read again by the target. So there is one coding, and in it one
// member or frame with nothing around it: readers differ in whether they read on after the first, and in what they make of a
// deflate that can be read with and without its wrapper.
//
// # Bounds
//
// A body of more than [Free] bytes that is more than [Ratio] times as long as what came for it is not read further. The ratio is
// that of each coding's output, also where two are stacked, so that nothing large is made on the way to something small. Windows are at most 8 MiB for
// zstd (RFC 9659) and 16 MiB for br, the most that its standard has. [Memory] says what a decoder takes.
//
// # No goroutine of its own
//
// The libraries pull their input, and here it is pushed. A decoder runs as a coroutine ([iter.Pull]): it takes turns
// with its caller and never runs beside it, and its panics are the caller's. [Decoder.Close] ends it.
package coding

import (
	"fmt"
	"strings"
)

// Coding is one content coding. The zero value is none, and nothing is read by it.
type Coding uint8

// The codings that are known.
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

// maxStacked is how many codings are taken off one body.
const maxStacked = 2

// The bounds of what is made of a body: Free bytes of any, and Ratio times what came of it for one that has more. A table of rows
// that differ in their numbers is compressed to a tenth or a fiftieth, a text of one letter to a thousandth and less.
const (
	Free  = 1 << 20
	Ratio = 200
)

// Most is the most that is made of n bytes.
func Most(n int64) int64 { return max(Free, Ratio*n) }

// Error says why a body is not read. Its reason follows on the name of the body, and has nothing of its content.
type Error struct {
	Reason string
	Long   bool // it may be well formed: it has more bytes than the caller takes
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

// What a decoder keeps at most: its window, its tables and what it has read ahead (TestMemory).
var memory = [...]int64{0, 192 << 10, 192 << 10, 20 << 20, 12 << 20}

// Memory is about how many bytes of memory it takes to undo codings.
func Memory(codings ...Coding) (n int64) {
	for _, c := range codings {
		n += memory[c]
	}
	return n
}
