package story

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
)

// Conversation plays the lines of a story.
type Conversation struct {
	gateway *Gateway
	tb      extproctest.TB
	file    string
	told    func(string)

	speaker Speaker
	line    int
	who     string
	expires time.Time // of the token that was sent last, if its claims said when
	asked   string    // id of the request for approval that an answer named last
	awaited uint64    // seq of the record that was awaited last
}

// Kind is a kind of resource in a story. The rest of a story (who asks, who approves, policies and records) is the same for all kinds.
type Kind struct {
	// Resource starts the resource's target and returns the resource's keys in the configuration, from kind on, each on a line.
	Resource func(g *Gateway) string

	// Agents returns more elements for agents in the configuration, as YAML. Optional.
	Agents func(g *Gateway) string

	// Speak begins a conversation.
	Speak func(c *Conversation) Speaker
}

// Speaker speaks the protocol of a kind in a conversation.
type Speaker interface {
	// Say plays one line: its first word, such as ">", "|", "<:" or "=!", and the rest. It returns false if no line of the kind begins
	// with that word.
	Say(mark, rest string) bool
	// Settle sends what earlier lines have prepared. It is called before a line that is not the speaker's, and at the end.
	Settle()
	// Leave closes the connection of the operation that is held, and returns when that is recorded.
	Leave()
}

// Gateway returns what the conversation is with.
func (c *Conversation) Gateway() *Gateway { return c.gateway }

// Who returns who asks, as the last line "@ WHO" says.
func (c *Conversation) Who() string { return c.who }

// Token returns a token of who asks; "" for nobody.
func (c *Conversation) Token() string { return c.token() }

// Failf fails the story at its line.
func (c *Conversation) Failf(format string, args ...any) {
	c.tb.Helper()
	c.tb.Fatalf("%s: conversation line %d: %s", c.file, c.line, fmt.Sprintf(format, args...))
}

func (c *Conversation) play(text string) {
	c.tb.Helper()
	c.who = "agent-1"
	for line := range strings.Lines(text) {
		c.line++
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		mark, rest, _ := strings.Cut(line, " ")
		if c.told != nil {
			c.told(line)
		}
		c.say(mark, rest)
		if c.tb.Failed() {
			return
		}
	}
	c.speaker.Settle()
}

func (c *Conversation) say(mark, rest string) {
	c.tb.Helper()
	switch mark {
	case "@":
		c.speaker.Settle()
		c.who = rest
	case "!":
		c.speaker.Settle()
		c.command(rest)
	default:
		if !c.speaker.Say(mark, rest) {
			c.Failf("%q begins no line of a conversation", mark)
		}
	}
}

func (c *Conversation) token() string {
	c.tb.Helper()
	switch {
	case c.who == "nobody":
		return ""
	case strings.HasPrefix(c.who, "{"):
		var claims extproctest.Claims
		if err := json.Unmarshal([]byte(c.who), &claims); err != nil {
			c.Failf("claims: %v", err)
		}
		if in, ok := claims["exp"].(string); ok {
			d, err := time.ParseDuration(in)
			if err != nil {
				c.Failf("claims: exp: %v", err)
			}
			c.expires = time.Now().Add(d + time.Second).Truncate(time.Second)
			claims["exp"] = c.expires.Unix()
		}
		return c.gateway.Issuer.Token(claims)
	}
	token, err := c.gateway.Issuer.AgentToken(context.Background(), c.who)
	if err != nil {
		c.Failf("get a token for %s: %v", c.who, err)
	}
	return token
}

func (c *Conversation) command(rest string) {
	c.tb.Helper()
	name, argument, _ := strings.Cut(rest, " ")
	switch name {
	case "policy":
		before := len(c.gateway.Records())
		text, file, _ := strings.Cut(argument, " ")
		c.gateway.Write("policies/"+cmp.Or(file, "payments.rego"), string(section(c.gateway.archive, text)))
		c.gateway.AwaitRecord("policy.activated", func(r Record) bool { return r.Type == "policy.activated" && r.Seq > uint64(before) })
	case "agent":
		before := len(c.gateway.Records())
		c.gateway.Write("countersign.yaml", c.gateway.config(string(section(c.gateway.archive, argument))))
		c.gateway.AwaitRecord("config.activated", func(r Record) bool { return r.Type == "config.activated" && r.Seq > uint64(before) })
	case "approve", "reject":
		c.decide(name, argument)
	case "shows", "hides":
		c.card(argument, name == "shows")
	case "expire":
		over, done := context.WithDeadline(context.Background(), c.expires) // the moment is the event
		<-over.Done()
		done()
	case "leave":
		c.speaker.Leave()
	case "await":
		c.awaited = c.gateway.AwaitRecord(argument, func(r Record) bool { return r.Type == argument && r.Seq > c.awaited }).Seq
	default:
		c.Failf("there is no command %q", name)
	}
}
