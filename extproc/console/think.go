package console

import (
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

// shown remembers when a card was first shown to a person, so that a decision can say how long they looked. It is a signal
// and not a proof: with several gateways, or after a restart, it is not known.
type shown struct {
	mu    sync.Mutex
	first map[showing]time.Time
}

type showing struct {
	who  approval.Party
	card string
}

const (
	shownFor   = 24 * time.Hour
	shownLimit = 20_000
)

func (s *shown) init() { s.first = map[showing]time.Time{} }

func (s *shown) note(who approval.Party, card string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := showing{who, card}
	if _, ok := s.first[k]; ok {
		return
	}
	if len(s.first) >= shownLimit {
		for k, at := range s.first {
			if now.Sub(at) > shownFor {
				delete(s.first, k)
			}
		}
		for k := range s.first {
			if len(s.first) < shownLimit {
				break
			}
			delete(s.first, k)
		}
	}
	s.first[k] = now
}

// think is the time since; 0 where the card was not seen to be shown.
func (s *shown) think(who approval.Party, card string, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.first[showing{who, card}]
	if !ok {
		return 0
	}
	return max(now.Sub(at), time.Millisecond)
}
