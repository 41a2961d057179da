package approval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// Options are what a desk needs. Store, Recorder, Node and People are required.
type Options struct {
	Store    Store
	Recorder gate.Recorder
	Node     string // of this gateway; no other gateway on the same store has it
	People   string // issuer of those who approve

	// Directory and Shared of the gate.Persons who approve, as far as the configuration tells. A card uses them to warn that no
	// approval can count; what counts for an answer is the approver's token.
	PeopleDirectory string
	PeopleShared    bool

	TTL       time.Duration // of a request; 15 minutes unless set
	GrantTTL  time.Duration // of a grant, from the last approval; as TTL unless set
	Limits    Limits
	CardBytes int // a card is at most this long; 64 KiB unless set

	SweepEvery time.Duration // how often requests past their deadline are closed; 1 second unless set
	AdoptAfter time.Duration // a record that another gateway owes is made here after this long; 10 seconds unless set
	Log        *slog.Logger
}

// Desk is where operations ask and people answer. Each gateway on a shared store has its own.
type Desk struct {
	store    Store
	recorder gate.Recorder
	node     string
	people   string
	naming   Person // PeopleDirectory and PeopleShared
	ttl      time.Duration
	grantTTL time.Duration
	limits   Limits
	card     int
	sweep    time.Duration
	adopt    time.Duration
	log      *slog.Logger

	outbox  outbox
	memory  memory
	waiting waiting
	news    news

	running sync.Mutex
}

// NewDesk returns a desk. Holds wake and requests expire only while [Desk.Run] runs.
func NewDesk(o Options) (*Desk, error) {
	if o.Store == nil || o.Recorder == nil || o.Node == "" || o.People == "" {
		return nil, errors.New("a desk needs a store, a recorder, a node and the people's issuer")
	}
	ttl := cmp.Or(o.TTL, 15*time.Minute)
	d := &Desk{
		store: o.Store, recorder: o.Recorder, node: o.Node, people: o.People, naming: Person{Directory: o.PeopleDirectory, Shared: o.PeopleShared},
		ttl: ttl, grantTTL: cmp.Or(o.GrantTTL, ttl), limits: o.Limits, card: cmp.Or(o.CardBytes, 64<<10),
		sweep: cmp.Or(o.SweepEvery, time.Second), adopt: cmp.Or(o.AdoptAfter, 10*time.Second),
		log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
	}
	if d.ttl < 0 || d.grantTTL < 0 {
		return nil, fmt.Errorf("a request cannot live for %v, nor a grant for %v", d.ttl, d.grantTTL)
	}
	d.limits.RateWindow = cmp.Or(d.limits.RateWindow, time.Minute)
	d.outbox.init()
	d.memory.init()
	d.waiting.init()
	d.news.init()
	return d, nil
}

// Asking is an operation that policy asks about.
type Asking struct {
	Operation *gate.Operation
	Digest    string // of the operation
	Verdict   gate.Verdict
	Shown     gate.Object // the operation's detail, redacted for people
	First     []string    // members of Shown that stand first on the card
	Code      []Code      // what would run, laid out; left out of a card that has no room for it
	Words     []string    // what it does
	History   []Past      // what else was done in this session, oldest first
	Demand    Demand
	Only      string // id of the request to join, if no other will do

	unclear bool // see CardWho.Unclear
}

// Code is a part of what would run, as a kind of resource lays it out.
type Code struct {
	Class, Text string
	Space, Line bool
	Depth       int
}

// Ask opens a request, or joins the one that is open for the same digest, rules and approvals. A request that is open for the
// digest under other rules, or for other approvals, is voided first. The request that it returns can be Approved already: then spend
// it. Its record is durable on return.
//
// An agent may be told of a *LimitError and of ErrNotFound, which says that the request a.Only is not open for the operation. Any
// other error says that nobody can be asked at the moment.
func (d *Desk) Ask(ctx context.Context, a Asking) (r Request, joined bool, err error) {
	r, joined, recorded, err := d.Begin(ctx, a)
	if err == nil {
		err = recorded()
	}
	return r, joined, err
}

// Begin is Ask for a caller that has a record of its own to write: both records then share a sync. On return the store has the
// request, and its record is in the journal's queue. Unless there is an error the caller must call recorded, and must acknowledge
// nothing before recorded returns nil. recorded covers the records that this gateway owes, even if another operation of this gateway
// opened the request.
func (d *Desk) Begin(ctx context.Context, a Asking) (r Request, joined bool, recorded func() error, err error) {
	if r, joined, err = d.open(ctx, a); err != nil {
		return r, joined, nil, err
	}
	return r, joined, d.begin(ctx, &r), nil
}

func (d *Desk) open(ctx context.Context, a Asking) (r Request, joined bool, err error) {
	if err := a.check(); err != nil {
		return Request{}, false, err
	}
	if err := d.isOpen(ctx, a); err != nil {
		return Request{}, false, err
	}
	asks := asksOf(a.Verdict)
	p := a.Operation.Principal
	opening := Opening{
		Digest: a.Digest, Agent: Party{p.Issuer, p.Subject}, Resource: a.Operation.Resource.Name, Limits: d.limits,
	}
	for attempt := range 64 {
		if err := stepAside(ctx, attempt); err != nil {
			return Request{}, false, fmt.Errorf("open a request for approval: %w", err)
		}
		r, joined, err = d.store.Open(ctx, opening, func(now time.Time) (Request, error) { return d.create(now, a, asks) })
		switch {
		case errors.Is(err, ErrDue):
			err = d.close(ctx, r.ID)
		case err != nil:
			return Request{}, false, fmt.Errorf("open a request for approval: %w", err)
		case !joined:
			d.memory.note(&r)
			return r, false, nil
		case a.Only != "" && r.ID != a.Only:
			return Request{}, false, ErrNotFound
		case !r.State.Live(): // it was closed while it was being joined
			err = ErrClosed
		default:
			why := a.differs(&r, asks)
			if why == "" {
				return r, true, nil
			}
			err = d.void(ctx, r.ID, why, nil)
		}
		if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrNotFound) {
			return Request{}, false, err
		}
	}
	return Request{}, false, fmt.Errorf("open a request for approval: others keep closing it")
}

// stepAside waits before another attempt, longer each time. Two gateways, one with the old policy and one with the new, would
// otherwise void each other's requests for ever.
func stepAside(ctx context.Context, attempt int) error {
	if attempt < 4 {
		return nil
	}
	select {
	case <-time.After(rand.N(time.Duration(attempt) * time.Millisecond)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isOpen returns ErrNotFound if a.Only names another request than the one that is open for the operation.
func (d *Desk) isOpen(ctx context.Context, a Asking) error {
	if a.Only == "" {
		return nil
	}
	page, err := d.store.List(ctx, Filter{Digest: a.Digest})
	if err != nil {
		return fmt.Errorf("look for the request that is open: %w", err)
	}
	if len(page.Requests) != 1 || page.Requests[0].ID != a.Only {
		return ErrNotFound
	}
	return nil
}

func (a *Asking) check() error {
	switch {
	case a.Operation == nil || !a.Operation.Principal.Known() || a.Operation.ID == "":
		return errors.New("ask for approval: there is no operation or no agent")
	case a.Digest == "" || a.Verdict.RulesDigest == "":
		return errors.New("ask for approval: the digest of the operation or of its rules is missing")
	case a.Verdict.Effect != gate.Ask:
		return fmt.Errorf("ask for approval: policy says %v", a.Verdict.Effect)
	case len(a.Verdict.Asks) == 0:
		return ErrNobody
	}
	for _, ask := range a.Verdict.Asks {
		if !slices.ContainsFunc(ask.Approvers, func(name string) bool { return name != "" && name != "subject:" }) {
			return fmt.Errorf("rule %s/%s: %w", ask.Package, ask.ID, ErrNobody)
		}
	}
	return nil
}

// differs says why a cannot join r; "" if it can.
func (a *Asking) differs(r *Request, asks []AskRule) string {
	switch {
	case r.RulesDigest != a.Verdict.RulesDigest:
		return reasonPolicy
	case !slices.EqualFunc(r.Asks, asks, func(x, y AskRule) bool { return compareAsks(x, y) == 0 }):
		return reasonAsks
	case !samePeople(r.People, a.Operation.Principal.People):
		return reasonPeople
	case r.Demand.MaxAge != a.Demand.MaxAge || !slices.Equal(r.Demand.ACR, a.Demand.ACR):
		return reasonDemand
	default:
		return ""
	}
}

func (d *Desk) create(now time.Time, a Asking, asks []AskRule) (Request, error) {
	if a.Only != "" { // it has ended just now
		return Request{}, ErrNotFound
	}
	op, p := a.Operation, a.Operation.Principal
	r := Request{
		ID: gate.NewID(now), Digest: a.Digest, PolicyDigest: a.Verdict.PolicyDigest, RulesDigest: a.Verdict.RulesDigest,
		Resource: op.Resource.Name, Verb: op.Verb, Target: op.Target,
		Agent: Party{p.Issuer, p.Subject}, AgentName: p.Name, OnBehalfOfName: p.OnBehalfOfName, ActorNames: p.ActorNames, Session: op.Context.Session, Op: op.ID, TraceID: op.Context.TraceID(),
		Asks: asks, Demand: a.Demand,
		Created: now, Expires: now.Add(d.ttl), GrantTTL: d.grantTTL, State: Pending,
	}
	for _, actor := range p.Actors {
		r.Actors = append(r.Actors, Party(actor))
	}
	if p.OnBehalfOf != nil {
		person := Party(*p.OnBehalfOf)
		r.OnBehalfOf = &person
	}
	if a.Verdict.Limits != (gate.Limits{}) {
		bounds := Bounds(a.Verdict.Limits)
		r.Bounds = &bounds
	}
	r.People = peopleOf(p.People)
	a.unclear = d.unclear(r.People)
	var err error
	if r.Card, err = renderCard(&r, &a, d.card); err != nil {
		return Request{}, err
	}
	r.CardDigest = CardDigest(r.Card)
	return r, d.note(&r, RecordRequested, r.opener(), requested(&r, op.Context.RequestID)...)
}

// peopleOf returns people as they are stored. The list is never nil: see Request.People.
func peopleOf(people []gate.Person) []Person {
	list := make([]Person, len(people))
	for i, p := range people {
		list[i] = Person(p)
	}
	return list
}

func samePeople(stored []Person, now []gate.Person) bool {
	return stored != nil && slices.Equal(stored, peopleOf(now))
}

// unclear reports whether every approver could be one of these people.
func (d *Desk) unclear(people []Person) bool {
	return slices.ContainsFunc(people, func(p Person) bool {
		if p.Shared && d.naming.Shared {
			return p.Claim == ""
		}
		return p.Directory == "" || p.Directory != d.naming.Directory
	})
}

// Get returns a request with its card.
func (d *Desk) Get(ctx context.Context, id string) (Request, error) { return d.store.Get(ctx, id) }

// List returns requests, newest first, with their cards.
func (d *Desk) List(ctx context.Context, f Filter) (Page, error) { return d.store.List(ctx, f) }

// update changes a request and records the change. After ErrUnrecorded the change stands and its record is still owed. After any
// other error nothing was changed, or nobody knows. Either way nothing may be acknowledged.
func (d *Desk) update(ctx context.Context, id string, change func(now time.Time, r *Request) error) (Request, error) {
	r, err := d.change(ctx, id, func(now time.Time, r *Request) error {
		d.outbox.drop(r)
		return change(now, r)
	})
	if err != nil {
		return r, err
	}
	return r, d.record(ctx, &r)
}

// change changes a request, unless the store has lost an answer or a state of it that this gateway has seen. Every change comes by here.
func (d *Desk) change(ctx context.Context, id string, change func(now time.Time, r *Request) error) (Request, error) {
	seen := d.memory.of(id) // before the store is read
	r, err := d.store.Update(ctx, id, func(now time.Time, r *Request) error {
		if seen.lost(r) {
			return ErrRolledBack
		}
		return change(now, r)
	})
	switch {
	case errors.Is(err, ErrRolledBack):
		err = errors.Join(err, d.voidRolledBack(ctx, id, seen.lost))
	case err == nil:
		d.memory.note(&r)
	}
	return r, err
}

// carryTime bounds a change whose caller may have left.
const carryTime = 10 * time.Second

// carried returns a context for a change that is carried through even if the caller leaves.
func carried(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), carryTime)
}

// close closes a request whose deadline has passed. For any other it returns ErrClosed.
func (d *Desk) close(ctx context.Context, id string) error {
	_, err := d.update(ctx, id, func(now time.Time, r *Request) error {
		if !r.Due(now) {
			return ErrClosed
		}
		return d.expire(now, r)
	})
	return err
}

func (d *Desk) expire(now time.Time, r *Request) error {
	from := r.State
	r.State, r.Closed = Expired, now
	return d.note(r, RecordExpired, r.opener(), gate.Member{Name: "from", Value: string(from)})
}

// Left records that the agent of operation op gave up waiting for the request with this id. The request stays open, as the record's
// `state` says: a client that gives up after a minute usually comes back, and a person may be reading the card. If the request is
// approved, the identical operation can use that.
func (d *Desk) Left(ctx context.Context, op *gate.Operation, id string) error {
	ctx, cancel := carried(ctx)
	defer cancel()
	r, err := d.store.Get(ctx, id)
	if err != nil {
		return fmt.Errorf("record that the agent of operation %s left: %w", op.ID, err)
	}
	body, err := d.body(&r, attempt{op.ID, op.Context.TraceID()}, "left/"+op.ID, because("the agent left during the hold; the request stays open until it expires"))
	if err != nil {
		return err
	}
	return d.recorder.Post(ctx, &gate.Record{Type: RecordWithdrawn, Op: op.ID, Body: line(body)})
}
