package console

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/chromium"
	"github.com/countersign/countersign/extproc/gate"
)

// aPage is one of the console, as bob sees it.
type aPage struct{ name, path string }

// everyPage has a card in each state that bob can find one in, and every other page.
func (f *fixture) everyPage() []aPage {
	f.t.Helper()
	var pages []aPage
	add := func(name string, r approval.Request) approval.Request {
		pages = append(pages, aPage{"card-" + name, "/approvals/" + r.ID})
		return r
	}
	two := func(a *approval.Asking) { a.Verdict.Asks[0].Quorum = 2 }

	add("open", f.ask(values(5)))
	waiting := add("waiting", f.ask(values(60)))
	ctx, leave := context.WithCancel(context.Background())
	f.t.Cleanup(leave)
	go func() { _ = f.desk.Await(ctx, waiting.ID) }()
	add("hostile", f.ask(hostile))
	add("not-mine", f.ask(func(a *approval.Asking) { a.Verdict.Asks[0].Approvers = []string{"security"} }))
	f.answer(add("half-mine", f.ask(two)), "u-bob", true, "")
	f.answer(add("half", f.ask(two)), "u-alice", true, "as agreed")
	f.answer(add("approved", f.ask()), "u-alice", true, "")
	f.answer(add("rejected", f.ask()), "u-bob", false, "not this customer")
	f.answer(add("voided", f.ask(func(a *approval.Asking) { a.Operation.Resource.Name = "ledger" })), "u-alice", true, "")
	if n, err := f.desk.VoidOthers(f.t.Context(), map[string]string{"ledger": "rules-2"}); err != nil || n != 1 {
		f.t.Fatalf("voided %d, %v", n, err)
	}
	ran := f.ask()
	add("done", ran)
	f.answer(ran, "u-bob", true, "")
	f.spend(ran, "op-of-"+ran.ID)
	f.desk.Ended(ran.ID, "op-of-"+ran.ID, approval.Outcome{Result: string(gate.Completed), Status: 201, Took: 40 * time.Millisecond})
	if err := f.journal.Checkpoint(); err != nil {
		f.t.Fatal(err)
	}
	for _, name := range []string{"queue", "history", "holds", "approvers", "me", "help"} {
		pages = append(pages, aPage{name, "/" + strings.TrimPrefix(name, "queue")})
	}
	return append(pages, aPage{"history-error", "/history?agent_issuer=nobody"}, aPage{"history-empty", "/history?state=expired"},
		aPage{"operation", "/operations/" + ran.Op}, aPage{"operations", "/operations"}, aPage{"operations-error", "/operations?effect=maybe"}, aPage{"problem", "/approvals/none"})
}

// spend has an operation spend the grant of r.
func (f *fixture) spend(r approval.Request, op string) {
	f.t.Helper()
	verdict := gate.Verdict{Effect: gate.Allow, PolicyDigest: r.PolicyDigest, RulesDigest: r.RulesDigest}
	if _, ok, err := f.desk.Spend(f.t.Context(), approval.Spending{Op: op, Digest: r.Digest, Verdict: verdict}); err != nil || !ok {
		f.t.Fatalf("the grant of %s was not spent: %v", r.ID, err)
	}
}

// axe is the accessibility checker, as a script.
func axe(t *testing.T) string {
	t.Helper()
	parts, err := extproctest.NewParts(os.Getenv, io.Discard) //nolint:forbidigo // where parts are is for whoever runs the tests
	if err != nil {
		t.Fatal(err)
	}
	path, err := parts.FindAxe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(script) + "; undefined"
}

// everyLook has the page small and large, light and dark.
func (b *browser) everyLook(do func(look string)) {
	b.t.Helper()
	for _, size := range []struct {
		name string
		set  chromedp.Action[chromedp.Void]
	}{
		{"phone", chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile)},
		{"desk", chromedp.EmulateViewport(1200, 900)},
	} {
		b.do("be of a size", size.set)
		for _, colours := range []string{"light", "dark"} {
			b.colours(colours)
			do(size.name + "-" + colours)
		}
	}
}

// TestBrowserIsAccessible: axe-core finds nothing on any page, at a desk and on a phone, light and dark, with everything that is folded
// open. The pictures of all of them are output.
func TestBrowserIsAccessible(t *testing.T) {
	f := newFixture(t, true, auditedBy("payments-oncall"))
	b := newBrowser(t)
	script := axe(t)
	f.operate(3)
	pages := f.everyPage()
	b.signIn(f, "bob")
	check := func(p aPage) {
		b.await("the page is complete", "document.readyState === 'complete'")
		b.everyLook(func(look string) {
			b.shootScreen(p.name + "-" + look)
		})
		b.do("load axe", chromedp.Evaluate[chromedp.Void](script))
		b.eval("document.querySelectorAll('details').forEach(d => { d.open = true; })")
		b.everyLook(func(look string) {
			ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
			defer cancel()
			found, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](`axe.run(document, { resultTypes: ["violations"] }).then((r) =>
				r.violations.map((v) => v.impact + " " + v.id + ": " + v.nodes.map((n) => n.target.join(" ") + " " + n.any.concat(n.all).map((a) => a.message).join("; ")).slice(0, 3).join(" | ")))`,
				chromedp.EvalAwaitPromise))
			if err != nil {
				t.Fatalf("%s, %s: %v", p.name, look, err)
			}
			for _, violation := range found {
				t.Errorf("%s, %s: %s", p.name, look, violation)
			}
		})
	}
	for _, p := range pages {
		b.do(p.name, chromedp.Navigate(f.url+p.path), chromium.WaitVisible("#main"))
		check(p)
	}
	b.do("sign out", chromium.Click("header.site form button"), chromium.WaitVisible(`a[href="/login"]`))
	check(aPage{name: "signed-out"})
}

// TestBrowserOrderFollowsWhatIsSeen: who hears a page, or goes through it by keyboard, has it in the order in which it is seen.
func TestBrowserOrderFollowsWhatIsSeen(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	pages := f.everyPage()
	b.signIn(f, "bob")
	for _, p := range pages {
		b.do(p.name, chromedp.Navigate(f.url+p.path), chromium.WaitVisible("#main"))
		for _, size := range [][2]int64{{390, 844}, {320, 568}, {1200, 900}} {
			b.do("be of a size", chromedp.EmulateViewport(size[0], size[1]))
			got := b.eval(`(() => {
				scrollTo(0, document.documentElement.scrollHeight); // the answer bar is then in its place
				const what = "a, button, input:not([type=hidden]), select, textarea, summary, h1, h2, h3, p, dt, dd, th, td, li";
				const seen = [...document.querySelectorAll(what)].filter((el) => el.checkVisibility() && !el.closest(".visually-hidden, .skip, thead"));
				const wrong = [];
				let last = null;
				for (const el of seen) {
					const box = el.getBoundingClientRect();
					if (box.height < 2) continue;
					const text = el.tagName + " " + el.textContent.trim().slice(0, 30);
					if (last && !last.el.contains(el)) {
						const over = box.bottom <= last.box.top + 1;
						const beside = box.top < last.box.bottom - 4 && box.bottom > last.box.top + 4 && box.right <= last.box.left + 1;
						if (over || beside) wrong.push(text + " comes after " + last.text);
					}
					last = { el, box, text };
				}
				return wrong.concat([...document.querySelectorAll("[tabindex]")].filter((el) => el.tabIndex > 0).map((el) => el.id + " has a place of its own")).join("\n");
			})()`)
			if got != "" {
				t.Errorf("%s, %d wide:\n%v", p.name, size[0], got)
			}
		}
	}
}

// TestBrowserHidesNothingUnderTheBar: on small phones, with the on-screen keyboard, and at 200 %, everything that can have the focus is
// scrolled to where it can be seen when it has it, and the whole page can be scrolled from under the answer bar.
func TestBrowserHidesNothingUnderTheBar(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	for name, change := range map[string]func(*approval.Asking){"60": values(60), "hostile": hostile} {
		r := f.ask(change)
		for _, size := range []struct {
			name          string
			width, height int64
		}{{"phone", 390, 844}, {"small", 320, 568}, {"keyboard", 390, 420}, {"zoomed", 640, 400}, {"zoomed-phone", 320, 422}} {
			b.do("be of a size", chromedp.EmulateViewport(size.width, size.height))
			b.do("open the card", chromedp.Navigate(f.url+"/approvals/"+r.ID), chromium.WaitVisible("#approve"))
			b.await("the page is complete", "document.readyState === 'complete'")
			b.shootScreen(name + "-" + size.name)
			b.await(size.name+": no wider than the screen", "document.documentElement.scrollWidth <= innerWidth")
			b.eval("document.querySelectorAll('details').forEach(d => { d.open = true; })")
			got := b.eval(`(() => {
				const bar = document.getElementById("bar"), wrong = [];
				const clear = (el) => { const box = el.getBoundingClientRect(), line = bar.getBoundingClientRect(); return box.top >= -1 && (bar.contains(el) ? box.bottom <= innerHeight + 1 : Math.min(box.bottom, box.top + 24) <= line.top + 1 || line.top >= innerHeight); };
				for (const el of document.querySelectorAll("a, button, textarea, summary, [tabindex='0']")) {
					if (!el.checkVisibility() || el.closest(".skip")) continue;
					for (const from of [0, document.documentElement.scrollHeight]) {
						scrollTo(0, from);
						document.activeElement.blur();
						el.focus();
						if (document.activeElement === el && !clear(el)) wrong.push((el.id || el.tagName) + " " + el.textContent.trim().slice(0, 40) + " is hidden");
					}
				}
				scrollTo(0, document.documentElement.scrollHeight);
				const last = [...document.querySelectorAll(".folds")].pop().getBoundingClientRect();
				if (last.bottom > bar.getBoundingClientRect().top) wrong.push("the end is under the bar");
				return wrong.join("\n");
			})()`)
			if got != "" {
				t.Errorf("%s, %s:\n%v", name, size.name, got)
			}
			if size.height < 420 {
				continue
			}
			b.eval("scrollTo(0, 0)")
			b.do("type", chromium.Focus("#reason"))
			b.await(size.name+": the answer is in view", `["reason", "approve", "reject"].every((id) => { const box = document.getElementById(id).getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight; })`)
			b.await(size.name+": and does not fill it", `document.getElementById("bar").getBoundingClientRect().height <= innerHeight / 2`)
		}
	}
}
