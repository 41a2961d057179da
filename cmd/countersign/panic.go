package main

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// stackEvery bounds how often a panic is logged with its stack: somebody who finds one can have it again and again.
const stackEvery = time.Second

// reportPanics raises an alarm for each panic that is caught. It waits for nothing: what panicked may be what it waits for.
func (g *gateway) reportPanics() {
	var mu sync.Mutex
	var last time.Time
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	guard.Report(func(p guard.Panic) {
		mu.Lock()
		withStack := time.Since(last) >= stackEvery
		if withStack {
			last = time.Now()
		}
		mu.Unlock()
		if withStack {
			g.log.Error("panic", "where", p.Where, "panic", p.Value, "stack", p.Stack)
		}
		detail := p.Where + " panicked: " + p.Value
		g.raise(evidence.AlarmPanic, detail)
		if err := g.journal.Post(ended, alarmRecord(evidence.AlarmPanic, detail)); err != nil {
			g.log.Error("an alarm could not be recorded", "kind", evidence.AlarmPanic, "error", err)
		}
	})
}

func alarmRecord(kind, detail string) *gate.Record {
	return &gate.Record{Type: gate.Alarm, Body: gate.Object{{Name: "detail", Value: gate.Recorded(detail, gate.MaxRecorded)}, {Name: "kind", Value: kind}}}
}

// guarded answers 503 where a handler panics, and breaks off an answer that it has begun.
func guarded(where string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := &answering{ResponseWriter: w}
		defer guard.Catch(where, func(guard.Panic) {
			if answer.begun {
				panic(http.ErrAbortHandler) // net/http's way to say so
			}
			clear(w.Header())
			http.Error(w, "A part of the gateway failed. Try again; if it goes on, tell whoever runs the gateway.", http.StatusServiceUnavailable)
		})
		h.ServeHTTP(answer, r)
	})
}

// answering knows whether an answer has begun.
type answering struct {
	http.ResponseWriter
	begun bool
}

func (a *answering) WriteHeader(code int) {
	a.begun = true
	a.ResponseWriter.WriteHeader(code)
}

func (a *answering) Write(b []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *answering) Unwrap() http.ResponseWriter { return a.ResponseWriter }
