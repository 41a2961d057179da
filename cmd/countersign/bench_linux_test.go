package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
)

// The HTTP lane is measured against Envoy's own floor: the same Envoy with no filter, and with services that allow
// everything at once. "as generated" are those services behind the configuration that countersign gives Envoy: what the
// access log, the peer's address, timers and limits cost whatever countersign does. This is what the lanes of countersign are
// compared with. All lanes run in turns in one run, so that what is compared was measured within seconds of each other; the
// ratios are what to read. Where something else uses the machine, processor time is steadier than requests a second.
//
// Two gateways run, one of which sends its evidence to a collector, over TLS; each has its own Envoy and journal. The collector
// decodes what comes and throws it away. What a gateway leaves to be done after a turn is waited for before the next lane's
// turn: operations that Envoy's access log has to end, and records that the collector has to accept. So no lane pays for
// another's. The processor time of that is counted to the lane that caused it, and how long it took is a column of its own.
// A gateway that could not keep up would show there, and not in requests a second.
const (
	benchConnections = 16
	benchCrowd       = 64   // connections of the lanes that say so
	benchRate        = 1000 // requests a second, for the latencies
)

var (
	benchLanes   = flag.String("lanes", "", "measure only lanes whose name matches this regular expression")
	benchRounds  = flag.Int("lanes.rounds", 5, "how many turns each lane has")
	benchTurn    = flag.Duration("lanes.turn", 1500*time.Millisecond, "how long a turn takes")
	benchLatency = flag.Bool("lanes.latency", true, "measure latencies too")
	benchData    = flag.String("lanes.data", "", "keep the gateways' data in this directory; in one of tmpfs a sync costs nothing")
	benchProfile = flag.String("lanes.profile", "", "write CPU profiles of the gateways to this file, and to the same with .collector at its end")
	benchPeer    = flag.String("lanes.peer", "", `measure another ext_authz service too, at this HOST:PORT (gRPC without TLS), which the floor's Envoy asks in the place of the no-op
It must allow GET /1k with "authorization: Bearer TOKEN": an RS256 JWT for the audience "countersign" of an issuer that listens on loopback
during the run only, at another port each time; the token's iss is its address, and ISS/keys has the keys`)
)

// benchLane is one way through Envoy.
type benchLane struct {
	name        string
	address     string
	path        string
	connections int           // benchConnections unless set
	gateway     *benchGateway // whose lane it is; nil for a floor
	floor       string        // the lane that it is compared with
	goal        *benchGoal

	rates []float64
	late  []time.Duration    // how long the gateway worked on after a turn
	cpu   map[string]float64 // seconds of processor time by column
	done  int
	quick [][3]time.Duration // p50, p99 and p99.9 of each round at a fixed rate
}

// benchGoal is what a lane shall reach, of what its floor does, and what it reached before.
type benchGoal struct{ before, target float64 }

// BenchmarkHTTPLane prints tables of requests a second, of latencies, and of the targets.
func BenchmarkHTTPLane(b *testing.B) {
	lanes := startLanes(b)
	if *benchLanes != "" {
		only := regexp.MustCompile(*benchLanes)
		lanes = slices.DeleteFunc(lanes, func(l *benchLane) bool { return !only.MatchString(l.name) })
	}
	for _, l := range lanes { // warm up
		throughput(b, l, 200*time.Millisecond)
	}
	if *benchProfile != "" {
		defer profileGateways(b, lanes)()
	}
	b.ResetTimer()
	for range *benchRounds {
		for _, l := range lanes {
			l.turn(b)
		}
	}
	var out strings.Builder
	writeRates(&out, lanes)
	if *benchLatency {
		measureLatencies(b, lanes)
		writeLatencies(&out, lanes)
	}
	writeGoals(&out, lanes)
	fmt.Fprintln(os.Stdout, out.String()) // b.Log keeps ten lines
	b.ReportMetric(0, "ns/op")
}

// turn asks for a while, waits until the gateway has done what is left of it, and counts the processor time of both.
func (l *benchLane) turn(b *testing.B) {
	b.Helper()
	before := processorTime(b)
	count, took := throughput(b, l, *benchTurn)
	l.done += count
	l.rates = append(l.rates, float64(count)/took.Seconds())
	if l.gateway != nil {
		l.late = append(l.late, l.gateway.settle(b))
	}
	if l.cpu == nil {
		l.cpu = map[string]float64{}
	}
	for column, spent := range processorTime(b) {
		l.cpu[column] += spent - before[column]
	}
}

// measureLatencies asks at a fixed rate, in the lanes whose latency is told, in turns.
func measureLatencies(b *testing.B, lanes []*benchLane) {
	b.Helper()
	for range *benchRounds {
		for _, l := range lanes {
			if l.tellsLatency() {
				l.quick = append(l.quick, latencies(b, l, benchRate, 2*time.Second))
				if l.gateway != nil {
					l.gateway.settle(b)
				}
			}
		}
	}
}

func (l *benchLane) tellsLatency() bool {
	return l.connections == 0 && l.path == "/1k" && !strings.Contains(l.name, "inspecting") && (l.gateway != nil || l.name == alone || strings.HasSuffix(l.name, asGenerated))
}

// quantiles are p50, p99 and p99.9 at a fixed rate: the medians of the rounds.
func (l *benchLane) quantiles() (q [3]time.Duration) {
	for i := range q {
		var rounds []time.Duration
		for _, round := range l.quick {
			rounds = append(rounds, round[i])
		}
		q[i] = median(rounds)
	}
	return q
}

// each is the processor time of a request in µs.
func (l *benchLane) each(column string) float64 { return l.cpu[column] / float64(l.done) * 1e6 }

func (l *benchLane) rate() float64 { return median(l.rates) }

// writeRates tells of requests a second, and of the processor time of one.
func writeRates(out *strings.Builder, lanes []*benchLane) {
	fmt.Fprintf(out, "\n%d connections unless the lane says others, %d cores, median of %d turns of %v each; processor time in µs a request; \"after\": how long the gateway worked on after a turn\n\n",
		benchConnections, runtime.NumCPU(), *benchRounds, *benchTurn)
	fmt.Fprintf(out, "| lane | requests/s | of its floor | target | Envoy | countersign | collector | load, target, no-op | all, of its floor's | after |\n")
	fmt.Fprintf(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	sum := map[string]float64{}
	for _, l := range lanes {
		for _, column := range []string{columnEnvoy, columnGateway, columnCollector, columnRest} {
			sum[l.name] += l.each(column)
		}
		var floor, target, cost, late, collector string
		if f := named(lanes, l.floor); f != nil {
			floor = fmt.Sprintf("%.2f", l.rate()/f.rate())
			cost = fmt.Sprintf("%.2f", sum[l.name]/sum[f.name])
		}
		if l.goal != nil {
			target = fmt.Sprintf("≥ %.2f", l.goal.target)
		}
		if l.gateway != nil {
			late = median(l.late).Round(10 * time.Millisecond).String()
			if l.gateway.collector {
				collector = fmt.Sprintf("%.0f", l.each(columnCollector))
			}
		}
		fmt.Fprintf(out, "| %s | %.0f | %s | %s | %.0f | %.0f | %s | %.0f | %s | %s |\n", l.name, l.rate(), floor, target, l.each(columnEnvoy), l.each(columnGateway), collector, l.each(columnRest), cost, late)
	}
	if p := named(lanes, peer); p != nil {
		for _, name := range []string{"countersign ext_authz", "countersign ext_authz" + withCollector} {
			if l := named(lanes, name); l != nil {
				fmt.Fprintf(out, "\n%s: %.2f times the peer's requests a second\n", name, l.rate()/p.rate())
			}
		}
	}
}

// writeLatencies tells of latencies at a fixed rate, and of what is added to Envoy's own.
func writeLatencies(out *strings.Builder, lanes []*benchLane) {
	fmt.Fprintf(out, "\nlatency at %d requests/s, medians of %d rounds\n\n| lane | p50 | p99 | p99.9 | added p50 | p99 | p99.9 |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n", benchRate, *benchRounds)
	base := named(lanes, alone)
	for _, l := range lanes {
		if len(l.quick) == 0 {
			continue
		}
		q := l.quantiles()
		fmt.Fprintf(out, "| %s | %v | %v | %v |", l.name, q[0], q[1], q[2])
		for i := range q {
			if base == nil || l == base {
				fmt.Fprintf(out, " |")
				continue
			}
			fmt.Fprintf(out, " %v |", q[i]-base.quantiles()[i])
		}
		fmt.Fprintln(out)
	}
}

// writeGoals prints the README's table of what is wanted and what is reached.
func writeGoals(out *strings.Builder, lanes []*benchLane) {
	fmt.Fprintf(out, "\n| %d cores, %d connections; requests/s of the no-op's as generated | before | target | measured | before, with a collector | target | measured |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n", runtime.NumCPU(), benchConnections)
	cell := func(l *benchLane) string {
		f := named(lanes, l.floor)
		if f == nil {
			return "| | | "
		}
		return fmt.Sprintf("| %.2f | ≥ %.2f | %.2f ", l.goal.before, l.goal.target, l.rate()/f.rate())
	}
	for _, l := range lanes {
		twin := named(lanes, l.name+withCollector)
		if l.goal != nil && twin != nil {
			fmt.Fprintf(out, "| %s %s%s|\n", strings.TrimPrefix(l.name, "countersign "), cell(l), cell(twin))
		}
	}
	l, twin, base := named(lanes, "countersign ext_authz"), named(lanes, "countersign ext_authz"+withCollector), named(lanes, alone)
	if l == nil || twin == nil {
		return
	}
	fmt.Fprintf(out, "| own processor time a request, ext_authz | 91 µs | ≤ 65 µs | %.0f µs | 175 µs | ≤ 75 µs | %.0f µs |\n", l.each(columnGateway), twin.each(columnGateway))
	if len(l.quick) == 0 {
		return
	}
	if base != nil {
		added := func(l *benchLane) float64 { return (l.quantiles()[0] - base.quantiles()[0]).Seconds() * 1e3 }
		fmt.Fprintf(out, "| added p50 at %d requests/s, ext_authz | 1.1 ms | < 0.6 ms | %.2f ms | | < 0.6 ms | %.2f ms |\n", benchRate, added(l), added(twin))
	}
	var names, ratios []string
	for _, l := range lanes {
		if twin := named(lanes, l.name+withCollector); twin != nil && len(l.quick) > 0 {
			names = append(names, strings.TrimPrefix(strings.TrimPrefix(l.name, "countersign "), "ext_proc, "))
			ratios = append(ratios, fmt.Sprintf("%.1f", median(tails(l, twin))))
		}
	}
	fmt.Fprintf(out, "| p99 at %d requests/s, of that without a collector: %s | | | | 3 × | ≤ 1.5 × | %s × |\n", benchRate, strings.Join(names, "; "), strings.Join(ratios, ", "))
}

// tails are, round by round, how many times as long p99 is with a collector as without.
func tails(without, with *benchLane) (ratios []float64) {
	for i, round := range with.quick {
		ratios = append(ratios, float64(round[1])/float64(without.quick[i][1]))
	}
	return ratios
}

func named(lanes []*benchLane, name string) *benchLane {
	if i := slices.IndexFunc(lanes, func(l *benchLane) bool { return l.name == name }); i >= 0 {
		return lanes[i]
	}
	return nil
}

// Names of lanes that others are compared with.
const (
	alone         = "Envoy alone"
	peer          = "peer ext_authz"
	asGenerated   = ", as generated"
	withCollector = ", collector"
)

// startLanes starts one target, one Envoy for each kind of floor, and two gateways with their Envoys.
func startLanes(b *testing.B) []*benchLane {
	b.Helper()
	benchProcesses = []benchProcess{{columnRest, os.Getpid()}}
	target := benchTarget(b)
	floor := startFloor(b, target)
	generated := startGeneratedFloor(b, target)
	issuer := extproctest.StartIssuer(b, extproctest.IssuerOptions{})
	benchToken = issuer.Token(nil)
	collector, evidence := startBenchCollector(b, true)
	benchProcesses = append(benchProcesses, benchProcess{columnCollector, collector.PID()})
	without, with := startBenchGateway(b, target, issuer, "{}"), startBenchGateway(b, target, issuer, evidence)
	without.count(b)
	with.count(b)
	lanes := []*benchLane{
		{name: alone, address: floor["alone"], path: "/1k"},
		{name: "no-op ext_authz", address: floor["authz"], path: "/1k"},
	}
	if *benchPeer != "" {
		lanes = append(lanes, &benchLane{name: peer, address: floor["peer"], path: "/1k", floor: "no-op ext_authz"})
	}
	lanes = append(lanes,
		&benchLane{name: "no-op ext_proc, request only", address: floor["head"], path: "/1k"},
		&benchLane{name: "no-op ext_proc, duplex, 1 KB", address: floor["duplex"], path: "/1k"})
	for _, w := range []struct {
		way, floor, name, path string
		connections            int
		goal, collector        *benchGoal
	}{
		{"authz", "no-op ext_authz", "ext_authz", "/1k", 0, &benchGoal{0.59, 0.78}, &benchGoal{0.35, 0.70}},
		{"pass", "no-op ext_proc, request only", "ext_proc, request only", "/1k", 0, &benchGoal{0.57, 0.78}, &benchGoal{0.35, 0.70}},
		{"inspect", "no-op ext_proc, duplex, 1 KB", "ext_proc, inspecting 1 KB", "/1k", 0, nil, nil},
		{"redact", "no-op ext_proc, duplex, 1 KB", "ext_proc, redacting 1 KB", "/1k", 0, &benchGoal{0.69, 0.80}, &benchGoal{0.37, 0.72}},
		{"redact", "no-op ext_proc, duplex, 10 KB", "ext_proc, redacting 10 KB", "/10k", 0, &benchGoal{0.45, 0.70}, &benchGoal{0.37, 0.60}},
		{"authz", "no-op ext_authz", "ext_authz", "/1k", benchCrowd, nil, nil},
		{"redact", "no-op ext_proc, duplex, 1 KB", "ext_proc, redacting 1 KB", "/1k", benchCrowd, nil, nil},
	} {
		l := benchLane{name: w.floor + asGenerated, address: generated[w.way], path: w.path, connections: w.connections}
		g := benchLane{name: "countersign " + w.name, address: without.addresses[w.way], path: w.path, connections: w.connections, gateway: without, floor: l.name, goal: w.goal}
		if w.connections > 0 {
			suffix := fmt.Sprintf(", %d connections", w.connections)
			l.name, g.name, g.floor = l.name+suffix, g.name+suffix, l.name+suffix
		}
		if named(lanes, l.name) == nil {
			lanes = append(lanes, &l)
		}
		twin := g
		twin.name, twin.address, twin.gateway, twin.goal = g.name+withCollector, with.addresses[w.way], with, w.collector
		lanes = append(lanes, &g, &twin)
	}
	return lanes
}

// benchToken is what every request of the lanes has.
var benchToken string
