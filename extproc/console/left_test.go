package console

import (
	"context"
	"net/http"
	"testing"

	"github.com/countersign/countersign/extproc/approval"
)

// abandoned is a desk whose people leave as soon as it has their answer.
type abandoned struct {
	Desk
	leave context.CancelFunc
	err   chan error
}

func (a *abandoned) Decide(ctx context.Context, by approval.Approver, id string, answer approval.Answer) (approval.Request, error) {
	a.leave()
	<-ctx.Done() // the server has seen that the connection is closed
	r, err := a.Desk.Decide(ctx, by, id, answer)
	a.err <- err
	return r, err
}

// TestAnAnswerCountsWhenNobodyWaits: a person answers at the API or on the page and closes the connection before they are told what
// came of it.
func TestAnAnswerCountsWhenNobodyWaits(t *testing.T) {
	desk := &abandoned{err: make(chan error, 1)}
	f := newFixture(t, false, func(o *Options) { desk.Desk, o.Desk = o.Desk, desk })
	bob := f.signIn("bob")
	for _, c := range []struct {
		name   string
		client *http.Client
		answer func(r *approval.Request) *http.Request
	}{
		{"at the API", f.client, func(r *approval.Request) *http.Request {
			return f.request("POST", "/api/approvals/"+r.ID+"/decisions", f.token("u-bob"), decision("approve", "", r.CardDigest))
		}},
		{"on the page", bob, func(r *approval.Request) *http.Request {
			v := fields(t, f.send(bob, f.request("GET", "/approvals/"+r.ID, "", "")))
			v.Set("decision", "approve")
			return f.filled("/approvals/"+r.ID+"/decision", v)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.t = t
			r := f.ask()
			before := len(f.records(approval.RecordDecided))
			var ctx context.Context
			ctx, desk.leave = context.WithCancel(t.Context())
			resp, err := c.client.Do(c.answer(&r).WithContext(ctx))
			if err == nil {
				resp.Body.Close()
				t.Errorf("it was answered: %s", resp.Status)
			}
			if err := <-desk.err; err != nil {
				t.Error(err)
			}
			if after, err := f.desk.Get(t.Context(), r.ID); err != nil || after.State != approval.Approved {
				t.Errorf("it is %s, %v", after.State, err)
			}
			if n := len(f.records(approval.RecordDecided)) - before; n != 1 {
				t.Errorf("%d records", n)
			}
		})
	}
}
