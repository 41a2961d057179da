package otlp

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
)

// operation returns the records of one operation that was let through, as a story left them: decided, finished, transit.
func operation(t testing.TB) (list []*evidence.Entry) {
	t.Helper()
	lines, err := os.ReadFile(filepath.Join("testdata", "records.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var transit *evidence.Entry
	for line := range bytes.Lines(lines) {
		e := entryOf(t, bytes.TrimSpace(line))
		switch {
		case e.Type == gate.Transit:
			transit = e
		case e.Type == gate.OperationDecided && evidence.Value(e.Body).Get("effect").Is("allow"):
			list = []*evidence.Entry{e}
		case e.Type == gate.OperationFinished && len(list) == 1 && whole(evidence.Value(e.Body).Get("decided")) == list[0].Seq && transit != nil:
			return append(list, e, transit)
		}
	}
	t.Fatal("there is no such operation in testdata")
	return nil
}

// BenchmarkEncodeOperation encodes all records of one operation. The target is 10 µs.
func BenchmarkEncodeOperation(b *testing.B) {
	records := operation(b)
	j := newJoiner(b.TempDir(), kindsOf([]Kind{said}))
	size := 0
	b.ReportAllocs()
	for b.Loop() {
		j.room(true)
		for _, r := range records {
			size = len(j.item(r).encoded)
		}
		size = len(j.b)
	}
	b.ReportMetric(float64(size), "bytes/op")
	lines := 0
	for _, r := range records {
		lines += len(r.Line)
	}
	b.ReportMetric(float64(lines), "lines-bytes/op")
}
