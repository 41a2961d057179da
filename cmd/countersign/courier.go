package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/evidence/otlp"
)

// courierDrain is how long a stop waits for the collector.
const courierDrain = 5 * time.Second

// startCourier sends the journal to the collector, where there is one.
func (g *gateway) startCourier(c *config.Config) error {
	o := c.Evidence.OTLP
	if o == nil {
		return nil
	}
	courier, err := otlp.Start(g.journal, otlp.Options{
		Endpoint: o.Endpoint,
		TLS:      otlp.TLS{CAFile: string(o.CAFile), CertFile: string(o.CertificateFile), KeyFile: string(o.KeyFile), Insecure: o.Insecure},
		Headers:  o.HeaderFiles,
		Cursor:   filepath.Join(string(c.Data), "otlp.cursor"),
		Node:     c.Node, Version: Version,
		Log: g.log, Alarm: g.alarm,
	})
	if err != nil {
		return fmt.Errorf("evidence.otlp: %w", err)
	}
	g.courier = courier
	for _, m := range []struct {
		name, unit, description string
		read                    func(otlp.Stats) float64
	}{
		{"countersign.otlp.lag", "{record}", "Durable records that the collector has not accepted.", func(s otlp.Stats) float64 { return float64(s.LagRecords) }},
		{"countersign.otlp.lag.time", "s", "Age of the oldest record that the collector has not accepted.", func(s otlp.Stats) float64 { return s.LagTime.Seconds() }},
		{"countersign.otlp.sent", "{record}", "Records and checkpoints that the collector accepted since the start.", func(s otlp.Stats) float64 { return float64(s.Sent) }},
		{"countersign.otlp.rejected", "{record}", "Records that the collector would not have.", func(s otlp.Stats) float64 { return float64(s.Rejected) }},
		{"countersign.otlp.retries", "{request}", "Requests that were made again.", func(s otlp.Stats) float64 { return float64(s.Retries) }},
	} {
		if err := g.metrics.gauge(m.name, m.unit, m.description, func() float64 { return m.read(courier.Stats()) }); err != nil {
			return err
		}
	}
	return nil
}
