package xds

import (
	"net"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/countersign/countersign/extproc/config"
)

// unmatched names the virtual host and route of requests for a host that no resource has. The dot cannot be in a
// resource's name.
const unmatched = "countersign.unmatched"

// envoyResponseHeaders are what Envoy says of itself in answers, and what a target could say to it.
var envoyResponseHeaders = []string{
	"server",
	"x-envoy-attempt-count",
	"x-envoy-decorator-operation",
	"x-envoy-degraded",
	"x-envoy-immediate-health-check-fail",
	"x-envoy-overloaded",
	"x-envoy-ratelimited",
	"x-envoy-upstream-canary",
	"x-envoy-upstream-healthchecked-cluster",
	"x-envoy-upstream-service-time",
}

func (b *Builder) routes(l *listener) *routev3.RouteConfiguration {
	out := &routev3.RouteConfiguration{
		Name:                    b.routesName(l),
		RequestHeadersToRemove:  []string{"x-envoy-external-address", "x-envoy-internal", "x-envoy-expected-rq-timeout-ms"},
		ResponseHeadersToRemove: envoyResponseHeaders,
	}
	everywhere := false
	for _, r := range l.resources {
		everywhere = everywhere || r.Listen.Host == ""
		out.VirtualHosts = append(out.VirtualHosts, b.virtualHost(l, r))
	}
	if !everywhere {
		out.VirtualHosts = append(out.VirtualHosts, nowhere())
	}
	b.valid(out)
	return out
}

// routesName is another one where the listener asks in another way or takes other connections. Routes turn filters off that
// they do not use, so they are right for one chain of filters only; and Envoy leaves old connections with their old chain. They
// keep the routes of it too, with its fingerprints. With the new routes a request on such a connection could be asked about
// by nobody.
func (b *Builder) routesName(l *listener) string {
	if b.static {
		return l.address
	}
	chain := struct {
		Proc, Authz, Clean, TLS bool
		ClientCA                config.Path
	}{l.attaches("ext_proc"), l.attaches("ext_authz"), l.cleans(), l.tls != nil, ""}
	if l.tls != nil {
		chain.ClientCA = l.tls.ClientCAFile
	}
	return l.address + "/" + digestOf(chain)
}

func (b *Builder) virtualHost(l *listener, r *config.HTTP) *routev3.VirtualHost {
	host := &routev3.VirtualHost{Name: r.Name, Domains: []string{"*"}}
	if name := strings.ToLower(r.Listen.Host); name != "" {
		host.Domains = []string{name, name + ":*"}
	}
	if slices.Contains(r.Upgrades, "connect") {
		host.Routes = append(host.Routes, b.connectRoute(l, r))
	}
	host.Routes = append(host.Routes, b.route(l, r))
	return host
}

func (b *Builder) route(l *listener, r *config.HTTP) *routev3.Route {
	action := b.action(r)
	action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: b.targetAuthority(r)}
	if slices.Contains(r.Upgrades, "websocket") {
		action.UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "websocket"}}
	}
	return &routev3.Route{
		Name:                 r.Name,
		Match:                &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action:               &routev3.Route_Route{Route: action},
		TypedPerFilterConfig: b.perRoute(l, r),

		ResponseHeadersToRemove: cookiesToRemove(r),
	}
}

// connectRoute passes CONNECT on to the target, which is then a forward proxy: the authority that was asked for is what
// policy judges, and stays as it is.
func (b *Builder) connectRoute(l *listener, r *config.HTTP) *routev3.Route {
	action := b.action(r)
	action.UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "CONNECT"}}
	return &routev3.Route{
		Name:                 r.Name,
		Match:                &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}},
		Action:               &routev3.Route_Route{Route: action},
		TypedPerFilterConfig: b.perRoute(l, r),

		ResponseHeadersToRemove: cookiesToRemove(r),
	}
}

// action goes to the target once. The timeout begins when the request has gone to the target, so it is not about holds;
// Envoy's default would be 15 s.
func (b *Builder) action(r *config.HTTP) *routev3.RouteAction {
	return &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: b.clusterName(r)},
		Timeout:          seconds(r.Timeout.Std()),
		IdleTimeout:      seconds(idleTimeout(longestHold(b.c))),
	}
}

// targetAuthority is the Host that the target sees.
func (b *Builder) targetAuthority(r *config.HTTP) string {
	host, port, tls, err := r.TargetAddress()
	if err != nil {
		b.Fail(err)
	}
	if tls && port == 443 || !tls && port == 80 {
		if strings.Contains(host, ":") {
			return "[" + host + "]"
		}
		return host
	}
	return net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))
}

// perRoute tells the filter that the resource is attached by its name and fingerprint, and turns the other filter off where the
// listener has it.
func (b *Builder) perRoute(l *listener, r *config.HTTP) map[string]*anypb.Any {
	filters := map[string]*anypb.Any{}
	if cleans(r) {
		filters[trailers] = b.Pack(cleaned(r))
	}
	if r.Attach == "ext_authz" {
		filters[extAuthz] = b.Pack(checkOf(r))
		if r.Body != "stream" && len(r.Upgrades) == 0 {
			filters[lengths] = b.Pack(measured(r))
		}
		if b.timed(l, r) {
			filters[clock] = b.Pack(timing(r))
		}
		if l.attaches("ext_proc") {
			filters[extProc] = b.Pack(&procv3.ExtProcPerRoute{Override: &procv3.ExtProcPerRoute_Disabled{Disabled: true}})
		}
		return filters
	}
	filters[extProc] = b.Pack(processingOf(r))
	if l.attaches("ext_authz") {
		filters[extAuthz] = b.Pack(&authzv3.ExtAuthzPerRoute{Override: &authzv3.ExtAuthzPerRoute_Disabled{Disabled: true}})
	}
	return filters
}

func processingOf(r *config.HTTP) *procv3.ExtProcPerRoute {
	return &procv3.ExtProcPerRoute{Override: &procv3.ExtProcPerRoute_Overrides{Overrides: &procv3.ExtProcOverrides{
		ProcessingMode:      processingMode(r.Response == "pass"),
		GrpcInitialMetadata: []*corev3.HeaderValue{{Key: ResourceMetadata, Value: r.Name}, {Key: FingerprintMetadata, Value: Fingerprint(r)}},
	}}}
}

func checkOf(r *config.HTTP) *authzv3.ExtAuthzPerRoute {
	check := &authzv3.CheckSettings{ContextExtensions: map[string]string{ResourceExtension: r.Name, FingerprintExtension: Fingerprint(r)}}
	if r.Body == "stream" {
		check.DisableRequestBodyBuffering = true
	} else {
		check.WithRequestBody = wholeBody(r.Limits.RequestBody)
		check.ContextExtensions[BodyExtension] = WholeBody
	}
	return &authzv3.ExtAuthzPerRoute{Override: &authzv3.ExtAuthzPerRoute_CheckSettings{CheckSettings: check}}
}

// nowhere answers requests for a host that no resource has. The filters stay on: the service refuses first, and records
// that somebody asked.
func nowhere() *routev3.VirtualHost {
	return &routev3.VirtualHost{
		Name:    unmatched,
		Domains: []string{"*"},
		Routes: []*routev3.Route{{
			Name:   unmatched,
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 404}},
		}},
	}
}
