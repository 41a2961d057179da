package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/config"
)

// apiClient speaks the console's JSON API (/api/openapi.yaml) as the person whose token it has.
type apiClient struct {
	base  string
	token string
	http  *http.Client
}

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

func (c *call) apiClient(f apiFlags) (*apiClient, error) {
	base := *f.url
	if base == "" && *f.config != "" {
		conf := config.Salvage(*f.config)
		if conf == nil {
			return nil, fmt.Errorf("%s cannot be read", *f.config)
		}
		base = consoleURL(conf.Approvals.ConsoleURL, string(conf.Listen.Console), conf.Listen.ConsoleTLS != nil)
	}
	if base == "" {
		return nil, usagef("--url URL, or --config FILE with listen.console, is required")
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !config.LoopbackHost(u.Hostname())) {
		return nil, usagef("--url %q: use https, or http on loopback: your token goes there", base)
	}
	token := c.env.get("COUNTERSIGN_TOKEN")
	if *f.token != "" {
		text, err := os.ReadFile(*f.token)
		if err != nil {
			return nil, fmt.Errorf("read the token: %w", err)
		}
		token = string(text)
	}
	if token = strings.TrimSpace(token); token == "" {
		return nil, usagef("--token-file FILE or $COUNTERSIGN_TOKEN is required: an access token of the people's issuer, for you")
	}
	client := &apiClient{base: strings.TrimSuffix(base, "/"), token: token, http: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the console redirected, which its API never does")
		},
	}}
	if *f.ca != "" {
		pem, err := os.ReadFile(*f.ca)
		if err != nil {
			return nil, fmt.Errorf("read --ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s holds no certificate", *f.ca)
		}
		client.http.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	}
	return client, nil
}

// do sends one request and reads its answer into out. A refusal becomes an error in its own words.
func (a *apiClient) do(ctx context.Context, method, path string, body, out any) error {
	resp, err := a.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("read the console's answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		var p struct {
			Title  string `json:"title"`
			Detail string `json:"detail"`
		}
		if json.Unmarshal(text, &p) == nil && p.Title != "" {
			return fmt.Errorf("%s: %s", p.Title, p.Detail)
		}
		return fmt.Errorf("the console answered %s", resp.Status)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read the console's answer: %w", err)
	}
	return nil
}

func (a *apiClient) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, a.base+path, reader)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+a.token)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("reach the console: %w", err)
	}
	return resp, nil
}

// shownRequest is what the commands need of a request. The rest is printed as the API gave it.
type shownRequest struct {
	ID         string          `json:"id"`
	State      string          `json:"state"`
	Card       json.RawMessage `json:"card"`
	CardDigest string          `json:"card_digest"`
}

// cardText is a T of a card: text that was made visible.
type cardText struct {
	Text  string   `json:"text"`
	Notes []string `json:"notes"`
}

type cardPerson struct {
	Subject cardText `json:"subject"`
}

type cardView struct {
	Created string `json:"created"`
	Expires string `json:"expires"`
	Who     struct {
		Agent      cardPerson  `json:"agent"`
		OnBehalfOf *cardPerson `json:"on_behalf_of"`
	} `json:"who"`
	What struct {
		Verb     cardText `json:"verb"`
		Target   cardText `json:"target"`
		Resource cardText `json:"resource"`
		Detail   []struct {
			Path  cardText `json:"path"`
			Type  string   `json:"type"`
			Value cardText `json:"value"`
		} `json:"detail"`
	} `json:"what"`
	Why []struct {
		Rule      cardText   `json:"rule"`
		Reason    cardText   `json:"reason"`
		Approvers []cardText `json:"approvers"`
		Quorum    int        `json:"quorum"`
	} `json:"why"`
}

func approvalsList(ctx context.Context, c *call) error {
	f := c.flags("approvals list")
	flags := approvalsFlags(f)
	state := f.String("state", "pending", "only requests in this `state`; all for every state")
	asJSON := f.Bool("json", false, "print what the API answers")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	client, err := c.apiClient(flags)
	if err != nil {
		return err
	}
	after := ""
	for {
		query := url.Values{}
		if *state != "all" {
			query.Set("state", *state)
		}
		if after != "" {
			query.Set("after", after)
		}
		var page struct {
			Approvals []json.RawMessage `json:"approvals"`
			Next      string            `json:"next"`
		}
		if err := client.do(ctx, http.MethodGet, "/api/approvals?"+query.Encode(), nil, &page); err != nil {
			return err
		}
		for _, raw := range page.Approvals {
			if err := printLine(c.stdout, raw, *asJSON); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		after = page.Next
	}
}

// printLine tells a request on one line.
func printLine(w io.Writer, raw json.RawMessage, asJSON bool) error {
	if asJSON {
		_, err := fmt.Fprintf(w, "%s\n", raw)
		return err
	}
	r, card, err := readRequest(raw)
	if err != nil {
		return err
	}
	who := card.Who.Agent.Subject.Text
	if p := card.Who.OnBehalfOf; p != nil {
		who += " for " + p.Subject.Text
	}
	_, err = fmt.Fprintf(w, "%s  %-8s  %s  %s %s on %s  until %s\n", r.ID, r.State, who, card.What.Verb.Text, card.What.Target.Text, card.What.Resource.Text, card.Expires)
	return err
}

func readRequest(raw json.RawMessage) (shownRequest, cardView, error) {
	var r shownRequest
	var card cardView
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, card, fmt.Errorf("read a request: %w", err)
	}
	if err := json.Unmarshal(r.Card, &card); err != nil {
		return r, card, fmt.Errorf("read the card of request %s: %w", r.ID, err)
	}
	return r, card, nil
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
	client, err := c.apiClient(flags)
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := client.do(ctx, http.MethodGet, "/api/approvals/"+url.PathEscape(rest[0]), nil, &raw); err != nil {
		return err
	}
	if *asJSON {
		_, err := fmt.Fprintf(c.stdout, "%s\n", raw)
		return err
	}
	r, card, err := readRequest(raw)
	if err != nil {
		return err
	}
	return printCard(c.stdout, r, card)
}

func printCard(w io.Writer, r shownRequest, card cardView) error {
	var b strings.Builder
	fmt.Fprintf(&b, "request   %s  (%s)\ncard      %s\nasked     %s, open until %s\n", r.ID, r.State, r.CardDigest, card.Created, card.Expires)
	fmt.Fprintf(&b, "who       %s\n", card.Who.Agent.Subject.Text)
	if p := card.Who.OnBehalfOf; p != nil {
		fmt.Fprintf(&b, "for       %s\n", p.Subject.Text)
	}
	fmt.Fprintf(&b, "what      %s %s on %s\n", card.What.Verb.Text, card.What.Target.Text, card.What.Resource.Text)
	for _, row := range card.What.Detail {
		fmt.Fprintf(&b, "            %s = %s", row.Path.Text, row.Value.Text)
		if len(row.Value.Notes) > 0 {
			fmt.Fprintf(&b, "   (%s)", strings.Join(row.Value.Notes, ", "))
		}
		b.WriteByte('\n')
	}
	for _, why := range card.Why {
		var approvers []string
		for _, a := range why.Approvers {
			approvers = append(approvers, a.Text)
		}
		fmt.Fprintf(&b, "why       %s: %s (%d of %s)\n", why.Rule.Text, why.Reason.Text, why.Quorum, strings.Join(approvers, ", "))
	}
	fmt.Fprintf(&b, "\nTo answer: countersign approvals approve %s --card %s\n", r.ID, r.CardDigest)
	_, err := io.WriteString(w, b.String())
	return err
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
	client, err := c.apiClient(flags)
	if err != nil {
		return err
	}
	path := "/api/approvals/" + url.PathEscape(rest[0])
	if *card == "" {
		if *card, err = c.confirm(ctx, client, path, decision); err != nil {
			return err
		}
	}
	var raw json.RawMessage
	body := map[string]string{"decision": decision, "reason": *reason, "card": *card}
	if err := client.do(ctx, http.MethodPost, path+"/decisions", body, &raw); err != nil {
		return err
	}
	var r shownRequest
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("read the console's answer: %w", err)
	}
	_, err = fmt.Fprintf(c.stdout, "request %s is %s\n", r.ID, r.State)
	return err
}

func (c *call) confirm(ctx context.Context, client *apiClient, path, decision string) (card string, err error) {
	var raw json.RawMessage
	if err := client.do(ctx, http.MethodGet, path, nil, &raw); err != nil {
		return "", err
	}
	r, view, err := readRequest(raw)
	if err != nil {
		return "", err
	}
	if err := printCard(c.stdout, r, view); err != nil {
		return "", err
	}
	fmt.Fprintf(c.stdout, "\n%s this? Type yes: ", decision)
	var answer string
	if _, err := fmt.Fscanln(c.stdin, &answer); err != nil || answer != "yes" {
		return "", errors.New("nothing was sent")
	}
	return r.CardDigest, nil
}

// approvalsWatch prints pending requests as they come.
func approvalsWatch(ctx context.Context, c *call) error {
	f := c.flags("approvals watch")
	flags := approvalsFlags(f)
	asJSON := f.Bool("json", false, "print requests as JSON lines")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	client, err := c.apiClient(flags)
	if err != nil {
		return err
	}
	told := map[string]bool{}
	for ctx.Err() == nil {
		var page struct {
			Approvals []json.RawMessage `json:"approvals"`
		}
		if err := client.do(ctx, http.MethodGet, "/api/approvals?state=pending", nil, &page); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // whoever watched has stopped
			}
			return err
		}
		for _, raw := range page.Approvals {
			var r shownRequest
			if err := json.Unmarshal(raw, &r); err != nil || told[r.ID] {
				continue
			}
			told[r.ID] = true
			if err := printLine(c.stdout, raw, *asJSON); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}
