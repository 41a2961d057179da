package lane

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
)

// standing says of every principal what it is told to.
type standing struct{ err error }

func (s *standing) Verify(context.Context, string) (*gate.Principal, error) { return nil, s.err }

func (s *standing) VerifyCertificate(*x509.Certificate) (*gate.Principal, error) { return nil, s.err }
func (s *standing) Still(*gate.Principal) error                                  { return s.err }

// TestEndWithToken ends operations by a clock of ours, which can be set, and by reloads.
func TestEndWithToken(t *testing.T) {
	revoked := &identity.Refusal{Reason: identity.Revoked, Detail: "it is revoked"}
	for _, c := range []struct {
		name   string
		begun  time.Duration // after the token's exp
		change func(l *Lane, clock *atomic.Int64)
		after  time.Duration // from the beginning; 0 for never
		reason string
	}{
		{"its time is over", -10 * time.Minute, nil, 10 * time.Minute, identity.Expired},
		{"it began within the leeway", 10 * time.Second, nil, 50 * time.Second, identity.Expired},
		{"the clock is set forward", -10 * time.Minute, func(_ *Lane, clock *atomic.Int64) { clock.Add(int64(time.Hour)) }, lookAgain, identity.Expired},
		{"it is revoked", -10 * time.Minute, func(l *Lane, _ *atomic.Int64) { _ = l.Swap(&State{Identity: &standing{revoked}}, nil) }, 30 * time.Second, identity.Revoked},
		{"a reload leaves it as it is", -10 * time.Minute, func(l *Lane, _ *atomic.Int64) { _ = l.Swap(&State{Identity: &standing{}}, nil) }, 10 * time.Minute, identity.Expired},
		{"nobody can tell", -10 * time.Minute, func(l *Lane, _ *atomic.Int64) {
			_ = l.Swap(&State{Identity: &standing{errors.New("out of order")}}, nil)
		}, 30 * time.Second, identity.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var clock atomic.Int64
				l := New(Options{Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }})
				st := &State{Identity: &standing{}}
				_ = l.Swap(st, nil)
				began := l.Now()
				expires := began.Add(-c.begun)
				p := &gate.Principal{Verified: gate.Verification{Expires: expires, Accepted: expires.Add(time.Minute)}}
				begin := func(r Resource) (ends func() (time.Duration, string), stop func()) {
					a := &Attempt{lane: l, State: st, Started: began, Resource: &r}
					a.Op.Principal = p
					var at atomic.Int64
					var reason atomic.Pointer[string]
					stop = a.EndWithToken(func(why *identity.Refusal) {
						at.Add(int64(time.Since(began)))
						reason.Store(&why.Reason)
					})
					return func() (time.Duration, string) {
						if s := reason.Load(); s != nil {
							return time.Duration(at.Load()), *s
						}
						return 0, ""
					}, stop
				}
				ends, stop := begin(Resource{EndWithToken: true})
				never, stopNever := begin(Resource{})
				stopped, stopNow := begin(Resource{EndWithToken: true})
				stopNow()
				<-time.NewTimer(30 * time.Second).C
				if c.change != nil {
					c.change(l, &clock)
				}
				<-time.NewTimer(2 * time.Hour).C
				if at, reason := ends(); at != c.after || reason != c.reason {
					t.Errorf("it ended after %v (%s), and should after %v (%s)", at, reason, c.after, c.reason)
				}
				for name, ends := range map[string]func() (time.Duration, string){"a resource without it": never, "one that was over": stopped} {
					if _, reason := ends(); reason != "" {
						t.Errorf("%s: %s", name, reason)
					}
				}
				stop()
				stopNever()
				if n := len(l.endings.of); n != 0 {
					t.Errorf("%d are kept", n)
				}
			})
		})
	}
}

// An operation of a session is accepted no longer than the session: the leeway between two clocks is not given anew to each.
func TestASessionIsNotAcceptedForLongerThanItsToken(t *testing.T) {
	now := time.Now()
	l := New(Options{Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	st := &State{Identity: &standing{}}
	_ = l.Swap(st, nil)
	for begun, over := range map[time.Duration]bool{-time.Minute: true, 10 * time.Second: false} { // after the token's exp, which was 20 s ago
		expires := now.Add(-20 * time.Second)
		first := &Attempt{lane: l, State: st, Started: expires.Add(begun)}
		first.Op.Principal = &gate.Principal{Subject: "agent", Verified: gate.Verification{Expires: expires, Accepted: expires.Add(time.Minute)}}
		first.Op.Context.Session = "jti"
		a := l.Attempt(st, "postgres", "orders", gate.Context{})
		a.Follow(first)
		if got := a.tokenOver() != nil; got != over || a.Op.Principal != first.Op.Principal || a.Op.Context.Session != "jti" {
			t.Errorf("a session that began %v after its token's time: over %v, want %v", begun, got, over)
		}
	}
}
