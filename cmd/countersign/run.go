package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/terminal"
)

// Version is set by the linker.
var Version = "devel"

// env is what a command sees of the process's environment.
type env struct {
	get    func(name string) string
	reload <-chan os.Signal // SIGHUP
}

// usageError is a command line that is wrong, so that nothing was done.
type usageError struct {
	text    string
	command string // whose; empty where there is no such command
}

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{text: fmt.Sprintf(format, args...)} }

// errSilent is a failure that was told already.
var errSilent = errors.New("failed")

// errHelped says that help was wanted, and given.
var errHelped = errors.New("help was given")

// call is one run of a command.
type call struct {
	command *command

	args   []string
	env    env
	stdin  io.Reader
	stdout *terminal.Writer // a person reads it
	stderr *terminal.Writer
	file   io.Writer // stdout, for what goes into a file as it is
	errs   io.Writer // stderr, for another program
}

// run is the program, with everything that it touches given to it.
func run(ctx context.Context, args []string, e env, stdin io.Reader, out, errs io.Writer) error {
	file, stdout, stderr := out, terminal.NewWriter(out), terminal.NewWriter(errs)
	if len(args) == 0 {
		help(stderr)
		return usagef("no command was given")
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		args = append(slices.Clone(args[1:]), "--help")
	case "--version", "-version":
		args = []string{"version"}
	}
	for i := range commands {
		cmd := &commands[i]
		name := strings.Fields(cmd.name)
		if len(args) < len(name) || !slices.Equal(args[:len(name)], name) {
			continue
		}
		err := cmd.run(ctx, &call{command: cmd, args: args[len(name):], env: e, stdin: stdin, stdout: stdout, stderr: stderr, file: file, errs: errs})
		if errors.Is(err, errHelped) {
			return nil
		}
		var wrong *usageError
		if errors.As(err, &wrong) {
			wrong.command = cmd.name
		}
		return err
	}
	return notCommand(args, stdout, stderr)
}

// notCommand helps whoever named no command, or only the first word of one.
func notCommand(args []string, stdout, stderr io.Writer) error {
	last := args[len(args)-1]
	if asked := last == "-h" || last == "-help" || last == "--help"; asked {
		if help(stdout, args[:len(args)-1]...) {
			return nil
		}
		args = args[:len(args)-1]
	}
	name := strings.Join(args[:min(2, len(args))], " ")
	if len(args) == 1 && help(stderr, args[0]) {
		return usagef("%s wants a second word", name)
	}
	return usagef("%q is not a command", name)
}

// flags returns a flag set that reports through errors.
func (c *call) flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

// parse parses the call's flags and returns the arguments that are none; at most most of them.
func (c *call) parse(f *flag.FlagSet, most int) ([]string, error) {
	var rest []string
	args := c.args
	for {
		if err := f.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				c.command.help(c.stdout, f)
				return nil, errHelped
			}
			return nil, usagef("%s: %s", f.Name(), terminal.Line(err.Error()))
		}
		if f.NArg() == 0 {
			break
		}
		rest = append(rest, f.Arg(0))
		args = f.Args()[1:]
	}
	if len(rest) > most {
		return nil, usagef("%s: %q is one argument too many", f.Name(), rest[most])
	}
	return rest, nil
}

// loadConfig reads the file that --config names.
func loadConfig(path string) (*config.Config, error) {
	if path == "" {
		return nil, usagef("--config FILE is required")
	}
	return config.Load(path, configKinds()...)
}

// texts is a flag that may be given several times.
type texts []string

func (t *texts) String() string { return strings.Join(*t, ",") }

func (t *texts) Set(s string) error {
	*t = append(*t, s)
	return nil
}

func version(_ context.Context, c *call) error {
	if _, err := c.parse(c.flags("version"), 0); err != nil {
		return err
	}
	_, err := fmt.Fprintln(c.stdout, "countersign", Version)
	return err
}
