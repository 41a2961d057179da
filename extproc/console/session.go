package console

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"sync"
	"time"
)

const (
	sessionCookie = "__Host-countersign"
	signInCookie  = "__Host-countersign-signin"
	typedCookie   = "__Host-countersign-typed"

	sessionIdle = 15 * time.Minute // without a request
	sessionLife = time.Hour        // since the sign-in

	maxSessions          = 10_000
	maxSessionsPerPerson = 10
)

// session is a person who signed in with one browser.
type session struct {
	key  [sha256.Size]byte // of its id, which only the browser has
	who  person
	csrf string // of its forms
	used time.Time
}

// sessions are those of this process.
type sessions struct {
	mu   sync.Mutex
	list map[[sha256.Size]byte]*session
}

func (s *sessions) init() { s.list = map[[sha256.Size]byte]*session{} }

// begin returns the id of a new session.
func (s *sessions) begin(who person, now time.Time) string {
	id := secret()
	n := &session{key: sha256.Sum256([]byte(id)), who: who, csrf: secret(), used: now}
	n.who.expires = now.Add(sessionLife)
	n.who.session = n
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRoomLocked(&who, now)
	s.list[n.key] = n
	return id
}

// makeRoomLocked forgets what has ended, and of what is left the least recently used where there is too much of it.
func (s *sessions) makeRoomLocked(who *person, now time.Time) {
	var oldest, own *session
	mine := 0
	for key, x := range s.list {
		switch {
		case x.ended(now):
			if now.Sub(x.used) > 2*sessionLife { // until then its cookie is an old one, and not a forged one
				delete(s.list, key)
			}
			continue
		case x.who.key() == who.key():
			mine++
			if own == nil || x.used.Before(own.used) {
				own = x
			}
		}
		if oldest == nil || x.used.Before(oldest.used) {
			oldest = x
		}
	}
	if mine >= maxSessionsPerPerson {
		delete(s.list, own.key)
	}
	if len(s.list) >= maxSessions && oldest != nil {
		delete(s.list, oldest.key)
	}
}

// began is when the person signed in.
func (x *session) began() time.Time { return x.who.expires.Add(-sessionLife) }

func (x *session) ended(now time.Time) bool {
	return !now.Before(x.who.expires) || now.Sub(x.used) >= sessionIdle
}

// find returns the session of an id; known is true too where there was one that has ended. touch keeps it from idling.
func (s *sessions) find(id string, now time.Time, touch bool) (x *session, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x = s.list[sha256.Sum256([]byte(id))]
	if x == nil {
		return nil, false
	}
	if x.ended(now) {
		return nil, true
	}
	if touch {
		x.used = now
	}
	return x, true
}

func (s *sessions) live(x *session, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list[x.key] == x && !x.ended(now)
}

func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.list, sha256.Sum256([]byte(id)))
}

func (x *session) token(given string) bool {
	return len(given) == len(x.csrf) && subtle.ConstantTimeCompare([]byte(given), []byte(x.csrf)) == 1
}

func setCookie(w http.ResponseWriter, name, value string, age time.Duration) {
	cookie := &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: int(age / time.Second), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
	if value == "" {
		cookie.MaxAge = -1
	}
	http.SetCookie(w, cookie)
}

// cookie is a request's one cookie of that name; twice is false: somebody may have put the second there.
func cookie(r *http.Request, name string) (value string, there, one bool) {
	list := r.CookiesNamed(name)
	if len(list) == 0 {
		return "", false, true
	}
	return list[0].Value, true, len(list) == 1
}
