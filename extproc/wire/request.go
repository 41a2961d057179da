package wire

import (
	"bytes"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filter "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	ext "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// Request is what is read of an envoy.service.ext_proc.v3.ProcessingRequest: a part of a request, or of its answer.
type Request struct {
	Part    Part
	Fields  []Field // of a head or of trailers
	Body    []byte  // the piece of a body
	Last    bool    // nothing of the request, or the answer, follows this head or this piece
	Answers filter.ProcessingMode_BodySendMode

	// Of the attributes that the filter is configured to send:
	Source  string // source.address
	Details string // response.code_details
}

// Part is of what a message tells. The zero Part is none that is known here.
type Part int

// The numbers are those of the oneof's fields.
const (
	RequestHead Part = iota + 2
	ResponseHead
	RequestBody
	ResponseBody
	RequestTrailers
	ResponseTrailers
)

// Unmarshal implements [Message].
func (q *Request) Unmarshal(b []byte) error {
	*q = Request{}
	var odd bool
	if q.read(reader{b: b, of: requests, odd: &odd}); odd {
		return generated(b, &ext.ProcessingRequest{}, requestOf, q)
	}
	return nil
}

var requests = shapes{}.of((*ext.ProcessingRequest)(nil).ProtoReflect().Descriptor())

func (q *Request) read(m reader) {
	for m.next() {
		switch p := Part(m.num); p {
		case RequestHead, ResponseHead, RequestTrailers, ResponseTrailers:
			q.Part = p
			q.head(m.message())
		case RequestBody, ResponseBody:
			q.Part = p
			q.body(m.message())
		case 9: // attributes
			q.attributes(m.message())
		case 11: // protocol_config
			for c := m.message(); c.next(); {
				if c.num == 2 { // response_body_mode
					q.Answers = filter.ProcessingMode_BodySendMode(int32(c.number))
				}
			}
		}
	}
}

// head reads HttpHeaders, and HttpTrailers, which begin like those and have nothing else.
func (q *Request) head(m reader) {
	for m.next() {
		switch m.num {
		case 1: // headers, trailers
			q.Fields = headerMap(m.message(), make([]Field, 0, 20))
		case 3: // end_of_stream
			q.Last = m.flag()
		}
	}
}

func (q *Request) body(m reader) {
	for m.next() {
		switch m.num {
		case 1: // body
			q.Body = bytes.Clone(m.value)
		case 2: // end_of_stream
			q.Last = m.flag()
		}
	}
}

// attributesOf is under what the filter's attributes are.
const attributesOf = "envoy.filters.http.ext_proc"

// attributes reads one entry of the map.
func (q *Request) attributes(m reader) {
	ours := false
	var source, details value
	for m.next() {
		switch m.num {
		case 1:
			ours = string(m.value) == attributesOf
		case 2:
			for s := m.message(); s.next(); {
				name, v := member(s)
				switch string(name) {
				case "source.address":
					source = v
				case "response.code_details":
					details = v
				}
			}
		}
	}
	if ours {
		q.Source, q.Details = source.text, details.text
	}
}

// requestOf takes what is read out of a message that the generated decoder has read.
func requestOf(m *ext.ProcessingRequest) Request {
	said := m.GetAttributes()[attributesOf].GetFields()
	q := Request{
		Answers: m.GetProtocolConfig().GetResponseBodyMode(),
		Source:  said["source.address"].GetStringValue(), Details: said["response.code_details"].GetStringValue(),
	}
	head := func(p Part, fields *core.HeaderMap, last bool) {
		q.Part, q.Fields, q.Last = p, fieldsOf(fields), last
	}
	switch m := m.GetRequest().(type) {
	case *ext.ProcessingRequest_RequestHeaders:
		head(RequestHead, m.RequestHeaders.GetHeaders(), m.RequestHeaders.GetEndOfStream())
	case *ext.ProcessingRequest_ResponseHeaders:
		head(ResponseHead, m.ResponseHeaders.GetHeaders(), m.ResponseHeaders.GetEndOfStream())
	case *ext.ProcessingRequest_RequestTrailers:
		head(RequestTrailers, m.RequestTrailers.GetTrailers(), false)
	case *ext.ProcessingRequest_ResponseTrailers:
		head(ResponseTrailers, m.ResponseTrailers.GetTrailers(), false)
	case *ext.ProcessingRequest_RequestBody:
		q.Part, q.Body, q.Last = RequestBody, m.RequestBody.GetBody(), m.RequestBody.GetEndOfStream()
	case *ext.ProcessingRequest_ResponseBody:
		q.Part, q.Body, q.Last = ResponseBody, m.ResponseBody.GetBody(), m.ResponseBody.GetEndOfStream()
	}
	return q
}

func fieldsOf(m *core.HeaderMap) []Field {
	fields := make([]Field, len(m.GetHeaders()))
	for i, h := range m.GetHeaders() {
		v := h.GetValue()
		if raw := h.GetRawValue(); len(raw) > 0 {
			v = string(raw)
		}
		fields[i] = Field{Name: h.GetKey(), Value: v}
	}
	return fields
}

// value is a google.protobuf.Value, of which nothing but text is read.
type value struct {
	there bool
	text  string
}

func valueOf(v *structpb.Value) value { return value{v != nil, v.GetStringValue()} }

// member reads the entry of a google.protobuf.Struct's fields at which s is.
func member(s reader) (name []byte, v value) {
	if s.num != 1 { // fields
		return nil, v
	}
	v.there = true
	for e := s.message(); e.next(); {
		switch e.num {
		case 1:
			name = e.value
		case 2:
			for of := e.message(); of.next(); {
				if of.num == 3 { // string_value
					v.text = of.text()
				}
			}
		}
	}
	return name, v
}
