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
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/keyfile"
)

// readSize is how much of a connection is read at once.
const readSize = 16 << 10

const (
	loginTime   = 20 * time.Second
	maxLogin    = 64 << 10 // bytes of one message of the target's while we log in
	maxStatuses = 100      // parameters that it may report then
)

// server is the target's end, logged in.
type server struct {
	net.Conn
	in       *bufio.Reader
	statuses []status // in the order in which they came
	key      cancelKey
}

type status struct{ name, value string }

// serverError is an ErrorResponse of the target's, in the few words that are told to nobody but whoever runs the gateway.
type serverError struct{ code, message string }

func (e *serverError) Error() string { return fmt.Sprintf("the server says %s: %s", e.code, e.message) }

// login connects to the target as a role.
func login(ctx context.Context, t *Target, by route, role, database string, parameters map[string]string) (s *server, err error) {
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	credential := t.Roles[role]
	conn, err := dial(ctx, t, by, credential)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, guard.Func("a login", func() { _ = conn.SetDeadline(time.Unix(1, 0)) }))
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			_ = conn.Close()
			s = nil
		}
	}()
	s = &server{Conn: conn, in: bufio.NewReaderSize(conn, readSize)}
	body := binary.BigEndian.AppendUint32(nil, 3<<16)
	body = append(append(body, "user\x00"...), cstring(role)...)
	body = append(append(body, "database\x00"...), cstring(database)...)
	for name, value := range parameters {
		body = append(append(body, cstring(name)...), cstring(value)...)
	}
	if err := s.startup(append(body, 0)); err != nil {
		return nil, err
	}
	if err := s.authenticate(credential); err != nil {
		return nil, err
	}
	return s, s.ready()
}

// dial connects to the target, with TLS wherever that is configured.
func dial(ctx context.Context, t *Target, by route, c Credential) (net.Conn, error) {
	raw, err := t.connect(ctx, by)
	if err != nil || t.TLS == nil {
		return raw, err
	}
	conn, err := encrypt(ctx, raw, t, c)
	if err != nil {
		_ = raw.Close()
	}
	return conn, err
}

func encrypt(ctx context.Context, raw net.Conn, t *Target, c Credential) (net.Conn, error) {
	conf, err := t.targetTLS(c)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = raw.SetDeadline(deadline)
	if _, err := raw.Write(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, tlsCode)); err != nil {
		return nil, err
	}
	var answer [1]byte
	if _, err := io.ReadFull(raw, answer[:]); err != nil {
		return nil, err
	}
	if answer[0] != 'S' {
		return nil, errors.New("the server does not speak TLS")
	}
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("the server's TLS: %w", err)
	}
	_ = raw.SetDeadline(time.Time{})
	return conn, nil
}

// startup writes a packet without a type.
func (s *server) startup(body []byte) error {
	_, err := s.Write(append(binary.BigEndian.AppendUint32(nil, uint32(4+len(body))), body...))
	return err
}

// next reads a message, less notices. An ErrorResponse is an error.
func (s *server) next() (kind byte, body []byte, err error) {
	for {
		h, err := readHead(s.in, maxLogin)
		if err != nil {
			return 0, nil, unexpected(err)
		}
		b, err := readBody(s.in, h, nil)
		if err != nil {
			return 0, nil, err
		}
		switch h.kind {
		case 'N':
		case 'E':
			code, message := errorFields(b[headSize:])
			return 0, nil, &serverError{code, message}
		default:
			return h.kind, b[headSize:], nil
		}
	}
}

// errorFields are the SQLSTATE and the message of an ErrorResponse.
func errorFields(body []byte) (code, message string) {
	for len(body) > 1 {
		value, rest, ok := cutCstring(body[1:])
		if !ok {
			break
		}
		switch body[0] {
		case 'C':
			code = value
		case 'M':
			message = value
		}
		body = rest
	}
	return code, message
}

// authenticate proves who we are, and has the server prove that it knows the same wherever the method can.
func (s *server) authenticate(c Credential) error {
	var exchange *scram
	for {
		kind, body, err := s.next()
		if err != nil {
			return err
		}
		if kind != 'R' || len(body) < 4 {
			return fmt.Errorf("the server sent a message of type %q before it has let us in", kind)
		}
		method, body := binary.BigEndian.Uint32(body), body[4:]
		var answer []byte
		switch method {
		case 0: // AuthenticationOk
			if exchange != nil && exchange.auth != verified {
				return errors.New("the server let us in without proving that it knows the password")
			}
			return nil
		case 3, 5: // cleartext, MD5
			if answer, err = s.plainPassword(c, method); err != nil {
				return err
			}
			answer = append(answer, 0)
		case 10: // SASL
			if exchange, answer, err = s.beginScram(c, body); err != nil {
				return err
			}
		case 11: // SASLContinue
			if exchange == nil {
				return errors.New("the server goes on with what was not begun")
			}
			if answer, err = exchange.clientFinal(body); err != nil {
				return err
			}
		case 12: // SASLFinal
			if exchange == nil {
				return errors.New("the server ends what was not begun")
			}
			if err := exchange.verify(body); err != nil {
				return err
			}
			exchange.auth = verified
			continue
		default:
			return fmt.Errorf("the server asks for authentication method %d, which is not known here", method)
		}
		if _, err := s.Write(appendMessage(nil, 'p', answer)); err != nil {
			return err
		}
	}
}

// verified stands in the place of an exchange's messages once the server has proved itself.
const verified = "verified"

func (s *server) state() *tls.ConnectionState {
	if c, ok := s.Conn.(*tls.Conn); ok {
		state := c.ConnectionState()
		return &state
	}
	return nil
}

// password reads the role's. It is read for each session, so that a new one needs no reload.
func (c Credential) password() (string, error) {
	if c.PasswordFile == "" {
		return "", errors.New("the server asks for a password, and the role has none: set password_file")
	}
	return keyfile.Secret(c.PasswordFile)
}

// plainPassword answers a server that asks for the password itself, or for what is as good as that to whoever hears it.
func (s *server) plainPassword(c Credential, method uint32) ([]byte, error) {
	if s.state() == nil {
		return nil, errors.New("the server asks for the password in the clear: have it ask by scram-sha-256, or set target_tls")
	}
	if method != 3 {
		return nil, errors.New("the server asks for the password by MD5: have it ask by scram-sha-256")
	}
	password, err := c.password()
	return []byte(password), err
}

func (s *server) beginScram(c Credential, body []byte) (*scram, []byte, error) {
	password, err := c.password()
	if err != nil {
		return nil, nil, err
	}
	offered := strings.Split(string(bytes.TrimRight(body, "\x00")), "\x00")
	exchange, err := newScram(offered, password, s.state())
	if err != nil {
		return nil, nil, err
	}
	first := exchange.clientFirst()
	answer := cstring(exchange.mechanism)
	answer = binary.BigEndian.AppendUint32(answer, uint32(len(first)))
	return exchange, append(answer, first...), nil
}

// ready reads what the server reports until it waits for a statement.
func (s *server) ready() error {
	for {
		kind, body, err := s.next()
		if err != nil {
			return err
		}
		switch kind {
		case 'S':
			name, rest, ok := cutCstring(body)
			value, _, valued := cutCstring(rest)
			if !ok || !valued || len(s.statuses) == maxStatuses {
				return errors.New("the server's parameters cannot be read")
			}
			s.statuses = append(s.statuses, status{name, value})
		case 'K':
			if len(body) < 8 || len(body) > 4+256 {
				return errors.New("the server's key to cancel by cannot be read")
			}
			s.key = cancelKey{binary.BigEndian.Uint32(body), bytes.Clone(body[4:])}
		case 'Z':
			return nil
		default:
			return fmt.Errorf("the server sent a message of type %q before it was ready", kind)
		}
	}
}

// cancel asks the target to cancel what a session does. It does not say whether there was anything.
func cancel(ctx context.Context, t *Target, by route, c Credential, key cancelKey) error {
	ctx, done := context.WithTimeout(ctx, loginTime)
	defer done()
	conn, err := dial(ctx, t, by, c)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(loginTime))
	body := binary.BigEndian.AppendUint32(nil, cancelCode)
	body = append(binary.BigEndian.AppendUint32(body, key.pid), key.secret...)
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(4+len(body))), body...)); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(conn, 1<<10)) // until the server has closed it: it has signalled by then
	return err
}
