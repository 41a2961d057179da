package console

import (
	"net/http"
	"strings"
	"time"
)

const (
	typedLife = 15 * time.Minute // longer than a sign-in may take
	maxTyped  = 3500             // sealed; browsers keep 4096 bytes with the name
)

// typedText is the reason of an answer that came without a session, as the browser keeps it, sealed. It is one: that of the last
// such answer.
type typedText struct {
	Approval string `json:"approval"`
	Person   string `json:"person"` // whose page it was (person.Mark); empty where the form did not say
	Reason   string `json:"reason"`
	At       int64  `json:"at"` // Unix, in nanoseconds
}

// keepTyped keeps what was typed into a form of ours, and reports whether it did. Nobody is signed in: that the form is ours is
// what the browser says.
func (c *Console) keepTyped(w http.ResponseWriter, r *http.Request, id string) bool {
	if !c.sameSite(r) || readForm(w, r).status != 0 {
		return false
	}
	t := typedText{id, r.PostForm.Get("person"), reasonOf(r), c.now().UnixNano()}
	if strings.TrimSpace(t.Reason) == "" || len(r.PostForm["reason"]) != 1 || len(r.PostForm["person"]) > 1 {
		return false
	}
	sealed, err := c.signIn.sealer.seal(typedCookie, t)
	if err != nil || len(sealed) > maxTyped {
		return false
	}
	setCookie(w, typedCookie, sealed, typedLife)
	return true
}

// typedBefore is what this person typed about the request before their session ended, once. It is for who signed in after that.
func (c *Console) typedBefore(w http.ResponseWriter, r *http.Request, id string, who *person) string {
	sealed, there, one := cookie(r, typedCookie)
	if !there || !one {
		return ""
	}
	var t typedText
	if err := c.signIn.sealer.open(typedCookie, sealed, &t); err != nil {
		return ""
	}
	at := time.Unix(0, t.At)
	switch {
	case t.Approval != id:
		return ""
	case t.Person != "" && t.Person != who.Mark():
		return ""
	case !at.Before(who.session.began()):
		return ""
	case c.now().Sub(at) > typedLife:
		return ""
	}
	setCookie(w, typedCookie, "", 0)
	return t.Reason
}

// reasonOf is the reason in a form, with the lines as they were typed.
func reasonOf(r *http.Request) string {
	return strings.ReplaceAll(r.PostForm.Get("reason"), "\r\n", "\n")
}
