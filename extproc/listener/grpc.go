package listener

import (
	"crypto/tls"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/countersign/countersign/extproc"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/keyfile"
)

// GRPC returns the options of the gRPC server that Envoy calls. Every HTTP request is a stream of its own, and a held one is quiet
// for minutes. So streams are many and have no time limit here; Envoy sets one.
//
// What is not set was tried, in one run on two shared cores (ext_authz, 16 connections, the journal on tmpfs; two turns each, the
// gateway's processor time in µs a request): as it is 82 and 81; buffers of 128 KiB for reading and writing 74 and 76; a header table
// of 64 KiB 77 and 75; shared write buffers 75 and 80; no pool of buffers 78 and 75; 8 workers 77 and 73; no workers 86 and 80. Turns of
// one setting differ by as much, so that none of them is worth the memory that it takes for each connection.
func GRPC(c *config.Config, server *extproc.Server) ([]grpc.ServerOption, error) {
	largest := 16 << 20
	for _, r := range config.Each[*config.HTTP](c) { // ext_authz sends a body in one message
		largest = max(largest, int(r.Limits.RequestBody)+4<<20)
	}
	options := append(extproc.Guarded(),
		grpc.MaxConcurrentStreams(1<<16), // of a connection; each held request is one, and a gateway is to hold 20,000
		grpc.MaxRecvMsgSize(largest),
		grpc.MaxHeaderListSize(64<<10),         // Envoy's own fields, a resource's name and an address
		grpc.ConnectionTimeout(10*time.Second), // for the TLS and HTTP/2 handshakes
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}), // ends the streams of an Envoy that is gone
		// A goroutine that is used again has grown its stack already; growing it for each request took 6 % of the time. While all
		// workers are held, a stream gets a goroutine of its own.
		grpc.NumStreamWorkers(128),
		// How much Envoy may send of a stream before it is read here. gRPC's own window grows to 16 MB for each agent that reads
		// an answer slowly; a large download is as fast with 64 KiB. The connection's window is freed as data arrives, read or not.
		grpc.InitialWindowSize(64<<10),
		grpc.InitialConnWindowSize(16<<20),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	if _, unix := c.Listen.Envoy.Unix(); unix {
		return append(options, grpc.Creds(server.Watch(insecure.NewCredentials()))), nil
	}
	t := c.Listen.EnvoyTLS
	pool, err := keyfile.Roots(string(t.ClientCAFile))
	if err != nil {
		return nil, fmt.Errorf("read listen.envoy_tls.client_ca_file: %w", err)
	}
	certificate, err := tls.LoadX509KeyPair(string(t.CertificateFile), string(t.KeyFile))
	if err != nil {
		return nil, fmt.Errorf("read listen.envoy_tls: %w", err)
	}
	return append(options, grpc.Creds(server.Watch(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{certificate},
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"h2"},
	})))), nil
}

// stopTime is how long Stop waits for the last answers to reach Envoy.
const stopTime = 2 * time.Second

// Stop ends s once its last answers have reached Envoy: an agent whose hold ends with the gateway must be told what to repeat.
func Stop(s *grpc.Server) {
	late := time.AfterFunc(stopTime, guard.Func("the services' stop", s.Stop))
	defer late.Stop()
	s.GracefulStop()
}
