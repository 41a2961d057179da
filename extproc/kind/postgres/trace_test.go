package postgres_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestTraces plays conversations of the wire protocol, message by message, and holds what is answered, and what the server gets of it, to the
// files of testdata/traces; go test -update writes them. A file is read from the top:
//
//	# TEXT    what it shows
//	> MESSAGE what the agent sends; those up to one that is answered at once go together
//	< MESSAGE what it is answered
//	= MESSAGE what the server gets, less the gateway's own questions
//	!         a person approves what is asked
//	^         the agent asks, by another connection, for what it does to be cancelled
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/traces/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	tables, err := os.ReadFile("testdata/clients/world.sql")
	if err != nil {
		t.Fatal(err)
	}
	rego, err := os.ReadFile("testdata/clients/policy.rego")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{tb: t, authority: extproctest.NewAuthority(t)}
	w.postgres = extproctest.StartPostgres(t, extproctest.PostgresConfig{Bin: extproctest.Postgres18(t), Lines: []string{"timezone = 'UTC'"}, SQL: "CREATE ROLE app LOGIN PASSWORD 'correct horse'; CREATE DATABASE orders OWNER app;"})
	w.postgres.SQL("orders", "SET ROLE app;"+string(tables))
	tapped := startTap(t, w.postgres.Address)
	kind := w.kind()
	kind.Resource = func(g *story.Gateway) string {
		server := w.authority.Issue("gateway.test")
		g.Write("secrets/app", "correct horse\n")
		return fmt.Sprintf("kind: postgres\nlisten: {address: %q, tls: {certificate_file: %q, key_file: %q}}\ntarget: \"postgres://%s\"\nroles: {app: {password_file: ./secrets/app}}\n", g.Address, server.CertFile, server.KeyFile, tapped.address)
	}
	g := story.Start(t, &txtar.Archive{Files: []txtar.File{
		{Name: "policy.rego", Data: rego},
		{Name: "config.yaml", Data: []byte("people: {issuer: \"${ISSUER}\", client_id: countersign-console}\napprovals: {hold: 60s}\n")},
	}}, story.Options{Kind: kind})
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tr := &trace{t: t, gateway: g, world: w, tap: tapped}
			defer tr.close()
			tr.play(string(text))
			if *update {
				if err := os.WriteFile(file, []byte(tr.out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(strings.Split(string(text), "\n"), strings.Split(tr.out.String(), "\n")); diff != "" {
				t.Errorf("%s (-) and what was said (+):\n%s", file, diff)
			}
		})
	}
}

// trace is a conversation.
type trace struct {
	t       *testing.T
	gateway *story.Gateway
	world   *world
	tap     *tap
	conn    net.Conn
	agent   *pgproto3.Frontend
	key     *pgproto3.BackendKeyData
	out     strings.Builder
}

func (tr *trace) play(text string) {
	tr.t.Helper()
	if !strings.Contains(text, "> StartupMessage") {
		tr.connect()
		tr.begin(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "app", "database": "orders"}})
		tr.out.Reset()
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for _, line := range lines {
		mark, rest, _ := strings.Cut(line, " ")
		switch mark {
		case "#", "":
			fmt.Fprintln(&tr.out, line)
		case ">":
			fmt.Fprintln(&tr.out, line)
			if tr.say(rest) {
				tr.hear()
			}
		case "!":
			fmt.Fprintln(&tr.out, line)
			tr.approve()
			tr.hear()
		case "^":
			fmt.Fprintln(&tr.out, line)
			tr.cancel()
			tr.hear()
		case "<", "=":
		default:
			tr.t.Fatalf("%q begins with no mark", line)
		}
	}
}

func (tr *trace) close() {
	if tr.conn != nil {
		_ = tr.conn.Close()
	}
}

// dial connects to Envoy, and begins TLS as an agent does.
func (tr *trace) dial() net.Conn {
	tr.t.Helper()
	c, err := net.Dial("tcp", tr.gateway.Address)
	if err != nil {
		tr.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(90 * time.Second))
	var said [1]byte
	if _, err = c.Write([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}); err == nil {
		_, err = io.ReadFull(c, said[:])
	}
	if err != nil || said[0] != 'S' {
		tr.t.Fatalf("asked for TLS and was told %q, %v", said, err)
	}
	return tls.Client(c, &tls.Config{RootCAs: tr.world.authority.Pool, ServerName: "gateway.test", MinVersion: tls.VersionTLS12})
}

func (tr *trace) connect() {
	tr.t.Helper()
	tr.conn = tr.dial()
	tr.agent = pgproto3.NewFrontend(tr.conn, tr.conn)
}

// begin logs in.
func (tr *trace) begin(m *pgproto3.StartupMessage) {
	tr.t.Helper()
	token, err := tr.gateway.Issuer.AgentToken(tr.t.Context(), "agent-1")
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.agent.Send(m)
	if err := tr.agent.Flush(); err != nil {
		tr.t.Fatal(err)
	}
	tr.next()
	fmt.Fprintln(&tr.out, "> PasswordMessage (the token)")
	tr.agent.Send(&pgproto3.PasswordMessage{Password: token})
	tr.hear()
	tr.tap.got()
}

// say sends a message as a line has it, and reports whether the agent then waits for answers.
func (tr *trace) say(line string) bool {
	tr.t.Helper()
	name, rest, _ := strings.Cut(line, " ")
	words := strings.Fields(rest)
	none := func(word string) string { return strings.TrimPrefix(word, "-") }
	switch name {
	case "StartupMessage":
		m := &pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{}}
		for _, word := range words {
			key, value, _ := strings.Cut(word, "=")
			m.Parameters[key] = value
		}
		tr.connect()
		tr.begin(m)
		return false
	case "PasswordMessage":
		s := tr.out.String() // begin has said it
		tr.out.Reset()
		tr.out.WriteString(strings.TrimSuffix(s, "> "+line+"\n"))
		return false
	case "Query":
		tr.agent.Send(&pgproto3.Query{String: rest})
	case "Parse":
		statement, text, _ := strings.Cut(rest, " ")
		tr.agent.Send(&pgproto3.Parse{Name: none(statement), Query: text})
	case "Bind":
		m := &pgproto3.Bind{DestinationPortal: none(words[0]), PreparedStatement: none(words[1])}
		for i, word := range words[2:] {
			if word == "as" {
				for _, format := range words[i+3:] {
					n, _ := strconv.Atoi(format)
					m.ResultFormatCodes = append(m.ResultFormatCodes, int16(n))
				}
				break
			}
			value := []byte(word)
			binary := strings.HasPrefix(word, `\x`)
			if binary {
				value, _ = hex.DecodeString(word[2:])
			}
			m.Parameters = append(m.Parameters, value)
			m.ParameterFormatCodes = append(m.ParameterFormatCodes, map[bool]int16{true: 1}[binary])
		}
		tr.agent.Send(m)
	case "Describe":
		tr.agent.Send(&pgproto3.Describe{ObjectType: words[0][0], Name: none(words[1])})
	case "Close":
		tr.agent.Send(&pgproto3.Close{ObjectType: words[0][0], Name: none(words[1])})
	case "Execute":
		n, _ := strconv.Atoi(words[1])
		tr.agent.Send(&pgproto3.Execute{Portal: none(words[0]), MaxRows: uint32(n)})
	case "Sync":
		tr.agent.Send(&pgproto3.Sync{})
	case "Flush":
		tr.agent.Send(&pgproto3.Flush{})
	case "CopyData":
		tr.agent.Send(&pgproto3.CopyData{Data: []byte(rest + "\n")})
	case "CopyDone":
		tr.agent.Send(&pgproto3.CopyDone{})
	case "CopyFail":
		tr.agent.Send(&pgproto3.CopyFail{Message: rest})
	default:
		tr.t.Fatalf("no message is called %q", name)
	}
	return name == "Query" || name == "Sync" || name == "CopyDone" || name == "CopyFail"
}

// hear sends what was said, and takes the answers up to where the agent has the word again; then what the server got.
func (tr *trace) hear() {
	tr.t.Helper()
	if err := tr.agent.Flush(); err != nil {
		tr.t.Fatal(err)
	}
	for !tr.next() {
	}
	if tr.key == nil {
		return
	}
	for _, line := range tr.tap.got() {
		fmt.Fprintln(&tr.out, "= "+line)
	}
}

// session is what of what is said is another each time.
var sessions = regexp.MustCompile(`countersign/[0-9A-Za-z_-]+`)

// next takes one answer, and reports whether the agent has the word again.
func (tr *trace) next() bool {
	tr.t.Helper()
	m, err := tr.agent.Receive()
	if err != nil {
		tr.t.Fatalf("%v, after\n%s", err, tr.out.String())
	}
	fmt.Fprintln(&tr.out, strings.TrimRight("< "+sessions.ReplaceAllString(normal(said(m)), "countersign/$$SESSION"), " "))
	switch m := m.(type) {
	case *pgproto3.BackendKeyData:
		tr.key = &pgproto3.BackendKeyData{ProcessID: m.ProcessID, SecretKey: bytes.Clone(m.SecretKey)}
		tr.tap.reset() // what was before is the gateway's login
	case *pgproto3.ReadyForQuery, *pgproto3.CopyInResponse, *pgproto3.AuthenticationCleartextPassword:
		return true
	case *pgproto3.NoticeResponse:
		return m.Code == "CS001"
	}
	return false
}

// said is a message in one line.
func said(m pgproto3.BackendMessage) string {
	name := strings.TrimPrefix(fmt.Sprintf("%T", m), "*pgproto3.")
	var words []string
	values := func(list [][]byte) {
		for _, v := range list {
			if v == nil {
				words = append(words, "NULL")
			} else {
				words = append(words, strconv.Quote(string(v)))
			}
		}
	}
	problem := func(code, message, detail, hint string, position int32) {
		words = append(words, code, strconv.Quote(message))
		for _, f := range []struct{ name, value string }{{"detail", detail}, {"hint", hint}, {"position", strings.TrimPrefix(strconv.Itoa(int(position)), "0")}} {
			if f.value != "" {
				words = append(words, f.name, strconv.Quote(f.value))
			}
		}
	}
	switch m := m.(type) {
	case *pgproto3.RowDescription:
		for _, f := range m.Fields {
			words = append(words, fmt.Sprintf("%s:%d:%d", f.Name, f.DataTypeOID, f.Format))
		}
	case *pgproto3.DataRow:
		values(m.Values)
	case *pgproto3.CopyData:
		values([][]byte{m.Data})
	case *pgproto3.CommandComplete:
		words = append(words, string(m.CommandTag))
	case *pgproto3.ReadyForQuery:
		words = append(words, string(m.TxStatus))
	case *pgproto3.ErrorResponse:
		problem(m.Code, m.Message, m.Detail, m.Hint, m.Position)
	case *pgproto3.NoticeResponse:
		problem(m.Code, m.Message, m.Detail, m.Hint, m.Position)
	case *pgproto3.ParameterDescription:
		words = append(words, fmt.Sprint(m.ParameterOIDs))
	case *pgproto3.ParameterStatus:
		words = append(words, m.Name, strconv.Quote(m.Value))
	case *pgproto3.NotificationResponse:
		words = append(words, m.Channel, strconv.Quote(m.Payload))
	case *pgproto3.CopyInResponse:
		words = append(words, fmt.Sprint(m.OverallFormat, m.ColumnFormatCodes))
	case *pgproto3.CopyOutResponse:
		words = append(words, fmt.Sprint(m.OverallFormat, m.ColumnFormatCodes))
	case *pgproto3.BackendKeyData:
		words = append(words, fmt.Sprintf("(a key of %d bytes)", len(m.SecretKey)))
	}
	return strings.Join(append([]string{name}, words...), " ")
}

// cancel asks for what the session does to be cancelled.
func (tr *trace) cancel() {
	tr.t.Helper()
	c := tr.dial()
	defer func() { _ = c.Close() }()
	b, err := (&pgproto3.CancelRequest{ProcessID: tr.key.ProcessID, SecretKey: tr.key.SecretKey}).Encode(nil)
	if err == nil {
		_, err = c.Write(b)
	}
	if err != nil {
		tr.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, c)
}

// approve has bob approve what is asked.
func (tr *trace) approve() {
	tr.t.Helper()
	people := extproctest.DefaultPeople()
	bob := people[slices.IndexFunc(people, func(p extproctest.Person) bool { return p.Name == "bob" })]
	token := tr.gateway.People.Mint(extproctest.Mint{Type: "at+jwt", Claims: extproctest.Claims{
		"aud": "countersign-console", "client_id": "countersign-console", "amr": []string{"pwd"}, "sub": bob.Subject, "groups": bob.Groups, "email": bob.Email,
	}})
	ask := func(method, path, body string, into any) error {
		r, err := http.NewRequestWithContext(tr.t.Context(), method, "http://"+tr.gateway.Console+"/api/approvals"+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return json.NewDecoder(resp.Body).Decode(into)
	}
	var list struct {
		Approvals []struct {
			ID   string `json:"id"`
			Card string `json:"card_digest"`
		} `json:"approvals"`
	}
	extproctest.Await(tr.t, "a request is open", 30*time.Second, func(context.Context) error {
		if err := ask(http.MethodGet, "?state=pending", "", &list); err != nil || len(list.Approvals) != 1 {
			return fmt.Errorf("%d are: %w", len(list.Approvals), err)
		}
		return nil
	})
	if err := ask(http.MethodPost, "/"+list.Approvals[0].ID+"/decisions", `{"decision": "approve", "card": "`+list.Approvals[0].Card+`"}`, &struct{}{}); err != nil {
		tr.t.Fatal(err)
	}
}

// tap stands before a server, and keeps what the newest connection sends it.
type tap struct {
	address string
	mu      sync.Mutex
	newest  net.Conn
	sent    []byte
}

func startTap(t *testing.T, server string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tp := &tap{address: l.Addr().String()}
	var conns sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		conns.Wait()
	})
	conns.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { tp.pass(from, server) })
		}
	})
	return tp
}

func (tp *tap) pass(from net.Conn, server string) {
	defer func() { _ = from.Close() }()
	to, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(from, to)
		_ = from.Close()
	}()
	tp.mu.Lock()
	tp.newest, tp.sent = from, nil
	tp.mu.Unlock()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		tp.mu.Lock()
		if tp.newest == from {
			tp.sent = append(tp.sent, b[:n]...) // before it is passed on
		}
		tp.mu.Unlock()
		if n > 0 {
			_, _ = to.Write(b[:n])
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

func (tp *tap) reset() {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.sent = nil
}

// question is what the gateway calls what it asks on its own.
const question = "countersign_question"

// got are the messages since the last time, each in a line, without the gateway's own questions, and without Flush, which it sends
// where it has to know an answer.
func (tp *tap) got() (list []string) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	asked := false
	for len(tp.sent) >= 5 {
		size := 1 + int(uint32(tp.sent[1])<<24|uint32(tp.sent[2])<<16|uint32(tp.sent[3])<<8|uint32(tp.sent[4]))
		if size > len(tp.sent) {
			break
		}
		kind, body := tp.sent[0], tp.sent[5:size]
		tp.sent = tp.sent[size:]
		if bytes.Contains(body, []byte(question)) {
			asked = true
			continue
		}
		if kind == 'H' || asked && kind == 'S' {
			asked = false
			continue
		}
		list = append(list, strings.TrimSpace(fmt.Sprintf("%c %s", kind, strings.Trim(strconv.Quote(string(body)), `"`))))
	}
	return list
}
