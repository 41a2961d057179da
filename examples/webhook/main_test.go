package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/examples/webhook/receiver"
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
	server := httptest.NewServer(&receiver.Receiver{Secret: []byte(secret), Tell: telling(chat(chatServer.URL))})
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
	op := approvaltest.Operation(1)
	op.Principal.Name = "Refund ”bot“"
	r, _, err := desk.Ask(t.Context(), approvaltest.Asking(op, approvaltest.Verdict("p1", 1)))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"text":"POST on payments by “Refund \"bot\"” (agent-7) waits for payments-oncall, subject:carol: https://console.example/approvals/` + r.ID + `"}`
	if diff := cmp.Diff(want, <-lines); diff != "" {
		t.Error(diff)
	}
	if _, err := desk.Decide(t.Context(), approvaltest.Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"text":"POST on payments by “Refund \"bot\"” (agent-7): bob says approve"}`, <-lines); diff != "" {
		t.Error(diff)
	}
}

func TestNamesAreText(t *testing.T) {
	e := &receiver.Event{Event: "approval.spent", Verb: "POST", Resource: "payments", State: "spent", Agent: receiver.Party{Subject: "<!channel> @here *x*\nPOST on payments: approved\u202e"}}
	want := `POST on payments by &lt;!channel&gt; @` + "\u200bhere \u2217x\u2217" + `\u{A}POST on payments: approved\u{202E}: spent`
	if diff := cmp.Diff(want, line(e)); diff != "" {
		t.Error(diff)
	}
}
