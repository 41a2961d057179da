package session_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/kind/postgres/session"
)

// hostileClients: whatever a client sends, it is refused or its connection is closed, and nothing of it stays.
func hostileClients(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{})
	for name, first := range map[string][]byte{
		"nothing":                        {},
		"half a startup":                 {0, 0, 0, 20, 0, 3},
		"a startup that is too long":     {0x7F, 0xFF, 0xFF, 0xFF, 0, 3, 0, 0},
		"a startup that is too short":    {0, 0, 0, 4, 0, 3, 0, 0},
		"protocol 2":                     startup(2<<16, "user", "app"),
		"protocol 4":                     startup(4<<16, "user", "app"),
		"HTTP":                           []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"a name without an end":          append([]byte{0, 0, 0, 12, 0, 3, 0, 0}, "user"...),
		"a parameter twice":              startup(3<<16, "user", "app", "user", "postgres"),
		"TLS asked for twice":            {0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f, 0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f},
		"data behind a request for TLS":  append([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}, startup(3<<16, "user", "app")...),
		"a cancel without a key":         {0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2e},
		"a cancel of nobody":             {0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 9, 0, 0, 0, 9},
		"a TLS handshake that is broken": {0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5},
	} {
		t.Run(name, func(t *testing.T) {
			c := r.dial()
			_, _ = c.Write(first)
			if u, ok := c.(*net.UnixConn); ok {
				_ = u.CloseWrite()
			}
			ends(t, c)
		})
	}
	good := header("orders", "f1")
	patched := func(at int, with ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], with)
		return b
	}
	proxied := func(transport byte, rest ...byte) []byte {
		b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, transport)
		return append(binary.BigEndian.AppendUint16(b, uint16(len(rest))), rest...)
	}
	addresses := []byte{192, 0, 2, 7, 127, 0, 0, 1, 0x30, 0x39, 0x19, 0x20}
	for name, header := range map[string][]byte{
		"no header":                        []byte("hello, this is no header at all"),
		"a client's first bytes":           startup(3<<16, "user", "app", "database", "orders"),
		"a header of version 1":            []byte("PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n"),
		"of version 1 and then 2":          append([]byte("PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n"), good...),
		"of version 3":                     patched(12, 0x31),
		"of the proxy itself":              patched(12, 0x20),
		"of an unknown command":            patched(12, 0x22),
		"of nobody":                        append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x20, 0, 0, 0),
		"of UDP":                           patched(13, 0x12),
		"of a unix socket":                 patched(13, 0x31),
		"of no family":                     patched(13, 0x00),
		"of IPv6 with IPv4's addresses":    proxied(0x21, addresses...),
		"that is too long":                 append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, 0x11, 0xFF, 0xFF),
		"that says it is longer":           patched(14, 0, byte(len(good)-16+1)),
		"that says it is shorter":          patched(14, 0, byte(len(good)-16-1)),
		"that has no addresses":            proxied(0x11),
		"that ends within its addresses":   proxied(0x11, addresses[:11]...),
		"that ends within a field":         append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, 0x11, 0, 14, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2, 0xE0, 9),
		"with a field that lies":           proxied(0x11, append(addresses, 0xE0, 0xFF, 0xFF, 'o')...),
		"with something behind its fields": proxied(0x11, append(slices.Concat(addresses, good[28:]), 0)...),
		"with its resource twice":          proxied(0x11, slices.Concat(addresses, good[28:], []byte{0xE0, 0, 6}, []byte("orders"))...),
		"without fields":                   proxied(0x11, addresses...),
		"without a resource":               proxied(0x11, append(addresses, 0xE1, 0, 2, 'f', '1')...),
		"without a fingerprint":            proxied(0x11, append(addresses, 0xE0, 0, 6, 'o', 'r', 'd', 'e', 'r', 's')...),
		"of another resource":              header("others", "f1"),
		"of another configuration":         header("orders", "f2"),
		"that says nothing":                header("", ""),
		"that is broken off within":        good[:20],
		"that is broken off at its end":    good[:len(good)-1],
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("unix", r.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = c.Write(append(bytes.Clone(header), startup(3<<16, "user", "app", "database", "orders")...))
			_ = c.(*net.UnixConn).CloseWrite()
			if heard := ends(t, c); len(heard) > 0 {
				t.Errorf("it was told %q", heard)
			}
		})
	}
	long := binary.BigEndian.AppendUint32([]byte{'Q'}, 1<<31-1)
	for name, c := range map[string]struct{ sent, want string }{
		"an unknown message":              {string(message('?', "x")), "08P01"},
		"a password again":                {string(message('p', "x\x00")), "08P01"},
		"a length that is too short":      {"Q\x00\x00\x00\x03", "08P01"},
		"a length that lies":              {string(long), "08P01"},
		"a text with a NUL in it":         {string(message('Q', "SELECT 1\x00; DROP TABLE items\x00")), "08P01"},
		"a text without an end":           {string(message('Q', "SELECT 1")), "08P01"},
		"a Parse with more behind":        {string(message('P', "\x00SELECT 1\x00\x00\x00x")), "08P01"},
		"a Parse of too many types":       {string(message('P', "\x00SELECT 1\x00\xFF\xFF")), "08P01"},
		"a Bind that ends early":          {string(message('B', "\x00\x00\x00\x00\x00\x01")), "08P01"},
		"a Bind with a length that lies":  {string(message('B', "\x00\x00\x00\x00\x00\x01\x7F\xFF\xFF\xFF\x00\x00")), "08P01"},
		"a Describe of something else":    {string(message('D', "X\x00")), "08P01"},
		"an Execute that ends early":      {string(message('E', "\x00\x00")), "08P01"},
		"a Sync with more in it":          {string(message('S', "x")), "08P01"},
		"a query within a pipeline":       {string(message('P', "\x00SELECT 1\x00\x00\x00")) + string(message('Q', "SELECT 1\x00")), "08P01"},
		"a pipeline without an end":       {strings.Repeat(string(message('D', "S\x00")), 1), "26000"},
		"a text that is not UTF-8":        {string(message('Q', "SELECT '\xFF'\x00")), "22021"},
		"a message that does not end":     {"Q\x00\x00\x00\x40SELECT", ""},
		"nothing more":                    {"", ""},
		"COPY data that nobody asked for": {string(message('d', "x")) + string(message('c', "")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			conn := r.raw()
			conn.send([]byte(c.sent))
			if c.want != "" {
				if got := conn.until('E'); got != "E("+c.want+")" {
					t.Errorf("%s, want %s", got, c.want)
				}
			}
			_ = conn.Close()
		})
	}
	r.stop() // within which every session has ended
	opened, closed := len(r.records(session.RecordOpened)), len(r.records(session.RecordClosed))
	if opened != closed || opened == 0 {
		t.Errorf("%d sessions were opened, and %d closed", opened, closed)
	}
	if got := w.postgres.SQL("orders", "SELECT count(*) FROM items"); got != "10" {
		t.Errorf("there are %s rows", got)
	}
}

// ends reads until the other end has closed the connection, and wants nothing but an error of it.
func ends(t *testing.T, c net.Conn) (all []byte) {
	t.Helper()
	var heard bytes.Buffer
	if _, err := heard.ReadFrom(c); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("it was not closed: %v, heard %q", err, heard.String())
	}
	if b := heard.Bytes(); len(b) > 0 && b[0] != 'E' && b[0] != 'N' && b[0] != 'S' && b[0] != 0x15 {
		t.Errorf("heard %q", b)
	}
	return heard.Bytes()
}
