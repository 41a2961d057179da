package tcp

import (
	"cmp"
	_ "embed"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/loopback"
)

//go:embed config.go
var source string

// Resource is a resource of kind tcp: a service whose protocol the gateway does not read.
type Resource struct {
	config.Base `yaml:",inline"`

	// Target is where connections go: "tcp://HOST:PORT". Required.
	Target string `yaml:"target"`

	TargetTLS      *config.ClientTLS `yaml:"target_tls"`      // speak TLS to the target. Plain by default.
	TargetInsecure bool              `yaml:"target_insecure"` // accept a plain target that is not on loopback.

	// Limits bound connections.
	Limits Limits `yaml:"limits"`
}

// Limits bound connections.
type Limits struct {
	Connections    int             `yaml:"connections"`     // at once, to the target. 1000 by default.
	Idle           config.Duration `yaml:"idle"`            // how long a connection may rest. 1h by default.
	ConnectionTime config.Duration `yaml:"connection_time"` // how long a connection may last. 24h by default.
}

// PlainTarget is target_insecure.
func (r *Resource) PlainTarget() bool { return r.TargetInsecure }

// SetDefaults gives what the file leaves out its default.
func (r *Resource) SetDefaults() {
	r.Base.SetDefaults()
	r.Limits.Connections = cmp.Or(r.Limits.Connections, 1000)
	r.Limits.Idle = cmp.Or(r.Limits.Idle, config.Duration(time.Hour))
	r.Limits.ConnectionTime = cmp.Or(r.Limits.ConnectionTime, config.Duration(24*time.Hour))
}

// Validate reports what is wrong with the resource.
func (r *Resource) Validate(k config.Checker) {
	r.Base.Validate(k)
	if t := r.Listen.TLS; t == nil || t.ClientCAFile == "" {
		k.At("listen.tls").Fail("needs client_ca_file: who connects is known by the certificate")
	}
	k.At("listen.tls").KnownByCertificate(r.Listen.TLS)
	if r.Listen.Host != "" {
		k.At("listen.host").Fail("is for HTTP: connections of kind tcp are told apart by listen.address")
	}
	if n := r.Limits.Connections; n < 1 || n > 16_384 {
		k.At("limits.connections").Fail("is %d: use 1 to 16384", n)
	}
	if d := r.Limits.ConnectionTime.Std(); d < time.Second {
		k.At("limits.connection_time").Fail("is %v: use at least 1s", d)
	}
	if d := r.Limits.Idle.Std(); d < time.Second {
		k.At("limits.idle").Fail("is %v: use at least 1s", d)
	}
	r.TargetTLS.Validate(k.At("target_tls"))
	if k = k.At("target"); !k.Required(r.Target) {
		return
	}
	u, err := url.Parse(r.Target)
	if err == nil && (u.Scheme != "tcp" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "") {
		err = net.InvalidAddrError("not tcp://HOST:PORT")
	}
	if _, _, hostErr := r.address(); err != nil || hostErr != nil {
		k.Fail("is %q: write tcp://HOST:PORT", r.Target)
	} else if r.TargetTLS == nil && !loopback.Host(u.Hostname()) && !r.TargetInsecure {
		k.Fail("is %q, which is plain to another machine: set target_tls, or target_insecure: true beside it", r.Target)
	}
}

// address is the host and port of the target.
func (r *Resource) address() (host string, port uint32, err error) {
	u, err := url.Parse(r.Target)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err == nil && (n == 0 || u.Hostname() == "") {
		err = net.InvalidAddrError("no host or port")
	}
	return u.Hostname(), uint32(n), err
}
