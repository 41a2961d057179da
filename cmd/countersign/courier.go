package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/custody"
	"github.com/countersign/countersign/extproc/evidence/otlp"
	"github.com/countersign/countersign/extproc/terminal"
)

// courierDrain is how long a stop waits for the collector.
const courierDrain = 5 * time.Second

// startCourier sends the journal to the collector, where there is one.
func (g *gateway) startCourier(c *config.Config) error {
	if c.Evidence.OTLP == nil {
		return nil
	}
	options := courierOptions(c)
	options.Log, options.Alarm = g.log, g.alarm
	courier, err := otlp.Start(g.journal, options)
	if err != nil {
		return fmt.Errorf("evidence.otlp: %w", err)
	}
	g.mu.Lock()
	g.courier = courier
	g.mu.Unlock()
	return g.metrics.Courier(courier)
}

func courierOptions(c *config.Config) otlp.Options {
	o := c.Evidence.OTLP
	return otlp.Options{
		Endpoint: o.Endpoint,
		TLS:      otlp.TLS{CAFile: string(o.CAFile), CertFile: string(o.CertificateFile), KeyFile: string(o.KeyFile), Insecure: o.Insecure},
		Headers:  o.HeaderFiles,
		Cursor:   filepath.Join(string(c.Data), "otlp.cursor"),
		Node:     c.Node, Version: Version, Kinds: otlpKinds(),
	}
}

// evidenceRejected lists what the collector would not have.
func evidenceRejected(_ context.Context, c *call) error {
	f, where := c.evidenceFlags("evidence rejected")
	asJSON := f.Bool("json", false, "print a line of JSON each")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	dir, err := where.dir()
	if err != nil {
		return err
	}
	list, err := otlp.Rejected(dir)
	if err != nil {
		return err
	}
	for _, r := range list {
		if *asJSON {
			line, err := json.Marshal(r)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.stdout, terminal.JSON(string(line)))
			continue
		}
		fmt.Fprintf(c.stdout, "%s  %-11s  %d-%d  rejected %d of %d: %s\n", r.Time.UTC().Format("2006-01-02 15:04:05"), terminal.String(string(r.Signal)), r.From, r.To, r.Rejected, r.Sent, terminal.Line(r.Why))
	}
	if len(list) == 0 && !*asJSON {
		fmt.Fprintln(c.stdout, "the collector has rejected nothing that it has not accepted since")
	}
	return nil
}

// evidenceResend sends again what the collector would not have.
func evidenceResend(ctx context.Context, c *call) error {
	f := c.flags("evidence resend")
	file := f.String("config", "", "the configuration `file` that says where the collector is")
	seq := f.String("seq", "", "only the records of this `range`, such as 5-700 or 7; all that is listed by default")
	all := f.Bool("all", false, "all that is listed")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	if *all && *seq != "" {
		return usagef("evidence resend: give --seq or --all, not both")
	}
	from, to, err := parseRange(*seq)
	if err != nil {
		return err
	}
	conf, err := loadConfig(*file)
	if err != nil {
		return err
	}
	if conf.Evidence.OTLP == nil {
		return fmt.Errorf("%s has no evidence.otlp: there is no collector to send to", *file)
	}
	if err := custody.Own(string(conf.Data)); err != nil {
		return err
	}
	done, err := otlp.Resend(ctx, string(conf.Data), from, to, courierOptions(conf))
	fmt.Fprintf(c.stdout, "sent %d records and checkpoints, of which the collector accepted %d\n", done.Sent, done.Sent-done.Rejected)
	if err != nil {
		return err
	}
	if done.Rejected > 0 {
		return fmt.Errorf("the collector rejected %d of them again: evidence rejected says why", done.Rejected)
	}
	return nil
}

// parseRange reads "7" and "5-700"; nothing is everything.
func parseRange(s string) (from, to uint64, err error) {
	if s == "" {
		return 0, math.MaxUint64, nil
	}
	first, last, two := strings.Cut(s, "-")
	if !two {
		last = first
	}
	from, err = strconv.ParseUint(first, 10, 64)
	if err == nil {
		to, err = strconv.ParseUint(last, 10, 64)
	}
	if err != nil || from > to {
		return 0, 0, usagef("--seq %q: write the numbers of records, such as 5-700 or 7", s)
	}
	return from, to, nil
}
