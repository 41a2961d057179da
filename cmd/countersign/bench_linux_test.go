package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

// The HTTP lane is measured against Envoy's own floor: the same Envoy with no filter, and with services that allow
// everything at once. "as generated" are those services behind the configuration that countersign gives Envoy: what the
// access log, the peer's address, timers and limits cost whatever countersign does. All lanes run in turns in one run, so
// that what is compared was measured within seconds of each other; the ratios are what to read. Where something else uses
// the machine, processor time is steadier than requests a second.
const (
	benchConnections = 16
	benchRounds      = 5
	benchTurn        = 1500 * time.Millisecond
	benchRate        = 1000 // requests a second, for the latencies
)

var (
	benchLanes   = flag.String("lanes", "", "measure only lanes whose name matches this regular expression")
	benchLatency = flag.Bool("lanes.latency", true, "measure latencies too")
	benchData    = flag.String("lanes.data", "", "keep the gateway's data in this directory; in one of tmpfs a sync costs nothing")
	benchProfile = flag.String("lanes.profile", "", "write a CPU profile of the gateway to this file")
)

// benchLane is one way through Envoy.
type benchLane struct {
	name    string
	address string
	path    string
	floor   string // the lane that it is compared with
	target  float64
	rates   []float64
	cpu     map[string]float64 // seconds of processor time by process
	done    int
}

// BenchmarkHTTPLane prints a table of requests a second and of latencies.
func BenchmarkHTTPLane(b *testing.B) {
	lanes := startLanes(b)
	if *benchLanes != "" {
		only := regexp.MustCompile(*benchLanes)
		lanes = slices.DeleteFunc(lanes, func(l *benchLane) bool { return !only.MatchString(l.name) })
	}
	if *benchProfile != "" {
		defer profileGateway(b)()
	}
	b.ResetTimer()
	for range benchRounds {
		for _, l := range lanes {
			before := processorTime()
			rate := throughput(b, l)
			for name, spent := range processorTime() {
				if l.cpu == nil {
					l.cpu = map[string]float64{}
				}
				l.cpu[name] += spent - before[name]
			}
			l.rates = append(l.rates, rate)
		}
	}
	var out strings.Builder
	writeRates(&out, lanes)
	if *benchLatency {
		writeLatencies(b, &out, lanes)
	}
	fmt.Fprintln(os.Stdout, out.String()) // b.Log keeps ten lines
	b.ReportMetric(0, "ns/op")
}

// writeRates tells of requests a second, and of the processor time of one.
func writeRates(out *strings.Builder, lanes []*benchLane) {
	fmt.Fprintf(out, "\n%d connections, %d cores, median of %d turns of %v each; processor time in µs a request\n\n", benchConnections, runtime.NumCPU(), benchRounds, benchTurn)
	fmt.Fprintf(out, "| lane | requests/s | of its floor | target | Envoy | countersign | load, target, no-op service | all, of its floor's |\n")
	fmt.Fprintf(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	rate, sum := map[string]float64{}, map[string]float64{}
	for _, l := range lanes {
		each := func(name string) float64 { return l.cpu[name] / float64(l.done) * 1e6 }
		envoy, service, rest := each("floor's Envoy")+each("generated Envoy")+each("its Envoy"), each("countersign"), each("load, target and no-op service")
		rate[l.name], sum[l.name] = median(l.rates), envoy+service+rest
		var floor, target, cost string
		if rate[l.floor] > 0 {
			floor = fmt.Sprintf("%.2f", rate[l.name]/rate[l.floor])
			cost = fmt.Sprintf("%.2f", sum[l.name]/sum[l.floor])
		}
		if l.target > 0 {
			target = fmt.Sprintf("≥ %.2f", l.target)
		}
		fmt.Fprintf(out, "| %s | %.0f | %s | %s | %.0f | %.0f | %.0f | %s |\n", l.name, rate[l.name], floor, target, envoy, service, rest, cost)
	}
}

// writeLatencies tells what the lanes of countersign add at a fixed rate.
func writeLatencies(b *testing.B, out *strings.Builder, lanes []*benchLane) {
	b.Helper()
	fmt.Fprintf(out, "\nlatency at %d requests/s\n\n| lane | p50 | p99 | p99.9 | added p50 | p99 | p99.9 |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n", benchRate)
	var base [3]time.Duration
	for i, l := range lanes {
		if i > 0 && !strings.HasPrefix(l.name, "countersign") && l.name != "no-op ext_proc, request only" {
			continue
		}
		q := latencies(b, l, 8*time.Second)
		fmt.Fprintf(out, "| %s | %v | %v | %v |", l.name, q[0], q[1], q[2])
		if i == 0 {
			base = q
			fmt.Fprintf(out, " | | |\n")
			continue
		}
		fmt.Fprintf(out, " %v | %v | %v |\n", q[0]-base[0], q[1]-base[1], q[2]-base[2])
	}
}

// profileGateway takes a CPU profile of the gateway until the function that it returns is called.
func profileGateway(b *testing.B) (done func()) {
	b.Helper()
	finished := make(chan struct{})
	seconds := int((benchRounds * benchTurn).Seconds()) - 1
	go func() {
		defer close(finished)
		resp, err := http.Get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", benchPprof, seconds))
		if err != nil {
			b.Error(err)
			return
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil {
			err = os.WriteFile(*benchProfile, text, 0o600)
		}
		if err != nil {
			b.Error(err)
		}
	}()
	return func() { <-finished }
}

func median(v []float64) float64 {
	s := slices.Clone(v)
	slices.Sort(s)
	return s[len(s)/2]
}

// startLanes starts one target, one Envoy for the floors, and one gateway with its Envoy.
func startLanes(b *testing.B) []*benchLane {
	b.Helper()
	target := benchTarget(b)
	floor := startFloor(b, target)
	generated := startGeneratedFloor(b, target)
	gateway, token := startBenchGateway(b, target)
	benchToken = token
	return []*benchLane{
		{name: "Envoy alone", address: floor["alone"], path: "/1k"},
		{name: "no-op ext_authz", address: floor["authz"], path: "/1k"},
		{name: "no-op ext_authz, as generated", address: generated["authz"], path: "/1k", floor: "no-op ext_authz"},
		{name: "countersign ext_authz", address: gateway["authz"], path: "/1k", floor: "no-op ext_authz", target: 0.85},
		{name: "no-op ext_proc, request only", address: floor["head"], path: "/1k"},
		{name: "no-op ext_proc, request only, as generated", address: generated["pass"], path: "/1k", floor: "no-op ext_proc, request only"},
		{name: "countersign ext_proc, request only", address: gateway["pass"], path: "/1k", floor: "no-op ext_proc, request only", target: 0.85},
		{name: "no-op ext_proc, duplex, 1 KB", address: floor["duplex"], path: "/1k"},
		{name: "no-op ext_proc, duplex, 1 KB, as generated", address: generated["redact"], path: "/1k", floor: "no-op ext_proc, duplex, 1 KB"},
		{name: "countersign ext_proc, inspecting 1 KB", address: gateway["inspect"], path: "/1k", floor: "no-op ext_proc, duplex, 1 KB", target: 0.80},
		{name: "countersign ext_proc, redacting 1 KB", address: gateway["redact"], path: "/1k", floor: "no-op ext_proc, duplex, 1 KB", target: 0.80},
		{name: "no-op ext_proc, duplex, 10 KB", address: floor["duplex"], path: "/10k"},
		{name: "countersign ext_proc, redacting 10 KB", address: gateway["redact"], path: "/10k", floor: "no-op ext_proc, duplex, 10 KB", target: 0.80},
	}
}

var benchToken, benchPprof string

// benchTarget answers with JSON of two sizes.
func benchTarget(b *testing.B) string {
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
func serveFloor(b *testing.B) (socket string) {
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
	benchProcesses["generated Envoy"] = extproctest.StartEnvoy(b, extproctest.EnvoyConfig{Bootstrap: string(file), Concurrency: 2}).PID()
	return addresses
}

// benchResources are one resource for each way through, as YAML.
func benchResources(b *testing.B, target string) (resources string, addresses map[string]string) {
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
	socket := serveFloor(b)
	host, port, _ := net.SplitHostPort(target)
	addresses := map[string]string{}
	var listeners strings.Builder
	for _, name := range []string{"alone", "authz", "head", "duplex"} {
		addresses[name] = extproctest.FreeAddress(b)
		_, listenPort, _ := net.SplitHostPort(addresses[name])
		fmt.Fprintf(&listeners, floorListener, name, listenPort, floorFilters[name])
	}
	bootstrap := fmt.Sprintf(floorBootstrap, listeners.String(), host, port, socket)
	envoy := extproctest.StartEnvoy(b, extproctest.EnvoyConfig{Bootstrap: bootstrap, Concurrency: 2})
	benchProcesses["floor's Envoy"] = envoy.PID()
	benchProcesses["load, target and no-op service"] = os.Getpid()
	return addresses
}

const floorBootstrap = `
static_resources:
  listeners:
%s
  clusters:
  - name: target
    type: STATIC
    load_assignment: {cluster_name: target, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}
  - name: noop
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: noop, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %q}}}}]}]}
`

const floorListener = `  - name: %s
    address: {socket_address: {address: 127.0.0.1, port_value: %s}}
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
	"alone": "",
	"authz": `          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              grpc_service: {envoy_grpc: {cluster_name: noop}}
`,
	"head":   fmt.Sprintf(floorProc, "response_header_mode: SKIP"),
	"duplex": fmt.Sprintf(floorProc, "response_header_mode: SEND, response_body_mode: FULL_DUPLEX_STREAMED, response_trailer_mode: SEND"),
}

const floorProc = `          - name: envoy.filters.http.ext_proc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {envoy_grpc: {cluster_name: noop}}
              processing_mode: {request_header_mode: SEND, request_body_mode: FULL_DUPLEX_STREAMED, request_trailer_mode: SEND, %s}
`

// startBenchGateway runs the gateway as it ships, without the race detector.
func startBenchGateway(b *testing.B, target string) (addresses map[string]string, token string) {
	b.Helper()
	dir := extproctest.Dir(b)
	binary := filepath.Join(dir, "countersign")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	issuer := extproctest.StartIssuer(b, extproctest.IssuerOptions{})
	token, err := issuer.AgentToken(context.Background(), "agent-1")
	if err != nil {
		b.Fatal(err)
	}
	parts, err := extproctest.NewParts(os.Getenv, io.Discard) //nolint:forbidigo // $ENVOY is for whoever runs the benchmarks
	if err != nil {
		b.Fatal(err)
	}
	envoy, err := parts.FindEnvoy(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	admin := extproctest.FreeAddress(b)
	resources, addresses := benchResources(b, target)
	data := "./var"
	if *benchData != "" {
		data = filepath.Join(*benchData, "countersign-bench-"+strconv.Itoa(os.Getpid()))
		b.Cleanup(func() { _ = os.RemoveAll(data) })
	}
	conf := fmt.Sprintf("node: bench\ndata: %q\nlisten: {admin: %q}\nenvoy: {path: %q, concurrency: 2}\nagents: [{issuer: %q, audience: [%s]}]\npolicies: ./policies\nresources:\n%s",
		data, admin, envoy, issuer.URL, extproctest.Audience, resources)
	files := map[string]string{
		"countersign.yaml":        conf,
		"policies/plain.rego":     "package rules.plain\n" + benchRules,
		"policies/redacting.rego": "package rules.redacting\n" + benchRules + benchRedact,
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	benchPprof = extproctest.FreeAddress(b)
	p := extproctest.Start(b, extproctest.Command{
		Name: "countersign", Path: binary,
		Args: []string{"serve", "--config", filepath.Join(dir, "countersign.yaml"), "--envoy", "--pprof", benchPprof},
	})
	extproctest.Await(b, "readiness", 30*time.Second, func(context.Context) error {
		if code, text := statusOf("http://" + admin + "/readyz"); code != 200 {
			return fmt.Errorf("%s\n%s", text, p.Log())
		}
		return nil
	})
	benchProcesses["countersign"] = p.PID()
	benchProcesses["its Envoy"] = childOf(b, p.PID())
	return addresses, token
}

// repeater is one connection that asks for one thing again and again. It parses no more than it must.
type repeater struct {
	conn    net.Conn
	reader  *bufio.Reader
	request []byte
}

func dialLane(l *benchLane) (*repeater, error) {
	conn, err := net.Dial("tcp", l.address)
	if err != nil {
		return nil, err
	}
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: application/json\r\nAuthorization: Bearer %s\r\n\r\n", l.path, l.address, benchToken)
	return &repeater{conn: conn, reader: bufio.NewReaderSize(conn, 32<<10), request: []byte(request)}, nil
}

func (c *repeater) once() error {
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	status, err := c.reader.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.Contains(status, []byte(" 200 ")) {
		return fmt.Errorf("the answer is %q", status)
	}
	length, chunked := -1, false
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("content-length: ")); ok {
			if length, err = strconv.Atoi(string(v)); err != nil {
				return err
			}
		}
		chunked = chunked || bytes.Equal(line, []byte("transfer-encoding: chunked"))
	}
	if !chunked {
		_, err = c.reader.Discard(length)
		return err
	}
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 64)
		if err != nil {
			return err
		}
		if _, err := c.reader.Discard(int(n) + 2); err != nil || n == 0 {
			return err
		}
	}
}

// throughput asks as fast as it can on all connections for one turn.
func throughput(b *testing.B, l *benchLane) float64 {
	b.Helper()
	var wg sync.WaitGroup
	counts := make([]int, benchConnections)
	errs := make([]error, benchConnections)
	begin := time.Now()
	end := begin.Add(benchTurn)
	for i := range benchConnections {
		wg.Go(func() {
			c, err := dialLane(l)
			if err != nil {
				errs[i] = err
				return
			}
			defer c.conn.Close()
			for time.Now().Before(end) {
				if err := c.once(); err != nil {
					errs[i] = err
					return
				}
				counts[i]++
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	total := 0
	for i := range counts {
		if errs[i] != nil {
			b.Fatalf("%s: %v", l.name, errs[i])
		}
		total += counts[i]
	}
	l.done += total
	return float64(total) / took.Seconds()
}

// benchProcesses are the processes whose processor time is told, by name.
var benchProcesses = map[string]int{}

// processorTime is the processor time that each process has used, in seconds (proc(5): fields 14 and 15 of stat).
func processorTime() map[string]float64 {
	spent := map[string]float64{}
	for name, pid := range benchProcesses {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		user, _ := strconv.ParseFloat(fields[11], 64)
		system, _ := strconv.ParseFloat(fields[12], 64)
		spent[name] = (user + system) / 100
	}
	return spent
}

// childOf finds the process that pid started.
func childOf(b testing.TB, pid int) int {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err == nil && len(strings.Fields(string(text))) == 0 {
		var names []string
		names, err = filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		for _, name := range names {
			more, _ := os.ReadFile(name)
			text = append(text, more...)
		}
	}
	children := strings.Fields(string(text))
	if err != nil || len(children) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(children[0])
	return n
}

// latencies asks at a fixed rate, whatever the answers take, and returns p50, p99 and p99.9 from when each request was due.
func latencies(b *testing.B, l *benchLane, during time.Duration) [3]time.Duration {
	b.Helper()
	due := make(chan time.Time, benchRate)
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	for range benchConnections {
		c, err := dialLane(l)
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			defer c.conn.Close()
			for at := range due {
				if err := c.once(); err != nil {
					b.Errorf("%s: %v", l.name, err)
					return
				}
				took := time.Since(at)
				mu.Lock()
				all = append(all, took)
				mu.Unlock()
			}
		})
	}
	// Go's timers wake an idle process to the millisecond, which is more than what is measured.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin := time.Now()
	n := int(during.Seconds() * benchRate)
	for i := range n {
		at := begin.Add(time.Duration(i) * time.Second / benchRate)
		if d := time.Until(at); d > 0 {
			_ = syscall.Nanosleep(&syscall.Timespec{Nsec: int64(d)}, nil)
		}
		due <- at
	}
	close(due)
	wg.Wait()
	slices.Sort(all)
	q := func(f float64) time.Duration {
		return all[min(len(all)-1, int(f*float64(len(all))))].Round(time.Microsecond)
	}
	return [3]time.Duration{q(0.5), q(0.99), q(0.999)}
}
