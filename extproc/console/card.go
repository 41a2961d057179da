package console

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/terminal"
)

// requestView is one request. What a person needs to know comes first, and everything else after it, folded.
type requestView struct {
	Request  approval.Request
	Card     *approval.Card
	First    []firstRow
	Code     []codePart
	Groups   []valueGroup
	Notice   *notice
	Wait     waitView
	Mine     *approval.Decision
	MayNot   string
	Stronger string // where to sign in again, if that would help
	Asks     []askView
	Reason   string // typed, and refused
	Typed    string // before the session ended, and not sent
	Live     bool
	Records  bool
}

type askView struct {
	Rule, Reason string
	Approvers    []string
	Quorum, Have int
}

// firstRow is one of the values that are in the first screen.
type firstRow struct {
	Path  approval.Text // without the member that all of them are of
	Value approval.Text
}

// codePart is a part of what would run, with the white space before it.
type codePart struct {
	Before string
	approval.CardCode
}

// codeOf are the parts of what would run. A value that is given for a parameter stands behind it, apart from the text.
func codeOf(card *approval.Card) []codePart {
	var list []codePart
	for _, c := range card.What.Code {
		before := ""
		switch {
		case c.Line:
			before = "\n" + strings.Repeat("  ", c.Depth)
		case c.Space, c.Class == "value":
			before = " "
		}
		list = append(list, codePart{before, c})
	}
	return list
}

// valueGroup is the values of one member of the operation.
type valueGroup struct {
	Name string
	Open bool // what the operation carries
	Rows []valueRow
}

// valueRow is a value, and those that say the same again.
type valueRow struct {
	approval.CardRow
	Repeats []approval.CardRow
}

// More is how many values are only further down.
func (v *requestView) More() int { return len(v.Card.What.Detail) - len(v.First) }

const firstReasons = 3

// FirstWhy are the rules whose reasons are in the first screen.
func (v *requestView) FirstWhy() []approval.CardAsk {
	return v.Card.Why[:min(firstReasons, len(v.Card.Why))]
}

// MoreWhy is how many reasons are only further down.
func (v *requestView) MoreWhy() int { return len(v.Card.Why) - len(v.FirstWhy()) }

// waitView says whether somebody waits for the answer now.
type waitView struct {
	Count int
	Until time.Time
	Never bool // agents of this resource do not wait
}

// Away says what is so while nobody waits.
func (w waitView) Away() string {
	if w.Never {
		return "does not wait; will come again"
	}
	return "has left; will come again"
}

func (c *Console) waitOf(r *approval.Request, holds map[string]time.Duration) waitView {
	count, until := r.WaitingNow(c.now())
	hold, known := holds[r.Resource]
	return waitView{count, until, known && hold <= 0}
}

// holds is how long operations of each resource are held.
func (c *Console) holds() map[string]time.Duration {
	holds := map[string]time.Duration{}
	for _, x := range c.opt.Resources() {
		holds[x.Name] = x.Hold
	}
	return holds
}

// firstValues is how many of a request's values are in its first screen.
const firstValues = 5

func (c *Console) viewOf(r *approval.Request, card *approval.Card, who *person) *requestView {
	v := &requestView{Request: *r, Card: card, Mine: decidedBy(r, who), Live: r.State.Live(), Records: c.opt.Journal != nil && plainID(r.Op)}
	v.First = firstRows(card.What.Detail, min(card.What.First, firstValues))
	v.Groups, v.Code = groupsOfValues(card), codeOf(card)
	v.Wait = c.waitOf(r, c.holds())
	if v.Notice = noticeOf(r, who, c.now()); v.Notice != nil {
		v.Notice.By = r.Decisions
	}
	if err := c.opt.Desk.MayDecide(who.Approver, r, c.now()); err != nil {
		p, _ := problemOf(err)
		v.MayNot = p.detail
		if p.reason == "authentication" {
			v.Stronger = strongerSignIn(r)
		}
	}
	for i := range r.Asks {
		a := &r.Asks[i]
		v.Asks = append(v.Asks, askView{a.Package + "/" + a.ID, a.Reason, a.Approvers, a.Quorum, r.Approvals(a)})
	}
	return v
}

// firstRows are the first of all rows. Where they are of one member, its name is left out, unless one would look like a value of another
// member then.
func firstRows(all []approval.CardRow, n int) []firstRow {
	list := make([]firstRow, min(n, len(all)))
	members := map[string]bool{}
	for _, r := range all {
		members[member(r)] = true
	}
	alone := true
	for i, r := range all[:len(list)] {
		rest := r
		rest.Path.Text = strings.TrimPrefix(r.Path.Text, member(r)+".")
		list[i] = firstRow{rest.Path, typed(r)}
		alone = alone && member(r) == member(all[0]) && (rest.Path.Text == r.Path.Text || !members[member(rest)])
	}
	for i := range list {
		if !alone {
			list[i].Path = all[i].Path
		}
	}
	return list
}

// member is the name of the member that a row is of.
func member(r approval.CardRow) string {
	name := r.Path.Text
	if end := strings.IndexAny(name, ".["); end > 0 {
		name = name[:end]
	}
	return name
}

// groupsOfValues are all rows of a card, by the member that they are of. The segments of a path are shown with the path.
func groupsOfValues(card *approval.Card) []valueGroup {
	var groups []valueGroup
	var segments []approval.CardRow
	path := -1 // group of the path
	for i, row := range card.What.Detail {
		name := member(row)
		if name == "segments" && row.Path.Text != name {
			segments = append(segments, row)
			continue
		}
		n := len(groups) - 1
		if n < 0 || groups[n].Name != name {
			groups = append(groups, valueGroup{Name: name, Open: i < card.What.First})
			n++
		}
		groups[n].Rows = append(groups[n].Rows, valueRow{CardRow: row})
		if row.Path.Text == "path" {
			path = n
		}
	}
	if path < 0 && len(segments) > 0 {
		path = len(groups)
		groups = append(groups, valueGroup{Name: "segments", Rows: []valueRow{{CardRow: segments[0]}}})
		segments = segments[1:]
	}
	if path >= 0 {
		groups[path].Rows[0].Repeats = segments
	}
	return joinShort(groups)
}

// joinShort puts groups of one value each into one: they say how the operation was sent.
func joinShort(groups []valueGroup) []valueGroup {
	var joined []valueGroup
	at := -1
	for _, g := range groups {
		short := !g.Open && len(g.Rows) == 1
		if short && at >= 0 {
			joined[at].Rows = append(joined[at].Rows, g.Rows...)
			continue
		}
		if short {
			at, g.Name = len(joined), sentAs
		}
		joined = append(joined, g)
	}
	return joined
}

const sentAs = "how it was sent"

// typed is a row's value: a string that could be taken for another type is in quotes.
func typed(r approval.CardRow) approval.Text {
	v := r.Value
	if r.Type == "string" && v.Text != "" && terminal.IsOther(v.Text) {
		v.Text = terminal.Quoted(v.Text)
	}
	return v
}

// notice says what came of a request, or of a part of the answers.
type notice struct {
	Kind string // good, bad or open
	Text string
	By   []approval.Decision // all answers
	Op   string              // the operation that ran
}

// noticeOf is nil while nobody has answered.
func noticeOf(r *approval.Request, who *person, now time.Time) *notice {
	switch r.State {
	case approval.Pending:
		if len(r.Decisions) == 0 {
			return nil
		}
		by := "Approved by " + people(len(r.Decisions))
		if decidedBy(r, who) != nil {
			by = "You approved"
		}
		return &notice{Kind: "open", Text: by + "; " + missing(r) + "."}
	case approval.Approved:
		return &notice{Kind: "good", Text: "Approved; it runs when the agent comes again, within " + span(r.GrantExpires.Sub(now)) + "."}
	case approval.Rejected:
		return &notice{Kind: "bad", Text: "Rejected. It does not run, and the agent is told why."}
	case approval.Expired:
		if r.GrantExpires.IsZero() {
			return &notice{Kind: "bad", Text: "Expired: not enough people answered in time. It did not run."}
		}
		return &notice{Kind: "bad", Text: "Expired: it was approved, and the agent did not come again in time. It did not run."}
	case approval.Voided:
		return &notice{Kind: "bad", Text: "Voided: " + r.Reason + ". It did not run, and people are asked anew when the agent comes again."}
	case approval.Spent:
		n := ranNotice(r.Spent, now)
		n.Op = r.Spent.Op
		return n
	}
	return nil
}

// tellsSoon is how long most operations take. One of which nothing is told for longer is not said to run.
const tellsSoon = time.Minute

// ranNotice says how what was approved has ended.
func ranNotice(spent *approval.Spend, now time.Time) *notice {
	o, ago := spent.Outcome, now.Sub(spent.At)
	if o == nil && ago > tellsSoon { // a gateway that died tells nothing
		return &notice{Kind: "open", Text: "Approved and let through " + span(ago) + " ago. It still runs, or nobody could tell how it ended; the records say what is known."}
	}
	if o == nil {
		return &notice{Kind: "good", Text: "Approved, and running: it has gone to the target and has not ended yet."}
	}
	status := ""
	if o.Status != 0 {
		status = fmt.Sprintf("%d ", o.Status)
	}
	took := "in " + took(o.Took.Seconds())
	switch gate.Result(o.Result) {
	case gate.Completed:
		if o.Status >= http.StatusBadRequest {
			return &notice{Kind: "bad", Text: "Approved and sent. The target answered with an error: " + status + took + "."}
		}
		return &notice{Kind: "good", Text: "Approved and done: " + status + took + "."}
	case gate.WithheldBy:
		return &notice{Kind: "bad", Text: "Approved and run, " + took + ". The agent was not shown the answer, or not all of it."}
	case gate.ClientGone:
		return &notice{Kind: "bad", Text: "Approved and sent to the target. The agent left before the end."}
	case gate.TargetFailed:
		return &notice{Kind: "bad", Text: "Approved and sent. The target did not answer, or broke off: " + status + took + "."}
	case gate.Refused:
		return &notice{Kind: "bad", Text: "Approved, and then refused by the gateway. It did not run; the records say why."}
	default:
		return &notice{Kind: "bad", Text: "Approved and let through. How it ended is not known; the records say what is."}
	}
}

// cameOf is what came of a request, for a list.
func cameOf(spent *approval.Spend, now time.Time) string {
	if spent == nil {
		return ""
	}
	o := spent.Outcome
	if o == nil && now.Sub(spent.At) > tellsSoon {
		return "no end is known yet"
	}
	if o == nil {
		return "running"
	}
	words := map[gate.Result]string{
		gate.Completed: "", gate.WithheldBy: "answer withheld, ", gate.ClientGone: "agent left, ", gate.TargetFailed: "target failed, ", gate.Refused: "refused, ",
	}
	how, known := words[gate.Result(o.Result)]
	if !known {
		how = "not known, "
	}
	if o.Status != 0 {
		how += fmt.Sprint(o.Status) + " "
	}
	return how + "in " + took(o.Took.Seconds())
}

func people(n int) string {
	if n == 1 {
		return "1 person"
	}
	return fmt.Sprintf("%d people", n)
}

// missing says who has to answer yet.
func missing(r *approval.Request) string {
	most, rules := 0, 0
	for i := range r.Asks {
		a := &r.Asks[i]
		if n := max(1, a.Quorum) - r.Approvals(a); n > 0 {
			most, rules = max(most, n), rules+1
		}
	}
	words := fmt.Sprintf("%d more people are needed", most)
	if most == 1 {
		words = "one more person is needed"
	}
	if rules > 1 { // whom one names, the other may not
		return fmt.Sprintf("at least %s, for %d rules", words, rules)
	}
	return words
}

func (c *Console) cardPage(w http.ResponseWriter, r *http.Request, who *person) {
	request, err := c.get(r)
	if err != nil {
		c.showProblem(w, r, c.failed(r.Context(), "get an approval", err))
		return
	}
	c.showCard(w, http.StatusOK, "card-page", who, &request, "", answering{typed: c.typedBefore(w, r, request.ID, who)})
}

// cardFragment is the parts of a card's page that change.
func (c *Console) cardFragment(w http.ResponseWriter, r *http.Request, who *person) {
	request, err := c.get(r)
	if err != nil {
		c.showProblem(w, r, c.failed(r.Context(), "get an approval", err))
		return
	}
	c.showCard(w, http.StatusOK, "card-live", who, &request, "", answering{})
}

// answering is what a person has in the field for the reason.
type answering struct {
	reason string // sent, and refused
	typed  string // not sent
}

func (c *Console) showCard(w http.ResponseWriter, status int, name string, who *person, r *approval.Request, refused string, so answering) {
	card, err := approval.ReadCard(r.Card)
	if err != nil {
		c.log.Error("a card cannot be read", "approval", r.ID, "error", err)
		c.show(w, http.StatusServiceUnavailable, "problem", view{Title: "Unavailable", Who: who, Data: problemView{Status: 503, Detail: "The card of this request cannot be read, so nobody can decide on it here."}})
		return
	}
	v := c.viewOf(r, card, who)
	v.Reason, v.Typed = so.reason, so.typed
	c.shown.note(who.key(), r.CardDigest, c.now())
	c.show(w, status, name, view{Title: "Request", Here: "queue", Who: who, Error: refused, Data: v})
}

func strongerSignIn(r *approval.Request) string {
	q := url.Values{"return": {"/approvals/" + r.ID}, "fresh": {"1"}, "acr": r.Demand.ACR}
	return "/login?" + q.Encode()
}

// decidePage takes the form of a card's page.
func (c *Console) decidePage(w http.ResponseWriter, r *http.Request, who *person) {
	body := decisionBody{Decision: r.PostForm.Get("decision"), Reason: reasonOf(r), Card: r.PostForm.Get("card")}
	for name, list := range r.PostForm {
		if len(list) != 1 || !slices.Contains([]string{"csrf", "card", "person", "decision", "reason"}, name) {
			c.showProblem(w, r, unreadable("The form cannot be read."))
			return
		}
	}
	p := body.check()
	if p.status == 0 {
		request, err := c.decide(r, who, body)
		if err == nil {
			http.Redirect(w, r, "/approvals/"+url.PathEscape(request.ID)+"#notice", http.StatusSeeOther)
			return
		}
		p = c.failed(r.Context(), "take a decision", err)
	}
	request, err := c.get(r)
	if err != nil {
		c.showProblem(w, r, p)
		return
	}
	c.showCard(w, p.status, "card-page", who, &request, p.detail, answering{reason: body.Reason})
}
