package otlp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

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
	conn  *grpc.ClientConn
	logs  collogspb.LogsServiceClient
	spans coltracepb.TraceServiceClient
	from  *resourcepb.Resource
}

func newClient(o Options) (*client, error) {
	conn, err := dial(o)
	if err != nil {
		return nil, err
	}
	return &client{conn, collogspb.NewLogsServiceClient(conn), coltracepb.NewTraceServiceClient(conn), resource(o)}, nil
}

// export sends items, all of one signal, in one request. rejected says how many of their elements the collector rejected while it
// accepted the rest.
func (c *client) export(ctx context.Context, s Signal, items []*item) (rejected int64, why string, err error) {
	if s == Spans {
		scope := &tracepb.ScopeSpans{Scope: instrumentation}
		for _, it := range items {
			scope.Spans = append(scope.Spans, it.spans...)
		}
		answer, err := c.spans.Export(ctx, &coltracepb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{
			Resource: c.from, ScopeSpans: []*tracepb.ScopeSpans{scope},
		}}})
		partial := answer.GetPartialSuccess()
		return partial.GetRejectedSpans(), partial.GetErrorMessage(), err
	}
	scope := &logspb.ScopeLogs{Scope: instrumentation}
	for _, it := range items {
		scope.LogRecords = append(scope.LogRecords, it.log)
	}
	answer, err := c.logs.Export(ctx, &collogspb.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{{
		Resource: c.from, ScopeLogs: []*logspb.ScopeLogs{scope},
	}}})
	partial := answer.GetPartialSuccess()
	return partial.GetRejectedLogRecords(), partial.GetErrorMessage(), err
}

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
