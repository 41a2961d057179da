package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/approvaltest"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
)

type gateway struct {
	*approval.Desk
	journal *approvaltest.Journal
}

// newGateway starts a desk on a store of its own.
func newGateway(t *testing.T, node string, o Options) gateway {
	t.Helper()
	g := gateway{journal: &approvaltest.Journal{}}
	var err error
	g.Desk, err = approval.NewDesk(approval.Options{
		Store: connect(t, o), Recorder: g.journal, Node: node, People: approvaltest.People, TTL: time.Minute,
		SweepEvery: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return g
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func (g gateway) ask(t *testing.T, n int) approval.Request {
	t.Helper()
	r, _, err := g.Ask(t.Context(), approvaltest.Asking(approvaltest.Operation(n), approvaltest.Verdict("p1", 1)))
	if err != nil {
		t.Fatalf("ask: %v", err)
	}
	return r
}

func (g gateway) approve(t *testing.T, r approval.Request) {
	t.Helper()
	_, err := g.Decide(t.Context(), approvaltest.Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
	if err != nil {
		t.Fatalf("approve: %v", err)
	}
}

func (g gateway) spend(ctx context.Context, n int) (bool, error) {
	op := approvaltest.Operation(n)
	grant, ok, err := g.Spend(ctx, approvaltest.Spending(op, approvaltest.Verdict("p1", 1)))
	return ok && grant.For(op.ID), err
}

func TestTLSAndUserWithTheRightsThatAreDocumented(t *testing.T) {
	authority := extproctest.NewAuthority(t)
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rights, _ := strings.Cut(string(doc), "~{countersign}*")
	rights, _, _ = strings.Cut("~{countersign}*"+rights, "\npackage")
	rights = strings.Join(strings.Fields(strings.ReplaceAll(rights, "//", "")), " ")
	server := extproctest.StartRedis(t, extproctest.RedisConfig{Authority: authority, User: "gateway", Password: "not-a-secret", ACL: rights})
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("not-a-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := ParseURL("rediss://gateway@" + server.TLSAddress)
	if err != nil {
		t.Fatal(err)
	}
	o.PasswordFile = file
	o.TLS.RootCAs = authority.Pool
	o.TLS.ServerName = "redis.internal"

	a, b := newGateway(t, "gw-1", o), newGateway(t, "gw-2", o)
	r := a.ask(t, 1)
	woke := make(chan approval.State, 1)
	go func() {
		r, _ := b.Wait(context.Background(), r.ID)
		woke <- r.State
	}()
	a.approve(t, r)
	if state := <-woke; state != approval.Approved {
		t.Errorf("woke to %s", state)
	}
	if ok, err := b.spend(t.Context(), 1); !ok || err != nil {
		t.Errorf("spent %t, %v", ok, err)
	}
	if page, err := a.List(t.Context(), approval.Filter{}); err != nil || len(page.Requests) != 1 {
		t.Errorf("listed %d, %v", len(page.Requests), err)
	}
	if _, err := connect(t, o).SharedKey(t.Context(), []byte("0123456789abcdef")); err != nil {
		t.Errorf("shared key: %v", err)
	}

	for name, edit := range map[string]func(*Options){
		"a wrong password":    func(o *Options) { o.PasswordFile = os.DevNull },
		"no password file":    func(o *Options) { o.PasswordFile = file + ".none" },
		"an unknown CA":       func(o *Options) { o.TLS = &tls.Config{ServerName: "redis.internal"} },
		"another name":        func(o *Options) { o.TLS = o.TLS.Clone(); o.TLS.ServerName = "other.internal" },
		"plain text":          func(o *Options) { o.TLS = nil },
		"another user":        func(o *Options) { o.Username = "default" },
		"keys of others' ACL": func(o *Options) { o.Prefix = "other" },
	} {
		bad := o
		edit(&bad)
		bad.Timeout = 500 * time.Millisecond
		if _, err := connect(t, bad).Get(within(t, 5*time.Second), "x"); err == nil || errors.Is(err, approval.ErrNotFound) {
			t.Errorf("%s: the error is %v", name, err)
		} else if strings.Contains(err.Error(), "not-a-secret") {
			t.Errorf("%s: the error has the password: %v", name, err)
		}
	}
}

func TestCluster(t *testing.T) {
	nodes := extproctest.StartRedisCluster(t, 3)
	o := Options{Addresses: []string{nodes[0].Address}, Cluster: true}
	a, b := newGateway(t, "gw-1", o), newGateway(t, "gw-2", o)
	for n := range 5 {
		r := a.ask(t, n)
		woke := make(chan approval.State, 1)
		go func() {
			r, _ := b.Wait(within(t, 10*time.Second), r.ID)
			woke <- r.State
		}()
		a.approve(t, r)
		if state := <-woke; state != approval.Approved {
			t.Errorf("woke to %s", state)
		}
		if ok, err := b.spend(t.Context(), n); !ok || err != nil {
			t.Errorf("spent %t, %v", ok, err)
		}
	}
	if page, err := b.List(t.Context(), approval.Filter{}); err != nil || len(page.Requests) != 5 {
		t.Errorf("listed %d, %v", len(page.Requests), err)
	}
}

// A grant of before a restart could have been spent in what the restart lost.
func TestRestartedRedisVoidsGrantsAndKeepsRequests(t *testing.T) {
	dir := t.TempDir()
	port := extproctest.FreePort(t)
	server := extproctest.StartRedis(t, extproctest.RedisConfig{Dir: dir, Port: port})
	o := Options{Addresses: []string{server.Address}, Timeout: 500 * time.Millisecond}
	a, b := newGateway(t, "gw-1", o), newGateway(t, "gw-2", o)
	granted, pending := a.ask(t, 1), a.ask(t, 2)
	a.approve(t, granted)
	server.Kill()

	_, _, err := a.Ask(within(t, 60*time.Second), approvaltest.Asking(approvaltest.Operation(3), approvaltest.Verdict("p1", 1)))
	var limit *approval.LimitError
	if err == nil || errors.As(err, &limit) {
		t.Errorf("asked a Redis that is gone: %v", err)
	}
	if ok, err := a.spend(within(t, 60*time.Second), 1); ok || err == nil {
		t.Errorf("spent without a store: %t, %v", ok, err)
	}
	held := make(chan approval.State, 1)
	extproctest.StartRedis(t, extproctest.RedisConfig{Dir: dir, Port: port})
	extproctest.Await(t, "the store", 20*time.Second, func(ctx context.Context) error {
		_, err := a.Get(ctx, pending.ID)
		return err
	})
	go func() {
		r, _ := b.Wait(within(t, 60*time.Second), pending.ID)
		held <- r.State
	}()
	if ok, err := b.spend(t.Context(), 1); ok || err != nil {
		t.Errorf("spent a grant of before the restart: %t, %v", ok, err)
	}
	if r, err := a.Get(t.Context(), granted.ID); err != nil || r.State != approval.Voided {
		t.Errorf("the grant is %s, %v", r.State, err)
	}
	a.approve(t, pending)
	if state := <-held; state != approval.Approved {
		t.Errorf("the hold woke to %s", state)
	}
	if ok, err := b.spend(t.Context(), 2); !ok || err != nil {
		t.Errorf("spent %t, %v", ok, err)
	}
}

// What a restored backup takes back is noticed by the gateway that had acknowledged it.
func TestLostRejectionIsNoticed(t *testing.T) {
	server := extproctest.StartRedis(t, extproctest.RedisConfig{})
	o := Options{Addresses: []string{server.Address}}
	a := newGateway(t, "gw-1", o)
	r := a.ask(t, 1)
	key := "{countersign}:request:" + r.ID
	server.Do("COPY", key, "backup")
	if _, err := a.Decide(t.Context(), approvaltest.Oncall("bob"), r.ID, approval.Answer{Card: r.CardDigest}); err != nil {
		t.Fatal(err)
	}
	server.Do("COPY", "backup", key, "REPLACE")
	_, err := a.Decide(t.Context(), approvaltest.Oncall("eve"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
	if !errors.Is(err, approval.ErrRolledBack) {
		t.Errorf("approving what was rejected: %v", err)
	}
	if got, err := a.Get(t.Context(), r.ID); err != nil || got.State != approval.Voided {
		t.Errorf("it is %s, %v", got.State, err)
	}
	if len(a.journal.Lines("alarm")) != 1 {
		t.Errorf("alarms: %v", a.journal.Lines("alarm"))
	}
}

// Who waits is told by changes that are no answers. They do not hide that the store has lost one, not even those of a gateway that
// has not seen it.
func TestLostRejectionIsNoticedWhileAgentsComeAndGo(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		server := extproctest.StartRedis(t, extproctest.RedisConfig{})
		o := Options{Addresses: []string{server.Address}}
		a := newGateway(t, "gw-1", o)
		r := a.ask(t, 1)
		key := "{countersign}:request:" + r.ID
		server.Do("COPY", key, "backup")
		if _, err := a.Decide(t.Context(), approvaltest.Oncall("bob"), r.ID, approval.Answer{Card: r.CardDigest}); err != nil {
			t.Fatal(err)
		}
		server.Do("COPY", "backup", key, "REPLACE")
		at := a
		if elsewhere {
			at = newGateway(t, "gw-2", o)
		}
		for range 5 {
			at.waitUntilTold(t, r.ID)
		}
		if _, err := a.Decide(t.Context(), approvaltest.Oncall("eve"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest}); err == nil {
			t.Error("what was rejected is approved")
		}
		if got, err := a.Get(t.Context(), r.ID); err != nil || got.State != approval.Voided {
			t.Errorf("it is %s, %v", got.State, err)
		}
		extproctest.Await(t, "the alarm and the record of the voiding", 20*time.Second, func(context.Context) error {
			if alarms, voided := a.journal.Lines("alarm"), a.journal.Lines(approval.RecordVoided); len(alarms) != 1 || len(voided) != 1 {
				return fmt.Errorf("alarms %v, voided %v", alarms, voided)
			}
			return nil
		})
	}
}

// A failover may lose what no record is made of. That takes nothing from the request, and an answer that is lost later is noticed.
func TestALostNoteOfWhoWaitsVoidsNothing(t *testing.T) {
	server := extproctest.StartRedis(t, extproctest.RedisConfig{})
	a := newGateway(t, "gw-1", Options{Addresses: []string{server.Address}})
	r := a.ask(t, 1)
	key := "{countersign}:request:" + r.ID
	server.Do("COPY", key, "backup")
	for range 3 {
		a.waitUntilTold(t, r.ID)
	}
	server.Do("COPY", "backup", key, "REPLACE")
	a.approve(t, r)
	if got, err := a.Get(t.Context(), r.ID); err != nil || got.State != approval.Approved {
		t.Errorf("it is %s, %v", got.State, err)
	}
	if alarms := a.journal.Lines("alarm"); len(alarms) != 0 {
		t.Errorf("alarms: %v", alarms)
	}
	server.Do("COPY", "backup", key, "REPLACE")
	if _, err := a.Decide(t.Context(), approvaltest.Oncall("eve"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest}); !errors.Is(err, approval.ErrRolledBack) {
		t.Errorf("an answer is lost, and another one: %v", err)
	}
}

// waitUntilTold has an agent wait until people are told of it, or until the request has ended.
func (g gateway) waitUntilTold(t *testing.T, id string) {
	t.Helper()
	ctx, leave := context.WithTimeout(t.Context(), time.Hour)
	held := make(chan struct{})
	go func() {
		defer close(held)
		_ = g.Await(ctx, id)
	}()
	extproctest.Await(t, "the agent to be told of", 20*time.Second, func(ctx context.Context) error {
		got, err := g.Get(ctx, id)
		if n, _ := got.WaitingNow(time.Now()); err == nil && n == 0 && got.State == approval.Pending {
			err = errors.New("nobody is told to wait")
		}
		return err
	})
	leave()
	<-held
}

// Without a replica nothing counts: this is what a primary is that a partition has cut off.
func TestChangesThatNoReplicaHasAreNotAcknowledged(t *testing.T) {
	server := extproctest.StartRedis(t, extproctest.RedisConfig{})
	lonely := Options{Addresses: []string{server.Address}, Replicas: 1, WaitTimeout: 50 * time.Millisecond}
	b := newGateway(t, "gw-2", Options{Addresses: []string{server.Address}})
	a := newGateway(t, "gw-1", lonely)
	_, _, err := a.Ask(t.Context(), approvaltest.Asking(approvaltest.Operation(1), approvaltest.Verdict("p1", 1)))
	if !errors.Is(err, approval.ErrUncertain) {
		t.Errorf("ask: %v", err)
	}
	r := b.ask(t, 2)
	_, err = a.Decide(t.Context(), approvaltest.Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
	if !errors.Is(err, approval.ErrUncertain) {
		t.Errorf("decide: %v", err)
	}
	if ok, err := a.spend(t.Context(), 2); ok || !errors.Is(err, approval.ErrUncertain) {
		t.Errorf("spend: %t, %v", ok, err)
	}
	if ok, err := b.spend(t.Context(), 2); ok || err != nil {
		t.Errorf("spent after a spend that may have happened: %t, %v", ok, err)
	}
}

// TestOnlyWhatMayBeStoredIsUncertain: a change that met another has changed nothing, and is tried again, also without a replica.
func TestOnlyWhatMayBeStoredIsUncertain(t *testing.T) {
	server := extproctest.StartRedis(t, extproctest.RedisConfig{})
	o := Options{Addresses: []string{server.Address}}
	others := connect(t, o)
	o.Replicas, o.WaitTimeout = 1, 50*time.Millisecond
	lonely := connect(t, o)
	opening := approval.Opening{Digest: "d1", Agent: approval.Party{Issuer: "i", Subject: "s"}, Resource: "payments"}
	create := func(now time.Time) (approval.Request, error) {
		return approval.Request{
			ID: gate.NewID(now), Digest: opening.Digest, Agent: opening.Agent, Resource: opening.Resource,
			State: approval.Pending, Created: now, Expires: now.Add(time.Minute),
		}, nil
	}
	var first approval.Request
	r, joined, err := lonely.Open(t.Context(), opening, func(now time.Time) (approval.Request, error) {
		var err error
		if first, _, err = others.Open(t.Context(), opening, create); err != nil {
			t.Fatal(err)
		}
		return create(now)
	})
	if err != nil || !joined || r.ID != first.ID {
		t.Errorf("opened what others had just opened: %t, %v", joined, err)
	}
	tries := 0
	_, err = lonely.Update(t.Context(), first.ID, func(time.Time, *approval.Request) error {
		if tries++; tries > 1 {
			return nil
		}
		_, err := others.Update(t.Context(), first.ID, func(time.Time, *approval.Request) error { return nil })
		return err
	})
	if tries != 2 || !errors.Is(err, approval.ErrUncertain) {
		t.Errorf("changed what others had just changed: %d tries, %v", tries, err)
	}
	if got, err := others.Get(t.Context(), first.ID); err != nil || got.Rev != 3 {
		t.Errorf("the change was not stored: revision %d, %v", got.Rev, err)
	}
}

func TestSentinelFailover(t *testing.T) {
	primary := extproctest.StartRedis(t, extproctest.RedisConfig{})
	extproctest.StartRedis(t, extproctest.RedisConfig{ReplicaOf: primary.Port})
	sentinel := extproctest.StartSentinel(t, primary.Port, 1)
	o := Options{Addresses: []string{sentinel.Address}, Sentinel: "main", Timeout: time.Second}
	a, b := newGateway(t, "gw-1", o), newGateway(t, "gw-2", o)

	spent, granted, rejected, pending := a.ask(t, 1), a.ask(t, 2), a.ask(t, 3), a.ask(t, 4)
	a.approve(t, spent)
	if ok, err := a.spend(t.Context(), 1); !ok || err != nil {
		t.Fatalf("spent %t, %v", ok, err)
	}
	a.approve(t, granted)
	if _, err := a.Decide(t.Context(), approvaltest.Oncall("bob"), rejected.ID, approval.Answer{Card: rejected.CardDigest}); err != nil {
		t.Fatal(err)
	}
	woke := make(chan approval.Request, 1)
	go func() {
		r, _ := b.Wait(within(t, time.Minute), pending.ID)
		woke <- r
	}()
	extproctest.Await(t, "the hold", 5*time.Second, func(context.Context) error {
		if b.Held() != 1 {
			return errors.New("nobody waits")
		}
		return nil
	})

	primary.Kill()
	want := map[string]approval.State{
		spent.ID: approval.Spent, granted.ID: approval.Approved, rejected.ID: approval.Rejected, pending.ID: approval.Pending,
	}
	extproctest.Await(t, "the failover", 30*time.Second, func(ctx context.Context) error {
		_, err := a.Get(ctx, spent.ID)
		return err
	})
	for id, state := range want {
		if r, err := b.Get(t.Context(), id); err != nil || r.State != state {
			t.Errorf("after the failover request %s is %s, want %s: %v", id, r.State, state, err)
		}
	}

	// The only replica is the primary now: nothing counts until there is another.
	extproctest.StartRedis(t, extproctest.RedisConfig{ReplicaOf: newPrimary(t, sentinel, primary.Port)})
	for _, n := range []int{1, 2, 3} {
		if ok, err := b.spend(t.Context(), n); ok {
			t.Errorf("operation %d ran after the failover: %v", n, err)
		}
	}
	a.approve(t, pending)
	if r := <-woke; r.State != approval.Approved {
		t.Errorf("the hold woke to %s", r.State)
	}
	if ok, err := b.spend(t.Context(), 4); !ok || err != nil {
		t.Errorf("spent %t, %v", ok, err)
	}
}

// newPrimary waits until Sentinel names another primary than the old one: it promotes a replica before it says so.
func newPrimary(t *testing.T, sentinel *extproctest.RedisProcess, old int) int {
	t.Helper()
	port := 0
	extproctest.Await(t, "Sentinel to name the new primary", 60*time.Second, func(context.Context) error {
		info := sentinel.Do("INFO", "sentinel")
		_, address, _ := strings.Cut(info, "address=127.0.0.1:")
		digits, _, _ := strings.Cut(address, ",")
		var err error
		if port, err = strconv.Atoi(digits); err == nil && port == old {
			err = errors.New(info)
		}
		return err
	})
	return port
}

func TestParseURL(t *testing.T) {
	for _, c := range []struct {
		name, url string
		want      string // in the error; empty for none
	}{
		{"a server", "redis://127.0.0.1:6379", ""},
		{"a server without a port", "rediss://redis.internal/2", ""},
		{"sentinels", "rediss://gw@a:26379,b:26379?sentinel=main&replicas=1", ""},
		{"a cluster", "redis://a:1,b:2?cluster=true&prefix=blue", ""},
		{"a password", "redis://gw:not-a-secret@a:1", "password"},
		{"a scheme of another kind", "http://a:1", "scheme"},
		{"no host", "redis://:1", "no host"},
		{"a setting that is not known", "redis://a?clutser=true", "not known"},
		{"a setting twice", "redis://a?replicas=1&replicas=2", "twice"},
		{"a database of a cluster", "redis://a/1?cluster=true", "cluster"},
		{"a database that is no number", "redis://a/x", "not a number"},
		{"a prefix that would break the hash tag", "redis://a?prefix={x}", "not known"},
	} {
		_, err := ParseURL(c.url)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && strings.Contains(err.Error(), "not-a-secret") {
			t.Errorf("%s: the error has the password: %v", c.name, err)
		}
	}
}
