package console

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
)

func decision(word, reason, card string) string {
	b, _ := json.Marshal(map[string]string{"decision": word, "reason": reason, "card": card})
	return string(b)
}

func TestAPIApprovesAndSaysWhatCameOfIt(t *testing.T) {
	f := newFixture(t, false)
	r := f.ask()
	bob := f.token("u-bob")

	list := f.call("GET", "/api/approvals?state=pending", bob, "")
	var page struct {
		Approvals []struct {
			ID         string
			State      string
			Card       json.RawMessage
			CardDigest string `json:"card_digest"`
			MayDecide  bool   `json:"may_decide"`
		}
		Next string
	}
	if err := json.Unmarshal([]byte(list.body), &page); err != nil || list.StatusCode != 200 {
		t.Fatalf("%s %v: %s", list.Status, err, list.body)
	}
	if len(page.Approvals) != 1 || page.Approvals[0].ID != r.ID || !page.Approvals[0].MayDecide {
		t.Fatalf("the list is %s", list.body)
	}
	if got := approval.CardDigest(page.Approvals[0].Card); got != r.CardDigest || got != page.Approvals[0].CardDigest {
		t.Errorf("the card in the answer has the digest %s, want %s", got, r.CardDigest)
	}

	one := f.call("GET", "/api/approvals/"+r.ID, bob, "")
	if one.StatusCode != 200 || one.json(t)["id"] != r.ID {
		t.Fatalf("%s: %s", one.Status, one.body)
	}
	done := f.call("POST", "/api/approvals/"+r.ID+"/decisions", bob, decision("approve", "looks right", r.CardDigest))
	if done.StatusCode != 200 || done.json(t)["state"] != "approved" {
		t.Fatalf("%s: %s", done.Status, done.body)
	}
	decided := f.records(approval.RecordDecided)
	if len(decided) != 1 {
		t.Fatalf("there are %d decisions on record", len(decided))
	}
	by := decided[0]["approver"].(map[string]any)
	if by["subject"] != "u-bob" || by["acr"] != "mfa" || by["auth_time"] == "" || fmt.Sprint(by["amr"]) != "[pwd otp]" {
		t.Errorf("the record's approver is %v", by)
	}
	if decided[0]["think"] == nil {
		t.Error("the card was shown and the record does not say for how long")
	}
	if got := f.call("GET", "/api/approvals?state=pending", bob, "").json(t)["approvals"].([]any); len(got) != 0 {
		t.Errorf("an approved request is still in the queue: %v", got)
	}
}

func TestAPIRejectsWithAReason(t *testing.T) {
	f := newFixture(t, false)
	r := f.ask()
	done := f.call("POST", "/api/approvals/"+r.ID+"/decisions", f.token("u-alice"), decision("reject", "not this customer", r.CardDigest))
	if done.StatusCode != 200 || done.json(t)["state"] != "rejected" || done.json(t)["reason"] != "not this customer" {
		t.Fatalf("%s: %s", done.Status, done.body)
	}
}

// decisionRefusals are refused by the desk, each with a record of its own.
func TestDecisionsThatDoNotCount(t *testing.T) {
	f := newFixture(t, false)
	two := func(a *approval.Asking) { a.Verdict.Asks[0].Quorum = 2 }
	forBob := func(a *approval.Asking) {
		a.Operation.Principal.OnBehalfOf = &gate.Party{Issuer: f.issuer.URL, Subject: "u-bob"}
		a.Operation.Principal.Actors = []gate.Party{{Issuer: f.issuer.URL, Subject: "agent-1"}}
		a.Operation.Principal.People = []gate.Person{{Directory: f.issuer.URL, ID: "u-bob"}}
	}
	forSomebody := func(a *approval.Asking) {
		a.Operation.Principal.OnBehalfOf = &gate.Party{Issuer: "https://agents.example", Subject: "a-7"}
		a.Operation.Principal.People = []gate.Person{{Directory: "https://agents.example", ID: "a-7"}}
	}
	strong := func(a *approval.Asking) { a.Demand = approval.Demand{ACR: []string{"hardware"}, MaxAge: time.Minute} }
	for _, c := range []struct {
		name   string
		ask    func(*approval.Asking)
		first  string // who decides before
		who    string
		card   string // the request's unless set
		id     string // the request's unless set
		status int
		kind   string
		reason string
		record string
	}{
		{name: "a person whom no rule names", who: "u-carol", status: 403, kind: "denied", reason: "not-approver", record: "not-approver"},
		{name: "the person that the agent acts for", ask: forBob, who: "u-bob", status: 403, kind: "denied", reason: "own-operation", record: "own-operation"},
		{name: "a person who may be whom the agent acts for", ask: forSomebody, who: "u-bob", status: 403, kind: "denied", reason: "unclear-person", record: "unclear-person"},
		{name: "a person who has decided already", ask: two, first: "u-bob", who: "u-bob", status: 403, kind: "denied", reason: "decided-already", record: "decided-already"},
		{name: "a sign-in that is too weak", ask: strong, who: "u-bob", status: 403, kind: "denied", reason: "authentication", record: "authentication"},
		{name: "an old card", who: "u-bob", card: strings.Repeat("0", 64), status: 409, kind: "old-card", record: "old-card"},
		{name: "a replayed decision", first: "u-bob", who: "u-bob", status: 409, kind: "closed", record: "closed"},
		{name: "a request that is decided", first: "u-alice", who: "u-bob", status: 409, kind: "closed", record: "closed"},
		{name: "no such request", who: "u-bob", id: "0190-none", status: 404, kind: "not-found", record: "not-found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.t = t
			if c.ask == nil {
				c.ask = func(*approval.Asking) {}
			}
			r := f.ask(c.ask)
			card, id := r.CardDigest, r.ID
			if c.card != "" {
				card = c.card
			}
			if c.id != "" {
				id = c.id
			}
			if c.first != "" {
				if first := f.call("POST", "/api/approvals/"+id+"/decisions", f.token(c.first), decision("approve", "", card)); first.StatusCode != 200 {
					t.Fatalf("the first decision: %s %s", first.Status, first.body)
				}
			}
			before := len(f.records(approval.RecordDecided))
			got := f.call("POST", "/api/approvals/"+id+"/decisions", f.token(c.who), decision("approve", "", card))
			wantProblem(t, got, c.status, c.kind, c.reason)
			records := f.records(approval.RecordDecided)
			if len(records) != before+1 || records[before]["decision"] != "refused" || records[before]["problem"] != c.record {
				t.Errorf("the refusal is not on record: %v", records[before:])
			}
			if now, err := f.desk.Get(t.Context(), r.ID); err != nil || c.first == "" && now.State != approval.Pending {
				t.Errorf("the request is %s, %v", now.State, err)
			}
		})
	}
}

func wantProblem(t *testing.T, got reply, status int, kind, reason string) {
	t.Helper()
	if got.StatusCode != status || got.Header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("the answer is %s %s: %s, want %d", got.Status, got.Header.Get("Content-Type"), got.body, status)
	}
	body := got.json(t)
	if body["type"] != "urn:countersign:problem:"+kind || body["status"] != float64(status) || body["detail"] == "" {
		t.Errorf("the problem is %s, want type %s", got.body, kind)
	}
	if r, _ := body["reason"].(string); r != reason {
		t.Errorf("the problem's reason is %q, want %q", r, reason)
	}
}

func TestBearerTokensThatAreRefusedAndRecorded(t *testing.T) {
	f := newFixture(t, false)
	r := f.ask()
	agent, err := f.issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	bob := f.token("u-bob")
	for _, c := range []struct {
		name   string
		header string
		status int
		reason string
	}{
		{"none", "", 401, "missing"},
		{"an agent's own, for another audience", "Bearer " + agent, 401, "audience"},
		{"an agent's own, for the console", "Bearer " + f.token("agent-1", extproctest.Claims{"client_id": "agent-1"}), 403, "not-a-person"},
		{"an agent's that acts for bob", "Bearer " + f.token("u-bob", extproctest.Claims{"act": map[string]any{"sub": "agent-1"}}), 403, "not-a-person"},
		{"an application's, which is in bob's group", "Bearer " + f.token("u-bob", extproctest.Claims{"amr": nil, "auth_time": nil}), 403, "not-a-person"},
		{"an application's of Entra ID", "Bearer " + f.token("u-bob", extproctest.Claims{"idtyp": "app"}), 403, "not-a-person"},
		{"bob's, which the agent's client got", "Bearer " + f.token("u-bob", extproctest.Claims{"client_id": "agent-1"}), 403, "not-a-person"},
		{"bob's, of a client that nobody knows", "Bearer " + f.token("u-bob", extproctest.Claims{"client_id": nil}), 403, "not-a-person"},
		{"bob's for another service", "Bearer " + f.token("u-bob", extproctest.Claims{"aud": "wiki"}), 401, "audience"},
		{"bob's ID token", "Bearer " + f.issuer.Mint(extproctest.Mint{Claims: extproctest.Claims{"sub": "u-bob", "aud": clientID, "client_id": clientID, "nonce": "n"}}), 401, "type"},
		{"bob's, expired", "Bearer " + f.token("u-bob", extproctest.Claims{"iat": time.Now().Add(-3 * time.Hour).Unix(), "nbf": nil, "exp": time.Now().Add(-2 * time.Hour).Unix()}), 401, "expired"},
		{"bob's, unsigned", "Bearer " + f.issuer.Mint(extproctest.Mint{Claims: extproctest.Claims{"sub": "u-bob", "aud": clientID, "client_id": clientID}, Algorithm: "none"}), 401, "algorithm"},
		{"of another issuer", "Bearer " + f.token("u-bob", extproctest.Claims{"iss": "https://elsewhere.example"}), 401, "issuer"},
		{"as a Basic password", "Basic " + base64.StdEncoding.EncodeToString([]byte("bob:"+bob)), 401, "malformed"},
		{"twice", "Bearer " + bob + ", Bearer " + bob, 401, "malformed"},
		{"acr of the wrong type", "Bearer " + f.token("u-bob", extproctest.Claims{"acr": 3}), 401, "claims"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.t = t
			for _, method := range []string{"GET", "POST"} {
				before := len(f.records(gate.IdentityRefused))
				path, body := "/api/approvals", ""
				if method == "POST" {
					path, body = "/api/approvals/"+r.ID+"/decisions", decision("approve", "", r.CardDigest)
				}
				req := f.request(method, path, "", body)
				if c.header != "" {
					req.Header.Set("Authorization", c.header)
				}
				got := f.send(f.client, req)
				kind, reason := "unauthenticated", ""
				if c.status == 403 {
					kind, reason = "denied", "not-a-person"
				} else if !strings.HasPrefix(got.Header.Get("WWW-Authenticate"), "Bearer") {
					t.Errorf("WWW-Authenticate is %q", got.Header.Get("WWW-Authenticate"))
				}
				wantProblem(t, got, c.status, kind, reason)
				f.wantRefused(before, c.reason)
			}
			if now, err := f.desk.Get(t.Context(), r.ID); err != nil || now.State != approval.Pending {
				t.Errorf("the request is %s, %v", now.State, err)
			}
		})
	}
}

func TestATokenInTheQueryIsRefused(t *testing.T) {
	f := newFixture(t, false)
	bob := f.token("u-bob")
	before := len(f.records(gate.IdentityRefused))
	wantProblem(t, f.call("GET", "/api/approvals?access_token="+bob, bob, ""), 401, "unauthenticated", "")
	f.wantRefused(before, "multiple")
}

func TestASessionCookieMeansNothingToTheAPI(t *testing.T) {
	f := newFixture(t, false)
	browser := f.signIn("bob")
	r := f.ask()
	before := len(f.records(gate.IdentityRefused))
	got := f.send(browser, f.request("POST", "/api/approvals/"+r.ID+"/decisions", "", decision("approve", "", r.CardDigest)))
	wantProblem(t, got, 401, "unauthenticated", "")
	f.wantRefused(before, "missing")
}

func TestARefusalThatCannotBeRecordedIsUnavailable(t *testing.T) {
	f := newFixture(t, false)
	f.flaky.fail = errors.New("the disk is full")
	wantProblem(t, f.call("GET", "/api/approvals", "", ""), 503, "unavailable", "")
}

func TestADecisionThatCannotBeRecordedIsNotAcknowledged(t *testing.T) {
	f := newFixture(t, false)
	r := f.ask()
	f.flaky.fail = errors.New("the disk is full")
	got := f.call("POST", "/api/approvals/"+r.ID+"/decisions", f.token("u-bob"), decision("approve", "", r.CardDigest))
	wantProblem(t, got, 503, "unavailable", "")
	f.flaky.fail = nil
}

func TestDecisionBodiesAreReadStrictly(t *testing.T) {
	f := newFixture(t, false)
	r := f.ask()
	bob := f.token("u-bob")
	good := decision("reject", "no", r.CardDigest)
	for _, c := range []struct {
		name, kind, body, encoding string
		status                     int
	}{
		{name: "an unknown member", body: `{"decision":"approve","card":"` + r.CardDigest + `","force":true}`, status: 400},
		{name: "a member twice", body: `{"decision":"reject","decision":"approve","card":"` + r.CardDigest + `"}`, status: 400},
		{name: "a member in another case", body: `{"Decision":"approve","card":"` + r.CardDigest + `"}`, status: 400},
		{name: "something after it", body: good + `{}`, status: 400},
		{name: "a list", body: `[` + good + `]`, status: 400},
		{name: "nothing", body: `{}`, status: 400},
		{name: "null", body: `null`, status: 400},
		{name: "another decision", body: decision("Approve", "", r.CardDigest), status: 400},
		{name: "no card", body: decision("approve", "", ""), status: 400},
		{name: "a rejection without a reason", body: decision("reject", " \n", r.CardDigest), status: 400},
		{name: "a reason that would be cut", body: decision("approve", strings.Repeat("é", 1001), r.CardDigest), status: 400},
		{name: "text that is not UTF-8", body: "{\"decision\":\"approve\",\"reason\":\"\xff\",\"card\":\"" + r.CardDigest + "\"}", status: 400},
		{name: "too large", body: decision("approve", strings.Repeat("x", 20<<10), r.CardDigest), status: 413},
		{name: "a form", kind: "application/x-www-form-urlencoded", body: "decision=approve&card=" + r.CardDigest, status: 415},
		{name: "text, as a form of another site could send it", kind: "text/plain", body: good, status: 415},
		{name: "another charset", kind: "application/json; charset=utf-16", body: good, status: 415},
		{name: "compressed", encoding: "gzip", body: good, status: 415},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.t = t
			req := f.request("POST", "/api/approvals/"+r.ID+"/decisions", bob, c.body)
			if c.kind != "" {
				req.Header.Set("Content-Type", c.kind)
			}
			if c.encoding != "" {
				req.Header.Set("Content-Encoding", c.encoding)
			}
			kind := "unreadable"
			if c.status == 413 {
				kind = "too-large"
			}
			wantProblem(t, f.send(f.client, req), c.status, kind, "")
			if now, err := f.desk.Get(t.Context(), r.ID); err != nil || len(now.Decisions) > 0 {
				t.Errorf("it counted: %v, %v", now.Decisions, err)
			}
		})
	}
}

func TestFilters(t *testing.T) {
	f := newFixture(t, false)
	bob := f.token("u-bob")
	ask := func(change ...func(*approval.Asking)) approval.Request { // in a millisecond of its own: requests of one have no order
		for now := time.Now(); time.Now().UnixMilli() == now.UnixMilli(); {
			runtime.Gosched()
		}
		return f.ask(change...)
	}
	first := ask()
	second := ask(func(a *approval.Asking) { a.Operation.Resource.Name = "ledger" })
	third := ask(func(a *approval.Asking) { a.Operation.Principal.Subject = "agent-2" })
	f.call("POST", "/api/approvals/"+first.ID+"/decisions", bob, decision("reject", "no", first.CardDigest))
	ids := func(query string) string {
		t.Helper()
		var got []string
		for query != "" {
			page := f.call("GET", "/api/approvals?"+query, bob, "").json(t)
			for _, a := range page["approvals"].([]any) {
				got = append(got, a.(map[string]any)["id"].(string))
			}
			if !strings.Contains(query, "size=1") || page["next"] == "" {
				break
			}
			base, _, _ := strings.Cut(query, "&after=")
			query = base + "&after=" + page["next"].(string)
		}
		return strings.Join(got, " ")
	}
	for _, c := range []struct{ query, want string }{
		{"state=pending", third.ID + " " + second.ID},
		{"state=pending&state=rejected", third.ID + " " + second.ID + " " + first.ID},
		{"state=approved", ""},
		{"resource=ledger", second.ID},
		{"agent=agent-2&agent_issuer=" + f.issuer.URL, third.ID},
		{"size=1", third.ID + " " + second.ID + " " + first.ID},
	} {
		if got := ids(c.query); got != c.want {
			t.Errorf("%s gives %s, want %s", c.query, got, c.want)
		}
	}
	for _, query := range []string{"status=pending", "state=open", "state=", "size=0", "size=501", "size=x", "agent=agent-2", "resource=a&resource=b", "%zz"} {
		wantProblem(t, f.call("GET", "/api/approvals?"+query, bob, ""), 400, "unreadable", "")
	}
}

func TestNoOtherSiteCanCallTheAPI(t *testing.T) {
	f := newFixture(t, false)
	req := f.request("OPTIONS", "/api/approvals", "", "")
	req.Header.Set("Origin", "https://evil.example")
	req.Header.Set("Access-Control-Request-Method", "POST")
	for _, got := range []reply{f.send(f.client, req), f.call("GET", "/api/approvals", f.token("u-bob"), ""), f.call("GET", "/api/openapi.yaml", "", "")} {
		for name := range got.Header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s %s has %s", got.Request.Method, got.Request.URL, name)
			}
		}
		if got.Header.Get("Cache-Control") != "no-store" || got.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", got.Request.URL, got.Header)
		}
	}
}

func TestAnotherHostIsRefusedAndRecorded(t *testing.T) {
	f := newFixture(t, false)
	before := len(f.records(gate.IdentityRefused))
	req := f.request("GET", "/api/approvals", f.token("u-bob"), "")
	req.Host = "rebound.example"
	wantProblem(t, f.send(f.client, req), http.StatusMisdirectedRequest, "unreadable", "")
	f.wantRefused(before, ReasonHost)
}

// TestAWrongHostNamesTheRightOne: the page links the console, at the path that was asked for, and nothing of it leads elsewhere.
func TestAWrongHostNamesTheRightOne(t *testing.T) {
	f := newFixture(t, false)
	for path, want := range map[string]string{
		"/approvals/01": f.url + "/approvals/01", "/history?state=spent": f.url + "/history?state=spent", "/": f.url + "/",
		"//evil.example/": f.url + "/", "/callback?code=c&state=s": f.url + "/", "/.%2e/x": f.url + "/", "/a%0d%0ab": f.url + "/",
	} {
		before := len(f.records(gate.IdentityRefused))
		req := f.request("GET", "/", "", "")
		req.URL.Opaque, req.Host = path, "rebound.example"
		got := f.send(f.client, req)
		links := regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(got.body, -1)
		leads := false
		for _, link := range links {
			leads = leads || link[1] == want
			if !strings.HasPrefix(link[1], f.url+"/") && !strings.HasPrefix(link[1], "/static/") && link[1] != "/" && link[1] != "#main" && link[1] != "data:," {
				t.Errorf("%s: a link to %s", path, link[1])
			}
		}
		if got.StatusCode != http.StatusMisdirectedRequest || !leads || !strings.Contains(got.body, "It is at "+f.url+".") || strings.Contains(got.body, "rebound") || strings.Contains(got.body, "evil") {
			t.Errorf("%s: %s %s", path, got.Status, got.body)
		}
		f.wantRefused(before, ReasonHost)
	}
	req := f.request("GET", "/static/console.css", "", "")
	req.Host = "rebound.example"
	if got := f.send(f.client, req); got.StatusCode != http.StatusOK {
		t.Errorf("the page's look: %s", got.Status)
	}
}

func TestEventsTellOfChanges(t *testing.T) {
	f := newFixture(t, false)
	resp, err := f.client.Do(f.request("GET", "/api/approvals/events", f.token("u-bob"), ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	next := func(event string) string {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == "event: "+event && lines.Scan() {
				return strings.TrimPrefix(lines.Text(), "data: ")
			}
		}
		t.Fatalf("the events ended before %q: %v", event, lines.Err())
		return ""
	}
	next("reset")
	r := f.ask()
	if got := next("approval"); got != fmt.Sprintf(`{"id":%q,"rev":1,"state":"pending"}`, r.ID) {
		t.Errorf("the event says %s", got)
	}
	f.answer(r, "u-bob", true, "")
	if got := next("approval"); got != fmt.Sprintf(`{"id":%q,"rev":2,"state":"approved"}`, r.ID) {
		t.Errorf("the event says %s", got)
	}
}

func TestEventsEndWithTheToken(t *testing.T) {
	f := newFixture(t, false)
	var late atomic.Int64
	f.console.now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	resp, err := f.client.Do(f.request("GET", "/api/approvals/events", f.token("u-bob"), ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && lines.Text() != "event: reset" {
	}
	late.Store(int64(2 * time.Hour))
	f.ask()
	var last string
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "event: ") {
			last = lines.Text()
		}
	}
	if last != "event: end" {
		t.Errorf("the last event is %q", last)
	}
}

// TestGroupsAreReadAlikeAtBothDoors: what an issuer can say of groups lets the same people decide with a bearer token and
// with a session, and nobody by an oddity.
func TestGroupsAreReadAlikeAtBothDoors(t *testing.T) {
	for _, c := range []struct {
		name, claim string
		groups      any // of the token; claim is what it is called
		in, refused bool
		more        map[string]any
	}{
		{"a list", "groups", []any{"other", "payments-oncall"}, true, false, nil},
		{"one text", "groups", "payments-oncall", true, false, nil},
		{"several in one text are one", "groups", "other payments-oncall", false, false, nil},
		{"several in one text, with commas", "groups", "other,payments-oncall", false, false, nil},
		{"another case", "groups", []any{"Payments-Oncall"}, false, false, nil},
		{"a longer name", "groups", []any{"payments-oncall-readers"}, false, false, nil},
		{"a list in a list", "groups", []any{[]any{"payments-oncall"}}, false, true, nil},
		{"an object", "groups", map[string]any{"payments-oncall": true}, false, true, nil},
		{"a number", "groups", []any{7}, false, true, nil},
		{"true", "groups", true, false, true, nil},
		{"nothing", "groups", nil, false, false, nil},
		{"an empty list", "groups", []any{}, false, false, nil},
		{"nested, by a pointer", "/realm/roles", map[string]any{"roles": []any{"payments-oncall"}}, true, false, nil},
		{"nested, by dots", "realm.roles", map[string]any{"roles": []any{"payments-oncall"}}, true, false, nil},
		{"nested, by dots, and left out", "realm.roles", nil, false, true, map[string]any{"_claim_names": map[string]any{"realm": "src1"}}},
		{"a name that is a URL", "https://issuer.test/groups.v2", []any{"payments-oncall"}, true, false, nil},
		{"nested, and not there", "/realm/roles", map[string]any{}, false, false, nil},
		{"nested, by a name with a slash", "realm/roles", map[string]any{"roles": []any{"payments-oncall"}}, false, false, nil},
		{"left out, as Entra says it", "groups", nil, false, true, map[string]any{"hasgroups": true}},
		{"left out, as text", "groups", nil, false, true, map[string]any{"hasgroups": "true"}},
		{"left out, and somewhere else", "groups", nil, false, true, map[string]any{"_claim_names": map[string]any{"groups": "src1"}}},
		{"not left out", "groups", "payments-oncall", true, false, map[string]any{"hasgroups": false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, false, func(o *Options) {
				people, err := identity.New(identity.Options{Issuers: []identity.Issuer{{Issuer: o.Issuer, Audience: []string{clientID}, Clients: []string{clientID}, GroupsClaim: c.claim}}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(people.Close)
				o.People, o.GroupsClaim = people, c.claim
			})
			r := f.ask()
			outer, _, _ := strings.Cut(strings.TrimPrefix(strings.ReplaceAll(c.claim, "realm.", "realm/"), "/"), "/")
			if strings.Contains(c.claim, "://") {
				outer = c.claim
			}
			claims := map[string]any{outer: c.groups}
			maps.Copy(claims, c.more)
			if who, err := idToken(t, f, claims); (err != nil) != c.refused || err == nil && slices.Contains(who.Groups, "payments-oncall") != c.in {
				t.Errorf("with a session: %+v, %v", who, err)
			}
			got := f.call("GET", "/api/approvals/"+r.ID, f.token("u-erin", claims), "")
			if (got.StatusCode == 401) != c.refused || !c.refused && got.json(t)["may_decide"] != c.in {
				t.Errorf("with a token: %d %v", got.StatusCode, got.body)
			}
		})
	}
}

// idToken reads an ID token of u-erin's with these claims, as a sign-in would.
func idToken(t *testing.T, f *fixture, claims map[string]any) (*gate.Principal, error) {
	t.Helper()
	all := map[string]any{"iss": f.issuer.URL, "sub": "u-erin", "aud": clientID}
	maps.Copy(all, claims)
	payload, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return identity.ReadIDToken(f.console.signIn.naming, payload, clientID)
}

// TestEventsOutliveTheTimeForARequest: a server bounds how long a request and an answer take, and whoever listens is neither.
func TestEventsOutliveTheTimeForARequest(t *testing.T) {
	f := newFixture(t, true)
	listener, err := net.Listen("tcp", extproctest.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	f.url = "http://" + listener.Addr().String()
	server := &http.Server{Handler: f.newConsole().Handler(), ReadTimeout: 200 * time.Millisecond, WriteTimeout: 200 * time.Millisecond}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	resp, err := f.client.Do(f.request("GET", "/api/approvals/events", f.token("u-bob"), ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && lines.Text() != "event: reset" {
	}
	slow, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := io.Copy(io.Discard, slow); err != nil { // until the server has no more time for a request
		t.Fatal(err)
	}
	f.ask()
	for lines.Scan() && lines.Text() != "event: approval" {
	}
	if lines.Text() != "event: approval" {
		t.Errorf("the events ended at %q: %v", lines.Text(), lines.Err())
	}
}
