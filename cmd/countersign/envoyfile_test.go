package main

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
	"github.com/countersign/countersign/xds"
)

// TestEnvoyThatDoesNotShowAnswers runs an Envoy of a team's own whose file does not send answers to the gateway, which
// would then redact nothing: check says so, and the gateway refuses what comes by it, whoever asks.
func TestEnvoyThatDoesNotShowAnswers(t *testing.T) {
	t.Parallel()
	g := start(t, redactAll, story.Options{})
	g.Process.Stop()
	made, code := runCommand(t, "envoy", "static", "--config", g.Config)
	if code != 0 {
		t.Fatal(made)
	}
	c, err := loadConfig(g.Config)
	must(t, err)
	for _, file := range []struct{ name, text string }{
		{"as-made", made},
		{"route-skips", strings.NewReplacer("response_header_mode: SEND", "response_header_mode: SKIP", "response_body_mode: FULL_DUPLEX_STREAMED", "response_body_mode: NONE",
			"response_trailer_mode: SEND", "response_trailer_mode: SKIP").Replace(made)},
		{"heads-alone", strings.NewReplacer("response_body_mode: FULL_DUPLEX_STREAMED", "response_body_mode: NONE", "response_trailer_mode: SEND", "response_trailer_mode: SKIP").Replace(made)},
		{"buffered", strings.NewReplacer("response_body_mode: FULL_DUPLEX_STREAMED", "response_body_mode: BUFFERED_PARTIAL").Replace(made)},
	} {
		t.Run(file.name, func(t *testing.T) {
			g.Target.Reset()
			g.Process = extproctest.StartCountersign(t, extproctest.Countersign{Config: g.Config, Admin: g.Admin})
			defer g.Process.Stop()
			envoy := extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: file.text, Dir: g.Dir})
			defer envoy.Stop()
			problems := xds.CheckFileFor(c, file.name, []byte(file.text))
			a := ask(t, g, "GET", "/v1/payments/7")
			if file.name == "as-made" {
				if len(problems) > 0 || a.Status != 200 || strings.Contains(string(a.Body), "987-65-4320") {
					t.Fatalf("%v; answer %d %s", problems, a.Status, a.Body)
				}
				return
			}
			if len(problems) == 0 || !strings.Contains(problems[0].Message, "response_body_mode") && !strings.Contains(problems[0].Message, "do not come by") {
				t.Errorf("check says %v", problems)
			}
			if a.Status != 503 || a.Problem() != "unavailable" {
				t.Errorf("answer %d %s", a.Status, a.Body)
			}
			if seen := g.Target.Requests(); len(seen) > 0 {
				t.Errorf("the target saw %d requests", len(seen))
			}
		})
	}
	g.Process = extproctest.StartCountersign(t, extproctest.Countersign{Config: g.Config, Admin: g.Admin})
	reconcile(t, g)
}

// TestEnvoyThatDoesNotShowBodies runs an Envoy of a team's own whose ext_authz does not send bodies to the gateway. Over
// HTTP/2 nothing tells of a body that is not sent, so what could have one is refused: the check is not the only guard.
func TestEnvoyThatDoesNotShowBodies(t *testing.T) {
	t.Parallel()
	g := start(t, allowAll, story.Options{Attach: "ext_authz"})
	g.Process.Stop()
	made, code := runCommand(t, "envoy", "static", "--config", g.Config)
	if code != 0 {
		t.Fatal(made)
	}
	const (
		filter = "                      with_request_body:\n                        max_request_bytes: 1048576\n                        pack_as_bytes: true\n"
		route  = "                                with_request_body:\n                                  max_request_bytes: 1048576\n                                  pack_as_bytes: true\n"
		says   = "                                  body: whole\n"
		length = "                            envoy.filters.http.buffer:\n                              '@type': type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute\n                              buffer:\n                                max_request_bytes: 1048576\n"
	)
	for _, part := range []string{filter, route, says, length} {
		if !strings.Contains(made, part) {
			t.Fatalf("the file has no %q:\n%s", part, made)
		}
	}
	for _, file := range []struct {
		name, text string
		want       [4]int // of HTTP/1.1 and then HTTP/2, each without and with a body that has no length
	}{
		{"as-made", made, [4]int{200, 200, 200, 200}},
		{"bodies-are-not-sent", strings.NewReplacer(filter, "", route, "").Replace(made), [4]int{200, 413, 200, 413}},
		{"nothing-says-that-they-are", strings.NewReplacer(says, "", length, "").Replace(made), [4]int{503, 200, 503, 200}},
		{"they-are-not-and-nothing-says-so", strings.NewReplacer(filter, "", route, "", says, "", length, "").Replace(made), [4]int{503, 503, 503, 503}},
	} {
		t.Run(file.name, func(t *testing.T) {
			g.Process = extproctest.StartCountersign(t, extproctest.Countersign{Config: g.Config, Admin: g.Admin})
			defer g.Process.Stop()
			envoy := extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: file.text, Dir: g.Dir})
			defer envoy.Stop()
			for n, want := range file.want {
				g.Target.Reset()
				r := &story.Request{Method: "GET", Target: "/v1/payments/7", HTTP2: n >= 2, Chunked: n%2 == 1, Fields: fields("Authorization", "Bearer "+g.Issuer.Token(nil))}
				if n%2 == 1 {
					r.Body = []byte(`{"amount":1}`)
				}
				a, err := g.Send(t.Context(), r)
				must(t, err)
				if a.Status != want {
					t.Errorf("request %d: answer %d %s, want %d", n, a.Status, a.Body, want)
				}
				if reached := len(g.Target.Requests()) > 0; reached != (want == 200) {
					t.Errorf("request %d: the target saw it: %v", n, reached)
				}
			}
		})
	}
	g.Process = extproctest.StartCountersign(t, extproctest.Countersign{Config: g.Config, Admin: g.Admin})
	reconcile(t, g)
}
