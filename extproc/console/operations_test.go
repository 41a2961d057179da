package console

import (
	"context"
	"encoding/csv"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/extproctest/chromium"
	"github.com/countersign/countersign/extproc/gate"
)

func auditedBy(names ...string) func(*Options) { return func(o *Options) { o.Auditors = names } }

// decide records a decision, and how it ended where result is not empty. It returns the operation's id and the decision's number.
func (f *fixture) decide(result gate.Result, change ...func(*gate.Decision)) (op string, seq uint64) {
	f.t.Helper()
	op = gate.NewID(time.Now())
	d := &gate.Decision{
		Effect: gate.Allow, Rules: []string{"payments/read"}, Resource: "payments", Protocol: "http", Verb: "GET", Target: "/v1/payments/7",
		Principal: &gate.Principal{Issuer: f.issuer.URL, Subject: "agent-1", Name: "Refund bot", ClientID: "agent-1"},
	}
	for _, c := range change {
		c(d)
	}
	receipt, err := f.journal.Append(f.t.Context(), &gate.Record{Type: gate.OperationDecided, Op: op, Body: d})
	if err != nil {
		f.t.Fatal(err)
	}
	if result != "" {
		end := &gate.Outcome{Result: result, Status: 200, Duration: 40 * time.Millisecond, Decided: receipt.Seq}
		if _, err := f.journal.Append(f.t.Context(), &gate.Record{Type: gate.OperationFinished, Op: op, Body: end}); err != nil {
			f.t.Fatal(err)
		}
	}
	return op, receipt.Seq
}

// operate has n operations decided, each second of which is denied.
func (f *fixture) operate(n int) {
	f.t.Helper()
	for i := range n {
		result := []gate.Result{gate.Completed, gate.Refused}[i%2]
		f.decide(result, func(d *gate.Decision) {
			if d.Target = fmt.Sprintf("/v1/payments/%d", i); i%2 == 1 {
				d.Effect, d.Rules, d.Reasons, d.Problem = gate.Deny, []string{"payments/large"}, []string{"too large for an agent"}, gate.Denied
			}
		})
	}
}

// listed are the targets that the API lists.
func (f *fixture) listed(query string) (targets []string, answer map[string]any) {
	f.t.Helper()
	got := f.call("GET", "/api/operations?"+query, f.token("u-alice"), "")
	if got.StatusCode != 200 {
		f.t.Fatalf("%s: %s %s", query, got.Status, got.body)
	}
	answer = got.json(f.t)
	for _, o := range answer["operations"].([]any) {
		targets = append(targets, o.(map[string]any)["target"].(string))
	}
	return targets, answer
}

// TestOnlyAuditorsSeeEveryOperation: on the page, in the list, the download and the API; whoever else asks is told which key names
// those who may, on the record, and sees the operations of requests alone.
func TestOnlyAuditorsSeeEveryOperation(t *testing.T) {
	f := newFixture(t, false, auditedBy("security", "subject:u-dora"))
	op, _ := f.decide(gate.Completed)
	r := f.ask()
	alice, bob := f.signIn("alice"), f.signIn("bob")
	paths := []string{"/operations", "/operations.csv", "/operations/live?after=1", "/operations/" + op, "/operations/" + op + "/proofs/1"}
	if err := f.journal.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		before := len(f.records(gate.IdentityRefused))
		got := f.send(bob, f.request("GET", path, "", ""))
		if got.StatusCode != http.StatusForbidden || !strings.Contains(got.body, "people.auditors") || strings.Contains(got.body, "/v1/payments/7") {
			t.Errorf("bob, %s: %s %s", path, got.Status, got.body)
		}
		f.wantRefused(before, ReasonNotAuditor)
		if list := f.records(gate.IdentityRefused); list[before]["claimed_subject"] != "u-bob" {
			t.Errorf("on record is %v", list[before])
		}
		if got := f.send(alice, f.request("GET", strings.Replace(path, "proofs/1", "proofs/"+itoa(1+1), 1), "", "")); got.StatusCode != http.StatusOK && !strings.Contains(path, "proofs") {
			t.Errorf("alice, %s: %s %s", path, got.Status, got.body)
		}
	}
	before := len(f.records(gate.IdentityRefused))
	if got := f.call("GET", "/api/operations", f.token("u-bob"), ""); got.StatusCode != http.StatusForbidden || got.json(t)["reason"] != ReasonNotAuditor {
		t.Errorf("the API: %s %s", got.Status, got.body)
	}
	f.wantRefused(before, ReasonNotAuditor)
	if got := f.call("GET", "/api/operations", f.token("u-dora"), ""); got.StatusCode != http.StatusOK {
		t.Errorf("dora, by her subject: %s", got.body)
	}
	if got := f.call("GET", "/api/operations", f.token("u-eve", map[string]any{"groups": []string{"subject:u-dora", "u-dora"}}), ""); got.StatusCode != http.StatusForbidden {
		t.Errorf("a group that is called as a person is: %s", got.body)
	}
	// What a request leads to, its approvers see as before.
	if got := f.send(bob, f.request("GET", "/operations/"+r.Op, "", "")); got.StatusCode != http.StatusOK {
		t.Errorf("bob, the operation that asked: %s", got.Status)
	}
	const link = `href="/operations"`
	if got := f.send(bob, f.request("GET", "/", "", "")); strings.Contains(got.body, link) {
		t.Error("bob's navigation leads to the operations")
	}
	if got := f.send(alice, f.request("GET", "/", "", "")); !strings.Contains(got.body, link) {
		t.Error("alice's navigation does not lead to the operations")
	}
	for _, path := range []string{"/operations", "/operations.csv"} {
		if got := f.send(f.client, f.request("GET", path, "", "")); got.StatusCode != http.StatusSeeOther {
			t.Errorf("a stranger, %s: %s", path, got.Status)
		}
	}
	nobody := newFixture(t, false)
	if got := nobody.send(nobody.signIn("alice"), nobody.request("GET", "/operations", "", "")); got.StatusCode != http.StatusForbidden {
		t.Errorf("without people.auditors: %s", got.Status)
	}
}

func TestOperationsAreFiltered(t *testing.T) {
	f := newFixture(t, false, auditedBy("security"))
	f.decide(gate.Completed, func(d *gate.Decision) { d.Target = "/one" })
	f.decide("", func(d *gate.Decision) {
		d.Target, d.Effect, d.Resource, d.Rules = "/two", gate.Ask, "ledger", []string{"ledger/post", "audit/any"}
		d.Principal = &gate.Principal{Issuer: f.issuer.URL, Subject: "8f3a", Name: "Ledger keeper"}
	})
	f.decide("", func(d *gate.Decision) { d.Target, d.Effect, d.Principal = "/Three/TWO", gate.Deny, nil })
	today, tomorrow := time.Now().UTC().Format(time.DateOnly), time.Now().UTC().Add(24*time.Hour).Format(time.DateOnly)
	yesterday := time.Now().UTC().Add(-24 * time.Hour).Format(time.DateOnly)
	all := "/Three/TWO /two /one"
	for query, want := range map[string]string{
		"": all, "effect=ask": "/two", "effect=allow": "/one", "effect=deny": "/Three/TWO", "resource=ledger": "/two", "resource=ledge": "",
		"agent=8f3a": "/two", "agent=keeper": "/two", "agent=REFUND+bot": "/one", "agent=8f3": "", "rule=post": "/two", "rule=audit/any": "/two", "rule=dger/post": "",
		"text=two": "/Three/TWO /two", "text=%22": "", "from=" + today: all, "to=" + today: all, "from=" + tomorrow: "", "to=" + yesterday: "", "effect=ask&text=one": "",
		"from=" + url.QueryEscape(time.Now().Add(-time.Minute).Format(time.RFC3339)): all,
	} {
		if got, _ := f.listed(query); strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
	alice, token := f.signIn("alice"), f.token("u-alice")
	for _, query := range []string{"affect=deny", "effect=maybe", "from=yesterday", "to=2026-13-01", "from=2026-03-02&to=2026-03-01", "before=0", "before=x", "before=2&after=1", "size=0", "size=501", "agent=a&agent=b", "%zz"} {
		if got := f.call("GET", "/api/operations?"+query, token, ""); got.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", query, got.Status)
		}
		if got := f.send(alice, f.request("GET", "/operations.csv?"+query, "", "")); got.StatusCode != http.StatusBadRequest && query != "%zz" {
			t.Errorf("as a download, %s: %s", query, got.Status)
		}
	}
	if got := f.send(alice, f.request("GET", "/operations?effect=maybe", "", "")); got.StatusCode != http.StatusBadRequest || !strings.Contains(got.body, "there is no effect") {
		t.Errorf("%s %s", got.Status, got.body)
	}
	if got := f.send(alice, f.request("GET", "/operations?effect=&agent=&from=", "", "")); got.StatusCode != http.StatusOK {
		t.Errorf("a form's empty fields: %s", got.Status)
	}
}

// TestOperationsInPages: every decision once, with what came of it, older and newer.
func TestOperationsInPages(t *testing.T) {
	f := newFixture(t, false, auditedBy("security"))
	f.operate(25)
	var seen []string
	query := ""
	for {
		targets, answer := f.listed("size=10" + query)
		seen = append(seen, targets...)
		for _, o := range answer["operations"].([]any) {
			if end, _ := o.(map[string]any)["outcome"].(map[string]any); end["result"] != "completed" && end["result"] != "refused" {
				t.Errorf("%v", o)
			}
		}
		if answer["next"] == "" {
			break
		}
		query = "&before=" + answer["next"].(string)
	}
	if len(seen) != 25 || seen[0] != "/v1/payments/24" || seen[24] != "/v1/payments/0" {
		t.Errorf("%v", seen)
	}
	_, second := f.listed("size=10&before=" + f.next("size=10"))
	_, third := f.listed("size=10&before=" + second["next"].(string))
	newest := uint64(third["operations"].([]any)[0].(map[string]any)["record"].(float64))
	if back, _ := f.listed("size=10&after=" + itoa(newest+1)); back[0] != "/v1/payments/14" || len(back) != 10 {
		t.Errorf("newer than the third page is %v", back)
	}
	if first, _ := f.listed("size=10&after=" + itoa(f.journal.Durable()-3)); first[0] != "/v1/payments/24" {
		t.Errorf("newer than there are is the first page, not %v", first)
	}
	f.decide(gate.Refused, func(d *gate.Decision) { d.Effect = gate.Deny })
	_, answer := f.listed("size=1")
	if end, _ := answer["operations"].([]any)[0].(map[string]any)["outcome"].(map[string]any); end["result"] != "refused" {
		t.Errorf("the newest, which was refused, is %v", answer)
	}
}

func (f *fixture) next(query string) string {
	_, answer := f.listed(query)
	return answer["next"].(string)
}

// TestALookThatFindsNothingSaysHowFarItCame, and does not hang.
func TestALookThatFindsNothingSaysHowFarItCame(t *testing.T) {
	f := newFixture(t, false, auditedBy("security"))
	f.decide(gate.Completed, func(d *gate.Decision) { d.Target = "/needle" })
	for range maxLooked + 1000 {
		if err := f.journal.Post(t.Context(), &gate.Record{Type: gate.Heartbeat, Body: gate.Object{}}); err != nil {
			t.Fatal(err)
		}
	}
	f.operate(3)
	targets, answer := f.listed("text=needle")
	if len(targets) != 0 || answer["next"] == "" || answer["looked"].(float64) > maxLooked {
		t.Fatalf("%v", answer)
	}
	page := f.send(f.signIn("alice"), f.request("GET", "/operations?text=needle", "", "")).body
	for _, want := range []string{"Nothing so far", "records of this gateway&#39;s journal looked at, back to ", "Look further back"} {
		if !strings.Contains(strings.ReplaceAll(page, "'", "&#39;"), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for len(targets) == 0 && answer["next"] != "" { // a slow machine looks less far each time
		targets, answer = f.listed("text=needle&before=" + answer["next"].(string))
	}
	if len(targets) != 1 || answer["next"] != "" {
		t.Errorf("further back is %v", answer)
	}
}

func TestADownloadIsNoFormula(t *testing.T) {
	f := newFixture(t, false, auditedBy("security"))
	hostile := []string{`=HYPERLINK("https://evil.example","x")`, "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r\n=1", "a,b\"c\nd", "＝1", "\u202e=1"}
	for _, s := range hostile {
		f.decide(gate.Completed, func(d *gate.Decision) {
			d.Target, d.Rules, d.Reasons = s, []string{s}, []string{s}
			d.Principal = &gate.Principal{Issuer: s, Subject: s, Name: s}
		})
	}
	got := f.send(f.signIn("alice"), f.request("GET", "/operations.csv", "", ""))
	if got.StatusCode != 200 || !strings.HasPrefix(got.Header.Get("Content-Type"), "text/csv") || !strings.HasPrefix(got.Header.Get("Content-Disposition"), "attachment") || strings.Count(got.body, "\n") != strings.Count(got.body, "\r\n") {
		t.Fatalf("%s %v %q", got.Status, got.Header, got.body)
	}
	rows, err := csv.NewReader(strings.NewReader(got.body)).ReadAll()
	if err != nil || len(rows) != len(hostile)+1 || strings.Join(rows[0], ",") != strings.Join(csvHeader, ",") {
		t.Fatal(err, len(rows), rows)
	}
	for _, row := range rows[1:] {
		for i, text := range row {
			if text != "" && strings.ContainsAny(string([]rune(text)[0]), "=+-@\t\r\n ＝＋－＠") || strings.ContainsAny(text, "\r\n\t\u202e") {
				t.Errorf("%s is %q", csvHeader[i], text)
			}
		}
		if _, err := time.Parse(time.RFC3339Nano, row[0]); err != nil {
			t.Error(err)
		}
	}
}

// TestADownloadHasEverything that the filter selects, over more pages than one, and nothing else.
func TestADownloadHasEverything(t *testing.T) {
	f := newFixture(t, false, auditedBy("security"))
	f.operate(1203)
	got := f.send(f.signIn("alice"), f.request("GET", "/operations.csv?effect=deny&from="+time.Now().UTC().Add(-time.Hour).Format(time.DateOnly), "", ""))
	rows, err := csv.NewReader(strings.NewReader(got.body)).ReadAll()
	if err != nil || len(rows) != 602 || rows[1][13] != "/v1/payments/1201" || rows[601][13] != "/v1/payments/1" {
		t.Fatal(err, len(rows))
	}
}

// TestAnOperationInWords says who, what, what was decided, by whom it was approved and how it ended, before its records.
func TestAnOperationInWords(t *testing.T) {
	f := newFixture(t, false, auditedBy("security"))
	alice := f.signIn("alice")
	r := f.ask(func(a *approval.Asking) { a.Operation.Principal.Name = "Refund bot" })
	by := approval.Approver{Issuer: f.issuer.URL, Subject: "u-bob", Name: "Bob", Groups: groupsOf["u-bob"]}
	if _, err := f.desk.Decide(t.Context(), by, r.ID, approval.Answer{Approve: true, Reason: "fine by me", Card: r.CardDigest}); err != nil {
		t.Fatal(err)
	}
	record := func(kind string, body gate.Body) uint64 {
		receipt, err := f.journal.Append(t.Context(), &gate.Record{Type: kind, Op: r.Op, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		return receipt.Seq
	}
	d := gate.Decision{
		Effect: gate.Ask, Rules: []string{"payments/refund"}, Reasons: []string{"refunds need <b>a person</b>"}, Resource: "payments", Verb: "POST", Target: "/v1/payments/7/refunds", Approval: r.ID,
		Principal: &gate.Principal{Issuer: f.issuer.URL, Subject: "agent-1", Name: "Refund bot", OnBehalfOf: &gate.Party{Issuer: f.issuer.URL, Subject: "u-dora"}, OnBehalfOfName: "Dora"},
	}
	record(gate.OperationDecided, &d)
	record(approval.RecordSpent, gate.Object{{Name: "approval", Value: r.ID}, {Name: "approvals", Value: []any{gate.Object{{Name: "issuer", Value: f.issuer.URL}, {Name: "name", Value: "Bob"}, {Name: "subject", Value: "u-bob"}}}}})
	d.Effect, d.Held = gate.Allow, 3*time.Second
	seq := record(gate.OperationDecided, &d)
	record(gate.OperationFinished, &gate.Outcome{Result: gate.Completed, Status: 201, Duration: 40 * time.Millisecond, Decided: seq})
	page := f.send(alice, f.request("GET", "/operations/"+r.Op, "", "")).body
	words, records, ok := strings.Cut(page, "Records and proof")
	if !ok || !strings.Contains(records, "operation.finished") {
		t.Fatal(page)
	}
	for _, want := range []string{"“", "Refund bot", "Dora", "allowed", "asks a person", "payments/refund", "fine by me", "Bob", "done: 201", "in 40 ms", "refunds need &lt;b&gt;a person"} {
		if !strings.Contains(words, want) {
			t.Errorf("it does not say %q before the records:\n%s", want, words)
		}
	}
	list := f.send(alice, f.request("GET", "/operations", "", "")).body
	if !strings.Contains(list, "approved by") || !strings.Contains(list, "done: 201") {
		t.Errorf("the list does not say what came of it:\n%s", list)
	}
}

// TestHistoryIsFiltered by the same as the operations are.
func TestHistoryIsFiltered(t *testing.T) {
	f := newFixture(t, false)
	bob := f.signIn("bob")
	f.ask(func(a *approval.Asking) { a.Operation.Target, a.Operation.Principal.Name = "/one", "Refund bot" })
	f.ask(func(a *approval.Asking) {
		a.Operation.Target, a.Operation.Principal.Subject, a.Verdict.Asks[0].ID = "/two", "8f3a", "large"
	})
	today, tomorrow := time.Now().UTC().Format(time.DateOnly), time.Now().UTC().Add(24*time.Hour).Format(time.DateOnly)
	yesterday := time.Now().UTC().Add(-24 * time.Hour).Format(time.DateOnly)
	for query, want := range map[string]int{
		"": 3, "from=" + today: 3, "to=" + today: 3, "from=" + tomorrow: 0, "to=" + yesterday: 0, "agent=refund": 1, "agent=8f3a": 2, "rule=large": 2, "rule=payments/refund": 1, "text=TWO": 2, "text=%25": 0,
		"agent=refund&rule=large": 0,
	} {
		page := f.send(bob, f.request("GET", "/history?"+query, "", ""))
		got := 0
		for i, target := range []string{"/one", "/two"} {
			if strings.Contains(page.body, ">POST</bdi> <bdi dir=\"ltr\" class=\"text\">"+target) {
				got |= 1 << i
			}
		}
		if page.StatusCode != 200 || got != want {
			t.Errorf("%s: %s, %b", query, page.Status, got)
		}
	}
	for _, query := range []string{"form=2026-03-01", "from=x", "agent_issuer=x", "from=2026-03-02&to=2026-03-01"} {
		if got := f.send(bob, f.request("GET", "/history?"+query, "", "")); got.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", query, got.Status)
		}
	}
}

// TestBrowserOperations at a desk and on a phone, light and dark: filters, a page told of new decisions without its rows being moved.
func TestBrowserOperations(t *testing.T) {
	f := newFixture(t, true, auditedBy("payments-oncall"))
	b := newBrowser(t)
	b.signIn(f, "bob")
	b.do("an empty journal", chromedp.Navigate(f.url+"/operations"), chromium.WaitVisible("p.nothing"))
	b.shoot("operations-empty")
	f.operate(60)
	f.decide("", func(d *gate.Decision) {
		d.Target, d.Verb, d.Effect = "/v1/"+strings.Repeat("projects/", 30), `"><img src=x onerror=alert(1)>`, gate.Ask
		d.Principal.Name, d.Principal.OnBehalfOf, d.Principal.OnBehalfOfName = "Approved\u202e", &gate.Party{Issuer: f.issuer.URL, Subject: "u-dora"}, "Dora <b>"
	})
	f.decide("")
	op, _ := f.decide(gate.TargetFailed)
	look := func(name, path string) {
		b.do(path, chromedp.Navigate(f.url+path), chromium.WaitVisible("h1"))
		b.await(path+" is no wider than the window", "document.documentElement.scrollWidth <= innerWidth")
		b.await("nothing is of the operations' making", "document.querySelectorAll('main img, main b').length === 0")
		b.shoot(name)
	}
	for _, colours := range []string{"light", "dark"} {
		b.colours(colours)
		for name, size := range map[string][2]int64{"desk": {1200, 900}, "phone": {390, 844}} {
			b.do(name, chromedp.EmulateViewport(size[0], size[1]))
			look(name+"-"+colours+"-operations", "/operations?size=8")
			look(name+"-"+colours+"-filtered", "/operations?effect=deny&agent=refund&size=5")
			look(name+"-"+colours+"-refused", "/operations?effect=maybe&agent=refund")
			look(name+"-"+colours+"-operation", "/operations/"+op)
			look(name+"-"+colours+"-history", "/history?text=nothing")
		}
	}
	b.colours("light")
	b.do("a desk", chromedp.EmulateViewport(1200, 900), chromedp.Navigate(f.url+"/operations?effect=deny"), chromium.WaitVisible("table"))
	b.eval("window.first = document.querySelector('tbody tr')")
	f.operate(8)
	b.await("it tells of four", "document.querySelector('#news a:not([hidden])')?.textContent === '4 new decisions: show'")
	f.operate(2)
	b.await("and of one more", "document.querySelector('#news a:not([hidden])')?.textContent === '5 new decisions: show'")
	b.await("the rows have not moved", "document.querySelector('tbody tr') === window.first")
	b.shoot("operations-news")
	b.do("show them", chromium.Click("#news a"), chromium.WaitVisible("table"))
	b.await("they are there, filtered as before", "document.querySelectorAll('tbody tr').length === 35 && location.search === '?effect=deny'")
	b.do("older", chromedp.Navigate(f.url+"/operations?size=20"), chromium.WaitVisible("a[rel=next]"), chromium.Click("a[rel=next]"), chromium.WaitVisible("a[rel=prev]"))
	b.await("the second page", "document.querySelectorAll('tbody tr').length === 20")
	b.shoot("operations-second")
	b.do("newer", chromium.Click("a[rel=prev]"), chromium.WaitVisible("#news[data-live]"))
	b.do("filter with the form", chromium.Click("details.filter summary"), chromium.WaitVisible("#f-agent"), chromium.SendKeys("#f-text", "projects/"), chromium.Click(".filters button"), chromium.WaitVisible("details.filter .count"))
	b.await("one is found", "document.querySelectorAll('tbody tr').length === 1")
}

// BenchmarkOperations is the first page of a journal of a million records, and a filter that matches none of them.
func BenchmarkOperations(b *testing.B) {
	dir := b.TempDir()
	j, err := evidence.Open(context.Background(), evidence.Options{Dir: dir + "/journal", Node: "gw-1"})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	for i := range 500_000 {
		op := gate.NewID(time.Now())
		for _, r := range []*gate.Record{
			{Type: gate.OperationDecided, Op: op, Body: &gate.Decision{Effect: gate.Allow, Resource: "payments", Verb: "GET", Target: "/v1/payments/7", Rules: []string{"payments/read"}, Principal: &gate.Principal{Subject: "agent-1", Name: "Refund bot"}}},
			{Type: gate.OperationFinished, Op: op, Body: &gate.Outcome{Result: gate.Completed, Status: 200, Decided: uint64(2*i + 1)}},
		} {
			if err := j.Post(context.Background(), r); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := j.Checkpoint(); err != nil {
		b.Fatal(err)
	}
	c := &Console{opt: Options{Journal: journalOf{j}}, looking: make(chan struct{}, 2)}
	for name, f := range map[string]operationFilter{"first": {Size: 50}, "nothing": {Size: 50, Text: "nothing"}, "of a day long past": {Size: 50, To: time.Now().Add(-24 * time.Hour)}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				p, err := c.operations(context.Background(), f)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(p.Looked), "records")
			}
		})
	}
}
