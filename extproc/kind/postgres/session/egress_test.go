package session_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/extproc/kind/postgres/session"
)

// led stands in for Envoy's listener for the gateway: it takes the header off, and leads the connection to the server.
type led struct {
	mu      sync.Mutex
	headers []string // the peer, and the session
}

func (l *led) serve(from net.Listener, to string) {
	for {
		conn, err := from.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			in := bufio.NewReader(conn)
			var first [16]byte
			if _, err := io.ReadFull(in, first[:]); err != nil {
				return
			}
			rest := make([]byte, binary.BigEndian.Uint16(first[14:]))
			if _, err := io.ReadFull(in, rest); err != nil || len(rest) < 15 {
				return
			}
			l.mu.Lock()
			l.headers = append(l.headers, net.IP(rest[:4]).String()+" "+string(rest[15:]))
			l.mu.Unlock()
			server, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer server.Close()
			go func() { _, _ = io.Copy(server, in); _ = server.(*net.TCPConn).CloseWrite() }()
			_, _ = io.Copy(conn, server)
		}()
	}
}

// egress: what the gateway connects goes by Envoy's socket, its requests to cancel too, each with who it is for; and not by one that others
// can connect to, or that is not there.
func egress(t *testing.T, w *world) {
	leaks(t)
	socket, l := filepath.Join(t.TempDir(), "egress.sock"), &led{}
	at, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	go l.serve(at, w.postgres.Address)
	r := w.start(t, options{edit: func(target *session.Target) {
		target.Egress, target.Address = socket, "127.0.0.1:1" // where nobody is
	}})
	if err := os.Chmod(socket, 0o660); err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.ConnectConfig(t.Context(), r.config("app", r.token(nil), "")); code(err) != "CS003" {
		t.Errorf("by a socket that others can connect to: %v", err)
	}
	l.mu.Lock()
	if len(l.headers) > 0 {
		t.Errorf("it was connected to: %q", l.headers)
	}
	l.mu.Unlock()
	if err := os.Chmod(socket, 0o600); err != nil {
		t.Fatal(err)
	}
	conn := r.connect("")
	if _, err := conn.Exec(t.Context(), "SELECT name FROM items"); err != nil {
		t.Fatal(err)
	}
	sleeping := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.WithoutCancel(t.Context()), "SELECT pg_sleep(600)")
		sleeping <- err
	}()
	r.await(2, "operation.decided")
	for cancelled := false; !cancelled; { // it may come before the statement
		if err := conn.PgConn().CancelRequest(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-sleeping:
			if cancelled = true; code(err) != "57014" {
				t.Errorf("cancelled: %v", err)
			}
		default:
		}
	}
	name := conn.PgConn().ParameterStatus("application_name")
	_, id, _ := strings.Cut(name, "countersign/")
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.headers) < 2 {
		t.Errorf("it was connected %d times", len(l.headers))
	}
	for _, h := range l.headers {
		if h != "192.0.2.7 "+id {
			t.Errorf("a connection for %q, want the session %s", h, id)
		}
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.ConnectConfig(t.Context(), r.config("app", r.token(nil), "")); code(err) != "CS003" {
		t.Errorf("by a socket that is not there: %v", err)
	}
}
