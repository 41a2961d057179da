package console

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/guard"
)

// feed gives every listener the changes of one watch on the store. The watch lives while somebody listens.
type feed struct {
	watch Watcher
	log   *slog.Logger

	mu        sync.Mutex
	listeners map[*listener]bool
	cancel    context.CancelFunc
}

type listener struct {
	changes chan approval.Change
	missed  bool // guarded by feed.mu: a change found no room
}

const (
	maxListeners   = 500
	listenerBuffer = 64
	keepAlive      = 15 * time.Second
	writeTimeout   = 10 * time.Second
)

func (f *feed) init(w Watcher, log *slog.Logger) {
	f.watch, f.log, f.listeners = w, log, map[*listener]bool{}
}

// join returns nil where there are too many listeners already.
func (f *feed) join() *listener {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.listeners) >= maxListeners {
		return nil
	}
	l := &listener{changes: make(chan approval.Change, listenerBuffer)}
	f.listeners[l] = true
	if f.cancel == nil {
		ctx, cancel := context.WithCancel(context.Background())
		f.cancel = cancel
		go guard.Loop(ctx, "the console's events", func() { f.run(ctx) })()
	}
	return l
}

func (f *feed) leave(l *listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.listeners, l)
	if len(f.listeners) == 0 && f.cancel != nil {
		f.cancel()
		f.cancel = nil
	}
}

func (f *feed) run(ctx context.Context) {
	follower := approval.Follower{
		Watch: f.watch.Watch,
		All: func(context.Context) error {
			f.tell(approval.Change{})
			return nil
		},
		Change: func(_ context.Context, c approval.Change) error {
			f.tell(c)
			return nil
		},
		Failed: func(err error) { f.log.Error("the console cannot watch the approvals; trying again", "error", err) },
	}
	follower.Run(ctx)
}

// tell never waits: a listener that is slow is told that it has missed something.
func (f *feed) tell(c approval.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.listeners {
		told := c
		if l.missed { // this one alone: the others are told what changed
			told = approval.Change{}
		}
		select {
		case l.changes <- told:
			l.missed = false
		default:
			l.missed = true
		}
	}
}

func (c *Console) apiEvents(w http.ResponseWriter, r *http.Request, who *person) {
	if r.URL.RawQuery != "" {
		writeProblem(w, unreadable("The events have no parameters."))
		return
	}
	if !c.stream(w, r, who) {
		writeProblem(w, unavailable("Too many are listening already. Try again later."))
	}
}

func (c *Console) pageEvents(w http.ResponseWriter, r *http.Request, who *person) {
	if !c.stream(w, r, who) {
		c.showProblem(w, r, unavailable("Too many are listening already. Try again later."))
	}
}

// changeEvent is the data of an event.
type changeEvent struct {
	ID    string         `json:"id"`
	Rev   uint64         `json:"rev"`
	State approval.State `json:"state"`
}

// stream sends server-sent events until the person's token or session ends: "approval" for a change, "reset" where some may
// have been missed, which is also the first. It is false where nothing was sent.
func (c *Console) stream(w http.ResponseWriter, r *http.Request, who *person) bool {
	l := c.feed.join()
	if l == nil {
		return false
	}
	defer c.feed.leave(l)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	control := http.NewResponseController(w)
	send := func(text string) bool {
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := w.Write([]byte(text)); err != nil {
			return false
		}
		return control.Flush() == nil
	}
	if !send("retry: 2000\n\nevent: reset\ndata: {}\n\n") {
		return true
	}
	ticker := time.NewTicker(keepAlive)
	defer ticker.Stop()
	for {
		text := ": still here\n\n"
		select {
		case <-r.Context().Done():
			return true
		case <-ticker.C:
		case change := <-l.changes:
			text = eventText(change)
		}
		if !c.now().Before(who.expires) || who.session != nil && !c.sessions.live(who.session, c.now()) {
			send("event: end\ndata: {}\n\n")
			return true
		}
		if !send(text) {
			return true
		}
	}
}

func eventText(change approval.Change) string {
	if change.ID == "" {
		return "event: reset\ndata: {}\n\n"
	}
	data, err := json.Marshal(changeEvent{change.ID, change.Rev, change.State})
	if err != nil {
		return "event: reset\ndata: {}\n\n"
	}
	return "event: approval\ndata: " + string(data) + "\n\n"
}
