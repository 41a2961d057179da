package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/terminal"
)

// dataFlags are --data and --config, which both name a data directory.
type dataFlags struct{ data, config *string }

func (c *call) evidenceFlags(name string) (*flag.FlagSet, dataFlags) {
	f := c.flags(name)
	return f, dataFlags{
		data:   f.String("data", "", "the data `directory`"),
		config: f.String("config", "", "the configuration `file` that names the data directory"),
	}
}

// dir is the data directory. The configuration need not be valid in all its parts: its evidence can be read all the same.
func (d dataFlags) dir() (string, error) {
	dir := *d.data
	switch {
	case dir != "" && *d.config != "":
		return "", usagef("give --data or --config, not both")
	case dir == "" && *d.config == "":
		return "", usagef("--data DIR or --config FILE is required")
	case dir == "":
		c := config.Salvage(*d.config, configKinds()...)
		if c == nil || c.Data == "" {
			_, err := config.Load(*d.config, configKinds()...)
			return "", errors.Join(fmt.Errorf("%s names no data directory", *d.config), err)
		}
		dir = string(c.Data)
	}
	if err := datafile.CheckDirectory(filepath.Join(dir, "journal")); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s holds no journal: %w", dir, err)
	} else if err != nil {
		return "", fmt.Errorf("read the journal: %w", err)
	}
	return dir, nil
}

func evidenceVerify(ctx context.Context, c *call) error {
	f, where := c.evidenceFlags("evidence verify")
	var keys texts
	f.Var(&keys, "key", "a verifier `key`, or a file that holds one; may be given several times")
	checkpoint := f.String("checkpoint", "", "a `file` with a signed checkpoint that was seen elsewhere")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	dir, err := where.dir()
	if err != nil {
		return err
	}
	opts := evidence.VerifyOptions{Dir: filepath.Join(dir, "journal")}
	for _, k := range keys {
		if text, err := os.ReadFile(k); err == nil {
			k = string(text)
		}
		opts.Keys = append(opts.Keys, strings.Fields(k)...)
	}
	if *checkpoint != "" {
		if opts.Checkpoint, err = c.read(*checkpoint); err != nil {
			return fmt.Errorf("read the checkpoint: %w", err)
		}
	}
	report, err := evidence.Verify(ctx, opts)
	if errors.Is(err, fs.ErrNotExist) && len(opts.Keys) == 0 {
		return fmt.Errorf("%w: put it back, or give --key a key that you had before", err)
	}
	if err != nil {
		return err
	}
	return tellReport(c.stdout, &report, len(opts.Keys) == 0)
}

func tellReport(w io.Writer, r *evidence.Report, ownKey bool) error {
	if !r.Passed() {
		f := r.Failure
		fmt.Fprintf(w, "FAIL: %s", terminal.Line(f.File))
		if f.Line > 0 {
			fmt.Fprintf(w, ":%d", f.Line)
		}
		if f.Seq > 0 {
			fmt.Fprintf(w, ": record %d", f.Seq)
		}
		fmt.Fprintf(w, ": %s\n", terminal.Line(f.Reason))
		return errSilent
	}
	fmt.Fprintf(w, "operations: %d decided, %d of them allowed; %d finished, %d with an unknown outcome, %d open\n", r.Decided, r.Allowed, r.Finished, r.Unknown, r.Open)
	if r.Spent > 0 {
		fmt.Fprintf(w, "approvals: %d used, %d of them for an operation that is not decided yet\n", r.Spent, r.Spending)
	}
	if r.Transits > 0 {
		fmt.Fprintf(w, "transits: %d requests seen by Envoy; %d allowed operations that Envoy has not told of (yet)\n", r.Transits, r.NeverTransited)
	}
	if r.Sessions > 0 {
		fmt.Fprintf(w, "sessions: %d opened; %d that Envoy has not told of (yet)\n", r.Sessions, r.NeverCarried)
	}
	for _, finding := range r.Findings {
		fmt.Fprintf(w, "FOUND: %s\n", terminal.Line(finding.String()))
	}
	if r.FurtherFindings > 0 {
		fmt.Fprintf(w, "FOUND: %d more\n", r.FurtherFindings)
	}
	for _, gap := range r.Gaps {
		fmt.Fprintf(w, "GAP: %s\n", terminal.Line(gap.String()))
	}
	if r.FurtherGaps > 0 {
		fmt.Fprintf(w, "GAP: %d more\n", r.FurtherGaps)
	}
	if r.InProgress > 0 {
		fmt.Fprintf(w, "a last line of %d bytes is being written\n", r.InProgress)
	}
	if r.Uncovered > 0 {
		fmt.Fprintf(w, "the last %d records are chained and not signed yet\n", r.Uncovered)
	}
	if ownKey {
		fmt.Fprintln(w, "verified with the public key that lies beside the journal; to trust nothing in the data directory, give --key a key that you had before")
	}
	if len(r.Findings) > 0 {
		fmt.Fprintln(w, "FAIL: the chain is whole, and what it records is not complete")
		return errSilent
	}
	fmt.Fprintf(w, "PASS: %d records, %d checkpoints%s\n", r.Records, r.Checkpoints, period(r))
	return nil
}

func period(r *evidence.Report) string {
	if r.Records == 0 {
		return ""
	}
	return fmt.Sprintf(", from %s to %s", r.From.Format(time.RFC3339Nano), r.To.Format(time.RFC3339Nano))
}

func evidenceShow(ctx context.Context, c *call) error {
	f, where := c.evidenceFlags("evidence show")
	var filter evidence.Filter
	var types texts
	asJSON := f.Bool("json", false, "print records as JSON lines, as they stand in the journal")
	f.Var(&types, "type", "only records of this `type`, such as operation.decided or 'operation.*'; may be given several times")
	since := f.String("since", "", "only records from this `time` on (RFC 3339), or this long ago (10m)")
	f.StringVar(&filter.Op, "operation", "", "only records of the operation with this `id`")
	f.StringVar(&filter.Request, "request", "", "only records of the operation whose agent was told this `id` (request_id, x-request-id)")
	f.StringVar(&filter.Approval, "approval", "", "only records of the request for approval with this `id`, and of the operations that asked for it or used it")
	f.StringVar(&filter.Trace, "trace", "", "only records of operations in the trace with this `id`")
	follow := f.Bool("follow", false, "wait for more")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	dir, err := where.dir()
	if err != nil {
		return err
	}
	for _, t := range types {
		filter.Types = append(filter.Types, strings.Split(t, ",")...)
	}
	if filter.Since, err = parseSince(*since, time.Now()); err != nil {
		return err
	}
	journal := filepath.Join(dir, "journal")
	records := evidence.Records(ctx, journal, filter)
	if *follow {
		records = evidence.Follow(ctx, journal, filter)
	}
	found := false
	for e, err := range records {
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		found = true
		if *asJSON {
			_, err = fmt.Fprintln(c.stdout, terminal.JSON(string(e.Line)))
		} else {
			_, err = fmt.Fprintln(c.stdout, describe(&e))
		}
		if err != nil {
			return err
		}
	}
	if id := cmp.Or(filter.Op, filter.Request, filter.Approval, filter.Trace); id != "" && !found {
		return fmt.Errorf("%s has no such record of %q; another gateway's journal may", journal, id)
	}
	return nil
}

func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, usagef("--since %q: write a time like 2026-01-31T12:00:00Z, or a duration like 10m", s)
	}
	return t, nil
}

// describe is a record on one line, for people.
func describe(e *evidence.Entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%6d  %s  %-18s", e.Seq, e.Time.UTC().Format("2006-01-02 15:04:05.000"), e.Type)
	if e.Op != "" {
		fmt.Fprintf(&b, "  %s", terminal.String(e.Op))
	}
	body, err := e.Object()
	if err != nil {
		return b.String()
	}
	names := shown[e.Type]
	for _, k := range kinds { // what is a kind's own: see gate.Decision
		names = append(slices.Clip(names), k.Policy.Name)
	}
	for _, name := range names {
		v, ok := body.Get(name)
		if !ok {
			continue
		}
		text := terminal.Value(v)
		if p, ok := v.(gate.Object); ok && parties[name] {
			text = partyText(p)
		}
		if v != "" && text != "[]" && text != "{}" && text != "null" {
			fmt.Fprintf(&b, "  %s=%s", name, text)
		}
	}
	return b.String()
}

// parties are the members of a record's body that are somebody.
var parties = map[string]bool{"principal": true, "agent": true, "approver": true, "on_behalf_of": true}

// partyText is a party of a record: the name that its token claims, in quotes, its subject, and whom it acts for.
func partyText(p gate.Object) string {
	subject := p.Text("subject")
	text := terminal.String(subject)
	if name := p.Text("name"); name != "" && name != subject {
		text = terminal.Quoted(terminal.Text(name)) + " (" + text + ")"
	}
	person, _ := p.Get("on_behalf_of")
	if o, ok := person.(gate.Object); ok {
		text += " for " + partyText(o)
	}
	return text
}

// shown are the members of a record's body that a line for people has.
var shown = map[string][]string{
	gate.OperationDecided:  {"effect", "resource", "verb", "target", "principal", "problem", "rules", "reasons", "redact", "limit", "approval"},
	gate.OperationFinished: {"result", "status", "bytes_in", "bytes_out", "redacted", "duration", "reason"},
	gate.OperationUnknown:  {"decided", "reason"},
	gate.IdentityRefused:   {"reason", "resource", "verb", "target", "peer", "detail", "claimed_issuer", "claimed_subject"},
	gate.PolicyActivated:   {"digest", "files"},
	gate.ConfigActivated:   {"digest", "file"},
	gate.ConfigRejected:    {"file", "problems"},
	gate.GatewayStarted:    {"version", "pid", "key"},
	gate.GatewayStopped:    {"open", "reason"},
	gate.Heartbeat:         {"open"},
	gate.Transit:           {"resource", "verb", "target", "status", "flags", "details", "response_flags", "session", "upstream", "upstream_host", "upstream_failure"},
	gate.Alarm:             {"kind", "detail"},

	"approval.requested": {"approval", "resource", "verb", "target", "agent", "on_behalf_of", "expires"},
	"approval.decided":   {"approval", "decision", "state", "approver", "problem", "reason", "think"},
	"approval.spent":     {"approval", "state"},
	"approval.expired":   {"approval", "from"},
	"approval.voided":    {"approval", "from", "reason"},
	"approval.withdrawn": {"approval", "state", "reason"},
}

func evidenceKey(_ context.Context, c *call) error {
	f, where := c.evidenceFlags("evidence key")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	dir, err := where.dir()
	if err != nil {
		return err
	}
	key, err := evidence.PublicKey(dir)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.stdout, key)
	return err
}

// evidenceExport writes the journal, its checkpoints and the public key as one archive, which verifies on its own.
func evidenceExport(ctx context.Context, c *call) (err error) {
	f, where := c.evidenceFlags("evidence export")
	to := f.String("to", "", "the `file` to write, a .tar.gz")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	if *to == "" {
		return usagef("evidence export: --to FILE is required")
	}
	dir, err := where.dir()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(*to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(evidence.Export(ctx, dir, out), out.Close()); err != nil {
		return errors.Join(err, os.Remove(*to)) // a part of a journal is none
	}
	return nil
}
