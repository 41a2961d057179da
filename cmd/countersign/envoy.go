package main

import (
	"context"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/xds"
)

func envoyBootstrap(_ context.Context, c *call) error {
	return c.printEnvoy("envoy bootstrap", xds.Bootstrap)
}

func envoyStatic(_ context.Context, c *call) error {
	return c.printEnvoy("envoy static", func(conf *config.Config) ([]byte, error) { return xds.Static(conf, envoyKinds()...) })
}

func (c *call) printEnvoy(name string, write func(*config.Config) ([]byte, error)) error {
	f := c.flags(name)
	path := f.String("config", "", "the configuration `file`")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	conf, err := loadConfig(*path)
	if err != nil {
		return err
	}
	text, err := write(conf)
	if err != nil {
		return err
	}
	_, err = c.file.Write(text)
	return err
}
