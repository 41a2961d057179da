package xds_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

// TestCheckKnowsWhatIsAboutTimeAlone: a stream that is about time lets its request go on without a decision, so that it may not
// stand where a decision is made, nor pass for that.
func TestCheckKnowsWhatIsAboutTimeAlone(t *testing.T) {
	c := parse(t, extproctest.Dir(t), `
  - {name: payments, kind: http, listen: {address: "127.0.0.1:8080", host: payments.test}, target: "http://127.0.0.1:9000"}
  - {name: authz, kind: http, listen: {address: "127.0.0.1:8080", host: authz.test}, target: "http://127.0.0.1:9000", attach: ext_authz, limits: {request_time: 2s}}
`)
	text, err := xds.Static(c)
	if err != nil {
		t.Fatal(err)
	}
	made := string(text)
	for _, p := range xds.CheckFileFor(c, "x", text) {
		t.Error(p)
	}
	const (
		filter = "                  - name: countersign.clock\n"
		route  = "                            countersign.clock:\n"
		says   = "                                  - key: countersign-clock\n"
		peer   = "                          - key: countersign-peer\n"
	)
	for _, c := range []struct{ name, from, to, want string }{
		{"the filter that decides has another name", "                  - name: envoy.filters.http.ext_proc\n", filter, "is about time alone"},
		{"it is on everywhere", "                    disabled: true\n                  - name: envoy.filters.http.header_mutation\n", "                  - name: envoy.filters.http.header_mutation\n", "is about time alone"},
		{"the filter that decides is told of time", peer, "                          - key: countersign-clock\n                            value: authz\n" + peer, "go on without a decision"},
		{"a route has the filter that decides tell of time", "                                  - key: countersign-resource\n", says, "go on without a decision"},
		{"a route has it name nothing", says, "                                  - key: x\n", "is about time alone"},
	} {
		if !strings.Contains(made, c.from) {
			t.Errorf("%s: the file has no %q:\n%s", c.name, c.from, made)
			continue
		}
		want(t, c.name, xds.CheckFile("x", []byte(strings.Replace(made, c.from, c.to, 1))), 0, c.want)
	}
	upTo := made[:strings.Index(made, says)]
	at := strings.LastIndex(upTo, "processing_mode:\n") + len("processing_mode:\n")
	want(t, "a route has it send bodies", xds.CheckFile("x", []byte(made[:at]+"                                  request_body_mode: STREAMED\n"+made[at:])), 0, "is about time alone")
	// A route that has nothing else is not guarded.
	before, rest, _ := strings.Cut(made, "                            envoy.filters.http.ext_authz:\n                              '@type': type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute\n                              check_settings:")
	_, after, found := strings.Cut(rest, "                            envoy.filters.http.ext_proc:\n")
	if !found {
		t.Fatalf("the file has no route of ext_authz:\n%s", made)
	}
	off := before + "                            envoy.filters.http.ext_authz:\n                              '@type': type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute\n                              disabled: true\n                            envoy.filters.http.ext_proc:\n" + after
	want(t, "nobody decides", xds.CheckFile("x", []byte(off)), 0, "every filter that asks countersign is turned off")
	if !strings.Contains(off, route) {
		t.Error("there is no clock on the route")
	}
}
