package console

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/extproctest/chromium"
	"github.com/countersign/countersign/extproc/gate"
)

// values is a body with that many values beside its two, as a real API has them.
func values(n int) func(*approval.Asking) {
	return func(a *approval.Asking) {
		body := gate.Object{{Name: "amount", Value: 10}}
		items := make([]any, 0, n)
		for i := range n - 1 {
			items = append(items, gate.Object{{Name: "sku", Value: fmt.Sprintf("LAMP-%04d", i)}})
		}
		body = append(body, gate.Member{Name: "items", Value: items})
		a.Shown = gate.Object{
			{Name: "authority", Value: "payments.agents.internal"},
			{Name: "body", Value: body},
			{Name: "body_bytes", Value: 17 * n},
			{Name: "headers", Value: gate.Object{{Name: "accept", Value: []string{"*/*"}}, {Name: "user-agent", Value: []string{"python-requests/2.32"}}}},
			{Name: "method", Value: "POST"},
			{Name: "path", Value: "/v1/payments/7/refunds"},
			{Name: "segments", Value: []string{"v1", "payments", "7", "refunds"}},
		}
		a.Operation.Principal.OnBehalfOf = &gate.Party{Issuer: a.Operation.Principal.Issuer, Subject: "u-dora"}
		a.Operation.Principal.People = []gate.Person{{Directory: a.Operation.Principal.Issuer, ID: "u-dora"}}
	}
}

// TestBrowserTheFirstScreenAnswers: on a phone, what, why, who, how long and the answer are seen without scrolling, however much the
// request carries.
func TestBrowserTheFirstScreenAnswers(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	long := func(a *approval.Asking) {
		values(60)(a)
		a.Operation.Target = "/v1/" + strings.Repeat("projects/countersign/", 40)
		a.Verdict.Asks[0].Reason = strings.Repeat("merges into main need somebody who knows the code. ", 6)
	}
	for name, change := range map[string]func(*approval.Asking){"5": values(5), "60": values(60), "hostile": hostile, "long": long} {
		r := f.ask(change)
		ctx, leave := context.WithTimeout(t.Context(), 50*time.Second)
		go func() { _ = f.desk.Await(ctx, r.ID) }()
		b.do("a phone", chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile))
		b.do("open the card", chromedp.Navigate(f.url+"/approvals/"+r.ID), chromium.WaitVisible("#approve"))
		b.await("somebody waits", "document.querySelector('#wait .waits') !== null")
		b.shootScreen("phone-first-" + name)
		b.shoot("phone-all-" + name)
		for _, part := range []string{"#what", ".op", ".why", ".who > summary", "#wait", "#reason", "#approve", "#reject"} {
			b.await(name+": "+part+" is in the first screen, and nothing is over it", fmt.Sprintf(`(() => {
				const el = document.querySelector(%q), box = el.getBoundingClientRect(), bar = document.getElementById("bar");
				const end = bar.contains(el) ? innerHeight : bar.getBoundingClientRect().top;
				return scrollY === 0 && box.height > 0 && box.top >= 0 && box.bottom <= end;
			})()`, part))
		}
		b.await("no wider than the phone", "document.documentElement.scrollWidth <= 390")
		b.do("a desk", chromedp.EmulateViewport(1200, 900))
		b.shootScreen("desk-first-" + name)
		leave()
		b.await("it has left", "document.querySelector('#wait').textContent.includes('has left; will come again')")
	}
}
