// Package listener has the sockets at which this process serves, and what whoever connects to one may take: time, bytes and connections.
// There is one way to listen, one to serve HTTP (the admin interface, the console, the profiles) and one to serve gRPC
// (Envoy), so that no server lacks a bound.
//
// A client of any of them is trusted with nothing. Over TCP Envoy proves itself with a certificate; a unix socket only this
// user can reach.
package listener

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/guard"
)

// How long a client of the admin interface, the console or the profiles may take. Each is many times what the slowest honest
// client needs. Server-sent events set their own.
const (
	slowestHead   = 5 * time.Second
	slowestBody   = 10 * time.Second // head included: the largest is a decision of some KiB
	slowestReader = time.Minute      // from the head of the request to the last byte of the answer
	longestIdle   = time.Minute
	largestHead   = 32 << 10
)

// HTTP returns a server of h; every HTTP server of this process is made here. A slow client does not hold a connection or a
// goroutine for ever, and a panic in h ends one answer. where names the server in logs.
func HTTP(where string, h http.Handler) *http.Server {
	return &http.Server{
		Handler: guarded(where, h), ReadHeaderTimeout: slowestHead, ReadTimeout: slowestBody, WriteTimeout: slowestReader,
		IdleTimeout: longestIdle, MaxHeaderBytes: largestHead,
	}
}

// Serve serves at l in the background, and tells failed if that ends before s is closed.
func Serve(where string, s *http.Server, l net.Listener, failed func(detail string)) {
	go guard.Func(where, func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			failed(err.Error())
		}
	})()
}

// Listen listens on a TCP address, or on a unix socket that only this user can reach. It replaces a socket that is there: the
// caller holds the lock on the data directory, so the process that made it is dead.
func Listen(ctx context.Context, a config.Address) (net.Listener, error) {
	network, address := a.Network()
	if network != "unix" {
		return open(ctx, a)
	}
	if err := os.MkdirAll(filepath.Dir(address), 0o700); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(address); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is there and is not a socket", address)
		}
		if err := os.Remove(address); err != nil {
			return nil, err
		}
	}
	l, err := open(ctx, a)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(address, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// open listens even if the gateway has been told to stop by now: it starts, and then stops in order.
func open(ctx context.Context, a config.Address) (net.Listener, error) {
	network, address := a.Network()
	l, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(ctx), network, address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: stop the program that has it, or use another address", err)
	}
	return l, err
}

// guarded answers 503 if h panics, or breaks off the answer if it has begun.
func guarded(where string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := &answering{ResponseWriter: w}
		defer guard.Catch(where, func(guard.Panic) {
			if answer.begun {
				panic(http.ErrAbortHandler) // has net/http close the connection
			}
			clear(w.Header())
			http.Error(w, "A part of the gateway failed. Try again; if it goes on, tell whoever runs the gateway.", http.StatusServiceUnavailable)
		})
		h.ServeHTTP(answer, r)
	})
}

// answering notes whether the answer has begun.
type answering struct {
	http.ResponseWriter
	begun bool
}

func (a *answering) WriteHeader(code int) {
	a.begun = true
	a.ResponseWriter.WriteHeader(code)
}

func (a *answering) Write(b []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *answering) Unwrap() http.ResponseWriter { return a.ResponseWriter }
