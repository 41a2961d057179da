package main

import (
	"time"

	"github.com/countersign/countersign/extproc/config"
)

// courierDrain is how long a stop waits for the collector.
const courierDrain = 5 * time.Second

func (g *gateway) startCourier(c *config.Config) error { return nil }
