package main

import (
	"context"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// reportPanics raises an alarm for each panic that is caught. It waits for nothing: what panicked may be what it waits for.
func (g *gateway) reportPanics() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	guard.Report(func(p guard.Panic) {
		if p.Stack != "" {
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
