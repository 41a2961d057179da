package session

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

// fieldSession is the field of the header that the gateway writes to Envoy's egress listener: package xds has Envoy read it.
const fieldSession = 0xE2

// route is how a connection to the target is made, and for whom.
type route struct {
	peer, session string   // of the agent, for Envoy's log
	shown         net.Conn // Envoy's own connection to the target, that of the agent's connection; nil where one is to be made
}

// connectTime is how long a connection to the target may take.
const connectTime = 10 * time.Second

// connect makes a connection to the target: by itself, or by Envoy's egress listener.
func (t *Target) connect(ctx context.Context, by route) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: connectTime}
	switch {
	case by.shown != nil:
		return by.shown, nil
	case t.Egress == "":
		return dialer.DialContext(ctx, "tcp", t.Address)
	}
	info, err := os.Stat(t.Egress)
	if err != nil {
		return nil, fmt.Errorf("envoy does not listen for the gateway (egress: envoy): %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 { // between bind and chmod it is so too, and then not for long
		return nil, fmt.Errorf("other users can connect to %s, by which the target is reached past the gateway (mode %#o): see that Envoy's listener there has mode: 384", t.Egress, info.Mode().Perm())
	}
	conn, err := dialer.DialContext(ctx, "unix", t.Egress)
	if err != nil {
		return nil, fmt.Errorf("envoy's listener for the gateway (egress: envoy): %w", err)
	}
	h, err := by.header()
	if err == nil {
		_ = conn.SetWriteDeadline(time.Now().Add(connectTime))
		_, err = conn.Write(h)
		_ = conn.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("envoy's listener for the gateway (egress: envoy): %w", err)
	}
	return conn, nil
}

// header is that of the PROXY protocol, version 2: who the connection is for. Envoy takes no header to an address that is unspecified,
// and does not use the one that it takes.
func (r route) header() ([]byte, error) {
	peer, err := netip.ParseAddrPort(r.peer)
	if err != nil {
		return nil, err
	}
	from := peer.Addr().Unmap()
	transport, to := byte(0x11), netip.AddrFrom4([4]byte{127, 0, 0, 1}) // TCP over IPv4
	if from.Is6() {
		transport, to = 0x21, netip.IPv6Loopback()
	}
	rest := append(from.WithZone("").AsSlice(), to.AsSlice()...)
	rest = binary.BigEndian.AppendUint16(rest, peer.Port())
	rest = binary.BigEndian.AppendUint16(rest, 0)
	rest = append(rest, fieldSession)
	rest = append(binary.BigEndian.AppendUint16(rest, uint16(len(r.session))), r.session...)
	b := append(append(make([]byte, 0, 16+len(rest)), signature[:]...), 0x21, transport)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(rest))), rest...), nil
}
