package chromium

import (
	"context"
	"strconv"
	"time"

	"github.com/chromedp/chromedp"
)

// What follows asks the page itself, again and again until the context ends. chromedp's own queries ask the tree that it keeps of
// the page, and that tree is now and then still of the page before, for good, when a page with a frame of another site is left.

// WaitVisible waits until the first element that sel finds is to be seen.
func WaitVisible(sel string) chromedp.Action[chromedp.Void] {
	return until(seen(sel, "true"))
}

// Click clicks on the middle of the first element that sel finds, once it is to be seen.
func Click(sel string) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		var at []float64
		middle := seen(sel, `(e.scrollIntoView({block: "center", behavior: "instant"}), [e.getBoundingClientRect()].map(r => [r.x + r.width / 2, r.y + r.height / 2])[0])`)
		if err := ask(ctx, t, middle, &at, func() bool { return len(at) == 2 }); err != nil {
			return chromedp.Void{}, err
		}
		return chromedp.MouseClickXY(at[0], at[1])(ctx, t)
	}
}

// Focus gives the first element that sel finds the focus, once it is to be seen.
func Focus(sel string) chromedp.Action[chromedp.Void] {
	return until(seen(sel, "(e.focus(), document.activeElement === e)"))
}

// SendKeys types where Focus went.
func SendKeys(sel, keys string) chromedp.Action[chromedp.Void] {
	return chromedp.Steps(Focus(sel), chromedp.KeyEvent(keys))
}

// seen is an expression: of e, if the first element that sel finds is to be seen, and else null.
func seen(sel, of string) string {
	return `(e => e && e.checkVisibility() && e.getClientRects().length ? ` + of + ` : null)(document.querySelector(` + strconv.Quote(sel) + `))`
}

func until(expression string) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		var is bool
		return chromedp.Void{}, ask(ctx, t, expression, &is, func() bool { return is })
	}
}

// ask evaluates an expression until enough. An answer that does not come is one of a page that was left.
func ask[T any](ctx context.Context, t *chromedp.Target, expression string, answer *T, enough func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		got, err := chromedp.Evaluate[T](expression)(try, t)
		cancel()
		if err == nil {
			if *answer = got; enough() {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
