package xds_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestUpdateSwapsWhatEnvoyServes(t *testing.T) {
	g := startGateway(t, both)
	first := g.xds.State().Version
	if !g.xds.Acked(first) || g.xds.Acked("") || g.xds.Acked("other") {
		t.Errorf("Acked disagrees with Wait about version %q", first)
	}
	added := extproctest.FreeAddress(t)
	next := parse(t, filepath.Dir(g.config.File()), fmt.Sprintf(`
  - {name: renamed, kind: http, listen: {address: "%[1]s", host: payments.test}, target: "%[2]s"}
  - {name: added, kind: http, listen: {address: "%[3]s"}, target: "%[2]s"}
`, g.address, g.target.URL, added))
	if err := g.xds.Update(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if err := g.xds.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	extproctest.Await(t, "the new routes", 20*time.Second, func(context.Context) error { // Envoy acknowledges before each of its threads has them
		g.do(t, "GET", "/", "payments.test", "")
		if got := g.last(t).resource; got != "renamed" {
			return fmt.Errorf("resource %q", got)
		}
		return nil
	})
	if got := g.do(t, "GET", "/", "authz.test", ""); got.status != 403 {
		t.Errorf("a host that is gone: %d, want 403", got.status)
	}
	g.address = added
	g.do(t, "GET", "/", "any.test", "")
	if got := g.last(t).resource; got != "added" {
		t.Errorf("resource %q, want added", got)
	}
	if version := g.xds.State().Version; version == first || !g.xds.Acked(version) {
		t.Errorf("version %q after %q, accepted: %v", version, first, g.xds.Acked(version))
	}
}

func TestSameConfigurationIsTheSameVersion(t *testing.T) {
	g := startGateway(t, both)
	before := g.xds.State().Version
	if err := g.xds.Update(t.Context(), g.config); err != nil {
		t.Fatal(err)
	}
	if after := g.xds.State().Version; after != before {
		t.Errorf("version %q became %q", before, after)
	}
	if err := g.xds.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
}

// Envoy cannot listen where somebody else does, which no check of ours can know. It is told of nothing that it does not watch,
// and is offered the listener again until the port is free. The other listeners are spared.
func TestAListenerWhosePortIsTaken(t *testing.T) {
	const good = `  - {name: payments, kind: http, listen: {address: "%[1]s", host: payments.test}, target: "%[2]s"}` + "\n"
	for _, tls := range []bool{false, true} {
		for _, reload := range []bool{false, true} {
			t.Run(fmt.Sprintf("TLS %v, reload %v", tls, reload), func(t *testing.T) {
				taken, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer taken.Close()
				settings := ""
				if tls {
					issued := extproctest.NewAuthority(t).Issue("agents.test")
					settings = fmt.Sprintf(", tls: {certificate_file: %s, key_file: %s}", issued.CertFile, issued.KeyFile)
				}
				blocked := fmt.Sprintf(`  - {name: blocked, kind: http, listen: {address: "%s"%s}, target: "%%[2]s"}`, taken.Addr(), settings)
				var g *gateway
				if reload {
					g = startGateway(t, good)
					next := parse(t, filepath.Dir(g.config.File()), fmt.Sprintf(good+blocked, g.address, g.target.URL))
					if err := g.xds.Update(t.Context(), next); err != nil {
						t.Fatal(err)
					}
				} else {
					g = launch(t, "%.0[1]s"+blocked) // alone, so that Envoy watches no routes when it has refused it
				}
				if err := g.xds.Wait(within(t)); err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
					t.Fatalf("Wait: %v, want Envoy's refusal of %s", err, taken.Addr())
				}
				extproctest.Await(t, "the listener to be offered again, twice", 20*time.Second, func(context.Context) error {
					if n := g.envoy.Stats()["listener_manager.lds.update_rejected"]; n < 3 {
						return fmt.Errorf("refused %d times", n)
					}
					return nil
				})
				g.refusedOnce(t, taken.Addr().String())
				if reload {
					g.do(t, "GET", "/", "payments.test", "")
					if got := g.last(t).resource; got != "payments" {
						t.Errorf("resource %q, want payments", got)
					}
				}

				if err := taken.Close(); err != nil {
					t.Fatal(err)
				}
				extproctest.Await(t, "Envoy to take it", 20*time.Second, func(context.Context) error {
					if state := g.xds.State(); !g.xds.Acked(state.Version) || len(state.Nodes) != 1 || len(state.Nodes[0].Refused) != 0 {
						return fmt.Errorf("state %+v", state)
					}
					return nil
				})
				extproctest.Await(t, "somebody who listens at the port, which is free", 20*time.Second, func(context.Context) error { // Envoy acknowledges first
					conn, err := net.Dial("tcp", taken.Addr().String())
					if err != nil {
						return err
					}
					return conn.Close()
				})
			})
		}
	}
}

// refusedOnce holds that the refusal of a listener is known, told once, and has made nobody talk without end.
func (g *gateway) refusedOnce(t *testing.T, address string) {
	t.Helper()
	state := g.xds.State()
	if g.xds.Acked(state.Version) {
		t.Error("a refused version counts as accepted")
	}
	if len(state.Nodes) != 1 || state.Nodes[0].ID != "test-1" || len(state.Nodes[0].Refused) != 1 || state.Nodes[0].Refused[0].Type != "Listener" {
		t.Errorf("state %+v, want one Envoy that refused a listener", state)
	}
	if n := strings.Count(g.envoy.Log(), "unwatched"); n > 1 {
		t.Errorf("Envoy was told %d times of what it does not watch", n)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for url, n := range g.sent {
		if n > 6 {
			t.Errorf("%d messages of ADS about %s", n, url)
		}
	}
	if len(g.alarms) != 1 || !strings.HasPrefix(g.alarms[0], "xds_nack: ") || !strings.Contains(g.alarms[0], "Listener") || !strings.Contains(g.alarms[0], address) {
		t.Errorf("alarms %q, want one that names the listener", g.alarms)
	}
}

func TestEnvoyComesBackAfterTheServiceWasAway(t *testing.T) {
	g := startGateway(t, both)
	g.grpc.Stop()
	g.listen(t, g.config)
	if err := g.xds.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	extproctest.Await(t, "requests to pass again", 20*time.Second, func(context.Context) error {
		if got := g.do(t, "GET", "/", "payments.test", ""); got.status == 503 {
			return fmt.Errorf("still 503: %s", got.body)
		}
		return nil
	})
}

func TestUpdateThatCannotBeMadeKeepsWhatWasServed(t *testing.T) {
	g := startGateway(t, both)
	before := g.xds.State().Version
	dir := filepath.Dir(g.config.File())
	issued := extproctest.NewAuthority(t).Issue("agents.test")
	c := parse(t, dir, fmt.Sprintf(`
  - {name: tls, kind: http, listen: {address: %q, tls: {certificate_file: %s, key_file: %s}}, target: %q}
`, g.address, issued.CertFile, issued.KeyFile, g.target.URL))
	if err := os.Remove(issued.KeyFile); err != nil {
		t.Fatal(err)
	}
	if err := g.xds.Update(t.Context(), c); err == nil || !strings.Contains(err.Error(), issued.KeyFile) {
		t.Errorf("Update: %v, want an error that names %s", err, issued.KeyFile)
	}
	if _, err := xds.Resources(c, "1"); err == nil {
		t.Error("Resources made secrets without a key")
	}
	if after := g.xds.State().Version; after != before {
		t.Errorf("version %q became %q", before, after)
	}
}

// A client of ours stands in for Envoy here, because the order of what is sent is the matter.
func TestUpdateMakesBeforeItBreaks(t *testing.T) {
	dir := extproctest.Dir(t)
	before := parse(t, dir, `
  - {name: before, kind: http, listen: {address: "127.0.0.1:8080"}, target: "http://127.0.0.1:9000"}
`)
	after := parse(t, dir, `
  - {name: after, kind: http, listen: {address: "127.0.0.1:8080"}, target: "http://127.0.0.1:9000"}
`)
	s := startService(t, before)
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "envoy.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(within(t))
	if err != nil {
		t.Fatal(err)
	}
	send := func(req *discoveryv3.DiscoveryRequest) {
		t.Helper()
		req.Node = &corev3.Node{Id: "client"}
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	// receive takes what is sent next, and accepts it.
	receive := func() (kind string, names []string) {
		t.Helper()
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, packed := range resp.GetResources() {
			m, err := packed.UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			name := cache.GetResourceName(m)
			if cut := strings.LastIndexByte(name, '/'); resp.GetTypeUrl() == resource.ClusterType {
				name = name[:cut] // what follows tells targets apart
			}
			names = append(names, name)
		}
		slices.Sort(names)
		req := &discoveryv3.DiscoveryRequest{TypeUrl: resp.GetTypeUrl(), VersionInfo: resp.GetVersionInfo(), ResponseNonce: resp.GetNonce()}
		if resp.GetTypeUrl() == resource.RouteType {
			req.ResourceNames = names
		}
		send(req)
		return resp.GetTypeUrl(), names
	}
	send(&discoveryv3.DiscoveryRequest{TypeUrl: resource.ClusterType})
	receive()
	send(&discoveryv3.DiscoveryRequest{TypeUrl: resource.ListenerType})
	receive()
	made, err := xds.Resources(before, "1")
	if err != nil {
		t.Fatal(err)
	}
	send(&discoveryv3.DiscoveryRequest{TypeUrl: resource.RouteType, ResourceNames: slices.Collect(maps.Keys(made.GetResources(resource.RouteType)))})
	receive()
	if err := s.xds.Wait(within(t)); err != nil {
		t.Fatal(err)
	}

	if err := s.xds.Update(t.Context(), after); err != nil {
		t.Fatal(err)
	}
	kind, names := receive()
	if diff := cmp.Diff([]string{"target/after", "target/before"}, names); kind != resource.ClusterType || diff != "" {
		t.Errorf("first came %s (-want +got):\n%s", kind, diff)
	}
	for range 3 { // listeners, routes, and the clusters again, without the one that nothing leads to any more
		if k, n := receive(); k == resource.ClusterType {
			names = n
		}
	}
	if diff := cmp.Diff([]string{"target/after"}, names); diff != "" {
		t.Errorf("in the end there are other clusters (-want +got):\n%s", diff)
	}
	if err := s.xds.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
}

func TestCloseEndsStreamsAndEnvoyKeepsWhatItHas(t *testing.T) {
	g := startGateway(t, both)
	g.xds.Close()
	extproctest.Await(t, "the stream to end", 20*time.Second, func(context.Context) error {
		if n := g.envoy.Stats()["control_plane.connected_state"]; n != 0 {
			return fmt.Errorf("connected_state is %d", n)
		}
		return nil
	})
	g.do(t, "GET", "/", "payments.test", "")
	if got := g.last(t).resource; got != "payments" {
		t.Errorf("resource %q, want payments", got)
	}
}
