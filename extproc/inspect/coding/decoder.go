package coding

import (
	"bufio"
	"errors"
	"io"
	"iter"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

const (
	pieceBytes = 32 << 10 // a decoder yields at most this much at a time
	maxWindow  = 8 << 20  // of zstd
)

// Decoder decodes one body as it comes. It is for one goroutine at a time. Close ends it.
type Decoder struct {
	codings []Coding
	strict  bool // see Whole

	chunk []byte // what came and was not read yet
	last  bool   // nothing comes after chunk
	read  int64  // bytes of the body that were read

	yield func([]byte, error) bool // of the coroutine; yield(nil, nil) asks for more input
	next  func() ([]byte, error, bool)
	stop  func()
	err   error
}

// NewDecoder returns a decoder for a body to which codings were applied in that order.
func NewDecoder(codings []Coding) *Decoder { return newDecoder(codings, false) }

func newDecoder(codings []Coding, strict bool) *Decoder {
	d := &Decoder{codings: codings, strict: strict}
	d.next, d.stop = iter.Pull2(d.run)
	return d
}

// Decode takes the next bytes of the body and yields what they decode to, in pieces that are valid until the next one. last
// says that no bytes follow. An error is an [*Error], and final. The caller takes all that is yielded, or calls Close.
func (d *Decoder) Decode(chunk []byte, last bool) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		d.chunk, d.last = chunk, last
		for d.err == nil {
			piece, err, more := d.next()
			if !more || piece == nil && err == nil {
				return
			}
			if !yield(piece, err) {
				return
			}
		}
	}
}

// Close ends the decoder. It may be called twice, and on nil.
func (d *Decoder) Close() {
	if d != nil {
		d.stop()
	}
}

// run is the coroutine.
func (d *Decoder) run(yield func([]byte, error) bool) {
	d.yield = yield
	var body io.Reader = source{d}
	for i := len(d.codings) - 1; i >= 0; i-- {
		l := &layer{decoder: d, coding: d.codings[i], from: bufio.NewReader(body)}
		defer l.close()
		body = l
	}
	piece := make([]byte, pieceBytes)
	for {
		n, err := body.Read(piece)
		if n > 0 && !yield(piece[:n], nil) || errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			yield(nil, d.fail(err))
			return
		}
	}
}

// fail keeps the first error and returns it. The decoders above that layer may report it in their own words.
func (d *Decoder) fail(err error) error {
	if d.err == nil {
		d.err = err
	}
	return d.err
}

// source reads the body as it comes. To wait for more, it gives the turn to the caller.
type source struct{ *Decoder }

func (s source) Read(p []byte) (int, error) {
	for len(s.chunk) == 0 {
		if s.last {
			return 0, io.EOF
		}
		if !s.yield(nil, nil) {
			return 0, s.fail(fail("was not read to its end"))
		}
	}
	n := copy(p, s.chunk)
	s.chunk = s.chunk[n:]
	s.read += int64(n)
	return n, nil
}

// layer decodes one coding.
type layer struct {
	decoder *Decoder
	coding  Coding
	from    *bufio.Reader
	body    io.Reader // nil until it is opened
	closer  func()
	made    int64 // bytes of output
	end     error // how body ended, or why it could not be opened
}

func (l *layer) close() {
	if l.closer != nil {
		l.closer()
	}
}

func (l *layer) Read(p []byte) (int, error) {
	if l.body == nil && l.end == nil {
		l.end = l.open()
	}
	if l.end != nil {
		return 0, l.ended()
	}
	n, err := l.body.Read(p)
	l.made += int64(n)
	if l.made > Most(l.decoder.read) {
		return 0, l.decoder.fail(fail("expands to more than %d times its size", Ratio))
	}
	if l.end = err; n == 0 && err != nil {
		return 0, l.ended()
	}
	return n, nil
}

// ended says how the coding ended: with io.EOF, if nothing follows, or an error.
func (l *layer) ended() error {
	switch {
	case errors.Is(l.end, io.ErrUnexpectedEOF):
		return l.decoder.fail(fail("ends in the middle of its %s", l.coding))
	case !errors.Is(l.end, io.EOF):
		return l.decoder.fail(fail("cannot be read as the %s that its Content-Encoding says", l.coding))
	}
	if _, err := l.from.Peek(1); err == nil {
		return l.decoder.fail(fail("goes on after the end of its %s", l.coding))
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return io.EOF
}

// open begins to read. An empty body is valid in every coding.
func (l *layer) open() (err error) {
	if _, err = l.from.Peek(1); err != nil {
		return err
	}
	switch l.coding {
	case Gzip:
		var z *gzip.Reader
		if z, err = gzip.NewReader(l.from); err == nil {
			z.Multistream(!l.decoder.strict)
			l.body = z
		}
	case Deflate:
		if head, _ := l.from.Peek(2); wrapped(head) {
			l.body, err = zlib.NewReader(l.from)
		} else {
			l.body = flate.NewReader(l.from)
		}
	case Brotli:
		l.body = brotli.NewReader(l.from)
	case Zstd:
		var z *zstd.Decoder
		if z, err = zstd.NewReader(l.from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			l.body, l.closer = z, z.Close
		}
	default:
		err = fail("has a coding that is not known")
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// wrapped reports whether a deflate begins with the header of RFC 1950.
func wrapped(head []byte) bool {
	return len(head) >= 2 && head[0]&0x0F == 8 && head[0]>>4 <= 7 && (int(head[0])<<8|int(head[1]))%31 == 0
}
