package extproctest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"time"
)

var quiet = log.New(io.Discard, "", 0)

func (t *Target) blob(w http.ResponseWriter, r *http.Request) {
	size, err := strconv.ParseInt(r.URL.Query().Get("size"), 10, 64)
	if err != nil || size < 0 {
		http.Error(w, "size must be a number of bytes", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if r.URL.Query().Get("chunked") == "" {
		http.ServeContent(w, r, "", time.Time{}, Blob(size))
		return
	}
	_ = http.NewResponseController(w).Flush()
	_, _ = io.Copy(w, Blob(size))
}

// stream answers with count payments, each flushed by itself. The feed is for tests that say when.
func (t *Target) stream(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.Atoi(r.URL.Query().Get("count"))
	if err != nil {
		count = 3
	}
	var contentType, before, format, between, after string
	switch kind := r.PathValue("kind"); kind {
	case "ndjson":
		contentType, format = "application/x-ndjson", "%s\n"
	case "sse":
		contentType, format = "text/event-stream", "event: payment\ndata: %s\n\n"
	case "array":
		contentType, before, format, between, after = "application/json", "[", "%s", ",", "]"
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", contentType)
	flush := http.NewResponseController(w).Flush
	_, _ = io.WriteString(w, before)
	for id := 1; id <= count; id++ {
		_, _ = fmt.Fprintf(w, format, strings.TrimSpace(string(marshal(t.Payment(id)))))
		if id < count {
			_, _ = io.WriteString(w, between)
		}
		if flush() != nil {
			return
		}
	}
	_, _ = io.WriteString(w, after)
}

// Feed is the body of an answer that a test writes piece by piece: GET /feed/{name}?type=CONTENT-TYPE.
type Feed struct {
	pieces chan piece
}

type piece struct {
	data  []byte
	abort bool
	wrote chan error
}

// Feed returns the feed of that name, which serves one request at a time.
func (t *Target) Feed(name string) *Feed {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, ok := t.feeds[name]
	if !ok {
		f = &Feed{pieces: make(chan piece)}
		t.feeds[name] = f
	}
	return f
}

// Send writes data and flushes it, and returns when the client's connection has taken it. It waits for a request.
func (f *Feed) Send(ctx context.Context, data string) error {
	return f.do(ctx, piece{data: []byte(data), wrote: make(chan error, 1)})
}

// Close ends the answer properly.
func (f *Feed) Close(ctx context.Context) error {
	return f.do(ctx, piece{wrote: make(chan error, 1)})
}

// Abort breaks the connection off in the middle of the answer.
func (f *Feed) Abort(ctx context.Context) error {
	return f.do(ctx, piece{abort: true, wrote: make(chan error, 1)})
}

func (f *Feed) do(ctx context.Context, p piece) error {
	select {
	case f.pieces <- p:
	case <-ctx.Done():
		return fmt.Errorf("wait for a request to take the feed: %w", ctx.Err())
	}
	return <-p.wrote
}

func (t *Target) serveFeed(w http.ResponseWriter, r *http.Request) {
	if contentType := r.URL.Query().Get("type"); contentType != "" {
		w.Header().Set("Content-Type", contentType)
	}
	feed := t.Feed(r.PathValue("name"))
	flush := http.NewResponseController(w).Flush
	_ = flush() // headers first
	for {
		select {
		case p := <-feed.pieces:
			switch {
			case p.abort:
				p.wrote <- nil
				panic(http.ErrAbortHandler)
			case p.data == nil:
				p.wrote <- nil
				return
			}
			_, err := w.Write(p.data)
			p.wrote <- errors.Join(err, flush())
		case <-r.Context().Done():
			t.gone(r)
			return
		}
	}
}

// gate holds the requests to /hold/{name}.
type gate struct{ open chan struct{} }

func (t *Target) gate(name string) *gate {
	t.mu.Lock()
	defer t.mu.Unlock()
	g, ok := t.gates[name]
	if !ok {
		g = &gate{open: make(chan struct{})}
		t.gates[name] = g
	}
	return g
}

// Release lets the requests to /hold/{name} go, those that wait and those that come.
func (t *Target) Release(name string) {
	g := t.gate(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

func (t *Target) hold(w http.ResponseWriter, r *http.Request) {
	select {
	case <-t.gate(r.PathValue("name")).open:
		writeJSON(w, http.StatusOK, t.Payment(1))
	case <-r.Context().Done():
		t.gone(r)
	}
}

// gone notes that the client left before it was answered.
func (t *Target) gone(r *http.Request) {
	s := r.Context().Value(seenKey{}).(*Seen)
	t.update(func() { s.Gone = true })
}

func (t *Target) status(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.PathValue("code"))
	if err != nil || code < 200 || code > 599 {
		http.Error(w, "the status must be from 200 to 599", http.StatusBadRequest)
		return
	}
	switch code {
	case http.StatusNoContent, http.StatusNotModified:
		w.WriteHeader(code)
	default:
		writeJSON(w, code, map[string]any{"status": code, "message": "about " + t.protected.Email})
	}
}

// trailers answers with a body and trailers that say what is in it.
func (t *Target) trailers(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Trailer", "X-Checksum, X-Customer-Email")
	body := marshal(t.Payment(1))
	_, _ = w.Write(body)
	_ = http.NewResponseController(w).Flush()
	w.Header().Set("X-Checksum", strconv.Itoa(len(body)))
	w.Header().Set("X-Customer-Email", t.protected.Email)
}

// SessionSecret is the session that /session/begin sets.
const SessionSecret = "target-session-0123456789abcdef"

func (t *Target) session(w http.ResponseWriter, r *http.Request) {
	cookie := r.Header.Get("Cookie")
	switch r.PathValue("what") {
	case "begin":
		w.Header().Add("Set-Cookie", "session="+SessionSecret+"; Domain=target.test; Path=/session; Secure; HttpOnly; SameSite=Lax; Max-Age=600; Anything=else")
		w.Header().Add("Set-Cookie", "theme=dark; Path=/elsewhere")
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
		_ = http.NewResponseController(w).Flush() // chunked, or there is no place for a trailer
		w.Header().Set(http.TrailerPrefix+"Set-Cookie", "session="+SessionSecret)
	case "renew":
		w.Header().Add("Set-Cookie", "session="+SessionSecret+"; Path=/")
		writeJSON(w, http.StatusOK, map[string]bool{"known": strings.Contains(cookie, "session="+SessionSecret)})
	case "use":
		writeJSON(w, http.StatusOK, map[string]bool{"known": strings.Contains(cookie, "session="+SessionSecret)})
	case "show":
		writeJSON(w, http.StatusOK, map[string]string{"cookie": cookie})
	default:
		http.NotFound(w, r)
	}
}

func (t *Target) earlyHints(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Link", "</style.css>; rel=preload")
	w.WriteHeader(http.StatusEarlyHints)
	w.Header().Del("Link")
	writeJSON(w, http.StatusOK, t.Payment(1))
}

func (t *Target) bigHeaders(w http.ResponseWriter, r *http.Request) {
	count, _ := strconv.Atoi(r.URL.Query().Get("count"))
	size, _ := strconv.Atoi(r.URL.Query().Get("size"))
	for i := range min(count, 10_000) {
		w.Header().Set("X-Big-"+strconv.Itoa(i), strings.Repeat("a", min(size, 1<<20)))
	}
	writeJSON(w, http.StatusOK, map[string]int{"count": count, "size": size})
}

// echo answers with the body that came, of the type it came with.
func (t *Target) echo(w http.ResponseWriter, r *http.Request) {
	seen, body := t.body(r)
	if seen.BodyBytes > bodyKept {
		http.Error(w, "too big to echo", http.StatusRequestEntityTooLarge)
		return
	}
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	contentLength(w, len(body))
	_, _ = w.Write(body)
}

// upload answers with what it counted.
func (t *Target) upload(w http.ResponseWriter, r *http.Request) {
	s := r.Context().Value(seenKey{}).(*Seen)
	t.mu.Lock()
	bytes, sum := s.BodyBytes, hex.EncodeToString(s.sum.Sum(nil))
	t.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{"bytes": bytes, "sha256": sum})
}

// duplex sends back what it reads as it reads it.
func duplex(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex() // HTTP/2 is by nature
	w.Header().Set("Content-Type", "application/octet-stream")
	_ = control.Flush()
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil || control.Flush() != nil || err != nil {
			return
		}
	}
}

// upgrade accepts any protocol that the client wants to change to, and echoes bytes.
func upgrade(w http.ResponseWriter, r *http.Request) {
	protocol := r.Header.Get("Upgrade")
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if protocol == "" || err != nil {
		http.Error(w, "ask for an upgrade, over HTTP/1.1", http.StatusUpgradeRequired)
		return
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
	_, _ = io.Copy(conn, buffered)
}

// page answers with a page that tells a protected value, as frameworks write theirs: GET /page/CODE?type=CONTENT-TYPE, of which
// size bytes come, chunked, where it says so; compressed with gzip, and said to be so or otherwise, where coding is there;
// pause is how long after its head it comes.
func (t *Target) page(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.PathValue("code"))
	if err != nil || code < 200 || code > 599 {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", r.URL.Query().Get("type"))
	w.Header().Set("Content-Language", "de")
	w.Header().Set("Content-Disposition", `inline; filename="`+t.protected.SSN+`"`)
	w.Header().Set("X-Powered-By", t.protected.SSN)
	w.Header().Set("Retry-After", "7")
	if code/100 == 3 {
		w.Header().Set("Location", "/v1/payments/7")
	}
	w.Header().Set("Link", "</people/"+t.protected.SSN+">; rel=about")
	w.Header().Set("Warning", "199 - \""+t.protected.SSN+"\"")
	w.Header().Set("X-Detail", t.protected.SSN)
	if code == 401 {
		w.Header().Set("WWW-Authenticate", `Bearer realm="payments"`)
	}
	page := "<html>" + t.protected.SSN + "</html>"
	if coding := r.URL.Query().Get("coding"); coding != "" {
		w.Header().Set("Content-Encoding", coding)
		page = string(gzipped([]byte(page)))
	}
	w.WriteHeader(code)
	size, _ := strconv.Atoi(r.URL.Query().Get("size"))
	if pause, err := time.ParseDuration(r.URL.Query().Get("pause")); err == nil {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(pause):
		case <-r.Context().Done():
		}
	}
	for sent := 0; sent < max(size, 1) && r.Method != http.MethodHead; sent += len(page) {
		if _, err := io.WriteString(w, page); err != nil {
			return
		}
	}
}
