package approvaltest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

// leaves is the context of an agent that leaves once it was seen to be there.
type leaves struct {
	context.Context //nolint:containedctx // it is one
	leave           context.CancelFunc
}

func (l *leaves) Err() error {
	err := l.Context.Err()
	l.leave()
	return err
}

func testRules(t *testing.T, open Open) {
	ask := Verdict("p1", 1)
	for _, c := range []struct {
		name string
		edit func(*approval.Options)
		test func(t *testing.T, o *office)
	}{
		{"an approved operation runs once", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			r := o.approve(t, o.ask(t, op, ask), "bob")
			if r.State != approval.Approved || !o.spend(t, op, ask) {
				t.Fatalf("it is %s and was not spent", r.State)
			}
			if again := Operation(1); o.spend(t, again, ask) || o.spend(t, op, ask) {
				t.Error("it was spent again")
			}
		}},
		{"approving one operation cannot run another", nil, func(t *testing.T, o *office) {
			o.approve(t, o.ask(t, Operation(1), ask), "bob")
			if o.spend(t, Operation(2), ask) {
				t.Error("refund 2 ran on the approval of refund 1")
			}
		}},
		{"what is pending runs nothing", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			o.ask(t, op, ask)
			if o.spend(t, op, ask) {
				t.Error("a pending request was spent")
			}
		}},
		{"a denied operation does not use its grant", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			o.approve(t, o.ask(t, op, ask), "bob")
			denied := ask
			denied.Effect = gate.Deny
			if o.spend(t, op, denied) {
				t.Error("policy denied it and it was spent")
			}
			allowed := gate.Verdict{Effect: gate.Allow, RulesDigest: "p1"}
			if !o.spend(t, op, allowed) {
				t.Error("policy allows what was approved and it was not spent")
			}
		}},
		{"the same operation joins, wherever it comes", nil, func(t *testing.T, o *office) {
			r := o.ask(t, Operation(1), ask)
			again, joined, err := o.desks[1].Ask(t.Context(), Asking(Operation(1), ask))
			if err != nil || !joined || again.ID != r.ID {
				t.Errorf("joined %t, %s and %s, %v", joined, again.ID, r.ID, err)
			}
		}},
		{"an operation that names its request joins that one", nil, func(t *testing.T, o *office) {
			r := o.ask(t, Operation(1), ask)
			a := Asking(Operation(1), ask)
			a.Only = r.ID
			again, joined, err := o.desks[1].Ask(t.Context(), a)
			if err != nil || !joined || again.ID != r.ID {
				t.Errorf("joined %t, %s and %s, %v", joined, again.ID, r.ID, err)
			}
			o.approve(t, r, "bob")
			if again, joined, err = o.desks[0].Ask(t.Context(), a); err != nil || !joined || again.State != approval.Approved {
				t.Errorf("after the approval: joined %t, %s, %v", joined, again.State, err)
			}
		}},
		{"an operation that names another request opens none, joins none and voids none", nil, func(t *testing.T, o *office) {
			r, other := o.ask(t, Operation(1), ask), o.ask(t, Operation(2), ask)
			named := func(n int, v gate.Verdict, id string) error {
				a := Asking(Operation(n), v)
				a.Only = id
				_, _, err := o.desks[1].Ask(t.Context(), a)
				return err
			}
			for _, err := range []error{
				named(1, ask, other.ID), named(3, ask, r.ID), named(1, ask, gate.NewID(time.Now())), named(3, ask, gate.NewID(time.Now())), named(1, Verdict("p2", 1), other.ID),
			} {
				wantError(t, err, approval.ErrNotFound)
			}
			// Its own under another policy has ended by that.
			wantError(t, named(1, Verdict("p2", 1), r.ID), approval.ErrNotFound)
			page, err := o.desks[0].List(t.Context(), approval.Filter{States: []approval.State{approval.Pending}})
			if err != nil || len(page.Requests) != 1 || page.Requests[0].ID != other.ID {
				t.Errorf("open are %v, %v", page.Requests, err)
			}
		}},
		{"an operation that names a request which has ended opens none", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			r := o.approve(t, o.ask(t, op, ask), "bob")
			if !o.spend(t, op, ask) {
				t.Fatal("it was not spent")
			}
			a := Asking(Operation(1), ask)
			a.Only = r.ID
			_, _, err := o.desks[1].Ask(t.Context(), a)
			wantError(t, err, approval.ErrNotFound)
			if page, err := o.desks[0].List(t.Context(), approval.Filter{States: []approval.State{approval.Pending}}); err != nil || len(page.Requests) != 0 {
				t.Errorf("open are %v, %v", page.Requests, err)
			}
		}},
		{"a changed policy voids what is pending and asks anew", nil, func(t *testing.T, o *office) {
			old := o.ask(t, Operation(1), ask)
			anew := o.ask(t, Operation(1), Verdict("p2", 1))
			if anew.ID == old.ID {
				t.Fatal("joined a request of another policy")
			}
			if r, _ := o.desks[1].Get(t.Context(), old.ID); r.State != approval.Voided {
				t.Errorf("the old request is %s", r.State)
			}
			_, err := o.desks[0].Decide(t.Context(), Oncall("bob"), old.ID, approval.Answer{Approve: true, Card: old.CardDigest})
			wantError(t, err, approval.ErrClosed)
		}},
		{"a changed policy voids a grant", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			r := o.approve(t, o.ask(t, op, ask), "bob")
			if o.spend(t, op, Verdict("p2", 1)) || o.spend(t, op, ask) {
				t.Error("a grant of another policy was spent")
			}
			if r, _ = o.desks[0].Get(t.Context(), r.ID); r.State != approval.Voided {
				t.Errorf("it is %s", r.State)
			}
		}},
		{"what is asked in other words is asked anew, and approved in those alone", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			said := func(words string) gate.Verdict {
				v := Verdict("p1", 1)
				v.Asks[0].Summary = words
				return v
			}
			first := o.ask(t, op, said("Refund 10"))
			if again := o.ask(t, op, said("Refund 10")); again.ID != first.ID {
				t.Error("the same words did not join")
			}
			r := o.ask(t, op, said("Look at 10"))
			if first, _ = o.desks[0].Get(t.Context(), first.ID); r.ID == first.ID || first.State != approval.Voided {
				t.Errorf("in other words it joined, or the first is %s", first.State)
			}
			if record := o.lines(approval.RecordRequested); len(record) != 2 || !strings.Contains(fmt.Sprint(record[1]), "Look at 10") {
				t.Errorf("on record is %v", record)
			}
			o.approve(t, r, "bob")
			if o.spend(t, op, said("Refund 10")) {
				t.Error("what was approved in other words ran")
			}
		}},
		{"a policy that changed elsewhere voids nothing", nil, func(t *testing.T, o *office) {
			op, v := Operation(1), ask
			r := o.ask(t, op, ask)
			v.PolicyDigest = "all of another"
			if n, err := o.desks[0].VoidOthers(t.Context(), map[string]string{"payments": "p1"}); n != 0 || err != nil {
				t.Errorf("voided %d, %v", n, err)
			}
			if again := o.ask(t, op, v); again.ID != r.ID {
				t.Error("it did not join")
			}
			o.approve(t, r, "bob")
			if !o.spend(t, op, v) {
				t.Error("the grant was not spent")
			}
		}},
		{"new rules void all that was asked under others, and nothing of other resources", nil, func(t *testing.T, o *office) {
			gone := o.ask(t, Operation(1), ask)
			kept := o.ask(t, Operation(2), Verdict("p2", 1))
			op := Operation(3)
			op.Resource.Name = "ledger"
			elsewhere := o.ask(t, op, ask)
			if n, err := o.desks[0].VoidOthers(t.Context(), map[string]string{"payments": "p2"}); n != 1 || err != nil {
				t.Errorf("voided %d, %v", n, err)
			}
			for _, kept := range []approval.Request{kept, elsewhere} {
				if r, _ := o.desks[0].Get(t.Context(), kept.ID); r.State != approval.Pending {
					t.Errorf("one of %s is %s", kept.Resource, r.State)
				}
			}
			if r, _ := o.desks[0].Get(t.Context(), gone.ID); r.State != approval.Voided || !strings.HasPrefix(r.Reason, "the rules that this depends on have changed") {
				t.Errorf("it is %s: %s", r.State, r.Reason)
			}
		}},
		{"an older request, which does not say under which rules, lets nothing run", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			r := o.approve(t, o.ask(t, op, ask), "bob")
			if _, err := o.stores[0].Update(t.Context(), r.ID, func(_ time.Time, r *approval.Request) error {
				r.RulesDigest = ""
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			v := ask
			v.RulesDigest = ""
			if o.spend(t, op, v) || o.spend(t, op, ask) {
				t.Error("it was spent")
			}
			if r, _ = o.desks[0].Get(t.Context(), r.ID); r.State != approval.Voided {
				t.Errorf("it is %s", r.State)
			}
		}},
		{"an approval by one does not do where policy now asks for two", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			o.approve(t, o.ask(t, op, ask), "bob")
			if o.spend(t, op, Verdict("p1", 2)) {
				t.Error("spent with one approval of two")
			}
			if r := o.ask(t, op, Verdict("p1", 2)); r.State != approval.Pending || r.Asks[0].Quorum != 2 {
				t.Errorf("asked anew: %s, %v", r.State, r.Asks)
			}
		}},
		{"a rejection refuses at once, with its reason", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			r := o.ask(t, op, Verdict("p1", 2))
			o.approve(t, r, "bob")
			r, err := o.desks[1].Decide(t.Context(), Oncall("dan"), r.ID, approval.Answer{Reason: "wrong customer", Card: r.CardDigest})
			if err != nil || r.State != approval.Rejected || r.Reason != "wrong customer" {
				t.Fatalf("%s for %q, %v", r.State, r.Reason, err)
			}
			_, err = o.desks[0].Decide(t.Context(), Oncall("eve"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
			wantError(t, err, approval.ErrClosed)
			if o.spend(t, op, Verdict("p1", 2)) {
				t.Error("a rejected request was spent")
			}
		}},
		{"an answer counts although whoever sent it has left", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			r := o.ask(t, op, ask)
			left, leave := context.WithCancel(t.Context())
			leave()
			r, err := o.desks[0].Decide(left, Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
			if err != nil || r.State != approval.Approved || len(o.lines(approval.RecordDecided)) != 1 || !o.spend(t, op, ask) {
				t.Errorf("it is %s, %v, with %d records", r.State, err, len(o.lines(approval.RecordDecided)))
			}
		}},
		{"an agent that has left spends nothing, and one that leaves while it spends has spent", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			o.approve(t, o.ask(t, op, ask), "bob")
			left, leave := context.WithCancel(t.Context())
			leave()
			if _, ok, err := o.desks[0].Spend(left, Spending(op, ask)); ok || err == nil {
				t.Fatalf("it has spent after it had left: %v", err)
			}
			leaving, leave := context.WithCancel(t.Context())
			if g, ok, err := o.desks[0].Spend(&leaves{leaving, leave}, Spending(op, ask)); !ok || err != nil || !g.For(op.ID) {
				t.Errorf("it has not spent: %v", err)
			}
		}},
		{"a request expires, and then asks anew", func(o *approval.Options) { o.TTL = 60 * time.Millisecond }, func(t *testing.T, o *office) {
			r := o.ask(t, Operation(1), ask)
			got, err := o.desks[1].Wait(within(t, 10*time.Second), r.ID)
			if err != nil || got.State != approval.Expired {
				t.Fatalf("%s, %v", got.State, err)
			}
			_, err = o.desks[0].Decide(t.Context(), Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
			wantError(t, err, approval.ErrClosed)
			if again := o.ask(t, Operation(1), ask); again.ID == r.ID {
				t.Error("joined what had expired")
			}
		}},
		{"a grant expires by its own time, from when it was approved", func(o *approval.Options) {
			o.GrantTTL, o.SweepEvery = 50*time.Millisecond, time.Hour
		}, func(t *testing.T, o *office) {
			op := Operation(1)
			r := o.approve(t, o.ask(t, op, ask), "bob")
			await(t, "the grant to be due", func() bool {
				page, _ := o.stores[0].List(t.Context(), approval.Filter{Due: true})
				return len(page.Requests) == 1
			})
			if o.spend(t, op, ask) {
				t.Error("an expired grant was spent")
			}
			if r, _ = o.desks[0].Get(t.Context(), r.ID); r.State != approval.Expired {
				t.Errorf("it is %s", r.State)
			}
		}},
		{"an agent that leaves leaves the request open", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			r := o.ask(t, op, ask)
			if err := o.desks[0].Left(t.Context(), op, r.ID); err != nil {
				t.Fatal(err)
			}
			left := o.lines(approval.RecordWithdrawn)
			if len(left) != 1 || left[0].Op != op.ID || left[0].Body["state"] != "pending" {
				t.Errorf("the record is %v", left)
			}
			o.approve(t, r, "bob")
			if !o.spend(t, Operation(1), ask) {
				t.Error("the repeated operation did not get the grant")
			}
		}},
		{"people are told who waits, at every gateway", nil, func(t *testing.T, o *office) {
			r := o.ask(t, Operation(1), ask)
			leaves := []context.CancelFunc{o.wait(t, 0, r.ID, time.Hour), o.wait(t, 1, r.ID, 2*time.Hour)}
			o.waiting(t, r.ID, 2, 2*time.Hour)
			leaves[1]()
			o.waiting(t, r.ID, 1, time.Hour)
			leaves[0]()
			o.waiting(t, r.ID, 0, 0)
			o.wait(t, 1, r.ID, time.Minute)
			o.waiting(t, r.ID, 1, time.Minute)
			o.approve(t, r, "bob")
			o.waiting(t, r.ID, 0, 0)
		}},
		{"people are told how what they approved has ended", nil, func(t *testing.T, o *office) {
			op := Operation(1)
			r := o.approve(t, o.ask(t, op, ask), "bob")
			o.desks[0].Ended(r.ID, op.ID, approval.Outcome{Result: "completed", Status: 500})
			if !o.spend(t, op, ask) {
				t.Fatal("it was not spent")
			}
			o.desks[0].Ended(r.ID, "another", approval.Outcome{Result: "completed", Status: 500})
			o.desks[0].Ended(r.ID, op.ID, approval.Outcome{Result: "completed", Status: 201, Took: 40 * time.Millisecond})
			await(t, "the outcome at the other gateway", func() bool {
				got, err := o.desks[1].Get(t.Context(), r.ID)
				return err == nil && got.Spent != nil && got.Spent.Outcome != nil && *got.Spent.Outcome == approval.Outcome{Result: "completed", Status: 201, Took: 40 * time.Millisecond}
			})
		}},
		{"an agent cannot flood people", func(o *approval.Options) { o.Limits = approval.Limits{PerAgent: 2} }, func(t *testing.T, o *office) {
			o.ask(t, Operation(1), ask)
			o.ask(t, Operation(2), ask)
			_, _, err := o.desks[1].Ask(t.Context(), Asking(Operation(3), ask))
			var limit *approval.LimitError
			if !errors.As(err, &limit) || limit.Limit != 2 {
				t.Errorf("the error is %v", err)
			}
		}},
		{"a card too large to be read is refused", func(o *approval.Options) { o.CardBytes = 4096 }, func(t *testing.T, o *office) {
			a := Asking(Operation(1), ask)
			a.Shown = gate.Object{{Name: "body", Value: slices.Repeat([]any{strings.Repeat("x", 100)}, 100)}}
			_, _, err := o.desks[0].Ask(t.Context(), a)
			var limit *approval.LimitError
			if !errors.As(err, &limit) || limit.What != approval.LimitCard {
				t.Errorf("the error is %v", err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, newOffice(t, open, c.edit)) })
	}
	t.Run("who may approve", func(t *testing.T) { testWho(t, newOffice(t, open, nil)) })
	t.Run("who cannot be told from whom", func(t *testing.T) { testUnclear(t, newOffice(t, open, nil)) })
	t.Run("an older request does not say whose it is", func(t *testing.T) { testOlder(t, newOffice(t, open, nil)) })
	t.Run("quorum", func(t *testing.T) { testQuorum(t, newOffice(t, open, nil)) })
	t.Run("a name decides nothing", func(t *testing.T) { testNames(t, newOffice(t, open, nil)) })
	t.Run("what must be asked of somebody", func(t *testing.T) { testNobody(t, newOffice(t, open, nil)) })
	t.Run("who comes and goes wakes nobody who waits", func(t *testing.T) { testComings(t, open) })
	t.Run("how it ended is told once the store is there again", func(t *testing.T) { testLateNews(t, open) })
	t.Run("a decision wakes the hold at the other gateway within 100 ms", func(t *testing.T) { testWake(t, newOffice(t, open, nil)) })
}

func testWho(t *testing.T, o *office) {
	r := o.ask(t, Operation(1), Verdict("p1", 2))
	if _, err := o.desks[0].Decide(t.Context(), Oncall("first"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest}); err != nil {
		t.Fatal(err)
	}
	admin := approver("root", "admin", "administrators", "*", "")
	foreign := Oncall("bob")
	foreign.Issuer = "https://people.example/"
	nameless := Oncall("")
	for _, c := range []struct {
		name string
		by   approval.Approver
		card string
		want error
	}{
		{"the agent itself", Oncall("agent-7"), r.CardDigest, approval.ErrOwnOperation},
		{"an actor in its chain", Oncall("orchestrator"), r.CardDigest, approval.ErrOwnOperation},
		{"the person it acts for", Oncall("alice"), r.CardDigest, approval.ErrOwnOperation},
		{"somebody no rule names", approver("mallory", "staff"), r.CardDigest, approval.ErrNotApprover},
		{"an administrator", admin, r.CardDigest, approval.ErrNotApprover},
		{"a person whose subject is the name of a group", approver("payments-oncall"), r.CardDigest, approval.ErrNotApprover},
		{"a person with a group whose name is a person's subject", approver("mallory", "carol"), r.CardDigest, approval.ErrNotApprover},
		{"a person with a group that is called like the rule's person", approver("mallory", "subject:carol"), r.CardDigest, approval.ErrNotApprover},
		{"a person whose subject is the rule's whole word", approver("subject:carol"), r.CardDigest, approval.ErrNotApprover},
		{"the same name at another issuer", foreign, r.CardDigest, approval.ErrNotApprover},
		{"nobody", nameless, r.CardDigest, approval.ErrNotApprover},
		{"the zero approver", approval.Approver{}, r.CardDigest, approval.ErrNotApprover},
		{"who approved already", Oncall("first"), r.CardDigest, approval.ErrDecidedAlready},
		{"with an older card", Oncall("bob"), approval.CardDigest([]byte("old")), approval.ErrOldCard},
		{"with no card", Oncall("bob"), "", approval.ErrOldCard},
	} {
		for _, approve := range []bool{true, false} {
			before := len(o.lines(approval.RecordDecided))
			got, err := o.desks[1].Decide(t.Context(), c.by, r.ID, approval.Answer{Approve: approve, Card: c.card})
			if !errors.Is(err, c.want) || got.State != approval.Pending {
				t.Errorf("%s (approve %t): %s, %v", c.name, approve, got.State, err)
			}
			lines := o.lines(approval.RecordDecided)
			if len(lines) != before+1 {
				t.Errorf("%s: %d records", c.name, len(lines)-before)
				continue
			}
			refused := 0
			for _, l := range lines {
				if l.Body["decision"] == "refused" && l.Body["problem"] != "" && l.Body["approval"] == r.ID {
					refused++
				}
			}
			if refused == 0 {
				t.Errorf("%s: the record is %s", c.name, lines[len(lines)-1].Text)
			}
		}
	}
	_, err := o.desks[1].Decide(t.Context(), Oncall("bob"), "nothing", approval.Answer{Approve: true})
	wantError(t, err, approval.ErrNotFound)
	carol := approver("carol")
	got, err := o.desks[1].Decide(t.Context(), carol, r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
	if err != nil || got.State != approval.Approved {
		t.Errorf("carol, whom the rule names: %s, %v", got.State, err)
	}
}

// testUnclear has agents that act for people of another issuer, and approvers who may be these people.
func testUnclear(t *testing.T, o *office) {
	mail := func(p approval.Approver, claim string) approval.Approver {
		p.Person.Shared, p.Person.Claim = true, claim
		return p
	}
	elsewhere := func(claim string, more ...gate.Person) func(*gate.Principal) {
		return func(p *gate.Principal) {
			p.OnBehalfOf = &gate.Party{Issuer: "https://agents.example", Subject: "a-7"}
			p.People = append([]gate.Person{{Directory: "https://agents.example", ID: "a-7", Shared: claim != "none", Claim: strings.Replace(claim, "none", "", 1)}}, more...)
		}
	}
	entra := func(p *gate.Principal) {
		p.OnBehalfOf = &gate.Party{Issuer: "https://sts.example/t/", Subject: "oid-bob"}
		p.People = []gate.Person{{Directory: "entra:t", ID: "oid-bob"}}
	}
	ofEntra := Oncall("oid-bob")
	ofEntra.Person = approval.Person{Directory: "entra:t", ID: "oid-bob"}
	for i, c := range []struct {
		name    string
		acts    func(*gate.Principal)
		quorum  int
		first   approval.Approver // approves before, where the quorum is 2
		by      approval.Approver
		want    error
		unclear bool // the card says that it is so for everybody
	}{
		{"two issuers", elsewhere("none"), 1, approval.Approver{}, Oncall("bob"), approval.ErrUnclearPerson, true},
		{"two issuers, and a claim of one", elsewhere("none"), 1, approval.Approver{}, mail(Oncall("bob"), "bob@example.com"), approval.ErrUnclearPerson, true},
		{"a claim that the person acted for lacks", elsewhere(""), 1, approval.Approver{}, mail(Oncall("bob"), "bob@example.com"), approval.ErrUnclearPerson, true},
		{"a claim that the approver lacks", elsewhere("bob@example.com"), 1, approval.Approver{}, mail(Oncall("bob"), ""), approval.ErrUnclearPerson, true},
		{"one person by the claim", elsewhere("bob@example.com"), 1, approval.Approver{}, mail(Oncall("bob"), "BOB@example.com"), approval.ErrOwnOperation, true},
		{"another person by the claim", elsewhere("bob@example.com"), 1, approval.Approver{}, mail(Oncall("carol"), "carol@example.com"), nil, true},
		{"an actor who is a person", elsewhere("bob@example.com", gate.Person{Directory: "x", ID: "y", Shared: true, Claim: "eve@example.com"}), 1, approval.Approver{}, mail(Oncall("eve"), "eve@example.com"), approval.ErrOwnOperation, true},
		{"one object id, at two addresses", entra, 1, approval.Approver{}, ofEntra, approval.ErrOwnOperation, true},
		{"an object id and a sub", entra, 1, approval.Approver{}, Oncall("pairwise"), approval.ErrUnclearPerson, true},
		{"an agent that is a person's token", func(p *gate.Principal) {
			*p = gate.Principal{Issuer: "https://agents.example", Subject: "a-7", ClientID: "cli", Kind: "person", People: []gate.Person{{Directory: "https://agents.example", ID: "a-7"}}}
		}, 1, approval.Approver{}, Oncall("bob"), approval.ErrUnclearPerson, true},
		{"somebody acted for whom nothing is known of", func(p *gate.Principal) { p.People = nil }, 1, approval.Approver{}, Oncall("bob"), approval.ErrUnclearPerson, false},
		{"an approver of whom nothing is known", nil, 1, approval.Approver{}, approval.Approver{Issuer: People, Subject: "bob", Groups: []string{"payments-oncall"}}, approval.ErrUnclearPerson, false},
		{"an agent of its own", func(p *gate.Principal) { p.OnBehalfOf, p.Actors, p.People = nil, nil, nil }, 1, approval.Approver{}, Oncall("bob"), nil, false},
		{"two subjects of one person", nil, 2, mail(Oncall("bob"), "bob@example.com"), mail(Oncall("bob-admin"), "bob@example.com"), approval.ErrDecidedAlready, false},
		{"two subjects of which nobody knows", nil, 2, mail(Oncall("bob"), "bob@example.com"), mail(Oncall("bob-admin"), ""), approval.ErrUnclearPerson, false},
		{"two people", nil, 2, mail(Oncall("bob"), "bob@example.com"), mail(Oncall("dan"), "dan@example.com"), nil, false},
	} {
		op := Operation(100 + i)
		if c.acts != nil {
			c.acts(op.Principal)
		}
		r := o.ask(t, op, Verdict("p1", c.quorum))
		if c.quorum == 2 {
			if _, err := o.desks[0].Decide(t.Context(), c.first, r.ID, approval.Answer{Approve: true, Card: r.CardDigest}); err != nil {
				t.Fatalf("%s: the first: %v", c.name, err)
			}
		}
		if got := strings.Contains(string(r.Card), `"unclear":true`); got != c.unclear {
			t.Errorf("%s: the card says that nobody can be told from whose operation it is: %t", c.name, got)
		}
		for _, approve := range []bool{false, true} {
			if c.want == nil && !approve {
				continue
			}
			got, err := o.desks[1].Decide(t.Context(), c.by, r.ID, approval.Answer{Approve: approve, Card: r.CardDigest})
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || (got.State == approval.Approved) != (c.want == nil) {
				t.Errorf("%s (approve %t): %s, %v; want %v", c.name, approve, got.State, err, c.want)
			}
		}
	}
}

// testOlder: what was stored before requests said whose operation they are lets nobody approve, and lets nothing run.
func testOlder(t *testing.T, o *office) {
	ask := Verdict("p1", 1)
	older := func(r approval.Request) {
		t.Helper()
		_, err := o.stores[0].Update(t.Context(), r.ID, func(_ time.Time, r *approval.Request) error {
			r.People = nil
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	op := Operation(1)
	r := o.ask(t, op, ask)
	older(r)
	_, err := o.desks[1].Decide(t.Context(), Oncall("bob"), r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
	wantError(t, err, approval.ErrUnclearPerson)
	if again := o.ask(t, op, ask); again.ID == r.ID {
		t.Error("the operation joined a request that does not say whose it is")
	}

	op = Operation(2)
	granted := o.approve(t, o.ask(t, op, ask), "bob")
	older(granted)
	if o.spend(t, op, ask) {
		t.Error("a grant that does not say whose operation it is for was spent")
	}
	if got, _ := o.desks[0].Get(t.Context(), granted.ID); got.State != approval.Voided {
		t.Errorf("it is %s", got.State)
	}

	// The identical operation, by a token that says more of whose it is.
	op = Operation(4)
	op.Principal.OnBehalfOf, op.Principal.People = nil, nil
	granted = o.approve(t, o.ask(t, op, ask), "bob")
	op.Principal.People = []gate.Person{{Directory: People, ID: "bob"}}
	if o.spend(t, op, ask) {
		t.Error("bob's approval let bob's own operation run")
	}
	if got, _ := o.desks[0].Get(t.Context(), granted.ID); got.State != approval.Voided {
		t.Errorf("it is %s", got.State)
	}

	// Approved before the approver's token said who they are: it does not count any more.
	op = Operation(3)
	granted = o.approve(t, o.ask(t, op, ask), "bob")
	_, err = o.stores[0].Update(t.Context(), granted.ID, func(_ time.Time, r *approval.Request) error {
		r.Decisions[0].By.Person = approval.Person{}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if o.spend(t, op, ask) {
		t.Error("an approval of somebody who could be whom the agent acts for was spent")
	}
}

func testQuorum(t *testing.T, o *office) {
	v := Verdict("p1", 2)
	v.Asks = append(v.Asks, gate.AskRule{Rule: gate.Rule{Package: "global", ID: "audit"}, Approvers: []string{"audit"}, Quorum: 1})
	r := o.ask(t, Operation(1), v)
	auditor := approver("zoe", "audit", "payments-oncall")
	for _, step := range []struct {
		by   approval.Approver
		want approval.State
	}{
		{Oncall("bob"), approval.Pending},
		{Oncall("dan"), approval.Pending}, // the first rule is met, the second is not
		{auditor, approval.Approved},
	} {
		got, err := o.desks[1].Decide(t.Context(), step.by, r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
		if err != nil || got.State != step.want {
			t.Fatalf("after %s it is %s, %v", step.by.Subject, got.State, err)
		}
	}

	strong := approval.Demand{ACR: []string{"phr"}, MaxAge: time.Minute}
	a := Asking(Operation(2), Verdict("p1", 1))
	a.Demand = strong
	r, _, err := o.desks[0].Ask(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	signedIn := func(acr string, ago time.Duration) approval.Approver {
		by := Oncall("bob")
		by.ACR, by.AuthTime = acr, time.Now().Add(-ago)
		return by
	}
	unknown := signedIn("phr", 0)
	unknown.AuthTime = time.Time{}
	for name, by := range map[string]approval.Approver{
		"a weaker sign-in": signedIn("pwd", 0), "none said": signedIn("", 0), "long ago": signedIn("phr", 2*time.Minute),
		"in the future": signedIn("phr", -time.Hour), "nobody knows when": unknown,
	} {
		_, err := o.desks[0].Decide(t.Context(), by, r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
		if !errors.Is(err, approval.ErrAuthentication) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := o.desks[0].Decide(t.Context(), signedIn("phr", time.Second), r.ID, approval.Answer{Approve: true, Card: r.CardDigest}); err != nil {
		t.Errorf("as demanded: %v", err)
	}
}

func testNobody(t *testing.T, o *office) {
	for name, edit := range map[string]func(*approval.Asking){
		"no rules":             func(a *approval.Asking) { a.Verdict.Asks = nil },
		"a rule without names": func(a *approval.Asking) { a.Verdict.Asks[0].Approvers = nil },
		"a rule of no names":   func(a *approval.Asking) { a.Verdict.Asks[0].Approvers = []string{""} },
		"a rule of no subject": func(a *approval.Asking) { a.Verdict.Asks[0].Approvers = []string{"subject:"} },
		"an allow":             func(a *approval.Asking) { a.Verdict.Effect = gate.Allow },
		"a deny":               func(a *approval.Asking) { a.Verdict.Effect = gate.Deny },
		"no digest of rules":   func(a *approval.Asking) { a.Verdict.RulesDigest = "" },
		"no digest":            func(a *approval.Asking) { a.Digest = "" },
		"no operation":         func(a *approval.Asking) { a.Operation = nil },
		"no agent":             func(a *approval.Asking) { a.Operation.Principal = nil },
	} {
		a := Asking(Operation(1), Verdict("p1", 1))
		edit(&a)
		if r, _, err := o.desks[0].Ask(t.Context(), a); err == nil {
			t.Errorf("%s: opened %s", name, r.ID)
		}
	}
}

func testWake(t *testing.T, o *office) {
	var slowest atomic.Int64
	for i := range 5 {
		r := o.ask(t, Operation(i), Verdict("p1", 1))
		woke := make(chan time.Time, 1)
		go func() {
			got, err := o.desks[1].Wait(context.Background(), r.ID)
			if err != nil || got.State != approval.Approved {
				t.Errorf("woke to %s, %v", got.State, err)
			}
			woke <- time.Now()
		}()
		await(t, "the hold", func() bool { return o.desks[1].Held() == 1 })
		o.approve(t, r, "bob")
		acknowledged := time.Now()
		slowest.Store(max(slowest.Load(), int64((<-woke).Sub(acknowledged))))
	}
	if d := time.Duration(slowest.Load()); d > 100*time.Millisecond {
		t.Errorf("it took %v", d)
	}
}
