// Package story plays a case from a file that a stranger can read: a policy, a conversation with a gateway that runs in
// front of a real target behind a real Envoy, and the records that it must leave.
//
// A story is a txtar archive. The text before its first file says what it shows. Its files:
//
//	policy.rego     package rules.payments; other *.rego, *.json and *.yaml files beside it go into the policy directory too
//	resource.yaml   more keys of the resource, at the top level of the file
//	config.yaml     more top-level keys of the configuration; ${ISSUER} in it is the issuer's URL, and ${PEOPLE} that of another
//	                issuer, which has the same people under other subjects (p-bob): they sign in there
//	agent.yaml      more keys of the agents' issuer
//	listen          more keys of listen, at the top level of the file; with people and without a console here there is one
//	conversation    what is said, a line each, as below
//	evidence        the records of operations that it leaves, in order; go test -update writes it
//	evidence-ext_authz  the same through ext_authz, where Envoy itself refuses some of it
//
// At its end the journal must verify, whatever the story is about.
//
// A conversation:
//
//	@ agent-2                       who asks from here on: an agent of the issuer, "nobody", or claims as JSON
//	> POST /v1/payments {"a":1}     a request; a body of *N is N bytes of x, and of <NAME the file of that
//	                                name, whose lines end in CR LF where the name ends in .crlf
//	| Name: value                   a header field of it, sent as written; "| chunked" and "| h2" choose how it goes, and "| h2 https"
//	                                says that its scheme is https; "| coded LIST" has the body in these content codings, without saying so; $ID in a value is the request for approval that an answer named last
//	>> POST /v1/payments/7/refunds  a request that is held: the conversation goes on when people are asked, "<" waits for the answer
//	< 403 denied                    the answer's status and, where it is a refusal, the problem type
//	<: Name: value                  a header field that it has
//	<! Name                         a header field that it has not
//	<= text                         its whole body, less a newline at the end
//	<~ text                         text in its body
//	<^ text                         text that is not in its body, its header fields or its trailers
//	= GET /v1/payments/7            what the target saw since the last such line, all of it; "= nothing"
//	=: Name: value                  a header field of the last request that the target saw
//	=! Name                         a header field that it had not
//	! policy NAME                   the file becomes the policy, and is active before the next line
//	! policy NAME FILE              so does it as this file of the policy directory
//	! agent NAME                    the file becomes the keys of the agents' issuer, in the place of agent.yaml, and is active
//	! approve bob                   the issuer's bob approves what was asked about last, by the console's API;
//	! approve bob 403 own-operation or is told this status and this problem type or reason
//	! approve bob/phr               he does so as one who has signed in just now, with this acr
//	! approve {"sub": "u-bob", …} 403 not-a-person   so does, or is told, whoever has a token of these claims
//	! reject bob WORDS              he rejects it, in these words
//	! shows bob TEXT                the card of what is asked about, as he is shown it, has the text
//	! hides bob TEXT                it has not
//	! expire                        the token that was sent last, whose claims have an exp such as "2s" (from then), has expired
//	! leave                         whoever made the request that is held closes the connection, and that is recorded
//	! await approval.expired        such a record comes, after the one that was awaited before
package story

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/extproc/extproctest"
)

// Options vary how a story is played.
type Options struct {
	Kind     *Kind             // of the resource; HTTP unless set
	Attach   string            // the resource's attach; ext_proc unless set
	Binary   string            // the gateway; that of extproctest.Build unless set
	Args     []string          // more arguments of serve
	Policies string            // a directory of policies, which the files of the story come on top of
	Update   bool              // write the evidence section of the file instead of comparing with it
	Target   TargetOptions     // of the sample API
	Issuer   IssuerOptions     // of the issuer of agents and people
	Beside   *Gateway          // another gateway, whose target and issuer this one uses too
	Told     func(line string) // gets each line of the conversation before it is played; may be nil
}

// TargetOptions are those of the sample API.
type TargetOptions = extproctest.TargetOptions

// IssuerOptions are those of the OpenID provider.
type IssuerOptions = extproctest.IssuerOptions

// Gateway is what a story runs against. Tests can go on with its parts.
type Gateway struct {
	Target  *extproctest.Target
	Issuer  *extproctest.Issuer
	People  *extproctest.Issuer // where people sign in; Issuer, unless the story has another one
	Process *extproctest.Process
	Address string // of the resource's listener
	Admin   string
	Console string // "" if the story has no people
	Dir     string // holds countersign.yaml, policies and the data directory, var
	Config  string

	node    string
	tb      extproctest.TB
	options Options
	envoy   string
	archive *txtar.Archive
}

// Play plays the story in the file.
func Play(tb extproctest.TB, file string, o Options) {
	tb.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	g := Start(tb, archive, o)
	c := &Conversation{gateway: g, tb: tb, file: file, told: o.Told}
	c.speaker = g.kind().Speak(c)
	c.play(string(section(archive, "conversation")))
	if tb.Failed() {
		return
	}
	want := string(section(archive, "evidence"))
	if o.Attach == "ext_authz" {
		if i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == "evidence-ext_authz" }); i >= 0 {
			want = string(archive.Files[i].Data)
		}
	}
	if o.Update {
		got := g.Evidence(0)
		switch {
		case o.Attach != "ext_authz":
			update(tb, file, archive, "evidence", got)
		case got != string(section(archive, "evidence")):
			update(tb, file, archive, "evidence-ext_authz", got)
		}
		return
	}
	got := g.Evidence(strings.Count(want, "\n"))
	if got != want {
		tb.Fatalf("%s: the records are\n%s\nand should be\n%s", file, indent(got), indent(want))
	}
	g.verify(file)
}

// verify verifies the journal while the gateway runs.
func (g *Gateway) verify(file string) {
	g.tb.Helper()
	out, err := exec.CommandContext(context.Background(), cmp.Or(g.options.Binary, extproctest.Build(g.tb)), "evidence", "verify", "--data", g.Data()).CombinedOutput()
	if err != nil {
		g.tb.Fatalf("%s: the journal does not verify: %v\n%s", file, err, out)
	}
}

// Start runs a gateway as the archive describes it, behind an Envoy that it supervises.
func Start(tb extproctest.TB, archive *txtar.Archive, o Options) *Gateway {
	tb.Helper()
	g := &Gateway{
		Address: extproctest.FreeAddress(tb),
		Admin:   extproctest.FreeAddress(tb),
		Dir:     extproctest.Dir(tb),
		tb:      tb, options: o, archive: archive,
	}
	g.node = "story"
	if o.Beside != nil {
		g.node = o.Beside.node + "-2"
		g.Target, g.Issuer = o.Beside.Target, o.Beside.Issuer
	} else {
		g.Target, g.Issuer = extproctest.NewTarget(tb, o.Target), extproctest.StartIssuer(tb, o.Issuer)
	}
	g.People = g.Issuer
	if strings.Contains(string(section(archive, "config.yaml")), "${PEOPLE}") {
		g.People = extproctest.StartIssuer(tb, IssuerOptions{})
	}
	parts, err := extproctest.NewParts(os.Getenv, io.Discard) //nolint:forbidigo // $ENVOY is for whoever runs the tests
	if err == nil {
		g.envoy, err = parts.FindEnvoy(context.Background())
	}
	if err != nil {
		tb.Fatalf("%v", err)
	}
	g.Config = filepath.Join(g.Dir, "countersign.yaml")
	if strings.Contains(string(section(archive, "config.yaml")), "people:") && !strings.Contains(string(section(archive, "listen")), "console:") {
		g.Console = extproctest.FreeAddress(tb)
	}
	if o.Policies != "" {
		if err := os.CopyFS(filepath.Join(g.Dir, "policies"), os.DirFS(o.Policies)); err != nil {
			tb.Fatalf("copy the policies: %v", err)
		}
	}
	if text := section(archive, "policy.rego"); text != nil {
		g.Write("policies/payments.rego", string(text))
	}
	for _, f := range archive.Files {
		if ext := filepath.Ext(f.Name); f.Name != "policy.rego" && f.Name != "resource.yaml" && f.Name != "config.yaml" && f.Name != "agent.yaml" &&
			(ext == ".rego" || ext == ".json" || ext == ".yaml") {
			g.Write(filepath.Join("policies", f.Name), string(f.Data))
		}
	}
	g.Write("secrets/payments", "Bearer target-credential\n")
	g.Write("countersign.yaml", g.config(string(section(archive, "agent.yaml"))))
	g.Run()
	return g
}

// Run starts the gateway. It can start it again after a stop.
func (g *Gateway) Run() {
	g.Process = extproctest.StartCountersign(g.tb, extproctest.Countersign{
		Path: g.options.Binary, Config: g.Config, Admin: g.Admin, Args: append([]string{"--envoy"}, g.options.Args...),
	})
}

func (g *Gateway) config(agent string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "node: %s\ndata: ./var\nlisten:\n    admin: %q\n%s", g.node, g.Admin, indent(string(section(g.archive, "listen"))))
	if g.Console != "" {
		fmt.Fprintf(&b, "    console: %q\n", g.Console)
	}
	fmt.Fprintf(&b, "envoy: {path: %q, concurrency: 1}\n", g.envoy)
	fmt.Fprintf(&b, "agents:\n  - issuer: %q\n    audience: [%s]\n%s", g.Issuer.URL, extproctest.Audience, indent(agent))
	if f := g.kind().Agents; f != nil {
		b.WriteString(f(g))
	}
	issuers := strings.NewReplacer("${ISSUER}", g.Issuer.URL, "${PEOPLE}", g.People.URL)
	fmt.Fprintf(&b, "policies: ./policies\n%s", issuers.Replace(string(section(g.archive, "config.yaml"))))
	fmt.Fprintf(&b, "resources:\n  - name: payments\n%s%s", indent(g.kind().Resource(g)), indent(string(section(g.archive, "resource.yaml"))))
	return b.String()
}

func (g *Gateway) kind() *Kind {
	if g.options.Kind != nil {
		return g.options.Kind
	}
	return &overHTTP
}

// Data returns the data directory.
func (g *Gateway) Data() string { return filepath.Join(g.Dir, "var") }

// Write replaces a file below Dir in one step, as configuration tools do.
func (g *Gateway) Write(name, text string) {
	g.tb.Helper()
	path := filepath.Join(g.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		g.tb.Fatalf("%v", err)
	}
	if err := os.WriteFile(path+".new~", []byte(text), 0o600); err != nil {
		g.tb.Fatalf("%v", err)
	}
	if err := os.Rename(path+".new~", path); err != nil {
		g.tb.Fatalf("%v", err)
	}
}

// Record is one record of the journal.
type Record struct {
	Seq  uint64         `json:"seq"`
	Type string         `json:"type"`
	Op   string         `json:"op"`
	Body map[string]any `json:"body"`
}

// Records reads the journal as it stands.
func (g *Gateway) Records() []Record {
	g.tb.Helper()
	names, err := filepath.Glob(filepath.Join(g.Data(), "journal", "*.jsonl"))
	if err != nil {
		g.tb.Fatalf("%v", err)
	}
	slices.Sort(names)
	var records []Record
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			g.tb.Fatalf("%v", err)
		}
		for line := range bytes.Lines(text) {
			if !bytes.HasSuffix(line, []byte("\n")) || bytes.IndexByte(line, 0) >= 0 {
				break // being written, or prepared
			}
			var r Record
			if err := json.Unmarshal(line, &r); err != nil {
				g.tb.Fatalf("%s: %v", name, err)
			}
			records = append(records, r)
		}
	}
	return records
}

// AwaitRecord waits for a record for which ok returns true, and returns it.
func (g *Gateway) AwaitRecord(what string, ok func(Record) bool) Record {
	g.tb.Helper()
	var found Record
	extproctest.Await(g.tb, what, 20*time.Second, func(context.Context) error {
		records := g.Records()
		i := slices.IndexFunc(records, ok)
		if i < 0 {
			return fmt.Errorf("not in the journal")
		}
		found = records[i]
		return nil
	})
	return found
}

// Evidence describes the journal's operations, one in a line, in the order in which they were decided. It waits until every decided
// operation has ended, and until there are atLeast lines.
func (g *Gateway) Evidence(atLeast int) string {
	g.tb.Helper()
	var lines []string
	extproctest.Await(g.tb, "the end of every operation", 20*time.Second, func(context.Context) error {
		lines = lines[:0]
		open := map[string]bool{} // an operation that is held is decided twice, and ends once
		var order []string
		of := map[string][]string{}
		for _, r := range g.Records() {
			line := describe(r)
			if line == "" {
				continue
			}
			switch r.Type {
			case "operation.decided":
				open[r.Op] = true
			case "operation.finished", "operation.unknown":
				delete(open, r.Op)
			}
			if of[r.Op] == nil {
				order = append(order, r.Op)
			}
			of[r.Op] = append(of[r.Op], line)
		}
		for _, op := range order {
			lines = append(lines, strings.Join(of[op], " · "))
		}
		if len(open) != 0 || len(lines) < atLeast {
			return fmt.Errorf("%d operations are open, and %d ended", len(open), len(lines))
		}
		return nil
	})
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

// describe returns a record of an operation in a few words, or "" for a record that stories leave out.
func describe(r Record) string {
	var words []string
	add := func(vs ...any) {
		for _, v := range vs {
			if s := inWords(v); s != "" {
				words = append(words, s)
			}
		}
	}
	b := r.Body
	switch r.Type {
	case "operation.decided":
		add(r.Type, b["effect"], b["rules"])
		if b["effect"] != "ask" && b["problem"] != "denied" {
			add(b["problem"])
		}
	case "operation.finished":
		add(r.Type, b["result"])
		if b["status"] != 0.0 { // nobody was answered
			add(b["status"])
		}
		add(b["redacted"])
	case "operation.unknown":
		add(r.Type)
	case "identity.refused":
		add(r.Type, b["reason"])
	case "approval.decided":
		add(r.Type, b["decision"], b["problem"])
		if approver, ok := b["approver"].(map[string]any); ok {
			add(approver["subject"])
		}
	case "approval.withdrawn":
		add(r.Type, b["state"])
	default:
		if strings.HasPrefix(r.Type, "approval.") {
			add(r.Type)
		}
	}
	return strings.Join(words, " ")
}

func inWords(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return fmt.Sprint(v)
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, inWords(e))
		}
		return strings.Join(all, ",")
	case map[string]any:
		var all []string
		for k, n := range v {
			all = append(all, fmt.Sprintf("%s=%v", k, n))
		}
		slices.Sort(all)
		return strings.Join(all, ",")
	default:
		return ""
	}
}

func section(a *txtar.Archive, name string) []byte {
	for _, f := range a.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

func update(tb extproctest.TB, file string, a *txtar.Archive, name, evidence string) {
	tb.Helper()
	i := slices.IndexFunc(a.Files, func(f txtar.File) bool { return f.Name == name })
	if i < 0 {
		a.Files = append(a.Files, txtar.File{Name: name})
		i = len(a.Files) - 1
	}
	a.Files[i].Data = []byte(evidence)
	if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
		tb.Fatalf("%v", err)
	}
}

func indent(s string) string {
	if s == "" {
		return ""
	}
	return "    " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n    ") + "\n"
}
