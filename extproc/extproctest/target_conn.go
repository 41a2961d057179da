package extproctest

import (
	"bytes"
	"context"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// countingListener counts what is read from its connections, and lets each keep the head of the request it is at.
type countingListener struct {
	net.Listener
	bytes *atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countingConn{Conn: conn, bytes: l.bytes}, nil
}

type connKey struct{}

// rememberConn gives handlers the connection. Over TLS it is the encrypted one that we count, and there is no head.
func rememberConn(ctx context.Context, c net.Conn) context.Context {
	if conn, ok := c.(*countingConn); ok {
		return context.WithValue(ctx, connKey{}, conn)
	}
	return ctx
}

// countingConn keeps the bytes from the start of the request that is being read.
type countingConn struct {
	net.Conn
	bytes *atomic.Int64

	mu   sync.Mutex
	raw  []byte
	lost bool // raw grew past rawKept: this connection has no heads any more. One that speaks HTTP/2 never had.
}

// rawKept bounds what is kept of one request with its body.
const rawKept = 32 << 20

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes.Add(int64(n))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost = c.lost || len(c.raw)+n > rawKept; c.lost {
		c.raw = nil
		return n, err
	}
	c.raw = append(c.raw, p[:n]...)
	return n, err
}

// takeHead returns the head of the request that was just read.
func (c *countingConn) takeHead() (head []byte, fields []Field) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost {
		return nil, nil
	}
	head, _, _ = bytes.Cut(c.raw, []byte("\r\n\r\n"))
	head = bytes.Clone(head)
	for i, line := range strings.Split(string(head), "\r\n") {
		if i == 0 {
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		fields = append(fields, Field{name, strings.Trim(value, " \t")})
	}
	return head, fields
}

// endRequest drops the request that was read to its end. The server may have read into the next one, so the length is found
// again from the bytes; contentLength is below 0 for a chunked body.
func (c *countingConn) endRequest(contentLength int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	head, body, found := bytes.Cut(c.raw, []byte("\r\n\r\n"))
	if !found {
		return
	}
	length := contentLength
	if length < 0 {
		length = chunkedLength(body)
	}
	end := int64(len(head)) + 4 + length
	c.raw = bytes.Clone(c.raw[min(end, int64(len(c.raw))):])
}

// chunkedLength is how many bytes a chunked body takes, of which the server has read all.
func chunkedLength(body []byte) int64 {
	at := 0
	line := func() []byte {
		text, _, found := bytes.Cut(body[min(at, len(body)):], []byte("\n"))
		at += len(text)
		if found {
			at++
		}
		return bytes.TrimRight(text, "\r")
	}
	for {
		digits, _, _ := bytes.Cut(line(), []byte(";"))
		size, err := strconv.ParseUint(string(bytes.TrimSpace(digits)), 16, 31)
		if err != nil || size == 0 || at >= len(body) {
			break
		}
		at += int(size) + len("\r\n")
	}
	for at < len(body) && len(line()) > 0 { // trailers
	}
	return int64(at)
}
