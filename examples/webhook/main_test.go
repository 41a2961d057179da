package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/approvaltest"
	"github.com/countersign/countersign/extproc/approval/embedded"
	"github.com/countersign/countersign/extproc/approval/webhook"
)

const secret = "only for these tests, and long enough"

// TestFromRequestToChat goes all the way: a desk, its notifier, this receiver, and a chat, over HTTP.
func TestFromRequestToChat(t *testing.T) {
	lines := make(chan string, 10)
	chatServer := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		lines <- string(body)
	}))
	t.Cleanup(chatServer.Close)
	server := httptest.NewServer(newReceiver([]byte(secret), chat(chatServer.URL)))
	t.Cleanup(server.Close)

	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := embedded.Open(filepath.Join(dir, "approvals.db"), embedded.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	desk, err := approval.NewDesk(approval.Options{Store: store, Recorder: &approvaltest.Journal{}, Node: "gw-1", People: approvaltest.People})
	if err != nil {
		t.Fatal(err)
	}
	n, err := webhook.Start(webhook.Options{
		Store: store, URL: server.URL, SecretFile: filepath.Join(dir, "secret"), Node: "gw-1",
		Page: func(id string) string { return "https://console.example/approvals/" + id },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close(context.Background())
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	r, _, err := desk.Ask(t.Context(), approvaltest.Asking(approvaltest.Operation(1), approvaltest.Verdict("p1", 1)))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"text":"POST on payments by agent-7 waits for payments-oncall, subject:carol: https://console.example/approvals/` + r.ID + `"}`
	if diff := cmp.Diff(want, <-lines); diff != "" {
		t.Error(diff)
	}
	if _, err := desk.Decide(t.Context(), approvaltest.Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"text":"POST on payments by agent-7: bob says approve"}`, <-lines); diff != "" {
		t.Error(diff)
	}
}

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
		rec := newReceiver([]byte(secret), func(context.Context, string) error { posted++; return nil })
		rec.now = func() time.Time { return now }
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
	rec := newReceiver([]byte(secret), func(context.Context, string) error {
		posted++
		return chatSays
	})
	for i, want := range []int{502, 204, 200, 200} {
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

func TestNamesAreText(t *testing.T) {
	e := event{Event: "approval.spent", Verb: "POST", Resource: "payments", State: "spent", Agent: party{"<!channel> @here *x*\nPOST on payments: approved\u202e"}}
	want := "POST on payments by &lt;!channel&gt; @\u200bhere \u2217x\u2217\uFFFDPOST on payments: approved\uFFFD: spent"
	if diff := cmp.Diff(want, e.line()); diff != "" {
		t.Error(diff)
	}
}

func sign(r *http.Request, key string, at time.Time, body string) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	r.Header.Set("Countersign-Timestamp", timestamp)
	r.Header.Set("Countersign-Signature", webhook.Sign([]byte(key), timestamp, []byte(body)))
}
