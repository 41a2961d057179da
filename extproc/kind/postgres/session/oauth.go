package session

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
)

// OAuth says where agents get their tokens, for those who give them by SASL OAUTHBEARER (RFC 7628) and not as a password.
type OAuth struct {
	Discovery string // the URL of the issuer's metadata (OpenID Connect Discovery 1.0, section 4)
	Scope     string // what to ask for there (RFC 6749, section 3.3); may be empty
}

const oauthBearer = "OAUTHBEARER"

// The bytes and words of the mechanism.
const (
	separator    = "\x01"          // between its members; alone it is the client's answer to a refusal (RFC 7628, section 3.2.3)
	invalidToken = "invalid_token" // RFC 6750, section 3.1: libpq asks the issuer for a token after this one alone
)

// bearer asks for the agent's token by OAUTHBEARER, as PostgreSQL 18 does. A client that has none yet sends an empty one, to
// be told where to get it.
func (c *client) bearer() (string, error) {
	if _, err := c.Write(appendMessage(nil, 'R', []byte{0, 0, 0, 10}, cstring(oauthBearer), []byte{0})); err != nil { // AuthenticationSASL
		return "", err
	}
	body, err := c.answer()
	if err != nil {
		return "", err
	}
	mechanism, rest, ok := cutCstring(body)
	if !ok || len(rest) < 4 {
		return "", unreadBearer("the answer ends early")
	}
	if mechanism != oauthBearer {
		return "", &failure{fatal: true, code: codeProtocol, message: fmt.Sprintf("the mechanism %.64q is not spoken here", mechanism), hint: "Use " + oauthBearer + "."}
	}
	size, first := binary.BigEndian.Uint32(rest), rest[4:]
	switch {
	case size == 0xFFFFFFFF && len(first) == 0: // it wants to be asked (RFC 4422, section 5)
		if _, err := c.Write(appendMessage(nil, 'R', []byte{0, 0, 0, 11})); err != nil {
			return "", err
		}
		if first, err = c.answer(); err != nil {
			return "", err
		}
	case uint64(size) != uint64(len(first)):
		return "", unreadBearer("its length is another")
	}
	token, f := readBearer(string(first))
	if f != nil {
		return "", f
	}
	return token, nil
}

// readBearer reads the client's message (RFC 7628, section 3.1): the token, empty where the client has none. What is wrong
// with the message is told without a word of it: there can be a token in it.
func readBearer(text string) (token string, f *failure) {
	flag, rest, ok := strings.Cut(text, ",")
	identity, rest, more := strings.Cut(rest, ",")
	switch { // the header of RFC 5801, section 4
	case !ok || !more:
		return "", unreadBearer("it has no header")
	case flag != "n" && flag != "y":
		return "", unreadBearer("the mechanism binds to no channel")
	case identity != "":
		return "", unreadBearer("nobody can act as somebody else")
	}
	rest, ok = strings.CutPrefix(rest, separator)
	inner, closed := strings.CutSuffix(rest, separator)
	if !ok || !closed {
		return "", unreadBearer("it does not end")
	}
	found := false
	for inner != "" {
		pair, after, ended := strings.Cut(inner, separator)
		name, value, valued := strings.Cut(pair, "=")
		if !ended || !valued || name == "" || strings.ContainsFunc(name, func(r rune) bool { return r|0x20 < 'a' || r|0x20 > 'z' }) {
			return "", unreadBearer("a member of it has no name or no end")
		}
		inner = after
		if name != "auth" {
			continue // host and port, and what may come (section 3.1)
		}
		if found {
			return "", unreadBearer("it has two tokens")
		}
		found = true
		if value == "" {
			continue // it asks where to get one (section 4.3)
		}
		scheme, credential, _ := strings.Cut(value, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return "", unreadBearer("the token is no Bearer token")
		}
		token = strings.TrimLeft(credential, " ")
	}
	if !found {
		return "", unreadBearer("it has no member auth")
	}
	return token, nil
}

func unreadBearer(why string) *failure {
	return &failure{fatal: true, code: codeProtocol, message: "the message of " + oauthBearer + " cannot be read: " + why}
}

// refuseBearer tells a client whose token was refused where it gets another (section 3.2.2), and waits until it has heard that:
// the exchange ends with an error then.
func (c *client) refuseBearer(o *OAuth) error {
	told, err := json.Marshal(struct {
		Status string `json:"status"`
		Where  string `json:"openid-configuration"`
		Scope  string `json:"scope,omitempty"`
	}{invalidToken, o.Discovery, o.Scope})
	if err != nil {
		return err
	}
	if _, err := c.Write(appendMessage(nil, 'R', []byte{0, 0, 0, 11}, told)); err != nil { // AuthenticationSASLContinue
		return err
	}
	heard, err := c.answer()
	if err == nil && !bytes.Equal(heard, []byte(separator)) {
		return unreadBearer("what follows a refusal is one byte")
	}
	return err
}
