package otlp

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/extproc/evidence"
)

var update = flag.Bool("update", false, "write what records are encoded as to testdata")

// entryOf reads a line of testdata/records.jsonl, which need not follow the line before.
func entryOf(t testing.TB, line []byte) *evidence.Entry {
	t.Helper()
	var r struct {
		Body           json.RawMessage
		Node, Op, Type string
		Seq            uint64
		Time           time.Time
	}
	if err := json.Unmarshal(line, &r); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	hash := hex.EncodeToString(bytes.Repeat([]byte{byte(r.Seq)}, 32))
	return &evidence.Entry{Seq: r.Seq, Node: r.Node, Op: r.Op, Type: r.Type, Time: r.Time, Body: r.Body, Line: line, Hash: hash}
}

// decoded reads an item with the generated types.
func decoded(t testing.TB, it *item) proto.Message {
	t.Helper()
	var m proto.Message = &logspb.ScopeLogs{}
	if it.ended {
		m = &tracepb.ScopeSpans{}
	}
	if err := proto.Unmarshal(it.encoded, m); err != nil {
		t.Fatalf("what is sent for record %d is not OTLP: %v", it.seq, err)
	}
	if n := len(m.ProtoReflect().GetUnknown()); n > 0 {
		t.Errorf("what is sent for record %d has %d bytes that OTLP does not know", it.seq, n)
	}
	return m
}

// TestRecordsAreEncodedAsBefore: testdata has a record of each type and shape, most of them of this program's stories, and what was
// made of them with OTLP's own types before records were encoded without these.
func TestRecordsAreEncodedAsBefore(t *testing.T) {
	lines, err := os.ReadFile(filepath.Join("testdata", "records.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	j := newJoiner(t.TempDir(), kindsOf([]Kind{said}))
	var got []byte
	for line := range bytes.Lines(lines) {
		it := j.item(entryOf(t, bytes.TrimSpace(line)))
		got = append(got, asJSON(t, decoded(t, it))...)
	}
	file := filepath.Join("testdata", "records.otlp.jsonl")
	if *update {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// asJSON is a line of JSON: protojson itself puts white space anywhere, on purpose.
func asJSON(t testing.TB, m proto.Message) []byte {
	t.Helper()
	text, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil {
		t.Fatal(err)
	}
	line.WriteByte('\n')
	return line.Bytes()
}
