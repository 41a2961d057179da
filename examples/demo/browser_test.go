package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
)

// TestYouAnswerInTheBrowser plays the demo of `make demo PERSON=me`, with somebody who reads what it prints, opens that,
// signs in and answers.
func TestYouAnswerInTheBrowser(t *testing.T) {
	binary := extproctest.Build(t)
	for _, c := range []struct{ answer, told string }{
		{"approve", "✓ approved: the very bytes"},
		{"reject", "✓ you said no"},
	} {
		t.Run(c.answer, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			var reader sync.WaitGroup
			t.Cleanup(reader.Wait)
			t.Cleanup(func() { cancel(nil) })
			out := &screen{}
			out.opened = func(card, name, password string) {
				reader.Go(func() {
					if err := answerInBrowser(ctx, card, name, password, c.answer); err != nil {
						cancel(fmt.Errorf("answer in the browser: %w", err))
					}
				})
			}
			keys, keyboard := io.Pipe()
			var enter error
			out.done = func() { reader.Go(func() { _, enter = keyboard.Write([]byte("\n")) }) }
			play(t, ctx, &terminal{w: out}, binary, func(name string) string {
				if name == "PERSON" {
					return "me"
				}
				return environ(name)
			}, keys)
			keys.CloseWithError(errors.New("the demo ended before anybody pressed Enter"))
			if reader.Wait(); enter != nil || out.done != nil {
				t.Errorf("the demo does not wait for Enter: %v", enter)
			}
			if !strings.Contains(out.String(), c.told) {
				t.Errorf("the demo does not say %q", c.told)
			}
		})
	}
}

// screen calls opened once when it has been told what to open and how to sign in, and done once when the story is over.
type screen struct {
	bytes.Buffer
	opened func(card, name, password string)
	done   func()
}

var invitation = regexp.MustCompile(`(?m)^ *open +(\S+)\n *sign in as +(\S+)\n *password +(\S+)\n`)

func (s *screen) Write(p []byte) (int, error) {
	n, err := s.Buffer.Write(p)
	if m := invitation.FindStringSubmatch(s.String()); m != nil && s.opened != nil {
		s.opened(m[1], m[2], m[3])
		s.opened = nil
	}
	if s.done != nil && strings.Contains(s.String(), "until you press Enter") {
		s.done()
		s.done = nil
	}
	return n, err
}

// answerInBrowser signs in and sends the card's form, with the fields that the page has.
func answerInBrowser(ctx context.Context, card, name, password, decision string) error {
	browser := &http.Client{Jar: cookies{}}
	page, at, err := visit(ctx, browser, card, nil, "")
	if err != nil {
		return err
	}
	login := url.Values{"request": {hidden(page, "request")}, "name": {name}, "password": {password}}
	if page, at, err = visit(ctx, browser, at.Scheme+"://"+at.Host+"/login", login, ""); err != nil {
		return err
	}
	if at.String() != card {
		return fmt.Errorf("signing in leads to %s, and not to %s", at, card)
	}
	form := url.Values{
		"csrf": {hidden(page, "csrf")}, "card": {hidden(page, "card")}, "decision": {decision}, "reason": {"as the demo's reader"},
	}
	_, _, err = visit(ctx, browser, card+"/decision", form, at.Scheme+"://"+at.Host)
	return err
}

// visit opens a page, or sends a form where there is one, and follows redirects to the end.
func visit(ctx context.Context, browser *http.Client, address string, form url.Values, origin string) (page string, at *url.URL, err error) {
	method := http.MethodGet
	if form != nil {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(form.Encode()))
	if err != nil {
		return "", nil, err
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if origin != "" {
		r.Header.Set("Origin", origin)
	}
	resp, err := browser.Do(r)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return "", nil, fmt.Errorf("%s %s: %s\n%s", method, resp.Request.URL, resp.Status, text)
	}
	return string(text), resp.Request.URL, nil
}

func hidden(page, name string) string {
	m := regexp.MustCompile(`name="` + name + `" value="([^"]*)"`).FindStringSubmatch(page)
	if m == nil {
		return ""
	}
	return html.UnescapeString(m[1])
}

// cookies are a jar that keeps Secure cookies on loopback without TLS, as browsers do and [net/http/cookiejar] does not.
type cookies map[string]map[string]*http.Cookie

func (c cookies) SetCookies(u *url.URL, set []*http.Cookie) {
	if c[u.Host] == nil {
		c[u.Host] = map[string]*http.Cookie{}
	}
	for _, k := range set {
		if k.MaxAge < 0 {
			delete(c[u.Host], k.Name)
			continue
		}
		c[u.Host][k.Name] = k
	}
}

func (c cookies) Cookies(u *url.URL) (list []*http.Cookie) {
	for _, k := range c[u.Host] {
		list = append(list, &http.Cookie{Name: k.Name, Value: k.Value})
	}
	return list
}
