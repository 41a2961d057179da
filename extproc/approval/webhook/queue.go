package webhook

import (
	"context"
	"sync"
	"time"
)

// message is an event on its way.
type message struct {
	id       string
	body     []byte
	until    time.Time // when it is given up
	due      time.Time // of the next attempt
	attempts int
}

// queue holds the messages that wait to be delivered, oldest first.
type queue struct {
	mu       sync.Mutex
	limit    int
	waiting  []*message
	count    Stats
	alarmed  bool // until a delivery succeeds
	draining bool

	wake    chan struct{}
	ending  context.Context // done when nothing more is to be tried
	giveUp  context.CancelFunc
	drained chan struct{}
}

func (q *queue) init(limit int) {
	q.limit = limit
	q.wake = make(chan struct{}, 1)
	q.drained = make(chan struct{})
	q.ending, q.giveUp = context.WithCancel(context.Background())
}

// put adds m. It returns the oldest message if that had to make room.
func (q *queue) put(m *message) *message {
	q.mu.Lock()
	defer q.mu.Unlock()
	var oldest *message
	if len(q.waiting) >= q.limit {
		oldest = q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
	}
	q.waiting = append(q.waiting, m)
	q.ring()
	return oldest
}

// back puts a message that was tried back in front of all others. It returns false if there is no room any more.
func (q *queue) back(m *message) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) >= q.limit {
		return false
	}
	q.waiting = append([]*message{m}, q.waiting...)
	return true
}

func (q *queue) ring() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next waits for a message that is due and removes it. It returns nil when the queue is drained or given up.
func (q *queue) next() *message {
	for {
		m, wait, end := q.take(time.Now())
		if m != nil || end || q.ending.Err() != nil {
			return m
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-q.wake:
		case <-due:
		case <-q.ending.Done():
		}
	}
}

// take removes the first message that is due, or returns how long until one is; 0 if none waits.
func (q *queue) take(now time.Time) (m *message, wait time.Duration, end bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, m := range q.waiting {
		left := m.due.Sub(now)
		if left <= 0 || q.draining && m.attempts == 0 {
			q.waiting = append(q.waiting[:i:i], q.waiting[i+1:]...)
			return m, 0, false
		}
		if wait == 0 || left < wait {
			wait = left
		}
	}
	return nil, wait, q.draining
}

// drain waits until each message that was not tried yet has been tried once, or done closes, and then ends the queue.
func (q *queue) drain(done <-chan struct{}) {
	q.mu.Lock()
	q.draining = true
	q.ring()
	q.mu.Unlock()
	select {
	case <-q.drained:
	case <-done:
	}
	q.giveUp()
}

func (q *queue) stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.count
	s.Waiting = len(q.waiting)
	return s
}

func (q *queue) delivered() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count.Delivered++
	q.alarmed = false
}

// dropped counts a loss. first is true for the first one since a delivery.
func (q *queue) dropped() (first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count.Dropped++
	first = !q.alarmed
	q.alarmed = true
	return first
}
