package xds

import (
	procv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
)

// The rules about the clock filter, which only tells the service when a request begins. The service lets everything that it asks
// about go on, so no other filter may look like the clock, and the clock must not look like the filter that asks for decisions.

func (k *Checker) clockFilter(f *hcmv3.HttpFilter, inner proto.Message, judged bool, at Place) {
	p, ok := inner.(*procv3.ExternalProcessor)
	if !ok || !Asks(p.GetGrpcService()) || !f.GetDisabled() || judged {
		k.Problem(at, "the filter %s is about time alone: have it be ext_proc that asks countersign, disabled: true where no route turns it on, before the filter that decides", clock)
	}
}

// timesNothing reports a clock's metadata that is not on a route and for the clock filter.
func (k *Checker) timesNothing(said string, at Place) {
	if said != "" {
		k.Problem(at, "%s has countersign let requests go on without a decision: it is for routes, under the filter %s", ClockMetadata, clock)
	}
}

// clocksOnRoute checks what the levels say about clocks, for any filter.
func (k *Checker) clocksOnRoute(levels []level) {
	for _, l := range levels {
		for name, packed := range l.filters {
			own, _ := onRoute(packed)
			c, _ := own.(*procv3.ExtProcPerRoute)
			o := c.GetOverrides()
			resource := Metadata(o.GetGrpcInitialMetadata(), ClockMetadata)
			at := l.at.At(name)
			if name != clock {
				k.timesNothing(resource, at)
				continue
			}
			if o != nil && !proto.Equal(o.GetProcessingMode(), timingMode()) || o != nil && !resourceName.MatchString(resource) {
				k.Problem(at, "the filter %s is about time alone: name a resource in grpc_initial_metadata, %s, and have processing_mode send heads and trailers of requests only", clock, ClockMetadata)
			}
		}
	}
}
