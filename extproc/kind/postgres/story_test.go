package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

var update = flag.Bool("update", false, "write the evidence of the stories")

const sample = `
CREATE ROLE app LOGIN PASSWORD 'correct horse';
CREATE DATABASE orders OWNER app;
\connect orders
SET ROLE app;
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, iban text);
INSERT INTO customers VALUES (1, 'Ada', 'DE1'), (2, 'Bob', 'DE2'), (3, 'Eve', 'DE3');
`

// world is what a story of this kind is played in: a real server, and psql.
type world struct {
	tb        extproctest.TB
	authority *extproctest.Authority
	postgres  *extproctest.Postgres
	gateway   *story.Gateway
	more      string // keys of the resource
}

func newWorld(tb extproctest.TB) *world {
	w := &world{tb: tb, authority: extproctest.NewAuthority(tb)}
	w.postgres = extproctest.StartPostgres(tb, extproctest.PostgresConfig{Authority: w.authority, SQL: sample})
	return w
}

func (w *world) kind() *story.Kind {
	server := w.authority.Issue("gateway.test")
	return &story.Kind{
		Resource: func(g *story.Gateway) string {
			w.gateway = g
			g.Write("secrets/app", "correct horse\n")
			return fmt.Sprintf("kind: postgres\nlisten: {address: %q, tls: {certificate_file: %q, key_file: %q}}\ntarget: \"postgres://%s\"\ntarget_tls: {ca_file: %q, server_name: db.test}\nroles: {app: {password_file: ./secrets/app}}\n%s",
				g.Address, server.CertFile, server.KeyFile, w.postgres.Address, w.authority.CAFile, w.more)
		},
		Speak: func(c *story.Conversation) story.Speaker { return &speech{Conversation: c, world: w} },
	}
}

// psql is psql as an agent runs it: by Envoy, with the token for a password.
func (w *world) psql(ctx context.Context, token string, args ...string) *exec.Cmd {
	host, port, _ := strings.Cut(w.gateway.Address, ":")
	cmd := exec.CommandContext(ctx, "psql", append([]string{
		"--no-psqlrc", "--no-password", "--quiet", "--no-align", "--tuples-only", "--set", "VERBOSITY=verbose", "--set", "SHOW_CONTEXT=never",
		"host=localhost hostaddr=" + host + " port=" + port + " user=app dbname=orders sslmode=verify-full sslrootcert=" + w.authority.CAFile,
	}, args...)...)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+token) //nolint:forbidigo // psql needs its path, and reads the token there
	return cmd
}

// speech is a conversation by psql:
//
//	@ agent-1         who asks
//	> SQL             runs it, all of it as one psql -c
//	>> SQL            likewise, and goes on when people are asked
//	< TEXT            the next line that psql prints, of its output and then of its errors; $ID is the request for approval, and … at the
//	                  end stands for the rest of the line
//	= SQL             what the server itself says, past the gateway, is
//	< TEXT            this
//	^ C               interrupts psql, which then asks for what it does to be cancelled
type speech struct {
	*story.Conversation
	world *world
	lines []string
	held  chan []string
	stop  context.CancelFunc
	cmd   *exec.Cmd
}

// changing is what of psql's words is another each time.
var changing = regexp.MustCompile(`https?://[^ ]+/approvals/[0-9a-z-]+|approval: ([0-9a-z-]+)|Approval ([0-9a-z-]+)\.|request [0-9a-f-]{36}|port [0-9]+`)

func (s *speech) Say(mark, rest string) bool {
	switch mark {
	case ">", ">>":
		s.left()
		before := len(s.Gateway().Records())
		ctx, stop := context.WithTimeout(context.Background(), 60*time.Second)
		cmd := s.world.psql(ctx, s.Token(), "--command", rest)
		done := make(chan []string, 1)
		var errs printed
		go func() {
			defer stop()
			done <- run(cmd, &errs)
		}()
		s.held, s.stop, s.cmd = done, stop, cmd
		if mark == ">>" {
			s.Gateway().AwaitRecord("operation.decided", func(r story.Record) bool { return r.Type == "operation.decided" && r.Seq > uint64(before) })
			s.Gateway().AwaitRecord("approval.requested", func(r story.Record) bool { return r.Type == "approval.requested" && r.Seq > uint64(before) })
			extproctest.Await(s.world.tb, "psql to say that people are asked", 10*time.Second, func(context.Context) error {
				if text := errs.String(); !strings.Contains(text, "CS001") {
					return fmt.Errorf("it has printed %q", text)
				}
				return nil
			})
			return true
		}
		s.lines = <-done
		s.held = nil
	case "=":
		if s.held != nil {
			s.lines, s.held = <-s.held, nil
		}
		s.left()
		s.lines = strings.Split(s.world.postgres.SQL("orders", rest), "\n")
	case "^":
		if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
			s.Failf("%v", err)
		}
	case "<":
		if s.held != nil {
			s.lines, s.held = <-s.held, nil
		}
		if len(s.lines) == 0 {
			s.Failf("psql printed no more, and should %q", rest)
			return true
		}
		line := s.lines[0]
		if begin, ok := strings.CutSuffix(rest, "…"); line != rest && (!ok || !strings.HasPrefix(line, begin)) {
			s.Failf("psql printed %q; all of it:\n%s", line, strings.Join(s.lines, "\n"))
		}
		s.lines = s.lines[1:]
	default:
		return false
	}
	return true
}

// run is what psql prints, less what is another each time; its errors come as it prints them.
func run(cmd *exec.Cmd, errs *printed) []string {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		fmt.Fprintln(errs, err)
	}
	var lines []string
	for line := range strings.Lines(out.String() + errs.String()) {
		line = strings.TrimSpace(normal(line))
		if line != "" && !strings.HasPrefix(line, "LOCATION:") {
			lines = append(lines, line)
		}
	}
	return lines
}

// printed is what a program prints, for whoever looks meanwhile.
type printed struct {
	mu   sync.Mutex
	text []byte
}

func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = append(p.text, b...)
	return len(b), nil
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.text)
}

// normal is a line of a client's words without what is another each time.
func normal(line string) string {
	return changing.ReplaceAllStringFunc(line, func(found string) string {
		switch {
		case strings.HasPrefix(found, "http"):
			return "$CONSOLE/approvals/$ID"
		case strings.HasPrefix(found, "port"):
			return "port $PORT"
		case strings.HasPrefix(found, "request"):
			return "request $REQUEST"
		case strings.HasPrefix(found, "Approval"):
			return "Approval $ID."
		}
		return "approval: $ID"
	})
}

// left fails the story at what psql printed and nobody has looked at.
func (s *speech) left() {
	if len(s.lines) > 0 {
		s.Failf("psql printed more:\n%s", strings.Join(s.lines, "\n"))
	}
}

func (s *speech) Settle() { s.left() }

// Leave ends psql.
func (s *speech) Leave() {
	before := len(s.Gateway().Records())
	s.stop()
	<-s.held
	s.held = nil
	s.Gateway().AwaitRecord("operation.finished", func(r story.Record) bool { return r.Type == "operation.finished" && r.Seq > uint64(before) })
}

// ways are how a connection can come and go: what is recorded and what an agent sees is the same. TestWays has the others.
var ways = map[string]string{"": "", " shown": "attach: ext_proc\negress: envoy\n"}

func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d stories, error %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		for way, keys := range ways {
			t.Run(name+way, func(t *testing.T) {
				w := newWorld(t)
				w.more = keys
				story.Play(t, file, story.Options{Kind: w.kind(), Update: *update && keys == ""})
			})
		}
	}
}
