package watcher

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRun makes one step after the other, and each that changes what the files say is told once.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	events, hangup, outside := make(chan string), make(chan os.Signal), t.TempDir()
	say := func(what string) {
		select {
		case events <- what:
		case <-t.Context().Done():
		}
	}
	put := func(name, text string) {
		t.Helper()
		from, to := filepath.Join(outside, "new"), filepath.Join(dir, name)
		if err := os.WriteFile(from, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	put("data/journal", "")
	go Run(t.Context(), Options{
		Files: func() []string {
			say("looked")
			return []string{filepath.Join(dir, "config.yaml"), filepath.Join(dir, "policies"), filepath.Join(dir, "policies", "a.rego")}
		},
		Except: filepath.Join(dir, "data"), Signal: hangup, Changed: func() { say("told") },
		Log: slog.New(slog.DiscardHandler), Alarm: func(kind, detail string) { say(kind + ": " + detail) },
	})
	<-events // watched
	told := func(step string, want bool) {
		t.Helper()
		for {
			select {
			case e := <-events:
				if e == "told" && !want || e != "told" && e != "looked" {
					t.Errorf("%s: %s", step, e)
				}
				if e == "told" && want {
					<-events // watched anew
				}
				if e == "told" == want {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s: nothing", step)
			}
		}
	}
	hangup <- os.Interrupt // is taken once all is watched
	told("a signal", true)
	put("config.yaml", "node: a")
	told("a file that was not there", true)
	put("config.yaml", "node: b")
	told("a file that is replaced", true)
	put("config.yaml", "node: b")
	told("by the same again", false)
	put("gateway.log", "x")
	told("something else beside it", false)
	if err := os.Mkdir(filepath.Join(dir, "policies"), 0o700); err != nil {
		t.Fatal(err)
	}
	told("a directory", true)
	hangup <- os.Interrupt
	told("a signal, taken once it is watched", true)
	put("policies/a.rego", "package a")
	told("a file in it", true)
	put("config.yaml", "node: c")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				if err := os.WriteFile(filepath.Join(dir, "gateway.log"), []byte{byte(n)}, 0o600); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	told("a file, while a log beside it grows all the time", true)
	close(stop)
	<-stopped
}
