package wire

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authz "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ext "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	network "github.com/envoyproxy/go-control-plane/envoy/service/network_ext_proc/v3"
	httptype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestAnswersAreWhatEnvoyReads: what is written here is, to protobuf's own decoder, the message that its own encoder was used for.
func TestAnswersAreWhatEnvoyReads(t *testing.T) {
	for n := range 500 {
		random := rand.New(rand.NewPCG(uint64(n), 3))
		text := func() string { return strings.Repeat("aä", []int{0, 1, 20, 31, 32, 63, 64, 3000}[random.IntN(8)]) }
		change := Change{}
		for range random.IntN(4) {
			change.Remove = append(change.Remove, text())
			change.Set = append(change.Set, Set{text(), text(), random.IntN(2) == 0})
		}
		named := Named{[]string{"", "op"}[random.IntN(2)], text()}
		body := bytes.Repeat([]byte("x"), []int{0, 1, 100, 127, 128, 16000, 64 << 10}[random.IntN(7)])
		a := &Answer{To: Part(random.IntN(7)), Change: change, Body: body, Last: random.IntN(2) == 0, Status: random.IntN(600), Named: named}
		if a.To == 1 {
			a.To = 0
		}
		sameMessage(t, a, &ext.ProcessingResponse{}, generatedAnswer(a))
		r := &Ruling{Code: uint32(random.IntN(2) * 7), HTTP: random.IntN(2) == 0, Named: named, Change: change, Status: random.IntN(600), Body: body}
		sameMessage(t, r, &authz.CheckResponse{}, generatedRuling(r))
		p := &Passing{In: End(random.IntN(3)), Data: body, Session: []string{"", "0192f0c1-7a5e-7000-8000-000000000000"}[random.IntN(2)], Close: Closing(random.IntN(3))}
		sameMessage(t, p, &network.ProcessingResponse{}, generatedPassing(p))
	}
}

func sameMessage(t *testing.T, m Outgoing, got, want proto.Message) {
	t.Helper()
	b, err := m.Append([]byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	b, ok := bytes.CutPrefix(b, []byte("before"))
	if err := proto.Unmarshal(b, got); err != nil || !ok {
		t.Fatalf("%v: %+v", err, m)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Fatal(diff)
	}
	if len(b) > m.Room() {
		t.Fatalf("it has %d bytes, and room for %d", len(b), m.Room())
	}
	if again, err := proto.Marshal(got); err != nil || len(again) != len(b) {
		t.Fatalf("it has %d bytes, and needs %d (%v)", len(b), len(again), err)
	}
}

// TestTextThatIsNoneIsNotSent: as with protobuf's own encoder, so that the request is refused.
func TestTextThatIsNoneIsNotSent(t *testing.T) {
	const none = "\xff"
	for name, m := range map[string]Outgoing{
		"a name to remove":    &Answer{To: RequestHead, Change: Change{Remove: []string{none}}},
		"a name to set":       &Answer{To: RequestHead, Change: Change{Set: []Set{{Name: none}}}},
		"a value":             &Ruling{HTTP: true, Change: Change{Set: []Set{{Value: none}}}},
		"a body of ext_authz": &Ruling{HTTP: true, Code: 7, Body: []byte(none)},
		"an operation":        &Ruling{Named: Named{Operation: none}},
		"a trace":             &Answer{Named: Named{Operation: "op", Trace: none}},
	} {
		if _, err := m.Append(nil); err == nil {
			t.Errorf("%s that is no UTF-8 is sent", name)
		}
	}
	if _, err := (&Answer{To: RequestHead, Body: []byte(none), Change: Change{Set: []Set{{Value: none}}}}).Append(nil); err != nil {
		t.Errorf("bytes are bytes: %v", err)
	}
}

func options(c Change, raw bool) (set []*core.HeaderValueOption) {
	for _, f := range c.Set {
		o := &core.HeaderValueOption{Header: &core.HeaderValue{Key: f.Name, Value: f.Value}, AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}
		if raw {
			o.Header.Value, o.Header.RawValue = "", []byte(f.Value)
		}
		if f.Add {
			o.AppendAction, o.Append = 0, wrapperspb.Bool(true) //nolint:staticcheck // Envoy reads it
		}
		set = append(set, o)
	}
	return set
}

func namedStruct(n Named) *structpb.Struct {
	if n.Operation == "" {
		return nil
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{"op": structpb.NewStringValue(n.Operation), "trace_id": structpb.NewStringValue(n.Trace)}}
}

func generatedAnswer(a *Answer) *ext.ProcessingResponse {
	mutation := &ext.HeaderMutation{SetHeaders: options(a.Change, true), RemoveHeaders: a.Remove}
	head := &ext.HeadersResponse{Response: &ext.CommonResponse{HeaderMutation: mutation}}
	body := &ext.BodyResponse{Response: &ext.CommonResponse{BodyMutation: &ext.BodyMutation{Mutation: &ext.BodyMutation_StreamedResponse{
		StreamedResponse: &ext.StreamedBodyResponse{Body: a.Body, EndOfStream: a.Last},
	}}}}
	trailers := &ext.TrailersResponse{HeaderMutation: mutation}
	m := &ext.ProcessingResponse{}
	switch a.To {
	case RequestHead:
		m.Response = &ext.ProcessingResponse_RequestHeaders{RequestHeaders: head}
	case ResponseHead:
		m.Response = &ext.ProcessingResponse_ResponseHeaders{ResponseHeaders: head}
	case RequestBody:
		m.Response = &ext.ProcessingResponse_RequestBody{RequestBody: body}
	case ResponseBody:
		m.Response = &ext.ProcessingResponse_ResponseBody{ResponseBody: body}
	case RequestTrailers:
		m.Response = &ext.ProcessingResponse_RequestTrailers{RequestTrailers: trailers}
	case ResponseTrailers:
		m.Response = &ext.ProcessingResponse_ResponseTrailers{ResponseTrailers: trailers}
	default:
		m.Response = &ext.ProcessingResponse_ImmediateResponse{ImmediateResponse: &ext.ImmediateResponse{
			Status: &httptype.HttpStatus{Code: httptype.StatusCode(a.Status)}, Headers: mutation, Body: a.Body, Details: "countersign",
		}}
	}
	if said := namedStruct(a.Named); said != nil {
		m.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{MetadataNamespace: structpb.NewStructValue(said)}}
	}
	return m
}

func generatedRuling(r *Ruling) *authz.CheckResponse {
	m := &authz.CheckResponse{Status: &rpc.Status{Code: int32(r.Code)}, DynamicMetadata: namedStruct(r.Named)}
	switch {
	case r.HTTP && r.Code == 0:
		m.HttpResponse = &authz.CheckResponse_OkResponse{OkResponse: &authz.OkHttpResponse{Headers: options(r.Change, false), HeadersToRemove: r.Remove}}
	case r.HTTP:
		m.HttpResponse = &authz.CheckResponse_DeniedResponse{DeniedResponse: &authz.DeniedHttpResponse{
			Status: &httptype.HttpStatus{Code: httptype.StatusCode(r.Status)}, Headers: options(r.Change, false), Body: string(r.Body),
		}}
	}
	return m
}

func generatedPassing(p *Passing) *network.ProcessingResponse {
	m := &network.ProcessingResponse{
		DataProcessingStatus: network.ProcessingResponse_MODIFIED,
		ConnectionStatus:     [...]network.ProcessingResponse_ConnectionStatus{Open: 0, Finish: network.ProcessingResponse_CLOSE, Reset: network.ProcessingResponse_CLOSE_RST}[p.Close],
	}
	switch p.In {
	case Agent:
		m.ReadData = &network.Data{Data: p.Data}
	case Target:
		m.WriteData = &network.Data{Data: p.Data}
	}
	if p.Session != "" {
		said := &structpb.Struct{Fields: map[string]*structpb.Value{"session": structpb.NewStringValue(p.Session)}}
		m.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{MetadataNamespace: structpb.NewStructValue(said)}}
	}
	return m
}

func BenchmarkAppend(b *testing.B) {
	r := &Ruling{
		HTTP: true, Named: Named{"0192f0c1-7a5e-7000-8000-000000000000", ""},
		Change: Change{Remove: []string{"authorization", "te", "countersign-approval"}, Set: []Set{{Name: "authorization", Value: "Bearer of-the-target"}}},
	}
	b.Run("here", func(b *testing.B) {
		b.ReportAllocs()
		buffer := make([]byte, 0, r.Room())
		for b.Loop() {
			if _, err := r.Append(buffer); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := proto.Marshal(generatedRuling(r)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
