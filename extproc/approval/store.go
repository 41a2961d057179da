package approval

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/guard"
)

// Store keeps requests. All of its methods are atomic, even between gateways that share a store, and what they return is as durable
// as the store's package comment says. After an error that is not named here the store cannot be used at the moment, or nobody knows
// what it did; the caller then acknowledges nothing.
type Store interface {
	// Open stores the request that create makes, as revision 1. If a live request has the digest of o, it returns that one instead,
	// and joined is true; if that one is past its deadline, the error is ErrDue. If a new request would break one of o.Limits, the
	// error is a *LimitError. create gets the time by the store's clock; its result may be thrown away.
	Open(ctx context.Context, o Opening, create func(now time.Time) (Request, error)) (r Request, joined bool, err error)

	// Get returns a request with its card, or ErrNotFound.
	Get(ctx context.Context, id string) (Request, error)

	// List returns the requests that f selects, newest first, with their cards.
	List(ctx context.Context, f Filter) (Page, error)

	// Update changes a request by compare-and-swap. change may be called several times, each time with the request as it is stored
	// then, without its card, and the time by the store's clock. If change returns an error, nothing is changed, and Update returns
	// that error and the request as it is stored. Update sets Rev and Changed.
	//
	// A change that moves the request to a live state or spends it is stored only before the deadline of the state that it leaves.
	// After that change is called again, with the later time; if it insists, the error is ErrDue. A change from Approved to Spent is
	// refused with ErrFenced if the store may have lost an earlier one. All other rules are the desk's.
	Update(ctx context.Context, id string, change func(now time.Time, r *Request) error) (Request, error)

	// Watch sends every change of which [Request.NewsSince] is true that any gateway makes after Watch has returned, until ctx ends or
	// the channel is closed. Several changes of one request may be sent as one. The zero Change says that some may have been missed.
	Watch(ctx context.Context) (<-chan Change, error)
}

// Opening is what Open needs to know before there is a request.
type Opening struct {
	Digest   string
	Agent    Party
	Resource string
	Limits   Limits
}

// Limits bound the requests that are open. 0 means no limit.
type Limits struct {
	Total       int           // live requests
	PerAgent    int           // live requests of one agent
	PerResource int           // live requests for one resource
	Rate        int           // new requests of one agent in a RateWindow; joining is free
	RateWindow  time.Duration // 1 minute unless set
}

// LimitError says which bound a new request would break.
type LimitError struct {
	What  string // for people: "requests of this agent that wait for a person"
	Limit int
}

func (e *LimitError) Error() string { return fmt.Sprintf("over the limit of %d %s", e.Limit, e.What) }

// The bounds, as LimitError names them.
const (
	LimitTotal    = "open requests"
	LimitAgent    = "open requests of this agent"
	LimitResource = "open requests for this resource"
	LimitRate     = "new requests of this agent in a short time"
	LimitCard     = "bytes that a person can be shown"
	LimitRows     = "values that a person can be shown"
	LimitPath     = "bytes in the name of a value that a person can be shown"
)

// Filter selects requests. Its zero value selects all.
type Filter struct {
	States   []State
	Digest   string // the live request of this digest; excludes the rest of the filter
	Agent    *Party
	Resource string

	Called   string    // the agent's subject is this, or the name that it claims has this in it
	Rule     string    // one of those that ask: PACKAGE/ID, or ID
	Text     string    // is in the target
	From, To time.Time // it was asked from From until before To
	Most     int       // requests that are looked at for one page; all unless set

	Due        bool          // live, and past its deadline; oldest deadline first
	Unrecorded bool          // with something in its outbox
	Idle       time.Duration // with Unrecorded: not changed for at least this long

	After string // the Next of the page before
	Size  int    // of the page; 50 unless set, 500 at most
}

// Page is a part of a list.
type Page struct {
	Requests []Request
	Next     string    // for Filter.After; empty on the last page
	Back     time.Time // when the last that was looked at was asked, where Filter.Most ended the page; else zero
}

// Add looks at r, which is the next in the order of the list, and reports whether the page wants another one after it.
func (p *Page) Add(f *Filter, r *Request, looked int) bool {
	if !f.From.IsZero() && !f.Due && r.Created.Before(f.From.Add(-clockStep)) {
		return false // and those after it are older
	}
	if f.Match(r) {
		if len(p.Requests) == f.Limit() {
			p.Next = p.Requests[len(p.Requests)-1].ID
			return false
		}
		p.Requests = append(p.Requests, *r)
	}
	if f.Most > 0 && looked >= f.Most {
		p.Next, p.Back = r.ID, r.Created
		return false
	}
	return true
}

// clockStep is how far a store's clock may have stepped between two requests: lists are in the order of ids, which have the time in them.
const clockStep = time.Hour

// Begin is the After of a list that begins with what was asked before to, and somewhat later.
func Begin(to time.Time) string {
	ms := to.Add(clockStep).UnixMilli()
	return fmt.Sprintf("%08x-%04x", ms>>16, ms&0xffff)
}

// Pages yields the pages of all requests that f selects, as list, a store's List, returns them. An error is the last that it yields.
func Pages(ctx context.Context, list func(context.Context, Filter) (Page, error), f Filter) iter.Seq2[[]Request, error] {
	return func(yield func([]Request, error) bool) {
		f.Size = 500
		for {
			page, err := list(ctx, f)
			if !yield(page.Requests, err) || err != nil || page.Next == "" {
				return
			}
			f.After = page.Next
		}
	}
}

// Limit is the size of the page that f asks for.
func (f *Filter) Limit() int {
	if f.Size <= 0 {
		return 50
	}
	return min(f.Size, 500)
}

// Match reports whether r is as f says.
func (f *Filter) Match(r *Request) bool {
	if f.Agent != nil && *f.Agent != r.Agent || f.Resource != "" && f.Resource != r.Resource ||
		!f.From.IsZero() && r.Created.Before(f.From) || !f.To.IsZero() && !r.Created.Before(f.To) ||
		f.Called != "" && !r.NamedAgent().Called(f.Called) || f.Text != "" && !HasText(r.Target, f.Text) ||
		f.Rule != "" && !slices.ContainsFunc(r.Asks, func(a AskRule) bool { return IsRule(a.Package+"/"+a.ID, f.Rule) }) {
		return false
	}
	return len(f.States) == 0 || slices.Contains(f.States, r.State)
}

// Called reports whether p is meant by who: their subject, or a part of the name that they are claimed to have.
func (p Named) Called(who string) bool {
	return p.Subject == who || p.Name != "" && HasText(p.Name, who)
}

// HasText reports whether part is in s, whatever the letter case.
func HasText(s, part string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(part)) }

// IsRule reports whether rule, PACKAGE/ID, is meant by name: the whole, or the id alone.
func IsRule(rule, name string) bool { return rule == name || strings.HasSuffix(rule, "/"+name) }

// OnlyLive reports whether f selects live requests only.
func (f *Filter) OnlyLive() bool {
	final := func(s State) bool { return !s.Live() }
	return len(f.States) > 0 && !slices.ContainsFunc(f.States, final)
}

// Change says that a request has changed. The zero value says that any may have.
type Change struct {
	ID    string
	Rev   uint64
	State State

	Answer string // the nonce of the last; empty before the first
}

// Change is what a store's Watch tells of r as it is now.
func (r *Request) Change() Change {
	c := Change{ID: r.ID, Rev: r.Rev, State: r.State}
	if n := len(r.Decisions); n > 0 {
		c.Answer = r.Decisions[n-1].Nonce
	}
	return c
}

// The errors of a store, and then those of a desk. Any other error is a failure of a part.
var (
	ErrNotFound   = errors.New("there is no such request")
	ErrDue        = errors.New("the request has expired and is not closed yet")
	ErrFenced     = errors.New("the store was restarted or failed over since this was approved")
	ErrRolledBack = errors.New("the store has lost a change that was acknowledged")
	ErrUncertain  = errors.New("the store has not confirmed the change on enough replicas")

	ErrNobody         = errors.New("policy asks for an approval and names nobody who could give it")
	ErrClosed         = errors.New("the request is not open any more")
	ErrOldCard        = errors.New("the decision is about another card than the request's")
	ErrNotApprover    = errors.New("no rule of this request names this person as an approver")
	ErrOwnOperation   = errors.New("nobody approves what they asked for themselves, or what is done for them")
	ErrDecidedAlready = errors.New("this person has decided on this request already")
	ErrUnclearPerson  = errors.New("it cannot be told whether this person is the one acted for, or one who has decided already")
	ErrAuthentication = errors.New("the person is not signed in as strongly or as recently as this resource demands")
	ErrUnrecorded     = errors.New("the change could not be recorded")
)

// Feed is a queue of changes, with which stores implement Watch. Put never blocks. Changes of one request become one, in the place
// of the first; more than feedLimit become the zero Change.
type Feed struct {
	mu      sync.Mutex
	changes map[string]Change
	order   []string // of changes: their requests
	all     bool
	wake    chan struct{}
}

const feedLimit = 50_000

// NewFeed returns a feed and the channel that it fills until ctx ends. Then it closes the channel.
func NewFeed(ctx context.Context) (*Feed, <-chan Change) {
	f := &Feed{changes: map[string]Change{}, wake: make(chan struct{}, 1)}
	out := make(chan Change)
	go guard.Func("a feed of changes", func() {
		defer close(out)
		for {
			select {
			case <-f.wake:
			case <-ctx.Done():
				return
			}
			for _, c := range f.take() {
				select {
				case out <- c:
				case <-ctx.Done():
					return
				}
			}
		}
	})()
	return f, out
}

// Put adds a change.
func (f *Feed) Put(c Change) {
	f.mu.Lock()
	switch {
	case c.ID == "" || len(f.changes) >= feedLimit:
		f.all = true
		f.clearLocked()
	case !f.all:
		if _, in := f.changes[c.ID]; !in {
			f.order = append(f.order, c.ID)
		}
		if c.Rev >= f.changes[c.ID].Rev {
			f.changes[c.ID] = c
		}
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *Feed) take() []Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all {
		f.all = false
		return []Change{{}}
	}
	list := make([]Change, 0, len(f.order))
	for _, id := range f.order {
		list = append(list, f.changes[id])
	}
	f.clearLocked()
	return list
}

func (f *Feed) clearLocked() {
	clear(f.changes)
	f.order = f.order[:0]
}
