package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/console/client"
	"github.com/countersign/countersign/extproc/terminal"
)

// printJSON prints what the API answered on one line. What a terminal could act on, or show in another place than it stands,
// is escaped; it is the same JSON, and a card, in which no such character is, keeps the bytes that its digest is of.
func printJSON(w io.Writer, raw json.RawMessage) error {
	_, err := fmt.Fprintln(w, terminal.JSON(strings.TrimRight(string(raw), "\n")))
	return err
}

// said is the text with what is odd about it.
func said(t approval.Text) string {
	s := terminal.Line(t.Text)
	if s == "" {
		s = "(empty)"
	}
	if len(t.Notes) > 0 {
		s += "   (" + terminal.Line(strings.Join(t.Notes, ", ")) + ")"
	}
	if t.SHA256 != "" {
		s += fmt.Sprintf("   (%d bytes in all, SHA-256 %s)", t.Bytes, terminal.Line(t.SHA256))
	}
	return s
}

// valueOf is the row's value with its type: a string that could be taken for another is in quotes.
func valueOf(r approval.CardRow) string {
	v := r.Value
	if r.Type == "string" && v.Text != "" && terminal.IsOther(v.Text) {
		v.Text = terminal.Quoted(v.Text)
	}
	return said(v)
}

// short is the text where there is no room for all of it.
func short(t approval.Text) string {
	s := []rune(terminal.Line(t.Text))
	if len(s) > 100 {
		return string(s[:99]) + "…"
	}
	return string(s)
}

// doing is what is done: the verb and its target, or the target alone where that begins with the verb, as a statement of SQL does.
func doing(verb, target approval.Text, write func(approval.Text) string) string {
	n := len(verb.Text)
	if len(target.Text) > n && target.Text[n] == ' ' && strings.EqualFold(target.Text[:n], verb.Text) || strings.EqualFold(target.Text, verb.Text) {
		return write(target)
	}
	return write(verb) + " " + write(target)
}

// party is who somebody is: the name that they claim in quotes, and the pair that names them.
func party(p approval.CardParty) string {
	if !p.HasName() {
		return said(p.Subject) + " of " + said(p.Issuer)
	}
	p.Name.Text = terminal.Quoted(p.Name.Text)
	return fmt.Sprintf("%s (%s, %s)", said(p.Name), said(p.Subject), said(p.Issuer))
}

// who is party where there is no room for all of it.
func who(p approval.CardParty) string {
	if !p.HasName() {
		return short(p.Subject)
	}
	return fmt.Sprintf("%s (%s)", terminal.Quoted(short(p.Name)), short(p.Subject))
}

func allOf(list []approval.Text) string {
	all := make([]string, len(list))
	for i, t := range list {
		all[i] = said(t)
	}
	return strings.Join(all, ", ")
}

// clock is a time as people read it: UTC, to the second.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// left is how long it is until t.
func left(t, now time.Time) string {
	d := t.Sub(now).Round(time.Second)
	switch {
	case d <= 0:
		return "over"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds left", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm left", d/time.Minute)
	default:
		return fmt.Sprintf("%dh left", d/time.Hour)
	}
}

// standing is the state, and for how long it is so.
func standing(r *client.Request, now time.Time) string {
	switch {
	case r.State == "pending":
		return "pending, " + left(r.Expires, now)
	case r.State == "approved" && r.Grant != nil:
		return "approved, not used yet, " + left(*r.Grant, now)
	case r.Spent != nil && r.Spent.Outcome != nil:
		o := r.Spent.Outcome
		return fmt.Sprintf("%s, %s %d in %.2fs", terminal.Line(r.State), terminal.Line(o.Result), o.Status, o.Seconds)
	default:
		return terminal.Line(r.State)
	}
}

// printLine tells a request on one line.
func printLine(w io.Writer, raw json.RawMessage, asJSON bool, now time.Time) error {
	if asJSON {
		return printJSON(w, raw)
	}
	r, err := client.Read(raw)
	if err != nil {
		return err
	}
	by := who(r.Card.Who.Agent)
	if p := r.Card.Who.OnBehalfOf; p != nil {
		by += " for " + who(*p)
	}
	what := r.Card.What
	words, end := "", ""
	for _, s := range r.Card.Summaries() { // in quotes, so that nothing in one is taken for what follows it
		words += terminal.Quoted(short(s)) + "  "
	}
	if r.Waiting != nil {
		end = "  (the agent waits)"
	}
	if r.State == "pending" && !r.MayDecide {
		end += "  (not yours to answer)"
	}
	_, err = fmt.Fprintf(w, "%s  %s  %s%s on %s  by %s%s\n", terminal.Line(r.ID), standing(r, now), words, doing(what.Verb, what.Target, short), short(what.Resource), by, end)
	return err
}

// lines are printed with a word before each.
type lines struct{ strings.Builder }

func (l *lines) add(label, format string, args ...any) {
	fmt.Fprintf(l, "%-10s%s\n", label, fmt.Sprintf(format, args...))
}

// printRequest prints the card, and what came of it: what, in policy's words and as it is, who and why first, then all that was
// judged.
func printRequest(w io.Writer, r *client.Request, now time.Time) error {
	var l lines
	card := r.Card
	what := &card.What
	l.add("request", "%s  (%s)", terminal.Line(r.ID), standing(r, now))
	l.add("asked", "%s, open until %s", clock(r.Created), clock(r.Expires))
	switch {
	case r.Waiting != nil:
		l.add("waits", "%d now, %s", r.Waiting.Count, left(r.Waiting.Until, now))
	case r.State == "pending":
		l.add("waits", "nobody now; the agent will come again")
	}
	l.add("card", "%s", terminal.Line(r.CardDigest))
	l.WriteByte('\n')
	for _, s := range card.Summaries() {
		l.add("summary", "%s   (in policy's words)", said(s))
	}
	l.add("what", "%s on %s (%s)", doing(what.Verb, what.Target, said), said(what.Resource), terminal.Line(what.ResourceKind.Text))
	l.who(card)
	l.why(card)
	for i, word := range what.Words {
		label := ""
		if i == 0 {
			label = "does"
		}
		l.add(label, "%s", said(word))
	}
	l.code(what.Code)
	for i, row := range what.Detail {
		label := ""
		if i == 0 {
			label = "values"
		}
		l.add(label, "%s = %s", said(row.Path), valueOf(row))
	}
	for _, row := range what.Labels {
		l.add("label", "%s = %s", said(row.Path), valueOf(row))
	}
	l.before(card)
	l.answers(r)
	_, err := io.WriteString(w, l.String())
	return err
}

// code is what would run, laid out. A value stands in brackets that no text has: what an agent writes has them written out.
func (l *lines) code(code []approval.CardCode) {
	label, line := "code", ""
	for i, c := range code {
		if c.Line && i > 0 {
			l.add(label, "| %s", line)
			label, line = "", strings.Repeat("  ", c.Depth)
		}
		text := terminal.Line(c.Text.Text)
		switch {
		case c.Class == "value":
			line += "⟦" + text + "⟧"
		case c.Space && !c.Line && i > 0:
			line += " " + text
		default:
			line += text
		}
		if len(c.Text.Notes) > 0 {
			line += "⟦" + terminal.Line(strings.Join(c.Text.Notes, ", ")) + "⟧"
		}
	}
	if len(code) > 0 {
		l.add(label, "| %s", line)
	}
}

func (l *lines) who(card *approval.Card) {
	who := &card.Who
	l.add("who", "%s", party(who.Agent))
	if who.ClientID.Text != "" || who.Kind.Text != "" {
		l.add("", "  client %s (%s)", said(who.ClientID), terminal.Line(who.Kind.Text))
	}
	if len(who.Groups) > 0 {
		l.add("", "  groups %s", allOf(who.Groups))
	}
	for _, p := range who.Actors {
		if party(p) != party(who.Agent) {
			l.add("", "  through %s", party(p))
		}
	}
	if who.OnBehalfOf != nil {
		l.add("for", "%s", party(*who.OnBehalfOf))
	}
	if who.Unclear {
		l.add("beware", "it cannot be told which approver is the person that this is done for, so nobody's approval counts")
	}
}

func (l *lines) why(card *approval.Card) {
	for _, why := range card.Why {
		l.add("why", "%s: %s (%d of %s)", said(why.Rule), said(why.Reason), why.Quorum, allOf(why.Approvers))
	}
	if d := card.Demand; len(d.ACR) > 0 || d.MaxAge > 0 {
		var demands []string
		if len(d.ACR) > 0 {
			demands = append(demands, "an acr of "+allOf(d.ACR))
		}
		if d.MaxAge > 0 {
			demands = append(demands, fmt.Sprintf("an age of at most %v (auth_time)", time.Duration(d.MaxAge)*time.Second))
		}
		l.add("sign-in", "must have %s", strings.Join(demands, " and "))
	}
}

// before is what else the agent did in this session.
func (l *lines) before(card *approval.Card) {
	h := &card.History
	if len(h.Operations) == 0 {
		l.add("before", "nothing else in this session (%s)", said(card.Who.Session))
		return
	}
	l.add("before", "in this session (%s):", said(card.Who.Session))
	if h.LeftOut > 0 {
		l.add("", "  %d operations that are not shown", h.LeftOut)
	}
	for _, p := range h.Operations {
		l.add("", "  %s  %s: %s", clock(p.Time), doing(p.Verb, p.Target, said), said(p.Result))
	}
}

func (l *lines) answers(r *client.Request) {
	for _, d := range r.Decisions {
		word := "approved"
		if d.Decision != "approve" {
			word = "rejected"
		}
		reason := ""
		if d.Reason != "" {
			reason = ": " + terminal.Text(d.Reason)
		}
		l.add("answer", "%s by %s, %s%s", word, party(d.By.Visible()), clock(d.At), reason)
	}
	if r.State == "voided" && r.Reason != "" {
		l.add("voided", "%s", terminal.Text(r.Reason))
	}
	l.WriteByte('\n')
	switch {
	case r.MayDecide:
		fmt.Fprintf(l, "To answer: countersign approvals approve %s --card %s\n", terminal.Line(r.ID), terminal.Line(r.CardDigest))
		fmt.Fprintf(l, "       or: %s\n", terminal.Line(r.URL))
	case r.State == "pending":
		fmt.Fprintf(l, "Not yours to answer: %s\n", terminal.Line(r.MayNot))
	}
}

// outcome is what an answer has led to.
func outcome(r *client.Request, decision string) string {
	if decision == "approve" && r.State == "pending" {
		return fmt.Sprintf("request %s is still pending: you approved it, and others have to, too", terminal.Line(r.ID))
	}
	return fmt.Sprintf("request %s is %s", terminal.Line(r.ID), terminal.Line(r.State))
}
