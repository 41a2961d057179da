package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
	"github.com/countersign/countersign/xds"
)

// changed is g's configuration with more keys of its resource.
func changed(t *testing.T, g *story.Gateway, more string) string {
	t.Helper()
	text, err := os.ReadFile(g.Config)
	must(t, err)
	without := regexp.MustCompile(`(?m)^    (attach|response|target_http2): .*\n`).ReplaceAllString(string(text), "")
	return strings.Replace(without, "    kind: http\n", "    kind: http\n"+more, 1)
}

// TestEnvoyThatRunsAFileOfAnotherConfiguration: what comes by it is refused, an alarm says so, and check finds it. What counts is
// how Envoy asks, so that the same goes for a file that does not say what it was made of.
func TestEnvoyThatRunsAFileOfAnotherConfiguration(t *testing.T) {
	t.Parallel()
	const authz, pass = "    attach: ext_authz\n", "    response: pass\n"
	for _, c := range []struct {
		name, made, is string // keys of the resource, as the file was made of and as they are
		mute           bool   // the file does not say what it was made of
	}{
		{"ext_authz, and it is ext_proc", authz, "", false},
		{"ext_authz that does not say so, and it is ext_proc", authz, "", true},
		{"answers pass, and they are inspected", pass, "", false},
		{"answers pass, without a word of it, and they are inspected", pass, "", true},
		{"answers are inspected, and they pass", "", pass, false},
		{"answers are inspected, without a word of it, and they pass", "", pass, true},
		{"answers are inspected, and it is ext_authz", "", authz, false},
		{"another target", "    target_http2: true\n", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := start(t, redactAll, story.Options{})
			g.Process.Stop()
			g.Write("countersign.yaml", changed(t, g, c.made))
			file, code := runCommand(t, "envoy", "static", "--config", g.Config)
			if code != 0 {
				t.Fatal(file)
			}
			if c.mute {
				file = strings.NewReplacer("key: countersign-fingerprint", "key: x-none", "fingerprint:", "none:").Replace(file)
			}
			g.Write("countersign.yaml", changed(t, g, c.is))
			g.Process = extproctest.StartCountersign(t, extproctest.Countersign{Config: g.Config, Admin: g.Admin})
			extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: file, Dir: g.Dir})
			for range 3 {
				a := ask(t, g, "GET", "/v1/payments/7")
				if a.Status != 503 || a.Problem() != "unavailable" || a.Header.Get("Retry-After") == "" {
					t.Errorf("answer %d %v %s", a.Status, a.Header, a.Body)
				}
			}
			if n := g.Target.BytesIn(); n != 0 {
				t.Errorf("the target got %d bytes", n)
			}
			conf, err := loadConfig(g.Config)
			must(t, err)
			if problems := xds.CheckFileFor(conf, "x", []byte(file)); len(problems) == 0 && c.is == "" {
				t.Error("check finds nothing")
			}
			differs := func(r story.Record) bool { return r.Type == "alarm" && r.Body["kind"] == "envoy_differs" }
			if r := g.AwaitRecord("the alarm", differs); !strings.Contains(fmt.Sprint(r.Body["detail"]), "resource payments: ") || !strings.Contains(fmt.Sprint(r.Body["detail"]), "countersign envoy static") {
				t.Errorf("the alarm says %v", r.Body)
			}
			reconcile(t, g)
			alarms := 0
			for _, r := range g.Records() {
				if differs(r) {
					alarms++
				}
			}
			if alarms != 1 {
				t.Errorf("%d alarms in a second", alarms)
			}
		})
	}
}

// TestHardenedUnderLoad has a resource whose answers are redacted go between one that Envoy shows answers of and one that it
// does not, again and again, while agents ask over connections that they keep. No answer comes out as the target gave it;
// one resource beside it, which does not change, never refuses.
func TestHardenedUnderLoad(t *testing.T) {
	t.Parallel()
	for _, soft := range []string{"    response: pass\n", "    attach: ext_authz\n"} {
		t.Run(strings.Fields(soft)[1], func(t *testing.T) {
			t.Parallel()
			hardenedUnderLoad(t, soft, 12)
		})
	}
}

func hardenedUnderLoad(t *testing.T, soft string, reloads int) {
	t.Helper()
	g := start(t, redactAll, story.Options{})
	text := changed(t, g, "")
	beside := text[strings.Index(text, "  - name: payments"):]
	beside = strings.NewReplacer("name: payments", "name: beside", fmt.Sprintf("address: %q", g.Address), fmt.Sprintf("address: %q, host: beside.test", g.Address)).Replace(beside) + "    policy: payments\n"
	g.Write("countersign.yaml", text+beside)
	activated := func(n int) {
		t.Helper()
		extproctest.Await(t, "the configuration", 20*time.Second, func(context.Context) error {
			found := 0
			for _, r := range g.Records() {
				if r.Type == "config.rejected" {
					t.Fatalf("rejected: %v", r.Body)
				}
				if r.Type == "config.activated" {
					found++
				}
			}
			if found < n {
				return fmt.Errorf("%d were activated", found)
			}
			return nil
		})
	}
	activated(2)
	awaitRoute(t, g, "beside.test", "beside")
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	must(t, err)
	var mu sync.Mutex
	counts := map[string]int{}
	stop := make(chan struct{})
	var agents sync.WaitGroup
	for i := range 8 {
		host := []string{"payments.test", "beside.test"}[i%2]
		agents.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
			defer client.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				status, body, err := getAs(client, g.Address, host, token)
				leaks := strings.Contains(body, "987-65-4320")
				mu.Lock()
				counts[fmt.Sprintf("%s %d", host, status)]++
				mu.Unlock()
				if leaks || err != nil || status != 200 && (host == "beside.test" || status != 503 && status != 403) {
					t.Errorf("%s: %d %v\n%s", host, status, err, body)
				}
			}
		})
	}
	for n := range reloads {
		g.Write("countersign.yaml", changed(t, g, []string{soft, ""}[n%2])) // of the first resource
		activated(3 + n)
		answered := func() int {
			mu.Lock()
			defer mu.Unlock()
			return counts["payments.test 200"] + counts["payments.test 403"]
		}
		before := answered()
		extproctest.Await(t, "answers under it", 20*time.Second, func(context.Context) error {
			if n := answered(); n < before+40 {
				return fmt.Errorf("%d since", n-before)
			}
			return nil
		})
	}
	close(stop)
	agents.Wait()
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 || strings.Contains(string(a.Body), "987-65-4320") {
		t.Errorf("in the end: %d %s", a.Status, a.Body)
	}
	if counts["payments.test 200"] == 0 || counts["payments.test 403"] == 0 {
		t.Errorf("the load met one of the two alone: %v", counts)
	}
	t.Logf("answers %v", counts)
	reconcile(t, g)
}

func getAs(client *http.Client, address, host, token string) (status int, body string, err error) {
	r, err := http.NewRequest(http.MethodGet, "http://"+address+"/v1/payments/7", nil)
	if err != nil {
		return 0, "", err
	}
	r.Host = host
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// TestHardenedDuringAHold: what began where answers do not come by is not released when they do by now, also where a person has
// approved it. The identical request, asked by a new connection, uses the approval and is redacted; and the other way round.
func TestHardenedDuringAHold(t *testing.T) {
	t.Parallel()
	const soft = `
-- policy.rego --
package rules.payments

ask contains {"id": "look", "reason": "look", "approvers": ["payments-oncall"]} if not input.context.approval

redact contains {"path": "$..ssn"} if input.context.approval

allow contains {"id": "looked"} if input.context.approval
`
	for _, c := range []struct{ name, was, is string }{
		{"answers passed", "    response: pass\n", ""},
		{"ext_authz", "    attach: ext_authz\n", ""},
		{"another target", "    target_http2: true\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := &askingGateway{t: t, console: extproctest.FreeAddress(t)}
			g.Gateway = start(t, fmt.Sprintf("%s-- config.yaml --\npeople: {issuer: \"${ISSUER}\", client_id: countersign-console}\napprovals: {hold: 20s}\n-- resource.yaml --\n%s-- listen --\nconsole: %q\n",
				soft, strings.TrimPrefix(c.was, "    "), g.console), story.Options{})
			bob := g.person("u-bob", "payments-oncall")
			answers := make(chan *story.Answer, 1)
			var sent sync.WaitGroup
			sent.Go(func() { answers <- ask(t, g.Gateway, "GET", "/v1/payments/7") })
			defer sent.Wait()
			r := g.pending(bob)
			before := uint64(len(g.Records()))
			g.Write("countersign.yaml", changed(t, g.Gateway, c.is))
			g.AwaitRecord("the configuration", func(r story.Record) bool { return r.Type == "config.activated" && r.Seq > before })
			if code := g.decide(bob, "approve", "", r); code != 200 {
				t.Fatalf("approve: %d", code)
			}
			if a := <-answers; a.Status != 503 || a.Problem() != "unavailable" || a.Header.Get("Retry-After") == "" {
				t.Errorf("the held request: %d %v %s", a.Status, a.Header, a.Body)
			}
			if n := len(g.Target.Requests()); n != 0 {
				t.Errorf("the target saw %d requests", n)
			}
			var a *story.Answer
			extproctest.Await(t, "Envoy to have the new configuration", 20*time.Second, func(context.Context) error {
				if a = ask(t, g.Gateway, "GET", "/v1/payments/7"); a.Status == 503 {
					return fmt.Errorf("the identical request: %s", a.Body)
				}
				return nil
			})
			if a.Status != 200 || !strings.Contains(string(a.Body), "[redacted]") || strings.Contains(string(a.Body), "987-65-4320") {
				t.Errorf("the identical request: %d %s", a.Status, a.Body)
			}
			reconcile(t, g.Gateway)
		})
	}
}

// inProcess serves g's configuration in this process, as serve does, with a journal on disk and with an Envoy of its own.
func inProcess(t *testing.T, g *story.Gateway, disk *brokenDisk) *gateway {
	t.Helper()
	c, err := config.Load(g.Config, configKinds()...)
	must(t, err)
	in := &gateway{log: slog.New(slog.DiscardHandler), path: g.Config, disk: disk, env: env{get: func(string) string { return "off" }}}
	must(t, in.open(t.Context(), c))
	must(t, in.listen(t.Context(), c))
	bootstrap, err := xds.Bootstrap(c)
	must(t, err)
	envoy := extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: string(bootstrap), Args: []string{"--drain-strategy", "immediate"}})
	t.Cleanup(func() {
		envoy.Stop()
		must(t, in.stop(c))
	})
	return in
}

// TestAReloadThatCannotBeRecorded changes nothing, neither here nor at Envoy.
func TestAReloadThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	g := start(t, redactAll, story.Options{})
	g.Process.Stop()
	disk := &brokenDisk{}
	in := inProcess(t, g, disk)
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
		t.Fatalf("while the disk works: %d %s", a.Status, a.Body)
	}
	was, served := in.current(), in.envoys.State().Version
	g.Write("countersign.yaml", changed(t, g, "    response: pass\n"))
	g.Write("policies/more.rego", "package rules.global\n\ndeny contains {\"id\": \"never\"} if input.http.method == \"PATCH\"\n")
	disk.fault.Store(&diskFault{write: errors.New("input/output error")})
	in.reload(t.Context())
	if in.current() != was || in.envoys.State().Version != served {
		t.Errorf("after a reload without a record the gateway has %s, Envoy %s", in.current().config.Digest(), in.envoys.State().Version)
	}
	disk.fault.Store(nil)
	works := func() error {
		a := ask(t, g, "GET", "/v1/payments/7")
		if a.Status != 200 || strings.Contains(string(a.Body), "987-65-4320") {
			return fmt.Errorf("%d %s", a.Status, a.Body)
		}
		return nil
	}
	extproctest.Await(t, "the old configuration, when the disk works again", 10*time.Second, func(context.Context) error { return works() })
	for _, r := range g.Records() {
		if digest := r.Body["digest"]; (r.Type == "config.activated" || r.Type == "policy.activated") && digest != was.config.Digest() && digest != was.policies.Digest() {
			t.Errorf("the journal says that another is active: %v", r.Body)
		}
	}
	in.reload(t.Context())
	if in.current() == was || in.envoys.State().Version == served {
		t.Error("a reload on a disk that works changes nothing")
	}
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status == 200 {
		t.Errorf("under the new configuration: %d %s", a.Status, a.Body)
	}
	for kind, digest := range map[string]string{"config.activated": in.current().config.Digest(), "policy.activated": in.current().policies.Digest()} {
		g.AwaitRecord(kind, func(r story.Record) bool { return r.Type == kind && r.Body["digest"] == digest })
	}
	reconcile(t, g)
}

// slowList is a store whose lists do not come before they are let go.
type slowList struct {
	approval.Store
	begun, ended chan struct{}
	mu           sync.Mutex
	lists        int
	letGo        chan struct{}
}

func (s *slowList) List(ctx context.Context, f approval.Filter) (approval.Page, error) {
	s.mu.Lock()
	s.lists++
	first := s.lists == 1
	s.mu.Unlock()
	if first {
		close(s.begun)
		defer close(s.ended)
		select {
		case <-s.letGo:
		case <-ctx.Done():
			return approval.Page{}, ctx.Err()
		}
	}
	return s.Store.List(ctx, f)
}

// TestALateReloadVoidsNothingOfANewerOne: when a policy rules, no voiding for an older one is under way any more, and what is
// asked under the new one stays open.
func TestALateReloadVoidsNothingOfANewerOne(t *testing.T) {
	t.Parallel()
	g := startAsking(t, "200ms", "")
	g.Process.Stop()
	in := inProcess(t, g.Gateway, &brokenDisk{})
	store, ok := in.approvals.store.(approval.Store)
	if !ok {
		t.Fatalf("the store is a %T", in.approvals.store)
	}
	slow := &slowList{Store: store, begun: make(chan struct{}), ended: make(chan struct{}), letGo: make(chan struct{})}
	in.stopVoiding()
	desk, err := approval.NewDesk(approval.Options{Store: slow, Recorder: in.journal, Node: "story", People: g.Issuer.URL})
	must(t, err)
	in.approvals.desk = desk
	reload := func(n int) {
		g.Write("policies/more.rego", fmt.Sprintf("package rules.global\n\ndeny contains {\"id\": \"never-%d\"} if input.http.method == \"PATCH\"\n", n))
		in.reload(t.Context())
	}
	reload(1)
	<-slow.begun
	reload(2)
	select {
	case <-slow.ended:
	default:
		t.Error("the older reload voids on")
	}
	if a := g.refund(`{"amount": 10}`); a.Problem() != "approval-pending" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	r := g.pending(g.person("u-bob", "payments-oncall"))
	close(slow.letGo)
	<-slow.ended
	in.stopVoiding()
	if now, err := desk.Get(t.Context(), r.ID); err != nil || now.State != approval.Pending {
		t.Errorf("what was asked under the newer policy is %s: %v", now.State, err)
	}
}
