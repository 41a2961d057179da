package extproc

import (
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/guard"
)

// deadline is one of a connection that has none of its own. The zero deadline never passes.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{} // closed once it has; nil until somebody asks
}

// set moves the deadline. The zero time is never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	select {
	case <-d.passed:
		d.passed = nil
	default:
	}
	if t.IsZero() {
		return
	}
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	passed := d.passed
	left := time.Until(t)
	if left <= 0 {
		close(passed)
		return
	}
	var own *time.Timer
	own = time.AfterFunc(left, guard.Func("a deadline", func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer == own { // not moved meanwhile
			close(passed)
			d.timer = nil
		}
	}))
	d.timer = own
}

// wait is closed when the deadline has passed.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}
