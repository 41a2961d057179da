package approval

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/countersign/countersign/extproc/gate"
)

// Card is what a person is shown. It is rendered once, as canonical JSON; whatever shows it reads it with [ReadCard].
//
// Every value has a row of its own, with its whole path, so that no layout, indentation or repeated key can hide one. Paths and
// values are never cut: an attacker would put what nobody should read in the middle of a long one. An operation that does not fit
// in a card is refused, because a person decides on all of it.
//
// The digest of a card is the plain SHA-256 of its bytes, so that whoever has the card can check it. The salt is in no record, so
// whoever has only the digest cannot guess what was shown.
//
// The fields of these types are in the order of their JSON names, which makes the text canonical.
type Card struct {
	Created      time.Time   `json:"created"`
	Demand       CardDemand  `json:"demand"`
	Digest       string      `json:"digest"`
	Expires      time.Time   `json:"expires"`
	GrantSeconds int64       `json:"grant_seconds"`
	History      CardHistory `json:"history"`
	ID           string      `json:"id"`
	PolicyDigest string      `json:"policy_digest"`
	Salt         string      `json:"salt"`
	Version      int         `json:"v"`
	What         CardWhat    `json:"what"`
	Who          CardWho     `json:"who"`
	Why          []CardAsk   `json:"why"`
}

// The parts of a card.
type (
	// CardDemand is what a decision needs beyond the person who makes it.
	CardDemand struct {
		ACR    []Text `json:"acr"`
		MaxAge int64  `json:"max_age"` // seconds
	}

	// CardHistory is what else the session has done.
	CardHistory struct {
		LeftOut    int        `json:"left_out"` // operations that came before these
		Operations []CardPast `json:"operations"`
	}

	// CardPast is one earlier operation.
	CardPast struct {
		Result Text      `json:"result"`
		Target Text      `json:"target"`
		Time   time.Time `json:"time"`
		Verb   Text      `json:"verb"`
	}

	// CardWhat is the operation.
	CardWhat struct {
		Code         []CardCode `json:"code,omitzero"` // what would run, laid out
		Detail       []CardRow  `json:"detail"`
		First        int        `json:"first"` // so many rows of Detail are what the operation carries; the others say how it was sent
		Labels       []CardRow  `json:"labels"`
		Protocol     Text       `json:"protocol"`
		Resource     Text       `json:"resource"`
		ResourceKind Text       `json:"resource_kind"`
		Target       Text       `json:"target"`
		Verb         Text       `json:"verb"`
		Words        []Text     `json:"words,omitzero"` // what it does, in plain words
	}

	// CardCode is a part of what would run: see [Code].
	CardCode struct {
		Class string `json:"class"`
		Depth int    `json:"depth,omitzero"`
		Line  bool   `json:"line,omitzero"`
		Space bool   `json:"space,omitzero"`
		Text  Text   `json:"text"`
	}

	// CardRow is one value of the operation. Objects and lists are rows only where they are empty.
	CardRow struct {
		Path  Text   `json:"path"`
		Type  string `json:"type"` // string, number, bool, null, object or list
		Value Text   `json:"value"`
	}

	// CardWho is who asks, and for whom.
	CardWho struct {
		Actors     []CardParty `json:"actors"`
		Agent      CardParty   `json:"agent"`
		ClientID   Text        `json:"client_id"`
		Groups     []Text      `json:"groups"`
		Kind       Text        `json:"kind"`
		OnBehalfOf *CardParty  `json:"on_behalf_of"`
		Session    Text        `json:"session"`
		Unclear    bool        `json:"unclear,omitzero"` // every approver could be the person whose operation this is, so no approval will count
	}

	// CardParty is one end of a chain of acting.
	CardParty struct {
		Issuer  Text `json:"issuer"`
		Name    Text `json:"name,omitzero"` // what it is claimed to be called: see [Named]
		Subject Text `json:"subject"`
	}

	// CardAsk is one rule that asks.
	CardAsk struct {
		Approvers []Text `json:"approvers"`
		Quorum    int    `json:"quorum"`
		Reason    Text   `json:"reason"`
		Rule      Text   `json:"rule"`
		Summary   Text   `json:"summary,omitzero"` // what will run, in the policy's own words; they can have values of the operation in them
	}
)

// Visible is a party as people see it.
func (p Named) Visible() CardParty {
	return CardParty{Visible(p.Issuer), Visible(p.Name), Visible(p.Subject)}
}

// HasName reports whether there is a name and it says more than the subject.
func (p CardParty) HasName() bool { return p.Name.Text != "" && p.Name.Text != p.Subject.Text }

// ReadCard reads a card. A member that it does not know is an error, because whoever answers would not see it.
func ReadCard(text []byte) (*Card, error) {
	var c Card
	if err := jsonv2.Unmarshal(text, &c, jsonv2.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	return &c, nil
}

// Summaries are what will run, in policy's own words: of each rule that has some, once.
func (c *Card) Summaries() []Text {
	var list []Text
	for _, why := range c.Why {
		if s := why.Summary; s.Text != "" && !slices.ContainsFunc(list, func(t Text) bool { return t.Text == s.Text }) {
			list = append(list, s)
		}
	}
	return list
}

// CardDigest is the SHA-256 of a card, in hex: what a decision names.
func CardDigest(card []byte) string {
	sum := sha256.Sum256(card)
	return hex.EncodeToString(sum[:])
}

// Past is one earlier operation of a session.
type Past struct {
	Time   time.Time
	Verb   string
	Target string
	Result string // how it ended, or its effect
}

const (
	maxRows    = 1000
	maxHistory = 20
	maxDepth   = 64
	maxPath    = 4 << 10
)

// timesAsRecorded writes times as records have them.
var timesAsRecorded = jsonv2.WithMarshalers(jsonv2.MarshalFunc(func(t time.Time) ([]byte, error) {
	return append(gate.AppendTime([]byte{'"'}, t), '"'), nil
}))

func renderCard(r *Request, a *Asking, limit int) ([]byte, error) {
	c := cardWriter{limit: limit}
	op := a.Operation
	detail, first, err := c.rows(a.Shown, a.First...)
	if err != nil {
		return nil, fmt.Errorf("render the card: %w", err)
	}
	labels, _, err := c.rows(op.Resource.Labels)
	if err != nil {
		return nil, fmt.Errorf("render the card: %w", err)
	}
	card := Card{
		Created: r.Created, Demand: CardDemand{visibleAll(r.Demand.ACR), wholeSeconds(r.Demand.MaxAge)}, Digest: r.Digest,
		Expires: r.Expires, GrantSeconds: wholeSeconds(r.GrantTTL), History: historyOf(a.History), ID: r.ID,
		PolicyDigest: r.PolicyDigest, Salt: rand.Text(), Version: 1,
		What: CardWhat{
			Detail: detail, First: first, Labels: labels, Protocol: Visible(op.Protocol), Resource: Visible(op.Resource.Name),
			ResourceKind: Visible(op.Resource.Kind), Target: Visible(op.Target), Verb: Visible(op.Verb),
		},
		Who: whoOf(op.Principal, r, a.unclear), Why: whyOf(r.Asks),
	}
	for _, c := range a.Code {
		card.What.Code = append(card.What.Code, CardCode{c.Class, c.Depth, c.Line, c.Space, whole(c.Text)})
	}
	for _, w := range a.Words {
		card.What.Words = append(card.What.Words, whole(w))
	}
	text, err := jsonv2.Marshal(&card, timesAsRecorded)
	if err == nil && len(text) > limit && card.What.Code != nil { // the text is a value too
		card.What.Code = nil
		text, err = jsonv2.Marshal(&card, timesAsRecorded)
	}
	if err != nil {
		return nil, fmt.Errorf("render the card: %w", err)
	}
	if len(text) > limit {
		return nil, &LimitError{LimitCard, limit}
	}
	return text, nil
}

func visibleAll(list []string) []Text {
	out := make([]Text, len(list))
	for i, s := range list {
		out[i] = Visible(s)
	}
	return out
}

func whoOf(p *gate.Principal, r *Request, unclear bool) CardWho {
	who := CardWho{
		Agent: r.NamedAgent().Visible(), ClientID: Visible(p.ClientID), Groups: visibleAll(p.Groups),
		Kind: Visible(p.Kind), Session: Visible(r.Session), Unclear: unclear,
	}
	for _, a := range r.NamedActors() {
		who.Actors = append(who.Actors, a.Visible())
	}
	if named := r.NamedPerson(); named != nil {
		person := named.Visible()
		who.OnBehalfOf = &person
	}
	return who
}

func whyOf(asks []AskRule) []CardAsk {
	out := make([]CardAsk, len(asks))
	for i, a := range asks {
		out[i] = CardAsk{visibleAll(a.Approvers), a.Quorum, Visible(a.Reason), Visible(a.Package + "/" + a.ID), whole(a.Summary)}
	}
	return out
}

// historyOf returns the latest operations, and how many came before them.
func historyOf(history []Past) CardHistory {
	h := CardHistory{LeftOut: max(0, len(history)-maxHistory)}
	for _, p := range history[h.LeftOut:] {
		h.Operations = append(h.Operations, CardPast{Visible(p.Result), Visible(p.Target), p.Time, Visible(p.Verb)})
	}
	return h
}

func wholeSeconds(d time.Duration) int64 { return int64(d / time.Second) }

// cardWriter flattens values into rows.
type cardWriter struct {
	limit int // of the card
	list  []CardRow
	count int
}

// rows returns the rows of all members of o. Those named first come first unless they are empty, because a person with ten seconds
// reads the top. leading counts their rows.
func (c *cardWriter) rows(o gate.Object, first ...string) (rows []CardRow, leading int, err error) {
	// This finds repeated and unordered names: they would give one operation two readings.
	if _, err := gate.AppendJSON(nil, o); err != nil {
		return nil, 0, err
	}
	rank := func(m gate.Member) int {
		i := slices.Index(first, m.Name)
		if fields, ok := m.Value.(gate.Object); i < 0 || ok && len(fields) == 0 {
			return len(first)
		}
		return i
	}
	o = slices.Clone(o)
	slices.SortStableFunc(o, func(a, b gate.Member) int { return rank(a) - rank(b) })
	c.list = nil
	for _, m := range o {
		if err := c.value(step("", m.Name), m.Value, 1); err != nil {
			return nil, 0, err
		}
		if rank(m) < len(first) {
			leading = len(c.list)
		}
	}
	return c.list, leading, nil
}

// step adds a member to a path. Unusual names are quoted as in RFC 9535's normal form of paths, so two names never give one path.
func step(path, name string) string {
	if plain(name) {
		if path == "" {
			return name
		}
		return path + "." + name
	}
	quoted := make([]byte, 0, len(name)+4)
	for i := range len(name) {
		switch name[i] {
		case '\'', '\\':
			quoted = append(quoted, '\\')
		}
		quoted = append(quoted, name[i])
	}
	return path + "['" + string(quoted) + "']"
}

func plain(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '-'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

var errDeep = errors.New("the operation nests too deeply to be shown")

func (c *cardWriter) value(path string, v any, depth int) error {
	if depth > maxDepth {
		return errDeep
	}
	if len(path) > maxPath {
		return &LimitError{LimitPath, maxPath}
	}
	switch v := v.(type) {
	case nil:
		return c.row(path, "null", Text{Text: "null"})
	case bool:
		return c.row(path, "bool", Text{Text: strconv.FormatBool(v)})
	case string:
		if len(v) > c.limit {
			return &LimitError{LimitCard, c.limit}
		}
		return c.row(path, "string", whole(v))
	case int, int64, float64, json.Number:
		text, err := gate.AppendJSON(nil, v)
		if err != nil {
			return err
		}
		return c.row(path, "number", whole(string(text)))
	case []string:
		list := make([]any, len(v))
		for i, s := range v {
			list[i] = s
		}
		return c.value(path, list, depth)
	case []any:
		for i, e := range v {
			if err := c.value(path+"["+strconv.Itoa(i)+"]", e, depth+1); err != nil {
				return err
			}
		}
		if len(v) == 0 {
			return c.row(path, "list", Text{Text: "[]"})
		}
	case gate.Object:
		for _, m := range v {
			if err := c.value(step(path, m.Name), m.Value, depth+1); err != nil {
				return err
			}
		}
		if len(v) == 0 {
			return c.row(path, "object", Text{Text: "{}"})
		}
	default:
		return fmt.Errorf("a %T cannot be shown", v)
	}
	return nil
}

func (c *cardWriter) row(path, kind string, value Text) error {
	if c.count++; c.count > maxRows {
		return &LimitError{LimitRows, maxRows}
	}
	c.list = append(c.list, CardRow{whole(path), kind, value})
	return nil
}
