package redact

import (
	"bytes"
	"encoding/base64"
)

// secretForm is a kind of secret that is recognised by its prefix.
type secretForm struct {
	prefix string
	set    *[256]bool
	least  int  // the fewest characters of set after the prefix
	label  bool // the prefix is a label: it is not part of the secret, and its case does not matter
}

var (
	alphanumeric = asciiSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
	base32Upper  = asciiSet("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
	base64Any    = asciiSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=_-")
	base64URL    = asciiSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
	base64URLDot = asciiSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.~")
	token68      = asciiSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/=%:|")
	formValue    = func() (set [256]bool) {
		for c := 0x21; c < 0x7F; c++ {
			set[c] = c != '&' && c != ';' && c != ',' && c != '"' && c != '\'' && c != '<' && c != '>'
		}
		return set
	}()
)

// keyForms are the secrets of detector "key", as their issuers document them.
var keyForms = []secretForm{
	{prefix: "AKIA", set: &base32Upper, least: 16}, // AWS access key ids
	{prefix: "ASIA", set: &base32Upper, least: 16},
	{prefix: "ABIA", set: &base32Upper, least: 16},
	{prefix: "ACCA", set: &base32Upper, least: 16},
	{prefix: "ghp_", set: &alphanumeric, least: 30}, // GitHub
	{prefix: "gho_", set: &alphanumeric, least: 30},
	{prefix: "ghu_", set: &alphanumeric, least: 30},
	{prefix: "ghs_", set: &base64URLDot, least: 30},
	{prefix: "ghr_", set: &alphanumeric, least: 30},
	{prefix: "github_pat_", set: &base64URL, least: 30},
	{prefix: "glpat-", set: &base64URLDot, least: 20}, // GitLab
	{prefix: "gldt-", set: &base64URLDot, least: 20},
	{prefix: "glrt-", set: &base64URLDot, least: 20},
	{prefix: "glptt-", set: &base64URLDot, least: 20},
	{prefix: "xoxa-", set: &base64URL, least: 10}, // Slack
	{prefix: "xoxb-", set: &base64URL, least: 10},
	{prefix: "xoxc-", set: &base64URL, least: 10},
	{prefix: "xoxd-", set: &token68, least: 10},
	{prefix: "xoxe-", set: &base64URL, least: 10},
	{prefix: "xoxe.", set: &base64URLDot, least: 10},
	{prefix: "xoxp-", set: &base64URL, least: 10},
	{prefix: "xoxr-", set: &base64URL, least: 10},
	{prefix: "xoxs-", set: &base64URL, least: 10},
	{prefix: "xapp-", set: &base64URL, least: 10},
	{prefix: "hooks.slack.com/services/", set: &base64Any, least: 20},
	{prefix: "AIza", set: &base64URL, least: 35}, // Google
	{prefix: "GOCSPX-", set: &base64URL, least: 20},
	{prefix: "ya29.", set: &base64URLDot, least: 20},
	{prefix: "sk_live_", set: &alphanumeric, least: 16}, // Stripe
	{prefix: "sk_test_", set: &alphanumeric, least: 16},
	{prefix: "rk_live_", set: &alphanumeric, least: 16},
	{prefix: "rk_test_", set: &alphanumeric, least: 16},
	{prefix: "whsec_", set: &base64Any, least: 20},
	{prefix: "sk-", set: &base64URL, least: 20}, // OpenAI, Anthropic and others
	{prefix: "npm_", set: &alphanumeric, least: 30},
	{prefix: "pypi-", set: &base64URL, least: 30},
	{prefix: "dckr_pat_", set: &base64URL, least: 20}, // Docker
	{prefix: "SG.", set: &base64URLDot, least: 40},    // SendGrid
	{prefix: "dop_v1_", set: &alphanumeric, least: 40},
	{prefix: "hvs.", set: &base64URL, least: 20}, // Vault
	{prefix: "hvb.", set: &base64URL, least: 20},
	{prefix: "hf_", set: &alphanumeric, least: 30},
	{prefix: "shpat_", set: &alphanumeric, least: 30},
	{prefix: "lin_api_", set: &alphanumeric, least: 30},
	{prefix: "dapi", set: &alphanumeric, least: 32}, // Databricks
	{prefix: "AGE-SECRET-KEY-1", set: &base32Upper, least: 40},
	{prefix: "client_secret=", set: &formValue, least: 6, label: true},
	{prefix: "api_key=", set: &formValue, least: 6, label: true},
	{prefix: "apikey=", set: &formValue, least: 6, label: true},
	{prefix: "password=", set: &formValue, least: 4, label: true},
	{prefix: "passwd=", set: &formValue, least: 4, label: true},
	{prefix: "pwd=", set: &formValue, least: 4, label: true},
	{prefix: "AccountKey=", set: &formValue, least: 20, label: true}, // Azure
	{prefix: "SharedAccessKey=", set: &formValue, least: 20, label: true},
	{prefix: "sig=", set: &formValue, least: 20, label: true},
	{prefix: "X-Amz-Signature=", set: &formValue, least: 20, label: true},
	{prefix: "X-Goog-Signature=", set: &formValue, least: 20, label: true},
}

// tokenForms are the labelled secrets of detector "token". tokenAt finds JWTs and the Authorization schemes.
var tokenForms = []secretForm{
	{prefix: "access_token=", set: &formValue, least: 6, label: true},
	{prefix: "refresh_token=", set: &formValue, least: 6, label: true},
	{prefix: "id_token=", set: &formValue, least: 6, label: true},
	{prefix: "X-Amz-Security-Token=", set: &formValue, least: 16, label: true},
}

var keysByFirst, tokensByFirst = byFirst(keyForms), byFirst(tokenForms)

// byFirst indexes forms by their first byte, labels by both cases of it.
func byFirst(forms []secretForm) (table [256][]secretForm) {
	for _, f := range forms {
		c := f.prefix[0]
		table[c] = append(table[c], f)
		if f.label {
			table[c^0x20] = append(table[c^0x20], f)
		}
	}
	return table
}

func (f *finder) formAt(text []byte, from int, forms []secretForm, k kind) {
	for i := range forms {
		form := &forms[i]
		at := from + len(form.prefix)
		if at+form.least > len(text) || (text[from+1]^form.prefix[1])&^0x20 != 0 {
			continue
		}
		if string(text[from:at]) != form.prefix && (!form.label || !bytes.EqualFold(text[from:at], []byte(form.prefix))) {
			continue
		}
		to := runOf(text, at, form.set)
		if to-at < form.least {
			continue
		}
		if form.label {
			from = at
		}
		f.add(from, to, k)
		return
	}
}

func runOf(text []byte, at int, set *[256]bool) int {
	for at < len(text) && set[text[at]] {
		at++
	}
	return at
}

// keyAt looks for a secret that begins with the word text[from:to].
func (f *finder) keyAt(text []byte, from, to int) {
	if forms := keysByFirst[text[from]]; forms != nil {
		f.formAt(text, from, forms, key)
	}
	if from > 0 && (base64Any[text[from-1]] && text[from-1] != '=') {
		return
	}
	if end := secretAccessKey(text, from); end > 0 {
		f.add(from, end, key)
	}
	f.azureSecret(text, from, to)
}

// secretAccessKey recognises an AWS secret access key: forty characters of base64 that stand alone, with letters of both
// cases and digits, and few slashes, so that neither a SHA-1 nor a file path is one.
func secretAccessKey(text []byte, from int) int {
	const length = 40
	if from+length > len(text) || from+length < len(text) && base64Any[text[from+length]] {
		return 0
	}
	var class uint8
	slashes := 0
	for _, c := range text[from : from+length] {
		switch {
		case wordClass[c] != 0:
			class |= wordClass[c]
		case c == '/':
			slashes++
		case c != '+':
			return 0
		}
	}
	if class != isDigit|isUpper|isLower || slashes > 3 {
		return 0
	}
	return from + length
}

// azureSecret recognises a client secret of Entra: three characters, a digit, Q~, then 31 or more.
func (f *finder) azureSecret(text []byte, from, to int) {
	if to-from != 5 || text[to-1] != 'Q' || to >= len(text) || text[to] != '~' {
		return
	}
	if end := runOf(text, to+1, &base64URLDot); end-to > 30 {
		f.add(from, end, key)
	}
}

// tokenAt looks for a token that begins with, or comes after, the word text[from:to].
func (f *finder) tokenAt(text []byte, from, to int) {
	if forms := tokensByFirst[text[from]]; forms != nil {
		f.formAt(text, from, forms, token)
	}
	word := text[from:to]
	switch {
	case text[from] == 'e' && len(word) >= 10 && string(word[:3]) == "eyJ" && from >= f.noJWT:
		end, ok := jwtEnd(text, from)
		if !ok {
			f.noJWT = end // one that begins before end has no more parts than this
			return
		}
		f.add(from, end, token)
	case len(word) == 6 && bytes.EqualFold(word, []byte("bearer")):
		if at := afterBlanks(text, to); at > to {
			if end := runOf(text, at, &token68); end-at >= 16 && looksRandom(text[at:end]) {
				f.add(at, end, token)
			}
		}
	case len(word) == 5 && bytes.EqualFold(word, []byte("basic")):
		if at := afterBlanks(text, to); at > to {
			if end := runOf(text, at, &base64Any); end-at >= 8 && isUserPass(text[at:end]) {
				f.add(at, end, token)
			}
		}
	}
}

// jwtEnd returns where a JWT in compact form (RFC 7515, RFC 7516) ends: a header that begins like JSON in base64, then two to
// four more parts, some of which may be empty. If there is no JWT, end is where the parts end.
func jwtEnd(text []byte, from int) (end int, ok bool) {
	end, dots := runOf(text, from, &base64URL), 0
	for end < len(text) && text[end] == '.' && dots < 4 {
		next := runOf(text, end+1, &base64URL)
		if dots >= 2 && next == end+1 {
			break // the end of a sentence
		}
		dots++
		end = next
	}
	return end, dots >= 2
}

func afterBlanks(text []byte, at int) int {
	for at < len(text) && (text[at] == ' ' || text[at] == '\t') {
		at++
	}
	return at
}

// looksRandom reports whether b has digits or both cases, as tokens do and words do not.
func looksRandom(b []byte) bool {
	var class uint8
	for _, c := range b {
		class |= wordClass[c]
	}
	return class&isDigit != 0 || class == isUpper|isLower
}

func isUserPass(b []byte) bool {
	plain, err := base64.StdEncoding.DecodeString(string(b))
	return err == nil && bytes.IndexByte(plain, ':') >= 0
}
