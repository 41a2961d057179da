package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/terminal"
)

// forged is what HostileTexts has as a line of its own.
const forged = "PASS: 9 records"

// TestForeignTextInEveryCommand: no command that prints what others wrote lets it act on a terminal, or stand as a line of its own.
func TestForeignTextInEveryCommand(t *testing.T) {
	texts := extproctest.HostileTexts()
	names := make([]string, 0, len(texts))
	for name := range texts {
		names = append(names, name)
	}
	slices.Sort(names)
	dir := t.TempDir()
	hostileJournal(t, filepath.Join(dir, "var"), texts)
	console := hostileConsole(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	data := []string{"--data", at("var")}
	api := []string{"--url", console.URL}
	commands := map[string][]string{
		"evidence show":        append([]string{"evidence", "show"}, data...),
		"evidence show --json": append([]string{"evidence", "show", "--json"}, data...),
		"evidence verify":      append([]string{"evidence", "verify"}, data...),
	}
	play := func(name string, args []string, must string) {
		t.Helper()
		var out bytes.Buffer
		err := run(t.Context(), args, env{get: func(string) string { return "token" }}, strings.NewReader("no\n"), &out, &out)
		exitCode(err, &out)
		text := out.String()
		if !utf8.ValidString(text) {
			t.Errorf("%s: it is not UTF-8: %q", name, text)
		}
		for _, r := range text {
			if r != '\n' && r != '\t' && terminal.Acts(r) {
				t.Errorf("%s: %U goes to the terminal: %q", name, r, text)
				break
			}
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, forged) {
				t.Errorf("%s: a foreign line stands by itself:\n%s", name, text)
			}
		}
		if !strings.Contains(text, must) {
			t.Errorf("%s: there is no %q in\n%s", name, must, text)
		}
	}
	for name, args := range commands {
		play(name, args, "")
	}
	for _, name := range names {
		text := texts[name]
		must(t, os.WriteFile(at("c.yaml"), []byte("data: ./var\nnode: "+fmt.Sprintf("%q", text)+"\n"+strings.ToValidUTF8(text, "?")+": 1\n"), 0o600))
		must(t, os.WriteFile(at("token"), []byte("t"), 0o600))
		console.text.Store(&text)
		play("usage, "+name, []string{text}, "countersign: ")
		play("usage, a second word, "+name, []string{"evidence", text}, "countersign: ")
		play("usage, a flag, "+name, []string{"evidence", "show", "--" + text}, "countersign: ")
		play("usage, an argument too many, "+name, append([]string{"evidence", "show", text}, data...), "countersign: ")
		play("evidence verify of no data, "+name, []string{"evidence", "verify", "--data", at(strings.ReplaceAll(text, "\x00", ""))}, "countersign: ")
		play("evidence export, "+name, append([]string{"evidence", "export", "--to", filepath.Join(at("none"), strings.ReplaceAll(text, "\x00", ""))}, data...), "countersign: ")
		play("check, "+name, []string{"check", "--config", at("c.yaml")}, "c.yaml")
		play("policy test, "+name, []string{"policy", "test", at(text)}, "countersign: ")
		for _, c := range [][]string{{"list"}, {"list", "--json"}, {"show", "r1"}, {"show", "r1", "--json"}, {"approve", "r1"}, {"approve", "r1", "--card", "x"}, {"reject", "r1", "--reason", "no", "--card", "x"}} {
			play("approvals "+strings.Join(c, " ")+", "+name, append(append([]string{"approvals"}, c...), api...), "")
		}
		console.refuses.Store(true)
		play("approvals show of what is refused, "+name, append([]string{"approvals", "show", "r1"}, api...), "countersign: ")
		console.refuses.Store(false)
	}
	// Segments whose names act on a terminal.
	for _, name := range names {
		text := strings.NewReplacer("\x00", "", "/", "").Replace(texts[name])
		path := filepath.Join(dir, "var", "journal", text+".jsonl")
		must(t, os.WriteFile(path, nil, 0o600))
		for _, command := range []string{"verify", "show"} {
			play("evidence "+command+" of a file called so, "+name, append([]string{"evidence", command}, data...), "20 digits")
		}
		must(t, os.Remove(path))
	}
}

// hostileJournal has each text in every member that is shown, and as an operation that verifying finds something about.
func hostileJournal(t *testing.T, data string, texts map[string]string) {
	t.Helper()
	j, err := evidence.Open(t.Context(), evidence.Options{Dir: filepath.Join(data, "journal"), Node: "gw"})
	must(t, err)
	for _, text := range texts {
		valid := strings.ToValidUTF8(text, "\uFFFD")
		for kind, members := range shown {
			body := gate.Object{}
			for _, m := range members {
				var v any = valid
				if parties[m] {
					v = gate.Object{{Name: "name", Value: valid + "?"}, {Name: "on_behalf_of", Value: gate.Object{{Name: "name", Value: valid}}}, {Name: "subject", Value: valid}}
				}
				body = append(body, gate.Member{Name: m, Value: v})
			}
			slices.SortFunc(body, func(a, b gate.Member) int { return strings.Compare(a.Name, b.Name) })
			if kind == gate.GatewayStarted || kind == gate.GatewayStopped {
				continue
			}
			_, err := j.Append(t.Context(), &gate.Record{Type: kind, Op: valid, Body: body})
			must(t, err)
		}
	}
	must(t, j.Close())
}

// consoleOfTexts is a console that answers with one text in the place of everything.
type consoleOfTexts struct {
	*httptest.Server
	text    atomic.Pointer[string]
	refuses atomic.Bool
}

func hostileConsole(t *testing.T) *consoleOfTexts {
	t.Helper()
	c := &consoleOfTexts{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := strings.ToValidUTF8(*c.text.Load(), "\uFFFD")
		if c.refuses.Load() {
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(map[string]string{"title": s, "detail": s})
			return
		}
		v := map[string]string{"text": s}
		p := map[string]any{"issuer": v, "name": map[string]string{"text": s + "?"}, "subject": v}
		card, err := json.Marshal(map[string]any{
			"v": 1, "id": s, "who": map[string]any{"agent": p, "kind": v, "client_id": v, "on_behalf_of": p, "actors": []any{p}, "groups": []any{v}, "session": v},
			"what": map[string]any{
				"verb": v, "target": v, "protocol": v, "resource": v, "resource_kind": v, "labels": []any{map[string]any{"path": v, "type": "string", "value": v}},
				"detail": []any{map[string]any{"path": v, "type": "string", "value": v}},
			},
			"why":     []any{map[string]any{"rule": v, "reason": v, "approvers": []any{v}, "quorum": 1, "summary": v}},
			"history": map[string]any{"operations": []any{map[string]any{"verb": v, "target": v, "result": v}}},
			"demand":  map[string]any{"acr": []any{v}},
		})
		must(t, err)
		sum := sha256.Sum256(card)
		one := map[string]any{
			"id": s, "state": s, "reason": s, "may_decide": false, "may_not": s, "url": s, "card": json.RawMessage(card), "card_digest": hex.EncodeToString(sum[:]),
			"decisions": []any{map[string]any{"by": map[string]any{"name": s + "?", "subject": s}, "decision": "approve", "reason": s}},
		}
		if r.URL.Path == "/api/approvals" {
			_ = json.NewEncoder(w).Encode(map[string]any{"approvals": []any{one}})
			return
		}
		_ = json.NewEncoder(w).Encode(one)
	}))
	t.Cleanup(c.Close)
	return c
}

// TestTheTerminalTellsTypesOfACard: values that differ look different.
func TestTheTerminalTellsTypesOfACard(t *testing.T) {
	row := func(kind, text string) string {
		return valueOf(approval.CardRow{Type: kind, Value: approval.Text{Text: text}})
	}
	seen := map[string]string{}
	for _, c := range [][2]string{
		{"bool", "false"},
		{"string", "false"},
		{"null", "null"},
		{"string", "null"},
		{"number", "10"},
		{"string", "10"},
		{"string", `"10"`},
		{"string", ""},
		{"string", "(empty)"},
		{"object", "{}"},
		{"string", "{}"},
		{"list", "[]"},
		{"string", "[]"},
		{"string", "plain"},
		{"string", `"plain"`},
		{"string", "two words"},
	} {
		s := row(c[0], c[1])
		if before, again := seen[s]; again {
			t.Errorf("%v and %s are both shown as %s", c, before, s)
		}
		seen[s] = c[0] + " " + c[1]
	}
	if got := row("string", "two words"); got != "two words" {
		t.Errorf("a string is shown as %s", got)
	}
}
