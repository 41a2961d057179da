package question

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc"
	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/approvaltest"
	"github.com/countersign/countersign/extproc/approval/embedded"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/kind"
	"github.com/countersign/countersign/extproc/kind/http"
	"github.com/countersign/countersign/extproc/kind/tcp"
	"github.com/countersign/countersign/extproc/lane"
)

// posted is a request as the gate judges it.
func posted(t *testing.T, path, contentType, body string) *web.Request {
	t.Helper()
	i := web.New(web.Options{MaxBody: 1 << 10})
	must(t, i.Head([]web.Field{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: "api.example"},
		{Name: ":path", Value: path},
		{Name: "content-type", Value: contentType},
	}))
	must(t, i.Write([]byte(body)))
	request, err := i.Request()
	must(t, err)
	return request
}

// TestACardOfSeveralValuesIsRedacted: to a path each value of a body of several is a document, on a card too.
func TestACardOfSeveralValuesIsRedacted(t *testing.T) {
	request := posted(t, "/_bulk", "application/x-ndjson", "{\"ssn\":\"219-09-9999\"}\n{\"a\":{\"ssn\":\"219-09-9999\",\"n\":1}}\n")
	a := asker(t)
	shown, err := a.shown(&gate.Question{
		Operation: &gate.Operation{Detail: request},
		Verdict:   gate.Verdict{Effect: gate.Ask, Redactions: []gate.Redaction{{Path: "$.ssn"}, {Path: "$.a.ssn", With: gate.Remove}}},
	}, http.Kind, &words{})
	if err != nil {
		t.Fatal(err)
	}
	bodies, _ := shown.Get("bodies")
	text, err := gate.AppendJSON(nil, bodies)
	if want := `[{"ssn":"[redacted]"},{"a":{"n":1,"ssn":"[redacted]"}}]`; err != nil || string(text) != want || strings.Contains(string(text), "219") {
		t.Errorf("the card has %s, %v; want %s", text, err, want)
	}
}

// TestACardShowsWhatPolicyPutsOnIt: people see what a redaction has on the card, and nothing that another one hides.
func TestACardShowsWhatPolicyPutsOnIt(t *testing.T) {
	request := posted(t, "/mails?to=ada@example.com", "application/json", `{"email":"ada@example.com","ssn":"219-09-9999","name":"Ada"}`)
	a := asker(t)
	for _, c := range []struct {
		redact []gate.Redaction
		want   string
	}{
		{[]gate.Redaction{{Path: "$.email"}, {Path: "$.ssn"}}, `{"email":"[redacted]","name":"Ada","ssn":"[redacted]"}`},
		{[]gate.Redaction{{Path: "$.email", OnCard: true}, {Path: "$.ssn"}}, `{"email":"ada@example.com","name":"Ada","ssn":"[redacted]"}`},
		{[]gate.Redaction{{Path: "$.email", OnCard: true}, {Detect: "email", OnCard: true}}, `{"email":"ada@example.com","name":"Ada","ssn":"219-09-9999"}`},
		{[]gate.Redaction{{Path: "$.email", OnCard: true}, {Detect: "email"}}, `{"email":"[redacted]","name":"Ada","ssn":"219-09-9999"}`},
		{[]gate.Redaction{{Path: "$.email", OnCard: true}, {Path: "$.*"}}, `{"email":"[redacted]","name":"[redacted]","ssn":"[redacted]"}`},
	} {
		shown, err := a.shown(&gate.Question{Operation: &gate.Operation{Detail: request}, Verdict: gate.Verdict{Effect: gate.Ask, Redactions: c.redact}}, http.Kind, &words{})
		if err != nil {
			t.Fatal(err)
		}
		body, _ := shown.Get("body")
		if text, err := gate.AppendJSON(nil, body); err != nil || string(text) != c.want {
			t.Errorf("%+v: the card has %s, %v; want %s", c.redact, text, err, c.want)
		}
	}
}

// TestWordsOfARuleGiveAwayNothing: of a summary or a reason that repeats a value which policy hides people see that it does, and that
// is what is approved. What policy puts on the card may stand in them.
func TestWordsOfARuleGiveAwayNothing(t *testing.T) {
	request := posted(t, "/mails?cc=eve@example.com", "application/json", `{"email":"ada@example.com","ssn":"219-09-9999","name":"Ada"}`)
	a := asker(t)
	for n, c := range []struct{ says, want string }{
		{"Mail to Ada", "Mail to Ada"},
		{"Mail to ada@example.com", "Mail to ada@example.com"},
		{"Tell Ada of 219-09-9999", hiddenWords},
		{"Tell Ada of MjE5LTA5LTk5OTk=", hiddenWords},
		{"Mail with a copy to eve@example.com", hiddenWords},
	} {
		for which, as := range map[string]struct {
			put  func(*gate.AskRule)
			want approval.AskRule
		}{
			"summary": {func(a *gate.AskRule) { a.Summary, a.Reason = c.says, "people decide" }, approval.AskRule{Summary: c.want, Reason: "people decide"}},
			"reason":  {func(a *gate.AskRule) { a.Summary, a.Reason = "Send a mail", c.says }, approval.AskRule{Summary: "Send a mail", Reason: c.want}},
		} {
			op := approvaltest.Operation(n)
			op.Resource.Kind, op.Detail = "http", request
			v := approvaltest.Verdict("p1", 1)
			as.put(&v.Asks[0])
			v.Redactions = []gate.Redaction{{Path: "$.ssn", With: gate.Remove}, {Path: "$.email", OnCard: true}, {Detect: "email", With: gate.Token}}
			if strings.Contains(c.want, "ada@") {
				v.Redactions = v.Redactions[:2]
			}
			q := &gate.Question{Operation: op, Digest: which + c.says, Verdict: v}
			pending, recorded, err := a.Ask(t.Context(), q)
			must(t, err)
			must(t, recorded())
			r, err := a.Desk.Get(t.Context(), pending.ID)
			must(t, err)
			card, err := approval.ReadCard(r.Card)
			must(t, err)
			if got := card.Why[0]; got.Summary.Text != as.want.Summary || got.Reason.Text != as.want.Reason || r.Asks[0].Summary != as.want.Summary || r.Asks[0].Reason != as.want.Reason {
				t.Errorf("%s %s: the card says %q because %q, and what is stored and told %q because %q", which, c.says, got.Summary.Text, got.Reason.Text, r.Asks[0].Summary, r.Asks[0].Reason)
			}
			_, err = a.Desk.Decide(t.Context(), approvaltest.Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
			must(t, err)
			grant, ok, err := a.Granted(t.Context(), q)
			must(t, err)
			if spent, err := a.Spend(t.Context(), q, grant); !ok || !spent || err != nil {
				t.Errorf("%s %s: what was approved does not run: %t, %v", which, c.says, ok, err)
			}
		}
	}
}

// connectionOf is a connection to resource r as the gate judges it.
func connectionOf(r string, c extproc.Connection) *gate.Operation {
	conf := &tcp.Resource{Base: config.Base{Name: r, Kind: "tcp"}, Target: "tcp://db.internal:5432"}
	var of lane.Resource
	tcp.Kind.Own(conf, kind.Shared{}, &of)
	verb, target, detail := of.Own.(extproc.Connected).Connection(c)
	return &gate.Operation{
		ID: gate.NewID(time.Now()), Protocol: "tcp", Verb: verb, Target: target, Detail: detail,
		Resource:  gate.Resource{Name: r, Kind: "tcp"},
		Principal: &gate.Principal{Issuer: "workloads", Subject: "spiffe://example/agent", Kind: "agent"},
	}
}

// TestACardOfAConnection: a card is of any kind of operation, and has first what its kind says. Where a kind does not say how its
// operations are shown, and of a kind that is none, nobody is asked.
func TestACardOfAConnection(t *testing.T) {
	a := asker(t)
	q := &gate.Question{
		Operation: connectionOf("ledger", extproc.Connection{Local: "10.0.0.1:6432", ServerName: "ledger.example"}), Digest: "d",
		Verdict: gate.Verdict{Effect: gate.Ask, RulesDigest: "r", Asks: []gate.AskRule{{Rule: gate.Rule{Package: "ledger", ID: "a"}, Approvers: []string{"dba"}, Quorum: 1}}},
	}
	pending, recorded, err := a.Ask(t.Context(), q)
	must(t, err)
	must(t, recorded())
	r, err := a.Desk.Get(t.Context(), pending.ID)
	must(t, err)
	card, err := approval.ReadCard(r.Card)
	must(t, err)
	var rows []string
	for _, row := range card.What.Detail {
		rows = append(rows, row.Path.Text+" = "+row.Value.Text)
	}
	if want := []string{"server_name = ledger.example", "destination = 10.0.0.1:6432"}; !slices.Equal(rows, want) || card.What.Verb.Text != "CONNECT" || card.What.Target.Text != "tcp://db.internal:5432" {
		t.Errorf("the card says %s %s %q, want CONNECT tcp://db.internal:5432 %q", card.What.Verb.Text, card.What.Target.Text, rows, want)
	}
	if _, err := a.shown(q, kind.Kind{}, &words{}); err == nil {
		t.Error("an operation of a kind that does not say how it is shown is shown")
	}
	q.Operation.Resource.Kind = "telepathy"
	if _, _, err := a.Ask(t.Context(), q); err == nil {
		t.Error("people are asked about an operation of a kind that is none")
	}
}

// asker is one whose requests are kept until the test is over.
func asker(t *testing.T) *Asker {
	t.Helper()
	store, err := embedded.Open(filepath.Join(t.TempDir(), "approvals.db"), embedded.Options{NoSync: true})
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })
	desk, err := approval.NewDesk(approval.Options{Store: store, Recorder: &approvaltest.Journal{}, Node: "n", People: approvaltest.People})
	must(t, err)
	return &Asker{Desk: desk, History: NewHistory(), Kinds: []kind.Kind{http.Kind, tcp.Kind}, RedactKey: []byte("sixteen bytes at least")}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestLimitsAreWhatWasShown: people see the limits of what they approve, and what they approved is released with these, or with less.
func TestLimitsAreWhatWasShown(t *testing.T) {
	a := asker(t)
	for n, c := range []struct {
		name               string
		shown, later, want gate.Limits
	}{
		{"the same", gate.Limits{Rows: 5}, gate.Limits{Rows: 5}, gate.Limits{Rows: 5}},
		{"policy lets it have more by then", gate.Limits{Rows: 5, Bytes: 7, ReadOnly: true}, gate.Limits{Rows: 500}, gate.Limits{Rows: 5, Bytes: 7, ReadOnly: true}},
		{"policy lets it have less by then", gate.Limits{Rows: 5}, gate.Limits{Rows: 3, Time: time.Second}, gate.Limits{Rows: 3, Time: time.Second}},
		{"none by then", gate.Limits{Time: time.Minute}, gate.Limits{}, gate.Limits{Time: time.Minute}},
	} {
		t.Run(c.name, func(t *testing.T) {
			op := approvaltest.Operation(n)
			op.Resource.Kind, op.Detail = "http", posted(t, "/mails", "application/json", `{"n":1}`)
			verdict := approvaltest.Verdict("p1", 1)
			says := verdict
			g := gate.Gate{
				Policy: saying(func() gate.Verdict { return says }), Recorder: &approvaltest.Journal{}, DigestKey: make([]byte, 32), Now: time.Now, Approvals: a,
			}
			says.Limits = c.shown
			ruling, err := g.Decide(t.Context(), op)
			must(t, err)
			r, err := a.Desk.Get(t.Context(), ruling.Pending().ID)
			must(t, err)
			card, err := approval.ReadCard(r.Card)
			must(t, err)
			shown := map[string]string{}
			for _, row := range card.What.Detail {
				if name, ok := strings.CutPrefix(row.Path.Text, "limit."); ok {
					shown[name] = row.Value.Text
				}
			}
			if len(shown) != len(c.shown.Object()) || c.shown.Rows == 5 && shown["rows"] != "5" || c.shown.Time > 0 && shown["seconds"] != "60" {
				t.Errorf("the card shows %v", shown)
			}
			_, err = a.Desk.Decide(t.Context(), approvaltest.Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
			must(t, err)
			says.Limits = c.later
			if ruling, err = g.Decide(t.Context(), op); err != nil || !ruling.Allowed() || ruling.Limits() != c.want {
				t.Errorf("allowed %v with %v, error %v", ruling.Allowed(), ruling.Limits(), err)
			}
		})
	}
}

// saying is a policy.
type saying func() gate.Verdict

func (s saying) Evaluate(context.Context, *gate.Operation) (gate.Verdict, error) { return s(), nil }
