// Package webhook tells another system that a request for approval was opened, decided on or closed, so that it can fetch a
// person. It only tells: of the answer only the status counts, and people approve in the console or its API, under their own login.
//
// # What is sent
//
// A POST with an [Event] as JSON, and the headers
//
//	Countersign-Event-Id    of the event; the same in each attempt, and from each gateway on one store
//	Countersign-Timestamp   Unix seconds at the attempt
//	Countersign-Signature   v1=HEX, HMAC-SHA-256 with the secret over timestamp "." body
//
// A receiver should compare the signature in constant time over the bytes as they came, refuse a timestamp more than five minutes
// off, and take each event id once; examples/webhook does. An event has neither the operation's target, nor its body, nor what
// people wrote: those do not belong in a chat. It has the rules' summaries: what policy's author puts in there of a request, they send to
// wherever this goes. A person follows its url, signs in, and sees the card.
//
// # What is promised
//
// Each event is delivered at least once, if the gateway keeps running and the receiver is away for no more than
// [Options.RetryFor]. A gateway that starts sends events for what is open then. More is not promised: the journal is the evidence,
// and this is a bell. Events can come out of order, because a failed attempt lets others pass.
//
// Nothing waits for a webhook. It follows the store's Watch, which never blocks whoever makes a change. Watch may report several
// changes of one request as one; the events are then made from what the request has become. The queue is bounded: when it is full
// the oldest event is dropped and counted, with one alarm until a delivery succeeds again.
//
// # Trust
//
// The receiver is not trusted: its redirects are not followed, a few kilobytes of its answer are read and thrown away, and
// no decision or hold waits for it. Whoever has the secret can make a receiver ring, and nothing else. The secret's file is
// read at every attempt, so that it can be changed without a restart.
package webhook

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/keyfile"
)

// Store is what the notifier needs of an [approval.Store]. It changes nothing.
type Store interface {
	Get(ctx context.Context, id string) (approval.Request, error)
	List(ctx context.Context, f approval.Filter) (approval.Page, error)
	Watch(ctx context.Context) (<-chan approval.Change, error)
}

// Options are what a notifier needs. Store, URL and SecretFile are required.
type Options struct {
	Store      Store
	URL        string
	SecretFile string              // holds at least 16 bytes; newlines at its end do not count
	CAFile     string              // PEM roots for an https receiver; the system's unless set
	Node       string              // of this gateway
	Page       func(string) string // where people look at the request with this id; may be nil

	Queue    int           // events that wait; 1000 unless set
	RetryFor time.Duration // from the event; 5 minutes unless set
	Timeout  time.Duration // of one attempt; 10 seconds unless set
	Backoff  time.Duration // before the second attempt, doubled for each, a minute at most; 1 second unless set

	Log   *slog.Logger
	Alarm func(kind, detail string) // may be nil
}

// Stats are what came of events since the start.
type Stats struct {
	Waiting   int   // now
	Delivered int64 // answered with 2xx
	Dropped   int64 // overflowed, refused by the receiver, or not delivered in time
}

// Notifier follows a store and tells a receiver.
type Notifier struct {
	opt    Options
	client *http.Client
	queue  queue

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Start begins to follow the store. An error says that the secret or the roots cannot be used.
func Start(o Options) (*Notifier, error) {
	o.Queue = cmp.Or(o.Queue, 1000)
	o.RetryFor = cmp.Or(o.RetryFor, 5*time.Minute)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	o.Backoff = cmp.Or(o.Backoff, time.Second)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	if o.Alarm == nil {
		o.Alarm = func(string, string) {}
	}
	if o.Page == nil {
		o.Page = func(string) string { return "" }
	}
	if o.Store == nil || o.URL == "" {
		return nil, errors.New("a webhook needs a store and a URL")
	}
	if _, err := secretIn(o.SecretFile); err != nil {
		return nil, err
	}
	roots, err := keyfile.RootsOrSystem(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the webhook's roots: %w", err)
	}
	n := &Notifier{opt: o, client: newClient(roots, o.Timeout)}
	n.queue.init(o.Queue)
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	changes, err := o.Store.Watch(ctx) // begins before anybody is asked, so that no request is missed
	if err != nil {
		o.Log.Error("webhook: cannot follow the approvals yet", "error", err)
	}
	n.done.Go(guard.Loop(ctx, "the webhook", func() { n.follow(ctx, changes); changes = nil }))
	n.done.Go(guard.Loop(context.Background(), "the webhook", n.deliver)) // until the queue is closed
	return n, nil
}

func newClient(roots *x509.CertPool, timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: timeout}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    timeout,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           2,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 16 << 10,
		},
	}
}

// Stats returns what came of events so far.
func (n *Notifier) Stats() Stats { return n.queue.stats() }

// Close stops following the store, delivers what waits until ctx ends, and drops the rest.
func (n *Notifier) Close(ctx context.Context) {
	n.cancel()
	n.queue.drain(ctx.Done())
	n.done.Wait()
	n.client.CloseIdleConnections()
}
