package console

import (
	"cmp"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

func (c *Console) functions() template.FuncMap {
	return template.FuncMap{
		"visible":   approval.Visible,
		"parts":     partsOf,
		"long":      isLong,
		"short":     short,
		"ends":      ends,
		"title":     title,
		"clock":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"stamp":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"now":       func() string { return c.now().UTC().Format("2006-01-02T15:04:05.000Z") },
		"left":      func(t time.Time) string { return span(t.Sub(c.now())) },
		"brieftime": func(t time.Time) string { return seconds(t.Sub(c.now())) },
		"ago":       func(t time.Time) string { return span(c.now().Sub(t)) },
		"span":      span,
		"seconds":   func(n int64) string { return span(time.Duration(n) * time.Second) },
		"state":     func(s approval.State) string { return stateWords[s] },
		"body":      bodyRows,
		"typed":     typed,
		"label":     label,
		"beginning": beginning,
		"effect":    func(e string) string { return cmp.Or(effectWords[e], e) },
		"ended":     func(result string) string { return cmp.Or(resultWords[result], result) },
		"took":      took,
		"came":      func(spent *approval.Spend) string { return cameOf(spent, c.now()) },
	}
}

var stateWords = map[approval.State]string{
	approval.Pending: "waiting for a person", approval.Approved: "approved, not used yet", approval.Rejected: "rejected",
	approval.Expired: "expired", approval.Spent: "approved and used", approval.Voided: "voided",
}

// span is a duration in words: what a screen reader reads well.
func span(d time.Duration) string {
	unit := func(n int64, name string) string {
		if n == 1 {
			return "1 " + name
		}
		return strconv.FormatInt(n, 10) + " " + name + "s"
	}
	switch {
	case d < time.Second:
		return "less than a second"
	case d < 2*time.Minute:
		return unit(int64(d/time.Second), "second")
	case d < 2*time.Hour:
		return unit(int64(d/time.Minute), "minute")
	default:
		return unit(int64(d/time.Hour), "hour")
	}
}

// seconds is a short time, as it is counted down.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(max(0, d)/time.Second), 10) + " s"
}

func decidedBy(r *approval.Request, who *person) *approval.Decision {
	for i := range r.Decisions {
		if d := &r.Decisions[i]; d.By.Issuer == who.Issuer && d.By.Subject == who.Subject {
			return d
		}
	}
	return nil
}

// historyView is a page of requests in any state.
type historyView struct {
	Requests []approval.Request
	Filter   filterView
	Next     string
	Looked   int
	Back     time.Time // how far back was looked, where that was not far enough
}

// historyLooked bounds what one page of the history reads.
const historyLooked = 20_000

func (c *Console) historyPage(w http.ResponseWriter, r *http.Request, who *person) {
	q := formQuery(r)
	v := historyView{Filter: c.filterView("/history", q)}
	v.Filter.States = states
	f, err := readFilter(q.Encode())
	if err != nil {
		v.Filter.Open = true
		c.show(w, http.StatusBadRequest, "history-page", view{Title: "History", Here: "history", Who: who, Error: err.Error(), Data: v})
		return
	}
	f.Most = historyLooked
	page, err := c.opt.Desk.List(r.Context(), f)
	if err != nil {
		c.showProblem(w, r, c.failed(r.Context(), "list approvals", err))
		return
	}
	v.Requests, v.Looked, v.Back = page.Requests, f.Most, page.Back
	if page.Next != "" {
		q.Set("after", page.Next)
		v.Next = "/history?" + q.Encode()
	}
	c.show(w, http.StatusOK, "history-page", view{Title: "History", Here: "history", Who: who, Data: v})
}

type holdsView struct {
	Held  int
	Known bool
	Items []*item
	More  bool
	Holds map[string]time.Duration
}

func (c *Console) holdsPage(w http.ResponseWriter, r *http.Request, who *person) {
	page, err := c.opt.Desk.List(r.Context(), approval.Filter{States: []approval.State{approval.Pending, approval.Approved}, Size: queueLimit})
	if err != nil {
		c.showProblem(w, r, c.failed(r.Context(), "list approvals", err))
		return
	}
	v := holdsView{More: page.Next != "", Holds: c.holds()}
	_, v.Items = c.grouped(page.Requests, who)
	if c.opt.Held != nil {
		v.Held, v.Known = c.opt.Held(), true
	}
	c.show(w, http.StatusOK, "holds-page", view{Title: "Holds", Here: "holds", Who: who, Data: v})
}

// approversView says who may approve what, as far as it is known: policy says so when it asks.
type approversView struct {
	Rules     []ruleView
	Resources []Resource
	Of        int // requests, from which the rules are
}

type ruleView struct {
	Resource  string
	Rule      string
	Approvers []string
	Quorum    int
	Mine      bool
	Seen      time.Time
}

func (c *Console) approversPage(w http.ResponseWriter, r *http.Request, who *person) {
	page, err := c.opt.Desk.List(r.Context(), approval.Filter{Size: queueLimit})
	if err != nil {
		c.showProblem(w, r, c.failed(r.Context(), "list approvals", err))
		return
	}
	v := approversView{Resources: c.opt.Resources(), Of: len(page.Requests)}
	seen := map[string]bool{}
	for i := range page.Requests {
		x := &page.Requests[i]
		for _, a := range x.Asks {
			rule := ruleView{x.Resource, a.Package + "/" + a.ID, a.Approvers, a.Quorum, a.Names(&who.Approver), x.Created}
			if key := fmt.Sprint(rule.Resource, "\x00", rule.Rule, "\x00", rule.Approvers, rule.Quorum); !seen[key] {
				seen[key] = true
				v.Rules = append(v.Rules, rule)
			}
		}
	}
	slices.SortStableFunc(v.Rules, func(a, b ruleView) int {
		return cmp.Or(strings.Compare(a.Resource, b.Resource), strings.Compare(a.Rule, b.Rule))
	})
	c.show(w, http.StatusOK, "approvers-page", view{Title: "Who may approve what", Here: "approvers", Who: who, Data: v})
}

func (c *Console) mePage(w http.ResponseWriter, _ *http.Request, who *person) {
	c.show(w, http.StatusOK, "me-page", view{Title: "You", Here: "me", Who: who, Data: meView{sessionIdle, who.expires}})
}

type meView struct {
	Idle time.Duration
	End  time.Time
}

func (c *Console) helpPage(w http.ResponseWriter, _ *http.Request, who *person) {
	c.show(w, http.StatusOK, "help-page", view{Title: "Help", Here: "help", Who: who})
}
