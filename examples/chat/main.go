// Command chat receives Countersign's notifications about approvals and posts them to Slack, to Microsoft Teams, or to both: what will
// run in the policy's own words, who asks, who may answer, and a link to the card in the console.
//
// It has no button that approves: a chat does not know who presses one as your identity provider does, and shows no card. What agents
// chose is text there and nothing else: no mention, no link, no layout. README.md says how to set it up.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/countersign/countersign/examples/webhook/receiver"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("chat", flag.ContinueOnError)
	listen, secretFile := receiver.Flags(f)
	slackFile := f.String("slack-file", "", "a `file` that holds the URL of an incoming webhook of Slack")
	teamsFile := f.String("teams-file", "", "a `file` that holds the URL of a Teams workflow (\"when a webhook request is received\")")
	if err := f.Parse(args); err != nil {
		return err
	}
	r, err := open(*secretFile, *slackFile, *teamsFile)
	if err != nil {
		return err
	}
	return receiver.Serve(*listen, r)
}

// open reads the secrets. A file that is not named is a chat that is not told.
func open(secretFile, slackFile, teamsFile string) (*receiver.Receiver, error) {
	p := &poster{}
	for _, c := range []struct {
		name, file string
		message    func(*notice) any
	}{{"Slack", slackFile, slackMessage}, {"Teams", teamsFile, teamsMessage}} {
		if c.file == "" {
			continue
		}
		address, err := receiver.Secret(c.file)
		if err != nil {
			return nil, err
		}
		if !safe(address) {
			return nil, fmt.Errorf("what %s holds is no https:// URL of an incoming webhook of %s", c.file, c.name)
		}
		p.chats = append(p.chats, chat{c.name, address, c.message})
	}
	if len(p.chats) == 0 {
		return nil, errors.New("there is no chat to tell: name the file with its URL by -slack-file, -teams-file, or both")
	}
	return receiver.New(secretFile, p.tell)
}

// safe reports whether nobody on the way reads what is sent to address.
func safe(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || strings.ContainsAny(address, " \r\n") {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// chat is where messages go, and what they look like there.
type chat struct {
	name, url string
	message   func(*notice) any
}

// poster tells every chat of each event once: where one fails, the event comes again and is posted to that one alone.
type poster struct {
	chats  []chat
	posted receiver.Once
}

func (p *poster) tell(ctx context.Context, e *receiver.Event) error {
	n := noticeOf(e)
	var refused, failed []error
	for _, c := range p.chats {
		err := p.posted.Do(c.name+" "+e.EventID, func() error {
			err := receiver.Post(ctx, c.url, c.message(n))
			if err == nil {
				return nil
			}
			err = fmt.Errorf("tell %s of %s: %w", c.name, receiver.Plain(e.EventID, 100), err)
			fmt.Fprintln(os.Stderr, "chat:", err)
			if errors.Is(err, receiver.ErrNever) {
				refused = append(refused, err)
				return nil // it is done with, though not well
			}
			return err
		})
		if err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return errors.New("not every chat was told") // without ErrNever: the others are tried again
	}
	return errors.Join(refused...)
}
