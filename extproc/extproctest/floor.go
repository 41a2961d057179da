package extproctest

import (
	"context"
	"errors"
	"fmt"
	"io"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authz "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ext "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

// RegisterFloor adds services that allow everything and do nothing: ext_proc in FULL_DUPLEX_STREAMED modes, ext_authz, and an access
// log that is thrown away. Benchmarks measure the gateway against what these cost.
func RegisterFloor(g *grpc.Server) {
	ext.RegisterExternalProcessorServer(g, floor{})
	authz.RegisterAuthorizationServer(g, floor{})
	accesslog.RegisterAccessLogServiceServer(g, floor{})
}

// floor allows everything at once.
type floor struct {
	ext.UnimplementedExternalProcessorServer
	authz.UnimplementedAuthorizationServer
	accesslog.UnimplementedAccessLogServiceServer
}

func (floor) StreamAccessLogs(stream accesslog.AccessLogService_StreamAccessLogsServer) error {
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (floor) Check(context.Context, *authz.CheckRequest) (*authz.CheckResponse, error) {
	return &authz.CheckResponse{Status: &rpc.Status{}, HttpResponse: &authz.CheckResponse_OkResponse{OkResponse: &authz.OkHttpResponse{}}}, nil
}

func (floor) Process(stream ext.ExternalProcessor_ProcessServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // Envoy has left
		}
		var r *ext.ProcessingResponse
		switch m := m.Request.(type) {
		case *ext.ProcessingRequest_RequestHeaders:
			r = &ext.ProcessingResponse{Response: &ext.ProcessingResponse_RequestHeaders{RequestHeaders: &ext.HeadersResponse{}}}
		case *ext.ProcessingRequest_ResponseHeaders:
			r = &ext.ProcessingResponse{Response: &ext.ProcessingResponse_ResponseHeaders{ResponseHeaders: &ext.HeadersResponse{}}}
		case *ext.ProcessingRequest_ResponseBody:
			r = &ext.ProcessingResponse{Response: &ext.ProcessingResponse_ResponseBody{ResponseBody: &ext.BodyResponse{Response: &ext.CommonResponse{
				BodyMutation: &ext.BodyMutation{Mutation: &ext.BodyMutation_StreamedResponse{StreamedResponse: &ext.StreamedBodyResponse{
					Body: m.ResponseBody.Body, EndOfStream: m.ResponseBody.EndOfStream,
				}}},
			}}}}
		default:
			return fmt.Errorf("unexpected %T", m)
		}
		if err := stream.Send(r); err != nil {
			return err
		}
	}
}
