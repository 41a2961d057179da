package evidence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

// unsynced makes a journal of three durable records and a batch of n, as it is before the sync of the batch: durable is how long the
// segment is without it.
func unsynced(t testing.TB, n int) (f *fixture, text string, durable int) {
	t.Helper()
	for {
		f = newFixture(t)
		j := f.open()
		for i := range 3 {
			mustAppend(t, j, event(i))
		}
		for i := range n - 1 {
			j.Begin(t.Context(), &gate.Record{Type: "alarm", Body: gate.Object{{Name: "x", Value: strings.Repeat("x", i*397%1500)}}})
		}
		mustAppend(t, j, event(n))
		f.crash(j)
		text = strings.TrimRight(f.read(f.segment()), "\x00")
		lines := strings.SplitAfter(text, "\n")
		first, err := parse([]byte(strings.TrimSuffix(lines[3], "\n")))
		if err != nil {
			t.Fatal(err)
		}
		last, err := parse([]byte(strings.TrimSuffix(lines[n+2], "\n")))
		if err != nil {
			t.Fatal(err)
		}
		if first.Time.Equal(last.Time) { // else something else had the writer begin early
			return f, text, len(strings.Join(lines[:3], ""))
		}
	}
}

// scanned is what a start finds, without what it does then.
func (f *fixture) scanned() (*recovered, error) {
	f.t.Helper()
	list, err := segments(f.dir)
	if err != nil {
		f.t.Fatal(err)
	}
	r := &recovered{open: map[uint64]string{}}
	return r, r.scan(context.Background(), f.opts, list)
}

// TestAnyPartOfAWriteIsCut: whatever sectors of a batch a disk has written, in whatever order it writes them, the start finds all that
// was durable and cuts off what is not whole, and verifying passes before and after.
func TestAnyPartOfAWriteIsCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ records, size int }{{1, sector}, {3, sector}, {8, sector}, {40, sector}, {40, 4 << 10}, {200, 4 << 10}} {
		t.Run(fmt.Sprintf("%d records in pieces of %d", c.records, c.size), func(t *testing.T) {
			f, text, durable := unsynced(t, c.records)
			from, to := durable/c.size, (len(text)-1)/c.size+1
			pieces := to - from
			torn := func(stored func(piece int) bool) string {
				left := make([]byte, len(text)+64<<10)
				copy(left, text[:durable])
				for i := range pieces {
					if begin, end := max((from+i)*c.size, durable), min((from+i+1)*c.size, len(text)); stored(i) {
						copy(left[begin:end], text[begin:end])
					}
				}
				return string(left)
			}
			before := f.files()
			check := func(name, left string, opens bool) {
				t.Helper()
				for name, content := range before {
					f.write(name, content)
				}
				f.write(f.segment(), left)
				r, err := f.scanned()
				if err != nil || r.chain.seq < 3 || r.size < int64(durable) || left[:r.size] != text[:r.size] {
					t.Fatalf("%s: the start finds %d records in %d bytes of %d, %v", name, r.chain.seq, r.size, durable, err)
				}
				if end := len(strings.TrimRight(left, "\x00")); r.torn != int64(end)-r.size && r.torn != 0 || r.torn == 0 && int64(end) > r.size {
					t.Fatalf("%s: %d bytes after byte %d are torn, and what is written ends at %d", name, r.torn, r.size, end)
				}
				v := f.mustVerify()
				if v.Records != r.chain.seq || int64(v.InProgress) != r.torn {
					t.Fatalf("%s: verifying finds %d records and %d bytes, a start %d and %d", name, v.Records, v.InProgress, r.chain.seq, r.torn)
				}
				if shown := len(f.story()); shown != int(r.chain.seq) {
					t.Fatalf("%s: %d records are shown of %d", name, shown, r.chain.seq)
				}
				if !opens {
					return
				}
				j := f.open()
				mustAppend(t, j, event(99))
				f.crash(j)
				if story := f.story(); story[len(story)-1] != "policy.activated n=99" || r.torn > 0 && !strings.HasPrefix(story[len(story)-2], "alarm kind=torn_tail") {
					t.Fatalf("%s: the journal holds %q", name, story)
				}
				f.mustVerify()
			}
			for i := range pieces {
				check(fmt.Sprintf("all but piece %d", i), torn(func(p int) bool { return p != i }), i%16 == 0)
				check(fmt.Sprintf("piece %d alone", i), torn(func(p int) bool { return p == i }), false)
				check(fmt.Sprintf("up to piece %d", i), torn(func(p int) bool { return p < i }), false)
				check(fmt.Sprintf("from piece %d on", i), torn(func(p int) bool { return p >= i }), false)
			}
			random := rand.New(rand.NewPCG(3, 4))
			for range 40 {
				some := random.Uint64()
				check(fmt.Sprintf("pieces %b", some), torn(func(p int) bool { return some>>(p%64)&1 == 1 }), false)
			}
		})
	}
}

// TestAWriteIsCutAtEveryByte: one that came to its nth byte, in what was prepared and at the end of the file.
func TestAWriteIsCutAtEveryByte(t *testing.T) {
	t.Parallel()
	f, text, durable := unsynced(t, 4)
	for n := durable; n <= len(text); n++ {
		for _, prepared := range []string{"", strings.Repeat("\x00", 3000)} {
			f.write(f.segment(), text[:n]+prepared)
			r, err := f.scanned()
			whole := strings.LastIndexByte(text[:n], '\n') + 1
			if err != nil || r.size != int64(whole) || r.torn != int64(n-whole) {
				t.Fatalf("%d bytes and %d zeros: a start finds %d and %d torn, %v", n, len(prepared), r.size, r.torn, err)
			}
			if n%5 != 0 {
				continue
			}
			if v := f.mustVerify(); v.InProgress != n-whole || v.Records != r.chain.seq {
				t.Fatalf("%d bytes and %d zeros: %+v", n, len(prepared), v)
			}
		}
	}
}

// TestZerosOverDurableRecordsAreDamage: whoever puts zeros over records that were durable, and are not covered by a checkpoint yet,
// is found by a start, which changes nothing, by verifying and by whoever reads on.
func TestZerosOverDurableRecordsAreDamage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j := f.open()
	for n := range 40 {
		mustAppend(t, j, event(n))
	}
	f.crash(j)
	text := strings.TrimRight(f.read(f.segment()), "\x00")
	last := strings.LastIndexByte(text[:len(text)-1], '\n') + 1
	before := strings.LastIndexByte(text[:last-1], '\n') + 1
	for _, n := range []int{1, 100, sector, 1000, 4 << 10} {
		for from := 0; from+n <= last; from += 61 {
			for _, at := range []int{from, from / sector * sector} {
				possible := (at+n)%sector == 0 && (at%sector == 0 || text[at-1] == '\n')
				if possible && at+n > before {
					continue // this can be of a write that was cut off, and had the last record
				}
				left := text[:at] + strings.Repeat("\x00", n) + text[at+n:]
				f.write(f.segment(), left+strings.Repeat("\x00", 5000))
				if r, err := f.scanned(); err == nil {
					t.Fatalf("%d zeros at byte %d of %d: a start finds %d records, and cuts %d bytes", n, at, len(text), r.chain.seq, r.torn)
				}
				if r := f.verify(); r.Passed() {
					t.Fatalf("%d zeros at byte %d of %d verify", n, at, len(text))
				}
				var failed error
				for _, err := range Records(t.Context(), f.dir, Filter{}) {
					failed = err
				}
				if failed == nil {
					t.Fatalf("%d zeros at byte %d of %d: the records before are shown as if there were no more", n, at, len(text))
				}
			}
		}
	}
	_, err := Open(t.Context(), f.opts)
	if err == nil || !strings.Contains(err.Error(), "where record ") {
		t.Errorf("a start: %v", err)
	}
}

// TestReadersEndWhereZerosDo: what was prepared is not there, for whoever reads, shows, exports or looks backwards.
func TestReadersEndWhereZerosDo(t *testing.T) {
	f := left(t)
	whole := f.read(f.segment())
	f.write(f.segment(), whole+strings.Repeat("\x00", 2<<20))
	if got := f.story(); len(got) != 4 {
		t.Errorf("%q", got)
	}
	if got := numbers(t, Backward(t.Context(), f.dir, From{})); len(got) != 4 {
		t.Errorf("backwards: %v", got)
	}
	if got := numbers(t, Forward(t.Context(), f.dir, 1, 4)); len(got) != 3 {
		t.Errorf("forwards: %v", got)
	}
	var archive bytes.Buffer
	if err := Export(t.Context(), f.dir[:len(f.dir)-len("/journal")], &archive); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(unpacked(t, &archive) + "/journal/" + f.segment())
	if err != nil || string(text) != whole {
		t.Errorf("exported: %q, %v", text, err)
	}
	if r := f.mustVerify(); r.Records != 4 || r.InProgress != 0 {
		t.Errorf("%+v", r)
	}
	// A record that is written over the zeros is there, for a reader that has seen them.
	r := NewReader(f.dir, 1, nil)
	defer r.Close()
	for range 4 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Next(); err == nil || !errors.Is(err, io.EOF) {
		t.Fatalf("at the end: %v", err)
	}
	lines := strings.SplitAfter(whole, "\n")
	more := strings.Replace(strings.Replace(lines[3], `"seq":4`, `"seq":5`, 1), `{"n":4}`, `{"n":5}`, 1)
	all := append(lines[:4:4], more)
	rechain(all, 4)
	file, err := os.OpenFile(segmentPath(f.dir, 1), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for i, part := range []string{all[4][:50], all[4]} {
		if _, err := file.WriteAt([]byte(part), int64(len(whole))); err != nil {
			t.Fatal(err)
		}
		if e, err := r.Next(); i == 0 && !errors.Is(err, io.EOF) || i == 1 && (err != nil || e.Seq != 5) {
			t.Errorf("with %d bytes more: record %d, %v", len(part), e.Seq, err)
		}
	}
	// Zeros at the end of a segment that others follow are none of the journal's.
	f.write(fmt.Sprintf("%020d%s", 6, segmentSuffix), "")
	if v := f.verify(); v.Passed() {
		t.Error("zeros in a segment that is not the last verify")
	}
	if _, err := r.Next(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("zeros in a segment that is not the last are read over: %v", err)
	}
}
