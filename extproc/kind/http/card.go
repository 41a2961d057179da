package http

import "github.com/countersign/countersign/extproc/gate"

// unseen says why a person could not see all that would run; empty where they can. What is streamed past is not in the digest
// that an approval binds to, and of a body that is neither JSON nor a form, or of a file in one, only the digest could be shown.
func unseen(detail gate.Object) string {
	if streamed, _ := detail.Get("body_streamed"); streamed == true {
		return "this resource streams bodies past, so that an approval could not bind to one; set body: inspect for what needs approval"
	}
	bytes, _ := detail.Get("body_bytes")
	_, isJSON := detail.Get("body")
	_, areJSON := detail.Get("bodies")
	form, _ := detail.Get("form")
	fields, _ := form.(gate.Object)
	multipart, _ := detail.Get("multipart")
	parts, _ := multipart.([]any)
	for _, p := range parts {
		part, _ := p.(gate.Object)
		if _, shown := part.Get("value"); !shown {
			return "a part of its body is not text, or a file of much text, and a person would approve what they cannot see"
		}
	}
	if n, ok := bytes.(int64); ok && n > 0 && !isJSON && !areJSON && len(fields) == 0 && multipart == nil {
		return "its body is neither JSON nor a form, and a person would approve what they cannot see"
	}
	return ""
}
