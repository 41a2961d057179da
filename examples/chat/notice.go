package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/examples/webhook/receiver"
)

// notice is what is told of an event, in plain text that a chat can show as it is. Every text is bounded, and so is their number.
type notice struct {
	title     string   // ours
	what      []string // in the policy's words, or verb and resource
	inWords   bool     // they are the policy's
	facts     [][2]string
	link      string // to the card; empty where there is nothing to look at any more, or no console
	footnotes []string
}

const (
	mostSummaries = 3
	mostWords     = 300 // characters of a summary
	mostText      = 200 // of any other text
	mostApprovers = 10
	mostURL       = 2000
)

func noticeOf(e *receiver.Event) *notice {
	n := &notice{title: titleOf(e)}
	for _, a := range e.Asks {
		words := receiver.Plain(a.Summary, mostWords)
		if words != "" && !slices.Contains(n.what, words) {
			n.what = append(n.what, words)
		}
	}
	n.inWords = len(n.what) > 0
	if more := len(n.what) - mostSummaries; more > 0 {
		n.what = append(n.what[:mostSummaries], fmt.Sprintf("… and %d more, on the card", more))
	}
	verb, resource := receiver.Plain(e.Verb, mostText), receiver.Plain(e.Resource, mostText)
	if !n.inWords {
		n.what = []string{verb + " on " + resource}
	} else {
		n.fact("Request", verb+" on "+resource)
	}
	n.fact("Agent", e.Agent.Plain(mostText))
	if e.OnBehalfOf != nil {
		n.fact("For", e.OnBehalfOf.Plain(mostText))
	}
	if e.Event != "approval.requested" {
		return n
	}
	n.fact("May answer", approversOf(e.Asks))
	if !e.Expires.IsZero() {
		n.fact("Open until", e.Expires.UTC().Format("2006-01-02 15:04 UTC"))
	}
	if n.inWords {
		n.footnotes = append(n.footnotes, "What will run is in the policy's words; the card in the console has all of it.")
	}
	if safe(e.URL) && len(e.URL) <= mostURL {
		n.link = e.URL
		n.footnotes = append(n.footnotes, "Approve or reject in the console, signed in as yourself. Nothing here can.")
	} else {
		n.footnotes = append(n.footnotes, "Approve or reject in the console, or with `countersign approvals`. Nothing here can.")
	}
	return n
}

func (n *notice) fact(name, value string) { n.facts = append(n.facts, [2]string{name, value}) }

// titleOf says what happened.
func titleOf(e *receiver.Event) string {
	by := ""
	if e.Decision != nil {
		by = " by " + e.Decision.Approver.Plain(mostText)
	}
	switch {
	case e.Event == "approval.requested":
		return "Waits for a person"
	case e.Decision != nil && e.Decision.Decision == "reject":
		return "Rejected" + by
	case e.Decision != nil && e.State == "pending":
		return "Approved" + by + "; more people are needed"
	case e.Decision != nil && e.Decision.Decision == "approve":
		return "Approved" + by
	case e.Event == "approval.spent":
		return "The approval was used"
	case e.Event == "approval.expired":
		return "Closed: not answered, or not used, in time"
	case e.Event == "approval.voided":
		return "Closed: what it was asked under has changed"
	default:
		return "Changed: " + receiver.Plain(e.Event, mostText)
	}
}

func approversOf(asks []receiver.Ask) string {
	var list []string
	for _, a := range asks {
		who := make([]string, 0, len(a.Approvers))
		for _, name := range a.Approvers {
			who = append(who, receiver.Plain(name, mostText))
		}
		if more := len(who) - mostApprovers; more > 0 {
			who = append(who[:mostApprovers], fmt.Sprintf("%d more", more))
		}
		if text := fmt.Sprintf("%d of %s", max(1, a.Quorum), strings.Join(who, ", ")); !slices.Contains(list, text) {
			list = append(list, text)
		}
	}
	return cut(strings.Join(list, "; and "), 1000)
}

// cut is at most that many characters of a text that is plain already.
func cut(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "… (cut)"
	}
	return s
}
