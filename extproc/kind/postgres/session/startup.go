package session

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"unicode/utf8"
)

// What a client can say first (PostgreSQL's documentation, section 55.7): a protocol version, or one of these codes in its place.
const (
	cancelCode = 80877102
	tlsCode    = 80877103
	gssCode    = 80877104
)

const (
	maxStartup  = 10_000 // bytes: the server's own MAX_STARTUP_PACKET_LENGTH
	maxToken    = 64 << 10
	newestMinor = 2 // of protocol 3
)

// startup is what a client has said before its credential.
type startup struct {
	asked      uint16            // minor version of protocol 3 that was asked for
	minor      uint16            // the one that both know
	parameters map[string]string // but for user, database and options of the protocol
	user       string
	database   string
	unknown    []string // options of the protocol that nobody here knows

	cancel *cancelKey // it wants nothing but to cancel what another connection does
}

type cancelKey struct {
	pid    uint32
	secret []byte
}

// client is the agent's end.
type client struct {
	net.Conn
	in  *bufio.Reader
	tls *tls.ConnectionState // nil for a plain connection
}

// open takes the client from its first byte to its startup packet: TLS as it is asked for, or from the first byte, and GSS not at all.
// A failure is to be told to the client.
func (c *client) open(ctx context.Context, t *Target) (*startup, error) {
	c.in = bufio.NewReaderSize(c.Conn, readSize)
	if first, err := c.in.Peek(1); err != nil {
		return nil, err
	} else if first[0] == 0x16 { // a TLS handshake
		if t.Certificate == "" {
			return nil, errors.New("the client begins with TLS, and the listener has none")
		}
		if err := c.handshake(ctx, t); err != nil {
			return nil, err
		}
		if c.tls.NegotiatedProtocol != alpn {
			return nil, fmt.Errorf("the client begins with TLS and does not ask for %q by ALPN", alpn)
		}
	}
	asked := map[uint32]bool{}
	for {
		code, body, err := readStartup(c.in)
		if err != nil {
			return nil, err
		}
		switch {
		case (code == tlsCode || code == gssCode) && (asked[code] || len(body) != 0):
			return nil, &failure{fatal: true, code: codeProtocol, message: "encryption was asked for twice"}
		case code == tlsCode && c.tls == nil && t.Certificate != "":
			asked[code] = true
			if c.in.Buffered() > 0 { // in the clear, and would be taken for what came encrypted (CVE-2021-23222)
				return nil, errors.New("the client sent data between its request for TLS and the answer")
			}
			if _, err := c.Write([]byte{'S'}); err != nil {
				return nil, err
			}
			if err := c.handshake(ctx, t); err != nil {
				return nil, err
			}
		case code == tlsCode || code == gssCode:
			asked[code] = true
			if _, err := c.Write([]byte{'N'}); err != nil {
				return nil, err
			}
		case code == cancelCode:
			if len(body) < 8 || len(body) > 4+256 {
				return nil, errors.New("a request to cancel has no key")
			}
			return &startup{cancel: &cancelKey{binary.BigEndian.Uint32(body), bytes.Clone(body[4:])}}, nil
		case code>>16 == 3:
			if c.tls == nil && (t.Certificate != "" || t.OAuth != nil) {
				return nil, &failure{fatal: true, code: codeUnidentified, message: "connections without TLS are not accepted", hint: "Connect with sslmode=require, or better verify-full."}
			}
			return readParameters(uint16(code), body)
		default:
			return nil, &failure{fatal: true, code: codeUnsupported, message: fmt.Sprintf("protocol %d.%d is not known here", code>>16, code&0xFFFF), hint: "Protocol 3.0 to 3.2 is spoken."}
		}
	}
}

// handshake begins TLS. What has been read of the connection by then is the handshake's.
func (c *client) handshake(ctx context.Context, t *Target) error {
	conf, err := t.listenTLS()
	if err != nil {
		return err
	}
	inner := tls.Server(&readFirst{c.Conn, c.in}, conf)
	if err := inner.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("the client's TLS: %w", err)
	}
	state := inner.ConnectionState()
	c.Conn, c.tls = inner, &state
	c.in = bufio.NewReaderSize(inner, readSize)
	return nil
}

// readFirst is a connection of which something has been read ahead.
type readFirst struct {
	net.Conn
	ahead *bufio.Reader
}

// Read reads what is ahead first.
func (r *readFirst) Read(b []byte) (int, error) {
	if r.ahead == nil {
		return r.Conn.Read(b)
	}
	n := r.ahead.Buffered()
	if n == 0 {
		r.ahead = nil
		return r.Conn.Read(b)
	}
	return r.ahead.Read(b[:min(n, len(b))])
}

// readStartup reads a packet that has a length and no type: the code that it begins with, and the rest.
func readStartup(r io.Reader) (code uint32, body []byte, err error) {
	var first [8]byte
	if _, err := io.ReadFull(r, first[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(first[:])
	if n < 8 || n > maxStartup {
		return 0, nil, fmt.Errorf("%w: the first one has %d bytes", errLength, n)
	}
	body = make([]byte, n-8)
	_, err = io.ReadFull(r, body)
	return binary.BigEndian.Uint32(first[4:]), body, err
}

// passed are the parameters that go on to the target. Others are refused by their names.
var passed = []string{"application_name", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "extra_float_digits", "search_path"}

// readParameters reads a startup message.
func readParameters(minor uint16, body []byte) (*startup, error) {
	s := &startup{asked: minor, minor: min(minor, newestMinor), parameters: map[string]string{}}
	malformed := &failure{fatal: true, code: codeProtocol, message: "the startup message cannot be read"}
	for {
		name, rest, ok := cutCstring(body)
		if !ok {
			return nil, malformed
		}
		if name == "" {
			if len(rest) != 0 {
				return nil, malformed
			}
			break
		}
		value, after, ok := cutCstring(rest)
		if _, twice := s.parameters[name]; !ok || twice {
			return nil, malformed
		}
		body = after
		if !utf8.ValidString(name) || !utf8.ValidString(value) { // policy would see another text than the server
			return nil, &failure{fatal: true, code: codeProtocol, message: fmt.Sprintf("the startup parameter %.64q is not UTF-8", name)}
		}
		if strings.HasPrefix(name, "_pq_.") {
			s.unknown = append(s.unknown, name)
			continue
		}
		s.parameters[name] = value
	}
	s.user, s.database = s.parameters["user"], s.parameters["database"]
	if s.user == "" {
		return nil, &failure{fatal: true, code: codeUnidentified, message: "no user was named"}
	}
	if s.database == "" {
		s.database = s.user
	}
	delete(s.parameters, "user")
	delete(s.parameters, "database")
	return s, nil
}

// unfit says which parameter does not pass; nil where all do.
func (s *startup) unfit() *failure {
	for name, value := range s.parameters {
		known := slices.ContainsFunc(passed, func(p string) bool { return strings.EqualFold(p, name) })
		switch {
		case !known:
			return &failure{fatal: true, code: codeDenied, message: fmt.Sprintf("the startup parameter %.64q is not passed on", name), hint: "Leave it out. These pass: " + strings.Join(passed, ", ") + "."}
		case strings.EqualFold(name, "client_encoding") && !utf8Named(value):
			return &failure{fatal: true, code: codeDenied, message: fmt.Sprintf("client_encoding %.64q is not passed on", value), hint: "Use UTF8."}
		}
	}
	return nil
}

// utf8Named reports whether PostgreSQL calls UTF-8 by that name: it looks at letters and digits only.
func utf8Named(name string) bool {
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(name))
	return plain == "utf8" || plain == "unicode"
}

// negotiation tells a client of what it has asked for and nobody here knows; nil where there is no such thing.
func (s *startup) negotiation() []byte {
	if s.asked <= newestMinor && len(s.unknown) == 0 {
		return nil
	}
	body := binary.BigEndian.AppendUint32(nil, 3<<16|uint32(s.minor))
	body = binary.BigEndian.AppendUint32(body, uint32(len(s.unknown)))
	for _, name := range s.unknown {
		body = append(body, cstring(name)...)
	}
	return appendMessage(nil, 'v', body)
}

// password asks for the agent's token, as a password.
func (c *client) password() (string, error) {
	if _, err := c.Write(appendMessage(nil, 'R', []byte{0, 0, 0, 3})); err != nil { // AuthenticationCleartextPassword
		return "", err
	}
	body, err := c.answer()
	if err != nil {
		return "", err
	}
	token, ok := oneCstring(body)
	if !ok {
		return "", &failure{fatal: true, code: codeProtocol, message: "the password cannot be read"}
	}
	return token, nil
}

// answer is what the client says when it is asked who it is.
func (c *client) answer() ([]byte, error) {
	h, err := readHead(c.in, maxToken)
	if err != nil {
		return nil, err
	}
	if h.kind != 'p' {
		return nil, &failure{fatal: true, code: codeProtocol, message: fmt.Sprintf("a message of type %q came in the place of a password", h.kind)}
	}
	b, err := readBody(c.in, h, nil)
	return b[min(headSize, len(b)):], err
}
