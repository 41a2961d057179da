package web

import (
	"fmt"
	"strings"
)

// Some header fields ask a target to act as somebody else, or for somebody else's tenant: Sudo at GitLab, X-Scope-OrgID at
// Loki, Stripe-Account. A target that is reached with an administrator's credential obeys, so an agent that may read as
// itself could read as anyone. No list has all such fields, so they are recognised by their names and by the words in them.
// A resource can let one pass (identity_headers); policy then sees it, and approvals bind it.

// actingNames are such fields that have none of the words below.
var actingNames = set(
	"mscrmcallerid", "callerobjectid", // Dynamics 365
	"stripe-account", "harness-account", "login-customer-id", "x-goog-authuser", "x-goog-iam-authority-selector",
	"securitytenant", "sgtenant", // OpenSearch
	"x-proxiedentitieschain", "x-proxied-entities-chain", // NiFi
	"x-vault-namespace", "x-jfrog-art-api", "x-registry-config", "x-wsse", "x-ovh-consumer", "x-ovh-application",
	"x-honeycomb-team", "x-trackertoken", "x-query-key", "x-amz-mfa", "x-subject", "x-sub", "x-uid",
	"x-amzn-request-context", "x-amzn-lambda-context", // what an adapter tells a Lambda of its caller
)

// innocentNames have such words and are harmless.
var innocentNames = set("x-atlassian-token", "x-ms-session-token", "x-amz-client-token", "x-snowflake-authorization-token-type")

// word says where in a name a word makes it one that acts for somebody. Words stand between hyphens or dots.
type word uint8

const (
	anywhere     word = 1 << iota // X-On-Behalf-Of
	atEnd                         // X-Trino-User, but not X-Goog-User-Project
	second                        // after another: see actingPairs
	endsPair                      // at the end, after another: see endingPairs
	noCredential                  // before "token": it is the token of a page, a lock or a form, and no credential
	ofMetadata                    // the field is stored with an object: X-Amz-Meta-User
)

var actingWords = func() map[string]word {
	m := map[string]word{}
	for class, words := range map[word]string{
		anywhere: "behalf onbehalfof actas runas loginas doas delegate delegated delegation delegator actor auth oauth oauth2 authorization authentication " +
			"authenticated jwt bearer secret password passwd passphrase credential credentials apikey otp totp cookie tenant tenantid orgid",
		atEnd: "user username userid userinfo login principal identity persona caller email role roles groups admin superuser assertion token authtoken " +
			"accesstoken apitoken usertoken sessiontoken refreshtoken idtoken securitytoken accesskey secretkey authkey",
		noCredential: "csrf xsrf verification captcha recaptcha turnstile continuation page pagination next cursor resume sync change delta lock fencing " +
			"idempotency upload cancellation consistency",
		ofMetadata: "meta",
	} {
		for w := range strings.FieldsSeq(words) {
			m[w] |= class
		}
	}
	for class, pairs := range map[word]map[[2]string]bool{second: actingPairs, endsPair: endingPairs} {
		for p := range pairs {
			m[p[1]] |= class
		}
	}
	return m
}()

var (
	actingStems = []string{"sudo", "impersonat", "masquerad"}
	actingPairs = pairs("act as", "acting as", "run as", "login as", "do as", "api key", "access key", "client cert", "client certificate", "client dn")
	endingPairs = pairs("user id", "user name", "org id", "organization id", "organisation id", "caller id",
		"client ip", "real ip", "remote ip", "source ip", "user ip", "connecting ip", "connection ip", "client address",
		"app key", "application key", "subscription key", "function key", "functions key", "master key", "admin key", "private key", "service key", "account key",
		"client key", "license key", "insert key", "rapidapi key", "clickhouse key", "consumer key", "developer key")
)

func pairs(list ...string) map[[2]string]bool {
	m := make(map[[2]string]bool, len(list))
	for _, p := range list {
		first, then, _ := strings.Cut(p, " ")
		m[[2]string{first, then}] = true
	}
	return m
}

// actsAs reports whether the words of a name say for whom, or with which credential, a request is made.
func actsAs(name string) bool {
	if innocentNames[name] || strings.HasPrefix(name, "sec-") { // a page cannot set what begins with sec-
		return false
	}
	var before, last string
	var beforeIs, lastIs, all word
	for rest := name; rest != ""; {
		var w string
		if w, rest = cutWord(rest); w == "" {
			continue
		}
		before, beforeIs = last, lastIs
		last, lastIs = w, actingWords[w]
		if lastIs&second != 0 && actingPairs[[2]string{before, last}] || hasPrefix(actingStems, w) {
			lastIs |= anywhere
		}
		all |= lastIs
	}
	switch {
	case all&ofMetadata != 0:
		return false
	case all&anywhere != 0:
		return true
	case last == "token":
		return beforeIs&noCredential == 0
	default:
		return lastIs&atEnd != 0 || lastIs&endsPair != 0 && endingPairs[[2]string{before, last}]
	}
}

// cutWord cuts the first word off a name.
func cutWord(name string) (w, rest string) {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return name[:i], name[i+1:]
		}
	}
	return name, ""
}

// neverOpen are the fields that no resource can let pass: they hold the agent's own credential, or could.
var neverOpen = set("authorization", "proxy-authorization", "cookie", "cookie2", "dpop",
	"x-access-token", "x-forwarded-access-token", "x-auth-request-access-token") // the last three: see identity.Credential

// CheckOpened says why a name cannot be in [Options.Identity], or returns nil.
func CheckOpened(name string) error {
	switch {
	case !isFieldName(name) || strings.ContainsAny(name, ":_*"):
		return fmt.Errorf("is %q: write the name of a header field", name)
	case name == "cookie":
		return fmt.Errorf("is %q: say cookies: pass, or cookies: session", name)
	case neverOpen[name] || ours(name):
		return fmt.Errorf("is %q, which never reaches a target", name)
	case !Identity(name):
		return fmt.Errorf("is %q, which is not taken for an identity: it passes without being named here", name)
	}
	return nil
}

// ours reports whether a field is addressed to this gateway.
func ours(name string) bool {
	return strings.HasPrefix(name, "countersign-") || strings.HasPrefix(name, "x-countersign-")
}
