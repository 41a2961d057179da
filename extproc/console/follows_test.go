package console

import (
	"context"
	"fmt"
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/countersign/countersign/extproc/extproctest/chromium"
)

// TestBrowserWhoseClockIsWrong: the countdown is by the server's clock.
func TestBrowserWhoseClockIsWrong(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	r := f.ask()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	go func() { _ = f.desk.Await(ctx, r.ID) }()
	for _, minutes := range []int{30, -60} { // each beside those before
		b.do("have a wrong clock", command(page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
			Source: fmt.Sprintf("{ const now = Date.now; Date.now = () => now() + %d * 60000; }", minutes),
		}))
		b.do("open the card", chromedp.Navigate(f.url+"/approvals/"+r.ID), chromium.WaitVisible("#approve"))
		b.await("it counts", "tick() || document.body.dataset.updates >= 1")
		left := b.eval("parseInt(document.querySelector('#wait time[data-bare]').textContent)")
		if n, ok := left.(float64); !ok || n < 13 || n > 15 {
			t.Errorf("%d minutes more: open for %v minutes", minutes, left)
		}
	}
}

// TestBrowserPageThatComesBack: one that the browser kept while another was shown is told again what changes, and what has.
func TestBrowserPageThatComesBack(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	b.eval("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
	missed := f.ask()
	b.eval("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
	b.do("what it missed", chromium.WaitVisible(fmt.Sprintf(`a.request[data-id="%s"]`, missed.ID)))
	b.await("it is told again", "document.body.dataset.updates >= 2")
	next := f.ask()
	b.do("what came then", chromium.WaitVisible(fmt.Sprintf(`a.request[data-id="%s"]`, next.ID)))
}

// TestBrowserQueueIsCalm: however much changes, an open queue is loaded once a second at most, and in the end has everything.
func TestBrowserQueueIsCalm(t *testing.T) {
	f := newFixture(t, true)
	b := newBrowser(t)
	b.signIn(f, "bob")
	const loads = "performance.getEntriesByType('resource').filter(e => e.name.endsWith('/queue')).map(e => e.startTime)"
	asked := 0
	for ; asked < 60 && b.eval(loads+".length >= 3") != true; asked++ {
		f.ask()
	}
	b.await("all are there", fmt.Sprintf("document.querySelectorAll('a.request').length === %d", asked))
	if apart := b.eval(loads + ".every((at, i, all) => i === 0 || at - all[i - 1] > 900)"); apart != true {
		t.Errorf("after %d changes the queue was loaded at %v", asked, b.eval(loads))
	}
}
