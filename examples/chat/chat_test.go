package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/examples/webhook/receiver"
	"github.com/countersign/countersign/extproc/approval/webhook"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

const secret = "only for these tests, and long enough"

// channel is a chat that keeps what was posted, and answers with what it is told to, or 200.
type channel struct {
	*httptest.Server
	posts  chan []byte
	answer chan int
}

func newChannel(t *testing.T) *channel {
	t.Helper()
	c := &channel{posts: make(chan []byte, 100), answer: make(chan int, 100)}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %v", r.Method, r.Header.Get("Content-Type"), err)
		}
		select {
		case status := <-c.answer:
			w.WriteHeader(status)
		default:
		}
		c.posts <- body
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *channel) next(t *testing.T) []byte {
	t.Helper()
	select {
	case body := <-c.posts:
		return body
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was posted")
		return nil
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestTheGatewayTellsSlackAndTeams goes all the way: an agent, Envoy, the gateway's webhook, this program, and two chats.
func TestTheGatewayTellsSlackAndTeams(t *testing.T) {
	t.Parallel()
	slack, teams := newChannel(t), newChannel(t)
	key := file(t, secret)
	r, err := open(key, file(t, slack.URL), file(t, teams.URL))
	if err != nil {
		t.Fatal(err)
	}
	here := httptest.NewServer(r)
	t.Cleanup(here.Close)
	console := extproctest.FreeAddress(t)
	g := story.Start(t, txtar.Parse(fmt.Appendf(nil, `-- policy.rego --
package rules.payments

ask contains {
	"id": "refund",
	"summary": sprintf("Refund %%v of payment %%s to %%s", [input.http.body.amount, input.http.segments[2], input.http.body.to]),
	"approvers": ["payments-oncall"],
} if input.http.segments[3] == "refunds"
-- config.yaml --
people: {issuer: "${ISSUER}", client_id: countersign-console}
approvals: {hold: 100ms, console_url: "http://%s", webhook: {url: %q, secret_file: %q}}
-- listen --
console: %q
`, console, here.URL, key, console)), story.Options{})
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.Send(t.Context(), &story.Request{Method: "POST", Target: "/v1/payments/7/refunds", Body: []byte(`{"amount": 10, "to": "<!channel> [me](https://evil.example)"}`), Fields: []extproctest.Field{
		{Name: "Authorization", Value: "Bearer " + token}, {Name: "Content-Type", Value: "application/json"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	card := "http://" + console + "/approvals/"
	s, m := slack.next(t), teams.next(t)
	holdToSlack(t, s)
	holdToTeams(t, m)
	for name, text := range map[string]string{"Slack": string(s), "Teams": string(m)} {
		for _, want := range []string{"Refund 10 of payment 7 to ", `"url":"` + card, "payments-oncall", "agent-1"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s is not told %q: %s", name, want, text)
			}
		}
	}
}

// hostile is an event in which everything that can be chosen tries to be more than text.
func hostile() *receiver.Event {
	evil := "<!channel> <!here|x> <@U1> @channel @here <https://evil.example|Approve> [Approve](https://evil.example) https://evil.example *b* _i_ `c`\n\u202e# h\u200b&amp;"
	long := strings.Repeat("&<>@", 100)
	e := &receiver.Event{
		EventID: "1/requested", Event: "approval.requested", ID: "1", State: "pending", Resource: evil, Verb: evil, URL: "https://console.example/approvals/1",
		Agent: receiver.Party{Name: "”Approved“ by root", Issuer: evil, Subject: evil}, OnBehalfOf: &receiver.Party{Subject: long}, Expires: time.Unix(1_700_000_000, 0),
	}
	for i := range 40 {
		e.Asks = append(e.Asks, receiver.Ask{Rule: evil, Quorum: 2, Summary: strconv.Itoa(i) + evil + long + long, Approvers: slices.Repeat([]string{evil + strconv.Itoa(i)}, 64)})
	}
	return e
}

// TestHostileTextIsTextInAChat: no mention, no link, no layout, no hidden character, and no more than a chat takes.
func TestHostileTextIsTextInAChat(t *testing.T) {
	rejected := hostile()
	rejected.Event, rejected.State = "approval.decided", "rejected"
	rejected.Decision = &receiver.Decision{Decision: "reject", Approver: rejected.Agent}
	strange := hostile()
	strange.Event, strange.Asks, strange.URL = strange.Verb, nil, "javascript:alert(1)"
	for name, e := range map[string]*receiver.Event{"asked": hostile(), "rejected": rejected, "strange": strange} {
		n := noticeOf(e)
		slack, teams := marshal(t, slackMessage(n)), marshal(t, teamsMessage(n))
		holdToSlack(t, slack)
		holdToTeams(t, teams)
		links := 0
		for _, text := range slices.Concat(textsOf(t, slack), textsOf(t, teams)) {
			if strings.HasPrefix(text, "https://console.example/") || strings.HasPrefix(text, "http://adaptivecards.io/") {
				links++
				continue
			}
			for _, bad := range []string{"@channel", "@here", "@U1", "](", "://", "javascript", "\n", "\u202e", "`c`"} {
				if strings.Contains(text, bad) {
					t.Errorf("%s: %q stands in %.200q", name, bad, text)
				}
			}
			if n := utf8.RuneCountInString(text); n > 3000 {
				t.Errorf("%s: a text has %d characters", name, n)
			}
		}
		if want := map[string]int{"asked": 3, "rejected": 1, "strange": 1}[name]; links != want {
			t.Errorf("%s: %d links, and should have %d", name, links, want)
		}
		if name == "asked" && !strings.Contains(string(teams), "and 37 more, on the card") {
			t.Error("summaries that are left out are not counted")
		}
	}
	if got, want := hostile().Agent.Plain(mostText), "“\"Approved\" by root” ("; !strings.HasPrefix(got, want) {
		t.Errorf("a name is told as %s, and should begin with %s", got, want)
	}
}

// TestNothingInAChatApproves: what can be pressed opens the console and does nothing else.
func TestNothingInAChatApproves(t *testing.T) {
	n := noticeOf(hostile())
	var s slackPayload
	if err := json.Unmarshal(marshal(t, slackMessage(n)), &s); err != nil {
		t.Fatal(err)
	}
	pressed := 0
	for _, b := range s.Blocks {
		for _, e := range b.Elements {
			if e.Type == "button" {
				pressed++
				if e.URL != n.link {
					t.Errorf("a button of Slack: %+v", e)
				}
			}
		}
	}
	for _, a := range teamsMessage(n).(*teamsPayload).Attachments[0].Content.Actions {
		pressed++
		if a.Type != "Action.OpenUrl" || a.URL != n.link {
			t.Errorf("an action of Teams: %+v", a)
		}
	}
	if pressed != 2 {
		t.Errorf("there are %d things to press", pressed)
	}
	for _, of := range [][]byte{marshal(t, slackMessage(n)), marshal(t, teamsMessage(n))} {
		if !strings.Contains(string(of), "Approve or reject in the console, signed in as yourself. Nothing here can.") {
			t.Errorf("it is not said where one approves: %s", of)
		}
	}
}

// TestAChatThatFailsIsToldAgain: and the other one, which was told, is not.
func TestAChatThatFailsIsToldAgain(t *testing.T) {
	slack, teams := newChannel(t), newChannel(t)
	r, err := open(file(t, secret), file(t, slack.URL), file(t, teams.URL))
	if err != nil {
		t.Fatal(err)
	}
	teams.answer <- 429
	for i, want := range []struct{ status, slack, teams int }{{502, 1, 1}, {204, 1, 2}, {204, 1, 2}} {
		if got := deliver(r, `{"event_id":"1/spent","event":"approval.spent"}`); got != want.status || len(slack.posts) != want.slack || len(teams.posts) != want.teams {
			t.Errorf("attempt %d: %d, with %d posts to Slack and %d to Teams; want %+v", i+1, got, len(slack.posts), len(teams.posts), want)
		}
	}
	slack.answer <- 400 // Slack will not have this one, ever; Teams is told all the same
	if got := deliver(r, `{"event_id":"2/spent","event":"approval.spent"}`); got != 422 || len(teams.posts) != 3 {
		t.Errorf("what a chat refuses gives %d, with %d posts to Teams", got, len(teams.posts))
	}
}

func deliver(r *receiver.Receiver, body string) int {
	req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Countersign-Timestamp", timestamp)
	req.Header.Set("Countersign-Signature", webhook.Sign([]byte(secret), timestamp, []byte(body)))
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	return w.Code
}

// TestWhatCannotWork is told at the start, and never with what a file holds.
func TestWhatCannotWork(t *testing.T) {
	good, chat := file(t, secret), file(t, "https://chat.example/services/sesame")
	for _, c := range []struct{ secret, slack, teams, want string }{
		{"", chat, "", "-secret-file is missing"},
		{good, "", "", "there is no chat to tell"},
		{good, "nowhere", "", "read the secret: open nowhere"},
		{file(t, ""), chat, "", "is empty"},
		{good, chat, file(t, "http://sesame.example/"), "is no https:// URL of an incoming webhook of Teams"},
		{good, file(t, "sesame"), "", "is no https:// URL of an incoming webhook of Slack"},
	} {
		_, err := open(c.secret, c.slack, c.teams)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := open(good, chat, chat); err != nil {
		t.Error(err)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	err := receiver.Post(t.Context(), gone.URL+"/sesame", 1)
	if err == nil || errors.Is(err, receiver.ErrNever) || strings.Contains(err.Error(), "sesame") {
		t.Errorf("a chat that is away: %v", err)
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// textsOf are all strings of a JSON text.
func textsOf(t *testing.T, text []byte) (list []string) {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			list = append(list, v)
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(v)
	return list
}

// unescaped is what of a text for Slack is no escape.
var unescaped = regexp.MustCompile(`[<>]|&(?:[^alg]|a[^m]|l[^t]|g[^t]|$)`)

// holdToSlack holds a message to what Slack documents of incoming webhooks and Block Kit.
func holdToSlack(t *testing.T, text []byte) {
	t.Helper()
	var m struct {
		Text   string `json:"text"`
		Mrkdwn *bool  `json:"mrkdwn"`
		Blocks []struct {
			Type     string            `json:"type"`
			Text     json.RawMessage   `json:"text"`
			Fields   []json.RawMessage `json:"fields"`
			Elements []json.RawMessage `json:"elements"`
		} `json:"blocks"`
		Unfurl *bool `json:"unfurl_links"`
		Media  *bool `json:"unfurl_media"`
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if m.Text == "" || len([]rune(m.Text)) > 4000 || unescaped.MatchString(m.Text) || m.Mrkdwn == nil || *m.Mrkdwn || m.Unfurl == nil || *m.Unfurl || m.Media == nil || *m.Media {
		t.Errorf("the message beside its blocks: %s", text)
	}
	if len(m.Blocks) == 0 || len(m.Blocks) > 50 {
		t.Errorf("%d blocks", len(m.Blocks))
	}
	plain := func(raw json.RawMessage, most int) {
		t.Helper()
		var o struct{ Type, Text string }
		if err := json.Unmarshal(raw, &o); err != nil || o.Type != "plain_text" || o.Text == "" || len([]rune(o.Text)) > most || unescaped.MatchString(o.Text) {
			t.Errorf("no plain text of at most %d characters: %v %s", most, err, raw)
		}
	}
	for _, b := range m.Blocks {
		switch b.Type {
		case "section":
			if (b.Text == nil) == (len(b.Fields) == 0) || len(b.Fields) > 10 {
				t.Errorf("a section of %s and %d fields", b.Text, len(b.Fields))
			}
			if b.Text != nil {
				plain(b.Text, 3000)
			}
			for _, f := range b.Fields {
				plain(f, 2000)
			}
		case "context":
			if len(b.Elements) == 0 || len(b.Elements) > 10 {
				t.Errorf("a context of %d elements", len(b.Elements))
			}
			for _, e := range b.Elements {
				plain(e, 3000)
			}
		case "actions":
			for _, raw := range b.Elements {
				var e struct {
					Type string          `json:"type"`
					Text json.RawMessage `json:"text"`
					URL  string          `json:"url"`
					ID   string          `json:"action_id"`
				}
				err := json.Unmarshal(raw, &e)
				if _, bad := url.ParseRequestURI(e.URL); err != nil || bad != nil || e.Type != "button" || len(e.URL) > 3000 || len(e.ID) > 255 {
					t.Errorf("a button: %v %s", err, raw)
				}
				plain(e.Text, 75)
			}
		default:
			t.Errorf("a block of type %q", b.Type)
		}
	}
}

// holdToTeams holds a message to the shape that workflows take, and its card to the schema of Adaptive Cards.
func holdToTeams(t *testing.T, text []byte) {
	t.Helper()
	if len(text) > 28<<10 {
		t.Errorf("a message of %d bytes", len(text))
	}
	var m struct {
		Type        string
		Attachments []struct {
			ContentType string
			Content     map[string]any
		}
	}
	if err := json.Unmarshal(text, &m); err != nil || m.Type != "message" || len(m.Attachments) != 1 || m.Attachments[0].ContentType != "application/vnd.microsoft.card.adaptive" {
		t.Fatalf("%v: %s", err, text)
	}
	card := cardSchema(t)
	if err := card.check("card", card.root, m.Attachments[0].Content); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	for _, element := range m.Attachments[0].Content["body"].([]any) {
		if kind := element.(map[string]any)["type"]; kind != "RichTextBlock" {
			t.Errorf("an element of type %v, in which Teams may read Markdown", kind)
		}
	}
}

// schema checks against as much of JSON schema as the one of Adaptive Cards uses.
type schema struct{ root map[string]any }

func cardSchema(t *testing.T) (s schema) {
	t.Helper()
	b, err := os.ReadFile("testdata/adaptive-card-1.4.0.json")
	if err == nil {
		err = json.Unmarshal(b, &s.root)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s schema) check(at string, rule map[string]any, v any) error {
	for keyword, value := range rule {
		if err := s.keyword(at, keyword, value, rule, v); err != nil {
			return err
		}
	}
	return nil
}

func (s schema) keyword(at, keyword string, value any, rule map[string]any, v any) error {
	object, isObject := v.(map[string]any)
	list, isList := v.([]any)
	text, isText := v.(string)
	switch keyword {
	case "$ref":
		name := strings.TrimPrefix(value.(string), "#/definitions/")
		return s.check(at, s.root["definitions"].(map[string]any)[name].(map[string]any), v)
	case "allOf", "anyOf":
		var errs []error
		for _, one := range value.([]any) {
			err := s.check(at, one.(map[string]any), v)
			if err == nil && keyword == "anyOf" {
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	case "enum":
		if !slices.Contains(value.([]any), v) {
			return fmt.Errorf("%s is %v, not one of %v", at, v, value)
		}
	case "type":
		_, isNumber := v.(float64)
		_, isBool := v.(bool)
		if is := map[string]bool{"object": isObject, "array": isList, "string": isText, "boolean": isBool, "number": isNumber, "integer": isNumber, "null": v == nil}; !is[value.(string)] {
			return fmt.Errorf("%s is %v, not of type %v", at, v, value)
		}
	case "required":
		for _, name := range value.([]any) {
			if _, ok := object[name.(string)]; isObject && !ok {
				return fmt.Errorf("%s has no %v", at, name)
			}
		}
	case "properties":
		for name, member := range object {
			if of, ok := value.(map[string]any)[name].(map[string]any); ok {
				if err := s.check(at+"."+name, of, member); err != nil {
					return err
				}
			}
		}
	case "additionalProperties":
		for name := range object {
			if _, known := rule["properties"].(map[string]any)[name]; value == false && !known {
				return fmt.Errorf("%s has the unknown member %s", at, name)
			}
		}
	case "items":
		for i, x := range list {
			if err := s.check(fmt.Sprintf("%s[%d]", at, i), value.(map[string]any), x); err != nil {
				return err
			}
		}
	case "pattern":
		if isText && !regexp.MustCompile(value.(string)).MatchString(text) {
			return fmt.Errorf("%s is %q, which is not of the pattern %v", at, text, value)
		}
	}
	return nil
}

// TestTheSchemaIsHeldTo: what is no card is none.
func TestTheSchemaIsHeldTo(t *testing.T) {
	card := cardSchema(t)
	for text, good := range map[string]bool{
		`{"type":"AdaptiveCard","version":"1.4","body":[{"type":"RichTextBlock","inlines":[{"type":"TextRun","text":"x"}]}]}`:               true,
		`{"type":"AdaptiveCard","version":"1.4","body":[{"type":"RichTextBlock","inlines":[{"type":"TextRun","text":"x","shout":true}]}]}`:  false,
		`{"type":"AdaptiveCard","version":"1.4","body":[{"type":"RichTextBlock"}]}`:                                                         false,
		`{"type":"AdaptiveCard","version":"1.4","actions":[{"type":"Action.OpenUrl","title":"x"}]}`:                                         false,
		`{"type":"AdaptiveCard","version":"1.4","body":[{"type":"RichTextBlock","inlines":[{"type":"TextRun","text":"x","size":"Huge"}]}]}`: false,
	} {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if err := card.check("card", card.root, v); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}
