package wire

import (
	"bytes"

	network "github.com/envoyproxy/go-control-plane/envoy/service/network_ext_proc/v3"
	"google.golang.org/protobuf/encoding/protowire"
)

// End is one of a connection's. The zero End is neither.
type End int

// The numbers are those of the fields in both messages.
const (
	Agent  End = iota + 1 // who connected; what it sends is read_data
	Target                // where to; what it sends is write_data
)

// Piece is what is read of an envoy.service.network_ext_proc.v3.ProcessingRequest: what one end of a connection has sent.
type Piece struct {
	From End // neither, where the message is of both or of none
	Data []byte
	Last bool // nothing of that end follows
}

// Unmarshal implements [Message].
func (p *Piece) Unmarshal(b []byte) error {
	*p = Piece{}
	var odd bool
	if p.read(reader{b: b, of: pieces, odd: &odd}); odd {
		return generated(b, &network.ProcessingRequest{}, pieceOf, p)
	}
	return nil
}

var pieces = shapes{}.of((*network.ProcessingRequest)(nil).ProtoReflect().Descriptor())

func (p *Piece) read(m reader) {
	ends := 0
	for m.next() {
		if m.num != int(Agent) && m.num != int(Target) {
			continue
		}
		ends++
		p.From = End(m.num)
		for d := m.message(); d.next(); {
			switch d.num {
			case 1: // data
				p.Data = bytes.Clone(d.value)
			case 2: // end_of_stream
				p.Last = d.flag()
			}
		}
	}
	if ends > 1 {
		*p = Piece{}
	}
}

// pieceOf takes what is read out of a message that the generated decoder has read.
func pieceOf(m *network.ProcessingRequest) (p Piece) {
	if m.GetReadData() != nil && m.GetWriteData() != nil {
		return p
	}
	if d := m.GetReadData(); d != nil {
		p = Piece{Agent, d.GetData(), d.GetEndOfStream()}
	}
	if d := m.GetWriteData(); d != nil {
		p = Piece{Target, d.GetData(), d.GetEndOfStream()}
	}
	return p
}

// Passing is an envoy.service.network_ext_proc.v3.ProcessingResponse: what goes on in the place of what an end has sent.
type Passing struct {
	In      End // whose the data stands for: what is in the place of the agent's goes to the target, and the other way round; neither where there is none
	Data    []byte
	Session string // for Envoy's log; empty where it has been told
	Close   Closing
}

// Closing is what becomes of the connection.
type Closing int

// The numbers are those of ConnectionStatus.
const (
	Open   Closing = iota
	Finish         // it is closed once what was sent is written
	Reset          // it is reset
)

// Room implements [Outgoing].
func (p *Passing) Room() int { return len(p.Data) + len(p.Session) + 128 }

// Append implements [Outgoing].
func (p *Passing) Append(b []byte) ([]byte, error) {
	w := writer{b: b}
	if p.In != 0 {
		n := 0
		if len(p.Data) > 0 {
			n = 1 + protowire.SizeBytes(len(p.Data))
		}
		w.b = protowire.AppendVarint(protowire.AppendTag(w.b, protowire.Number(p.In), protowire.BytesType), uint64(n))
		if n > 0 {
			w.bytes(1, p.Data)
		}
	}
	w.number(3, 2) // data_processing_status: MODIFIED
	w.number(4, uint64(p.Close))
	if p.Session != "" {
		metadata := w.open(5)
		entry := w.open(1)
		w.text(1, MetadataNamespace)
		value := w.open(2)
		within := w.open(5)
		member := w.open(1)
		w.text(1, "session")
		text := w.open(2)
		w.text(3, p.Session)
		w.close(text)
		w.close(member)
		w.close(within)
		w.close(value)
		w.close(entry)
		w.close(metadata)
	}
	return w.b, w.err
}
