package evidence

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// told writes a journal from lines that a person can read, one a record, signed like any other. A word with = is a member of
// the body; the others are what the record is about:
//
//	start|stop|crash                          the gateway's; a crash leaves no record
//	OP deny|ask|allow [approval=R]            a decision
//	   [digest=D] [resource=S] [policy=P] [agent=A]   what it is about; so for what follows on R, and [card=C], [seen=C]
//	OP ends RESULT [of=N]                     how it ended; N is the record of its decision, the last one unless said
//	OP unknown                                nobody knows how
//	OP noname, stranger                       an identity.refused; the second at the console
//	request R [quorum=N] [agent=A]            an approval.requested
//	R approved|approve by P, R rejected       an approval.decided; approved where it was the last that was needed
//	R spent by OP [with=P,P] [until=+1h]      an approval.spent
//	R expired|voided|forgotten                how else it ended
//	again                                     the record before, once more
//	alarm KIND, later DURATION
func (f *fixture) told(text string) *Journal {
	f.t.Helper()
	j := f.open()
	decisions := map[string]uint64{}
	approvers := map[string][]string{}
	agents := map[string]string{} // by request
	changes := 0
	var last *gate.Record
	for line := range strings.Lines(strings.TrimSpace(text)) {
		words := strings.Fields(line)
		with := map[string]string{}
		words = slices.DeleteFunc(words, func(w string) bool {
			name, value, ok := strings.Cut(w, "=")
			if ok {
				with[name] = value
			}
			return ok
		})
		about := func(i int) string { return words[min(i, len(words)-1)] }
		var r *gate.Record
		change := func(kind, id, op string, members ...gate.Member) {
			changes++
			body := gate.Object{
				{Name: "approval", Value: id},
				{Name: "event", Value: id + "/" + strconv.Itoa(changes)},
				{Name: "gateway", Value: "gw-1"},
				{Name: "digest", Value: with["digest"]},
				{Name: "resource", Value: with["resource"]},
				{Name: "policy_digest", Value: with["policy"]},
				{Name: "rules_digest", Value: with["rules"]},
				{Name: "card_digest", Value: with["card"]},
				{Name: "agent", Value: someone(cmp.Or(with["agent"], agents[id]))},
			}
			r = &gate.Record{Type: kind, Op: op, Body: sorted(append(body, members...))}
		}
		switch {
		case words[0] == "start":
			r = &gate.Record{Type: gate.GatewayStarted, Body: gate.Object{{Name: "approvals", Value: with["approvals"]}}}
		case words[0] == "stop", words[0] == "crash":
			if words[0] == "crash" {
				f.crash(j)
			} else if err := j.Close(); err != nil {
				f.t.Fatal(err)
			}
			j = f.open()
			continue
		case words[0] == "later":
			d, err := time.ParseDuration(words[1])
			if err != nil {
				f.t.Fatal(err)
			}
			f.clock.move(d)
			continue
		case words[0] == "again":
			r = last
		case words[0] == "alarm":
			r = &gate.Record{Type: gate.Alarm, Body: gate.Object{{Name: "kind", Value: words[1]}}}
		case words[0] == "request":
			quorum, _ := strconv.Atoi(with["quorum"])
			asks := []any{gate.Object{{Name: "quorum", Value: max(1, quorum)}}}
			agents[words[1]] = with["agent"]
			change(approvalRequested, words[1], "op-"+words[1], gate.Member{Name: "asks", Value: asks}, gate.Member{Name: "state", Value: "pending"})
		case about(1) == "approved", about(1) == "approve":
			state := map[string]string{"approved": "approved", "approve": "pending"}[words[1]]
			approvers[words[0]] = append(approvers[words[0]], words[3])
			change(approvalDecided, words[0], "op-"+words[0], gate.Member{Name: "approver", Value: someone(words[3])}, gate.Member{Name: "card", Value: cmp.Or(with["seen"], with["card"])}, gate.Member{Name: "decision", Value: "approve"}, gate.Member{Name: "state", Value: state})
		case about(1) == "rejected":
			change(approvalDecided, words[0], "", gate.Member{Name: "decision", Value: "reject"}, gate.Member{Name: "state", Value: "rejected"})
		case about(1) == "spent":
			people := []any{}
			named := approvers[words[0]]
			if with["with"] != "" {
				named = strings.Split(with["with"], ",")
			}
			for _, p := range named {
				people = append(people, someone(p))
			}
			d, err := time.ParseDuration(cmp.Or(with["until"], "1h"))
			if err != nil {
				f.t.Fatal(err)
			}
			change(approvalSpent, words[0], words[3], gate.Member{Name: "approvals", Value: people}, gate.Member{Name: "granted_until", Value: string(gate.AppendTime(nil, f.clock.Now().Add(d)))})
			if g := with["gateway"]; g != "" {
				body := r.Body.(gate.Object)
				body[slices.IndexFunc(body, func(m gate.Member) bool { return m.Name == "gateway" })].Value = g
			}
		case about(1) == "expired":
			change(approvalExpired, words[0], "")
		case about(1) == "voided":
			change(approvalVoided, words[0], "")
		case about(1) == "forgotten":
			change(approvalVoided, words[0], "", gate.Member{Name: "forgotten", Value: true})
		case about(1) == "ends":
			of := decisions[words[0]]
			if with["of"] != "" {
				of, _ = strconv.ParseUint(with["of"], 10, 64)
			}
			r = &gate.Record{Type: gate.OperationFinished, Op: words[0], Body: &gate.Outcome{Result: gate.Result(words[2]), Decided: of}}
		case about(1) == "unknown":
			r = &gate.Record{Type: gate.OperationUnknown, Op: words[0], Body: gate.Object{{Name: "decided", Value: int64(decisions[words[0]])}}}
		case words[0] == "stranger":
			r = &gate.Record{Type: gate.IdentityRefused, Body: gate.Object{}}
		case about(1) == "noname":
			r = &gate.Record{Type: gate.IdentityRefused, Op: words[0], Body: gate.Object{}}
		default:
			effect := map[string]gate.Effect{"deny": gate.Deny, "ask": gate.Ask, "allow": gate.Allow}[words[1]]
			r = &gate.Record{Type: gate.OperationDecided, Op: words[0], Body: &gate.Decision{
				Effect: effect, Approval: with["approval"], Digest: with["digest"], Resource: with["resource"], PolicyDigest: with["policy"], RulesDigest: with["rules"],
				Principal: &gate.Principal{Issuer: "https://idp.example.com", Name: gate.NewID(time.Now()), Subject: cmp.Or(with["agent"], agents[with["approval"]])},
			}}
		}
		receipt := mustAppend(f.t, j, r)
		if r.Type == gate.OperationDecided {
			decisions[r.Op] = receipt.Seq
		}
		last = r
	}
	return j
}

// someone is called something else each time: who they are is the pair.
func someone(subject string) gate.Object {
	return gate.Object{{Name: "issuer", Value: "https://idp.example.com"}, {Name: "name", Value: gate.NewID(time.Now())}, {Name: "subject", Value: subject}}
}

func sorted(o gate.Object) gate.Object {
	slices.SortFunc(o, func(a, b gate.Member) int { return strings.Compare(a.Name, b.Name) })
	return o
}

// granted is how a request comes to be approved.
const granted = "start approvals=embedded\nrequest R agent=a\nR approved by ann\n"

// TestVerifyFindsWhatCannotFollow: each journal is signed and whole, and says what cannot have happened in that order.
func TestVerifyFindsWhatCannotFollow(t *testing.T) {
	for _, c := range []struct {
		name, journal string
		want          string // of the first finding
	}{
		{"two ends of an operation", "x allow\nx ends completed\nx ends completed of=1", "of an operation that has ended"},
		{"an end and an unknown end", "x allow\nx ends completed\nx unknown", "operation.unknown, of an operation that has ended"},
		{"an unknown end and an end", "x allow\nx unknown\nx ends completed", "of an operation that has ended"},
		{"two unknown ends", "x allow\nx unknown\nx unknown", "of an operation that has ended"},
		{"two decisions that allow", "x allow\nx allow", "allows, of an operation that was allowed"},
		{"allowed after a denial", "x deny\nx allow", "allows, of an operation that was denied"},
		{"denied after it was allowed", "x allow\nx deny", "denies, of an operation that was allowed"},
		{"asked after it was allowed", "x allow\nx ask", "asks, of an operation that was allowed"},
		{"decided after its end", "x allow\nx ends completed\nx allow", "allows, of an operation that has ended"},
		{"decided after its end in an earlier run", "start\nx allow\nx ends completed\nstop\nstart\nx allow", "allows, of an operation that has ended"},
		{"an end without a decision", "x ends completed of=1", "of an operation that was not decided"},
		{"an unknown end without a decision", "x unknown", "of an operation that was not decided"},
		{"an end with the target after a denial", "x deny\nx ends completed", `"completed", of an operation that was denied`},
		{"an answer withheld after a denial", "x deny\nx ends withheld", `"withheld", of an operation that was denied`},
		{"an end with the target while people were asked", "x ask\nx ends completed", `"completed", of an operation that was asked about`},
		{"an unknown end after a denial", "x deny\nx unknown", "operation.unknown, of an operation that was denied"},
		{"an end that names another decision", "x allow\ny allow\nx ends completed of=2", "and the operation was decided by record 1"},
		{"an end of the decision before the last", "x ask\nx allow\nx ends completed of=1", "and the operation was decided by record 2"},
		{"decided without a credential", "x noname\nx allow", "allows, of an operation that has ended"},
		{"allowed, and no outcome at the next start", "start\nx allow\nstart", "neither an outcome nor an operation.unknown"},
		{"decided while no gateway ran", "start\nstop\nx allow", "operation.decided of a gateway that has stopped"},

		{"two decisions that name one approval", granted + "R spent by x\nx allow approval=R\ny allow approval=R", "allowed by request R, which has been used"},
		{"two decisions that name one approval, in two runs", granted + "R spent by x\nx allow approval=R\nx ends completed\nstop\nstart\ny allow approval=R", "allowed by request R, which has been used"},
		{"two spends of one grant", granted + "R spent by x\nR spent by y", "a spend of request R, which is spent"},
		{"two spends of one grant, the first of them used", granted + "R spent by x\nx allow approval=R\nR spent by y", "a spend of request R, which has been used"},
		{"allowed by a grant that another has spent", granted + "R spent by x\ny allow approval=R", "which operation x has spent"},
		{"allowed by a grant that nobody has spent", granted + "x allow approval=R", "allowed by request R, which is approved"},
		{"allowed by a request that nobody has answered", "start\nrequest R\nx allow approval=R", "allowed by request R, which waits for people"},
		{"allowed by a request that was never made", "start\nx allow approval=R", "allowed by request R, which was never made"},
		{"spent without an answer", "start\nrequest R\nR spent by x", "a spend of request R, which waits for people"},
		{"spent without a request", "start\nR spent by x with=ann", "a spend of request R, which was never made"},
		{"spent with less than the quorum", "start\nrequest R quorum=2\nR approved by ann\nR spent by x", "with 1 of the 2 approvals"},
		{"spent on an answer that is not recorded", granted + "R spent by x with=ann,bob", "bob\" that is not recorded"},
		{"spent before the last answer", "start\nrequest R quorum=2\nR approve by ann\nR spent by x", "a spend of request R, which waits for people"},
		{"spent, and no decision", granted + "R spent by x\nstop", "no decision allows it"},
		{"spent, and no decision for longer than that takes", granted + "R spent by x\nlater 2m\nalarm test", "no decision allows it"},
		{"spent, and no decision for long before a crash", granted + "R spent by x\nlater 2m\nalarm test\ncrash\nstart", "no decision allows it"},
		{"spent, and allowed without naming it", granted + "R spent by x\nx allow", "was allowed without naming it"},
		{"spent by what was allowed already", granted + "x allow\nR spent by x", "had been allowed without it"},
		{"spent after it expired", granted + "R expired\nR spent by x", "a spend of request R, which has expired"},
		{"spent after it was rejected", "start\nrequest R\nR rejected\nR spent by x", "a spend of request R, which was rejected"},
		{"spent after it was voided", granted + "R voided\nR spent by x", "a spend of request R, which was voided"},
		{"spent after the store had forgotten it", granted + "R forgotten\nR spent by x", "a spend of request R, which was voided"},
		{"used after the grant had ended", granted + "R spent by x until=+1m\nlater 20m\nx allow approval=R", "whose grant had ended"},
		{"used after a crash", granted + "R spent by x\ncrash\nstart\nx allow approval=R", "which was spent for nothing"},
		{"approved after it was rejected", "start\nrequest R\nR rejected\nR approved by ann", "the last approval of request R, which was rejected"},
		{"approved after it expired", "start\nrequest R\nR expired\nR approved by ann", "the last approval of request R, which has expired"},
		{"approved without a request", "start\nR approved by ann", "the last approval of request R, which was never made"},
		{"approved twice by one person", "start\nrequest R quorum=2\nR approve by ann\nR approved by ann", "approved twice by"},
		{"approved by the agent itself", "start\nrequest R agent=a\nR approved by a", "approved by whom it is for"},
		{"rejected after it was approved", granted + "R rejected", "a rejection of request R, which is approved"},
		{"expired after it was spent", granted + "R spent by x\nR expired", "an expiry of request R, which is spent"},
		{"voided after it was spent", granted + "R spent by x\nR voided", "a voiding of request R, which is spent"},
		{"requested twice", "start\nrequest R\nrequest R", "a request of request R, which waits for people"},

		{"allowed by an approval of another operation", "start\nrequest R digest=D\nR approved by ann digest=D\nR spent by x digest=D\nx allow approval=R digest=E", "which is about another operation"},
		{"allowed by an approval for another resource", "start\nrequest R resource=a\nR approved by ann resource=a\nR spent by x resource=a\nx allow approval=R resource=b", "which is about another resource"},
		{"allowed by an approval of other rules", "start\nrequest R policy=a rules=a\nR approved by ann policy=a rules=a\nR spent by x policy=a rules=a\nx allow approval=R policy=a rules=b", "which is about another policy"},
		{"allowed by an approval of another policy", "start\nrequest R policy=a\nR approved by ann policy=a\nR spent by x policy=a\nx allow approval=R policy=b", "which is about another policy"},
		{"allowed by an approval for another agent", "start\nrequest R agent=a\nR approved by ann\nR spent by x\nx allow approval=R agent=b", "which is about another agent"},
		{"an approval of something else than was asked", "start\nrequest R digest=D\nR approved by ann digest=E", "the last approval of request R, as one about another operation"},
		{"a spend on something else than was approved", "start\nrequest R digest=D\nR approved by ann digest=D\nR spent by x digest=E\nx allow approval=R digest=E", "a spend of request R, as one about another operation"},
		{"an approval of a card that was not the request's", "start\nrequest R card=c\nR approved by ann card=c seen=d", "for another card"},
		{"decided again as another operation", "x ask digest=D\nx allow digest=E", "something else than the decision of record 1"},
		{"decided again for another agent", "x ask agent=a\nx allow agent=b", "something else than the decision of record 1"},
		{"spent, in another gateway's name, by what nobody decided", granted + "R spent by x gateway=gw-2\nstop", "no decision allows it"},

		{"in a shared store: allowed by an approval of another operation", "start approvals=shared\nR spent by x with=ann digest=D\nx allow approval=R digest=E", "which is about another operation"},
		{"in a shared store: two spends of one grant", "start approvals=shared\nR spent by x with=ann\nx allow approval=R\nR spent by y with=ann", "a spend of request R, which has been used"},
		{"in a shared store: allowed by what was not spent", "start approvals=shared\nx allow approval=R", "which was never made"},
		{"in a shared store: spent with less than the quorum", "start approvals=shared\nrequest R quorum=2\nR spent by x with=ann", "with 1 of the 2 approvals"},
		{"in a shared store: spent after it was rejected", "start approvals=shared\nR rejected\nR spent by x with=ann", "a spend of request R, which was rejected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			if err := f.told(c.journal).Close(); err != nil {
				t.Fatal(err)
			}
			r := f.mustVerify()
			if len(r.Findings) == 0 || !strings.Contains(r.Findings[0].String(), c.want) {
				t.Errorf("found %v, want %q\n%s", r.Findings, c.want, strings.Join(f.story(), "\n"))
			}
		})
	}
}

// TestVerifyPassesWhatCanFollow: what a gateway writes, also around crashes and failures. A grant that was spent for nothing
// is a gap that is to be seen.
func TestVerifyPassesWhatCanFollow(t *testing.T) {
	for _, c := range []struct {
		name, journal string
		gap           string
	}{
		{"each end of what was allowed", "start\na allow\na ends completed\nb allow\nb ends withheld\nc allow\nc ends refused\nd allow\nd ends client_gone\ne allow\ne ends target_failed\ng allow\ng ends gateway_failed\nf allow\nf unknown", ""},
		{"each end of what was refused", "start\na deny\na ends refused\nb deny\nb ends client_gone\nc ask\nc ends refused\nd ask\nd ends client_gone\nf deny\nf ends gateway_failed\ne noname", ""},
		{"strangers at the console", "start\nstranger\nstranger\na allow\na ends completed\nstranger", ""},
		{"a hold that asks again, and is denied", "start\nx ask\nx ask\nx deny\nx ends refused", ""},
		{"a hold that is denied by what does not know its digest", "start\nx ask digest=D\nx deny\nx ends refused", ""},
		{"a hold that policy allows by now", "start\nx ask\nx allow\nx ends completed", ""},
		{"a crash leaves decisions that let nothing through", "start\nx deny\ny ask\ncrash\nstart", ""},
		{"a crash leaves an allowed operation", "start\nx allow\ncrash\nstart", ""},
		{"a crash without a start between two stops", "start\nstop\nstop\nstart", ""},
		{"a grant that is used", granted + "R spent by x\nx allow approval=R\nx ends completed", ""},
		{"a grant that is used when other rules have changed", "start\nrequest R policy=a rules=a\nR approved by ann policy=a rules=a\nR spent by x policy=a rules=a\nx allow approval=R policy=b rules=a\nx ends completed", ""},
		{"a grant that a held operation uses", granted + "x ask approval=R\nR spent by x\nx allow approval=R\nx ends completed", ""},
		{"a quorum", "start\nrequest R quorum=2\nR approve by ann\nR approved by bob\nR spent by x\nx allow approval=R", ""},
		{"requests that end without a spend", "start\nrequest A\nA rejected\nrequest B\nB expired\nrequest C\nC voided\nrequest D\nD approved by ann\nD expired\nrequest E\nE approved by ann\nE voided", ""},
		{"a decision that asks before the request is recorded", "start\nx ask approval=R\nrequest R", ""},
		{"a start records once more what it does not know to be recorded", granted + "crash\nstart\nrequest S\nagain\nS approved by ann\nagain\nagain", ""},
		{"a spend that is recorded again after its use", granted + "R spent by x\nagain\nx allow approval=R\ncrash\nstart", ""},
		{"the store was put back to before the spend", granted + "R spent by x\nx allow approval=R\nx ends completed\nstop\nR forgotten\nstart", ""},
		{"a crash before the decision", granted + "R spent by x\ncrash\nstart", "the gateway stopped before it could decide"},
		{"a spend that only the next start records", granted + "crash\nR spent by x\nstart\nstop\nstart", "the gateway stopped before it could decide"},
		{"a journal that could not be written", granted + "R spent by x\nalarm journal_refused\nlater 1h\nalarm test", "the journal could not be written"},
		{"a panic before the decision", granted + "R spent by x\nalarm panic\nx deny\nx ends refused", "the gateway failed while it decided"},
		{"a store that did not answer", granted + "x ask\nx ends refused\nR spent by x", "the operation was refused"},
		{"a stop that would not wait", granted + "alarm drain_expired\nR spent by x\nstop", "the gateway stopped before it could decide"},
		{"in a shared store: what other gateways recorded", "start approvals=shared\nR spent by x with=ann\nx allow approval=R\nrequest S quorum=2\nS approved by ann\nS spent by y with=ann,bob\ny allow approval=S\nT expired\nU rejected\nV voided", ""},
		{"in a shared store: the spend of another gateway", "start approvals=shared\nR spent by x with=ann gateway=gw-2", "the gateway that had spent it was gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			if err := f.told(c.journal).Close(); err != nil {
				t.Fatal(err)
			}
			r := f.mustVerify()
			if len(r.Findings) > 0 {
				t.Errorf("found %v\n%s", r.Findings, strings.Join(f.story(), "\n"))
			}
			if got := fmt.Sprint(r.Gaps); (c.gap == "") != (len(r.Gaps) == 0) || !strings.Contains(got, c.gap) {
				t.Errorf("gaps %v, want %q", r.Gaps, c.gap)
			}
		})
	}
}

// TestVerifyWhileADecisionIsOnItsWay: a live journal can end between a spend and its decision.
func TestVerifyWhileADecisionIsOnItsWay(t *testing.T) {
	f := newFixture(t)
	j := f.told(granted + "R spent by x\nalarm test")
	if err := j.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if r := f.mustVerify(); len(r.Findings) > 0 || len(r.Gaps) > 0 || r.Spending != 1 || r.Spent != 1 {
		t.Errorf("%+v", r.Completeness)
	}
}

// TestVerifyKeepsLittle: what is kept of operations and requests does not grow with the journal.
func TestVerifyKeepsLittle(t *testing.T) {
	c := newCompleteness()
	c.maxEnded, c.maxRequests = 1000, 1000
	seq := uint64(0)
	add := func(kind, op string, body gate.Body) {
		seq++
		b, err := body.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.add(&Entry{Seq: seq, Type: kind, Op: op, Body: b})
	}
	for n := range c.maxEnded + 10 {
		op := "x" + strconv.Itoa(n)
		add(gate.OperationDecided, op, &gate.Decision{Effect: gate.Allow})
		add(gate.OperationFinished, op, &gate.Outcome{Result: gate.Completed, Decided: seq})
	}
	for n := range c.maxRequests + 10 {
		id := "r" + strconv.Itoa(n)
		add(approvalRequested, "", gate.Object{{Name: "approval", Value: id}, {Name: "event", Value: id + "/1"}})
	}
	add(approvalExpired, "", gate.Object{{Name: "approval", Value: "r0"}, {Name: "event", Value: "r0/2"}}) // it was forgotten
	if len(c.live) != 0 || len(c.open) != 0 || len(c.ended) != c.maxEnded || len(c.order) != c.maxEnded || len(c.requests) != c.maxRequests {
		t.Errorf("kept %d live, %d open, %d ended, %d requests", len(c.live), len(c.open), len(c.ended), len(c.requests))
	}
	if r := c.result(); len(r.Findings) > 0 || r.Finished != 1010 {
		t.Errorf("%v", r.Findings)
	}
}
