package http

import (
	"encoding/json"

	"github.com/countersign/countersign/extproc/gate"
)

// spanVerb is the method where it is one that the semantic conventions know.
func spanVerb(method string) string {
	if known(method) {
		return method
	}
	return "HTTP"
}

// known reports whether the semantic conventions know the method.
func known(method string) bool {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH":
		return true
	default:
		return false
	}
}

func attributes(decided gate.Object) gate.Object {
	verb, _ := decided.Get("verb")
	target, _ := decided.Get("target")
	said := gate.Object{{Name: "http.request.method", Value: verb}}
	if method, _ := verb.(string); !known(method) {
		said = gate.Object{{Name: "http.request.method", Value: "_OTHER"}, {Name: "http.request.method_original", Value: verb}}
	}
	return append(said, gate.Member{Name: "url.path", Value: target})
}

func resultAttributes(finished gate.Object) gate.Object {
	var said gate.Object
	if status, _ := finished.Get("status"); status != json.Number("0") {
		said = append(said, gate.Member{Name: "http.response.status_code", Value: status})
	}
	in, _ := finished.Get("bytes_in")
	out, _ := finished.Get("bytes_out")
	return append(said, gate.Member{Name: "http.request.body.size", Value: in}, gate.Member{Name: "http.response.body.size", Value: out})
}
