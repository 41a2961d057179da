package http

import "github.com/countersign/countersign/extproc/evidence/otlp"

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

// other is the method of a request whose own the semantic conventions do not know.
var other = otlp.Value(`"_OTHER"`)

func attributes(decided otlp.Members, say otlp.Say) {
	verb := decided.Get("verb")
	if known(verb.Text()) {
		say("http.request.method", verb)
	} else {
		say("http.request.method", other)
		say("http.request.method_original", verb)
	}
	say("url.path", decided.Get("target"))
}

func resultAttributes(finished otlp.Members, say otlp.Say) {
	if status := finished.Get("status"); string(status) != "0" {
		say("http.response.status_code", status)
	}
	say("http.request.body.size", finished.Get("bytes_in"))
	say("http.response.body.size", finished.Get("bytes_out"))
}
