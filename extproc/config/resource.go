package config

import (
	"cmp"
	"net"
	"net/netip"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Resource is one target. Each kind has a struct of its own, which embeds [Base].
type Resource interface {
	// Common returns what every resource has.
	Common() *Base

	// PlainTarget reports whether the file accepts plain text to the target.
	PlainTarget() bool

	// SetDefaults sets the keys that the file leaves out to their defaults.
	SetDefaults()

	// Validate reports what is wrong with the resource.
	Validate(k Checker)
}

// Kind is a kind of resource in the configuration file.
type Kind struct {
	Name   string          // the value of `kind`
	New    func() Resource // returns its struct, empty
	Source string          // the Go source of the struct and of the structs in it, whose comments are the manual
}

// Base is what every resource has, whatever its kind.
type Base struct {
	// Name is what policy, records and Envoy call it. Letters, digits, '-' and '_'. Required, and unique.
	Name string `yaml:"name"`

	// Kind is the kind of target, such as "http". Required.
	Kind string `yaml:"kind"`

	// Listen is where Envoy takes the agents' requests.
	Listen ResourceListen `yaml:"listen"`

	// Policy is the package that rules on it: data.rules.POLICY. The resource's name by default.
	Policy string `yaml:"policy"`

	// Labels are shown to policy as input.resource.labels.
	Labels map[string]string `yaml:"labels"`

	// Hold overrides approvals.hold for this resource.
	Hold Duration `yaml:"hold"`

	// Approval is what this resource demands of those who approve, beyond what policy says of who they are.
	Approval Demand `yaml:"approval"`
}

// PlainTarget is false: Base knows no target.
func (b *Base) PlainTarget() bool { return false }

// Common returns b.
func (b *Base) Common() *Base { return b }

// ResourceListen is where Envoy listens for a resource. Resources may share an address when their hosts differ.
type ResourceListen struct {
	Address  string     `yaml:"address"`  // "HOST:PORT" with an IP address as the host. Required.
	Host     string     `yaml:"host"`     // the Host that agents ask for. Any host by default.
	TLS      *ServerTLS `yaml:"tls"`      // required off loopback, unless insecure is true.
	Insecure bool       `yaml:"insecure"` // accept plain HTTP off loopback.
}

// SetDefaults sets b's defaults. The struct that embeds b calls it first.
func (b *Base) SetDefaults() { b.Policy = cmp.Or(b.Policy, b.Name) }

// Validate reports what is wrong with b. The struct that embeds b calls it first.
func (b *Base) Validate(k Checker) {
	if k.At("name").Required(b.Name) && !resourceName.MatchString(b.Name) {
		k.At("name").Fail("is %q: use up to 63 letters, digits, '-' and '_'", b.Name)
	}
	if k.At("kind").Required(b.Kind) {
		k.At("kind").oneOf(b.Kind, k.d.kindNames()...)
	}
	b.Listen.validate(k.At("listen"))
	if !resourceName.MatchString(b.Policy) && b.Name != "" && b.Policy != b.Name {
		k.At("policy").Fail("is %q: write the last part of the package's name, PAYMENTS of data.rules.PAYMENTS", b.Policy)
	}
}

func (c *Config) validateResources(k Checker) {
	if len(c.Resources) == 0 {
		k.Fail("is required: name at least one target")
	}
	names := map[string]bool{}
	type place struct{ address, host string }
	places := map[place]string{}
	first := map[string]*Base{} // of an address
	k.d.agents = c.Agents
	for i := range c.Resources {
		k := k.index(i)
		c.Resources[i].Validate(k)
		r := c.Resources[i].Common()
		if r.Hold.Std() > c.Approvals.TTL.Std() {
			k.At("hold").Fail("is %v, longer than approvals.ttl, %v: a request would expire while it is held", r.Hold.Std(), c.Approvals.TTL.Std())
		}
		if names[r.Name] {
			k.At("name").Fail("%q is taken by an earlier resource", r.Name)
		}
		names[r.Name] = true
		other, ok := first[r.Listen.Address]
		if !ok {
			first[r.Listen.Address], other = r, r
		}
		p := place{r.Listen.Address, strings.ToLower(r.Listen.Host)}
		same, taken := places[p]
		switch {
		case other.Kind != r.Kind:
			k.At("listen.address").Fail("is that of resource %q, which is of kind %s: give one of them another address", other.Name, other.Kind)
		case taken && r.Kind != KindHTTP.Name && r.Listen.Host == "":
			k.At("listen.address").Fail("is that of resource %q: give one of them another address", same)
		case taken:
			k.At("listen").Fail("is the same address and host as resource %q: give one of them another address, or another listen.host", same)
		case !sameTLS(other.Listen.TLS, r.Listen.TLS):
			k.At("listen.tls").Fail("differs from that of resource %q, which listens on the same address", other.Name)
		}
		places[p] = r.Name
	}
}

func sameTLS(a, b *ServerTLS) bool {
	return a == b || a != nil && b != nil && *a == *b
}

func (l *ResourceListen) validate(k Checker) {
	if k.At("address").Required(l.Address) {
		k.At("address").address(Address(l.Address))
		host, _, _ := net.SplitHostPort(l.Address)
		if _, err := netip.ParseAddr(host); err != nil {
			k.At("address").Fail("has the host %q: Envoy listens on an IP address, such as 127.0.0.1 or 0.0.0.0", host)
		} else if l.TLS == nil && !Address(l.Address).Loopback() && !l.Insecure {
			k.At("address").Fail("is %s, where agents' tokens would cross the network in the clear: set tls, or insecure: true beside it", l.Address)
		}
	}
	if l.Host != "" && !hostName.MatchString(l.Host) {
		k.At("host").Fail("is %q: write a host name, without a port", l.Host)
	}
	l.TLS.validate(k.At("tls"))
}

// Named returns the resource called name, if it is of type R.
func Named[R Resource](c *Config, name string) (r R, ok bool) {
	for _, one := range c.Resources {
		if one.Common().Name == name {
			r, ok = one.(R)
		}
	}
	return r, ok
}

// Each returns the resources of c that are of type R, in the order of the file.
func Each[R Resource](c *Config) []R {
	var list []R
	for _, r := range c.Resources {
		if r, ok := r.(R); ok {
			list = append(list, r)
		}
	}
	return list
}

// unknown is a resource of an unknown kind. Only the keys that all resources have are checked.
type unknown struct {
	Base `yaml:",inline"`
}

// resource decodes one resource into the struct of its kind.
func (d *decoder) resource(n *yaml.Node, key string, v reflect.Value) {
	r, kind := Resource(&unknown{}), scalarIn(n, "kind")
	if kind == "" {
		r = &HTTP{} // Validate reports that `kind` is missing; the other keys are checked as those of kind http
	}
	nearest := 3 // a misspelt kind is read as the nearest one, and Validate reports it
	for _, k := range d.kinds {
		if distance := editDistance(kind, k.Name); kind != "" && distance < nearest {
			r, nearest = k.New(), distance
		}
	}
	d.decode(n, key, reflect.ValueOf(r).Elem())
	v.Set(reflect.ValueOf(r))
}

// scalarIn returns the text of a key of n, or "".
func scalarIn(n *yaml.Node, name string) string {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Kind == yaml.MappingNode && n.Content[i].Value == name && n.Content[i+1].Kind == yaml.ScalarNode {
			return n.Content[i+1].Value
		}
	}
	return ""
}
