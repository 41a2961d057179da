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
