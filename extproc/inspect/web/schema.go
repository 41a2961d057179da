package web

// Schema describes input.http, the detail of an HTTP request, for package policy; policy.Kind says what its tags mean. No
// value of it is ever made: [Request.Object] makes the detail, and a test compares the two.
type Schema struct {
	Method        string              `json:"method" words:"GET HEAD POST PUT PATCH DELETE OPTIONS"`
	Scheme        string              `json:"scheme" words:"http https" doc:"how the agent connects, as Envoy knows it: http or https"`
	Host          string              `json:"host" doc:"lower case, without the port"`
	Authority     string              `json:"authority" doc:"the Host header or :authority as it came, port included"`
	RequestTarget string              `json:"request_target" doc:"path and query as they came, undecoded"`
	Path          string              `json:"path" doc:"the path as it came, without the query"`
	Segments      []string            `json:"segments" words:"v1 v2 api" doc:"the parts of the path, percent-decoded once"`
	Query         map[string][]string `json:"query" doc:"every value of every parameter, decoded, in order"`
	Headers       map[string][]string `json:"headers" words:"accept content-type content-length application/json */*" doc:"every value of every header that the target gets, names in lower case"`
	Trailers      map[string][]string `json:"trailers" doc:"every value of every trailer, names in lower case"`
	Body          any                 `json:"body,omitempty" doc:"the body when it is JSON; not there when it is not, or when it has several values"`
	Bodies        []any               `json:"bodies,omitempty" doc:"the values of a body of several, such as NDJSON, in order; rules about body are asked about each"`
	Form          map[string][]string `json:"form" doc:"every value of every field of a form body, decoded, in order"`
	Multipart     []partSchema        `json:"multipart,omitempty" doc:"the parts of a multipart body, in order; not there when it is none"`
	BodySHA256    string              `json:"body_sha256" doc:"of the body as it is sent, in hex; empty when there is no body or it is streamed"`
	BodyBytes     int                 `json:"body_bytes" doc:"of the body as it is sent"`
	DecodedSHA256 string              `json:"body_decoded_sha256,omitempty" doc:"of a compressed body without its coding, which is what was read, in hex; not there when it is not compressed"`
	DecodedBytes  int                 `json:"body_decoded_bytes,omitempty" doc:"of a compressed body without its coding; not there when it is not compressed"`
	BodyStreamed  bool                `json:"body_streamed" doc:"the body had not been read when policy was asked"`
}

// partSchema describes one part of a multipart body.
type partSchema struct {
	Name     string              `json:"name,omitempty"`
	Filename string              `json:"filename,omitempty" doc:"there when the part is a file"`
	Type     string              `json:"type" doc:"media type in lower case, without parameters; empty when the part has none"`
	Headers  map[string][]string `json:"headers" doc:"every header of the part, names in lower case"`
	Bytes    int                 `json:"bytes"`
	SHA256   string              `json:"sha256" doc:"in hex"`
	Value    string              `json:"value,omitempty" doc:"the text of a field, and of a file that is text of up to 64 KiB; not there for other parts"`
}

// BodyMembers are the members of Schema that come from the body.
var BodyMembers = []string{"body", "bodies", "form", "multipart"}
