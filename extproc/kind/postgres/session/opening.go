package session

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/lane"
)

// The types of the records of a session.
const (
	RecordOpened  = "session.opened"
	RecordRefused = "session.refused"
	RecordClosed  = "session.closed"
)

// opening is a connection on its way to a session.
type opening struct {
	server  *Server
	header  header
	conn    net.Conn // as it was accepted
	client  *client
	shown   Shown    // the connection, where Envoy shows both of its ends; nil elsewhere
	session *session // once it has begun
}

// open takes the client from its first byte to where it can send statements. An error that is a *failure is told to the client.
// Nothing goes to the target before the record that the session begins is durable.
func (o *opening) open(ctx context.Context, st *lane.State) error {
	resource, t := targetOf(st, o.header.resource)
	if t == nil || o.header.fingerprint != t.Fingerprint {
		return errors.New("the gateway has no such resource, or Envoy carries out another configuration of it")
	}
	s, err := o.client.open(ctx, t)
	if err != nil {
		return err
	}
	if s.cancel != nil {
		o.server.cancelled(ctx, o.header.resource, s.cancel)
		return nil
	}
	if told := s.negotiation(); told != nil {
		if _, err := o.client.Write(told); err != nil {
			return err
		}
	}
	a, err := o.identify(ctx, st, t, s)
	if err != nil {
		return err
	}
	o.server.known(o.conn)
	one := &session{
		server: o.server, id: gate.NewID(a.Started), first: a, target: t, resource: resource.Name, role: s.user, database: s.database,
		peer: o.header.peer, minor: s.minor, client: o.client, status: 'I',
	}
	one.prepare()
	if f := s.unfit(); f != nil {
		return o.refuse(ctx, one, "parameter", f)
	}
	if !t.has(s.user, s.database) {
		return o.refuse(ctx, one, "role", (&failure{
			code: codeUnidentified, message: fmt.Sprintf("role %.64q and database %.64q are not to be had here", s.user, s.database), hint: "Ask whoever runs the gateway which are.",
		}).ended())
	}
	if !o.server.join(one, t.Limits.Sessions) {
		return o.refuse(ctx, one, "limit", (&failure{code: codeTooManySession, message: fmt.Sprintf("this resource has %d sessions, and takes no more", t.Limits.Sessions), hint: "Close a session, or try again later."}).ended())
	}
	if err := o.connect(ctx, one, s); err != nil {
		o.server.part(one)
		return err
	}
	o.session = one
	return nil
}

// identify verifies the agent's token.
func (o *opening) identify(ctx context.Context, st *lane.State, t *Target, s *startup) (*lane.Attempt, error) {
	ask, how := o.client.password, "as the password"
	if t.OAuth != nil {
		ask, how = o.client.bearer, "by "+oauthBearer
	}
	token, err := ask()
	if err != nil {
		return nil, err
	}
	a := o.server.lane.Attempt(st, Protocol, o.header.resource, gate.Context{Peer: o.header.peer})
	a.Op.Context.RequestID = a.Op.ID
	var fault *identity.Refusal
	if token == "" {
		fault = &identity.Refusal{Reason: identity.Missing, Detail: "there is no token: it is given " + how}
	}
	if !a.Identify(ctx, token, fault, func() (string, string) { return "CONNECT", s.user + "@" + s.database }) {
		if t.OAuth != nil && a.Refusal().Problem == gate.Unauthenticated {
			if err := o.client.refuseBearer(t.OAuth); err != nil {
				return nil, err
			}
		}
		return nil, refused(a.Refusal(), a.Op.ID).ended()
	}
	return a, nil
}

// refuse records that a known agent gets no session.
func (o *opening) refuse(ctx context.Context, one *session, reason string, f *failure) error {
	body := append(one.about(), gate.Member{Name: "detail", Value: gate.Recorded(f.message, gate.MaxRecorded)}, gate.Member{Name: "reason", Value: reason})
	body, err := gate.MakeObject(body...)
	if err == nil {
		err = o.server.record(ctx, one.first.State, RecordRefused, body)
	}
	if err != nil {
		o.server.lane.Log.Error("that a session was refused could not be recorded", "error", err)
	}
	f.detail = strings.TrimSpace(f.detail + " (request " + one.first.Op.ID + ")")
	return f
}

// connect records that the session begins, logs in to the target, and tells the client what it was told.
func (o *opening) connect(ctx context.Context, one *session, s *startup) error {
	unavailable := func(err error) *failure {
		o.server.lane.Log.Warn("a session could not be connected", "resource", one.resource, "role", one.role, "database", one.database, "error", err)
		return &failure{
			fatal: true, code: codeUnavailable, message: "the database cannot be reached through the gateway",
			detail: "(request " + one.first.Op.ID + ")", hint: "Try again later; whoever runs the gateway finds the reason in its log.",
		}
	}
	if err := one.opened(ctx, s); err != nil {
		f := unavailable(err)
		f.message = "the gateway could not record that the session begins, so it does not"
		return f
	}
	by := route{peer: one.peer, session: one.id}
	if o.shown != nil {
		o.shown.OfSession(one.id, one.account())
		by.shown = o.shown.Target()
	}
	parameters := maps.Clone(s.parameters)
	maps.DeleteFunc(parameters, func(name, _ string) bool {
		return strings.EqualFold(name, "application_name") || strings.EqualFold(name, "client_encoding")
	})
	parameters["client_encoding"] = "UTF8"
	parameters["application_name"] = applicationName(s.applicationName(), one.id)
	up, err := login(ctx, one.target, by, one.role, one.database, parameters)
	var said *serverError
	if errors.As(err, &said) && strings.HasPrefix(said.code, dataException) { // what the client asked for
		one.closed(ctx, "the target does not take a startup parameter")
		return &failure{
			fatal: true, code: said.code, message: said.message, detail: "The database does not take a startup parameter. (request " + one.first.Op.ID + ")",
			hint: "Change the parameter's value, or leave it out.",
		}
	}
	if err == nil {
		one.up = up
		if err = one.firstState(ctx, up); err != nil {
			_ = up.Close()
		}
	}
	if err != nil {
		one.closed(ctx, "the target could not be reached")
		return unavailable(err)
	}
	if _, err := o.client.Write(one.welcome()); err != nil {
		_ = up.Close()
		one.closed(ctx, "the client left")
		return err
	}
	_ = o.client.SetDeadline(time.Time{})
	return nil
}

// dataException begins the SQLSTATEs of values that PostgreSQL does not take.
const dataException = "22"

// account is what the session's connection has of the memory, for what has come by it and is not read yet.
func (s *session) account() func(bytes int64) bool {
	a := s.server.lane.Attempt(s.first.State, Protocol, s.resource, gate.Context{})
	a.Follow(s.first)
	a.Admit()
	return a.Share.Set
}

func (s *startup) applicationName() string {
	for name, value := range s.parameters {
		if strings.EqualFold(name, "application_name") {
			return value
		}
	}
	return ""
}

// maxApplicationName is what PostgreSQL keeps of one: NAMEDATALEN, less its NUL.
const maxApplicationName = 63

// applicationName is what the target calls the session: the client's own name, as much as there is room for, and the session's id,
// by which the target's log can be held against the records.
func applicationName(client, id string) string {
	end := nameOf(id)
	client = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, client)
	if room := maxApplicationName - len(end) - 1; len(client) > room {
		client = client[:room]
	}
	return strings.TrimSpace(client + " " + end)
}

// nameOf is how a session is called at the target, at the end of its name.
func nameOf(id string) string { return "countersign/" + id }

// welcome is what the client is told once it is let in. The key to cancel by is the gateway's own.
func (s *session) welcome() []byte {
	b := appendMessage(nil, 'R', []byte{0, 0, 0, 0})
	for _, p := range s.up.statuses {
		b = appendMessage(b, 'S', cstring(p.name), cstring(p.value))
	}
	b = appendMessage(b, 'K', binary.BigEndian.AppendUint32(nil, s.key.pid), s.key.secret)
	return appendMessage(b, 'Z', []byte{'I'})
}

// about is what the records of the session say of it.
func (s *session) about() []gate.Member {
	p := s.first.Op.Principal
	return []gate.Member{
		{Name: "database", Value: gate.Recorded(s.database, gate.MaxClaimed)},
		{Name: "issuer", Value: gate.Recorded(p.Issuer, gate.MaxClaimed)},
		{Name: "peer", Value: s.peer},
		{Name: "protocol", Value: Protocol},
		{Name: "request_id", Value: s.first.Op.ID},
		{Name: "resource", Value: s.resource},
		{Name: "role", Value: gate.Recorded(s.role, gate.MaxClaimed)},
		{Name: "session", Value: s.id},
		{Name: "subject", Value: gate.Recorded(p.Subject, gate.MaxClaimed)},
		{Name: "token_id", Value: gate.Recorded(p.Verified.TokenID, gate.MaxClaimed)},
	}
}

// opened records that the session begins.
func (s *session) opened(ctx context.Context, from *startup) error {
	encryption := ""
	if c := s.client.tls; c != nil {
		encryption = tls.VersionName(c.Version)
	}
	body, err := gate.MakeObject(append(s.about(),
		gate.Member{Name: "application_name", Value: gate.Recorded(from.applicationName(), gate.MaxClaimed)},
		gate.Member{Name: "config_digest", Value: s.first.State.Gate.ConfigDigest},
		gate.Member{Name: "encryption", Value: encryption},
		gate.Member{Name: "version", Value: fmt.Sprintf("3.%d", s.minor)},
	)...)
	if err != nil {
		return err
	}
	return s.server.record(ctx, s.first.State, RecordOpened, body)
}

// closed records how the session ended.
func (s *session) closed(ctx context.Context, why string) {
	body, err := gate.MakeObject(append(s.about(),
		gate.Member{Name: "bytes_in", Value: s.count.in.Load()},
		gate.Member{Name: "bytes_out", Value: s.count.out.Load()},
		gate.Member{Name: "duration", Value: s.server.lane.Now().Sub(s.first.Started).Seconds()},
		gate.Member{Name: "reason", Value: gate.Recorded(why, gate.MaxRecorded)},
		gate.Member{Name: "refused", Value: s.count.refused.Load()},
		gate.Member{Name: "rows", Value: s.count.rows.Load()},
		gate.Member{Name: "statements", Value: s.count.statements.Load()},
	)...)
	if err == nil {
		err = s.server.record(ctx, s.first.State, RecordClosed, body)
	}
	if err != nil {
		s.server.lane.Log.Error("the end of a session could not be recorded", "session", s.id, "error", err)
	}
}
