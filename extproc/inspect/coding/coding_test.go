package coding

import (
	"bytes"
	stdflate "compress/flate"
	stdgzip "compress/gzip"
	stdzlib "compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

type flusher interface {
	io.WriteCloser
	Flush() error
}

// writers are another's for gzip and deflate, so that our reading is held to more than itself.
var writers = map[string]func(io.Writer) flusher{
	"gzip":    func(w io.Writer) flusher { return stdgzip.NewWriter(w) },
	"deflate": func(w io.Writer) flusher { return stdzlib.NewWriter(w) },
	"raw": func(w io.Writer) flusher {
		z, err := stdflate.NewWriter(w, -1)
		if err != nil {
			panic(err)
		}
		return z
	},
	"br": func(w io.Writer) flusher { return brotli.NewWriter(w) },
	"zstd": func(w io.Writer) flusher {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err)
		}
		return z
	},
}

func encode(t testing.TB, name, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := writers[name](&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func codingOf(name string) Coding {
	if name == "raw" {
		return Deflate
	}
	return Of(name)
}

// decode gives body in pieces of n bytes.
func decode(codings []Coding, body []byte, n int) (string, error) {
	d := NewDecoder(codings)
	defer d.Close()
	var out strings.Builder
	for {
		part := body[:min(n, len(body))]
		body = body[len(part):]
		for piece, err := range d.Decode(part, len(body) == 0) {
			if out.Write(piece); err != nil {
				return out.String(), err
			}
		}
		if len(body) == 0 {
			return out.String(), nil
		}
	}
}

const sample = `{"customers":[{"ssn":"987-65-4320","email":"ada@example.com"},{"ssn":"987-65-4321","email":"bob@example.com"}]}`

func TestDecode(t *testing.T) {
	long := strings.Repeat(sample, 3000)
	for name := range writers {
		for _, text := range []string{"", "a", sample, long} {
			body := encode(t, name, text)
			for _, n := range []int{1, 7, 4096, len(body)} {
				if got, err := decode([]Coding{codingOf(name)}, body, n); got != text || err != nil {
					t.Errorf("%s of %d bytes in pieces of %d: %d bytes, %v", name, len(text), n, len(got), err)
				}
			}
			if got, err := Whole(codingOf(name), body, int64(len(text))); string(got) != text || err != nil {
				t.Errorf("the whole %s of %d bytes: %d bytes, %v", name, len(text), len(got), err)
			}
		}
		twice := encode(t, "br", string(encode(t, name, sample)))
		if got, err := decode([]Coding{codingOf(name), Brotli}, twice, 3); got != sample || err != nil {
			t.Errorf("%s in br: %q, %v", name, got, err)
		}
		if got, err := decode([]Coding{codingOf(name)}, nil, 1); got != "" || err != nil {
			t.Errorf("%s of no bytes: %q, %v", name, got, err)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name   string
		values []string
		want   []Coding
		reason string
	}{
		{"none", nil, nil, ""},
		{"nothing in it", []string{"", " ", ","}, nil, ""},
		{"identity", []string{"Identity"}, nil, ""},
		{"each", []string{"gzip"}, []Coding{Gzip}, ""},
		{"in capitals, behind identity", []string{"identity, BR"}, []Coding{Brotli}, ""},
		{"an old name", []string{"X-Gzip"}, []Coding{Gzip}, ""},
		{"an old name of another", []string{"x-br"}, nil, "x-br"},
		{"two, in one field and in two", []string{"gzip", "zstd"}, []Coding{Gzip, Zstd}, ""},
		{"three", []string{"gzip, gzip", "deflate"}, nil, "more than 2 times"},
		{"unknown", []string{"compress"}, nil, "(Content-Encoding: compress)"},
		{"unknown behind a known one", []string{"gzip;q=1"}, nil, "cannot be read here"},
		{"the name of none", []string{"no coding"}, nil, "cannot be read here"},
	} {
		got, err := Parse(c.values)
		if diff := cmp.Diff(c.want, got); diff != "" || (err == nil) != (c.reason == "") || err != nil && !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v\n%s", c.name, err, diff)
		}
	}
}

// What is not whole, or not what it says, never looks complete.
func TestWhatCannotBeRead(t *testing.T) {
	for name := range writers {
		body := encode(t, name, sample)
		for n := 1; n < len(body); n++ {
			if got, err := decode([]Coding{codingOf(name)}, body[:n], 5); err == nil {
				t.Errorf("%s cut after %d of %d bytes passes for %q", name, n, len(body), got)
			}
		}
		for _, rest := range []string{"\x00", "garbage", "{}"} {
			if got, err := decode([]Coding{codingOf(name)}, append(slices.Clone(body), rest...), 5); err == nil {
				t.Errorf("%s with %q after it passes for %q", name, rest, got)
			}
		}
		if _, err := decode([]Coding{codingOf(name)}, []byte(sample), 5); err == nil {
			t.Errorf("%s that is plain text passes", name)
		}
	}
	for name, from := range map[string]int{"gzip": 8, "deflate": 4, "zstd": 4} {
		body := encode(t, name, sample)
		body[len(body)-from] ^= 1
		if _, err := decode([]Coding{Of(name)}, body, 5); err == nil {
			t.Errorf("%s with a wrong checksum passes", name)
		}
	}
}

// An answer goes on in our reading, so all that its coding allows is read.
func TestSeveralMembers(t *testing.T) {
	for _, name := range []string{"gzip", "zstd"} {
		body := append(encode(t, name, sample), encode(t, name, sample)...)
		if got, err := decode([]Coding{Of(name)}, body, 7); got != sample+sample || err != nil {
			t.Errorf("two of %s: %q, %v", name, got, err)
		}
	}
}

func TestWholeRefusesWhatOthersReadInOtherWays(t *testing.T) {
	gz, zs := encode(t, "gzip", sample), encode(t, "zstd", sample)
	flags := func(f byte, more string) []byte {
		b := append(slices.Clone(gz[:10]), more...)
		b[3] = f
		return append(b, gz[10:]...)
	}
	skipped := []byte("\x50\x2a\x4d\x18\x01\x00\x00\x00x")
	both := ambiguousDeflate(t)
	for _, c := range []struct {
		name   string
		coding Coding
		body   []byte
		passes bool
	}{
		{"gzip", Gzip, gz, true},
		{"gzip with the name of a file", Gzip, flags(8, "a.json\x00"), true},
		{"gzip with a comment", Gzip, flags(16, "amount=1\x00"), false},
		{"gzip with more fields", Gzip, flags(4, "\x01\x00x"), false},
		{"gzip, twice", Gzip, append(slices.Clone(gz), gz...), false},
		{"gzip and a member of nothing", Gzip, append(slices.Clone(gz), encode(t, "gzip", "")...), false},
		{"gzip and zeros", Gzip, append(slices.Clone(gz), 0, 0), false},
		{"zstd, twice", Zstd, append(slices.Clone(zs), zs...), false},
		{"zstd after what is skipped", Zstd, append(slices.Clone(skipped), zs...), false},
		{"zstd before what is skipped", Zstd, append(slices.Clone(zs), skipped...), false},
		{"deflate that is another without its wrapper", Deflate, both, false},
		{"br and more", Brotli, append(encode(t, "br", sample), 3), false},
	} {
		if got, err := Whole(c.coding, c.body, 1<<20); (err == nil) != c.passes {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	if got, err := decode([]Coding{Deflate}, both, 3); err != nil {
		t.Errorf("an answer in the same deflate: %q, %v", got, err)
	}
}

// ambiguousDeflate makes a zlib that is also the beginning of a raw deflate. What a raw reading takes for the length of a stored
// block and its complement, 0x0001 and 0xFFFE, is to the other the end of the head, and the length of its own first block.
func ambiguousDeflate(t *testing.T) []byte {
	t.Helper()
	content := bytes.Repeat([]byte("a"), 0xFFFE)
	b := bytes.NewBuffer([]byte{0x78, 0x01, 0x00, 0xFE, 0xFF, 0x01, 0x00})
	b.Write(content)
	b.Write([]byte{0x01, 0x00, 0x00, 0xFF, 0xFF})
	b.Write(binary.BigEndian.AppendUint32(nil, adler32.Checksum(content)))
	z, err := stdzlib.NewReader(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("another's reading: %d bytes, %v", len(got), err)
	}
	return b.Bytes()
}

// What was flushed is there at once.
func TestFlushedIsThereAtOnce(t *testing.T) {
	for name, writer := range writers {
		var b bytes.Buffer
		w, d := writer(&b), NewDecoder([]Coding{codingOf(name)})
		defer d.Close()
		for i := range 20 {
			event := fmt.Sprintf("data: {\"n\": %d}\n\n", i)
			if _, err := io.WriteString(w, event); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for piece, err := range d.Decode(b.Bytes(), false) {
				if got.Write(piece); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			b.Reset()
			if got.String() != event {
				t.Errorf("%s: after %q was flushed, %q is there", name, event, got.String())
			}
		}
	}
}

// bombs expand by more than Ratio.
func bombs(t testing.TB) map[string]struct {
	codings []Coding
	body    []byte
} {
	t.Helper()
	zeros := strings.Repeat("0", 16<<20)
	all := map[string]struct {
		codings []Coding
		body    []byte
	}{}
	for name := range writers {
		all[name] = struct {
			codings []Coding
			body    []byte
		}{[]Coding{codingOf(name)}, encode(t, name, zeros)}
	}
	nothings := strings.Repeat(string(encode(t, "gzip", "")), 1<<20) // nothing at the end, and much on the way to it
	all["gzip of nothing, many times, in br"] = struct {
		codings []Coding
		body    []byte
	}{[]Coding{Gzip, Brotli}, encode(t, "br", nothings)}
	return all
}

func TestBombs(t *testing.T) {
	for name, bomb := range bombs(t) {
		d := NewDecoder(bomb.codings)
		made := 0
		var end error
		for piece, err := range d.Decode(bomb.body, true) {
			made, end = made+len(piece), err
		}
		d.Close()
		if end == nil || !strings.Contains(end.Error(), "expands to more than 200 times its size") || made > Free {
			t.Errorf("%s: %d bytes of %d, then %v", name, made, len(bomb.body), end)
		}
	}
	for name := range writers {
		var long *Error
		if _, err := Whole(codingOf(name), encode(t, name, sample), int64(len(sample)-1)); !errors.As(err, &long) || !long.Long {
			t.Errorf("%s of more than is taken: %v", name, err)
		}
	}
}

// What is repeated much is no bomb while there is little of it.
func TestRepetitionIsNoBomb(t *testing.T) {
	text := strings.Repeat("0", Free)
	for name := range writers {
		if got, err := decode([]Coding{codingOf(name)}, encode(t, name, text), 4096); got != text || err != nil {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// Each decoder ends with Close, wherever it stands.
func TestNoGoroutineIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	for name := range writers {
		body := encode(t, name, sample)
		for _, n := range []int{0, 1, len(body) / 2, len(body)} {
			d := NewDecoder([]Coding{codingOf(name), Gzip})
			for range d.Decode(body[:n], false) {
			}
			d.Close()
			d.Close()
		}
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines more", after-before)
	}
}

// Memory is what the widest windows take.
func TestMemory(t *testing.T) {
	random := make([]byte, 20<<20)
	x := uint64(1)
	for i := range random {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		random[i] = byte(x >> 24)
	}
	for name, writer := range map[string]func(io.Writer) flusher{
		"gzip": writers["gzip"],
		"br": func(w io.Writer) flusher {
			return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: 2, LGWin: 24})
		},
		"zstd": func(w io.Writer) flusher {
			z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(maxWindow))
			if err != nil {
				t.Fatal(err)
			}
			return z
		},
	} {
		var body bytes.Buffer
		w := writer(&body)
		if _, err := w.Write(random); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		heap := func() int64 {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc + m.StackInuse)
		}
		before := heap()
		d := NewDecoder([]Coding{Of(name)})
		for _, err := range d.Decode(body.Bytes()[:body.Len()-10], false) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if took, counted := heap()-before, Memory(Of(name)); took > counted {
			t.Errorf("%s takes %d bytes, and counts as %d", name, took, counted)
		} else {
			t.Logf("%s: %d of %d", name, took, counted)
		}
		d.Close()
		runtime.KeepAlive(body)
	}
}

// Any split of the chunks gives the same, what comes out is bounded, nothing panics, and what Whole accepts a Decoder reads alike.
func FuzzDecode(f *testing.F) {
	for name := range writers {
		body := encode(f, name, sample)
		f.Add(byte(codingOf(name)), body, 3)
		f.Add(byte(codingOf(name)), append(slices.Clone(body), body...), 1)
		f.Add(byte(codingOf(name)), body[:len(body)/2], 2)
		f.Add(byte(codingOf(name)), encode(f, name, strings.Repeat("0", 3<<20)), 9)
		f.Add(byte(codingOf(name))|8, encode(f, "gzip", string(body)), 9)
	}
	f.Fuzz(func(t *testing.T, which byte, body []byte, n int) {
		codings := []Coding{Coding(which%4) + 1}
		if which&8 != 0 {
			codings = append(codings, Gzip)
		}
		whole, err := decode(codings, body, max(1, len(body)))
		if int64(len(whole)) > Most(int64(len(body))) {
			t.Fatalf("%d bytes of %d", len(whole), len(body))
		}
		split, splitErr := decode(codings, body, 1+n&0xFFF)
		bounded := strings.Contains(fmt.Sprint(err, splitErr), "expands") // how much was read ahead of a bomb is the library's
		if !bounded && (whole != split || fmt.Sprint(err) != fmt.Sprint(splitErr)) {
			t.Fatalf("at once %d bytes, %v; in pieces %d bytes, %v", len(whole), err, len(split), splitErr)
		}
		if read, strictErr := Whole(codings[0], body, 1<<20); strictErr == nil {
			if loose, err := decode(codings[:1], body, 5); err != nil || loose != string(read) {
				t.Fatalf("Whole has %d bytes, a Decoder %d and %v", len(read), len(loose), err)
			}
			agrees(t, codings[0], body, read)
		}
	})
}

// agrees holds our reading to that of the standard library.
func agrees(t *testing.T, c Coding, body, ours []byte) {
	t.Helper()
	var r io.Reader
	var err error
	switch {
	case len(body) == 0:
		return
	case c == Gzip:
		r, err = stdgzip.NewReader(bytes.NewReader(body))
	case c == Deflate && wrapped(body):
		r, err = stdzlib.NewReader(bytes.NewReader(body))
	case c == Deflate:
		r = stdflate.NewReader(bytes.NewReader(body))
	default:
		return
	}
	if err != nil {
		t.Fatalf("another refuses the %s: %v", c, err)
	}
	if theirs, err := io.ReadAll(r); err != nil || !bytes.Equal(theirs, ours) {
		t.Fatalf("another reads the %s as %d bytes, %v, and we as %d", c, len(theirs), err, len(ours))
	}
}
