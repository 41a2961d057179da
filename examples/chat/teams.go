package main

// The message that a Teams workflow takes ("when a webhook request is received"): one attachment, an Adaptive Card. Everything that is
// not ours stands in text runs, in which Teams reads no Markdown; a text block would make links, lists and headings of it. A
// message has 28 KB at most, which the bounds of a notice keep.

type (
	teamsPayload struct {
		Type        string            `json:"type"`
		Attachments []teamsAttachment `json:"attachments"`
	}
	teamsAttachment struct {
		ContentType string    `json:"contentType"`
		ContentURL  *string   `json:"contentUrl"`
		Content     teamsCard `json:"content"`
	}
	teamsCard struct {
		Schema   string          `json:"$schema"`
		Type     string          `json:"type"`
		Version  string          `json:"version"`
		Fallback string          `json:"fallbackText"`
		Body     []teamsRichText `json:"body"`
		Actions  []teamsAction   `json:"actions,omitempty"`
	}
	teamsRichText struct {
		Type    string     `json:"type"`
		Spacing string     `json:"spacing,omitempty"`
		Inlines []teamsRun `json:"inlines"`
	}
	teamsRun struct {
		Type   string `json:"type"`
		Text   string `json:"text"`
		Size   string `json:"size,omitempty"`
		Weight string `json:"weight,omitempty"`
		Subtle bool   `json:"isSubtle,omitempty"`
	}
	teamsAction struct {
		Type  string `json:"type"`
		Title string `json:"title"`
		URL   string `json:"url"`
	}
)

func textRun(text string) teamsRun { return teamsRun{Type: "TextRun", Text: text} }

func teamsMessage(n *notice) any {
	card := teamsCard{
		Schema: "http://adaptivecards.io/schemas/adaptive-card.json", Type: "AdaptiveCard", Version: "1.4",
		Fallback: "Countersign: " + n.title,
	}
	line := func(spacing string, runs ...teamsRun) {
		card.Body = append(card.Body, teamsRichText{Type: "RichTextBlock", Spacing: spacing, Inlines: runs})
	}
	title := textRun(n.title)
	title.Weight = "Bolder"
	line("", title)
	for _, what := range n.what {
		words := textRun(what)
		words.Size = "Large"
		line("", words)
	}
	for _, f := range n.facts {
		name := textRun(f[0] + ": ")
		name.Subtle = true
		line("Small", name, textRun(f[1]))
	}
	for _, text := range n.footnotes {
		note := textRun(text)
		note.Size, note.Subtle = "Small", true
		line("Small", note)
	}
	if n.link != "" {
		card.Actions = []teamsAction{{"Action.OpenUrl", "Look at it in the console", n.link}}
	}
	return &teamsPayload{"message", []teamsAttachment{{ContentType: "application/vnd.microsoft.card.adaptive", Content: card}}}
}
