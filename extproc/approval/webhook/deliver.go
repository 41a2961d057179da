package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/countersign/countersign/extproc/keyfile"
)

// The headers of a notification.
const (
	HeaderEventID   = "Countersign-Event-Id"
	HeaderTimestamp = "Countersign-Timestamp"
	HeaderSignature = "Countersign-Signature"
)

const (
	shortestSecret = 16
	longestBackoff = time.Minute
	answerBytes    = 4 << 10 // of the receiver's answer are read, so that its connection can be used again
)

// Sign returns the value of Countersign-Signature.
func Sign(secret []byte, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(timestamp))
	mac.Write([]byte{'.'})
	mac.Write(body)
	return "v1=" + hex.EncodeToString(mac.Sum(nil))
}

func secretIn(path string) ([]byte, error) {
	secret, err := keyfile.Secret(path)
	if err == nil && len(secret) < shortestSecret {
		err = fmt.Errorf("%s holds %d bytes, and at least %d are needed", path, len(secret), shortestSecret)
	}
	if err != nil {
		return nil, fmt.Errorf("read the webhook's secret: %w", err)
	}
	return []byte(secret), nil
}

func (n *Notifier) put(m *message) {
	if lost := n.queue.put(m); lost != nil {
		n.drop(lost, errors.New("too many events wait"))
	}
}

// drop gives up an event. It raises an alarm if this is the first since a delivery.
func (n *Notifier) drop(m *message, why error) {
	n.opt.Log.Warn("webhook: an event was dropped", "event", m.id, "attempts", m.attempts, "error", why)
	if n.queue.dropped() {
		n.opt.Alarm("webhook_dropped", fmt.Sprintf("a notification about an approval was dropped after %d attempts: %v", m.attempts, why))
	}
}

// refused is an answer after which trying again is useless.
type refused struct{ status int }

func (e *refused) Error() string { return fmt.Sprintf("the receiver answered %d", e.status) }

// deliver sends what waits, one at a time, until the queue ends.
func (n *Notifier) deliver() {
	defer close(n.queue.drained)
	for m := n.queue.next(); m != nil; m = n.queue.next() {
		err := n.attempt(m)
		if err == nil {
			n.queue.delivered()
			continue
		}
		m.attempts++
		m.due = time.Now().Add(backoff(n.opt.Backoff, m.attempts))
		var no *refused
		switch {
		case errors.As(err, &no), m.due.After(m.until):
			n.drop(m, err)
		case !n.queue.back(m):
			n.drop(m, fmt.Errorf("too many events wait; %w", err))
		default:
			n.opt.Log.Debug("webhook: an event is tried again later", "event", m.id, "attempts", m.attempts, "error", err)
		}
	}
}

// backoff returns the wait after that many attempts: it doubles each time, and half of it is random.
func backoff(first time.Duration, attempts int) time.Duration {
	d := min(longestBackoff, first<<min(attempts-1, 20))
	return d/2 + rand.N(d/2+1)
}

func (n *Notifier) attempt(m *message) error {
	secret, err := secretIn(n.opt.SecretFile)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(n.queue.ending, http.MethodPost, n.opt.URL, bytes.NewReader(m.body))
	if err != nil {
		return err
	}
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "countersign")
	r.Header.Set(HeaderEventID, m.id)
	r.Header.Set(HeaderTimestamp, timestamp)
	r.Header.Set(HeaderSignature, Sign(secret, timestamp, m.body))
	resp, err := n.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, answerBytes)
	switch code := resp.StatusCode; {
	case code/100 == 2:
		return nil
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return fmt.Errorf("the receiver answered %d", code)
	default:
		return &refused{code}
	}
}
