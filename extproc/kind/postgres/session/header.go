package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// The fields of the header that are the gateway's own: package xds has Envoy write them.
const (
	fieldResource    = 0xE0
	fieldFingerprint = 0xE1
)

// header is what Envoy says of a connection before its first byte.
type header struct {
	peer                  string // HOST:PORT of who connected
	resource, fingerprint string
}

// Shown is a connection that Envoy shows the gateway by its network ext_proc filter: it says of it what a header says, and the target
// is at its other end.
type Shown interface {
	net.Conn
	Told() (peer, resource, fingerprint string)
	Target() net.Conn // connected to by Envoy when the first byte is written

	// OfSession has Envoy's log name the session, before the first byte. room says whether there is room for what has come and is not read
	// yet; it is called by one goroutine at a time.
	OfSession(id string, room func(bytes int64) bool)
}

// told is what Envoy says of a connection.
func told(conn net.Conn) (h header, err error) {
	if s, ok := conn.(Shown); ok {
		h.peer, h.resource, h.fingerprint = s.Told()
		return h, nil
	}
	return readHeader(conn)
}

var signature = [12]byte{'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'}

// maxHeader bounds what follows the first 16 bytes of a header: two addresses, and the fields of ours.
const maxHeader = 1 << 10

// readHeader reads a header of the PROXY protocol, version 2, and no byte after it.
func readHeader(r io.Reader) (h header, err error) {
	var first [16]byte
	if _, err := io.ReadFull(r, first[:]); err != nil {
		return h, fmt.Errorf("read the PROXY header: %w", err)
	}
	n := int(binary.BigEndian.Uint16(first[14:]))
	if [12]byte(first[:12]) != signature || first[12] != 0x21 || n > maxHeader { // version 2, PROXY
		return h, errors.New("the connection does not begin with a PROXY header of version 2")
	}
	rest := make([]byte, n)
	if _, err := io.ReadFull(r, rest); err != nil {
		return h, fmt.Errorf("read the PROXY header: %w", err)
	}
	var size int
	switch first[13] {
	case 0x11: // TCP over IPv4
		size = 4
	case 0x21: // TCP over IPv6
		size = 16
	default:
		return h, fmt.Errorf("the PROXY header has the transport %#x", first[13])
	}
	if len(rest) < 2*size+4 {
		return h, errors.New("the PROXY header ends within its addresses")
	}
	from, _ := netip.AddrFromSlice(rest[:size])
	h.peer = netip.AddrPortFrom(from, binary.BigEndian.Uint16(rest[2*size:])).String()
	fields, err := readFields(rest[2*size+4:])
	if err != nil {
		return h, err
	}
	h.resource, h.fingerprint = fields[fieldResource], fields[fieldFingerprint]
	if h.resource == "" {
		return h, errors.New("the PROXY header names no resource")
	}
	return h, nil
}

// readFields reads what stands behind the addresses of a header.
func readFields(b []byte) (map[byte]string, error) {
	fields := map[byte]string{}
	for len(b) > 0 {
		if len(b) < 3 || len(b)-3 < int(binary.BigEndian.Uint16(b[1:])) {
			return nil, errors.New("the PROXY header ends within a field")
		}
		end := 3 + int(binary.BigEndian.Uint16(b[1:]))
		if _, twice := fields[b[0]]; twice {
			return nil, fmt.Errorf("the PROXY header has the field %#x twice", b[0])
		}
		fields[b[0]] = string(b[3:end])
		b = b[end:]
	}
	return fields, nil
}
