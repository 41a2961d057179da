package console

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/countersign/countersign/extproc/approval"
)

// api lets people with a token of their own in, and refuses everybody else, on the record.
func (c *Console) api(serve func(http.ResponseWriter, *http.Request, *person)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, why := c.bearer(r)
		if why != nil {
			c.refuse(w, r, true, why)
			return
		}
		serve(w, r, who)
	}
}

func (c *Console) apiNothing(w http.ResponseWriter, r *http.Request) {
	p := problem{kind: "not-found", title: "Not found", status: http.StatusNotFound, detail: "The API has no such path; /api/openapi.yaml says what it has."}
	known := r.URL.Path == "/api/approvals" || r.URL.Path == "/api/operations" || strings.HasPrefix(r.URL.Path, "/api/approvals/") || r.URL.Path == "/api/openapi.yaml"
	if known && r.Method != http.MethodGet && r.Method != http.MethodHead {
		p = problem{kind: "unreadable", title: "Method not allowed", status: http.StatusMethodNotAllowed, detail: "This path does not take " + excerpt(r.Method) + "; /api/openapi.yaml says what it takes."}
		w.Header().Set("Allow", "GET, HEAD")
		if strings.HasSuffix(r.URL.Path, "/decisions") {
			w.Header().Set("Allow", "POST")
		}
	}
	writeProblem(w, p)
}

func (c *Console) serveDocument(w http.ResponseWriter, _ *http.Request) {
	b, err := files.ReadFile("openapi.yaml")
	if err != nil {
		writeProblem(w, unavailable("The document cannot be read."))
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(b)
}

// The answers of the API.
type (
	approvalList struct {
		Approvals []approvalAnswer `json:"approvals"`
		Next      string           `json:"next"` // empty on the last page
	}

	approvalAnswer struct {
		ID           string           `json:"id"`
		Rev          uint64           `json:"rev"`
		State        approval.State   `json:"state"`
		Resource     string           `json:"resource"`
		Verb         string           `json:"verb"`
		Target       string           `json:"target"`
		Agent        approval.Named   `json:"agent"`
		OnBehalfOf   *approval.Named  `json:"on_behalf_of"`
		Actors       []approval.Named `json:"actors"`
		Session      string           `json:"session"`
		Operation    string           `json:"operation"`
		Digest       string           `json:"digest"`
		PolicyDigest string           `json:"policy_digest"`
		Asks         []askAnswer      `json:"asks"`
		Demand       demandAnswer     `json:"demand"`
		Created      time.Time        `json:"created"`
		Expires      time.Time        `json:"expires"`
		GrantExpires *time.Time       `json:"grant_expires"`
		Closed       *time.Time       `json:"closed"`
		Reason       string           `json:"reason"`
		Decisions    []decisionAnswer `json:"decisions"`
		Waiting      *waitingAnswer   `json:"waiting"` // null where nobody waits
		Spent        *spentAnswer     `json:"spent"`   // null until it is
		MayDecide    bool             `json:"may_decide"`
		MayNot       string           `json:"may_not"` // why not, in a sentence
		URL          string           `json:"url"`
		Card         jsontext.Value   `json:"card"`
		CardDigest   string           `json:"card_digest"`
	}

	waitingAnswer struct {
		Count int       `json:"count"`
		Until time.Time `json:"until"` // when the last of them gives up
	}

	spentAnswer struct {
		Operation string         `json:"operation"`
		At        time.Time      `json:"at"`
		Outcome   *outcomeAnswer `json:"outcome"` // null until it is known
	}

	outcomeAnswer struct {
		Result  string  `json:"result"`
		Status  int     `json:"status"`  // 0 where the kind has none
		Seconds float64 `json:"seconds"` // that it took
	}

	askAnswer struct {
		Rule      string   `json:"rule"`
		Reason    string   `json:"reason"`
		Approvers []string `json:"approvers"`
		Quorum    int      `json:"quorum"`
		Summary   string   `json:"summary"` // empty where policy says nothing
	}

	demandAnswer struct {
		ACR    []string `json:"acr"`
		MaxAge float64  `json:"max_age"` // seconds; 0 for any
	}

	decisionAnswer struct {
		By       approval.Named `json:"by"`
		Decision string         `json:"decision"`
		Reason   string         `json:"reason"`
		At       time.Time      `json:"at"`
		Card     string         `json:"card"`
		Think    *float64       `json:"think"` // seconds; null where it is not known
	}
)

func (c *Console) answer(r *approval.Request, who *person) approvalAnswer {
	a := approvalAnswer{
		ID: r.ID, Rev: r.Rev, State: r.State, Resource: r.Resource, Verb: r.Verb, Target: r.Target, Agent: r.NamedAgent(),
		OnBehalfOf: r.NamedPerson(), Actors: r.NamedActors(), Session: r.Session, Operation: r.Op, Digest: r.Digest, PolicyDigest: r.PolicyDigest,
		Demand:  demandAnswer{r.Demand.ACR, r.Demand.MaxAge.Seconds()},
		Created: r.Created.UTC(), Expires: r.Expires.UTC(), GrantExpires: instant(r.GrantExpires), Closed: instant(r.Closed), Reason: r.Reason,
		URL: c.base.String() + "/approvals/" + url.PathEscape(r.ID), Card: jsontext.Value(r.Card), CardDigest: r.CardDigest,
	}
	if n, until := r.WaitingNow(c.now()); n > 0 {
		a.Waiting = &waitingAnswer{n, until.UTC()}
	}
	if r.Spent != nil {
		a.Spent = &spentAnswer{Operation: r.Spent.Op, At: r.Spent.At.UTC()}
		if o := r.Spent.Outcome; o != nil {
			a.Spent.Outcome = &outcomeAnswer{o.Result, o.Status, o.Took.Seconds()}
		}
	}
	if len(r.Card) == 0 {
		a.Card = jsontext.Value("null")
	}
	for i := range r.Asks {
		k := &r.Asks[i]
		a.Asks = append(a.Asks, askAnswer{k.Package + "/" + k.ID, k.Reason, k.Approvers, k.Quorum, k.Summary})
	}
	for i := range r.Decisions {
		d := &r.Decisions[i]
		answer := decisionAnswer{By: d.By.Named(), Decision: "reject", Reason: d.Reason, At: d.At.UTC(), Card: d.Card}
		if d.Approve {
			answer.Decision = "approve"
		}
		if d.Think > 0 {
			seconds := d.Think.Seconds()
			answer.Think = &seconds
		}
		a.Decisions = append(a.Decisions, answer)
	}
	if err := c.opt.Desk.MayDecide(who.Approver, r, c.now()); err != nil {
		p, _ := problemOf(err)
		a.MayNot = p.detail
	} else {
		a.MayDecide = true
	}
	return a
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

var states = []approval.State{
	approval.Pending, approval.Approved, approval.Rejected, approval.Expired, approval.Spent, approval.Voided,
}

// readFilter reads a list's parameters. An agent without an issuer is one by name or subject.
func readFilter(query string) (f approval.Filter, err error) {
	var agent approval.Party
	err = readQuery(query, parameters{
		"agent": into(&agent.Subject, readText), "agent_issuer": into(&agent.Issuer, readText), "resource": into(&f.Resource, readText),
		"rule": into(&f.Rule, readText), "text": into(&f.Text, readText), "from": into(&f.From, readDay), "to": into(&f.To, readEnd),
		"after": into(&f.After, readText), "size": into(&f.Size, readSize),
		"state": func(_, text string) error {
			f.States = append(f.States, approval.State(text))
			if !slices.Contains(states, approval.State(text)) {
				return fmt.Errorf("there is no state %s", quote(text))
			}
			return nil
		},
	})
	if err != nil {
		return f, err
	}
	switch {
	case agent.Issuer == "":
		f.Called = agent.Subject
	case agent.Subject == "":
		return f, errAgent
	default:
		f.Agent = &agent
	}
	if f.After == "" && !f.To.IsZero() {
		f.After = approval.Begin(f.To)
	}
	return f, checkDates(f.From, f.To)
}

var errAgent = errors.New("agent and agent_issuer go together: an agent is known by both")

func (c *Console) apiList(w http.ResponseWriter, r *http.Request, who *person) {
	f, err := readFilter(r.URL.RawQuery)
	if err == nil && f.Called != "" {
		err = errAgent
	}
	if err != nil {
		writeProblem(w, unreadable("The request cannot be read: "+err.Error()+"."))
		return
	}
	page, err := c.opt.Desk.List(r.Context(), f)
	if err != nil {
		writeProblem(w, c.failed(r.Context(), "list approvals", err))
		return
	}
	list := approvalList{Next: page.Next}
	for i := range page.Requests {
		list.Approvals = append(list.Approvals, c.answer(&page.Requests[i], who))
	}
	writeJSON(w, http.StatusOK, "application/json", list)
}

func (c *Console) apiGet(w http.ResponseWriter, r *http.Request, who *person) {
	request, err := c.get(r)
	if err != nil {
		writeProblem(w, c.failed(r.Context(), "get an approval", err))
		return
	}
	c.shown.note(who.key(), request.CardDigest, c.now())
	writeJSON(w, http.StatusOK, "application/json", c.answer(&request, who))
}

// get is the request that a path names.
func (c *Console) get(r *http.Request) (approval.Request, error) {
	id := r.PathValue("id")
	if !plainID(id) {
		return approval.Request{}, approval.ErrNotFound
	}
	return c.opt.Desk.Get(r.Context(), id)
}

// plainID reports whether s can be the id of a request or an operation.
func plainID(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == ""
}

// decisionBody is what a person sends.
type decisionBody struct {
	Decision string `json:"decision"`
	Reason   string `json:"reason"`
	Card     string `json:"card"`
}

const (
	maxDecision = 16 << 10
	maxReason   = 2000 // what a desk keeps
)

func (c *Console) apiDecide(w http.ResponseWriter, r *http.Request, who *person) {
	body, p := readDecision(w, r)
	if p.status != 0 {
		writeProblem(w, p)
		return
	}
	request, err := c.decide(r, who, body)
	if err != nil {
		writeProblem(w, c.failed(r.Context(), "take a decision", err))
		return
	}
	writeJSON(w, http.StatusOK, "application/json", c.answer(&request, who))
}

func (c *Console) decide(r *http.Request, who *person, body decisionBody) (approval.Request, error) {
	id := r.PathValue("id")
	if !plainID(id) {
		id = excerpt(id)
	}
	return c.opt.Desk.Decide(r.Context(), who.Approver, id, approval.Answer{
		Approve: body.Decision == "approve", Reason: body.Reason, Card: body.Card, Think: c.shown.think(who.key(), body.Card, c.now()),
	})
}

func readDecision(w http.ResponseWriter, r *http.Request) (body decisionBody, p problem) {
	kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset, has := parameters["charset"]
	if err != nil || kind != "application/json" || len(r.Header.Values("Content-Type")) != 1 || has && !strings.EqualFold(charset, "utf-8") || r.Header.Get("Content-Encoding") != "" {
		return body, problem{kind: "unreadable", title: "Not JSON", status: http.StatusUnsupportedMediaType, detail: "A decision is application/json in UTF-8, without a content encoding."}
	}
	if r.URL.RawQuery != "" {
		return body, unreadable("A decision has no parameters.")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxDecision))
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return body, problem{kind: "too-large", title: "Too large", status: http.StatusRequestEntityTooLarge, detail: fmt.Sprintf("A decision has at most %d bytes.", maxDecision)}
	}
	if err != nil {
		return body, unreadable("The decision did not arrive whole.")
	}
	// Names twice, names in another case, text that is not UTF-8 and whatever follows are errors of this reader.
	if err := json.Unmarshal(b, &body, json.RejectUnknownMembers(true)); err != nil {
		return body, unreadable(`The decision cannot be read. Send {"decision": "approve" or "reject", "reason": "…", "card": CARD_DIGEST} and nothing else.`)
	}
	return body, body.check()
}

// check is what the API and the pages ask of a decision. Its problem is the zero value where there is none.
func (b *decisionBody) check() problem {
	switch {
	case b.Decision != "approve" && b.Decision != "reject":
		return unreadable(`"decision" is not "approve" or "reject".`)
	case b.Card == "" || len(b.Card) > 128:
		return unreadable(`"card" is not the digest of a card.`)
	case b.Decision == "reject" && strings.TrimSpace(b.Reason) == "":
		return unreadable("A rejection needs a reason: the agent is told, and so is whoever reads the records.")
	case len(b.Reason) > maxReason:
		return unreadable(fmt.Sprintf("The reason has %d bytes, and at most %d are kept.", len(b.Reason), maxReason))
	default:
		return problem{}
	}
}
