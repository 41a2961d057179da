package xds

import (
	"regexp"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/countersign/countersign/extproc/config"
)

// level is one of the places that can configure a filter for a route, from the route configuration to a weighted cluster.
type level struct {
	filters map[string]*anypb.Any
	at      Place    // of typed_per_filter_config
	removed []string // response_headers_to_remove
}

func (k *Checker) routeConfiguration(c *routev3.RouteConfiguration, askers []asker, at Place) {
	if c.GetVhds() != nil {
		k.Problem(at.At("vhds"), "virtual hosts come from elsewhere (vhds), so that they cannot be checked")
	}
	if len(c.GetRouteSpecifiers()) > 0 {
		k.Problem(at.At("route_specifiers"), "route_specifiers pick routes in ways that cannot be checked: remove them")
	}
	k.routeHeaders(c.GetRequestHeadersToAdd(), c.GetRequestHeadersToRemove(), at)
	outer := []level{{c.GetTypedPerFilterConfig(), at.At("typed_per_filter_config"), c.GetResponseHeadersToRemove()}}
	for i, h := range c.GetVirtualHosts() {
		k.checkHost(h, askers, outer, at.At("virtual_hosts", i))
	}
}

func (k *Checker) checkHost(h *routev3.VirtualHost, askers []asker, outer []level, at Place) {
	if h.GetMatcher() != nil {
		k.Problem(at.At("matcher"), "matcher picks routes in ways that cannot be checked: use routes")
	}
	if len(h.GetRouteSpecifiers()) > 0 {
		k.Problem(at.At("route_specifiers"), "route_specifiers pick routes in ways that cannot be checked: remove them")
	}
	k.routeHeaders(h.GetRequestHeadersToAdd(), h.GetRequestHeadersToRemove(), at)
	levels := append(outer[:len(outer):len(outer)], level{h.GetTypedPerFilterConfig(), at.At("typed_per_filter_config"), h.GetResponseHeadersToRemove()})
	for i, r := range h.GetRoutes() {
		at := at.At("routes", i)
		if len(r.GetRouteSpecifiers()) > 0 {
			k.Problem(at.At("route_specifiers"), "route_specifiers pick routes in ways that cannot be checked: remove them")
		}
		if r.GetRoute() == nil {
			continue // redirects and direct responses reach no target
		}
		k.routeHeaders(r.GetRequestHeadersToAdd(), r.GetRequestHeadersToRemove(), at)
		k.action(r.GetRoute(), at.At("route"))
		levels := append(levels[:len(levels):len(levels)], level{r.GetTypedPerFilterConfig(), at.At("typed_per_filter_config"), r.GetResponseHeadersToRemove()})
		weighted := r.GetRoute().GetWeightedClusters().GetClusters()
		for j, w := range weighted {
			at := at.At("route", "weighted_clusters", "clusters", j)
			k.routeHeaders(w.GetRequestHeadersToAdd(), w.GetRequestHeadersToRemove(), at)
			k.guarded(askers, append(levels[:len(levels):len(levels)], level{w.GetTypedPerFilterConfig(), at.At("typed_per_filter_config"), w.GetResponseHeadersToRemove()}), r, w.GetName(), at)
		}
		if len(weighted) == 0 {
			k.guarded(askers, levels, r, r.GetRoute().GetCluster(), at)
		}
	}
}

// guarded checks that exactly one filter is on that asks this service, and that it names the resource whose target the cluster is.
func (k *Checker) guarded(askers []asker, levels []level, route *routev3.Route, cluster string, at Place) {
	k.clocksOnRoute(levels)
	k.askedOnRoute(askers, levels)
	var on int
	var named bool
	for _, g := range askers {
		disabled, resource, mode, where := k.effective(g, levels)
		if where.node != nil && len(askers) == 1 {
			at = where
		}
		if disabled {
			continue
		}
		if on++; on > 1 {
			k.Problem(g.at, secondAsker, g.name)
		}
		if ok, where := cleanedBy(g.cleaners, levels, removesTrailers); g.attach == "ext_authz" && !ok {
			if where.node == nil {
				where = at
			}
			k.Problem(where, "ext_authz does not show the trailers of requests to countersign, and targets can read them as header fields: remove them, with a filter envoy.filters.http.header_mutation before ext_authz whose request_trailers_mutations has remove_on_match {key_matcher: {safe_regex: {regex: .*}}}")
		}
		if g.attach == "ext_authz" {
			k.bodies(g, levels, at)
		}
		if resource != "" {
			named = true
			k.resource(g, resource, mode, where)
			k.fingerprint(g, resource, levels, where)
			k.cookies(g, resource, mode, levels, where)
			k.resourceOfRoute(g, resource, route, cluster, at)
		}
	}
	switch {
	case len(askers) == 0: // reported for the whole connection manager
	case on == 0:
		k.Problem(at, "every filter that asks countersign is turned off for this route, so that its requests go through unseen")
	case !named:
		k.Problem(at, "this route names no resource, so that countersign refuses its requests: set grpc_initial_metadata %s (ext_proc) or context_extensions %s (ext_authz) in typed_per_filter_config", ResourceMetadata, ResourceExtension)
	}
}

// effective is what the levels, from the outermost, make of a filter: the innermost that speaks of it decides whether it
// is on, and of names and modes the innermost counts.
func (k *Checker) effective(g asker, levels []level) (disabled bool, resource string, mode *procv3.ProcessingMode, where Place) {
	resource, mode = g.resource, g.mode
	for _, l := range levels {
		packed, ok := l.filters[g.name]
		if !ok {
			continue
		}
		where = l.at.At(g.name)
		off, name, m := overridden(packed)
		disabled = off
		if m != nil {
			mode = m
		}
		if name != "" {
			resource = name
		}
	}
	return disabled, resource, mode, where
}

// onRoute reads per-route configuration of a filter: its own message, or nil where there is none, and whether a wrapper turns the
// filter off.
func onRoute(packed *anypb.Any) (own proto.Message, off bool) {
	if packed == nil {
		return nil, false
	}
	inner, err := packed.UnmarshalNew()
	if err != nil {
		return nil, false // reported by walk
	}
	if w, ok := inner.(*routev3.FilterConfig); ok {
		own, off = onRoute(w.GetConfig())
		return own, off || w.GetDisabled()
	}
	return inner, false
}

// overridden reads per-route configuration of one of the two filters.
func overridden(packed *anypb.Any) (disabled bool, resource string, mode *procv3.ProcessingMode) {
	own, off := onRoute(packed)
	switch c := own.(type) {
	case *procv3.ExtProcPerRoute:
		return off || c.GetDisabled(), namedIn(c.GetOverrides().GetGrpcInitialMetadata()), c.GetOverrides().GetProcessingMode()
	case *authzv3.ExtAuthzPerRoute:
		return off || c.GetDisabled(), c.GetCheckSettings().GetContextExtensions()[ResourceExtension], nil
	}
	return off, "", nil
}

// askedOnRoute checks what the levels change of the filters that ask this service, or would make others ask it.
func (k *Checker) askedOnRoute(askers []asker, levels []level) {
	for _, l := range levels {
		for name, packed := range l.filters {
			ours := name == clock || slices.ContainsFunc(askers, func(g asker) bool { return g.name == name })
			own, _ := onRoute(packed)
			at := l.at.At(name)
			switch c := own.(type) {
			case *procv3.ExtProcPerRoute:
				if ours {
					k.processorOnRoute(c, at)
				} else if Asks(c.GetOverrides().GetGrpcService()) {
					k.Problem(at, secondAsker, name)
				}
			case *authzv3.ExtAuthzPerRoute:
				if ours {
					k.authorizerOnRoute(c, at)
				} else if Asks(c.GetCheckSettings().GetGrpcService()) {
					k.Problem(at, secondAsker, name)
				}
			}
		}
	}
}

const secondAsker = "filter %s asks countersign a second time about a request that it has judged or will judge, and each time is an operation of its own: have one filter ask on each route"

// bodies checks that a route of ext_authz says whether bodies are sent along, and that it is true.
func (k *Checker) bodies(g asker, levels []level, at Place) {
	sends, says, where := bodiesSent(g, levels)
	if where.node == nil {
		where = at
	}
	switch {
	case says && !sends:
		k.Problem(where, "context_extensions say %s: %s, and bodies are not sent to countersign on this route: set with_request_body, and no disable_request_body_buffering; or remove that", BodyExtension, WholeBody)
	case sends && !says:
		k.Problem(where, "nothing tells countersign that bodies are sent to it on this route, so that it refuses what could have one unseen: set context_extensions {%s: %s} in typed_per_filter_config", BodyExtension, WholeBody)
	}
}

// bodiesSent reports whether ext_authz sends bodies along for what the levels, from the outermost, are about, and whether it
// tells the service so. Envoy takes settings from the innermost level and each context extension from the innermost that has
// it.
func bodiesSent(g asker, levels []level) (sends, says bool, where Place) {
	sends = g.buffers
	for _, l := range levels {
		s, ok := checkSettings(l.filters[g.name])
		if !ok {
			continue
		}
		where = l.at.At(g.name)
		sends = (g.buffers || s.GetWithRequestBody() != nil) && !s.GetDisableRequestBodyBuffering()
		if said, in := s.GetContextExtensions()[BodyExtension]; in {
			says = said == WholeBody
		}
	}
	return sends, says, where
}

// checkSettings reads per-route configuration of ext_authz.
func checkSettings(packed *anypb.Any) (*authzv3.CheckSettings, bool) {
	own, _ := onRoute(packed)
	c, ok := own.(*authzv3.ExtAuthzPerRoute)
	return c.GetCheckSettings(), ok
}

var resourceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// resource checks the name that a route gives. It must be plain, since Envoy replaces %REQ(…)% by what the client sent.
func (k *Checker) resource(g asker, name string, mode *procv3.ProcessingMode, at Place) {
	if !resourceName.MatchString(name) {
		k.Problem(at, "the resource %q is not a plain name: a client could choose what is put in", name)
		return
	}
	if k.config == nil {
		return
	}
	r, ok := config.Named[*config.HTTP](k.config, name)
	switch {
	case !ok:
		k.Problem(at, "the resource %q is not in %s", name, k.config.File())
	case r.Attach != g.attach:
		k.Problem(at, "the resource %q is attached by %s here, and by %s in %s", name, g.attach, r.Attach, k.config.File())
	case g.attach == "ext_proc" && r.Response != "pass" && mode.GetResponseBodyMode() != procv3.ProcessingMode_FULL_DUPLEX_STREAMED:
		k.Problem(at, "the answers of resource %q do not come by countersign here, and could not be redacted: set processing_mode with response_body_mode FULL_DUPLEX_STREAMED and the response's header and trailer modes SEND, or response: pass in %s", name, k.config.File())
	}
}

// resourceOfRoute is about what Envoy does for a resource of the configuration: where it leads, whether it takes the resource's
// methods, and by what the access log names it.
func (k *Checker) resourceOfRoute(g asker, name string, route *routev3.Route, cluster string, at Place) {
	if k.config == nil {
		return
	}
	r, ok := config.Named[*config.HTTP](k.config, name)
	if !ok {
		return // see resource
	}
	if route.GetName() != name {
		k.Problem(at, "the access log tells by the name of a route which resource a request was for, and this route's is %q: write name: %s", route.GetName(), name)
	}
	if len(r.Methods) > 0 && !g.anyMethod {
		k.Problem(g.manager.At("http_protocol_options"), "resource %q takes %s, which Envoy refuses by itself: set allow_custom_methods: true in http_protocol_options", name, strings.Join(r.Methods, ", "))
	}
	host, port, tls, err := r.TargetAddress()
	if err != nil {
		return // the configuration was refused for it
	}
	t := Target{Resource: name, Host: host, Port: port}
	if tls {
		t.TLS = r.TargetTLS.Name(host)
	}
	k.LeadsTo(cluster, t, at.At("route"))
}

// cookies checks a route whose answers do not pass through the service. There Envoy has to remove the target's cookies.
func (k *Checker) cookies(g asker, name string, mode *procv3.ProcessingMode, levels []level, at Place) {
	passes := g.attach == "ext_authz" || mode.GetResponseBodyMode() == procv3.ProcessingMode_NONE
	if k.config == nil || !passes {
		return
	}
	r, ok := config.Named[*config.HTTP](k.config, name)
	if !ok || !removesCookies(r) {
		return
	}
	inHead := slices.ContainsFunc(levels, func(l level) bool {
		return slices.ContainsFunc(l.removed, func(n string) bool { return strings.EqualFold(n, "set-cookie") })
	})
	if !inHead {
		inHead, _ = cleanedBy(g.cleaners, levels, removesCookieOf((*headerv3.Mutations).GetResponseMutations))
	}
	if !inHead {
		k.Problem(at, "the target's cookies reach agents of resource %q, whose answers do not come by countersign: set response_headers_to_remove: [set-cookie], or cookies: pass in %s", name, k.config.File())
	}
	if inTrailers, _ := cleanedBy(g.cleaners, levels, removesCookieOf((*headerv3.Mutations).GetResponseTrailersMutations)); !inTrailers {
		k.Problem(at, "the target's cookies reach agents of resource %q in trailers: remove them, with a filter envoy.filters.http.header_mutation whose response_trailers_mutations has {remove: set-cookie}, or cookies: pass in %s", name, k.config.File())
	}
}

// fingerprint checks which configuration of a resource a route was made for. If the route does not say, only what it does with
// answers is checked.
func (k *Checker) fingerprint(g asker, name string, levels []level, at Place) {
	said := g.fingerprint
	for _, l := range levels {
		if f := fingerprintIn(l.filters[g.name]); f != "" {
			said = f
		}
	}
	if k.config == nil || said == "" {
		return
	}
	if r, ok := config.Named[*config.HTTP](k.config, name); ok && said != Fingerprint(r) {
		k.Problem(at, "this file was made of another configuration of resource %q than that in %s, so that countersign refuses its requests: make it again (countersign envoy static); a file that is written by hand needs no fingerprint", name, k.config.File())
	}
}

func fingerprintIn(packed *anypb.Any) string {
	own, _ := onRoute(packed)
	switch c := own.(type) {
	case *procv3.ExtProcPerRoute:
		return Metadata(c.GetOverrides().GetGrpcInitialMetadata(), FingerprintMetadata)
	case *authzv3.ExtAuthzPerRoute:
		return c.GetCheckSettings().GetContextExtensions()[FingerprintExtension]
	}
	return ""
}

// action checks where a route leads, and what it changes on the way.
func (k *Checker) action(a *routev3.RouteAction, at Place) {
	switch c := a.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		if c.Cluster == ServiceCluster {
			k.Problem(at.At("cluster"), "this route lets agents speak to countersign's own services: lead it to a target")
		}
	case *routev3.RouteAction_WeightedClusters:
		for i, w := range c.WeightedClusters.GetClusters() {
			if w.GetName() == ServiceCluster || w.GetClusterHeader() != "" {
				k.Problem(at.At("weighted_clusters", "clusters", i), "this route lets agents speak to countersign's own services, or choose where it leads")
			}
		}
	default:
		k.Problem(at, "where this route leads depends on the request: name the cluster")
	}
	for _, rewrite := range []struct {
		set  bool
		name string
	}{
		{a.GetPrefixRewrite() != "", "prefix_rewrite"},
		{a.GetRegexRewrite() != nil, "regex_rewrite"},
		{a.GetPathRewrite() != "", "path_rewrite"},
		{a.GetPathRewritePolicy() != nil, "path_rewrite_policy"},
		{a.GetHostRewriteHeader() != "", "host_rewrite_header"},
		{a.GetHostRewritePathRegex() != nil, "host_rewrite_path_regex"},
		{a.GetHostRewrite() != "", "host_rewrite"},
	} {
		if rewrite.set {
			k.Problem(at.At(rewrite.name), "%s changes a request after it was judged: have agents ask for what the target is to get", rewrite.name)
		}
	}
	if a.GetInternalRedirectAction() != routev3.RouteAction_PASS_THROUGH_INTERNAL_REDIRECT { //nolint:staticcheck // Envoy still reads it
		k.Problem(at.At("internal_redirect_action"), "internal_redirect_action has Envoy go where a target's answer sends it, and a decision is for one request: remove it")
	}
	if d := a.GetIdleTimeout(); d.AsDuration() != 0 {
		k.Longer(d, 0, at.At("idle_timeout"), "idle_timeout")
	}
	if d := a.GetMaxStreamDuration().GetMaxStreamDuration(); d.AsDuration() != 0 {
		k.Longer(d, 0, at.At("max_stream_duration"), "max_stream_duration")
	}
}
