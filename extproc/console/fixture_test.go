package console

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/embedded"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
)

const (
	clientID = "countersign-console"
	deadline = 20 * time.Second
)

// fixture is a console over a real desk, store, journal and issuer.
type fixture struct {
	t       *testing.T
	issuer  *extproctest.Issuer
	journal *evidence.Journal
	desk    *approval.Desk
	store   *embedded.Store
	console *Console
	url     string
	trust   *tls.Config
	client  *http.Client
	flaky   *flaky
}

// flaky is a recorder that can fail, before the journal sees the record.
type flaky struct {
	*evidence.Journal
	fail error
}

func (f *flaky) Append(ctx context.Context, r *gate.Record) (gate.Receipt, error) {
	if f.fail != nil {
		return gate.Receipt{}, f.fail
	}
	return f.Journal.Append(ctx, r)
}

// journalOf shows a journal's records, as the program does.
type journalOf struct{ *evidence.Journal }

func (j journalOf) Records(ctx context.Context, op string, limit int) ([]Record, error) {
	entries, err := evidence.Operation(ctx, j.Dir(), op, time.Hour, limit)
	list := make([]Record, len(entries))
	for i, e := range entries {
		list[i] = recordOf(e)
	}
	return list, err
}

func recordOf(e evidence.Entry) Record {
	return Record{e.Seq, e.Time, e.Node, e.Type, e.Op, e.Hash, e.Body}
}

func (j journalOf) Back(ctx context.Context, before uint64, until time.Time) iter.Seq2[Glance, error] {
	return glances(evidence.Backward(ctx, j.Dir(), evidence.From{Before: before, Safe: j.Durable(), Until: until}))
}

func (j journalOf) Forth(ctx context.Context, after uint64) iter.Seq2[Glance, error] {
	return glances(evidence.Forward(ctx, j.Dir(), after, j.Durable()))
}

func glances(list iter.Seq2[evidence.Glance, error]) iter.Seq2[Glance, error] {
	return func(yield func(Glance, error) bool) {
		for g, err := range list {
			read := func() (Record, error) {
				e, err := g.Entry()
				return recordOf(e), err
			}
			if !yield(Glance{g.Seq, g.Time, g.Type, g.Op, read}, err) {
				return
			}
		}
	}
}

func (j journalOf) Prove(_ context.Context, seq uint64) ([]byte, error) {
	keys, err := evidence.Verifiers([]string{j.PublicKey()})
	if err != nil {
		return nil, err
	}
	p, err := evidence.Prove(j.Dir(), keys, seq)
	if err != nil {
		return nil, err
	}
	if _, err := evidence.VerifyProof(p, keys); err != nil {
		return nil, err
	}
	return json.Marshal(p)
}

// newFixture starts a console, over TLS unless plain.
func newFixture(t *testing.T, plain bool, change ...func(*Options)) *fixture {
	t.Helper()
	return newFixtureAt(t, extproctest.IssuerOptions{}, plain, change...)
}

// newFixtureAt has people sign in at an issuer like that.
func newFixtureAt(t *testing.T, issuer extproctest.IssuerOptions, plain bool, change ...func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, issuer: extproctest.StartIssuer(t, issuer)}
	f.startParts()
	var authority *extproctest.Authority
	listener, err := net.Listen("tcp", extproctest.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	f.url = "http://" + listener.Addr().String()
	if !plain {
		authority = extproctest.NewAuthority(t)
		f.url = "https://" + listener.Addr().String()
		f.trust = &tls.Config{RootCAs: authority.Pool, MinVersion: tls.VersionTLS12}
	}
	f.client = &http.Client{
		Timeout: deadline, Transport: &http.Transport{TLSClientConfig: f.trust},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	f.issuer.AllowRedirect(clientID, f.url+"/callback")
	f.console = f.newConsole(change...)
	server := &http.Server{Handler: f.console.Handler(), ReadHeaderTimeout: deadline}
	if authority != nil {
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{authority.Issue("console.test").TLS}, MinVersion: tls.VersionTLS12}
		listener = tls.NewListener(listener, server.TLSConfig)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return f
}

func (f *fixture) startParts() {
	t := f.t
	t.Helper()
	var err error
	dir := extproctest.Dir(t)
	f.journal, err = evidence.Open(t.Context(), evidence.Options{Dir: filepath.Join(dir, "journal"), Node: "gw-1"})
	if err != nil {
		t.Fatal(err)
	}
	f.flaky = &flaky{Journal: f.journal}
	if f.store, err = embedded.Open(filepath.Join(dir, "approvals.db"), embedded.Options{}); err != nil {
		t.Fatal(err)
	}
	f.desk = f.newDesk()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	desk := f.desk // a test may put another in its place
	go func() { done <- desk.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, f.store.Close(), f.journal.Close()); err != nil {
			t.Error(err)
		}
	})
}

func (f *fixture) newDesk(change ...func(*approval.Options)) *approval.Desk {
	f.t.Helper()
	o := approval.Options{Store: f.store, Recorder: f.flaky, Node: "gw-1", People: f.issuer.URL, PeopleDirectory: f.issuer.URL}
	for _, c := range change {
		c(&o)
	}
	desk, err := approval.NewDesk(o)
	if err != nil {
		f.t.Fatal(err)
	}
	return desk
}

func (f *fixture) newConsole(change ...func(*Options)) *Console {
	f.t.Helper()
	people, err := identity.New(identity.Options{Issuers: []identity.Issuer{{Issuer: f.issuer.URL, Audience: []string{clientID}, Clients: []string{clientID}}}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(people.Close)
	o := Options{
		URL: f.url, Issuer: f.issuer.URL, ClientID: clientID, People: people, Desk: f.desk, Watch: f.store, Recorder: f.flaky,
		Journal: journalOf{f.journal}, Held: f.desk.Held,
		Resources: func() []Resource { return []Resource{{Name: "payments", Kind: "http", Hold: 50 * time.Second}} },
	}
	for _, c := range change {
		c(&o)
	}
	c, err := New(o)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// ask opens a request for a refund; change may make it another.
func (f *fixture) ask(change ...func(*approval.Asking)) approval.Request {
	f.t.Helper()
	now := time.Now()
	a := approval.Asking{
		Operation: &gate.Operation{
			ID: gate.NewID(now), Verb: "POST", Target: "/v1/payments/7/refunds", Protocol: "http",
			Principal: &gate.Principal{Issuer: f.issuer.URL, Subject: "agent-1", ClientID: "agent-1", Kind: "agent", Groups: []string{"agents"}},
			Resource:  gate.Resource{Name: "payments", Kind: "http"},
			Context:   gate.Context{Session: "session-1"},
		},
		Digest: gate.NewID(now),
		Verdict: gate.Verdict{Effect: gate.Ask, PolicyDigest: "policy-1", RulesDigest: "rules-1", Asks: []gate.AskRule{{
			Rule:      gate.Rule{Package: "payments", ID: "refund", Reason: "refunds need a person"},
			Approvers: []string{"payments-oncall"}, Quorum: 1,
		}}},
		Shown: gate.Object{
			{Name: "body", Value: gate.Object{{Name: "amount", Value: 10}, {Name: "reason", Value: "goods came back"}}},
			{Name: "host", Value: "payments.agents.internal"},
			{Name: "method", Value: "POST"},
			{Name: "path", Value: "/v1/payments/7/refunds"},
		},
		First:   []string{"body", "query"},
		History: []approval.Past{{Time: now.Add(-time.Minute), Verb: "GET", Target: "/v1/payments/7", Result: "completed"}},
	}
	for _, c := range change {
		c(&a)
	}
	r, _, err := f.desk.Ask(f.t.Context(), a)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// answer has somebody decide on r at the desk.
func (f *fixture) answer(r approval.Request, subject string, approve bool, reason string) {
	f.t.Helper()
	by := approval.Approver{Issuer: f.issuer.URL, Subject: subject, Name: strings.TrimPrefix(subject, "u-"), Groups: groupsOf[subject], Person: approval.Person{Directory: f.issuer.URL, ID: subject}}
	if _, err := f.desk.Decide(f.t.Context(), by, r.ID, approval.Answer{Approve: approve, Reason: reason, Card: r.CardDigest}); err != nil {
		f.t.Fatal(err)
	}
}

var groupsOf = map[string][]string{"u-bob": {"payments-oncall"}, "u-alice": {"payments-oncall", "security"}, "u-carol": nil}

// token is a person's access token.
func (f *fixture) token(subject string, more ...extproctest.Claims) string {
	claims := extproctest.Claims{
		"sub": subject, "aud": clientID, "client_id": clientID, "groups": groupsOf[subject], "acr": "mfa", "amr": []string{"pwd", "otp"}, "auth_time": time.Now().Unix(),
	}
	for _, m := range more {
		for name, value := range m {
			claims[name] = value
		}
	}
	return f.issuer.Mint(extproctest.Mint{Claims: claims, Type: "at+jwt"})
}

// reply is an answer whose body was read.
type reply struct {
	*http.Response
	body string
}

func (r reply) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%s: not JSON: %v: %s", r.Request.URL, err, r.body)
	}
	return v
}

func (f *fixture) send(client *http.Client, req *http.Request) reply {
	f.t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return reply{resp, string(b)}
}

func (f *fixture) request(method, path, token, body string) *http.Request {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return req
}

func (f *fixture) call(method, path, token, body string) reply {
	f.t.Helper()
	return f.send(f.client, f.request(method, path, token, body))
}

// records are those of the journal of a type, as objects.
func (f *fixture) records(kind string) (list []map[string]any) {
	f.t.Helper()
	for e, err := range evidence.Records(context.Background(), f.journal.Dir(), evidence.Filter{Types: []string{kind}}) {
		if err != nil {
			f.t.Fatal(err)
		}
		var body map[string]any
		if err := json.Unmarshal(e.Body, &body); err != nil {
			f.t.Fatal(err)
		}
		list = append(list, body)
	}
	return list
}

// wantRefused looks for one identity.refused more than before, of that reason.
func (f *fixture) wantRefused(before int, reason string) {
	f.t.Helper()
	list := f.records(gate.IdentityRefused)
	if len(list) != before+1 {
		f.t.Fatalf("there are %d identity.refused records, want %d", len(list), before+1)
	}
	if got := list[before]["reason"]; got != reason {
		f.t.Errorf("the record's reason is %v (%v), want %s", got, list[before]["detail"], reason)
	}
}

// signIn is a browser in which name is signed in. It follows no redirects.
func (f *fixture) signIn(name string) *http.Client {
	f.t.Helper()
	resp, browser, err := f.issuer.SignIn(f.t.Context(), f.url+"/login", name, name+"-password", f.trust)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		f.t.Fatalf("sign in as %s: %s at %s: %s", name, resp.Status, resp.Request.URL, b)
	}
	browser.CheckRedirect = f.client.CheckRedirect
	return browser
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }
