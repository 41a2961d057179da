package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/keyfile"
	"github.com/countersign/countersign/extproc/loopback"
	"github.com/countersign/countersign/extproc/terminal"
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
		conf := config.Salvage(*f.config, configKinds()...)
		if conf == nil {
			return nil, fmt.Errorf("%s cannot be read", *f.config)
		}
		base = conf.ConsoleURL()
	}
	if base == "" {
		return nil, usagef("--url URL, or --config FILE with listen.console, is required")
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback.Host(u.Hostname())) {
		return nil, usagef("--url %q: use https, or http on loopback: your token goes there", base)
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
	client := &apiClient{base: strings.TrimSuffix(base, "/"), token: token, http: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the console redirected, which its API never does")
		},
	}}
	if *f.ca != "" {
		pool, err := keyfile.Roots(*f.ca)
		if err != nil {
			return nil, fmt.Errorf("read --ca: %w", err)
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
	if resp.StatusCode/100 != 2 {
		return refusalIn(resp)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("read the console's answer: %w", err)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read the console's answer: %w", err)
	}
	return nil
}

// refusedError is what the console answered in the place of what was asked for.
type refusedError struct {
	status int
	text   string
}

func (e *refusedError) Error() string { return e.text }

func refusalIn(resp *http.Response) error {
	var p struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && json.Unmarshal(text, &p) == nil && p.Title != "" {
		return &refusedError{resp.StatusCode, terminal.Line(p.Title) + ": " + terminal.Line(p.Detail)}
	}
	return &refusedError{resp.StatusCode, "the console answered " + terminal.Line(resp.Status)}
}

// listed is a page of requests, newest first.
type listed struct {
	Approvals []json.RawMessage `json:"approvals"`
	Next      string            `json:"next"`
}

// list asks for those in a state, or all.
func (a *apiClient) list(ctx context.Context, state, after string) (page listed, err error) {
	query := url.Values{}
	if state != "all" {
		query.Set("state", state)
	}
	if after != "" {
		query.Set("after", after)
	}
	return page, a.do(ctx, http.MethodGet, "/api/approvals?"+query.Encode(), nil, &page)
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
		page, err := client.list(ctx, *state, after)
		if err != nil {
			return err
		}
		for _, raw := range page.Approvals {
			if err := printLine(c.stdout, raw, *asJSON, time.Now()); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		after = page.Next
	}
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
		return printJSON(c.stdout, raw)
	}
	r, err := readRequest(raw)
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
	client, err := c.apiClient(flags)
	if err != nil {
		return err
	}
	path := "/api/approvals/" + url.PathEscape(rest[0])
	if *card == "" {
		ask := c.stdout
		if *asJSON {
			ask = c.stderr
		}
		if *card, err = confirm(ctx, client, path, decision, c.stdin, ask); err != nil {
			return err
		}
	}
	var raw json.RawMessage
	body := map[string]string{"decision": decision, "reason": *reason, "card": *card}
	if err := client.do(ctx, http.MethodPost, path+"/decisions", body, &raw); err != nil {
		return err
	}
	if *asJSON {
		return printJSON(c.stdout, raw)
	}
	var r shownRequest // without its card: it is printed before an answer, and not after it
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("read the console's answer: %w", err)
	}
	_, err = fmt.Fprintln(c.stdout, r.outcome(decision))
	return err
}

// confirm shows a request and asks whether its reader means it. It returns the digest of the card that was shown.
func confirm(ctx context.Context, client *apiClient, path, decision string, in io.Reader, out io.Writer) (card string, err error) {
	var raw json.RawMessage
	if err := client.do(ctx, http.MethodGet, path, nil, &raw); err != nil {
		return "", err
	}
	r, err := readRequest(raw)
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
