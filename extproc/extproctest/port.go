package extproctest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Ports are reserved below 32768: above that Linux picks ports for outgoing connections and for listeners that ask for port 0.
const (
	firstPort = 20000
	lastPort  = 29999

	// A node of a Redis cluster also listens at its port plus clusterBus, so that has to be below 32768 too.
	clusterBus      = 10000
	lastClusterPort = 32767 - clusterBus
)

// FreePort reserves a TCP port of the loopback interface until the test ends. It is for a part that must be given a port, or that
// must come back on the same one. Nothing listens on the port yet.
//
// Test packages run at the same time, so it is not enough that a port was free a moment ago. The reservation is a lock on a file that
// is named after the port; the kernel drops it with the process.
func FreePort(tb TB) int {
	tb.Helper()
	return freePort(tb, lastPort, func(port int) bool { return !portInUse(port) })
}

// freeClusterPort is FreePort for a node of a Redis cluster.
func freeClusterPort(tb TB) int {
	tb.Helper()
	return freePort(tb, lastClusterPort, func(port int) bool { return !portInUse(port) && !portInUse(port+clusterBus) })
}

func freePort(tb TB, last int, isFree func(port int) bool) int {
	tb.Helper()
	port, release, err := reservePort(filepath.Join(os.TempDir(), fmt.Sprintf("countersign-ports-%d", os.Getuid())), last, isFree)
	if err != nil {
		tb.Fatalf("reserve a port: %v", err)
	}
	tb.Cleanup(release)
	return port
}

// FreeAddress is FreePort as a host and port on the loopback interface.
func FreeAddress(tb TB) string {
	tb.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(tb)))
}

func reservePort(locks string, last int, isFree func(port int) bool) (port int, release func(), err error) {
	if err := os.MkdirAll(locks, 0o700); err != nil {
		return 0, nil, err
	}
	for range 1000 {
		port := firstPort + rand.IntN(last-firstPort+1)
		lock, err := lockFile(filepath.Join(locks, strconv.Itoa(port)), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return 0, nil, err
		}
		if !isFree(port) {
			lock.Close()
			continue
		}
		return port, func() { lock.Close() }, nil
	}
	return 0, nil, fmt.Errorf("no free port from %d to %d after 1000 tries", firstPort, last)
}

func portInUse(port int) bool {
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return true
	}
	l.Close()
	return false
}

// lockFile opens name, creating it, and locks it as flock(2) does. Closing it unlocks; it is never removed, because removing
// a lock file lets two processes hold the same lock.
func lockFile(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}
