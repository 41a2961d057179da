package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

// command is one of the program's commands. It is given the arguments after its name.
type command struct {
	name     string
	args     string
	does     string
	examples []string
	run      func(ctx context.Context, c *call) error
}

// commands are in the order in which help lists them.
var commands = []command{
	{"serve", "--config FILE [--envoy]", "run the service; with --envoy, run Envoy too", []string{
		"countersign serve --envoy --config /etc/countersign/countersign.yaml",
	}, serve},
	{"check", "--config FILE [--online | --offline]", "report everything that is wrong with the configuration, its policies, its Envoy files and what its issuers call themselves", []string{
		"countersign check --config countersign.yaml && systemctl reload countersign",
	}, check},
	{"envoy bootstrap", "--config FILE", "print a bootstrap for an Envoy that takes the rest over xDS", []string{
		"countersign envoy bootstrap --config countersign.yaml > bootstrap.yaml && envoy -c bootstrap.yaml",
	}, envoyBootstrap},
	{"envoy static", "--config FILE", "print the whole configuration for an Envoy without xDS", []string{
		"countersign envoy static --config countersign.yaml > envoy.yaml && envoy -c envoy.yaml",
	}, envoyStatic},
	{"policy test", "PATH | --config FILE [--verbose]", "run the Rego tests in a directory, or of a configuration", []string{
		"countersign policy test ./policies",
	}, policyTest},
	{"policy explain", "--config FILE --input FILE [--resource NAME]", "print the verdict on an input, and the rules that made it", []string{
		"countersign policy explain --config countersign.yaml --input request.json",
		"jq '.http.method = \"DELETE\"' request.json | countersign policy explain --config countersign.yaml --input -",
	}, policyExplain},
	{"approvals list", "--url URL | --config FILE [--state STATE] [--json]", "list the requests that wait for a person", []string{
		"countersign approvals list --url https://approvals.example.com --token-file ~/.token",
		"countersign approvals list --config countersign.yaml --state all",
	}, approvalsList},
	{"approvals show", "ID --url URL | --config FILE [--json]", "print the card of a request: who asks, what will run, and why", []string{
		"countersign approvals show ID --url https://approvals.example.com",
	}, approvalsShow},
	{"approvals approve", "ID --url URL | --config FILE [--reason WORDS] [--card DIGEST]", "approve a request, as the person whose token it is", []string{
		"countersign approvals approve ID --url https://approvals.example.com --reason 'the customer called'",
	}, approvalsApprove},
	{"approvals reject", "ID --url URL | --config FILE --reason WORDS [--card DIGEST]", "reject a request; the agent is told the reason", []string{
		"countersign approvals reject ID --url https://approvals.example.com --reason 'ask for less than 100'",
	}, approvalsReject},
	{"approvals watch", "--url URL | --config FILE [--json]", "print requests as they come and change", []string{
		"countersign approvals watch --url https://approvals.example.com",
	}, approvalsWatch},
	{"evidence verify", "--config FILE | --data DIR [--key KEY]... [--checkpoint FILE]", "verify the journal; needs only the files and a public key", []string{
		"countersign evidence verify --config countersign.yaml --key gw-1.pub",
		"countersign evidence verify --data ./archive --key gw-1.pub --checkpoint from-the-collector.txt",
	}, evidenceVerify},
	{"evidence show", "--config FILE | --data DIR [--type T]... [--since TIME] [--operation ID] [--request ID] [--approval ID] [--trace ID] [--json] [--follow]", "print records", []string{
		"countersign evidence show --config countersign.yaml --type 'approval.*' --since 24h",
		"countersign evidence show --config countersign.yaml --request 460e5832-58da-4587-a229-3c6567eb94c3",
		"countersign evidence show --config countersign.yaml --follow --json | jq .body.effect",
	}, evidenceShow},
	{"evidence rejected", "--config FILE | --data DIR [--json]", "list what the collector would not have", []string{
		"countersign evidence rejected --config countersign.yaml",
	}, evidenceRejected},
	{"evidence resend", "--config FILE [--seq FROM-TO | --all]", "send again what the collector would not have", []string{
		"countersign evidence resend --config countersign.yaml --seq 5-700",
	}, evidenceResend},
	{"evidence export", "--config FILE | --data DIR --to FILE", "copy the journal, its checkpoints and the public key into one archive", []string{
		"countersign evidence export --config countersign.yaml --to evidence.tar.gz",
	}, evidenceExport},
	{"evidence key", "--config FILE | --data DIR", "print the public key that verifies the checkpoints", []string{
		"countersign evidence key --config countersign.yaml > gw-1.pub",
	}, evidenceKey},
	{"config reference", "", "print every configuration key", nil, configReference},
	{"version", "", "print the version", nil, version},
}

// help prints the commands whose names begin with words; all of them for none. It is false where there are none.
func help(w io.Writer, words ...string) bool {
	of := func(cmd command) bool {
		name := strings.Fields(cmd.name)
		return len(words) <= len(name) && slices.Equal(name[:len(words)], words)
	}
	if !slices.ContainsFunc(commands, of) {
		return false
	}
	if len(words) == 0 {
		fmt.Fprint(w, "countersign decides, records and redacts what AI agents do, at the point where they do it.\n\n")
	}
	for _, cmd := range commands {
		if of(cmd) {
			fmt.Fprintf(w, "  countersign %-19s%s\n", cmd.name, cmd.does)
		}
	}
	fmt.Fprint(w, "\n'countersign help COMMAND' has the flags of a command, and examples.\n")
	if len(words) == 0 {
		fmt.Fprint(w, "Exit codes: 0 well, 1 failed or found something wrong, 2 the command line is wrong.\n")
	}
	return true
}

// help prints what there is to know about one command.
func (cmd *command) help(w io.Writer, f *flag.FlagSet) {
	fmt.Fprintln(w, strings.TrimSpace("countersign "+cmd.name+" "+cmd.args))
	fmt.Fprintf(w, "\n%s%s.\n", strings.ToUpper(cmd.does[:1]), cmd.does[1:])
	heading := "\n"
	f.VisitAll(func(g *flag.Flag) {
		name, does := flag.UnquoteUsage(g)
		if g.DefValue != "" && g.DefValue != "false" {
			does += " (" + g.DefValue + " by default)"
		}
		fmt.Fprintf(w, "%s  %-22s%s\n", heading, strings.TrimSpace("--"+g.Name+" "+strings.ToUpper(name)), does)
		heading = ""
	})
	heading = "\nFor example:\n"
	for _, example := range cmd.examples {
		fmt.Fprintf(w, "%s  %s\n", heading, example)
		heading = ""
	}
}
