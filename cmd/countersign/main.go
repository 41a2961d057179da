// Command countersign is the policy decision and evidence service that Envoy calls, and the tools around it.
// See `countersign help`, README.md, and the tour in package extproc.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/countersign/countersign/extproc/terminal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	err := run(ctx, os.Args[1:], env{get: os.Getenv, reload: hangup}, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(exitCode(err, os.Stderr))
}

// exitCode tells err to a person and returns what the process exits with: 2 for a command line that is wrong, 1 for
// everything else.
func exitCode(err error, stderr io.Writer) int {
	stderr = terminal.NewWriter(stderr)
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errSilent):
		return 1
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "countersign: %s\nRun '%s' for how to call it.\n", terminal.Lines(err.Error()), strings.TrimSpace("countersign help "+usage.command))
		return 2
	default:
		fmt.Fprintf(stderr, "countersign: %s\n", terminal.Lines(err.Error()))
		return 1
	}
}
