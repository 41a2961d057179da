// Package question puts the gate's questions to people: it implements [gate.Approvals] with the approvals desk. It decides what
// people see of an operation and of what its agent did before; the rules of asking and answering are the desk's (package approval).
//
// What policy hides from the agent is hidden from people too. An operation that cannot be shown whole is refused: nobody approves
// what they cannot see. A grant lets an operation through only if policy was evaluated with that grant.
package question

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind"
	"github.com/countersign/countersign/extproc/redact"
	"github.com/countersign/countersign/extproc/strict"
)

// ownJSON reads what this program wrote.
var ownJSON = strict.Reader{Depth: strict.Unbounded}

// Asker implements [gate.Approvals].
type Asker struct {
	Desk      *approval.Desk
	History   *History
	Kinds     []kind.Kind // of resources: each says how its operations are shown
	RedactKey []byte
	Demands   map[string]approval.Demand // what is demanded of an approver's sign-in, by resource
	Console   string                     // its URL, without a slash at the end; empty if there is none
}

// Granted implements [gate.Approvals].
func (a *Asker) Granted(ctx context.Context, q *gate.Question) (gate.Grant, bool, error) {
	r, ok, err := a.Desk.Granted(ctx, q.Digest)
	if err != nil || !ok || r.RulesDigest != q.Verdict.RulesDigest {
		return gate.Grant{}, false, err
	}
	return grantOf(&r), true, nil
}

func grantOf(r *approval.Request) gate.Grant {
	g := gate.Grant{ID: r.ID, Expires: r.GrantExpires, Limits: r.Limits()}
	for _, d := range r.Decisions {
		if d.Approve {
			g.Approvers = append(g.Approvers, gate.Party{Issuer: d.By.Issuer, Subject: d.By.Subject})
			g.Approved = d.At
		}
	}
	return g
}

// Spend implements [gate.Approvals].
func (a *Asker) Spend(ctx context.Context, q *gate.Question, g gate.Grant) (bool, error) {
	verdict := q.Verdict
	if len(verdict.Redactions) > 0 { // what it asks is held against what was shown
		seen, err := a.view(q)
		if err != nil {
			return false, fmt.Errorf("see the operation as who approved it did: %w", err)
		}
		verdict.Asks = seen.asks
	}
	spent, ok, err := a.Desk.Spend(ctx, approval.Spending{Op: q.Operation.ID, TraceID: q.Operation.Context.TraceID(), Digest: q.Digest, Verdict: verdict, People: q.Operation.Principal.People})
	if err != nil || !ok {
		return false, err
	}
	// If another grant was spent than g, policy was not evaluated with it, so it lets nothing through.
	return spent.For(q.Operation.ID) && spent.Request().ID == g.ID, nil
}

// Ask implements [gate.Approvals].
func (a *Asker) Ask(ctx context.Context, q *gate.Question) (p gate.Pending, recorded func() error, err error) {
	seen, err := a.view(q)
	switch {
	case errors.Is(err, errNoKind):
		return gate.Pending{}, nil, err
	case err != nil:
		return gate.Pending{}, nil, &gate.AskRefused{Reason: "the operation cannot be shown to a person: " + err.Error()}
	}
	if q.Operation.Guess != nil {
		seen.words = append(seen.words, q.Operation.Guess(ctx)...)
	}
	verdict := q.Verdict
	verdict.Asks = seen.asks
	r, _, recorded, err := a.Desk.Begin(ctx, approval.Asking{
		Operation: q.Operation, Digest: q.Digest, Verdict: verdict, Shown: seen.detail, First: seen.first, Code: seen.code, Words: seen.words,
		History: a.History.of(q.Operation), Demand: a.Demands[q.Operation.Resource.Name],
		Only: q.Operation.Named,
	})
	var limit *approval.LimitError
	switch {
	case q.Operation.Named != "" && errors.Is(err, approval.ErrNotFound):
		return gate.Pending{}, nil, gate.ErrNotNamed
	case errors.As(err, &limit):
		return gate.Pending{}, nil, &gate.AskRefused{Reason: limit.Error()}
	case errors.Is(err, approval.ErrNobody):
		return gate.Pending{}, nil, &gate.AskRefused{Reason: err.Error()}
	case err != nil:
		return gate.Pending{}, nil, err
	}
	p = gate.Pending{ID: r.ID, Expires: r.Deadline()}
	if a.Console != "" {
		p.URL = a.Console + "/approvals/" + r.ID
	}
	return p, recorded, nil
}

// Wait implements [gate.Approvals].
func (a *Asker) Wait(ctx context.Context, id string) error { return a.Desk.Await(ctx, id) }

// Left implements [gate.Approvals].
func (a *Asker) Left(ctx context.Context, op *gate.Operation, id string) error {
	return a.Desk.Left(ctx, op, id)
}

// Ended implements [gate.Approvals].
func (a *Asker) Ended(id, op string, o *gate.Outcome) {
	a.Desk.Ended(id, op, approval.Outcome{Result: string(o.Result), Status: o.Status, Took: o.Duration})
}

// Answer implements [gate.Approvals].
func (a *Asker) Answer(ctx context.Context, id string) (gate.Answer, error) {
	r, err := a.Desk.Answer(ctx, id)
	if err != nil {
		return gate.Answer{}, err
	}
	answer := gate.Answer{Rejected: r.State == approval.Rejected, Reason: r.Reason}
	if r.State == approval.Approved {
		answer.Approved = grantOf(&r)
	}
	return answer, nil
}

// view is what people see of an operation.
type view struct {
	detail gate.Object
	first  []string       // members of the detail that a card begins with
	asks   []gate.AskRule // in words without a value that policy hides
	code   []approval.Code
	words  []string
}

var errNoKind = errors.New("there is no such kind of resource")

func (a *Asker) view(q *gate.Question) (view, error) {
	name := q.Operation.Resource.Kind
	i := slices.IndexFunc(a.Kinds, func(k kind.Kind) bool { return k.Config.Name == name })
	if i < 0 {
		return view{}, fmt.Errorf("kind %q: %w", name, errNoKind)
	}
	v := view{first: a.Kinds[i].Card.First, asks: slices.Clone(q.Verdict.Asks)}
	var texts []*string
	for i := range v.asks {
		texts = append(texts, &v.asks[i].Summary, &v.asks[i].Reason)
	}
	w := words{hidden: make([]bool, len(texts))}
	for _, text := range texts {
		w.texts = append(w.texts, *text)
	}
	var err error
	if v.detail, err = a.shown(q, a.Kinds[i], &w); err != nil {
		return v, err
	}
	if lay := a.Kinds[i].Card.Code; lay != nil {
		for _, c := range lay(v.detail) {
			v.code = append(v.code, approval.Code(c))
		}
	}
	if say := a.Kinds[i].Card.Words; say != nil {
		v.words = say(v.detail)
	}
	if limits := q.Verdict.Limits.Object(); len(limits) > 0 {
		v.detail, err = gate.MakeObject(append(slices.Clone(v.detail), gate.Member{Name: "limit", Value: limits})...)
	}
	for i, text := range texts {
		if w.hidden[i] {
			*text = hiddenWords
		}
	}
	return v, err
}

// hiddenWords stand where a summary or a reason repeats a value that policy hides. The whole of it goes, since a text in which only
// the value is missing can tell what it was.
const hiddenWords = "[redacted: these words repeat a value that policy hides]"

// words are a policy's own about an operation, and which of them repeat a value that it hides.
type words struct {
	texts  []string
	hidden []bool
}

// shown returns the operation's detail as an approver may see it, and notes in w what repeats a value that is hidden. Every redaction
// masks here, even one that removes: a person must see that there is a value. A redaction with OnCard hides nothing here, but
// another one may hide the same value.
func (a *Asker) shown(q *gate.Question, k kind.Kind, w *words) (gate.Object, error) {
	detail, err := expanded(q.Operation.Detail.Object())
	if err != nil {
		return nil, err
	}
	if k.Card.Unseen == nil {
		return nil, errors.New("nothing is known of how to show an operation on " + q.Operation.Resource.Kind)
	}
	if why := k.Card.Unseen(detail); why != "" {
		return nil, errors.New(why)
	}
	if len(q.Verdict.Redactions) == 0 {
		return detail, nil
	}
	var masks, detectors []gate.Redaction
	for _, r := range q.Verdict.Redactions {
		if r.OnCard || r.Column != "" { // a statement has no columns' values that it does not name itself
			continue
		}
		r.With = gate.Mask
		masks = append(masks, r)
		if r.Detect != "" {
			detectors = append(detectors, r)
		}
	}
	body, err := redact.Compile(masks, a.RedactKey)
	if err != nil {
		return nil, err
	}
	rest, err := redact.Compile(detectors, a.RedactKey)
	if err != nil {
		return nil, err
	}
	shown := make(gate.Object, len(detail))
	for i, m := range detail {
		values, several := m.Value.([]any)
		switch {
		case m.Name == k.Policy.Bodies && several: // each value is a document of its own to the paths
			for n, v := range values {
				if values[n], err = w.redactValue(body, v); err != nil {
					return nil, fmt.Errorf("%s: %w", m.Name, err)
				}
			}
		case m.Name == k.Policy.Body:
			m.Value, err = w.redactValue(body, m.Value)
		default:
			m.Value, err = w.redactValue(rest, m.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		shown[i] = m
	}
	return shown, nil
}

// expanded returns the detail with each gate.Raw in it parsed, so that a card can show each value.
func expanded(detail gate.Object) (gate.Object, error) {
	for i, m := range detail {
		if text, ok := m.Value.(gate.Raw); ok {
			v, err := ownJSON.Read([]byte(text))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.Name, err)
			}
			detail = slices.Clone(detail)
			detail[i].Value = v
		}
	}
	return detail, nil
}

func (w *words) redactValue(p *redact.Plan, v any) (any, error) {
	if p.Empty() {
		return v, nil
	}
	text, err := gate.AppendJSON(nil, v)
	if err != nil {
		return nil, err
	}
	s, err := p.Stream("application/json", redact.Options{MaxToken: 16 << 20, Beside: w.texts})
	if err != nil {
		return nil, err
	}
	out, err := s.Write(text)
	if err != nil {
		return nil, err
	}
	out = append([]byte(nil), out...)
	tail, err := s.Close()
	if err != nil {
		return nil, err
	}
	for i := range w.hidden {
		w.hidden[i] = w.hidden[i] || s.Repeats(i)
	}
	return ownJSON.Read(append(out, tail...))
}
