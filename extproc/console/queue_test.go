package console

import (
	"context"
	"fmt"
	"html"
	"math/rand/v2"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/embedded"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/chromium"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
)

var (
	queueRow = regexp.MustCompile(`(?s)<a class="request" .*?</a>`)
	tags     = regexp.MustCompile(`<[^>]*>`)
	spaces   = regexp.MustCompile(`\s+`)
)

// rowsOf are what a person reads of each request of the queue, oldest first, without the times.
func (f *fixture) rowsOf(page string) (rows []string) {
	f.t.Helper()
	for _, row := range queueRow.FindAllString(page, -1) {
		row, _, _ = strings.Cut(row, `<span class="meta">`)
		rows = append(rows, strings.TrimSpace(spaces.ReplaceAllString(html.UnescapeString(tags.ReplaceAllString(row, "")), " ")))
	}
	return rows
}

// merge is a request to merge; the body is what makes it another one.
func merge(body gate.Object, more ...gate.Member) func(*approval.Asking) {
	return func(a *approval.Asking) {
		a.Operation.Verb, a.Operation.Target = "PUT", "/api/v4/projects/7/merge"
		a.Shown = append(gate.Object{{Name: "body", Value: body}}, more...)
	}
}

// TestTheQueueTellsRequestsApart: requests of one verb and target are rows that one can tell apart, whoever wrote their values.
func TestTheQueueTellsRequestsApart(t *testing.T) {
	one := func(name string, values ...any) (list []func(*approval.Asking)) {
		for _, v := range values {
			list = append(list, merge(gate.Object{{Name: "always", Value: "the same"}, {Name: name, Value: v}}))
		}
		return list
	}
	long := strings.Repeat("release ", 200)
	deep := func(n int) func(*approval.Asking) {
		items := make([]any, 300)
		for i := range items {
			items[i] = "sku"
		}
		items[290] = fmt.Sprint("sku", n)
		return merge(gate.Object{{Name: "items", Value: items}})
	}
	summary := func(text string, title string) func(*approval.Asking) {
		return func(a *approval.Asking) {
			merge(gate.Object{{Name: "title", Value: title}})(a)
			a.Verdict.Asks[0].Summary = text
		}
	}
	sent := func(n int) func(*approval.Asking) {
		return merge(gate.Object{{Name: "title", Value: "same"}}, gate.Member{Name: "headers", Value: gate.Object{{Name: "if-match", Value: []string{fmt.Sprint("rev-", n)}}}})
	}
	oneOf := func(n int) func(*approval.Asking) { // each differs from the others in a value of its own
		var body gate.Object
		for i := range 6 {
			body = append(body, gate.Member{Name: fmt.Sprint("field", i), Value: i == n})
		}
		return merge(body)
	}
	f := newFixture(t, false)
	browser := f.signIn("bob")
	for n, c := range []struct {
		name  string
		asks  []func(*approval.Asking)
		wants []string // one for each row
	}{
		{"a title", one("title", "Fix login", "Add cache", "Bump Go", "Rename", "Revert"), []string{"title Fix login", "title Add cache", "title Bump Go", "title Rename", "title Revert"}},
		{"a number and its text", one("n", 10, "10", true, "true", nil, "null", "", "(empty)"), []string{"n 10", `n "10"`, "n true", `n "true"`, "n null", `n "null"`, "n (empty)", `n "(empty)`}},
		{"the ends of long values", one("title", long+"one", long+"two", long+"one!"), []string{"release one", "release two", "release one!"}},
		{"the middles of long values", one("title", long+"A"+long, long+"B"+long, "release B"+long), []string{"A", "B", "release Brelease"}},
		{"a value that is not there", []func(*approval.Asking){merge(gate.Object{{Name: "title", Value: "x"}}), merge(gate.Object{{Name: "force", Value: true}, {Name: "title", Value: "x"}})}, []string{"force none", "force true"}},
		{"a value far down", []func(*approval.Asking){deep(1), deep(2)}, []string{"items[290] sku1", "items[290] sku2"}},
		{"one summary for all", []func(*approval.Asking){summary("Merge into main", "Fix login"), summary("Merge into main", "Add cache")}, []string{"Merge into main title Fix login", "Merge into main title Add cache"}},
		{"summaries", []func(*approval.Asking){summary("Merge 1 into main", "Fix login"), summary("Merge 2 into main", "Fix login")}, []string{"Merge 1 into main", "Merge 2 into main"}},
		{"long summaries", []func(*approval.Asking){summary(strings.Repeat("Merge ", 40)+"1", "Fix"), summary(strings.Repeat("Merge ", 40)+"2", "Fix")}, []string{"Merge 1", "Merge 2"}},
		{"how it was sent", []func(*approval.Asking){sent(1), sent(2)}, []string{"headers.if-match[0] rev-1", "headers.if-match[0] rev-2"}},
		{"a value each", []func(*approval.Asking){oneOf(0), oneOf(1), oneOf(2), oneOf(3), oneOf(4), oneOf(5)}, make([]string, 6)},
		{"invisible characters", one("title", "Fix\u200B login", "Fix login", "Fix\u202E login"), []string{`Fix\u{200B} login`, "Fix login", `Fix\u{202E} login`}},
		{"digests", one("sha", strings.Repeat("a", 39)+"1", strings.Repeat("a", 39)+"2", "1"+strings.Repeat("a", 39)), []string{"sha aa…aaaaaaa1", "sha aa…aaaaaaa2", "sha 1aaaaaaaaaa…"}},
		{"digests beside what tells them apart", []func(*approval.Asking){
			merge(gate.Object{{Name: "sha", Value: strings.Repeat("a", 39) + "1"}, {Name: "title", Value: "Fix"}}), merge(gate.Object{{Name: "sha", Value: strings.Repeat("a", 39) + "2"}, {Name: "title", Value: "Add"}}),
		}, []string{"title Fix sha aa…aaaaaaa1", "title Add sha aa…aaaaaaa2"}},
		{"nothing", []func(*approval.Asking){merge(gate.Object{{Name: "title", Value: "x"}}), merge(gate.Object{{Name: "title", Value: "x"}})}, []string{"request …", "request …"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := *f
			f.t = t
			for _, ask := range c.asks {
				f.ask(ask, func(a *approval.Asking) { a.Operation.Principal.Subject = fmt.Sprint("agent-", n) }) // one group for each case
			}
			page := f.send(browser, f.request("GET", "/queue", "", "")).body
			_, page, _ = strings.Cut(page, fmt.Sprintf("by agent-%d\"", n))
			page, _, _ = strings.Cut(page, "</section>")
			rows := f.rowsOf(page)
			if len(rows) != len(c.asks) {
				t.Fatalf("there are %d rows in %s", len(rows), page)
			}
			seen := map[string]bool{}
			for i, row := range rows {
				if seen[row] || !strings.Contains(row, c.wants[i]) || !strings.Contains(row, "refunds need a person") {
					t.Errorf("row %d is %q, want %q in it, and no other like it", i, row, c.wants[i])
				}
				seen[row] = true
				if values := strings.SplitAfter(page, `class="values-of"`); strings.Count(values[min(i+1, len(values)-1)], `class="value"`) > listValues+1 {
					t.Errorf("row %d has too many values", i)
				}
			}
		})
	}
}

// TestNoTwoRowsLookAlike: of values that somebody has chosen for that, at random.
func TestNoTwoRowsLookAlike(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	parts := []string{"a", strings.Repeat("a", 30), strings.Repeat("ab", 40), "\u200b", "…", "\\", "é", "\u0301", `\u{200B}`, " "}
	for round := range 200 {
		var items []*item
		for n := range 2 + random.IntN(12) {
			var body []briefRow
			for f := range 1 + random.IntN(8) {
				text := ""
				for range random.IntN(5) {
					text += parts[random.IntN(len(parts))]
				}
				body = append(body, briefRow{path: fmt.Sprint("f", f), value: approval.Visible(text)})
			}
			b := &brief{rows: body, carried: len(body), index: map[string]int{}}
			for n, r := range body {
				b.index[r.path] = n
			}
			r := approval.Request{ID: fmt.Sprintf("id-%08d", n), Target: strings.Repeat("/a", random.IntN(60))}
			items = append(items, &item{Request: r, brief: b})
		}
		tellApart(items)
		seen := map[string]string{}
		for _, i := range items {
			key := fmt.Sprint(i.Heads, i.ID)
			for _, v := range i.Values {
				key += fmt.Sprint("\n", v.Path.Text, v.Value.Text, v.None)
				if n := len([]rune(v.Value.Text)); n > valueWidth {
					t.Errorf("round %d: %q has %d characters", round, v.Value.Text, n)
				}
			}
			if other := seen[key]; other != "" || len(i.Values) > listValues {
				t.Fatalf("round %d: %s and %s are both shown as %s", round, other, i.Request.ID, key)
			}
			seen[key] = i.Request.ID
		}
	}
}

// TestACardIsReadOnce: what is known of cards is bounded, and a queue is read again without reading its cards.
func TestACardIsReadOnce(t *testing.T) {
	var b briefs
	b.init()
	r := approval.Request{CardDigest: "one", Card: []byte(`{}`)}
	first := b.of(&r)
	if b.of(&r) != first {
		t.Error("a card was read twice")
	}
	for n := range 100 {
		big := approval.Request{CardDigest: fmt.Sprint(n), Card: []byte(`{"salt":"` + strings.Repeat("x", 1<<20) + `"}`)}
		b.of(&big)
	}
	if b.size > maxBriefs || len(b.list) > maxBriefs>>20 || len(b.list) < 32 {
		t.Errorf("%d cards of %d bytes are kept", len(b.list), b.size)
	}
}

// TestTheQueueSaysWhoWaits: an agent that waits now, one that has left, and one that never waits.
func TestTheQueueSaysWhoWaits(t *testing.T) {
	f := newFixture(t, false, func(o *Options) {
		o.Resources = func() []Resource {
			return []Resource{{Name: "payments", Hold: 50 * time.Second}, {Name: "at-once"}}
		}
	})
	browser := f.signIn("bob")
	f.ask()
	f.ask(func(a *approval.Asking) { a.Operation.Resource.Name = "at-once" })
	f.store.Update(t.Context(), f.ask().ID, func(_ time.Time, r *approval.Request) error {
		r.Waiting = []approval.Wait{{Node: "gw-1", Count: 1, Until: time.Now().Add(time.Hour)}}
		return nil
	})
	for _, path := range []string{"/", "/holds"} {
		page := f.send(browser, f.request("GET", path, "", "")).body
		for _, want := range []string{`<span class="waits">waiting now,</span>`, `<span class="away">has left; will come again</span>`, `<span class="away">does not wait; will come again</span>`} {
			if strings.Count(page, want) != 1 {
				t.Errorf("%s does not have %s once", path, want)
			}
		}
	}
}

// asking is the nth of many questions that are alike, as a real API has them.
func asking(n int) approval.Asking {
	now := time.Now()
	body := gate.Object{{Name: "amount", Value: n}}
	for i := range 10 {
		body = append(body, gate.Member{Name: fmt.Sprint("field_", string(rune('a'+i))), Value: fmt.Sprint("value ", (n+i)%7)})
	}
	headers := gate.Object{}
	for i := range 10 {
		headers = append(headers, gate.Member{Name: fmt.Sprint("x-header-", string(rune('a'+i))), Value: []string{fmt.Sprint(n)}})
	}
	return approval.Asking{
		Operation: &gate.Operation{
			ID: gate.NewID(now), Verb: "POST", Target: fmt.Sprintf("/v1/payments/%d/refunds", n%7), Protocol: "http",
			Principal: &gate.Principal{Issuer: "https://issuer.example", Subject: "agent-1", Name: "Refund bot", ClientID: "agent-1", Kind: "agent"},
			Resource:  gate.Resource{Name: "payments", Kind: "http"},
			Context:   gate.Context{Session: "session-1"},
		},
		Digest: gate.NewID(now),
		Verdict: gate.Verdict{Effect: gate.Ask, PolicyDigest: "policy-1", RulesDigest: "rules-1", Asks: []gate.AskRule{{
			Rule: gate.Rule{Package: "payments", ID: "refund", Reason: "refunds need a person"}, Approvers: []string{"payments-oncall"}, Quorum: 1,
		}}},
		Shown: gate.Object{{Name: "body", Value: body}, {Name: "headers", Value: headers}, {Name: "host", Value: "payments.agents.internal"}, {Name: "method", Value: "POST"}},
		First: []string{"body", "query"},
	}
}

// askMany asks n questions, several at a time as agents do.
func askMany(tb testing.TB, desk *approval.Desk, n int) {
	tb.Helper()
	var all errgroup.Group
	all.SetLimit(32)
	for i := range n {
		all.Go(func() error {
			_, _, err := desk.Ask(tb.Context(), asking(i))
			return err
		})
	}
	if err := all.Wait(); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkAQueueOf500 is what the server does for a queue's page: the first time, and at every change after it.
func BenchmarkAQueueOf500(b *testing.B) {
	dir := extproctest.Dir(b)
	journal, err := evidence.Open(b.Context(), evidence.Options{Dir: filepath.Join(dir, "journal"), Node: "gw-1"})
	if err != nil {
		b.Fatal(err)
	}
	defer journal.Close()
	store, err := embedded.Open(filepath.Join(dir, "approvals.db"), embedded.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	desk, err := approval.NewDesk(approval.Options{Store: store, Recorder: journal, Node: "gw-1", People: "http://127.0.0.1:1"})
	if err != nil {
		b.Fatal(err)
	}
	askMany(b, desk, 500)
	people, err := identity.New(identity.Options{Issuers: []identity.Issuer{{Issuer: "http://127.0.0.1:1", Audience: []string{clientID}, Clients: []string{clientID}}}})
	if err != nil {
		b.Fatal(err)
	}
	defer people.Close()
	c, err := New(Options{URL: "http://127.0.0.1", Issuer: "http://127.0.0.1:1", ClientID: clientID, People: people, Desk: desk, Watch: store, Recorder: journal})
	if err != nil {
		b.Fatal(err)
	}
	who := &person{Approver: approval.Approver{Subject: "u-bob", Groups: []string{"payments-oncall"}}}
	page := func() {
		b.Helper()
		w := httptest.NewRecorder()
		c.showQueue(w, httptest.NewRequest("GET", "/", nil), "queue-page", view{Who: who})
		if n := strings.Count(w.Body.String(), "data-id="); n != 500 {
			b.Fatalf("there are %d requests", n)
		}
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			c.briefs = briefs{}
			c.briefs.init()
			page()
		}
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			page()
		}
	})
}

// TestBrowserAQueueOf500 opens within a second (more than once where the machine has other work), at first and later.
func TestBrowserAQueueOf500(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	askMany(t, f.desk, 500)
	attempts := 0
	b.await("it is told by itself", "document.querySelectorAll('a.request').length === 500")
	extproctest.Await(t, "the queue opens within a second", deadline, func(context.Context) error {
		b.do("open the queue", chromedp.Navigate(f.url+"/"), chromium.WaitVisible("a.request"))
		b.await("it is there", "performance.getEntriesByType('navigation')[0].loadEventEnd > 0 && document.querySelectorAll('a.request').length === 500")
		attempts++
		if took, _ := b.eval("performance.getEntriesByType('navigation')[0].loadEventEnd").(float64); took > 1000 {
			return fmt.Errorf("it took %.0f ms", took)
		}
		return nil
	})
	t.Logf("at the %d. time", attempts)
	b.shootScreen("queue-500")
}

// TestBrowserTheQueueTellsRequestsApart has five merges of one shape, and others, on a desk and on a phone.
func TestBrowserTheQueueTellsRequestsApart(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	gitlab := func(a *approval.Asking) {
		a.Operation.Resource.Name = "gitlab"
		a.Operation.Principal.Subject, a.Operation.Principal.Name = "8f3ae1d2-77c1-4b7e-9d5e-2f3f6f0a9b11", "Release bot"
		a.Operation.Principal.OnBehalfOf, a.Operation.Principal.OnBehalfOfName = &gate.Party{Issuer: f.issuer.URL, Subject: "u-dora"}, "Dora"
		a.Operation.Principal.People = []gate.Person{{Directory: f.issuer.URL, ID: "u-dora"}}
		a.Verdict.Asks[0].Reason = "merges into main need somebody who knows the code"
	}
	for i, title := range []string{"Fix the login of guests", "Cache avatars", "Bump Go to 1.26", "Remove the old importer and everything that only it has used until now", "Revert “Cache avatars”"} {
		f.ask(merge(gate.Object{{Name: "sha", Value: fmt.Sprintf("%040x", 7919*(i+1))}, {Name: "should_remove_source_branch", Value: true}, {Name: "title", Value: title}}), gitlab)
	}
	long := strings.Repeat("and more of the same ", 20)
	for _, end := range []string{"to acme", "to \u0430cme", "to acm\u200be"} {
		f.ask(func(a *approval.Asking) { a.Shown[0].Value = gate.Object{{Name: "note", Value: long + end}} })
	}
	var waited approval.Request
	for _, branch := range []string{"release", "main"} {
		waited = f.ask(func(a *approval.Asking) {
			a.Operation.Verb, a.Operation.Target = "POST", "/api/v4/projects/7/repository/branches"
			a.Verdict.Asks[0].Summary = "Unprotect the branch " + branch + " of shop/web"
		}, gitlab)
	}
	f.ask(hostile)
	ctx, leave := context.WithTimeout(t.Context(), 50*time.Second)
	defer leave()
	go func() { _ = f.desk.Await(ctx, waited.ID) }()
	b.await("all are there, and one waits", "document.querySelectorAll('a.request').length === 11 && document.querySelectorAll('.waits').length === 1")
	b.await("it counts down", "/^4\\d s left$/.test(document.querySelector('.waits + time').textContent)")
	b.shootAll("queue")
	b.await("no row looks like another", `(() => {
		const seen = [...document.querySelectorAll("a.request")].map((row) => row.querySelector(".what").innerText + (row.querySelector(".values-of")?.innerText ?? ""));
		return new Set(seen).size === 11;
	})()`)
	b.await("nothing of a value is out of sight", "[...document.querySelectorAll('.what, .values-of, .value')].every((el) => el.scrollWidth <= el.clientWidth || el.clientWidth === 0)")
	leave()
	b.await("it has left", "document.querySelectorAll('.waits').length === 0")
	b.do("holds", chromedp.Navigate(f.url+"/holds"), chromium.WaitVisible("table"))
	b.shootAll("holds")
}

// TestBrowserKeepsWhatWasTyped: a session that ends while somebody answers loses none of it, sends nothing, and shows it to nobody else.
func TestBrowserKeepsWhatWasTyped(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	r := f.ask()
	for _, c := range []struct {
		name string
		send bool
	}{{"bob", false}, {"bob", true}, {"alice", false}} {
		b.signIn(f, c.name)
		b.do("open the card", chromedp.Navigate(f.url+"/approvals/"+r.ID), chromium.WaitVisible("#reason"))
		b.await("nobody has typed anything", "document.getElementById('reason').value === ''")
		b.do("type", chromium.SendKeys("#reason", "not this "+c.name))
		f.console.sessions.mu.Lock()
		clear(f.console.sessions.list)
		f.console.sessions.mu.Unlock()
		if c.send {
			b.do("send it", chromium.Click("#reject"), chromium.WaitVisible("p[role=alert]"))
		}
		b.do("the session has ended", chromedp.Navigate(f.url+"/me"))
		b.signIn(f, c.name)
		b.do("open the card", chromedp.Navigate(f.url+"/approvals/"+r.ID), chromium.WaitVisible("#reason"))
		b.await("it is there, and was not sent", "document.getElementById('reason').value === 'not this "+c.name+"' && document.getElementById('wants').textContent === '"+typedLine+"'")
		b.do("sign out", chromium.Click("header.site form button"), chromium.WaitVisible(`a[href="/login"]`))
	}
	if got := f.state(r.ID); got.State != approval.Pending || len(got.Decisions) > 0 {
		t.Errorf("the request is %s", got.State)
	}
}
