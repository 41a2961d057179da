package main

import "strings"

// The message of Slack's Block Kit, for an incoming webhook. Everything that is not ours stands in objects of type plain_text, where
// nothing is markup, and is escaped all the same; the text beside the blocks, which phones show in a notification, is escaped too
// and not formatted. The limits are Slack's: 50 blocks, 3,000 characters of a section's text, 10 fields of 2,000.

type (
	slackPayload struct {
		Text        string       `json:"text"`
		Mrkdwn      bool         `json:"mrkdwn"`
		UnfurlLinks bool         `json:"unfurl_links"`
		UnfurlMedia bool         `json:"unfurl_media"`
		Blocks      []slackBlock `json:"blocks"`
	}
	slackBlock struct {
		Type     string         `json:"type"`
		Text     *slackText     `json:"text,omitempty"`
		Fields   []*slackText   `json:"fields,omitempty"`
		Elements []slackElement `json:"elements,omitempty"`
	}
	slackText struct {
		Type  string `json:"type"`
		Text  string `json:"text"`
		Emoji bool   `json:"emoji"`
	}
	slackElement struct {
		Type     string `json:"type"`
		Text     any    `json:"text"` // of a button an object, of a context a text
		Emoji    *bool  `json:"emoji,omitempty"`
		URL      string `json:"url,omitempty"`
		ActionID string `json:"action_id,omitempty"`
	}
)

const (
	slackSection = 3000
	slackField   = 2000
)

var slackEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// slackPlain escapes a text, and cuts it so that what was escaped fits and no escape is cut.
func slackPlain(s string, most int) *slackText {
	escaped := slackEscapes.Replace(s)
	for r := []rune(s); len([]rune(escaped)) > most; {
		r = r[:len(r)-1-(len([]rune(escaped))-most)/5]
		escaped = slackEscapes.Replace(string(r)) + "…"
	}
	return &slackText{Type: "plain_text", Text: escaped}
}

func slackMessage(n *notice) any {
	p := &slackPayload{Text: slackPlain(n.title+": "+strings.Join(n.what, "; "), slackSection).Text}
	add := func(b slackBlock) { p.Blocks = append(p.Blocks, b) }
	add(slackBlock{Type: "section", Text: slackPlain(n.title, slackSection)})
	for _, what := range n.what {
		add(slackBlock{Type: "section", Text: slackPlain(what, slackSection)})
	}
	facts := slackBlock{Type: "section"}
	for _, f := range n.facts {
		facts.Fields = append(facts.Fields, slackPlain(f[0]+": "+f[1], slackField))
	}
	add(facts)
	if n.link != "" {
		add(slackBlock{Type: "actions", Elements: []slackElement{{
			Type: "button", Text: slackPlain("Look at it in the console", 75), URL: n.link, ActionID: "countersign-open-console",
		}}})
	}
	if len(n.footnotes) > 0 {
		note := slackBlock{Type: "context"}
		for _, text := range n.footnotes {
			no := false
			note.Elements = append(note.Elements, slackElement{Type: "plain_text", Text: slackPlain(text, slackField).Text, Emoji: &no})
		}
		add(note)
	}
	return p
}
