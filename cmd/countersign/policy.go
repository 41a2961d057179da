package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/policy"
)

func policyTest(ctx context.Context, c *call) error {
	f := c.flags("policy test")
	path := f.String("config", "", "the configuration `file`, whose policies are tested")
	verbose := f.Bool("verbose", false, "print every test")
	rest, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	var dir string
	switch {
	case len(rest) == 1 && *path == "":
		dir = rest[0]
	case len(rest) == 0 && *path != "":
		conf, err := loadConfig(*path)
		if err != nil {
			return err
		}
		dir = string(conf.Policies)
	default:
		return usagef("policy test wants a PATH or --config FILE")
	}
	passed, err := policy.Test(ctx, dir, policyKinds(), c.stdout, *verbose)
	if err != nil {
		return err
	}
	if !passed {
		return errSilent
	}
	return nil
}

func policyExplain(ctx context.Context, c *call) error {
	f := c.flags("policy explain")
	path := f.String("config", "", "the configuration `file`")
	input := f.String("input", "", "the `file` with the input as JSON; - for standard input")
	name := f.String("resource", "", "the resource's `name`; that of the input, or the only one there is, by default")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	conf, err := loadConfig(*path)
	if err != nil {
		return err
	}
	if *input == "" {
		return usagef("policy explain: --input FILE is required")
	}
	text, err := c.read(*input)
	if err != nil {
		return fmt.Errorf("read the input: %w", err)
	}
	if *name == "" {
		var named struct {
			Resource struct {
				Name string `json:"name"`
			} `json:"resource"`
		}
		if err := json.Unmarshal(text, &named); err != nil {
			return fmt.Errorf("read the input's resource.name: %w", err)
		}
		*name = named.Resource.Name
		if *name == "" && len(conf.Resources) == 1 {
			*name = conf.Resources[0].Common().Name
		}
	}
	r, ok := config.Named[config.Resource](conf, *name)
	if !ok {
		return fmt.Errorf("%s has no resource %q; set --resource, or input.resource.name", conf.File(), *name)
	}
	set, err := loadPolicies(ctx, conf, nil)
	if err != nil {
		return err
	}
	explanation, err := set.Explain(ctx, r.Common().Policy, text)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(c.stdout, explanation.String())
	return err
}

func (c *call) read(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(c.stdin)
	}
	return os.ReadFile(name)
}
