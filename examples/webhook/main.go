// Command webhook receives Countersign's notifications about approvals, checks that they are genuine, fresh and new, and posts
// a line about each to a chat. It is a sample: README.md says what to keep when you write your own.
//
// It can tell and nothing else. Whoever follows its link signs in at the console and sees the card there.
package main

import (
	"bytes"
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
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "webhook:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("webhook", flag.ContinueOnError)
	listen := f.String("listen", "127.0.0.1:9500", "the `address` to receive on; put TLS before it")
	secretFile := f.String("secret-file", "", "the `file` that approvals.webhook.secret_file names too")
	chatFile := f.String("chat-file", "", "a `file` that holds the chat's incoming-webhook URL, which is a secret; without one, lines are printed")
	if err := f.Parse(args); err != nil {
		return err
	}
	secret, err := os.ReadFile(*secretFile)
	if err != nil {
		return fmt.Errorf("read the secret: %w", err)
	}
	post := func(_ context.Context, line string) error {
		_, err := fmt.Println(line)
		return err
	}
	if *chatFile != "" {
		url, err := os.ReadFile(*chatFile)
		if err != nil {
			return fmt.Errorf("read the chat's URL: %w", err)
		}
		post = chat(strings.TrimSpace(string(url)))
	}
	server := &http.Server{
		Addr: *listen, Handler: newReceiver(bytes.TrimRight(secret, "\r\n"), post),
		ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, MaxHeaderBytes: 16 << 10,
	}
	return server.ListenAndServe()
}

// receiver takes notifications and posts a line about each that is genuine, fresh and new.
type receiver struct {
	secret []byte
	post   func(ctx context.Context, line string) error
	now    func() time.Time

	mu    sync.Mutex
	taken map[string]time.Time // event ids
}

const (
	skew      = 5 * time.Minute // of a timestamp, either way
	remember  = time.Hour       // an event is sent again for a few minutes, and by each gateway on one store
	bodyBytes = 64 << 10
)

func newReceiver(secret []byte, post func(context.Context, string) error) *receiver {
	return &receiver{secret: secret, post: post, now: time.Now, taken: map[string]time.Time{}}
}

var errNotGenuine = errors.New("the signature or the timestamp is not good")

// ServeHTTP answers 2xx for what it has dealt with, 4xx for what it will never take, and 5xx for what is to be sent again.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, bodyBytes))
	if err != nil {
		http.Error(w, "too large, or cut off", http.StatusBadRequest)
		return
	}
	if err := r.genuine(req.Header, body); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil || e.EventID == "" {
		http.Error(w, "not an event", http.StatusBadRequest)
		return
	}
	if !r.take(e.EventID) { // the id of the body: the header's is not signed
		w.WriteHeader(http.StatusOK)
		return
	}
	if err := r.post(req.Context(), e.line()); err != nil {
		r.giveBack(e.EventID)
		http.Error(w, "the chat does not answer", http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// genuine checks the signature over the bytes as they came, before anything else is made of them.
func (r *receiver) genuine(h http.Header, body []byte) error {
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
	mac := hmac.New(sha256.New, r.secret)
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	if !hmac.Equal(sum, mac.Sum(nil)) { // in constant time
		return errNotGenuine
	}
	return nil
}

// take is true the first time.
func (r *receiver) take(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	for old, at := range r.taken {
		if now.Sub(at) > remember {
			delete(r.taken, old)
		}
	}
	if _, known := r.taken[id]; known {
		return false
	}
	r.taken[id] = now
	return true
}

func (r *receiver) giveBack(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.taken, id)
}

// event is the part of a notification that this sample tells.
type event struct {
	EventID  string `json:"event_id"`
	Event    string `json:"event"`
	State    string `json:"state"`
	Resource string `json:"resource"`
	Verb     string `json:"verb"`
	Agent    party  `json:"agent"`
	URL      string `json:"url"`
	Asks     []struct {
		Approvers []string `json:"approvers"`
	} `json:"asks"`
	Decision *struct {
		Decision string `json:"decision"`
		Approver party  `json:"approver"`
	} `json:"decision"`
}

type party struct {
	Subject string `json:"subject"`
}

func (e *event) line() string {
	what := fmt.Sprintf("%s on %s by %s", e.Verb, e.Resource, e.Agent.Subject)
	switch {
	case e.Event == "approval.requested":
		var who []string
		for _, a := range e.Asks {
			who = append(who, a.Approvers...)
		}
		what = fmt.Sprintf("%s waits for %s: %s", what, strings.Join(who, ", "), e.URL)
	case e.Decision != nil:
		what = fmt.Sprintf("%s: %s says %s", what, e.Decision.Approver.Subject, e.Decision.Decision)
	default:
		what = fmt.Sprintf("%s: %s", what, e.State)
	}
	return plain(what)
}

// plain keeps what agents chose (their names, their methods) from being markup, a mention of everybody, or a second line.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\uFFFD'
		}
		return r
	}, s)
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "@", "@\u200b", "*", "\u2217", "`", "'").Replace(s)
}

// chat posts to an incoming webhook that takes {"text": …}, as many chats have.
func chat(url string) func(context.Context, string) error {
	client := &http.Client{Timeout: 5 * time.Second}
	return func(ctx context.Context, line string) error {
		body, err := json.Marshal(map[string]string{"text": line})
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("the chat answered %d", resp.StatusCode)
		}
		return nil
	}
}
