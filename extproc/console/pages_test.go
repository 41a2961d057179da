package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
)

// hostile is an operation that tries to look like another one.
func hostile(a *approval.Asking) {
	a.Operation.Target = "/v1/payments/7/refunds?note=<script>alert(1)</script>"
	a.Operation.Principal.Subject = "agent-\u202E1-tnega"
	a.Verdict.Asks[0].Summary = "Refund 10 to <h1>Approved\u202E"
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
	for _, want := range []string{`<mark>\u{202E}</mark>`, `<mark>\u{200B}</mark>`, "&lt;img src=x onerror=alert(1)&gt;", "mixed scripts in one word", `Refund 10 to &lt;h1&gt;Approved<mark>\u{202E}</mark>`, "In policy's words", strings.TrimSuffix(strings.Repeat("long value ", 400), " "), "class=\"text long\""} {
		if !strings.Contains(card, want) {
			t.Errorf("the card does not have %s", want)
		}
	}
}

// TestNamesAreShownFirst: in every place where somebody is shown, in quotes, with the subject beside it; and by the API. A name that
// is no more than the subject is not shown twice.
func TestNamesAreShownFirst(t *testing.T) {
	f := newFixture(t, false)
	browser := f.signIn("bob")
	bob := f.token("u-bob", extproctest.Claims{"preferred_username": "bob"})
	const agent = "8f3ae1d2-0c55-4f0e-9d0e-0d2d1f7a4b11"
	named := func(a *approval.Asking) {
		p := a.Operation.Principal
		p.Subject, p.Name = agent, "Refund bot"
		p.OnBehalfOf, p.OnBehalfOfName = &gate.Party{Issuer: f.issuer.URL, Subject: "5b1c77aa"}, "Dora"
		p.People = []gate.Person{{Directory: f.issuer.URL, ID: "5b1c77aa"}}
		p.Actors, p.ActorNames = []gate.Party{{Issuer: f.issuer.URL, Subject: agent}, {Issuer: f.issuer.URL, Subject: "77aa"}}, []string{"Refund bot", "Planner"}
		a.Verdict.Asks[0].Quorum = 2
	}
	r := f.ask(named)
	if got := f.call("POST", "/api/approvals/"+r.ID+"/decisions", bob, decision("approve", "", r.CardDigest)); got.StatusCode != 200 {
		t.Fatal(got.body)
	}
	f.ask(func(a *approval.Asking) { a.Operation.Principal.Name = "agent-1" }) // which is its subject
	const name = `<span class="name">“<bdi dir="ltr" class="text">%s</bdi>”</span> <span class="subject"><bdi dir="ltr" class="text">%s</bdi>`
	for path, wants := range map[string][][2]string{
		"/":                  {{"Refund bot", "8f3ae1d2…"}, {"Dora", "5b1c77aa"}},
		"/history":           {{"Refund bot", "8f3ae1d2…"}, {"Dora", "5b1c77aa"}, {"bob", "u-bob"}},
		"/holds":             {{"Refund bot", "8f3ae1d2…"}, {"Dora", "5b1c77aa"}},
		"/approvals/" + r.ID: {{"Refund bot", agent}, {"Dora", "5b1c77aa"}, {"Planner", "77aa"}, {"bob", "u-bob"}},
	} {
		page := f.send(browser, f.request("GET", path, "", "")).body
		for _, want := range wants {
			if !strings.Contains(page, fmt.Sprintf(name, want[0], want[1])) {
				t.Errorf("%s does not have %s (%s) in\n%s", path, want[0], want[1], page)
			}
		}
		if strings.Contains(page, "“<bdi dir=\"ltr\" class=\"text\">agent-1") {
			t.Errorf("%s has a subject twice", path)
		}
	}
	page := f.send(browser, f.request("GET", "/", "", "")).body
	if !strings.Contains(page, `by “Refund bot”, 8f3ae1d2…"`) || !strings.Contains(f.send(browser, f.request("GET", "/me", "", "")).body, "“<bdi dir=\"ltr\" class=\"text\">bob</bdi>”") {
		t.Error("the group or the page about bob has no name")
	}
	got := f.call("GET", "/api/approvals/"+r.ID, bob, "").json(t)
	by := got["decisions"].([]any)[0].(map[string]any)["by"]
	want := fmt.Sprintf("map[issuer:%[1]s name:Refund bot subject:%[2]s] map[issuer:%[1]s name:Dora subject:5b1c77aa] [map[issuer:%[1]s name:Refund bot subject:%[2]s] map[issuer:%[1]s name:Planner subject:77aa]] map[issuer:%[1]s name:bob subject:u-bob]", f.issuer.URL, agent)
	if all := fmt.Sprint(got["agent"], " ", got["on_behalf_of"], " ", got["actors"], " ", by); all != want {
		t.Errorf("the API says\n%s, want\n%s", all, want)
	}
}

// TestNamesMisleadNobody: a name can be a word of ours, another's subject, turned around, long, or markup. It stands in quotes, which no
// name has of its own, with the subject after it, and two people of one name are two.
func TestNamesMisleadNobody(t *testing.T) {
	f := newFixture(t, false)
	browser := f.signIn("alice")
	names := map[string]string{
		"Approved": "Approved", "u-alice": "u-alice", "bob\u202e\nApproved": "bob<mark>\\u{202E}</mark><mark>\\u{A}</mark>Approved",
		"”, agent-1 of https://idp “":                               "<mark>\\u{201D}</mark>, agent-1 of https://idp <mark>\\u{201C}</mark>",
		"<h1>Approved</h1>":                                         "&lt;h1&gt;Approved&lt;/h1&gt;",
		gate.Recorded(strings.Repeat("x", 10_000), gate.MaxClaimed): strings.Repeat("x", 159) + "…",
	}
	two := func(a *approval.Asking) { a.Verdict.Asks[0].Quorum = 2 }
	for name, shown := range names {
		r := f.ask(two, func(a *approval.Asking) { a.Operation.Principal.Name = name })
		bob := f.token("u-bob", extproctest.Claims{"preferred_username": name})
		if got := f.call("POST", "/api/approvals/"+r.ID+"/decisions", bob, decision("approve", "", r.CardDigest)); got.StatusCode != 200 || got.json(t)["state"] != "pending" {
			t.Fatalf("%q: %s", name, got.body)
		}
		for _, path := range []string{"/", "/history", "/holds", "/approvals/" + r.ID} {
			page := f.send(browser, f.request("GET", path, "", "")).body
			for _, bad := range []string{"\u202e", "<h1>Approved"} {
				if strings.Contains(page, bad) {
					t.Errorf("%s: %q does what it says", path, name)
				}
			}
			_, rest, found := strings.Cut(page, "“<bdi dir=\"ltr\" class=\"text\">"+shown)
			_, rest, quoted := strings.Cut(rest, "</bdi>”</span>")
			if !found || !quoted || !strings.Contains(rest, "<span class=\"subject\"><bdi dir=\"ltr\" class=\"text\">") {
				t.Errorf("%s: %q is not in quotes before a subject", path, name)
			}
		}
		// Alice, who has the same name now, is another: she is asked, and with her it is two people.
		alice := f.token("u-alice", extproctest.Claims{"preferred_username": name})
		if got := f.call("POST", "/api/approvals/"+r.ID+"/decisions", alice, decision("approve", "", r.CardDigest)); got.StatusCode != 200 || got.json(t)["state"] != "approved" {
			t.Errorf("two people called %q are one: %s", name, got.body)
		}
		// And bob under another name is bob.
		r = f.ask(two)
		for i, status := range []int{200, 403} {
			renamed := f.token("u-bob", extproctest.Claims{"preferred_username": name + fmt.Sprint(i)})
			if got := f.call("POST", "/api/approvals/"+r.ID+"/decisions", renamed, decision("approve", "", r.CardDigest)); got.StatusCode != status {
				t.Errorf("bob as %q is told %s", name, got.body)
			}
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
