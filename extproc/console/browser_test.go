package console

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/chromium"
	"github.com/countersign/countersign/extproc/gate"
)

// browser is a real Chromium with one page.
type browser struct {
	t   *testing.T
	ctx context.Context
	dir string // of screenshots; `go test -artifacts` keeps them
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	return &browser{t: t, ctx: chromium.Start(t), dir: t.ArtifactDir()}
}

func (b *browser) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, deadline)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.shoot("failed")
		b.t.Fatalf("%s: %v\nat %v", what, err, b.eval("location.href + '\\n' + document.body.innerText"))
	}
}

// eval evaluates an expression in the page; nil when it cannot.
func (b *browser) eval(expression string) any {
	ctx, cancel := context.WithTimeout(b.ctx, deadline)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[any](expression))
	if err != nil {
		return nil
	}
	return v
}

// await waits until the expression is true.
func (b *browser) await(what, expression string) {
	b.t.Helper()
	extproctest.Await(b.t, what, deadline, func(context.Context) error {
		if v := b.eval(expression); v != true {
			return fmt.Errorf("%s is %v", expression, v)
		}
		return nil
	})
}

// keys types, once the page's script is there to hear it.
func (b *browser) keys(what, keys string) {
	b.t.Helper()
	b.await("the page is complete", "document.readyState === 'complete'")
	b.do(what, chromedp.KeyEvent(keys))
}

// press is one key as a person presses it: what the page does not take becomes text. (chromedp.KeyEvent sends the text by
// itself, whatever the page has done with the key.)
func (b *browser) press(what, key string) {
	b.t.Helper()
	b.await("the page is complete", "document.readyState === 'complete'")
	b.do(what, command(input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyDown, Key: key, Text: key}),
		command(input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyUp, Key: key}))
}

// command is one that chromedp has no action for.
func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, _ *chromedp.Target) (chromedp.Void, error) {
		_, err := chromedp.Call(ctx, c, params)
		return chromedp.Void{}, err
	}
}

// shoot keeps a picture of the whole page.
func (b *browser) shoot(name string) { b.keep(name, chromedp.FullScreenshot(100)) }

// shootScreen keeps a picture of what is seen of it.
func (b *browser) shootScreen(name string) { b.keep(name, chromedp.CaptureScreenshot()) }

func (b *browser) keep(name string, picture chromedp.Action[[]byte]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, deadline)
	defer cancel()
	png, err := chromedp.Run(ctx, picture)
	if err != nil {
		b.t.Errorf("take a picture of %s: %v", name, err)
		return
	}
	if err := os.WriteFile(filepath.Join(b.dir, name+".png"), png, 0o600); err != nil {
		b.t.Error(err)
	}
}

// colours has the page light or dark.
func (b *browser) colours(value string) {
	b.t.Helper()
	b.do("set the colours", command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}}})) //nolint:misspell // as CSS spells it
}

// withoutScripts has pages as a browser shows them that runs no scripts.
func (b *browser) withoutScripts() {
	b.t.Helper()
	b.do("turn scripts off", command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
}

// shootAll keeps pictures of what is seen on a desk and on a phone, light and dark.
func (b *browser) shootAll(name string) {
	b.t.Helper()
	for _, colours := range []string{"light", "dark"} {
		b.colours(colours)
		b.do("a phone", chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile))
		b.await("no wider than the phone", "document.documentElement.scrollWidth <= 390")
		b.shoot(name + "-phone-" + colours)
		b.do("a desk", chromedp.EmulateViewport(1200, 900))
		b.shoot(name + "-desk-" + colours)
	}
	b.colours("light")
}

// signIn goes to the console and signs in on the issuer's own page, with the keyboard.
func (b *browser) signIn(f *fixture, name string) {
	b.t.Helper()
	b.do("open the console", chromedp.Navigate(f.url+"/"), chromium.WaitVisible(`input[name=name]`))
	b.keys("go to the name", kb.Tab)
	b.keys("type the name", name)
	b.keys("go to the password", kb.Tab)
	b.keys("type the password", name+"-password")
	b.keys("sign in", kb.Enter)
	b.do("reach the queue", chromium.WaitVisible("#queue"))
	b.await("live updates", "document.body.dataset.updates >= 1")
}

func (f *fixture) state(id string) approval.Request {
	f.t.Helper()
	r, err := f.desk.Get(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func TestBrowserApproveAndReject(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	b.await("an empty queue", "document.querySelector('.summary').dataset.count === '0'")
	b.shoot("queue-empty")
	b.eval("window.sameLife = true")
	first := f.ask()
	b.do("the request appears by itself", chromium.WaitVisible(fmt.Sprintf(`a.request[data-id="%s"]`, first.ID)))
	b.await("a screen reader is told", "document.getElementById('live').textContent.startsWith('1 new request')")
	if b.eval("window.sameLife") != true {
		t.Error("the page was loaded anew for an update")
	}
	second := f.ask(func(a *approval.Asking) {
		a.Operation.Principal.OnBehalfOf = &gate.Party{Issuer: f.issuer.URL, Subject: "u-dora"}
		a.Operation.Principal.People = []gate.Person{{Directory: f.issuer.URL, ID: "u-dora"}}
		a.Operation.Principal.Actors = []gate.Party{{Issuer: f.issuer.URL, Subject: "agent-1"}}
	})
	f.ask(func(a *approval.Asking) {
		a.Operation.Verb, a.Operation.Target = "DELETE", "/v1/customers/42"
		a.Verdict.Asks[0].Approvers = []string{"security"}
	})
	b.await("two more", "document.querySelectorAll('a.request').length === 3")
	b.shoot("queue")

	b.do("open the card", chromium.Click(fmt.Sprintf(`a.request[data-id="%s"]`, first.ID)), chromium.WaitVisible("#approve"))
	b.shoot("card")
	b.do("approve", chromium.Click("#approve"), chromium.WaitVisible("#mine"))
	if r := f.state(first.ID); r.State != approval.Approved || r.Decisions[0].By.Subject != "u-bob" || r.Decisions[0].Think <= 0 {
		t.Errorf("the request is %s, decided by %v", r.State, r.Decisions)
	}
	b.shoot("approved")

	b.do("open the next card", chromedp.Navigate(f.url+"/approvals/"+second.ID), chromium.WaitVisible("#reject"))
	b.do("reject without a reason", chromium.Click("#reject"))
	if r := f.state(second.ID); r.State != approval.Pending {
		t.Errorf("rejected without a reason: %s", r.State)
	}
	b.do("reject", chromium.SendKeys("#reason", "not this customer"), chromium.Click("#reject"), chromium.WaitVisible("#mine"))
	if r := f.state(second.ID); r.State != approval.Rejected || r.Reason != "not this customer" {
		t.Errorf("the request is %s: %s", r.State, r.Reason)
	}
	if err := f.journal.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"history", "holds", "approvers", "me", "help", "operations/" + first.Op} {
		b.do(page, chromedp.Navigate(f.url+"/"+page), chromium.WaitVisible("h1"))
		b.shoot(strings.Split(page, "/")[0])
	}
	b.do("prove a record", chromium.Click(`a[href*="prove="]`), chromium.WaitVisible("#proof"))
	b.shoot("proof")
	b.do("filter the history", chromedp.Navigate(f.url+"/history?state=rejected"), chromium.WaitVisible("table"))
	b.await("only what was rejected", "document.querySelectorAll('tbody tr').length === 1")
	b.shoot("history-filtered")
	b.do("an issuer of no agent is asked about again, in the form", chromedp.Navigate(f.url+"/history?agent_issuer=nobody"), chromium.WaitVisible("#error"))
	b.await("what was typed is still there", "document.getElementById('f-issuer').value === 'nobody'")
	b.shoot("history-error")
	b.do("filter for nothing", chromedp.Navigate(f.url+"/history?state=expired"), chromium.WaitVisible("p.nothing"))
	b.shoot("history-empty")
	b.do("sign out", chromium.Click("header.site form button"), chromium.WaitVisible(`a[href="/login"]`))
	b.do("what was open is closed", chromedp.Navigate(f.url+"/approvals/"+second.ID), chromium.WaitVisible(`input[name=password]`))
}

func TestBrowserSaysThatAnotherHasDecided(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	r := f.ask()
	b.do("open the card", chromedp.Navigate(f.url+"/approvals/"+r.ID), chromium.WaitVisible("#approve"))
	b.await("it listens", "performance.getEntriesByType('resource').length >= 2 && document.readyState === 'complete'")
	f.answer(r, "u-alice", false, "mine")
	b.do("the page says so", chromium.WaitVisible("#notice.bad"), chromium.WaitVisible("#bar .maynot"))
	if got := f.state(r.ID); got.State != approval.Rejected {
		t.Errorf("the request is %s", got.State)
	}
	b.shoot("refused")
}

func TestBrowserWithTheKeyboardOnly(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	other, r := f.ask(), f.ask()
	b.signIn(f, "bob")
	b.await("both are there", "document.querySelectorAll('a.request').length === 2")
	b.do("start anew", chromedp.Reload(), chromium.WaitVisible("a.request"))
	b.await("live updates", "document.body.dataset.updates >= 1")
	b.keys("the first stop", kb.Tab)
	b.await("it skips the navigation", "document.activeElement.className === 'skip'")
	b.await("and can be seen", "getComputedStyle(document.activeElement).outlineStyle !== 'none' && document.activeElement.getBoundingClientRect().left >= 0")
	b.keys("skip", kb.Enter)
	b.keys("into the content", kb.Tab)
	b.await("the first request", fmt.Sprintf("document.activeElement.dataset.id === %q", other.ID))
	b.keys("the next", "j")
	b.await("the second request", fmt.Sprintf("document.activeElement.dataset.id === %q", r.ID))
	b.shoot("keyboard-queue")
	b.keys("open it", kb.Enter)
	b.do("the card", chromium.WaitVisible("#approve"))
	b.keys("to the button", "a")
	b.await("it has the focus", "document.activeElement.id === 'approve'")
	b.shoot("keyboard-card")
	b.keys("approve", kb.Enter)
	b.do("done", chromium.WaitVisible("#mine"))
	if got := f.state(r.ID); got.State != approval.Approved {
		t.Errorf("the request is %s", got.State)
	}
	b.keys("back", "u")
	b.do("the queue", chromium.WaitVisible("#queue a.request"))
	b.keys("the first again", "j")
	b.keys("open it", kb.Enter)
	b.do("the card", chromium.WaitVisible("#reject"))
	b.press("to the reason", "r")
	b.keys("letters in a field are letters", "just no")
	b.await("they are typed", "document.getElementById('reason').value === 'just no'")
	b.keys("over the other button", kb.Tab)
	b.keys("to the button", kb.Tab)
	b.keys("reject", kb.Enter)
	b.do("done", chromium.WaitVisible("#mine"))
	if got := f.state(other.ID); got.State != approval.Rejected || got.Reason != "just no" {
		t.Errorf("the request is %s: %s", got.State, got.Reason)
	}
}

func TestBrowserShowsAHostileCard(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	r := f.ask(hostile)
	b.signIn(f, "bob")
	b.shoot("hostile-queue")
	b.do("open the card", chromedp.Navigate(f.url+"/approvals/"+r.ID), chromium.WaitVisible("#approve"))
	for _, c := range []struct{ what, expression string }{
		{"no element of the operation's making", "document.querySelectorAll('main img, main script, main h1 h1, td h1').length === 0"},
		{"the turned text is marked", "[...document.querySelectorAll('mark')].some(m => m.textContent === '\\\\u{202E}')"},
		{"the card ends where it should", "document.querySelector('#bar') !== null && document.querySelectorAll('form[action$=decision]').length === 1"},
		{"a long value has a box of its own", "[...document.querySelectorAll('.text.long')].filter(e => e.checkVisibility()).every(e => e.clientHeight <= 220 && getComputedStyle(e).overflowY === 'auto')"},
		{"the page is no wider than the window", "document.documentElement.scrollWidth <= innerWidth"},
		{"characters stand in their order", "getComputedStyle(document.querySelector('.text')).unicodeBidi === 'isolate-override'"},
	} {
		b.await(c.what, c.expression)
	}
	b.shoot("hostile-card")
}

func TestBrowserDarkAndNarrow(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	r := f.ask()
	weird := f.ask(hostile)
	light := b.eval("getComputedStyle(document.documentElement).backgroundColor")
	b.colours("dark")
	if now := b.eval("getComputedStyle(document.documentElement).backgroundColor"); now == light || now == nil {
		t.Errorf("the background in dark mode is %v", now)
	}
	pages := []string{"/", "/approvals/" + r.ID, "/approvals/" + weird.ID, "/history", "/operations/" + r.Op, "/holds", "/approvers", "/me", "/help"}
	names := []string{"queue", "card", "hostile", "history", "operation", "holds", "approvers", "me", "help"}
	for i, path := range pages[:5] {
		b.do(path, chromedp.Navigate(f.url+path), chromium.WaitVisible("#main"))
		b.shoot("dark-" + names[i])
	}
	b.colours("light")
	b.do("a phone", chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile))
	for i, path := range pages {
		b.do(path, chromedp.Navigate(f.url+path), chromium.WaitVisible("#main"))
		b.await(path+" is no wider than a phone", "document.documentElement.scrollWidth <= 360")
		b.shoot("phone-" + names[i])
	}
	b.do("the queue", chromedp.Navigate(f.url+"/approvals/"+r.ID), chromium.WaitVisible("#approve"))
	b.await("a button is as large as a thumb", "document.getElementById('approve').getBoundingClientRect().height >= 44")
}

func TestBrowserWithoutJavaScript(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	r := f.ask()
	b.withoutScripts()
	b.do("open the card", chromedp.Navigate(f.url+"/approvals/"+r.ID), chromium.WaitVisible("#approve"))
	b.do("approve", chromium.Focus("#approve"), chromedp.KeyEvent(kb.Enter), chromium.WaitVisible("#mine"))
	if got := f.state(r.ID); got.State != approval.Approved {
		t.Errorf("the request is %s", got.State)
	}
}

// TestBrowserTellsWithoutJavaScript: what the script says in place, the server says too, at the top and with the focus on it; and what was
// typed is still there.
func TestBrowserTellsWithoutJavaScript(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	r := f.ask()
	b.withoutScripts()
	open := func() {
		b.do("open the card", chromedp.Navigate(f.url+"/approvals/"+r.ID), chromium.WaitVisible("#approve"))
	}
	told := func(what, says, typed string) {
		b.do(what, chromium.Focus("#reject"), chromedp.KeyEvent(kb.Enter), chromium.WaitVisible("#error"))
		b.await(what+": it is told", fmt.Sprintf("document.getElementById('error').textContent.includes(%q)", says))
		b.await(what+": what was typed is there", typed)
		b.await(what+": it has the focus", "document.activeElement.id === 'error'")
	}
	open()
	told("reject without a reason", "A rejection needs a reason", "document.getElementById('reason').value === ''")
	open()
	b.do("paste more than is kept", chromedp.SetValue("#reason", strings.Repeat("\u6771", 700)))
	told("a reason that is too long", "at most 2000 are kept", "document.getElementById('reason').value.length === 700")
	open()
	b.do("type", chromium.SendKeys("#reason", "not <b>this</b> one"))
	f.answer(r, "u-alice", true, "")
	told("a page of before", "This request is not open any more", "document.getElementById('typed').textContent.includes('not <b>this</b> one')")
	if got := f.state(r.ID); got.State != approval.Approved || len(got.Decisions) != 1 {
		t.Errorf("the request is %s, %v", got.State, got.Decisions)
	}
}

// TestBrowserKeepsOtherSitesOut has pages of another port (the same site to a browser, so that cookies go along) and of
// another site post the form.
func TestBrowserKeepsOtherSitesOut(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	r := f.ask()
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<form method="post" action="%s/approvals/%s/decision"><input name="card" value="%s"><input name="decision" value="approve"><input name="csrf" value="x"><button id="go">A prize</button></form><iframe src="%s/"></iframe>`, f.url, r.ID, r.CardDigest, f.url)
	}))
	defer evil.Close()
	before := len(f.records(gate.IdentityRefused))
	b.do("a page of another port", chromedp.Navigate(evil.URL), chromium.Click("#go"), chromium.WaitVisible("p[role=alert]"))
	f.wantRefused(before, ReasonCrossSite)
	b.do("a page of another site", chromedp.Navigate(strings.Replace(evil.URL, "127.0.0.1", "localhost", 1)), chromium.Click("#go"), chromium.WaitVisible("p[role=alert]"))
	if got := f.state(r.ID); got.State != approval.Pending {
		t.Errorf("the request is %s", got.State)
	}
	b.do("bob is still signed in", chromedp.Navigate(f.url+"/me"), chromium.WaitVisible("dl"))
}
