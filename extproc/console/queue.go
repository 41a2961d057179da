package console

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

const queueLimit = 500

// queueView is what waits.
type queueView struct {
	Groups []*group
	Count  int
	More   bool
}

// group is similar requests: one agent, one resource, one verb.
type group struct {
	Agent    approval.Named // as the newest of them has it
	Resource string
	Verb     string
	Items    []*item
}

// item is a request of the queue, and what tells it from those that are similar.
type item struct {
	approval.Request
	MayDecide bool
	Own       bool // the person has decided on it already

	Heads   []approval.Text // the summaries of its rules, else its target
	Values  []shownValue
	Why     approval.Text
	ID      string // the end of its id, where nothing else tells it from another
	Wait    waitView
	InWords bool // its heads are summaries

	brief *brief
}

// MoreWhy is how many rules ask besides the first.
func (i *item) MoreWhy() int { return len(i.Asks) - 1 }

func (c *Console) queue(ctx context.Context, who *person) (queueView, error) {
	page, err := c.opt.Desk.List(ctx, approval.Filter{States: []approval.State{approval.Pending}, Size: queueLimit})
	if err != nil {
		return queueView{}, err
	}
	slices.SortStableFunc(page.Requests, func(a, b approval.Request) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	v := queueView{Count: len(page.Requests), More: page.Next != ""}
	v.Groups, _ = c.grouped(page.Requests, who)
	return v, nil
}

// grouped are requests as lists show them: by what is similar, and all of them in their order.
func (c *Console) grouped(requests []approval.Request, who *person) (groups []*group, items []*item) {
	type key struct {
		agent          approval.Party
		resource, verb string
	}
	at := map[key]*group{}
	holds := c.holds()
	for _, r := range requests {
		k := key{r.Agent, r.Resource, r.Verb}
		g := at[k]
		if g == nil {
			g = &group{Resource: r.Resource, Verb: r.Verb}
			at[k] = g
			groups = append(groups, g)
		}
		g.Agent = r.NamedAgent()
		i := c.itemOf(r, who, holds)
		g.Items = append(g.Items, i)
		items = append(items, i)
	}
	alike := map[string]*group{}
	for _, g := range groups {
		tellApart(g.Items)
		head := title(g.Verb) + " " + title(g.Resource) + " " + label(g.Agent.Visible()) + " " + title(g.Agent.Issuer)
		if other := alike[head]; other != nil { // they differ in what is cut
			showIDs(other.Items)
			showIDs(g.Items)
		}
		alike[head] = g
	}
	return groups, items
}

func (c *Console) itemOf(r approval.Request, who *person, holds map[string]time.Duration) *item {
	i := &item{Request: r, brief: c.briefs.of(&r), Wait: c.waitOf(&r, holds), Own: decidedBy(&r, who) != nil}
	i.MayDecide = c.opt.Desk.MayDecide(who.Approver, &i.Request, c.now()) == nil
	if len(r.Asks) > 0 {
		i.Why = approval.Visible(r.Asks[0].Reason)
	}
	return i
}

func (c *Console) queuePage(w http.ResponseWriter, r *http.Request, who *person) {
	c.showQueue(w, r, "queue-page", view{Title: "Queue", Here: "queue", Who: who})
}

// queueFragment is the part of the queue's page that changes.
func (c *Console) queueFragment(w http.ResponseWriter, r *http.Request, who *person) {
	c.showQueue(w, r, "queue", view{Who: who})
}

func (c *Console) showQueue(w http.ResponseWriter, r *http.Request, name string, v view) {
	q, err := c.queue(r.Context(), v.Who)
	if err != nil {
		c.showProblem(w, r, c.failed(r.Context(), "list approvals", err))
		return
	}
	v.Data = q
	c.show(w, http.StatusOK, name, v)
}
