package main

import (
	"context"
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
