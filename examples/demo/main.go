// Command demo plays examples/http and examples/postgres in a terminal, behind one gateway: it starts an OpenID provider, a
// payments API, a PostgreSQL server, an OpenTelemetry collector and Countersign with a real Envoy, shows what an agent asks and
// gets, who has to agree to it, what was recorded of it and that it verifies, and stops everything. `make demo` builds what it
// needs and runs it. With PERSON=me in the environment the first refund waits for you, in the console; otherwise bob, a person of
// the issuer, approves it with commands.
//
// Each step is checked as it is told: where an answer, a record or a span is not as the text beside it says, the demo
// stops there and exits 1. TestDemo plays it in the tests, so that it stays true. It listens on loopback, on ports that
// are free, writes only to a temporary directory, and leaves nothing behind.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/countersign/countersign/extproc/extproctest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root, err := extproctest.Root()
	if err != nil {
		return err
	}
	binary := filepath.Join(root, "bin", "countersign")
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("there is no countersign to show: %w (make demo builds it)", err)
	}
	out := &terminal{w: os.Stdout, colour: os.Getenv("NO_COLOR") == "" && isTerminal(os.Stdout)} //nolint:misspell // the variable has its name from no-color.org
	return extproctest.Run(os.Stderr, func(tb extproctest.TB) {
		play(tb, ctx, out, binary, os.Getenv, os.Stdin)
	})
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
