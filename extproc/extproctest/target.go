package extproctest

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Protected are the values of the sample API that an agent must not see. Two targets that differ in nothing else must look
// the same to it; values of other lengths find out what gives away a length.
type Protected struct {
	Name  string
	Email string
	SSN   string
	Card  string
	IBAN  string
}

// DefaultProtected is what a target holds unless told otherwise. The numbers pass their checks and belong to no one: the
// SSN is of the range kept for advertising, the card is the well-known test number.
func DefaultProtected() Protected {
	return Protected{
		Name: "Ada Example", Email: "ada@example.com", SSN: "987-65-4320", Card: "4111111111111111",
		IBAN: "GB82WEST12345698765432",
	}
}

// TargetOptions vary a [Target]. The zero value is a target without TLS.
type TargetOptions struct {
	Protected  Protected  // DefaultProtected unless set
	Authority  *Authority // with one, the target speaks TLS
	Names      []string   // of its certificate, besides localhost
	WantClient bool       // refuse clients without a certificate of Authority
	Version    string     // "HTTP/1.1" or "HTTP/2" alone; both unless set
	Unrecorded bool       // keep nothing of requests, for benchmarks and soak tests
}

// Target is the API that agents are let through to: a small payments service, and paths that misbehave. It speaks HTTP/1.1
// and HTTP/2 (with prior knowledge, or by ALPN) on loopback and records every request as it came. The paths are described
// at [Target.routes].
type Target struct {
	URL     string // without a trailing slash
	Address string // host and port

	tb        TB
	options   TargetOptions
	protected Protected
	server    *http.Server
	bytesIn   atomic.Int64
	nonce     atomic.Int64 // numbers refunds

	mu      sync.Mutex
	seen    []*Seen
	changed chan struct{}
	gates   map[string]*gate
	feeds   map[string]*Feed
}

// NewTarget starts a target that serves until the test ends.
func NewTarget(tb TB, o TargetOptions) *Target {
	tb.Helper()
	t := &Target{
		tb: tb, options: o, protected: o.Protected, Address: FreeAddress(tb),
		changed: make(chan struct{}), gates: map[string]*gate{}, feeds: map[string]*Feed{},
	}
	if t.protected == (Protected{}) {
		t.protected = DefaultProtected()
	}
	t.URL = "http://" + t.Address
	if o.Authority != nil {
		t.URL = "https://" + t.Address
	}
	t.Start()
	tb.Cleanup(t.Stop)
	return t
}

// Start serves again after [Target.Stop], at the same address.
func (t *Target) Start() {
	t.tb.Helper()
	listener, err := net.Listen("tcp", t.Address)
	if err != nil {
		t.tb.Fatalf("start the target: %v", err)
	}
	t.server = &http.Server{
		Handler:        t.record(t.routes()),
		Protocols:      t.protocols(),
		TLSConfig:      t.tlsConfig(),
		ConnContext:    rememberConn,
		MaxHeaderBytes: 16 << 20,
		// Silence: what a test wants to know it asks of Requests, and hostile paths break connections on purpose.
		ErrorLog: quiet,
	}
	counted := &countingListener{Listener: listener, bytes: &t.bytesIn}
	go func(server *http.Server) {
		if t.options.Authority != nil {
			_ = server.ServeTLS(counted, "", "")
			return
		}
		_ = server.Serve(counted)
	}(t.server)
}

// Stop closes the target and its connections: what is in flight is cut off.
func (t *Target) Stop() {
	_ = t.server.Close()
}

func (t *Target) protocols() *http.Protocols {
	tls := t.options.Authority != nil
	p := new(http.Protocols)
	p.SetHTTP1(t.options.Version != "HTTP/2")
	p.SetHTTP2(t.options.Version != "HTTP/1.1" && tls)
	p.SetUnencryptedHTTP2(t.options.Version != "HTTP/1.1" && !tls)
	return p
}

func (t *Target) tlsConfig() *tls.Config {
	if t.options.Authority == nil {
		return nil
	}
	cert := t.options.Authority.Issue(append(slices.Clone(t.options.Names), "target.test")...)
	c := &tls.Config{Certificates: []tls.Certificate{cert.TLS}, MinVersion: tls.VersionTLS12}
	if t.options.WantClient {
		c.ClientAuth = tls.RequireAndVerifyClientCert
		c.ClientCAs = t.options.Authority.Pool
	}
	return c
}

// Field is one header or trailer line.
type Field struct{ Name, Value string }

// Seen is one request as the target got it.
type Seen struct {
	Proto  string // "HTTP/1.1" or "HTTP/2.0"
	Method string
	Host   string // or :authority
	Path   string // the request target, undecoded, with its query
	// Head is the request line and header lines as they came. Only HTTP/1.1 without TLS has it.
	Head []byte
	// Header are the header lines: for HTTP/1.1 without TLS all of them in order and spelled as they came, else sorted by
	// lower-case name and without those that the server takes for itself (Host, Transfer-Encoding).
	Header     []Field
	BodySHA256 [sha256.Size]byte // of all that came
	BodyBytes  int64
	Body       []byte // the first bodyKept bytes
	Trailer    []Field
	ClientCert *x509.Certificate
	Complete   bool  // the whole body came
	BodyErr    error // why it did not
	Gone       bool  // the client left /hold or /feed before the answer ended
	At         time.Time

	sum hash.Hash
}

// bodyKept bounds what of a body is kept. A test for big bodies compares digests.
const bodyKept = 4 << 20

// Get returns the values of the header lines of that name, in any case.
func (s Seen) Get(name string) []string {
	var values []string
	for _, f := range s.Header {
		if strings.EqualFold(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return values
}

// Requests are the requests so far, in the order in which their headers arrived; also those that are still arriving.
func (t *Target) Requests() []Seen {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := make([]Seen, len(t.seen))
	for i, s := range t.seen {
		seen[i] = *s
		seen[i].sum = nil
		if s.sum != nil {
			s.sum.Sum(seen[i].BodySHA256[:0])
		}
	}
	return seen
}

// BytesIn counts what was read from clients since Reset, TLS and HTTP/2 framing included. It tells "no byte arrived" where
// an empty Requests says only that no whole header did.
func (t *Target) BytesIn() int64 { return t.bytesIn.Load() }

// Reset forgets the requests.
func (t *Target) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = nil
	t.bytesIn.Store(0)
}

// WaitRequests waits until ok says yes to the requests so far, and returns them.
func (t *Target) WaitRequests(ctx context.Context, ok func([]Seen) bool) ([]Seen, error) {
	for {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		if seen := t.Requests(); ok(seen) {
			return seen, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the target's requests: %w; it has %d", ctx.Err(), len(t.Requests()))
		}
	}
}

// update changes what was seen and wakes those who wait for it.
func (t *Target) update(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
	close(t.changed)
	t.changed = make(chan struct{})
}

// record notes requests before they are served and counts their bodies as they are read.
func (t *Target) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &Seen{
			Proto: r.Proto, Method: r.Method, Host: r.Host, Path: r.RequestURI, Header: sorted(r.Header),
			sum: sha256.New(), At: time.Now(),
		}
		if conn, ok := r.Context().Value(connKey{}).(*countingConn); ok && r.ProtoMajor == 1 {
			if head, fields := conn.takeHead(); head != nil {
				s.Head, s.Header = head, fields
			}
		}
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			s.ClientCert = r.TLS.PeerCertificates[0]
		}
		if !t.options.Unrecorded {
			t.update(func() { t.seen = append(t.seen, s) })
		}
		r.Body = &recordedBody{ReadCloser: r.Body, target: t, seen: s, request: r}
		if !strings.HasPrefix(r.URL.Path, "/hostile/answer-early") && !strings.HasPrefix(r.URL.Path, "/duplex") {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), seenKey{}, s)))
	})
}

type seenKey struct{}

// body is what arrived with r. The recorder has read it all before any ordinary path is served.
func (t *Target) body(r *http.Request) (Seen, []byte) {
	s := r.Context().Value(seenKey{}).(*Seen)
	t.mu.Lock()
	defer t.mu.Unlock()
	return *s, s.Body
}

type recordedBody struct {
	io.ReadCloser
	target  *Target
	seen    *Seen
	request *http.Request
}

func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.target.update(func() {
		s := b.seen
		s.sum.Write(p[:n])
		s.BodyBytes += int64(n)
		s.Body = append(s.Body, p[:min(n, bodyKept-len(s.Body))]...)
		switch {
		case err == io.EOF:
			s.Complete = true
			s.Trailer = sorted(b.request.Trailer)
		case err != nil:
			s.BodyErr = err
		}
	})
	if conn, ok := b.request.Context().Value(connKey{}).(*countingConn); ok && err == io.EOF {
		conn.endRequest(b.request.ContentLength)
	}
	return n, err
}

func sorted(h http.Header) []Field {
	var fields []Field
	for name, values := range h {
		for _, v := range values {
			fields = append(fields, Field{strings.ToLower(name), v})
		}
	}
	slices.SortStableFunc(fields, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	return fields
}

// contentLength sets the exact length of what is about to be written.
func contentLength(w http.ResponseWriter, n int) {
	w.Header().Set("Content-Length", strconv.Itoa(n))
}
