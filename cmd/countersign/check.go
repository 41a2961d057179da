package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/custody"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/extproc/terminal"
	"github.com/countersign/countersign/xds"
)

// check reports every problem of a configuration, its policies and its Envoy files at once.
func check(ctx context.Context, c *call) error {
	f := c.flags("check")
	path := f.String("config", "", "the configuration `file`")
	online := f.Bool("online", false, "an issuer that does not answer is a problem too")
	offline := f.Bool("offline", false, "ask no issuer who it says it is")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	conf, err := loadConfig(*path)
	var usage *usageError
	if errors.As(err, &usage) {
		return err
	}
	problems := 0
	tell := func(what any) {
		problems++
		fmt.Fprintln(c.stderr, terminal.Lines(fmt.Sprint(what)))
	}
	tellAll := func(err error) {
		for _, line := range problemsOf(err) {
			tell(line)
		}
	}
	if tellAll(err); err != nil {
		conf = config.Salvage(*path, configKinds()...) // policies and Envoy files are checked all the same, where the file names them
	}
	var policies *policy.Set
	if conf != nil {
		policies = checkPolicies(ctx, conf, tellAll)
		for _, p := range xds.CheckFiles(conf, envoyKinds()...) {
			tell(p)
		}
		tellAll(custody.Check(conf))
	}
	if err == nil {
		for _, p := range conf.OutOfDate(time.Now()) {
			tell(p)
		}
		checkParts(conf, tell)
		if !*offline {
			checkIssuers(ctx, conf, *online, tell)
		}
	}
	if problems > 0 {
		fmt.Fprintf(c.stderr, "%s: %d problem%s\n", *path, problems, map[bool]string{true: "", false: "s"}[problems == 1])
		return errSilent
	}
	return tellChecked(c.stdout, conf, policies)
}

func tellChecked(w io.Writer, c *config.Config, p *policy.Set) error {
	_, err := fmt.Fprintf(w, "%s is well: %d resource(s), %d issuer(s), policies %.12s in %d file(s)\n",
		c.File(), len(c.Resources), len(c.Agents), p.Digest(), p.Loaded())
	for _, note := range notes(c, p) {
		if err == nil {
			_, err = fmt.Fprintln(w, "note:", note)
		}
	}
	return err
}

// notes are what is right and may not be what was meant: rules that can only ever refuse, and secrets that others can read.
func notes(c *config.Config, p *policy.Set) (list []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if c.People != nil && c.Listen.Console == "" {
		add("there are people and no listen.console: nobody can answer at this gateway")
	}
	for i, agents := range issuersOf(c) {
		if c.People != nil && !identity.TellsApart(agents, peopleOf(c.People)) {
			add("agents[%d] (%s): nobody can tell whether the person that one of its agents acts for is an approver of %s, so that no approval counts of what is done for a person: set people.kind to the kind of both, or people.claim and agents[%d].people_claim to claims that name the same person, and that only an administrator can change", i, agents.Issuer, c.People.Issuer, i)
		}
	}
	for _, r := range c.Resources {
		common := r.Common()
		if c.People == nil && p.MayAsk(common.Policy) {
			add("resource %q: its rules may ask for a person, and without people that refuses with approval-unavailable", common.Name)
		}
		if k := kindOf(r); k.Notes != nil {
			for _, note := range k.Notes(r, p) {
				add("resource %q: %s", common.Name, note)
			}
		}
	}
	return append(list, custody.Readable(c)...)
}

func checkPolicies(ctx context.Context, c *config.Config, tellAll func(error)) *policy.Set {
	if _, err := os.Stat(string(c.Policies)); err != nil {
		return nil // the configuration's own check says so
	}
	set, err := loadPolicies(ctx, c, nil)
	if _, several := errors.AsType[*policy.Problems](err); err != nil && !several {
		err = fmt.Errorf("%s: %w", c.Policies, err)
	}
	tellAll(err)
	return set
}

// askTime is how long check waits for issuers.
const askTime = 3 * time.Second

// checkIssuers makes the verifiers that serve would make, and asks the issuers who they say they are. One that cannot be reached
// from here may be from where the gateway runs, and is a problem only where everybody has to answer.
func checkIssuers(ctx context.Context, c *config.Config, everybody bool, tell func(any)) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	for _, of := range verifiersOf(c) {
		v, err := identity.New(identity.Options{Issuers: of.issuers})
		if err != nil {
			continue // checkParts says so
		}
		for n, i := range v.Ask(ctx) {
			if _, other := errors.AsType[*identity.OtherIssuerError](i.Err); other || i.Err != nil && everybody {
				tell(c.Problem(of.key(n)+".issuer", i.Err.Error()))
			}
		}
		v.Close()
	}
}

// verifierOf is one of the verifiers that serve makes: of agents, or of people.
type verifierOf struct {
	of      string
	issuers []identity.Issuer
	key     func(n int) string // of the configuration, for the issuer
}

func verifiersOf(c *config.Config) []verifierOf {
	list := []verifierOf{{"agents", issuersOf(c), func(n int) string { return fmt.Sprintf("agents[%d]", n) }}}
	if c.People != nil {
		list = append(list, verifierOf{"people", []identity.Issuer{peopleOf(c.People)}, func(int) string { return "people" }})
	}
	return list
}

// checkParts makes what serve would make of the configuration and keeps none of it.
func checkParts(c *config.Config, tell func(any)) {
	for _, v := range verifiersOf(c) {
		if _, err := identity.New(identity.Options{Issuers: v.issuers}); err != nil {
			tell(fmt.Sprintf("%s: %s: %v", c.File(), v.of, err))
		}
	}
	if c.Approvals.Store != "embedded" {
		if _, err := redisOptions(c); err != nil {
			tell(fmt.Sprintf("%s: approvals.store: %v", c.File(), err))
		}
	}
	if _, err := xds.Resources(c, "check", envoyKinds()...); err != nil {
		tell(fmt.Sprintf("%s: the Envoy configuration that this makes: %v", c.File(), err))
	}
	for _, r := range c.Resources {
		if k := kindOf(r); k.Check != nil {
			if err := k.Check(r); err != nil {
				tell(fmt.Sprintf("%s: resource %q: %v", c.File(), r.Common().Name, err))
			}
		}
	}
}

func configReference(_ context.Context, c *call) error {
	if _, err := c.parse(c.flags("config reference"), 0); err != nil {
		return err
	}
	_, err := fmt.Fprint(c.stdout, config.Reference(configKinds()...))
	return err
}
