package main

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
)

// TestCommandLine plays the scripts of testdata/cli, with the program in this process. Beside testscript's own commands a
// script has:
//
//	countersign ARGS       run the program; "! countersign" wants the exit code 1
//	usage countersign ARGS it must say that the command line is wrong: exit code 2
//	records DIR            make a data directory with a journal of ten records in it
//	columns FILE NAME...   print members of a file of JSON lines, for cmp
//
// Names of files are relative to the script's directory where the program is given them as $WORK/NAME.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "cli"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"countersign": func(ts *testscript.TestScript, neg bool, args []string) {
				want := 0
				if neg {
					want = 1
				}
				runScript(ts, want, args)
			},
			"usage": func(ts *testscript.TestScript, _ bool, args []string) { runScript(ts, 2, args[1:]) },
			"records": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(makeRecords(ts.MkAbs(args[0])))
			},
			"columns": columns,
		},
	})
}

func runScript(ts *testscript.TestScript, want int, args []string) {
	var in strings.Reader
	e := env{get: ts.Getenv}
	err := run(context.Background(), args, e, &in, ts.Stdout(), ts.Stderr())
	if code := exitCode(err, ts.Stderr()); code != want {
		ts.Fatalf("exit code %d, and should be %d", code, want)
	}
}

func columns(ts *testscript.TestScript, _ bool, args []string) {
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		var record map[string]any
		ts.Check(json.Unmarshal([]byte(line), &record))
		var words []string
		for _, name := range args[1:] {
			text, err := json.Marshal(record[name])
			ts.Check(err)
			words = append(words, cmp.Or(strings.Trim(string(text), `"`), "-"))
		}
		_, err := ts.Stdout().Write([]byte(strings.Join(words, " ") + "\n"))
		ts.Check(err)
	}
}

// makeRecords makes a journal as a gateway does that starts, allows one operation, denies another, and stops.
func makeRecords(data string) (err error) {
	ctx := context.Background()
	j, err := evidence.Open(ctx, evidence.Options{Dir: filepath.Join(data, "journal"), Node: "gw-1"})
	if err != nil {
		return err
	}
	if err := j.Started(ctx, gate.Object{{Name: "version", Value: "test"}}); err != nil {
		return err
	}
	add := func(kind, op string, body gate.Object) gate.Receipt {
		var r gate.Receipt
		if err == nil {
			r, err = j.Append(ctx, &gate.Record{Type: kind, Op: op, Body: body})
		}
		return r
	}
	decide := func(op, verb, effect string) {
		r := add(gate.OperationDecided, op, gate.Object{
			{Name: "effect", Value: effect},
			{Name: "resource", Value: "payments"},
			{Name: "target", Value: "/v1/payments/7"},
			{Name: "verb", Value: verb},
		})
		result, status := "completed", 200
		if effect != "allow" {
			result, status = "refused", 403
		}
		add(gate.OperationFinished, op, gate.Object{{Name: "decided", Value: int64(r.Seq)}, {Name: "result", Value: result}, {Name: "status", Value: status}})
	}
	decide("op-read", "GET", "allow")
	decide("op-delete", "DELETE", "deny")
	for range 4 {
		add(gate.Heartbeat, "", gate.Object{})
	}
	if err != nil {
		return err
	}
	if err := j.Close(); err != nil {
		return err
	}
	_, err = os.Stat(evidence.PublicKeyFile(data))
	return err
}
