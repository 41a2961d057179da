package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign/countersign/extproc"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/lane"
	messages "github.com/countersign/countersign/extproc/wire"
)

// panics are the places in which a gateway is made to panic: armed is the one that does, once or always.
type panics struct {
	armed  atomic.Pointer[string]
	always atomic.Bool
	mu     sync.Mutex
	told   []string
}

func (p *panics) at(place string) {
	armed := p.armed.Load()
	if armed == nil || *armed != place {
		return
	}
	if !p.always.Load() && !p.armed.CompareAndSwap(armed, nil) {
		return
	}
	panic("made to, at " + place)
}

// Each part of a state, with a panic before it.
type (
	panickyVerifier struct {
		*panics
		next lane.Verifier
	}
	panickyPolicy struct {
		*panics
		next gate.Policy
	}
	panickyRecorder struct {
		*panics
		gate.Recorder
	}
	panickyCredential struct {
		*panics
		next extproc.Credential
	}
	panickyStream struct {
		*panics
		grpc.ServerStream
	}
)

func (v panickyVerifier) Verify(ctx context.Context, token string) (*gate.Principal, error) {
	v.at("verifier")
	return v.next.Verify(ctx, token)
}

func (v panickyVerifier) Still(p *gate.Principal) error { return v.next.Still(p) }

func (v panickyVerifier) VerifyCertificate(leaf *x509.Certificate) (*gate.Principal, error) {
	v.at("verifier")
	return v.next.VerifyCertificate(leaf)
}

func (v panickyPolicy) Evaluate(ctx context.Context, op *gate.Operation) (gate.Verdict, error) {
	v.at("policy")
	return v.next.Evaluate(ctx, op)
}

func (v panickyRecorder) Append(ctx context.Context, r *gate.Record) (gate.Receipt, error) {
	v.at("recorder: " + r.Type)
	return v.Recorder.Append(ctx, r)
}

func (v panickyRecorder) Post(ctx context.Context, r *gate.Record) error {
	v.at("recorder: " + r.Type)
	return v.Recorder.Post(ctx, r)
}

func (v panickyCredential) Field() (web.Field, error) {
	v.at("credential")
	return v.next.Field()
}

func (v panickyStream) SendMsg(m any) error {
	if a, ok := m.(*messages.Answer); ok { // of ext_proc
		v.at("send: " + map[messages.Part]string{
			0: "ImmediateResponse", messages.RequestHead: "RequestHeaders", messages.ResponseHead: "ResponseHeaders", messages.ResponseBody: "ResponseBody",
		}[a.To])
	}
	return v.ServerStream.SendMsg(m)
}

// into has a gateway panic.
func (p *panics) into() serving {
	return serving{
		observer: lane.Observer{
			Decided:  func(*gate.Operation, gate.Ruling, time.Duration) { p.at("decided") },
			Finished: func(string, gate.Result, time.Duration) { p.at("finished") },
		},
		state: func(st *lane.State) {
			st.Identity = panickyVerifier{p, st.Identity}
			st.Gate.Policy = panickyPolicy{p, st.Gate.Policy}
			st.Gate.Recorder = panickyRecorder{p, st.Gate.Recorder}
			st.Gate.Approvals = panickyApprovals{panics: p}
			for _, r := range st.Resources {
				own := r.Own.(*extproc.HTTP)
				own.Credential, r.Hold, own.RequestTime = panickyCredential{p, own.Credential}, time.Minute, 300*time.Millisecond
			}
		},
		options: []grpc.ServerOption{grpc.ChainStreamInterceptor(func(server any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			return handle(server, panickyStream{p, s})
		})},
	}
}

// awaitRecords waits until what was recorded since of operations is want: effects and results, in order.
func awaitRecords(t *testing.T, g *story.Gateway, name string, since int, want string) {
	t.Helper()
	extproctest.Await(t, name+": records that say "+want, 10*time.Second, func(context.Context) error {
		var said []string
		op := ""
		for _, r := range g.Records()[since:] {
			switch {
			case r.Type == gate.OperationDecided:
				op = r.Op
				said = append(said, fmt.Sprint(r.Body["effect"]))
			case r.Type == gate.OperationFinished && r.Op == op: // and not the end of the operation before
				said = append(said, fmt.Sprint(r.Body["result"]))
			}
		}
		if got := strings.Join(said, " "); got != want {
			return fmt.Errorf("they say %q", got)
		}
		return nil
	})
}

func (p *panics) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.told)
}

// panickyApprovals open a request, and panic where it is waited for.
type panickyApprovals struct {
	*panics
	gate.Approvals
}

func (v panickyApprovals) Granted(context.Context, *gate.Question) (gate.Grant, bool, error) {
	v.at("granted")
	return gate.Grant{}, false, nil
}

func (v panickyApprovals) Ask(context.Context, *gate.Question) (gate.Pending, func() error, error) {
	return gate.Pending{ID: "r", Expires: time.Now().Add(time.Minute)}, func() error { v.at("asked"); return nil }, nil
}

func (v panickyApprovals) Wait(context.Context, string) error {
	v.at("wait")
	return nil
}

func (v panickyApprovals) Answer(context.Context, string) (gate.Answer, error) {
	return gate.Answer{Rejected: true, Reason: "no"}, nil
}

// TestAPanicIsOneOperations makes a gateway panic, in both attachments, wherever what it is made of can: the agent is refused or
// gets no more of an answer, nothing is let through, the record says that the gateway failed, whoever runs it is told, and
// everybody else is served.
func TestAPanicIsOneOperations(t *testing.T) {
	p := &panics{}
	guard.Report(func(caught guard.Panic) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.told = append(p.told, caught.Where+": "+caught.Value)
	})
	const (
		policy  = "-- policy.rego --\npackage rules.payments\n\nallow contains {\"id\": \"read\"} if input.http.method in {\"GET\", \"POST\"}\n\nask contains {\"id\": \"ask\", \"approvers\": [\"oncall\"]} if startswith(input.http.path, \"/v1/exports\")\n"
		redacts = "\nredact contains {\"path\": \"$..ssn\"}\n"
		one     = "/v1/payments/7"
		slow    = "/feed/slow?type=application/json"
		held    = "/v1/exports/all"
	)
	for attach, archive := range map[string]string{"ext_proc": policy + redacts, "ext_authz": policy} {
		g := start(t, archive, story.Options{Attach: attach})
		g.Process.Stop()
		stop := serveOn(t, g, p.into())
		for _, c := range []struct {
			place, target string
			always        bool // it goes on to panic
			status        int  // 0 where the answer breaks off
			recorded      string
			reaches       bool // the target
			authz         bool // as well
		}{
			{"verifier", one, false, 503, "deny gateway_failed", false, true},
			{"policy", one, false, 503, "deny gateway_failed", false, true},
			{"credential", one, false, 503, "deny gateway_failed", false, true},
			{"decided", one, false, 503, "allow gateway_failed", false, true},
			{"recorder: operation.decided", one, false, 503, "deny gateway_failed", false, true},
			{"recorder: operation.decided", one, true, 503, "", false, true},
			{"recorder: operation.finished", "/v1/payments", false, 200, "allow", true, false},
			{"finished", one, false, 200, "allow completed", true, true},
			{"granted", held, false, 503, "deny gateway_failed", false, true},
			{"asked", held, false, 503, "ask deny gateway_failed", false, true},
			{"wait", held, false, 503, "ask gateway_failed", false, true},
			{"send: ImmediateResponse", held, false, 503, "ask deny refused", false, false},
			{"send: RequestHeaders", one, false, 502, "allow gateway_failed", false, false},
			{"send: ResponseHeaders", one, false, 502, "allow gateway_failed", true, false},
			{"send: ResponseHeaders", slow, false, 502, "allow gateway_failed", true, false}, // in a timer
			{"send: ResponseBody", slow, false, 0, "allow gateway_failed", true, false},
			{"recorder: transit", one, false, 200, "allow completed", true, false},
		} {
			if attach == "ext_authz" && !c.authz {
				continue
			}
			name := attach + ", " + c.place + ", " + c.target
			g.Target.Reset()
			before, told := len(g.Records()), p.count()
			p.always.Store(c.always)
			p.armed.Store(&c.place)
			if c.target == slow {
				go func() {
					for _, piece := range []string{`{"a":1,`, `"b":2,`} {
						_ = g.Target.Feed("slow").Send(t.Context(), piece)
					}
				}()
			}
			a, err := tryAsk(t, g, "GET", c.target)
			if c.always {
				p.armed.Store(nil)
			}
			switch {
			case err != nil || a.Broken != nil:
				if c.status != 0 {
					t.Errorf("%s: no answer: %v", name, err)
				}
			case a.Status != c.status:
				t.Errorf("%s: answer %d, want %d\n%s", name, a.Status, c.status, a.Body)
			case c.status >= 500 && c.recorded != "" && a.Problem() != map[int]string{502: "withheld", 503: "unavailable"}[c.status]:
				t.Errorf("%s: problem %q", name, a.Problem())
			}
			if n := len(g.Target.Requests()); (n == 1) != c.reaches || n > 1 {
				t.Errorf("%s: the target saw %d requests", name, n)
			}
			awaitRecords(t, g, name, before, c.recorded)
			extproctest.Await(t, name+": an alarm", 10*time.Second, func(context.Context) error {
				if p.count() == told {
					return errors.New("nobody was told")
				}
				return nil
			})
			if a := ask(t, g, "GET", one); a.Status != 200 {
				t.Errorf("%s: the next operation was answered %d\n%s", name, a.Status, a.Body)
			}
		}
		if attach == "ext_proc" {
			tooLate(t, g, p)
		}
		if err := stop(); err != nil {
			t.Errorf("%s: %v", attach, err)
		}
		verify(t, g)
	}
}

// tooLate has the timer panic that ends a request which does not arrive whole.
func tooLate(t *testing.T, g *story.Gateway, p *panics) {
	t.Helper()
	before := len(g.Records())
	place := "recorder: operation.decided"
	p.armed.Store(&place)
	w := dial(t, g)
	w.send(t, "%s\r\n", head(t, g, "POST", "/echo", "Content-Length: 1000"))
	resp := w.answer(t, "POST")
	if resp.StatusCode != 503 {
		t.Errorf("a request that is late: answer %d", resp.StatusCode)
	}
	awaitRecords(t, g, "a request that is late", before, "deny gateway_failed")
}
