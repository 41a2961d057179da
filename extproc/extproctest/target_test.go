package extproctest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// say writes raw bytes to the target and returns all that it answers until it closes.
func say(t *testing.T, target *Target, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", target.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func get(t *testing.T, client *http.Client, url string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func TestTargetRecordsBytesAsTheyCame(t *testing.T) {
	target := NewTarget(t, TargetOptions{})
	if target.BytesIn() != 0 {
		t.Fatal("bytes before there was a client")
	}
	first := "POST //echo/../%2e?a=%20b&a HTTP/1.1\r\nhOsT: Example\r\nX-A: 2\r\nx-a:1 \r\nContent-Length: 3"
	second := "POST /upload HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-T"
	answer := say(t, target, first+"\r\n\r\nabc"+second+"\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\nX-T: end\r\n\r\n")
	if !strings.Contains(answer, `"bytes":3`) {
		t.Errorf("it answers %q", answer)
	}
	seen := target.Requests()
	if len(seen) != 2 {
		t.Fatalf("it saw %d requests, want 2", len(seen))
	}
	if string(seen[0].Head) != first || string(seen[1].Head) != second {
		t.Errorf("heads are %q and %q", seen[0].Head, seen[1].Head)
	}
	if seen[0].Path != "//echo/../%2e?a=%20b&a" || strings.Join(seen[0].Get("X-A"), ",") != "2,1" {
		t.Errorf("it saw %+v", seen[0])
	}
	for i, s := range seen {
		if !s.Complete || string(s.Body) != "abc" || s.BodySHA256 != sha256.Sum256([]byte("abc")) {
			t.Errorf("body %d is %q, complete: %t", i, s.Body, s.Complete)
		}
	}
	if want := (Field{"x-t", "end"}); len(seen[1].Trailer) != 1 || seen[1].Trailer[0] != want {
		t.Errorf("the trailer is %v", seen[1].Trailer)
	}
	target.Reset()
	if len(target.Requests()) != 0 || target.BytesIn() != 0 {
		t.Error("it remembers after Reset")
	}
}

func TestTargetKeepsRequestsOfOneConnectionApart(t *testing.T) {
	target := NewTarget(t, TargetOptions{})
	conn, err := net.Dial("tcp", target.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for i := range 50 {
		head := fmt.Sprintf("POST /echo?%d HTTP/1.1\r\nHost: h\r\nContent-Length: 20000", i)
		if _, err := io.WriteString(conn, head+"\r\n\r\n"+strings.Repeat("x", 20000)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); n != 20000 || err != nil {
			t.Fatalf("answer %d has %d bytes, %v", i, n, err)
		}
		if got := target.Requests()[i]; string(got.Head) != head {
			t.Fatalf("head %d is %q", i, got.Head)
		}
	}
}

func TestTargetSpeaksEveryVersion(t *testing.T) {
	authority := NewAuthority(t)
	trust := &tls.Config{RootCAs: authority.Pool}
	agent := authority.Issue("agent")
	known := trust.Clone()
	known.Certificates = []tls.Certificate{agent.TLS}
	for _, c := range []struct {
		name    string
		options TargetOptions
		trust   *tls.Config
		version func(*http.Protocols)
		want    string
	}{
		{"HTTP/1.1", TargetOptions{}, nil, func(p *http.Protocols) { p.SetHTTP1(true) }, "HTTP/1.1"},
		{"HTTP/2 with prior knowledge", TargetOptions{}, nil, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }, "HTTP/2.0"},
		{"HTTP/1.1 over TLS", TargetOptions{Authority: authority}, trust, func(p *http.Protocols) { p.SetHTTP1(true) }, "HTTP/1.1"},
		{"HTTP/2 over TLS", TargetOptions{Authority: authority}, trust, func(p *http.Protocols) { p.SetHTTP2(true) }, "HTTP/2.0"},
		{
			"with a client certificate",
			TargetOptions{Authority: authority, WantClient: true},
			known,
			func(p *http.Protocols) { p.SetHTTP2(true) }, "HTTP/2.0",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := NewTarget(t, c.options)
			transport := &http.Transport{TLSClientConfig: c.trust, Protocols: new(http.Protocols)}
			c.version(transport.Protocols)
			resp, body := get(t, &http.Client{Transport: transport}, target.URL+"/v1/payments/1", "X-A", "b")
			seen := target.Requests()
			if resp.Proto != c.want || len(seen) != 1 || seen[0].Proto != c.want || len(seen[0].Get("x-a")) != 1 {
				t.Errorf("it answered in %s and saw %+v", resp.Proto, seen)
			}
			if c.options.WantClient && seen[0].ClientCert.Subject.CommonName != "agent" {
				t.Error("it does not know the client")
			}
			var payment Payment
			if err := json.Unmarshal(body, &payment); err != nil || payment != target.Payment(1) {
				t.Errorf("it answered %s", body)
			}
		})
	}
}

func TestTargetRefusesClientsWithoutCertificate(t *testing.T) {
	authority := NewAuthority(t)
	target := NewTarget(t, TargetOptions{Authority: authority, WantClient: true})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool}}}
	if resp, err := client.Get(target.URL + "/hello"); err == nil {
		resp.Body.Close()
		t.Errorf("it answered %s", resp.Status)
	}
}

func TestTargetComesBackAtItsAddress(t *testing.T) {
	target := NewTarget(t, TargetOptions{})
	target.Stop()
	if _, err := http.Get(target.URL); err == nil {
		t.Error("a stopped target answers")
	}
	target.Start()
	get(t, http.DefaultClient, target.URL+"/hello")
}

func TestPaymentsAnswerAsACarefulAPI(t *testing.T) {
	target := NewTarget(t, TargetOptions{})
	url := target.URL + "/v1/payments/7"
	plain := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	resp, whole := get(t, plain, url)
	tag := resp.Header.Get("ETag")
	if resp.ContentLength != int64(len(whole)) || tag == "" {
		t.Errorf("length %d, ETag %q", resp.ContentLength, tag)
	}
	if resp, body := get(t, plain, url, "If-None-Match", tag); resp.StatusCode != http.StatusNotModified || len(body) != 0 {
		t.Errorf("with its own tag: %s", resp.Status)
	}
	if resp, body := get(t, plain, url, "Range", "bytes=1-4"); resp.StatusCode != http.StatusPartialContent || !bytes.Equal(body, whole[1:5]) {
		t.Errorf("a range: %s %q", resp.Status, body)
	}
	resp, body := get(t, plain, url, "Accept-Encoding", "gzip")
	unzipped, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(unzipped); err != nil || !bytes.Equal(got, whole) || resp.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("gzip: %q, %v", got, err)
	}
}

func TestTwoTargetsDifferOnlyInProtectedValues(t *testing.T) {
	one := NewTarget(t, TargetOptions{})
	other := Protected{Name: "Grace", Email: "g@example.org", SSN: "987-65-4329", Card: "5555555555554444", IBAN: "DE89370400440532013000"}
	two := NewTarget(t, TargetOptions{Protected: other})
	p := DefaultProtected()
	for _, path := range []string{"/v1/payments/7", "/v1/payments", "/v1/exports/all", "/stream/sse", "/status/500", "/hostile/text"} {
		_, a := get(t, http.DefaultClient, one.URL+path)
		_, b := get(t, http.DefaultClient, two.URL+path)
		if bytes.Equal(a, b) {
			t.Errorf("%s holds nothing protected", path)
		}
		mask := strings.NewReplacer(p.Name, "*", p.Email, "*", p.SSN, "*", p.Card, "*", p.IBAN, "*",
			other.Name, "*", other.Email, "*", other.SSN, "*", other.Card, "*", other.IBAN, "*")
		if mask.Replace(string(a)) != mask.Replace(string(b)) {
			t.Errorf("%s differs in more than protected values:\n%s\n%s", path, a, b)
		}
	}
}

func TestFeedIsWrittenPieceByPiece(t *testing.T) {
	target := NewTarget(t, TargetOptions{})
	ctx := within(t)
	for _, c := range []struct {
		name string
		end  func(*Feed) error
		want error
	}{
		{"closed", func(f *Feed) error { return f.Close(ctx) }, nil},
		{"aborted", func(f *Feed) error { return f.Abort(ctx) }, io.ErrUnexpectedEOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := http.Get(target.URL + "/feed/" + c.name + "?type=text/event-stream")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			feed, buf := target.Feed(c.name), make([]byte, 100)
			for _, data := range []string{"data: 1\n\n", "data: 2\n\n"} {
				if err := feed.Send(ctx, data); err != nil {
					t.Fatal(err)
				}
				if n, err := resp.Body.Read(buf); string(buf[:n]) != data || err != nil {
					t.Errorf("read %q, %v; want %q", buf[:n], err, data)
				}
			}
			if err := c.end(feed); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(resp.Body); !errors.Is(err, c.want) {
				t.Errorf("it ended with %v, want %v", err, c.want)
			}
		})
	}
}

func TestHoldWaitsForReleaseOrForTheClientToLeave(t *testing.T) {
	target := NewTarget(t, TargetOptions{})
	conn, err := net.Dial("tcp", target.Address)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET /hold/x HTTP/1.1\r\nHost: h\r\n\r\n")
	if _, err := target.WaitRequests(within(t), func(s []Seen) bool { return len(s) == 1 }); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := target.WaitRequests(within(t), func(s []Seen) bool { return s[0].Gone }); err != nil {
		t.Fatal(err)
	}
	target.Release("x")
	get(t, http.DefaultClient, target.URL+"/hold/x")
}

func TestBlobIsWhatBlobReads(t *testing.T) {
	target := NewTarget(t, TargetOptions{})
	const size = 3<<20 + 7
	want, err := io.ReadAll(Blob(size))
	if err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{"", "&chunked=1"} {
		resp, got := get(t, http.DefaultClient, fmt.Sprintf("%s/blob?size=%d%s", target.URL, size, query))
		if !bytes.Equal(got, want) || (resp.ContentLength < 0) != (query != "") {
			t.Errorf("%q: %d bytes, length %d", query, len(got), resp.ContentLength)
		}
	}
}

func TestDuplexAnswersWhileItReads(t *testing.T) {
	target := NewTarget(t, TargetOptions{})
	body, send := io.Pipe()
	req, err := http.NewRequestWithContext(within(t), http.MethodPost, target.URL+"/duplex", body)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 10)
	for _, word := range []string{"ping", "pong"} {
		if _, err := io.WriteString(send, word); err != nil {
			t.Fatal(err)
		}
		if n, err := io.ReadFull(resp.Body, buf[:4]); string(buf[:n]) != word || err != nil {
			t.Errorf("it sent back %q, %v", buf[:n], err)
		}
	}
	if s := target.Requests()[0]; s.Complete || s.BodyBytes != 8 {
		t.Errorf("half way it saw %d bytes, complete: %t", s.BodyBytes, s.Complete)
	}
	send.Close()
}

func TestUpgradeEchoes(t *testing.T) {
	target := NewTarget(t, TargetOptions{})
	conn, err := net.Dial("tcp", target.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	answers := bufio.NewReader(conn)
	resp, err := http.ReadResponse(answers, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("it answered %v, %v", resp, err)
	}
	fmt.Fprint(conn, "ping")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(answers, buf); string(buf) != "ping" || err != nil {
		t.Errorf("it echoed %q, %v", buf, err)
	}
}

// Every hostile kind says something when asked as a client of HTTP/1.1 asks, and those that hold a protected value in plain
// sight do hold it.
func TestHostileKindsAnswer(t *testing.T) {
	target := NewTarget(t, TargetOptions{})
	for _, kind := range HostileKinds() {
		answer := say(t, target, "GET /hostile/"+kind+" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if (answer == "") != (kind == "no-answer") || strings.Contains(answer, " 404 ") {
			t.Errorf("%s: it answers %.80q", kind, answer)
		}
	}
	p := DefaultProtected()
	for kind, value := range map[string]string{
		"duplicate-keys": p.SSN, "number": p.Card, "location": p.Email, "trailer": p.Email, "early-hints": p.Email,
		"length-too-short": p.SSN, "two-answers": p.SSN, "reason-phrase": p.Email, "length-and-chunked": p.SSN,
	} {
		answer := say(t, target, "GET /hostile/"+kind+" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if !strings.Contains(answer, value) {
			t.Errorf("%s: the protected value is not in %q", kind, answer)
		}
	}
}
