package xds

import (
	"slices"
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
)

// The rules about changes to a request between the decision and the target.

// mutable checks that the service can replace the agent's token by the target's credential.
func (k *Checker) mutable(r *mutationv3.HeaderMutationRules, at Place) {
	if r.GetDisallowAll().GetValue() || r.GetDisallowExpression() != nil {
		k.Problem(at, "disallow_all and disallow_expression keep countersign from taking the agent's token out of what goes to the target: remove them")
	}
}

// routeHeaders checks the header fields that a route, or a level around it, changes: Envoy changes them in the router, after
// the decision.
func (k *Checker) routeHeaders(add []*corev3.HeaderValueOption, remove []string, at Place) {
	if len(add) > 0 {
		k.Problem(at.At("request_headers_to_add"), "request_headers_to_add changes a request after it was judged: add the header in early_header_mutation_extensions, where countersign sees it")
	}
	for _, name := range remove {
		if !strings.HasPrefix(strings.ToLower(name), "x-envoy-") {
			k.Problem(at.At("request_headers_to_remove"), "request_headers_to_remove takes %s away after it was judged: remove it in early_header_mutation_extensions", name)
		}
	}
}

// upstreamFilters checks the filters of a router or a cluster that run after the router has chosen where a request goes.
func (k *Checker) upstreamFilters(filters []*hcmv3.HttpFilter, at Place) {
	for i, f := range filters {
		at := at.At(i)
		if f.GetConfigDiscovery() != nil {
			k.Problem(at, "filter %s comes from elsewhere (config_discovery), so that it cannot be checked", f.GetName())
			continue
		}
		inner, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			continue // reported by walk
		}
		if !slices.Contains(harmless, string(inner.ProtoReflect().Descriptor().FullName())) {
			k.Problem(at, "filter %s comes after the decision and can change what was judged: put it before the filter that asks countersign", f.GetName())
		}
	}
}

// cleaner is a header_mutation filter, which can remove what the service does not see.
type cleaner struct {
	name string              // that per-route configuration has it under
	off  bool                // where a route does not turn it on
	does *headerv3.Mutations // wherever it is on
}

// removesTrailers reports whether m removes every trailer of a request.
func removesTrailers(m *headerv3.Mutations) bool {
	return slices.ContainsFunc(m.GetRequestTrailersMutations(), func(h *mutationv3.HeaderMutation) bool {
		switch h.GetRemoveOnMatch().GetKeyMatcher().GetSafeRegex().GetRegex() {
		case ".*", ".+", "^.*$", "^.+$":
			return true
		}
		return false
	})
}

// removesCookieOf reports whether mutations of one kind remove Set-Cookie.
func removesCookieOf(kind func(*headerv3.Mutations) []*mutationv3.HeaderMutation) func(*headerv3.Mutations) bool {
	return func(m *headerv3.Mutations) bool {
		return slices.ContainsFunc(kind(m), func(h *mutationv3.HeaderMutation) bool { return strings.EqualFold(h.GetRemove(), "set-cookie") })
	}
}

// cleanedBy reports whether one of the filters does what is wanted on what the levels, from the outermost, are about, and if
// not, where it could. Envoy applies what every level says, and the innermost decides whether a filter is on.
func cleanedBy(cleaners []cleaner, levels []level, wanted func(*headerv3.Mutations) bool) (ok bool, where Place) {
	for _, c := range cleaners {
		cleans, off := wanted(c.does), c.off
		for _, l := range levels {
			packed, ok := l.filters[c.name]
			if !ok {
				continue
			}
			var own proto.Message
			own, off = onRoute(packed)
			does, _ := own.(*headerv3.HeaderMutationPerRoute)
			where = l.at.At(c.name)
			cleans = cleans || wanted(does.GetMutations())
		}
		if cleans && !off {
			return true, where
		}
	}
	return false, where
}
