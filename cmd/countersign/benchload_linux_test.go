package main

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// repeater is one connection that asks for one thing again and again. It parses no more than it must.
type repeater struct {
	conn    net.Conn
	reader  *bufio.Reader
	request []byte
}

func dialLane(l *benchLane) (*repeater, error) {
	conn, err := net.Dial("tcp", l.address)
	if err != nil {
		return nil, err
	}
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: application/json\r\nAuthorization: Bearer %s\r\n\r\n", l.path, l.address, benchToken)
	return &repeater{conn: conn, reader: bufio.NewReaderSize(conn, 32<<10), request: []byte(request)}, nil
}

func (c *repeater) once() error {
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	status, err := c.reader.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.Contains(status, []byte(" 200 ")) {
		return fmt.Errorf("the answer is %q", status)
	}
	length, chunked := -1, false
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("content-length: ")); ok {
			if length, err = strconv.Atoi(string(v)); err != nil {
				return err
			}
		}
		chunked = chunked || bytes.Equal(line, []byte("transfer-encoding: chunked"))
	}
	if !chunked {
		_, err = c.reader.Discard(length)
		return err
	}
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 64)
		if err != nil {
			return err
		}
		if _, err := c.reader.Discard(int(n) + 2); err != nil || n == 0 {
			return err
		}
	}
}

// dialLanes opens the lane's connections.
func dialLanes(b testing.TB, l *benchLane) []*repeater {
	b.Helper()
	all := make([]*repeater, cmp.Or(l.connections, benchConnections))
	for i := range all {
		c, err := dialLane(l)
		if err != nil {
			b.Fatal(err)
		}
		all[i] = c
	}
	return all
}

// throughput asks as fast as it can on all connections for a while, and returns how often.
func throughput(b testing.TB, l *benchLane, during time.Duration) (count int, took time.Duration) {
	b.Helper()
	all := dialLanes(b, l)
	var wg sync.WaitGroup
	counts := make([]int, len(all))
	begin := time.Now()
	end := begin.Add(during)
	for i, c := range all {
		wg.Go(func() {
			defer c.conn.Close()
			for time.Now().Before(end) {
				if err := c.once(); err != nil {
					b.Errorf("%s: %v", l.name, err)
					return
				}
				counts[i]++
			}
		})
	}
	wg.Wait()
	took = time.Since(begin)
	if b.Failed() {
		b.FailNow()
	}
	for _, n := range counts {
		count += n
	}
	return count, took
}

// latencies asks at a fixed rate, whatever the answers take, and returns p50, p99 and p99.9 from when each request was due.
func latencies(b testing.TB, l *benchLane, rate int, during time.Duration) [3]time.Duration {
	b.Helper()
	due := make(chan time.Time, rate)
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	for _, c := range dialLanes(b, l) {
		wg.Go(func() {
			defer c.conn.Close()
			for at := range due {
				if err := c.once(); err != nil {
					b.Errorf("%s: %v", l.name, err)
					return
				}
				took := time.Since(at)
				mu.Lock()
				all = append(all, took)
				mu.Unlock()
			}
		})
	}
	pace(rate, during, func(at time.Time) { due <- at })
	close(due)
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
	slices.Sort(all)
	return [3]time.Duration{quantile(all, 0.5), quantile(all, 0.99), quantile(all, 0.999)}
}

// pace calls f when each of a number of requests a second is due. Go's timers wake an idle process to the millisecond, which is
// more than what is measured.
func pace(rate int, during time.Duration, f func(at time.Time)) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin := time.Now()
	for i := range int(during.Seconds() * float64(rate)) {
		at := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if d := time.Until(at); d > 0 {
			_ = syscall.Nanosleep(&syscall.Timespec{Nsec: int64(d)}, nil)
		}
		f(at)
	}
}

func median[N cmp.Ordered](all []N) N { return slices.Sorted(slices.Values(all))[len(all)/2] }
