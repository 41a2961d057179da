package main

import (
	"context"
	"runtime/debug"
	"time"
)

// A held operation keeps a goroutine, and that goroutine has just evaluated a policy, deep down. The runtime halves a stack
// that is mostly unused at each collection, and at no other time; and a gateway that holds thousands and does little else
// is collected rarely (GOGC=400, see serve). So where holds have grown by trimStep, trimTimes collections follow, a second
// apart, and what they free goes back to the system.
const (
	trimStep  = 500
	trimTimes = 4
)

// trimHeld does that until ctx ends.
func trimHeld(ctx context.Context, held func() int) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for trimmed, left := 0, 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		n := held()
		switch {
		case n >= trimmed+trimStep:
			trimmed, left = n, trimTimes
		case n < trimmed:
			trimmed = n
		}
		if left > 0 {
			left--
			debug.FreeOSMemory()
		}
	}
}
