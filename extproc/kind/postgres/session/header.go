package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
	for rest = rest[2*size+4:]; len(rest) > 0; {
		if len(rest) < 3 || len(rest)-3 < int(binary.BigEndian.Uint16(rest[1:])) {
			return h, errors.New("the PROXY header ends within a field")
		}
		kind, end := rest[0], 3+int(binary.BigEndian.Uint16(rest[1:]))
		switch value := string(rest[3:end]); kind {
		case fieldResource:
			h.resource = value
		case fieldFingerprint:
			h.fingerprint = value
		}
		rest = rest[end:]
	}
	if h.resource == "" {
		return h, errors.New("the PROXY header names no resource")
	}
	return h, nil
}
