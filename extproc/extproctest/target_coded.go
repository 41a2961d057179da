package extproctest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// coder writes in a content coding.
type coder interface {
	io.WriteCloser
	Flush() error
}

// newCoder returns the writer of a coding, and of "raw", which is a deflate without its wrapper.
func newCoder(coding string, w io.Writer) (coder, error) {
	switch strings.TrimSpace(coding) {
	case "gzip", "x-gzip":
		return gzip.NewWriter(w), nil
	case "deflate":
		return zlib.NewWriter(w), nil
	case "raw":
		return flate.NewWriter(w, flate.DefaultCompression)
	case "br":
		return brotli.NewWriter(w), nil
	case "zstd":
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	default:
		return nil, fmt.Errorf("unknown coding %q", coding)
	}
}

// Encode returns body with the codings applied, a list as in Content-Encoding ("raw" is a deflate without its wrapper).
func Encode(codings string, body []byte) ([]byte, error) {
	for coding := range strings.SplitSeq(codings, ",") {
		var b bytes.Buffer
		w, err := newCoder(coding, &b)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(body); err != nil {
			return nil, fmt.Errorf("encode %s: %w", coding, err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("encode %s: %w", coding, err)
		}
		body = b.Bytes()
	}
	return body, nil
}

// coded answers as next does, in the codings that the query's "coding" lists, as a target that always compresses. "identity" and
// an empty list are said and change nothing; of an answer without a body they are only said.
func coded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		if !query.Has("coding") {
			next.ServeHTTP(w, r)
			return
		}
		c := &codedWriter{ResponseWriter: w, codings: query.Get("coding"), bodiless: r.Method == http.MethodHead}
		next.ServeHTTP(c, r)
		c.close()
	})
}

type codedWriter struct {
	http.ResponseWriter
	codings  string
	bodiless bool
	begun    bool
	layers   []coder // the one that is written to first
}

func (c *codedWriter) WriteHeader(status int) {
	if status >= 200 && !c.begun {
		c.begun = true
		c.Header().Set("Content-Encoding", strings.ReplaceAll(c.codings, "raw", "deflate"))
		c.bodiless = c.bodiless || status == http.StatusNoContent || status == http.StatusNotModified
		if !c.bodiless {
			c.Header().Del("Content-Length")
			c.begin()
		}
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *codedWriter) begin() {
	var w io.Writer = c.ResponseWriter
	list := strings.Split(c.codings, ",")
	for i := len(list) - 1; i >= 0; i-- {
		if l, err := newCoder(list[i], w); err == nil {
			c.layers, w = append([]coder{l}, c.layers...), l
		}
	}
}

func (c *codedWriter) Write(p []byte) (int, error) {
	if !c.begun {
		c.WriteHeader(http.StatusOK)
	}
	if len(c.layers) == 0 {
		return c.ResponseWriter.Write(p)
	}
	return c.layers[0].Write(p)
}

// FlushError is what [http.ResponseController] calls.
func (c *codedWriter) FlushError() error {
	if !c.begun {
		c.WriteHeader(http.StatusOK)
	}
	for _, l := range c.layers {
		if err := l.Flush(); err != nil {
			return err
		}
	}
	return http.NewResponseController(c.ResponseWriter).Flush()
}

func (c *codedWriter) close() {
	for _, l := range c.layers {
		_ = l.Close()
	}
}
