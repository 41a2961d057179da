package extproc

import (
	"log/slog"
	"strings"
	"sync"
	"time"
)

// logEvery is how often the log repeats that a target fails.
const logEvery = time.Minute

// targets tells whoever runs the gateway which targets cannot be reached or break off, in Envoy's words.
type targets struct {
	mu   sync.Mutex
	down map[string]*failing // by resource; of those of the configuration, so that there are few
}

type failing struct {
	logged   time.Time // the last line
	unlogged int       // failures since
	words    string    // of the last; "" once the target has answered again
	again    bool      // since the last line one said that it answers again
}

// seen counts what Envoy's access log says of a target, and logs its failures: the first at once, and then no more than one a
// minute for each resource.
func (s *Server) seen(t *transit, known bool) {
	resource := t.resource
	if !known {
		resource = "other" // what Envoy calls a route could be of its own making
	}
	if t.trouble == "" {
		if t.upstream != "" && !t.clientGone {
			s.targets.answered(resource, s.lane.Log)
		}
		return
	}
	if f := s.lane.Observer.TargetFailed; f != nil {
		f(resource)
	}
	s.targets.mu.Lock()
	defer s.targets.mu.Unlock()
	f := s.targets.down[resource]
	if f == nil {
		f = &failing{}
		if s.targets.down == nil {
			s.targets.down = map[string]*failing{}
		}
		s.targets.down[resource] = f
	}
	f.words = t.words()
	now := s.lane.Now()
	if now.Sub(f.logged) < logEvery {
		f.unlogged++
		return
	}
	s.lane.Log.Warn("a target failed", slog.String("resource", resource), slog.String("target", t.Upstream), slog.String("error", f.words), slog.Int("since_last_line", f.unlogged))
	f.logged, f.unlogged, f.again = now, 0, false
}

func (t *targets) answered(resource string, log *slog.Logger) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.down[resource]; f != nil && f.words != "" {
		f.words = ""
		if !f.again { // one line for each that it failed
			f.again = true
			log.Info("a target answers again", slog.String("resource", resource))
		}
	}
}

// FailingTargets are the resources whose target failed when it was asked last, and Envoy's words.
func (s *Server) FailingTargets() map[string]string {
	s.targets.mu.Lock()
	defer s.targets.mu.Unlock()
	list := map[string]string{}
	for resource, f := range s.targets.down {
		if f.words != "" {
			list[resource] = f.words
		}
	}
	return list
}

// words are Envoy's on why a target failed: what it flags, how the request ended, and what the connection failed of.
func (t *transit) words() string {
	words := t.trouble + ": " + t.Details
	if t.Failure != "" && !strings.Contains(t.Details, strings.ReplaceAll(t.Failure, " ", "_")) {
		words += ": " + t.Failure
	}
	return words
}
