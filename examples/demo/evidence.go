package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
)

// record is a line of the journal.
type record struct {
	Type string `json:"type"`
	Op   string `json:"op"`
	Body struct {
		Effect   string   `json:"effect"`
		Rules    []string `json:"rules"`
		Reason   string   `json:"reason"`
		Result   string   `json:"result"`
		Status   int      `json:"status"`
		Decision string   `json:"decision"` // of a person
	} `json:"body"`
}

// journal reads what `evidence show --json` prints.
func (d *demo) journal(types string) []record {
	d.tb.Helper()
	out, code := d.countersign("evidence", "show", "--json", "--type", types, "--config", d.config())
	if code != 0 {
		d.failf("evidence show: %s", out)
	}
	var records []record
	for line := range strings.Lines(out) {
		var r record
		d.check("read a record", json.Unmarshal([]byte(line), &r))
		records = append(records, r)
	}
	return records
}

// telling is what records must say: what was decided, and how the operation ended.
type telling struct{ said, ended string }

// recorded is what the journal must say of what the agent asked and people answered, in order.
func (d *demo) recorded() []telling {
	refund := []telling{
		{"approval.requested", ""},
		{"ask refund", "completed 201"},
		{"approval.decided approve", ""},
		{"approval.spent", ""},
		{"allow refund", "completed 201"},
	}
	rejected := []telling{
		{"approval.requested", ""},
		{"ask refund", "refused 403"},
		{"approval.decided reject", ""},
		{"deny refund", "refused 403"},
	}
	if d.rejected {
		refund = rejected
	}
	return slices.Concat([]telling{
		{"identity.refused missing", ""},
		{"allow read", "completed 200"},
		{"deny delete", "refused 403"},
	}, refund, rejected, []telling{
		{"approval.requested", ""},
		{"ask refund", "refused 403"},
		{"allow read", "completed 200"},
		{"allow upload", "completed 200"},
		{"deny ", "refused 403"},
		{"allow read", "completed"},
		{"deny ", "refused"},
		{"deny schema", "refused"},
		{"approval.requested", ""},
		{"ask every-row", "completed"},
		{"approval.decided approve", ""},
		{"approval.spent", ""},
		{"allow every-row", "completed"},
	})
}

const decisions = "operation.*,approval.*,identity.refused"

func (d *demo) records() {
	// Envoy tells of each request once it has ended, a moment after the agent has its answer.
	extproctest.Await(d.tb, "Envoy's access log of every request", 20*time.Second, func(context.Context) error {
		if n := len(d.journal("transit")); n < d.asked && d.ctx.Err() == nil {
			return fmt.Errorf("there are %d of %d", n, d.asked)
		}
		return nil
	})
	d.gateway.Stop() // it drains, signs a last checkpoint and stops Envoy
	got, finished := d.decided()
	want := d.recorded()
	for i, w := range want {
		if i >= len(got) {
			d.failf("the journal has %d decisions, and should have %d", len(got), len(want))
		}
		op, text, _ := strings.Cut(got[i], " ")
		ended := finished[op]
		if strings.HasPrefix(text, "approval.") {
			ended = ""
		}
		if text != w.said || ended != w.ended {
			d.failf("decision %d is %q and ended %q; it should be %q and end %q", i+1, text, ended, w.said, w.ended)
		}
	}
	if len(got) > len(want) {
		d.failf("the journal has more than it should: %q", got[len(want):])
	}
	d.show()
	d.answered(got)
	d.out.well("%d requests and statements: each decision was written to disk, and only then carried out", d.asked+d.stated)
}

// answered shows the record of the first answer of a person, whole.
func (d *demo) answered(got []string) {
	d.tb.Helper()
	i := slices.IndexFunc(got, func(text string) bool { return strings.Contains(text, " approval.decided ") })
	op, _, _ := strings.Cut(got[i], " ")
	args := []string{"evidence", "show", "--json", "--type", "approval.decided", "--operation", op}
	d.out.command("countersign " + strings.Join(args, " ") + " --config countersign.yaml")
	out, code := d.countersign(append(args, "--config", d.config())...)
	if code != 0 || strings.Count(out, "\n") != 1 || !strings.Contains(out, bob) || !strings.Contains(out, `"card_digest"`) {
		d.failf("evidence show exits %d\n%s", code, out)
	}
	d.out.body([]byte(out))
	fmt.Fprintln(d.out.w)
	d.out.well("who answered, when they had signed in, to which card, and why")
}

// decided reads the decisions about what the agent asked, each after the id of its operation, and how the operations ended.
func (d *demo) decided() (decided []string, finished map[string]string) {
	d.tb.Helper()
	finished = map[string]string{}
	for _, r := range d.journal(decisions) {
		switch {
		case r.Op == "" || r.Body.Decision == "refused": // of somebody at the console, who may try what they like
		case r.Type == "identity.refused":
			decided = append(decided, r.Op+" "+r.Type+" "+r.Body.Reason)
		case r.Type == "operation.decided":
			decided = append(decided, r.Op+" "+r.Body.Effect+" "+strings.Join(r.Body.Rules, ","))
		case r.Type == "operation.finished":
			finished[r.Op] = strings.TrimSuffix(fmt.Sprintf("%s %d", r.Body.Result, r.Body.Status), " 0") // a statement has no status
		case strings.HasPrefix(r.Type, "approval."):
			decided = append(decided, strings.TrimSpace(r.Op+" "+r.Type+" "+r.Body.Decision))
		default:
			d.failf("there is a record %s", r.Type)
		}
	}
	return decided, finished
}

// show prints `evidence show` for a narrow terminal: without dates and ids, and with what is most telling of each record.
func (d *demo) show() {
	d.out.command("countersign evidence show --config countersign.yaml --type '" + decisions + "'")
	out, code := d.countersign("evidence", "show", "--config", d.config(), "--type", decisions)
	if code != 0 {
		d.failf("evidence show: %s", out)
	}
	skipped := map[string]bool{
		"redact": true, "reasons": true, "problem": true, "resource": true, // of a decision
		"duration": true, "bytes_in": true, "bytes_out": true,
		"peer": true, "detail": true, "postgres": true, "claimed_issuer": true, "claimed_subject": true,
	}
	var order []string
	of := map[string][]string{}
	for line := range strings.Lines(out) {
		m := shownRecord.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			d.failf("evidence show printed %q", line)
		}
		text := fmt.Sprintf("%4s  %s  %-18s", m[1], m[2], m[3])
		for _, f := range strings.Split(strings.TrimSpace(m[5]), "  ") {
			if name, _, _ := strings.Cut(f, "="); !skipped[name] && f != "status=0" { // a statement has none
				text += "  " + f
			}
		}
		if of[m[4]] == nil {
			order = append(order, m[4])
		}
		of[m[4]] = append(of[m[4]], text)
	}
	fmt.Fprintln(d.out.w)
	for _, op := range order {
		for _, text := range of[op] {
			d.out.line(dim, 40, text)
		}
	}
	d.out.line(dim, 0, "(by operation; dates, ids and some members left out)")
	fmt.Fprintln(d.out.w)
}

// shownRecord is a line of `evidence show`: number, date, time, type, operation, the rest.
var shownRecord = regexp.MustCompile(`^ *(\d+)  \S+ (\S+)  (\S+) *([0-9a-f]{8}-[0-9a-f-]{27})?(.*)$`)

func (d *demo) spans() {
	ctx, cancel := context.WithTimeout(d.ctx, 20*time.Second)
	defer cancel()
	finished := len(d.journal("operation.finished"))
	var servers []extproctest.Span
	d.collector.WaitFor(ctx, "a span of every operation", func(spans []extproctest.Span, _ []extproctest.LogRecord) bool {
		servers = slices.DeleteFunc(slices.Clone(spans), func(s extproctest.Span) bool { return s.Kind != 2 })
		return len(servers) >= finished
	})
	columns := []int{18, 13, 13, 14, 14}
	d.out.row(bold, columns, "span", "answer", "effect", "agent", "trace", "record, with its hash")
	inTrace := 0
	for _, s := range servers {
		of := "of its own"
		style := plain
		if s.TraceID == trace {
			inTrace++
			of, style = "the agent's", cyan
		}
		d.out.row(style, columns, s.Name, answerOf(s), attribute(s, "countersign.effect"),
			attribute(s, "enduser.id"), of, attribute(s, "countersign.seq")+" "+shorten(attribute(s, "countersign.hash"), 13))
	}
	fmt.Fprintln(d.out.w)
	if inTrace != 1 {
		d.failf("%d spans are in the agent's trace, and one should be", inTrace)
	}
	checkpoints := 0
	for _, l := range d.collector.Logs() {
		if l.EventName == "checkpoint" {
			checkpoints++
		}
	}
	if checkpoints == 0 {
		d.failf("no signed checkpoint came to the collector")
	}
	d.out.well("a span for each operation, in the agent's own trace where it sent one; decisions, refusals and %d signed checkpoints came as log records", checkpoints)
}

// answerOf is how an operation was answered: by a status of HTTP, a SQLSTATE or rows.
func answerOf(s extproctest.Span) string {
	if rows := attribute(s, "db.response.returned_rows"); rows != "" && attribute(s, "db.response.status_code") == "" {
		return rows + " rows"
	}
	return attribute(s, "http.response.status_code") + attribute(s, "db.response.status_code")
}

func attribute(s extproctest.Span, name string) string {
	if v, ok := s.Attributes[name]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

func (d *demo) verify() {
	key, code := d.countersign("evidence", "key", "--config", d.config())
	if code != 0 {
		d.failf("evidence key: %s", key)
	}
	key = strings.TrimSpace(key)
	d.out.command("countersign evidence verify --config countersign.yaml --key " + key)
	out, code := d.countersign("evidence", "verify", "--config", d.config(), "--key", key)
	if code != 0 || !strings.Contains(out, "PASS: ") {
		d.failf("evidence verify exits %d\n%s", code, out)
	}
	d.told(out)
}

func (d *demo) told(out string) {
	for line := range strings.Lines(out) {
		s := plain
		switch {
		case strings.HasPrefix(line, "PASS"):
			s = green
		case strings.HasPrefix(line, "FAIL"):
			s = red
		}
		d.out.line(s, 2, strings.TrimRight(line, "\n"))
	}
}

// tamper changes one byte in a copy of the journal: the payment that the agent wanted deleted.
func (d *demo) tamper() {
	copied := filepath.Join(d.dir, "copy")
	for _, part := range []string{"journal", "keys"} {
		d.check("copy the journal", os.CopyFS(filepath.Join(copied, part), os.DirFS(filepath.Join(d.data(), part))))
	}
	segments, err := filepath.Glob(filepath.Join(copied, "journal", "*.jsonl"))
	if err != nil || len(segments) == 0 {
		d.failf("there are no segments in the copy (%v)", err)
	}
	text, err := os.ReadFile(segments[0])
	d.check("read the copy", err)
	const was, is = "/v1/payments/7", "/v1/payments/8"
	number := 0
	lines := bytes.SplitAfter(text, []byte("\n"))
	for i, line := range lines {
		if bytes.Contains(line, []byte(`"operation.decided"`)) && bytes.Contains(line, []byte(`"rules":["delete"]`)) {
			lines[i] = bytes.Replace(line, []byte(`"`+was+`"`), []byte(`"`+is+`"`), 1)
			number = i + 1
		}
	}
	changed := bytes.Join(lines, nil)
	if len(changed) != len(text) || bytes.Equal(changed, text) {
		d.failf("no byte of the copy was changed")
	}
	d.check("write the copy", os.WriteFile(segments[0], changed, 0o600))
	d.out.say("One byte of a copy is changed: record %d now says that %s was to be deleted, and not %s.", number, is, was)
	fmt.Fprintln(d.out.w)
	d.out.command("countersign evidence verify --data ./copy")
	out, code := d.countersign("evidence", "verify", "--data", copied)
	d.told(strings.ReplaceAll(out, copied, "./copy"))
	if code == 0 || !strings.Contains(out, "FAIL: ") || !regexp.MustCompile(fmt.Sprintf(`record (%d|%d)\b`, number, number+1)).MatchString(out) {
		d.failf("verify exits %d on a changed journal, and should name record %d or the one after it\n%s", code, number, out)
	}
}
