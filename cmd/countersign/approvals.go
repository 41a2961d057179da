package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/question"
	"github.com/countersign/countersign/extproc/approval/webhook"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/console"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/identity"
)

// approvals are the parts of a gateway at which people are asked.
type approvals struct {
	desk *approval.Desk

	digestKey []byte // of operations: gateways that share a store must agree on it
	store     approvalStore
	watch     console.Watcher
	history   *question.History
	console   *http.Server       // nil where there is no console
	people    *identity.Verifier // of the console
	webhook   *webhook.Notifier  // nil where none is configured
	cancel    context.CancelFunc
	done      chan struct{}
}

// peoplesIssuer is whether people can sign in; empty where there is no console.
func (g *gateway) peoplesIssuer() []identity.State {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.approvals == nil || g.approvals.people == nil {
		return nil
	}
	return g.approvals.people.States()
}

// openApprovals opens the store and the desk. It does nothing where the configuration names no people.
func (g *gateway) openApprovals(ctx context.Context, c *config.Config) error {
	if c.People == nil {
		return nil
	}
	store, key, err := openStore(ctx, c, g.journal.DigestKey())
	if err != nil {
		return err
	}
	recorder, err := g.metrics.CountDecisions(g.journal)
	if err != nil {
		return errors.Join(err, store.Close())
	}
	desk, err := approval.NewDesk(approval.Options{
		Store: store, Recorder: recorder, Node: c.Node,
		People: c.People.Issuer, PeopleDirectory: identity.Directory(peopleOf(c.People)), PeopleShared: c.People.Claim != "",
		TTL: c.Approvals.TTL.Std(), Log: g.log,
		Limits: approval.Limits{
			Total: c.Approvals.Limits.Total, PerAgent: c.Approvals.Limits.PerAgent,
			PerResource: c.Approvals.Limits.PerResource, Rate: c.Approvals.Limits.Rate,
		},
	})
	if err != nil {
		return errors.Join(err, store.Close())
	}
	if c.Approvals.Store == "embedded" {
		if err := g.holdApprovalsAgainst(ctx, desk); err != nil {
			return errors.Join(err, store.Close())
		}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a := &approvals{digestKey: key, desk: desk, store: store, watch: store, history: question.NewHistory(), cancel: cancel, done: make(chan struct{})}
	err = g.metrics.Approvals(ctx, store, func() int { return g.lane.Held() }, g.log)
	if err == nil && c.Approvals.Webhook != nil {
		err = g.startWebhook(c, a)
	}
	if err != nil {
		cancel()
		return errors.Join(err, store.Close())
	}
	go guard.Func("the approvals", func() {
		defer close(a.done)
		if err := desk.Run(ctx); err != nil {
			g.alarm("approvals_failed", err.Error())
		}
	})()
	g.approvals = a
	return nil
}

// webhookDrain is how long a stop waits for notifications.
const webhookDrain = 2 * time.Second

// startWebhook notifies whoever should approve.
func (g *gateway) startWebhook(c *config.Config, a *approvals) (err error) {
	w, at := c.Approvals.Webhook, c.ConsoleURL()
	a.webhook, err = webhook.Start(webhook.Options{
		Store: a.store, URL: w.URL, SecretFile: string(w.SecretFile), CAFile: string(w.CAFile), Node: c.Node,
		Page: func(id string) string {
			if at == "" {
				return ""
			}
			return at + "/approvals/" + id
		},
		Log: g.log, Alarm: g.alarm,
	})
	if err != nil {
		return fmt.Errorf("approvals.webhook: %w", err)
	}
	return g.metrics.Webhook(a.webhook)
}

// holdApprovalsAgainst voids what the approvals file has forgotten and the journal knows. Only of a file that is restored by
// itself can that be known: a whole data directory from a backup is an older world, and what contradicts it is at the
// collector. Redis has a guard of its own, see approval/redis.
func (g *gateway) holdApprovalsAgainst(ctx context.Context, desk *approval.Desk) error {
	n, err := desk.HoldAgainst(ctx, func() (map[string]uint64, error) { return evidence.Revisions(ctx, g.journal.Dir()) })
	if n > 0 {
		g.log.Warn("requests for approval were voided, because the approvals file is older than the journal", "requests", n)
	}
	return err
}

// kind is what gateway.started says of where requests are kept: verifying asks a journal for all of them, or for its part.
func (a *approvals) kind(c *config.Config) string {
	switch {
	case a == nil:
		return "none"
	case c.Approvals.Store == "embedded":
		return "embedded"
	default:
		return evidence.SharedApprovals
	}
}

// asking is the desk for a state's gate; nil where nobody can be asked.
func (a *approvals) asking(c *config.Config, redactKey []byte) gate.Approvals {
	if a == nil {
		return nil
	}
	demands := map[string]approval.Demand{}
	for _, r := range c.Resources {
		r := r.Common()
		if d := r.Approval; len(d.ACR) > 0 || d.MaxAge > 0 {
			demands[r.Name] = approval.Demand{ACR: d.ACR, MaxAge: d.MaxAge.Std()}
		}
	}
	return &question.Asker{
		Desk: a.desk, History: a.history, Kinds: kinds, RedactKey: redactKey, Demands: demands, Console: c.ConsoleURL(),
	}
}

// startVoiding voids what was asked under other rules than those of a, so that nobody is asked in vain and holds ask anew.
func (g *gateway) startVoiding(ctx context.Context, a *active) {
	if g.approvals == nil {
		return
	}
	rules := map[string]string{}
	for _, r := range a.config.Resources {
		r := r.Common()
		rules[r.Name] = a.policies.RulesDigest(r.Policy)
	}
	g.stopVoiding = g.approvals.desk.StartVoiding(ctx, rules, func(err error) { g.alarm("approvals_failed", err.Error()) })
}

func (a *approvals) close() error {
	if a == nil {
		return nil
	}
	if a.console != nil {
		if err := a.console.Close(); err != nil {
			return fmt.Errorf("close the console: %w", err)
		}
		a.people.Close()
	}
	if a.webhook != nil {
		ctx, cancel := context.WithTimeout(context.Background(), webhookDrain)
		defer cancel()
		a.webhook.Close(ctx)
	}
	a.cancel()
	<-a.done
	return a.store.Close()
}
