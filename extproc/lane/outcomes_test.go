package lane

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// counting is a journal that counts what it is given.
type counting struct{ seq, unknown atomic.Uint64 }

func (c *counting) Append(context.Context, *gate.Record) (gate.Receipt, error) {
	return gate.Receipt{Seq: c.seq.Add(1)}, nil
}

func (c *counting) Begin(ctx context.Context, r *gate.Record) func() (gate.Receipt, error) {
	return func() (gate.Receipt, error) { return c.Append(ctx, r) }
}

func (c *counting) Post(_ context.Context, r *gate.Record) error {
	if r.Type == gate.OperationUnknown {
		c.unknown.Add(1)
	}
	return nil
}

// An Envoy whose access log never comes ends no operation of ext_authz: what waits for it has a bound, and each that is given
// up is recorded as unknown.
func TestOperationsThatNobodyEndsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		journal := &counting{}
		l := New(Options{Log: slog.New(slog.DiscardHandler), Now: time.Now})
		st := &State{Gate: &gate.Gate{Recorder: journal, Now: time.Now}}
		const many = 2 * maxPending
		for n := range many {
			a := &Attempt{lane: l, State: st, Started: time.Unix(int64(n), 0)}
			a.Op.ID = gate.NewID(time.Now())
			var err error
			if a.Ruling, err = st.Gate.Refuse(t.Context(), &a.Op, gate.Refusal{}); err != nil {
				t.Fatal(err)
			}
			a.Expect()
			a.Await(gate.Outcome{}, true)
			if n%1000 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		waiting, unknown := len(l.outcomes.pending), int(journal.unknown.Load())
		if waiting > maxPending+maxPending/4 || waiting+unknown != many {
			t.Errorf("%d wait and %d were given up, of %d", waiting, unknown, many)
		}
		for _, p := range l.outcomes.pending {
			if p.attempt.Started.Before(time.Unix(many-maxPending-maxPending/2, 0)) {
				t.Errorf("number %d waits, and later ones were given up", p.attempt.Started.Unix())
				break
			}
		}
	})
}
