// Command parts fetches or builds the programs that tests and examples run beside Countersign: `parts envoy collector redis axe postgres18 clients`. It
// prints where each one is, and is quick if all are there. It can also install what the machine lacks, such as pip, Chromium, PostgreSQL or
// a C compiler (`parts pip chromium postgres languages compiler envoy`). If it may not, it ends at once with the line to run.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/countersign/countersign/extproc/extproctest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "parts:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, names []string, getenv func(string) string, stdout io.Writer) error {
	parts, err := extproctest.NewParts(getenv, stdout)
	if err != nil {
		return err
	}
	var system, brought []string
	bring := map[string]func(context.Context) (string, error){
		"envoy":     parts.Envoy,
		"collector": parts.Collector,
		"redis":     parts.Redis,
		"axe":       parts.Axe,

		"postgres18": parts.Postgres18,
		"clients":    parts.PostgresClients,
	}
	for _, name := range names {
		if bring[name] == nil {
			system = append(system, name)
		} else {
			brought = append(brought, name)
		}
	}
	if err := parts.Install(ctx, system...); err != nil {
		return err
	}
	for _, name := range brought {
		path, err := bring[name](ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s: %s\n", name, path)
	}
	return nil
}
