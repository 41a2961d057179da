package xds

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	heapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/extproc/config"
)

const (
	// maxConnections bounds the agents' connections: twice the 10,000 holds that this is made for.
	maxConnections = 20_000

	// maxHeap bounds Envoy's memory. A held request takes about 45 KB of it.
	maxHeap = 2 << 30
)

// Where Envoy's certificate is when it reaches this service over TCP. They are files on Envoy's machine, which this
// configuration knows nothing of: a team puts its own here.
const (
	envoyCertificate = "/etc/envoy/countersign-client.pem"
	envoyKey         = "/etc/envoy/countersign-client-key.pem"
	envoyRoots       = "/etc/envoy/countersign-ca.pem"
)

// Bootstrap is the file that Envoy starts with when [Server] gives it everything else, as YAML.
func Bootstrap(c *config.Config) ([]byte, error) {
	b := &Builder{c: c, static: true}
	boot := b.bootstrap()
	boot.StaticResources = &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{b.serviceCluster()}}
	boot.DynamicResources = &bootstrapv3.Bootstrap_DynamicResources{
		LdsConfig: ads(),
		CdsConfig: ads(),
		AdsConfig: &corev3.ApiConfigSource{
			ApiType:                   corev3.ApiConfigSource_GRPC,
			TransportApiVersion:       corev3.ApiVersion_V3,
			GrpcServices:              []*corev3.GrpcService{service(nil)},
			SetNodeOnFirstMessageOnly: true,
		},
	}
	return b.file(boot, "Envoy's bootstrap: listeners, routes, clusters and secrets come from countersign over ADS.")
}

// Static is a whole configuration for Envoy without xDS, as YAML. It names certificates by file.
func Static(c *config.Config, kinds ...Kind) ([]byte, error) {
	all, err := build(c, true, kinds)
	if err != nil {
		return nil, err
	}
	b := &Builder{c: c, static: true}
	boot := b.bootstrap()
	boot.StaticResources = &bootstrapv3.Bootstrap_StaticResources{
		Listeners: all.listeners,
		Clusters:  append([]*clusterv3.Cluster{b.serviceCluster()}, all.clusters...),
	}
	return b.file(boot, "Envoy's whole configuration, without xDS. Make it again after a change of countersign's.")
}

func (b *Builder) bootstrap() *bootstrapv3.Bootstrap {
	admin := b.anyAddress(b.c.Envoy.Admin)
	if pipe := admin.GetPipe(); pipe != nil {
		pipe.Mode = 0o600 // or the umask says who may stop Envoy, and a socket that anybody can write to ends the next start
	}
	return &bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: b.c.Node, Cluster: "countersign"},
		Admin:           &bootstrapv3.Admin{Address: admin},
		OverloadManager: b.overload(),
	}
}

func (b *Builder) anyAddress(a config.Address) *corev3.Address {
	if path, ok := a.Unix(); ok {
		return pipeAddress(path)
	}
	return b.socketAddress(string(a))
}

// overload has Envoy refuse rather than be killed: past the connections it accepts none, near the heap's end it gives
// memory back and then answers 503.
func (b *Builder) overload() *overloadv3.OverloadManager {
	const connections, heap = "envoy.resource_monitors.global_downstream_max_connections", "envoy.resource_monitors.fixed_heap"
	monitor := func(name string, m Message) *overloadv3.ResourceMonitor {
		return &overloadv3.ResourceMonitor{Name: name, ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: b.Pack(m)}}
	}
	action := func(name string, at float64) *overloadv3.OverloadAction {
		return &overloadv3.OverloadAction{Name: name, Triggers: []*overloadv3.Trigger{{
			Name:         heap,
			TriggerOneof: &overloadv3.Trigger_Threshold{Threshold: &overloadv3.ThresholdTrigger{Value: at}},
		}}}
	}
	return &overloadv3.OverloadManager{
		RefreshInterval: seconds(250 * time.Millisecond),
		ResourceMonitors: []*overloadv3.ResourceMonitor{
			monitor(connections, &connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: maxConnections}),
			monitor(heap, &heapv3.FixedHeapConfig{MaxHeapSizeBytes: maxHeap}),
		},
		Actions: []*overloadv3.OverloadAction{
			action("envoy.overload_actions.shrink_heap", 0.90),
			action("envoy.overload_actions.stop_accepting_requests", 0.95),
		},
	}
}

// serviceOverTCP reaches this service over the network: Envoy proves itself, and verifies whom it asks.
func (b *Builder) serviceOverTCP(c *clusterv3.Cluster) {
	host, _, err := net.SplitHostPort(string(b.c.Listen.Envoy))
	if err != nil {
		b.Fail(fmt.Errorf("listen.envoy %q: %w", b.c.Listen.Envoy, err))
		return
	}
	c.LoadAssignment = endpoint(ServiceCluster, b.socketAddress(string(b.c.Listen.Envoy)))
	kind := tlsv3.SubjectAltNameMatcher_IP_ADDRESS
	context := &tlsv3.UpstreamTlsContext{CommonTlsContext: b.commonTLS("h2")}
	if net.ParseIP(host) == nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		c.DnsLookupFamily = clusterv3.Cluster_V4_PREFERRED
		kind, context.Sni = tlsv3.SubjectAltNameMatcher_DNS, host
	}
	b.certificate(context.CommonTlsContext, "", envoyCertificate, envoyKey)
	b.authority(context.CommonTlsContext, "", envoyRoots, []*tlsv3.SubjectAltNameMatcher{sanMatcher(kind, host)})
	c.TransportSocket = b.transportSocket(context)
}

// file writes boot as YAML.
func (b *Builder) file(boot *bootstrapv3.Bootstrap, comment string) ([]byte, error) {
	b.valid(boot)
	if b.err != nil {
		return nil, fmt.Errorf("make an Envoy file of %s: %w", b.c.File(), b.err)
	}
	return writeYAML(boot, comment)
}

// writeYAML writes m as people write Envoy's files. The order is that of the fields in the proto definitions.
func writeYAML(m proto.Message, comment string) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write %T as JSON: %w", m, err)
	}
	var doc yaml.Node // JSON is YAML, and a node keeps the order of its keys
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("read %T as YAML: %w", m, err)
	}
	explicit(&doc)
	doc.HeadComment = "# " + comment
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, fmt.Errorf("write %T as YAML: %w", m, err)
	}
	return out.Bytes(), nil
}

// explicit writes nodes in block style, and says failure_mode_allow: false where it counts: it is the default, and what
// an auditor looks for.
func explicit(n *yaml.Node) {
	n.Style = 0
	if n.Tag == "!!str" && slices.Contains([]string{"y", "n", "yes", "no", "on", "off"}, strings.ToLower(n.Value)) {
		n.Style = yaml.DoubleQuotedStyle // Envoy reads YAML 1.1, to which these are no text
	}
	if n.Kind == yaml.MappingNode && len(n.Content) > 1 {
		switch n.Content[1].Value {
		case typeURL + "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor", typeURL + "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", typeURL + "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
			typeURL + "envoy.extensions.filters.network.ext_proc.v3.NetworkExternalProcessor":
			n.Content = append(n.Content,
				&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "failure_mode_allow"},
				&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: "false"})
		}
	}
	for _, child := range n.Content {
		explicit(child)
	}
}

const typeURL = "type.googleapis.com/"
