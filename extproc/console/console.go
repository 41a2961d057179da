// Package console is where people answer: a web page for approvers, and the JSON API that the command line and other
// tools use. It holds no rule of its own about who may approve what: every answer goes to the desk
// (approval.Desk.Decide), which refuses and records on its own.
//
// # Two doors
//
// The API (/api/…, described by openapi.yaml, which is served beside it) takes a bearer token of the people's issuer,
// verified as an agent's is, and nothing else: no cookie means anything there, so that no other site can make a browser
// answer. No answer has a CORS header. The token must be a person's own, issued to a client that people use and showing that
// somebody signed in; an agent's sees nothing.
//
// The pages take a session, and nothing else. Signing in is OpenID Connect's authorization code flow with PKCE (S256),
// state and nonce. What a sign-in under way must remember is sealed in a cookie of the browser that began it, so that a code
// that was made for somebody else's browser is worth nothing in this one, and that strangers cannot fill our memory.
//
// # Sessions
//
// A session is 256 random bits in a cookie (`__Host-`, Secure, HttpOnly, SameSite=Lax), of which we keep the SHA-256. It is
// new with every sign-in, ends after 15 minutes without a request or an hour after the sign-in, whichever comes first, and
// is in the memory of this process: a restart, or another gateway behind the same name, asks people to sign in again. An
// hour, because what the issuer said of groups is believed for that long; signing in again is one redirect where the
// issuer still knows the browser. Waiting for live updates does not keep a session alive.
//
// Lax and not Strict, because people come here from a link in a chat. What changes anything is a POST that must come
// from our own page by three independent signs: SameSite, Sec-Fetch-Site or Origin, and a token of the session
// in the form. Referrer-Policy is same-origin and not no-referrer, because under the latter Chromium sends `Origin: null`
// with a form, which would leave nothing to check; no other site learns anything from either.
//
// An answer that comes from our page without a live session counts for nothing, and the reason is not lost: it is sealed in a cookie
// for 15 minutes, and the sign-in that follows leads back to the request, whose page shows it again, once. It is shown to the person
// whose page it was, in a session that began later, as something to send or not. Where a restart comes between the two, or another
// gateway, it is gone; what the page's script keeps in its tab is not.
//
// The cookies are Secure on plain http too. Browsers take and send such cookies on localhost and 127.0.0.1, and nowhere else.
//
// # Who sees what
//
// Whoever can sign in at the people's issuer as a user of this client sees requests, cards and records; give the client to
// those who may. What they can decide is the rules' to say. Every operation, whether people were asked or not, is for auditors alone
// (people.auditors); others see the records of an operation that a request leads to. Whoever acts or answers is the pair (issuer, subject); the name that
// their token claims is shown before it, in quotes and never without it, and decides nothing.
//
// Requests are shown as their card, which has made hostile text visible already (approval.Visible); what a page shows
// beside the card goes through the same function, all of it through html/template, and the pages run under a
// Content-Security-Policy that has no inline script or style.
//
// # A card's page
//
// Its first screen says what will run (in policy's words where it has some, else verb and target, and the first values), why, who
// asks, and how long the agent still waits, and has the answer, which stays in view. Below it, folded, is every value of the card. A
// card with a member that the page does not show is not shown. What others answer, who waits and how it ended come to the page as
// they happen; what somebody is typing is left alone while they can send it.
//
// # What was misread
//
// Fifteen requests were read for ten seconds each. The path and method that a body has were taken for those of the request: the name of
// the member is left out only where nothing looks like another value then. The end of a long target, which says what is done, was cut: the
// middle is. Where nothing is carried, "more values" were looked for in vain, and an empty body made a second group of the same name: the
// page says that nothing is carried, and what is short is in one group.
//
// # Refusals
//
// What is refused here before it reaches the desk is recorded as identity.refused, with one of the reasons of package
// identity or of this one ([ReasonSession] and on). A refusal that cannot be recorded is a 503.
package console

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/loopback"
)

// Desk is where requests are and answers go. approval.Desk is one.
type Desk interface {
	// List returns the requests that f selects, newest first, with their cards.
	List(ctx context.Context, f approval.Filter) (approval.Page, error)
	// Get returns a request with its card; approval.ErrNotFound when there is none.
	Get(ctx context.Context, id string) (approval.Request, error)
	// Decide takes an answer: without an error it is stored and recorded. Its refusals are errors of package approval.
	Decide(ctx context.Context, by approval.Approver, id string, a approval.Answer) (approval.Request, error)
	// MayDecide says why this person could not decide on r now; nil when they could.
	MayDecide(by approval.Approver, r *approval.Request, now time.Time) error
}

// Watcher tells of changes as approval.Store does.
type Watcher interface {
	// Watch tells of every change made after it has returned, until ctx ends or the channel is closed. The zero Change
	// says that some may have been missed.
	Watch(ctx context.Context) (<-chan approval.Change, error)
}

// Verifier verifies bearer tokens. identity.Verifier is one, made for the people's issuer alone, with the clients that people
// use: it is what tells a person's token from an agent's.
type Verifier interface {
	// Verify returns whom the token is for. Its error is an *identity.Refusal.
	Verify(ctx context.Context, token string) (*gate.Principal, error)
}

// Record is one record of the journal.
type Record struct {
	Seq  uint64
	Time time.Time
	Node string
	Type string
	Op   string
	Hash string // SHA-256 of the line, in hex
	Body []byte // canonical JSON
}

// Glance is a record of which the body has not been read yet.
type Glance struct {
	Seq      uint64
	Time     time.Time
	Type, Op string
	Read     func() (Record, error) // until the next one is taken
}

// Journal is the evidence, as far as it is shown.
type Journal interface {
	// Back is the journal as far as it is on the disk for good, newest first: before record before, or from its end where that
	// is 0; and of what was written by until, where that is set.
	Back(ctx context.Context, before uint64, until time.Time) iter.Seq2[Glance, error]
	// Forth is what comes after a record, oldest first.
	Forth(ctx context.Context, after uint64) iter.Seq2[Glance, error]

	// Records are those of one operation, oldest first, and no more than limit.
	Records(ctx context.Context, op string, limit int) ([]Record, error)
	// Prove returns, as JSON, a proof that the record is in the journal, verified with the gateway's public key.
	Prove(ctx context.Context, seq uint64) ([]byte, error)
}

// Resource is what people are told of one.
type Resource struct {
	Name   string
	Kind   string
	Hold   time.Duration
	Demand approval.Demand
}

// Options are what a console is made of. All are required unless they say otherwise.
type Options struct {
	// URL is where people reach the console: https://HOST[:PORT], or http:// on loopback. The issuer must know URL/callback
	// as the client's redirect URI.
	URL string

	Issuer       string                 // of the people, exactly
	Kind         string                 // how its claims are read, as identity.Issuer has it
	ClientID     string                 // of the console at the issuer
	ClientSecret func() (string, error) // for a confidential client; asked at every sign-in; may be nil
	Algorithms   []string               // of ID tokens; RS256 and ES256 unless set
	GroupsClaim  string                 // "groups" unless set; named as identity.Issuer.GroupsClaim
	PersonClaim  string                 // the claim that people share with agents' issuers; none unless set
	NameClaim    string                 // the claim that has what a person is called: identity.Issuer.PersonNameClaim
	CAFile       string                 // PEM roots for the issuer; the system's unless set
	Insecure     bool                   // accept a plain-http issuer that is not on loopback

	People   Verifier
	Desk     Desk
	Watch    Watcher
	Recorder gate.Recorder
	Journal  Journal // without one, an operation's records are not shown

	Auditors []string // who may see every operation: groups, and "subject:ID"; nobody unless set

	Resources    func() []Resource // of now; may be nil
	Held         func() int        // operations that are held now; may be nil
	ConfigDigest func() string     // of now, for records; may be nil
	Log          *slog.Logger      // may be nil
	Now          func() time.Time  // time.Now unless set
}

// Console serves the pages and the API.
type Console struct {
	opt      Options
	base     *url.URL
	secure   bool // the pages come over TLS
	now      func() time.Time
	log      *slog.Logger
	signIn   *signIn
	sessions sessions
	shown    shown
	briefs   briefs
	feed     feed
	proving  chan struct{} // holds one
	looking  chan struct{} // holds two
	pages    *template.Template
	handler  http.Handler
}

//go:embed templates static openapi.yaml
var files embed.FS

// New makes a console. It reads files, and does not need the issuer to be reachable.
func New(o Options) (*Console, error) {
	if o.People == nil || o.Desk == nil || o.Watch == nil || o.Recorder == nil || o.ClientID == "" || o.Issuer == "" {
		return nil, errors.New("a console needs the people's issuer, a client id, a verifier, a desk, a watcher and a recorder")
	}
	base, err := readBase(o.URL)
	if err != nil {
		return nil, fmt.Errorf("the console's address: %w", err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Resources == nil {
		o.Resources = func() []Resource { return nil }
	}
	if o.ConfigDigest == nil {
		o.ConfigDigest = func() string { return "" }
	}
	if o.GroupsClaim == "" {
		o.GroupsClaim = "groups"
	}
	if len(o.Algorithms) == 0 {
		o.Algorithms = []string{"RS256", "ES256"}
	}
	c := &Console{opt: o, base: base, secure: base.Scheme == "https", now: o.Now, log: o.Log}
	if c.signIn, err = newSignIn(o, base); err != nil {
		return nil, err
	}
	c.sessions.init()
	c.shown.init()
	c.briefs.init()
	c.proving = make(chan struct{}, 1)
	c.looking = make(chan struct{}, 2)
	c.feed.init(o.Watch, o.Log)
	if c.pages, err = template.New("").Funcs(c.functions()).ParseFS(files, "templates/*.html"); err != nil {
		return nil, fmt.Errorf("read the templates: %w", err)
	}
	c.handler = c.routes()
	return c, nil
}

func readBase(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, err
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q is not https://HOST[:PORT]", text)
	case u.Scheme == "http" && !loopback.Host(u.Hostname()):
		return nil, fmt.Errorf("%q is plain http and not on loopback: approvers' sessions would cross the network in the clear", text)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// Handler serves the console.
func (c *Console) Handler() http.Handler { return c.handler }

func (c *Console) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/openapi.yaml", c.serveDocument)
	mux.HandleFunc("GET /api/approvals", c.api(c.apiList))
	mux.HandleFunc("GET /api/approvals/events", c.api(c.apiEvents))
	mux.HandleFunc("GET /api/approvals/{id}", c.api(c.apiGet))
	mux.HandleFunc("POST /api/approvals/{id}/decisions", c.api(c.apiDecide))
	mux.HandleFunc("GET /api/operations", c.api(c.auditors(true, c.apiOperations)))
	mux.HandleFunc("/api/", c.apiNothing)

	mux.HandleFunc("GET /login", c.beginSignIn)
	mux.HandleFunc("GET /callback", c.endSignIn)
	mux.HandleFunc("GET /signed-out", c.signedOut)
	mux.HandleFunc("POST /logout", c.page(c.logout))
	mux.HandleFunc("GET /{$}", c.page(c.queuePage))
	mux.HandleFunc("GET /queue", c.page(c.queueFragment))
	mux.HandleFunc("GET /events", c.page(c.pageEvents))
	mux.HandleFunc("GET /approvals/{id}", c.page(c.cardPage))
	mux.HandleFunc("GET /approvals/{id}/live", c.page(c.cardFragment))
	mux.HandleFunc("POST /approvals/{id}/decision", c.page(c.decidePage))
	mux.HandleFunc("GET /history", c.page(c.historyPage))
	mux.HandleFunc("GET /holds", c.page(c.holdsPage))
	mux.HandleFunc("GET /approvers", c.page(c.approversPage))
	mux.HandleFunc("GET /operations", c.page(c.auditors(false, c.operationsPage)))
	mux.HandleFunc("GET /operations/live", c.page(c.auditors(false, c.operationsLive)))
	mux.HandleFunc("GET /operations.csv", c.page(c.auditors(false, c.operationsCSV)))
	mux.HandleFunc("GET /operations/{op}", c.page(c.operationPage))
	mux.HandleFunc("GET /operations/{op}/proofs/{seq}", c.page(c.proof))
	mux.HandleFunc("GET /me", c.page(c.mePage))
	mux.HandleFunc("GET /help", c.page(c.helpPage))
	for _, name := range []string{"console.css", "console.js", "operations.js"} { // and no list of files
		mux.Handle("GET /static/"+name, http.FileServerFS(files))
	}
	mux.HandleFunc("/", c.pageNothing)
	return c.guard(mux)
}

// secret is 256 random bits as text.
func secret() string {
	return rand.Text() + rand.Text()
}
