package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

// benchTarget answers with JSON of two sizes.
func benchTarget(b testing.TB) string {
	b.Helper()
	mux := http.NewServeMux()
	for path, size := range map[string]int{"/1k": 1 << 10, "/10k": 10 << 10} {
		body := benchBody(size)
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(body)
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	b.Cleanup(func() { _ = server.Close() })
	return l.Addr().String()
}

func benchBody(size int) []byte {
	var w bytes.Buffer
	w.WriteString(`{"items":[`)
	for i := 0; w.Len() < size-180; i++ {
		if i > 0 {
			w.WriteByte(',')
		}
		fmt.Fprintf(&w, `{"id":%d,"customer":{"name":"Ada Example","ssn":"219-09-9999"},"card":{"number":"4111111111111111","brand":"visa"},"amount":%d.5,"note":"paid in full"}`, i, i*7)
	}
	w.WriteString(`]}`)
	return w.Bytes()
}

// serveFloor serves what allows everything on a socket.
func serveFloor(b testing.TB) (socket string) {
	b.Helper()
	socket = filepath.Join(extproctest.Dir(b), "noop.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxConcurrentStreams(1 << 20))
	extproctest.RegisterFloor(server)
	go func() { _ = server.Serve(l) }()
	b.Cleanup(server.Stop)
	return socket
}

// startGeneratedFloor runs an Envoy with the configuration that countersign makes, and the service that allows everything
// in countersign's place.
func startGeneratedFloor(b *testing.B, target string) map[string]string {
	b.Helper()
	resources, addresses := benchResources(b, target)
	path := filepath.Join(extproctest.Dir(b), "countersign.yaml")
	c, err := config.Parse(path, fmt.Appendf(nil, "node: floor\ndata: ./var\nlisten: {envoy: %q}\nagents: [{issuer: \"http://127.0.0.1:9\", audience: [none]}]\npolicies: .\nresources:\n%s", "unix:"+serveFloor(b), resources))
	if err != nil {
		b.Fatal(err)
	}
	file, err := xds.Static(c)
	if err != nil {
		b.Fatal(err)
	}
	startBenchEnvoy(b, string(file))
	return addresses
}

// startBenchEnvoy runs an Envoy whose processor time is told.
func startBenchEnvoy(b *testing.B, bootstrap string) {
	b.Helper()
	envoy := extproctest.StartEnvoy(b, extproctest.EnvoyConfig{Bootstrap: bootstrap, Concurrency: 2})
	benchProcesses = append(benchProcesses, benchProcess{columnEnvoy, envoy.PID()})
}

// benchResources are one resource for each way through, as YAML.
func benchResources(b testing.TB, target string) (resources string, addresses map[string]string) {
	b.Helper()
	addresses = map[string]string{}
	for name, more := range map[string]string{
		"authz": "policy: plain, attach: ext_authz", "pass": "policy: plain, response: pass", "inspect": "policy: plain", "redact": "policy: redacting",
	} {
		addresses[name] = extproctest.FreeAddress(b)
		resources += fmt.Sprintf("  - {name: %s, kind: http, listen: {address: %q}, target: \"http://%s\", %s}\n", name, addresses[name], target, more)
	}
	return resources, addresses
}

// startFloor runs an Envoy with a listener for each floor, and the service that allows everything.
func startFloor(b *testing.B, target string) map[string]string {
	b.Helper()
	ways := []string{"alone", "authz", "head", "duplex"}
	var clusters strings.Builder
	add := func(name, protocol, endpoint string) {
		fmt.Fprintf(&clusters, floorCluster, name, protocol, name, endpoint)
	}
	socketAddress := func(address string) string {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			b.Fatal(err)
		}
		return fmt.Sprintf("socket_address: {address: %s, port_value: %s}", host, port)
	}
	add("target", "http_protocol_options", socketAddress(target))
	add("noop", "http2_protocol_options", fmt.Sprintf("pipe: {path: %q}", serveFloor(b)))
	if *benchPeer != "" {
		ways = append(ways, "peer")
		add("peer", "http2_protocol_options", socketAddress(*benchPeer))
	}
	addresses := map[string]string{}
	var listeners strings.Builder
	for _, name := range ways {
		addresses[name] = extproctest.FreeAddress(b)
		fmt.Fprintf(&listeners, floorListener, name, socketAddress(addresses[name]), floorFilters[name])
	}
	startBenchEnvoy(b, fmt.Sprintf("static_resources:\n  listeners:\n%s  clusters:\n%s", listeners.String(), clusters.String()))
	return addresses
}

const floorCluster = `  - name: %s
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {%s: {}}
    load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: {%s}}}]}]}
`

const floorListener = `  - name: %s
    address: {%s}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: floor
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: target}}]}]}
          http_filters:
%s          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`

var floorFilters = map[string]string{
	"alone":  "",
	"authz":  fmt.Sprintf(floorAuthz, "noop"),
	"peer":   fmt.Sprintf(floorAuthz, "peer"),
	"head":   fmt.Sprintf(floorProc, "response_header_mode: SKIP"),
	"duplex": fmt.Sprintf(floorProc, "response_header_mode: SEND, response_body_mode: FULL_DUPLEX_STREAMED, response_trailer_mode: SEND"),
}

const floorAuthz = `          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              grpc_service: {envoy_grpc: {cluster_name: %s}, timeout: 5s}
`

const floorProc = `          - name: envoy.filters.http.ext_proc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {envoy_grpc: {cluster_name: noop}}
              processing_mode: {request_header_mode: SEND, request_body_mode: FULL_DUPLEX_STREAMED, request_trailer_mode: SEND, %s}
`

// benchGateway is the gateway as it ships, with an Envoy of its own.
type benchGateway struct {
	*extproctest.Process
	addresses map[string]string // of its ways through
	admin     string
	profiles  string
	data      string
	collector bool
}

// startBenchGateway runs the gateway with these keys of evidence, which may name a collector, and the ways through of the HTTP lane.
func startBenchGateway(b testing.TB, target string, issuer *extproctest.Issuer, evidence string) *benchGateway {
	b.Helper()
	resources, addresses := benchResources(b, target)
	return startBenchGatewayOf(b, issuer, evidence, resources, addresses, map[string]string{
		"policies/plain.rego":     "package rules.plain\n" + benchRules,
		"policies/redacting.rego": "package rules.redacting\n" + benchRules + benchRedact,
	})
}

// startBenchGatewayOf runs a gateway with these resources, as YAML, and files.
func startBenchGatewayOf(b testing.TB, issuer *extproctest.Issuer, evidence, resources string, addresses, files map[string]string) *benchGateway {
	b.Helper()
	dir := extproctest.Dir(b)
	parts, err := extproctest.NewParts(os.Getenv, io.Discard) //nolint:forbidigo // $ENVOY is for whoever runs the benchmarks
	if err != nil {
		b.Fatal(err)
	}
	envoy, err := parts.FindEnvoy(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	g := &benchGateway{addresses: addresses, admin: extproctest.FreeAddress(b), profiles: extproctest.FreeAddress(b), data: filepath.Join(dir, "var"), collector: strings.Contains(evidence, "otlp")}
	if *benchData != "" {
		if g.data, err = os.MkdirTemp(*benchData, "countersign-bench-"); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = os.RemoveAll(g.data) })
	}
	files = maps.Clone(files)
	files["countersign.yaml"] = fmt.Sprintf("node: bench\ndata: %q\nlisten: {admin: %q}\nenvoy: {path: %q, concurrency: 2}\nagents: [{issuer: %q, audience: [%s]}]\nevidence: %s\npolicies: ./policies\nresources:\n%s",
		g.data, g.admin, envoy, issuer.URL, extproctest.Audience, evidence, resources)
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	g.Process = extproctest.StartCountersign(b, extproctest.Countersign{
		Path: extproctest.BuildShipped(b), Config: filepath.Join(dir, "countersign.yaml"), Admin: g.admin, Args: []string{"--envoy", "--pprof", g.profiles},
	})
	return g
}

// startBenchCollector runs a collector over TLS, and returns the keys of evidence that send to it.
func startBenchCollector(b testing.TB, forget bool) (c *extproctest.CollectorProcess, evidence string) {
	b.Helper()
	authority := extproctest.NewAuthority(b)
	c = extproctest.StartCollector(b, extproctest.CollectorOptions{Authority: authority, Forget: forget})
	return c, fmt.Sprintf("{otlp: {endpoint: %q, ca_file: %q}}", c.Endpoint(), authority.CAFile)
}

// count has the processor time of the gateway told, and of what it started.
func (g *benchGateway) count(b *testing.B) {
	b.Helper()
	benchProcesses = append(benchProcesses, benchProcess{columnGateway, g.PID()})
	for _, child := range childrenOf(b, g.PID()) {
		column := columnGateway // whatever else it starts does its work
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); strings.HasPrefix(string(name), "envoy") {
			column = columnEnvoy
		}
		benchProcesses = append(benchProcesses, benchProcess{column, child})
	}
}

// settle waits until every operation has ended and the collector has accepted every record, and returns how long that took.
// It has to be so twice in a row, because what ends an operation is a record.
func (g *benchGateway) settle(b testing.TB) time.Duration {
	b.Helper()
	begin := time.Now()
	tick := time.NewTicker(50 * time.Millisecond) // asking costs the gateway's processor time
	defer tick.Stop()
	var since time.Time
	for {
		_, text := get(b, "http://"+g.admin+"/metrics")
		idle := metricOf(b, text, "countersign_operations_open") == 0 && (!g.collector || metricOf(b, text, "countersign_otlp_lag") == 0)
		switch {
		case !idle:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		default:
			return since.Sub(begin)
		}
		if time.Since(begin) > 2*time.Minute {
			b.Fatalf("the gateway is not done with what it was asked two minutes ago:\n%s", text)
		}
		<-tick.C
	}
}

// profileGateways takes CPU profiles of the lanes' gateways until the function that it returns is called.
func profileGateways(b *testing.B, lanes []*benchLane) (done func()) {
	b.Helper()
	seconds := max(1, int(time.Duration(*benchRounds*len(lanes))**benchTurn/time.Second))
	var wg sync.WaitGroup
	for _, g := range gatewaysOf(lanes) {
		wg.Go(func() {
			_, text := get(b, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", g.profiles, seconds))
			name := *benchProfile
			if g.collector {
				name += ".collector"
			}
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				b.Error(err)
			}
		})
	}
	return wg.Wait
}

func gatewaysOf(lanes []*benchLane) (all []*benchGateway) {
	for _, l := range lanes {
		if l.gateway != nil && !slices.Contains(all, l.gateway) {
			all = append(all, l.gateway)
		}
	}
	return all
}

// benchProcess is a process whose processor time is told.
type benchProcess struct {
	column string
	pid    int
}

// The columns of processor time.
const (
	columnEnvoy     = "Envoy"
	columnGateway   = "countersign"
	columnCollector = "collector"
	columnRest      = "load, target and no-op service"
)

var benchProcesses []benchProcess

// processorTime is the processor time that has been used, in seconds, by column. What is idle adds nothing.
func processorTime(b *testing.B) map[string]float64 {
	spent := map[string]float64{}
	for _, p := range benchProcesses {
		spent[p.column] += cpuOf(b, p.pid).Seconds()
	}
	return spent
}

// childrenOf finds the processes that pid started.
func childrenOf(tb testing.TB, pid int) (children []int) {
	tb.Helper()
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range names {
		text, _ := os.ReadFile(name) // a thread may have ended
		for field := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				tb.Fatalf("%s: %v", name, err)
			}
			children = append(children, child)
		}
	}
	return children
}
