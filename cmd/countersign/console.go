package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/console"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/keyfile"
	"github.com/countersign/countersign/extproc/listener"
)

// listenConsole serves the approvers' page and API, where there are people and an address.
func (g *gateway) listenConsole(ctx context.Context, c *config.Config) error {
	if c.Listen.Console == "" || g.approvals == nil {
		return nil
	}
	p := c.People
	who := peopleOf(p)
	people, err := identity.New(identity.Options{Issuers: []identity.Issuer{who}, Log: g.log, Alarm: g.alarm})
	if err != nil {
		return fmt.Errorf("people: %w", err)
	}
	people.Start(context.WithoutCancel(ctx))
	page, err := console.New(console.Options{
		URL:    c.ConsoleURL(),
		Issuer: p.Issuer, Kind: who.Kind, PersonClaim: who.PersonClaim, NameClaim: p.NameClaim, ClientID: p.ClientID, ClientSecret: secretIn(string(p.ClientSecretFile)),
		Algorithms: p.Algorithms, GroupsClaim: p.GroupsClaim, CAFile: string(p.CAFile), Insecure: p.Insecure,
		People: people, Desk: g.approvals.desk, Watch: g.approvals.watch, Recorder: g.journal,
		Journal: journalView{g.journal, quietAfter(c.Approvals.TTL.Std())}, Auditors: p.Auditors, Resources: func() []console.Resource { return resourcesShown(g.current().config) }, Held: g.lane.Held,
		ConfigDigest: func() string { return g.current().config.Digest() }, Log: g.log,
	})
	if err != nil {
		return fmt.Errorf("listen.console: %w", err)
	}
	l, err := listener.Listen(ctx, c.Listen.Console)
	if err != nil {
		return fmt.Errorf("listen.console: %w", err)
	}
	const where = "the console"
	server := listener.HTTP(where, page.Handler())
	if t := c.Listen.ConsoleTLS; t != nil {
		certificate, err := tls.LoadX509KeyPair(string(t.CertificateFile), string(t.KeyFile))
		if err != nil {
			return errors.Join(fmt.Errorf("read listen.console_tls: %w", err), l.Close())
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	g.mu.Lock()
	g.approvals.console, g.approvals.people = server, people
	g.mu.Unlock()
	listener.Serve(where, server, l, g.listenerFailed)
	return nil
}

// peopleOf is the issuer of those who approve, as their tokens for the API are verified.
func peopleOf(p *config.People) identity.Issuer {
	return identity.Issuer{
		Issuer: p.Issuer, Kind: issuerKind(p.Kind), Clients: p.Clients, Audience: p.Audience, Algorithms: p.Algorithms,
		CAFile: string(p.CAFile), Insecure: p.Insecure, GroupsClaim: p.GroupsClaim, PersonClaim: p.Claim, PersonNameClaim: p.NameClaim,
	}
}

// secretIn reads a secret from a file each time that it is needed; nil where there is no file.
func secretIn(path string) func() (string, error) {
	if path == "" {
		return nil
	}
	return func() (string, error) {
		secret, err := keyfile.Secret(path)
		if err != nil {
			return "", fmt.Errorf("read people.client_secret_file: %w", err)
		}
		return secret, nil
	}
}

func resourcesShown(c *config.Config) []console.Resource {
	list := make([]console.Resource, len(c.Resources))
	for i := range c.Resources {
		r := c.Resources[i].Common()
		list[i] = console.Resource{
			Name: r.Name, Kind: r.Kind, Hold: cmp.Or(r.Hold, c.Approvals.Hold).Std(),
			Demand: approval.Demand{ACR: r.Approval.ACR, MaxAge: r.Approval.MaxAge.Std()},
		}
	}
	return list
}

// journalView is the journal as the console shows it.
type journalView struct {
	*evidence.Journal
	quiet time.Duration // after its end nothing more comes of an operation that asked
}

// quietAfter is how long a request, and then its grant, can outlive its operation, and what a busy machine may add.
func quietAfter(ttl time.Duration) time.Duration { return 2*ttl + time.Hour }

func (j journalView) Records(ctx context.Context, op string, limit int) ([]console.Record, error) {
	entries, err := evidence.Operation(ctx, j.Dir(), op, j.quiet, limit)
	if err != nil {
		return nil, err
	}
	list := make([]console.Record, len(entries))
	for i := range entries {
		list[i] = recordShown(&entries[i])
	}
	return list, nil
}

func recordShown(e *evidence.Entry) console.Record {
	return console.Record{Seq: e.Seq, Time: e.Time, Node: e.Node, Type: e.Type, Op: e.Op, Hash: e.Hash, Body: e.Body}
}

func (j journalView) Back(ctx context.Context, before uint64, until time.Time) iter.Seq2[console.Glance, error] {
	return glances(evidence.Backward(ctx, j.Dir(), evidence.From{Before: before, Safe: j.Durable(), Until: until}))
}

func (j journalView) Forth(ctx context.Context, after uint64) iter.Seq2[console.Glance, error] {
	return glances(evidence.Forward(ctx, j.Dir(), after, j.Durable()))
}

func glances(list iter.Seq2[evidence.Glance, error]) iter.Seq2[console.Glance, error] {
	return func(yield func(console.Glance, error) bool) {
		for g, err := range list {
			read := func() (console.Record, error) {
				e, err := g.Entry()
				return recordShown(&e), err
			}
			if !yield(console.Glance{Seq: g.Seq, Time: g.Time, Type: g.Type, Op: g.Op, Read: read}, err) {
				return
			}
		}
	}
}

func (j journalView) Prove(_ context.Context, seq uint64) ([]byte, error) {
	keys, err := evidence.Verifiers([]string{j.PublicKey()})
	if err != nil {
		return nil, err
	}
	proof, err := evidence.Prove(j.Dir(), keys, seq)
	if err != nil {
		return nil, err
	}
	if _, err := evidence.VerifyProof(proof, keys); err != nil {
		return nil, err
	}
	return json.Marshal(proof)
}
