package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/extproc/yamlfile"
)

// maxFile bounds the configuration file: 10,000 resources take about 3 MiB.
const maxFile = 16 << 20

// Problem is one thing that is wrong with a file.
type Problem struct {
	File    string
	Line    int    // from 1; 0 if it is on no line
	Key     string // "resources[0].target"
	Message string
}

func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += ":" + strconv.Itoa(p.Line)
	}
	if p.Key != "" {
		s += ": " + p.Key
	}
	return s + ": " + p.Message
}

// Problems are all problems of a file. It is the error of [Load] and [Parse].
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// Load reads the configuration file at path. Its error is [Problems], with everything that is wrong. kinds are the kinds of
// resources that the file may have; without any, http.
func Load(path string, kinds ...Kind) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, Problems{{File: path, Message: "cannot be read: " + reason(err)}}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, Problems{{File: path, Message: "cannot be read: " + reason(err)}}
	}
	return Parse(path, text, kinds...)
}

// Parse reads the text of a configuration file. path is not read: it is for messages, and relative paths start at its directory.
func Parse(path string, text []byte, kinds ...Kind) (*Config, error) {
	c, problems := parse(path, text, kinds)
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

// Salvage reads what it can of a file that has problems, so that what the file names can be checked too, and returns nil if it
// can read nothing. What it returns must not be run.
func Salvage(path string, kinds ...Kind) *Config {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	c, _ := parse(path, text, kinds)
	return c
}

func parse(path string, text []byte, kinds []Kind) (*Config, Problems) {
	if len(text) > maxFile {
		return nil, Problems{{File: path, Message: fmt.Sprintf("is larger than %d bytes", maxFile)}}
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, Problems{{File: path, Message: "has no directory: " + reason(err)}}
	}
	d := &decoder{dir: dir, file: path, kinds: kindsOf(kinds), lines: map[string]int{}}
	sum := sha256.Sum256(text)
	c := &Config{file: path, digest: hex.EncodeToString(sum[:]), lines: d.lines}
	root, wrong := yamlfile.Parse(text)
	if wrong != nil {
		d.problem(wrong.Line, "", "%s", wrong.Message)
	}
	if root != nil {
		d.decode(root, "", reflect.ValueOf(c).Elem())
		if root.Kind == yaml.MappingNode {
			c.setDefaults()
			c.validate(d)
		}
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int { return a.Line - b.Line })
	return c, Problems(d.problems)
}

func reason(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

func kindsOf(kinds []Kind) []Kind {
	if len(kinds) == 0 {
		return []Kind{KindHTTP}
	}
	return kinds
}

// Fixed is an error where c differs from what was active before in what only a restart can change.
func (c *Config) Fixed(was *Config) error {
	for _, k := range []struct {
		key     string
		was, is any
	}{
		{"node", was.Node, c.Node},
		{"data", was.Data, c.Data},
		{"listen", was.Listen, c.Listen},
		{"evidence", was.Evidence, c.Evidence},
		{"people", was.People, c.People},
		{"approvals.store", was.Approvals.Store, c.Approvals.Store},
		{"approvals.redis", was.Approvals.Redis, c.Approvals.Redis},
		{"approvals.console_url", was.Approvals.ConsoleURL, c.Approvals.ConsoleURL},
		{"approvals.ttl", was.Approvals.TTL, c.Approvals.TTL},
		{"approvals.limits", was.Approvals.Limits, c.Approvals.Limits},
		{"approvals.webhook", was.Approvals.Webhook, c.Approvals.Webhook},
		{"envoy.path", was.Envoy.Path, c.Envoy.Path},
		{"envoy.admin", was.Envoy.Admin, c.Envoy.Admin},
	} {
		if !reflect.DeepEqual(k.was, k.is) {
			return fmt.Errorf("%s: %s has changed, and takes a restart to change", c.File(), k.key)
		}
	}
	return nil
}
