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

	"github.com/countersign/countersign/extproc/gate"
)

// A card is what a person is shown, rendered once, as canonical JSON:
//
//	{"v":1, "id":…, "salt":…, "digest":…, "policy_digest":…, "created":…, "expires":…, "grant_seconds":…,
//	 "who":     {"agent":{"issuer":T,"subject":T}, "kind":T, "client_id":T, "on_behalf_of":{…}|null, "actors":[{…}], "groups":[T], "session":T, "unclear":true},
//	 "what":    {"protocol":T, "verb":T, "target":T, "resource":T, "resource_kind":T, "labels":[R], "detail":[R]},
//	 "why":     [{"rule":T, "reason":T, "approvers":[T], "quorum":N}],
//	 "history": {"operations":[{"time":…, "verb":T, "target":T, "result":T}], "left_out":N},
//	 "demand":  {"acr":[T], "max_age":SECONDS}}
//
// T is a [Text]: {"text":…} with "notes", "bytes" and "sha256" where it has them. R is one value of the operation: {"path":T,
// "type":"string"|"number"|"bool"|"null"|"object"|"list", "value":T}; objects and lists are rows only where they are empty.
// Every value is a row of its own, with its whole path, so that no layout, indentation or repeated key can hide one; paths and
// values are never cut, as the middle of a long one is where an attacker would put what nobody should read. What does not fit
// in a card is refused: a person decides on all of it. "unclear" is there where no approver can be told from the person whose
// operation it is, so that no approval will count.
//
// The digest of a card is the plain SHA-256 of its bytes, so that whoever has the card can check it; the salt, which is in
// no record, keeps those who have the digest from guessing at what was shown.

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

func renderCard(r *Request, a *Asking, limit int) ([]byte, error) {
	c := cardWriter{limit: limit}
	op := a.Operation
	detail, err := c.rows(a.Shown, a.First...)
	if err != nil {
		return nil, fmt.Errorf("render the card: %w", err)
	}
	labels, err := c.rows(op.Resource.Labels)
	if err != nil {
		return nil, fmt.Errorf("render the card: %w", err)
	}
	card := gate.Object{
		{Name: "created", Value: timeText(r.Created)},
		{Name: "demand", Value: gate.Object{
			{Name: "acr", Value: shownAll(r.Demand.ACR)},
			{Name: "max_age", Value: wholeSeconds(r.Demand.MaxAge)},
		}},
		{Name: "digest", Value: r.Digest},
		{Name: "expires", Value: timeText(r.Expires)},
		{Name: "grant_seconds", Value: wholeSeconds(r.GrantTTL)},
		{Name: "history", Value: shownHistory(a.History)},
		{Name: "id", Value: r.ID},
		{Name: "policy_digest", Value: r.PolicyDigest},
		{Name: "salt", Value: rand.Text()},
		{Name: "v", Value: 1},
		{Name: "what", Value: gate.Object{
			{Name: "detail", Value: detail},
			{Name: "labels", Value: labels},
			{Name: "protocol", Value: shown(op.Protocol)},
			{Name: "resource", Value: shown(op.Resource.Name)},
			{Name: "resource_kind", Value: shown(op.Resource.Kind)},
			{Name: "target", Value: shown(op.Target)},
			{Name: "verb", Value: shown(op.Verb)},
		}},
		{Name: "who", Value: shownPrincipal(op.Principal, r.Session, a.unclear)},
		{Name: "why", Value: shownAsks(r.Asks)},
	}
	text, err := gate.AppendJSON(make([]byte, 0, 2048), card)
	if err != nil {
		return nil, fmt.Errorf("render the card: %w", err)
	}
	if len(text) > limit {
		return nil, &LimitError{LimitCard, limit}
	}
	return text, nil
}

func shown(s string) gate.Object { return shownText(Visible(s)) }

func shownText(t Text) gate.Object {
	if t.Bytes == 0 && len(t.Notes) == 0 {
		return gate.Object{{Name: "text", Value: t.Text}}
	}
	o := make(gate.Object, 0, 4)
	if t.Bytes > 0 {
		o = append(o, gate.Member{Name: "bytes", Value: t.Bytes})
	}
	if len(t.Notes) > 0 {
		o = append(o, gate.Member{Name: "notes", Value: t.Notes})
	}
	if t.SHA256 != "" {
		o = append(o, gate.Member{Name: "sha256", Value: t.SHA256})
	}
	return append(o, gate.Member{Name: "text", Value: t.Text})
}

func shownAll(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = shown(s)
	}
	return out
}

func shownParty(p gate.Party) gate.Object {
	return gate.Object{{Name: "issuer", Value: shown(p.Issuer)}, {Name: "subject", Value: shown(p.Subject)}}
}

func shownPrincipal(p *gate.Principal, session string, unclear bool) gate.Object {
	actors := make([]any, len(p.Actors))
	for i, a := range p.Actors {
		actors[i] = shownParty(a)
	}
	var person any
	if p.OnBehalfOf != nil {
		person = shownParty(*p.OnBehalfOf)
	}
	o := gate.Object{
		{Name: "actors", Value: actors},
		{Name: "agent", Value: shownParty(gate.Party{Issuer: p.Issuer, Subject: p.Subject})},
		{Name: "client_id", Value: shown(p.ClientID)},
		{Name: "groups", Value: shownAll(p.Groups)},
		{Name: "kind", Value: shown(p.Kind)},
		{Name: "on_behalf_of", Value: person},
		{Name: "session", Value: shown(session)},
	}
	if unclear {
		o = append(o, gate.Member{Name: "unclear", Value: true})
	}
	return o
}

func shownAsks(asks []AskRule) []any {
	out := make([]any, len(asks))
	for i, a := range asks {
		out[i] = gate.Object{
			{Name: "approvers", Value: shownAll(a.Approvers)},
			{Name: "quorum", Value: a.Quorum},
			{Name: "reason", Value: shown(a.Reason)},
			{Name: "rule", Value: shown(a.Package + "/" + a.ID)},
		}
	}
	return out
}

// shownHistory shows the latest operations, and says how many came before them.
func shownHistory(history []Past) gate.Object {
	leftOut := max(0, len(history)-maxHistory)
	list := []any{}
	for _, p := range history[leftOut:] {
		list = append(list, gate.Object{
			{Name: "result", Value: shown(p.Result)},
			{Name: "target", Value: shown(p.Target)},
			{Name: "time", Value: timeText(p.Time)},
			{Name: "verb", Value: shown(p.Verb)},
		})
	}
	return gate.Object{{Name: "left_out", Value: leftOut}, {Name: "operations", Value: list}}
}

func wholeSeconds(d time.Duration) int64 { return int64(d / time.Second) }

// cardWriter flattens values into rows.
type cardWriter struct {
	limit int // of the card
	list  []any
	count int
}

// rows are those of o: the members that are to come first, where they say anything, and then the others, in their own order. A
// person with ten seconds begins at the top. Nothing is left out.
func (c *cardWriter) rows(o gate.Object, first ...string) ([]any, error) {
	// Names that are twice in an object, or out of order, would be two readings of one operation.
	if _, err := gate.AppendJSON(nil, o); err != nil {
		return nil, err
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
	c.list = []any{}
	for _, m := range o {
		if err := c.value(step("", m.Name), m.Value, 1); err != nil {
			return nil, err
		}
	}
	return c.list, nil
}

// step adds a member to a path as RFC 9535 writes it normalised, so that two names never give one path.
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
		return c.row(path, "null", shown("null"))
	case bool:
		return c.row(path, "bool", shown(strconv.FormatBool(v)))
	case string:
		if len(v) > c.limit {
			return &LimitError{LimitCard, c.limit}
		}
		return c.row(path, "string", shownText(whole(v)))
	case int, int64, float64, json.Number:
		text, err := gate.AppendJSON(nil, v)
		if err != nil {
			return err
		}
		return c.row(path, "number", shownText(whole(string(text))))
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
			return c.row(path, "list", shown("[]"))
		}
	case gate.Object:
		for _, m := range v {
			if err := c.value(step(path, m.Name), m.Value, depth+1); err != nil {
				return err
			}
		}
		if len(v) == 0 {
			return c.row(path, "object", shown("{}"))
		}
	default:
		return fmt.Errorf("a %T cannot be shown", v)
	}
	return nil
}

func (c *cardWriter) row(path, kind string, value gate.Object) error {
	if c.count++; c.count > maxRows {
		return &LimitError{LimitRows, maxRows}
	}
	c.list = append(c.list, gate.Object{
		{Name: "path", Value: shownText(whole(path))}, {Name: "type", Value: kind}, {Name: "value", Value: value},
	})
	return nil
}
