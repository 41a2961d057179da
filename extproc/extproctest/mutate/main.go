// Command mutate shows that the promises of SECURITY.md are tested: for each it removes the line that keeps the promise, runs the
// test that is named for it, and expects that test to fail.
//
// The list is mutations.yaml. Everything happens in a copy of the working tree, .tools/mutate, so that an interrupt leaves nothing
// behind. A mutation that cannot be played is an error too: code that is not found, a change that does not compile, a test that does
// not exist.
//
// `make mutate` plays all of it, which takes a while; with ONLY=PATTERN only those whose promise, file, test or package matches.
// `make test` checks that the list is whole and current (TestEachPromiseHasAMutation), without playing it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/countersign/countersign/extproc/extproctest"
)

// listFile is where the mutations are, from the root of the repository.
const listFile = "extproc/extproctest/mutate/mutations.yaml"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	pattern := ""
	if len(args) > 0 {
		pattern = args[0]
	}
	only, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	root, err := extproctest.Root()
	if err != nil {
		return err
	}
	list, err := readMutations(filepath.Join(root, listFile))
	if err != nil {
		return err
	}
	tree := filepath.Join(root, ".tools", "mutate")
	if err := copyTree(ctx, root, tree); err != nil {
		return fmt.Errorf("copy the repository: %w", err)
	}
	return playAll(ctx, tree, list, only, os.Stdout)
}
