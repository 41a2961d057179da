package listener

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	_ "google.golang.org/grpc/encoding/proto" // what codec falls back to

	"github.com/countersign/countersign/extproc/wire"
)

// codec is gRPC's own for protobuf, but for the messages of package wire. Those are sent in smaller buffers: gRPC takes 1 MiB for each
// message over 32 KiB, and a piece of an answer has 64 KiB: an agent that reads nothing would hold sixteen times what it was sent.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

const (
	sentSmall = 32 << 10
	sentPiece = 66 << 10 // a piece of an answer, and what is around it
)

var sentBuffers = mem.NewTieredBufferPool(sentPiece)

// Unmarshal implements [encoding.CodecV2]. What Envoy sends is read by package wire, which keeps nothing of the buffer.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(wire.Message)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	return m.Unmarshal(whole.ReadOnlyData())
}

// Marshal implements [encoding.CodecV2].
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(wire.Outgoing)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	pool, room := mem.DefaultBufferPool(), m.Room()
	if room > sentSmall && room <= sentPiece {
		pool = sentBuffers
	}
	buffer := pool.Get(room)
	b, err := m.Append((*buffer)[:0])
	if err != nil {
		pool.Put(buffer)
		return nil, err
	}
	*buffer = b
	return mem.BufferSlice{mem.NewBuffer(buffer, pool)}, nil
}
