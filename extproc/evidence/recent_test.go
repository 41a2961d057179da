package evidence

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

// TestRecordsInMemoryAreThoseOfTheFiles: whoever reads the journal that is being written gets the same of a record whether it comes from
// memory, from a file because memory has it no longer, or from memory again; and no buffer that was used again shows through.
func TestRecordsInMemoryAreThoseOfTheFiles(t *testing.T) {
	f := newFixture(t)
	f.opts.SegmentBytes = 8 << 10
	j := f.open()
	j.recent.most = 6 << 10
	r := j.Reader(1)
	defer r.Close()
	var got []Entry
	memory, file := 0, 0
	read := func(most int) {
		t.Helper()
		for range most {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, e); r.write.has(e.Seq) {
				memory++
			} else {
				file++
			}
		}
	}
	write := func(n int) {
		t.Helper()
		for i := range n {
			record := decided(fmt.Sprintf("op-%d\"é", i), gate.Allow)
			record.Body.(*gate.Decision).Target = fmt.Sprintf("/%0*d\n", 1+i*37%900, i)
			if i%8 < 2 && i < n-1 { // some writes have several
				if err := j.Post(t.Context(), record); err != nil {
					t.Fatal(err)
				}
			} else if _, err := j.Append(t.Context(), record); err != nil {
				t.Fatal(err)
			}
		}
	}
	read(1) // from now on memory is kept
	for range 5 {
		write(3)
		read(3)
		write(40) // more than memory holds
		read(20)
		write(2)
		read(1000)
	}
	if memory < 30 || file < 30 {
		t.Errorf("%d records were read from memory and %d from files", memory, file)
	}
	if j.recent.bytes > j.recent.most || len(j.recent.writes) == 0 {
		t.Errorf("memory has %d bytes, in %d writes", j.recent.bytes, len(j.recent.writes))
	}
	var want []Entry
	for e, err := range Records(t.Context(), j.Dir(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, e)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-files +read):\n%s", diff)
	}
}

// TestNobodyReadsNothingIsKept: a journal without a reader at its end keeps no records in memory.
func TestNobodyReadsNothingIsKept(t *testing.T) {
	f := newFixture(t)
	j := f.open()
	for range 20 {
		if _, err := j.Append(t.Context(), decided("op", gate.Allow)); err != nil {
			t.Fatal(err)
		}
	}
	if len(j.recent.writes) > 0 {
		t.Errorf("%d writes are kept", len(j.recent.writes))
	}
}
