package otlp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/keyfile"
)

// TLS says how the collector and the courier prove to each other who they are. The zero value is TLS with the system's certificate
// authorities and no client certificate.
type TLS struct {
	CAFile     string // PEM; in place of the system's authorities
	CertFile   string // PEM; with KeyFile, the client's certificate. Both are read again for each connection
	KeyFile    string
	ServerName string // the name to expect in place of the endpoint's
	Insecure   bool   // no TLS at all: whoever is on the path to the collector can read and change what is sent
}

// client makes requests of a collector.
type client struct {
	conn     *grpc.ClientConn
	from     []byte // who sends, as the first field of ResourceLogs and ResourceSpans
	recorder []byte // what has made the records, as the first field of ScopeLogs and ScopeSpans
}

func newClient(o Options) (*client, error) {
	conn, err := dial(o)
	if err != nil {
		return nil, err
	}
	var from, recorder encoder
	resource := from.begin(1)
	from.field = 1
	from.attributeText("service.name", "countersign")
	from.attributeText("service.instance.id", o.Node)
	from.attributeText("service.version", o.Version)
	from.end(resource)
	scope := recorder.begin(1)
	recorder.text(1, "github.com/countersign/countersign/extproc/evidence")
	recorder.text(2, strconv.Itoa(evidence.Version))
	recorder.end(scope)
	return &client{conn, from.b, recorder.b}, nil
}

// export sends items, all of one signal, in one request. rejected says how many of their elements the collector rejected while it
// accepted the rest.
func (c *client) export(ctx context.Context, s Signal, items []*item) (rejected int64, why string, err error) {
	in := &payload{c, items}
	if s == Spans {
		answer := &coltracepb.ExportTraceServiceResponse{}
		err := c.conn.Invoke(ctx, coltracepb.TraceService_Export_FullMethodName, in, answer)
		partial := answer.GetPartialSuccess()
		return partial.GetRejectedSpans(), partial.GetErrorMessage(), err
	}
	answer := &collogspb.ExportLogsServiceResponse{}
	err = c.conn.Invoke(ctx, collogspb.LogsService_Export_FullMethodName, in, answer)
	partial := answer.GetPartialSuccess()
	return partial.GetRejectedLogRecords(), partial.GetErrorMessage(), err
}

// payload is one request for items: one ResourceLogs with one ScopeLogs, or the same of spans, whose fields have the same numbers.
type payload struct {
	*client
	items []*item
}

// appendTo lays it out.
func (r *payload) appendTo(b []byte) []byte {
	scope, resource, _ := r.sizes()
	b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.BytesType), uint64(resource))
	b = append(b, r.from...)
	b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.BytesType), uint64(scope))
	b = append(b, r.recorder...)
	for _, it := range r.items {
		b = append(b, it.encoded...)
	}
	return b
}

func (r *payload) sizes() (scope, resource, all int) {
	scope = len(r.recorder)
	for _, it := range r.items {
		scope += len(it.encoded)
	}
	resource = len(r.from) + protowire.SizeTag(2) + protowire.SizeBytes(scope)
	return scope, resource, protowire.SizeTag(1) + protowire.SizeBytes(resource)
}

// codec passes requests on as they are, and reads answers.
type codec struct{}

// Marshal lays out a request in a buffer that gRPC gives back when it has sent it.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*payload)
	if !ok {
		return nil, fmt.Errorf("a %T is no request of a collector", v)
	}
	_, _, size := r.sizes()
	b := buffers.Get(size)
	*b = r.appendTo((*b)[:0])
	return mem.BufferSlice{mem.NewBuffer(b, buffers)}, nil
}

// buffers has those of requests. gRPC's own pool clears a megabyte for each.
var buffers = &pool{}

type pool struct{ sync.Pool }

// Get returns a buffer of length bytes.
func (p *pool) Get(length int) *[]byte {
	if b, ok := p.Pool.Get().(*[]byte); ok && cap(*b) >= length {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length)
	return &b
}

// Put takes a buffer that is not used any more.
func (p *pool) Put(b *[]byte) { p.Pool.Put(b) }

// Unmarshal reads an answer.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	answer, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("a %T is no answer of a collector", v)
	}
	return proto.Unmarshal(data.Materialize(), answer)
}

// Name is that of what is sent.
func (codec) Name() string { return "proto" }

func dial(o Options) (*grpc.ClientConn, error) {
	if o.Endpoint == "" {
		return nil, errors.New("the collector's endpoint is empty")
	}
	creds, err := o.TLS.credentials()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(o.Endpoint,
		grpc.WithTransportCredentials(creds),
		grpc.WithPerRPCCredentials(headers(o.Headers)),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})),
		grpc.WithUserAgent("countersign/"+o.Version),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: o.MinBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: min(o.MaxBackoff, 5*time.Second)},
			MinConnectTimeout: o.Timeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	)
	if err != nil {
		return nil, fmt.Errorf("reach the collector at %q: %w", o.Endpoint, err)
	}
	return conn, nil
}

func (t TLS) credentials() (credentials.TransportCredentials, error) {
	if t.Insecure {
		if t.CAFile != "" || t.CertFile != "" || t.KeyFile != "" {
			return nil, errors.New("the collector's connection is set to be insecure and has certificates: choose one")
		}
		return insecure.NewCredentials(), nil
	}
	roots, err := keyfile.RootsOrSystem(t.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the collector's ca_file: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, RootCAs: roots}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("the collector's connection needs a certificate and its key, and has one of the two")
	}
	if t.CertFile != "" {
		load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("read the client certificate for the collector: %w", err)
			}
			return &pair, nil
		}
		if _, err := load(nil); err != nil {
			return nil, err
		}
		config.GetClientCertificate = load
	}
	return credentials.NewTLS(config), nil
}

// headers are request headers by name. Their values are in files, which are read for each request, so that a secret can be changed
// while the gateway runs.
type headers map[string]string

// GetRequestMetadata reads the files.
func (h headers) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	values := make(map[string]string, len(h))
	for name, file := range h {
		value, err := keyfile.Secret(file)
		if err != nil {
			return nil, status.Errorf(codes.Unavailable, "read the value of header %s: %v", name, err)
		}
		values[strings.ToLower(name)] = strings.TrimSpace(value)
	}
	return values, nil
}

// RequireTransportSecurity is false because TLS.Insecure decides that.
func (h headers) RequireTransportSecurity() bool { return false }
