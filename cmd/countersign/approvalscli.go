package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/console/client"
	"github.com/countersign/countersign/extproc/keyfile"
	"github.com/countersign/countersign/extproc/terminal"
)

// apiFlags are those of every approvals command.
type apiFlags struct{ url, config, token, ca *string }

func approvalsFlags(f *flag.FlagSet) apiFlags {
	return apiFlags{
		url:    f.String("url", "", "the console's `URL`; that of --config by default"),
		config: f.String("config", "", "the configuration `file` that says where the console is"),
		token:  f.String("token-file", "", "a `file` with your access token; $COUNTERSIGN_TOKEN by default"),
		ca:     f.String("ca", "", "a PEM `file` of the authority that signed the console's certificate"),
	}
}

func (c *call) apiClient(f apiFlags) (*client.Client, error) {
	address := *f.url
	if address == "" && *f.config != "" {
		conf := config.Salvage(*f.config, configKinds()...)
		if conf == nil {
			return nil, fmt.Errorf("%s cannot be read", *f.config)
		}
		address = conf.ConsoleURL()
	}
	if address == "" {
		return nil, usagef("--url URL, or --config FILE with listen.console, is required")
	}
	token := c.env.get("COUNTERSIGN_TOKEN")
	if *f.token != "" {
		var err error
		if token, err = keyfile.Secret(*f.token); err != nil {
			return nil, fmt.Errorf("read the token: %w", err)
		}
	}
	if token = strings.TrimSpace(token); token == "" {
		return nil, usagef("--token-file FILE or $COUNTERSIGN_TOKEN is required: an access token of the people's issuer, for you")
	}
	var roots *x509.CertPool
	if *f.ca != "" {
		var err error
		if roots, err = keyfile.Roots(*f.ca); err != nil {
			return nil, fmt.Errorf("read --ca: %w", err)
		}
	}
	api, err := client.New(address, token, roots)
	if err != nil {
		return nil, usagef("--url %v", err)
	}
	return api, nil
}

func approvalsList(ctx context.Context, c *call) error {
	f := c.flags("approvals list")
	flags := approvalsFlags(f)
	state := f.String("state", "pending", "only requests in this `state`; all for every state")
	asJSON := f.Bool("json", false, "print what the API answers")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	api, err := c.apiClient(flags)
	if err != nil {
		return err
	}
	for raw, err := range api.List(ctx, *state) {
		if err == nil {
			err = printLine(c.stdout, raw, *asJSON, time.Now())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func approvalsShow(ctx context.Context, c *call) error {
	f := c.flags("approvals show")
	flags := approvalsFlags(f)
	asJSON := f.Bool("json", false, "print what the API answers")
	rest, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return usagef("approvals show wants the ID of a request")
	}
	api, err := c.apiClient(flags)
	if err != nil {
		return err
	}
	raw, err := api.Show(ctx, rest[0])
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(c.stdout, raw)
	}
	r, err := client.Read(raw)
	if err != nil {
		return err
	}
	return printRequest(c.stdout, r, time.Now())
}

func approvalsApprove(ctx context.Context, c *call) error {
	return c.decideApproval(ctx, "approvals approve", "approve")
}

func approvalsReject(ctx context.Context, c *call) error {
	return c.decideApproval(ctx, "approvals reject", "reject")
}

// decideApproval sends an answer. It is about the card that --card names; without it the card is shown, and the answer is
// about what was shown, once its reader has typed yes.
func (c *call) decideApproval(ctx context.Context, name, decision string) error {
	f := c.flags(name)
	flags := approvalsFlags(f)
	reason := f.String("reason", "", "why, in your own `words`; the agent is told when you reject")
	card := f.String("card", "", "the `digest` of the card that you saw")
	asJSON := f.Bool("json", false, "print what the API answers")
	rest, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return usagef("%s wants the ID of a request", name)
	}
	if decision == "reject" && *reason == "" {
		return usagef("%s wants --reason: the agent is told why", name)
	}
	api, err := c.apiClient(flags)
	if err != nil {
		return err
	}
	if *card == "" {
		ask := c.stdout
		if *asJSON {
			ask = c.stderr
		}
		if *card, err = confirm(ctx, api, rest[0], decision, c.stdin, ask); err != nil {
			return err
		}
	}
	raw, err := api.Decide(ctx, rest[0], client.Answer{Decision: decision, Reason: *reason, Card: *card})
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(c.stdout, raw)
	}
	var r client.Request // without its card: it is printed before an answer, and not after it
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("read the console's answer: %w", err)
	}
	_, err = fmt.Fprintln(c.stdout, outcome(&r, decision))
	return err
}

// confirm shows a request and asks whether its reader means it. It returns the digest of the card that was shown.
func confirm(ctx context.Context, api *client.Client, id, decision string, in io.Reader, out io.Writer) (card string, err error) {
	raw, err := api.Show(ctx, id)
	if err != nil {
		return "", err
	}
	r, err := client.Read(raw)
	if err != nil {
		return "", err
	}
	if err := printRequest(out, r, time.Now()); err != nil {
		return "", err
	}
	if !r.MayDecide {
		return "", errors.New("this is not yours to answer: " + terminal.Line(r.MayNot))
	}
	fmt.Fprintf(out, "\n%s this? Type yes: ", decision)
	var answer string
	if _, err := fmt.Fscanln(in, &answer); err != nil || answer != "yes" {
		return "", errors.New("nothing was sent")
	}
	return r.CardDigest, nil
}

// approvalsWatch prints requests as they come, and what becomes of them, until it is interrupted.
func approvalsWatch(ctx context.Context, c *call) error {
	f := c.flags("approvals watch")
	flags := approvalsFlags(f)
	asJSON := f.Bool("json", false, "print requests as JSON lines")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	api, err := c.apiClient(flags)
	if err != nil {
		return err
	}
	fail := func(err error) {
		if err != nil {
			fmt.Fprintf(c.stderr, "countersign: %v\n", err)
		}
	}
	return api.Follow(ctx, client.Listener{
		Opened: func(raw json.RawMessage) { fail(printLine(c.stdout, raw, *asJSON, time.Now())) },
		Closed: func(id, state string) {
			if !*asJSON {
				_, err := fmt.Fprintf(c.stdout, "%s  %s\n", terminal.Line(id), terminal.Line(state))
				fail(err)
			}
		},
		Lost: func(err error) { fail(fmt.Errorf("%w; trying again", err)) },
	})
}
