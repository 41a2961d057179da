package extproctest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const redisBudget = 30 * time.Second

// Redis returns the path of a redis-server, fetching it when there is none.
func (p Parts) Redis(ctx context.Context) (string, error) {
	return p.bring(ctx, p.FindRedis, p.fetchRedis)
}

// FindRedis returns the path of a redis-server, 6.2 or later: the one on PATH, else the one that was fetched.
func (p Parts) FindRedis(ctx context.Context) (string, error) {
	if path, err := exec.LookPath("redis-server"); err == nil && checkRedis(ctx, path) == nil {
		return path, nil
	}
	fetched := filepath.Join(p.Dir, "redis-server")
	if !exists(fetched) {
		return "", fmt.Errorf("redis-server is not on PATH and not %s; bring it with: make parts", fetched)
	}
	return fetched, checkRedis(ctx, fetched)
}

func checkRedis(ctx context.Context, path string) error {
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w: %s", path, err, bytes.TrimSpace(out))
	}
	_, version, _ := strings.Cut(string(out), "v=")
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	if a < 6 || a == 6 && b < 2 {
		return fmt.Errorf("%s is not Redis 6.2 or later: it says %q", path, bytes.TrimSpace(out))
	}
	return nil
}

// RedisConfig is how to run a Redis. Its zero value is one on a free port that keeps nothing.
type RedisConfig struct {
	User, Password string     // an ACL user with these may do what ACL says; the default user is then off
	ACL            string     // "~* &* +@all" unless set
	Authority      *Authority // issues a certificate for TLS on TLSAddress
	Port           int        // a free one unless set; to come back on the same one
	Dir            string     // of its append-only file, which it keeps only when this is set
	ReplicaOf      int        // port of its primary on the loopback interface
	Lines          []string   // of redis.conf
}

// RedisProcess is a running Redis.
type RedisProcess struct {
	*Process
	Port       int
	Address    string
	TLSAddress string // TLS ends in this process: not every build of Redis has it

	auth []string
}

// StartRedis runs a Redis and returns when it answers.
func StartRedis(tb TB, c RedisConfig) *RedisProcess {
	tb.Helper()
	r := &RedisProcess{Port: c.Port}
	if r.Port == 0 {
		r.Port = FreePort(tb)
	}
	r.Address = net.JoinHostPort("127.0.0.1", strconv.Itoa(r.Port))
	dir := c.Dir
	if dir == "" {
		dir = Dir(tb)
	}
	lines := []string{
		"bind 127.0.0.1", "port " + strconv.Itoa(r.Port), "dir " + dir, `save ""`, "repl-diskless-sync yes", "repl-diskless-sync-delay 0",
	}
	if c.Dir != "" {
		lines = append(lines, "appendonly yes", "appendfsync always")
	}
	if c.ReplicaOf != 0 {
		lines = append(lines, "replicaof 127.0.0.1 "+strconv.Itoa(c.ReplicaOf))
	}
	if c.User != "" {
		acl := c.ACL
		if acl == "" {
			acl = "~* &* +@all"
		}
		lines = append(lines, "user default off", fmt.Sprintf("user %s on >%s %s", c.User, c.Password, acl))
		r.auth = []string{"AUTH", c.User, c.Password}
	}
	r.Process = startRedis(tb, "redis", dir, r.Port, append(lines, c.Lines...))
	r.awaitReady(redisBudget, func(ctx context.Context) error {
		_, err := r.ask(ctx, "PING")
		if err != nil && strings.Contains(err.Error(), "NOPERM") {
			return nil
		}
		return err
	})
	if c.ReplicaOf != 0 {
		r.awaitReplication(c.ReplicaOf)
	}
	if c.Authority != nil {
		r.TLSAddress = terminate(tb, c.Authority.Issue("redis.internal").TLS, r.Address)
	}
	return r
}

// awaitReplication waits until the primary has r's word for something that it sent after it had called r online: an offset that
// grows then. The first offset alone can be r's word of the snapshot, which came before the primary was done with that; it
// sends nothing on, and WAIT counts nothing, until r's next word, a second later.
func (r *RedisProcess) awaitReplication(primary int) {
	r.tb.Helper()
	of := &RedisProcess{Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(primary)), auth: r.auth}
	online := regexp.MustCompile(fmt.Sprintf(`port=%d,state=online,offset=(\d+)`, r.Port))
	first := ""
	r.awaitReady(redisBudget, func(ctx context.Context) error {
		if _, err := of.ask(ctx, "PUBLISH", "a replica", "is waited for"); err != nil { // that is sent to replicas
			return err
		}
		info, err := of.ask(ctx, "INFO", "replication")
		if err != nil {
			return err
		}
		if found := online.FindStringSubmatch(info); found != nil {
			if first != "" && found[1] != first {
				return nil
			}
			first = found[1]
		}
		return fmt.Errorf("the primary has no word of the replica: %s", info)
	})
}

func startRedis(tb TB, name, dir string, port int, lines []string, args ...string) *Process {
	tb.Helper()
	file := filepath.Join(dir, fmt.Sprintf("%s-%d.conf", name, port))
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		tb.Fatalf("write the configuration of %s: %v", name, err)
	}
	return Start(tb, Command{Name: name, Path: findPart(tb, Parts.FindRedis), Args: append([]string{file}, args...), Dir: dir})
}

// StartSentinel runs a Redis Sentinel of its own that watches the primary at a port under the name "main" and fails over
// within about a second. It returns when it knows of as many replicas as it should.
func StartSentinel(tb TB, primary, replicas int) *RedisProcess {
	tb.Helper()
	r := &RedisProcess{Port: FreePort(tb)}
	r.Address = net.JoinHostPort("127.0.0.1", strconv.Itoa(r.Port))
	dir := Dir(tb)
	r.Process = startRedis(tb, "sentinel", dir, r.Port, []string{
		"bind 127.0.0.1", "port " + strconv.Itoa(r.Port), "dir " + dir,
		fmt.Sprintf("sentinel monitor main 127.0.0.1 %d 1", primary),
		"sentinel down-after-milliseconds main 300", "sentinel failover-timeout main 2000",
	}, "--sentinel")
	r.awaitReady(redisBudget, func(ctx context.Context) error {
		answer, err := r.ask(ctx, "SENTINEL", "CKQUORUM", "main")
		if err != nil {
			return err
		}
		info, err := r.ask(ctx, "INFO", "sentinel")
		if want := fmt.Sprintf("slaves=%d", replicas); err != nil || !strings.Contains(info, want) {
			return fmt.Errorf("%s: %s does not say %s: %w", answer, info, want, err)
		}
		return nil
	})
	return r
}

// StartRedisCluster runs a cluster of n primaries and returns when it takes every slot.
func StartRedisCluster(tb TB, n int) []*RedisProcess {
	tb.Helper()
	var nodes []*RedisProcess
	const slots = 16384
	for i := range n {
		node := StartRedis(tb, RedisConfig{Port: freeClusterPort(tb), Lines: []string{"cluster-enabled yes", fmt.Sprintf("cluster-config-file nodes-%d.conf", i)}})
		args := []string{"CLUSTER", "ADDSLOTS"}
		for slot := i * slots / n; slot < (i+1)*slots/n; slot++ {
			args = append(args, strconv.Itoa(slot))
		}
		node.Do(args...)
		node.Do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		nodes = append(nodes, node)
	}
	for _, node := range nodes[1:] {
		node.Do("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(nodes[0].Port))
	}
	for _, node := range nodes {
		Await(tb, "the Redis cluster", redisBudget, func(ctx context.Context) error {
			info, err := node.ask(ctx, "CLUSTER", "INFO")
			if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", n)) {
				return fmt.Errorf("%s: %w", info, err)
			}
			return nil
		})
	}
	return nodes
}

// Do sends a command and returns its answer as text. An error of Redis fails the test.
func (r *RedisProcess) Do(args ...string) string {
	r.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := r.ask(ctx, args...)
	if err != nil {
		r.tb.Fatalf("redis %s: %v", args[0], err)
	}
	return answer
}

func (r *RedisProcess) ask(ctx context.Context, args ...string) (string, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", r.Address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	in := bufio.NewReader(conn)
	if r.auth != nil {
		if _, err := redisCommand(conn, in, r.auth); err != nil {
			return "", err
		}
	}
	return redisCommand(conn, in, args)
}

// redisCommand speaks RESP2, as far as answers of one value go.
func redisCommand(out io.Writer, in *bufio.Reader, args []string) (string, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := out.Write(b.Bytes()); err != nil {
		return "", err
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSpace(line)
	switch {
	case strings.HasPrefix(line, "-"):
		return "", errors.New(line[1:])
	case strings.HasPrefix(line, "$"):
		n, err := strconv.Atoi(line[1:])
		if err != nil || n < 0 {
			return "", err
		}
		value := make([]byte, n+2)
		if _, err := io.ReadFull(in, value); err != nil {
			return "", err
		}
		return string(value[:n]), nil
	default:
		return strings.TrimLeft(line, "+:"), nil
	}
}

// terminate ends TLS before address until the test ends, and returns where.
func terminate(tb TB, cert tls.Certificate, address string) string {
	tb.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		tb.Fatalf("listen for TLS: %v", err)
	}
	var conns sync.WaitGroup
	done := make(chan struct{})
	conns.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { splice(from, address, done) })
		}
	})
	tb.Cleanup(func() {
		l.Close()
		close(done)
		conns.Wait()
	})
	return l.Addr().String()
}

func splice(from net.Conn, address string, done <-chan struct{}) {
	defer from.Close()
	to, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	ended := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			ended <- struct{}{}
		}()
	}
	select {
	case <-ended:
	case <-done:
	}
}
