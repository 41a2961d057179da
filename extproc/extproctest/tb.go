package extproctest

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"
)

// TB is what a part needs of the test that starts it. [testing.TB] satisfies it; [Run] has one for programs.
type TB interface {
	Helper()
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Fatalf(format string, args ...any) // does not return; only to be called by the goroutine of the test
}

// Run plays story outside of a test, as the demo does. It returns when story has and every part it started has stopped, with
// what Fatalf was told. What parts log goes to out.
func Run(out io.Writer, story func(TB)) error {
	p := &program{out: out}
	ended := make(chan any)
	go func() {
		// Fatalf leaves by Goexit, which is neither a return nor a panic: recover tells nothing about it.
		defer func() { ended <- recover() }()
		defer p.cleanUp()
		story(p)
	}()
	if crash := <-ended; crash != nil {
		panic(crash)
	}
	return p.err
}

type program struct {
	out      io.Writer
	mu       sync.Mutex
	cleanups []func()
	err      error
}

func (p *program) Helper() {}

func (p *program) Cleanup(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleanups = append(p.cleanups, f)
}

func (p *program) Failed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err != nil
}

func (p *program) Logf(format string, args ...any) {
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *program) Fatalf(format string, args ...any) {
	p.mu.Lock()
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
	p.mu.Unlock()
	runtime.Goexit()
}

// cleanUp runs the cleanups, last one first. A cleanup that panics or calls Fatalf does not keep the others from running.
func (p *program) cleanUp() {
	p.mu.Lock()
	if len(p.cleanups) == 0 {
		p.mu.Unlock()
		return
	}
	last := p.cleanups[len(p.cleanups)-1]
	p.cleanups = slices.Delete(p.cleanups, len(p.cleanups)-1, len(p.cleanups))
	p.mu.Unlock()

	defer p.cleanUp()
	last()
}

// Dir makes a directory that lives as long as the test. Its path is short enough for unix sockets, of which Linux takes 107
// bytes; that of testing.TB.TempDir need not be.
func Dir(tb TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "cs")
	if err != nil {
		tb.Fatalf("make a directory for the test: %v", err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Logf("remove the test's directory: %v", err)
		}
	})
	return dir
}

// Await calls probe until it returns nil, and fails the test when it has not within the given time. It is for what can only
// be asked, as the readiness of another process; where there is an event, wait for the event.
func Await(tb TB, what string, within time.Duration, probe func(context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := await(ctx, probe); err != nil {
		tb.Fatalf("wait %v for %s: %v", within, what, err)
	}
}

// await is Await for callers with their own end. The error is the last one of probe that ctx did not cause.
func await(ctx context.Context, probe func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-tick.C:
		}
	}
}
