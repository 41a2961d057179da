package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/approvaltest"
	"github.com/countersign/countersign/extproc/approval/embedded"
)

// ring is one notification as it came.
type ring struct {
	header http.Header
	body   []byte
	event  Event
}

// receiver is a real server that keeps what comes and answers what it is told to.
type receiver struct {
	*httptest.Server
	rings chan ring
}

func listen(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *receiver {
	t.Helper()
	rec := &receiver{rings: make(chan ring, 10_000)}
	var mu sync.Mutex
	count := 0
	rec.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var e Event
		if err == nil {
			err = json.Unmarshal(body, &e)
		}
		if err != nil {
			t.Errorf("what came cannot be read: %v\n%s", err, body)
		}
		mu.Lock()
		n := count
		count++
		mu.Unlock()
		rec.rings <- ring{r.Header, body, e}
		if answer != nil {
			answer(n, w, r)
		}
	}))
	t.Cleanup(rec.Close)
	return rec
}

func (r *receiver) next(t *testing.T) ring {
	t.Helper()
	select {
	case got := <-r.rings:
		return got
	case <-time.After(20 * time.Second):
		t.Fatal("no notification came")
		return ring{}
	}
}

// office is a desk on a real store, with a notifier.
type office struct {
	desk     *approval.Desk
	store    *embedded.Store
	notifier *Notifier
	secret   string
	alarms   chan string
}

const secret = "only for these tests, and long enough"

func start(t *testing.T, url string, edit func(*Options)) *office {
	t.Helper()
	dir := t.TempDir()
	store, err := embedded.Open(filepath.Join(dir, "approvals.db"), embedded.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	o := &office{store: store, secret: filepath.Join(dir, "secret"), alarms: make(chan string, 100)}
	o.desk, err = approval.NewDesk(approval.Options{
		Store: store, Recorder: &approvaltest.Journal{}, Node: "gw-1", People: approvaltest.People, TTL: time.Minute, SweepEvery: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	o.writeSecret(t, secret+"\n")
	options := Options{
		Store: store, URL: url, SecretFile: o.secret, Node: "gw-1", Backoff: time.Millisecond,
		Page:  func(id string) string { return "https://console.example/approvals/" + id },
		Alarm: func(kind, _ string) { o.alarms <- kind },
	}
	if edit != nil {
		edit(&options)
	}
	if o.notifier, err = Start(options); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		_ = o.desk.Run(ctx)
	}()
	t.Cleanup(func() {
		last, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		o.notifier.Close(last)
		cancel()
		<-ran
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func (o *office) writeSecret(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(o.secret, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (o *office) ask(t *testing.T, n, quorum int) (approval.Request, approval.Spending) {
	t.Helper()
	op, v := approvaltest.Operation(n), approvaltest.Verdict("p1", quorum)
	r, _, err := o.desk.Ask(t.Context(), approvaltest.Asking(op, v))
	if err != nil {
		t.Fatal(err)
	}
	return r, approvaltest.Spending(op, v)
}

func (o *office) decide(t *testing.T, r approval.Request, who string, approve bool) {
	t.Helper()
	_, err := o.desk.Decide(t.Context(), approvaltest.Oncall(who), r.ID, approval.Answer{Approve: approve, Card: r.CardDigest, Reason: "a person's own words"})
	if err != nil {
		t.Fatal(err)
	}
}

// signedWith computes the signature from its description (RFC 2104 over SHA-256), and not with the code under test.
func signedWith(key string, got ring) bool {
	mac := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(mac, "%s.%s", got.header.Get("Countersign-Timestamp"), got.body)
	return got.header.Get("Countersign-Signature") == fmt.Sprintf("v1=%x", mac.Sum(nil))
}

func TestEveryChangeIsTold(t *testing.T) {
	rec := listen(t, nil)
	o := start(t, rec.URL, nil)
	first, spending := o.ask(t, 1, 2)
	o.decide(t, first, "bob", true)
	o.decide(t, first, "carol", true)
	if _, ok, err := o.desk.Spend(t.Context(), spending); !ok || err != nil {
		t.Fatalf("spend: %v, %v", ok, err)
	}
	second, _ := o.ask(t, 2, 1)
	o.decide(t, second, "bob", false)
	third, _ := o.ask(t, 3, 1)
	if n, err := o.desk.VoidOthers(t.Context(), map[string]string{"payments": "p2"}); n != 1 || err != nil {
		t.Fatalf("voided %d, %v", n, err)
	}
	want := []string{
		first.ID + "/requested pending", first.ID + "/decided/1 pending bob approve", first.ID + "/decided/2 approved carol approve", first.ID + "/spent spent",
		second.ID + "/requested pending", second.ID + "/decided/1 rejected bob reject",
		third.ID + "/requested pending", third.ID + "/voided voided",
	}
	var got []string
	for range want {
		r := rec.next(t)
		e := r.event
		line := fmt.Sprintf("%s %s", e.EventID, e.State)
		if e.Decision != nil {
			line += " " + e.Decision.Approver.Subject + " " + e.Decision.Decision
		}
		got = append(got, line)
		if !signedWith(secret, r) {
			t.Errorf("%s is not signed", e.EventID)
		}
		if r.header.Get("Countersign-Event-Id") != e.EventID {
			t.Errorf("the header names event %q, the body %q", r.header.Get("Countersign-Event-Id"), e.EventID)
		}
		if kind := strings.Split(e.EventID, "/")[1]; e.Event != "approval."+kind {
			t.Errorf("event %s is called %s", e.EventID, e.Event)
		}
		for _, never := range []string{"/v1/payments", "amount", "a person's own words"} {
			if strings.Contains(string(r.body), never) {
				t.Errorf("%s tells %q: %s", e.EventID, never, r.body)
			}
		}
	}
	slices.Sort(want)
	slices.Sort(got) // requests can be told in another order than they changed in
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestEvent holds the body to what is documented.
func TestEvent(t *testing.T) {
	rec := listen(t, nil)
	o := start(t, rec.URL, nil)
	op := approvaltest.Operation(1)
	op.Principal.Name = strings.Repeat("n", 300)
	v := approvaltest.Verdict("p1", 1)
	v.Asks[0].Summary = "Refund 1 of payment 1"
	r, _, err := o.desk.Ask(t.Context(), approvaltest.Asking(op, v))
	if err != nil {
		t.Fatal(err)
	}
	got := rec.next(t)
	want := map[string]any{
		"event_id": r.ID + "/requested", "event": "approval.requested", "time": r.Created.UTC().Format(time.RFC3339Nano), "gateway": "gw-1",
		"id": r.ID, "state": "pending", "resource": "payments", "verb": "POST", "card_digest": r.CardDigest,
		"agent":        map[string]any{"issuer": approvaltest.People, "name": strings.Repeat("n", 256) + "…", "subject": "agent-7"},
		"on_behalf_of": map[string]any{"issuer": approvaltest.People, "subject": "alice"},
		"asks":         []any{map[string]any{"rule": "payments/refund", "approvers": []any{"payments-oncall", "subject:carol"}, "quorum": 1.0, "summary": "Refund 1 of payment 1"}},
		"expires":      r.Expires.UTC().Format(time.RFC3339Nano), "url": "https://console.example/approvals/" + r.ID,
	}
	var body map[string]any
	if err := json.Unmarshal(got.body, &body); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, body); diff != "" {
		t.Error(diff)
	}
}

func TestTriedAgain(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	for name, fail := range map[string]func(http.ResponseWriter, *http.Request){
		"after 500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"after 429": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) },
		"after 408": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(408) },
		"after a timeout": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		},
		"after a broken connection": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			rec := listen(t, func(n int, w http.ResponseWriter, r *http.Request) {
				if n < 2 {
					fail(w, r)
				}
			})
			o := start(t, rec.URL, func(o *Options) { o.Timeout = 300 * time.Millisecond })
			o.ask(t, 1, 1)
			for i := range 3 {
				if got := rec.next(t); !strings.HasSuffix(got.event.EventID, "/requested") || !signedWith(secret, got) {
					t.Errorf("attempt %d: %s", i+1, got.body)
				}
			}
			await(t, func() bool { return o.notifier.Stats() == Stats{Delivered: 1} })
		})
	}
}

func TestNotTriedAgain(t *testing.T) {
	elsewhere := listen(t, nil)
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"after 400":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(400) },
		"after 410":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(410) },
		"after a redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, 307) },
	} {
		t.Run(name, func(t *testing.T) {
			rec := listen(t, func(_ int, w http.ResponseWriter, r *http.Request) { answer(w, r) })
			o := start(t, rec.URL, nil)
			o.ask(t, 1, 1)
			o.ask(t, 2, 1)
			await(t, func() bool { return o.notifier.Stats() == Stats{Dropped: 2} })
			if n := len(rec.rings); n != 2 {
				t.Errorf("%d attempts for two events", n)
			}
			if n := len(o.alarms); n != 1 {
				t.Errorf("%d alarms", n)
			}
		})
	}
	if n := len(elsewhere.rings); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

func TestGivenUpInTime(t *testing.T) {
	rec := listen(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	o := start(t, rec.URL, func(o *Options) { o.RetryFor = 50 * time.Millisecond })
	o.ask(t, 1, 1)
	await(t, func() bool { return o.notifier.Stats() == Stats{Dropped: 1} })
	if n := len(rec.rings); n < 2 {
		t.Errorf("%d attempts", n)
	}
}

// TestAnEndlessAnswerIsNotRead: a receiver cannot keep or fill the gateway.
func TestAnEndlessAnswerIsNotRead(t *testing.T) {
	rec := listen(t, func(n int, w http.ResponseWriter, r *http.Request) {
		for n == 0 && r.Context().Err() == nil {
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<16))
		}
	})
	o := start(t, rec.URL, nil)
	o.ask(t, 1, 1)
	o.ask(t, 2, 1)
	await(t, func() bool { return o.notifier.Stats() == Stats{Delivered: 2} })
}

// TestNothingWaitsForTheReceiver: while it hangs, people are asked and decide, and the queue stays within its bound: the
// oldest go, with one alarm, and the newest are told when it is back.
func TestNothingWaitsForTheReceiver(t *testing.T) {
	const limit, requests = 10, 60
	back := make(chan struct{})
	rec := listen(t, func(n int, _ http.ResponseWriter, r *http.Request) {
		if n > 0 {
			return
		}
		select {
		case <-back:
		case <-r.Context().Done():
		}
	})
	o := start(t, rec.URL, func(o *Options) { o.Queue = limit; o.Timeout = time.Minute })
	o.ask(t, 0, 1)
	rec.next(t) // and now it hangs
	began := time.Now()
	var last approval.Request
	for i := range requests {
		last, _ = o.ask(t, i+1, 1)
		o.decide(t, last, "bob", true)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("%d requests took %v", requests, took)
	}
	await(t, func() bool { return o.notifier.Stats() == Stats{Waiting: limit, Dropped: 2*requests - limit} })
	if n := len(o.alarms); n != 1 || <-o.alarms != "webhook_dropped" {
		t.Errorf("%d alarms", n)
	}
	close(back)
	var ids []string
	for range limit {
		ids = append(ids, rec.next(t).event.EventID)
	}
	if !slices.Contains(ids, last.ID+"/decided/1") {
		t.Errorf("the newest event was dropped; told were %v", ids)
	}
	await(t, func() bool { return o.notifier.Stats() == Stats{Delivered: limit + 1, Dropped: 2*requests - limit} })
}

// TestSecretIsReadAgain: a new secret holds from the next attempt; one that is too short sends nothing.
func TestSecretIsReadAgain(t *testing.T) {
	rec := listen(t, nil)
	o := start(t, rec.URL, nil)
	o.ask(t, 1, 1)
	if !signedWith(secret, rec.next(t)) {
		t.Error("the first secret is not used")
	}
	o.writeSecret(t, "short")
	o.ask(t, 2, 1)
	await(t, func() bool { return o.notifier.Stats().Waiting == 1 })
	o.writeSecret(t, "another secret of enough length")
	if !signedWith("another secret of enough length", rec.next(t)) {
		t.Error("the new secret is not used")
	}
}

// TestWhatIsOpenIsToldAtStart: what a gateway could not tell before it ended is told by the next.
func TestWhatIsOpenIsToldAtStart(t *testing.T) {
	rec := listen(t, nil)
	away := start(t, "http://127.0.0.1:1", nil)
	r, _ := away.ask(t, 1, 2)
	away.decide(t, r, "bob", true)
	n, err := Start(Options{Store: away.store, URL: rec.URL, SecretFile: away.secret})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 2 {
		got = append(got, rec.next(t).event.EventID)
	}
	if diff := cmp.Diff([]string{r.ID + "/requested", r.ID + "/decided/1"}, got); diff != "" {
		t.Error(diff)
	}
	n.Close(t.Context())
}

func TestCloseGivesWhatWaits(t *testing.T) {
	rec := listen(t, nil)
	o := start(t, rec.URL, nil)
	for i := range 5 {
		o.notifier.put(&message{id: fmt.Sprint(i), body: []byte("{}"), until: time.Now().Add(time.Minute)})
	}
	o.notifier.Close(t.Context())
	if n := len(rec.rings); n != 5 {
		t.Errorf("%d of 5 were given at the end", n)
	}
}

func TestWhatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good", secret)
	for name, c := range map[string]struct {
		options Options
		want    string
	}{
		"no secret":                 {Options{SecretFile: filepath.Join(dir, "none")}, "read the webhook's secret"},
		"a secret that is short":    {Options{SecretFile: file("short", "0123456789abcde\n")}, "holds 15 bytes, and at least 16"},
		"roots without certificate": {Options{SecretFile: good, CAFile: file("ca", "nothing")}, "has no PEM certificate"},
	} {
		c.options.Store, c.options.URL = &embedded.Store{}, "https://receiver.example"
		if _, err := Start(c.options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// await waits for what no channel tells of.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(20 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it did not come to that")
		}
	}
}
