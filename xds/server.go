package xds

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/guard"
)

// Options are what a [Server] tells of itself.
type Options struct {
	// Log is told of Envoys that come and go. None by default.
	Log *slog.Logger

	// Alarm is told of what Envoy refused: kind "xds_nack", and Envoy's message with the type of resource. It is called once
	// for each version, type and Envoy, from the goroutine of that Envoy's stream, and must not block for long.
	Alarm func(kind, detail string)
}

// Server serves the resources of one configuration over ADS, to every Envoy that can open the socket, whatever node it
// says it is.
type Server struct {
	options Options
	cache   cache.SnapshotCache
	ads     serverv3.Server
	stop    context.CancelFunc

	updating sync.Mutex // one update at a time
	served   *Prepared
	offers   int // how often what is served has been offered again

	mu      sync.Mutex
	version string
	streams map[int64]*stream
	changed chan struct{} // closed and replaced when what State says changes
	delay   time.Duration // until what was refused last is offered again
	again   *time.Timer   // to offer what was refused again; nil where nothing is
}

// How long after a refusal what was refused is offered again, the first time and in the end.
const (
	firstOffer = time.Second
	lastOffer  = 16 * time.Second
)

// stream is one Envoy that is connected.
type stream struct {
	node     string
	sent     map[string]string // type URL -> version last sent
	open     map[string]string // nonce that is not answered yet -> version sent with it
	accepted map[string]string // type URL -> version last acknowledged
	refused  map[string]Refusal
}

// Refusal is a NACK.
type Refusal struct {
	Type    string // of resource: "Listener", "Cluster", …
	Version string
	Message string // Envoy's
}

// Node is what one connected Envoy has.
type Node struct {
	ID       string
	Accepted map[string]string // type of resource -> version
	Refused  []Refusal         // what it has refused and not accepted since
}

// State is what is served, and what the connected Envoys made of it.
type State struct {
	Version string // empty before the first Update
	Nodes   []Node
}

// anyNode is the one key that snapshots are kept under.
const anyNode = "any"

type anyHash struct{}

func (anyHash) ID(*corev3.Node) string { return anyNode }

// NewServer returns a server that has nothing to serve until [Server.Update]. Envoys that connect before wait.
func NewServer(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Alarm == nil {
		o.Alarm = func(string, string) {}
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{options: o, stop: stop, streams: map[int64]*stream{}, changed: make(chan struct{}), delay: firstOffer}
	// Not the cache's ADS mode: it answers only a request that names everything there is, so one listener that Envoy refuses
	// would keep the routes of all others back.
	s.cache = cache.NewSnapshotCache(false, anyHash{}, quiet{})
	s.ads = serverv3.NewServer(ctx, watched{s.cache}, serverv3.CallbackFuncs{
		StreamOpenFunc:     s.opened,
		StreamClosedFunc:   s.closed,
		StreamRequestFunc:  s.requested,
		StreamResponseFunc: s.responded,
	})
	return s
}

// watched is the cache for an Envoy that says what it watches. Of routes and secrets it names each one, so that a request
// without a name watches none; the cache takes it for one that wants them all. Envoy cannot use what it does not watch, asks
// for it to be put right, and would get the same again, at once and for ever.
type watched struct{ cache.Cache }

func (w watched) CreateWatch(r *cache.Request, sub cache.Subscription, to chan cache.Response) (func(), error) {
	if watchesNothing(r) {
		return func() {}, nil
	}
	return w.Cache.CreateWatch(r, sub, to)
}

func watchesNothing(r *cache.Request) bool {
	url := r.GetTypeUrl()
	return url != resource.ListenerType && url != resource.ClusterType && len(r.GetResourceNames()) == 0
}

// Register adds ADS to g.
func (s *Server) Register(g *grpc.Server) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s.ads)
}

// Close ends every stream, so that the gRPC server can stop gracefully. Envoy keeps what it has.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.settleLocked()
}

// Prepared is what is to be served for one configuration: made whole and found consistent, and told to nobody yet.
type Prepared struct {
	version  string
	snapshot *cache.Snapshot
}

// Prepare makes what [Server.Serve] serves. What can be wrong with c is found here, before anything has changed.
func Prepare(c *config.Config, kinds ...Kind) (*Prepared, error) {
	all, err := build(c, false, kinds)
	if err != nil {
		return nil, err
	}
	version, err := all.version()
	if err != nil {
		return nil, err
	}
	snapshot, err := all.snapshot(version)
	if err != nil {
		return nil, err
	}
	return &Prepared{version, snapshot}, nil
}

// Update is Prepare and Serve. On an error of Prepare what was served before still is.
func (s *Server) Update(ctx context.Context, c *config.Config, kinds ...Kind) error {
	p, err := Prepare(c, kinds...)
	if err != nil {
		return err
	}
	return s.Serve(ctx, p)
}

// Serve serves p from now on. Envoys are told nothing where it is what they have.
func (s *Server) Serve(ctx context.Context, p *Prepared) error {
	s.updating.Lock()
	defer s.updating.Unlock()
	if s.served != nil && s.served.version == p.version {
		return nil
	}
	s.mu.Lock()
	s.version = p.version
	s.settleLocked()
	s.announceLocked()
	s.mu.Unlock()
	for _, next := range []*cache.Snapshot{bridge(s.served, p.snapshot), p.snapshot} {
		if err := s.cache.SetSnapshot(ctx, anyNode, next); err != nil {
			return fmt.Errorf("serve version %s over xDS: %w", p.version, err)
		}
	}
	s.served, s.offers = p, 0
	return nil
}

// offerAgain sends Envoy once more what it refused. What it has no place for, a port that another program has, it may have one
// for by now; nothing else tells.
func (s *Server) offerAgain() {
	s.updating.Lock()
	defer s.updating.Unlock()
	s.offers++
	next := &cache.Snapshot{Resources: s.served.snapshot.Resources}
	s.mu.Lock()
	s.again = nil
	for _, st := range s.streams {
		for url := range st.refused {
			if kind := cache.GetResponseType(url); kind != types.UnknownType {
				next.Resources[kind].Version = s.version + offered + strconv.Itoa(s.offers)
			}
		}
	}
	s.mu.Unlock()
	if err := s.cache.SetSnapshot(context.Background(), anyNode, next); err != nil {
		s.options.Log.Warn("what Envoy refused cannot be offered again", "error", err)
	}
}

// offered stands before the number of an offer, in the version that Envoy sees.
const offered = "~"

// plain is a version without the number of an offer.
func plain(version string) string {
	version, _, _ = strings.Cut(version, offered)
	return version
}

// settleLocked ends offering again: something else is served, or nothing is refused.
func (s *Server) settleLocked() {
	if s.again != nil {
		s.again.Stop()
	}
	s.again, s.delay = nil, firstOffer
}

// easedLocked ends offering again where no Envoy refuses anything any more.
func (s *Server) easedLocked() {
	for _, st := range s.streams {
		if len(st.refused) > 0 {
			return
		}
	}
	s.settleLocked()
}

// refusedLocked sees to it that what was refused is offered again, later each time.
func (s *Server) refusedLocked() {
	if s.again == nil {
		s.again = time.AfterFunc(s.delay, guard.Func("what Envoy refused", s.offerAgain))
		s.delay = min(2*s.delay, lastOffer)
	}
}

// bridge is from with the clusters and secrets of to added, so that Envoy has a target before a route that leads there, and
// keeps one until no route does.
func bridge(from *Prepared, to *cache.Snapshot) *cache.Snapshot {
	if from == nil {
		return to
	}
	out := &cache.Snapshot{Resources: from.snapshot.Resources}
	for _, kind := range []types.ResponseType{types.Cluster, types.Secret} {
		items := maps.Clone(from.snapshot.Resources[kind].Items)
		maps.Copy(items, to.Resources[kind].Items)
		out.Resources[kind] = cache.Resources{Version: "+" + to.Resources[kind].Version, Items: items}
	}
	return out
}

// version is the digest of the content: the same resources are the same version.
func (r *resources) version() (string, error) {
	h := sha256.New()
	for _, list := range [][]types.Resource{asResources(r.clusters), asResources(r.secrets), asResources(r.listeners), asResources(r.routes)} {
		for _, m := range list {
			text, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
			if err != nil {
				return "", fmt.Errorf("marshal %s: %w", cache.GetResourceName(m), err)
			}
			fmt.Fprintf(h, "%T %d\n", m, len(text))
			h.Write(text)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// State is a copy of what is known now.
func (s *Server) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stateLocked()
}

func (s *Server) stateLocked() State {
	out := State{Version: s.version}
	for _, st := range s.streams {
		n := Node{ID: st.node, Accepted: map[string]string{}}
		for url, version := range st.accepted {
			n.Accepted[shortType(url)] = version
		}
		n.Refused = slices.SortedFunc(maps.Values(st.refused), func(a, b Refusal) int { return cmp.Compare(a.Type, b.Type) })
		out.Nodes = append(out.Nodes, n)
	}
	slices.SortFunc(out.Nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Acked reports whether every connected Envoy, and at least one, has accepted that version of every type it was sent.
func (s *Server) Acked(version string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ackedLocked(version)
}

func (s *Server) ackedLocked(version string) bool {
	for _, st := range s.streams {
		if st.accepted[resource.ListenerType] != version || st.accepted[resource.ClusterType] != version {
			return false
		}
		for url, sent := range st.sent {
			if plain(sent) != version || st.accepted[url] != version {
				return false
			}
		}
	}
	return version != "" && len(s.streams) > 0
}

// Wait returns when what is served is accepted by every connected Envoy, and at least one; or when one of them refuses it,
// with the refusal as the error; or with the error of ctx.
func (s *Server) Wait(ctx context.Context) error {
	for {
		s.mu.Lock()
		state, acked, changed := s.stateLocked(), s.ackedLocked(s.version), s.changed
		s.mu.Unlock()
		for _, n := range state.Nodes {
			for _, r := range n.Refused {
				if r.Version != state.Version {
					continue
				}
				return fmt.Errorf("an Envoy, %s, refused %s of version %s: %s", n.ID, r.Type, r.Version, r.Message)
			}
		}
		if acked {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for Envoy to accept version %s: %w", state.Version, ctx.Err())
		}
	}
}

func (s *Server) announceLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) opened(_ context.Context, id int64, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[id] = &stream{sent: map[string]string{}, open: map[string]string{}, accepted: map[string]string{}, refused: map[string]Refusal{}}
	s.announceLocked()
	return nil
}

func (s *Server) closed(id int64, _ *corev3.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.streams[id]; st != nil {
		s.options.Log.Info("Envoy left ADS", "node", st.node)
	}
	delete(s.streams, id)
	s.easedLocked()
	s.announceLocked()
}

// requested is called before the cache sees req: a first request, an ACK or a NACK of what was sent last.
func (s *Server) requested(id int64, req *discoveryv3.DiscoveryRequest) error {
	alarm := s.note(id, req)
	if alarm != nil {
		detail := fmt.Sprintf("Envoy %s refused %s of version %s: %s", req.GetNode().GetId(), alarm.Type, alarm.Version, alarm.Message)
		s.options.Log.Error("xDS resources refused", "node", req.GetNode().GetId(), "type", alarm.Type, "error", alarm.Message)
		s.options.Alarm("xds_nack", detail)
	}
	return nil
}

// note keeps what req says, and returns a refusal that is new.
func (s *Server) note(id int64, req *discoveryv3.DiscoveryRequest) *Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.streams[id]
	if st == nil {
		return nil
	}
	if st.node == "" && req.GetNode().GetId() != "" {
		st.node = req.GetNode().GetId()
		s.options.Log.Info("Envoy came to ADS", "node", st.node)
	}
	url := req.GetTypeUrl()
	version := strings.TrimPrefix(plain(st.open[req.GetResponseNonce()]), "+")
	delete(st.open, req.GetResponseNonce())
	defer s.announceLocked()
	switch {
	case watchesNothing(req):
		delete(st.sent, url)
		delete(st.accepted, url)
		delete(st.refused, url)
		s.easedLocked()
		return nil
	case req.GetErrorDetail() == nil:
		if req.GetResponseNonce() != "" {
			st.accepted[url] = plain(req.GetVersionInfo())
			delete(st.refused, url)
			s.easedLocked()
		}
		return nil
	}
	s.refusedLocked()
	refused := Refusal{Type: shortType(url), Version: version, Message: req.GetErrorDetail().GetMessage()}
	// A NACK carries the version before. The cache would take that for an Envoy that has not got the current one yet, and
	// send it again.
	req.VersionInfo = st.sent[url]
	if st.refused[url] == refused {
		return nil
	}
	st.refused[url] = refused
	return &refused
}

func (s *Server) responded(_ context.Context, id int64, _ *discoveryv3.DiscoveryRequest, resp *discoveryv3.DiscoveryResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.streams[id]; st != nil {
		st.sent[resp.GetTypeUrl()] = resp.GetVersionInfo()
		st.open[resp.GetNonce()] = resp.GetVersionInfo()
	}
}

// quiet is a logger for the cache: what matters of it comes through the callbacks.
type quiet struct{}

func (quiet) Debugf(string, ...any) {}
func (quiet) Infof(string, ...any)  {}
func (quiet) Warnf(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}

// shortType is the last part of a type URL: "Listener".
func shortType(url string) string { return url[strings.LastIndexAny(url, "./")+1:] }
