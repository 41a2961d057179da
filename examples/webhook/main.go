// Command webhook receives Countersign's notifications about approvals, checks that they are genuine, fresh and new (package
// receiver), and posts a line about each to a chat. It is a sample: README.md says what to keep when you write your own.
//
// It can tell and nothing else. Whoever follows its link signs in at the console and sees the card there.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/countersign/countersign/examples/webhook/receiver"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "webhook:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("webhook", flag.ContinueOnError)
	listen, secretFile := receiver.Flags(f)
	chatFile := f.String("chat-file", "", "a `file` that holds the chat's incoming-webhook URL, which is a secret; without one, lines are printed")
	if err := f.Parse(args); err != nil {
		return err
	}
	post := func(_ context.Context, line string) error {
		_, err := fmt.Println(line)
		return err
	}
	if *chatFile != "" {
		url, err := receiver.Secret(*chatFile)
		if err != nil {
			return err
		}
		post = chat(url)
	}
	r, err := receiver.New(*secretFile, telling(post))
	if err != nil {
		return err
	}
	return receiver.Serve(*listen, r)
}

func telling(post func(context.Context, string) error) func(context.Context, *receiver.Event) error {
	return func(ctx context.Context, e *receiver.Event) error { return post(ctx, line(e)) }
}

func line(e *receiver.Event) string {
	what := plain(fmt.Sprintf("%s on %s by ", e.Verb, e.Resource)) + markup.Replace(e.Agent.Plain(mostText))
	for _, a := range e.Asks {
		if a.Summary != "" {
			what = plain(a.Summary) + " (" + what + ")"
			break
		}
	}
	switch {
	case e.Event == "approval.requested":
		var who []string
		for _, a := range e.Asks {
			who = append(who, a.Approvers...)
		}
		return fmt.Sprintf("%s waits for %s: %s", what, plain(strings.Join(who, ", ")), e.URL)
	case e.Decision != nil:
		return fmt.Sprintf("%s: %s says %s", what, markup.Replace(e.Decision.Approver.Plain(mostText)), plain(e.Decision.Decision))
	default:
		return what + ": " + plain(e.State)
	}
}

// plain is a text as the chat shows it, and nothing more: no markup, no mention of everybody, no second line.
func plain(s string) string { return markup.Replace(receiver.Plain(s, mostText)) }

const mostText = 500 // characters of a text

var markup = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "*", "\u2217")

// chat posts to an incoming webhook that takes {"text": …}, as many chats have.
func chat(url string) func(context.Context, string) error {
	return func(ctx context.Context, line string) error {
		return receiver.Post(ctx, url, map[string]string{"text": line})
	}
}
