package tcp_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

const domain = "spiffe://agents.test"

// target says hello to whoever connects, and then repeats each line.
type target struct {
	address   string
	connected atomic.Int64
}

func startTarget(t extproctest.TB) *target {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	out := &target{address: l.Addr().String()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			out.connected.Add(1)
			go func() {
				defer c.Close()
				fmt.Fprintln(c, "hello")
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return out
}

// world is what a story of this kind is played in.
type world struct {
	tb        extproctest.TB
	target    *target
	authority *extproctest.Authority
	gateway   *story.Gateway
}

func newWorld(tb extproctest.TB) *world {
	return &world{tb: tb, target: startTarget(tb), authority: extproctest.NewAuthority(tb)}
}

func (w *world) kind() *story.Kind {
	server := w.authority.Issue("ledger.test")
	return &story.Kind{
		Resource: func(g *story.Gateway) string {
			w.gateway = g
			return fmt.Sprintf("kind: tcp\nlisten: {address: %q, tls: {certificate_file: %q, key_file: %q, client_ca_file: %q}}\ntarget: \"tcp://%s\"\n",
				g.Address, server.CertFile, server.KeyFile, w.authority.CAFile, w.target.address)
		},
		Agents: func(*story.Gateway) string {
			return fmt.Sprintf("  - {issuer: %q, kind: mtls, ca_file: %q}\n", domain, w.authority.CAFile)
		},
		Speak: func(c *story.Conversation) story.Speaker { return &speech{Conversation: c, world: w} },
	}
}

// dial connects with the certificate of an agent: a path of the trust domain, a whole URI, or a plain name.
// The letter case of what it calls the server means nothing.
func (w *world) dial(agent string) *tls.Conn {
	w.tb.Helper()
	var names []string
	for name := range strings.FieldsSeq(agent) {
		if strings.HasPrefix(name, "/") {
			name = domain + name
		}
		names = append(names, name)
	}
	d := tls.Dialer{Config: &tls.Config{RootCAs: w.authority.Pool, ServerName: "Ledger.TEST", Certificates: []tls.Certificate{w.authority.Issue(names...).TLS}, MinVersion: tls.VersionTLS12}}
	c, err := d.DialContext(context.Background(), "tcp", w.gateway.Address)
	if err != nil {
		w.tb.Fatalf("%v", err)
	}
	w.tb.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c.(*tls.Conn)
}

// speech is a conversation over plain lines:
//
//	@ /reader          who asks: a path of the trust domain, or other names, of the certificate
//	> TEXT             connects, where nobody is connected as this one, and says a line
//	>> TEXT            likewise, and goes on when people are asked
//	< TEXT             the next line that is heard
//	< closed           nothing more is heard
//	<: end             closes the connection
//	= N                how often the target has been connected to
type speech struct {
	*story.Conversation
	world *world
	as    string
	conn  *tls.Conn
	heard *bufio.Reader
}

func (s *speech) Say(mark, rest string) bool {
	switch mark {
	case ">", ">>":
		before := len(s.Gateway().Records())
		if s.conn == nil || s.as != s.Who() {
			s.as, s.conn = s.Who(), s.world.dial(s.Who())
			s.heard = bufio.NewReader(s.conn)
		}
		fmt.Fprintln(s.conn, rest)
		if mark == ">>" {
			s.Gateway().AwaitRecord("operation.decided", func(r story.Record) bool { return r.Type == "operation.decided" && r.Seq > uint64(before) })
		}
	case "<":
		line, err := s.heard.ReadString('\n')
		switch line = strings.TrimSuffix(line, "\n"); {
		case rest == "closed" && (err == nil || errors.Is(err, os.ErrDeadlineExceeded)):
			s.Failf("heard %q, error %v", line, err)
		case rest == "closed":
			s.conn = nil
		case line != rest:
			s.Failf("heard %q, error %v", line, err)
		}
	case "<:":
		s.end(s.conn.Close)
	case "=":
		if got := fmt.Sprint(s.world.target.connected.Load()); got != rest {
			s.Failf("the target was connected to %s times, and should have been %s", got, rest)
		}
	default:
		return false
	}
	return true
}

func (s *speech) Settle() {}

// Leave resets the connection. One that is only closed may be half of one: the agent has said all, and waits for the answer.
func (s *speech) Leave() {
	s.end(func() error {
		tcp := s.conn.NetConn().(*net.TCPConn)
		return errors.Join(tcp.SetLinger(0), tcp.Close())
	})
}

func (s *speech) end(end func() error) {
	before := len(s.Gateway().Records())
	if err := end(); err != nil {
		s.Failf("%v", err)
	}
	s.conn = nil
	s.Gateway().AwaitRecord("operation.finished", func(r story.Record) bool { return r.Type == "operation.finished" && r.Seq > uint64(before) })
}

func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d stories, error %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			story.Play(t, file, story.Options{Kind: newWorld(t).kind(), Update: *update})
		})
	}
}
