// Package client speaks the console's JSON API (/api/openapi.yaml) as the person whose token it has. The console is believed in
// nothing that it can be held against: a card is the one that its digest names ([Read]), because that digest is what an answer
// is about. What it says in words is made fit for a terminal.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"github.com/countersign/countersign/extproc/loopback"
	"github.com/countersign/countersign/extproc/terminal"
)

// Client is a person's.
type Client struct {
	base  string
	token string
	http  *http.Client
}

// New returns a client of the console at address. The system's authorities are trusted where roots is nil.
func New(address, token string, roots *x509.CertPool) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback.Host(u.Hostname())) {
		return nil, fmt.Errorf("%q: use https, or http on loopback: your token goes there", address)
	}
	c := &Client{base: strings.TrimSuffix(address, "/"), token: token, http: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the console redirected, which its API never does")
		},
	}}
	if roots != nil {
		c.http.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	}
	return c, nil
}

// List asks for the requests in a state, or in all of them; the newest comes first.
func (c *Client) List(ctx context.Context, state string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		query := url.Values{}
		if state != "all" {
			query.Set("state", state)
		}
		for {
			var page struct {
				Approvals []json.RawMessage `json:"approvals"`
				Next      string            `json:"next"`
			}
			if err := c.do(ctx, http.MethodGet, "?"+query.Encode(), nil, &page); err != nil {
				yield(nil, err)
				return
			}
			for _, raw := range page.Approvals {
				if !yield(raw, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			query.Set("after", page.Next)
		}
	}
}

// Show asks for one request.
func (c *Client) Show(ctx context.Context, id string) (request json.RawMessage, err error) {
	return request, c.do(ctx, http.MethodGet, "/"+url.PathEscape(id), nil, &request)
}

// Answer is what a person says to the request whose card they saw.
type Answer struct {
	Decision string `json:"decision"` // approve or reject
	Reason   string `json:"reason"`
	Card     string `json:"card"` // its digest
}

// Decide sends an answer, and returns the request as it is then.
func (c *Client) Decide(ctx context.Context, id string, a Answer) (request json.RawMessage, err error) {
	return request, c.do(ctx, http.MethodPost, "/"+url.PathEscape(id)+"/decisions", a, &request)
}

// do sends one request and reads its answer into out. A refusal becomes an error in its own words.
func (c *Client) do(ctx context.Context, method, path string, body, out any) error {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		return fmt.Errorf("read the console's answer: %w", err)
	}
	return nil
}

// send returns an answer that is none of a refusal.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+"/api/approvals"+path, reader)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("reach the console: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, refusalIn(resp)
	}
	return resp, nil
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
