package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

// What one look at the journal may take. A filter that finds little ends there, says how far it came, and offers to go on.
const (
	maxLooked    = 100_000         // records
	maxLookTime  = time.Second     // from the first of them
	leastLooked  = 1_000           // however slow the disk is, a page gets on
	endsAfter    = 20_000          // records after the newest of a page, in which operations that were still under way may have ended
	spentBefore  = 200             // records before the oldest, in which its approval was used, and after the newest, in which a refusal ended
	operationsOn = 50              // a page, unless it says otherwise
	clockStep    = time.Hour       // between a record's time and its place, as the journal allows for
	waitToLook   = 5 * time.Second // for others who look
)

// auditors lets those in whom people.auditors names, and refuses everybody else, on the record.
func (c *Console) auditors(api bool, serve func(http.ResponseWriter, *http.Request, *person)) func(http.ResponseWriter, *http.Request, *person) {
	return func(w http.ResponseWriter, r *http.Request, who *person) {
		if !c.audits(who) {
			c.refuse(w, r, api, notAuditor(who))
			return
		}
		if c.opt.Journal == nil {
			c.tell(w, r, api, unavailable("This console has no journal to read."))
			return
		}
		serve(w, r, who)
	}
}

// audits reports whether people.auditors names who, as a rule would name an approver.
func (c *Console) audits(who *person) bool {
	named := approval.AskRule{Approvers: c.opt.Auditors}
	return named.Names(&who.Approver)
}

func notAuditor(who *person) *refusal {
	return &refusal{
		reason: ReasonNotAuditor, detail: "people.auditors does not name them, or a group of theirs", issuer: who.Issuer, subject: who.Subject,
		problem: denied(ReasonNotAuditor, "You may not see every operation: people.auditors of the gateway's configuration names those who may, and it does not name you, or a group of yours. What requests for approval led to, you see from each of them."),
	}
}

// operation is a record of a decision, and what came of it as far as it is known.
type operation struct {
	Record
	decidedBody

	End   *outcomeBody // nil where no end is known
	Ended Record
	By    []approval.Named // who approved, where a grant was used
}

// decidedBody, outcomeBody and spentBody are what is shown of a record's body.
type (
	decidedBody struct {
		Approval  string         `json:"approval"`
		Effect    string         `json:"effect"`
		Held      float64        `json:"held"` // seconds
		Principal *principalBody `json:"principal"`
		Problem   string         `json:"problem"`
		Protocol  string         `json:"protocol"`
		Reasons   []string       `json:"reasons"`
		Resource  string         `json:"resource"`
		Rules     []string       `json:"rules"`
		Session   string         `json:"session"`
		Target    string         `json:"target"`
		Verb      string         `json:"verb"`
	}

	principalBody struct {
		approval.Named
		OnBehalfOf *approval.Named `json:"on_behalf_of"`
	}

	outcomeBody struct {
		Decided  uint64  `json:"decided"`
		Duration float64 `json:"duration"` // seconds
		Reason   string  `json:"reason"`
		Result   string  `json:"result"`
		Status   int     `json:"status"`
	}

	spentBody struct {
		Approval  string           `json:"approval"`
		Approvals []approval.Named `json:"approvals"`
	}
)

// Agent is who asked; nil where nobody was known.
func (o *operation) Agent() *approval.Named {
	if o.Principal == nil {
		return nil
	}
	return &o.Principal.Named
}

// For is the person that it was for; nil where nobody is named.
func (o *operation) For() *approval.Named {
	if o.Principal == nil {
		return nil
	}
	return o.Principal.OnBehalfOf
}

func readDecided(r Record) (*operation, error) {
	o := &operation{Record: r}
	if err := json.Unmarshal(r.Body, &o.decidedBody); err != nil {
		return nil, fmt.Errorf("read the body of record %d: %w", r.Seq, err)
	}
	o.Body = nil // it is not shown, and a download has many
	return o, nil
}

// note takes what another record says of the operation.
func (o *operation) note(r Record) error {
	switch r.Type {
	case gate.OperationFinished, gate.OperationUnknown:
		var end outcomeBody
		if err := json.Unmarshal(r.Body, &end); err != nil {
			return fmt.Errorf("read the body of record %d: %w", r.Seq, err)
		}
		if end.Decided == o.Seq {
			if r.Type == gate.OperationUnknown {
				end.Result = string(gate.Unknown)
			}
			o.End, o.Ended = &end, r
		}
	case approval.RecordSpent:
		var spent spentBody
		if err := json.Unmarshal(r.Body, &spent); err != nil {
			return fmt.Errorf("read the body of record %d: %w", r.Seq, err)
		}
		if spent.Approval == o.Approval && r.Seq < o.Seq {
			o.By = spent.Approvals
		}
	}
	return nil
}

// find reads a record, where it is of a decision, and reports whether it is one that f selects.
func (f *operationFilter) find(g *Glance) (o *operation, found bool, err error) {
	if g.Type != gate.OperationDecided {
		return nil, false, nil
	}
	r, err := g.Read()
	if err != nil {
		return nil, false, err
	}
	if o, err = readDecided(r); err != nil {
		return nil, false, err
	}
	return o, f.match(o), nil
}

func (f *operationFilter) match(o *operation) bool {
	at := o.Time
	return (f.From.IsZero() || !at.Before(f.From)) && (f.To.IsZero() || at.Before(f.To)) &&
		(f.Effect == "" || f.Effect == o.Effect) && (f.Resource == "" || f.Resource == o.Resource) &&
		(f.Agent == "" || o.Principal != nil && o.Principal.Called(f.Agent)) &&
		(f.Rule == "" || slices.ContainsFunc(o.Rules, func(rule string) bool { return approval.IsRule(rule, f.Rule) })) &&
		(f.Text == "" || approval.HasText(o.Target, f.Text))
}

// operations is a page of decisions, newest first.
type operations struct {
	Rows    []*operation
	First   bool      // it begins with the newest of the journal
	Head    uint64    // the newest record that was looked at
	Looked  int       // records
	Reached uint64    // the last that was looked at; 0 for none
	Back    time.Time // when that was written
	All     bool      // it was the journal's first, or of before the filter's dates
}

// Next is where the next page begins; 0 on the last one.
func (p *operations) Next() uint64 {
	if p.All {
		return 0
	}
	return p.Reached
}

// operations reads one page.
func (c *Console) operations(ctx context.Context, f operationFilter) (operations, error) {
	leave, err := enter(ctx, c.looking, waitToLook)
	if err != nil {
		return operations{}, err
	}
	defer leave()
	if f.After > 0 {
		if f.Before, err = c.before(ctx, f); err != nil {
			return operations{}, err
		}
	}
	p, err := c.decisions(ctx, f)
	if err != nil {
		return p, err
	}
	return p, c.complete(ctx, p.Rows)
}

// enter waits until there is room, and no longer than that.
func enter(ctx context.Context, room chan struct{}, longest time.Duration) (leave func(), err error) {
	wait, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	select {
	case room <- struct{}{}:
		return func() { <-room }, nil
	case <-wait.Done():
		return nil, errBusy
	}
}

var errBusy = errors.New("others are reading the journal")

// limit is how far one look goes.
type limit struct {
	records int
	from    time.Time
	looked  int
}

// more counts a record, and is false once it was enough.
func (l *limit) more() bool {
	if l.looked++; l.looked == 1 {
		l.from = time.Now()
	}
	return l.looked < l.records && (l.looked < leastLooked || l.looked%256 != 0 || time.Since(l.from) < maxLookTime)
}

func (c *Console) decisions(ctx context.Context, f operationFilter) (p operations, err error) {
	p.First = f.Before == 0
	until := f.To
	if !until.IsZero() {
		until = until.Add(clockStep)
	}
	bound := limit{records: maxLooked}
	p.All = true
	for g, err := range c.opt.Journal.Back(ctx, f.Before, until) {
		if err != nil {
			return p, err
		}
		if !f.From.IsZero() && g.Time.Before(f.From.Add(-clockStep)) {
			break
		}
		if len(p.Rows) == f.Size {
			p.All = false
			break
		}
		p.Head, p.Reached, p.Back = max(p.Head, g.Seq), g.Seq, g.Time
		o, found, err := f.find(&g)
		if err != nil {
			return p, err
		}
		if found {
			p.Rows = append(p.Rows, o)
		}
		if !bound.more() {
			p.All = g.Seq == 1
			break
		}
	}
	p.Looked = bound.looked
	return p, nil
}

// before is the cursor of the page that is just newer than f.After; 0, for the first page, where there are not so many.
func (c *Console) before(ctx context.Context, f operationFilter) (uint64, error) {
	bound, found, cursor := limit{records: maxLooked}, 0, uint64(0)
	for g, err := range c.opt.Journal.Forth(ctx, f.After) {
		if err != nil {
			return 0, err
		}
		_, ok, err := f.find(&g)
		if err != nil {
			return 0, err
		}
		if ok {
			if found++; found > f.Size {
				return cursor, nil
			}
			cursor = g.Seq + 1
		}
		if !bound.more() {
			return g.Seq + 1, nil
		}
	}
	return 0, nil
}

// complete adds how the operations ended, and who approved them.
func (c *Console) complete(ctx context.Context, rows []*operation) error {
	if len(rows) == 0 {
		return nil
	}
	of := map[string][]*operation{}
	open := 0
	for _, o := range rows {
		of[o.Op] = append(of[o.Op], o)
		if o.Effect == gate.Allow.String() {
			open++
		}
	}
	newest, oldest := rows[0].Seq, rows[len(rows)-1].Seq
	for g, err := range c.opt.Journal.Forth(ctx, oldest-min(oldest, spentBefore)) {
		if err != nil {
			return err
		}
		if g.Seq > newest+endsAfter || open == 0 && g.Seq > newest+spentBefore { // a refusal ends at once
			return nil
		}
		list := of[g.Op]
		if len(list) == 0 || g.Type != gate.OperationFinished && g.Type != gate.OperationUnknown && g.Type != approval.RecordSpent {
			continue
		}
		r, err := g.Read()
		if err != nil {
			return err
		}
		for _, o := range list {
			before := o.End
			if err := o.note(r); err != nil {
				return err
			}
			if o.End != before && o.Effect == gate.Allow.String() {
				open--
			}
		}
	}
	return nil
}

// unread is what somebody is told whose look at the journal failed.
func (c *Console) unread(ctx context.Context, err error) problem {
	if errors.Is(err, errBusy) {
		return unavailable("Others are reading the journal. Try again in a moment.")
	}
	if ctx.Err() == nil {
		c.log.Error("the console could not read the journal", "error", err)
	}
	return unavailable("The journal cannot be read at the moment. Try again later.")
}

// operationsView is the page.
type operationsView struct {
	operations
	Filter                          filterView
	Older, Newer, Newest, CSV, Live string // addresses, with the filter; empty where there is no such page
}

// filterView is what the form of a page has in it. Each value is as it was written.
type filterView struct {
	Path, State, Issuer                           string
	Agent, Resource, Effect, Rule, From, To, Text string
	States                                        []approval.State
	Open                                          bool     // the form is unfolded
	Effects, Names                                []string // to choose from; Names are of resources
}

func (c *Console) filterView(path string, q url.Values) filterView {
	v := filterView{
		Path: path, State: q.Get("state"), Issuer: q.Get("agent_issuer"), Agent: q.Get("agent"), Resource: q.Get("resource"),
		Effect: q.Get("effect"), Rule: q.Get("rule"), From: q.Get("from"), To: q.Get("to"), Text: q.Get("text"),
	}
	for _, x := range c.opt.Resources() {
		v.Names = append(v.Names, x.Name)
	}
	return v
}

// Set says in words what is filtered for, in the form's order.
func (v filterView) Set() (list []string) {
	if v.State != "" {
		list = append(list, cmp.Or(stateWords[approval.State(v.State)], v.State))
	}
	for _, x := range []struct{ name, value string }{
		{"effect", v.Effect}, {"agent", v.Agent}, {"of issuer", v.Issuer}, {"resource", v.Resource}, {"rule", v.Rule}, {"from", v.From}, {"to", v.To}, {"target has", v.Text},
	} {
		if x.value != "" {
			list = append(list, x.name+" "+title(x.value))
		}
	}
	return list
}

// Day is the type of a date's field: one that has a time in it would be lost in a field for a day.
func (v filterView) Day(text string) string {
	if _, err := time.Parse(time.DateOnly, text); text == "" || err == nil {
		return "date"
	}
	return "text"
}

// What is said of an effect and a result. Words of ours stand in no quotes, as names do.
var (
	effectWords = map[string]string{"allow": "allowed", "deny": "denied", "ask": "asks a person"}
	resultWords = map[string]string{
		string(gate.Completed): "done", string(gate.Refused): "refused", string(gate.WithheldBy): "answer withheld", string(gate.ClientGone): "the agent left",
		string(gate.TargetFailed): "the target failed", string(gate.GatewayFailed): "the gateway failed", string(gate.Unknown): "nobody knows",
	}
)

// took is a time in seconds as a record has it, for people.
func took(seconds float64) string {
	switch {
	case seconds < 1:
		return strconv.FormatFloat(seconds*1000, 'f', 0, 64) + " ms"
	case seconds < 120:
		return strconv.FormatFloat(seconds, 'f', 1, 64) + " s"
	default:
		return span(time.Duration(seconds * float64(time.Second)))
	}
}

// formQuery is the query of a form, which sends its empty fields too.
func formQuery(r *http.Request) url.Values {
	q := r.URL.Query()
	for name, list := range q {
		if len(list) == 1 && list[0] == "" {
			q.Del(name)
		}
	}
	return q
}

func (c *Console) operationsPage(w http.ResponseWriter, r *http.Request, who *person) {
	q := formQuery(r)
	v := operationsView{Filter: c.filterView("/operations", q)}
	v.Filter.Effects = effects
	f, err := readOperationFilter(q.Encode())
	if err != nil {
		v.Filter.Open = true
		c.show(w, http.StatusBadRequest, "operations-page", view{Title: "Operations", Here: "operations", Who: who, Error: err.Error(), Data: v})
		return
	}
	if v.operations, err = c.operations(r.Context(), f); err != nil {
		c.showProblem(w, r, c.unread(r.Context(), err))
		return
	}
	q.Del("before")
	q.Del("after")
	link := func(path, name string, seq uint64) string {
		with := url.Values{name: {strconv.FormatUint(seq, 10)}}
		return path + "?" + strings.TrimSuffix(with.Encode()+"&"+q.Encode(), "&")
	}
	v.Newest = strings.TrimSuffix("/operations?"+q.Encode(), "?")
	if next := v.Next(); next > 0 {
		v.Older = link("/operations", "before", next)
	}
	if !v.First {
		v.Newer = link("/operations", "after", max(v.Head, f.After, 1))
	} else if f.To.IsZero() || c.now().Before(f.To) {
		v.Live = link("/operations/live", "after", max(v.Head, 1))
	}
	q.Del("size")
	v.CSV = strings.TrimSuffix("/operations.csv?"+q.Encode(), "?")
	c.show(w, http.StatusOK, "operations-page", view{Title: "Operations", Here: "operations", Who: who, Data: v})
}

// liveAnswer says how many decisions were made since a record.
type liveAnswer struct {
	New  int    `json:"new"`
	Seen uint64 `json:"seen"` // ask after this one next
}

// operationsLive is GET /operations/live: what the page asks now and then. It does not keep a session alive.
func (c *Console) operationsLive(w http.ResponseWriter, r *http.Request, _ *person) {
	f, err := readOperationFilter(r.URL.RawQuery)
	if err != nil || f.After == 0 {
		writeProblem(w, unreadable("The query cannot be read."))
		return
	}
	a, err := c.since(r.Context(), f)
	if err != nil {
		writeProblem(w, c.unread(r.Context(), err))
		return
	}
	writeJSON(w, http.StatusOK, "application/json", a)
}

// since counts what f selects after record f.After.
func (c *Console) since(ctx context.Context, f operationFilter) (liveAnswer, error) {
	a, bound := liveAnswer{Seen: f.After}, limit{records: maxLooked / 10}
	leave, err := enter(ctx, c.looking, waitToLook)
	if err != nil {
		return a, err
	}
	defer leave()
	for g, err := range c.opt.Journal.Forth(ctx, f.After) {
		if err != nil {
			return a, err
		}
		_, found, err := f.find(&g)
		if err != nil {
			return a, err
		}
		if a.Seen = g.Seq; found {
			a.New++
		}
		if !bound.more() {
			break
		}
	}
	return a, nil
}
