package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/countersign/countersign/extproc/extproctest"
)

// The PostgreSQL lane is measured by pgbench -S with 8 clients, in turns: past everything, by Envoy's tcp_proxy, by Envoy to a
// hop that passes bytes on and looks at none (the no-op, with which the gateway is compared), by PgBouncer, and by the gateway,
// with policy, a durable record of every statement and one masked column, with a collector and without one. Each turn has
// connections of its own, whose opening is not counted.
const (
	postgresClients = 8
	postgresRows    = 100_000 // of pgbench_accounts
)

// postgresLane is one way to the server.
type postgresLane struct {
	name, address, password string
	mode                    string // of pgbench's --protocol
	gateway                 *benchGateway
	floor                   string

	rates []float64
	late  []time.Duration
	cpu   map[string]float64
	done  float64
}

// BenchmarkPostgres prints a table of transactions a second, and what a large answer and a session that rests cost.
func BenchmarkPostgres(b *testing.B) {
	p := startPostgresParts(b)
	lanes := p.lanes()
	if *benchLanes != "" {
		only := regexp.MustCompile(*benchLanes)
		kept := lanes[:0]
		for _, l := range lanes {
			if only.MatchString(l.name + ", " + l.mode) {
				kept = append(kept, l)
			}
		}
		lanes = kept
	}
	for _, l := range lanes { // warm up
		p.pgbench(b, l, time.Second)
	}
	var memory string
	if *benchLatency {
		memory = p.resting(b) + "\n" + p.large(b)
	}
	if *benchProfile != "" {
		defer profileGateways(b, []*benchLane{{gateway: p.without}, {gateway: p.with}})()
	}
	b.ResetTimer()
	for range *benchRounds {
		for _, l := range lanes {
			p.turn(b, l)
		}
	}
	fmt.Fprintln(os.Stdout, postgresTable(lanes))
	fmt.Fprintln(os.Stdout, memory)
	b.ReportMetric(0, "ns/op")
}

func postgresTable(lanes []*postgresLane) string {
	var out strings.Builder
	fmt.Fprintf(&out, "\npgbench -S, %d clients, median of %d turns; processor time in µs a transaction\n\n| lane | protocol | transactions/s | of the no-op's | Envoy | countersign | collector | after |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n", postgresClients, *benchRounds)
	for _, l := range lanes {
		var floor, late string
		for _, f := range lanes {
			if f.name == l.floor && f.mode == l.mode {
				floor = fmt.Sprintf("%.2f", median(l.rates)/median(f.rates))
			}
		}
		if l.gateway != nil {
			late = median(l.late).Round(10 * time.Millisecond).String()
		}
		each := func(column string) float64 { return l.cpu[column] / l.done * 1e6 }
		fmt.Fprintf(&out, "| %s | %s | %.0f | %s | %.0f | %.0f | %.0f | %s |\n", l.name, l.mode, median(l.rates), floor, each(columnEnvoy), each(columnGateway), each(columnCollector), late)
	}
	return out.String()
}

// postgresParts are the server and all that stands before it.
type postgresParts struct {
	server        *extproctest.Postgres
	token         string
	proxy, hop    string // addresses of Envoy's tcp_proxy, and of that before the no-op
	bouncer       string
	without, with *benchGateway
}

func startPostgresParts(b *testing.B) *postgresParts {
	b.Helper()
	benchProcesses = nil
	p := &postgresParts{server: extproctest.StartPostgres(b, extproctest.PostgresConfig{
		Lines: []string{"max_connections = 500", "shared_buffers = 256MB"},
		SQL:   "CREATE ROLE app LOGIN PASSWORD 'correct horse';\nCREATE DATABASE bench OWNER app;",
	})}
	bin, err := extproctest.FindPostgres()
	if err != nil {
		b.Fatal(err)
	}
	fill := exec.CommandContext(b.Context(), filepath.Join(bin, "pgbench"), "-i", "-q", "-h", p.server.Dir, "-p", strconv.Itoa(p.server.Port), "-U", "postgres", "bench")
	if out, err := fill.CombinedOutput(); err != nil {
		b.Fatalf("pgbench: %v\n%s", err, out)
	}
	p.server.SQL("bench", "GRANT ALL ON ALL TABLES IN SCHEMA public TO app; CREATE TABLE large AS SELECT i AS id, 'DE' || i AS iban, repeat('x', 1000) AS text FROM generate_series(1, 200000) i; GRANT SELECT ON large TO app; VACUUM ANALYZE;")
	p.floors(b)
	issuer := extproctest.StartIssuer(b, extproctest.IssuerOptions{})
	p.token = issuer.Token(nil)
	collector, evidence := startBenchCollector(b, true)
	benchProcesses = append(benchProcesses, benchProcess{columnCollector, collector.PID()})
	p.without, p.with = p.start(b, issuer, "{}"), p.start(b, issuer, evidence)
	return p
}

const postgresRules = `package rules.bench

allow contains {"id": "reads"} if input.postgres.access in ["read", "session", "transaction"]

ask contains {"id": "bulk", "reason": "writes without WHERE need a person", "approvers": ["dba"]} if {
	input.postgres.access == "write"
	not input.postgres.has_where
}

deny contains {"id": "schema", "reason": "no changes of definitions"} if input.postgres.access == "schema"

redact contains {"column": "public.pgbench_accounts.abalance"} if not "finance" in input.principal.groups

redact contains {"column": "public.large.iban"}
`

func (p *postgresParts) start(b *testing.B, issuer *extproctest.Issuer, evidence string) *benchGateway {
	b.Helper()
	address := extproctest.FreeAddress(b)
	g := startBenchGatewayOf(b, issuer, evidence, fmt.Sprintf("  - {name: bench, kind: postgres, listen: {address: %q}, target: \"postgres://%s\", roles: {app: {password_file: ./secret}}, limits: {sessions: 1000}}\n", address, p.server.Address),
		map[string]string{"bench": address}, map[string]string{"policies/bench.rego": postgresRules, "secret": "correct horse\n"})
	g.count(b)
	return g
}

// floors starts Envoy's tcp_proxy before the server, another before a hop that looks at nothing, and PgBouncer.
func (p *postgresParts) floors(b *testing.B) {
	b.Helper()
	hop, err := net.Listen("unix", filepath.Join(extproctest.Dir(b), "hop.sock"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = hop.Close() })
	go func() {
		for {
			from, err := hop.Accept()
			if err != nil {
				return
			}
			go passBytes(from, p.server.Address)
		}
	}()
	p.proxy, p.hop = extproctest.FreeAddress(b), extproctest.FreeAddress(b)
	endpoint := func(address string) string {
		host, port, _ := strings.Cut(address, ":")
		return fmt.Sprintf("socket_address: {address: %s, port_value: %s}", host, port)
	}
	var listeners, clusters strings.Builder
	for name, x := range map[string]struct{ listen, to string }{"proxy": {p.proxy, endpoint(p.server.Address)}, "hop": {p.hop, fmt.Sprintf("pipe: {path: %q}", hop.Addr())}} {
		fmt.Fprintf(&listeners, passListener, name, endpoint(x.listen), name, name)
		fmt.Fprintf(&clusters, "  - {name: %s, type: STATIC, load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: {%s}}}]}]}}\n", name, name, x.to)
	}
	startBenchEnvoy(b, fmt.Sprintf("static_resources:\n  listeners:\n%s  clusters:\n%s", listeners.String(), clusters.String()))
	p.bouncer = startPgBouncer(b, p.server)
}

const passListener = `  - name: %s
    address: {%s}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: %s, cluster: %s}
`

// passBytes is the no-op: it copies what comes.
func passBytes(from net.Conn, address string) {
	defer from.Close()
	to, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(onlyWriter{from}, onlyReader{to})
		_ = from.Close()
	}()
	_, _ = io.Copy(onlyWriter{to}, onlyReader{from})
	_ = to.Close()
	<-done
}

// onlyReader and onlyWriter keep io.Copy from having the kernel move the bytes: a hop that looks at them cannot.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// startPgBouncer runs PgBouncer in session mode.
func startPgBouncer(b *testing.B, server *extproctest.Postgres) string {
	b.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			b.Fatal("there is no pgbouncer; bring it with: apt-get install pgbouncer")
		}
	}
	address, dir := extproctest.FreeAddress(b), extproctest.Dir(b)
	host, port, _ := strings.Cut(address, ":")
	users := filepath.Join(dir, "users.txt")
	config := filepath.Join(dir, "pgbouncer.ini")
	for name, text := range map[string]string{
		users:  "\"app\" \"correct horse\"\n",
		config: fmt.Sprintf("[databases]\nbench = host=127.0.0.1 port=%d\n[pgbouncer]\nlisten_addr = %s\nlisten_port = %s\nunix_socket_dir =\npool_mode = session\nauth_type = scram-sha-256\nauth_file = %s\nmax_client_conn = 200\ndefault_pool_size = 50\n", server.Port, host, port, users),
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	as, err := extproctest.Unprivileged() // it refuses to be root, as the server does
	if err == nil && as != nil {
		err = os.Chown(dir, int(as.Uid), int(as.Gid))
	}
	if err != nil {
		b.Fatal(err)
	}
	extproctest.Start(b, extproctest.Command{Name: "pgbouncer", Path: path, Args: []string{config}, Dir: dir, As: as})
	extproctest.Await(b, "pgbouncer", 10*time.Second, func(context.Context) error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	return address
}

func (p *postgresParts) lanes() (lanes []*postgresLane) {
	const password, noop = "correct horse", "no-op hop"
	for _, mode := range []string{"prepared", "extended", "simple"} {
		lanes = append(lanes,
			&postgresLane{name: "direct", address: p.server.Address, password: password, mode: mode},
			&postgresLane{name: "Envoy tcp_proxy", address: p.proxy, password: password, mode: mode},
			&postgresLane{name: noop, address: p.hop, password: password, mode: mode},
			&postgresLane{name: "PgBouncer, session mode", address: p.bouncer, password: password, mode: mode},
			&postgresLane{name: "countersign", address: p.without.addresses["bench"], password: p.token, mode: mode, gateway: p.without, floor: noop},
			&postgresLane{name: "countersign, collector", address: p.with.addresses["bench"], password: p.token, mode: mode, gateway: p.with, floor: noop},
		)
	}
	for _, l := range lanes {
		l.cpu = map[string]float64{}
	}
	return lanes
}

func (p *postgresParts) turn(b *testing.B, l *postgresLane) {
	b.Helper()
	before := processorTime(b)
	during := cmp.Or(*benchTurn, time.Second).Round(time.Second)
	rate := p.pgbench(b, l, max(during, time.Second))
	l.rates = append(l.rates, rate)
	l.done += rate * max(during, time.Second).Seconds()
	if l.gateway != nil {
		l.late = append(l.late, l.gateway.settle(b))
	}
	for column, spent := range processorTime(b) {
		l.cpu[column] += spent - before[column]
	}
}

var transactionsASecond = regexp.MustCompile(`tps = ([0-9.]+) \(without initial`)

// pgbench is the lane's transactions a second.
func (p *postgresParts) pgbench(b *testing.B, l *postgresLane, during time.Duration) float64 {
	b.Helper()
	bin, err := extproctest.FindPostgres()
	if err != nil {
		b.Fatal(err)
	}
	host, port, _ := strings.Cut(l.address, ":")
	cmd := exec.CommandContext(b.Context(), filepath.Join(bin, "pgbench"), "-n", "-S", "-M", l.mode, "-c", strconv.Itoa(postgresClients), "-j", "2", "-T", strconv.Itoa(int(during.Seconds())))
	cmd.Env = append(os.Environ(), "PGHOST="+host, "PGPORT="+port, "PGUSER=app", "PGDATABASE=bench", "PGPASSWORD="+l.password, "PGSSLMODE=disable") //nolint:forbidigo // pgbench needs its path
	out, err := cmd.CombinedOutput()
	found := transactionsASecond.FindSubmatch(out)
	if err != nil || found == nil {
		b.Fatalf("%s: pgbench: %v\n%s", l.name, err, out)
	}
	rate, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return rate
}

// large reads 200 MB of rows, of which one column is masked, and tells how fast, and how much memory the gateway took beside what it had.
func (p *postgresParts) large(b *testing.B) string {
	b.Helper()
	var hop, through []float64
	bytesOf := func(address, password string) float64 {
		n, took := p.readAll(b, address, password, "SELECT id, iban, text FROM large")
		return float64(n) / took.Seconds() / 1e6
	}
	base := memoryOf(b, p.without.PID(), "VmRSS")
	resetPeak(b, p.without.PID())
	for range 3 {
		hop = append(hop, bytesOf(p.hop, "correct horse"))
		through = append(through, bytesOf(p.without.addresses["bench"], p.token))
	}
	grown := memoryOf(b, p.without.PID(), "VmHWM") - base
	return fmt.Sprintf("an answer of 200 MB with one masked column: %.0f MB/s, %.2f of the no-op's %.0f MB/s (target: 150 MB/s or 0.6, whichever is lower); memory grows by %.1f MiB (target: 16)",
		median(through), median(through)/median(hop), median(hop), float64(grown)/(1<<20))
}

// readAll runs a query in a session of its own, and counts what comes.
func (p *postgresParts) readAll(b *testing.B, address, password, query string) (n int64, took time.Duration) {
	b.Helper()
	c := p.connect(b, address, password)
	defer c.Close()
	f := pgproto3.NewFrontend(c, c)
	f.Send(&pgproto3.Query{String: query})
	begin := time.Now()
	if err := f.Flush(); err != nil {
		b.Fatal(err)
	}
	buffer := make([]byte, 256<<10)
	var tail []byte
	for {
		m, err := c.Read(buffer)
		n += int64(m)
		tail = append(tail, buffer[max(0, m-6):m]...)
		tail = tail[max(0, len(tail)-6):]
		if bytes.Equal(tail, []byte{'Z', 0, 0, 0, 5, 'I'}) {
			return n, time.Since(begin)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// connect opens a session as the agent does.
func (p *postgresParts) connect(b *testing.B, address, password string) net.Conn {
	b.Helper()
	host, port, _ := strings.Cut(address, ":")
	c, err := pgconn.Connect(b.Context(), fmt.Sprintf("host=%s port=%s user=app dbname=bench sslmode=disable password='%s'", host, port, password))
	if err != nil {
		b.Fatal(err)
	}
	taken, err := c.Hijack()
	if err != nil {
		b.Fatal(err)
	}
	return taken.Conn
}

// resting opens sessions that do nothing, and tells what each costs.
func (p *postgresParts) resting(b *testing.B) string {
	b.Helper()
	const many = 200
	base := memoryOf(b, p.without.PID(), "VmRSS")
	for range many {
		c := p.connect(b, p.without.addresses["bench"], p.token)
		defer c.Close()
	}
	return fmt.Sprintf("%d sessions that rest: %.0f KB each (target: 200)", many, float64(memoryOf(b, p.without.PID(), "VmRSS")-base)/many/1e3)
}

// memoryOf is a line of /proc/PID/status, in bytes.
func memoryOf(b *testing.B, pid int, name string) int64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n << 10
		}
	}
	b.Fatalf("/proc/%d/status has no %s", pid, name)
	return 0
}

// resetPeak has the kernel forget the most memory that a process has had.
func resetPeak(b *testing.B, pid int) {
	b.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		b.Fatal(err)
	}
}
