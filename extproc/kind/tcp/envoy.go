package tcp

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	proxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/xds"
)

// earlyData is how much of what the agent sends before it is let in Envoy holds, before it stops reading.
const earlyData = 16 << 10

// Envoy is Envoy's part of the kind.
type Envoy struct{}

// Make adds a listener and a cluster for each resource. Envoy asks at the first byte of a connection and reads on only after
// that, and the target is connected to when there is something for it: by default tcp_proxy connects at once, and what a target
// says first would reach an agent that nobody has let in.
func (Envoy) Make(b *xds.Builder, c *config.Config) {
	for _, r := range config.Each[*Resource](c) {
		asking := b.Service(b.LongestHold() + 10*time.Second)
		asking.InitialMetadata = []*corev3.HeaderValue{{Key: xds.ResourceMetadata, Value: r.Name}, {Key: xds.FingerprintMetadata, Value: fingerprint(r)}}
		b.Listener(r.Listen.Address, []*listenerv3.Filter{
			b.Filter("envoy.filters.network.ext_authz", &authzv3.ExtAuthz{
				StatPrefix: "agents", GrpcService: asking, TransportApiVersion: corev3.ApiVersion_V3, IncludePeerCertificate: true, IncludeTlsSession: true,
			}),
			b.Filter("envoy.filters.network.tcp_proxy", &proxyv3.TcpProxy{
				StatPrefix:                      "agents",
				ClusterSpecifier:                &proxyv3.TcpProxy_Cluster{Cluster: clusterName(b, r)},
				IdleTimeout:                     durationpb.New(r.Limits.Idle.Std()),
				MaxDownstreamConnectionDuration: durationpb.New(r.Limits.ConnectionTime.Std()),
				MaxConnectAttempts:              wrapperspb.UInt32(1),
				UpstreamConnectMode:             proxyv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA,
				MaxEarlyDataBytes:               wrapperspb.UInt32(earlyData),
				CheckDrainClose:                 wrapperspb.Bool(true),
				AccessLog:                       b.ConnectionLog(r.Name),
			}),
		}, r.Listen.TLS)
		host, port, err := r.address()
		if err != nil {
			b.Fail(err)
			continue
		}
		target := b.Target(clusterName(b, r), host, port)
		target.CircuitBreakers.Thresholds[0].MaxConnections = wrapperspb.UInt32(uint32(r.Limits.Connections))
		if r.TargetTLS != nil {
			target.TransportSocket = b.TargetTLS(r.Name, r.TargetTLS, host)
		}
		b.Cluster(target)
	}
}

func clusterName(b *xds.Builder, r *Resource) string {
	return b.TargetName(r.Name, struct {
		URL string
		TLS *config.ClientTLS
	}{r.Target, r.TargetTLS})
}

// fingerprint is a short digest of what Envoy carries out for r and a decision relies on.
func fingerprint(r *Resource) string {
	carried := struct {
		Address, Target, ServerName string
		TLS, OwnRoots, ShowsOwn     bool
	}{Address: r.Listen.Address, Target: r.Target}
	if t := r.TargetTLS; t != nil {
		carried.TLS, carried.ServerName, carried.OwnRoots, carried.ShowsOwn = true, t.ServerName, t.CAFile != "", t.CertificateFile != ""
	}
	return xds.Digest(carried)
}
