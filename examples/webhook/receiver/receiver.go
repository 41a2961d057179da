// Package receiver takes Countersign's notifications, as one should: the signature first, then whether it is fresh and new, and only
// then what it says. The samples beside it tell what came, each in its way.
//
// It is trusted with the secret, and can tell and nothing else. Copy it, or write your own by README.md's list.
package receiver

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Event is the part of a notification that is told.
type Event struct {
	EventID    string    `json:"event_id"`
	Event      string    `json:"event"`
	ID         string    `json:"id"`
	State      string    `json:"state"`
	Resource   string    `json:"resource"`
	Verb       string    `json:"verb"`
	Agent      Party     `json:"agent"`
	OnBehalfOf *Party    `json:"on_behalf_of"`
	Expires    time.Time `json:"expires"`
	URL        string    `json:"url"`
	Asks       []Ask     `json:"asks"`
	Decision   *Decision `json:"decision"`
}

// Ask is a rule that asks.
type Ask struct {
	Rule      string   `json:"rule"`
	Approvers []string `json:"approvers"`
	Quorum    int      `json:"quorum"`
	Summary   string   `json:"summary"` // what will run, in the policy's own words; empty where it has none
}

// Decision is what one person answered.
type Decision struct {
	Decision string `json:"decision"`
	Approver Party  `json:"approver"`
}

// Party is who acts. A name is what was claimed, and may be empty.
type Party struct {
	Name    string `json:"name"`
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// Plain is somebody's name, which they may have chosen, in quotes, with the subject that is theirs alone: each at most so many characters.
func (p Party) Plain(most int) string {
	subject := Plain(p.Subject, most)
	if p.Name == "" || p.Name == p.Subject {
		return subject
	}
	return fmt.Sprintf("“%s” (%s)", strings.NewReplacer("“", `"`, "”", `"`).Replace(Plain(p.Name, most)), subject)
}

// Flags are those that each of the samples has.
func Flags(f *flag.FlagSet) (listen, secretFile *string) {
	return f.String("listen", "127.0.0.1:9500", "the `address` to receive on; put TLS before it"),
		f.String("secret-file", "", "the `file` that approvals.webhook.secret_file names too")
}

// Receiver tells each notification that is genuine, fresh and new.
type Receiver struct {
	Secret []byte
	Tell   func(ctx context.Context, e *Event) error
	Now    func() time.Time // time.Now when nil

	once Once
}

// New is a receiver with the secret that is in a file.
func New(secretFile string, tell func(ctx context.Context, e *Event) error) (*Receiver, error) {
	if secretFile == "" {
		return nil, errors.New("-secret-file is missing: it names the file that approvals.webhook.secret_file names too")
	}
	secret, err := Secret(secretFile)
	if err != nil {
		return nil, err
	}
	return &Receiver{Secret: []byte(secret), Tell: tell}, nil
}

const (
	skew      = 5 * time.Minute // of a timestamp, either way
	remember  = time.Hour       // an event is sent again for a few minutes, and by each gateway on one store
	bodyBytes = 64 << 10
)

var errNotGenuine = errors.New("the signature or the timestamp is not good")

// ErrNever is an error of Tell where trying again would not help.
var ErrNever = errors.New("it will not be taken")

// ServeHTTP answers 2xx for what it has dealt with, 4xx for what it will never take, and 5xx for what is to be sent again.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, bodyBytes))
	if err != nil {
		http.Error(w, "too large, or cut off", http.StatusBadRequest)
		return
	}
	if err := r.genuine(req.Header, body); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	var e Event
	if err := json.Unmarshal(body, &e); err != nil || e.EventID == "" {
		http.Error(w, "not an event", http.StatusBadRequest)
		return
	}
	// By the id of the body: the header's is not signed.
	switch err := r.once.Do(e.EventID, func() error { return r.Tell(req.Context(), &e) }); {
	case errors.Is(err, ErrNever):
		http.Error(w, "the chat will not take it", http.StatusUnprocessableEntity)
	case err != nil:
		http.Error(w, "the chat does not answer", http.StatusBadGateway)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (r *Receiver) now() time.Time {
	if r.Now == nil {
		return time.Now()
	}
	return r.Now()
}

// genuine checks the signature over the bytes as they came, before anything else is made of them.
func (r *Receiver) genuine(h http.Header, body []byte) error {
	timestamp := h.Get("Countersign-Timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return errNotGenuine
	}
	if age := r.now().Sub(time.Unix(seconds, 0)); age > skew || age < -skew {
		return errNotGenuine
	}
	given, ok := strings.CutPrefix(h.Get("Countersign-Signature"), "v1=")
	sum, err := hex.DecodeString(given)
	if !ok || err != nil {
		return errNotGenuine
	}
	mac := hmac.New(sha256.New, r.Secret)
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	if !hmac.Equal(sum, mac.Sum(nil)) { // in constant time
		return errNotGenuine
	}
	return nil
}

// Once does things once. The zero value has done none.
type Once struct {
	mu   sync.Mutex
	done map[string]time.Time
}

// Do does what has that id, unless it was done, or is being done, within the last hour. What fails can be done again.
func (o *Once) Do(id string, do func() error) error {
	if !o.take(id) {
		return nil
	}
	err := do()
	if err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.done, id)
	}
	return err
}

func (o *Once) take(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.done == nil {
		o.done = map[string]time.Time{}
	}
	now := time.Now()
	for old, at := range o.done {
		if now.Sub(at) > remember {
			delete(o.done, old)
		}
	}
	if _, known := o.done[id]; known {
		return false
	}
	o.done[id] = now
	return true
}

// Secret reads a secret from a file: the webhook's, or the URL of an incoming webhook, which is one too.
func Secret(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the secret: %w", err)
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("read the secret: %s is empty", file)
	}
	return secret, nil
}

// Serve receives on an address until it fails.
func Serve(address string, r *Receiver) error {
	server := &http.Server{
		Addr: address, Handler: r, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, MaxHeaderBytes: 16 << 10,
	}
	return server.ListenAndServe()
}

// Plain is what others chose (names of agents, their methods, values in a summary) as one line of at most that many characters:
// what could act, turn a line around or show nothing is written out, and what a chat would make a link, a mention or a
// layout of is kept from it.
func Plain(s string, most int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		n++
		switch {
		case n > most:
			return unlinked.Replace(b.String()) + "… (cut)"
		case unicode.Is(unicode.Bidi_Control, r), unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r),
			unicode.Is(unicode.Variation_Selector, r), !unicode.IsGraphic(r), r == unicode.ReplacementChar:
			fmt.Fprintf(&b, `\u{%X}`, r)
		default:
			b.WriteRune(r)
		}
	}
	return unlinked.Replace(b.String())
}

// unlinked puts a space of no width where chats would see more than text.
var unlinked = strings.NewReplacer("@", "@\u200b", "://", ":\u200b//", "](", "]\u200b(", "`", "'")

// client follows no redirect, which would tell others the URL.
var client = &http.Client{
	Timeout:       5 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Post sends a message as JSON to a chat's URL, which is a secret. Where the chat refuses it, trying again would not help, unless it
// is busy.
func Post(ctx context.Context, url string, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(string(body)))
	if err != nil {
		return errors.New("the chat's URL cannot be read")
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return errors.New("the chat cannot be reached")
	}
	defer func() { _ = resp.Body.Close() }()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode/100 == 5:
		return fmt.Errorf("the chat answers %d: %s", resp.StatusCode, Plain(string(said), 200))
	default:
		return fmt.Errorf("the chat answers %d: %s: %w", resp.StatusCode, Plain(string(said), 200), ErrNever)
	}
}
