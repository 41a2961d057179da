package extproctest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// routes are the paths of the sample API.
//
// The service: GET and HEAD /v1/payments and /v1/payments/{id} (JSON, with ETag, ranges, 304 and gzip for clients that ask),
// POST /v1/payments and /v1/payments/{id}/refunds (201), DELETE /v1/payments/{id} (204), GET /v1/exports/all (NDJSON).
//
// Shapes of traffic: /blob?size=N[&chunked=1] · /stream/{ndjson|sse|array}?count=N · /feed/{name} and /hold/{name}, which the
// test drives through [Target.Feed] and [Target.Release] · /status/{code} · /trailers · /early-hints · /headers?count=N&size=N ·
// /echo and /upload (bodies) · /duplex (answers while it reads) · /upgrade (websocket handshake, then echo) · /hello ·
// /demo.Payments/{Get|Break}, methods of gRPC: one answers with an empty message, the other breaks the connection off.
//
// Each of these with ?coding=LIST answers in these content codings, whatever the request accepts; see [Encode].
//
// Cookies: /session/begin sets a session, in the head and in a trailer, /session/show answers with the Cookie that came,
// /session/use says whether it is that session, and /session/renew sets it again.
//
// URLs of the target itself: /links/{away|pages|said}, see [Target.links].
//
// Misbehaviour: /hostile/{kind}, see [HostileKinds], and /endless/{kind}, see [EndlessKinds].
func (t *Target) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/payments", t.listPayments)
	mux.HandleFunc("POST /v1/payments", t.createPayment)
	mux.HandleFunc("GET /v1/payments/{id}", t.getPayment)
	mux.HandleFunc("DELETE /v1/payments/{id}", t.deletePayment)
	mux.HandleFunc("POST /v1/payments/{id}/refunds", t.refundPayment)
	mux.HandleFunc("GET /v1/exports/all", t.exportPayments)

	mux.HandleFunc("GET /hello", hello)
	mux.HandleFunc("GET /blob", t.blob)
	mux.HandleFunc("GET /stream/{kind}", t.stream)
	mux.HandleFunc("/feed/{name}", t.serveFeed)
	mux.HandleFunc("/hold/{name}", t.hold)
	mux.HandleFunc("/status/{code}", t.status)
	mux.HandleFunc("/page/{code}", t.page)
	mux.HandleFunc("/trailers", t.trailers)
	mux.HandleFunc("/early-hints", t.earlyHints)
	mux.HandleFunc("/headers", t.bigHeaders)
	mux.HandleFunc("/echo", t.echo)
	mux.HandleFunc("/upload", t.upload)
	mux.HandleFunc("/duplex", duplex)
	mux.HandleFunc("/upgrade", upgrade)
	mux.HandleFunc("POST /demo.Payments/{method}", call)

	mux.HandleFunc("/session/{what}", t.session)
	mux.HandleFunc("/links/{kind}", t.links)

	mux.HandleFunc("/hostile/{kind}", t.hostile)
	mux.HandleFunc("/endless/{kind}", t.endless)
	return exactPath(coded(mux))
}

// call answers a call of gRPC (PROTOCOL-HTTP2.md) with an empty message.
func call(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("method") == "Break" {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = w.Write(make([]byte, 5))
	w.Header().Set("Grpc-Status", "0")
}

// exactPath keeps the mux from redirecting paths that it would rather have cleaned: what came is what is judged.
func exactPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "//") || strings.Contains(r.URL.Path, "/.") {
			writeJSON(w, http.StatusNotFound, map[string]string{"error": "not found", "path": r.URL.Path})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Payment is what the sample API serves.
type Payment struct {
	ID       string   `json:"id"`
	Amount   int      `json:"amount"`
	Currency string   `json:"currency"`
	Status   string   `json:"status"`
	Customer Customer `json:"customer"`
	Card     Card     `json:"card"`
	Payout   Payout   `json:"payout"`
	Note     string   `json:"note"` // free text with an e-mail address in it
}

// Customer is who paid.
type Customer struct {
	Name  string `json:"name"`
	Email string `json:"email"`
	SSN   string `json:"ssn"`
}

// Card is what they paid with.
type Card struct {
	Number string `json:"number"`
	Brand  string `json:"brand"`
	Expiry string `json:"expiry"`
}

// Payout is where the money went.
type Payout struct {
	IBAN string `json:"iban"`
}

// Payment is the payment of that id: what differs between two of them is the id and the amount.
func (t *Target) Payment(id int) Payment {
	p := t.protected
	return Payment{
		ID: strconv.Itoa(id), Amount: 1000 + 250*id, Currency: "EUR", Status: "settled",
		Customer: Customer{Name: p.Name, Email: p.Email, SSN: p.SSN},
		Card:     Card{Number: p.Card, Brand: "visa", Expiry: "2031-04"},
		Payout:   Payout{IBAN: p.IBAN},
		Note:     "customer wrote from " + p.Email + " about a late delivery",
	}
}

func (t *Target) getPayment(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil || id < 1 || id > 9999 {
		writeJSON(w, http.StatusNotFound, map[string]string{"error": "no such payment"})
		return
	}
	serveJSON(w, r, t.Payment(id))
}

func (t *Target) listPayments(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		count = 3
	}
	payments := make([]Payment, 0, count)
	for id := 1; id <= count; id++ {
		payments = append(payments, t.Payment(id))
	}
	serveJSON(w, r, map[string]any{"payments": payments, "next": nil})
}

func (t *Target) createPayment(w http.ResponseWriter, r *http.Request) {
	var order struct{ Amount int }
	if _, body := t.body(r); json.Unmarshal(body, &order) != nil || order.Amount <= 0 {
		writeJSON(w, http.StatusUnprocessableEntity, map[string]string{"error": "amount must be a positive number"})
		return
	}
	payment := t.Payment(int(t.nonce.Add(1)))
	payment.Amount = order.Amount
	w.Header().Set("Location", "/v1/payments/"+payment.ID)
	writeJSON(w, http.StatusCreated, payment)
}

func (t *Target) refundPayment(w http.ResponseWriter, r *http.Request) {
	var order struct{ Amount int }
	if _, body := t.body(r); json.Unmarshal(body, &order) != nil || order.Amount <= 0 {
		writeJSON(w, http.StatusUnprocessableEntity, map[string]string{"error": "amount must be a positive number"})
		return
	}
	id := strconv.FormatInt(t.nonce.Add(1), 10)
	w.Header().Set("Location", r.URL.Path+"/"+id)
	writeJSON(w, http.StatusCreated, map[string]any{"refund": id, "payment": r.PathValue("id"), "amount": order.Amount})
}

func (t *Target) deletePayment(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusNoContent)
}

func (t *Target) exportPayments(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines := json.NewEncoder(w)
	for id := 1; id <= 100; id++ {
		_ = lines.Encode(t.Payment(id))
	}
}

// serveJSON serves v as a careful API does: exact length, validator, ranges, gzip for those who ask. The validator is a
// digest of the body and so gives away what is in it.
func serveJSON(w http.ResponseWriter, r *http.Request, v any) {
	body := marshal(v)
	sum := sha256.Sum256(body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:8])+`"`)
	w.Header().Set("Vary", "Accept-Encoding")
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") && r.Header.Get("Range") == "" {
		body = gzipped(body)
		w.Header().Set("Content-Encoding", "gzip")
		contentLength(w, len(body))
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body := marshal(v)
	w.Header().Set("Content-Type", "application/json")
	contentLength(w, len(body))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// marshal is for values of this package, which all encode.
func marshal(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return append(body, '\n')
}

func gzipped(body []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(body)
	_ = z.Close()
	return out.Bytes()
}

// hello is the smallest answer that is worth a benchmark: 1 KB of text.
func hello(w http.ResponseWriter, _ *http.Request) {
	body := bytes.Repeat([]byte("hello, world. \n."), 64)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	contentLength(w, len(body))
	_, _ = w.Write(body)
}

// Blob reads the deterministic bytes that /blob?size=N answers with.
func Blob(size int64) *io.SectionReader {
	return io.NewSectionReader(blobBytes{}, 0, size)
}

type blobBytes struct{}

var blobBlock = func() []byte {
	// A linear congruential generator, so that neither compression nor a repeated chunk goes unnoticed. The block's length is
	// prime: no power of two that a proxy cuts at falls on the same content twice.
	block := make([]byte, 65537)
	state := uint32(1)
	for i := range block {
		state = state*1664525 + 1013904223
		block[i] = byte(state >> 24)
	}
	return block
}()

func (blobBytes) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		n += copy(p[n:], blobBlock[(off+int64(n))%int64(len(blobBlock)):])
	}
	return n, nil
}
