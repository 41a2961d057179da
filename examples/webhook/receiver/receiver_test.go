package receiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval/webhook"
)

const secret = "only for these tests, and long enough"

func TestWhatIsNotTaken(t *testing.T) {
	const body = `{"event_id":"1/requested","event":"approval.requested","verb":"POST","resource":"payments","agent":{"subject":"a"}}`
	now := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		name string
		edit func(r *http.Request, body *string)
		want int
	}{
		{"a genuine one is", func(*http.Request, *string) {}, 204},
		{"a changed body", func(_ *http.Request, b *string) { *b = strings.Replace(*b, "POST", "GET", 1) }, 401},
		{"a changed timestamp", func(r *http.Request, _ *string) { r.Header.Set("Countersign-Timestamp", "1700000001") }, 401},
		{"no signature", func(r *http.Request, _ *string) { r.Header.Del("Countersign-Signature") }, 401},
		{"a signature of another version", func(r *http.Request, _ *string) {
			r.Header.Set("Countersign-Signature", "v2"+r.Header.Get("Countersign-Signature")[2:])
		}, 401},
		{"an empty signature", func(r *http.Request, _ *string) { r.Header.Set("Countersign-Signature", "v1=") }, 401},
		{"another secret", func(r *http.Request, b *string) { sign(r, "another secret", now, *b) }, 401},
		{"one recorded six minutes ago", func(r *http.Request, b *string) { sign(r, secret, now.Add(-6*time.Minute), *b) }, 401},
		{"one from the future", func(r *http.Request, b *string) { sign(r, secret, now.Add(6*time.Minute), *b) }, 401},
		{"one from four minutes ago is", func(r *http.Request, b *string) { sign(r, secret, now.Add(-4*time.Minute), *b) }, 204},
		{"what is no event", func(r *http.Request, b *string) { *b = "[]"; sign(r, secret, now, *b) }, 400},
		{"too much", func(r *http.Request, b *string) { *b = strings.Repeat(" ", bodyBytes+1); sign(r, secret, now, *b) }, 400},
	} {
		posted := 0
		rec := &Receiver{Secret: []byte(secret), Tell: func(context.Context, *Event) error { posted++; return nil }, Now: func() time.Time { return now }}
		text := body
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		sign(r, secret, now, text)
		c.edit(r, &text)
		r.Body = io.NopCloser(strings.NewReader(text))
		w := httptest.NewRecorder()
		rec.ServeHTTP(w, r)
		if w.Code != c.want || (posted == 1) != (c.want == 204) {
			t.Errorf("%s: %d, posted %d times", c.name, w.Code, posted)
		}
	}
}

// TestOnceEach: a repeated event is not posted twice, whatever the unsigned header says; one that the chat did not take is
// tried again.
func TestOnceEach(t *testing.T) {
	posted := 0
	chatSays := errors.New("away")
	rec := &Receiver{Secret: []byte(secret), Tell: func(context.Context, *Event) error {
		posted++
		return chatSays
	}}
	for i, want := range []int{502, 204, 204, 204} {
		body := `{"event_id":"1/spent","event":"approval.spent"}`
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		sign(r, secret, time.Now(), body)
		r.Header.Set("Countersign-Event-Id", strconv.Itoa(i))
		w := httptest.NewRecorder()
		rec.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("attempt %d: %d, and should be %d", i+1, w.Code, want)
		}
		chatSays = nil
	}
	if posted != 2 {
		t.Errorf("posted %d times", posted)
	}
}

// TestWhatWillNeverBeTaken is not sent again.
func TestWhatWillNeverBeTaken(t *testing.T) {
	rec := &Receiver{Secret: []byte(secret), Tell: func(context.Context, *Event) error { return fmt.Errorf("it answers 400: %w", ErrNever) }}
	body := `{"event_id":"1/spent","event":"approval.spent"}`
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	sign(r, secret, time.Now(), body)
	w := httptest.NewRecorder()
	rec.ServeHTTP(w, r)
	if w.Code != 422 {
		t.Errorf("%d", w.Code)
	}
}

// TestAChatsURLGoesNowhereElse: a chat that redirects is told nothing, and nobody is told its URL.
func TestAChatsURLGoesNowhereElse(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s is asked, with the Referer %q", r.Method, r.URL, r.Header.Get("Referer"))
	}))
	defer elsewhere.Close()
	chat := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer chat.Close()
	if err := Post(t.Context(), chat.URL+"/sesame", 1); !errors.Is(err, ErrNever) {
		t.Error(err)
	}
}

func sign(r *http.Request, key string, at time.Time, body string) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	r.Header.Set("Countersign-Timestamp", timestamp)
	r.Header.Set("Countersign-Signature", webhook.Sign([]byte(key), timestamp, []byte(body)))
}
