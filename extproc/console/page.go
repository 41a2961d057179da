package console

import (
	"bytes"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strings"
)

const maxForm = 16 << 10

// page lets people with a session in. What changes anything must come from a page of ours, too.
func (c *Console) page(serve func(http.ResponseWriter, *http.Request, *person)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		safe := r.Method == http.MethodGet || r.Method == http.MethodHead
		s := c.session(w, r, safe)
		if s == nil {
			return
		}
		if !safe && !c.ownForm(w, r, s) {
			return
		}
		serve(w, r, &s.who)
	}
}

// session is the request's, or nil when it has been answered.
func (c *Console) session(w http.ResponseWriter, r *http.Request, safe bool) *session {
	id, there, one := cookie(r, sessionCookie)
	background := r.URL.Path == "/events" || r.URL.Path == "/queue" || strings.HasSuffix(r.URL.Path, "/live")
	s, known := c.sessions.find(id, c.now(), !background)
	if there && one && s != nil {
		return s
	}
	if there {
		setCookie(w, sessionCookie, "", 0)
	}
	ended := unauthenticated("You are not signed in, or not any more.")
	switch id := r.PathValue("id"); {
	case safe && !background:
		ended.at, _ = localPath(r.URL.RequestURI())
	case !safe && plainID(id): // an answer
		ended.at = "/approvals/" + id
		if c.keepTyped(w, r, id) {
			ended.detail += " Nothing was sent. What you typed is kept in this browser for a while: sign in, and it is there again."
		}
	}
	switch {
	case there && (!one || !known):
		c.refuse(w, r, false, &refusal{reason: ReasonSession, detail: "a cookie is of no session that this gateway knows", problem: ended})
	case safe && !background:
		http.Redirect(w, r, signInAt(r.URL.RequestURI()), http.StatusSeeOther)
	default:
		c.showProblem(w, r, ended)
	}
	return nil
}

// ownForm reads a form that our page sent for this session; it is false when the request has been answered.
func (c *Console) ownForm(w http.ResponseWriter, r *http.Request, s *session) bool {
	forged := &refusal{
		reason: ReasonCrossSite, issuer: s.who.Issuer, subject: s.who.Subject,
		problem: denied(ReasonCrossSite, "This did not come from a page of the console, so nothing was done. Open the request in the console and decide there."),
	}
	if !c.sameSite(r) {
		forged.detail = "the browser says that the form is of another site"
		c.refuse(w, r, false, forged)
		return false
	}
	if p := readForm(w, r); p.status != 0 {
		c.showProblem(w, r, p)
		return false
	}
	if tokens := r.PostForm["csrf"]; len(tokens) != 1 || !s.token(tokens[0]) {
		forged.detail = "the form does not have the token of the session"
		c.refuse(w, r, false, forged)
		return false
	}
	return true
}

// readForm parses a form of ours, which has a bounded size.
func readForm(w http.ResponseWriter, r *http.Request) problem {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" || r.URL.RawQuery != "" {
		return unreadable("This is not a form of the console.")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		var long *http.MaxBytesError
		if errors.As(err, &long) {
			return problem{kind: "too-large", title: "Too large", status: http.StatusRequestEntityTooLarge, detail: "The form is too large. Write a shorter reason."}
		}
		return unreadable("The form cannot be read.")
	}
	return problem{}
}

func (c *Console) logout(w http.ResponseWriter, r *http.Request, _ *person) {
	if id, there, _ := cookie(r, sessionCookie); there {
		c.sessions.end(id)
	}
	setCookie(w, sessionCookie, "", 0)
	setCookie(w, typedCookie, "", 0)
	w.Header().Set("Clear-Site-Data", `"cache", "storage"`)
	http.Redirect(w, r, "/signed-out", http.StatusSeeOther)
}

// view is what every page has.
type view struct {
	Title  string
	Here   string // which entry of the navigation this is
	Who    *person
	Audits bool // people.auditors names them
	CSRF   string
	Error  string // of a form that was refused
	Data   any
}

func (c *Console) show(w http.ResponseWriter, status int, name string, v view) {
	if v.Who != nil && v.Who.session != nil {
		v.CSRF = v.Who.session.csrf
	}
	v.Audits = v.Who != nil && c.audits(v.Who)
	var b bytes.Buffer
	if err := c.pages.ExecuteTemplate(&b, name, v); err != nil {
		c.log.Error("a page could not be written", "page", name, "error", err)
		http.Error(w, "the page cannot be written", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// showProblem answers with a page, or with problem+json to whoever does not want one.
func (c *Console) showProblem(w http.ResponseWriter, r *http.Request, p problem) {
	if accept := r.Header.Get("Accept"); strings.HasPrefix(accept, "application/") && !strings.Contains(accept, "html") {
		writeProblem(w, p)
		return
	}
	if p.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	v := view{Title: p.title, Data: problemView{Status: p.status, Detail: p.detail, At: p.at}}
	if p.status == http.StatusUnauthorized {
		v.Data = problemView{Status: p.status, Detail: p.detail, SignIn: signInAt(p.at)}
	}
	if id, there, one := cookie(r, sessionCookie); there && one {
		if s, _ := c.sessions.find(id, c.now(), false); s != nil {
			v.Who = &s.who
		}
	}
	c.show(w, p.status, "problem", v)
}

type problemView struct {
	Status int
	Detail string
	At     string
	SignIn string // where to sign in
}

// signInAt is where a sign-in begins that ends at path.
func signInAt(path string) string {
	if path == "" {
		return "/login"
	}
	return "/login?return=" + url.QueryEscape(path)
}

func (c *Console) pageNothing(w http.ResponseWriter, r *http.Request) {
	c.showProblem(w, r, problem{kind: "not-found", title: "Not found", status: http.StatusNotFound, detail: "The console has no such page. The address may be cut off, or mistyped."})
}

func (c *Console) signedOut(w http.ResponseWriter, _ *http.Request) {
	c.show(w, http.StatusOK, "signed-out", view{Title: "Signed out"})
}
