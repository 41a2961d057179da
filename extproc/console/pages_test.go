package console

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

// hostile is an operation that tries to look like another one.
func hostile(a *approval.Asking) {
	a.Operation.Target = "/v1/payments/7/refunds?note=<script>alert(1)</script>"
	a.Operation.Principal.Subject = "agent-\u202E1-tnega"
	a.Shown = gate.Object{
		{Name: "body", Value: gate.Object{
			{Name: "amount", Value: 10},
			{Name: "note", Value: "<img src=x onerror=alert(1)> \"'></td><h1>Approved</h1>"},
			{Name: "payee", Value: "\u0430cme ltd"},
			{Name: "reason", Value: "refund \u202Efdp.exe\u200B"},
			{Name: "text", Value: strings.Repeat("long value ", 400)},
		}},
	}
}

func TestHostileContentIsShownAndNotInterpreted(t *testing.T) {
	f := newFixture(t, false)
	browser := f.signIn("bob")
	r := f.ask(hostile)
	for _, path := range []string{"/", "/queue", "/approvals/" + r.ID, "/history", "/holds", "/approvers"} {
		page := f.send(browser, f.request("GET", path, "", ""))
		if page.StatusCode != 200 {
			t.Fatalf("%s: %s", path, page.Status)
		}
		for _, bad := range []string{"<script>alert", "<img", "<h1>Approved", "\u202E", "\u200B"} {
			if strings.Contains(page.body, bad) {
				t.Errorf("%s has %q", path, bad)
			}
		}
	}
	card := f.send(browser, f.request("GET", "/approvals/"+r.ID, "", "")).body
	for _, want := range []string{`<mark>\u{202E}</mark>`, `<mark>\u{200B}</mark>`, "&lt;img src=x onerror=alert(1)&gt;", "mixed scripts in one word", strings.TrimSuffix(strings.Repeat("long value ", 400), " "), "class=\"text long\""} {
		if !strings.Contains(card, want) {
			t.Errorf("the card does not have %s", want)
		}
	}
}

func TestSimilarRequestsAreGrouped(t *testing.T) {
	f := newFixture(t, false)
	browser := f.signIn("bob")
	for range 3 {
		f.ask()
	}
	f.ask(func(a *approval.Asking) { a.Operation.Verb = "DELETE" })
	page := f.send(browser, f.request("GET", "/", "", "")).body
	if n := strings.Count(page, `<section class="group"`); n != 2 || !strings.Contains(page, "3 similar") || !strings.Contains(page, "4 requests wait") {
		t.Errorf("there are %d groups in %s", n, page)
	}
}

func TestTheCardSaysWhoMayNotAnswer(t *testing.T) {
	f := newFixture(t, false)
	carol := f.signIn("carol")
	r := f.ask()
	page := f.send(carol, f.request("GET", "/approvals/"+r.ID, "", "")).body
	if !strings.Contains(page, "No rule of this request names you") || strings.Contains(page, `id="approve"`) {
		t.Error("carol is shown the form")
	}
	// And what she sends all the same is the desk's to refuse.
	v := fields(t, f.send(carol, f.request("GET", "/me", "", "")))
	v.Set("card", r.CardDigest)
	v.Set("decision", "approve")
	if got := f.form(carol, "/approvals/"+r.ID+"/decision", v); got.StatusCode != http.StatusForbidden {
		t.Errorf("%s", got.Status)
	}
	if list := f.records(approval.RecordDecided); len(list) != 1 || list[0]["problem"] != "not-approver" {
		t.Errorf("on record is %v", list)
	}
}

func TestASignInThatIsTooWeakLeadsToAStrongerOne(t *testing.T) {
	f := newFixture(t, false)
	bob := f.signIn("bob")
	r := f.ask(func(a *approval.Asking) { a.Demand = approval.Demand{ACR: []string{"hardware"}} })
	page := f.send(bob, f.request("GET", "/approvals/"+r.ID, "", "")).body
	link := "/login?" + url.Values{"acr": {"hardware"}, "fresh": {"1"}, "return": {"/approvals/" + r.ID}}.Encode()
	if !strings.Contains(page, strings.ReplaceAll(link, "&", "&amp;")) {
		t.Fatalf("the page has no link to %s", link)
	}
	to, err := url.Parse(f.send(bob, f.request("GET", link, "", "")).Header.Get("Location"))
	if err != nil || to.Query().Get("acr_values") != "hardware" {
		t.Errorf("the issuer is asked with %v, %v", to, err)
	}
}

func TestAnOperationsRecordsAndTheirProof(t *testing.T) {
	f := newFixture(t, false)
	browser := f.signIn("bob")
	r := f.ask()
	if err := f.journal.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	list, err := journalOf{f.journal}.Records(t.Context(), r.Op, 10)
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	seq := strings.TrimSpace(itoa(list[0].Seq))
	page := f.send(browser, f.request("GET", "/operations/"+r.Op+"?prove="+seq, "", ""))
	for _, want := range []string{"approval.requested", list[0].Hash, "Record " + seq + " is in the journal", "<h3>Checkpoint</h3>"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	proof := f.send(browser, f.request("GET", "/operations/"+r.Op+"/proofs/"+seq, "", ""))
	if proof.StatusCode != 200 || proof.json(t)["checkpoint"] == nil || !strings.HasPrefix(proof.Header.Get("Content-Disposition"), "attachment") {
		t.Errorf("the proof is %s %s", proof.Status, proof.body)
	}
	// Another operation's record is not proved under this one's name, and no name leads out of the journal.
	f.ask()
	next := itoa(list[len(list)-1].Seq + 1)
	for _, path := range []string{"/operations/" + r.Op + "/proofs/" + next, "/operations/" + r.Op + "?prove=" + next, "/operations/..%2f..%2fetc", "/operations/none"} {
		if got := f.send(browser, f.request("GET", path, "", "")); got.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, got.Status)
		}
	}
}

func TestAPageThatIsNotThereSaysSo(t *testing.T) {
	f := newFixture(t, false)
	for name, who := range map[string]*http.Client{"signed in": f.signIn("bob"), "a stranger": f.client} {
		for method, path := range map[string]string{"GET": "/nothing", "POST": "/history", "DELETE": "/"} {
			got := f.send(who, f.request(method, path, "", ""))
			if got.StatusCode != http.StatusNotFound || !strings.Contains(got.body, "<h1>Not found</h1>") || who == f.client && strings.Contains(got.body, "/history") {
				t.Errorf("%s, %s %s: %s\n%s", name, method, path, got.Status, got.body)
			}
		}
	}
}

func TestACardThatHasMoreThanThePageShowsIsNotShown(t *testing.T) {
	if _, err := approval.ReadCard([]byte(`{"v":1,"id":"x","hidden":true}`)); err == nil {
		t.Error("a card with a member that the page does not know was read")
	}
}

// TestApproversPageSaysWhatItKnows: the rules that asked lately, of how many requests; the resources as they are now, also
// after a reload.
func TestApproversPageSaysWhatItKnows(t *testing.T) {
	hold := 50 * time.Second
	f := newFixture(t, false, func(o *Options) {
		o.Resources = func() []Resource { return []Resource{{Name: "payments", Kind: "http", Hold: hold}} }
	})
	bob := f.signIn("bob")
	f.ask()
	f.ask()
	page := f.send(bob, f.request("GET", "/approvers", "", ""))
	for _, want := range []string{"the latest 2 requests", "payments/refund", "payments-oncall", "50 seconds"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page does not say %q\n%s", want, page.body)
		}
	}
	hold = 20 * time.Second
	if page := f.send(bob, f.request("GET", "/approvers", "", "")); !strings.Contains(page.body, "20 seconds") || strings.Contains(page.body, "50 seconds") {
		t.Errorf("after a reload\n%s", page.body)
	}
}
