package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/countersign/countersign/extproc/config"
)

// Version is set by the linker.
var Version = "devel"

// env is what a command sees of the process's environment.
type env struct {
	get    func(name string) string
	reload <-chan os.Signal // SIGHUP
}

// usageError is a command line that is wrong, so that nothing was done.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// errSilent is a failure that was told already.
var errSilent = errors.New("failed")

const usage = `countersign decides, records and redacts what AI agents do, at the point where they do it.

  countersign serve --config FILE [--envoy]      run the service; with --envoy, run Envoy too
  countersign check --config FILE                report everything that is wrong with config, policies and Envoy files
  countersign envoy bootstrap --config FILE      print a bootstrap for Envoy that takes the rest over xDS
  countersign envoy static --config FILE         print the whole configuration for an Envoy without xDS
  countersign policy test PATH                   run the Rego tests at PATH (or --config FILE)
  countersign policy explain --config F --input FILE [--resource NAME]
                                                 print the verdict on an input, and the rules that made it
  countersign approvals list|watch [--url URL|--config FILE] [--token-file FILE] [--state STATE] [--json]
                                                 print the requests that wait for a person
  countersign approvals show ID                  print the card of a request
  countersign approvals approve|reject ID [--reason WORDS] [--card DIGEST]
                                                 answer, as the person whose token it is
  countersign evidence verify --data DIR|--config FILE [--key KEY]... [--checkpoint FILE]
                                                 verify the journal; needs only the files and a public key
  countersign evidence show --data DIR|--config FILE [--json] [--type T]... [--since TIME] [--operation ID] [--follow]
  countersign evidence export --data DIR|--config FILE --to FILE
                                                 copy the journal, its checkpoints and the public key into one archive
  countersign evidence key --data DIR|--config FILE
                                                 print the public key that verifies the checkpoints
  countersign config reference                   print every configuration key
  countersign version

Exit codes: 0 well, 1 failed or found something wrong, 2 the command line is wrong.
`

// command is one of the program's commands. It is given the arguments after its name.
type command func(ctx context.Context, c *call) error

// call is one run of a command.
type call struct {
	args   []string
	env    env
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

var commands = map[string]command{
	"serve":             serve,
	"check":             check,
	"envoy bootstrap":   envoyBootstrap,
	"envoy static":      envoyStatic,
	"policy test":       policyTest,
	"policy explain":    policyExplain,
	"approvals list":    approvalsList,
	"approvals show":    approvalsShow,
	"approvals approve": approvalsApprove,
	"approvals reject":  approvalsReject,
	"approvals watch":   approvalsWatch,
	"evidence verify":   evidenceVerify,
	"evidence show":     evidenceShow,
	"evidence export":   evidenceExport,
	"evidence key":      evidenceKey,
	"config reference":  configReference,
	"version":           version,
}

// run is the program, with everything that it touches given to it.
func run(ctx context.Context, args []string, e env, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return usagef("no command was given")
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, usage)
		return nil
	case "--version", "-version":
		args = []string{"version"}
	}
	c := &call{env: e, stdin: stdin, stdout: stdout, stderr: stderr}
	if f, ok := commands[args[0]]; ok {
		c.args = args[1:]
		return f(ctx, c)
	}
	if len(args) > 1 {
		if f, ok := commands[args[0]+" "+args[1]]; ok {
			c.args = args[2:]
			return f(ctx, c)
		}
	}
	return usagef("%q is not a command", strings.Join(args[:min(2, len(args))], " "))
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
				var text strings.Builder
				f.SetOutput(&text)
				f.PrintDefaults()
				return nil, usagef("the flags of %q are:\n%s", f.Name(), text.String())
			}
			return nil, usagef("%s: %v", f.Name(), err)
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
	return config.Load(path)
}

// texts is a flag that may be given several times.
type texts []string

func (t *texts) String() string { return strings.Join(*t, ",") }

func (t *texts) Set(s string) error {
	*t = append(*t, s)
	return nil
}

func version(_ context.Context, c *call) error {
	if len(c.args) > 0 {
		return usagef("version takes no arguments")
	}
	_, err := fmt.Fprintln(c.stdout, "countersign", Version)
	return err
}
