package listener

import (
	"bytes"
	"reflect"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/countersign/countersign/extproc/wire"
)

// poison is a pool of buffers that writes over what it gets back, as the next message would.
type poison struct{ back int }

func (*poison) Get(n int) *[]byte {
	b := make([]byte, n)
	return &b
}

func (p *poison) Put(b *[]byte) {
	p.back++
	for i := range *b {
		(*b)[i] = 0xFF
	}
}

// TestMessagesOutliveTheirBuffers: gRPC uses a buffer again once a message was read from it, while a body is held for minutes. What was
// read shares nothing with it, whether the message came in one piece or in several.
func TestMessagesOutliveTheirBuffers(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 1<<10)
	piece := protowire.AppendVarint(protowire.AppendTag(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), body), 2, protowire.VarintType), 1)
	sent := protowire.AppendBytes(protowire.AppendTag(nil, protowire.Number(wire.RequestBody), protowire.BytesType), piece)
	for _, pieces := range []int{1, 3} {
		pool := &poison{}
		var data mem.BufferSlice
		for i := range pieces {
			data = append(data, mem.Copy(sent[i*len(sent)/pieces:(i+1)*len(sent)/pieces], pool))
		}
		var m wire.Request
		if err := newCodec().Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		data.Free()
		if pool.back != pieces {
			t.Errorf("%d of %d buffers came back", pool.back, pieces)
		}
		if want := (wire.Request{Part: wire.RequestBody, Body: body, Last: true}); !reflect.DeepEqual(m, want) {
			t.Errorf("of a message in %d pieces is left %.40q", pieces, m.Body)
		}
	}
	if err := newCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(sent[:len(sent)-1])}, &wire.Request{}); err == nil {
		t.Error("a message that ends early is taken")
	}
}
