package otlp

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
)

// TestARealCollectorGetsEveryRecord runs the OpenTelemetry collector, over TLS, and stops and starts both sides.
func TestARealCollectorGetsEveryRecord(t *testing.T) {
	authority := extproctest.NewAuthority(t)
	running := extproctest.StartCollector(t, extproctest.CollectorOptions{Authority: authority})
	f := newFixture(t, &collector{address: running.Endpoint()})
	f.opts.TLS = TLS{CAFile: authority.CAFile}
	f.opts.BatchRecords = 16
	f.start()
	operations := func(from, to int) {
		for n := from; n < to; n++ {
			op := fmt.Sprint("op-", n)
			d := f.decided(op, gate.Allow, traceparent)
			f.finished(op, d.Seq)
		}
	}
	operations(0, 20)
	running.Stop()
	operations(20, 40)
	f.kill()
	operations(40, 60)
	f.start()
	running.Start()
	operations(60, 80)
	if err := f.journal.Close(); err != nil {
		t.Fatal(err)
	}
	f.stop()

	hashes := map[int64]string{}
	check := func(attributes map[string]any) {
		seq, ok := attributes["countersign.seq"].(int64)
		hash := fmt.Sprint(attributes["countersign.hash"])
		if known := hashes[seq]; ok && known != "" && known != hash {
			t.Errorf("record %d arrived as %s and as %s", seq, known, hash)
		}
		if ok {
			hashes[seq] = hash
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	running.WaitFor(ctx, "all 161 records", func(spans []extproctest.Span, logs []extproctest.LogRecord) bool {
		for _, s := range spans {
			check(s.Attributes)
		}
		for _, l := range logs {
			if l.EventName != checkpointEvent {
				check(l.Attributes)
			}
		}
		return len(hashes) == 161
	})
	checkpoints := 0
	for _, l := range running.Logs() {
		if l.EventName == checkpointEvent {
			checkpoints++
		}
	}
	if checkpoints < 2 {
		t.Errorf("%d checkpoints arrived", checkpoints)
	}
}

// TestARealCollectorThatIsTooSmallForARecord refuses that one and gets the others; another collector gets it on command.
func TestARealCollectorThatIsTooSmallForARecord(t *testing.T) {
	small := extproctest.StartCollector(t, extproctest.CollectorOptions{MessageMiB: 1})
	f := newFixture(t, &collector{address: small.Endpoint()})
	f.events(3)
	list := make([]any, 110_000) // larger as OTLP than as JSON
	for i := range list {
		list[i] = "xxxxxx"
	}
	large := f.append(&gate.Record{Type: gate.PolicyActivated, Body: gate.Object{{Name: "files", Value: list}}})
	f.events(3)
	f.start()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	has := func(seq uint64) func([]extproctest.Span, []extproctest.LogRecord) bool {
		return func(_ []extproctest.Span, logs []extproctest.LogRecord) bool {
			return slices.ContainsFunc(logs, func(l extproctest.LogRecord) bool {
				return l.EventName != checkpointEvent && l.Attributes["countersign.seq"] == int64(seq)
			})
		}
	}
	small.WaitFor(ctx, "the last record", has(large.Seq+3))
	f.stop()
	if got, want := f.listed(), fmt.Sprintf("logs %d-%d 1/1 ", large.Seq, large.Seq); !strings.HasPrefix(got, want) || !strings.Contains(got, "larger than max") || strings.Contains(got, "\n") {
		t.Errorf("the list is %q, want %q", got, want)
	}
	if has(large.Seq)(small.Spans(), small.Logs()) {
		t.Error("the collector has what it refused")
	}
	usual := extproctest.StartCollector(t, extproctest.CollectorOptions{})
	f.opts.Endpoint = usual.Endpoint()
	if done := f.resend(0, large.Seq); done != (Resent{Sent: 1}) || f.listed() != "" {
		t.Errorf("%+v, listed %q", done, f.listed())
	}
	usual.WaitFor(ctx, "the record that was refused", has(large.Seq))
}

func TestTLS(t *testing.T) {
	authority, stranger := extproctest.NewAuthority(t), extproctest.NewAuthority(t)
	server, client, foreign := authority.Issue("collector.test"), authority.Issue("gateway.test"), stranger.Issue("gateway.test")
	mutual := credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{server.TLS}, ClientCAs: authority.Pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	})
	for _, c := range []struct {
		name string
		tls  TLS
		ok   bool
	}{
		{"both certificates are good", TLS{CAFile: authority.CAFile, CertFile: client.CertFile, KeyFile: client.KeyFile}, true},
		{"the name is another and is the one expected", TLS{CAFile: authority.CAFile, CertFile: client.CertFile, KeyFile: client.KeyFile, ServerName: "collector.test"}, true},
		{"the name is not the one expected", TLS{CAFile: authority.CAFile, CertFile: client.CertFile, KeyFile: client.KeyFile, ServerName: "other.test"}, false},
		{"the collector's authority is not known", TLS{CAFile: stranger.CAFile, CertFile: client.CertFile, KeyFile: client.KeyFile}, false},
		{"the system's authorities do not know the collector", TLS{CertFile: client.CertFile, KeyFile: client.KeyFile}, false},
		{"the client's authority is not known", TLS{CAFile: authority.CAFile, CertFile: foreign.CertFile, KeyFile: foreign.KeyFile}, false},
		{"no client certificate", TLS{CAFile: authority.CAFile}, false},
		{"no TLS", TLS{Insecure: true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			col := newCollector(t, grpc.Creds(mutual))
			f := newFixture(t, col)
			f.opts.TLS = c.tls
			f.opts.AlarmAfter = time.Nanosecond
			alarmed := make(chan struct{}, 100)
			f.opts.Alarm = func(string, string) { alarmed <- struct{}{} }
			f.events(1)
			f.start()
			if c.ok {
				col.waitFor(1)
				return
			}
			<-alarmed
			if len(col.seqs()) > 0 || f.courier.Stats().LastError == "" {
				t.Errorf("arrived %v, stats %+v", col.seqs(), f.courier.Stats())
			}
		})
	}
}

func TestTLSOptionsThatCannotBe(t *testing.T) {
	cert := extproctest.NewAuthority(t).Issue("gateway.test")
	for name, c := range map[string]struct {
		tls  TLS
		want string
	}{
		"insecure and with an authority":      {TLS{Insecure: true, CAFile: cert.CertFile}, "choose one"},
		"a certificate without its key":       {TLS{CertFile: cert.CertFile}, "one of the two"},
		"an authority that is not there":      {TLS{CAFile: filepath.Join(t.TempDir(), "none.pem")}, "ca_file"},
		"an authority that is no certificate": {TLS{CAFile: cert.KeyFile}, "no PEM certificate"},
		"a certificate that is not its key's": {TLS{CertFile: cert.CertFile, KeyFile: cert.CertFile}, "client certificate"},
	} {
		if _, err := dial(withDefaults(Options{Endpoint: "127.0.0.1:1", TLS: c.tls})); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
