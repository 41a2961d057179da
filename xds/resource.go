// Package xds turns the configuration into Envoy's, and serves it over ADS.
//
// # What it makes
//
// One listener for each distinct listen.address, one route configuration for each listener, one cluster for each target,
// and a secret for each certificate. [Resources] makes them as a snapshot that [Server] serves; [Static] makes the same
// from the same code as one file, for those who run Envoy without xDS; [Bootstrap] makes the file that Envoy starts with.
// [CheckFile] holds any such file, ours or a team's own, to the rules that keep it fail-closed.
//
// # What keeps it fail-closed
//
//   - The filter that calls this service is enabled for the whole listener. A route only names its resource, in gRPC
//     metadata or context extensions that no client can write, so a route that was forgotten names none, and the service
//     refuses what names no resource. There is no failure_mode_allow and no allow_mode_override.
//   - A request that Envoy cannot put before the service is answered 503; the target does not see it.
//   - Nothing is sent twice. There is no retry policy, and what else makes Envoy retry, x-envoy-retry-on from a client that
//     it takes for an internal one, is stopped three times: no client is internal, every x-envoy-* header is removed before
//     routing, and no target may have a retry outstanding. A decision, and an approval, is for one execution.
//   - Nothing that the service decided on changes afterwards: no path is rewritten, and the host that the target sees is
//     the configured one.
//   - ext_authz does not tell a request without a body from one whose body is not sent along: the service wants a route to say
//     that it sends them. And Envoy itself measures each body first, so that a length stands beside a body that is not there.
//   - A route belongs to one configuration of its resource. It tells the service which one ([Fingerprint]), and leads to a
//     cluster that no other target ever has; and the routes of a listener with other filters have another name. So a connection
//     that Envoy leaves with its old filters when the configuration changes has its old routes too, which the service refuses
//     where they say something else than the configuration of now, and none that turn off the filters that it has.
//   - How long a request may take to arrive Envoy bounds for a listener. With ext_proc the service bounds it for a resource by
//     itself; with ext_authz, where that is not the listener's bound, a stream of ext_proc tells it when a request begins
//     (countersign.clock) and of nothing else. What that stream lets go on ext_authz judges.
//   - ext_authz does not show trailers to the service, and a target can read them as header fields: they are removed on
//     routes that are attached by it.
//
// # Paths are left as they came
//
// normalize_path and merge_slashes are off, and escaped slashes are kept, on purpose. The service refuses a path that two
// servers could read differently, and records what was asked. Were Envoy to clean the path first, the record would show a
// harmless request where an agent had tried something else. The same goes for header names with underscores.
//
// # What Envoy is trusted with
//
// Envoy sees everything in the clear, holds the TLS keys of the listeners, and is the one that must ask. This package
// trusts whoever can open the ADS socket to be that Envoy: the socket is mode 0600, and TCP needs a client certificate.
//
// # Learnt from Envoy 1.40.0
//
//   - local_reply_config also rewrites what ext_proc (ImmediateResponse) and ext_authz (denied) answer, unless a mapper's
//     filter leaves them alone. The only thing that tells them apart is response.code_details, which needs a CEL filter.
//   - failure_mode_allow has no effect on a request with a body in FULL_DUPLEX_STREAMED, which fails closed all the same, and
//     lets those without a body through: test with GET.
//   - Envoy answers a request that it cannot parse through the filters too, and closes the connection without waiting for
//     them. With ext_proc looking at answers the agent gets no answer at all. So the filter itself does not look at
//     answers, and each route that wants it to does: a request that cannot be parsed has no route.
//   - A snapshot cache answers a NACK, whose version is the old one, with the resources that were just refused, at once
//     and for ever. [Server] has it wait for other resources, and offers what was refused again after a second, two, four and
//     so on up to sixteen: a port that another program has may be free by then, and nothing else has Envoy try.
//   - A listener that is refused takes its subscriptions to routes and secrets with it. Envoy then names none of that type,
//     which the cache takes for all of them, and Envoy refuses what it has not named without a word of why: 20,000 messages a
//     second, each way. [Server] answers such a request with nothing.
//   - STRICT_DNS makes both address families of a name endpoints of equal weight, so a family that does not answer fails
//     every second request; clusters prefer IPv4.
//   - Envoy does not retry, so a target that closes an idle connection just as a request is sent on it costs that request.
//     Idle connections to targets are therefore closed after 4 s, before common servers do (5 s and up).
//   - A listener whose filters change leaves its connections with the old ones, for ten minutes unless the strategy of draining is
//     immediate, and gives them the new routes where these have the same name. Routes that turned ext_proc off for a
//     resource, because it is attached by ext_authz now, then had no filter ask at all.
//
// # What it costs
//
// On Envoy 1.40.0, 2 shared cores, 16 connections, GETs of 1 KB, with a service that allows everything at once; medians of 7
// to 15 turns of processor time a request, ± 10 µs. Envoy with nothing but the filter takes 124 µs, with this
// configuration 155. What was left out in turn:
//
//	the access log                         10 to 20 µs less for Envoy, 10 to 13 for who receives it
//	the operation's id as dynamic metadata 11 and 14
//	the request attribute source.address   9 to 14 and 4 to 8, so that the peer comes as gRPC metadata, for 1 to 2
//	header mutations in the answer         4 and 3
//	all settings of the connection manager nothing that shows: limits, timers, header rules, local replies, overload
//	a larger buffer of the access log      nothing
//	a service that ends its stream at once nothing
//
// The first two are evidence: that a request was there, and which operation it was.
package xds

import (
	"fmt"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign/countersign/extproc/config"
)

const (
	// ServiceCluster is the cluster of this service in every Envoy file. It cannot be the name of a target's cluster.
	ServiceCluster = "countersign"

	// ResourceMetadata is the gRPC metadata key of an ext_proc stream that names the resource.
	ResourceMetadata = "countersign-resource"

	// FingerprintMetadata is the gRPC metadata key of an ext_proc stream that says which configuration of the resource Envoy
	// carries out: see Fingerprint.
	FingerprintMetadata = "countersign-fingerprint"

	// PeerMetadata is the gRPC metadata key of an ext_proc stream that says who connected, as an address and a port.
	PeerMetadata = "countersign-peer"

	// ClockMetadata is the gRPC metadata key of a stream of ext_proc that is about time alone, and names the resource whose
	// request has to be there in time.
	ClockMetadata = "countersign-clock"

	peerFormat = "%DOWNSTREAM_REMOTE_ADDRESS%"

	// ResourceExtension is the context extension of an ext_authz check that names the resource.
	ResourceExtension = "resource"

	// BodyExtension is the context extension of an ext_authz check that says, with WholeBody, that the body is sent along. The
	// service believes nothing else, because Envoy does not say that a body follows which it does not send.
	BodyExtension = "body"
	WholeBody     = "whole"

	// FingerprintExtension is the context extension of an ext_authz check that says what FingerprintMetadata says.
	FingerprintExtension = "fingerprint"

	// MetadataNamespace is the dynamic metadata that the service may set, so that the access log can name the operation.
	MetadataNamespace = "countersign"

	// DetailsPrefix begins the `details` of each ImmediateResponse of the service, which keeps Envoy from replacing its body.
	DetailsPrefix = "countersign"

	// ResourceTag is the custom tag of an entry of the log of connections that names the resource.
	ResourceTag = "countersign.resource"

	// AccessLogName is the log_name under which access log entries come.
	AccessLogName = "countersign"
)

const (
	holdMargin     = 10 * time.Second // what Envoy waits beyond the longest hold before it gives a decision up
	minIdleTimeout = 5 * time.Minute  // of a stream: Envoy's own default
	connectTimeout = 5 * time.Second
	targetIdle     = 4 * time.Second
	answerLimit    = 128 << 10 // bytes of a target's connection that come in one piece, which the service has while an agent reads nothing
	bufferLimit    = 1 << 20   // bytes of a connection that Envoy holds before it stops reading
	maxHeaders     = 200       // Envoy's default is 100
)

// Resources is what Envoy is to have for c, as a snapshot of that version. It reads the certificate and key files that c
// names; [Files] lists them.
func Resources(c *config.Config, version string, kinds ...Kind) (*cache.Snapshot, error) {
	all, err := build(c, false, kinds)
	if err != nil {
		return nil, err
	}
	return all.snapshot(version)
}

// Files are the files whose content is part of [Resources]: after one of them changed, [Server.Update] is due.
func Files(c *config.Config) []config.Path {
	var files []config.Path
	add := func(paths ...config.Path) {
		for _, p := range paths {
			if p != "" && !slices.Contains(files, p) {
				files = append(files, p)
			}
		}
	}
	for _, r := range c.Resources {
		if t := r.Common().Listen.TLS; t != nil {
			add(t.CertificateFile, t.KeyFile, t.ClientCAFile)
		}
	}
	for _, r := range config.Each[*config.HTTP](c) {
		if t := r.TargetTLS; t != nil {
			add(t.CertificateFile, t.KeyFile, t.CAFile)
		}
	}
	return files
}

// resources is what is made for one configuration.
type resources struct {
	listeners []*listenerv3.Listener
	routes    []*routev3.RouteConfiguration
	clusters  []*clusterv3.Cluster
	secrets   []*tlsv3.Secret
}

func (r *resources) snapshot(version string) (*cache.Snapshot, error) {
	s, err := cache.NewSnapshot(version, map[resource.Type][]types.Resource{
		resource.ListenerType: asResources(r.listeners),
		resource.RouteType:    asResources(r.routes),
		resource.ClusterType:  asResources(r.clusters),
		resource.SecretType:   asResources(r.secrets),
	})
	if err != nil {
		return nil, fmt.Errorf("make an xDS snapshot of version %s: %w", version, err)
	}
	if err := s.Consistent(); err != nil {
		return nil, fmt.Errorf("make an xDS snapshot of version %s: %w", version, err)
	}
	return s, nil
}

func asResources[T types.Resource](list []T) []types.Resource {
	out := make([]types.Resource, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out
}

// Builder makes the resources of one configuration. Its methods note the first error in err and go on, so that they can be
// nested in the messages they are for.
type Builder struct {
	c      *config.Config
	static bool // one file without xDS: certificates by file name, routes within their listener
	out    resources
	err    error
}

func build(c *config.Config, static bool, kinds []Kind) (*resources, error) {
	if len(c.Resources) == 0 {
		return nil, fmt.Errorf("make Envoy's resources of %s: it names no resource", c.File())
	}
	b := &Builder{c: c, static: static}
	for _, l := range listeners(c) {
		b.listener(l)
	}
	for _, r := range config.Each[*config.HTTP](c) {
		b.cluster(r)
	}
	for _, k := range kinds {
		k.Make(b, c)
	}
	if b.err != nil {
		return nil, fmt.Errorf("make Envoy's resources of %s: %w", c.File(), b.err)
	}
	return &b.out, nil
}

// Fail notes an error: nothing is made of a configuration with one.
func (b *Builder) Fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// Message is what every generated message has in common.
type Message interface {
	proto.Message
	ValidateAll() error
}

// Pack makes an Any of m. ValidateAll of the message around an Any does not look inside, so m is validated here.
func (b *Builder) Pack(m Message) *anypb.Any {
	if err := m.ValidateAll(); err != nil {
		b.Fail(err)
	}
	packed := new(anypb.Any)
	if err := anypb.MarshalFrom(packed, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		b.Fail(err)
	}
	return packed
}

func (b *Builder) valid(m Message) {
	if err := m.ValidateAll(); err != nil {
		b.Fail(err)
	}
}

// longestHold is the longest that an operation on any resource is held.
func longestHold(c *config.Config) time.Duration {
	longest := c.Approvals.Hold.Std()
	for _, r := range c.Resources {
		longest = max(longest, r.Common().Hold.Std())
	}
	return longest
}

// idleTimeout is how long a stream may rest. A held request rests, so it is above the hold.
func idleTimeout(hold time.Duration) time.Duration {
	return max(minIdleTimeout, hold+time.Minute)
}

func seconds(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func number(n int) *wrapperspb.UInt32Value { return wrapperspb.UInt32(uint32(n)) }

func yes() *wrapperspb.BoolValue { return wrapperspb.Bool(true) }

func no() *wrapperspb.BoolValue { return wrapperspb.Bool(false) }
