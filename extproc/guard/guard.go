// Package guard keeps one part's panic from ending the whole gateway. A panic in any goroutine ends a Go process, and with it
// every operation in hand, without a word in the journal. So everything of ours that runs in a goroutine or a timer of its own
// runs through [Func] or [Loop], which tell whoever runs the gateway and let the rest go on; a test reads the source to see that.
//
// What a panic leaves undone is for whoever started the work: an operation is refused and recorded as failed, a journal fails
// for good, a loop begins anew. Nothing is let through because of a panic.
package guard

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Panic is one that was caught.
type Panic struct {
	Where string // which part of the gateway
	Value string
	Stack string // empty if there was one within stackEvery before: somebody who finds a panic can have it again and again
}

// stackEvery bounds how often a panic comes with its stack.
const stackEvery = time.Second

// reporter is told of panics.
type reporter struct {
	tell  func(Panic)
	mu    sync.Mutex
	stack time.Time // when the last one was given
}

var report atomic.Pointer[reporter]

// Report has f told of every panic from here on. Until then the log is.
func Report(f func(Panic)) { report.Store(&reporter{tell: f}) }

// bounded returns p, without its stack if it comes too soon.
func (r *reporter) bounded(p Panic) Panic {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.stack) < stackEvery {
		p.Stack = ""
	} else {
		r.stack = now
	}
	return p
}

// Func is f, for a goroutine or a timer. It returns when f panics.
func Func(where string, f func()) func() {
	return func() {
		defer Catch(where, nil)
		f()
	}
}

// After a panic a loop begins anew a second later, and later each time until it has run for a minute.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// Loop is f, for a goroutine that is to run until it returns by itself: after a panic it is called again, unless ctx has ended.
func Loop(ctx context.Context, where string, f func()) func() {
	return func() {
		pause := firstPause
		for began := time.Now(); !returns(where, f); began = time.Now() {
			if time.Since(began) > lastPause {
				pause = firstPause
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
			pause = min(2*pause, lastPause)
		}
	}
}

func returns(where string, f func()) (well bool) {
	defer Catch(where, nil)
	f()
	return true
}

// Catch is to be deferred. It reports a panic and then calls after, if any.
func Catch(where string, after func(Panic)) {
	p := recover()
	if p == nil {
		return
	}
	caught := Panic{Where: where, Value: fmt.Sprint(p), Stack: string(debug.Stack())}
	tell(caught)
	if after != nil {
		after(caught)
	}
}

// tell cannot fail: it is what is left where something has.
func tell(p Panic) {
	defer func() {
		if again := recover(); again != nil {
			slog.Error("panic while a panic was reported", "where", p.Where, "panic", p.Value, "again", again, "stack", p.Stack)
		}
	}()
	if r := report.Load(); r != nil {
		r.tell(r.bounded(p))
		return
	}
	slog.Error("panic", "where", p.Where, "panic", p.Value, "stack", p.Stack)
}
