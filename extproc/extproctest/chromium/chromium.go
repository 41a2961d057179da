// Package chromium runs a real Chromium for tests of pages.
package chromium

import (
	"context"
	"os"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/countersign/countersign/extproc/extproctest"
)

// Start runs a Chromium, without a window, that nobody has used before. Actions of chromedp with the context are on its one page. It
// fails the test where there is none.
func Start(t *testing.T) context.Context {
	t.Helper()
	path, err := extproctest.Parts{Getenv: os.Getenv}.Chromium() //nolint:forbidigo // $CHROMIUM is for whoever runs the tests
	if err != nil {
		t.Fatal(err)
	}
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.UserDataDir(extproctest.Dir(t)), chromedp.WindowSize(1200, 900), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
	}
	for _, flag := range []string{"disable-background-networking", "disable-component-update", "disable-sync", "disable-quic", "disable-dev-shm-usage", "disable-extensions", "no-default-browser-check", "mute-audio"} {
		options = append(options, chromedp.Flag(flag, true))
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		cancel()
		stop()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start Chromium: %v", err)
	}
	return ctx
}
