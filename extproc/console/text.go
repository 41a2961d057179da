package console

import (
	"regexp"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/countersign/countersign/extproc/approval"
)

// cardView is an approval's card, as approval.CardDigest's package writes it.
type cardView struct {
	Version      int       `json:"v"`
	ID           string    `json:"id"`
	Salt         string    `json:"salt"` // so that who has only the digest cannot guess; nothing to show
	Created      time.Time `json:"created"`
	Expires      time.Time `json:"expires"`
	GrantSeconds int64     `json:"grant_seconds"`
	Digest       string    `json:"digest"`
	PolicyDigest string    `json:"policy_digest"`
	Who          struct {
		Agent      cardParty   `json:"agent"`
		Kind       cardText    `json:"kind"`
		ClientID   cardText    `json:"client_id"`
		OnBehalfOf *cardParty  `json:"on_behalf_of"`
		Actors     []cardParty `json:"actors"`
		Groups     []cardText  `json:"groups"`
		Session    cardText    `json:"session"`
		Unclear    bool        `json:"unclear"`
	} `json:"who"`
	What struct {
		Protocol     cardText  `json:"protocol"`
		Verb         cardText  `json:"verb"`
		Target       cardText  `json:"target"`
		Resource     cardText  `json:"resource"`
		ResourceKind cardText  `json:"resource_kind"`
		Labels       []cardRow `json:"labels"`
		Detail       []cardRow `json:"detail"`
	} `json:"what"`
	Why []struct {
		Rule      cardText   `json:"rule"`
		Reason    cardText   `json:"reason"`
		Approvers []cardText `json:"approvers"`
		Quorum    int        `json:"quorum"`
	} `json:"why"`
	History struct {
		Operations []struct {
			Time   string   `json:"time"`
			Verb   cardText `json:"verb"`
			Target cardText `json:"target"`
			Result cardText `json:"result"`
		} `json:"operations"`
		LeftOut int `json:"left_out"`
	} `json:"history"`
	Demand struct {
		ACR    []cardText `json:"acr"`
		MaxAge int64      `json:"max_age"`
	} `json:"demand"`
}

type cardParty struct {
	Issuer  cardText `json:"issuer"`
	Subject cardText `json:"subject"`
}

type cardRow struct {
	Path  cardText `json:"path"`
	Type  string   `json:"type"`
	Value cardText `json:"value"`
}

// cardText is an approval.Text as the card has it.
type cardText struct {
	Text   string   `json:"text"`
	Notes  []string `json:"notes"`
	Bytes  int      `json:"bytes"`
	SHA256 string   `json:"sha256"`
}

// readCard reads a card, of which nothing may be left out: one with a member that the page does not show is an error.
func readCard(b []byte) (*cardView, error) {
	var card cardView
	if err := json.Unmarshal(b, &card, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	return &card, nil
}

// Parts are the text with what stands for something invisible told apart.
func (t cardText) Parts() []textPart {
	var parts []textPart
	rest := t.Text
	for rest != "" {
		at := escape.FindStringIndex(rest)
		if at == nil {
			return append(parts, textPart{Text: rest})
		}
		if at[0] > 0 {
			parts = append(parts, textPart{Text: rest[:at[0]]})
		}
		parts = append(parts, textPart{Text: rest[at[0]:at[1]], Mark: true})
		rest = rest[at[1]:]
	}
	return parts
}

// Long reports whether the text wants a box that scrolls.
func (t cardText) Long() bool { return utf8.RuneCountInString(t.Text) > 160 }

// Short is the text where there is no room for all of it; the card has all of it.
func (t cardText) Short() cardText {
	if utf8.RuneCountInString(t.Text) > 160 {
		t.Text = string([]rune(t.Text)[:159]) + "…"
	}
	return t
}

// Title is the text as an attribute.
func (t cardText) Title() string { return t.Short().Text }

type textPart struct {
	Text string
	Mark bool
}

var escape = regexp.MustCompile(`\\u\{[0-9A-F]+\}|\\x\{[0-9A-F]{2}\}|\\\{[0-9]+ bytes left out\}|\\\\`)

// visible makes a text that is not from a card fit to be shown.
func visible(s string) cardText {
	t := approval.Visible(s)
	return cardText{t.Text, t.Notes, t.Bytes, t.SHA256}
}
