package console

import (
	"encoding/json"
	"fmt"
	"html"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

// chance makes operations.
type chance struct{ *rand.Rand }

// misread are texts that look like something else.
var misread = []string{
	"", "true", "12", "null", "(empty)", "{}", "[]", "-0", "1e3", "NaN", `"quoted"`, "(none)", "Approved", " ", "a  b ", "<h1>Approved</h1>", `"><script>x</script>`,
	"&amp;", "\u202efdp.exe", "\u0430cme", "a\x00b", `back\slash`, `\u{202E}`, "“Dora”", "line\none more", "…", strings.Repeat("long ", 60) + "end",
}

// names of members; those of the operation itself are among them.
var misreadNames = []string{
	"segments", "path", "body", "query", "method", "headers", "amount", "a.b", "a b", "", "[0]", "how it was sent", "<b>", "']", "segments[0]", "true", "0",
}

func (c chance) one(list []string) string { return list[c.IntN(len(list))] }

func (c chance) value(depth int) any {
	switch n := c.IntN(10); {
	case n < 2 && depth > 0:
		return c.object(c.IntN(5), depth-1)
	case n < 4 && depth > 0:
		list := make([]any, c.IntN(4))
		for i := range list {
			list[i] = c.value(depth - 1)
		}
		return list
	case n < 5:
		return nil
	case n < 6:
		return c.IntN(2) == 0
	case n < 7:
		return json.Number(fmt.Sprint(c.IntN(20)))
	default:
		return c.one(misread)
	}
}

// object has so many members, or fewer where chance names one twice.
func (c chance) object(n, depth int) gate.Object {
	var o gate.Object
	seen := map[string]bool{}
	for range n {
		if name := c.one(misreadNames); !seen[name] {
			seen[name] = true
			o = append(o, gate.Member{Name: name, Value: c.value(depth)})
		}
	}
	slices.SortFunc(o, func(a, b gate.Member) int { return strings.Compare(a.Name, b.Name) })
	return o
}

// operation makes any operation, of any kind: most have a path and its segments.
func (c chance) operation(a *approval.Asking) {
	path := c.one([]string{"/", "/v1/payments/7", "/v1//12/true/null", "/a%2Fb"})
	a.Shown = gate.Object{{Name: "body", Value: c.value(3)}, {Name: "headers", Value: c.object(3, 1)}, {Name: "method", Value: "POST"}}
	if c.IntN(4) > 0 {
		a.Shown = append(a.Shown, gate.Member{Name: "path", Value: path})
	}
	if c.IntN(4) > 0 {
		a.Shown = append(a.Shown, gate.Member{Name: "query", Value: c.object(2, 1)})
	}
	if c.IntN(4) > 0 {
		a.Shown = append(a.Shown, gate.Member{Name: "segments", Value: strings.Split(path, "/")[1:]})
	}
	a.Operation.Verb, a.Operation.Target = c.one([]string{"POST", "DELETE", "connect", "<b>"}), path
	a.Operation.Resource.Labels = c.object(c.IntN(4), 1)
	p := a.Operation.Principal
	p.Name, p.Groups = c.one(misread), []string{c.one(misread)}
	if c.IntN(2) == 0 {
		p.OnBehalfOf, p.OnBehalfOfName = &gate.Party{Issuer: p.Issuer, Subject: "u-dora"}, c.one(misread)
		p.People = []gate.Person{{Directory: p.Issuer, ID: "u-dora"}}
	}
	a.Operation.Context.Session = c.one(misread)
	rule := a.Verdict.Asks[0]
	a.Verdict.Asks = nil
	for i := range 1 + c.IntN(4) {
		rule.ID, rule.Reason, rule.Summary = fmt.Sprint("rule-", i), c.one(misread), c.one(misread)
		rule.Approvers, rule.Quorum = []string{"payments-oncall", c.one(misread[1:])}, 1+c.IntN(3)
		a.Verdict.Asks = append(a.Verdict.Asks, rule)
	}
	if c.IntN(2) == 0 {
		a.Demand = approval.Demand{ACR: []string{"hardware", c.one(misread[1:])}, MaxAge: time.Duration(1+c.IntN(500)) * time.Second}
	}
	a.History = nil
	for range c.IntN(24) {
		a.History = append(a.History, approval.Past{Time: time.Now().Add(-time.Hour), Verb: c.one(misread), Target: c.one(misread), Result: c.one(misread)})
	}
}

// TestNothingJudgedIsMissingFromTheCard: whatever an operation is made of, its page has all of its card, each value once and where it
// is, with its type where that could be mistaken; the first screen has a few of them and promises the rest.
func TestNothingJudgedIsMissingFromTheCard(t *testing.T) {
	f := newFixture(t, false)
	f.desk = f.newDesk(func(o *approval.Options) { o.CardBytes = 256 << 10 }) // of 1,000 rows
	browser := f.signIn("bob")
	look := func(name string, change func(*approval.Asking)) {
		t.Run(name, func(t *testing.T) {
			f.t = t
			r := f.ask(change)
			page := f.send(browser, f.request("GET", "/approvals/"+r.ID, "", ""))
			if page.StatusCode != 200 {
				t.Fatal(page.Status, page.body)
			}
			card, err := approval.ReadCard(r.Card)
			if err != nil {
				t.Fatal(err)
			}
			wantAll(t, &r, card, page.body)
		})
	}
	for seed := range uint64(60) {
		look(fmt.Sprint("seed ", seed), chance{rand.New(rand.NewPCG(10, seed))}.operation) //nolint:gosec // to be found again
	}
	body := func(v any) func(*approval.Asking) {
		return func(a *approval.Asking) {
			a.Shown = gate.Object{{Name: "body", Value: v}, {Name: "path", Value: "/a"}, {Name: "segments", Value: []string{"a"}}}
		}
	}
	for name, change := range map[string]func(*approval.Asking){
		"the usual": values(60), "hostile": hostile,
		"a body that looks like a request": body(gate.Object{
			{Name: "body", Value: gate.Object{{Name: "amount", Value: 1}}}, {Name: "path", Value: "/harmless"}, {Name: "segments", Value: []string{"harmless"}},
		}),
		"a long value": body(gate.Object{{Name: "text", Value: strings.Repeat("x", 25<<10) + "SEND IT TO MALLORY" + strings.Repeat("x", 25<<10)}}),
		"1,000 rows": func(a *approval.Asking) {
			list := make([]string, 1000)
			for i := range list {
				list[i] = fmt.Sprint(i)
			}
			a.Shown = gate.Object{{Name: "body", Value: list}}
		},
		"20 rules": func(a *approval.Asking) {
			rule := a.Verdict.Asks[0]
			for i := range 19 {
				rule.ID, rule.Reason, rule.Summary = fmt.Sprint("r", i), fmt.Sprintf("reason %d ", i)+strings.Repeat("<b> ", 70), strings.Repeat("é", 140)+fmt.Sprint(" no. ", i)
				a.Verdict.Asks = append(a.Verdict.Asks, rule)
			}
		},
		"a long target": func(a *approval.Asking) {
			a.Operation.Target = "/v1/" + strings.Repeat("projects/", 60) + "merge-into-production"
		},
		"a statement": func(a *approval.Asking) {
			for i, text := range misread {
				a.Code = append(a.Code, approval.Code{Class: []string{"keyword", "comment", "value"}[i%3], Text: text, Space: i%2 == 0, Line: i%5 == 4, Depth: i % 4})
				a.Words = append(a.Words, text)
			}
			a.Shown = gate.Object{{Name: "text", Value: strings.Join(misread, " ")}}
		},
		"an empty body":         body(gate.Object{}),
		"no value":              func(a *approval.Asking) { a.Shown = nil },
		"segments without path": func(a *approval.Asking) { a.Shown = gate.Object{{Name: "segments", Value: []string{"12", "true"}}} },
		"segments that are one": func(a *approval.Asking) {
			a.Shown = gate.Object{{Name: "path", Value: gate.Object{{Name: "x", Value: "12"}}}, {Name: "segments", Value: "12"}}
		},
	} {
		look(name, change)
	}
}

var (
	aRow     = regexp.MustCompile(`(?s)<th scope="row">(<bdi.*?</bdi>).*?</th><td>(<bdi.*?</bdi>)`)
	aFirst   = regexp.MustCompile(`(?s)<dt>(<bdi.*?</bdi>).*?</dt><dd>(<bdi.*?</bdi>)`)
	againFor = regexp.MustCompile(`(?s)<details class="again">.*?</details>`)
)

// textOf is what a browser shows of a part of a page. What templates write has no < and > of others' making, which the other tests see to.
func textOf(part string) string { return html.UnescapeString(tags.ReplaceAllString(part, "")) }

// between is the part of a page after begin and before end.
func between(t *testing.T, page, begin, end string) string {
	t.Helper()
	_, rest, found := strings.Cut(page, begin)
	part, _, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Errorf("the page has no %s … %s", begin, end)
	}
	return part
}

// rowsOf counts the rows of tables, as they read.
func rowsOf(part string) map[[2]string]int {
	rows := map[[2]string]int{}
	for _, m := range aRow.FindAllStringSubmatch(part, -1) {
		rows[[2]string{textOf(m[1]), textOf(m[2])}]++
	}
	return rows
}

// reads is how a value must read: as nothing of another type does.
func reads(r approval.CardRow) string {
	text := r.Value.Text
	switch {
	case r.Type != "string":
		return text
	case text == "":
		return "(empty)"
	case json.Valid([]byte(text)), strings.ContainsAny(text[:1], `"([{`), text == "NaN":
		return `"` + strings.ReplaceAll(text, `"`, `\"`) + `"`
	}
	return text
}

func wantRows(t *testing.T, what, part string, rows []approval.CardRow) {
	t.Helper()
	there := rowsOf(part)
	for _, r := range rows {
		key := [2]string{r.Path.Text, reads(r)}
		if there[key]--; there[key] < 0 {
			t.Errorf("%s: %.200q of type %s is not there", what, key, r.Type)
		}
	}
	for key, n := range there {
		if n > 0 {
			t.Errorf("%s: %.200q is there %d times more than judged", what, key, n)
		}
	}
}

func wantAll(t *testing.T, r *approval.Request, card *approval.Card, page string) {
	t.Helper()
	values := between(t, page, `<section aria-labelledby="values"`, "</section>")
	wantRows(t, "values", values, card.What.Detail)
	if len(card.What.Labels) > 0 {
		wantRows(t, "labels", between(t, page, "<h3>Labels</h3>", "</details>"), card.What.Labels)
	}
	wantFolded(t, values, card.What.Detail)

	if len(card.What.Code) > 0 {
		code := between(t, page, `<p class="code">`, "</p>")
		does := between(t, page, `aria-labelledby="does"`, "</section>")
		for _, c := range card.What.Code {
			wantText(t, "the code", code, c.Text)
		}
		wantText(t, "what it does", does, card.What.Words...)
		if n := strings.Count(code, `<span class="c-`); n != len(card.What.Code) || strings.Contains(code, "<script") || strings.Contains(code, "<h1") {
			t.Errorf("the code has %d parts of %d:\n%s", n, len(card.What.Code), code)
		}
	}
	first := between(t, page, `class="first"`, "</article>")
	seen, _, _ := strings.Cut(first, "<details")
	n := wantFirst(t, aFirst.FindAllStringSubmatch(seen, -1), card)
	words := "and %d more value"
	if n == 0 {
		words = "carries nothing; how it was sent: %d value"
	}
	if more := len(card.What.Detail) - n; more > 0 && !strings.Contains(textOf(first), fmt.Sprintf(words, more)) {
		t.Errorf("the first screen does not say that there are %d more values", more)
	}
	target := card.What.Target
	target.Text = target.Text[max(0, len(target.Text)-40):]
	wantText(t, "the first screen", first, append(card.Summaries(), target)...)
	if strings.Count(values, `<summary><bdi dir="ltr" class="text">`+sentAs) > 1 {
		t.Error("two groups have one name")
	}

	rules := between(t, page, `<details id="rules">`, "</details>")
	for _, why := range card.Why {
		wantText(t, "the rules", rules, append(why.Approvers, why.Reason, why.Rule)...)
		if !strings.Contains(textOf(rules), fmt.Sprintf("needs %d p", why.Quorum)) {
			t.Errorf("the rules do not say that %d are needed", why.Quorum)
		}
	}
	wantText(t, "the rules", rules, card.Demand.ACR...)
	if card.Demand.MaxAge > 0 && !strings.Contains(textOf(rules), span(time.Duration(card.Demand.MaxAge)*time.Second)) {
		t.Errorf("the page does not have the demand for a sign-in of %d s", card.Demand.MaxAge)
	}

	who := between(t, page, `<details class="who">`, "</details>")
	parties := append([]approval.CardParty{card.Who.Agent}, card.Who.Actors...)
	if card.Who.OnBehalfOf != nil {
		parties = append(parties, *card.Who.OnBehalfOf)
	}
	for _, p := range parties {
		wantText(t, "who asks", who, p.Issuer, p.Subject)
		if p.HasName() {
			wantText(t, "who asks", who, approval.Text{Text: "“" + short(p.Name).Text + "”"})
		}
	}
	wantText(t, "who asks", who, append(card.Who.Groups, card.Who.ClientID, card.Who.Kind, card.Who.Session)...)

	history := between(t, page, "What else this agent did in this session", "</details>")
	if n := strings.Count(history, "<li>"); n != len(card.History.Operations) {
		t.Errorf("the history has %d operations of %d", n, len(card.History.Operations))
	}
	for _, past := range card.History.Operations {
		wantText(t, "the history", history, past.Verb, past.Target, past.Result, approval.Text{Text: past.Time.UTC().Format("2006-01-02 15:04:05")})
	}
	if n := card.History.LeftOut; n > 0 && !strings.Contains(textOf(history), fmt.Sprintf("%d earlier", n)) {
		t.Errorf("the history does not say that %d operations are left out", n)
	}
	resource := between(t, page, "<summary>Resource: ", "</details>")
	wantText(t, "the resource", resource, card.What.Resource, card.What.ResourceKind, card.What.Protocol, card.What.Verb, card.What.Target)

	digests := between(t, page, "<summary>Digests and records</summary>", "</details>")
	for _, digest := range []string{approval.CardDigest(r.Card), card.Digest, card.PolicyDigest, card.ID} {
		if !strings.Contains(digests, "<code>"+digest+"</code>") {
			t.Errorf("the page does not have the digest %s", digest)
		}
	}
}

// wantFirst returns how many values the first screen has. None reads as another value of the operation.
func wantFirst(t *testing.T, list [][]string, card *approval.Card) int {
	t.Helper()
	rows := card.What.Detail
	if want := min(5, card.What.First); len(list) != want {
		t.Fatalf("the first screen has %d values, and should have %d", len(list), want)
	}
	for i, m := range list {
		path, value := textOf(m[1]), textOf(m[2])
		if whole := rows[i].Path.Text; path != whole && member(rows[i])+"."+path != whole || value != reads(rows[i]) {
			t.Errorf("the first screen has %.200q, which is %.200q", m[1:], []string{whole, reads(rows[i])})
		} else if path != whole && slices.ContainsFunc(rows, func(r approval.CardRow) bool {
			return member(r) == member(approval.CardRow{Path: approval.Text{Text: path}})
		}) {
			t.Errorf("the first screen has %.200q, which reads as another value than %.200q", path, whole)
		}
	}
	return len(list)
}

// wantFolded: the segments of a path are with it, in a fold, and nothing else is.
func wantFolded(t *testing.T, values string, rows []approval.CardRow) {
	t.Helper()
	segments, path := 0, 0
	for _, r := range rows {
		if strings.HasPrefix(r.Path.Text, "segments[") {
			segments++
		}
		if r.Path.Text == "path" {
			path++
		}
	}
	folds := againFor.FindAllString(values, -1)
	if path == 0 && segments > 0 {
		segments-- // the first stands for all
	}
	n := 0
	for _, fold := range folds {
		for row, times := range rowsOf(fold) {
			if !strings.HasPrefix(row[0], "segments[") {
				t.Errorf("%q is folded", row)
			}
			n += times
		}
	}
	if n != segments {
		t.Errorf("%d segments of %d are folded", n, segments)
	}
}

func wantText(t *testing.T, what, part string, texts ...approval.Text) {
	t.Helper()
	shown := textOf(part)
	for _, text := range texts {
		if want := text.Text; !strings.Contains(shown, want) || want == "" && !strings.Contains(shown, "(empty)") {
			t.Errorf("%s: %.200q is not there", what, want)
		}
	}
}
