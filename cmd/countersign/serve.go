package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign/countersign/extproc"
	"github.com/countersign/countersign/extproc/admin"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/custody"
	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/evidence/otlp"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/listener"
	"github.com/countersign/countersign/extproc/memory"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/extproc/supervisor"
	"github.com/countersign/countersign/xds"
)

// gateway is a running `countersign serve`.
type gateway struct {
	log       *slog.Logger
	path      string // of the configuration file
	metrics   *admin.Metrics
	server    *extproc.Server
	journal   *evidence.Journal
	builder   *builder
	lane      *lane.Lane
	envoys    *xds.Server
	courier   *otlp.Courier
	approvals *approvals // nil where the configuration names no people
	grpc      *grpc.Server

	stopKinds context.CancelFunc // ends what the kinds serve themselves; nil until it is served
	served    sync.WaitGroup     // of it

	unsure      bool   // an activation failed, so that the journal's last may not be what is active; of whoever activates
	stopVoiding func() // ends the voiding of what was asked under other rules, and waits; of whoever activates

	disk      datafile.FS // of the journal; the real one where it is nil
	withEnvoy bool
	env       env
	mu        sync.Mutex             // guards what follows
	envoy     *supervisor.Supervisor // nil without --envoy, and until it is started
	active    *active
	draining  bool
	rejected  string // why what is on disk is not active; "" where it is
}

// serve runs the service until ctx is done, and then drains it.
func serve(ctx context.Context, c *call) error {
	f := c.flags("serve")
	path := f.String("config", "", "the configuration `file`")
	withEnvoy := f.Bool("envoy", false, "start and supervise Envoy too")
	logJSON := f.Bool("log-json", false, "write the log as JSON lines")
	profile := f.String("pprof", "", "serve net/http/pprof on this loopback `address`, for developers")
	level := f.String("log-level", "info", "the least `level` that is logged: debug, info, warn or error")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	conf, err := loadConfig(*path)
	if err != nil {
		return err
	}
	if err := custody.Check(conf); err != nil {
		return err
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(*level)); err != nil {
		return usagef("serve: --log-level %q: use debug, info, warn or error", *level)
	}
	var handler slog.Handler = slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: l})
	if *logJSON {
		handler = slog.NewJSONHandler(c.stderr.JSON(), &slog.HandlerOptions{Level: l})
	}
	if c.env.get("GOGC") == "" {
		debug.SetGCPercent(memory.Percent)
	}
	if *withEnvoy && c.env.get("GOMAXPROCS") == "" {
		// Envoy, beside us, does more than half of the work. On its cores our threads find little to run and wake each
		// other for it: with all of two cores a request took 390 µs of processor time, with one 340 (own: 125 and 104).
		runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2))
	}
	binary := ""
	if *withEnvoy {
		if binary, err = supervisor.Find(conf, c.env.get("ENVOY")); err != nil {
			return err // before anything is started and recorded
		}
	}
	g := &gateway{log: slog.New(handler), path: *path, withEnvoy: *withEnvoy, env: c.env}
	g.warn(conf)
	if err := g.open(ctx, conf); err != nil {
		return errors.Join(err, g.closeJournal())
	}
	if err := g.listen(ctx, conf); err != nil {
		return errors.Join(err, g.closeJournal())
	}
	if *profile != "" {
		if err := g.listenProfile(ctx, config.Address(*profile)); err != nil {
			return errors.Join(err, g.stop(conf))
		}
	}
	if *withEnvoy {
		envoy, err := supervisor.Start(supervisor.Options{Config: conf, Binary: binary, Output: c.errs, Log: g.log, Alarm: g.alarm})
		if err != nil {
			return errors.Join(err, g.stop(conf))
		}
		g.mu.Lock()
		g.envoy = envoy
		g.mu.Unlock()
	}
	g.log.Info("serving", "config", conf.File(), "envoy", conf.Listen.Envoy, "admin", conf.Listen.Admin, "version", Version)
	g.watch(ctx, conf, c.env.reload)
	return g.stop(conf)
}

// warn says what of c keeps nothing from working, and should not stay.
func (g *gateway) warn(c *config.Config) {
	for _, secret := range custody.Readable(c) {
		g.log.Warn("a secret is not one", "file", secret)
	}
	for _, p := range c.OutOfDate(time.Now()) {
		g.log.Warn("a certificate is out of date", "problem", p)
	}
}

// open makes the parts, bottom up: metrics, journal, state, services.
func (g *gateway) open(ctx context.Context, c *config.Config) (err error) {
	g.stopVoiding = func() {}
	if g.metrics, err = admin.NewMetrics(); err != nil {
		return err
	}
	if err := os.MkdirAll(string(c.Data), 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	g.journal, err = evidence.Open(ctx, evidence.Options{
		Dir: filepath.Join(string(c.Data), "journal"), Node: c.Node,
		SegmentBytes: int64(c.Evidence.Segment), CheckpointEvery: c.Evidence.Checkpoint.Std(),
		Log: g.log, Alarm: g.raise, FS: g.disk,
	})
	if err != nil {
		return err
	}
	g.reportPanics()
	if err := g.openApprovals(ctx, c); err != nil {
		return err
	}
	g.builder = &builder{log: g.log, journal: g.journal, approvals: g.approvals, alarm: g.alarm}
	first, err := g.builder.build(ctx, c, nil)
	if err != nil {
		return err
	}
	if err := g.journal.Started(ctx, gate.Object{
		{Name: "approvals", Value: g.approvals.kind(c)},
		{Name: "config_digest", Value: c.Digest()},
		{Name: "key", Value: g.journal.PublicKey()},
		{Name: "node", Value: c.Node},
		{Name: "pid", Value: os.Getpid()},
		{Name: "policy_digest", Value: first.policies.Digest()},
		{Name: "version", Value: Version},
	}); err != nil {
		return err
	}
	g.lane = lane.New(lane.Options{Log: g.log, Now: time.Now, Alarm: g.alarm, Observer: g.observer()})
	g.server = extproc.New(g.lane)
	g.envoys = xds.NewServer(xds.Options{Log: g.log, Alarm: g.alarm})
	if err := g.activate(ctx, first); err != nil {
		return err
	}
	go guard.Loop(ctx, "the memory", func() { memory.Collect(ctx, g.lane.Held, g.lane.PeakMemory) })()
	if err := g.gauges(); err != nil {
		return err
	}
	g.journal.StartHeartbeat(c.Evidence.Heartbeat.Std(), g.heartbeat)
	return g.startCourier(c)
}

// gauges registers what is read when the metrics are.
func (g *gateway) gauges() error {
	return errors.Join(
		g.metrics.Issuers("countersign.issuer.ready", "1 while the keys of an issuer of agents' tokens can be had, so that its agents are served; 0 otherwise.",
			func() []identity.State { return g.current().verifier.States() }),
		g.metrics.Issuers("countersign.people.issuer.ready", "1 while the keys of the issuer of people can be had, so that they can answer; 0 otherwise.",
			g.peoplesIssuer),
		g.metrics.Gauge("countersign.config.rejected", "1", "1 while the configuration on disk is not what is active, because it was rejected.", func() float64 {
			g.mu.Lock()
			defer g.mu.Unlock()
			return map[bool]float64{true: 1}[g.rejected != ""]
		}),
		g.metrics.Gauge("countersign.journal.records", "{record}", "Records that are durable.", func() float64 { return float64(g.journal.Durable()) }),
		g.metrics.Gauge("countersign.journal.appended", "{write}", "Writes of records that made the journal longer, because nothing was prepared for them.", func() float64 { return float64(g.journal.Appended()) }),
		g.metrics.Gauge("countersign.operations.open", "{operation}", "Allowed operations that have not ended.", func() float64 { return float64(g.journal.OpenOperations()) }),
		g.metrics.Gauge("countersign.memory.judged", "By", "Memory that requests and answers under judgement are counted with, see limits.memory.", func() float64 { return float64(g.lane.Memory()) }),
		g.metrics.Gauge("countersign.journal.refusing", "1", "1 while the journal takes nothing, so that everything is refused.", func() float64 {
			if g.journal.Err() != nil {
				return 1
			}
			return 0
		}),
	)
}

// activate swaps a in, with a record of what becomes active. If it returns an error the old configuration rules, and Envoy has
// been told nothing. The order is the promise:
//
//  1. What can fail is made first, and a new verifier fetches its keys, so that agents do not wait for it after the swap.
//  2. The voiding for the old rules ends. After the swap it would void what the new rules ask.
//  3. The record is written under the swap's lock: nothing is ruled by a configuration that is not on record. If that fails, the old
//     rules go on, and with them the voiding.
//  4. Envoy is told after the swap. Until it has the new routes, calls that come by the old ones are refused, if the new ones differ
//     for their resource (see lane.Resource): for milliseconds, in which nothing is judged by what Envoy does not carry out. The other
//     way round Envoy would send by routes that nothing here knows yet.
//  5. The old verifier and the voiding for the new rules come last: until the swap, operations need the one and ask under the old rules.
func (g *gateway) activate(ctx context.Context, a *active) error {
	previous := g.current()
	fresh := previous == nil || previous.verifier != a.verifier
	prepared, err := xds.Prepare(a.config, envoyKinds()...)
	if err != nil {
		return err
	}
	if fresh {
		a.verifier.Start(context.WithoutCancel(ctx))
	}
	g.stopVoiding() // what the next policy opens is not the older one's to void
	if err := g.lane.Swap(a.state, func() error { return g.recordActive(ctx, previous, a) }); err != nil {
		g.unsure = true
		if fresh {
			a.verifier.Close()
		}
		if previous != nil {
			g.startVoiding(ctx, previous)
		}
		return err
	}
	if g.env.get("GOMEMLIMIT") == "" { // an operator's own stands
		memory.Limit(a.state.Memory)
	}
	g.unsure = false
	g.mu.Lock()
	g.active = a
	g.mu.Unlock()
	if err := g.envoys.Serve(ctx, prepared); err != nil {
		g.alarm("xds_failed", err.Error())
	}
	if fresh && previous != nil {
		go guard.Func("the verifier before", previous.verifier.Close)()
	}
	g.startVoiding(ctx, a)
	return nil
}

// observer counts, and remembers what each session did for those who approve.
func (g *gateway) observer() lane.Observer {
	o := g.metrics.Observer()
	if g.approvals == nil {
		return o
	}
	count := o.Decided
	o.Decided = func(op *gate.Operation, r gate.Ruling, took time.Duration) {
		count(op, r, took)
		g.approvals.history.Add(op, r.Verdict().Effect, time.Now())
	}
	return o
}

// recordActive records what becomes active and is not active by now. Both records go to the disk together, as a rule; where
// one of them gets there alone, the config.rejected record that follows says what stays active.
func (g *gateway) recordActive(ctx context.Context, previous, a *active) error {
	var durable []func() (gate.Receipt, error)
	say := func(kind string, body gate.Object) {
		durable = append(durable, g.journal.Begin(ctx, &gate.Record{Type: kind, Body: body}))
	}
	if previous == nil || g.unsure || previous.config.Digest() != a.config.Digest() {
		say(gate.ConfigActivated, gate.Object{
			{Name: "digest", Value: a.config.Digest()},
			{Name: "file", Value: a.config.File()},
			{Name: "resources", Value: len(a.config.Resources)},
		})
	}
	if previous == nil || g.unsure || previous.policies.SourceDigest() != a.policies.SourceDigest() {
		say(gate.PolicyActivated, gate.Object{
			{Name: "digest", Value: a.policies.Digest()},
			{Name: "files", Value: a.policies.Loaded()},
			{Name: "path", Value: string(a.config.Policies)},
			{Name: "source_digest", Value: a.policies.SourceDigest()},
		})
	}
	var errs []error
	for _, wait := range durable {
		_, err := wait()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (g *gateway) record(ctx context.Context, kind string, body gate.Object) error {
	_, err := g.journal.Append(ctx, &gate.Record{Type: kind, Body: body})
	return err
}

func (g *gateway) current() *active {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.active
}

// raise tells whoever runs the gateway: the log and a metric. The journal calls it for alarms that it records itself.
func (g *gateway) raise(kind, detail string) {
	g.log.Error("alarm", "kind", kind, "detail", detail)
	g.metrics.Alarm(kind)
}

// alarm raises an alarm and records it.
func (g *gateway) alarm(kind, detail string) {
	g.raise(kind, detail)
	if err := g.journal.Post(context.Background(), alarmRecord(kind, detail)); err != nil {
		g.log.Error("an alarm could not be recorded", "kind", kind, "error", err)
	}
}

// status is what the admin interface answers with.
func (g *gateway) status() admin.Status {
	s := admin.Status{
		PeoplesIssuer: g.peoplesIssuer(), Targets: g.server.FailingTargets(), Journal: g.journal.Err(),
		Envoys: g.envoys.State(), Supervise: g.withEnvoy,
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s.Stopping, s.Rejected, s.Courier = g.draining, g.rejected, g.courier
	if a := g.active; a != nil {
		s.Active, s.NoIssuer, s.Issuers = true, a.verifier.Ready(), a.verifier.States()
	}
	if g.envoy != nil {
		s.Envoy = g.envoy.Ready
	}
	return s
}

func (g *gateway) heartbeat() gate.Object {
	a := g.current()
	if a == nil {
		return gate.Object{}
	}
	return gate.Object{
		{Name: "config_digest", Value: a.config.Digest()},
		{Name: "open", Value: g.journal.OpenOperations()},
		{Name: "policy_digest", Value: a.policies.Digest()},
	}
}

// listen starts the gRPC services and the admin interface.
func (g *gateway) listen(ctx context.Context, c *config.Config) error {
	if c.Listen.Admin != "none" {
		if err := g.listenAdmin(ctx, c); err != nil {
			return err
		}
	}
	if err := g.listenConsole(ctx, c); err != nil {
		return err
	}
	if err := g.listenKinds(ctx, c); err != nil {
		return err
	}
	l, err := listener.Listen(ctx, c.Listen.Envoy)
	if err != nil {
		return fmt.Errorf("listen.envoy: %w", err)
	}
	options, err := listener.GRPC(c, g.server)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	g.grpc = grpc.NewServer(options...)
	g.server.Register(g.grpc)
	g.envoys.Register(g.grpc)
	go guard.Func("the services", func() {
		if err := g.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			g.listenerFailed(err.Error())
		}
	})()
	return nil
}

// listenKinds serves the kinds whose connections Envoy passes on, whether there is a resource of them by now or a reload brings one.
func (g *gateway) listenKinds(ctx context.Context, c *config.Config) error {
	ctx, g.stopKinds = context.WithCancel(context.WithoutCancel(ctx))
	for _, k := range kinds {
		if k.Serve == nil {
			continue
		}
		l, err := listener.Listen(ctx, c.Socket(k.Config.Name))
		if err != nil {
			return fmt.Errorf("the socket of kind %s: %w", k.Config.Name, err)
		}
		shown := g.server.Spliced(k.Config.Name)
		g.served.Go(guard.Func("the sessions of kind "+k.Config.Name, func() {
			if err := k.Serve(ctx, g.lane, l, shown); err != nil {
				g.listenerFailed(err.Error())
			}
		}))
	}
	return nil
}

func (g *gateway) listenAdmin(ctx context.Context, c *config.Config) error {
	l, err := listener.Listen(ctx, c.Listen.Admin)
	if err != nil {
		return fmt.Errorf("listen.admin: %w", err)
	}
	const where = "the admin interface"
	listener.Serve(where, listener.HTTP(where, admin.Handler(g.metrics, g.status)), l, g.listenerFailed)
	return nil
}

func (g *gateway) listenerFailed(detail string) { g.alarm("listener_failed", detail) }

// stop drains: new work is refused, work in hand finished, the journal closed, and Envoy stopped last.
func (g *gateway) stop(c *config.Config) error {
	g.mu.Lock()
	g.draining = true
	g.mu.Unlock()
	g.lane.StopAccepting()
	g.log.Info("draining")
	ctx, cancel := context.WithTimeout(context.Background(), c.Envoy.Drain.Std())
	defer cancel()
	if err := g.lane.Drain(ctx); err != nil {
		g.alarm(evidence.AlarmDrain, err.Error())
	}
	if g.stopKinds != nil {
		g.stopKinds()
		g.served.Wait()
	}
	if g.grpc != nil {
		g.envoys.Close()
		listener.Stop(g.grpc)
	}
	if a := g.current(); a != nil {
		a.verifier.Close()
	}
	g.stopVoiding()
	err := errors.Join(g.approvals.close(), g.closeJournal())
	if g.envoy != nil {
		g.envoy.Stop()
	}
	g.log.Info("stopped")
	return err
}

// closeJournal closes the journal and gives the courier what time there is to send the rest of it.
func (g *gateway) closeJournal() error {
	if g.journal == nil {
		return nil
	}
	err := g.journal.Close()
	if g.courier != nil {
		ctx, cancel := context.WithTimeout(context.Background(), courierDrain)
		defer cancel()
		if stopErr := g.courier.Stop(ctx); stopErr != nil {
			g.log.Warn("the collector does not have everything yet; what is left is sent at the next start", "error", stopErr)
		}
	}
	return err
}

// problemsOf lists what is wrong with a configuration or its policies, a line each.
func problemsOf(err error) []string {
	var conf config.Problems
	var rego *policy.Problems
	var lines []string
	switch {
	case err == nil:
	case errors.As(err, &conf):
		for _, p := range conf {
			lines = append(lines, p.String())
		}
	case errors.As(err, &rego):
		for _, p := range rego.Problems {
			lines = append(lines, p.String())
		}
	default:
		lines = []string{err.Error()}
	}
	return lines
}
